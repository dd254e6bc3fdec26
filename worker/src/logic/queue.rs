//! The publishing side of one queue at its primary: which batch is taken, and under which offset.
//! It owns epoch, seal, end and dedup, promises the order of checks of the design, and does not
//! know who reads the queue.

use std::collections::VecDeque;

use ringway_proto::control::OpenQueue;
use ringway_proto::refusal::grouped;
use ringway_proto::{
    Attempt, Code, Epoch, Offset, ProducerId, QueueId, Refusal, RoutingVersion, Sequence, Session,
    Uuid, WallTime,
};

use super::dedup::Dedup;
use super::slots::{Routes, Slots, Table, Verdict};
use super::{Action, Rules, Token};

/// A batch that wants to be taken; its bytes stay with the driver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Append {
    /// Names it in the answer.
    pub token: Token,
    /// The queue's epoch as the producer knows it.
    pub epoch: Epoch,
    /// The routing version under which the producer chose the queue.
    pub routing: RoutingVersion,
    /// Who publishes.
    pub producer: ProducerId,
    /// Its session at this queue.
    pub session: Session,
    /// The sequence of the first message.
    pub base_sequence: Sequence,
    /// Messages in the batch.
    pub count: u32,
    /// The largest body among them, in bytes.
    pub largest_body_bytes: usize,
    /// The size of the batch, in bytes.
    pub batch_bytes: usize,
    /// What decides where its messages belong; filled in where the queue has seals.
    pub routes: Routes,
}

/// A batch that the journal holds or that comes from the primary of a copied queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredBatch {
    /// The queue.
    pub queue: QueueId,
    /// The offset of its first message.
    pub at: Offset,
    /// Its messages.
    pub count: u32,
    /// Who published it.
    pub producer: ProducerId,
    /// In which session.
    pub session: Session,
    /// Under which sequence.
    pub base_sequence: Sequence,
    /// When the primary took it.
    pub appended_at: WallTime,
    /// Its size, in bytes.
    pub bytes: u32,
}

impl StoredBatch {
    /// The offset behind its last message.
    #[must_use]
    pub fn end(&self) -> Offset {
        Offset(self.at.0.saturating_add(u64::from(self.count)))
    }
}

/// One queue that this worker is the primary of.
#[derive(Clone, Debug)]
pub struct Queue {
    id: QueueId,
    /// `GROUP/N`.
    pub name: String,
    /// The identity of the log.
    pub uuid: Uuid,
    /// The largest body, in bytes.
    pub max_body_bytes: u32,
    epoch: Epoch,
    /// Behind the last message that was taken. Never below `durable`.
    end: Offset,
    /// Behind the last message that is on disk.
    durable: Offset,
    sealed: Option<Attempt>,
    /// The newest attempt that was given up, as far as this process has heard.
    given_up: Option<Attempt>,
    dedup: Dedup,
    /// What moves, or moved, from here and to here.
    pub slots: Slots,
    /// Appends that wait for the seal to be lifted, or for the table that says where their
    /// messages belong, in order.
    held: VecDeque<Append>,
    held_bytes: usize,
}

impl Queue {
    /// An empty queue.
    #[must_use]
    pub fn new(open: &OpenQueue) -> Self {
        Self::empty(open.queue, open.uuid, open.name.clone(), open.epoch, open.max_body_bytes)
    }

    /// An empty queue, from its parts.
    #[must_use]
    pub fn empty(id: QueueId, uuid: Uuid, name: String, epoch: Epoch, max_body_bytes: u32) -> Self {
        Self {
            id,
            name,
            uuid,
            max_body_bytes,
            epoch,
            end: Offset(0),
            durable: Offset(0),
            sealed: None,
            given_up: None,
            dedup: Dedup::default(),
            slots: Slots::default(),
            held: VecDeque::new(),
            held_bytes: 0,
        }
    }

    /// The epoch under which it is open.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Behind the last message that was taken, durable or not.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.end
    }

    /// Behind the last durable message.
    #[must_use]
    pub fn durable(&self) -> Offset {
        self.durable
    }

    /// The attempt that it is sealed for, if it is.
    #[must_use]
    pub fn sealed(&self) -> Option<Attempt> {
        self.sealed
    }

    /// Decides about a batch. The order of the checks closes schedules in which a message was
    /// lost or doubled: a repeat is recognised before anything else, and a seal lets wait what
    /// would fit. Where messages belong comes last: a repeat gets its old offset also when its
    /// slot has moved, and a batch that is out of sequence frees nothing.
    pub fn append(&mut self, append: Append, table: &Table, rules: &Rules, out: &mut Vec<Action>) {
        let Append { token, producer, session, base_sequence, count, .. } = append;
        if let Some(at) = self.dedup.repeat(producer, base_sequence, count) {
            out.push(Action::Repeat { token, at });
            return;
        }
        if let Err(refusal) = self.check(&append, table.version) {
            out.push(Action::Refuse { token, refusal });
            return;
        }
        if self.sealed.is_some() {
            self.hold(append, rules, out);
            return;
        }
        match self.slots.judge(self.id, &append.routes, table.router.as_deref()) {
            // Only a table that names the fence frees a batch for another queue.
            Verdict::Elsewhere(number) => {
                let text = format!("queue {} gave something of the batch away", self.name);
                let refusal = stale(format!("{text} by move {number}"), table.version);
                out.push(Action::Refuse { token, refusal });
                return;
            }
            Verdict::Wait(number) if append.routing > table.version => {
                let text = format!("move {number} of queue {} is not known here yet", self.name);
                out.push(Action::Refuse { token, refusal: Refusal::new(Code::NotYet, text) });
                return;
            }
            Verdict::Wait(_) => {
                self.hold(append, rules, out);
                return;
            }
            // It continues what waits.
            Verdict::Take if self.waits(producer) => {
                self.hold(append, rules, out);
                return;
            }
            Verdict::Take => {}
        }
        let at = self.end;
        self.dedup.take(producer, session, base_sequence, count, at, self.durable);
        self.end = Offset(at.0 + u64::from(count));
        out.push(Action::Store { token, queue: self.id, at });
    }

    fn check(&mut self, append: &Append, routing: RoutingVersion) -> Result<(), Refusal> {
        if append.epoch < self.epoch {
            return Err(stale(
                format!("queue {} is at epoch {}, not {}", self.name, self.epoch, append.epoch),
                routing,
            ));
        }
        if append.epoch > self.epoch {
            return Err(Refusal::new(
                Code::NotYet,
                format!("queue {} is still at epoch {} here", self.name, self.epoch),
            ));
        }
        self.check_producer(append)?;
        if append.largest_body_bytes > self.max_body_bytes as usize {
            return Err(Refusal::new(
                Code::TooLarge,
                format!(
                    "the body has {} bytes; queue {} accepts at most {}",
                    grouped(append.largest_body_bytes as u64),
                    self.name,
                    grouped(self.max_body_bytes.into())
                ),
            )
            .hint("store large content elsewhere and send a reference"));
        }
        Ok(())
    }

    /// What a producer sent while the queue is sealed continues what it has waiting here already,
    /// or repeats it: whether it fits is decided when the seal is lifted.
    fn check_producer(&mut self, append: &Append) -> Result<(), Refusal> {
        let Append { producer, session, base_sequence, count, .. } = *append;
        let mut waiting = self.held.iter().rev().filter(|held| held.producer == producer);
        if let Some(last) = waiting.next() {
            let next = Sequence(last.base_sequence.0.saturating_add(u64::from(last.count)));
            let is_repeat =
                |held: &Append| held.base_sequence == base_sequence && held.count == count;
            let fits = next == base_sequence || is_repeat(last) || waiting.any(is_repeat);
            if fits && session >= last.session {
                return Ok(());
            }
        }
        self.dedup.check(producer, session, base_sequence)
    }

    fn waits(&self, producer: ProducerId) -> bool {
        self.held.iter().any(|held| held.producer == producer)
    }

    fn hold(&mut self, append: Append, rules: &Rules, out: &mut Vec<Action>) {
        let full = self.held.len() >= rules.max_held_appends
            || self.held_bytes + append.batch_bytes > rules.max_held_bytes;
        if full {
            let refusal = Refusal::new(
                Code::Busy,
                format!(
                    "queue {} is moving and {} batches wait already",
                    self.name,
                    self.held.len()
                ),
            );
            out.push(Action::Refuse { token: append.token, refusal });
            return;
        }
        self.held_bytes += append.batch_bytes;
        self.held.push_back(append);
    }

    /// Everything below `end` is on disk. False when this is not news of this copy: a copy that
    /// was removed may report late.
    pub fn stored(&mut self, end: Offset) -> bool {
        if end > self.end || end <= self.durable {
            return false;
        }
        self.durable = end;
        true
    }

    /// What is not durable did not reach the disk and was refused: takes it back.
    pub fn roll_back(&mut self) {
        if self.end > self.durable {
            self.dedup.roll_back(self.durable);
            self.end = self.durable;
        }
    }

    /// Goes on under this epoch, which is not older; a later one lifts the seal.
    pub fn raise(&mut self, epoch: Epoch) {
        if epoch > self.epoch {
            self.epoch = epoch;
            self.sealed = None;
        }
    }

    /// Accepts nothing any more, for this attempt or a later one.
    pub fn seal(&mut self, attempt: Attempt) {
        self.sealed = self.sealed.max(Some(attempt));
    }

    /// Lifts the seal if it is of this attempt or of an older one.
    pub fn unseal(&mut self, attempt: Attempt) {
        self.given_up = self.given_up.max(Some(attempt));
        if self.sealed.is_some_and(|sealed| sealed <= attempt) {
            self.sealed = None;
        }
    }

    /// Whether a copy for this attempt leads nowhere any more.
    #[must_use]
    pub fn is_over(&self, attempt: Attempt) -> bool {
        self.sealed.is_some_and(|sealed| sealed > attempt)
            || self.given_up.is_some_and(|given_up| given_up >= attempt)
    }

    /// The appends that waited, in order, for another decision.
    pub fn take_held(&mut self) -> Vec<Append> {
        self.held_bytes = 0;
        self.held.drain(..).collect()
    }

    /// Takes a batch from the journal at a start.
    ///
    /// # Errors
    /// [`Code::Damaged`] when its offset is not the next one.
    pub fn replay(&mut self, batch: &StoredBatch) -> Result<(), Refusal> {
        self.copy(batch)?;
        self.durable = self.end;
        Ok(())
    }

    /// Takes a batch of the original that this is a copy of; it is not durable here yet.
    ///
    /// # Errors
    /// [`Code::Damaged`] when its offset is not the next one.
    pub fn copy(&mut self, batch: &StoredBatch) -> Result<(), Refusal> {
        let StoredBatch { at, count, producer, session, base_sequence, .. } = *batch;
        if at != self.end {
            return Err(Refusal::new(
                Code::Damaged,
                format!(
                    "a batch from offset {at} of queue {} on comes where {} is the next",
                    self.name, self.end
                ),
            ));
        }
        let end = at.0.checked_add(u64::from(count)).filter(|end| *end > at.0);
        let Some(end) = end else {
            let text = format!("a batch of {count} messages at offset {at} of queue {}", self.name);
            return Err(Refusal::new(Code::Damaged, text));
        };
        self.dedup.take(producer, session, base_sequence, count, at, self.durable);
        self.end = Offset(end);
        Ok(())
    }

    /// What a restart must find again.
    #[cfg(test)]
    pub fn durable_view(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        let slots = self.slots.durable_view();
        (self.epoch, self.durable, self.sealed, self.dedup.durable_view(), slots)
    }
}

/// The refusal that sends a producer to the newer routing.
#[must_use]
pub fn stale(text: String, routing: RoutingVersion) -> Refusal {
    Refusal::new(Code::StaleRouting, format!("{text}; the routing is at version {routing}"))
}
