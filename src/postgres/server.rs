//! A PostgreSQL server to be thrown away: for the demo and for tests.
//!
//! Finds the server's programs, makes a cluster in a temporary directory, starts it on a free port of 127.0.0.1, or on a
//! socket of its own, with trust authentication, and removes all of it when dropped. Started as root it runs as `postgres` or `nobody`, since
//! PostgreSQL refuses root. Every call blocks.

mod backup;
mod standby;

pub use backup::Backup;
pub use standby::Standby;

use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How the server is set up.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Whether commits wait for the disk: off is faster, and safe for data that nobody will miss.
    pub fsync: bool,
    /// Lines for postgresql.conf, after ours.
    pub settings: Vec<String>,
    /// Reached by this user alone: through a socket in a directory that is closed to others, and not by TCP.
    pub is_private: bool,
    /// Where the server's programs are; looked for if `None`.
    pub programs: Option<PathBuf>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            fsync: true,
            settings: Vec::new(),
            is_private: false,
            programs: None,
        }
    }
}

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Sessions are ended, and the shutdown checkpoint is written.
    Fast,
    /// As in a crash: the next start recovers.
    Immediate,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// initdb and pg_ctl are nowhere.
    #[error("cannot find PostgreSQL's server programs (initdb, pg_ctl) in PATH or where packages put them")]
    NoPrograms,
    /// Something of the operating system.
    #[error("cannot {0}")]
    Io(String, #[source] io::Error),
    /// A program failed; the second part is the end of what it said.
    #[error("{0} failed: {1}")]
    Failed(&'static str, String),
}

impl ServerError {
    /// What the operator can do.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoPrograms => {
                "install them (Debian: postgresql, Fedora: postgresql-server, macOS: brew install postgresql@17), \
                 or put their directory in PATH"
            }
            Self::Io(..) | Self::Failed(..) => {
                "check that the temporary directory ($TMPDIR) has room and can be written"
            }
        }
    }
}

/// A running server; dropping it stops and removes it.
#[derive(Debug)]
pub struct ThrowawayServer {
    programs: PathBuf,
    directory: tempfile::TempDir,
    port: u16,
    is_private: bool,
    /// Who runs it, where we are root.
    account: Option<(u32, u32)>,
}

impl ThrowawayServer {
    /// Makes and starts a server; takes about two seconds.
    ///
    /// # Errors
    /// Without the programs, without room, or where the server does not come up.
    pub fn start(options: &ServerOptions) -> Result<Self, ServerError> {
        let programs = match &options.programs {
            Some(programs) => programs.clone(),
            None => find_programs().ok_or(ServerError::NoPrograms)?,
        };
        let account = account();
        let server = Self {
            programs,
            directory: directory(account)?,
            port: 0,
            is_private: options.is_private,
            account,
        };
        server.initialize(options)?;
        server.start_on_a_free_port()
    }

    fn initialize(&self, options: &ServerOptions) -> Result<(), ServerError> {
        let data = self.data();
        let data = data.to_string_lossy();
        let common = ["-D", &*data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N"];
        let with = |locale: &'static str| common.into_iter().chain(["--locale", locale]);
        if self.run("initdb", with("C.UTF-8")).is_err() {
            _ = std::fs::remove_dir_all(self.data());
            self.run("initdb", with("C"))?;
        }
        let fsync = if options.fsync { "on" } else { "off" };
        let (addresses, sockets) = match self.is_private {
            true => (String::new(), self.directory.path().display().to_string()),
            false => ("127.0.0.1".to_owned(), String::new()),
        };
        let mut settings = format!(
            "\nlisten_addresses = '{addresses}'\nunix_socket_directories = '{sockets}'\nfsync = {fsync}\nwal_level = logical\n\
             max_wal_size = 4GB\nshared_buffers = 256MB\nmax_prepared_transactions = 10\nmax_connections = 200\n"
        );
        for line in &options.settings {
            settings.push_str(line);
            settings.push('\n');
        }
        self.append("postgresql.conf", &settings)
    }

    /// Adds to a file of settings; the last line for a setting is the one that counts.
    fn append(&self, file: &str, settings: &str) -> Result<(), ServerError> {
        let file = self.data().join(file);
        let opened = std::fs::OpenOptions::new().append(true).open(&file);
        opened
            .and_then(|mut file| io::Write::write_all(&mut file, settings.as_bytes()))
            .map_err(|error| ServerError::Io(format!("write {}", file.display()), error))
    }

    fn start_on_a_free_port(mut self) -> Result<Self, ServerError> {
        // A port that is free now may be taken a moment later: then another.
        let mut last = None;
        for _ in 0..3 {
            self.port = free_port().map_err(|error| ServerError::Io("find a free port".to_owned(), error))?;
            match self.restart() {
                Ok(()) => return Ok(self),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or(ServerError::Failed("pg_ctl", "no attempt was made".to_owned())))
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A URL of the superuser, `postgres`, for one of its databases.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        if self.is_private {
            let directory = self.directory.path().to_string_lossy();
            let directory: String = url::form_urlencoded::byte_serialize(directory.as_bytes()).collect();
            let directory = directory.replace('+', "%20");
            return format!(
                "postgres://postgres@/{database}?host={directory}&port={}",
                self.port
            );
        }
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Where its programs are.
    #[must_use]
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// Starts the server again after [`ThrowawayServer::stop`], on the same port, and waits until it takes connections.
    ///
    /// # Errors
    /// Where it does not come up; with the end of its log.
    pub fn restart(&self) -> Result<(), ServerError> {
        let (data, log) = (self.data(), self.directory.path().join("log"));
        let (data, log) = (data.to_string_lossy(), log.to_string_lossy());
        let port = format!("-p {}", self.port);
        let arguments = ["-D", &*data, "-l", &*log, "-o", &*port, "-w", "-t", "60", "start"];
        self.run("pg_ctl", arguments).map_err(|error| match error {
            ServerError::Failed(program, said) => {
                let log = std::fs::read_to_string(&*log).unwrap_or_default();
                ServerError::Failed(program, format!("{said} {}", tail(&log)))
            }
            other => other,
        })
    }

    /// Stops the server and waits until it is gone; [`ThrowawayServer::restart`] brings it back.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn stop(&self, mode: StopMode) -> Result<(), ServerError> {
        let mode = match mode {
            StopMode::Fast => "fast",
            StopMode::Immediate => "immediate",
        };
        let data = self.data();
        self.run(
            "pg_ctl",
            ["-D", &*data.to_string_lossy(), "-m", mode, "-w", "stop"],
        )
    }

    fn run<'a>(
        &self,
        program: &'static str,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), ServerError> {
        let mut command = Command::new(self.programs.join(program));
        command
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .env("LC_ALL", "C");
        // What the operator has set for other servers is not meant for this one.
        let theirs = std::env::vars_os().map(|(name, _)| name);
        theirs
            .filter(|name| name.to_string_lossy().starts_with("PG"))
            .for_each(|name| _ = command.env_remove(name));
        // The server inherits this file: a pipe would stay open for as long as the server runs.
        let said = self.directory.path().join("said");
        let file = std::fs::File::create(&said);
        let file = file.map_err(|error| ServerError::Io(format!("write {}", said.display()), error))?;
        command.stderr(file);
        if let Some((user, group)) = self.account {
            command.uid(user).gid(group);
        }
        let status = command
            .status()
            .map_err(|error| ServerError::Io(format!("run {program}"), error))?;
        if status.success() {
            return Ok(());
        }
        Err(ServerError::Failed(
            program,
            tail(&std::fs::read_to_string(&said).unwrap_or_default()),
        ))
    }
}

impl Drop for ThrowawayServer {
    fn drop(&mut self) {
        // It may be stopped already, and there is nobody to tell.
        _ = self.stop(StopMode::Immediate);
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines[lines.len().saturating_sub(4)..].join(" / ")
}

/// Made 0700, the server's, and removed when it is dropped.
fn directory(account: Option<(u32, u32)>) -> Result<tempfile::TempDir, ServerError> {
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    let made = tempfile::Builder::new()
        .prefix("longhaul-server-")
        .permissions(closed)
        .tempdir();
    let directory = made.map_err(|error| {
        ServerError::Io(
            format!("create a directory in {}", std::env::temp_dir().display()),
            error,
        )
    })?;
    if let Some((user, group)) = account {
        let path = directory.path();
        std::os::unix::fs::chown(path, Some(user), Some(group))
            .map_err(|error| ServerError::Io(format!("give away {}", path.display()), error))?;
    }
    Ok(directory)
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn find_programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let complete =
        |directory: &PathBuf| directory.join("initdb").exists() && directory.join("pg_ctl").exists();
    if let Some(found) = std::env::split_paths(&path).find(complete) {
        // A link leads to where the other programs are.
        let real = found
            .join("initdb")
            .canonicalize()
            .ok()
            .and_then(|file| file.parent().map(Path::to_owned));
        return Some(real.filter(complete).unwrap_or(found));
    }
    let places = [
        ("/usr/lib/postgresql", "", "bin"),
        ("/usr", "pgsql-", "bin"),
        ("/opt/homebrew/opt", "postgresql@", "bin"),
        ("/usr/local/opt", "postgresql@", "bin"),
        ("/Library/PostgreSQL", "", "bin"),
    ];
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for (parent, prefix, below) in places {
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(version) = name.strip_prefix(prefix).and_then(|version| version.parse().ok()) else {
                continue;
            };
            let directory = entry.path().join(below);
            if complete(&directory) {
                found.push((version, directory));
            }
        }
    }
    found
        .into_iter()
        .max_by_key(|(version, _)| *version)
        .map(|(_, directory)| directory)
}

/// Who shall run the server: nobody else, unless we are root.
fn account() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let accounts = std::fs::read_to_string("/etc/passwd").ok()?;
    ["postgres", "nobody"].into_iter().find_map(|wanted| {
        accounts.lines().find_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            (fields.first() == Some(&wanted)).then_some(())?;
            Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
        })
    })
}
