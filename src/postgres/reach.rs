//! The way to a server: hosts in turn, the addresses of each, TLS as that host needs it, and the log-in.
//!
//! Nothing of one host's goes to another: mode and password are the host's own. Each address has the whole deadline,
//! and a host that refuses us ends the search, as libpq has it: the next one would be asked with the same user.

use super::connect::Session;
use super::error::{Error, Kind, Result, Retry, Side, kind_of_io};
use super::frames::{AsItIs, Frames, Watch};
use super::require_auth::Exchange;
use super::resolved::{Host, Options, Place, Resolved, SessionAttrs, SslMode, account_name};
use super::tls;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::SslNegotiation;
use tokio_postgres::tls::{ChannelBinding, TlsStream};

/// PostgreSQL's question whether the server speaks TLS: its length, and a code in place of a version.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// A session that is logged in and not set up, and where it was found.
pub(super) struct Reached<'a> {
    pub session: Session,
    pub door: Door<'a>,
}

/// One address of one host.
#[derive(Clone)]
pub(super) struct Door<'a> {
    host: &'a Host,
    address: Address,
}

#[derive(Debug, Clone)]
enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Logs in at the first host that will do.
///
/// # Errors
/// Of more than one host, the error that is worth another attempt, if there is one, with what the others said.
pub(super) async fn reach<'a>(resolved: &'a Resolved, side: Side, application: &str) -> Result<Reached<'a>> {
    let mut hosts: Vec<&Host> = resolved.hosts.iter().collect();
    if resolved.options.shuffled {
        hosts.sort_by_cached_key(|_| uuid::Uuid::new_v4());
    }
    let rounds: &[SessionAttrs] = match resolved.options.session_attrs {
        SessionAttrs::PreferStandby => &[SessionAttrs::Standby, SessionAttrs::Any],
        SessionAttrs::Any => &[SessionAttrs::Any],
        SessionAttrs::ReadWrite => &[SessionAttrs::ReadWrite],
        SessionAttrs::ReadOnly => &[SessionAttrs::ReadOnly],
        SessionAttrs::Primary => &[SessionAttrs::Primary],
        SessionAttrs::Standby => &[SessionAttrs::Standby],
    };
    let mut errors = Vec::new();
    for wanted in rounds {
        for host in &hosts {
            let trying = Trying {
                resolved,
                host,
                side,
                application,
                wanted: *wanted,
            };
            match trying.host().await {
                Ok(reached) => return Ok(reached),
                Err(error) if error.kind() == Kind::Authentication => return Err(error),
                Err(error) => errors.push(error),
            }
        }
    }
    Err(of_all(errors))
}

/// Logs in once more, at the same address.
pub(super) async fn again(
    resolved: &Resolved,
    door: &Door<'_>,
    side: Side,
    application: &str,
) -> Result<Session> {
    let trying = Trying {
        resolved,
        host: door.host,
        side,
        application,
        wanted: SessionAttrs::Any,
    };
    trying.address(&door.address).await
}

fn of_all(mut errors: Vec<Error>) -> Error {
    let told: Vec<String> = errors.iter().map(Error::chain).collect();
    let worth = errors.iter().position(|error| error.retry() == Retry::Retry);
    let error = errors.swap_remove(worth.unwrap_or(errors.len() - 1));
    match told.len() {
        1 => error,
        _ => {
            let others: Vec<_> = told.into_iter().filter(|other| *other != error.chain()).collect();
            let cause = std::error::Error::source(&error)
                .map(ToString::to_string)
                .unwrap_or_default();
            match others.is_empty() {
                true => error,
                false => error.because(format!("{cause}; {}", others.join("; "))),
            }
        }
    }
}

/// One host, and all that is needed to log in there.
struct Trying<'a, 'b> {
    resolved: &'a Resolved,
    host: &'a Host,
    side: Side,
    application: &'b str,
    wanted: SessionAttrs,
}

/// Whether a connection is encrypted.
#[derive(Clone, Copy, PartialEq)]
enum Encryption {
    No,
    IfOffered,
    Yes,
}

impl<'a> Trying<'a, '_> {
    fn endpoint(&self) -> String {
        format!("{}:{}/{}", self.host.name, self.host.port, self.resolved.database)
    }

    fn context(&self) -> String {
        format!("cannot connect to the {} at {}", self.side, self.endpoint())
    }

    fn error(&self, kind: Kind, words: impl Into<String>) -> Error {
        Error::new(self.side, kind, self.context()).because(words)
    }

    fn io(&self, error: &io::Error) -> Error {
        self.error(kind_of_io(error), error.to_string())
    }

    async fn host(&self) -> Result<Reached<'a>> {
        let addresses = self.addresses().await?;
        let mut errors = Vec::new();
        for address in addresses {
            match self.address(&address).await {
                Ok(session) => {
                    let door = Door {
                        host: self.host,
                        address,
                    };
                    return Ok(Reached { session, door });
                }
                Err(error) if error.kind() == Kind::Authentication => return Err(error),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            return Err(self.error(Kind::Unreachable, "the name has no address"));
        }
        Err(of_all(errors))
    }

    async fn addresses(&self) -> Result<Vec<Address>> {
        let port = self.host.port;
        match &self.host.place {
            Place::Socket(directory) => {
                let socket = directory.join(format!(".s.PGSQL.{port}"));
                Ok(vec![Address::Unix(socket)])
            }
            Place::Address(address) => Ok(vec![Address::Tcp((*address, port).into())]),
            Place::Name(name) => {
                let found = self
                    .in_time(async {
                        let found = tokio::net::lookup_host((&**name, port)).await;
                        found.map_err(|error| self.io(&error))
                    })
                    .await?;
                let mut found: Vec<_> = found.map(Address::Tcp).collect();
                if self.resolved.options.shuffled {
                    found.sort_by_cached_key(|_| uuid::Uuid::new_v4());
                }
                Ok(found)
            }
        }
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let Some(timeout) = self.resolved.options.connect_timeout else {
            return work.await;
        };
        let done = tokio::time::timeout(timeout, work).await;
        done.unwrap_or_else(|_| Err(self.error(Kind::Unreachable, no_answer(timeout))))
    }

    /// One address, encrypted or not as its mode has it.
    async fn address(&self, address: &Address) -> Result<Session> {
        let (first, then) = match self.host.mode {
            SslMode::Disable => (Encryption::No, None),
            SslMode::Prefer => (Encryption::IfOffered, Some(Encryption::No)),
            SslMode::Allow => (Encryption::No, Some(Encryption::Yes)),
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => (Encryption::Yes, None),
        };
        let error = match self.in_time(self.log_in(address, first)).await {
            Ok(session) => return Ok(session),
            Err(error) => error,
        };
        match then {
            // As libpq: the other way where TLS failed, or pg_hba.conf wants the other.
            Some(then) if error.kind() == Kind::Tls || error.sqlstate() == Some("28000") => {
                let other = self.in_time(self.log_in(address, then)).await;
                other.map_err(|_| error)
            }
            _ => Err(error),
        }
    }

    async fn log_in(&self, address: &Address, encryption: Encryption) -> Result<Session> {
        let resolved = self.resolved;
        let socket = self.socket(address).await?;
        let stream = self.encrypted(socket, encryption).await?;
        let watch = Arc::new(Watch::default());
        let exchange = Exchange::new(resolved.options.require_auth.clone());
        let frames = Frames::new(stream, Arc::clone(&watch), exchange);
        let mut config = tokio_postgres::Config::new();
        config
            .user(&resolved.user)
            .dbname(&resolved.database)
            .application_name(self.application)
            .channel_binding(resolved.options.channel_binding)
            // The stream is what it has to be: the driver takes it as it is.
            .ssl_mode(tokio_postgres::config::SslMode::Require)
            .ssl_negotiation(SslNegotiation::Direct);
        if let Some(options) = &resolved.options.server_options {
            config.options(options);
        }
        if let Some(password) = &self.host.password {
            config.password(password);
        }
        let connected = connect_raw(frames, &config).await;
        let (client, connection) = connected.map_err(|error| match watch.refusal() {
            Some(refusal) => self.error(refusal.kind, refusal.words),
            None => self.told(&error),
        })?;
        let session = Session::new(client, connection, watch, self.side, self.endpoint(), resolved);
        self.check_attributes(&session).await?;
        Ok(session)
    }

    /// The driver's error; one of TLS in words that a person uses.
    fn told(&self, error: &tokio_postgres::Error) -> Error {
        let mut next = std::error::Error::source(error);
        while let Some(cause) = next {
            if let Some(error) = tls::of_rustls(cause) {
                return self.tls(error, None);
            }
            next = cause.source();
        }
        Error::query(self.side, self.context(), error)
    }

    fn tls(&self, error: &rustls::Error, seen: Option<&[u8]>) -> Error {
        let roots = self.resolved.options.tls.root_certificate.as_deref();
        let (words, hint) = tls::words(error, seen, &self.host.name, roots);
        let error = self.error(Kind::Tls, words);
        match hint {
            Some(hint) => error.hinted(hint),
            None => error,
        }
    }

    async fn socket(&self, address: &Address) -> Result<Socket> {
        match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address)
                    .await
                    .map_err(|error| self.io(&error))?;
                set_options(&stream, &self.resolved.options).map_err(|error| self.io(&error))?;
                Ok(Box::new(stream))
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| self.io(&error))?;
                self.check_peer(&stream)?;
                Ok(Box::new(stream))
            }
        }
    }

    /// requirepeer: the user who owns the other end of a local socket.
    fn check_peer(&self, stream: &UnixStream) -> Result<()> {
        let Some(required) = &self.resolved.options.require_peer else {
            return Ok(());
        };
        let uid = stream.peer_cred().map_err(|error| self.io(&error))?.uid();
        let name = account_name(uid);
        if name.as_ref() == Some(required) {
            return Ok(());
        }
        let found = name.unwrap_or_else(|| format!("user {uid}, who is not in /etc/passwd"));
        let words = format!("requirepeer={required} is set, and the server runs as {found}");
        Err(self.error(Kind::Authentication, words))
    }

    async fn encrypted(&self, mut socket: Socket, encryption: Encryption) -> Result<Encrypted> {
        if encryption == Encryption::No {
            return Ok(Encrypted::Plain(socket));
        }
        let settings = &self.resolved.options.tls;
        let connector =
            tls::Connector::new(settings, self.host.mode).map_err(|words| self.error(Kind::Tls, words))?;
        if !self.resolved.options.direct_tls {
            let mut answer = [0];
            let asking = async {
                socket.write_all(&SSL_REQUEST).await?;
                socket.read_exact(&mut answer).await
            };
            asking.await.map_err(|error| self.io(&error))?;
            match answer[0] {
                b'S' => {}
                b'N' if encryption == Encryption::IfOffered => return Ok(Encrypted::Plain(socket)),
                b'N' => {
                    let error = self.error(Kind::Tls, "the server does not support TLS");
                    return Err(error.hinted(
                        "set `ssl = on` there; or, where nobody can listen, connect with sslmode=disable",
                    ));
                }
                b'E' => {
                    return Err(
                        self.error(Kind::Transient, "the server refuses before TLS; its log says why")
                    );
                }
                _ => {
                    let words = "what answers there does not speak PostgreSQL's protocol";
                    return Err(self.error(Kind::Unreachable, words));
                }
            }
        }
        match connector.connect(&self.host.name, socket).await {
            Ok(stream) => Ok(Encrypted::Tls(Box::new(stream))),
            Err(error) => Err(match tls::of_rustls(&error) {
                Some(error) => self.tls(error, connector.seen().as_deref()),
                None if error.kind() == io::ErrorKind::InvalidInput => self.error(
                    Kind::Tls,
                    format!("the host's name is none for a certificate: {error}"),
                ),
                None => self.io(&error),
            }),
        }
    }

    async fn check_attributes(&self, session: &Session) -> Result<()> {
        if self.wanted == SessionAttrs::Any {
            return Ok(());
        }
        let sql = "SHOW transaction_read_only; SELECT pg_catalog.pg_is_in_recovery()";
        let rows = session
            .rows(&format!("ask the {} what it is", self.side), sql)
            .await?;
        let is = |i: usize, word: &str| {
            rows.get(i)
                .and_then(|row| row.first())
                .is_some_and(|v| v.as_deref() == Some(word))
        };
        let (fits, words) = match self.wanted {
            SessionAttrs::ReadWrite => (is(0, "off"), "the server takes no writes"),
            SessionAttrs::ReadOnly => (is(0, "on"), "the server takes writes"),
            SessionAttrs::Primary => (is(1, "f"), "the server is a standby"),
            SessionAttrs::Standby => (is(1, "t"), "the server is no standby"),
            SessionAttrs::Any | SessionAttrs::PreferStandby => (true, ""),
        };
        match fits {
            true => Ok(()),
            false => Err(self
                .error(
                    Kind::Unreachable,
                    format!("{words}, and target_session_attrs asks for another"),
                )
                .hinted("name a host that fits, or change target_session_attrs")),
        }
    }
}

pub(super) fn no_answer(within: Duration) -> String {
    format!("no answer within {}", humantime::format_duration(within))
}

/// The driver's log-in; with a stream of its own kind for all.
async fn connect_raw(
    frames: Frames<Encrypted>,
    config: &tokio_postgres::Config,
) -> std::result::Result<(tokio_postgres::Client, Connection), tokio_postgres::Error> {
    config.connect_raw(frames, AsItIs).await
}

/// The driver's half of a session.
pub(super) type Connection = tokio_postgres::Connection<Frames<Encrypted>, Frames<Encrypted>>;

fn set_options(stream: &TcpStream, options: &Options) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    if let Some(keepalive) = &options.keepalive {
        socket.set_tcp_keepalive(keepalive)?;
    }
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(options.tcp_user_timeout))?;
    Ok(())
}

/// TCP or a local socket.
pub(super) trait Bytes: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Bytes for T {}

pub(super) type Socket = Box<dyn Bytes>;

/// A socket, with TLS over it or not.
pub(super) enum Encrypted {
    Plain(Socket),
    Tls(Box<tls::Stream>),
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl TlsStream for Encrypted {
    fn channel_binding(&self) -> ChannelBinding {
        match self {
            Self::Plain(_) => ChannelBinding::none(),
            Self::Tls(stream) => stream.channel_binding(),
        }
    }
}
