//! What a connection string comes to: each host with its own address, TLS mode and password, and what holds for all.
//!
//! Every value is read here and nowhere else, once when a string is parsed, for its mistakes, and once when everything
//! around it is known. What libpq knows and this program does not do is refused where leaving it out would make a
//! connection less safe than was asked for.

use super::connection_string::is_secret;
use super::passfile;
use super::require_auth::RequireAuth;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_postgres::config::ChannelBinding;

/// Settings by libpq's names.
pub(super) type Settings = BTreeMap<String, String>;

/// What a string is resolved against: the environment, so that tests can bring their own.
pub(super) struct Surroundings<'a> {
    /// An environment variable's value.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// The names of all variables.
    pub names: Vec<String>,
}

impl Surroundings<'static> {
    /// This process's environment.
    #[must_use]
    pub fn of_process() -> Self {
        Self {
            variable: &|name| std::env::var(name).ok(),
            names: std::env::vars_os()
                .filter_map(|(name, _)| name.into_string().ok())
                .collect(),
        }
    }
}

impl Surroundings<'_> {
    /// The home directory.
    pub(super) fn home(&self) -> Option<PathBuf> {
        (self.variable)("HOME")
            .filter(|home| !home.is_empty())
            .map(PathBuf::from)
    }

    /// A file in `~/.postgresql`, if it is there.
    fn own_file(&self, name: &str) -> Option<PathBuf> {
        let path = self.home()?.join(".postgresql").join(name);
        path.exists().then_some(path)
    }
}

/// Everything that a connection needs, each setting decided.
pub(super) struct Resolved {
    /// In the order in which they are tried; at least one.
    pub hosts: Vec<Host>,
    pub user: String,
    pub database: String,
    pub options: Options,
}

/// One host, with nothing of another's.
pub(super) struct Host {
    /// As the operator gave it: for messages, and the name that a certificate is held against.
    pub name: String,
    pub place: Place,
    pub port: u16,
    pub mode: SslMode,
    pub password: Option<String>,
}

/// How a host is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A directory with a server's socket.
    Socket(PathBuf),
    Address(IpAddr),
    /// To be looked up.
    Name(String),
}

/// What holds for all hosts.
pub(super) struct Options {
    pub server_options: Option<String>,
    pub channel_binding: ChannelBinding,
    pub require_auth: RequireAuth,
    pub require_peer: Option<String>,
    /// TLS from the first byte, without PostgreSQL's question.
    pub direct_tls: bool,
    pub session_attrs: SessionAttrs,
    pub shuffled: bool,
    /// For each address, log-in and set-up included; none waits for ever.
    pub connect_timeout: Option<Duration>,
    pub keepalive: Option<socket2::TcpKeepalive>,
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "only Linux has this option")
    )]
    pub tcp_user_timeout: Duration,
    pub tls: TlsSettings,
}

/// libpq's TLS settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TlsSettings {
    pub mode: SslMode,
    /// A path, or `system`.
    pub root_certificate: Option<String>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub revoked: Option<PathBuf>,
    pub revoked_directory: Option<PathBuf>,
    /// Whether TLS 1.2 and TLS 1.3 may be spoken.
    pub versions: [bool; 2],
    pub server_name_indication: bool,
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

/// Which servers of a list will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionAttrs {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

/// Settings that are looked up by name, empty ones left out.
struct Values<'a>(&'a Settings);

impl Values<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0
            .get(key)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        self.get(key).map(PathBuf::from)
    }

    /// One of a few words; the error names them all, and not what was given, which may be anything.
    fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Result<Option<T>, String> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let found = choices.iter().find(|(word, _)| word.eq_ignore_ascii_case(value));
        found.map(|(_, choice)| Some(*choice)).ok_or_else(|| {
            let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
            format!("`{key}` is one of {}", words.join(", "))
        })
    }

    fn number(&self, key: &str, default: u64) -> Result<u64, String> {
        self.get(key).map_or(Ok(default), |text| {
            text.trim()
                .parse()
                .map_err(|_| format!("`{key}` is not a whole number"))
        })
    }

    fn list(&self, key: &str) -> Vec<&str> {
        self.get(key)
            .map(|text| text.split(',').map(str::trim).collect())
            .unwrap_or_default()
    }
}

/// Looks for mistakes that can be seen without anything around.
pub(super) fn check(settings: &Settings) -> Result<(), String> {
    no_password_within(settings)?;
    let values = Values(settings);
    addresses(&values)?;
    ssl_mode(&values)?;
    options(&values, None).map(drop)
}

/// A connection URL in the place of a name, or settings with a password in them, as psql takes both in that of a database, are
/// refused: a password in them would be shown with the name.
fn no_password_within(settings: &Settings) -> Result<(), String> {
    let others = settings.iter().filter(|(key, _)| !is_secret(key));
    for (key, value) in others {
        let text = value.trim_start().to_ascii_lowercase();
        let begins_as_url = ["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| text.starts_with(scheme));
        let has_user = |(_, rest): (&str, &str)| rest.contains('@');
        if begins_as_url || text.split_once("://").is_some_and(has_user) {
            return Err(format!(
                "{key} holds a URL: give that alone, in the place of all the rest"
            ));
        }
        let mut words = text.split(|c: char| c.is_ascii_whitespace() || c == '.');
        if words.any(|word| word.starts_with("password=") || word.starts_with("sslpassword=")) {
            return Err(format!(
                "{key} holds a password: give it as a setting of its own, where it is not shown"
            ));
        }
    }
    Ok(())
}

/// Decides everything.
pub(super) fn resolve(settings: &Settings, around: &Surroundings<'_>) -> Result<Resolved, String> {
    no_password_within(settings)?;
    let values = Values(settings);
    let user = match values.get("user") {
        Some(user) => user.to_owned(),
        None => operating_system_user(around).ok_or("no user is given, and the system does not name one")?,
    };
    let database = values.get("dbname").unwrap_or(&user).to_owned();
    let options = options(&values, Some(around))?;
    let mode = options.tls.mode;
    let passfile = values
        .path("passfile")
        .or_else(|| around.home().map(|home| home.join(".pgpass")));
    let mut hosts = Vec::new();
    for (name, place, port) in addresses(&values)? {
        let password = values.get("password").map(str::to_owned).or_else(|| {
            let host = if matches!(place, Place::Socket(_)) && name == default_host(port) {
                // As libpq calls it in this file.
                "localhost"
            } else {
                &name
            };
            passfile::find_password(passfile.as_deref()?, host, port, &database, &user)
        });
        let mode = match place {
            // There is no TLS on a local socket.
            Place::Socket(_) => SslMode::Disable,
            _ => mode,
        };
        hosts.push(Host {
            name,
            place,
            port,
            mode,
            password,
        });
    }
    let needs_roots = |host: &Host| matches!(host.mode, SslMode::VerifyCa | SslMode::VerifyFull);
    if options.tls.root_certificate.is_none() && hosts.iter().any(needs_roots) {
        return Err("sslmode verify-ca and verify-full need sslrootcert (a file, or `system`)".to_owned());
    }
    let encrypted = [SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull];
    if options.direct_tls && !encrypted.contains(&mode) {
        return Err("sslnegotiation=direct needs sslmode require, verify-ca or verify-full".to_owned());
    }
    Ok(Resolved {
        hosts,
        user,
        database,
        options,
    })
}

/// Hosts, hostaddrs and ports, put together as libpq does: an empty one is the default.
fn addresses(values: &Values<'_>) -> Result<Vec<(String, Place, u16)>, String> {
    let (hosts, fixed, ports) = (values.list("host"), values.list("hostaddr"), values.list("port"));
    let count = hosts.len().max(fixed.len()).max(1);
    if !fixed.is_empty() && !hosts.is_empty() && fixed.len() != hosts.len() {
        return Err(format!(
            "{} hosts and {} hostaddrs are given",
            hosts.len(),
            fixed.len()
        ));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(format!("{} ports are given for {count} hosts", ports.len()));
    }
    let one = |i: usize| {
        let port = match ports.get(i).or(ports.first()) {
            None | Some(&"") => 5432,
            // Not shown: without its @, a URL has the password where the port is.
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or("a port is a number from 1 to 65535 (is an @ missing behind the password?)")?,
        };
        let host = hosts.get(i).filter(|host| !host.is_empty());
        if let Some(address) = fixed.get(i).filter(|address| !address.is_empty()) {
            let parsed = address.parse().map_err(|_| "`hostaddr` is not an IP address")?;
            return Ok((host.unwrap_or(address).to_string(), Place::Address(parsed), port));
        }
        let name = host.map_or_else(|| default_host(port).to_owned(), |host| (*host).to_owned());
        let place = match name.parse() {
            _ if name.starts_with('/') => Place::Socket(PathBuf::from(&name)),
            Ok(address) => Place::Address(address),
            Err(_) => Place::Name(name.clone()),
        };
        Ok((name, place, port))
    };
    (0..count).map(one).collect()
}

fn default_host(port: u16) -> &'static str {
    ["/var/run/postgresql", "/run/postgresql", "/tmp"]
        .into_iter()
        .find(|directory| Path::new(directory).join(format!(".s.PGSQL.{port}")).exists())
        .unwrap_or("localhost")
}

fn options(values: &Values<'_>, around: Option<&Surroundings<'_>>) -> Result<Options, String> {
    refuse_what_cannot_be_kept(values)?;
    let channel_binding = [
        ("disable", ChannelBinding::Disable),
        ("prefer", ChannelBinding::Prefer),
        ("require", ChannelBinding::Require),
    ];
    let session_attrs = [
        ("any", SessionAttrs::Any),
        ("read-write", SessionAttrs::ReadWrite),
        ("read-only", SessionAttrs::ReadOnly),
        ("primary", SessionAttrs::Primary),
        ("standby", SessionAttrs::Standby),
        ("prefer-standby", SessionAttrs::PreferStandby),
    ];
    let seconds = |key, default| values.number(key, default).map(Duration::from_secs);
    let at_least_one = |duration: Duration| duration.max(Duration::from_secs(1));
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(at_least_one(seconds("keepalives_idle", 30)?))
        .with_interval(at_least_one(seconds("keepalives_interval", 10)?));
    let retries = values.number("keepalives_count", 3)?;
    let keepalive =
        keepalive.with_retries(u32::try_from(retries).map_err(|_| "`keepalives_count` is too large")?);
    Ok(Options {
        server_options: values.get("options").map(str::to_owned),
        channel_binding: values
            .choice("channel_binding", &channel_binding)?
            .unwrap_or(ChannelBinding::Prefer),
        require_auth: values
            .get("require_auth")
            .map_or(Ok(RequireAuth::default()), str::parse)?,
        require_peer: values.get("requirepeer").map(str::to_owned),
        direct_tls: values
            .choice("sslnegotiation", &[("postgres", false), ("direct", true)])?
            .unwrap_or(false),
        session_attrs: values
            .choice("target_session_attrs", &session_attrs)?
            .unwrap_or(SessionAttrs::Any),
        shuffled: values
            .choice("load_balance_hosts", &[("disable", false), ("random", true)])?
            .unwrap_or(false),
        connect_timeout: Some(seconds("connect_timeout", 10)?).filter(|timeout| !timeout.is_zero()),
        keepalive: (values.number("keepalives", 1)? != 0).then_some(keepalive),
        // libpq counts this one in milliseconds.
        tcp_user_timeout: Duration::from_millis(values.number("tcp_user_timeout", 60_000)?),
        tls: tls_settings(values, around)?,
    })
}

/// Settings of libpq's that are not left out in silence, since somebody relies on them.
fn refuse_what_cannot_be_kept(values: &Values<'_>) -> Result<(), String> {
    let encryption = [("disable", false), ("prefer", false), ("require", true)];
    if values.choice("gssencmode", &encryption)? == Some(true) {
        return Err(
            "gssencmode=require cannot be kept: GSSAPI encryption is not spoken; use TLS (sslmode=verify-full)".into(),
        );
    }
    let client_certificate = [("disable", false), ("allow", false), ("require", true)];
    if values.choice("sslcertmode", &client_certificate)? == Some(true) {
        return Err("sslcertmode=require cannot be kept; use `cert` in the server's pg_hba.conf".into());
    }
    if values.get("sslpassword").is_some() {
        return Err(
            "sslpassword: an encrypted sslkey cannot be used; decrypt it into a file of mode 0600".into(),
        );
    }
    if values
        .get("min_protocol_version")
        .is_some_and(|version| version != "3.0")
    {
        return Err(
            "min_protocol_version: version 3.0 of PostgreSQL's protocol is spoken, no later one".into(),
        );
    }
    Ok(())
}

fn ssl_mode(values: &Values<'_>) -> Result<Option<SslMode>, String> {
    let modes = [
        ("disable", SslMode::Disable),
        ("allow", SslMode::Allow),
        ("prefer", SslMode::Prefer),
        ("require", SslMode::Require),
        ("verify-ca", SslMode::VerifyCa),
        ("verify-full", SslMode::VerifyFull),
    ];
    values.choice("sslmode", &modes)
}

fn tls_settings(values: &Values<'_>, around: Option<&Surroundings<'_>>) -> Result<TlsSettings, String> {
    let own = |name: &str| around.and_then(|around| around.own_file(name));
    let root_certificate = values
        .get("sslrootcert")
        .map(str::to_owned)
        .or_else(|| own("root.crt").map(|path| path.to_string_lossy().into_owned()));
    let system = root_certificate.as_deref() == Some("system");
    let mode = match ssl_mode(values)? {
        None if system => SslMode::VerifyFull,
        None => SslMode::Prefer,
        // As libpq: with a root certificate at hand, `require` looks at the chain.
        Some(SslMode::Require) if root_certificate.is_some() && !system => SslMode::VerifyCa,
        Some(mode) => mode,
    };
    if system && mode != SslMode::VerifyFull {
        return Err("sslrootcert=system needs sslmode=verify-full".to_owned());
    }
    let uses_certificate = !values
        .get("sslcertmode")
        .is_some_and(|mode| mode.eq_ignore_ascii_case("disable"));
    let versions = [("TLSv1", 0_u8), ("TLSv1.1", 1), ("TLSv1.2", 2), ("TLSv1.3", 3)];
    let lowest = values.choice("ssl_min_protocol_version", &versions)?.unwrap_or(2);
    let highest = values.choice("ssl_max_protocol_version", &versions)?.unwrap_or(3);
    if highest < 2 || highest < lowest {
        return Err(
            "ssl_min_protocol_version and ssl_max_protocol_version leave neither TLSv1.2 nor TLSv1.3".into(),
        );
    }
    let given_or_own = |key: &str, name: &str| values.path(key).or_else(|| own(name));
    Ok(TlsSettings {
        mode,
        certificate: given_or_own("sslcert", "postgresql.crt").filter(|_| uses_certificate),
        key: given_or_own("sslkey", "postgresql.key").filter(|_| uses_certificate),
        revoked: given_or_own("sslcrl", "root.crl"),
        revoked_directory: values.path("sslcrldir"),
        versions: [lowest <= 2, highest >= 3],
        server_name_indication: values.number("sslsni", 1)? != 0,
        root_certificate,
    })
}

fn operating_system_user(around: &Surroundings<'_>) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    // The owner of /proc/self is this process's effective user; the variables are for systems without /proc.
    let uid = std::fs::metadata("/proc/self")
        .map(|metadata| metadata.uid())
        .ok();
    uid.and_then(account_name).or_else(|| {
        ["USER", "LOGNAME"]
            .iter()
            .find_map(|name| (around.variable)(name))
    })
}

/// The name of a user of this machine.
pub(super) fn account_name(uid: u32) -> Option<String> {
    let accounts = std::fs::read_to_string("/etc/passwd").ok()?;
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}
