//! The rights of a queue as ranges of lanes: which right has a lane, and the orders that split and
//! merge them. Each order is one record, may come twice, and changes nothing unless it is about
//! the rights as they are. It does not know what a right keeps of its lanes.

use ringway_proto::control::{
    CopiedRight, FromWorker, GrantedRight, MergeRights, RightEpoch, SplitRight,
};
use ringway_proto::{Code, Epoch, Lanes, Offset, QueueId, Refusal, RightId, SubscriptionId};

use super::Action;
use super::delivery::Right;
use super::hosted::Hosted;
use super::layers::cover;
use crate::records::ControlRecord;

impl Hosted {
    /// The right here that has the first lane of `id`: it, or what became of it.
    #[must_use]
    pub fn at(&self, id: &RightId) -> Option<RightId> {
        let last = id.with(Lanes { start: id.lanes.start, end: u16::MAX });
        let (found, _) = self.rights.range(..=last).next_back()?;
        (found.is_beside(id) && found.lanes.contains(id.lanes.start)).then_some(*found)
    }

    /// The rights of a subscription to this queue, in the order of lanes.
    pub fn rights_of(
        &self,
        id: QueueId,
        subscription: SubscriptionId,
    ) -> impl Iterator<Item = &Right> {
        let first = RightId::first(subscription, id);
        let of = self.rights.range(first..);
        of.take_while(move |(right, _)| right.is_beside(&first)).map(|(_, right)| right)
    }

    /// Splits a right, unless that was done before; answers for every part with a later epoch.
    pub fn split(&mut self, id: QueueId, order: &SplitRight, out: &mut Vec<Action>) {
        let SplitRight { right: whole, epoch, into } = order;
        let is_as_it_was = self.rights.get(whole).is_some_and(|right| right.epoch() == *epoch);
        if is_as_it_was && is_split_of(*whole, *epoch, into) && !self.is_frozen() {
            self.do_split(id, *whole, into, out);
        }
        for part in into.iter().filter(|part| part.epoch > *epoch) {
            self.confirm(part, out);
        }
    }

    fn do_split(
        &mut self,
        id: QueueId,
        whole: RightId,
        into: &[RightEpoch],
        out: &mut Vec<Action>,
    ) {
        // What was acked of the whole is written before the split, so that a restart finds it in
        // every part.
        self.write_acks_of(id, &whole, out);
        self.apply_split(whole, into);
        let record = ControlRecord::Split { right: whole, into: into.to_vec() };
        out.push(Action::Write { queue: id, record });
        out.push(Action::Retire(whole));
        out.extend(into.iter().map(|part| Action::Look(part.right)));
    }

    fn apply_split(&mut self, whole: RightId, into: &[RightEpoch]) -> bool {
        let Some(right) = self.rights.remove(&whole) else { return false };
        for part in right.split(into) {
            self.rights.insert(part.id(), part);
        }
        true
    }

    /// Merges rights that nobody holds, unless that was done before, and answers.
    pub fn merge(&mut self, id: QueueId, order: &MergeRights, out: &mut Vec<Action>) {
        let MergeRights { parts, into } = order;
        let is_free = |part: &GrantedRight| {
            let right = self.rights.get(&part.right);
            right.is_some_and(|r| r.epoch() == part.epoch && r.holder().is_none())
        };
        let beside = parts.iter().all(|p| {
            p.right.is_beside(&into.right) && p.epoch < into.epoch && p.right != into.right
        });
        let covers = cover(into.right.lanes, parts.iter().map(|p| p.right.lanes));
        if beside && covers && parts.iter().all(is_free) && !self.is_frozen() {
            let ids: Vec<RightId> = parts.iter().map(|part| part.right).collect();
            for part in &ids {
                self.write_acks_of(id, part, out);
            }
            self.apply_merge(&ids, into);
            let record = ControlRecord::Merged { parts: ids.clone(), into: into.clone() };
            out.push(Action::Write { queue: id, record });
            out.extend(ids.into_iter().map(Action::Retire));
            out.push(Action::Look(into.right));
        }
        self.confirm(into, out);
    }

    fn apply_merge(&mut self, parts: &[RightId], into: &RightEpoch) -> bool {
        let rights: Vec<Right> = parts.iter().filter_map(|id| self.rights.remove(id)).collect();
        let all = rights.len() == parts.len();
        self.rights.insert(into.right, Right::merged(rights, into));
        all
    }

    fn confirm(&mut self, part: &RightEpoch, out: &mut Vec<Action>) {
        if self.raise(part, out) {
            let RightEpoch { right, epoch, .. } = *part;
            out.push(Action::Tell(FromWorker::RightRaised { right, epoch }));
        }
    }

    fn write_acks_of(&mut self, id: QueueId, right: &RightId, out: &mut Vec<Action>) {
        let Some(right) = self.rights.get_mut(right) else { return };
        let (record, confirm) = right.take_unwritten();
        out.extend(record.map(|record| Action::Write { queue: id, record }));
        out.extend(confirm.map(|(stream, confirmed)| Action::Confirm { stream, confirmed }));
    }

    /// Gives a subscription the rights that the coordinator lists, of a queue that has no message:
    /// such a queue moves without its rights, and a copy that was left behind has old ones.
    pub fn lay(
        &mut self,
        id: QueueId,
        subscription: SubscriptionId,
        listed: &[RightEpoch],
        out: &mut Vec<Action>,
    ) {
        let whole = RightId::whole(subscription, id);
        let mut into: Vec<RightEpoch> =
            listed.iter().filter(|part| part.right.is_beside(&whole)).cloned().collect();
        into.sort_by_key(|part| part.right.lanes);
        let here: Vec<RightId> = self.rights_of(id, subscription).map(Right::id).collect();
        let as_listed = here.iter().eq(into.iter().map(|part| &part.right));
        if as_listed || !cover(Lanes::ALL, into.iter().map(|part| part.right.lanes)) {
            return;
        }
        let why = format!("the rights to queue {} are others now", self.queue.name);
        let why = Refusal::new(Code::NotYet, why);
        for part in &here {
            if let Some(right) = self.rights.get_mut(part) {
                right.close(&why, out);
            }
        }
        // By way of the whole under epoch 0, so that every part has the holder that is listed.
        let begin = RightEpoch { right: whole, epoch: Epoch(0), holder: None };
        let first = if let [one] = into.as_slice() { one.clone() } else { begin };
        self.apply_merge(&here, &first);
        let record = ControlRecord::Merged { parts: here.clone(), into: first };
        out.push(Action::Write { queue: id, record });
        if into.len() > 1 {
            self.apply_split(whole, &into);
            let record = ControlRecord::Split { right: whole, into: into.clone() };
            out.push(Action::Write { queue: id, record });
        }
        out.extend(here.into_iter().map(Action::Retire));
        out.extend(into.into_iter().map(|part| Action::Look(part.right)));
    }

    /// Takes a split from the journal at a start.
    ///
    /// # Errors
    /// [`Code::Damaged`] when there is no such right.
    pub fn replay_split(&mut self, whole: RightId, into: &[RightEpoch]) -> Result<(), Refusal> {
        let done = self.apply_split(whole, into);
        done.then_some(()).ok_or_else(|| damaged("splits", &whole))
    }

    /// Takes a merge from the journal at a start.
    ///
    /// # Errors
    /// [`Code::Damaged`] when one of the rights is not there.
    pub fn replay_merge(&mut self, parts: &[RightId], into: &RightEpoch) -> Result<(), Refusal> {
        let done = self.apply_merge(parts, into);
        done.then_some(()).ok_or_else(|| damaged("merges", &into.right))
    }

    /// Messages that a subscription is not done with. Those that were looked at count once, for a
    /// lane has one right; of the others, those that most are left for: several rights read the
    /// same queue.
    #[must_use]
    pub fn lag_of(&self, id: QueueId, subscription: SubscriptionId, end: Offset) -> u64 {
        let rights = || self.rights_of(id, subscription);
        let unread = rights().map(|right| right.unread(end)).max().unwrap_or(0);
        rights().map(Right::unsettled).sum::<u64>() + unread
    }
}

/// Whether `into` may become of a right: parts that cover it, none under an older epoch.
fn is_split_of(whole: RightId, epoch: Epoch, into: &[RightEpoch]) -> bool {
    into.iter().all(|part| part.right.is_beside(&whole) && part.epoch >= epoch)
        && into.len() > 1
        && cover(whole.lanes, into.iter().map(|part| part.right.lanes))
}

/// Whether every lane of every subscription has one right.
#[must_use]
pub fn are_disjoint(rights: &[CopiedRight]) -> bool {
    let mut ids: Vec<RightId> = rights.iter().map(|copied| copied.right.right).collect();
    ids.sort_unstable();
    let apart = |a: &RightId, b: &RightId| !a.is_beside(b) || a.lanes.end <= b.lanes.start;
    ids.windows(2).all(|pair| apart(&pair[0], &pair[1]))
}

fn damaged(what: &str, right: &RightId) -> Refusal {
    let text = format!(
        "the journal {what} a right of {} to queue {} that is not there",
        right.subscription, right.queue
    );
    Refusal::new(Code::Damaged, text)
}
