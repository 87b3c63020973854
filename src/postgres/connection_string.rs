//! Connection strings as libpq spells them: URLs and `key=value` texts, and the settings behind them.
//!
//! What is not in the string comes from the service file, then from the PG* environment variables, then from the
//! password file, then from libpq's defaults. A [`ConnectionString`] never shows its password: `Debug`, `Display` and
//! [`ConnectionString::name`] give the text without it, and only that text may be kept.

use super::error::{Error, Kind, Result, Side};
use super::resolved::{self, Resolved, Settings, Surroundings};
use super::service;
use std::fmt;
use std::path::PathBuf;

/// A connection string whose syntax is good; nothing is looked up yet.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectionString {
    pub(super) settings: Settings,
    name: String,
}

/// Settings that are understood.
const KNOWN: [&str; 36] = [
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "passfile",
    "service",
    "connect_timeout",
    "options",
    "application_name",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslnegotiation",
    "channel_binding",
    "target_session_attrs",
    "load_balance_hosts",
    "servicefile",
    "require_auth",
    "requirepeer",
    "sslcrl",
    "sslcrldir",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "sslcertmode",
    "sslpassword",
    "sslsni",
    "gssencmode",
    "min_protocol_version",
];

/// libpq's settings that change nothing here: our encoding is UTF-8, GSSAPI is never used, TLS never compresses.
const IGNORED: [&str; 7] = [
    "client_encoding",
    "fallback_application_name",
    "krbsrvname",
    "gsslib",
    "gssdelegation",
    "sslcompression",
    "max_protocol_version",
];

/// Environment variables, and the setting that each is the default of.
const VARIABLES: [(&str, &str); 27] = [
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGPORT", "port"),
    ("PGDATABASE", "dbname"),
    ("PGUSER", "user"),
    ("PGPASSWORD", "password"),
    ("PGPASSFILE", "passfile"),
    ("PGOPTIONS", "options"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGSSLNEGOTIATION", "sslnegotiation"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
    ("PGLOADBALANCEHOSTS", "load_balance_hosts"),
    ("PGREQUIREAUTH", "require_auth"),
    ("PGREQUIREPEER", "requirepeer"),
    ("PGSSLCRL", "sslcrl"),
    ("PGSSLCRLDIR", "sslcrldir"),
    ("PGSSLMINPROTOCOLVERSION", "ssl_min_protocol_version"),
    ("PGSSLMAXPROTOCOLVERSION", "ssl_max_protocol_version"),
    ("PGSSLCERTMODE", "sslcertmode"),
    ("PGSSLSNI", "sslsni"),
    ("PGGSSENCMODE", "gssencmode"),
    ("PGMINPROTOCOLVERSION", "min_protocol_version"),
];

/// Variables of libpq's that change nothing here, or are read elsewhere.
const HARMLESS_VARIABLES: [&str; 6] = [
    "PGREQUIRESSL",
    "PGSSLCOMPRESSION",
    "PGGSSLIB",
    "PGGSSDELEGATION",
    "PGKRBSRVNAME",
    "PGMAXPROTOCOLVERSION",
];

/// How variables begin that tell how safe a connection must be.
const SECURITY_PREFIXES: [&str; 9] = [
    "PGSSL",
    "PGREQUIRE",
    "PGGSS",
    "PGKRB",
    "PGCHANNEL",
    "PGSCRAM",
    "PGOAUTH",
    "PGMINPROTOCOL",
    "PGMAXPROTOCOL",
];

impl std::str::FromStr for ConnectionString {
    type Err = String;

    /// Parses; the error is in words, and quotes nothing that could be a password.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let text = text.trim_matches(is_space);
        let rest = ["postgres://", "postgresql://"]
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme));
        let (settings, name) = match rest {
            Some(rest) => parse_url(rest).map(|(settings, name)| (settings, format!("postgres://{name}")))?,
            None if begins_as_url(text) => {
                return Err("a connection URL begins with postgres:// or postgresql://".to_owned());
            }
            None => {
                let settings = parse_pairs(text)?;
                let name = shown_pairs(&settings);
                (settings, name)
            }
        };
        for key in settings.keys() {
            check_key(key)?;
        }
        resolved::check(&settings)?;
        Ok(Self { settings, name })
    }
}

impl ConnectionString {
    /// The same text without any password: what may be journaled, logged and shown.
    #[must_use]
    pub fn name(&self) -> String {
        self.name.clone()
    }

    /// Whether there is a password in the text.
    #[must_use]
    pub fn has_password(&self) -> bool {
        self.settings.keys().any(|key| is_secret(key))
    }

    /// Looks up what the string leaves open.
    pub(super) fn resolve(&self, side: Side, around: &Surroundings<'_>) -> Result<Resolved> {
        let settings = self
            .completed(side, around)
            .map_err(|words| invalid(side, words))?;
        resolved::resolve(&settings, around).map_err(|words| invalid(side, words))
    }

    /// Explicit settings first, then the side's password, then the service's settings, then the environment's.
    fn completed(&self, side: Side, around: &Surroundings<'_>) -> std::result::Result<Settings, String> {
        let variable = |name: &str| (around.variable)(name).filter(|value| !value.is_empty());
        let mut settings = self.settings.clone();
        settings.retain(|_, value| !value.is_empty());
        if let Some(password) = variable(&password_variable(side)) {
            settings.entry("password".to_owned()).or_insert(password);
        }
        let name = settings.get("service").cloned().or_else(|| variable("PGSERVICE"));
        if let Some(name) = name {
            for (key, value) in find_service(&settings, &name, around)? {
                let (key, value) = of_today(key, value);
                check_key(&key)?;
                settings.entry(key).or_insert(value);
            }
        }
        check_variables(around)?;
        for (name, key) in VARIABLES {
            if let Some(value) = variable(name) {
                settings.entry(key.to_owned()).or_insert(value);
            }
        }
        if variable("PGREQUIRESSL").is_some_and(|value| value.starts_with('1')) {
            settings
                .entry("sslmode".to_owned())
                .or_insert_with(|| "require".to_owned());
        }
        Ok(settings)
    }
}

/// As C has it: libpq takes any other space for a character.
fn is_space(c: char) -> bool {
    c.is_ascii_whitespace() || c == '\x0b'
}

/// Whether it begins with a URL's scheme.
fn begins_as_url(text: &str) -> bool {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| {
        scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    })
}

/// The variable with one side's password: PGPASSWORD is for both.
fn password_variable(side: Side) -> String {
    format!("LONGHAUL_{}_PASSWORD", side.to_string().to_uppercase())
}

/// Spellings of earlier times, and of others.
fn of_today(key: String, value: String) -> (String, String) {
    match (key.as_str(), value.as_str()) {
        ("ssl", "true") => ("sslmode".to_owned(), "require".to_owned()),
        ("requiressl", value) if value.starts_with('1') => ("sslmode".to_owned(), "require".to_owned()),
        ("requiressl", _) => ("sslmode".to_owned(), "prefer".to_owned()),
        _ => (key, value),
    }
}

/// A variable that may be meant to make connections safer is understood, or refused.
fn check_variables(around: &Surroundings<'_>) -> std::result::Result<(), String> {
    let understood =
        |name: &str| VARIABLES.iter().any(|(known, _)| *known == name) || HARMLESS_VARIABLES.contains(&name);
    let unknown = around
        .names
        .iter()
        .find(|name| SECURITY_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && !understood(name));
    unknown.map_or(Ok(()), |name| {
        Err(format!(
            "the environment variable {name} may be a security setting, and is not understood; unset it"
        ))
    })
}

fn invalid(side: Side, words: String) -> Error {
    Error::new(
        side,
        Kind::InvalidInput,
        format!("cannot use the {side}'s connection string"),
    )
    .because(words)
}

fn check_key(key: &str) -> std::result::Result<(), String> {
    if KNOWN.contains(&key) || IGNORED.contains(&key) {
        return Ok(());
    }
    if !can_be_shown(key) {
        return Err(
            "what stands before a `=` is no connection setting (is a value with a space in it not in quotes?)".to_owned(),
        );
    }
    let near = KNOWN
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(key, a).total_cmp(&strsim::jaro_winkler(key, b)));
    let near = near.filter(|near| strsim::jaro_winkler(key, near) > 0.85);
    let hint = near
        .map(|near| format!(", did you mean `{near}`?"))
        .unwrap_or_default();
    Err(format!("unknown connection setting `{key}`{hint}"))
}

/// Whether it is made like a setting's name: anything else may be a part of a password.
fn can_be_shown(key: &str) -> bool {
    (1..=40).contains(&key.len()) && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

fn find_service(
    settings: &Settings,
    name: &str,
    around: &Surroundings<'_>,
) -> std::result::Result<Vec<(String, String)>, String> {
    let variable = around.variable;
    let named = settings
        .get("servicefile")
        .cloned()
        .or_else(|| variable("PGSERVICEFILE"));
    let own = named
        .map(PathBuf::from)
        .or_else(|| around.home().map(|home| home.join(".pg_service.conf")));
    let shared = variable("PGSYSCONFDIR").map(|directory| PathBuf::from(directory).join("pg_service.conf"));
    let shared = shared.unwrap_or_else(|| PathBuf::from("/etc/postgresql-common/pg_service.conf"));
    for path in own.into_iter().chain([shared]) {
        if let Some(found) = service::read_service(&path, name)? {
            return Ok(found);
        }
    }
    Err(format!("service `{name}` is in no service file"))
}

/// Settings and the text without password, both without the scheme.
fn parse_url(rest: &str) -> std::result::Result<(Settings, String), String> {
    let mut settings = Settings::new();
    let (rest, query) = rest
        .split_once('?')
        .map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let (authority, database) = rest.split_once('/').map_or((rest, None), |(a, d)| (a, Some(d)));
    if database.is_some_and(|database| database.contains('@'))
        || query.is_some_and(|query| query.contains('@'))
    {
        return Err(
            "the URL has an `@` after its host; in a password, write @ / ? # : as %40 %2F %3F %23 %3A".into(),
        );
    }
    let (user, hosts) = authority
        .rsplit_once('@')
        .map_or((None, authority), |(u, h)| (Some(u), h));
    let mut name = String::new();
    if let Some(user) = user {
        let (user, password) = user.split_once(':').map_or((user, None), |(u, p)| (u, Some(p)));
        insert(&mut settings, "user", &percent_decoded(user)?);
        if let Some(password) = password {
            insert(&mut settings, "password", &percent_decoded(password)?);
        }
        name = format!("{user}@");
    }
    name.push_str(hosts);
    parse_hosts(hosts, &mut settings)?;
    if let Some(database) = database {
        insert(&mut settings, "dbname", &percent_decoded(database)?);
        name.push('/');
        name.push_str(database);
    }
    let mut separator = '?';
    for pair in query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
    {
        let (key, value) = pair.split_once('=').ok_or("a parameter of the URL has no `=`")?;
        let (key, value) = of_today(percent_decoded(key)?, percent_decoded(value)?);
        if !is_secret(&key) {
            name.push(separator);
            name.push_str(pair);
            separator = '&';
        }
        settings.insert(key, value);
    }
    Ok((settings, without_spaces(&name)))
}

/// Spaces written out: one at the end would be lost when the text is parsed again.
fn without_spaces(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    for character in text.chars() {
        match is_space(character) {
            true => written.push_str(&format!("%{:02X}", u32::from(character))),
            false => written.push(character),
        }
    }
    written
}

/// Whether a setting's value is a password.
pub(super) fn is_secret(key: &str) -> bool {
    key.contains("pass") && key != "passfile"
}

fn insert(settings: &mut Settings, key: &str, value: &str) {
    if !value.is_empty() {
        settings.insert(key.to_owned(), value.to_owned());
    }
}

fn parse_hosts(text: &str, settings: &mut Settings) -> std::result::Result<(), String> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for part in text.split(',') {
        let (host, port) = match part.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest
                    .split_once(']')
                    .ok_or("an IPv6 address in the URL lacks its `]`")?;
                if host.is_empty() || !(rest.is_empty() || rest.starts_with(':')) {
                    return Err(
                        "an IPv6 address in the URL is empty, or more than a port follows its `]`".to_owned(),
                    );
                }
                (host, rest.strip_prefix(':').unwrap_or_default())
            }
            None => part.split_once(':').unwrap_or((part, "")),
        };
        hosts.push(percent_decoded(host)?);
        ports.push(percent_decoded(port)?);
    }
    insert(settings, "host", &hosts.join(","));
    if ports.iter().any(|port| !port.is_empty()) {
        insert(settings, "port", &ports.join(","));
    }
    Ok(())
}

fn percent_decoded(text: &str) -> std::result::Result<String, String> {
    const WRONG: &str = "the URL has a % that is not followed by two hexadecimal digits, or bytes that are no UTF-8, or a zero";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || {
            rest.next()
                .and_then(|digit| char::from(digit).to_digit(16))
                .ok_or(WRONG)
        };
        let value = digit()? * 16 + digit()?;
        let byte = u8::try_from(value).ok().filter(|byte| *byte > 0);
        bytes.push(byte.ok_or(WRONG)?);
    }
    String::from_utf8(bytes).map_err(|_| WRONG.to_owned())
}

fn parse_pairs(text: &str) -> std::result::Result<Settings, String> {
    let mut settings = Settings::new();
    let mut rest = text.chars().peekable();
    loop {
        while rest.next_if(|c| is_space(*c)).is_some() {}
        if rest.peek().is_none() {
            return Ok(settings);
        }
        let mut key = String::new();
        while let Some(c) = rest.next_if(|c| *c != '=' && !is_space(*c)) {
            key.push(c);
        }
        while rest.next_if(|c| is_space(*c)).is_some() {}
        if rest.next() != Some('=') {
            return Err("it is neither a postgres:// URL nor `key=value` pairs".to_owned());
        }
        while rest.next_if(|c| is_space(*c)).is_some() {}
        let quoted = rest.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match rest.next() {
                Some('\\') => value.extend(rest.next()),
                Some('\'') if quoted => break,
                None if quoted => {
                    let of = if can_be_shown(&key) {
                        format!(" of `{key}`")
                    } else {
                        String::new()
                    };
                    return Err(format!("the quoted value{of} is not closed"));
                }
                None => break,
                Some(c) if is_space(c) && !quoted => break,
                Some(c) => value.push(c),
            }
        }
        let (key, value) = of_today(key, value);
        settings.insert(key, value);
    }
}

fn shown_pairs(settings: &Settings) -> String {
    let shown = settings
        .iter()
        .filter(|(key, _)| !is_secret(key))
        .map(|(key, value)| {
            let plain =
                !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c == '\'' || c == '\\');
            match plain {
                true => format!("{key}={value}"),
                false => format!("{key}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'")),
            }
        });
    shown.collect::<Vec<_>>().join(" ")
}

impl fmt::Display for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ConnectionString").field(&self.name).finish()
    }
}

#[cfg(test)]
#[path = "connection_string_tests.rs"]
mod tests;
