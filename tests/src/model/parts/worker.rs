//! A worker as a part of the model: the shipped host and its journal, kept as what a restart would
//! make of it. What is not durable is a list of which a crash keeps any prefix. Rights are served,
//! and acks written, as soon as they can be.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use ringway_proto::batch::{Batch, BatchBuilder};
use ringway_proto::class::Class;
use ringway_proto::control::{
    CopyFrom, CopySealed, CopyState, FromWorker, HeldCopy, HeldQueue, OpenRight, Register, ToWorker,
};
use ringway_proto::data::{AckConfirmed, Deliver, Ranges, Window};
use ringway_proto::frame::Kind;
use ringway_proto::{
    Attempt, Epoch, Incarnation, Offset, QueueId, Refusal, RightId, RoutingVersion, Sequence,
    Session, Time, Uuid, WallTime, codec,
};
use ringway_worker::logic::delivery::Frame;
use ringway_worker::logic::host::{Host, Step};
use ringway_worker::logic::hosted::CopyNext;
use ringway_worker::logic::queue::{Append, StoredBatch};
use ringway_worker::logic::slots::Routes;
use ringway_worker::logic::{Action, Rules, Selection, StreamId, Token};
use ringway_worker::records::ControlRecord;

use super::super::bugs::Bug;
use super::{Cast, Event, Link, Message, Out, Stream, name, queue, right};

/// A worker's clock stands still: nothing that it decides in the model waits.
const NOW: Time = Time(0);
const WALL: WallTime = WallTime(0);

/// What happens to a worker.
#[derive(Clone, PartialEq, Debug)]
pub enum Arrival {
    /// It starts.
    Start,
    /// It is killed; so many of the writes that are not durable are kept.
    Crash(usize),
    /// It has a connection to the coordinator.
    Connected(u8),
    /// The connection is gone.
    Disconnected,
    /// An order.
    Ordered(ToWorker),
    /// A frame of a member, or the end of its stream.
    Streamed(Stream, Message),
    /// A copy is answered: which queue, under which number, what.
    Copied(u8, u64, Answer),
    /// Everything that is written is durable.
    Synced,
    /// A producer sends this message of a queue.
    Publish(u8, u64),
}

/// What an original answers its copy.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    /// How far it is.
    State(CopyState),
    /// The next batch.
    Batch(CopyState, StoredBatch, Bytes),
    /// Everything else.
    Sealed(Box<CopySealed>),
}

/// A write that is not durable, and what follows when it is.
#[derive(Clone, Debug)]
struct Pending {
    record: Option<Write>,
    then: Then,
}

#[derive(Clone, Debug)]
enum Write {
    Batch(StoredBatch, Bytes),
    Control(QueueId, ControlRecord),
}

#[derive(Clone, Debug)]
enum Then {
    Nothing,
    Stored { token: Token, queue: QueueId, at: Offset },
    Repeat { token: Token, queue: QueueId, at: Offset },
    Tell(FromWorker),
    Held { conn: u8, held: Vec<HeldQueue>, copies: Vec<HeldCopy> },
    Copied { born: u64, batch: StoredBatch, body: Bytes },
    Confirm { stream: StreamId, confirmed: AckConfirmed },
}

type Log = BTreeMap<Offset, (StoredBatch, Bytes)>;

/// What is on a disk.
#[derive(Clone, Debug)]
struct Disk {
    /// What a restart makes of it.
    host: Host,
    logs: BTreeMap<QueueId, Log>,
}

#[derive(Clone, Debug)]
struct Live {
    host: Host,
    conn: u8,
    registered: bool,
    /// What waits for the registration to be sent.
    words: VecDeque<FromWorker>,
    batches: BTreeMap<QueueId, BTreeMap<Offset, Bytes>>,
    pending: Vec<Pending>,
    readers: BTreeMap<Stream, Reader>,
    turns: BTreeSet<RightId>,
    /// Publishes that are not answered: which queue, which of its messages.
    waiting: BTreeSet<Token>,
    fetches: BTreeMap<QueueId, (u64, String)>,
}

#[derive(Clone, Debug)]
struct Reader {
    epoch: Epoch,
    process: u8,
    /// The worker has ended it.
    ended: bool,
}

/// The process and its disk.
#[derive(Clone)]
pub struct Worker {
    index: u8,
    starts: u8,
    disk: Arc<Disk>,
    live: Option<Live>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, starts, disk, live } = self;
        write!(f, "{index} {starts} {:?} ", disk.host)?;
        for log in disk.logs.values() {
            write!(f, "{:?} ", log.values().map(|(batch, _)| batch).collect::<Vec<_>>())?;
        }
        write!(f, "{live:?}")
    }
}

/// What there is to know of a worker's copy of a queue, for the checks.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The process runs and has it open, under an epoch that was given out.
    pub open: Option<Opened>,
    /// The messages that are on its disk, by their offsets, whether it is open or a copy.
    pub log: Vec<Kept>,
    /// The disk has it as a copy that is whole, or open.
    pub is_whole: bool,
    /// What a restart finds acked: everything below the first, and these ranges.
    pub acked: Vec<(Offset, Offset)>,
}

/// A message in a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept {
    /// Where.
    pub offset: Offset,
    /// Which.
    pub number: u64,
    /// In which run of its first worker it was taken.
    pub taken: WallTime,
}

/// A queue that a worker has open.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// Its epoch.
    pub epoch: Epoch,
    /// Whether it takes nothing.
    pub sealed: Option<Attempt>,
    /// The epoch of the right to it, if that is known there.
    pub right: Option<Epoch>,
}

impl Worker {
    /// One that never ran.
    #[must_use]
    pub fn new(index: u8) -> Self {
        let disk = Disk { host: Host::new(Rules::default()), logs: BTreeMap::new() };
        Self { index, starts: 0, disk: Arc::new(disk), live: None }
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.live.is_some()
    }

    /// Whether it ever ran.
    #[must_use]
    pub fn has_run(&self) -> bool {
        self.starts > 0
    }

    /// Its connection to the coordinator, 0 for none.
    #[must_use]
    pub fn conn(&self) -> u8 {
        self.live.as_ref().map_or(0, |live| live.conn)
    }

    /// How many writes are not durable, if something waits for the disk.
    #[must_use]
    pub fn unsynced(&self) -> Option<usize> {
        let pending = &self.live.as_ref()?.pending;
        let writes = pending.iter().filter(|pending| pending.record.is_some()).count();
        (!pending.is_empty()).then_some(writes)
    }

    /// What its copies ask for, and whom.
    #[must_use]
    pub fn asks(&self) -> Vec<(u8, u64, String, CopyFrom)> {
        let Some(live) = self.live.as_ref().filter(|live| live.pending.is_empty()) else {
            return Vec::new();
        };
        let mut host = None;
        let ask = |(id, (fetch, from)): (&QueueId, &(u64, String))| {
            let host = host.get_or_insert_with(|| live.host.clone());
            let asked = host.fetch_from(*id, *fetch)?;
            Some((id.index as u8, *fetch, from.clone(), asked))
        };
        live.fetches.iter().filter_map(ask).collect()
    }

    /// What is sent next of a queue that it leads, if there is anything.
    #[must_use]
    pub fn answer(&self, cast: &Cast, asked: &CopyFrom) -> Option<Answer> {
        let live = self.live.as_ref()?;
        let log = self.disk.logs.get(&asked.queue);
        let state = live.host.queue(asked.queue)?.copy_state(log.map_or(0, |log| log.len() as u64));
        let next = match live.host.copy_next(asked) {
            CopyNext::Wait if cast.bug == Some(Bug::UnsyncedCopied) => {
                let unsynced = live.pending.iter().find_map(|pending| match &pending.record {
                    Some(Write::Batch(batch, body)) if batch.at == asked.from => {
                        Some(Answer::Batch(state, *batch, body.clone()))
                    }
                    _ => None,
                });
                return unsynced.or(Some(Answer::State(state)));
            }
            CopyNext::Wait if cast.bug == Some(Bug::OpenedBeforeSeal) => {
                // A twin is sealed in its place.
                let (mut twin, epoch) =
                    (live.host.clone(), live.host.queue(asked.queue)?.queue.epoch());
                let seal = Step::Seal { epoch, attempt: asked.attempt, only_if_empty: false };
                twin.step(NOW, asked.queue, seal, &mut Vec::new());
                twin.copy_next(asked)
            }
            next => next,
        };
        match next {
            CopyNext::Wait => Some(Answer::State(state)),
            CopyNext::Batches { .. } => {
                let (batch, body) = log?.get(&asked.from)?;
                Some(Answer::Batch(state, *batch, body.clone()))
            }
            // A seal counts only when it is on disk.
            CopyNext::Sealed(snapshot) => {
                live.pending.is_empty().then_some(Answer::Sealed(snapshot))
            }
            CopyNext::Over(_) => None,
        }
    }

    /// What there is to know of its copy of a queue.
    #[must_use]
    pub fn view(&self, index: u8) -> View {
        let id = queue(index);
        let disk = &self.disk;
        let log = disk.logs.get(&id).into_iter().flatten();
        let kept = |(at, (batch, _)): (&Offset, &(StoredBatch, Bytes))| Kept {
            offset: *at,
            number: batch.base_sequence.0,
            taken: batch.appended_at,
        };
        let mut log: Vec<Kept> = log.map(kept).collect();
        let copy = disk.host.copies().find(|(of, _)| *of == id).map(|(_, copy)| copy);
        let hosted = disk.host.queue(id);
        let whole = copy.filter(|copy| copy.is_whole()).cloned().map(|copy| copy.into_hosted());
        let kept = hosted.or(whole.as_ref());
        if hosted.is_none() && copy.is_none() {
            log.clear();
        }
        let acked = kept.and_then(|hosted| hosted.rights.get(&right(id))).map(|right| {
            let copied = right.to_copy();
            let below = (Offset(0), copied.floor);
            let above = copied.acked.into_iter().map(|range| (range.first, range.end));
            std::iter::once(below).chain(above).collect()
        });
        let live = self.live.as_ref().and_then(|live| live.host.queue(id));
        let open = live.filter(|hosted| hosted.queue.epoch() > Epoch(0)).map(|hosted| Opened {
            epoch: hosted.queue.epoch(),
            sealed: hosted.queue.sealed(),
            right: hosted.rights.get(&right(id)).map(|right| right.epoch()),
        });
        View { open, log, is_whole: kept.is_some(), acked: acked.unwrap_or_default() }
    }

    /// The next step of the process.
    ///
    /// # Panics
    /// When the replay does not accept what the logic wrote, or a frame does not decode.
    pub fn step(&mut self, cast: &Cast, arrival: &Arrival, out: &mut Out) {
        let mut actions = Vec::new();
        match arrival {
            Arrival::Start => self.start(),
            Arrival::Crash(kept) => return self.crash(*kept),
            Arrival::Connected(conn) => self.connected(cast, *conn, out),
            Arrival::Disconnected => {
                if let Some(live) = &mut self.live {
                    (live.conn, live.registered) = (0, false);
                    live.words.clear();
                }
            }
            Arrival::Ordered(order) => self.ordered(cast, order, &mut actions),
            Arrival::Streamed(stream, message) => {
                self.streamed(cast, *stream, message, &mut actions, out);
            }
            Arrival::Copied(of, fetch, answer) => {
                self.copied(queue(*of), *fetch, answer, &mut actions);
            }
            Arrival::Synced => self.synced(cast, out),
            Arrival::Publish(of, number) => self.publish(*of, *number, &mut actions, out),
        }
        self.act(cast, actions, out);
        self.turn(cast, out);
    }

    fn start(&mut self) {
        self.starts += 1;
        let host = self.disk.host.clone();
        let kept = |id: &QueueId| {
            host.queue(*id).is_some() || host.copies().any(|(copied, _)| copied == *id)
        };
        let bodies = |log: &Log| log.iter().map(|(at, (_, body))| (*at, body.clone())).collect();
        let logs = self.disk.logs.iter().filter(|(id, _)| kept(id));
        let batches = logs.map(|(id, log)| (*id, bodies(log))).collect();
        self.live = Some(Live {
            host,
            conn: 0,
            registered: false,
            words: VecDeque::new(),
            batches,
            pending: Vec::new(),
            readers: BTreeMap::new(),
            turns: BTreeSet::new(),
            waiting: BTreeSet::new(),
            fetches: BTreeMap::new(),
        });
    }

    fn crash(&mut self, kept: usize) {
        let Some(live) = self.live.take() else { return };
        for write in live.pending.into_iter().filter_map(|pending| pending.record).take(kept) {
            self.write_down(write);
        }
    }

    /// A write reached the disk.
    fn write_down(&mut self, write: Write) {
        let disk = Arc::make_mut(&mut self.disk);
        let taken = match write {
            Write::Batch(batch, body) => {
                let log = disk.logs.entry(batch.queue).or_default();
                log.insert(batch.at, (batch, body));
                disk.host.replay_batch(&batch)
            }
            Write::Control(id, record) => disk.host.replay_record(id, record).map(|removed| {
                if removed {
                    disk.logs.remove(&id);
                }
            }),
        };
        taken.unwrap_or_else(|e| panic!("worker {} does not accept its journal: {e}", self.index));
    }

    fn connected(&mut self, cast: &Cast, conn: u8, out: &mut Out) {
        let Some(live) = &mut self.live else { return };
        (live.conn, live.registered) = (conn, false);
        live.words.clear();
        // What is said at a registration has to survive a crash, a seal above all.
        let (held, copies) = (live.host.held(), live.host.held_copies());
        self.after_writes(cast, Then::Held { conn, held, copies }, out);
    }

    fn register(
        &mut self,
        cast: &Cast,
        conn: u8,
        queues: Vec<HeldQueue>,
        copies: Vec<HeldCopy>,
        out: &mut Out,
    ) {
        let incarnation = Incarnation(u64::from(self.starts));
        let index = self.index;
        let Some(live) = self.live.as_mut().filter(|live| live.conn == conn) else { return };
        let register = Register {
            worker: cast.worker(index),
            incarnation,
            journal: Uuid(u128::from(index) + 100),
            address: cast.address(index),
            http: None,
            weight: 100,
            zone: None,
            queues,
            copies,
        };
        live.registered = true;
        let words = std::mem::take(&mut live.words);
        self.tell(FromWorker::Register(register), out);
        for word in words {
            self.tell(word, out);
        }
    }

    fn tell(&mut self, word: FromWorker, out: &mut Out) {
        let Some(live) = &mut self.live else { return };
        match &word {
            FromWorker::RightRaised { right, epoch } => {
                let copy = copy_of(&live.host, right.queue);
                out.events.push(Event::Raised { queue: right.queue, epoch: *epoch, copy });
            }
            FromWorker::QueueOpened { queue, epoch } => {
                let (queue, epoch, worker) = (*queue, *epoch, self.index);
                out.events.push(Event::QueueOpened { queue, epoch, worker });
            }
            _ => {}
        }
        if live.registered {
            let link = Link::ToCoordinator { peer: self.index, conn: live.conn };
            out.sends.push((link, Message::FromWorker(word)));
        } else if live.conn > 0 {
            live.words.push_back(word);
        }
    }

    fn ordered(&mut self, cast: &Cast, order: &ToWorker, actions: &mut Vec<Action>) {
        let Some(live) = &mut self.live else { return };
        let (id, step) = match order.clone() {
            ToWorker::OpenQueue(open) => (open.queue, Step::Open(open)),
            ToWorker::SealQueue { queue, epoch, attempt, only_if_empty } => {
                (queue, Step::Seal { epoch, attempt, only_if_empty })
            }
            ToWorker::CopyQueue(copy) => (copy.queue, Step::Copy(copy)),
            ToWorker::DropCopy { queue, uuid, attempt } => {
                (queue, Step::DropCopy { uuid, attempt })
            }
            ToWorker::Unseal { queue, attempt } => (queue, Step::Unseal { attempt }),
            ToWorker::Tombstone { queue, uuid, epoch } => {
                let any = cast.bug == Some(Bug::TombstoneOfAnyEpoch);
                let above = if any { copy_of(&live.host, queue).next() } else { epoch };
                (queue, Step::Tombstone { uuid, epoch: epoch.max(above) })
            }
            ToWorker::StartSubscription { queue, setup } => (queue, Step::Start(setup)),
            ToWorker::Raise(to) => (to.right.queue, Step::Raise(to)),
            ToWorker::Revoke { right, epoch } => (right.queue, Step::Revoke { right, epoch }),
            ToWorker::RegisterRefused(refusal) => panic!("a registration is refused: {refusal}"),
            ToWorker::Superseded => panic!("a worker's only process is superseded"),
            // No group grows here, no class moves and no right is split.
            ToWorker::SealSlots { .. }
            | ToWorker::AwaitFence { .. }
            | ToWorker::FencesPassed { .. }
            | ToWorker::Split(_)
            | ToWorker::Merge(_)
            | ToWorker::Registered
            | ToWorker::Routing(_) => return,
        };
        live.host.step(NOW, id, step, actions);
    }

    fn streamed(
        &mut self,
        cast: &Cast,
        stream: Stream,
        message: &Message,
        actions: &mut Vec<Action>,
        out: &mut Out,
    ) {
        let Some(live) = &mut self.live else { return };
        let id = number(stream);
        let of = right(queue(stream.queue));
        match message {
            Message::Frame(Kind::OpenRight, payload) => {
                let mut request: OpenRight = decoded(codec::decode(payload));
                if cast.bug == Some(Bug::SameIncarnation) {
                    request.holder.incarnation = Incarnation(1);
                }
                let (epoch, process) = (request.epoch, stream.process);
                live.readers.insert(stream, Reader { epoch, process, ended: false });
                match live.host.open_right(NOW, id, &request, actions) {
                    Ok(()) => {
                        let copy = copy_of(&live.host, of.queue);
                        let acked = !request.acks.is_empty();
                        let queue = of.queue;
                        out.events.push(Event::Acted { queue, epoch, copy, process, acked });
                    }
                    Err(refusal) => {
                        actions.push(Action::Close { stream: id, refusal: Some(refusal) });
                    }
                }
            }
            Message::Frame(kind, payload) => {
                // Also what comes behind the end: it may have been read before it.
                let Some(reader) = live.readers.get(&stream).cloned() else { return };
                let frame = frame(*kind, payload);
                let mut epoch = reader.epoch;
                if cast.bug == Some(Bug::EpochIgnored)
                    && let Some(right) = live.host.right(&of)
                {
                    epoch = right.epoch();
                }
                let tally = live.host.frame(NOW, id, of, epoch, &frame, actions);
                let hosted = live.host.queue(of.queue);
                let applied = !tally.fenced && hosted.is_some_and(|hosted| !hosted.is_frozen());
                if matches!(frame, Frame::Ack(_)) && applied {
                    let copy = copy_of(&live.host, of.queue);
                    let (queue, process) = (of.queue, reader.process);
                    let epoch = reader.epoch;
                    out.events.push(Event::Acted { queue, epoch, copy, process, acked: true });
                }
            }
            _ => {
                if live.readers.remove(&stream).is_some() {
                    live.host.closed(id, of);
                }
            }
        }
    }

    fn copied(&mut self, id: QueueId, fetch: u64, answer: &Answer, actions: &mut Vec<Action>) {
        let Some(live) = &mut self.live else { return };
        match answer {
            Answer::State(state) => live.host.copy_heard(NOW, id, fetch, *state, actions),
            Answer::Batch(state, batch, body) => {
                live.host.copy_heard(NOW, id, fetch, *state, actions);
                if let Ok(Some(born)) = live.host.copy_batch(fetch, batch, actions) {
                    let then = Then::Copied { born, batch: *batch, body: body.clone() };
                    let record = Some(Write::Batch(*batch, body.clone()));
                    live.pending.push(Pending { record, then });
                }
            }
            Answer::Sealed(snapshot) => {
                // One that does not fit is asked for again.
                live.host.copy_sealed(id, fetch, CopySealed::clone(snapshot), actions).ok();
            }
        }
    }

    fn publish(&mut self, of: u8, number: u64, actions: &mut Vec<Action>, out: &mut Out) {
        let Some(live) = &mut self.live else { return };
        let id = queue(of);
        let Some(hosted) = live.host.queue(id) else { return };
        let epoch = hosted.queue.epoch();
        let token = u64::from(of) << 8 | number;
        // An epoch of 0 is that of a copy which was being opened when its worker died: no routing
        // names it. What waits already is not sent again on the same connection.
        if epoch == Epoch(0) || !live.waiting.insert(token) {
            return;
        }
        let batch = name(Batch::parse(body(number)));
        let append = Append {
            token,
            epoch,
            routing: RoutingVersion(0),
            producer: Uuid(u128::from(of) + 1000),
            session: Session(1),
            base_sequence: Sequence(number),
            count: 1,
            largest_body_bytes: 1,
            batch_bytes: 64,
            routes: Routes::of(&batch),
        };
        let before = hosted.queue.end();
        live.host.append(id, append, &batch, actions);
        if live.host.queue(id).is_some_and(|hosted| hosted.queue.end() > before) {
            out.events.push(Event::Accepted { queue: id, epoch });
        }
    }

    fn act(&mut self, cast: &Cast, actions: Vec<Action>, out: &mut Out) {
        for action in actions {
            let Some(live) = &mut self.live else { return };
            match action {
                Action::Store { token, queue, at } => self.store(token & 0xff, queue, at),
                Action::Write { queue, record } => {
                    let forgotten = matches!(
                        (cast.bug, &record),
                        (Some(Bug::RaiseNotJournaled), ControlRecord::Raised { .. })
                            | (Some(Bug::SealNotJournaled), ControlRecord::Sealed { .. })
                    );
                    if !forgotten {
                        let record = Some(Write::Control(queue, record));
                        live.pending.push(Pending { record, then: Then::Nothing });
                    }
                }
                Action::Repeat { token, at } => {
                    let (token, queue) = (token & 0xff, queue((token >> 8) as u8));
                    self.after_writes(cast, Then::Repeat { token, queue, at }, out);
                }
                Action::Tell(word) => self.after_writes(cast, Then::Tell(word), out),
                Action::Confirm { stream, confirmed } => {
                    let then = Then::Confirm { stream, confirmed };
                    if cast.bug == Some(Bug::UnsyncedConfirmed) {
                        self.follow(cast, then, out);
                    } else {
                        self.after_writes(cast, then, out);
                    }
                }
                // The producer tries again.
                Action::Refuse { token, .. } => drop(live.waiting.remove(&token)),
                Action::Late { .. } => {}
                Action::Opened { stream, opened } => {
                    let bytes = codec::encode(&opened).unwrap_or_default();
                    live.send(stream, Kind::RightOpened, bytes, out);
                }
                Action::WindowSeen { stream, window } => {
                    live.send(stream, Kind::WindowSeen, window.encode(), out);
                }
                Action::Close { stream, refusal } => live.end(stream, refusal.as_ref(), out),
                Action::Look(right) => drop(live.turns.insert(right)),
                Action::Retire(right) => drop(live.turns.remove(&right)),
                Action::Forget(queue) => drop(live.batches.remove(&queue)),
                Action::Fetch { queue, fetch, from, .. } => {
                    live.fetches.insert(queue, (fetch, from));
                }
                Action::StopFetch(queue) => drop(live.fetches.remove(&queue)),
            }
        }
    }

    fn store(&mut self, token: Token, id: QueueId, at: Offset) {
        let body = body(token);
        let batch = StoredBatch {
            queue: id,
            at,
            count: 1,
            producer: Uuid(u128::from(id.index) + 1000),
            session: Session(1),
            base_sequence: Sequence(token),
            // Tells what was taken twice, before a crash and after it, apart.
            appended_at: WallTime(u64::from(self.starts)),
            bytes: body.len() as u32,
        };
        let Some(live) = &mut self.live else { return };
        let then = Then::Stored { token, queue: id, at };
        live.pending.push(Pending { record: Some(Write::Batch(batch, body)), then });
    }

    /// Does `then` once everything that was written before is durable.
    fn after_writes(&mut self, cast: &Cast, then: Then, out: &mut Out) {
        let Some(live) = &mut self.live else { return };
        if live.pending.is_empty() {
            self.follow(cast, then, out);
        } else {
            live.pending.push(Pending { record: None, then });
        }
    }

    fn synced(&mut self, cast: &Cast, out: &mut Out) {
        let Some(live) = &mut self.live else { return };
        let round = std::mem::take(&mut live.pending);
        for pending in &round {
            if let Some(write) = pending.record.clone() {
                self.write_down(write);
            }
        }
        for pending in round {
            self.follow(cast, pending.then, out);
        }
    }

    fn follow(&mut self, cast: &Cast, then: Then, out: &mut Out) {
        let Some(live) = &mut self.live else { return };
        let mut actions = Vec::new();
        match then {
            Then::Nothing => {}
            Then::Stored { token, queue, at } => {
                live.waiting.remove(&(u64::from(queue.index) << 8 | token));
                live.batches.entry(queue).or_default().insert(at, body(token));
                let end = at.next();
                if !live.host.stored(queue, at, end, WALL, &mut actions) {
                    live.batches.remove(&queue);
                }
                out.events.push(Event::Published { queue, number: token, offset: at });
            }
            Then::Repeat { token, queue, at } => {
                live.waiting.remove(&(u64::from(queue.index) << 8 | token));
                out.events.push(Event::Published { queue, number: token, offset: at });
            }
            Then::Tell(word) => self.tell(word, out),
            Then::Held { conn, held, copies } => self.register(cast, conn, held, copies, out),
            Then::Copied { born, batch, body } => {
                if live.host.copy_stored(NOW, born, &batch, &mut actions) {
                    live.batches.entry(batch.queue).or_default().insert(batch.at, body);
                }
            }
            Then::Confirm { stream, confirmed } => {
                live.send(stream, Kind::AckConfirmed, confirmed.encode(), out);
            }
        }
        self.act(cast, actions, out);
    }

    /// What the shard does between two inputs: serves whose turn it is, writes acks down, and
    /// where the disk is at once, syncs.
    fn turn(&mut self, cast: &Cast, out: &mut Out) {
        loop {
            let Some(live) = &mut self.live else { return };
            while let Some(right) = live.turns.pop_first() {
                live.serve(right, out);
            }
            if live.host.has_unwritten() {
                let mut actions = Vec::new();
                live.host.write_acks(&mut actions);
                self.act(cast, actions, out);
                continue;
            }
            let may_sync =
                cast.sync_at_once || live.pending.iter().all(|pending| pending.record.is_none());
            if live.pending.is_empty() || !may_sync {
                return;
            }
            self.synced(cast, out);
        }
    }
}

impl Live {
    fn send(&self, stream: StreamId, kind: Kind, payload: Bytes, out: &mut Out) {
        let known = self.readers.iter().find(|(at, _)| number(**at) == stream);
        if let Some((stream, _)) = known.filter(|(_, reader)| !reader.ended) {
            out.sends.push((Link::Down(*stream), Message::Frame(kind, payload)));
        }
    }

    fn end(&mut self, stream: StreamId, refusal: Option<&Refusal>, out: &mut Out) {
        let known = self.readers.iter_mut().find(|(at, _)| number(**at) == stream);
        let Some((at, reader)) = known.filter(|(_, reader)| !reader.ended) else { return };
        reader.ended = true;
        if let Some(refusal) = refusal {
            let bytes = codec::encode(refusal).unwrap_or_default();
            out.sends.push((Link::Down(*at), Message::Frame(Kind::Refused, bytes)));
        }
        out.sends.push((Link::Down(*at), Message::Closed));
    }

    fn serve(&mut self, right: RightId, out: &mut Out) {
        while let Some(at) = self.host.wants(&right) {
            let found = self.batches.get(&right.queue).and_then(|b| b.range(..=at).next_back());
            let Some((base, bytes)) = found.map(|(base, bytes)| (*base, bytes.clone())) else {
                panic!("offset {at} of queue {} is not where it should be", right.queue);
            };
            let batch = parsed(bytes);
            if let Some(selection) = self.host.select(&right, base, &batch) {
                self.deliver(base, &batch, selection, out);
            }
            if self.host.wants(&right) == Some(at) {
                return;
            }
        }
    }

    fn deliver(&self, base: Offset, batch: &Batch, selection: Selection, out: &mut Out) {
        let Selection { stream, open, entries, runs } = selection;
        let deliver = Deliver {
            open,
            base_offset: base,
            published_at: batch.published_at(),
            classes: batch.classes().len() as u16,
            entries,
            class_table: batch.class_table(),
            records: runs.into_iter().map(|(from, to)| batch.records(from, to)).collect(),
        };
        let mut bytes = deliver.header().to_vec();
        deliver.records.iter().for_each(|records| bytes.extend_from_slice(records));
        self.send(stream, Kind::Deliver, bytes.into(), out);
    }
}

fn number(stream: Stream) -> StreamId {
    let Stream { process, worker, queue, open } = stream;
    let parts = [process, worker, queue].into_iter();
    parts.fold(u64::from(open), |n, part| n << 8 | u64::from(part))
}

fn copy_of(host: &Host, id: QueueId) -> Epoch {
    host.queue(id).map_or(Epoch(0), |hosted| hosted.queue.epoch())
}

fn decoded<T>(read: Result<T, Refusal>) -> T {
    read.unwrap_or_else(|e| panic!("a frame of the model: {e}"))
}

fn frame(kind: Kind, payload: &Bytes) -> Frame {
    let payload = payload.clone();
    match kind {
        Kind::Ack => Frame::Ack(decoded(Ranges::decode(payload))),
        Kind::HandedOut => Frame::HandedOut(decoded(Ranges::decode(payload))),
        Kind::Return => Frame::Return(decoded(Ranges::decode(payload))),
        Kind::Nack => Frame::Nack(decoded(Ranges::decode(payload))),
        Kind::Window => Frame::Window(decoded(Window::decode(payload))),
        other => panic!("a frame of kind {other:?}"),
    }
}

fn parsed(bytes: Bytes) -> Batch {
    decoded(Batch::parse(bytes))
}

/// A batch of one message, all under one key.
fn body(number: u64) -> Bytes {
    let class = name(Class::new("a"));
    let mut message = ringway_proto::message::Message::new(class, Bytes::from(format!("{number}")));
    message.key = Some(Bytes::from_static(b"k"));
    let mut builder = BatchBuilder::new();
    builder.push(&message);
    builder.finish(WALL)
}
