//! The whole of what the coordinator decides: inputs go to the parts that know about them, and
//! what the parts say becomes changes of the store and actions. It owns the state and the order
//! of the steps; the rules are those of the parts.
//!
//! The driver gives it everything that is waiting ([`Machine::handle`], [`Machine::wake`]), then
//! calls [`Machine::finish`] once, commits all changes in one transaction, and only then does the
//! actions: durable before visible.

mod admin;
mod cells;
mod decisive;
mod explain;
mod lanes;
mod members;
mod moves;
mod planning;
mod queues;
mod slots;
mod snapshot;
#[cfg(test)]
mod tests;
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ringway_proto::admin::{AdminRequest, AdminResponse};
use ringway_proto::control::{FromClient, FromWorker, ToClient, ToWorker};
use ringway_proto::hash::hash;
use ringway_proto::routing::{GroupRoute, QueueRoute, Routing, WorkerRoute};
use ringway_proto::{
    Code, MemberId, QueueId, Refusal, RightId, RoutingVersion, SubscriptionId, Time, Uuid, WorkerId,
};

use self::members::PendingJoin;
use self::planning::{Planner, QueueMove};
use super::catalog::{Catalog, default_group};
use super::placement::Queue;
use super::plans::{PlanLog, PlanRow};
use super::rights::Right;
use super::rows::{Change, GraveRow, Key, MemberRow, Meta, MoveReason, Row, WorkerRow};
use super::sessions::{Conn, Sessions};
use super::slots::SlotMoves;
use super::timing::Timing;

pub use self::snapshot::{Balance, Snapshot, SubscriptionSnapshot};

/// Names a question whose answer the driver keeps a channel for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ReplyTo(pub u64);

/// What happens to the coordinator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A worker said something on its session stream.
    FromWorker {
        /// On which connection.
        conn: Conn,
        /// What.
        message: FromWorker,
    },
    /// A client said something on its session stream.
    FromClient {
        /// On which connection.
        conn: Conn,
        /// What.
        message: FromClient,
    },
    /// A ping came in on this connection.
    Heard {
        /// Which.
        conn: Conn,
        /// When.
        at: Time,
    },
    /// The coordinator itself stood still for longer than peers may be silent, so what it has not
    /// heard is its own fault.
    Paused,
    /// A connection is gone, or its session stream is.
    Disconnected {
        /// Which.
        conn: Conn,
    },
    /// An administrator asks.
    Admin {
        /// Where the answer goes.
        reply: ReplyTo,
        /// What.
        request: AdminRequest,
    },
}

/// What the driver has to do, in this order, once the changes are stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Say this to a worker.
    ToWorker {
        /// On which connection.
        conn: Conn,
        /// What.
        message: ToWorker,
    },
    /// Say this to a client.
    ToClient {
        /// On which connection.
        conn: Conn,
        /// What.
        message: ToClient,
    },
    /// Send the routing to these workers and clients.
    Route {
        /// Connections of workers.
        workers: Vec<Conn>,
        /// Connections of clients.
        clients: Vec<Conn>,
        /// The routing.
        routing: Arc<Routing>,
    },
    /// Answer an administrator.
    Reply {
        /// Which question.
        reply: ReplyTo,
        /// The answer.
        answer: Result<AdminResponse, Refusal>,
    },
    /// Compute these plans anew, compare, and answer an administrator with what was found. It may
    /// take long, and changes nothing.
    Replay {
        /// Which question.
        reply: ReplyTo,
        /// The plans.
        plans: Vec<Arc<PlanRow>>,
    },
    /// End a connection whose sessions have lapsed, so that its owner notices and comes again.
    Close {
        /// Which.
        conn: Conn,
        /// Why.
        reason: &'static str,
    },
}

/// Something that happened, for those who count.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A plan was made.
    Planned,
    /// A queue has another primary.
    QueueMoved(MoveReason),
    /// A queue has another primary, this long after its move began.
    QueueMoveTook(Duration),
    /// A right has another member.
    RightMoved(MoveReason),
    /// A holder gave a right up, or was fenced, after this time.
    Drained(Duration),
    /// A primary confirmed an epoch, this long after it was asked to.
    Raised(Duration),
    /// A right changed hands, this long after its revoke.
    HandedOver(Duration),
    /// A right was split.
    RightSplit,
    /// Rights became one.
    RightsMerged,
    /// A worker was replaced by a newer process.
    WorkerSuperseded,
    /// A member was replaced by a newer process.
    MemberSuperseded,
    /// A worker's session lapsed.
    WorkerLapsed,
    /// A member's session lapsed.
    MemberLapsed,
}

/// What came out of a step.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Effects {
    /// What has to be stored first, all of it together.
    pub changes: Vec<Change>,
    /// What has to be done then.
    pub actions: Vec<Action>,
    /// What is worth counting.
    pub events: Vec<Event>,
}

/// What the machine is started with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The coordinator's id.
    pub id: String,
    /// The durations to decide by.
    pub timing: Timing,
    /// The calendar's time at [`Time`] 0, in milliseconds since 1970: when plans were made.
    pub epoch_ms: u64,
    /// Where the identities of new queues come from: drawn at random at each start.
    pub seed: u128,
    /// Into how many ranges of lanes the rights to a queue may be split; 1 for never.
    pub ranges_per_queue: u32,
}

/// The state of the coordinator.
#[derive(Clone, Debug)]
pub struct Machine {
    setup: Setup,
    meta: Meta,
    catalog: Catalog,
    workers: BTreeMap<WorkerId, WorkerRow>,
    queues: BTreeMap<QueueId, Queue>,
    graves: BTreeMap<(WorkerId, QueueId), GraveRow>,
    members: BTreeMap<(SubscriptionId, MemberId), MemberRow>,
    rights: BTreeMap<RightId, Right>,
    slot_moves: SlotMoves,
    /// Moves of slots may have a step to take.
    slots_due: bool,
    /// Every right that has a deadline; also some that have none any more.
    revoking: BTreeSet<RightId>,

    worker_sessions: Sessions<WorkerId>,
    member_sessions: Sessions<(SubscriptionId, MemberId)>,
    /// Connections that want the routing, and the version that each has.
    watchers: BTreeMap<Conn, RoutingVersion>,
    worker_routing: BTreeMap<Conn, RoutingVersion>,
    joins: BTreeMap<(SubscriptionId, MemberId), PendingJoin>,

    queue_planner: Planner<WorkerId>,
    right_planners: BTreeMap<SubscriptionId, Planner<MemberId>>,
    /// The moves of the last plan of queues, also those that wait.
    queue_moves: Vec<QueueMove>,
    plans: PlanLog,
    /// Moves may have a step to take.
    moves_due: bool,
    /// Since when no copy has been without growing for longer; it may have grown since.
    stalled_since: Option<Time>,
    /// Since when the queue is to be sealed that is so the longest.
    sealing_since: Option<Time>,
    /// When the first of those that could not be sealed yet said so.
    declined_at: Option<Time>,
    /// Since when workers are down, until their moves are given up.
    down_since: BTreeMap<WorkerId, Time>,
    /// Copies that connected workers have not said to have removed.
    drops: BTreeMap<(WorkerId, QueueId), moves::Drop>,

    /// Rows that this step changed.
    dirty: BTreeSet<Key>,
    /// Subscriptions whose rights may have a step to take.
    to_drive: BTreeSet<SubscriptionId>,
    /// Subscriptions whose last plan has to be made again when no split is under way.
    replan: BTreeSet<SubscriptionId>,
    routing: Arc<Routing>,
    routing_changed: bool,
    /// When what is not answered is said again; none while everything is.
    repeat_at: Option<Time>,
}

impl Machine {
    /// The machine as the rows of the store say; without rows, a new cluster. Every worker and
    /// member in the store is a known session with its full time before it.
    ///
    /// # Errors
    /// [`Code::Damaged`] for rows that cannot be.
    pub fn new(setup: Setup, rows: Vec<Row>, now: Time) -> Result<Self, Refusal> {
        let mut machine = Self::empty(setup);
        let is_new = rows.is_empty();
        let heard = now + machine.setup.timing.reconnect_allowance;
        for row in rows {
            machine.restore(row, now, heard)?;
        }
        if is_new {
            machine.create_group(default_group()?)?;
            machine.dirty.insert(Key::Meta);
        }
        machine.restore_plans(now);
        machine.routing_changed = is_new;
        machine.routing = Arc::new(machine.build_routing());
        Ok(machine)
    }

    fn empty(setup: Setup) -> Self {
        Self {
            setup,
            meta: Meta::default(),
            catalog: Catalog::default(),
            workers: BTreeMap::new(),
            queues: BTreeMap::new(),
            graves: BTreeMap::new(),
            members: BTreeMap::new(),
            rights: BTreeMap::new(),
            slot_moves: SlotMoves::default(),
            slots_due: true,
            revoking: BTreeSet::new(),
            worker_sessions: Sessions::default(),
            member_sessions: Sessions::default(),
            watchers: BTreeMap::new(),
            worker_routing: BTreeMap::new(),
            joins: BTreeMap::new(),
            queue_planner: Planner::default(),
            right_planners: BTreeMap::new(),
            queue_moves: Vec::new(),
            plans: PlanLog::default(),
            moves_due: true,
            stalled_since: None,
            sealing_since: None,
            declined_at: None,
            down_since: BTreeMap::new(),
            drops: BTreeMap::new(),
            dirty: BTreeSet::new(),
            to_drive: BTreeSet::new(),
            replan: BTreeSet::new(),
            routing: Arc::default(),
            routing_changed: false,
            repeat_at: None,
        }
    }

    fn restore(&mut self, row: Row, now: Time, heard: Time) -> Result<(), Refusal> {
        match row {
            Row::Meta(meta) => {
                self.meta = meta.clone();
                self.catalog.restore(Row::Meta(meta))?;
            }
            Row::Worker(row) => {
                if row.up {
                    self.worker_sessions.restore(row.id.clone(), heard);
                } else {
                    self.down_since.insert(row.id.clone(), now);
                }
                self.workers.insert(row.id.clone(), row);
            }
            Row::Queue(row) => {
                let mut queue = Queue::new(row);
                if let Some(step) = queue.step() {
                    queue.set_step(now, step);
                }
                self.queues.insert(queue.row().id, queue);
            }
            Row::Plan(row) => self.plans.restore(row),
            Row::Grave(row) => {
                self.graves.insert((row.worker.clone(), row.queue), row);
            }
            Row::Member(row) => {
                let key = (row.subscription, row.member.clone());
                self.member_sessions.restore(key.clone(), heard);
                self.members.insert(key, row);
            }
            Row::Right(row) => {
                self.revoking.insert(row.id);
                self.rights.insert(row.id, Right::new(row, now, &self.setup.timing));
            }
            Row::SlotMove(row) => self.slot_moves.restore(*row)?,
            Row::Passed(row) => self.slot_moves.restore_passed(row),
            row => self.catalog.restore(row)?,
        }
        Ok(())
    }

    /// Takes an input. What follows from it for plans and routing waits for [`Self::finish`].
    pub fn handle(&mut self, now: Time, input: Input, out: &mut Effects) {
        match input {
            Input::FromWorker { conn, message } => self.hear_worker(now, conn, message, out),
            Input::FromClient { conn, message } => self.hear_client(now, conn, message, out),
            Input::Heard { conn, at } => {
                self.worker_sessions.heard(conn, at);
                self.member_sessions.heard(conn, at);
            }
            Input::Paused => {
                self.worker_sessions.heard_all(now);
                self.member_sessions.heard_all(now);
            }
            Input::Disconnected { conn } => {
                self.worker_sessions.disconnected(conn);
                self.member_sessions.disconnected(conn);
                self.watchers.remove(&conn);
                self.worker_routing.remove(&conn);
            }
            Input::Admin { reply, request: AdminRequest::PlanReplay { from } } => {
                out.actions.push(Action::Replay { reply, plans: self.plans.since(from) });
            }
            Input::Admin { reply, request } => {
                let answer = self.answer(now, request, out);
                out.actions.push(Action::Reply { reply, answer });
            }
        }
    }

    /// Does what is due by now.
    pub fn wake(&mut self, now: Time, out: &mut Effects) {
        let lapse = self.setup.timing.lapse();
        for worker in self.worker_sessions.lapsed(now, lapse) {
            self.lapse_worker(now, &worker, out);
        }
        for (subscription, member) in self.member_sessions.lapsed(now, lapse) {
            self.lapse_member(now, subscription, &member, out);
        }
        self.expire_rights(now, out);
        self.expire_moves(now, out);
        if self.repeat_at.is_some_and(|at| at <= now) {
            self.repeat(now, out);
        }
    }

    /// When [`Self::wake`] has something to do if nothing happens before.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Time> {
        let lapse = self.setup.timing.lapse();
        let fixed = [
            self.worker_sessions.next_lapse(lapse),
            self.member_sessions.next_lapse(lapse),
            self.joins.values().map(|join| join.deadline).min(),
            self.revoking.iter().filter_map(|id| self.deadline_of(*id)).min(),
            self.repeat_at,
            self.next_plan(),
            self.next_give_up(),
        ];
        fixed.into_iter().flatten().min()
    }

    /// Ends a step: makes the plans that are due, lets rights take their steps, tells the routing
    /// where it changed, and lists the rows that changed.
    pub fn finish(&mut self, now: Time, out: &mut Effects) {
        self.drive_slots(now, out);
        self.make_plans(now, out);
        self.drive_moves(now, out);
        self.drive_rights(now, out);
        self.complete_joins(now, out);
        self.complete_leaves(out);
        self.publish_routing(out);
        if self.dirty.contains(&Key::Meta) {
            self.catalog.fill(&mut self.meta);
        }
        for key in std::mem::take(&mut self.dirty) {
            out.changes.push(match self.row(&key) {
                Some(row) => Change::Put(row),
                None => Change::Delete(key),
            });
        }
    }

    fn row(&self, key: &Key) -> Option<Row> {
        match key {
            Key::Meta => Some(Row::Meta(self.meta.clone())),
            Key::Worker(id) => self.workers.get(id).cloned().map(Row::Worker),
            Key::Queue(id) => self.queues.get(id).map(|q| Row::Queue(q.row().clone())),
            Key::Grave(worker, queue) => {
                self.graves.get(&(worker.clone(), *queue)).cloned().map(Row::Grave)
            }
            Key::Member(subscription, member) => {
                self.members.get(&(*subscription, member.clone())).cloned().map(Row::Member)
            }
            Key::Right(id) => self.rights.get(id).map(|r| Row::Right(r.row().clone())),
            Key::Plan(number) => self.plans.get(*number).cloned().map(Row::Plan),
            Key::SlotMove(number) => {
                self.slot_moves.row(*number).cloned().map(|row| Row::SlotMove(Box::new(row)))
            }
            Key::Passed(id) => self.slot_moves.passed_row(*id).map(Row::Passed),
            key => self.catalog.row(key),
        }
    }

    /// Says something to a worker, if it is reached now; else its registration brings it about.
    fn tell_worker(&self, worker: &WorkerId, message: ToWorker, out: &mut Effects) {
        if let Some(conn) = self.worker_sessions.conn(worker) {
            out.actions.push(Action::ToWorker { conn, message });
        }
    }

    /// Says something to a member, if it is reached now and has its seat; else [`Joined`] and
    /// what follows it bring it about.
    ///
    /// [`Joined`]: ringway_proto::control::Joined
    fn tell_member(
        &self,
        subscription: SubscriptionId,
        member: &MemberId,
        message: ToClient,
        out: &mut Effects,
    ) {
        let key = (subscription, member.clone());
        if self.joins.contains_key(&key) {
            return;
        }
        if let Some(conn) = self.member_sessions.conn(&key) {
            out.actions.push(Action::ToClient { conn, message });
        }
    }

    /// Something was said that has to be answered.
    fn expect_answer(&mut self, now: Time) {
        self.repeat_at.get_or_insert(now + self.setup.timing.repeat);
    }

    fn build_routing(&self) -> Routing {
        let queue = |id| match self.queues.get(&id).map(Queue::row) {
            Some(row) => {
                QueueRoute { uuid: row.uuid, epoch: row.epoch, primary: row.primary.clone() }
            }
            None => QueueRoute { uuid: Uuid(0), epoch: ringway_proto::Epoch(0), primary: None },
        };
        let groups = self.catalog.groups().map(|group| GroupRoute {
            id: group.id,
            name: group.name.clone(),
            ring_weight: group.ring_weight.filter(|_| !group.off_ring),
            max_body_bytes: group.max_body_bytes,
            slots: group.table(),
            queues: (0..group.queues).map(|index| queue(QueueId::new(group.id, index))).collect(),
        });
        let bindings = self.catalog.bindings().into_iter().map(|binding| {
            ringway_proto::routing::Binding { filter: binding.filter, group: binding.group }
        });
        let workers = self.workers.values().map(|worker| WorkerRoute {
            id: worker.id.clone(),
            address: worker.address.clone(),
            up: worker.up,
        });
        Routing {
            version: self.meta.routing,
            groups: groups.collect(),
            bindings: bindings.collect(),
            workers: workers.collect(),
            moved: self.slot_moves.through(),
            moves: self.slot_moves.routed(),
        }
    }

    fn publish_routing(&mut self, out: &mut Effects) {
        if std::mem::take(&mut self.routing_changed) {
            self.meta.routing = self.meta.routing.next();
            self.dirty.insert(Key::Meta);
            self.routing = Arc::new(self.build_routing());
        }
        let version = self.routing.version;
        let behind = |known: &mut BTreeMap<Conn, RoutingVersion>| {
            let old = known.iter_mut().filter(|(_, has)| **has < version);
            old.map(|(conn, has)| {
                *has = version;
                *conn
            })
            .collect::<Vec<_>>()
        };
        let (workers, clients) = (behind(&mut self.worker_routing), behind(&mut self.watchers));
        if !workers.is_empty() || !clients.is_empty() {
            let routing = Arc::clone(&self.routing);
            out.actions.push(Action::Route { workers, clients, routing });
        }
    }

    /// The identity of a queue's log: as random as the seed, and another for every queue.
    fn new_uuid(&self, queue: QueueId) -> Uuid {
        let half = |n: u8| {
            let mut bytes = [0; 25];
            bytes[..16].copy_from_slice(&self.setup.seed.to_le_bytes());
            bytes[16..24].copy_from_slice(&u64::from(queue).to_le_bytes());
            bytes[24] = n;
            u128::from(hash(&bytes))
        };
        Uuid(half(0) << 64 | half(1))
    }
}

/// Refuses what would make the routing larger than a frame.
fn too_large_to_route(bytes: usize) -> Refusal {
    Refusal::new(
        Code::TooLarge,
        format!("the routing would have {bytes} bytes, more than every client can be sent"),
    )
    .hint("use fewer groups, queues or bindings")
}
