//! libpq's own rules for connection strings and password files (fe-connect.c of PostgreSQL 15), to hold ours against.
//!
//! Syntax only: which settings there are, and which of their values make sense, is not asked here. Written along libpq's
//! code, not along ours.

use std::collections::BTreeMap;

/// What libpq reads from a string; `None` where it refuses it. An empty value is as good as none.
pub(super) fn settings(text: &str) -> Option<BTreeMap<String, String>> {
    let mut settings = BTreeMap::new();
    let rest = ["postgresql://", "postgres://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    match rest {
        Some(rest) => url(rest, &mut settings)?,
        None => pairs(text, &mut settings)?,
    }
    settings.retain(|_, value| !value.is_empty());
    Some(settings)
}

/// conninfo_storeval
fn store(settings: &mut BTreeMap<String, String>, key: &str, value: String) {
    let (key, value) = match key {
        "requiressl" if value.starts_with('1') => ("sslmode", "require".to_owned()),
        "requiressl" => ("sslmode", "prefer".to_owned()),
        _ => (key, value),
    };
    settings.insert(key.to_owned(), value);
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r')
}

/// conninfo_parse
fn pairs(text: &str, settings: &mut BTreeMap<String, String>) -> Option<()> {
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = rest.find(|c| c == '=' || is_space(c))?;
        let key = &rest[..end];
        rest = rest[end..].trim_start_matches(is_space).strip_prefix('=')?;
        rest = rest.trim_start_matches(is_space);
        let quoted = rest.strip_prefix('\'');
        let mut chars = quoted.unwrap_or(rest).chars();
        let mut value = String::new();
        loop {
            match chars.next() {
                None if quoted.is_some() => return None,
                None => break,
                Some('\'') if quoted.is_some() => break,
                Some(c) if quoted.is_none() && is_space(c) => break,
                Some('\\') => value.extend(chars.next()),
                Some(c) => value.push(c),
            }
        }
        // Only a URL may have it.
        if key == "ssl" {
            return None;
        }
        store(settings, key, value);
        rest = chars.as_str().trim_start_matches(is_space);
    }
    Some(())
}

/// conninfo_uri_parse_options
fn url(text: &str, settings: &mut BTreeMap<String, String>) -> Option<()> {
    let mut rest = text;
    let at = rest.find(['@', '/']).filter(|at| rest[*at..].starts_with('@'));
    if let Some(at) = at {
        let user = &rest[..at];
        let (user, password) = user.split_once(':').unwrap_or((user, ""));
        store(settings, "user", decoded(user)?);
        store(settings, "password", decoded(password)?);
        rest = &rest[at + 1..];
    }
    let (mut hosts, mut ports) = (String::new(), String::new());
    let cut = |rest: &mut &str, ends: &[char]| {
        let (part, after) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
        *rest = after;
        part.to_owned()
    };
    loop {
        if let Some(inner) = rest.strip_prefix('[') {
            let (host, after) = inner.split_once(']')?;
            if host.is_empty() || !(after.is_empty() || after.starts_with([':', '/', '?', ','])) {
                return None;
            }
            hosts.push_str(host);
            rest = after;
        } else {
            hosts.push_str(&cut(&mut rest, &[':', '/', '?', ',']));
        }
        if let Some(after) = rest.strip_prefix(':') {
            rest = after;
            ports.push_str(&cut(&mut rest, &['/', '?', ',']));
        }
        let Some(after) = rest.strip_prefix(',') else {
            break;
        };
        rest = after;
        hosts.push(',');
        ports.push(',');
    }
    store(settings, "host", decoded(&hosts)?);
    store(settings, "port", decoded(&ports)?);
    if let Some(after) = rest.strip_prefix('/') {
        rest = after;
        store(settings, "dbname", decoded(&cut(&mut rest, &['?']))?);
    }
    rest.strip_prefix('?')
        .map_or(Some(()), |rest| parameters(rest, settings))
}

/// conninfo_uri_parse_params
fn parameters(text: &str, settings: &mut BTreeMap<String, String>) -> Option<()> {
    for pair in text.strip_suffix('&').unwrap_or(text).split('&') {
        if pair.is_empty() && text.is_empty() {
            break;
        }
        let (key, value) = pair.split_once('=').filter(|(_, value)| !value.contains('='))?;
        let (key, value) = (decoded(key)?, decoded(value)?);
        match (key.as_str(), value.as_str()) {
            ("ssl", "true") => store(settings, "sslmode", "require".to_owned()),
            _ => store(settings, &key, value),
        }
    }
    Some(())
}

/// conninfo_uri_decode
fn decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (code, after) = part.as_bytes().split_at_checked(2)?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let byte = u8::try_from(digit(code[0])? * 16 + digit(code[1])?).ok()?;
        if byte == 0 {
            return None;
        }
        bytes.push(byte);
        bytes.extend(after);
    }
    String::from_utf8(bytes).ok()
}

/// passwordFromFile: host, port, database and user are looked for.
pub(super) fn password(file: &str, wanted: [&str; 4]) -> Option<String> {
    for line in file.split('\n') {
        // pg_strip_crlf
        let line = line.trim_end_matches('\r');
        if line.starts_with('#') {
            continue;
        }
        let found = wanted
            .iter()
            .try_fold(line.as_bytes(), |rest, token| after_match(rest, token.as_bytes()));
        let Some(rest) = found else { continue };
        let (mut password, mut bytes) = (Vec::new(), rest.iter().copied().peekable());
        while let Some(byte) = bytes.next_if(|byte| *byte != b':') {
            match bytes.peek() {
                Some(_) if byte == b'\\' => password.extend(bytes.next()),
                _ => password.push(byte),
            }
        }
        return String::from_utf8(password).ok();
    }
    None
}

/// pwdfMatchesString
fn after_match<'a>(field: &'a [u8], token: &[u8]) -> Option<&'a [u8]> {
    if let Some(rest) = field.strip_prefix(b"*:") {
        return Some(rest);
    }
    let (mut field, mut token) = (field, token);
    loop {
        let byte = *field.first()?;
        if byte == b':' && token.is_empty() {
            return Some(&field[1..]);
        }
        if byte == b'\\' {
            field = &field[1..];
        }
        let (wanted, rest) = token.split_first()?;
        if field.first() != Some(wanted) {
            return None;
        }
        (field, token) = (&field[1..], rest);
    }
}
