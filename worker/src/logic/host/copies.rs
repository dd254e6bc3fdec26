//! The queues that are copied to this worker: which orders begin a copy, what comes of it, and how
//! far it is. It promises that a copy that was given up is not begun again by a late order, and that
//! a queue which is open here is not copied over. What a copy makes of a batch is not its business.

use ringway_proto::control::{CopyFrom, CopyQueue, CopySealed, CopyState, HeldCopy};
use ringway_proto::{Attempt, Epoch, QueueId, Refusal, Time, Uuid};

use super::super::copy::Copy;
use super::super::hosted::CopyNext;
use super::super::queue::StoredBatch;
use super::super::{Action, LateOrder};
use super::Host;
use crate::records::ControlRecord;

impl Host {
    /// Every copy, in order.
    pub fn copies(&self) -> impl Iterator<Item = (QueueId, &Copy)> {
        self.copies.iter().map(|(id, copy)| (*id, copy))
    }

    /// Every copy as it is said at registration.
    #[must_use]
    pub fn held_copies(&self) -> Vec<HeldCopy> {
        self.copies.values().map(Copy::held).collect()
    }

    pub(super) fn copy_queue(&mut self, order: &CopyQueue, out: &mut Vec<Action>) {
        let id = order.queue;
        if let Some(why) = self.against_copy(order) {
            out.push(Action::Late { queue: id, order: LateOrder::CopyQueue, why });
            return;
        }
        if let Some(copy) = self.copies.get(&id).filter(|copy| copy.uuid() != order.uuid) {
            self.forget_copy(id, copy.attempt(), out);
        }
        let (born, fetch) = (self.next_number(), self.next_number());
        let CopyQueue { name, uuid, epoch, attempt, .. } = order.clone();
        let is_new = self.begin_copy(id, uuid, name, epoch, attempt, born);
        let Some(copy) = self.copies.get_mut(&id) else { return };
        if is_new {
            out.push(Action::Write { queue: id, record: copy.record() });
        }
        copy.order(order, fetch, out);
    }

    /// True when this begins a copy or an attempt.
    pub(super) fn begin_copy(
        &mut self,
        id: QueueId,
        uuid: Uuid,
        name: String,
        epoch: Epoch,
        attempt: Attempt,
        born: u64,
    ) -> bool {
        match self.copies.get_mut(&id) {
            Some(copy) if copy.attempt() >= attempt => return false,
            Some(copy) => copy.begin(name, epoch, attempt),
            None => {
                let copy = Copy::new(id, uuid, name, epoch, attempt, born);
                self.copies.insert(id, copy);
            }
        }
        true
    }

    fn against_copy(&self, order: &CopyQueue) -> Option<String> {
        let CopyQueue { queue, uuid, epoch, attempt, .. } = order;
        if let Some(removed) = self.removed.get(queue).filter(|removed| epoch < *removed) {
            return Some(format!(
                "it names epoch {epoch}, and the copy was removed under epoch {removed}"
            ));
        }
        if let Some(hosted) = self.hosted.get(queue) {
            return Some(format!("the queue is open here under epoch {}", hosted.queue.epoch()));
        }
        let dropped = self.dropped.get(queue).filter(|(of, over)| of == uuid && attempt <= over);
        if let Some((_, over)) = dropped {
            return Some(format!("it is for attempt {attempt}, and {over} is over"));
        }
        let newer =
            self.copies.get(queue).filter(|c| c.uuid() == *uuid && c.attempt() > *attempt)?;
        Some(format!("it is for attempt {attempt}, and the copy is for {}", newer.attempt()))
    }

    pub(super) fn forget_copy(&mut self, queue: QueueId, attempt: Attempt, out: &mut Vec<Action>) {
        if let Some(copy) = self.copies.remove(&queue) {
            out.push(Action::StopFetch(queue));
            out.push(Action::Forget(queue));
            let record = ControlRecord::CopyDropped { uuid: copy.uuid(), attempt };
            out.push(Action::Write { queue, record });
        }
    }

    pub(super) fn note_dropped(&mut self, queue: QueueId, uuid: Uuid, attempt: Attempt) {
        let known = self.dropped.entry(queue).or_insert((uuid, attempt));
        if known.0 != uuid || known.1 < attempt {
            *known = (uuid, attempt);
        }
    }

    /// The copy that what comes under this number belongs to.
    fn fetched(&mut self, queue: QueueId, fetch: u64) -> Option<&mut Copy> {
        self.copies.get_mut(&queue).filter(|copy| copy.is_fetched_by(fetch))
    }

    /// What to ask the original for under this number; none when nothing is wanted any more.
    #[must_use]
    pub fn fetch_from(&mut self, queue: QueueId, fetch: u64) -> Option<CopyFrom> {
        self.fetched(queue, fetch).map(|copy| copy.ask())
    }

    /// The original of a copy is this far.
    pub fn copy_heard(
        &mut self,
        now: Time,
        queue: QueueId,
        fetch: u64,
        state: CopyState,
        out: &mut Vec<Action>,
    ) {
        let rules = self.rules;
        if let Some(copy) = self.fetched(queue, fetch) {
            copy.heard(now, state, &rules, out);
        }
    }

    /// A batch came from the original. The number of the copy that it is to be written for; none
    /// when it is not wanted.
    ///
    /// # Errors
    /// [`Code::Damaged`] when it does not follow what is here; it is asked for again.
    pub fn copy_batch(
        &mut self,
        fetch: u64,
        batch: &StoredBatch,
        out: &mut Vec<Action>,
    ) -> Result<Option<u64>, Refusal> {
        let queue = batch.queue;
        let Some(copy) = self.fetched(queue, fetch) else { return Ok(None) };
        match copy.take(batch) {
            Ok(is_news) => Ok(is_news.then_some(copy.born())),
            Err(refusal) => Err(self.ask_again(queue, refusal, out)),
        }
    }

    /// The original is sealed.
    ///
    /// # Errors
    /// As [`Copy::sealed`]; it is asked for again.
    pub fn copy_sealed(
        &mut self,
        queue: QueueId,
        fetch: u64,
        snapshot: CopySealed,
        out: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        let Some(copy) = self.fetched(queue, fetch) else { return Ok(()) };
        copy.sealed(snapshot, out).map_err(|refusal| self.ask_again(queue, refusal, out))
    }

    fn ask_again(&mut self, queue: QueueId, refusal: Refusal, out: &mut Vec<Action>) -> Refusal {
        let fetch = self.next_number();
        if let Some(copy) = self.copies.get_mut(&queue) {
            copy.fetch_again(fetch, out);
        }
        refusal
    }

    /// A batch of the copy with the number `born` is on disk. False when that copy is gone.
    pub fn copy_stored(
        &mut self,
        now: Time,
        born: u64,
        batch: &StoredBatch,
        out: &mut Vec<Action>,
    ) -> bool {
        let rules = self.rules;
        let copy = self.copies.get_mut(&batch.queue).filter(|copy| copy.born() == born);
        copy.map(|copy| copy.stored(now, batch, &rules, out)).is_some()
    }

    /// The next moment at which [`Host::wake_copies`] has something to say.
    #[must_use]
    pub fn copies_wakeup(&self) -> Option<Time> {
        self.copies.values().filter_map(|copy| copy.next_wakeup(&self.rules)).min()
    }

    /// Says how far copies are, where it is time.
    pub fn wake_copies(&mut self, now: Time, out: &mut Vec<Action>) {
        for copy in self.copies.values_mut() {
            if copy.next_wakeup(&self.rules).is_some_and(|at| at <= now) {
                copy.report(now, &self.rules, out);
            }
        }
    }

    /// What a copy of a queue that is open here is sent next.
    #[must_use]
    pub fn copy_next(&self, asked: &CopyFrom) -> CopyNext {
        match self.hosted.get(&asked.queue) {
            Some(hosted) => hosted.copy_next(asked),
            None => CopyNext::Over(self.not_here(asked.queue, self.table.version)),
        }
    }
}
