//! The coordinator of Ringway: who is there, who serves which queue, who consumes what.
//!
//! [`logic`] decides, [`store`] keeps, and a driver task between them acts: it feeds the logic
//! with what peers say over QUIC, commits what the logic changed, and only then answers.

pub mod logic;
pub mod store;

mod driver;
mod metrics;
mod push;
mod server;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use ringway_proto::net::{Limits, Listener, NetError, Role, ServerTls, TlsError};
use ringway_proto::{Code, Refusal, Time};

use crate::driver::{Driver, INBOX, State};
use crate::logic::machine::{Machine, Setup};
use crate::logic::split::MAX_RANGES_PER_QUEUE;
use crate::metrics::Metrics;
use crate::store::{Embedded, Store, StoreError};

pub use crate::logic::timing::Timing;

/// How long the driver may take to end at a shutdown.
const SHUTDOWN: Duration = Duration::from_millis(500);

/// What a coordinator is started with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Its id, `c1`.
    pub id: String,
    /// Where it listens; port 0 takes any.
    pub listen: SocketAddr,
    /// HOST:PORT that others are told, if it is not the address it listens on.
    pub advertise: Option<String>,
    /// Where its store is.
    pub data: PathBuf,
    /// Where the cluster's certificates are.
    pub tls_dir: PathBuf,
    /// The durations that it decides by.
    pub timing: Timing,
}

impl Config {
    /// With the default timing, and told to others as it listens.
    #[must_use]
    pub fn new(id: &str, listen: SocketAddr, data: PathBuf, tls_dir: PathBuf) -> Self {
        let id = id.to_owned();
        Self { id, listen, advertise: None, data, tls_dir, timing: Timing::default() }
    }
}

/// Why a coordinator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// It cannot listen.
    #[error(transparent)]
    Net(#[from] NetError),
    /// What the store holds makes no sense.
    #[error(transparent)]
    Logic(#[from] Refusal),
}

impl StartError {
    /// The error as a refusal.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Store(e) => e.refusal(),
            Self::Tls(e) => e.refusal(),
            Self::Net(e) => e.refusal(),
            Self::Logic(refusal) => refusal.clone(),
        }
    }

    /// The name of the error that programs match on.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Tls(e) => e.code(),
            Self::Net(NetError::AddressInUse { .. }) => "address-in-use",
            other => other.refusal().code.name(),
        }
    }

    /// One thing to do.
    #[must_use]
    pub fn hint(&self) -> String {
        self.refusal().hint
    }
}

/// A coordinator that runs. Dropping it ends it without a word to its peers;
/// [`Coordinator::shutdown`] tells them.
pub struct Coordinator {
    listener: Arc<Listener>,
    advertised: String,
    registry: prometheus::Registry,
    state: watch::Receiver<State>,
    settled: Arc<AtomicBool>,
    server: JoinHandle<()>,
    driver: JoinHandle<()>,
}

impl Coordinator {
    /// Opens the store, listens, and serves.
    ///
    /// # Errors
    /// [`StartError`], before anything is served.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let tls = ServerTls::load(&config.tls_dir, Role::Coordinator)?;
        let data = config.data.clone();
        let opened = tokio::task::spawn_blocking(move || Embedded::open_and_load(&data));
        let (store, rows) = opened.await.unwrap_or_else(|e| {
            Err(StoreError::Failed { cause: format!("opening it was broken off: {e}") })
        })?;
        let listener =
            Arc::new(Listener::bind(config.listen, &tls, &config.id, Limits::default())?);

        let start = Instant::now();
        let epoch_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
        let setup = Setup {
            id: config.id,
            timing: config.timing,
            epoch_ms: epoch_ms as u64,
            seed: rand::random(),
            ranges_per_queue: MAX_RANGES_PER_QUEUE,
        };
        let machine = Machine::new(setup, rows, Time(0))?;
        let metrics = Metrics::new(machine.snapshot().moves)
            .map_err(|e| Refusal::new(Code::Internal, format!("metrics: {e}")))?;
        let registry = metrics.registry();
        let (sender, inbox) = mpsc::channel(INBOX);
        let (state_sender, state) = watch::channel(State::Serving);
        let settled = Arc::new(AtomicBool::new(false));
        let driver = Driver {
            machine,
            store: Some(Box::new(store) as Box<dyn Store>),
            metrics,
            inbox,
            state: state_sender,
            settled: Arc::clone(&settled),
            start,
        };
        let driver = tokio::spawn(driver.run());
        let server = tokio::spawn(server::accept(Arc::clone(&listener), sender));
        let advertised = config.advertise.unwrap_or_else(|| listener.local_addr().to_string());
        Ok(Self { listener, advertised, registry, state, settled, server, driver })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// HOST:PORT that others are told.
    #[must_use]
    pub fn advertised(&self) -> &str {
        &self.advertised
    }

    /// Its metrics.
    #[must_use]
    pub fn registry(&self) -> prometheus::Registry {
        self.registry.clone()
    }

    /// Whether it serves.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.state.borrow() == State::Serving && !self.driver.is_finished()
    }

    /// Whether every queue is where the plan has it and no plan of queues is due.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled.load(Relaxed)
    }

    /// Waits until the process has to leave, and says why. Never, as long as all is well.
    pub async fn failed(&self) -> Refusal {
        let mut state = self.state.clone();
        let failed = state.wait_for(|state| matches!(state, State::Failed(_))).await;
        match failed.as_deref() {
            Ok(State::Failed(refusal)) => refusal.clone(),
            // The driver is gone without a word: it panicked.
            _ => Refusal::new(Code::Internal, "the coordinator's task ended unexpectedly"),
        }
    }

    /// Ends it: peers are told, what was taken in is stored. Takes at most about a second.
    pub async fn shutdown(mut self) {
        self.listener.shutdown("the coordinator is going away").await;
        // The inbox closes when the last task of a peer has ended; then the driver ends.
        if tokio::time::timeout(SHUTDOWN, &mut self.driver).await.is_err() {
            self.driver.abort();
            (&mut self.driver).await.ok();
        }
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.server.abort();
        self.driver.abort();
    }
}
