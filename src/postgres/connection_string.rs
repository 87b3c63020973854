//! Connection strings as libpq spells them: URLs and `key=value` texts, and the settings behind them.
//!
//! What is not in the string comes from the service file, then from the PG* environment variables, then from the
//! password file, then from libpq's defaults. A [`ConnectionString`] never shows its password: `Debug`, `Display` and
//! [`ConnectionString::name`] give the text without it, and only that text may be kept.

use super::error::{Error, Kind, Result, Side};
use super::{passfile, service};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// A connection string whose syntax is good; nothing is looked up yet.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectionString {
    settings: Settings,
    name: String,
}

type Settings = BTreeMap<String, String>;

/// What a string is resolved against: the environment, so that tests can bring their own.
pub(super) struct Surroundings<'a> {
    /// An environment variable's value.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
}

impl Surroundings<'static> {
    /// This process's environment.
    #[must_use]
    pub fn of_process() -> Self {
        Self {
            variable: &|name| std::env::var(name).ok(),
        }
    }
}

/// Everything that a connection needs, each setting decided.
#[derive(Clone)]
pub(super) struct Resolved {
    pub config: tokio_postgres::Config,
    pub tls: TlsSettings,
    /// `host:port/database` of the first host, for messages.
    pub endpoint: String,
    pub database: String,
}

/// libpq's TLS settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TlsSettings {
    pub mode: SslMode,
    /// A path, or `system`.
    pub root_certificate: Option<String>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// Settings that are understood.
const KNOWN: [&str; 25] = [
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
];

/// libpq's settings that change nothing here: our encoding is UTF-8, GSSAPI is never used.
const IGNORED: [&str; 8] = [
    "client_encoding",
    "fallback_application_name",
    "gssencmode",
    "krbsrvname",
    "gsslib",
    "gssdelegation",
    "sslcompression",
    "sslsni",
];

/// Environment variables, and the setting that each is the default of.
const VARIABLES: [(&str, &str); 16] = [
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
];

impl std::str::FromStr for ConnectionString {
    type Err = String;

    /// Parses; the error is in words, and quotes nothing that could be a password.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let text = text.trim();
        let rest = ["postgres://", "postgresql://"]
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme));
        let (settings, name) = match rest {
            Some(rest) => parse_url(rest).map(|(settings, name)| (settings, format!("postgres://{name}")))?,
            None if text.contains("://") => {
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
        Ok(Self { settings, name })
    }
}

impl ConnectionString {
    /// The same text without any password: what may be journaled, logged and shown.
    #[must_use]
    pub fn name(&self) -> String {
        self.name.clone()
    }

    /// Looks up what the string leaves open.
    pub(super) fn resolve(&self, side: Side, around: &Surroundings<'_>) -> Result<Resolved> {
        let settings = self.completed(around).map_err(|words| invalid(side, words))?;
        build(&settings, around).map_err(|words| invalid(side, words))
    }

    /// Explicit settings first, then the service's, then the environment's.
    fn completed(&self, around: &Surroundings<'_>) -> std::result::Result<Settings, String> {
        let variable = around.variable;
        let mut settings = self.settings.clone();
        let name = settings.get("service").cloned().or_else(|| variable("PGSERVICE"));
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            for (key, value) in find_service(&settings, &name, around)? {
                check_key(&key)?;
                settings.entry(key).or_insert(value);
            }
        }
        for (name, key) in VARIABLES {
            if let Some(value) = variable(name).filter(|value| !value.is_empty()) {
                settings.entry(key.to_owned()).or_insert(value);
            }
        }
        settings.retain(|_, value| !value.is_empty());
        Ok(settings)
    }
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
    let near = KNOWN
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(key, a).total_cmp(&strsim::jaro_winkler(key, b)));
    let near = near.filter(|near| strsim::jaro_winkler(key, near) > 0.85);
    let hint = near
        .map(|near| format!(", did you mean `{near}`?"))
        .unwrap_or_default();
    Err(format!("unknown connection setting `{key}`{hint}"))
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
        .or_else(|| home(around).map(|home| home.join(".pg_service.conf")));
    let shared = variable("PGSYSCONFDIR").map(|directory| PathBuf::from(directory).join("pg_service.conf"));
    let shared = shared.unwrap_or_else(|| PathBuf::from("/etc/postgresql-common/pg_service.conf"));
    for path in own.into_iter().chain([shared]) {
        if let Some(found) = service::read_service(&path, name)? {
            return Ok(found);
        }
    }
    Err(format!("service `{name}` is in no service file"))
}

fn home(around: &Surroundings<'_>) -> Option<PathBuf> {
    (around.variable)("HOME")
        .filter(|home| !home.is_empty())
        .map(PathBuf::from)
}

fn build(settings: &Settings, around: &Surroundings<'_>) -> std::result::Result<Resolved, String> {
    let get = |key: &str| settings.get(key).map(String::as_str);
    let user = match get("user") {
        Some(user) => user.to_owned(),
        None => operating_system_user(around).ok_or("no user is given, and the system does not name one")?,
    };
    let database = get("dbname").unwrap_or(&user).to_owned();
    let mut config = tokio_postgres::Config::new();
    config.user(&user).dbname(&database);
    let hosts: Vec<&str> = get("host")
        .map(|hosts| hosts.split(',').collect())
        .unwrap_or_default();
    let ports = list_of_ports(get("port").unwrap_or("5432"))?;
    for host in &hosts {
        config.host(if host.is_empty() { "localhost" } else { *host });
    }
    if let Some(addresses) = get("hostaddr") {
        for address in addresses.split(',') {
            config.hostaddr(
                address
                    .parse()
                    .map_err(|_| format!("hostaddr `{address}` is no IP address"))?,
            );
        }
    } else if hosts.is_empty() {
        config.host(default_host());
    }
    for port in &ports {
        config.port(*port);
    }
    apply_options(&mut config, settings)?;
    let first = hosts
        .first()
        .copied()
        .filter(|host| !host.is_empty())
        .or(get("hostaddr"))
        .map(str::to_owned);
    let first = first.unwrap_or_else(|| default_host().to_owned());
    let port = ports.first().copied().unwrap_or(5432);
    match get("password") {
        Some(password) => _ = config.password(password),
        None => {
            let path = get("passfile")
                .map(PathBuf::from)
                .or_else(|| home(around).map(|home| home.join(".pgpass")));
            // libpq knows a local socket as `localhost` in this file.
            let host = if first.starts_with('/') {
                "localhost"
            } else {
                &first
            };
            let found = path.and_then(|path| passfile::find_password(&path, host, port, &database, &user));
            if let Some(password) = found {
                config.password(password);
            }
        }
    }
    let tls = tls_settings(settings, around, &first)?;
    Ok(Resolved {
        config,
        tls,
        endpoint: format!("{first}:{port}/{database}"),
        database,
    })
}

fn default_host() -> &'static str {
    ["/var/run/postgresql", "/run/postgresql", "/tmp"]
        .into_iter()
        .find(|directory| std::path::Path::new(directory).join(".s.PGSQL.5432").exists())
        .unwrap_or("localhost")
}

fn list_of_ports(text: &str) -> std::result::Result<Vec<u16>, String> {
    text.split(',')
        .map(|port| match port {
            "" => Ok(5432),
            port => port
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| format!("port `{port}` is none")),
        })
        .collect()
}

fn apply_options(
    config: &mut tokio_postgres::Config,
    settings: &Settings,
) -> std::result::Result<(), String> {
    use tokio_postgres::config::{ChannelBinding, LoadBalanceHosts, SslNegotiation, TargetSessionAttrs};
    let get = |key: &str| settings.get(key).map(String::as_str);
    let wrong = |key: &str| format!("`{key}` has a value that is not understood");
    if let Some(options) = get("options") {
        config.options(options);
    }
    match get("channel_binding") {
        None | Some("prefer") => {}
        Some("disable") => _ = config.channel_binding(ChannelBinding::Disable),
        Some("require") => _ = config.channel_binding(ChannelBinding::Require),
        Some(_) => return Err(wrong("channel_binding")),
    }
    match get("target_session_attrs") {
        None | Some("any") => {}
        Some("read-write" | "primary") => _ = config.target_session_attrs(TargetSessionAttrs::ReadWrite),
        Some("read-only" | "standby") => _ = config.target_session_attrs(TargetSessionAttrs::ReadOnly),
        Some(_) => return Err(wrong("target_session_attrs")),
    }
    match get("load_balance_hosts") {
        None | Some("disable") => {}
        Some("random") => _ = config.load_balance_hosts(LoadBalanceHosts::Random),
        Some(_) => return Err(wrong("load_balance_hosts")),
    }
    match get("sslnegotiation") {
        None | Some("postgres") => {}
        Some("direct") => _ = config.ssl_negotiation(SslNegotiation::Direct),
        Some(_) => return Err(wrong("sslnegotiation")),
    }
    let seconds = |key: &str, default: u64| match get(key) {
        None => Ok(default),
        Some(text) => text.parse::<u64>().map_err(|_| wrong(key)),
    };
    let duration = std::time::Duration::from_secs;
    config.keepalives(seconds("keepalives", 1)? != 0);
    config.keepalives_idle(duration(seconds("keepalives_idle", 30)?.max(1)));
    config.keepalives_interval(duration(seconds("keepalives_interval", 10)?.max(1)));
    config.keepalives_retries(
        u32::try_from(seconds("keepalives_count", 3)?).map_err(|_| wrong("keepalives_count"))?,
    );
    // libpq counts this one in milliseconds.
    config.tcp_user_timeout(std::time::Duration::from_millis(seconds(
        "tcp_user_timeout",
        60_000,
    )?));
    match seconds("connect_timeout", 10)? {
        0 => {}
        timeout => _ = config.connect_timeout(duration(timeout)),
    }
    Ok(())
}

fn tls_settings(
    settings: &Settings,
    around: &Surroundings<'_>,
    host: &str,
) -> std::result::Result<TlsSettings, String> {
    let get = |key: &str| settings.get(key).cloned();
    let own = |name: &str| {
        home(around)
            .map(|home| home.join(".postgresql").join(name))
            .filter(|path| path.exists())
    };
    let root_certificate =
        get("sslrootcert").or_else(|| own("root.crt").map(|path| path.to_string_lossy().into_owned()));
    let system = root_certificate.as_deref() == Some("system");
    let mode = match get("sslmode").as_deref() {
        None if system => SslMode::VerifyFull,
        None | Some("prefer") => SslMode::Prefer,
        Some("disable") => SslMode::Disable,
        Some("allow") => SslMode::Allow,
        // As libpq: with a root certificate at hand, `require` looks at the chain.
        Some("require") if root_certificate.is_some() && !system => SslMode::VerifyCa,
        Some("require") => SslMode::Require,
        Some("verify-ca") => SslMode::VerifyCa,
        Some("verify-full") => SslMode::VerifyFull,
        Some(other) => return Err(format!("sslmode `{other}` is none of libpq's six")),
    };
    if system && !matches!(mode, SslMode::VerifyFull) {
        return Err("sslrootcert=system needs sslmode=verify-full".to_owned());
    }
    if root_certificate.is_none() && matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull) {
        return Err("sslmode verify-ca and verify-full need sslrootcert (a file, or `system`)".to_owned());
    }
    let certificate = get("sslcert")
        .map(PathBuf::from)
        .or_else(|| own("postgresql.crt"));
    let key = get("sslkey").map(PathBuf::from).or_else(|| own("postgresql.key"));
    // There is no TLS on a local socket.
    let mode = if host.starts_with('/') {
        SslMode::Disable
    } else {
        mode
    };
    Ok(TlsSettings {
        mode,
        root_certificate,
        certificate,
        key,
    })
}

fn operating_system_user(around: &Surroundings<'_>) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    // The owner of /proc/self is this process's effective user; the variables are for systems without /proc.
    let uid = std::fs::metadata("/proc/self")
        .map(|metadata| metadata.uid())
        .ok();
    let named = uid.and_then(|uid| {
        let accounts = std::fs::read_to_string("/etc/passwd").ok()?;
        accounts.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        })
    });
    named.or_else(|| {
        ["USER", "LOGNAME"]
            .iter()
            .find_map(|name| (around.variable)(name))
    })
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
        let (mut key, mut value) = (percent_decoded(key)?, percent_decoded(value)?);
        if (key.as_str(), value.as_str()) == ("ssl", "true") {
            (key, value) = ("sslmode".to_owned(), "require".to_owned());
        }
        if !is_secret(&key) {
            name.push(separator);
            name.push_str(pair);
            separator = '&';
        }
        settings.insert(key, value);
    }
    Ok((settings, name))
}

fn is_secret(key: &str) -> bool {
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
                (host, rest.strip_prefix(':').unwrap_or_default())
            }
            None => part.split_once(':').unwrap_or((part, "")),
        };
        hosts.push(percent_decoded(host)?);
        ports.push(port.to_owned());
    }
    insert(settings, "host", &hosts.join(","));
    if ports.iter().any(|port| !port.is_empty()) {
        insert(settings, "port", &ports.join(","));
    }
    Ok(())
}

fn percent_decoded(text: &str) -> std::result::Result<String, String> {
    const WRONG: &str =
        "the URL has a % that is not followed by two hexadecimal digits, or bytes that are no UTF-8";
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
        bytes.push(u8::try_from(value).map_err(|_| WRONG)?);
    }
    String::from_utf8(bytes).map_err(|_| WRONG.to_owned())
}

fn parse_pairs(text: &str) -> std::result::Result<Settings, String> {
    let mut settings = Settings::new();
    let mut rest = text.chars().peekable();
    loop {
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        if rest.peek().is_none() {
            return Ok(settings);
        }
        let mut key = String::new();
        while let Some(c) = rest.next_if(|c| *c != '=' && !c.is_whitespace()) {
            key.push(c);
        }
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        if rest.next() != Some('=') {
            return Err("it is neither a postgres:// URL nor `key=value` pairs".to_owned());
        }
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = rest.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match rest.next() {
                Some('\\') => value.extend(rest.next()),
                Some('\'') if quoted => break,
                None if quoted => return Err(format!("the quoted value of `{key}` is not closed")),
                None => break,
                Some(c) if c.is_whitespace() && !quoted => break,
                Some(c) => value.push(c),
            }
        }
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
