//! Moves of slots and classes as the workers take part in them: seals, the table that names the
//! ends, and the fences that subscriptions pass. Every step is driven from the store and said
//! again until it is answered.

use std::collections::BTreeSet;

use ringway_proto::admin::GrowInfo;
use ringway_proto::control::ToWorker;
use ringway_proto::routing::moves::{ClassMap, Fence, MovedClasses, MovedSlots, SlotMove};
use ringway_proto::routing::{Binding, Router};
use ringway_proto::{
    Epoch, Filter, GroupId, MoveNumber, Offset, QueueId, Refusal, SubscriptionId, Time, WorkerId,
};

use super::super::placement::Queue;
use super::super::rows::{Key, SlotChange, SlotMoveRow};
use super::super::slots::grown;
use super::admin::lost;
use super::{Effects, Machine};

impl Machine {
    /// Wishes for a move; it begins when those before it are in effect.
    pub(super) fn wish(&mut self, change: SlotChange) -> Result<MoveNumber, Refusal> {
        let number = self.meta.last_move.next();
        self.slot_moves.wish(number, change)?;
        self.meta.last_move = number;
        self.slots_due = true;
        self.dirty.extend([Key::Meta, Key::SlotMove(number)]);
        Ok(number)
    }

    /// Begins the move whose turn it is, asks its queues to seal, and puts it into effect when all
    /// have: the table is stored together with the ends that it names.
    pub(super) fn drive_slots(&mut self, now: Time, out: &mut Effects) {
        if !std::mem::take(&mut self.slots_due) {
            return;
        }
        while let Some((number, change)) = self.slot_moves.turn() {
            if let Some(change) = change {
                // Nothing that was accepted can be refused here; if it is, nothing moves.
                let nothing = SlotMove { number, groups: vec![], classes: None, ends: vec![] };
                let moved = self.moved_by(number, &change).unwrap_or(nothing);
                if self.slot_moves.begin(moved).is_err() {
                    return;
                }
                self.dirty.insert(Key::SlotMove(number));
            }
            let missing = self.missing_seals(number);
            if !missing.is_empty() {
                if self.slot_moves.asked != Some(number) {
                    self.slot_moves.asked = Some(number);
                    for queue in missing {
                        self.tell_slots(now, queue, out);
                    }
                }
                return;
            }
            self.publish_move(now, number, out);
        }
    }

    /// The queues that are not sealed. One that nobody ever led has taken nothing: it learns of
    /// the move when it is opened first.
    fn missing_seals(&mut self, number: MoveNumber) -> Vec<QueueId> {
        let waits = |id: &QueueId| self.slot_moves.waits_for(*id).is_some();
        let waiting: Vec<QueueId> = self.queues.keys().copied().filter(waits).collect();
        let (never_led, missing): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .partition(|id| self.queues.get(id).is_none_or(|queue| queue.row().epoch == Epoch(0)));
        for queue in never_led {
            self.slot_moves.sealed(queue, number, Offset(0));
            self.dirty.insert(Key::SlotMove(number));
        }
        missing
    }

    /// What a wish means, as things are now.
    fn moved_by(&self, number: MoveNumber, change: &SlotChange) -> Result<SlotMove, Refusal> {
        let router = Router::new(self.build_routing())?;
        let same = |id: GroupId| {
            let table = self.catalog.group(id).map(super::super::rows::GroupRow::table);
            let table = table.unwrap_or_default();
            MovedSlots { group: id, before: table.clone(), after: table }
        };
        let mut moved = SlotMove { number, groups: Vec::new(), classes: None, ends: Vec::new() };
        match change {
            SlotChange::Grow { group } => {
                let row = self.catalog.group(*group).ok_or_else(|| lost("a group that grows"))?;
                let before = row.table();
                let after = grown(&before, row.queues);
                moved.groups.push(MovedSlots { group: *group, before, after });
            }
            SlotChange::Bind { filter, group } => {
                self.catalog.group(*group).ok_or_else(|| lost("a group to bind to"))?;
                let mut groups = router.groups_for_filter(filter);
                groups.insert(*group);
                moved.groups = groups.into_iter().map(same).collect();
                moved.classes = Some(self.rebound(filter, *group));
            }
            SlotChange::Ring { group } => {
                let before = self.catalog.ring();
                let mut after = before.clone();
                let weight = self.catalog.group(*group).and_then(|row| row.ring_weight);
                after.extend(weight.map(|weight| (*group, weight)));
                after.sort_unstable();
                moved.groups = after.iter().map(|(id, _)| same(*id)).collect();
                moved.classes = Some(MovedClasses {
                    filter: None,
                    except: self.catalog.bindings().into_iter().map(|b| b.filter).collect(),
                    before: ClassMap { bindings: Vec::new(), ring: before },
                    after: ClassMap { bindings: Vec::new(), ring: after },
                });
            }
        }
        Ok(moved)
    }

    /// The classes that a new binding moves: those for which it is the most specific one.
    fn rebound(&self, filter: &Filter, to: GroupId) -> MovedClasses {
        let overlapping = self.catalog.bindings().into_iter().filter(|b| b.filter.overlaps(filter));
        let (except, under): (Vec<_>, Vec<_>) =
            overlapping.partition(|b| b.filter.cmp_specificity(filter).is_lt());
        let under =
            under.into_iter().map(|row| Binding { filter: row.filter, group: row.group }).collect();
        let ring = self.catalog.ring();
        MovedClasses {
            filter: Some(filter.clone()),
            except: except.into_iter().map(|row| row.filter).collect(),
            before: ClassMap { bindings: under, ring: ring.clone() },
            after: ClassMap { bindings: vec![Binding { filter: filter.clone(), group: to }], ring },
        }
    }

    fn publish_move(&mut self, now: Time, number: MoveNumber, out: &mut Effects) {
        let before = self.uses();
        let Some(row) = self.slot_moves.row(number) else { return };
        let after = row.moved.as_ref().and_then(|moved| moved.groups.first());
        let after = after.map(|group| group.after.clone()).unwrap_or_default();
        match row.change.clone() {
            SlotChange::Grow { .. } if after.is_empty() => {}
            SlotChange::Grow { group } => self.catalog.set_slots(group, after, &mut self.dirty),
            // The group was deleted, and the filter is on its way elsewhere.
            SlotChange::Bind { group, .. } if self.catalog.group(group).is_none() => {}
            SlotChange::Bind { filter, group } => {
                self.catalog.bind(&filter, group, &mut self.dirty);
            }
            SlotChange::Ring { group } => {
                // A ring of groups that were let on it is never refused; if it were, it would not
                // be remembered, and everybody reads those groups already.
                let _ = self.catalog.put_on_ring(group, &mut self.dirty);
                self.cover_all(now, out);
            }
        }
        self.note_uses(now, &before);
        self.slot_moves.publish(number);
        self.dirty.insert(Key::SlotMove(number));
        self.routing_changed = true;
        let queues: BTreeSet<QueueId> = self.slot_moves.fences().map(|(f, _)| f.queue).collect();
        for queue in queues {
            self.tell_fences(queue, out);
        }
    }

    /// The seal that a primary has to be told of and has not answered.
    pub(super) fn slots_of(&self, id: QueueId) -> Option<ToWorker> {
        let moved = self.slot_moves.waits_for(id)?.plain().for_queue(id);
        let epoch = self.queues.get(&id)?.row().epoch;
        Some(ToWorker::SealSlots { queue: id, epoch, moved })
    }

    fn tell_slots(&mut self, now: Time, id: QueueId, out: &mut Effects) {
        if let (Some(worker), Some(message)) = (self.primary(id), self.slots_of(id)) {
            self.tell_worker(&worker, message, out);
        }
        self.expect_answer(now);
    }

    /// A primary says that it is sealed for a move. What it said under an older epoch is not the
    /// end of what the present one took.
    pub(super) fn note_slots_sealed(
        &mut self,
        now: Time,
        worker: &WorkerId,
        id: QueueId,
        epoch: Epoch,
        number: MoveNumber,
        at: Offset,
    ) {
        let Some(queue) = self.queues.get(&id).filter(|queue| queue.is_led_by(worker)) else {
            return;
        };
        if queue.row().epoch == epoch && self.slot_moves.sealed(id, number, at) {
            self.dirty.insert(Key::SlotMove(number));
            self.slots_due = true;
            if at > Offset(0) {
                self.note_data(now, worker, id);
            }
        }
    }

    /// Says to the primary of a queue which fences there are waited for, and which fences
    /// elsewhere its subscriptions have passed.
    pub(super) fn tell_fences(&self, id: QueueId, out: &mut Effects) {
        let Some(queue) = self.queues.get(&id).filter(|queue| queue.opened) else { return };
        let Some(worker) = queue.row().primary.clone() else { return };
        let mut readers: Vec<SubscriptionId> =
            self.rights_of(id).into_iter().map(|right| right.subscription).collect();
        // Of a queue whose rights are split a subscription has several, one after the other.
        readers.dedup();
        let here = self.slot_moves.fences().filter(|(fence, _)| fence.queue == id);
        for (fence, at) in here {
            for subscription in &readers {
                if !self.slot_moves.is_passed(*subscription, &fence) {
                    let subscription = *subscription;
                    let message = ToWorker::AwaitFence { subscription, fence, at };
                    self.tell_worker(&worker, message, out);
                }
            }
        }
        if self.slot_moves.gave(id) {
            for subscription in readers {
                self.tell_passed(&worker, id, subscription, out);
            }
        }
    }

    fn tell_passed(
        &self,
        worker: &WorkerId,
        queue: QueueId,
        subscription: SubscriptionId,
        out: &mut Effects,
    ) {
        let passed: Vec<Fence> = self
            .slot_moves
            .fences()
            .map(|(fence, _)| fence)
            .filter(|fence| self.has_passed(subscription, fence))
            .collect();
        if !passed.is_empty() {
            let message = ToWorker::FencesPassed { queue, subscription, passed };
            self.tell_worker(worker, message, out);
        }
    }

    /// Messages of a queue that is gone are gone with it.
    fn has_passed(&self, subscription: SubscriptionId, fence: &Fence) -> bool {
        !self.queues.contains_key(&fence.queue) || self.slot_moves.is_passed(subscription, fence)
    }

    /// Says everything about fences to everybody.
    pub(super) fn tell_all_fences(&self, out: &mut Effects) {
        if self.slot_moves.fences().next().is_some() {
            for queue in self.queues.keys() {
                self.tell_fences(*queue, out);
            }
        }
    }

    /// A subscription reads queues that it did not read before.
    pub(super) fn tell_fences_to(&self, subscription: SubscriptionId, out: &mut Effects) {
        if self.slot_moves.fences().next().is_none() {
            return;
        }
        for queue in self.queues_read_by(subscription) {
            self.tell_fences(queue, out);
        }
    }

    /// A primary says that a subscription has passed a fence: stored, then told to every queue
    /// that may have something behind it.
    pub(super) fn note_passed(
        &mut self,
        worker: &WorkerId,
        subscription: SubscriptionId,
        fence: Fence,
        out: &mut Effects,
    ) {
        if !self.queues.get(&fence.queue).is_some_and(|queue| queue.is_led_by(worker))
            || !self.slot_moves.pass(subscription, fence)
        {
            return;
        }
        self.dirty.insert(Key::Passed(subscription));
        let mut queues = self.queues_read_by(subscription);
        queues.retain(|queue| self.slot_moves.gave(*queue));
        for queue in queues {
            if let Some(worker) = self.primary(queue) {
                self.tell_passed(&worker, queue, subscription, out);
            }
        }
    }

    /// Moves of slots and classes that are not in effect.
    #[must_use]
    pub fn open_slot_moves(&self) -> usize {
        self.slot_moves.open().count()
    }

    /// How far a group is that grows, or waits for it.
    pub(super) fn grow_info(&self, group: GroupId) -> Option<GrowInfo> {
        let row = self.slot_moves.growing(group)?;
        let queues = self.catalog.group(group)?.queues;
        let first = self.slot_moves.open().next().map(|first| first.number);
        let missing: Vec<&Queue> = self
            .queues
            .values()
            .filter(|queue| {
                let waits = self.slot_moves.waits_for(queue.row().id);
                waits.is_some_and(|moved| moved.number() == row.number)
            })
            .collect();
        let waits = match missing.iter().find(|queue| !self.is_serving(queue)) {
            _ if first != Some(row.number) => Some("an earlier move of slots or classes".into()),
            Some(queue) => match &queue.row().primary {
                Some(worker) => Some(format!("{worker}")),
                None => Some("a worker".into()),
            },
            None => None,
        };
        Some(self.grow_row(row, queues, missing.len(), waits))
    }

    fn grow_row(
        &self,
        row: &SlotMoveRow,
        queues: u32,
        missing: usize,
        waits: Option<String>,
    ) -> GrowInfo {
        let sealed = u32::try_from(row.sealed.len()).unwrap_or(u32::MAX);
        let of = sealed.saturating_add(u32::try_from(missing).unwrap_or(u32::MAX));
        GrowInfo { number: row.number, queues, sealed, of, waits }
    }

    /// Fences of moves that a group had a part in and that subscriptions have not passed.
    pub(super) fn open_fences(&self, group: GroupId) -> u32 {
        let fences: Vec<Fence> =
            self.slot_moves.fences().map(|(f, _)| f).filter(|f| f.queue.group == group).collect();
        let first = self.rights.keys().filter(|right| right.lanes.start == 0);
        let open = first.filter(|right| {
            fences.iter().any(|fence| {
                fence.queue == right.queue && !self.has_passed(right.subscription, fence)
            })
        });
        super::admin::count(open)
    }
}
