//! The coordinator as a part of the model: the shipped machine and its rows. A step takes one
//! input, commits what changed and sends what follows; a crash between the two is a crash behind
//! it that loses all that was sent.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ringway_coordinator::Timing;
use ringway_coordinator::logic::machine::{Action, Effects, Input, Machine, ReplyTo, Setup};
use ringway_coordinator::logic::rows::{
    Change, GroupRow, Key, Meta, PastRing, Phase, QueueRow, RightRow, Row,
};
use ringway_proto::admin::AdminRequest;
use ringway_proto::control::{FromClient, FromWorker, GrantedRight, ToClient, ToWorker};
use ringway_proto::{
    Attempt, Epoch, GroupId, GroupName, Incarnation, Lanes, QueueId, RightId, Time, Uuid,
};

use super::super::bugs::Bug;
use super::{Cast, Event, Link, Message, Out, name, queue};

/// Nothing is said again before so much of the model's time has passed.
const REPEAT: Duration = Duration::from_secs(100);
/// Nobody's drain, and no wait for a join, is over before.
const DRAIN: Duration = Duration::from_secs(10_000);
/// No move is given up before.
const PATIENCE: Duration = Duration::from_secs(1_000_000);

/// How far time goes on, and what it brings: what each brings includes what the ones before it do,
/// but for the lapses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Wait {
    /// Sessions lapse of those who are not reached.
    Lapse,
    /// What is unanswered is said again.
    Repeat,
    /// The time to drain is over.
    Drain,
    /// Moves that wait are given up.
    Patience,
}

impl Wait {
    /// From the shortest to the longest.
    pub const ALL: [Self; 4] = [Self::Lapse, Self::Repeat, Self::Drain, Self::Patience];

    fn span(self) -> Duration {
        match self {
            Self::Lapse => timing().lapse(),
            Self::Repeat => REPEAT,
            Self::Drain => DRAIN,
            Self::Patience => PATIENCE,
        }
    }
}

/// Waits so far apart that none of them ends because a few shorter ones did.
fn timing() -> Timing {
    Timing {
        settling: Duration::ZERO,
        reconnect_allowance: Duration::ZERO,
        drain: DRAIN,
        drain_max: DRAIN,
        join_wait: DRAIN,
        repeat: REPEAT,
        move_patience: PATIENCE,
        copy_patience: PATIENCE,
        seal_patience: PATIENCE,
        ..Timing::default()
    }
}

/// What happens to the coordinator.
#[derive(Clone, PartialEq, Debug)]
pub enum Arrival {
    /// A message on a peer's connection.
    Said(u8, u8, Message),
    /// Time goes on, in which these connections of these peers are heard.
    Waited(Wait, Vec<(u8, u8)>),
    /// A worker is to be emptied, or no longer.
    Drain(u8, bool),
    /// The process is killed.
    Crash,
    /// It starts.
    Start,
}

/// The process and its store.
#[derive(Clone)]
pub struct Coordinator {
    machine: Option<Machine>,
    /// Shared among the states that do not differ in them.
    rows: Arc<BTreeMap<Key, Row>>,
    /// Its clock, in milliseconds.
    pub now: u64,
}

impl fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // While it runs, the rows say nothing that the machine does not.
        match &self.machine {
            Some(machine) => write!(f, "up {:?}", machine.decisive()),
            None => {
                let counted = |row: &Row| match row {
                    Row::Meta(meta) => Row::Meta(Meta { plan: 0, moves: 0, ..without(meta) }),
                    row => row.clone(),
                };
                write!(f, "down {:?}", self.rows.values().map(counted).collect::<Vec<_>>())
            }
        }
    }
}

fn without(meta: &Meta) -> Meta {
    Meta { queue_plan: 0, lower_bound: 0, ..meta.clone() }
}

/// The coordinator's number for a connection.
fn number(peer: u8, conn: u8) -> u64 {
    u64::from(peer) << 8 | u64::from(conn)
}

impl Coordinator {
    /// One that is down, with a group of some queues.
    #[must_use]
    pub fn new(cast: &Cast) -> Self {
        let (id, weight) = (GroupId(0), 100);
        let group = GroupRow {
            id,
            name: name(GroupName::new("default")),
            queues: u32::from(cast.queues),
            ring_weight: Some(weight),
            max_body_bytes: 1 << 20,
            slots: Vec::new(),
            off_ring: false,
        };
        let meta = Meta { next_group: GroupId(1), ..Meta::default() };
        let ring = PastRing { number: 0, groups: vec![(id, weight)] };
        let mut rows = vec![Row::Meta(meta), Row::Group(group), Row::PastRing(ring)];
        for index in 0..cast.queues {
            rows.push(Row::Queue(QueueRow {
                id: queue(index),
                uuid: Uuid(u128::from(index) + 1),
                epoch: Epoch(0),
                primary: None,
                has_data: false,
                attempt: Attempt(0),
                moving: None,
            }));
        }
        let rows = rows.into_iter().map(|row| (row.key(), row)).collect();
        Self { machine: None, rows: Arc::new(rows), now: 0 }
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.machine.is_some()
    }

    /// The stored rows of the queues.
    pub fn queues(&self) -> impl Iterator<Item = &QueueRow> {
        self.rows.values().filter_map(|row| match row {
            Row::Queue(row) => Some(row),
            _ => None,
        })
    }

    /// The stored row of the right to a lane of a queue.
    #[must_use]
    pub fn right(&self, queue: QueueId, lane: u16) -> Option<&RightRow> {
        right_in(&self.rows, queue, lane)
    }

    /// The next step of the process.
    ///
    /// # Panics
    /// When the machine does not accept its own rows.
    pub fn step(&mut self, cast: &Cast, arrival: &Arrival, out: &mut Out) {
        match arrival {
            Arrival::Crash => self.machine = None,
            Arrival::Start => {
                self.now = 0;
                let setup = Setup {
                    id: "c1".into(),
                    timing: timing(),
                    epoch_ms: 0,
                    seed: 1,
                    ranges_per_queue: if cast.are_split() { 4 } else { 1 },
                };
                let rows = self.rows.values().cloned().collect();
                let machine = Machine::new(setup, rows, Time(0));
                let machine = machine.unwrap_or_else(|e| panic!("its own rows: {e}"));
                self.machine = Some(machine);
                self.turn(cast, None, out, |_, _, _| {});
            }
            Arrival::Said(peer, conn, message) => {
                let input = input_of(cast, number(*peer, *conn), message);
                let Some(mut input) = input else { return };
                if let Input::FromWorker { message, .. } = &mut input
                    && cast.bug == Some(Bug::AttemptNotRaised)
                {
                    let standing = |id| {
                        let row = self.queues().find(|row| row.id == id);
                        row.map_or(Attempt(0), |row| row.attempt)
                    };
                    heard_under(message, standing);
                }
                let drained = match &input {
                    Input::FromClient { message, .. } => given_up(message),
                    _ => None,
                };
                self.turn(cast, drained, out, |machine, now, effects| {
                    machine.handle(now, input, effects);
                });
            }
            Arrival::Drain(worker, undo) => {
                let request = AdminRequest::Drain { worker: cast.worker(*worker), undo: *undo };
                let input = Input::Admin { reply: ReplyTo(0), request };
                self.turn(cast, None, out, |machine, now, effects| {
                    machine.handle(now, input, effects);
                });
            }
            Arrival::Waited(wait, heard) => {
                self.now += wait.span().as_millis() as u64;
                self.turn(cast, None, out, |machine, now, effects| {
                    if *wait != Wait::Lapse {
                        machine.handle(now, Input::Paused, effects);
                    }
                    for (peer, conn) in heard {
                        let conn = number(*peer, *conn);
                        machine.handle(now, Input::Heard { conn, at: now }, effects);
                    }
                    machine.wake(now, effects);
                });
            }
        }
    }

    fn turn(
        &mut self,
        cast: &Cast,
        drained: Option<GivenUp>,
        out: &mut Out,
        feed: impl FnOnce(&mut Machine, Time, &mut Effects),
    ) {
        let Some(machine) = &mut self.machine else { return };
        let (now, mut effects) = (Time(self.now), Effects::default());
        feed(machine, now, &mut effects);
        machine.finish(now, &mut effects);
        let before = Arc::clone(&self.rows);
        for change in &effects.changes {
            self.commit(change, out);
        }
        if !Arc::ptr_eq(&before, &self.rows) {
            self.note_rights(cast, &before, drained, out);
        }
        for action in effects.actions {
            act(cast, action, out);
        }
    }

    fn commit(&mut self, change: &Change, out: &mut Out) {
        match change {
            // What was planned when is not part of the model.
            Change::Put(Row::Plan(_)) | Change::Delete(Key::Plan(_)) => {}
            Change::Put(row) => {
                let before = Arc::make_mut(&mut self.rows).insert(row.key(), row.clone());
                match (row, before) {
                    (Row::Queue(row), Some(Row::Queue(before))) if row.epoch < before.epoch => {
                        let text = format!("the epoch of queue {} goes back", row.id);
                        out.events.push(Event::Wrong(text));
                    }
                    _ => {}
                }
            }
            Change::Delete(key) => drop(Arc::make_mut(&mut self.rows).remove(key)),
        }
    }

    fn note_rights(
        &self,
        cast: &Cast,
        before: &BTreeMap<Key, Row>,
        drained: Option<GivenUp>,
        out: &mut Out,
    ) {
        for share in (0..cast.queues).flat_map(|of| cast.shares(queue(of), Lanes::ALL)) {
            let lane = cast.lane(share.key);
            let Some(was) = right_in(before, share.queue, lane) else { continue };
            let Some(row) = right_in(&self.rows, share.queue, lane) else { continue };
            let epoch = row.epoch;
            if epoch < was.epoch {
                let text = format!("the epoch of the right to {share} goes back");
                out.events.push(Event::Wrong(text));
            }
            if epoch > was.epoch {
                let was_told = matches!(was.phase, Phase::Granted(_) | Phase::Revoking(_));
                let in_order = drained.is_some_and(|(right, of, keeps)| {
                    right.queue == share.queue
                        && right.lanes.contains(lane)
                        && of == was.epoch
                        && !keeps.is_some_and(|keeps| keeps.contains(lane))
                });
                out.events.push(Event::Right { share, epoch, forced: was_told && !in_order });
            }
        }
    }
}

/// What a member says that it gave up in order: a right, its epoch, and what it keeps of it.
type GivenUp = (RightId, Epoch, Option<Lanes>);

fn given_up(message: &FromClient) -> Option<GivenUp> {
    match message {
        FromClient::Drained { right, epoch, .. } => Some((*right, *epoch, None)),
        FromClient::Narrowed { right, epoch, to, .. } => Some((*right, *epoch, Some(*to))),
        _ => None,
    }
}

/// The right to a lane of a queue.
fn right_in(rows: &BTreeMap<Key, Row>, queue: QueueId, lane: u16) -> Option<&RightRow> {
    rows.values().find_map(|row| match row {
        Row::Right(row) if row.id.queue == queue && row.id.lanes.contains(lane) => Some(row),
        _ => None,
    })
}

fn input_of(cast: &Cast, conn: u64, message: &Message) -> Option<Input> {
    Some(match message {
        Message::FromWorker(message) => Input::FromWorker { conn, message: message.clone() },
        Message::FromClient(message) => {
            let mut message = message.clone();
            if cast.bug == Some(Bug::SameIncarnation)
                && let FromClient::Join(join) = &mut message
            {
                join.incarnation = Incarnation(1);
            }
            Input::FromClient { conn, message }
        }
        Message::Closed => Input::Disconnected { conn },
        _ => return None,
    })
}

fn act(cast: &Cast, action: Action, out: &mut Out) {
    match action {
        Action::ToWorker { conn, message } => {
            if cast.bug == Some(Bug::GrantBeforeRaise)
                && let ToWorker::Raise(to) = &message
                && let Some(process) = to.holder.as_ref().and_then(|holder| cast.process(holder))
                && let Some(holder) = &to.holder
            {
                let granted = GrantedRight { right: to.right, epoch: to.epoch };
                let message = ToClient::Granted { member: holder.member.clone(), granted };
                // Each process has one connection in the runs that this bug is for.
                tell_client(cast, number(cast.peer(process), 1), message, out);
            }
            let one_attempt = cast.bug == Some(Bug::AttemptNotRaised);
            let message = if one_attempt { under(message, |_| Attempt(1)) } else { message };
            tell(conn, Message::ToWorker(message), out);
        }
        Action::ToClient { conn, message } => tell_client(cast, conn, message, out),
        Action::Route { clients, routing, .. } => {
            // A worker needs the routing only for producers that ask the wrong one.
            for conn in clients {
                let message = ToClient::Routing(ringway_proto::routing::Routing::clone(&routing));
                tell_client(cast, conn, message, out);
            }
        }
        Action::Close { conn, .. } => out.hang_ups.push(((conn >> 8) as u8, conn as u8)),
        Action::Reply { answer: Err(refusal), .. } => {
            out.events.push(Event::Wrong(format!("an administrator is refused: {refusal}")));
        }
        Action::Reply { .. } | Action::Replay { .. } => {}
    }
}

/// For the bug that never raises an attempt: the same order under another one.
fn under(mut message: ToWorker, other: impl Fn(QueueId) -> Attempt) -> ToWorker {
    match &mut message {
        ToWorker::SealQueue { queue, attempt, .. }
        | ToWorker::DropCopy { queue, attempt, .. }
        | ToWorker::Unseal { queue, attempt } => *attempt = other(*queue),
        ToWorker::CopyQueue(copy) => copy.attempt = other(copy.queue),
        _ => {}
    }
    message
}

/// The same for what workers say.
fn heard_under(message: &mut FromWorker, standing: impl Fn(QueueId) -> Attempt) {
    match message {
        FromWorker::Sealed { queue, attempt, .. }
        | FromWorker::CopyProgress { queue, attempt, .. }
        | FromWorker::CopySynced { queue, attempt, .. }
        | FromWorker::CopyDropped { queue, attempt }
        | FromWorker::SealDeclined { queue, attempt, .. }
        | FromWorker::Unsealed { queue, attempt } => *attempt = standing(*queue),
        FromWorker::Register(register) => {
            for held in &mut register.queues {
                held.sealed = held.sealed.map(|_| standing(held.queue));
            }
            register.copies.iter_mut().for_each(|copy| copy.attempt = standing(copy.queue));
        }
        _ => {}
    }
}

fn tell_client(cast: &Cast, conn: u64, mut message: ToClient, out: &mut Out) {
    let process = cast.process_of((conn >> 8) as u8);
    match &mut message {
        ToClient::Granted { granted, .. } => note_grant(cast, *granted, process, out),
        ToClient::Joined(joined) => {
            if cast.bug == Some(Bug::SameIncarnation)
                && let Some(process) = process
            {
                joined.incarnation = cast.holder(process).incarnation;
            }
            joined.rights.iter().for_each(|granted| note_grant(cast, *granted, process, out));
        }
        // What is left of the time is the same to its receiver.
        ToClient::Revoke { deadline_ms, .. } | ToClient::Narrow { deadline_ms, .. } => {
            *deadline_ms = 1;
        }
        _ => {}
    }
    tell(conn, Message::ToClient(message), out);
}

fn note_grant(cast: &Cast, granted: GrantedRight, process: Option<u8>, out: &mut Out) {
    let Some(process) = process else { return };
    let GrantedRight { right, epoch } = granted;
    let shares = cast.shares(right.queue, right.lanes);
    out.events.extend(shares.map(|share| Event::Granted { share, epoch, process }));
}

fn tell(conn: u64, message: Message, out: &mut Out) {
    let link = Link::FromCoordinator { peer: (conn >> 8) as u8, conn: conn as u8 };
    out.sends.push((link, message));
}
