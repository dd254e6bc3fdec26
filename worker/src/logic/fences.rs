//! What a subscription has to have read elsewhere before messages of a queue are delivered: the
//! gate in front of messages that came by a move, and the watch over the fences at the queues that
//! gave. It owns which fences are passed, promises that a chain of fences opens only as a whole,
//! and does not know how a message is sent.

use std::collections::{BTreeMap, BTreeSet};

use ringway_proto::batch::Batch;
use ringway_proto::routing::moves::{Fence, Moves};
use ringway_proto::{Offset, QueueId, Slot, SubscriptionId};

/// The fences as one queue knows them.
#[derive(Clone, Debug, Default)]
pub struct Fences {
    /// What its subscriptions have passed, here and elsewhere.
    passed: BTreeMap<SubscriptionId, BTreeSet<Fence>>,
    /// Whom to tell of: the ends at this queue that the coordinator waits for.
    watched: BTreeMap<(SubscriptionId, Fence), Offset>,
}

/// The gate of one subscription at one queue.
#[derive(Clone, Copy, Debug)]
pub struct Gate<'a> {
    queue: QueueId,
    moves: &'a Moves,
    passed: Option<&'a BTreeSet<Fence>>,
}

impl Fences {
    /// The subscription has passed these fences. Returns whether that is news.
    pub fn pass(
        &mut self,
        subscription: SubscriptionId,
        passed: impl IntoIterator<Item = Fence>,
    ) -> bool {
        let known = self.passed.entry(subscription).or_default();
        let before = known.len();
        known.extend(passed);
        known.len() > before
    }

    /// The gate in front of the messages of a queue; none once every fence there is was passed.
    #[must_use]
    pub fn gate<'a>(
        &'a self,
        queue: QueueId,
        subscription: SubscriptionId,
        moves: &'a Moves,
    ) -> Option<Gate<'a>> {
        let passed = self.passed.get(&subscription);
        let is_passed = |fence: Fence| passed.is_some_and(|passed| passed.contains(&fence));
        (!moves.all_fences().all(is_passed)).then_some(Gate { queue, moves, passed })
    }

    /// The coordinator wants to know when the subscription is past `at`.
    pub fn watch(&mut self, subscription: SubscriptionId, fence: Fence, at: Offset) {
        self.watched.insert((subscription, fence), at);
    }

    /// Whether the coordinator waits for anything.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        !self.watched.is_empty()
    }

    /// Takes out the fences that are passed.
    pub fn take_passed(
        &mut self,
        is_past: impl Fn(SubscriptionId, Offset) -> bool,
    ) -> Vec<(SubscriptionId, Fence)> {
        let watched = self.watched.iter();
        let passed = watched.filter(|((subscription, _), at)| is_past(*subscription, **at));
        let passed: Vec<_> = passed.map(|(watch, _)| *watch).collect();
        for watch in &passed {
            self.watched.remove(watch);
        }
        passed
    }

    /// What a restart must find again.
    #[cfg(test)]
    pub fn durable_view(&self) -> BTreeMap<SubscriptionId, BTreeSet<Fence>> {
        self.passed.clone()
    }
}

impl Gate<'_> {
    /// The slot of a message that has to wait here; none for one that may be sent. Every fence of
    /// its chain counts: that the last is passed says nothing of those before it.
    #[must_use]
    pub fn closed_for(&self, at: Offset, batch: &Batch, index: usize) -> Option<Slot> {
        let slot = batch.slot(index)?;
        let class = batch.classes().get(batch.class_of(index))?;
        let fences = self.moves.fences(self.queue, at, class, slot);
        let is_passed = |fence| self.passed.is_some_and(|passed| passed.contains(fence));
        (!fences.iter().all(is_passed)).then_some(slot)
    }
}
