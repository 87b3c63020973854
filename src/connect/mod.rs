//! Which service a client talks to: the one in this process, or that of the process that serves the state directory.
//!
//! One serves at a time: the state directory is locked, and every other process is a client of the first through its socket.
//! Only the connection differs; the client is Temporal's own either way. (A cluster's address will be the third place.)

mod directory;
mod lock;
mod shared;
mod socket;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustix::fs::FileType;
use temporalio_client::callback_based::{CallbackBasedGrpcService, GrpcRequest, GrpcSuccessResponse};
use temporalio_client::{Client, ClientOptions, Connection, ConnectionOptions};
use tonic::{Code, Status};
use url::Url;

use crate::service::journal::{JournalError, SledJournal, Store};
use crate::service::{Caller, Clock, ListenError, Listening, Mode, NAMESPACE, Service};

/// The number of the journal's format that this version reads and writes.
pub use crate::service::journal::FORMAT_VERSION as JOURNAL_FORMAT;
pub use directory::{Directory, DirectoryError};
pub use lock::JobLock;
use lock::{Lock, Membership};
pub use shared::{Member, share};

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
    /// Whose journal it is.
    pub directory: Arc<Directory>,
}

impl Connected {
    /// Takes a job, to run it; `Err` has the process that does.
    ///
    /// # Errors
    /// `Directory`, `Lock`.
    pub fn run(&self, job: &str) -> Result<Result<JobLock, u32>, ConnectError> {
        JobLock::take(&self.directory, job)
    }

    /// Whether calls are answered by another process, or nobody, at the moment.
    #[must_use]
    pub fn is_served_elsewhere(&self) -> bool {
        match &self.place {
            Place::Here(_) => false,
            Place::Process(_) => true,
            Place::Shared(member) => member.is_served_elsewhere(),
        }
    }

    /// The other process that answers, or should.
    #[must_use]
    pub fn served_by(&self) -> Option<u32> {
        match &self.place {
            Place::Here(_) => None,
            Place::Process(pid) => Some(*pid),
            Place::Shared(member) => member.served_by(),
        }
    }

    /// The process that runs a job, as its lock in the state directory says.
    ///
    /// # Errors
    /// `Directory`, `Lock`.
    pub fn runner_of(&self, job: &str) -> Result<Option<u32>, ConnectError> {
        JobLock::holder(&self.directory, job)
    }
}

/// Where the service lives.
pub enum Place {
    /// In this process, for a question or a word; dropped, the journal is released.
    Here(Box<Owner>),
    /// In another one.
    Process(u32),
    /// In this process or another one, as it comes.
    Shared(Member),
}

/// This process's own service. The order of the fields is the order in which they are dropped.
pub struct Owner {
    listening: Option<Listening>,
    /// The service itself, to learn of a failed journal.
    pub service: Service,
    _lock: Lock,
    // The socket may be reached through its handle.
    _directory: Arc<Directory>,
}

/// Reaches the service of the process that serves `state_directory`; where none does, opens the journal here, in `mode`.
///
/// # Errors
/// `Silent` where that process does not answer in time.
pub async fn reach(state_directory: &Path, mode: Mode) -> Result<Connected, ConnectError> {
    let directory = Arc::new(Directory::open(state_directory)?);
    let end = tokio::time::Instant::now() + OWNER_PATIENCE;
    loop {
        // Those that share it serve what others ask, and will in a moment if they do not yet.
        let is_shared = Membership::is_taken(&directory)? && tokio::time::Instant::now() < end;
        let pid = match Lock::take(&directory) {
            Ok(_) if is_shared => 0,
            Ok(lock) => {
                let service = open(&directory, mode)?;
                let client = client_of(embedded(service.clone())).await?;
                let owner = Owner {
                    listening: None,
                    service,
                    _lock: lock,
                    _directory: Arc::clone(&directory),
                };
                return Ok(Connected {
                    client,
                    place: Place::Here(Box::new(owner)),
                    directory,
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
                    directory,
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
    // Not tried again: where it was alone, nobody else serves.
    let forward = socket::connect(directory, pid, Code::FailedPrecondition).await?;
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
    format!("{}@{}", std::process::id(), hostname())
}

fn hostname() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match host.trim() {
        "" => "localhost".to_owned(),
        host => host.to_owned(),
    }
}
