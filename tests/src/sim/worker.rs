//! A worker in the simulation: the shipped host of queues and the shipped replay, and an imitation
//! of the shard that drives it (mailbox, rounds of the journal, turns of deliveries) and of its
//! streams. One shard; every batch is found in memory. What talks to the coordinator is in
//! `worker_control`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use ringway_proto::batch::Batch;
use ringway_proto::control::{FromWorker, HeldCopy, HeldQueue, OpenRight};
use ringway_proto::data::{AckConfirmed, Append, AppendAnswer, Deliver, Ranges, Window};
use ringway_proto::frame::Kind;
use ringway_proto::{
    Code, Epoch, Holder, Incarnation, Offset, QueueId, Refusal, RightId, Sequence, Time, Uuid,
    WorkerId, codec,
};
use ringway_worker::journal::{FrameHeader, Kind as FrameKind};
use ringway_worker::logic::delivery::Frame;
use ringway_worker::logic::host::Host;
use ringway_worker::logic::queue::{Append as AppendHeader, StoredBatch};
use ringway_worker::logic::{Action, Rules, Selection, StreamId, Token};
use ringway_worker::records::ControlRecord;
use ringway_worker::replay::Replay;

use super::bugs::Bug;
use super::disk::{Journal, control};
use super::history::{Value, What};
use super::net::{ConnId, End, Item, StreamNo, joined};
use super::worker_control::Link;
use super::world::{Ctx, Pid, Timer};

/// The process and its disk.
#[derive(Debug)]
pub struct Worker {
    pub(super) id: WorkerId,
    pub(super) pid: Pid,
    pub(super) disk: Journal,
    pub(super) weight: u32,
    pub(super) live: Option<Live>,
}

/// What lives only while the process does.
#[derive(Debug)]
pub(super) struct Live {
    pub host: Host,
    pub link: Link,
    pub(super) batches: BTreeMap<QueueId, BTreeMap<Offset, Arc<Batch>>>,
    waiting: BTreeMap<Token, Waiting>,
    tokens: Token,
    pub(super) pending: Vec<Pending>,
    pub(super) under_way: Option<Vec<Pending>>,
    /// Delivery streams by where they lead, and the other way round.
    readers: BTreeMap<(ConnId, StreamNo), Reader>,
    streams: BTreeMap<StreamId, (ConnId, StreamNo)>,
    made: StreamId,
    turns: VecDeque<RightId>,
    timers: BTreeMap<RightId, Time>,
    wake_at: Option<u64>,
    /// What copies are asked for: the number of the question, and whom.
    pub(super) fetches: BTreeMap<QueueId, (u64, String)>,
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
}

#[derive(Debug)]
struct Waiting {
    header: Append,
    batch: Arc<Batch>,
    to: (ConnId, StreamNo),
}

#[derive(Debug)]
pub(super) struct Pending {
    pub record: Option<(FrameHeader, Bytes)>,
    pub then: Then,
}

/// What happens once everything before it is durable.
#[derive(Debug)]
pub(super) enum Then {
    Nothing,
    Cursor { right: RightId, copy: Epoch, floor: Offset },
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
        if ctx.faults && ctx.dice.percent(25) {
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
            pending: Vec::new(),
            under_way: None,
            readers: BTreeMap::new(),
            streams: BTreeMap::new(),
            made: 0,
            turns: VecDeque::new(),
            timers: BTreeMap::new(),
            wake_at: None,
            fetches: BTreeMap::new(),
            forgetful: ctx.bug == Some(Bug::DedupForgotten),
        });
        self.dial(ctx);
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
        };
        if live.forgetful {
            // A batch is known only as long as the process lives.
            let life = u128::from(ctx.standing[self.pid].life);
            let sequence = u128::from(header.base_sequence.0);
            append.producer = Uuid(header.producer.0 ^ (life << 64) ^ ((sequence + 1) << 80));
            append.base_sequence = Sequence(0);
        }
        let queue = header.queue;
        live.waiting.insert(append.token, Waiting { header, batch, to });
        live.host.append(queue, append, out);
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
        let reader = Reader { stream, right, epoch, holder: holder.clone(), ended: false };
        live.readers.insert(at, reader);
        let time = ctx.local(self.pid);
        match live.host.open_right(time, stream, &request, out) {
            Ok(()) => {
                if !request.acks.is_empty() {
                    ctx.note(What::Acked { right, epoch, holder: holder.clone() });
                }
                ctx.note(What::Opened { right, epoch, holder });
            }
            Err(refusal) => out.push(Action::Close { stream, refusal: Some(refusal) }),
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
        if reader.ended && ctx.dice.percent(50) {
            return;
        }
        let frame = decode(kind, payload).unwrap_or_else(|e| panic!("a frame: {e}"));
        let mut epoch = reader.epoch;
        if ctx.bug == Some(Bug::EpochIgnored)
            && let Some(right) = live.host.right(&reader.right)
        {
            epoch = right.epoch();
        }
        let time = ctx.local(self.pid);
        let tally = live.host.frame(time, reader.stream, reader.right, epoch, &frame, out);
        // What is heard of a queue that is sealed to be moved, or gone, is left to its next primary.
        let queue = live.host.queue(reader.right.queue);
        let applied = !tally.fenced && queue.is_some_and(|queue| !queue.is_frozen());
        if matches!(frame, Frame::Ack(_)) && applied {
            let Reader { right, epoch, holder, .. } = reader;
            ctx.note(What::Acked { right, epoch, holder });
        }
    }

    /// Carries out what the logic decided, in order.
    pub(super) fn act(&mut self, ctx: &mut Ctx, actions: Vec<Action>) {
        for action in actions {
            let Some(live) = &mut self.live else { return };
            match action {
                Action::Store { token, queue, at } => self.store(ctx, token, queue, at),
                Action::Write { queue, record } => self.write(ctx, queue, &record),
                Action::Repeat { token, at } => self.after_writes(ctx, Then::Repeat { token, at }),
                Action::Tell(event) => self.after_writes(ctx, Then::Tell(event)),
                Action::Confirm { stream, confirmed } => {
                    let then = Then::Confirm { stream, confirmed };
                    if ctx.bug == Some(Bug::UnsyncedConfirmed) {
                        self.follow(ctx, then);
                    } else {
                        self.after_writes(ctx, then);
                    }
                }
                Action::Refuse { token, refusal } => self.answer(ctx, token, Err(refusal)),
                Action::Opened { stream, opened } => {
                    let bytes = codec::encode(&opened).unwrap_or_default();
                    live.send(ctx, stream, Kind::RightOpened, bytes);
                }
                Action::WindowSeen { stream, window } => {
                    live.send(ctx, stream, Kind::WindowSeen, window.encode());
                }
                Action::Close { stream, refusal } => live.end(ctx, stream, refusal),
                Action::Look(right) => live.look(right),
                Action::Late { .. } => {}
                Action::Forget(queue) => drop(live.batches.remove(&queue)),
                Action::Fetch { queue, fetch, from, .. } => {
                    live.fetches.insert(queue, (fetch, from));
                }
                Action::StopFetch(queue) => drop(live.fetches.remove(&queue)),
            }
        }
    }

    fn store(&mut self, ctx: &mut Ctx, token: Token, queue: QueueId, at: Offset) {
        let wall = ctx.wall();
        let Some(live) = &mut self.live else { return };
        let Some(Waiting { header, batch, .. }) = live.waiting.get(&token) else { return };
        let body = batch.bytes().clone();
        let frame = FrameHeader {
            kind: FrameKind::Batch,
            queue,
            epoch: header.epoch,
            base_offset: at,
            count: header.count,
            session: header.session,
            producer: header.producer,
            sequence: header.base_sequence,
            appended_at: wall,
            body_len: body.len() as u32,
        };
        let (epoch, worker) = (header.epoch, self.id.clone());
        ctx.note(What::Accepted { queue, epoch, worker });
        let then = Then::Stored { token, queue, at };
        live.pending.push(Pending { record: Some((frame, body)), then });
        if ctx.bug == Some(Bug::UnsyncedAcked) {
            let answer = live.answer_to(token, Ok(at));
            if let Some(((conn, stream), payload)) = answer {
                ctx.send(conn, End::Acceptor, stream, Kind::Appended, payload);
            }
        }
    }

    fn write(&mut self, ctx: &mut Ctx, queue: QueueId, record: &ControlRecord) {
        let lost = match record {
            ControlRecord::Raised { .. } => Bug::RaiseNotJournaled,
            ControlRecord::Sealed { .. } => Bug::SealNotJournaled,
            _ => Bug::ActBeforeCommit,
        };
        if ctx.bug == Some(lost) && lost != Bug::ActBeforeCommit {
            return;
        }
        if let (Some(Bug::CursorReset), ControlRecord::Raised { right, .. }) = (ctx.bug, record) {
            let is_ack = |body: &[u8]| match ControlRecord::decode(body) {
                Ok(ControlRecord::Acked { right: of, .. }) => of == *right,
                _ => false,
            };
            let is_control = |header: &FrameHeader| header.kind == FrameKind::Control;
            self.disk.frames.retain(|(header, body)| !(is_control(header) && is_ack(body)));
            self.disk.sync();
        }
        let Some(live) = &mut self.live else { return };
        let epoch = live.host.queue(queue).map_or(Epoch(0), |h| h.queue.epoch());
        let body = record.encode().unwrap_or_else(|e| panic!("a record: {e}"));
        let header = control(queue, epoch, ctx.wall(), &body);
        let then = match record {
            ControlRecord::Acked { right, floor, .. } => {
                Then::Cursor { right: *right, copy: epoch, floor: *floor }
            }
            _ => Then::Nothing,
        };
        live.pending.push(Pending { record: Some((header, body)), then });
    }

    /// Does `then` once everything that was written before is durable.
    pub(super) fn after_writes(&mut self, ctx: &mut Ctx, then: Then) {
        let Some(live) = &mut self.live else { return };
        if live.pending.is_empty() && live.under_way.is_none() {
            self.follow(ctx, then);
        } else {
            live.pending.push(Pending { record: None, then });
        }
    }

    fn start_round(&mut self, ctx: &mut Ctx) {
        let Some(live) = &mut self.live else { return };
        if live.under_way.is_some() {
            return;
        }
        if live.host.has_unwritten() {
            let mut out = Vec::new();
            live.host.write_acks(&mut out);
            self.act(ctx, out);
        }
        let Some(live) = &mut self.live else { return };
        if live.pending.is_empty() {
            return;
        }
        let round = std::mem::take(&mut live.pending);
        if round.iter().all(|item| item.record.is_none()) {
            for item in round {
                self.follow(ctx, item.then);
            }
            return;
        }
        for (header, body) in round.iter().filter_map(|item| item.record.clone()) {
            self.disk.write(header, body);
        }
        live.under_way = Some(round);
        ctx.tempt(self.pid, 1);
        let rare = ctx.dice.percent(5);
        let takes = ctx.dice.between(1, if rare { 60 } else { 6 });
        let at = ctx.clock.now() + takes;
        ctx.timer(self.pid, at, Timer::Synced);
    }

    fn synced(&mut self, ctx: &mut Ctx) {
        self.disk.sync();
        let round = self.live.as_mut().and_then(|live| live.under_way.take());
        for item in round.unwrap_or_default() {
            self.follow(ctx, item.then);
        }
    }

    fn follow(&mut self, ctx: &mut Ctx, then: Then) {
        match then {
            Then::Nothing => {}
            Then::Cursor { right, copy, floor } => ctx.note(What::Cursor { right, copy, floor }),
            Then::Stored { token, queue, at } => self.stored(ctx, token, queue, at),
            Then::Repeat { token, at } => self.answer(ctx, token, Ok(at)),
            Then::Tell(event) => self.tell(ctx, event),
            Then::Held { conn, held, copies } => self.register(ctx, conn, held, copies),
            Then::Copied { born, batch, body } => self.copied(ctx, born, &batch, body),
            Then::Confirm { stream, confirmed } => {
                if let Some(live) = &self.live {
                    live.send(ctx, stream, Kind::AckConfirmed, confirmed.encode());
                }
            }
        }
    }

    fn stored(&mut self, ctx: &mut Ctx, token: Token, queue: QueueId, at: Offset) {
        let wall = ctx.wall();
        let Some(live) = &mut self.live else { return };
        let Some(waiting) = live.waiting.get(&token) else { return };
        let (count, batch) = (waiting.header.count, Arc::clone(&waiting.batch));
        for (i, value) in values(&batch).into_iter().enumerate() {
            ctx.note(What::Stored { queue, offset: Offset(at.0 + i as u64), value });
        }
        live.batches.entry(queue).or_default().insert(at, batch);
        let end = Offset(at.0 + u64::from(count));
        let mut out = Vec::new();
        if !live.host.stored(queue, at, end, wall, &mut out) {
            live.batches.remove(&queue);
        }
        self.answer(ctx, token, Ok(at));
        self.act(ctx, out);
    }

    fn answer(&mut self, ctx: &mut Ctx, token: Token, outcome: Result<Offset, Refusal>) {
        let Some(live) = &mut self.live else { return };
        if let Some(((conn, stream), payload)) = live.answer_to(token, outcome) {
            ctx.send(conn, End::Acceptor, stream, Kind::Appended, payload);
        }
        live.waiting.remove(&token);
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
            while let Some(right) = live.turns.pop_front() {
                live.serve(ctx, right);
            }
        }
        self.start_round(ctx);
        let Some(live) = &mut self.live else { return };
        if let Some(first) = live.timers.values().min() {
            let at = first.0 + ctx.standing[self.pid].started;
            if live.wake_at.is_none_or(|known| at < known) {
                live.wake_at = Some(at);
                ctx.timer(self.pid, at, Timer::Wake);
            }
        }
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

    /// Writes down every message of the queues that `is_primary` names.
    pub fn report(&self, ctx: &mut Ctx) {
        let Some(live) = &self.live else { return };
        for (queue, batches) in &live.batches {
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
    fn send(&self, ctx: &mut Ctx, stream: StreamId, kind: Kind, payload: Bytes) {
        if let Some((conn, no)) = self.streams.get(&stream) {
            ctx.send(*conn, End::Acceptor, *no, kind, payload);
        }
    }

    fn end(&mut self, ctx: &mut Ctx, stream: StreamId, refusal: Option<Refusal>) {
        let Some(at) = self.streams.remove(&stream) else { return };
        if let Some(refusal) = refusal {
            let bytes = codec::encode(&refusal).unwrap_or_default();
            ctx.send(at.0, End::Acceptor, at.1, Kind::Refused, bytes);
        }
        ctx.finish(at.0, End::Acceptor, at.1);
        if let Some(reader) = self.readers.get_mut(&at) {
            reader.ended = true;
        }
    }

    fn answer_to(
        &self,
        token: Token,
        outcome: Result<Offset, Refusal>,
    ) -> Option<((ConnId, StreamNo), Bytes)> {
        let Waiting { header, to, .. } = self.waiting.get(&token)?;
        let answer = AppendAnswer {
            queue: header.queue,
            session: header.session,
            base_sequence: header.base_sequence,
            outcome,
            routing: self.host.routing(),
        };
        Some((*to, answer.encode()))
    }

    fn look(&mut self, right: RightId) {
        if !self.turns.contains(&right) {
            self.turns.push_back(right);
        }
        self.set_timer(right);
    }

    fn set_timer(&mut self, right: RightId) {
        match self.host.right(&right).and_then(|r| r.next_wakeup()) {
            Some(at) => drop(self.timers.insert(right, at)),
            None => drop(self.timers.remove(&right)),
        }
    }

    fn serve(&mut self, ctx: &mut Ctx, right: RightId) {
        let Some(at) = self.host.wants(&right) else { return };
        let found = self.batches.get(&right.queue).and_then(|b| b.range(..=at).next_back());
        let Some((base, batch)) = found.map(|(base, batch)| (*base, Arc::clone(batch))) else {
            panic!("offset {at} of queue {} is not where it should be", right.queue);
        };
        if let Some(selection) = self.host.select(&right, base, &batch) {
            self.deliver(ctx, base, &batch, selection);
        }
        if self.host.wants(&right).is_some_and(|next| next != at) {
            self.turns.push_back(right);
        }
    }

    fn deliver(&self, ctx: &mut Ctx, base: Offset, batch: &Batch, selection: Selection) {
        let Selection { stream, open, entries, runs } = selection;
        if ctx.bug == Some(Bug::DeliveryLost) && ctx.dice.percent(2) {
            return;
        }
        let deliver = Deliver {
            open,
            base_offset: base,
            published_at: batch.published_at(),
            classes: batch.classes().len() as u16,
            entries,
            class_table: batch.class_table(),
            records: runs.into_iter().map(|(from, to)| batch.records(from, to)).collect(),
        };
        let mut parts = vec![deliver.header()];
        parts.extend(deliver.records);
        self.send(ctx, stream, Kind::Deliver, joined(&parts));
    }
}

fn decode(kind: Kind, payload: Bytes) -> Result<Frame, Refusal> {
    Ok(match kind {
        Kind::Ack => Frame::Ack(Ranges::decode(payload)?),
        Kind::HandedOut => Frame::HandedOut(Ranges::decode(payload)?),
        Kind::Return => Frame::Return(Ranges::decode(payload)?),
        Kind::Nack => Frame::Nack(Ranges::decode(payload)?),
        Kind::Window => Frame::Window(Window::decode(payload)?),
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
