//! What a shard gives the journal, and what follows once it is on disk. It promises that nothing
//! is answered before its write, and everything in order. At most one round of a shard is under
//! way: so when the disk is full, everything that is not durable is known and can be taken back,
//! and no later round can slip in behind the gap. What becomes of it then is not decided here.

use std::time::Instant;

use ringway_proto::control::FromWorker;
use ringway_proto::data::AckConfirmed;
use ringway_proto::frame::Kind;
use ringway_proto::{Epoch, Offset, QueueId, Refusal};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

use super::copies::{CopyAnswer, Written};
use super::{Holdings, Out, Shard, Waiting, answer, wall_now};
use crate::journal::{Journal, JournalError, Location, Record, RecordKind};
use crate::logic::rounds::{self, Gathered, Part};
use crate::logic::{StreamId, Token};
use crate::metrics::group_of;
use crate::records::ControlRecord;
use crate::worker::fail;

/// What happens once everything before it is durable.
pub(super) enum Then {
    /// Nothing: a control record.
    Nothing,
    /// The batch is stored.
    Stored { token: Token, queue: QueueId, at: Offset },
    /// A repeat gets its old offset.
    Repeat { token: Token, at: Offset },
    /// The coordinator is told.
    Tell(Box<FromWorker>),
    /// The queues are said as they were when it was asked.
    Held { reply: oneshot::Sender<Holdings>, held: Holdings },
    /// A batch of a copy is stored.
    Copied(Written),
    /// A copy elsewhere gets its answer.
    CopyAnswer { reply: oneshot::Sender<CopyAnswer>, answer: Box<CopyAnswer> },
    /// Acks are confirmed.
    Confirm { stream: StreamId, confirmed: AckConfirmed },
}

struct Item {
    record: Option<Record>,
    then: Then,
}

impl Item {
    fn part(&self) -> Part {
        match self.then {
            Then::Stored { token, .. } => Part::Batch(token),
            Then::Copied(_) => Part::Copied,
            Then::Repeat { token, at } => Part::Repeat(token, at),
            _ => Part::Other,
        }
    }
}

/// The answer of the journal.
pub(super) type Done = Result<Vec<Location>, JournalError>;

/// The round under way, and what is gathered for the next one.
pub(super) struct Rounds {
    journal: Journal,
    gathered: Gathered<Item>,
    under_way: Option<Vec<Item>>,
    /// The disk was full: what comes next waits until then, control records first.
    retry_at: Option<Instant>,
    pub done: mpsc::UnboundedReceiver<Done>,
    finished: mpsc::UnboundedSender<Done>,
}

impl Rounds {
    pub fn new(journal: Journal) -> Self {
        let (finished, done) = mpsc::unbounded_channel();
        let gathered = Gathered::default();
        Self { journal, gathered, under_way: None, retry_at: None, done, finished }
    }

    /// Whether nothing is written and nothing waits for it.
    pub fn is_idle(&self) -> bool {
        self.gathered.is_empty() && self.under_way.is_none()
    }

    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at.filter(|_| self.under_way.is_none())
    }

    pub fn write(
        &mut self,
        queue: QueueId,
        epoch: Epoch,
        record: &ControlRecord,
    ) -> Result<(), Refusal> {
        let record = Record::control(queue, epoch, wall_now(), record.encode()?);
        self.gathered.push(Item { record: Some(record), then: Then::Nothing });
        Ok(())
    }

    pub fn write_copy(&mut self, record: Record, written: Written) {
        self.gathered.push(Item { record: Some(record), then: Then::Copied(written) });
    }
}

impl Shard {
    pub(super) fn store(&mut self, token: Token, queue: QueueId, at: Offset) {
        let Some(waiting) = self.waiting.get(&token) else { return };
        let Waiting { header, batch, appended_at, .. } = waiting;
        let record = Record {
            kind: RecordKind::Batch,
            queue,
            epoch: header.epoch,
            base_offset: at,
            count: header.count,
            session: header.session,
            producer: header.producer,
            sequence: header.base_sequence,
            appended_at: *appended_at,
            body: batch.bytes().clone(),
        };
        let then = Then::Stored { token, queue, at };
        self.rounds.gathered.push(Item { record: Some(record), then });
    }

    /// Does `then` once everything that was written before is durable.
    pub(super) fn after_writes(&mut self, then: Then) {
        if self.rounds.is_idle() {
            self.follow(then, None);
        } else {
            self.rounds.gathered.push(Item { record: None, then });
        }
    }

    /// Gives the journal what has been gathered, unless a round is under way. Waits for room in
    /// the journal's inbox.
    pub(super) async fn start_round(&mut self) {
        if self.rounds.under_way.is_some() {
            return;
        }
        if self.rounds.retry_at.is_some_and(|at| Instant::now() < at) && self.stopping.is_none() {
            return;
        }
        if self.host.has_unwritten() {
            let mut out = Vec::new();
            self.host.write_acks(&mut out);
            self.act(out);
        }
        self.rounds.retry_at = None;
        if self.rounds.gathered.is_empty() {
            return;
        }
        let mut round = self.rounds.gathered.next(Item::part);
        let records: Vec<Record> = round.iter().filter_map(|item| item.record.clone()).collect();
        if records.is_empty() {
            for item in round.drain(..) {
                self.follow(item.then, None);
            }
            return;
        }
        self.rounds.under_way = Some(round);
        let finished = self.rounds.finished.clone();
        // When the shard has gone nobody waits for the answer.
        let done = Box::new(move |result| drop(finished.send(result)));
        self.rounds.journal.append(records, done).await;
    }

    /// The round that was under way is on disk or failed. False when the journal is over: then
    /// nothing more is answered, for whether it was stored is not known.
    pub(super) fn round_done(&mut self, done: Done) -> bool {
        let round = self.rounds.under_way.take().unwrap_or_default();
        match done {
            Ok(locations) => {
                let mut locations = locations.into_iter();
                for item in round {
                    let at = item.record.as_ref().and_then(|_| locations.next());
                    self.follow(item.then, at);
                }
                true
            }
            Err(JournalError::DiskFull) if self.stopping.is_none() => {
                self.disk_full(round);
                true
            }
            Err(failure) => {
                error!(%failure, "the journal failed; this shard stops");
                fail(&self.failed, failure.refusal());
                false
            }
        }
    }

    fn disk_full(&mut self, round: Vec<Item>) {
        warn!("no room on disk: publishes are refused");
        let (host, waiting) = (&self.host, &self.waiting);
        let is_durable = |token, at| {
            let queue = waiting.get(&token).and_then(|w: &Waiting| host.queue(w.header.queue));
            queue.is_some_and(|hosted| at < hosted.queue.durable())
        };
        for token in self.rounds.gathered.put_back(round, Item::part, is_durable) {
            self.answer(token, Err(rounds::refusal()));
        }
        let mut out = Vec::new();
        self.host.roll_back(&mut out);
        self.act(out);
        self.rounds.retry_at = Some(Instant::now() + rounds::RETRY);
    }

    fn follow(&mut self, then: Then, location: Option<Location>) {
        match then {
            Then::Nothing => {}
            Then::Stored { token, queue, at } => self.stored(token, queue, at, location),
            Then::Repeat { token, at } => {
                self.metrics.duplicates.inc();
                self.answer(token, Ok(at));
            }
            Then::Tell(event) => {
                // The link to the coordinator ends before the shards only when the worker leaves.
                let _ = self.events.send(*event);
            }
            Then::Held { reply, held } => answer(reply, held),
            Then::Copied(written) => self.copied(written, location),
            Then::CopyAnswer { reply, answer: next } => answer(reply, *next),
            Then::Confirm { stream, confirmed } => {
                self.send(stream, Out::Frame(Kind::AckConfirmed, confirmed.encode()));
            }
        }
    }

    fn stored(&mut self, token: Token, queue: QueueId, at: Offset, location: Option<Location>) {
        let Some(waiting) = self.waiting.get(&token) else { return };
        let (count, when) = (waiting.header.count, waiting.appended_at);
        let batch = std::sync::Arc::clone(&waiting.batch);
        let bytes = batch.bytes().len() as u64;
        if let Some(location) = location {
            // Known before the end moves, so that whoever is told of it finds the messages.
            self.delivery.stored(queue, at, count, location, batch);
        }
        let end = Offset(at.0 + u64::from(count));
        let mut out = Vec::new();
        if self.host.stored(queue, at, end, when, &mut out) {
            if let Some(hosted) = self.host.queue(queue) {
                let group = group_of(&hosted.queue.name);
                self.metrics.messages_published.with_label_values(&[group]).inc_by(count.into());
                self.metrics.published_bytes.with_label_values(&[group]).inc_by(bytes);
            }
        } else {
            self.delivery.forget(queue);
        }
        self.answer(token, Ok(at));
        self.act(out);
    }
}
