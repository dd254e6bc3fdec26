//! The coordinator in the simulation: the shipped machine, and an imitation of the driver task
//! that owns it: everything that waits is taken in one step, its changes are committed, and only
//! then its actions are performed. A crash loses the step, or the actions behind some point.

use std::collections::BTreeMap;

use bytes::Bytes;
use ringway_coordinator::Timing;
use ringway_coordinator::logic::machine::{Action, Effects, Input, Machine, ReplyTo, Setup};
use ringway_coordinator::logic::split::MAX_RANGES_PER_QUEUE;
use ringway_proto::admin::AdminRequest;
use ringway_proto::control::{FromClient, FromWorker, GrantedRight, ToClient, ToWorker};
use ringway_proto::frame::Kind;
use ringway_proto::routing::Routing;
use ringway_proto::{Code, Filter, GroupName, Incarnation, Offset, WorkerId, codec};
use serde::Serialize;

use super::bugs::Bug;
use super::ctx::{Ctx, Pid, Role, Timer};
use super::disk::Rows;
use super::faults::Fault;
use super::history::What;
use super::net::{ConnId, End, Item, StreamNo};

/// A tick that is this late means that the process stood still, in milliseconds.
const PAUSE: u64 = 500;

/// The process and its disk.
#[derive(Debug)]
pub struct Coordinator {
    pid: Pid,
    rows: Rows,
    live: Option<Live>,
}

#[derive(Debug)]
struct Live {
    machine: Machine,
    inbox: Vec<Input>,
    sessions: BTreeMap<ConnId, StreamNo>,
    /// Decided and not yet stored.
    step: Option<Effects>,
    /// A step is to be made then.
    step_at: Option<u64>,
    looked: u64,
    /// Whom each connection belongs to, for the bug that tells a member too early.
    members: BTreeMap<ringway_proto::MemberId, (ConnId, Incarnation)>,
}

impl Coordinator {
    /// A coordinator that is down and has an empty disk.
    #[must_use]
    pub fn new(pid: Pid) -> Self {
        Self { pid, rows: Rows::default(), live: None }
    }

    /// Starts on what the disk has; on an empty one, with a second group.
    ///
    /// # Panics
    /// When the machine does not accept its own rows.
    pub fn start(&mut self, ctx: &mut Ctx) {
        let rows = self.rows.load();
        let is_new = rows.is_empty();
        let setup = Setup {
            id: "c1".to_owned(),
            timing: Timing {
                drain: std::time::Duration::from_millis(ctx.drain),
                ..Timing::default()
            },
            epoch_ms: 0,
            seed: u128::from(ctx.dice.roll()),
            ranges_per_queue: MAX_RANGES_PER_QUEUE,
        };
        let machine = match Machine::new(setup, rows, ctx.local(self.pid)) {
            Ok(machine) => machine,
            Err(refusal) => panic!("the coordinator does not accept its own rows: {refusal}"),
        };
        let mut live = Live {
            machine,
            inbox: Vec::new(),
            sessions: BTreeMap::new(),
            step: None,
            step_at: None,
            looked: ctx.clock.now(),
            members: BTreeMap::new(),
        };
        if is_new {
            live.inbox.extend(second_group());
        }
        self.live = Some(live);
        self.look(ctx);
        self.wake_in(ctx, 0);
    }

    /// The process is killed.
    pub fn crash(&mut self, ctx: &mut Ctx) {
        let Some(mut live) = self.live.take() else { return };
        if let Some(step) = live.step.take()
            && (ctx.dice.percent(60) || ctx.bug == Some(Bug::ActBeforeCommit))
        {
            if ctx.bug != Some(Bug::ActBeforeCommit) {
                self.rows.commit(&step.changes);
            }
            let performed = ctx.dice.below(step.actions.len() as u64 + 1) as usize;
            for action in step.actions.into_iter().take(performed) {
                act(&mut live, ctx, action);
            }
        }
    }

    /// A frame, or the end of a stream.
    ///
    /// # Panics
    /// For a control message that does not decode.
    pub fn arrived(&mut self, ctx: &mut Ctx, conn: ConnId, stream: StreamNo, item: Item) {
        let Some(live) = &mut self.live else { return };
        let Item::Frame(kind, payload) = item else { return };
        assert_eq!(kind, Kind::Control, "on a session stream");
        live.sessions.insert(conn, stream);
        let role = ctx.net.conn(conn).map(|c| ctx.standing[c.dialler].role);
        let input = if role == Some(Role::Worker) {
            codec::decode(&payload).map(|message| Input::FromWorker { conn, message })
        } else {
            codec::decode(&payload).map(|message| Input::FromClient { conn, message })
        };
        let mut input = input.unwrap_or_else(|e| panic!("a control message: {e}"));
        if let Input::FromClient { message: FromClient::Join(join), .. } = &mut input {
            live.members.insert(join.member.clone(), (conn, join.incarnation));
            if ctx.bug == Some(Bug::SameIncarnation) {
                join.incarnation = Incarnation(1);
            }
        }
        if ctx.bug == Some(Bug::GiveUpNotStored)
            && let Input::FromWorker { message: FromWorker::Sealed { queue, attempt, .. }, .. } =
                &input
        {
            let (queue, attempt) = (*queue, *attempt);
            tell(live, ctx, conn, &ToWorker::Unseal { queue, attempt }, false);
        }
        live.inbox.push(input);
        let soon = ctx.dice.between(0, 2);
        self.wake_in(ctx, soon);
    }

    /// An administrator asks for a change. False when nobody hears it.
    pub fn ask(&mut self, ctx: &mut Ctx, change: &Fault) -> bool {
        let Some(live) = &mut self.live else { return false };
        let Some(request) = request(change) else { return true };
        live.inbox.push(Input::Admin { reply: ReplyTo(99), request });
        self.wake_in(ctx, 0);
        true
    }

    /// A connection is gone.
    pub fn disconnected(&mut self, ctx: &mut Ctx, conn: ConnId) {
        let Some(live) = &mut self.live else { return };
        live.sessions.remove(&conn);
        live.inbox.push(Input::Disconnected { conn });
        self.wake_in(ctx, 0);
    }

    fn wake_in(&mut self, ctx: &mut Ctx, ms: u64) {
        let at = ctx.clock.now() + ms;
        let Some(live) = &mut self.live else { return };
        if live.step.is_none() && live.step_at.is_none_or(|known| at < known) {
            live.step_at = Some(at);
            ctx.timer(self.pid, at, Timer::Step);
        }
    }

    /// A timer of this process.
    pub fn timer(&mut self, ctx: &mut Ctx, timer: &Timer) {
        match timer {
            Timer::Step => self.step(ctx),
            Timer::Committed => self.committed(ctx),
            Timer::Look => {
                self.look(ctx);
                self.wake_in(ctx, 0);
            }
            _ => {}
        }
    }

    /// The driver looks at the clocks every 50 ms.
    fn look(&mut self, ctx: &mut Ctx) {
        let at = ctx.clock.now() + 50;
        ctx.timer(self.pid, at, Timer::Look);
    }

    fn step(&mut self, ctx: &mut Ctx) {
        let (now, time) = (ctx.clock.now(), ctx.local(self.pid));
        let Some(live) = &mut self.live else { return };
        if live.step.is_some() || live.step_at.is_none_or(|at| at > now) {
            return;
        }
        live.step_at = None;
        let mut effects = Effects::default();
        if now - live.looked > PAUSE {
            live.machine.handle(time, Input::Paused, &mut effects);
        }
        live.looked = now;
        for input in std::mem::take(&mut live.inbox) {
            live.machine.handle(time, input, &mut effects);
        }
        if live.machine.next_wakeup().is_some_and(|at| at <= time) {
            for conn in live.sessions.keys() {
                let heard = ctx.net.conn(*conn).map_or(0, |c| c.heard);
                let at = ctx.local_at(self.pid, heard);
                live.machine.handle(time, Input::Heard { conn: *conn, at }, &mut effects);
            }
            live.machine.wake(time, &mut effects);
        }
        live.machine.finish(time, &mut effects);
        if effects == Effects::default() {
            return;
        }
        let takes = if effects.changes.is_empty() { 0 } else { ctx.dice.between(1, 6) };
        live.step = Some(effects);
        if ctx.bug == Some(Bug::ActBeforeCommit)
            && let Some(step) = &mut live.step
        {
            let actions = std::mem::take(&mut step.actions);
            for action in actions {
                act(live, ctx, action);
            }
        }
        ctx.timer(self.pid, now + takes, Timer::Committed);
    }

    fn committed(&mut self, ctx: &mut Ctx) {
        let Some(live) = &mut self.live else { return };
        let Some(step) = live.step.take() else { return };
        self.rows.commit(&step.changes);
        for action in step.actions {
            act(live, ctx, action);
        }
        self.wake_in(ctx, 0);
    }

    /// What is not as it should be, if anything is not.
    #[must_use]
    pub fn trouble(&self, workers: u32, members: &BTreeMap<String, u32>) -> Option<String> {
        let Some(live) = &self.live else { return Some("the coordinator is down".to_owned()) };
        if live.step.is_some() || !live.inbox.is_empty() {
            return Some("the coordinator is busy".to_owned());
        }
        let shot = live.machine.snapshot();
        let moves = live.machine.open_slot_moves();
        if moves > 0 {
            return Some(format!("{moves} moves of slots are not done"));
        }
        if shot.workers_up != workers || shot.workers_down > 0 {
            return Some(format!("{} of {workers} workers are up", shot.workers_up));
        }
        if let Some((state, n)) = shot.queues.iter().find(|(s, n)| **s != "serving" && **n > 0) {
            return Some(format!("{n} queues are {state}"));
        }
        for subscription in shot.subscriptions {
            let wanted = members.get(&subscription.name).copied().unwrap_or(0);
            if subscription.members != wanted {
                let (name, n) = (subscription.name, subscription.members);
                return Some(format!("{name} has {n} members, not {wanted}"));
            }
            let granted = if wanted == 0 { "free" } else { "granted" };
            let stuck = subscription.rights.iter().find(|(s, n)| **s != granted && **n > 0);
            if let Some((state, n)) = stuck {
                return Some(format!("{n} rights of {} are {state}", subscription.name));
            }
        }
        None
    }

    /// Writes down how often things moved.
    pub fn report(&self, ctx: &mut Ctx) {
        if let Some(live) = &self.live {
            let shot = live.machine.snapshot();
            ctx.note(What::Moves { done: shot.moves, least: shot.lower_bound });
        }
    }
}

/// What an administrator asks for.
fn request(change: &Fault) -> Option<AdminRequest> {
    Some(match *change {
        Fault::Grow { group, queues } => {
            AdminRequest::GroupGrow { name: GroupName::new(group).ok()?, queues }
        }
        Fault::Bind { filter, group } => AdminRequest::Bind {
            filter: Filter::new(filter).ok()?,
            group: GroupName::new(group).ok()?,
        },
        Fault::Drain { worker, undo } => {
            AdminRequest::Drain { worker: WorkerId::new(format!("w{worker}")).ok()?, undo }
        }
        Fault::RingGroup => AdminRequest::GroupCreate {
            name: GroupName::new("ring").ok()?,
            queues: 3,
            ring_weight: Some(100),
            max_body_bytes: None,
        },
        _ => return None,
    })
}

/// A group of few queues that the classes `b.>` go to.
fn second_group() -> Vec<Input> {
    let (Ok(name), Ok(filter)) = (GroupName::new("few"), Filter::new("b.>")) else {
        return Vec::new();
    };
    let create = AdminRequest::GroupCreate {
        name: name.clone(),
        queues: 2,
        ring_weight: None,
        max_body_bytes: None,
    };
    let requests = [create, AdminRequest::Bind { filter, group: name }];
    let numbered = requests.into_iter().zip(0..);
    numbered.map(|(request, n)| Input::Admin { reply: ReplyTo(n), request }).collect()
}

fn act(live: &mut Live, ctx: &mut Ctx, action: Action) {
    match action {
        Action::ToWorker { conn, message } => {
            if ctx.bug == Some(Bug::GrantBeforeRaise)
                && let ToWorker::Raise(to) = &message
                && let Some(holder) = &to.holder
                && let Some((conn, _)) = live.members.get(&holder.member)
            {
                let granted = GrantedRight { right: to.right, epoch: to.epoch };
                let member = holder.member.clone();
                tell(live, ctx, *conn, &ToClient::Granted { member, granted }, false);
            }
            if ctx.bug == Some(Bug::OpenedBeforeSeal)
                && let ToWorker::SealQueue { queue, attempt, only_if_empty: true, .. } = message
            {
                let message = FromWorker::Sealed { queue, attempt, end: Offset(0) };
                live.inbox.push(Input::FromWorker { conn, message });
            }
            let twice = !matches!(message, ToWorker::Registered | ToWorker::RegisterRefused(_));
            tell(live, ctx, conn, &message, twice);
        }
        Action::ToClient { conn, mut message } => {
            if ctx.bug == Some(Bug::SameIncarnation)
                && let ToClient::Joined(joined) = &mut message
                && let Some((_, incarnation)) = live.members.get(&joined.member)
            {
                joined.incarnation = *incarnation;
            }
            // A seat takes what the answer to its join says for all that it has.
            let twice = !matches!(message, ToClient::Joined(_) | ToClient::JoinRefused { .. });
            tell(live, ctx, conn, &message, twice);
        }
        Action::Route { workers, clients, routing } => {
            let message = ToWorker::Routing(Routing::clone(&routing));
            tell_all(live, ctx, &workers, &message);
            tell_all(live, ctx, &clients, &ToClient::Routing(routing.for_clients()));
        }
        Action::Reply { answer, .. } => {
            // One that asks for more while a group grows is told to wait; one that was not heard
            // before may come when the group is larger already.
            if let Err(refusal) = answer
                && !matches!(refusal.code, Code::InUse | Code::InvalidOption)
            {
                ctx.left("an administrator", &refusal);
            }
        }
        Action::Replay { .. } => {}
        Action::Close { conn, .. } => ctx.close(conn, End::Acceptor),
    }
}

fn tell<T: Serialize>(live: &Live, ctx: &mut Ctx, conn: ConnId, message: &T, twice: bool) {
    let Some(stream) = live.sessions.get(&conn) else { return };
    ctx.say(conn, End::Acceptor, *stream, encoded(message), twice);
}

/// The same to several, encoded once.
fn tell_all<T: Serialize>(live: &Live, ctx: &mut Ctx, conns: &[ConnId], message: &T) {
    let bytes = encoded(message);
    for conn in conns {
        if let Some(stream) = live.sessions.get(conn) {
            ctx.say(*conn, End::Acceptor, *stream, bytes.clone(), true);
        }
    }
}

fn encoded<T: Serialize>(message: &T) -> Bytes {
    codec::encode(message).unwrap_or_else(|e| panic!("a control message: {e}"))
}
