//! A process of a member as a part of the model: the shipped seat, its streams, and an application
//! that takes a message and acks it. It reaches whom it dials at once, and hears everybody that it
//! is connected to: clocks that go apart are not in the model.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use ringway_client::logic::credit::Credit;
use ringway_client::logic::report::{AckOutcome, Action, Settled};
use ringway_client::logic::right::{Hold, How};
use ringway_client::logic::seat::Seat;
use ringway_proto::control::{FromClient, Join, OpenRight, Order, Start, ToClient};
use ringway_proto::data::{AckConfirmed, Deliver, Window};
use ringway_proto::frame::Kind;
use ringway_proto::routing::Router;
use ringway_proto::{
    Code, Epoch, Filter, Lanes, Offset, OpenNumber, Refusal, RightId, RoutingVersion,
    SubscriptionName, Time, codec,
};

use super::super::bugs::Bug;
use super::{Cast, Event, Link, Message, Out, Share, Stream, name, right};

/// Longer than any wait before an open is tried again, in milliseconds.
const RETRY: u64 = 501;
/// Two messages of each right may be under way.
const CREDIT: u32 = 2;

/// What happens to a member's process.
#[derive(Clone, PartialEq, Debug)]
pub enum Arrival {
    /// It starts.
    Start,
    /// It is killed.
    Kill,
    /// It has a connection to the coordinator.
    Connected(u8),
    /// It is told something, or that connection is gone.
    Told(Message),
    /// A frame of a worker, or the end of its stream.
    Streamed(Stream, Message),
    /// The application takes a message.
    Take,
    /// The application is done with the message that it took first.
    Settle,
    /// It leaves.
    Leave,
    /// The wait before the next open is over.
    Retry,
}

#[derive(Clone, Debug)]
struct Live {
    seat: Seat,
    conn: u8,
    router: Option<Arc<Router>>,
    deliveries: BTreeMap<RightId, Delivery>,
    hand: Vec<Hold>,
    tokens: BTreeMap<u64, (Share, Epoch, Offset)>,
    token: u64,
    leaving: bool,
    /// For the bug that gives up fewer lanes than it says: what it was told to keep.
    to_keep: BTreeMap<(RightId, Epoch), Lanes>,
}

#[derive(Clone, Debug)]
struct Delivery {
    open: OpenNumber,
    epoch: Epoch,
    stream: Stream,
}

/// The process; it has no disk.
#[derive(Clone)]
pub struct Member {
    process: u8,
    /// Its clock, in milliseconds.
    pub now: u64,
    has_run: bool,
    live: Option<Live>,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { process, now: _, has_run, live } = self;
        write!(f, "{process} {has_run} ")?;
        let Some(live) = live else { return Ok(()) };
        let Live { seat, conn, router, deliveries, hand, tokens, token, leaving, to_keep } = live;
        let routing = router.as_ref().map(|router| router.routing());
        write!(f, "{seat:?} {conn} {routing:?} ")?;
        write!(f, "{deliveries:?} {hand:?} {tokens:?} {token} {leaving} {to_keep:?}")
    }
}

impl Member {
    /// A process that never ran.
    #[must_use]
    pub fn new(process: u8) -> Self {
        Self { process, now: 0, has_run: false, live: None }
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.live.is_some()
    }

    /// Whether it ever ran.
    #[must_use]
    pub fn has_run(&self) -> bool {
        self.has_run
    }

    /// Its connection to the coordinator, 0 for none.
    #[must_use]
    pub fn conn(&self) -> u8 {
        self.live.as_ref().map_or(0, |live| live.conn)
    }

    /// Whether it has a seat, and means to keep it.
    #[must_use]
    pub fn stays(&self) -> bool {
        self.live.as_ref().is_some_and(|live| !live.leaving)
    }

    /// Whether it has a seat.
    #[must_use]
    pub fn is_seated(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.seat.is_seated())
    }

    /// What the application has in hand.
    #[must_use]
    pub fn hand(&self) -> &[Hold] {
        self.live.as_ref().map_or(&[], |live| &live.hand)
    }

    /// Where the opens would go for which it waits: each queue that has no stream, and the worker.
    /// None when it waits for nothing, or does not know where to go.
    #[must_use]
    pub fn waits(&self, cast: &Cast) -> Option<Vec<(u8, u8)>> {
        let live = self.live.as_ref()?;
        live.seat.next_wakeup().filter(|at| *at > Time(self.now))?;
        let router = live.router.as_ref()?;
        // Where rights are split, which of them it waits for is not looked at.
        let is_open = |queue: u8| live.deliveries.contains_key(&right(super::queue(queue)));
        let closed = |queue: &u8| cast.are_split() || !is_open(*queue);
        let goes = |queue: u8| {
            let primary = router.queue(super::queue(queue))?.primary.as_ref()?;
            Some((queue, cast.worker_index(primary)?))
        };
        (0..cast.queues).filter(closed).map(goes).collect()
    }

    /// The streams that it has.
    pub fn streams(&self) -> impl Iterator<Item = Stream> + '_ {
        self.live.iter().flat_map(|live| live.deliveries.values().map(|delivery| delivery.stream))
    }

    /// The next step of the process.
    ///
    /// # Panics
    /// For a frame that does not decode or is out of place.
    pub fn step(&mut self, cast: &Cast, arrival: &Arrival, out: &mut Out) {
        match arrival {
            Arrival::Start => {
                self.has_run = true;
                self.live = Some(Live {
                    seat: Seat::new(join(cast, self.process), credit(cast)),
                    conn: 0,
                    router: None,
                    deliveries: BTreeMap::new(),
                    hand: Vec::new(),
                    tokens: BTreeMap::new(),
                    token: 0,
                    leaving: false,
                    to_keep: BTreeMap::new(),
                });
            }
            Arrival::Kill => self.live = None,
            Arrival::Retry => self.now += RETRY,
            _ => {}
        }
        let (now, process) = (Time(self.now), self.process);
        let Some(live) = &mut self.live else { return };
        let mut run = Run { cast, process, now, out };
        match arrival {
            Arrival::Start | Arrival::Kill | Arrival::Retry => {}
            Arrival::Connected(conn) => live.connected(*conn, &mut run),
            Arrival::Told(message) => live.told(message, &mut run),
            Arrival::Streamed(stream, message) => live.streamed(*stream, message, &mut run),
            Arrival::Take => {
                if let Some((hold, _)) = live.seat.take(now) {
                    let Hold { right, epoch, offset, .. } = hold;
                    let share = cast.share_at(right.queue, offset);
                    let before = offset.0 / cast.keys.len() as u64;
                    run.out.events.push(Event::HandedOut { share, epoch, offset, before });
                    live.hand.push(hold);
                }
            }
            Arrival::Settle => live.settle(&mut run),
            Arrival::Leave => {
                live.leaving = true;
                live.seat.leave(now);
            }
        }
        live.turn(&mut run);
        if live.seat.end().is_some() {
            // The process ends with its seat; what is in hand is of no more use.
            let streams: Vec<Stream> = live.deliveries.values().map(|d| d.stream).collect();
            run.out.sends.extend(streams.into_iter().map(|s| (Link::Up(s), Message::Closed)));
            let (conn, peer) = (live.conn, cast.peer(process));
            if conn > 0 {
                run.out.hang_ups.push((peer, conn));
            }
            self.live = None;
        }
    }
}

fn credit(cast: &Cast) -> Credit {
    let messages = CREDIT * u32::from(cast.queues);
    Credit { messages, bytes: 1 << 20 }
}

fn join(cast: &Cast, process: u8) -> Join {
    let holder = cast.holder(process);
    Join {
        name: name(SubscriptionName::new("s")),
        filter: name(Filter::new(">")),
        order: Some(Order::Key),
        start: Start::Start,
        member: holder.member,
        incarnation: holder.incarnation,
        weight: cast.weight(process),
        origin: String::new(),
    }
}

/// What a step of a process needs besides its state.
struct Run<'a> {
    cast: &'a Cast,
    process: u8,
    now: Time,
    out: &'a mut Out,
}

impl Live {
    fn tell(&self, message: FromClient, run: &mut Run<'_>) {
        if self.conn > 0 {
            let link = Link::ToCoordinator { peer: run.cast.peer(run.process), conn: self.conn };
            run.out.sends.push((link, Message::FromClient(message)));
        }
    }

    fn connected(&mut self, conn: u8, run: &mut Run<'_>) {
        self.conn = conn;
        let have = self.router.as_ref().map_or(RoutingVersion(0), |router| router.version());
        self.tell(FromClient::Watch { have }, run);
        if self.router.is_some() {
            self.seat.coordinator_up();
        }
    }

    fn told(&mut self, message: &Message, run: &mut Run<'_>) {
        let Message::ToClient(message) = message else {
            self.conn = 0;
            self.seat.coordinator_down();
            return;
        };
        if let ToClient::Routing(routing) = message {
            let router = Router::new(routing.clone());
            self.routed(router.unwrap_or_else(|e| panic!("a routing: {e}")), run);
            return;
        }
        let Some(router) = self.router.clone() else { return };
        let (seat, now) = (&mut self.seat, run.now);
        let incarnation = seat.join().incarnation;
        let is_ours =
            |right: &RightId, seat: &Seat| seat.subscription() == Some(right.subscription);
        match message.clone() {
            ToClient::Routing(_) => {}
            ToClient::Narrow { right, epoch, mut to, .. } => {
                if run.cast.bug == Some(Bug::SplitOverlaps) {
                    self.to_keep.insert((right, epoch), to);
                    to.end = (to.end + to.count()).min(right.lanes.end - 1);
                }
                seat.narrow(now, right, epoch, to);
            }
            ToClient::Narrowed { right, epoch, .. } => seat.narrowed(right, epoch),
            ToClient::Joined(joined) => seat.joined(now, &joined, &router),
            ToClient::JoinRefused { refusal, .. } => seat.join_refused(now, refusal),
            ToClient::Granted { granted, .. } => {
                if is_ours(&granted.right, seat) {
                    seat.granted(now, granted, &router);
                }
            }
            ToClient::Revoke { right, epoch, member, .. } => {
                if is_ours(&right, seat) {
                    seat.revoke(now, right, epoch);
                    if run.cast.bug == Some(Bug::DrainedBeforeAcks) {
                        self.tell(FromClient::Drained { member, right, epoch }, run);
                    }
                }
            }
            ToClient::Lost { right, epoch, .. } => seat.lost(right, epoch),
            ToClient::Superseded { incarnation: of, .. } => {
                if of == incarnation {
                    seat.superseded();
                }
            }
            ToClient::Left { incarnation: of, .. } => {
                if of == incarnation {
                    seat.left();
                }
            }
        }
    }

    fn routed(&mut self, router: Router, run: &mut Run<'_>) {
        if self.router.as_ref().is_some_and(|known| known.version() >= router.version()) {
            return;
        }
        let router = Arc::new(router);
        if self.router.replace(Arc::clone(&router)).is_none() {
            self.seat.coordinator_up();
        }
        let leads = |right: &RightId| {
            let primary = router.queue(right.queue).and_then(|queue| queue.primary.clone());
            primary.and_then(|worker| run.cast.worker_index(&worker))
        };
        let moved: Vec<(RightId, OpenNumber)> = self
            .deliveries
            .iter()
            .filter(|(right, delivery)| leads(right) != Some(delivery.stream.worker))
            .map(|(right, delivery)| (*right, delivery.open))
            .collect();
        for (right, open) in moved {
            self.drop_stream(&right, run);
            self.seat.closed(run.now, &right, open, Epoch(0), None);
        }
    }

    fn drop_stream(&mut self, right: &RightId, run: &mut Run<'_>) {
        if let Some(delivery) = self.deliveries.remove(right) {
            run.out.sends.push((Link::Up(delivery.stream), Message::Closed));
        }
    }

    fn streamed(&mut self, stream: Stream, message: &Message, run: &mut Run<'_>) {
        let whole = right(super::queue(stream.queue));
        let right = whole.with(Lanes { start: stream.lane, ..Lanes::ALL });
        let open = OpenNumber(u64::from(stream.open));
        let current = self.deliveries.get(&right).filter(|d| d.stream == stream).cloned();
        let Some(Delivery { epoch, .. }) = current else { return };
        match message {
            Message::Frame(Kind::Refused, payload) => {
                let refusal: Refusal = decoded(codec::decode(payload));
                self.ended(&right, open, epoch, Some(refusal.code), run);
            }
            Message::Frame(kind, payload) => self.read(&right, open, *kind, payload, run),
            _ => self.ended(&right, open, epoch, None, run),
        }
    }

    fn ended(
        &mut self,
        right: &RightId,
        open: OpenNumber,
        epoch: Epoch,
        code: Option<Code>,
        run: &mut Run<'_>,
    ) {
        self.drop_stream(right, run);
        self.seat.closed(run.now, right, open, epoch, code);
    }

    fn read(
        &mut self,
        right: &RightId,
        open: OpenNumber,
        kind: Kind,
        payload: &Bytes,
        run: &mut Run<'_>,
    ) {
        let (seat, payload) = (&mut self.seat, payload.clone());
        match kind {
            Kind::RightOpened => {
                seat.opened(right, open);
                seat.primary_answered(right, run.now);
            }
            Kind::Deliver => {
                decoded(seat.delivered(right, &decoded(Deliver::decode(payload))));
            }
            Kind::AckConfirmed => seat.confirmed(right, decoded(AckConfirmed::decode(payload))),
            Kind::WindowSeen => {
                seat.window_seen(right, open, decoded(Window::decode(payload)).number);
            }
            other => panic!("a frame of kind {other:?}"),
        }
    }

    fn settle(&mut self, run: &mut Run<'_>) {
        if self.hand.is_empty() {
            return;
        }
        let hold = self.hand.remove(0);
        self.token += 1;
        if self.seat.settle(&hold, How::Ack, Some(self.token)) == Settled::Taken {
            let Hold { right, epoch, offset, .. } = hold;
            let share = run.cast.share_at(right.queue, offset);
            self.tokens.insert(self.token, (share, epoch, offset));
            run.out.events.push(Event::Settled { share, epoch, offset });
        }
    }

    /// What the SDK's engine does after every input.
    fn turn(&mut self, run: &mut Run<'_>) {
        if self.conn > 0 {
            self.seat.coordinator_answered(run.now);
        }
        for right in self.deliveries.keys() {
            self.seat.primary_answered(right, run.now);
        }
        for _ in 0..3 {
            let mut actions = Vec::new();
            self.seat.turn(run.now, &mut actions);
            if actions.is_empty() {
                break;
            }
            for action in actions {
                self.act(action, run);
            }
        }
        while self.seat.next_event().is_some() {}
    }

    fn act(&mut self, action: Action, run: &mut Run<'_>) {
        match action {
            Action::Tell(mut message) => {
                if let FromClient::Narrowed { right, epoch, to, .. } = &mut message
                    && let Some(told) = self.to_keep.get(&(*right, *epoch))
                {
                    *to = *told;
                }
                self.tell(message, run);
            }
            Action::Open(right, open) => self.open(right, open, run),
            Action::Send(right, frames) => {
                if let Some(delivery) = self.deliveries.get(&right) {
                    let link = Link::Up(delivery.stream);
                    let sent = frames.into_iter().map(|(kind, bytes)| Message::Frame(kind, bytes));
                    run.out.sends.extend(sent.map(|message| (link, message)));
                }
            }
            Action::Close(right) => self.drop_stream(&right, run),
            Action::Acked(outcome, tokens) => {
                for token in tokens {
                    if let Some((share, epoch, offset)) = self.tokens.remove(&token)
                        && outcome == AckOutcome::Durable
                    {
                        run.out.events.push(Event::Confirmed { share, epoch, offset });
                    }
                }
            }
        }
    }

    /// Opens a right that has this name here.
    fn open(&mut self, right: RightId, mut request: OpenRight, run: &mut Run<'_>) {
        let (open, epoch) = (request.open, request.epoch);
        self.drop_stream(&right, run);
        let route = self.router.as_ref().and_then(|router| router.queue(right.queue));
        let primary = route.and_then(|queue| queue.primary.as_ref());
        let Some(worker) = primary.and_then(|worker| run.cast.worker_index(worker)) else {
            self.seat.closed(run.now, &right, open, epoch, None);
            return;
        };
        if run.cast.bug == Some(Bug::AcksNotRepeated) {
            request.acks.clear();
            request.ack_number = 0;
        }
        let queue = right.queue.index as u8;
        let (process, lane) = (run.process, right.lanes.start);
        let stream = Stream { process, worker, queue, lane, open: open.0 as u16 };
        let bytes = decoded(codec::encode(&request));
        run.out.sends.push((Link::Up(stream), Message::Frame(Kind::OpenRight, bytes)));
        self.deliveries.insert(right, Delivery { open, epoch, stream });
    }
}

fn decoded<T>(read: Result<T, Refusal>) -> T {
    read.unwrap_or_else(|e| panic!("a frame of the model: {e}"))
}
