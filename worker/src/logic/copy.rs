//! A copy of a queue on its way to this worker. It owns how far the copy is and whether it is
//! whole, promises that it takes only what continues it and becomes whole only when everything up
//! to the original's end is durable here, and does not know how the batches come.

use ringway_proto::control::{
    CopiedRight, CopyFrom, CopyQueue, CopySealed, CopyState, FromWorker, HeldCopy, is_close,
};
use ringway_proto::data::check_ranges;
use ringway_proto::{Attempt, Code, Epoch, Offset, QueueId, Refusal, Time, Uuid, WallTime};

use super::hosted::Hosted;
use super::queue::{Queue, StoredBatch};
use super::ranges::are_disjoint;
use super::{Action, Rules};
use crate::records::ControlRecord;

/// A copy that is not open. Nobody publishes to it or reads it.
#[derive(Clone, Debug)]
pub struct Copy {
    id: QueueId,
    /// Log, dedup and, once it is whole, the readers. Its epoch is 0 until it is opened.
    hosted: Hosted,
    /// The epoch that the original was open under when the copy was ordered.
    epoch: Epoch,
    attempt: Attempt,
    /// Everything up to the original's end is here, and nothing more comes.
    whole: bool,
    /// What is known besides the batches, as long as some of them are not durable yet.
    pending: Option<CopySealed>,
    /// Tells this copy from an earlier one of the same queue.
    born: u64,
    source: Option<Source>,
    /// Bytes of the batches that are durable here.
    bytes: u64,
    /// When the coordinator was told how far the copy is, and up to where it was then.
    told: Option<(Time, Offset)>,
    said_close: bool,
}

/// Where it is copied from in this process' life.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Source {
    address: String,
    fetch: u64,
    state: Option<CopyState>,
}

impl Copy {
    /// An empty copy; `born` is larger than that of every earlier copy.
    #[must_use]
    pub fn new(
        id: QueueId,
        uuid: Uuid,
        name: String,
        epoch: Epoch,
        attempt: Attempt,
        born: u64,
    ) -> Self {
        let hosted = Hosted::new(Queue::empty(id, uuid, name, Epoch(0), 0));
        Self {
            id,
            hosted,
            epoch,
            attempt,
            whole: false,
            pending: None,
            born,
            source: None,
            bytes: 0,
            told: None,
            said_close: false,
        }
    }

    /// The identity of the log.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.hosted.queue.uuid
    }

    /// The attempt that it is for.
    #[must_use]
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// The epoch that the original was open under when the copy was ordered.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Tells this copy from an earlier one of the same queue.
    #[must_use]
    pub fn born(&self) -> u64 {
        self.born
    }

    /// Whether it can be opened.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// The offset behind its last durable message.
    #[must_use]
    pub fn copied(&self) -> Offset {
        self.hosted.queue.durable()
    }

    /// As it is said at registration.
    #[must_use]
    pub fn held(&self) -> HeldCopy {
        HeldCopy {
            queue: self.id,
            uuid: self.uuid(),
            attempt: self.attempt,
            copied: self.copied(),
            synced: self.whole,
        }
    }

    /// The queue, to be opened.
    #[must_use]
    pub fn into_hosted(self) -> Hosted {
        self.hosted
    }

    /// The record that begins this attempt.
    #[must_use]
    pub fn record(&self) -> ControlRecord {
        ControlRecord::Copying {
            uuid: self.uuid(),
            name: self.hosted.queue.name.clone(),
            epoch: self.epoch,
            attempt: self.attempt,
        }
    }

    /// Goes on for a later attempt: the batches stay, what was known besides them does not, for
    /// the original may have gone on after its seal was lifted.
    pub fn begin(&mut self, name: String, epoch: Epoch, attempt: Attempt) {
        self.hosted.queue.name = name;
        self.hosted.forget_readers();
        (self.epoch, self.attempt) = (epoch, attempt);
        (self.whole, self.pending, self.source) = (false, None, None);
        (self.told, self.said_close) = (None, false);
    }

    /// Does what the coordinator asked, as far as it is not under way: asks the original, under
    /// the number `fetch`, or says how far the copy is.
    pub fn order(&mut self, order: &CopyQueue, fetch: u64, out: &mut Vec<Action>) {
        if self.whole {
            out.push(Action::Tell(self.synced()));
        } else if self.source.as_ref().is_none_or(|source| source.address != order.from) {
            self.fetch(order.from.clone(), fetch, false, out);
        } else {
            out.extend(self.progress().map(Action::Tell));
        }
    }

    fn fetch(&mut self, from: String, fetch: u64, again: bool, out: &mut Vec<Action>) {
        let state = self.source.take().and_then(|source| source.state);
        self.source = Some(Source { address: from.clone(), fetch, state });
        out.push(Action::Fetch { queue: self.id, fetch, from, again });
    }

    /// What is not durable could not be written: takes it back.
    pub fn roll_back(&mut self) {
        self.hosted.queue.roll_back();
        self.pending = None;
    }

    /// Asks the original again, from what is here on.
    pub fn fetch_again(&mut self, fetch: u64, out: &mut Vec<Action>) {
        if let Some(source) = &self.source {
            self.fetch(source.address.clone(), fetch, true, out);
        }
    }

    /// Whether something is here that is not durable.
    #[must_use]
    pub fn is_ahead(&self) -> bool {
        self.hosted.queue.end() > self.copied()
    }

    /// Whether what comes under this number counts.
    #[must_use]
    pub fn is_fetched_by(&self, fetch: u64) -> bool {
        !self.whole && self.source.as_ref().is_some_and(|source| source.fetch == fetch)
    }

    /// What to ask the original for.
    #[must_use]
    pub fn ask(&self) -> CopyFrom {
        let from = self.hosted.queue.end();
        CopyFrom { queue: self.id, uuid: self.uuid(), attempt: self.attempt, from }
    }

    /// The original is this far.
    pub fn heard(&mut self, now: Time, state: CopyState, rules: &Rules, out: &mut Vec<Action>) {
        if let Some(source) = &mut self.source {
            source.state = Some(state);
        }
        self.report(now, rules, out);
    }

    /// Takes a batch. False when it is here already.
    ///
    /// # Errors
    /// [`Code::Damaged`] when something is missing before it.
    pub fn take(&mut self, batch: &StoredBatch) -> Result<bool, Refusal> {
        if batch.end() <= self.hosted.queue.end() {
            return Ok(false);
        }
        self.hosted.queue.copy(batch)?;
        Ok(true)
    }

    /// A batch is on disk.
    pub fn stored(&mut self, now: Time, batch: &StoredBatch, rules: &Rules, out: &mut Vec<Action>) {
        if !self.hosted.queue.stored(batch.end()) {
            return;
        }
        self.count(batch.at, batch.appended_at, batch.bytes);
        if let Some(snapshot) = self.pending.take() {
            self.seal(snapshot, out);
        }
        self.report(now, rules, out);
    }

    fn count(&mut self, at: Offset, when: WallTime, bytes: u32) {
        self.hosted.ages.push(at, when);
        self.bytes += u64::from(bytes);
    }

    /// The original is sealed, and this is what is known of it besides its batches.
    ///
    /// # Errors
    /// [`Code::Damaged`] where it does not fit what was copied, [`Code::Protocol`] where it does
    /// not hold together.
    pub fn sealed(&mut self, snapshot: CopySealed, out: &mut Vec<Action>) -> Result<(), Refusal> {
        let end = self.hosted.queue.end();
        if (snapshot.attempt, snapshot.end) != (self.attempt, end) {
            return Err(Refusal::new(
                Code::Damaged,
                format!(
                    "queue {} is sealed at {} for attempt {}, and its copy for attempt {} is at {end}",
                    self.id, snapshot.end, snapshot.attempt, self.attempt
                ),
            ));
        }
        for right in &snapshot.rights {
            self.check(right, &snapshot)?;
        }
        if !are_disjoint(&snapshot.rights) {
            let text = format!("queue {} comes with two rights to one lane", self.id);
            return Err(Refusal::new(Code::Protocol, text));
        }
        self.seal(snapshot, out);
        Ok(())
    }

    fn check(&self, copied: &CopiedRight, snapshot: &CopySealed) -> Result<(), Refusal> {
        let right = copied.right.right;
        let is_known = snapshot.subscriptions.iter().any(|s| s.id == right.subscription);
        if right.queue != self.id || !is_known {
            let text = format!("queue {} comes with a right of somebody else", self.id);
            return Err(Refusal::new(Code::Protocol, text));
        }
        copied.layers.iter().try_for_each(|layer| check_ranges(&layer.acked))?;
        check_ranges(&copied.acked)
    }

    /// The copy is whole once all that was taken is durable; until then the snapshot waits, lest
    /// its record survive a batch that did not fit the disk.
    fn seal(&mut self, snapshot: CopySealed, out: &mut Vec<Action>) {
        if self.is_ahead() {
            self.pending = Some(snapshot);
            return;
        }
        self.adopt(&snapshot);
        out.push(Action::Write { queue: self.id, record: ControlRecord::Copied(snapshot) });
        out.push(Action::Tell(self.synced()));
        out.push(Action::StopFetch(self.id));
    }

    fn adopt(&mut self, snapshot: &CopySealed) {
        self.hosted.adopt(snapshot);
        self.whole = true;
        self.source = None;
    }

    fn synced(&self) -> FromWorker {
        FromWorker::CopySynced { queue: self.id, attempt: self.attempt, end: self.copied() }
    }

    /// How far it is; none before the original has said how far it is itself.
    fn progress(&self) -> Option<FromWorker> {
        let state = self.source.as_ref()?.state?;
        let copied = self.copied();
        Some(FromWorker::CopyProgress {
            queue: self.id,
            attempt: self.attempt,
            copied,
            end: state.end.max(copied),
            copied_bytes: self.bytes,
            total_bytes: state.total_bytes.max(self.bytes),
        })
    }

    /// Says how far the copy is when it begins, now and then while it grows, and when it first
    /// comes close.
    pub fn report(&mut self, now: Time, rules: &Rules, out: &mut Vec<Action>) {
        let Some(state) = self.source.as_ref().and_then(|source| source.state) else { return };
        let copied = self.copied();
        let close = is_close(
            state.end.0.saturating_sub(copied.0),
            state.total_bytes.saturating_sub(self.bytes),
        );
        let due = match self.told {
            None => true,
            Some(_) if close && !self.said_close => true,
            Some((at, said)) => said != copied && now >= at + rules.progress_every,
        };
        if due {
            self.told = Some((now, copied));
            self.said_close |= close;
            out.extend(self.progress().map(Action::Tell));
        }
    }

    /// The next moment at which [`Copy::report`] has something to say.
    #[must_use]
    pub fn next_wakeup(&self, rules: &Rules) -> Option<Time> {
        let (at, said) = self.told.filter(|_| self.source.is_some())?;
        (said != self.copied()).then_some(at + rules.progress_every)
    }

    /// Takes a batch from the journal at a start.
    ///
    /// # Errors
    /// [`Code::Damaged`] when it is not the next one.
    pub fn replay_batch(&mut self, batch: &StoredBatch) -> Result<(), Refusal> {
        self.hosted.queue.replay(batch)?;
        self.count(batch.at, batch.appended_at, batch.bytes);
        Ok(())
    }

    /// Takes the snapshot from the journal at a start.
    ///
    /// # Errors
    /// [`Code::Damaged`] when it is not about what was copied.
    pub fn replay_copied(&mut self, snapshot: &CopySealed) -> Result<(), Refusal> {
        if (snapshot.attempt, snapshot.end) != (self.attempt, self.copied()) {
            let text = format!("the journal seals the copy of queue {} at another end", self.id);
            return Err(Refusal::new(Code::Damaged, text));
        }
        self.adopt(snapshot);
        Ok(())
    }

    /// What a restart must find again.
    #[cfg(test)]
    pub fn durable_view(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        let rights: Vec<_> =
            self.hosted.rights.iter().map(|(id, r)| (*id, r.durable_view())).collect();
        (self.record(), self.whole, self.bytes, self.hosted.queue.durable_view(), rights)
    }
}
