//! One queue as a publisher sees it: what waits, what is unanswered, and in which session. It
//! promises that a batch is only ever retried at this queue under its first sequence, until the
//! queue itself refuses it, and that a refusal is acted on only when everything before it is
//! answered. It does not know how a message finds its queue.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use ringway_proto::batch::{Batch, BatchBuilder};
use ringway_proto::data::{Append, AppendAnswer};
use ringway_proto::hash::slot_of;
use ringway_proto::limits::{BATCH_TARGET_BYTES, MAX_IN_FLIGHT_BATCHES};
use ringway_proto::message::Message;
use ringway_proto::{
    Class, Code, Epoch, Offset, ProducerId, QueueId, Refusal, RoutingVersion, Sequence, Session,
    Slot, Time, WallTime, WorkerId,
};

/// Names one publish between the SDK's handles and its thread.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// A message on its way.
#[derive(Clone, PartialEq, Debug)]
pub struct Item {
    /// Who asked.
    pub ticket: Ticket,
    /// What is published.
    pub message: Message,
    /// What it counts against the bytes in flight.
    pub bytes: u32,
    /// When the publisher gives it up.
    pub deadline: Time,
}

impl Item {
    /// The slot that the message is bound to by its key or id.
    #[must_use]
    pub fn slot(&self) -> Option<Slot> {
        self.message.routing_key().map(|key| slot_of(key))
    }
}

/// What became of a publish.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is stored.
    Stored {
        /// The queue.
        queue: QueueId,
        /// Its offset there.
        offset: Offset,
    },
    /// It was refused, for good or until its deadline.
    Refused(Refusal),
    /// The deadline passed before it was sent.
    NotSent(String),
    /// It was sent and an answer is missing.
    Unknown(String),
}

/// What the publishing side wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Send this append on the publish stream of that worker.
    Send {
        /// The primary.
        worker: WorkerId,
        /// The batch.
        append: Append,
    },
    /// Tell the caller.
    Done {
        /// Which publish.
        ticket: Ticket,
        /// What became of it.
        outcome: Outcome,
    },
    /// So many bytes are no longer in flight.
    Room(u64),
    /// Ask the coordinator for a newer routing.
    Refresh,
    /// Keep a connection to this worker.
    Want(WorkerId),
}

/// What a lane says at the end of a step.
#[derive(Default, Debug)]
pub struct Out {
    /// What is to be done.
    pub actions: Vec<Action>,
    /// The slots of messages that left this queue, once for each message.
    pub left: Vec<Slot>,
}

impl Out {
    fn done(&mut self, ticket: Ticket, outcome: Outcome) {
        self.actions.push(Action::Done { ticket, outcome });
    }

    fn leave(&mut self, bytes: u32, slot: Option<Slot>) {
        match self.actions.last_mut() {
            Some(Action::Room(n)) => *n += u64::from(bytes),
            _ => self.actions.push(Action::Room(u64::from(bytes))),
        }
        self.left.extend(slot);
    }
}

/// Where a lane's batches go now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The connected primary.
    pub worker: WorkerId,
    /// The queue's epoch.
    pub epoch: Epoch,
    /// The routing that says so.
    pub routing: RoutingVersion,
}

/// The first and the longest wait before a refused batch is tried again.
pub const BACK_OFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// As [`BACK_OFF`], after `NotYet`: the queue is about to open where it was asked for.
const NOT_YET: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(500));

/// How much later than its deadline a message that was refused before is given up, while the
/// answer to its last copy is on its way: that answer says whether it is stored.
pub const LAST_ANSWER: Duration = Duration::from_millis(500);

/// The wait after this many failures in a row, doubling from the first to the longest.
#[must_use]
pub fn back_off(failures: u32) -> Duration {
    doubling(BACK_OFF, failures)
}

/// The same after a refusal with this code.
fn back_off_after(code: Code, failures: u32) -> Duration {
    doubling(if code == Code::NotYet { NOT_YET } else { BACK_OFF }, failures)
}

fn doubling((first, longest): (Duration, Duration), failures: u32) -> Duration {
    first.saturating_mul(1 << failures.min(10)).min(longest)
}

#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    bytes: u32,
    deadline: Time,
    slot: Option<Slot>,
    /// The caller has been told "unknown"; the batch goes on so that the sequence holds.
    told: bool,
}

#[derive(Debug)]
struct Flight {
    base: Sequence,
    batch: Bytes,
    waiting: Vec<Waiting>,
    /// Sent in this session.
    sent: bool,
    /// Copies on their way: session and base sequence of each that may still be answered.
    copies: Vec<(Session, Sequence)>,
    /// A copy will never be answered, so nobody knows whether it is stored.
    lost: bool,
    /// Why it is not stored yet, as the queue said it last.
    refusal: Option<Refusal>,
}

impl Flight {
    fn new(base: Sequence, batch: Bytes, waiting: Vec<Waiting>) -> Self {
        let (copies, lost, refusal) = (Vec::new(), false, None);
        Self { base, batch, waiting, sent: false, copies, lost, refusal }
    }

    /// Whether every copy was answered, and refused: it is not stored, and never will be unless
    /// it is sent again.
    fn is_refused(&self) -> bool {
        self.copies.is_empty() && !self.lost
    }

    /// One copy was refused.
    fn note_refusal(&mut self, copy: (Session, Sequence), refusal: &Refusal) {
        let Some(at) = self.copies.iter().position(|c| *c == copy) else { return };
        self.copies.swap_remove(at);
        // What could not be written or synced may be on the disk all the same.
        self.lost |= refusal.code == Code::DiskFailed;
        self.refusal.get_or_insert_with(|| refusal.clone());
    }

    /// When the caller of this message is told at the latest.
    fn told_by(&self, deadline: Time) -> Time {
        let is_awaited = self.refusal.is_some() && !self.copies.is_empty() && !self.lost;
        if is_awaited { deadline + LAST_ANSWER } else { deadline }
    }

    /// Takes what is late out of a batch that is not stored; says how many messages that were.
    fn drop_late(&mut self, now: Time, cause: &str, out: &mut Out) -> u64 {
        if !self.is_refused() || self.waiting.iter().all(|w| w.deadline > now) {
            return 0;
        }
        let Ok(batch) = Batch::parse(self.batch.clone()) else { return 0 };
        let mut builder = BatchBuilder::new();
        let mut rest = Vec::new();
        let before = self.waiting.len();
        for (i, w) in std::mem::take(&mut self.waiting).into_iter().enumerate() {
            // A batch of our own always parses.
            if let Ok(message) = batch.message(i)
                && w.deadline > now
            {
                builder.push(&message);
                rest.push(w);
                continue;
            }
            if !w.told {
                out.done(
                    w.ticket,
                    match &self.refusal {
                        Some(refusal) => Outcome::Refused(refusal.clone()),
                        None => Outcome::NotSent(cause.to_owned()),
                    },
                );
            }
            out.leave(w.bytes, w.slot);
        }
        if !rest.is_empty() {
            self.batch = builder.finish(batch.published_at());
        }
        self.waiting = rest;
        (before - self.waiting.len()) as u64
    }
}

#[derive(Debug)]
struct Refused {
    base: Sequence,
    refusal: Refusal,
    routing: RoutingVersion,
}

/// One queue's publishes.
#[derive(Debug)]
pub struct Lane {
    queue: QueueId,
    producer: ProducerId,
    session: Session,
    next: Sequence,
    pending: VecDeque<Item>,
    pending_bytes: usize,
    flight: VecDeque<Flight>,
    at: Option<(WorkerId, Epoch)>,
    refused: Option<Refused>,
    stale: Option<(Epoch, RoutingVersion)>,
    retry_at: Option<Time>,
    failures: u32,
    /// What was in the way last; empty when nothing was.
    cause: String,
}

impl Lane {
    /// An empty lane of a producer.
    #[must_use]
    pub fn new(queue: QueueId, producer: ProducerId) -> Self {
        Self {
            queue,
            producer,
            session: Session(1),
            next: Sequence(0),
            pending: VecDeque::new(),
            pending_bytes: 0,
            flight: VecDeque::new(),
            at: None,
            refused: None,
            stale: None,
            retry_at: None,
            failures: 0,
            cause: String::new(),
        }
    }

    /// Whether nothing waits and nothing is unanswered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.flight.is_empty()
    }

    /// Whether a message without a key may still join what is being gathered here.
    #[must_use]
    pub fn is_gathering(&self) -> bool {
        !self.pending.is_empty() && self.pending_bytes < BATCH_TARGET_BYTES
    }

    /// When to pump again without any other cause.
    #[must_use]
    pub fn retry_at(&self) -> Option<Time> {
        if self.is_empty() { None } else { self.retry_at }
    }

    /// The earliest deadline of what has not been told yet.
    #[must_use]
    pub fn earliest_deadline(&self) -> Option<Time> {
        let untold = |f: &Flight| {
            let deadlines = f.waiting.iter().filter(|w| !w.told).map(|w| w.deadline);
            deadlines.min().map(|deadline| f.told_by(deadline))
        };
        let sent = self.flight.iter().filter_map(untold);
        self.pending.iter().map(|i| i.deadline).chain(sent).min()
    }

    /// Takes one more message behind all others.
    pub fn push(&mut self, item: Item) {
        self.pending_bytes += item.bytes as usize;
        self.pending.push_back(item);
    }

    /// Sends what may go now: first what has to be repeated, in order, then new batches: full
    /// ones, or all that has piled up when nothing is unanswered.
    pub fn pump(&mut self, now: Time, wall: WallTime, to: &Target, out: &mut Out) {
        let at = (to.worker.clone(), to.epoch);
        if self.at.as_ref().is_some_and(|before| *before != at) {
            self.new_session();
        }
        self.at = Some(at);
        if self.refused.is_some() || self.retry_at.is_some_and(|at| now < at) {
            return;
        }
        self.retry_at = None;
        let mut open = self.flight.iter().filter(|f| f.sent).count();
        loop {
            for flight in self.flight.iter_mut().filter(|f| !f.sent) {
                if open >= MAX_IN_FLIGHT_BATCHES {
                    return;
                }
                flight.sent = true;
                if !flight.lost {
                    flight.copies.push((self.session, flight.base));
                }
                // The refusal is no longer the last word: the queue is asked again.
                self.stale = None;
                open += 1;
                let append = Append {
                    queue: self.queue,
                    epoch: to.epoch,
                    routing: to.routing,
                    producer: self.producer,
                    session: self.session,
                    base_sequence: flight.base,
                    count: flight.waiting.len() as u32,
                    batch: flight.batch.clone(),
                };
                out.actions.push(Action::Send { worker: to.worker.clone(), append });
            }
            let full = self.pending_bytes >= BATCH_TARGET_BYTES;
            let due = !self.pending.is_empty() && (full || self.flight.is_empty());
            if !due || open >= MAX_IN_FLIGHT_BATCHES {
                return;
            }
            self.close_batch(wall);
        }
    }

    /// Makes a batch of the oldest pending messages: as many as fit, at least one.
    fn close_batch(&mut self, wall: WallTime) {
        let mut builder = BatchBuilder::new();
        let mut waiting = Vec::new();
        while let Some(item) = self.pending.front() {
            let fits = builder.bytes() + item.bytes as usize <= BATCH_TARGET_BYTES
                && builder.has_room_for(&item.message);
            if !fits && !builder.is_empty() {
                break;
            }
            builder.push(&item.message);
            self.pending_bytes -= item.bytes as usize;
            waiting.push(Waiting {
                ticket: item.ticket,
                bytes: item.bytes,
                deadline: item.deadline,
                slot: item.slot(),
                told: false,
            });
            self.pending.pop_front();
        }
        let base = self.next;
        self.next = Sequence(base.0 + waiting.len() as u64);
        self.flight.push_back(Flight::new(base, builder.finish(wall), waiting));
    }

    /// There is nobody to send to: nothing is tried before that changes.
    pub fn wait_for_primary(&mut self, why: impl FnOnce() -> String) {
        self.retry_at = None;
        if self.cause.is_empty() {
            self.cause = why();
        }
    }

    fn cause(&self) -> String {
        match self.cause.as_str() {
            "" => "the queue has not answered what came before it".into(),
            cause => cause.into(),
        }
    }

    /// The stream to the primary was lost: everything unanswered goes again, in a new session.
    pub fn disconnected(&mut self, worker: &WorkerId, cause: &str) {
        if self.at.as_ref().is_some_and(|(at, _)| at == worker) {
            self.cause = cause.to_owned();
            self.at = None;
            self.retry_at = None;
            for flight in &mut self.flight {
                // An older copy may still arrive, or be stored already.
                flight.lost |= !flight.copies.is_empty();
                flight.copies.clear();
            }
            self.new_session();
        }
    }

    fn new_session(&mut self) {
        self.session = self.session.next();
        self.refused = None;
        for flight in &mut self.flight {
            flight.sent = false;
        }
    }

    /// An answer of the queue. Answers to older sessions, and to nobody, are ignored, except that
    /// a refusal says of its copy that it is not stored.
    pub fn answered(&mut self, now: Time, answer: AppendAnswer, out: &mut Out) {
        if let Err(refusal) = &answer.outcome {
            for flight in &mut self.flight {
                flight.note_refusal((answer.session, answer.base_sequence), refusal);
            }
        }
        if answer.session != self.session {
            return;
        }
        let Some(at) = self.flight.iter().position(|f| f.base == answer.base_sequence && f.sent)
        else {
            return;
        };
        match answer.outcome {
            Ok(offset) => {
                self.failures = 0;
                self.cause.clear();
                if let Some(flight) = self.flight.remove(at) {
                    for (i, w) in flight.waiting.into_iter().enumerate() {
                        if !w.told {
                            let offset = Offset(offset.0 + i as u64);
                            out.done(w.ticket, Outcome::Stored { queue: self.queue, offset });
                        }
                        out.leave(w.bytes, w.slot);
                    }
                }
            }
            Err(refusal) => {
                let base = answer.base_sequence;
                if self.refused.as_ref().is_none_or(|r| base < r.base) {
                    self.refused = Some(Refused { base, refusal, routing: answer.routing });
                }
            }
        }
        let first = self.flight.front().map(|f| f.base);
        if let Some(refused) = self.refused.take_if(|r| Some(r.base) == first) {
            self.act_on(now, refused, out);
        }
    }

    /// The oldest unanswered batch was refused, and with it all behind it.
    fn act_on(&mut self, now: Time, refused: Refused, out: &mut Out) {
        let epoch = self.at.as_ref().map(|(_, epoch)| *epoch);
        self.new_session();
        self.cause.clone_from(&refused.refusal.text);
        for flight in &mut self.flight {
            flight.refusal = Some(refused.refusal.clone());
        }
        match refused.refusal.code {
            Code::UnknownProducer => self.start_over(out),
            Code::StaleRouting
            | Code::NotYet
            | Code::SequenceGap
            | Code::OldSession
            | Code::Unavailable
            | Code::Busy
            | Code::DiskFull
            | Code::DiskFailed => {
                if refused.refusal.code == Code::StaleRouting {
                    self.stale = epoch.map(|epoch| (epoch, refused.routing));
                    out.actions.push(Action::Refresh);
                }
                self.retry_at = Some(now + back_off_after(refused.refusal.code, self.failures));
                self.failures = self.failures.saturating_add(1);
            }
            _ if self.flight.front().is_some_and(|f| f.waiting.len() > 1) => self.split_front(),
            _ => self.refuse_front(refused.refusal, out),
        }
    }

    /// The queue does not know the producer any more, so nobody can say what became of the
    /// unanswered messages. A new producer begins at sequence 0.
    fn start_over(&mut self, out: &mut Out) {
        for w in std::mem::take(&mut self.flight).into_iter().flat_map(|f| f.waiting) {
            if !w.told {
                out.done(w.ticket, Outcome::Unknown(self.cause.clone()));
            }
            out.leave(w.bytes, w.slot);
        }
        self.producer = ringway_proto::Uuid(self.producer.0.wrapping_add(1));
        self.next = Sequence(0);
    }

    /// One message of the batch is guilty: send each alone, under the sequences they have.
    fn split_front(&mut self) {
        let Some(front) = self.flight.pop_front() else { return };
        let Ok(batch) = Batch::parse(front.batch.clone()) else {
            self.flight.push_front(front);
            return;
        };
        for (i, w) in front.waiting.into_iter().enumerate().rev() {
            let Ok(message) = batch.message(i) else { continue };
            let mut builder = BatchBuilder::new();
            builder.push(&message);
            self.flight.push_front(Flight {
                copies: front.copies.clone(),
                lost: front.lost,
                refusal: front.refusal.clone(),
                ..Flight::new(
                    Sequence(front.base.0 + i as u64),
                    builder.finish(batch.published_at()),
                    vec![w],
                )
            });
        }
    }

    /// The oldest batch will never be stored. Its sequences are free, and the new session keeps
    /// late copies of what was sent under them away.
    fn refuse_front(&mut self, refusal: Refusal, out: &mut Out) {
        let Some(front) = self.flight.pop_front() else { return };
        let count = front.waiting.len() as u64;
        for w in front.waiting {
            if !w.told {
                out.done(w.ticket, Outcome::Refused(refusal.clone()));
            }
            out.leave(w.bytes, w.slot);
        }
        for flight in &mut self.flight {
            flight.base.0 -= count;
        }
        self.next.0 -= count;
    }

    /// Whether this routing shows that a `StaleRouting` was about slots: the queue refused under
    /// the very epoch that the routing, no older than the worker's, still gives it.
    #[must_use]
    pub fn is_refused_for_good(&self, routing: RoutingVersion, epoch: Epoch) -> bool {
        self.stale.is_some_and(|(asked, known)| asked == epoch && routing >= known)
    }

    /// A newer routing is there: what waits for it is tried at once.
    pub fn routing_changed(&mut self) {
        if self.stale.is_some() {
            self.retry_at = None;
        }
    }

    /// Class and slot of the messages that were sent and are not answered.
    pub fn unanswered(&self) -> impl Iterator<Item = (Class, Slot)> + '_ {
        self.flight.iter().flat_map(|flight| {
            // A batch of our own always parses.
            let batch = Batch::parse(flight.batch.clone()).ok();
            let waiting = flight.waiting.iter().enumerate();
            waiting.filter_map(move |(i, w)| {
                let class = batch.as_ref()?.message(i).ok()?.class;
                Some((class, w.slot?))
            })
        })
    }

    /// Frees unanswered messages after a definite refusal, and those never sent: those that do
    /// not stay here come back in order, the others begin again at the refused sequence.
    pub fn free_moved(&mut self, stays: impl Fn(&Item) -> bool, out: &mut Out) -> Vec<Item> {
        self.stale = None;
        self.new_session();
        let items = self.take_all(out);
        let (stay, go) = items.into_iter().partition(stays);
        for item in stay {
            self.push(item);
        }
        go
    }

    /// Takes back messages that were never sent and that do not stay here.
    pub fn free_pending(&mut self, stays: impl Fn(&Item) -> bool) -> Vec<Item> {
        let pending = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        let (stay, go): (Vec<Item>, Vec<Item>) = pending.into_iter().partition(stays);
        for item in stay {
            self.push(item);
        }
        go
    }

    /// The queue is gone for good: everything comes back in order.
    pub fn dissolve(mut self, out: &mut Out) -> Vec<Item> {
        self.take_all(out)
    }

    fn take_all(&mut self, out: &mut Out) -> Vec<Item> {
        if let Some(front) = self.flight.front() {
            self.next = front.base;
        }
        let mut items = Vec::new();
        for flight in std::mem::take(&mut self.flight) {
            let batch = Batch::parse(flight.batch);
            for (i, w) in flight.waiting.into_iter().enumerate() {
                let message = batch.as_ref().map_err(Clone::clone).and_then(|b| b.message(i));
                match message {
                    Ok(message) if !w.told => items.push(Item {
                        ticket: w.ticket,
                        message,
                        bytes: w.bytes,
                        deadline: w.deadline,
                    }),
                    // A batch of our own always parses; a caller who was told "unknown" has gone.
                    _ => out.leave(w.bytes, w.slot),
                }
            }
        }
        items.extend(std::mem::take(&mut self.pending));
        self.pending_bytes = 0;
        items
    }

    /// Gives up what is past its deadline: never sent, or always refused, is definite; a copy
    /// without an answer makes it unknown.
    pub fn expire(&mut self, now: Time, out: &mut Out) {
        let (late, rest): (VecDeque<_>, _) =
            std::mem::take(&mut self.pending).into_iter().partition(|i| i.deadline <= now);
        self.pending = rest;
        for item in late {
            self.pending_bytes -= item.bytes as usize;
            out.done(item.ticket, Outcome::NotSent(self.cause()));
            out.leave(item.bytes, item.slot());
        }
        self.drop_refused(now, out);
        let cause = if self.cause.is_empty() { "no answer yet" } else { &self.cause };
        for flight in &mut self.flight {
            let late: Vec<bool> =
                flight.waiting.iter().map(|w| flight.told_by(w.deadline) <= now).collect();
            let waiting = flight.waiting.iter_mut().zip(late);
            for (w, _) in waiting.filter(|(w, late)| *late && !w.told) {
                w.told = true;
                out.done(w.ticket, Outcome::Unknown(cause.to_owned()));
            }
        }
    }

    /// Takes the late messages out of the batches that are not stored. Their sequences are free:
    /// nothing behind them can have been stored either, and the new session keeps late copies of
    /// that away.
    fn drop_refused(&mut self, now: Time, out: &mut Out) {
        let cause = self.cause();
        let mut dropped = 0;
        for flight in &mut self.flight {
            flight.base.0 -= dropped;
            dropped += flight.drop_late(now, &cause, out);
        }
        if dropped > 0 {
            self.flight.retain(|f| !f.waiting.is_empty());
            self.next.0 -= dropped;
            self.new_session();
        }
    }
}
