//! A worker's link to the coordinator in the simulation: an imitation of the task that registers
//! the worker at every connection, passes orders on and answers back. Answers that nobody can
//! hear are dropped; the registration says how things stand.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use ringway_proto::control::{FromWorker, HeldCopy, HeldQueue, Register, ToWorker};
use ringway_proto::routing::moves::{Fence, QueueEnd};
use ringway_proto::routing::{Router, Routing};
use ringway_proto::{Incarnation, Offset, QueueId, WorkerId, codec};
use ringway_worker::logic::step::Step;

use super::super::bugs::Bug;
use super::super::ctx::{COORDINATOR, Ctx, Timer};
use super::super::history::What;
use super::super::net::{ConnId, End, Item, StreamNo};
use super::{Then, Worker};

/// The connection to the coordinator.
#[derive(Debug, Default)]
pub struct Link {
    conn: Option<ConnId>,
    /// Once the registration is sent.
    session: Option<StreamNo>,
    /// What waits for the registration to be sent.
    events: VecDeque<FromWorker>,
    failures: u32,
}

impl Worker {
    pub(super) fn dial(&mut self, ctx: &mut Ctx) {
        if self.live.as_ref().is_some_and(|live| live.link.conn.is_none()) {
            ctx.dial(self.pid, COORDINATOR);
        }
    }

    /// The coordinator was not reached.
    pub fn dial_failed(&mut self, ctx: &mut Ctx) {
        let Some(live) = &mut self.live else { return };
        live.link.failures += 1;
        let wait = ctx.back_off(live.link.failures);
        let at = ctx.clock.now() + wait;
        ctx.timer(self.pid, at, Timer::Redial(COORDINATOR));
    }

    /// The coordinator is reached.
    pub fn connected(&mut self, ctx: &mut Ctx, conn: ConnId) {
        let Some(live) = &mut self.live else { return };
        live.link = Link { conn: Some(conn), ..Link::default() };
        // What is said at a registration has to survive a crash, a seal above all.
        let (held, copies) = (live.host.held(), live.host.held_copies());
        self.after_writes(ctx, Then::Held { conn, held, copies });
        self.turn(ctx);
    }

    /// The connection to the coordinator is gone.
    pub fn coordinator_gone(&mut self, ctx: &mut Ctx) {
        let Some(live) = &mut self.live else { return };
        live.link = Link::default();
        let at = ctx.clock.now() + 50;
        ctx.timer(self.pid, at, Timer::Redial(COORDINATOR));
    }

    pub(super) fn register(
        &mut self,
        ctx: &mut Ctx,
        conn: ConnId,
        held: Vec<HeldQueue>,
        copies: Vec<HeldCopy>,
    ) {
        let incarnation = Incarnation(ctx.standing[self.pid].started);
        let Some(live) = self.live.as_mut().filter(|live| live.link.conn == Some(conn)) else {
            return;
        };
        let register = Register {
            worker: self.id.clone(),
            incarnation,
            journal: self.disk.uuid,
            address: format!("{}:7400", self.id),
            http: None,
            weight: self.weight,
            zone: None,
            queues: held,
            copies,
        };
        live.link.session = Some(ctx.net.open_stream(conn));
        let waiting = std::mem::take(&mut live.link.events);
        self.tell(ctx, FromWorker::Register(register));
        for event in waiting {
            self.tell(ctx, event);
        }
    }

    pub(super) fn tell(&mut self, ctx: &mut Ctx, event: FromWorker) {
        let percent = match &event {
            FromWorker::Sealed { .. } | FromWorker::SlotsSealed { .. } => 8,
            FromWorker::RightRaised { .. } | FromWorker::QueueOpened { .. } => 1,
            _ => 0,
        };
        ctx.tempt(self.pid, percent);
        match &event {
            FromWorker::RightRaised { right, epoch } => {
                let copy = self.copy_of(right.queue);
                ctx.note(What::Raised { right: *right, copy, epoch: *epoch });
            }
            FromWorker::QueueOpened { queue, epoch } => {
                let (queue, epoch, worker) = (*queue, *epoch, self.id.clone());
                ctx.note(What::QueueOpened { queue, epoch, worker });
            }
            FromWorker::SubscriptionStarted { subscription, queue } => {
                ctx.note(What::Started { subscription: *subscription, queue: *queue });
            }
            _ => {}
        }
        let Some(live) = &mut self.live else { return };
        match (live.link.conn, live.link.session) {
            (Some(conn), Some(stream)) => {
                let bytes = codec::encode(&event).unwrap_or_else(|e| panic!("{event:?}: {e}"));
                let twice = !matches!(event, FromWorker::Register(_));
                ctx.say(conn, End::Dialler, stream, bytes, twice);
            }
            (Some(_), None) => live.link.events.push_back(event),
            (None, _) => {}
        }
    }

    /// An order of the coordinator.
    pub fn ordered(&mut self, ctx: &mut Ctx, conn: ConnId, item: Item) {
        let Item::Frame(_, payload) = item else { return };
        let Some(live) = self.live.as_mut().filter(|live| live.link.conn == Some(conn)) else {
            return;
        };
        let order: ToWorker = codec::decode(&payload).unwrap_or_else(|e| panic!("an order: {e}"));
        let order = match order {
            ToWorker::Registered => return,
            ToWorker::RegisterRefused(refusal) => {
                let who = format!("worker {}", self.id);
                return ctx.left(&who, &refusal);
            }
            ToWorker::Superseded => {
                let what = What::Left {
                    who: format!("worker {}", self.id),
                    why: "a newer process took its place".to_owned(),
                };
                return ctx.note(what);
            }
            ToWorker::Routing(routing) => {
                let mut routing = routing;
                let ends = routing.moves.iter().flat_map(|moved| {
                    let fence = |end: &QueueEnd| Fence { number: moved.number, queue: end.queue };
                    moved.ends.iter().map(fence)
                });
                live.fences = ends.collect();
                if ctx.bug == Some(Bug::ChainBroken) {
                    routing.moves = routing.moves.pop().into_iter().collect();
                }
                let ours = queues_of(&routing, &self.id);
                let router = Router::new(routing).unwrap_or_else(|e| panic!("a routing: {e}"));
                let mut out = Vec::new();
                live.host.set_routing(Arc::new(router), ours, &mut out);
                self.act(ctx, out);
                self.turn(ctx);
                return;
            }
            ToWorker::Tombstone { queue, uuid, epoch } => {
                let above = live.host.queue(queue).map(|hosted| hosted.queue.epoch().next());
                let above = above.filter(|_| ctx.bug == Some(Bug::TombstoneOfAnyEpoch));
                ToWorker::Tombstone { queue, uuid, epoch: epoch.max(above.unwrap_or(epoch)) }
            }
            ToWorker::SealSlots { queue, epoch, moved }
                if ctx.bug == Some(Bug::TableBeforeSeal) =>
            {
                let (number, hosted) = (moved.number, live.host.queue(queue));
                let at = hosted.map_or(Offset(0), |hosted| hosted.queue.durable());
                self.tell(ctx, FromWorker::SlotsSealed { queue, epoch, number, at });
                return;
            }
            order => order,
        };
        match &order {
            ToWorker::SealQueue { queue, .. } => ctx.note(What::Sealed(*queue)),
            ToWorker::StartSubscription { queue, setup }
                if ctx.bug == Some(Bug::LateWithoutFences) =>
            {
                let (subscription, passed) = (setup.id, live.fences.clone());
                let step = Step::FencesPassed { subscription, passed };
                live.host.step(ctx.local(self.pid), *queue, step, &mut Vec::new());
            }
            ToWorker::Revoke { right, epoch } => {
                ctx.note(What::Revoked { right: *right, epoch: *epoch });
                if ctx.bug == Some(Bug::RebalanceStops) {
                    live.stops_until = ctx.clock.now() + 200;
                    ctx.timer(self.pid, live.stops_until, Timer::Wake);
                }
            }
            _ => {}
        }
        let Some((queue, step)) = Step::of(order) else { return };
        let mut out = Vec::new();
        live.host.step(ctx.local(self.pid), queue, step, &mut out);
        self.act(ctx, out);
        self.turn(ctx);
    }
}

fn queues_of(routing: &Routing, worker: &WorkerId) -> BTreeSet<QueueId> {
    let mut ours = BTreeSet::new();
    for group in &routing.groups {
        for (index, queue) in (0..).zip(&group.queues) {
            if queue.primary.as_ref() == Some(worker) {
                ours.insert(QueueId::new(group.id, index));
            }
        }
    }
    ours
}
