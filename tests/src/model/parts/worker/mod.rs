//! A worker as a part of the model: the shipped host and its journal, kept as what a restart would
//! make of it. What is not durable is a list of which a crash keeps any prefix. Rights are served,
//! and acks written, as soon as they can be. It owns the process and what the coordinator says to
//! it; streams, writes, copies and what the checks see of it are files of their own.

mod copying;
mod streams;
mod view;
mod writes;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use ringway_proto::control::{FromWorker, HeldCopy, HeldQueue, Register, ToWorker};
use ringway_proto::{Epoch, Incarnation, Offset, QueueId, Refusal, RightId, Time, Uuid, WallTime};
use ringway_worker::logic::host::Host;
use ringway_worker::logic::queue::StoredBatch;
use ringway_worker::logic::step::Step;
use ringway_worker::logic::{Action, Rules, Token};
use ringway_worker::records::ControlRecord;

pub use self::copying::Answer;
use self::streams::Reader;
pub use self::view::{Kept, Opened, View};
use self::writes::{Pending, Then, Write};
use super::super::bugs::Bug;
use super::{Cast, Event, Link, Message, Out, Stream, queue};

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

type Log = BTreeMap<Offset, (StoredBatch, Bytes)>;

/// What is on a disk.
#[derive(Clone, Debug)]
struct Disk {
    /// What a restart makes of it.
    host: Host,
    logs: BTreeMap<QueueId, Log>,
    /// All that was written, where rights are split: for the bug that forgets some of it.
    journal: Vec<Write>,
}

impl Disk {
    /// The acks of these rights are gone, whatever they are when they are read.
    fn forget_acks(&mut self, of: &[RightId]) {
        self.journal.retain(|write| match write {
            Write::Control(_, ControlRecord::Acked { right, .. }) => !of.contains(right),
            _ => true,
        });
        // All but the last, which is still to be read.
        let mut host = Host::new(Rules::default());
        for write in self.journal.iter().rev().skip(1).rev() {
            let read = match write.clone() {
                Write::Batch(batch, _) => host.replay_batch(&batch).map(drop),
                Write::Control(id, record) => host.replay_record(id, record).map(drop),
            };
            read.unwrap_or_else(|e| panic!("a journal without acks: {e}"));
        }
        self.host = host;
    }
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

impl Worker {
    /// One that never ran.
    #[must_use]
    pub fn new(index: u8) -> Self {
        let disk =
            Disk { host: Host::new(Rules::default()), logs: BTreeMap::new(), journal: Vec::new() };
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

    /// The next step of the process.
    ///
    /// # Panics
    /// When the replay does not accept what the logic wrote, or a frame does not decode.
    pub fn step(&mut self, cast: &Cast, arrival: &Arrival, out: &mut Out) {
        let mut actions = Vec::new();
        match arrival {
            Arrival::Start => self.start(),
            Arrival::Crash(kept) => return self.crash(cast, *kept),
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
            Arrival::Publish(of, number) => self.publish(cast, *of, *number, &mut actions, out),
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

    fn crash(&mut self, cast: &Cast, kept: usize) {
        let Some(live) = self.live.take() else { return };
        for write in live.pending.into_iter().filter_map(|pending| pending.record).take(kept) {
            self.write_down(cast, write);
        }
    }

    /// A write reached the disk.
    fn write_down(&mut self, cast: &Cast, write: Write) {
        let disk = Arc::make_mut(&mut self.disk);
        if cast.are_split() {
            disk.journal.push(write.clone());
            if let Write::Control(_, ControlRecord::Merged { parts, .. }) = &write
                && cast.bug == Some(Bug::MergeForgetsAcks)
            {
                disk.forget_acks(parts);
            }
        }
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
        self.tell(cast, FromWorker::Register(register), out);
        for word in words {
            self.tell(cast, word, out);
        }
    }

    fn tell(&mut self, cast: &Cast, word: FromWorker, out: &mut Out) {
        let Some(live) = &mut self.live else { return };
        match &word {
            FromWorker::RightRaised { right, epoch } => {
                let (copy, epoch) = (copy_of(&live.host, right.queue), *epoch);
                let shares = cast.shares(right.queue, right.lanes);
                out.events.extend(shares.map(|share| Event::Raised { share, epoch, copy }));
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
        let order = match order.clone() {
            ToWorker::Tombstone { queue, uuid, epoch } => {
                let any = cast.bug == Some(Bug::TombstoneOfAnyEpoch);
                let above = if any { copy_of(&live.host, queue).next() } else { epoch };
                ToWorker::Tombstone { queue, uuid, epoch: epoch.max(above) }
            }
            ToWorker::RegisterRefused(refusal) => panic!("a registration is refused: {refusal}"),
            ToWorker::Superseded => panic!("a worker's only process is superseded"),
            order => order,
        };
        let Some((id, step)) = Step::of(order) else { return };
        live.host.step(NOW, id, step, actions);
    }
}

fn copy_of(host: &Host, id: QueueId) -> Epoch {
    host.queue(id).map_or(Epoch(0), |hosted| hosted.queue.epoch())
}

fn decoded<T>(read: Result<T, Refusal>) -> T {
    read.unwrap_or_else(|e| panic!("a frame of the model: {e}"))
}
