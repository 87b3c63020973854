//! Which service a client talks to: the one in this process, that of the process that serves the state directory, or a Temporal
//! cluster.
//!
//! One serves at a time: the state directory is locked, and every other process is a client of the first through its socket. A
//! cluster needs no state directory. Only the connection differs; the client is Temporal's own in all places.

mod cluster;
mod directory;
mod lock;
mod shared;
mod socket;

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rustix::fs::FileType;
use temporalio_client::callback_based::{CallbackBasedGrpcService, GrpcRequest, GrpcSuccessResponse};
use temporalio_client::{Client, ClientOptions, Connection, ConnectionOptions};
use tokio::sync::watch;
use tonic::{Code, Status};
use url::Url;

use crate::service::journal::{JournalError, SledJournal, Store};
use crate::service::{Caller, Clock, Listening, Mode, Service};

/// The number of the journal's format that this version reads and writes.
pub use crate::service::journal::FORMAT_VERSION as JOURNAL_FORMAT;
pub use crate::service::{ApiKeys, ListenError, NAMESPACE, TcpOptions, Tls};
pub use cluster::{Cluster, ClusterError, Given, reach_cluster};
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

/// Whoever serves gets so long to make its lock file anew, where somebody has removed it and another process has made one.
const HELD_PAUSE: Duration = Duration::from_secs(1);

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

impl ConnectError {
    /// Whether another process has the journal, though this one has the lock.
    fn is_held(&self) -> bool {
        matches!(self, Self::Journal(journal) if journal.is_held())
    }
}

/// A service, and a client of it.
pub struct Connected {
    /// Temporal's client.
    pub client: Client,
    /// Who runs the service.
    pub place: Place,
    /// Whose journal it is; `None`: a cluster's.
    directory: Option<Arc<Directory>>,
}

impl Connected {
    /// Takes a job, to run it; `Err` has the process that does. On a cluster there is nothing to take: many may run it.
    ///
    /// # Errors
    /// `Directory`, `Lock`.
    pub fn run(&self, job: &str) -> Result<Result<Option<JobLock>, u32>, ConnectError> {
        match &self.directory {
            Some(directory) => Ok(JobLock::take(directory, job)?.map(Some)),
            None => Ok(Ok(None)),
        }
    }

    /// A client of the same cluster.
    #[must_use]
    pub fn of_cluster(client: Client, cluster: Cluster) -> Self {
        Self {
            client,
            place: Place::Cluster(cluster),
            directory: None,
        }
    }

    /// Whether calls are answered by another process, or nobody, at the moment.
    #[must_use]
    pub fn is_served_elsewhere(&self) -> bool {
        match &self.place {
            Place::Here(_) | Place::Cluster(_) => false,
            Place::Process(_) => true,
            Place::Shared(member) => member.is_served_elsewhere(),
        }
    }

    /// The other process that answers, or should.
    #[must_use]
    pub fn served_by(&self) -> Option<u32> {
        match &self.place {
            Place::Here(_) | Place::Cluster(_) => None,
            Place::Process(pid) => Some(*pid),
            Place::Shared(member) => member.served_by(),
        }
    }

    /// The process that runs a job, as its lock in the state directory says.
    ///
    /// # Errors
    /// `Directory`, `Lock`.
    pub fn runner_of(&self, job: &str) -> Result<Option<u32>, ConnectError> {
        match &self.directory {
            Some(directory) => JobLock::holder(directory, job),
            None => Ok(None),
        }
    }
}

/// Where the service lives.
pub enum Place {
    /// In this process, for a question or a word; dropped, the journal is released.
    Here(Box<Owner>),
    /// In another one.
    Process(u32),
    /// On a Temporal cluster.
    Cluster(Cluster),
    /// In this process or another one, as it comes.
    Shared(Member),
}

/// This process's own service. The order of the fields is the order in which they are dropped.
pub struct Owner {
    listening: Option<Listening>,
    open: watch::Sender<Option<Service>>,
    lock: Lock,
    // The socket may be reached through its handle.
    _directory: Arc<Directory>,
}

impl Owner {
    fn of(service: Service, lock: Lock, listening: Option<Listening>, directory: &Arc<Directory>) -> Self {
        Self {
            listening,
            open: watch::channel(Some(service)).0,
            lock,
            _directory: Arc::clone(directory),
        }
    }

    fn service(&self) -> Option<Service> {
        self.open.borrow().clone()
    }

    /// Answers for as long as this lives.
    fn answers(&self) -> Answers {
        Answers(self.open.subscribe())
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.open.send_replace(None);
    }
}

/// The service of this process, while it is served here.
#[derive(Clone)]
struct Answers(watch::Receiver<Option<Service>>);

impl Answers {
    /// Answers one call. One that is under way when the [`Owner`] goes ends then, and has nothing of the journal.
    async fn call(&self, caller: Caller, path: &str, request: &[u8]) -> Result<Bytes, Status> {
        let closed = || Status::unavailable("the journal is closed");
        let mut open = self.0.clone();
        let service = open.borrow().clone().ok_or_else(closed)?;
        tokio::select! {
            answer = service.call(caller, path, request) => answer.map(Bytes::from),
            _ = open.wait_for(Option::is_none) => Err(closed()),
        }
    }

    /// Whether it acts on what it is told.
    fn acts(&self) -> bool {
        self.0
            .borrow()
            .as_ref()
            .is_some_and(|service| service.check().is_ok())
    }

    /// For the SDK's client of this process.
    fn callback(self) -> Callback {
        Arc::new(move |request: GrpcRequest| {
            let answers = self.clone();
            Box::pin(async move {
                let answer = answers
                    .call(Caller::Embedded, &path_of(&request), &request.proto)
                    .await?;
                Ok(response(answer))
            })
        })
    }
}

/// An RPC's name as in gRPC.
fn path_of(request: &GrpcRequest) -> String {
    format!("/{}/{}", request.service, request.rpc)
}

fn response(answer: Bytes) -> GrpcSuccessResponse {
    GrpcSuccessResponse {
        headers: http::HeaderMap::new(),
        proto: answer.into(),
    }
}

/// Takes the lock; waits for whoever has it for a moment.
async fn take(directory: &Directory) -> Result<Lock, ConnectError> {
    let end = tokio::time::Instant::now() + OWNER_PATIENCE;
    loop {
        match Lock::take(directory) {
            Err(ConnectError::Owned { .. }) if tokio::time::Instant::now() < end => {}
            other => return other,
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
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
                let service = match open(&directory, lock.clone(), mode) {
                    Err(error) if error.is_held() && tokio::time::Instant::now() < end => {
                        drop(lock);
                        tokio::time::sleep(HELD_PAUSE).await;
                        continue;
                    }
                    opened => opened?,
                };
                let owner = Owner::of(service, lock, None, &directory);
                let client = client_of(owner.answers().callback()).await?;
                return Ok(Connected {
                    client,
                    place: Place::Here(Box::new(owner)),
                    directory: Some(directory),
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
                    directory: Some(directory),
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
    Ok(client_of(forward.callback()).await?)
}

/// Sets a damaged journal aside, so that the next start begins a new one. Gives its new place.
///
/// # Errors
/// `Owned` where a live process has it; `Lock` where it cannot be renamed.
pub async fn set_aside(state_directory: &Path) -> Result<PathBuf, ConnectError> {
    let lock = take(&Directory::open(state_directory)?).await?;
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

/// Opens the journal under the lock, which is held for as long as anybody has the journal: a call that is still under way has
/// it longer than its [`Owner`].
fn open(directory: &Directory, lock: Lock, mode: Mode) -> Result<Service, ConnectError> {
    directory.has(JOURNAL, FileType::Directory)?;
    let journal = SledJournal::open(&directory.path().join(JOURNAL))?.holding(lock);
    Ok(Service::open(
        Store::open(Arc::new(journal))?,
        Clock::System,
        mode,
    )?)
}

/// A callback that the SDK's client makes its calls with.
type Callback =
    Arc<dyn Fn(GrpcRequest) -> BoxFuture<'static, Result<GrpcSuccessResponse, Status>> + Send + Sync>;

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

/// The process id in an identity made here.
#[must_use]
pub fn pid_of(identity: &str) -> Option<u32> {
    identity.split('@').next()?.parse().ok()
}

/// As the identities made here say it for as long as this process lives. Read once: every worker's identity is held against it.
fn hostname() -> &'static str {
    static HOST: LazyLock<String> = LazyLock::new(|| {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        match host.trim() {
            "" => "localhost".to_owned(),
            host => host.to_owned(),
        }
    });
    &HOST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_lock_is_held_for_as_long_as_anybody_has_the_journal() {
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        let root = tempfile::Builder::new().permissions(private).tempdir();
        let root = root.expect("a directory");
        let connected = share(root.path()).await.expect("nobody has it");
        let Place::Shared(member) = &connected.place else {
            panic!("it is shared");
        };
        let called = member.service().expect("it is served here");
        drop(connected);
        let directory = Directory::open(root.path()).expect("ours");
        let taken = Lock::take(&directory);
        assert!(matches!(taken, Err(ConnectError::Owned { .. })), "{taken:?}");
        drop(called);
        let again = tokio::time::timeout(OWNER_PATIENCE, share(root.path())).await;
        again.expect("soon").expect("nobody has it any more");
    }
    /// As a cleaner of old files may do.
    #[tokio::test]
    async fn whoever_serves_is_found_again_when_the_files_that_lead_to_it_are_removed() {
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        let root = tempfile::Builder::new().permissions(private).tempdir();
        let root = root.expect("a directory");
        let serving = share(root.path()).await.expect("nobody has it");
        let attached = share(root.path()).await.expect("it answers");
        let Place::Shared(member) = &attached.place else {
            panic!("it is shared");
        };
        assert!(member.is_served_elsewhere());
        let names = ["lock", "members", SOCKET];
        for name in names {
            std::fs::remove_file(root.path().join(name)).expect("it was there");
        }
        let end = tokio::time::Instant::now() + OWNER_PATIENCE;
        while !names.iter().all(|name| root.path().join(name).exists()) {
            assert!(tokio::time::Instant::now() < end, "they are not made anew");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let directory = Directory::open(root.path()).expect("ours");
        let holder = Lock::holder(&directory).expect("readable");
        assert_eq!(holder, Some(std::process::id()));
        assert!(Membership::is_taken(&directory).expect("readable"));
        let asks = reach(root.path(), Mode::Inspect).await.expect("it is found");
        assert!(matches!(asks.place, Place::Process(_)));
        let list = || attached.client.count_workflows("", Default::default());
        list().await.expect("its calls are answered");
        member.check().expect("it takes no journal that is held");
        drop(serving);
        let end = tokio::time::Instant::now() + OWNER_PATIENCE;
        while member.is_served_elsewhere() {
            assert!(tokio::time::Instant::now() < end, "nobody serves");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        list().await.expect("its calls are answered here");
    }
}
