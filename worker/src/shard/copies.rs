//! A shard's part in copying queues: it writes what comes for the copies that it holds, and answers
//! copies elsewhere that ask for what comes next of the queues that it leads. What is taken, and
//! when a copy is told of a seal, is decided by [`crate::logic::copy`] and
//! [`crate::logic::hosted`].

use std::collections::HashMap;
use std::time::Instant;

use ringway_proto::control::{CopyFrom, CopySealed, CopyState};
use ringway_proto::data::CopyBatch;
use ringway_proto::{Code, QueueId, Refusal};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::{error, warn};

use super::rounds::Then;
use super::{Shard, answer};
use crate::copy::target::{Fetch, Fetcher};
use crate::journal::{IndexEntry, Location, Record, RecordKind};
use crate::logic::Action;
use crate::logic::hosted::CopyNext;
use crate::logic::queue::StoredBatch;
use crate::logic::step::Step;

/// What a copy elsewhere takes at once, in batches: small ones, read with one hop to the disk.
const PIECE_BATCHES: usize = 1024;

/// What the original of a copy sent, in answer to the question with this number.
pub(crate) struct Fetched {
    pub queue: QueueId,
    pub fetch: u64,
    pub what: FetchedWhat,
}

pub(crate) enum FetchedWhat {
    State(CopyState),
    /// A batch that was looked at. The permit gives the room back that it took.
    Batch(CopyBatch, OwnedSemaphorePermit),
    Sealed(CopySealed),
}

/// Asks what a copy is to be asked for; none when it is not to be asked any more.
pub(crate) struct Resume {
    pub queue: QueueId,
    pub fetch: u64,
    pub reply: oneshot::Sender<Option<CopyFrom>>,
}

/// A copy elsewhere asks for what comes next.
pub(crate) struct NextAsked {
    pub from: CopyFrom,
    pub wants: Wants,
    /// Bytes of batches that it takes at once; one batch may be larger.
    pub max_bytes: u64,
    pub reply: oneshot::Sender<CopyAnswer>,
}

/// What counts as news for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wants {
    /// It has not been told yet how far the queue is; that is an answer too.
    State,
    /// What comes next.
    Next,
    /// It has something to send and waits for its pace: only what ends that.
    EndOfPace,
}

/// What it is told.
#[derive(Debug)]
pub(crate) enum CopyAnswer {
    /// These come next.
    Batches { state: CopyState, entries: Vec<IndexEntry>, sealed: bool },
    /// All are there; this is what is known besides.
    Sealed(Box<CopySealed>),
    /// No copy comes of it.
    Over(Refusal),
}

/// A batch of a copy on its way to disk.
pub(super) struct Written {
    /// Of which copy.
    born: u64,
    batch: StoredBatch,
    _room: OwnedSemaphorePermit,
}

/// The copies of a shard, as far as they are not logic.
pub(super) struct Copies {
    fetcher: Fetcher,
    /// The question of each copy here; dropping one ends it.
    fetches: HashMap<QueueId, Fetch>,
    /// Copies elsewhere that wait for news.
    pub waiting: Vec<NextAsked>,
    /// Since when queues have been sealed.
    pauses: HashMap<QueueId, Instant>,
}

impl Copies {
    pub fn new(fetcher: Fetcher) -> Self {
        Self { fetcher, fetches: HashMap::new(), waiting: Vec::new(), pauses: HashMap::new() }
    }

    pub fn fetch(&mut self, queue: QueueId, fetch: u64, from: String, again: bool) {
        self.fetches.insert(queue, self.fetcher.start(queue, fetch, from, again));
    }

    pub fn stop(&mut self, queue: QueueId) {
        self.fetches.remove(&queue);
    }
}

impl Shard {
    /// Does what the coordinator says, and measures how long it keeps publishers waiting.
    pub(super) fn step(&mut self, queue: QueueId, step: Step, out: &mut Vec<Action>) {
        self.host.step(self.clock.now(), queue, step, out);
        let sealed = self.host.queue(queue).is_some_and(|hosted| hosted.queue.sealed().is_some());
        if sealed {
            self.copies.pauses.entry(queue).or_insert_with(Instant::now);
        } else if let Some(since) = self.copies.pauses.remove(&queue) {
            self.metrics.publish_pause_seconds.observe(since.elapsed().as_secs_f64());
        }
    }

    pub(super) fn fetched(&mut self, fetched: Fetched, out: &mut Vec<Action>) {
        let Fetched { queue, fetch, what } = fetched;
        let taken = match what {
            FetchedWhat::State(state) => {
                self.host.copy_heard(self.clock.now(), queue, fetch, state, out);
                Ok(())
            }
            FetchedWhat::Batch(batch, room) => self.copy_batch(queue, fetch, batch, room, out),
            FetchedWhat::Sealed(snapshot) => self.host.copy_sealed(queue, fetch, snapshot, out),
        };
        if let Err(refusal) = taken {
            warn!(%queue, %refusal, "a copy is asked for again");
        }
    }

    fn copy_batch(
        &mut self,
        queue: QueueId,
        fetch: u64,
        copied: CopyBatch,
        room: OwnedSemaphorePermit,
        out: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        let batch = StoredBatch {
            queue,
            at: copied.base_offset,
            count: copied.count,
            producer: copied.producer,
            session: copied.session,
            base_sequence: copied.base_sequence,
            appended_at: copied.appended_at,
            bytes: u32::try_from(copied.batch.len()).unwrap_or(u32::MAX),
        };
        let Some(born) = self.host.copy_batch(fetch, &batch, out)? else { return Ok(()) };
        let record = Record {
            kind: RecordKind::Batch,
            queue,
            epoch: copied.epoch,
            base_offset: batch.at,
            count: batch.count,
            session: batch.session,
            producer: batch.producer,
            sequence: batch.base_sequence,
            appended_at: batch.appended_at,
            body: copied.batch,
        };
        self.rounds.write_copy(record, Written { born, batch, _room: room });
        Ok(())
    }

    pub(super) fn copied(&mut self, written: Written, location: Option<Location>) {
        let Written { born, batch, .. } = written;
        let mut out = Vec::new();
        if self.host.copy_stored(self.clock.now(), born, &batch, &mut out)
            && let Some(location) = location
        {
            self.metrics.copy_bytes.with_label_values(&["in"]).inc_by(u64::from(batch.bytes));
            self.delivery.copied(batch.queue, batch.at, batch.count, location);
        }
        self.act(out);
    }

    /// Answers the copies elsewhere that there is news for.
    pub(super) fn serve_copies(&mut self) {
        for asked in std::mem::take(&mut self.copies.waiting) {
            if asked.reply.is_closed() {
                continue;
            }
            let next = self.host.copy_next(&asked.from);
            if asked.wants == Wants::EndOfPace && !next.ends_pace() {
                self.copies.waiting.push(asked);
                continue;
            }
            match next {
                CopyNext::Wait if asked.wants != Wants::State => self.copies.waiting.push(asked),
                CopyNext::Wait => self.answer_batches(asked, false),
                CopyNext::Batches { sealed } => self.answer_batches(asked, sealed),
                // A seal counts only when it and everything before it is on disk.
                CopyNext::Sealed(snapshot) => {
                    let answer = Box::new(CopyAnswer::Sealed(snapshot));
                    self.after_writes(Then::CopyAnswer { reply: asked.reply, answer });
                }
                CopyNext::Over(refusal) => answer(asked.reply, CopyAnswer::Over(refusal)),
            }
        }
    }

    fn answer_batches(&mut self, asked: NextAsked, sealed: bool) {
        let (queue, from) = (asked.from.queue, asked.from.from);
        let Some(hosted) = self.host.queue(queue) else { return };
        let state = hosted.copy_state(self.delivery.bytes_of(queue));
        let entries = self.delivery.entries(queue, from, PIECE_BATCHES, asked.max_bytes);
        let next = if entries.is_empty() && from < state.end {
            let text = format!("offset {from} of queue {queue} is not where it should be");
            error!("a copy cannot go on: {text}");
            CopyAnswer::Over(Refusal::new(Code::DataMissing, text))
        } else {
            CopyAnswer::Batches { state, entries, sealed }
        };
        answer(asked.reply, next);
    }
}
