//! A TCP address, for SDKs of other languages, the `temporal` command and the web UI. One that other machines reach is
//! listened on only where something keeps strangers out, or the operator says that nothing needs to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::super::Caller;
use super::{ApiKeys, Behind, Door, IDLE_FOR, LEAVE_WITHIN, ListenError, Tls};

/// More connections wait until one of these ends. A worker has two or three.
const MAX_CONNECTIONS: usize = 1000;
/// A client that does not finish its handshake is given so long.
const SHAKE_HANDS_WITHIN: Duration = Duration::from_secs(10);

/// Where to listen, and who may come.
#[derive(Debug)]
pub struct TcpOptions {
    /// With port 0, a port that is free.
    pub address: SocketAddr,
    /// TLS; without it, in the clear.
    pub tls: Option<Tls>,
    /// Keys, of which a client has to have one.
    pub keys: Option<ApiKeys>,
    /// Whether an address that others reach may do without these two.
    pub is_unprotected: bool,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Tls(asks_clients: {})", self.asks_clients)
    }
}

impl TcpOptions {
    /// Whether the address may be listened on.
    ///
    /// # Errors
    /// `Unprotected`.
    pub fn check(&self) -> Result<(), ListenError> {
        let address = self.address;
        match self.missing() {
            None => Ok(()),
            Some(missing) => Err(ListenError::Unprotected { address, missing }),
        }
    }

    /// What is missing for an address that others reach.
    fn missing(&self) -> Option<&'static str> {
        let asks = self.keys.is_some() || self.tls.as_ref().is_some_and(|tls| tls.asks_clients);
        match (&self.tls, asks) {
            _ if self.address.ip().to_canonical().is_loopback() || self.is_unprotected => None,
            (Some(_), true) => None,
            (Some(_), false) => Some("nothing says who may come in"),
            (None, true) => Some("an API key would travel in the clear without TLS"),
            (None, false) => Some("there is neither TLS nor anything that says who may come in"),
        }
    }
}

/// Listens on a TCP address, until stopped or dropped.
///
/// # Errors
/// `Unprotected`, before anything is listened on; `Address`.
pub async fn listen_on_tcp(
    behind: Arc<dyn Behind>,
    options: TcpOptions,
) -> Result<ListeningOnTcp, ListenError> {
    options.check()?;
    let address = options.address;
    let failed = |source| ListenError::Address { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let (close, closing) = watch::channel(false);
    let door = Door {
        behind,
        caller: Caller::Remote,
        keys: options.keys.map(Arc::new),
        idle_for: IDLE_FOR,
        closing,
    };
    let acceptor = options.tls.map(|tls| TlsAcceptor::from(tls.config));
    Ok(ListeningOnTcp {
        address,
        close,
        task: tokio::spawn(accept(door, listener, acceptor)),
    })
}

/// The address that is listened on; dropped, every connection ends at once.
pub struct ListeningOnTcp {
    address: SocketAddr,
    close: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl ListeningOnTcp {
    /// The address, with the port that was found free.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets nobody in any more, lets what is being answered end, and returns within two seconds.
    pub async fn stop(mut self) {
        self.close.send_replace(true);
        // Connections leave within one second each, all at once.
        _ = tokio::time::timeout(2 * LEAVE_WITHIN, &mut self.task).await;
    }
}

impl Drop for ListeningOnTcp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(door: Door, listener: TcpListener, acceptor: Option<TlsAcceptor>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut closing = door.closing.clone();
    // Dropped with this task, and its connections with it.
    let mut connections = tokio::task::JoinSet::new();
    let accepted = async {
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    connections.spawn(welcome(door.clone(), stream, peer, acceptor.clone(), slot));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection failed");
                    // Out of file descriptors, most likely: it passes, but not at once.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            while connections.try_join_next().is_some() {}
        }
    };
    tokio::select! {
        () = accepted => {}
        _ = closing.wait_for(|closing| *closing) => {}
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Serves one connection, after the handshake where there is one.
async fn welcome(
    door: Door,
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    _slot: OwnedSemaphorePermit,
) {
    // Answers are small and waited for.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "a connection ended before it began");
        return;
    }
    let Some(acceptor) = acceptor else {
        return door.serve(stream).await;
    };
    match tokio::time::timeout(SHAKE_HANDS_WITHIN, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => door.serve(stream).await,
        Ok(Err(error)) => tracing::info!(%peer, %error, "a client was turned away in its TLS handshake"),
        Err(_) => tracing::info!(%peer, "a client did not finish its TLS handshake"),
    }
}
