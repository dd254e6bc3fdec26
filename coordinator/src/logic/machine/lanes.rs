//! Splits and merges of rights as they go on: what holders and primaries are told, and what their
//! answers lead to. Everything is driven from the rows and said again until it is answered; why a
//! right is split is the plan's business.

use ringway_proto::control::{MergeRights, SplitRight, ToClient, ToWorker};
use ringway_proto::{Epoch, Holder, Lanes, MemberId, RightId, SubscriptionId, Time};

use super::super::rights::Right;
use super::super::rows::{Key, Merging, Phase};
use super::{Effects, Event, Machine};

impl Machine {
    /// The right that this one was cut from, while the primary has not confirmed that.
    pub(super) fn cut_from(&self, id: RightId) -> Option<RightId> {
        let cut = |right: &Right| {
            let cut = right.row().cut.as_ref()?;
            let was_part = cut.of?.covers(id.lanes) && !cut.keep.overlaps(id.lanes);
            was_part.then_some(right.row().id)
        };
        self.rights_at(id.subscription, id.queue).find_map(|(_, right)| cut(right))
    }

    /// What the primary has to be told of a split that it has not confirmed.
    pub(super) fn split_order(&self, id: RightId) -> Option<ToWorker> {
        let right = self.rights.get(&id)?;
        let of = right.row().cut.as_ref()?.of?;
        let parts = self.rights_at(id.subscription, id.queue);
        let inside = parts.filter(|(part, _)| of.covers(part.lanes));
        Some(ToWorker::Split(SplitRight {
            right: id.with(of),
            epoch: right.row().epoch,
            into: inside.map(|(_, part)| part.epoch()).collect(),
        }))
    }

    /// What the primary has to be told, so that it has this right under its epoch.
    pub(super) fn order_of(&self, id: RightId) -> Option<ToWorker> {
        if let Some(whole) = self.cut_from(id) {
            return self.split_order(whole);
        }
        let right = self.rights.get(&id)?;
        let into = right.epoch();
        let parts = right.row().parts.clone();
        Some(match parts.is_empty() {
            true => ToWorker::Raise(into),
            false => ToWorker::Merge(MergeRights { parts, into }),
        })
    }

    /// Takes the step of a right whose split is decided. True when another step has to come first:
    /// the right has to be nobody's, or somebody's, for it.
    pub(super) fn drive_cut(&mut self, now: Time, id: RightId, out: &mut Effects) -> bool {
        let Some(right) = self.rights.get(&id) else { return false };
        if right.is_being_cut() {
            return false;
        }
        match &right.row().phase {
            Phase::Free => {
                self.split(now, id, out);
                false
            }
            Phase::Granted(holder) if self.is_present(id.subscription, holder) => {
                let member = holder.member.clone();
                self.begin_narrow(now, id, &member, out);
                false
            }
            _ => true,
        }
    }

    fn begin_narrow(&mut self, now: Time, id: RightId, member: &MemberId, out: &mut Effects) {
        let Some(right) = self.rights.get_mut(&id) else { return };
        if right.begin_narrow(now, &self.setup.timing) {
            self.revoking.insert(id);
            if let Some(message) = self.rights.get(&id).and_then(|right| narrow_of(now, right)) {
                self.tell_member(id.subscription, member, message, out);
            }
        }
    }

    /// The member says that it gave lanes of a right up.
    pub(super) fn narrowed(
        &mut self,
        now: Time,
        member: &MemberId,
        id: RightId,
        epoch: Epoch,
        to: Lanes,
        out: &mut Effects,
    ) {
        let Some(right) = self.rights.get(&id) else { return };
        if right.narrowing_to() == Some(to) && right.is_held_by(member, epoch) {
            out.events.extend(right.narrowing_for(now).map(Event::Drained));
            self.split(now, id, out);
        }
    }

    /// The time to give lanes up is over.
    pub(super) fn fence_lanes(&mut self, now: Time, id: RightId, out: &mut Effects) {
        let Some(right) = self.rights.get(&id) else { return };
        let (Some(keep), Some(holder)) = (right.narrowing_to(), right.holder().cloned()) else {
            return;
        };
        let epoch = right.row().epoch;
        out.events.extend(right.narrowing_for(now).map(Event::Drained));
        self.split(now, id, out);
        if self.is_present(id.subscription, &holder) {
            let right = id.with(keep);
            let message = ToClient::Narrowed { member: holder.member.clone(), right, epoch };
            self.tell_member(id.subscription, &holder.member, message, out);
        }
    }

    /// Does a split: from the store on there are the parts, and the primary is told.
    fn split(&mut self, now: Time, id: RightId, out: &mut Effects) {
        let Some(right) = self.rights.remove(&id) else { return };
        self.dirty.insert(Key::Right(id));
        self.revoking.remove(&id);
        let members = &self.members;
        let holder = |member: &MemberId| {
            members.get(&(id.subscription, member.clone())).map(|row| row.holder())
        };
        let mut keep = None;
        for part in right.split(now, holder) {
            let part_id = part.row().id;
            match part.is_being_cut() {
                true => keep = Some(part_id),
                // It goes from whoever had all of it to somebody else.
                false => self.meta.lower_bound += u64::from(part.is_move_pending()),
            }
            self.dirty.insert(Key::Right(part_id));
            self.rights.insert(part_id, part);
        }
        self.dirty.insert(Key::Meta);
        out.events.push(Event::RightSplit);
        if let Some(order) = keep.and_then(|keep| self.split_order(keep)) {
            self.tell_primary(now, id, order, out);
        }
    }

    /// The primary has the parts of a split, for it confirmed one of them.
    pub(super) fn note_cut(&mut self, id: RightId) {
        if let Some(whole) = self.cut_from(id)
            && let Some(right) = self.rights.get_mut(&whole)
        {
            right.cut_is_done();
            self.dirty.insert(Key::Right(whole));
            self.to_drive.insert(id.subscription);
        }
    }

    /// Merges what is to be merged and belongs to nobody any more.
    pub(super) fn drive_merges(
        &mut self,
        now: Time,
        subscription: SubscriptionId,
        out: &mut Effects,
    ) {
        let to_merge = self.rights_in(subscription).filter_map(|(id, right)| {
            Some((id.with(right.row().merging.as_ref()?.lanes), right.row().merging.clone()?))
        });
        let mut wishes: Vec<(RightId, Merging)> = to_merge.collect();
        wishes.dedup_by_key(|(id, _)| *id);
        for (id, merging) in wishes {
            self.merge(now, id, &merging, out);
        }
    }

    fn merge(&mut self, now: Time, id: RightId, merging: &Merging, out: &mut Effects) {
        let inside = |(part, _): &(&RightId, &Right)| id.lanes.overlaps(part.lanes);
        let parts: Vec<Right> = self
            .rights_at(id.subscription, id.queue)
            .filter(inside)
            .map(|(_, part)| part.clone())
            .collect();
        let is_free = |part: &Right| {
            let row = part.row();
            row.phase == Phase::Free && !part.is_changing() && row.merging.as_ref() == Some(merging)
        };
        if parts.len() < 2 || !parts.iter().all(is_free) {
            return;
        }
        let to = merging.to.as_ref().and_then(|member| self.holder_now(id.subscription, member));
        let Some(merged) = Right::merged(now, &parts, merging, to) else { return };
        for part in &parts {
            self.rights.remove(&part.row().id);
            self.dirty.insert(Key::Right(part.row().id));
            if part.is_move_pending() {
                self.uncount_move();
            }
        }
        self.rights.insert(id, merged);
        self.dirty.insert(Key::Right(id));
        out.events.push(Event::RightsMerged);
        if let Some(order) = self.order_of(id) {
            self.tell_primary(now, id, order, out);
        }
    }

    pub(super) fn tell_primary(
        &mut self,
        now: Time,
        id: RightId,
        order: ToWorker,
        out: &mut Effects,
    ) {
        if let Some(worker) = self.primary(id.queue) {
            self.tell_worker(&worker, order, out);
            self.expect_answer(now);
        }
    }

    /// A member as the process that it is now.
    pub(super) fn holder_now(
        &self,
        subscription: SubscriptionId,
        member: &MemberId,
    ) -> Option<Holder> {
        Some(self.members.get(&(subscription, member.clone()))?.holder())
    }

    /// Whether a holder is still its member's process.
    pub(super) fn is_present(&self, subscription: SubscriptionId, holder: &Holder) -> bool {
        self.holder_now(subscription, &holder.member).as_ref() == Some(holder)
    }
}

/// What the holder of a right has to be told, while it gives some of its lanes up.
pub(super) fn narrow_of(now: Time, right: &Right) -> Option<ToClient> {
    let (to, holder) = (right.narrowing_to()?, right.holder()?);
    let left = right.deadline()?.since(now);
    Some(ToClient::Narrow {
        member: holder.member.clone(),
        right: right.row().id,
        epoch: right.row().epoch,
        to,
        deadline_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
    })
}
