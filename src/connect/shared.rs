//! A state directory that many processes share: whoever holds its lock serves the journal, every other is a client through the
//! socket. When the one that serves ends or dies, one of the others takes the lock, opens the journal and serves.
//!
//! The SDK's client notices nothing but an RPC that failed as UNAVAILABLE, which it tries again: its calls go through a
//! switch that points at whoever serves. While nobody does, new calls wait.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rustix::fs::FileType;
use temporalio_client::Client;
use temporalio_client::callback_based::GrpcRequest;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use super::lock::Membership;
use super::socket::Forward;
use super::{
    Answers, Callback, ConnectError, Connected, Directory, HELD_PAUSE, Lock, OWNER_PATIENCE, Owner, Place,
    SOCKET, client_of, hostname, open, path_of, response, socket,
};
use crate::service::{
    Behind, Caller, ListenError, ListeningOnTcp, Mode, Service, TcpOptions, listen, listen_on_tcp,
};

/// How often those that do not serve look whether they must; sooner where a call has failed.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often the one that has just taken the lock, or is about to let go, is tried.
const TRY_EVERY: Duration = Duration::from_millis(20);
/// So long the death of a process takes, once its connections are closed.
const DIES_WITHIN: Duration = Duration::from_millis(200);
/// So long a call waits for somebody to serve, before the SDK hears of it.
const WAIT_FOR_SERVICE: Duration = Duration::from_secs(8);

/// Who answers now.
#[derive(Clone)]
enum Serving {
    Nobody,
    /// This process.
    Here(Answers),
    /// That one.
    There(Forward),
    /// This process should, and cannot: the journal is broken.
    Failed(Arc<ConnectError>),
}

/// What this process has of a shared state directory. Dropped, it serves no more, and another one may.
pub struct Member {
    shared: Arc<Shared>,
    keeper: JoinHandle<()>,
    directory: Arc<Directory>,
    _membership: Arc<Membership>,
}

struct Shared {
    serving: watch::Sender<Serving>,
    /// A call has failed for want of an answer.
    failed: Notify,
    /// What this process serves with, while it does.
    owner: Mutex<Option<Owner>>,
}

/// Joins those that share `state_directory`: serves its journal where nobody does.
///
/// # Errors
/// `Silent` where the process that has the lock does not answer in time.
pub async fn share(state_directory: &Path) -> Result<Connected, ConnectError> {
    let directory = Arc::new(Directory::open(state_directory)?);
    let membership = Arc::new(Membership::join(&directory)?);
    let shared = Arc::new(Shared {
        serving: watch::channel(Serving::Nobody).0,
        failed: Notify::new(),
        owner: Mutex::new(None),
    });
    let end = tokio::time::Instant::now() + OWNER_PATIENCE;
    while let Err(silent) = shared.find(&directory, end).await? {
        if tokio::time::Instant::now() >= end {
            return Err(silent);
        }
        tokio::time::sleep(TRY_EVERY).await;
    }
    let keeping = keep(
        Arc::clone(&shared),
        Arc::clone(&directory),
        Arc::downgrade(&membership),
    );
    let keeper = tokio::spawn(keeping);
    let member = Member {
        shared,
        keeper,
        directory: Arc::clone(&directory),
        _membership: membership,
    };
    Ok(Connected {
        client: member.client(end).await?,
        place: Place::Shared(member),
        directory: Some(directory),
    })
}

impl Member {
    /// A client of whoever serves. Its first call is tried again: the process that was found may have been about to go.
    async fn client(&self, end: tokio::time::Instant) -> Result<Client, ConnectError> {
        loop {
            match client_of(self.shared.switch()).await {
                Err(_) if tokio::time::Instant::now() < end && self.check().is_ok() => {}
                made => return made,
            }
            tokio::time::sleep(TRY_EVERY).await;
        }
    }

    /// Errs once the journal has failed here; then nothing more is acted on.
    ///
    /// # Errors
    /// What is wrong with the journal.
    pub fn check(&self) -> Result<(), Arc<ConnectError>> {
        if let Serving::Failed(error) = &*self.shared.serving.borrow() {
            return Err(Arc::clone(error));
        }
        let owner = self.shared.owner.lock().unwrap_or_else(PoisonError::into_inner);
        let service = owner.as_ref().and_then(Owner::service);
        let checked = service.map_or(Ok(()), |service| service.check());
        checked.map_err(|error| Arc::new(error.into()))
    }

    /// Answers on a TCP address as well: itself where it serves, else by passing calls on to whoever does.
    ///
    /// # Errors
    /// `Unprotected`, `Address`.
    pub async fn listen(&self, options: TcpOptions) -> Result<ListeningOnTcp, ListenError> {
        let shared = Arc::clone(&self.shared);
        listen_on_tcp(shared, options).await
    }

    /// The service, where it is served here.
    #[cfg(test)]
    pub(super) fn service(&self) -> Option<Service> {
        let owner = self.shared.owner.lock().unwrap_or_else(PoisonError::into_inner);
        owner.as_ref().and_then(Owner::service)
    }

    /// Whether another process serves, or nobody.
    #[must_use]
    pub fn is_served_elsewhere(&self) -> bool {
        matches!(*self.shared.serving.borrow(), Serving::There(_) | Serving::Nobody)
    }

    /// The process that has the lock, if it is another one.
    #[must_use]
    pub fn served_by(&self) -> Option<u32> {
        if !self.is_served_elsewhere() {
            return None;
        }
        Lock::holder(&self.directory).ok().flatten()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.keeper.abort();
        self.shared.serving.send_replace(Serving::Nobody);
        let mut owner = self.shared.owner.lock().unwrap_or_else(PoisonError::into_inner);
        drop(owner.take());
    }
}

impl Shared {
    /// Points the switch at whoever serves: at this process where nobody else does. `Ok(Err(_))`: the one that has the lock
    /// does not answer, as far as can be told yet.
    async fn find(
        &self,
        directory: &Arc<Directory>,
        end: tokio::time::Instant,
    ) -> Result<Result<(), ConnectError>, ConnectError> {
        let (path, pid) = match Lock::take(directory) {
            Ok(lock) => {
                return match self.serve(directory, lock).await {
                    Err(error) if error.is_held() => {
                        tokio::time::sleep(HELD_PAUSE).await;
                        Ok(Err(error))
                    }
                    served => served.map(Ok),
                };
            }
            Err(ConnectError::Owned { path, pid }) => (path, pid),
            Err(error) => return Err(error),
        };
        directory.has(SOCKET, FileType::Socket)?;
        let asked = tokio::time::timeout_at(end, socket::connect(directory, pid, Code::Unavailable)).await;
        let source = match asked {
            Ok(Ok(forward)) => {
                self.serving.send_replace(Serving::There(forward));
                return Ok(Ok(()));
            }
            Ok(Err(error)) => error.into(),
            Err(_) => format!("no answer within {} s", OWNER_PATIENCE.as_secs()).into(),
        };
        Ok(Err(ConnectError::Silent { path, pid, source }))
    }

    /// Opens the journal and listens. Reading it takes a while, and blocks.
    async fn serve(&self, directory: &Arc<Directory>, lock: Lock) -> Result<(), ConnectError> {
        let directory = Arc::clone(directory);
        let served = tokio::task::spawn_blocking(move || {
            let service = open(&directory, lock.clone(), Mode::Serve)?;
            // What others of the dead process's time have left.
            service.outlive(&is_dead);
            // One that a dead process of ours left is replaced.
            directory.has(SOCKET, FileType::Socket)?;
            let listening = listen(service.clone(), &directory.socket_path(SOCKET))?;
            Ok::<_, ConnectError>(Owner::of(service, lock, Some(listening), &directory))
        });
        let owner = served
            .await
            .map_err(|error| ConnectError::Client(error.into()))??;
        let answers = owner.answers();
        *self.owner.lock().unwrap_or_else(PoisonError::into_inner) = Some(owner);
        self.serving.send_replace(Serving::Here(answers));
        Ok(())
    }

    /// What this process serves, and what tells that a client of it has gone away.
    fn served(&self) -> Option<(watch::Receiver<Option<Service>>, Arc<Notify>)> {
        let owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        let owner = owner.as_ref()?;
        let listening = owner.listening.as_ref()?;
        Some((owner.open.subscribe(), Arc::clone(&listening.left)))
    }

    /// Makes anew what leads others here, where somebody has removed it. To those that come by the old socket the calls that
    /// are under way fail; they try them again by the new one.
    fn be_found(&self, directory: &Directory) -> Result<(), ConnectError> {
        let mut owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(owner) = owner.as_mut() else {
            return Ok(());
        };
        let again = |name: &str| {
            tracing::warn!(
                "somebody has removed {name} from the state directory {}, where other processes look for it: it is made anew",
                directory.path().display()
            );
        };
        if owner.lock.keep(directory)? {
            again("the lock file");
        }
        if let (false, Some(service)) = (directory.has(SOCKET, FileType::Socket)?, owner.service()) {
            // Dropped first: it removes what has its name.
            owner.listening = None;
            owner.listening = Some(listen(service, &directory.socket_path(SOCKET))?);
            again("the socket");
        }
        Ok(())
    }

    /// The callback that the SDK's client makes its calls with.
    fn switch(self: &Arc<Self>) -> Callback {
        let shared = Arc::clone(self);
        Arc::new(move |request: GrpcRequest| {
            let shared = Arc::clone(&shared);
            Box::pin(async move {
                let path = path_of(&request);
                let answer = shared.pass(Caller::Embedded, &path, request.proto).await?;
                Ok(response(answer))
            })
        })
    }

    /// Has a call answered by whoever serves. Of this process or a TCP client of it, as `caller` says: to another process
    /// its own are those of one of this machine.
    async fn pass(&self, caller: Caller, path: &str, request: Bytes) -> Result<Bytes, Status> {
        let mut serving = self.serving.subscribe();
        let answers = serving.wait_for(|serving| !matches!(serving, Serving::Nobody));
        let answers = match tokio::time::timeout(WAIT_FOR_SERVICE, answers).await {
            Ok(Ok(serving)) => serving.clone(),
            Ok(Err(_)) | Err(_) => return Err(Status::unavailable("no process serves the journal now")),
        };
        match answers {
            Serving::Here(answers) => answers.call(caller, path, &request).await,
            Serving::There(forward) => {
                let answered = forward.call(caller, path, request).await;
                if let Err(status) = &answered
                    && status.code() == Code::Unavailable
                {
                    self.failed.notify_one();
                }
                answered
            }
            Serving::Failed(error) => Err(Status::failed_precondition(error.to_string())),
            Serving::Nobody => Err(Status::unavailable("no process serves the journal now")),
        }
    }
}

impl Behind for Shared {
    fn call<'a>(
        &'a self,
        caller: Caller,
        path: &'a str,
        request: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, Status>> {
        Box::pin(self.pass(caller, path, request))
    }

    fn acts(&self) -> bool {
        match &*self.serving.borrow() {
            Serving::Here(answers) => answers.acts(),
            Serving::There(_) => true,
            Serving::Nobody | Serving::Failed(_) => false,
        }
    }
}

/// Looks, for as long as another process serves, whether it still does; then to it that this one is found, and who of the
/// others has died.
async fn keep(shared: Arc<Shared>, directory: Arc<Directory>, membership: Weak<Membership>) {
    loop {
        if let Some(Err(error)) = membership.upgrade().map(|it| it.keep(&directory)) {
            tracing::trace!(%error, "this process is no member of the state directory");
        }
        let is_there = match *shared.serving.borrow() {
            Serving::There(_) => true,
            Serving::Here(_) => false,
            Serving::Nobody | Serving::Failed(_) => return,
        };
        if !is_there {
            match shared.served() {
                Some((open, left)) => tend(&shared, &directory, &open, &left).await,
                None => return,
            }
        } else if let Err(error) = look(&shared, &directory).await {
            tracing::debug!(%error, "this process cannot serve");
            shared.serving.send_replace(Serving::Failed(Arc::new(error)));
        }
    }
}

/// One look around of the process that serves.
async fn tend(
    shared: &Shared,
    directory: &Directory,
    open: &watch::Receiver<Option<Service>>,
    left: &Notify,
) {
    tokio::select! {
        () = left.notified() => {
            // Its connections go before it does.
            tokio::time::sleep(DIES_WITHIN).await;
            if let Some(service) = &*open.borrow() {
                service.outlive(&is_dead);
            }
        }
        () = tokio::time::sleep(LOOK_EVERY) => {
            if let Err(error) = shared.be_found(directory) {
                tracing::trace!(%error, "this process may not be found");
            }
        }
    }
}

/// Whether a worker lived on this machine, and its process lives no more.
fn is_dead(identity: &str) -> bool {
    let Some((pid, host)) = identity.split_once('@') else {
        return false;
    };
    pid.parse::<i32>()
        .is_ok_and(|pid| host == hostname() && !lives(pid))
}

/// One that has ended and was not waited for does not live.
fn lives(pid: i32) -> bool {
    let Some(pid) = rustix::process::Pid::from_raw(pid) else {
        return false;
    };
    if rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH) {
        return false;
    }
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    // After the name, which may hold anything, in parentheses.
    let state = stat
        .ok()
        .and_then(|stat| stat.rsplit_once(')')?.1.trim_start().chars().next());
    !matches!(state, Some('Z' | 'X'))
}

async fn look(shared: &Shared, directory: &Arc<Directory>) -> Result<(), ConnectError> {
    let has_failed = tokio::select! {
        () = shared.failed.notified() => true,
        () = tokio::time::sleep(LOOK_EVERY) => false,
    };
    // A process that ends or dies leaves the file; where somebody else has removed it, the one that serves makes it anew.
    if !has_failed && !Lock::is_there(directory)? {
        return Ok(());
    }
    let must_find = match Lock::take(directory) {
        Ok(lock) => {
            shared.serving.send_replace(Serving::Nobody);
            match shared.serve(directory, lock).await {
                Err(error) if error.is_held() => {
                    tokio::time::sleep(HELD_PAUSE).await;
                    true
                }
                served => return served,
            }
        }
        Err(ConnectError::Owned { .. }) => has_failed,
        Err(error) => return Err(error),
    };
    if must_find {
        shared.serving.send_replace(Serving::Nobody);
        let end = || tokio::time::Instant::now() + WAIT_FOR_SERVICE;
        // It has only just taken the lock, or lets go of it, or stands still.
        while shared.find(directory, end()).await?.is_err() {
            tokio::time::sleep(TRY_EVERY).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_dead_once_its_process_on_this_machine_is_waited_for_or_not() {
        let of = |pid: u32| format!("{pid}@{}", hostname());
        assert!(!is_dead(&of(std::process::id())));
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("sleep runs");
        let identity = of(child.id());
        assert!(!is_dead(&identity));
        child.kill().expect("it is ours");
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while !is_dead(&identity) && std::time::Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(is_dead(&identity), "a zombie");
        child.wait().expect("it has ended");
        assert!(is_dead(&identity));
        for other in [
            format!("{}@elsewhere", child.id()),
            "worker".to_owned(),
            String::new(),
        ] {
            assert!(!is_dead(&other), "{other}");
        }
    }
}
