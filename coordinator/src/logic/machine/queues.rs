//! Queues and their rights as seen from a queue: what its primary has to be told, what the
//! primary answers, and which rights there are.

use ringway_proto::control::{OpenQueue, RightEpoch, Start, SubscriptionSetup, ToClient, ToWorker};
use ringway_proto::{
    Attempt, Epoch, GroupId, Lanes, QueueId, Refusal, RightId, SubscriptionId, Time, WorkerId,
};

use super::super::catalog::GroupWish;
use super::super::placement::Queue;
use super::super::rights::Right;
use super::super::rows::{GraveRow, GroupRow, Key, Phase, QueueRow, RightRow, SubscriptionRow};
use super::{Effects, Machine};

impl Machine {
    /// Makes a group with its queues and the rights to them. Returns whether it is new.
    pub(super) fn create_group(&mut self, wish: GroupWish) -> Result<(GroupId, bool), Refusal> {
        let (group, created) = self.catalog.create_group(wish, &mut self.dirty)?;
        if created {
            self.create_queues(group);
        }
        Ok((group, created))
    }

    /// Makes the queues that a group has and that are not there.
    pub(super) fn create_queues(&mut self, group: GroupId) {
        let count = self.catalog.group(group).map_or(0, |row| row.queues);
        for index in 0..count {
            let id = QueueId::new(group, index);
            if self.queues.contains_key(&id) {
                continue;
            }
            let row = QueueRow {
                id,
                uuid: self.new_uuid(id),
                epoch: Epoch(0),
                primary: None,
                has_data: false,
                attempt: Attempt(0),
                moving: None,
            };
            self.queues.insert(id, Queue::new(row));
            self.dirty.insert(Key::Queue(id));
        }
    }

    /// Removes the queues of a group that is gone, and the rights to them.
    pub(super) fn remove_queues(&mut self, now: Time, group: &GroupRow, out: &mut Effects) {
        for index in 0..group.queues {
            let id = QueueId::new(group.id, index);
            let Some(queue) = self.queues.remove(&id) else { continue };
            self.dirty.insert(Key::Queue(id));
            let row = queue.row();
            if let Some(moving) = &row.moving {
                self.uncount_move();
                self.moves_due = true;
                if moving.has_copy() {
                    self.drop_copy(now, &moving.to, id, row.uuid, moving.attempt, out);
                }
            }
            if let Some(worker) = row.primary.clone() {
                let epoch = row.epoch.next();
                let message = ToWorker::Tombstone { queue: id, uuid: row.uuid, epoch };
                self.tell_worker(&worker, message, out);
                self.bury(GraveRow { worker, queue: id, uuid: row.uuid, epoch });
            }
            for right in self.rights_of(id) {
                self.remove_right(right, out);
            }
        }
    }

    fn remove_right(&mut self, id: RightId, out: &mut Effects) {
        let Some(right) = self.rights.remove(&id) else { return };
        self.dirty.insert(Key::Right(id));
        if right.is_move_pending() {
            self.uncount_move();
        }
        if let Some(holder) = right.holder() {
            let epoch = right.row().epoch;
            let message = ToClient::Lost { member: holder.member.clone(), right: id, epoch };
            self.tell_member(id.subscription, &holder.member, message, out);
        }
        for (key, join) in &mut self.joins {
            if key.0 == id.subscription {
                join.waiting.remove(&id.queue);
            }
        }
    }

    /// The rights to a queue, of all subscriptions that cover it.
    pub(super) fn rights_of(&self, queue: QueueId) -> Vec<RightId> {
        let of = |s: &SubscriptionRow| self.rights_at(s.setup.id, queue).map(|(id, _)| *id);
        self.catalog.subscriptions().flat_map(|s| of(s).collect::<Vec<_>>()).collect()
    }

    /// The rights of a subscription to one queue, in the order of lanes.
    pub(super) fn rights_at(
        &self,
        subscription: SubscriptionId,
        queue: QueueId,
    ) -> impl Iterator<Item = (&RightId, &Right)> {
        let first = RightId::first(subscription, queue);
        self.rights.range(first..).take_while(move |(id, _)| id.is_beside(&first))
    }

    /// The queues that a subscription reads, in their order.
    pub(super) fn queues_read_by(&self, subscription: SubscriptionId) -> Vec<QueueId> {
        let first = self.rights_in(subscription).filter(|(_, right)| is_first(right));
        first.map(|(id, _)| id.queue).collect()
    }

    /// The rights of a subscription, in the order of their queues.
    pub(super) fn rights_in(
        &self,
        subscription: SubscriptionId,
    ) -> impl Iterator<Item = (&RightId, &Right)> {
        let from = RightId::first(subscription, QueueId::from(0));
        self.rights.range(from..).take_while(move |(id, _)| id.subscription == subscription)
    }

    /// Makes the rights that a subscription has to have and has not. A queue that came into its
    /// reach later is read from its start.
    pub(super) fn cover(&mut self, subscription: SubscriptionId, start: Start) -> bool {
        let Some(row) = self.catalog.subscription(subscription) else { return false };
        let groups = self.catalog.groups_for_filter(&row.setup.filter);
        let mut news = false;
        for group in groups {
            let count = self.catalog.group(group).map_or(0, |row| row.queues);
            for index in 0..count {
                let id = RightId::whole(subscription, QueueId::new(group, index));
                if self.rights_at(subscription, id.queue).next().is_some() {
                    continue;
                }
                let row = RightRow::new(id, start);
                // A free right has no clock running, so the time does not matter.
                self.rights.insert(id, Right::new(row, Time(0), &self.setup.timing));
                self.dirty.insert(Key::Right(id));
                news = true;
            }
        }
        news
    }

    /// Makes the rights that a change of groups or bindings brings, for all subscriptions.
    pub(super) fn cover_all(&mut self, now: Time, out: &mut Effects) {
        let ids: Vec<SubscriptionId> = self.catalog.subscriptions().map(|s| s.setup.id).collect();
        for id in ids {
            if self.cover(id, Start::Start) {
                self.rights_due(now, id, false);
                self.start_subscription(now, id, out);
                self.tell_fences_to(id, out);
            }
        }
    }

    /// Tells every primary that has not confirmed it where a subscription begins.
    pub(super) fn start_subscription(
        &mut self,
        now: Time,
        subscription: SubscriptionId,
        out: &mut Effects,
    ) {
        let missing: Vec<QueueId> = self.not_started(subscription).collect();
        for queue in missing {
            let setup = self.setup_of(subscription, queue);
            if let (Some(worker), Some(setup)) = (self.primary(queue), setup) {
                self.tell_worker(&worker, ToWorker::StartSubscription { queue, setup }, out);
                self.expect_answer(now);
            }
        }
    }

    /// The queues whose primary has not confirmed where the subscription begins.
    pub(super) fn not_started(
        &self,
        subscription: SubscriptionId,
    ) -> impl Iterator<Item = QueueId> + '_ {
        let missing = self.rights_in(subscription).filter(|(_, right)| is_first(right));
        missing.filter(|(_, right)| !right.row().started).map(|(id, _)| id.queue)
    }

    /// The journal of the primary has to learn anew which subscriptions read the queue.
    pub(super) fn restart_subscriptions(&mut self, queue: QueueId) {
        for id in self.rights_of(queue) {
            if let Some(right) = self.rights.get_mut(&id) {
                right.set_started(false);
                self.dirty.insert(Key::Right(id));
            }
        }
    }

    fn setup_of(&self, of: SubscriptionId, queue: QueueId) -> Option<SubscriptionSetup> {
        let setup = self.catalog.subscription(of)?.setup.clone();
        let (_, right) = self.rights_at(of, queue).next()?;
        Some(SubscriptionSetup { start: right.row().start, ..setup })
    }

    /// The primary of a queue.
    pub(super) fn primary(&self, queue: QueueId) -> Option<WorkerId> {
        self.queues.get(&queue)?.row().primary.clone()
    }

    /// Says everything about a queue that its primary has not answered.
    pub(super) fn tell_queue(&mut self, now: Time, id: QueueId, out: &mut Effects) {
        let Some(queue) = self.queues.get(&id) else { return };
        let row = queue.row();
        let Some(worker) = row.primary.clone() else { return };
        let rights = self.rights_of(id);
        let mut messages = Vec::new();
        if !queue.opened {
            messages.push(ToWorker::OpenQueue(self.open_queue(row, &rights)));
        }
        messages.extend(self.seal_of(id).map(|(_, seal)| seal));
        messages.extend(self.slots_of(id));
        for right in rights.iter().filter_map(|id| self.rights.get(id)) {
            messages.extend(self.unanswered(right));
        }
        for message in messages {
            self.tell_worker(&worker, message, out);
            self.expect_answer(now);
        }
    }

    fn open_queue(&self, row: &QueueRow, rights: &[RightId]) -> OpenQueue {
        let of_queue = || rights.iter().filter_map(|id| self.rights.get(id));
        // The parts of a right are said also before anyone held one: a copy that is made now has
        // to know the ranges.
        let counts = |r: &RightEpoch| r.epoch > Epoch(0) || r.right.lanes != Lanes::ALL;
        let max_body_bytes = self.catalog.group(row.id.group).map_or(0, |g| g.max_body_bytes);
        OpenQueue {
            queue: row.id,
            name: self.catalog.queue_name(row.id),
            uuid: row.uuid,
            epoch: row.epoch,
            max_body_bytes,
            subscriptions: of_queue()
                .filter(|right| is_first(right))
                .filter_map(|right| self.setup_of(right.row().id.subscription, row.id))
                .collect(),
            rights: of_queue().map(Right::epoch).filter(counts).collect(),
            moves: self.slot_moves.of_queue(row.id),
        }
    }

    fn unanswered(&self, right: &Right) -> Vec<ToWorker> {
        let row = right.row();
        let mut messages = Vec::new();
        if !row.started
            && is_first(right)
            && let Some(setup) = self.setup_of(row.id.subscription, row.id.queue)
        {
            messages.push(ToWorker::StartSubscription { queue: row.id.queue, setup });
        }
        match &row.phase {
            // What is cut from a right is told with it.
            Phase::Raising { .. } if self.cut_from(row.id).is_some() => {}
            Phase::Raising { .. } => messages.extend(self.order_of(row.id)),
            Phase::Revoking(_) => {
                messages.push(ToWorker::Revoke { right: row.id, epoch: row.epoch });
            }
            Phase::Free | Phase::Granted(_) => {}
        }
        messages.extend(self.split_order(row.id));
        messages
    }

    pub(super) fn note_started(
        &mut self,
        worker: &WorkerId,
        subscription: SubscriptionId,
        queue: QueueId,
    ) {
        if !self.queues.get(&queue).is_some_and(|q| q.is_led_by(worker)) {
            return;
        }
        let of_queue: Vec<RightId> =
            self.rights_at(subscription, queue).map(|(id, _)| *id).collect();
        for id in of_queue {
            if let Some(right) = self.rights.get_mut(&id).filter(|r| !r.row().started) {
                right.set_started(true);
                self.dirty.insert(Key::Right(id));
            }
        }
        for (key, join) in &mut self.joins {
            if key.0 == subscription {
                join.waiting.remove(&queue);
            }
        }
    }

    /// The queue has messages: from now on it moves only with them.
    pub(super) fn note_data(&mut self, now: Time, worker: &WorkerId, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id).filter(|q| q.is_led_by(worker)) else { return };
        if queue.set_has_data() {
            self.dirty.insert(Key::Queue(id));
            self.moves_due = true;
            self.note_use(now, id);
        }
    }
}

/// Whether it has the first lanes of its queue: one of a queue's rights does.
fn is_first(right: &Right) -> bool {
    right.row().id.lanes.start == 0
}
