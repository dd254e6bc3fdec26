//! A server's door: takes connections, lets in who proves a role, and gives out [`Peer`]s. It
//! promises that whoever is slow, silent or hostile at the door harms nobody else: every
//! handshake runs in a task of its own, under a time limit, and their number is bounded.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quinn::{Connection, Endpoint, Incoming, VarInt};
use tokio::sync::{Mutex, mpsc};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::endpoint::{self, MAX_STREAMS, PathProfile, Windows, transport};
use super::error::NetError;
use super::hello::{self, Role};
use super::peer::{Identity, Peer};
use super::tls::ServerTls;

/// What a listener puts up with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Connections at once, those at the door included; more are refused.
    pub max_connections: usize,
    /// Connections at the door at once; more are refused.
    pub max_handshakes: usize,
    /// With more than this at the door, newcomers must first prove their address (a Retry).
    pub retry_above: usize,
    /// For the TLS handshake.
    pub handshake_timeout: Duration,
    /// For the hello after it.
    pub hello_timeout: Duration,
    /// What lies between here and the peers; decided by the listen address unless set.
    pub path: Option<PathProfile>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_handshakes: 500,
            retry_above: 200,
            handshake_timeout: Duration::from_secs(5),
            hello_timeout: Duration::from_secs(5),
            path: None,
        }
    }
}

/// Handshakes that QUIC itself holds for us to look at, and the bytes that it keeps for them.
const MAX_INCOMING: usize = 4096;
const INCOMING_BUFFER: u64 = 16 << 20;
/// Authenticated peers that nobody has accepted yet; more wait.
const MAX_WAITING_PEERS: usize = 64;
/// How long a shutdown waits at most so that the last packet of each connection leaves: this, ...
const SHUTDOWN_WAIT: Duration = Duration::from_millis(10);
/// ... this for each connection, ...
const SHUTDOWN_EACH: Duration = Duration::from_micros(50);
/// ... and no more than this. QUIC itself would keep a closed connection for three probe
/// time-outs, 80 ms and more, to answer what still comes; whoever missed the packet misses the
/// heartbeats too.
const SHUTDOWN_MOST: Duration = Duration::from_millis(250);

/// A bound address that gives out authenticated connections. Dropping it closes them all.
pub struct Listener {
    endpoint: Endpoint,
    local_addr: SocketAddr,
    peers: Mutex<mpsc::Receiver<Peer>>,
    door: AbortHandle,
}

impl Listener {
    /// Listens on `addr` as `name`, in the role of `tls`. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// [`NetError::AddressInUse`] or [`NetError::Bind`].
    pub fn bind(
        addr: SocketAddr,
        tls: &ServerTls,
        name: &str,
        limits: Limits,
    ) -> Result<Self, NetError> {
        let path = limits.path.unwrap_or_else(|| PathProfile::of(addr));
        let mut config = tls.quic();
        config
            .transport_config(transport(path, Windows::CLIENT, None, 1))
            .migration(false)
            .max_incoming(MAX_INCOMING)
            .incoming_buffer_size_total(INCOMING_BUFFER);
        let endpoint = endpoint::bind(addr, path, Some(config))?;
        let local_addr =
            endpoint.local_addr().map_err(|e| NetError::Bind { addr, cause: e.to_string() })?;
        let (out, peers) = mpsc::channel(MAX_WAITING_PEERS);
        let door = Arc::new(Door {
            tls: tls.clone(),
            name: name.to_owned(),
            limits,
            handshakes: AtomicUsize::new(0),
            out,
        });
        let task = tokio::spawn(door.serve(endpoint.clone()));
        Ok(Self { endpoint, local_addr, peers: Mutex::new(peers), door: task.abort_handle() })
    }

    /// Where it listens, with the port that the system chose for port 0.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The next peer that proved who it is; none after [`Listener::shutdown`].
    ///
    /// # Cancellation
    /// Safe.
    pub async fn accept(&self) -> Option<Peer> {
        self.peers.lock().await.recv().await
    }

    /// How many connections are open, those at the door included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.endpoint.open_connections()
    }

    /// Lets nobody in any more, closes every connection with `reason`, and waits a
    /// moment until the other sides have been told.
    pub async fn shutdown(&self, reason: &str) {
        self.door.abort();
        self.endpoint.close(VarInt::from_u32(0), reason.as_bytes());
        let wait = shutdown_wait(self.connections());
        let _ = timeout(wait, self.endpoint.wait_idle()).await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.door.abort();
        self.endpoint.close(VarInt::from_u32(0), b"the server stopped listening");
    }
}

fn shutdown_wait(connections: usize) -> Duration {
    let each = SHUTDOWN_EACH.saturating_mul(u32::try_from(connections).unwrap_or(u32::MAX));
    SHUTDOWN_WAIT.saturating_add(each).min(SHUTDOWN_MOST)
}

/// What to do with a newcomer.
#[derive(PartialEq, Eq, Debug)]
enum Admission {
    Admit,
    ProveAddress,
    Refuse,
}

fn admission(limits: &Limits, handshakes: usize, open: usize, validated: bool) -> Admission {
    if open >= limits.max_connections || handshakes >= limits.max_handshakes {
        Admission::Refuse
    } else if handshakes >= limits.retry_above && !validated {
        Admission::ProveAddress
    } else {
        Admission::Admit
    }
}

struct Door {
    tls: ServerTls,
    name: String,
    limits: Limits,
    handshakes: AtomicUsize,
    out: mpsc::Sender<Peer>,
}

impl Door {
    async fn serve(self: Arc<Self>, endpoint: Endpoint) {
        while let Some(incoming) = endpoint.accept().await {
            let validated = incoming.remote_address_validated();
            let handshakes = self.handshakes.load(Ordering::Relaxed);
            match admission(&self.limits, handshakes, endpoint.open_connections(), validated) {
                Admission::Admit => {
                    let place = Place::take(Arc::clone(&self));
                    tokio::spawn(place.receive(incoming));
                }
                Admission::ProveAddress => {
                    // Fails only for a validated address, which is not asked to prove itself.
                    let _ = incoming.retry();
                }
                Admission::Refuse => incoming.refuse(),
            }
        }
    }
}

/// A place at the door, counted while it is held.
struct Place(Arc<Door>);

impl Place {
    fn take(door: Arc<Door>) -> Self {
        door.handshakes.fetch_add(1, Ordering::Relaxed);
        Self(door)
    }

    async fn receive(self, incoming: Incoming) {
        let remote = incoming.remote_address();
        let limits = &self.0.limits;
        let connection = match incoming.accept() {
            Ok(connecting) => timeout(limits.handshake_timeout, connecting).await,
            Err(e) => Ok(Err(e)),
        };
        let connection = match connection {
            Ok(Ok(connection)) => connection,
            Ok(Err(e)) => return tracing::debug!(%remote, "handshake failed: {e}"),
            Err(_) => return tracing::debug!(%remote, "handshake took too long"),
        };
        match self.greet(&connection).await {
            Ok(peer) => {
                let out = self.0.out.clone();
                // Known now: whatever waits from here on is no stranger at the door.
                drop(self);
                if let Err(unwanted) = out.send(peer).await {
                    unwanted.0.close(0, "the server stopped listening");
                }
            }
            Err(e) => {
                tracing::debug!(%remote, "not let in: {e}");
                let refusal = e.refusal();
                let code = u32::from(refusal.code.number());
                connection.close(VarInt::from_u32(code), refusal.text.as_bytes());
            }
        }
    }

    async fn greet(&self, connection: &Connection) -> Result<Peer, NetError> {
        let Door { tls, name, limits, .. } = &*self.0;
        let hello = hello::receive(connection, tls.token(), tls.role(), name);
        let hello = timeout(limits.hello_timeout, hello)
            .await
            .map_err(|_| NetError::Timeout { after: limits.hello_timeout })??;
        connection.set_max_concurrent_bi_streams(MAX_STREAMS);
        if hello.role != Role::Client {
            Windows::widen(connection);
        }
        let identity = Identity { name: hello.name, role: hello.role, agent: hello.agent };
        Ok(Peer::accepted(connection.clone(), identity))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.handshakes.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_must_prove_its_address_and_is_then_refused() {
        let limits =
            Limits { max_connections: 10, max_handshakes: 5, retry_above: 2, ..Limits::default() };
        for (handshakes, open, validated, expected) in [
            (0, 0, false, Admission::Admit),
            (1, 9, false, Admission::Admit),
            (2, 2, false, Admission::ProveAddress),
            (2, 2, true, Admission::Admit),
            (5, 5, true, Admission::Refuse),
            (0, 10, true, Admission::Refuse),
        ] {
            assert_eq!(admission(&limits, handshakes, open, validated), expected);
        }
    }

    #[test]
    fn a_shutdown_takes_milliseconds_and_is_never_held_up() {
        for (connections, ms) in [(0, 10), (100, 15), (1000, 60), (4800, 250), (usize::MAX, 250)] {
            assert_eq!(shutdown_wait(connections), Duration::from_millis(ms));
        }
    }
}
