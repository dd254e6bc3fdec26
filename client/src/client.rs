//! The client itself: connecting, and the handles that it gives out. It owns the SDK's thread
//! through what all handles share; when the last of them is dropped the thread ends by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringway_proto::net::{ClientTls, Dialer, Link, Peer, Role};
use ringway_proto::routing::{Router, Routing};
use ringway_proto::url::ConnectUrl;
use ringway_proto::{Code, Incarnation, Refusal, Uuid};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::admin::Admin;
use crate::clock::{Clock, wall};
use crate::engine::{Command, Engine, Leftover, Parts};
use crate::error::ConnectError;
use crate::logic::publisher::Publisher;
use crate::message::Body;
use crate::options::{LONGEST_WAIT, Options, default_url_file};
use crate::producer::{ProducerBuilder, Publish};
use crate::routes::Routes;
use crate::subscriber::Subscribe;

/// How often a connecting client looks why it is not connected yet.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What all handles of a client share.
pub(crate) struct Inner {
    pub commands: mpsc::UnboundedSender<Command>,
    pub room: Arc<Semaphore>,
    pub routes: Arc<Routes>,
    pub options: Options,
    pub clock: Clock,
    /// The SDK's own runtime.
    pub runtime: Handle,
    pub coordinator: watch::Receiver<Option<Peer>>,
    seats: AtomicU64,
    incarnation: AtomicU64,
}

impl Inner {
    /// What handles share, with room of its own and nobody to ask.
    pub fn new(
        commands: mpsc::UnboundedSender<Command>,
        routes: Arc<Routes>,
        options: Options,
        runtime: Handle,
    ) -> Self {
        Self {
            commands,
            room: Arc::new(Semaphore::new(options.max_in_flight_bytes as usize)),
            routes,
            options,
            clock: Clock::new(),
            runtime,
            coordinator: watch::channel(None).1,
            seats: AtomicU64::new(0),
            incarnation: AtomicU64::new(0),
        }
    }

    pub fn next_seat(&self) -> u64 {
        self.seats.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Larger than any before in this client, and than those of earlier processes: milliseconds of
    /// the calendar, and below them 20 random bits, so that two processes of one member that start
    /// in the same millisecond are two holders.
    pub fn next_incarnation(&self) -> Incarnation {
        let now = wall().0 << 20 | u64::from(rand::random::<u32>() >> 12);
        let next = |last: u64| Some(now.max(last + 1));
        let last = self.incarnation.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        Incarnation(now.max(last.unwrap_or(0) + 1))
    }
}

/// A client of one cluster. Cheap to clone; all clones are one client.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

impl Client {
    /// Connects to the cluster that `url` names, `ringway://HOST:PORT?tls=DIR`. Returns once the
    /// client knows where every class goes.
    ///
    /// # Cancellation
    /// Safe.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        Self::builder(url).connect().await
    }

    /// Connects to the cluster that `RINGWAY_URL` names, else to that of `ringway up` on this
    /// machine ([`default_url_file`]).
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn from_env() -> Result<Self, ConnectError> {
        match std::env::var("RINGWAY_URL") {
            Ok(url) if !url.is_empty() => Self::connect(&url).await,
            _ => {
                let file = default_url_file().unwrap_or_default();
                let url = std::fs::read_to_string(&file)
                    .map_err(|_| ConnectError::NoUrl { file: file.display().to_string() })?;
                Self::connect(url.trim()).await
            }
        }
    }

    /// A client with other settings than the usual.
    pub fn builder(url: &str) -> ClientBuilder {
        ClientBuilder { url: url.to_owned(), options: Options::default() }
    }

    /// Publishes one message; await it for the receipt. `Ok` means stored.
    pub fn publish(&self, class: impl AsRef<str>, body: impl Into<Body>) -> Publish {
        Publish::new(&self.inner, class.as_ref(), body.into())
    }

    /// A producer, for many messages in a row.
    pub fn producer(&self) -> ProducerBuilder {
        ProducerBuilder::new(&self.inner)
    }

    /// A subscription on the classes that match `filter`.
    pub fn subscribe(&self, filter: impl AsRef<str>) -> Subscribe {
        Subscribe::new(&self.inner, filter.as_ref())
    }

    /// What an administrator may ask and do.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(&self.inner)
    }

    /// The newest routing that this client knows.
    #[must_use]
    pub fn router(&self) -> Arc<Router> {
        self.inner.routes.current()
    }

    /// Waits for every publish, leaves every seat, closes the connections; within 10 s. All
    /// clones and what they gave out are closed with it.
    ///
    /// # Cancellation
    /// Decided at the call: dropping it does not stop the closing.
    pub fn close(&self) -> impl Future<Output = Leftover> + Send + use<> {
        let (reply, left) = oneshot::channel();
        let _ = self.inner.commands.send(Command::Close(reply));
        async { left.await.unwrap_or_default() }
    }
}

/// How a client is set up.
#[must_use]
pub struct ClientBuilder {
    url: String,
    options: Options,
}

impl ClientBuilder {
    /// What the client is called in the servers' logs; `client-PID` without it.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.options.name = name.into();
        self
    }

    /// How long to wait for a coordinator; 10 s without it.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.connect_timeout = timeout.min(LONGEST_WAIT);
        self
    }

    /// How long a publish is tried before it is refused, not sent or unknown; 60 s without it. The
    /// answer to a last try is waited for half a second longer.
    pub fn publish_deadline(mut self, deadline: Duration) -> Self {
        self.options.publish_deadline = deadline;
        self
    }

    /// What may be published and unanswered, in bytes; 64 MiB without it. At the limit sends wait.
    pub fn max_in_flight_bytes(mut self, bytes: u32) -> Self {
        self.options.max_in_flight_bytes = bytes.max(1);
        self
    }

    /// Connects.
    ///
    /// # Cancellation
    /// Safe.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(self) -> Result<Client, ConnectError> {
        let url: ConnectUrl = self.url.parse().map_err(ConnectError::Url)?;
        let tls = ClientTls::from_url(&url.auth)?;
        let timeout = self.options.connect_timeout;
        let (client, link) = start(tls, url.addresses.clone(), self.options).await?;
        let routes = client.inner.routes.clone();
        let first_routing = client.inner.runtime.spawn(async move {
            let until = tokio::time::Instant::now() + timeout;
            loop {
                let look = tokio::time::timeout(LOOK_EVERY, routes.known()).await;
                let error = link.last_error();
                if look.is_ok() {
                    return Ok(());
                }
                if let Some(definite) = error.as_ref().and_then(ConnectError::definite) {
                    return Err(definite);
                }
                if tokio::time::Instant::now() >= until {
                    return Err(ConnectError::unreachable(url.addresses, timeout, error));
                }
            }
        });
        first_routing.await.map_err(|_| stopped())??;
        Ok(client)
    }
}

fn stopped() -> ConnectError {
    ConnectError::Start(Refusal::new(Code::Internal, "the client's thread ended while connecting"))
}

/// Starts the SDK's thread: a runtime of its own with the engine in it.
async fn start(
    tls: ClientTls,
    addresses: Vec<String>,
    options: Options,
) -> Result<(Client, Arc<Link>), ConnectError> {
    let routes = Router::new(Routing::default()).map_err(ConnectError::Start)?;
    let routes = Arc::new(Routes::new(Arc::new(routes)));
    let (commands, rx) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(options.max_in_flight_bytes as usize));
    let clock = Clock::new();
    let (started_tx, started) = oneshot::channel();
    let (engine_routes, engine_room, name) = (routes.clone(), room.clone(), options.name.clone());
    let body = move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(e) => {
                let _ = started_tx.send(Err(no_thread(&e)));
                return;
            }
        };
        let handle = runtime.handle().clone();
        runtime.block_on(async move {
            let dialer = Dialer::new(tls, &name);
            let coordinator = Arc::new(Link::to(dialer.clone(), addresses, Role::Coordinator));
            let publisher = Publisher::new(
                engine_routes.current(),
                Uuid(rand::random::<u128>()),
                rand::random::<u64>(),
            );
            let parts = Parts {
                clock,
                commands: rx,
                dialer,
                coordinator: coordinator.clone(),
                routes: engine_routes,
                publisher,
                room: engine_room,
            };
            if started_tx.send(Ok((handle, coordinator))).is_ok() {
                Engine::new(parts).run().await;
            }
        });
    };
    std::thread::Builder::new()
        .name("ringway-client".into())
        .spawn(body)
        .map_err(|e| no_thread(&e))?;
    let (runtime, link) = started.await.map_err(|_| stopped())??;
    let inner = Inner {
        room,
        clock,
        coordinator: link.peer(),
        ..Inner::new(commands, routes, options, runtime)
    };
    Ok((Client { inner: Arc::new(inner) }, link))
}

fn no_thread(e: &std::io::Error) -> ConnectError {
    let text = format!("the client's thread cannot be started: {e}");
    ConnectError::Start(Refusal::new(Code::Unavailable, text))
}
