//! Connection strings, password files and service files: what is secret stays secret, and the rest means what libpq says.

use super::input::{Input, kind};
use super::{PLANTED, assert_fit_to_show, libpq};
use crate::postgres::connection_string::ConnectionString;
use crate::postgres::error::Side;
use crate::postgres::resolved::{Settings, Surroundings};
use crate::postgres::{passfile, service};

/// The input's first line says what the rest is: a `text`, the parts of a `url` or of `pairs` with a password in its place, a
/// `passfile` after the four fields that are looked for, or a `service` file after the name.
///
/// # Panics
/// Where a password is shown, a string does not survive being shown, or libpq reads it in another way.
pub fn connection_strings(input: &[u8]) {
    let (kind, rest) = kind(input);
    match kind {
        b"url" => check_secret(&url(&mut Input::new(rest))),
        b"pairs" => check_secret(&pairs(&mut Input::new(rest))),
        b"passfile" => check_passfile(&String::from_utf8_lossy(rest)),
        b"service" => check_service(&String::from_utf8_lossy(rest)),
        _ => check_text(&String::from_utf8_lossy(rest)),
    }
}

/// A URL with a password of any characters, as operators forget to encode them.
fn url(input: &mut Input<'_>) -> String {
    let [user, before, after, host, database, parameters] = std::array::from_fn(|_| text(input));
    format!("postgres://{user}:{before}{PLANTED}{after}@{host}/{database}?{parameters}")
}

fn text(input: &mut Input<'_>) -> String {
    input.text().replace(PLANTED, "")
}

/// Settings with a password of any characters, quoted as it has to be or not quoted.
fn pairs(input: &mut Input<'_>) -> String {
    const KEYS: [&str; 8] = [
        "host", "port", "dbname", "user", "options", "passfile", "sslmode", "hostaddr",
    ];
    let quoted = |value: &str| value.replace('\\', "\\\\").replace('\'', "\\'");
    let pair = |input: &mut Input<'_>| format!("{}='{}' ", input.pick(&KEYS), quoted(&text(input)));
    let first = pair(input);
    let [before, after] = std::array::from_fn(|_| input.text());
    let password = format!("{before}{PLANTED}{after}");
    let password = match input.byte() {
        0 => password.replace('=', ""),
        _ => format!("'{}'", quoted(&password)),
    };
    let key = input.pick(&["password", "sslpassword"]);
    format!("{first}{key}={password} {}", pair(input))
}

/// A string in which [`PLANTED`] is a part of a password.
fn check_secret(text: &str) {
    if let Ok(connection) = text.parse::<ConnectionString>() {
        let seen = format!("{connection} {connection:?} {}", connection.name());
        assert!(!seen.contains(PLANTED), "{text:?} is shown as {seen:?}");
        assert!(connection.has_password(), "{text:?}");
    }
    check_text(text);
}

fn check_text(text: &str) {
    let connection = match text.parse::<ConnectionString>() {
        Ok(connection) => connection,
        Err(words) => {
            // Wherever it stands: it may be the end of a password with a space or a slash in it.
            assert!(!words.contains(PLANTED), "{text:?}: {words:?}");
            return assert_fit_to_show(&words);
        }
    };
    check_name(text, &connection);
    // We take the last @ for the one before the host, others the first.
    if text.matches('@').count() < 2 || !text.contains("://") {
        let text = text.trim_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
        check_against_libpq(text, &connection.settings);
        check_against_driver(text, &connection.settings);
    }
    check_resolved(&connection);
}

/// What is shown is the same connection without its password.
fn check_name(text: &str, connection: &ConnectionString) {
    let name = connection.name();
    let again = name.parse::<ConnectionString>();
    let again = again.unwrap_or_else(|words| panic!("{text:?} is shown as {name:?}: {words}"));
    assert_eq!(again.name(), name, "{text:?}");
    let mut without = connection.settings.clone();
    without.retain(|key, value| (!key.contains("pass") || key == "passfile") && !value.is_empty());
    let mut shown = again.settings;
    shown.retain(|_, value| !value.is_empty());
    assert_eq!(shown, without, "{text:?} is shown as {name:?}");
}

fn check_against_libpq(text: &str, settings: &Settings) {
    let Some(theirs) = libpq::settings(text) else {
        return;
    };
    let of_defaults =
        |key: &str, value: &str| value.is_empty() || (key == "port" && value.chars().all(|c| c == ','));
    let told = |settings: &Settings| {
        let mut told = settings.clone();
        told.retain(|key, value| !of_defaults(key, value));
        told
    };
    assert_eq!(told(settings), told(&theirs), "{text:?}");
}

/// The driver's own parser reads the same from what it takes. It knows fewer settings, and more spaces.
fn check_against_driver(text: &str, settings: &Settings) {
    let has_their_space = text.contains(|c: char| c.is_whitespace() && !c.is_ascii());
    let Some(theirs) = text
        .parse::<tokio_postgres::Config>()
        .ok()
        .filter(|_| !has_their_space)
    else {
        return;
    };
    let ours = |key: &str| {
        settings
            .get(key)
            .filter(|value| !value.is_empty())
            .map(String::as_str)
    };
    let filled = |value: Option<&str>| value.filter(|value| !value.is_empty()).map(str::to_owned);
    assert_eq!(
        ours("user").map(str::to_owned),
        filled(theirs.get_user()),
        "{text:?}"
    );
    assert_eq!(
        ours("dbname").map(str::to_owned),
        filled(theirs.get_dbname()),
        "{text:?}"
    );
    let password = theirs.get_password().map(String::from_utf8_lossy);
    assert_eq!(
        ours("password").map(str::to_owned),
        filled(password.as_deref()),
        "{text:?}"
    );
}

/// What is left open is looked up without a panic, and every host has its port and the password.
fn check_resolved(connection: &ConnectionString) {
    if connection.settings.contains_key("service") {
        return;
    }
    let around = Surroundings {
        variable: &|_| None,
        names: Vec::new(),
    };
    match connection.resolve(Side::Source, &around) {
        Ok(resolved) => {
            assert!(!resolved.hosts.is_empty());
            let given = connection
                .settings
                .get("password")
                .filter(|given| !given.is_empty());
            for host in &resolved.hosts {
                assert!(host.port > 0);
                assert!(given.is_none() || host.password.as_ref() == given);
            }
        }
        Err(error) => {
            assert!(!error.chain().contains(PLANTED), "{}", error.chain());
            error.chain().split(": ").for_each(assert_fit_to_show);
        }
    }
}

fn check_passfile(text: &str) {
    let mut fields = text.splitn(5, '\0').map(|field| field.replace('\0', ""));
    let [host, port, database, user, file] = std::array::from_fn(|_| fields.next().unwrap_or_default());
    let wanted = [&*host, &*port, &*database, &*user];
    assert_eq!(
        passfile::search(&file, wanted),
        libpq::password(&file, wanted),
        "{wanted:?} in {file:?}"
    );
}

/// A service that is found has nothing that does not stand in the file, and the trouble is told by the line's number alone.
fn check_service(text: &str) {
    let (name, file) = text.split_once('\0').unwrap_or(("", text));
    match service::section(file, name) {
        Ok(None) => {}
        Ok(Some(settings)) => {
            assert!(file.contains(&format!("[{name}]")));
            for (key, value) in settings {
                assert!(file.contains(&key) && file.contains(&value) && !value.contains('\n'));
            }
        }
        Err(line) => assert!((1..=file.lines().count()).contains(&line)),
    }
}
