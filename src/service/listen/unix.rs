//! The Unix socket in the state directory: for this user and root alone, who could read the journal as well.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::{Notify, watch};

use super::super::{Caller, Service};
use super::{Door, IDLE_FOR, ListenError};

/// Answers on a Unix socket until the returned guard is dropped. A socket that a dead process left is replaced: the caller
/// holds the lock of the state directory.
pub fn listen(service: Service, path: &Path) -> Result<Listening, ListenError> {
    let failed = |source| ListenError::Socket {
        path: path.to_owned(),
        source,
    };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, private).map_err(failed)?;
    let (open, closing) = watch::channel(false);
    let door = Door {
        behind: Arc::new(service),
        caller: Caller::Process,
        keys: None,
        idle_for: IDLE_FOR,
        closing,
    };
    let left = Arc::new(Notify::new());
    Ok(Listening {
        task: tokio::spawn(accept(door, listener, Arc::clone(&left))),
        path: path.to_owned(),
        left,
        _open: open,
    })
}

/// The listening socket; dropping it ends the listening and removes the file.
pub struct Listening {
    task: tokio::task::JoinHandle<()>,
    path: PathBuf,
    /// Tells that a client has gone away.
    pub left: Arc<Notify>,
    _open: watch::Sender<bool>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether a process of that user may be spoken to: it is this one's user, or root, who can do as much without a socket.
#[must_use]
pub fn is_trusted(user_id: u32) -> bool {
    user_id == rustix::process::geteuid().as_raw() || user_id == 0
}

async fn accept(door: Door, listener: UnixListener, left: Arc<Notify>) {
    // Dropped with this task, and its connections with it.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection to the socket failed");
                // Out of file descriptors, most likely: it passes, but not at once.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Before a byte is read.
        match stream.peer_cred() {
            Ok(peer) if is_trusted(peer.uid()) => {
                let served = door.clone().serve(stream);
                let left = Arc::clone(&left);
                connections.spawn(async move {
                    served.await;
                    left.notify_one();
                });
            }
            Ok(peer) => tracing::warn!(
                user_id = peer.uid(),
                "another user was turned away from the socket"
            ),
            Err(error) => tracing::warn!(%error, "somebody unknown was turned away from the socket"),
        }
        while connections.try_join_next().is_some() {}
    }
}
