//! How a shard serves the rights of its queues: whose turn it is, and where the batches come
//! from (memory, or the disk by a read that comes back as an input, so that a cold reader blocks
//! nobody). What may be sent is decided by [`crate::logic::delivery`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use ringway_proto::batch::Batch;
use ringway_proto::data::Deliver;
use ringway_proto::{Code, Offset, QueueId, Refusal, RightId};
use tokio::sync::mpsc;
use tracing::error;

use super::{Out, Shard};
use crate::cache::Cache;
use crate::journal::{IndexEntry, Journal, Location, QueueIndex};
use crate::logic::Selection;
use crate::metrics::group_of;
use crate::replay::Indexes;

/// Turns before the mailbox is looked at again.
const TURNS: usize = 64;
/// What one read takes from the disk: this many batches, or this many bytes.
const READ_AHEAD_BATCHES: usize = 64;
const READ_AHEAD_BYTES: u64 = 256 * 1024;

type Batches = Vec<(Offset, Arc<Batch>)>;

/// A read that has come back.
pub(super) struct Read {
    right: RightId,
    result: Result<Batches, Refusal>,
}

#[derive(Default)]
struct Reader {
    /// Batches that were read from disk and may hold what comes next.
    ahead: Batches,
    reading: bool,
}

/// Where the messages of a shard's queues are, and whose turn it is.
pub(super) struct Delivery {
    journal: Journal,
    indexes: Indexes,
    cache: Cache,
    readers: BTreeMap<RightId, Reader>,
    turns: VecDeque<RightId>,
    /// Those in `turns`, so that none is in it twice.
    has_turn: BTreeSet<RightId>,
    pub reads: mpsc::UnboundedReceiver<Read>,
    read_done: mpsc::UnboundedSender<Read>,
}

enum Found {
    Batch(Offset, Arc<Batch>),
    OnDisk,
    Nowhere,
}

impl Delivery {
    pub fn new(journal: Journal, indexes: Indexes, cache_bytes: usize) -> Self {
        let (read_done, reads) = mpsc::unbounded_channel();
        Self {
            journal,
            indexes,
            cache: Cache::new(cache_bytes),
            readers: BTreeMap::new(),
            turns: VecDeque::new(),
            has_turn: BTreeSet::new(),
            reads,
            read_done,
        }
    }

    pub fn has_turns(&self) -> bool {
        !self.turns.is_empty()
    }

    pub fn give_turn(&mut self, right: RightId) {
        if self.has_turn.insert(right) {
            self.turns.push_back(right);
        }
    }

    fn next_turn(&mut self) -> Option<RightId> {
        let right = self.turns.pop_front()?;
        self.has_turn.remove(&right);
        Some(right)
    }

    pub fn stored(
        &mut self,
        queue: QueueId,
        base: Offset,
        count: u32,
        at: Location,
        batch: Arc<Batch>,
    ) {
        if let Err(e) = self.indexes.entry(queue).or_default().push(base, count, at) {
            error!(%queue, %base, error = ?e, "a batch came out of order");
        }
        self.cache.insert(queue, base, batch);
    }

    /// A batch of a copy is on disk. It is not kept in memory: nobody reads it yet.
    pub fn copied(&mut self, queue: QueueId, base: Offset, count: u32, at: Location) {
        if let Err(e) = self.indexes.entry(queue).or_default().push(base, count, at) {
            error!(%queue, %base, error = ?e, "a copied batch came out of order");
        }
    }

    /// Bytes of the batches of a queue.
    pub fn bytes_of(&self, queue: QueueId) -> u64 {
        self.indexes.get(&queue).map_or(0, QueueIndex::bytes)
    }

    /// The batches of a queue from `from` on, up to so many and up to `max_bytes`, but at least one.
    pub fn entries(
        &self,
        queue: QueueId,
        from: Offset,
        max_batches: usize,
        max_bytes: u64,
    ) -> Vec<IndexEntry> {
        let mut bytes = 0;
        let within = |entry: &IndexEntry| {
            let fits = bytes < max_bytes;
            bytes += u64::from(entry.at.body_len());
            fits
        };
        let Some(index) = self.indexes.get(&queue) else { return Vec::new() };
        index.from(from).take(max_batches).take_while(within).collect()
    }

    /// Drops what is kept of a queue that is gone.
    pub fn forget(&mut self, queue: QueueId) {
        self.indexes.remove(&queue);
        self.cache.forget(queue);
        self.readers.retain(|right, _| right.queue != queue);
    }

    /// Drops what is kept for a right that became others.
    pub fn retire(&mut self, right: &RightId) {
        self.readers.remove(right);
    }

    /// Drops what was read ahead for a right whose stream has ended.
    pub fn forget_right(&mut self, right: &RightId) {
        if let Some(reader) = self.readers.get_mut(right) {
            reader.ahead.clear();
        }
    }

    fn find(&mut self, right: &RightId, at: Offset) -> Found {
        let queue = right.queue;
        if let Some((base, batch)) = self.cache.find(queue, at) {
            return Found::Batch(base, batch);
        }
        let entry = self.indexes.get(&queue).and_then(|index| index.find(at));
        let Some(IndexEntry { base, .. }) = entry else { return Found::Nowhere };
        let reader = self.readers.entry(*right).or_default();
        match reader.ahead.iter().find(|(b, _)| *b == base) {
            Some((base, batch)) => Found::Batch(*base, Arc::clone(batch)),
            None => Found::OnDisk,
        }
    }

    fn read(&mut self, right: RightId, from: Offset) {
        let reader = self.readers.entry(right).or_default();
        if reader.reading {
            return;
        }
        reader.reading = true;
        reader.ahead.clear();
        let entries = self.entries(right.queue, from, READ_AHEAD_BATCHES, READ_AHEAD_BYTES);
        let (journal, done) = (self.journal.clone(), self.read_done.clone());
        tokio::task::spawn_blocking(move || {
            let read_one = |entry: IndexEntry| -> Result<(Offset, Arc<Batch>), Refusal> {
                let (_, body) = journal.read(entry.at).map_err(|e| e.refusal())?;
                Ok((entry.base, Arc::new(Batch::parse(body)?)))
            };
            let result = entries.into_iter().map(read_one).collect();
            // The shard may have gone.
            let _ = done.send(Read { right, result });
        });
    }
}

impl Shard {
    pub(super) fn read_done(&mut self, read: Read) {
        let Read { right, result } = read;
        let Some(reader) = self.delivery.readers.get_mut(&right) else { return };
        reader.reading = false;
        match result {
            Ok(batches) => {
                reader.ahead = batches;
                self.delivery.give_turn(right);
            }
            Err(refusal) => self.unreadable(&right, &refusal),
        }
    }

    fn unreadable(&mut self, right: &RightId, refusal: &Refusal) {
        error!(%refusal, queue = %right.queue, "stored messages cannot be read");
        let mut out = Vec::new();
        self.host.close_right(right, refusal, &mut out);
        self.act(out);
    }

    /// Serves the rights whose turn it is: one delivery each, then the next.
    pub(super) fn serve(&mut self) {
        for _ in 0..TURNS {
            let Some(right) = self.delivery.next_turn() else { return };
            self.serve_right(right);
        }
    }

    fn serve_right(&mut self, right: RightId) {
        let Some(at) = self.host.wants(&right) else { return };
        match self.delivery.find(&right, at) {
            Found::Batch(base, batch) => {
                if let Some(selection) = self.host.select(&right, base, &batch) {
                    self.deliver(&right, base, &batch, selection);
                }
                // Where nothing was sent and nothing passed over, the window is too small for
                // what comes next; the next frame of the member gives another turn.
                if self.host.wants(&right).is_some_and(|next| next != at) {
                    self.delivery.give_turn(right);
                }
            }
            Found::OnDisk => self.delivery.read(right, at),
            // Never passed over in silence.
            Found::Nowhere => {
                let text =
                    format!("offset {at} of queue {} is not where it should be", right.queue);
                self.unreadable(&right, &Refusal::new(Code::DataMissing, text));
            }
        }
    }

    fn deliver(&mut self, right: &RightId, base: Offset, batch: &Batch, selection: Selection) {
        let Selection { stream, open, entries, runs } = selection;
        self.count(right, &entries);
        let deliver = Deliver {
            open,
            base_offset: base,
            published_at: batch.published_at(),
            classes: batch.classes().len() as u16,
            entries,
            class_table: batch.class_table(),
            records: runs.into_iter().map(|(from, to)| batch.records(from, to)).collect(),
        };
        self.send(stream, Out::Deliver(Box::new(deliver)));
    }

    fn count(&self, right: &RightId, entries: &[ringway_proto::data::DeliverEntry]) {
        let Some(hosted) = self.host.queue(right.queue) else { return };
        let Some(setup) = hosted.subscriptions.get(&right.subscription) else { return };
        let subscription = setup.name.as_str();
        let labels = [subscription, group_of(&hosted.queue.name)];
        self.metrics.messages_delivered.with_label_values(&labels).inc_by(entries.len() as u64);
        let again = entries.iter().filter(|entry| entry.delivery > 1).count() as u64;
        if again > 0 {
            self.metrics.redeliveries.with_label_values(&[subscription]).inc_by(again);
        }
    }
}
