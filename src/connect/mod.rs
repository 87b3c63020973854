//! Which service a client talks to: the one in this process, that of the process that owns the state directory, or a Temporal
//! cluster.
//!
//! One owner: the state directory is locked, and a second process becomes a client of the first through its socket. A cluster
//! needs no state directory. Only the connection differs; the client is Temporal's own in all three places.

mod cluster;
mod directory;
mod lock;
mod socket;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustix::fs::FileType;
use temporalio_client::callback_based::{CallbackBasedGrpcService, GrpcRequest, GrpcSuccessResponse};
use temporalio_client::{Client, ClientOptions, Connection, ConnectionOptions};
use tonic::Status;
use url::Url;

use crate::service::journal::{JournalError, SledJournal, Store};
use crate::service::{Caller, Clock, ListenError, Listening, Mode, NAMESPACE, Service, listen};

/// The number of the journal's format that this version reads and writes.
pub use crate::service::journal::FORMAT_VERSION as JOURNAL_FORMAT;
pub use cluster::{Cluster, ClusterError, Given, reach_cluster};
pub use directory::{Directory, DirectoryError};
pub use lock::Lock;

/// The journal's directory within the state directory.
const JOURNAL: &str = "journal";
/// The socket's name within the state directory.
const SOCKET: &str = "socket";
/// A process that has the lock and no socket yet, or no longer, is given so long.
const OWNER_PATIENCE: Duration = Duration::from_secs(10);

/// Why no service can be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Another process owns the state directory.
    #[error("the state directory {} is in use by process {pid}", .path.display())]
    Owned {
        /// The state directory.
        path: PathBuf,
        /// Its owner.
        pid: u32,
    },
    /// The state directory, or what lies in it, is not ours alone.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The lock file cannot be made or read.
    #[error("the state directory {} cannot be locked", .path.display())]
    Lock {
        /// The state directory.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Something is wrong with the journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Other processes could not reach this one.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The owner of the state directory does not answer.
    #[error("process {pid}, which owns the state directory {}, does not answer", .path.display())]
    Silent {
        /// The state directory.
        path: PathBuf,
        /// Its owner.
        pid: u32,
        /// What came of the attempt.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no client of the cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The SDK's client could not be made.
    #[error("no client could be made")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A service, and a client of it.
pub struct Connected {
    /// Temporal's client.
    pub client: Client,
    /// Who runs the service.
    pub place: Place,
}

/// Where the service lives.
pub enum Place {
    /// In this process; dropped, the journal is released.
    Here(Box<Owner>),
    /// In another one.
    Process(u32),
    /// On a Temporal cluster.
    Cluster(Cluster),
}

/// This process's own service. The order of the fields is the order in which they are dropped.
pub struct Owner {
    _listening: Option<Listening>,
    /// The service itself, to learn of a failed journal.
    pub service: Service,
    _lock: Lock,
    // The socket may be reached through its handle.
    _directory: Arc<Directory>,
}

/// Opens the journal in `state_directory` and serves it, to this process and, through the socket, to others.
///
/// # Errors
/// `Owned` where a live process has it.
pub async fn own(state_directory: &Path) -> Result<Connected, ConnectError> {
    let directory = Arc::new(Directory::open(state_directory)?);
    let lock = take_from_askers(&directory).await?;
    let service = open(&directory, Mode::Serve)?;
    // One that a dead process of ours left is replaced.
    directory.has(SOCKET, FileType::Socket)?;
    let listening = listen(service.clone(), &directory.socket_path(SOCKET))?;
    let client = client_of(embedded(service.clone())).await?;
    let owner = Owner {
        _listening: Some(listening),
        service,
        _lock: lock,
        _directory: directory,
    };
    Ok(Connected {
        client,
        place: Place::Here(Box::new(owner)),
    })
}

/// Takes the lock; waits for a process that only asks the journal a question, and refuses to wait for one that serves it.
async fn take_from_askers(directory: &Arc<Directory>) -> Result<Lock, ConnectError> {
    let end = tokio::time::Instant::now() + OWNER_PATIENCE;
    loop {
        let (owned, pid) = match Lock::take(directory) {
            Err(owned @ ConnectError::Owned { pid, .. }) => (owned, pid),
            other => return other,
        };
        let serves = socket::connect(directory, pid).await.is_ok();
        if serves || tokio::time::Instant::now() >= end {
            return Err(owned);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Reaches the service of the process that owns `state_directory`; where none does, opens the journal here, in `mode`.
///
/// # Errors
/// `Silent` where that process does not answer in time.
pub async fn reach(state_directory: &Path, mode: Mode) -> Result<Connected, ConnectError> {
    let directory = Arc::new(Directory::open(state_directory)?);
    let end = tokio::time::Instant::now() + OWNER_PATIENCE;
    loop {
        let pid = match Lock::take(&directory) {
            Ok(lock) => {
                let service = open(&directory, mode)?;
                let client = client_of(embedded(service.clone())).await?;
                let owner = Owner {
                    _listening: None,
                    service,
                    _lock: lock,
                    _directory: directory,
                };
                return Ok(Connected {
                    client,
                    place: Place::Here(Box::new(owner)),
                });
            }
            Err(ConnectError::Owned { pid, .. }) => pid,
            Err(error) => return Err(error),
        };
        directory.has(SOCKET, FileType::Socket)?;
        let asked = tokio::time::timeout_at(end, ask(&directory, pid)).await;
        let source: Box<dyn std::error::Error + Send + Sync> = match asked {
            Ok(Ok(client)) => {
                return Ok(Connected {
                    client,
                    place: Place::Process(pid),
                });
            }
            Ok(Err(error)) => error,
            Err(_) => format!("no answer within {} s", OWNER_PATIENCE.as_secs()).into(),
        };
        if tokio::time::Instant::now() >= end {
            return Err(ConnectError::Silent {
                path: state_directory.to_owned(),
                pid,
                source,
            });
        }
        // It is starting, or ending.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A client of process `pid`, which has answered it once.
async fn ask(
    directory: &Arc<Directory>,
    pid: u32,
) -> Result<Client, Box<dyn std::error::Error + Send + Sync>> {
    let forward = socket::connect(directory, pid).await?;
    Ok(client_of(forward).await?)
}

/// Sets a damaged journal aside, so that the next start begins a new one. Gives its new place.
///
/// # Errors
/// `Owned` where a live process has it; `Lock` where it cannot be renamed.
pub fn set_aside(state_directory: &Path) -> Result<PathBuf, ConnectError> {
    let lock = Lock::take(&Directory::open(state_directory)?)?;
    let stamp = humantime::format_rfc3339_seconds(std::time::SystemTime::now())
        .to_string()
        .replace(':', "");
    let aside = state_directory.join(format!("{JOURNAL}.damaged-{stamp}"));
    let renamed = std::fs::rename(state_directory.join(JOURNAL), &aside);
    renamed.map_err(|source| ConnectError::Lock {
        path: state_directory.to_owned(),
        source,
    })?;
    drop(lock);
    Ok(aside)
}

fn open(directory: &Directory, mode: Mode) -> Result<Service, ConnectError> {
    directory.has(JOURNAL, FileType::Directory)?;
    let journal = SledJournal::open(&directory.path().join(JOURNAL))?;
    Ok(Service::open(
        Store::open(Arc::new(journal))?,
        Clock::System,
        mode,
    )?)
}

/// A callback that the SDK's client makes its calls with.
type Callback =
    Arc<dyn Fn(GrpcRequest) -> BoxFuture<'static, Result<GrpcSuccessResponse, Status>> + Send + Sync>;

fn embedded(service: Service) -> Callback {
    Arc::new(move |request: GrpcRequest| {
        let service = service.clone();
        Box::pin(async move {
            let proto = service
                .call(Caller::Embedded, &request.rpc, &request.proto)
                .await?;
            Ok(GrpcSuccessResponse {
                headers: http::HeaderMap::new(),
                proto,
            })
        })
    })
}

async fn client_of(callback: Callback) -> Result<Client, ConnectError> {
    let broken = |error: Box<dyn std::error::Error + Send + Sync>| ConnectError::Client(error);
    // The address is never dialled: the callback takes every call.
    let address = Url::parse("http://embedded:7233").map_err(|error| broken(error.into()))?;
    let options = ConnectionOptions::new(address)
        .service_override(CallbackBasedGrpcService { callback })
        .dns_load_balancing(None)
        .identity(identity())
        .build();
    let connection = Connection::connect(options)
        .await
        .map_err(|error| broken(error.into()))?;
    Client::new(connection, ClientOptions::new(NAMESPACE).build()).map_err(|error| broken(error.into()))
}

/// Who polls and asks, in the form in which Temporal's SDKs say it: `pid@host`.
fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() {
        "localhost"
    } else {
        host.trim()
    };
    format!("{}@{host}", std::process::id())
}

/// The process id in an identity made here.
#[must_use]
pub fn pid_of(identity: &str) -> Option<u32> {
    identity.split('@').next()?.parse().ok()
}
