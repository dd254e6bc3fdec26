//! The link to the coordinator: it registers the worker at every connection, passes the
//! coordinator's orders to the shards and the shards' answers back. While no coordinator answers
//! the worker goes on serving; nothing here decides about queues.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ringway_proto::control::{FromWorker, Register, ToWorker};
use ringway_proto::frame::Kind;
use ringway_proto::net::{DialError, FrameReader, FrameWriter, Link, NetError, Peer};
use ringway_proto::routing::{Router, Routing};
use ringway_proto::{Code, QueueId, Refusal, WorkerId, codec};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::logic::step::Step;
use crate::metrics::Metrics;
use crate::shard::{Input, Shards};
use crate::worker::fail;

/// How long it is without a coordinator before it says why.
const NOTICE: Duration = Duration::from_secs(2);

/// What the link needs.
pub(crate) struct Control {
    pub link: Link,
    pub shards: Shards,
    pub events: mpsc::UnboundedReceiver<FromWorker>,
    pub metrics: Arc<Metrics>,
    /// Who registers; the queues are filled in.
    pub register: Register,
    pub routing: Arc<AtomicU64>,
    pub ready: Arc<AtomicBool>,
    pub failed: watch::Sender<Option<Refusal>>,
}

/// What is known of this worker's place in the cluster.
#[derive(Default)]
struct Standing {
    registered: bool,
    /// Queues that are open here.
    open: BTreeSet<QueueId>,
    /// Queues that the routing gives to this worker, once it is known.
    ours: Option<BTreeSet<QueueId>>,
}

impl Standing {
    fn is_ready(&self) -> bool {
        self.registered && self.ours.as_ref().is_some_and(|ours| ours.is_subset(&self.open))
    }

    fn note(&mut self, event: &FromWorker) {
        match event {
            FromWorker::QueueOpened { queue, .. } => drop(self.open.insert(*queue)),
            FromWorker::Removed { queue, .. } => drop(self.open.remove(queue)),
            _ => {}
        }
    }
}

/// Why a session ended.
enum Ended {
    /// The connection or the stream; another follows.
    Lost(NetError),
    /// For good: the worker leaves with this reason.
    Refused(Refusal),
}

impl From<NetError> for Ended {
    fn from(e: NetError) -> Self {
        Self::Lost(e)
    }
}

impl Control {
    /// Keeps the worker registered until it has to leave or the link is dropped.
    pub async fn run(mut self) {
        let mut standing = Standing::default();
        let mut said = None;
        loop {
            let peer = tokio::select! {
                peer = self.link.connected() => peer,
                why = self.link.shut_out() => {
                    fail(&self.failed, shut_out(&why));
                    return;
                }
                () = tokio::time::sleep(NOTICE) => {
                    self.say_why_alone(&mut said);
                    continue;
                }
                // Nobody hears it; the registration says how things stand.
                Some(_) = self.events.recv() => continue,
            };
            let Some(peer) = peer else { return };
            let ended = self.session(&peer, &mut standing).await;
            standing.registered = false;
            self.show(&standing);
            match ended {
                Ended::Lost(e) => {
                    if !peer.is_closed() {
                        // Another connection, with the link's back-off, rather than the same again.
                        peer.close(u32::from(Code::Protocol.number()), "the session has ended");
                        let _ = peer.closed().await;
                    }
                    warn!(error = %e, "lost the coordinator; serving goes on");
                    // The link notices the end of the connection on its own; wait until it has.
                    self.until_gone(&peer).await;
                }
                Ended::Refused(refusal) => {
                    fail(&self.failed, refusal);
                    return;
                }
            }
        }
    }

    /// Says why no coordinator is connected, each reason once.
    fn say_why_alone(&self, said: &mut Option<String>) {
        let why = self.link.last_error().map(|e| e.to_string());
        if let Some(why) = why.filter(|why| said.as_ref() != Some(why)) {
            warn!("not registered: {why}");
            *said = Some(why);
        }
    }

    async fn until_gone(&self, peer: &Peer) {
        let mut current = self.link.peer();
        // An error means that the link is gone, which `connected` reports.
        let _ = current.wait_for(|now| now.as_ref().is_none_or(|p| p.id() != peer.id())).await;
    }

    async fn session(&mut self, peer: &Peer, standing: &mut Standing) -> Ended {
        match self.talk(peer, standing).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn talk(
        &mut self,
        peer: &Peer,
        standing: &mut Standing,
    ) -> Result<std::convert::Infallible, Ended> {
        let (mut writer, mut reader) = peer.open().await?;
        // Events from before this moment stay in the channel and follow the registration, so
        // that none falls between the two.
        // All or none: a queue that is not named here counts as not held.
        let holdings = self.shards.ask_all(Input::Held).await.map_err(NetError::Refused)?;
        let (mut queues, mut copies) = (Vec::new(), Vec::new());
        for held in holdings {
            queues.extend(held.queues);
            copies.extend(held.copies);
        }
        standing.open = queues.iter().map(|held| held.queue).collect();
        let register = Register { queues, copies, ..self.register.clone() };
        writer.write_control(Kind::Control, &FromWorker::Register(register)).await?;
        loop {
            let queued = writer.queued_bytes();
            tokio::select! {
                flushed = writer.flush(), if queued > 0 => flushed?,
                order = next_order(&mut reader) => self.obey(order?, standing).await?,
                Some(event) = self.events.recv() => {
                    self.report(&mut writer, &event, standing)?;
                }
            }
        }
    }

    fn report(
        &self,
        writer: &mut FrameWriter,
        event: &FromWorker,
        standing: &mut Standing,
    ) -> Result<(), NetError> {
        standing.note(event);
        self.show(standing);
        writer.push_control(Kind::Control, event)
    }

    fn show(&self, standing: &Standing) {
        self.ready.store(standing.is_ready(), Ordering::Relaxed);
        self.metrics.coordinator_connected.set(i64::from(standing.registered));
    }

    async fn obey(&mut self, order: ToWorker, standing: &mut Standing) -> Result<(), Ended> {
        let (queue, step) = match order {
            ToWorker::Registered => {
                info!("registered with the coordinator");
                standing.registered = true;
                self.show(standing);
                return Ok(());
            }
            ToWorker::RegisterRefused(refusal) => return Err(Ended::Refused(refusal)),
            ToWorker::Superseded => return Err(Ended::Refused(superseded(&self.register.worker))),
            ToWorker::Routing(routing) => {
                self.route(routing, standing).await;
                return Ok(());
            }
            order => match Step::of(order) {
                Some(step) => step,
                None => return Ok(()),
            },
        };
        let step = Input::Step { queue, step: Box::new(step) };
        // A shard that is gone has said why, or the worker is leaving anyway.
        Ok(self.shards.send(queue, step).await.map_err(NetError::Refused)?)
    }

    async fn route(&self, routing: Routing, standing: &mut Standing) {
        let ours = queues_of(&routing, &self.register.worker);
        let router = match Router::new(routing) {
            Ok(router) => Arc::new(router),
            Err(refusal) => {
                warn!(%refusal, "a routing of the coordinator is of no use");
                return;
            }
        };
        self.routing.fetch_max(router.version().0, Ordering::Relaxed);
        let input = || Input::Routing { router: Arc::clone(&router), ours: ours.clone() };
        self.shards.tell(input).await;
        standing.ours = Some(ours);
        self.show(standing);
    }
}

async fn next_order(reader: &mut FrameReader) -> Result<ToWorker, NetError> {
    match reader.read().await? {
        Some((Kind::Control, bytes)) => codec::decode(&bytes).map_err(NetError::Protocol),
        Some((Kind::Refused, bytes)) => {
            Err(codec::decode(&bytes).map_or_else(NetError::Protocol, NetError::Refused))
        }
        Some((kind, _)) => Err(NetError::Protocol(Refusal::new(
            Code::Protocol,
            format!("a frame of kind {kind:?} on the session stream"),
        ))),
        None => Err(NetError::Protocol(Refusal::new(
            Code::Unavailable,
            "the coordinator ended the session",
        ))),
    }
}

/// The queues that the routing gives to `worker`.
fn queues_of(routing: &Routing, worker: &WorkerId) -> BTreeSet<QueueId> {
    let of_group = |group: &ringway_proto::routing::GroupRoute| {
        let id = group.id;
        let ours = group.queues.iter().enumerate();
        ours.filter(|(_, queue)| queue.primary.as_ref() == Some(worker))
            .map(move |(index, _)| QueueId::new(id, index as u32))
            .collect::<Vec<_>>()
    };
    routing.groups.iter().flat_map(of_group).collect()
}

/// The worker has the certificates of another cluster, or the address of another coordinator.
fn shut_out(why: &DialError) -> Refusal {
    let refusal = why.refusal();
    match why {
        DialError::Untrusted { .. } => refusal.hint(
            "start it with --tls-dir and the certificates of that coordinator's cluster, \
             or correct --coordinator",
        ),
        _ => refusal,
    }
}

fn superseded(worker: &WorkerId) -> Refusal {
    Refusal::new(
        Code::Superseded,
        format!("another process registered as worker {worker} and took over"),
    )
    .hint("give each process its own --id")
}
