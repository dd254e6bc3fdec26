//! A worker in the simulation: the shipped host of queues and the shipped replay, and an imitation
//! of the driver around them: mailbox and streams here, rounds of the journal in `rounds`,
//! deliveries in `streams`, the coordinator's link in `control`. It has one shard.

mod control;
mod rounds;
mod streams;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use ringway_proto::batch::Batch;
use ringway_proto::control::{FromWorker, HeldCopy, HeldQueue, OpenRight};
use ringway_proto::data::{AckConfirmed, Append, OffsetRange, Ranges, Window, decode_lanes};
use ringway_proto::frame::Kind;
use ringway_proto::hash::lane_of_message;
use ringway_proto::routing::moves::Fence;
use ringway_proto::{
    Code, Epoch, Holder, Incarnation, Offset, OpenNumber, QueueId, Refusal, RightId, Sequence,
    Session, Time, Uuid, WorkerId, codec,
};
use ringway_worker::journal::{FrameHeader, Kind as FrameKind};
use ringway_worker::logic::delivery::{Frame, Right};
use ringway_worker::logic::host::Host;
use ringway_worker::logic::queue::{Append as AppendHeader, StoredBatch};
use ringway_worker::logic::rounds::{Gathered, Part};
use ringway_worker::logic::slots::{Routes, Verdict};
use ringway_worker::logic::{Action, Rules, StreamId, Token};
use ringway_worker::replay::Replay;

use self::control::Link;
use super::bugs::Bug;
use super::ctx::{Ctx, Pid, Timer};
use super::disk::Journal;
use super::faults::Faults;
use super::history::{Value, What};
use super::net::{ConnId, Item, StreamNo};

/// The process and its disk.
#[derive(Debug)]
pub struct Worker {
    pub(super) id: WorkerId,
    pub(super) pid: Pid,
    pub(super) disk: Journal,
    weight: u32,
    pub(super) live: Option<Live>,
}

/// What lives only while the process does.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) host: Host,
    link: Link,
    pub(super) batches: BTreeMap<QueueId, BTreeMap<Offset, Arc<Batch>>>,
    waiting: BTreeMap<Token, Waiting>,
    tokens: Token,
    pub(super) pending: Gathered<Pending>,
    pub(super) under_way: Option<Vec<Pending>>,
    /// There is no room for the round under way.
    finds_no_room: bool,
    /// The disk was full and is tried again then.
    retry_at: Option<u64>,
    /// Delivery streams by where they lead, and the other way round.
    readers: BTreeMap<(ConnId, StreamNo), Reader>,
    streams: BTreeMap<StreamId, (ConnId, StreamNo)>,
    made: StreamId,
    turns: VecDeque<RightId>,
    timers: BTreeMap<RightId, Time>,
    wake_at: Option<u64>,
    /// What copies are asked for: the number of the question, and whom.
    pub(super) fetches: BTreeMap<QueueId, (u64, String)>,
    /// Nothing is served until then, by the bug that stops everything for a rebalance.
    pub(super) stops_until: u64,
    /// The newest stream of each right, and its open.
    newest: BTreeMap<RightId, (StreamId, OpenNumber)>,
    /// Every fence of the newest routing, for the bugs that ignore some.
    fences: Vec<Fence>,
    /// Queues whose producers are forgotten, by the bug that forgets them.
    forgetful: bool,
}

#[derive(Clone, Debug)]
struct Reader {
    stream: StreamId,
    right: RightId,
    epoch: Epoch,
    holder: Holder,
    /// The shard has ended it.
    ended: bool,
    /// The open was refused: what comes behind it is never read.
    refused: bool,
}

#[derive(Debug)]
struct Waiting {
    header: Append,
    batch: Arc<Batch>,
    to: (ConnId, StreamNo),
}

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) record: Option<(FrameHeader, Bytes)>,
    pub(super) then: Then,
}

impl Pending {
    fn part(&self) -> Part {
        match self.then {
            Then::Stored { token, .. } => Part::Batch(token),
            Then::Copied { .. } => Part::Copied,
            Then::Repeat { token, at } => Part::Repeat(token, at),
            _ => Part::Other,
        }
    }
}

/// What happens once everything before it is durable.
#[derive(Debug)]
pub(super) enum Then {
    Nothing,
    Cursor { right: RightId, copy: Epoch, floor: Offset },
    Laid { parts: Vec<RightId>, into: Vec<RightId> },
    Stored { token: Token, queue: QueueId, at: Offset },
    Repeat { token: Token, at: Offset },
    Tell(FromWorker),
    Held { conn: ConnId, held: Vec<HeldQueue>, copies: Vec<HeldCopy> },
    Copied { born: u64, batch: StoredBatch, body: Arc<Batch> },
    Confirm { stream: StreamId, confirmed: AckConfirmed },
}

impl Worker {
    /// A worker that is down and has an empty disk.
    #[must_use]
    pub fn new(id: WorkerId, pid: Pid, journal: Uuid) -> Self {
        Self { id, pid, disk: Journal::new(journal), weight: 100, live: None }
    }

    /// Starts on what the disk has.
    ///
    /// # Panics
    /// When the replay does not accept what the logic wrote.
    pub fn start(&mut self, ctx: &mut Ctx) {
        if ctx.faults == Faults::All && ctx.dice.percent(25) {
            self.weight = ctx.dice.between(1, 4) as u32 * 50;
        }
        let mut replay = Replay::new(Rules::default());
        let mut batches: BTreeMap<QueueId, BTreeMap<Offset, Arc<Batch>>> = BTreeMap::new();
        for (header, at, body) in self.disk.replay() {
            let mut header = *header;
            if ctx.bug == Some(Bug::DedupForgotten) {
                header.producer = Uuid(header.producer.0 ^ 1);
            }
            replay.visit(&header, at, body);
            if header.kind == FrameKind::Batch {
                let batch = parsed(Bytes::copy_from_slice(body));
                batches.entry(header.queue).or_default().insert(header.base_offset, batch);
            }
        }
        let (host, _) = match replay.finish() {
            Ok(state) => state,
            Err(refusal) => panic!("worker {} does not accept its journal: {refusal}", self.id),
        };
        for (_, hosted) in host.queues() {
            let copy = hosted.queue.epoch();
            for (right, state) in &hosted.rights {
                ctx.note(What::Cursor { right: *right, copy, floor: state.floor() });
            }
        }
        let is_copy = |queue| host.copies().any(|(id, _)| id == queue);
        batches.retain(|queue, _| host.queue(*queue).is_some() || is_copy(*queue));
        self.live = Some(Live {
            host,
            link: Link::default(),
            batches,
            waiting: BTreeMap::new(),
            tokens: 0,
            pending: Gathered::default(),
            under_way: None,
            finds_no_room: false,
            retry_at: None,
            readers: BTreeMap::new(),
            streams: BTreeMap::new(),
            made: 0,
            turns: VecDeque::new(),
            timers: BTreeMap::new(),
            wake_at: None,
            fetches: BTreeMap::new(),
            stops_until: 0,
            newest: BTreeMap::new(),
            fences: Vec::new(),
            forgetful: ctx.bug == Some(Bug::DedupForgotten),
        });
        self.dial(ctx);
    }

    /// The process is asked to end: what it has decided becomes durable first.
    pub fn flush(&mut self, ctx: &mut Ctx) {
        let is_busy = |worker: &Self| worker.live.as_ref().is_some_and(|l| l.under_way.is_some());
        while is_busy(self) && self.disk.full.is_none() {
            self.synced(ctx);
            self.start_round(ctx);
        }
    }

    /// The process is killed.
    pub fn crash(&mut self, ctx: &mut Ctx) {
        if self.live.take().is_some() {
            self.disk.crash(&mut ctx.dice);
        }
    }

    /// A timer of this process.
    pub fn timer(&mut self, ctx: &mut Ctx, timer: &Timer) {
        match timer {
            Timer::Synced => self.synced(ctx),
            Timer::Wake => {
                if let Some(live) = &mut self.live {
                    live.wake_at = None;
                }
            }
            Timer::Redial(_) => self.dial(ctx),
            _ => {}
        }
        self.turn(ctx);
    }

    /// A frame, or the end, of a stream that a client opened.
    pub fn arrived(&mut self, ctx: &mut Ctx, conn: ConnId, stream: StreamNo, item: Item) {
        let mut out = Vec::new();
        match item {
            Item::Frame(Kind::Append, payload) => {
                self.append(ctx, (conn, stream), payload, &mut out)
            }
            Item::Frame(Kind::OpenRight, payload) => {
                self.open(ctx, (conn, stream), &payload, &mut out);
            }
            Item::Frame(kind, payload) => {
                self.frame(ctx, (conn, stream), kind, payload, &mut out);
            }
            Item::Finish => self.ended(conn, stream),
        }
        self.act(ctx, out);
        self.turn(ctx);
    }

    /// A client's connection is gone, and every stream of it.
    pub fn client_gone(&mut self, ctx: &mut Ctx, conn: ConnId) {
        let Some(live) = &mut self.live else { return };
        let gone: Vec<StreamNo> =
            live.readers.range((conn, 0)..=(conn, u32::MAX)).map(|((_, no), _)| *no).collect();
        for stream in gone {
            self.ended(conn, stream);
        }
        self.turn(ctx);
    }

    fn ended(&mut self, conn: ConnId, stream: StreamNo) {
        let Some(live) = &mut self.live else { return };
        if let Some(reader) = live.readers.remove(&(conn, stream)) {
            live.host.closed(reader.stream, reader.right);
            live.streams.remove(&reader.stream);
        }
    }

    fn append(&mut self, ctx: &Ctx, to: (ConnId, StreamNo), payload: Bytes, out: &mut Vec<Action>) {
        let Some(live) = &mut self.live else { return };
        let mut header = Append::decode(payload).unwrap_or_else(|e| panic!("an append: {e}"));
        let batch = parsed(std::mem::take(&mut header.batch));
        let bodies = (0..batch.len()).filter_map(|i| batch.message(i).ok());
        live.tokens += 1;
        let mut append = AppendHeader {
            token: live.tokens,
            epoch: header.epoch,
            routing: header.routing,
            producer: header.producer,
            session: header.session,
            base_sequence: header.base_sequence,
            count: header.count,
            largest_body_bytes: bodies.map(|m| m.body.len()).max().unwrap_or(0),
            batch_bytes: batch.bytes().len(),
            routes: Routes::default(),
        };
        if live.forgetful {
            // A batch is known only as long as the process lives.
            let life = u128::from(ctx.standing[self.pid].life);
            let sequence = u128::from(header.base_sequence.0);
            append.producer = Uuid(header.producer.0 ^ (life << 64) ^ ((sequence + 1) << 80));
            append.base_sequence = Sequence(0);
        }
        if ctx.bug == Some(Bug::SessionsIgnored) {
            append.session = Session(1);
        }
        let queue = header.queue;
        if ctx.bug == Some(Bug::SlotsBeforeDedup)
            && let Some(hosted) = live.host.queue(queue)
            && let routes = Routes::of(&batch)
            && let Verdict::Elsewhere(_) = hosted.queue.slots.judge(queue, &routes, None)
        {
            let refusal = Refusal::new(Code::StaleRouting, "its slot has moved");
            out.push(Action::Refuse { token: append.token, refusal });
            live.waiting.insert(append.token, Waiting { header, batch, to });
            return;
        }
        let waiting = Waiting { header, batch: Arc::clone(&batch), to };
        live.waiting.insert(append.token, waiting);
        live.host.append(queue, append, &batch, out);
    }

    fn open(
        &mut self,
        ctx: &mut Ctx,
        at: (ConnId, StreamNo),
        payload: &[u8],
        out: &mut Vec<Action>,
    ) {
        let Some(live) = &mut self.live else { return };
        let mut request: OpenRight =
            codec::decode(payload).unwrap_or_else(|e| panic!("an open: {e}"));
        let (right, epoch, holder) = (request.right, request.epoch, request.holder.clone());
        if ctx.bug == Some(Bug::SameIncarnation) {
            request.holder.incarnation = Incarnation(1);
        }
        live.made += 1;
        let stream = live.made;
        live.streams.insert(stream, at);
        let reader =
            Reader { stream, right, epoch, holder: holder.clone(), ended: false, refused: false };
        live.readers.insert(at, reader);
        let time = ctx.local(self.pid);
        // The acks of an open that waits for a seal are not applied now, and perhaps never here.
        let waits = live.host.queue(right.queue).is_some_and(|queue| queue.is_frozen());
        match live.host.open_right(time, stream, &request, out) {
            Ok(()) => {
                live.newest.insert(right, (stream, request.open));
                if !request.acks.is_empty() && !waits {
                    let lanes = live.lanes_of(right.queue, &request.acks);
                    ctx.note(What::Acked { right, epoch, holder, lanes });
                }
            }
            Err(refusal) => {
                if let Some(reader) = live.readers.get_mut(&at) {
                    reader.refused = true;
                }
                out.push(Action::Close { stream, refusal: Some(refusal) });
            }
        }
    }

    fn frame(
        &mut self,
        ctx: &mut Ctx,
        at: (ConnId, StreamNo),
        kind: Kind,
        payload: Bytes,
        out: &mut Vec<Action>,
    ) {
        let Some(live) = &mut self.live else { return };
        let Some(reader) = live.readers.get(&at).cloned() else { return };
        // What comes behind the end was read before it, or is not read at all.
        if reader.refused || reader.ended && ctx.dice.percent(50) {
            return;
        }
        let frame = decode(kind, payload).unwrap_or_else(|e| panic!("a frame: {e}"));
        let mut epoch = reader.epoch;
        if ctx.bug == Some(Bug::EpochIgnored)
            && let Some(right) = live.host.right(&reader.right)
        {
            epoch = right.epoch();
        }
        let (mut frame, mut stream) = (frame, reader.stream);
        if ctx.bug == Some(Bug::OpenNumbersIgnored)
            && let Some((newest, open)) = live.newest.get(&reader.right)
        {
            stream = *newest;
            if let Frame::HandedOut(r) | Frame::Return(r) | Frame::Nack(r) = &mut frame {
                r.open = *open;
            }
        }
        let time = ctx.local(self.pid);
        let said = out.len();
        let mut tally = live.host.frame(time, stream, reader.right, epoch, &frame, out);
        if ctx.bug == Some(Bug::ForeignAckTaken)
            && let Frame::Ack(acks) = &frame
            && tally.fenced
            && live.current(&reader.right).is_some_and(|right| right.epoch() == epoch)
        {
            // As if it counted: it is confirmed like any other.
            out.truncate(said);
            tally.fenced = false;
            let confirmed = AckConfirmed { open: acks.open, number: acks.number };
            out.push(Action::Confirm { stream, confirmed });
        }
        // What is heard of a queue that is sealed to be moved, or gone, is left to its next primary.
        let queue = live.host.queue(reader.right.queue);
        let applied = !tally.fenced && queue.is_some_and(|queue| !queue.is_frozen());
        if let Frame::Ack(acks) = &frame
            && applied
        {
            let lanes = live.lanes_of(reader.right.queue, &acks.ranges);
            let Reader { right, epoch, holder, .. } = reader;
            let right = live.current(&right).map_or(right, |right| right.id());
            ctx.note(What::Acked { right, epoch, holder, lanes });
        }
    }

    /// Lets timers go off, serves the rights whose turn it is, and gives the journal what has
    /// been gathered: what the shard does between two inputs.
    pub(super) fn turn(&mut self, ctx: &mut Ctx) {
        let time = ctx.local(self.pid);
        let Some(live) = &mut self.live else { return };
        let due: Vec<RightId> =
            live.timers.iter().filter(|(_, at)| **at <= time).map(|(right, _)| *right).collect();
        for right in due {
            let mut out = Vec::new();
            if let Some(live) = &mut self.live {
                live.host.wake(time, &right, &mut out);
                live.set_timer(right);
            }
            self.act(ctx, out);
        }
        if let Some(live) = &mut self.live {
            while live.stops_until <= ctx.clock.now()
                && let Some(right) = live.turns.pop_front()
            {
                live.serve(ctx, right);
            }
        }
        self.start_round(ctx);
        let Some(live) = &mut self.live else { return };
        if let Some(first) = live.timers.values().min() {
            let at = ctx.moment(self.pid, *first);
            if live.wake_at.is_none_or(|known| at < known) {
                live.wake_at = Some(at);
                ctx.timer(self.pid, at, Timer::Wake);
            }
        }
    }

    /// Writes down that a right is open on this stream.
    fn note_opened(&self, ctx: &mut Ctx, stream: StreamId) {
        let Some(live) = &self.live else { return };
        let reader = live.streams.get(&stream).and_then(|at| live.readers.get(at));
        let Some(Reader { right, epoch, holder, .. }) = reader.cloned() else { return };
        let copy = self.copy_of(right.queue);
        ctx.note(What::Opened { right, copy, epoch, holder });
    }

    /// The epoch of its copy of a queue.
    fn copy_of(&self, queue: QueueId) -> Epoch {
        let hosted = self.live.as_ref().and_then(|live| live.host.queue(queue));
        hosted.map_or(Epoch(0), |hosted| hosted.queue.epoch())
    }

    /// Which messages are not acked, if any is not.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let Some(live) = &self.live else { return Some(format!("worker {} is down", self.id)) };
        let behind = live.host.states().into_iter().find(|s| s.lag.lag_messages > 0)?;
        let (lag, flight) = (behind.lag.lag_messages, behind.lag.in_flight_messages);
        let (who, floor) = (behind.lag.member, behind.lag.floor);
        let (name, queue) = (behind.subscription, behind.queue);
        Some(format!(
            "{name} is {lag} messages behind at {queue} of {}: floor {floor}, {flight} in flight, \
             held by {who:?}",
            self.id
        ))
    }

    /// Writes down every message of the queues that it leads: a sealed one that was left behind
    /// may still wait for its tombstone.
    pub fn report(&self, ctx: &mut Ctx) {
        let Some(live) = &self.live else { return };
        let leads = |queue| live.host.queue(queue).is_some_and(|hosted| !hosted.is_frozen());
        for (queue, batches) in live.batches.iter().filter(|(queue, _)| leads(**queue)) {
            for (base, batch) in batches {
                for (i, value) in values(batch).into_iter().enumerate() {
                    let offset = Offset(base.0 + i as u64);
                    ctx.note(What::InLog { queue: *queue, offset, value });
                }
            }
        }
    }
}

impl Live {
    /// The lanes of the messages in these ranges.
    fn lanes_of(&self, queue: QueueId, ranges: &[OffsetRange]) -> Vec<u16> {
        let mut lanes = Vec::new();
        for at in ranges.iter().flat_map(|range| range.offsets()) {
            let batches = self.batches.get(&queue);
            let Some((base, batch)) = batches.and_then(|b| b.range(..=at).next_back()) else {
                continue;
            };
            let index = (at.0 - base.0) as usize;
            if index < batch.len() {
                lanes.push(lane_of_message(batch.key(index), at));
            }
        }
        lanes
    }

    /// What has become of the right that a stream was opened for.
    fn current(&self, right: &RightId) -> Option<&Right> {
        let id = self.host.queue(right.queue)?.at(right)?;
        self.host.right(&id)
    }
}

fn decode(kind: Kind, payload: Bytes) -> Result<Frame, Refusal> {
    Ok(match kind {
        Kind::Ack => Frame::Ack(Ranges::decode(payload)?),
        Kind::HandedOut => Frame::HandedOut(Ranges::decode(payload)?),
        Kind::Return => Frame::Return(Ranges::decode(payload)?),
        Kind::Nack => Frame::Nack(Ranges::decode(payload)?),
        Kind::Window => Frame::Window(Window::decode(payload)?),
        Kind::Narrow => Frame::Narrow(decode_lanes(payload)?),
        other => return Err(Refusal::new(Code::Protocol, format!("a frame of kind {other:?}"))),
    })
}

pub(super) fn parsed(bytes: Bytes) -> Arc<Batch> {
    Arc::new(Batch::parse(bytes).unwrap_or_else(|e| panic!("a batch: {e}")))
}

fn values(batch: &Batch) -> Vec<Option<Value>> {
    let value = |i| batch.message(i).ok().and_then(|m| Value::of(&m.body));
    (0..batch.len()).map(value).collect()
}
