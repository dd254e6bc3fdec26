//! A running worker: it starts the parts, connects them, and ends them in the right order. How
//! they work is their own business.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use prometheus::Registry;
use ringway_proto::control::Register;
use ringway_proto::limits::WEIGHT_RANGE;
use ringway_proto::net::{ClientTls, Dialer, Limits, Link, Listener, Role, ServerTls};
use ringway_proto::{Code, Incarnation, Refusal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::config::{Config, Settings};
use crate::control::Control;
use crate::copy::source::Source;
use crate::error::StartError;
use crate::journal::{Journal, Options};
use crate::logic::Rules;
use crate::logic::host::Host;
use crate::metrics::Metrics;
use crate::replay::{Indexes, Replay};
use crate::server::{Shared, serve};
use crate::shard::{Input, Parts, Shard, Shards, shard_of, wall_now};

/// How often gauges are read from state.
const REFRESH: Duration = Duration::from_secs(1);

/// A worker that serves. Dropping it without [`Worker::shutdown`] ends it like a kill: nothing is
/// flushed, and what was not acked may be lost.
pub struct Worker {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    journal: Journal,
    listener: Arc<Listener>,
    shards: Shards,
    settings: Settings,
    ready: Arc<AtomicBool>,
    failed: watch::Receiver<Option<Refusal>>,
    tasks: Tasks,
    /// Connections end when it is dropped.
    _alive: watch::Sender<()>,
}

/// Tasks that end with the worker.
struct Tasks(Vec<JoinHandle<()>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

impl Worker {
    /// Opens the journal, rebuilds the queues from it, and serves. It needs no coordinator for
    /// that; it registers as soon as one answers.
    ///
    /// # Errors
    /// [`StartError`]: certificates, address, journal or a setting cannot be used.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        check(&config)?;
        let metrics = Metrics::new(&config.id).map_err(|e| StartError::Internal(e.to_string()))?;
        let metrics = Arc::new(metrics);
        let tls = ServerTls::load(&config.tls_dir, Role::Worker)?;
        // The address first: a second process fails here or at the lock, before it reads a journal.
        let listener =
            Arc::new(Listener::bind(config.listen, &tls, config.id.as_str(), Limits::default())?);
        let (journal, host, indexes) = open_journal(&config, &metrics).await?;

        let (events_out, events) = mpsc::unbounded_channel();
        let (fail, failed) = watch::channel(None);
        let dialer = Dialer::new(ClientTls::from_server(&tls), config.id.as_str());
        let parts = |inputs, mailbox, host, indexes| Parts {
            inputs,
            mailbox,
            dialer: dialer.clone(),
            host,
            indexes,
            journal: journal.clone(),
            events: events_out.clone(),
            metrics: Arc::clone(&metrics),
            cache_bytes: config.settings.cache_bytes / config.settings.shards,
            failed: fail.clone(),
        };
        let mut tasks = Tasks(Vec::new());
        let shards = start_shards(&config.settings, host, indexes, parts, &mut tasks);

        let routing = Arc::new(AtomicU64::new(0));
        let (alive, watch_alive) = watch::channel(());
        let shared = Shared {
            shards: shards.clone(),
            metrics: Arc::clone(&metrics),
            settings: config.settings,
            routing: Arc::clone(&routing),
            next_stream: AtomicU64::new(1),
            source: Source::new(
                shards.clone(),
                journal.clone(),
                Arc::clone(&metrics),
                config.settings.copy_bytes_per_second,
            ),
        };
        tasks.0.push(tokio::spawn(serve(Arc::clone(&listener), Arc::new(shared), watch_alive)));

        let address = listener.local_addr();
        let ready = Arc::new(AtomicBool::new(false));
        let control = Control {
            link: Link::to(dialer.clone(), config.coordinators.clone(), Role::Coordinator),
            shards: shards.clone(),
            events,
            metrics: Arc::clone(&metrics),
            register: register(&config, address, &journal),
            routing,
            ready: Arc::clone(&ready),
            failed: fail.clone(),
        };
        tasks.0.push(tokio::spawn(control.run()));
        tasks.0.push(tokio::spawn(watch_journal(journal.clone(), fail)));
        tasks.0.push(tokio::spawn(refresh(shards.clone(), Arc::clone(&metrics), journal.clone())));
        info!(worker = %config.id, %address, "serving");
        Ok(Self {
            address,
            metrics,
            journal,
            listener,
            shards,
            settings: config.settings,
            ready,
            failed,
            tasks,
            _alive: alive,
        })
    }

    /// The address that it is bound to.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Its metrics, under the constant label `worker`.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        self.metrics.registry()
    }

    /// Whether it is registered and every queue that the routing gives it is open.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Waits until the worker cannot go on: its journal failed, its registration was refused, no
    /// coordinator that answers is of its cluster and none ever was, or another process took its
    /// place. The process leaves with this reason. Cancel-safe.
    pub async fn failed(&self) -> Refusal {
        let mut failed = self.failed.clone();
        let reason = failed.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_else(|| Refusal::new(Code::Internal, "the worker's tasks have ended"))
    }

    /// Leaves in order: takes nothing more, brings what was taken to disk and answers it, marks
    /// the journal as closed, and ends the connections.
    pub async fn shutdown(self) {
        self.ready.store(false, Ordering::Relaxed);
        let stopped = self.shards.ask::<()>(Input::Stop);
        if tokio::time::timeout(self.settings.shutdown_wait, stopped).await.is_err() {
            warn!("leaving before everything was flushed: it took too long");
        }
        if let Err(error) = self.journal.close().await {
            warn!(%error, "the journal was not closed in order");
        }
        self.listener.shutdown("the worker is shutting down").await;
        drop(self.tasks);
    }
}

fn check(config: &Config) -> Result<(), StartError> {
    let refuse = |text: String, hint: &str| {
        Err(StartError::Config(Refusal::new(Code::InvalidOption, text).hint(hint)))
    };
    if !WEIGHT_RANGE.contains(&config.weight) {
        return refuse(format!("a weight of {}", config.weight), "a weight is 1 to 1,000");
    }
    if config.coordinators.is_empty() {
        return refuse(
            format!("worker {} knows no coordinator", config.id),
            "name one with --coordinator HOST:PORT",
        );
    }
    if config.settings.copy_bytes_per_second < 1024 {
        return refuse(
            format!("copies at {} bytes a second", config.settings.copy_bytes_per_second),
            "copy_bytes_per_second is at least 1,024",
        );
    }
    let Settings { shards, mailbox, stream_appends, stream_bytes, .. } = config.settings;
    if shards == 0 || mailbox == 0 || stream_appends == 0 || stream_bytes < 64 * 1024 {
        return refuse(
            "a worker needs at least one shard and room for one batch".to_owned(),
            "leave shards, mailbox, stream_appends and stream_bytes at their defaults",
        );
    }
    Ok(())
}

/// Opens the journal and rebuilds the queues; on a thread where that may take its time.
async fn open_journal(
    config: &Config,
    metrics: &Arc<Metrics>,
) -> Result<(Journal, Host, Indexes), StartError> {
    let mut options = Options::new(config.id.clone());
    if let Some(disk) = &config.disk {
        options.disk = Arc::clone(disk);
    }
    let sync_seconds = metrics.journal_sync_seconds.clone();
    options.on_sync = Some(Arc::new(move |took| sync_seconds.observe(took.as_secs_f64())));
    let rules = Rules { ack_timeout: config.settings.ack_timeout, ..Rules::default() };
    let data = config.data.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let mut replay = Replay::new(rules);
        let visit = &mut |header: &_, at, body: &[u8]| replay.visit(header, at, body);
        let (journal, recovered) = Journal::open(&data, options, visit)?;
        Ok::<_, StartError>((journal, recovered, replay.finish().map_err(StartError::State)?))
    });
    let (journal, recovered, (host, indexes)) =
        opened.await.map_err(|e| StartError::Internal(e.to_string()))??;
    if let Some(cut) = &recovered.cut {
        metrics.journal_cut_bytes.inc_by(cut.bytes);
    }
    info!(
        queues = host.queues().count(),
        frames = recovered.frames,
        clean = recovered.clean,
        "journal opened"
    );
    Ok((journal, host, indexes))
}

fn start_shards(
    settings: &Settings,
    host: Host,
    mut indexes: Indexes,
    parts: impl Fn(mpsc::Receiver<Input>, mpsc::WeakSender<Input>, Host, Indexes) -> Parts,
    tasks: &mut Tasks,
) -> Shards {
    let of = |queue| shard_of(queue, settings.shards);
    let mut mailboxes = Vec::new();
    for host in host.split(settings.shards, of) {
        let queues = host.queues().map(|(queue, _)| queue);
        let copies = host.copies().map(|(queue, _)| queue);
        let mine = queues.chain(copies).filter_map(|queue| indexes.remove_entry(&queue)).collect();
        let (mailbox, inputs) = mpsc::channel(settings.mailbox);
        let parts = parts(inputs, mailbox.downgrade(), host, mine);
        tasks.0.push(tokio::spawn(Shard::new(parts).run()));
        mailboxes.push(mailbox);
    }
    Shards::new(mailboxes)
}

fn register(config: &Config, address: SocketAddr, journal: &Journal) -> Register {
    Register {
        worker: config.id.clone(),
        incarnation: Incarnation(wall_now().0),
        journal: journal.uuid(),
        address: config.advertise.clone().unwrap_or_else(|| address.to_string()),
        http: config.http.clone(),
        weight: config.weight,
        zone: config.zone.clone(),
        queues: Vec::new(),
        copies: Vec::new(),
    }
}

/// The worker has to leave with this reason, unless it has one already.
pub(crate) fn fail(failed: &watch::Sender<Option<Refusal>>, reason: Refusal) {
    failed.send_if_modified(|known| {
        let first = known.is_none();
        known.get_or_insert(reason);
        first
    });
}

async fn watch_journal(journal: Journal, failed: watch::Sender<Option<Refusal>>) {
    let mut watch = journal.failed();
    // An error means that the journal has gone without failing.
    if let Ok(failure) = watch.wait_for(Option::is_some).await
        && let Some(failure) = failure.as_ref()
    {
        fail(&failed, failure.refusal());
    }
}

async fn refresh(shards: Shards, metrics: Arc<Metrics>, journal: Journal) {
    let mut ticks = tokio::time::interval(REFRESH);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answers = shards.ask(|reply: oneshot::Sender<_>| Input::States(reply)).await;
        let queues = answers.iter().map(|(queues, _)| queues).sum();
        let rights: Vec<_> = answers.into_iter().flat_map(|(_, rights)| rights).collect();
        metrics.refresh(queues, &rights, wall_now(), &journal);
    }
}
