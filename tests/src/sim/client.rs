//! A client process in the simulation: the shipped publisher or the shipped seat, and an
//! imitation of the engine and the streams that drive them. One seat or one publisher a process;
//! what the application does with it is in `workload`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use ringway_client::logic::credit::Credit;
use ringway_client::logic::lane::{Action, Outcome, Ticket};
use ringway_client::logic::publisher::Publisher;
use ringway_client::logic::report::{AckOutcome, Action as SeatAction, End as SeatEnd};
use ringway_client::logic::right::Hold;
use ringway_client::logic::seat::Seat;
use ringway_proto::control::{FromClient, Join, OpenRight, RightOpened, ToClient};
use ringway_proto::data::{AckConfirmed, AppendAnswer, Deliver, Window};
use ringway_proto::frame::Kind;
use ringway_proto::routing::{Router, Routing};
use ringway_proto::{
    Code, Epoch, Holder, Incarnation, OpenNumber, Refusal, RightId, RoutingVersion, Time, Uuid,
    WorkerId, codec,
};

use super::bugs::Bug;
use super::history::{Told, Value, What};
use super::net::{ConnId, End, Item, StreamNo, joined};
use super::workload::{Producing, Serving};
use super::world::{COORDINATOR, Ctx, Pid, Timer};

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
    wake_at: Option<u64>,
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
        let incarnation = Incarnation(ctx.standing[self.pid].started + 1);
        let seat = match &self.purpose {
            Purpose::Produce => None,
            Purpose::Serve(join) => {
                let join = Join { incarnation, ..join.clone() };
                let messages = ctx.dice.between(8, 60) as u32;
                Some(Seat::new(join, Credit { messages, bytes: 1 << 20 }))
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
            wake_at: None,
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
            && let Some(seat) = &mut live.seat
        {
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

impl Live {
    fn tell(&self, ctx: &mut Ctx, message: &FromClient) {
        if let Some((conn, stream)) = self.session {
            let bytes = codec::encode(message).unwrap_or_else(|e| panic!("{message:?}: {e}"));
            let twice = !matches!(message, FromClient::Join(_));
            ctx.say(conn, End::Dialler, stream, bytes, twice);
        }
    }

    pub(super) fn holder(&self) -> Option<Holder> {
        let join = self.seat.as_ref()?.join();
        Some(Holder { member: join.member.clone(), incarnation: join.incarnation })
    }

    /// The link to a worker, made when it is needed first.
    fn want(&mut self, ctx: &mut Ctx, pid: Pid, worker: &WorkerId) {
        if !self.workers.contains_key(worker)
            && let Some(to) = ctx.pid_of(worker)
        {
            self.workers.insert(worker.clone(), WorkerLink::default());
            ctx.dial(pid, to);
        }
    }

    /// A worker is connected: the publish stream, and what waited to be opened there.
    fn reach(&mut self, ctx: &mut Ctx, conn: ConnId, id: WorkerId) {
        let link = self.workers.entry(id.clone()).or_default();
        link.conn = Some(conn);
        if let Some(publisher) = &mut self.publisher {
            link.publish = Some(ctx.net.open_stream(conn));
            publisher.connected(id.clone());
        }
        for (right, delivery) in &mut self.deliveries {
            if delivery.worker == id && delivery.at.is_none() {
                let stream = ctx.net.open_stream(conn);
                delivery.at = Some((conn, stream));
                self.streams.insert((conn, stream), (*right, delivery.open));
                for (kind, payload) in std::mem::take(&mut delivery.waiting) {
                    ctx.send(conn, End::Dialler, stream, kind, payload);
                }
            }
        }
    }

    fn stream_ended(&mut self, time: Time, right: RightId, open: OpenNumber, code: Option<Code>) {
        let Some(delivery) = self.deliveries.get(&right).filter(|d| d.open == open) else { return };
        let epoch = delivery.epoch;
        self.deliveries.remove(&right);
        if let Some(seat) = &mut self.seat {
            seat.closed(time, &right, open, epoch, code);
        }
    }

    fn read(
        &mut self,
        right: RightId,
        open: OpenNumber,
        kind: Kind,
        payload: Bytes,
    ) -> Result<(), Refusal> {
        let Some(seat) = &mut self.seat else { return Ok(()) };
        match kind {
            Kind::RightOpened => {
                let _: RightOpened = codec::decode(&payload)?;
                seat.opened(&right, open);
            }
            Kind::Deliver => seat.delivered(&right, &Deliver::decode(payload)?)?,
            Kind::AckConfirmed => seat.confirmed(&right, AckConfirmed::decode(payload)?),
            Kind::WindowSeen => seat.window_seen(&right, open, Window::decode(payload)?.number),
            other => {
                return Err(Refusal::new(Code::Protocol, format!("a frame of kind {other:?}")));
            }
        }
        Ok(())
    }

    /// The coordinator says something.
    fn told(&mut self, ctx: &mut Ctx, time: Time, message: ToClient) {
        if let ToClient::Routing(routing) = message {
            self.routed(ctx, time, routing);
            return;
        }
        let holder = self.holder();
        let (Some(seat), Some(holder)) = (&mut self.seat, holder) else { return };
        let Some(router) = self.router.clone() else { return };
        match message {
            ToClient::Routing(_) => {}
            ToClient::Joined(joined) => {
                if joined.incarnation != holder.incarnation {
                    return;
                }
                for granted in &joined.rights {
                    let (right, epoch) = (granted.right, granted.epoch);
                    ctx.note(What::Granted { right, epoch, holder: holder.clone() });
                }
                let join = seat.join();
                let (filter, start) = (join.filter.clone(), join.start);
                let subscription = joined.subscription;
                ctx.note(What::Joined { subscription, filter, start, holder });
                seat.joined(time, &joined, &router);
            }
            ToClient::JoinRefused { refusal, .. } => seat.join_refused(time, refusal),
            ToClient::Granted { granted, .. } => {
                if seat.subscription() != Some(granted.right.subscription) {
                    return;
                }
                let (right, epoch) = (granted.right, granted.epoch);
                ctx.note(What::Granted { right, epoch, holder });
                seat.granted(time, granted, &router);
            }
            ToClient::Revoke { right, epoch, member, .. } => {
                seat.revoke(time, right, epoch);
                if ctx.bug == Some(Bug::DrainedBeforeAcks) {
                    ctx.note(What::Drained { right, epoch, member: member.clone() });
                    self.tell(ctx, &FromClient::Drained { member, right, epoch });
                }
            }
            ToClient::Lost { right, epoch, .. } => seat.lost(right, epoch),
            ToClient::Superseded { incarnation, .. } => {
                if incarnation == holder.incarnation {
                    seat.superseded();
                }
            }
            ToClient::Left { incarnation, .. } => {
                if incarnation == holder.incarnation {
                    seat.left();
                }
            }
        }
    }

    fn routed(&mut self, ctx: &mut Ctx, time: Time, routing: Routing) {
        let router = match Router::new(routing) {
            Ok(router) => Arc::new(router),
            Err(refusal) => return ctx.left("the router", &refusal),
        };
        if self.router.as_ref().is_some_and(|known| known.version() >= router.version()) {
            return;
        }
        let is_first = self.router.replace(Arc::clone(&router)).is_none();
        if let Some(seat) = self.seat.as_mut().filter(|_| is_first) {
            seat.coordinator_up();
        }
        if let Some(publisher) = &mut self.publisher {
            publisher.routing(Arc::clone(&router), &mut self.actions);
        } else if self.seat.is_none() {
            let producer = Uuid(u128::from(ctx.dice.roll()) << 64 | u128::from(ctx.dice.roll()));
            self.publisher = Some(Publisher::new(Arc::clone(&router), producer, ctx.dice.roll()));
        }
        let moved: Vec<(RightId, OpenNumber)> = self
            .deliveries
            .iter()
            .filter(|(right, d)| {
                router.queue(right.queue).and_then(|q| q.primary.as_ref()) != Some(&d.worker)
            })
            .map(|(right, d)| (*right, d.open))
            .collect();
        for (right, open) in moved {
            self.drop_stream(ctx, &right);
            if let Some(seat) = &mut self.seat {
                seat.closed(time, &right, open, Epoch(0), None);
            }
        }
    }

    fn drop_stream(&mut self, ctx: &mut Ctx, right: &RightId) {
        if let Some(delivery) = self.deliveries.remove(right)
            && let Some((conn, stream)) = delivery.at
        {
            self.streams.remove(&(conn, stream));
            ctx.finish(conn, End::Dialler, stream);
        }
    }

    fn act(&mut self, ctx: &mut Ctx, pid: Pid, action: Action) {
        match action {
            Action::Send { worker, append } => {
                let link = self.workers.get(&worker);
                if let Some((conn, stream)) = link.and_then(|l| l.conn.zip(l.publish)) {
                    let payload = joined(&[append.header(), append.batch]);
                    ctx.send(conn, End::Dialler, stream, Kind::Append, payload);
                }
            }
            Action::Done { ticket, outcome } => {
                let Some(value) = self.tickets.remove(&ticket) else { return };
                let told = match outcome {
                    Outcome::Stored { queue, offset } => Told::Stored(queue, offset),
                    Outcome::Refused(refusal) => Told::Failed(refusal.text),
                    Outcome::NotSent(cause) => Told::Failed(cause),
                    Outcome::Unknown(_) => Told::Unknown,
                };
                ctx.note(What::Published { value, told });
            }
            Action::Room(_) => {}
            Action::Refresh => {
                let have = self.router.as_ref().map_or(RoutingVersion(0), |r| r.version());
                self.tell(ctx, &FromClient::Refresh { have });
            }
            Action::Want(worker) => self.want(ctx, pid, &worker),
        }
    }

    fn seat_act(&mut self, ctx: &mut Ctx, pid: Pid, time: Time, action: SeatAction) {
        match action {
            SeatAction::Tell(message) => {
                if let FromClient::Drained { member, right, epoch } = &message {
                    let (right, epoch, member) = (*right, *epoch, member.clone());
                    ctx.note(What::Drained { right, epoch, member });
                }
                self.tell(ctx, &message);
            }
            SeatAction::Open(open) => self.open(ctx, pid, time, open),
            SeatAction::Send(right, frames) => {
                if let Some(delivery) = self.deliveries.get_mut(&right) {
                    match delivery.at {
                        None => delivery.waiting.extend(frames),
                        Some((conn, stream)) => {
                            for (kind, payload) in frames {
                                ctx.send(conn, End::Dialler, stream, kind, payload);
                            }
                        }
                    }
                }
            }
            SeatAction::Close(right) => self.drop_stream(ctx, &right),
            SeatAction::Acked(outcome, tokens) => {
                for token in tokens {
                    if let Some((right, epoch, offset)) = self.serving.tokens.remove(&token)
                        && outcome == AckOutcome::Durable
                    {
                        ctx.note(What::Confirmed { right, epoch, offset });
                    }
                }
            }
        }
    }

    fn open(&mut self, ctx: &mut Ctx, pid: Pid, time: Time, mut request: OpenRight) {
        let (right, open, epoch) = (request.right, request.open, request.epoch);
        self.drop_stream(ctx, &right);
        let route = self.router.as_ref().and_then(|router| router.queue(right.queue));
        let Some(worker) = route.and_then(|queue| queue.primary.clone()) else {
            if let Some(seat) = &mut self.seat {
                seat.closed(time, &right, open, epoch, None);
            }
            return;
        };
        if ctx.bug == Some(Bug::HeldNotListed) {
            request.held.clear();
            request.handed_out.clear();
        }
        if ctx.bug == Some(Bug::AcksNotRepeated) {
            request.acks.clear();
            request.ack_number = 0;
        }
        self.want(ctx, pid, &worker);
        let bytes = codec::encode(&request).unwrap_or_else(|e| panic!("{request:?}: {e}"));
        let conn = self.workers.get(&worker).and_then(|link| link.conn);
        let mut delivery = Delivery { open, epoch, worker, at: None, waiting: Vec::new() };
        match conn {
            Some(conn) => {
                let stream = ctx.net.open_stream(conn);
                delivery.at = Some((conn, stream));
                self.streams.insert((conn, stream), (right, open));
                ctx.send(conn, End::Dialler, stream, Kind::OpenRight, bytes);
            }
            None => delivery.waiting.push((Kind::OpenRight, bytes)),
        }
        self.deliveries.insert(right, delivery);
    }

    /// Hands messages to the application, as long as it takes some.
    fn take(&mut self, ctx: &mut Ctx, pid: Pid, time: Time) {
        let Some(holder) = self.holder() else { return };
        let Some(seat) = &mut self.seat else { return };
        while self.serving.takes_more()
            && let Some((hold, message)) = seat.take(time)
        {
            let Hold { right, epoch, offset, .. } = hold;
            let value = Value::of(&message.body);
            let holder = holder.clone();
            ctx.note(What::HandedOut { right, epoch, holder, offset, value });
            self.serving.begin(ctx, pid, hold);
        }
    }
}
