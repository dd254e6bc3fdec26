//! A client process in the simulation: the shipped publisher or the shipped seat, and an imitation
//! of the engine and the streams that drive them. One seat or one publisher a process; what the
//! application does with it is in `workload`.

mod engine;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use ringway_client::logic::credit::Credit;
use ringway_client::logic::lane::{Action, Ticket};
use ringway_client::logic::publisher::Publisher;
use ringway_client::logic::report::End as SeatEnd;
use ringway_client::logic::seat::Seat;
use ringway_proto::control::{FromClient, Join};
use ringway_proto::data::AppendAnswer;
use ringway_proto::frame::Kind;
use ringway_proto::routing::Router;
use ringway_proto::{
    Code, Epoch, Incarnation, Lanes, OpenNumber, Refusal, RightId, RoutingVersion, WorkerId, codec,
};

use super::bugs::Bug;
use super::ctx::{COORDINATOR, Ctx, Pid, Timer};
use super::history::{Told, Value, What};
use super::net::{ConnId, End, Item, StreamNo};
use super::workload::{Producing, Serving};

/// What a client process is for.
#[derive(Clone, Debug)]
pub enum Purpose {
    /// It publishes.
    Produce,
    /// It takes this seat.
    Serve(Join),
}

/// The process; it has no disk.
#[derive(Debug)]
pub struct Client {
    pub(super) pid: Pid,
    pub(super) purpose: Purpose,
    pub(super) live: Option<Live>,
}

/// What lives only while the process does.
pub(super) struct Live {
    /// Nothing is done before the routing is known.
    pub router: Option<Arc<Router>>,
    session: Option<(ConnId, StreamNo)>,
    failures: BTreeMap<Pid, u32>,
    workers: BTreeMap<WorkerId, WorkerLink>,
    pub publisher: Option<Publisher>,
    pub producing: Producing,
    pub tickets: BTreeMap<Ticket, Value>,
    pub actions: Vec<Action>,
    pub seat: Option<Seat>,
    pub serving: Serving,
    pub leave_by: Option<u64>,
    deliveries: BTreeMap<RightId, Delivery>,
    streams: BTreeMap<(ConnId, StreamNo), (RightId, OpenNumber)>,
    /// What every stream was about, also those that are gone.
    every_stream: BTreeMap<(ConnId, StreamNo), RightId>,
    wake_at: Option<u64>,
    /// What the coordinator said to keep of rights, for the bug that keeps more.
    to_keep: BTreeMap<(RightId, Epoch), Lanes>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("seat", &self.seat).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct WorkerLink {
    conn: Option<ConnId>,
    publish: Option<StreamNo>,
}

#[derive(Debug)]
struct Delivery {
    open: OpenNumber,
    epoch: Epoch,
    worker: WorkerId,
    at: Option<(ConnId, StreamNo)>,
    /// What waits for the connection: the open, and frames behind it.
    waiting: Vec<(Kind, Bytes)>,
}

impl Client {
    /// A process that is down.
    #[must_use]
    pub fn new(pid: Pid, purpose: Purpose) -> Self {
        Self { pid, purpose, live: None }
    }

    /// Starts a new process.
    pub fn start(&mut self, ctx: &mut Ctx) {
        // Two that start at the same moment are told apart.
        let incarnation = Incarnation(ctx.standing[self.pid].started * 100 + self.pid as u64);
        let seat = match &self.purpose {
            Purpose::Produce => None,
            Purpose::Serve(join) => {
                let join = Join { incarnation, ..join.clone() };
                let few = ctx.dice.between(8, 60) as u32;
                // Where nothing may pause a right, credit does not either, in how many parts soever
                // it is shared.
                let plenty = Credit { messages: 20_000, bytes: 1 << 26 };
                let little = Credit { messages: few, bytes: 1 << 20 };
                let credit = if ctx.faults.is_calm() { plenty } else { little };
                Some(Seat::new(join, credit))
            }
        };
        self.live = Some(Live {
            router: None,
            session: None,
            failures: BTreeMap::new(),
            workers: BTreeMap::new(),
            publisher: None,
            producing: Producing::new(ctx, self.pid),
            tickets: BTreeMap::new(),
            actions: Vec::new(),
            seat,
            serving: Serving::new(ctx),
            leave_by: None,
            deliveries: BTreeMap::new(),
            streams: BTreeMap::new(),
            every_stream: BTreeMap::new(),
            wake_at: None,
            to_keep: BTreeMap::new(),
        });
        ctx.dial(self.pid, COORDINATOR);
        let now = ctx.clock.now();
        match &self.purpose {
            Purpose::Produce => ctx.timer(self.pid, now, Timer::Publish),
            Purpose::Serve(_) => ctx.timer(self.pid, now + 100, Timer::Tick),
        }
    }

    /// The process is killed: nobody learns what became of its publishes.
    pub fn crash(&mut self, ctx: &mut Ctx) {
        if let Some(live) = self.live.take() {
            for value in live.tickets.into_values() {
                ctx.note(What::Published { value, told: Told::Unknown });
            }
        }
    }

    /// The member asks to leave.
    pub fn leave(&mut self, ctx: &mut Ctx) {
        let time = ctx.client_time(self.pid);
        if let Some(live) = &mut self.live
            && let Some(holder) = live.holder()
            && let Some(seat) = &mut live.seat
        {
            ctx.note(What::Leaving(holder));
            live.leave_by.get_or_insert(ctx.clock.now() + 10_000);
            seat.leave(time);
        }
        self.turn(ctx);
    }

    /// Whether it is up and not about to leave.
    #[must_use]
    pub fn stays(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.leave_by.is_none())
    }

    /// Nobody was reached at `to`.
    pub fn dial_failed(&mut self, ctx: &mut Ctx, to: Pid) {
        let Some(live) = &mut self.live else { return };
        let failures = live.failures.entry(to).or_default();
        *failures += 1;
        let wait = ctx.back_off(*failures);
        let at = ctx.clock.now() + wait;
        ctx.timer(self.pid, at, Timer::Redial(to));
    }

    /// A connection to `to` is there.
    pub fn connected(&mut self, ctx: &mut Ctx, conn: ConnId, to: Pid) {
        let Some(live) = &mut self.live else { return };
        live.failures.remove(&to);
        if to == COORDINATOR {
            let stream = ctx.net.open_stream(conn);
            live.session = Some((conn, stream));
            let have = live.router.as_ref().map_or(RoutingVersion(0), |r| r.version());
            live.tell(ctx, &FromClient::Watch { have });
            if let Some(seat) = live.seat.as_mut().filter(|_| live.router.is_some()) {
                seat.coordinator_up();
            }
        } else if let Some(id) = ctx.worker_at(to) {
            live.reach(ctx, conn, id);
        }
        self.turn(ctx);
    }

    /// A connection is gone.
    pub fn disconnected(&mut self, ctx: &mut Ctx, conn: ConnId, to: Pid) {
        let time = ctx.client_time(self.pid);
        let Some(live) = &mut self.live else { return };
        if live.session.is_some_and(|(of, _)| of == conn) {
            live.session = None;
            if let Some(seat) = &mut live.seat {
                seat.coordinator_down();
            }
        }
        if let Some(id) = ctx.worker_at(to)
            && let Some(link) = live.workers.get_mut(&id).filter(|l| l.conn == Some(conn))
        {
            *link = WorkerLink::default();
            if let Some(publisher) = &mut live.publisher {
                publisher.disconnected(&id, "the connection is lost");
            }
        }
        let gone: Vec<(RightId, OpenNumber)> =
            live.streams.range((conn, 0)..=(conn, u32::MAX)).map(|(_, of)| *of).collect();
        live.streams.retain(|(of, _), _| *of != conn);
        for (right, open) in gone {
            live.stream_ended(time, right, open, None);
        }
        let at = ctx.clock.now() + 50;
        ctx.timer(self.pid, at, Timer::Redial(to));
        self.turn(ctx);
    }

    /// A frame, or the end of a stream.
    ///
    /// # Panics
    /// For a frame that does not decode, or is out of place.
    pub fn arrived(&mut self, ctx: &mut Ctx, conn: ConnId, stream: StreamNo, item: Item) {
        let time = ctx.client_time(self.pid);
        let Some(live) = &mut self.live else { return };
        match item {
            Item::Frame(Kind::Control, payload) => {
                let told = codec::decode(&payload).unwrap_or_else(|e| panic!("told: {e}"));
                live.told(ctx, time, told);
            }
            Item::Frame(Kind::Appended, payload) => {
                let answer = AppendAnswer::decode(payload).unwrap_or_else(|e| panic!("{e}"));
                if let Some(publisher) = &mut live.publisher {
                    publisher.answered(time, answer, &mut live.actions);
                }
            }
            item => {
                let at = (conn, stream);
                if ctx.bug == Some(Bug::OpenNumbersIgnored)
                    && let Item::Frame(Kind::Deliver, payload) = &item
                    && let Some(right) = live.every_stream.get(&at).copied()
                {
                    live.read_late(right, payload.clone()).unwrap_or_else(|e| panic!("late: {e}"));
                    return self.turn(ctx);
                }
                let Some((right, open)) = live.streams.get(&at).copied() else { return };
                let current = live.deliveries.get(&right).is_some_and(|d| d.open == open);
                match item {
                    Item::Frame(Kind::Refused, payload) => {
                        let refusal: Refusal =
                            codec::decode(&payload).unwrap_or_else(|e| panic!("{e}"));
                        live.streams.remove(&at);
                        ctx.finish(conn, End::Dialler, stream);
                        live.stream_ended(time, right, open, Some(refusal.code));
                    }
                    Item::Finish => {
                        live.streams.remove(&at);
                        ctx.finish(conn, End::Dialler, stream);
                        live.stream_ended(time, right, open, None);
                    }
                    Item::Frame(kind, payload) if current => {
                        let read = live.read(right, open, kind, payload);
                        read.unwrap_or_else(|e| panic!("a delivery stream: {e}"));
                    }
                    Item::Frame(..) => {}
                }
            }
        }
        self.turn(ctx);
    }

    /// A timer of this process.
    pub fn timer(&mut self, ctx: &mut Ctx, timer: &Timer) {
        match timer {
            Timer::Redial(to) => self.redial(ctx, *to),
            Timer::Tick => self.tick(ctx),
            Timer::Due => {
                if let Some(live) = &mut self.live {
                    live.wake_at = None;
                }
            }
            Timer::Publish => self.publish(ctx),
            Timer::Handled(hold) => self.handled(ctx, hold),
            _ => {}
        }
        self.turn(ctx);
    }

    fn redial(&mut self, ctx: &mut Ctx, to: Pid) {
        let Some(live) = &self.live else { return };
        let wanted = if to == COORDINATOR {
            live.session.is_none()
        } else {
            let link = ctx.worker_at(to).and_then(|id| live.workers.get(&id));
            link.is_some_and(|link| link.conn.is_none())
        };
        if wanted {
            ctx.dial(self.pid, to);
        }
    }

    fn tick(&mut self, ctx: &mut Ctx) {
        let at = ctx.clock.now() + 100;
        ctx.timer(self.pid, at, Timer::Tick);
        let pid = self.pid;
        let Some(live) = &mut self.live else { return };
        let Some(seat) = &mut live.seat else { return };
        let is_deaf = ctx.bug == Some(Bug::DeafHolder);
        if is_deaf {
            seat.coordinator_answered(ctx.client_time(pid));
        }
        let answered = |conn: ConnId| {
            let conn = ctx.net.conn(conn).filter(|c| c.is_open(End::Dialler));
            conn.map(|c| ctx.client_time_at(pid, c.answered))
        };
        if let Some(at) = live.session.and_then(|(conn, _)| answered(conn)) {
            seat.coordinator_answered(at);
        }
        for (right, delivery) in &live.deliveries {
            if is_deaf {
                seat.primary_answered(right, ctx.client_time(pid));
            }
            let conn = live.workers.get(&delivery.worker).and_then(|link| link.conn);
            if let Some(at) = conn.and_then(answered) {
                seat.primary_answered(right, at);
            }
        }
        if live.leave_by.is_some_and(|by| by <= ctx.clock.now()) {
            seat.finish(SeatEnd::Unfinished { rights: seat.rights().0 as u64 });
        }
    }

    /// Lets the logic decide and does what it says: what the engine does after every input.
    pub(super) fn turn(&mut self, ctx: &mut Ctx) {
        let (pid, time) = (self.pid, ctx.client_time(self.pid));
        let Some(live) = &mut self.live else { return };
        if let Some(publisher) = &mut live.publisher {
            publisher.pump(time, ctx.wall(), &mut live.actions);
        }
        for action in std::mem::take(&mut live.actions) {
            live.act(ctx, pid, action);
        }
        // An open that finds no primary makes the seat look again.
        for _ in 0..3 {
            live.take(ctx, pid, time);
            let mut actions = Vec::new();
            if let Some(seat) = &mut live.seat {
                seat.turn(time, &mut actions);
            }
            if actions.is_empty() {
                break;
            }
            for action in actions {
                live.seat_act(ctx, pid, time, action);
            }
        }
        let end = live.seat.as_ref().and_then(Seat::end).cloned();
        if let Some(end) = end {
            match &end {
                SeatEnd::Left | SeatEnd::Superseded | SeatEnd::Unfinished { .. } => {}
                SeatEnd::Refused(refusal) if refusal.code == Code::Superseded => {}
                other => {
                    let who = ctx.standing[pid].name.clone();
                    ctx.note(What::Left { who, why: format!("{other:?}") });
                }
            }
            ctx.exits.push(pid);
            return;
        }
        let publisher = live.publisher.as_ref().and_then(Publisher::next_wakeup);
        let seat = live.seat.as_ref().and_then(Seat::next_wakeup);
        if let Some(at) = publisher.into_iter().chain(seat).min() {
            let at = ctx.client_moment(pid, at).max(ctx.clock.now() + 1);
            if live.wake_at.is_none_or(|known| at < known) {
                live.wake_at = Some(at);
                ctx.timer(pid, at, Timer::Due);
            }
        }
    }

    /// What is unanswered or in hand, if anything is.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let live = self.live.as_ref()?;
        if !live.tickets.is_empty() {
            return Some(format!("{} publishes are unanswered", live.tickets.len()));
        }
        let counts = live.seat.as_ref()?.counts();
        (counts.held > 0).then(|| format!("{} messages are held", counts.held))
    }
}
