//! Moves of slots and classes as they are carried out, one after the other: which is under way,
//! who is sealed for it, what is in effect. It owns the tables that a group grows by, promises
//! that a move takes effect only when every queue that gives or gets something is sealed for it,
//! and does not know how a worker is told.

use std::collections::{BTreeMap, BTreeSet};

use ringway_proto::limits::SLOTS;
use ringway_proto::routing::SlotRange;
use ringway_proto::routing::moves::{Fence, Move, QueueEnd, SlotMove};
use ringway_proto::{
    Code, Filter, GroupId, MoveNumber, Offset, QueueId, Refusal, Slot, SubscriptionId,
};

use super::rows::{PassedRow, SlotChange, SlotMoveRow};

/// The most moves of a cluster.
pub const MAX_SLOT_MOVES: usize = 10_000;

/// All moves, and which of their fences each subscription has passed.
#[derive(Clone, Debug, Default)]
pub struct SlotMoves {
    rows: BTreeMap<MoveNumber, SlotMoveRow>,
    /// The moves whose turn has come, compiled.
    compiled: BTreeMap<MoveNumber, Move>,
    passed: BTreeMap<SubscriptionId, BTreeSet<Fence>>,
    /// The move whose seals were sent out.
    pub asked: Option<MoveNumber>,
}

impl SlotMoves {
    /// Takes a stored move.
    ///
    /// # Errors
    /// [`Code::Damaged`] for one that cannot be.
    pub fn restore(&mut self, row: SlotMoveRow) -> Result<(), Refusal> {
        if let Some(moved) = &row.moved {
            let compiled =
                Move::new(moved.clone()).map_err(|e| Refusal::new(Code::Damaged, e.text))?;
            self.compiled.insert(row.number, compiled);
        }
        self.rows.insert(row.number, row);
        Ok(())
    }

    /// Takes what a subscription has passed.
    pub fn restore_passed(&mut self, row: PassedRow) {
        self.passed.insert(row.subscription, row.passed.into_iter().collect());
    }

    /// The row of a move.
    #[must_use]
    pub fn row(&self, number: MoveNumber) -> Option<&SlotMoveRow> {
        self.rows.get(&number)
    }

    /// The row of what a subscription has passed.
    #[must_use]
    pub fn passed_row(&self, subscription: SubscriptionId) -> Option<PassedRow> {
        let passed = self.passed.get(&subscription)?.iter().copied().collect();
        Some(PassedRow { subscription, passed })
    }

    /// Whether a further move may be wished for.
    ///
    /// # Errors
    /// [`Code::TooLarge`] when there are too many.
    pub fn check_room(&self) -> Result<(), Refusal> {
        if self.rows.len() >= MAX_SLOT_MOVES {
            return Err(Refusal::new(
                Code::TooLarge,
                format!("slots and classes moved {MAX_SLOT_MOVES} times, and cannot move again"),
            )
            .hint("bind wider filters, and let groups grow in larger steps"));
        }
        Ok(())
    }

    /// Wishes for a move behind all others.
    ///
    /// # Errors
    /// As [`Self::check_room`].
    pub fn wish(&mut self, number: MoveNumber, change: SlotChange) -> Result<(), Refusal> {
        self.check_room()?;
        let (moved, sealed, published) = (None, BTreeSet::new(), false);
        self.rows.insert(number, SlotMoveRow { number, change, moved, sealed, published });
        Ok(())
    }

    /// The moves that are not in effect, in order.
    pub fn open(&self) -> impl Iterator<Item = &SlotMoveRow> {
        self.rows.values().filter(|row| !row.published)
    }

    /// The move whose turn it is, and what was wished for if it has not begun.
    #[must_use]
    pub fn turn(&self) -> Option<(MoveNumber, Option<SlotChange>)> {
        let row = self.open().next()?;
        Some((row.number, row.moved.is_none().then(|| row.change.clone())))
    }

    /// The open move of a group that grows.
    #[must_use]
    pub fn growing(&self, group: GroupId) -> Option<&SlotMoveRow> {
        self.open().find(|row| row.change == SlotChange::Grow { group })
    }

    /// Where the last open wish sends a filter.
    #[must_use]
    pub fn binding(&self, filter: &Filter) -> Option<GroupId> {
        let to = |row: &SlotMoveRow| match &row.change {
            SlotChange::Bind { filter: f, group } if f == filter => Some(*group),
            _ => None,
        };
        self.open().filter_map(to).last()
    }

    /// A filter that is on its way to a group and will stay there.
    #[must_use]
    pub fn bound_for(&self, group: GroupId) -> Option<&Filter> {
        self.open().find_map(|row| match &row.change {
            SlotChange::Bind { filter, .. } if self.binding(filter) == Some(group) => Some(filter),
            _ => None,
        })
    }

    /// The turn of a move has come, and this is what it means.
    ///
    /// # Errors
    /// [`Code::Protocol`] for a move that contradicts itself.
    pub fn begin(&mut self, moved: SlotMove) -> Result<(), Refusal> {
        let Some(row) = self.rows.get_mut(&moved.number) else { return Ok(()) };
        self.compiled.insert(moved.number, Move::new(moved.clone())?);
        row.moved = Some(moved);
        Ok(())
    }

    /// The move whose turn it is, if it has begun.
    #[must_use]
    pub fn under_way(&self) -> Option<&Move> {
        let row = self.open().next()?;
        self.compiled.get(&row.number)
    }

    /// Whether a queue has to be sealed for the move that is under way, and is not.
    #[must_use]
    pub fn waits_for(&self, queue: QueueId) -> Option<&Move> {
        let moved = self.under_way()?;
        let row = self.rows.get(&moved.number())?;
        (moved.concerns(queue) && !row.sealed.contains(&queue)).then_some(moved)
    }

    /// A queue is sealed for the move that is under way. Returns whether that is news.
    pub fn sealed(&mut self, queue: QueueId, number: MoveNumber, at: Offset) -> bool {
        if self.waits_for(queue).is_none_or(|moved| moved.number() != number) {
            return false;
        }
        let (Some(row), Some(compiled)) =
            (self.rows.get_mut(&number), self.compiled.get_mut(&number))
        else {
            return false;
        };
        row.sealed.insert(queue);
        if let Some(moved) = row.moved.as_mut().filter(|_| compiled.gives(queue)) {
            moved.ends.push(QueueEnd { queue, at });
            compiled.set_end(queue, at);
        }
        true
    }

    /// The move is in effect.
    pub fn publish(&mut self, number: MoveNumber) {
        if let Some(row) = self.rows.get_mut(&number) {
            row.published = true;
        }
    }

    /// The moves that are in effect.
    fn published(&self) -> impl Iterator<Item = &Move> {
        self.rows
            .values()
            .take_while(|row| row.published)
            .filter_map(|row| self.compiled.get(&row.number))
    }

    /// The last move that is in effect.
    #[must_use]
    pub fn through(&self) -> MoveNumber {
        let published = self.rows.values().take_while(|row| row.published);
        published.last().map_or(MoveNumber(0), |row| row.number)
    }

    /// The moves that are in effect, from the first that left messages behind: with it the chains
    /// of fences begin.
    #[must_use]
    pub fn routed(&self) -> Vec<SlotMove> {
        let left_nothing = |moved: &&Move| moved.plain().ends.iter().all(|e| e.at == Offset(0));
        self.published().skip_while(left_nothing).map(|moved| moved.plain().clone()).collect()
    }

    /// The moves that a queue is sealed for, with its end only.
    #[must_use]
    pub fn of_queue(&self, queue: QueueId) -> Vec<SlotMove> {
        let mut moves = Vec::new();
        for row in self.rows.values().filter(|row| row.sealed.contains(&queue)) {
            moves.extend(row.moved.as_ref().map(|moved| moved.for_queue(queue)));
        }
        moves
    }

    /// Every fence, with the end that has to be acked there.
    pub fn fences(&self) -> impl Iterator<Item = (Fence, Offset)> {
        self.published().flat_map(|moved| {
            let number = moved.number();
            let ends = moved.plain().ends.iter().filter(|end| end.at > Offset(0));
            ends.map(move |end| (Fence { number, queue: end.queue }, end.at))
        })
    }

    /// Whether some move that is in effect gave a queue something.
    #[must_use]
    pub fn gave(&self, queue: QueueId) -> bool {
        self.published().any(|moved| moved.takes(queue))
    }

    /// Whether a subscription has said that it passed a fence.
    #[must_use]
    pub fn is_passed(&self, subscription: SubscriptionId, fence: &Fence) -> bool {
        self.passed.get(&subscription).is_some_and(|passed| passed.contains(fence))
    }

    /// A subscription has passed a fence. Returns whether that is news.
    pub fn pass(&mut self, subscription: SubscriptionId, fence: Fence) -> bool {
        self.fences().any(|(known, _)| known == fence)
            && self.passed.entry(subscription).or_default().insert(fence)
    }
}

/// The slot table of a group that has this one and gets `queues` queues in all: every queue gets
/// its exact share, and only as many slots move as the new queues get. What an old queue gives is
/// the end of what it has, so that the tables stay short.
#[must_use]
pub fn grown(table: &[SlotRange], queues: u32) -> Vec<SlotRange> {
    let mut owner = vec![0; usize::from(SLOTS)];
    for range in table {
        let first = usize::from(range.first.0).min(owner.len());
        owner[first..].fill(range.queue);
    }
    let share = u32::from(SLOTS) / queues.max(1);
    let mut larger = u32::from(SLOTS) % queues.max(1);
    let mut has: BTreeMap<u32, u32> = (0..queues).map(|queue| (queue, 0)).collect();
    for queue in &owner {
        *has.entry(*queue).or_default() += 1;
    }
    // Those that have one slot more than the least share keep it first: nothing moves for it.
    let mut by_size: Vec<(u32, u32)> = has.into_iter().map(|(queue, has)| (has, queue)).collect();
    by_size.sort_by_key(|(has, queue)| (std::cmp::Reverse(*has), *queue));
    let mut left: BTreeMap<u32, u32> = BTreeMap::new();
    for (_, queue) in by_size {
        left.insert(queue, share + u32::from(larger > 0));
        larger = larger.saturating_sub(1);
    }
    let mut free = Vec::new();
    for (slot, queue) in owner.iter().enumerate() {
        match left.get_mut(queue).filter(|left| **left > 0) {
            Some(left) => *left -= 1,
            None => free.push(slot),
        }
    }
    let takers = left.into_iter().flat_map(|(queue, n)| std::iter::repeat_n(queue, n as usize));
    for (slot, queue) in free.into_iter().zip(takers) {
        owner[slot] = queue;
    }
    let mut ranges: Vec<SlotRange> = Vec::new();
    for (slot, queue) in owner.into_iter().enumerate() {
        if ranges.last().is_none_or(|last| last.queue != queue) {
            ranges.push(SlotRange { first: Slot(slot as u16), queue });
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ringway_proto::routing::even_slots;

    use super::*;

    fn owners(table: &[SlotRange]) -> Vec<u32> {
        let mut owners = vec![0; usize::from(SLOTS)];
        for range in table {
            owners[usize::from(range.first.0)..].fill(range.queue);
        }
        owners
    }

    fn counts(owners: &[u32], queues: u32) -> Vec<u32> {
        let mut counts = vec![0; queues as usize];
        owners.iter().for_each(|queue| counts[*queue as usize] += 1);
        counts
    }

    proptest! {
        #[test]
        fn a_group_grows_to_exact_shares_and_moves_the_least(
            first in 1u32..40, steps in prop::collection::vec(0u32..200, 1..4),
        ) {
            let mut table = even_slots(first);
            let mut queues = first;
            for more in steps {
                let before = owners(&table);
                let old = queues;
                queues += more;
                table = grown(&table, queues);
                let after = owners(&table);
                let shares = counts(&after, queues);
                let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
                prop_assert!(most - least <= 1);
                let moved = before.iter().zip(&after).filter(|(b, a)| b != a).count() as u32;
                let new: u32 = shares[old as usize..].iter().sum();
                prop_assert_eq!(moved, new, "only what the new queues get moves");
                prop_assert!(before.iter().zip(&after).all(|(b, a)| b == a || *a >= old));
            }
        }
    }

    fn grow(queues: u32) -> SlotMove {
        let before = even_slots(1);
        let after = grown(&before, queues);
        SlotMove {
            number: MoveNumber(1),
            groups: vec![ringway_proto::routing::moves::MovedSlots {
                group: GroupId(0),
                before,
                after,
            }],
            classes: None,
            ends: vec![],
        }
    }

    #[test]
    fn a_move_waits_for_every_queue_that_gives_or_gets() {
        let q = |index| QueueId::new(GroupId(0), index);
        let mut moves = SlotMoves::default();
        moves.wish(MoveNumber(1), SlotChange::Grow { group: GroupId(0) }).unwrap();
        assert!(moves.under_way().is_none());
        moves.begin(grow(2)).unwrap();
        assert!(moves.waits_for(q(0)).is_some() && moves.waits_for(q(1)).is_some());
        assert!(!moves.sealed(q(0), MoveNumber(2), Offset(3)), "another move");
        assert!(moves.sealed(q(0), MoveNumber(1), Offset(3)));
        assert!(!moves.sealed(q(0), MoveNumber(1), Offset(9)), "said twice, the first counts");
        assert!(moves.waits_for(q(0)).is_none() && moves.waits_for(q(1)).is_some());
        assert_eq!(moves.fences().count(), 0);
        assert!(moves.sealed(q(1), MoveNumber(1), Offset(0)));
        moves.publish(MoveNumber(1));
        let fence = Fence { number: MoveNumber(1), queue: q(0) };
        assert_eq!(moves.fences().collect::<Vec<_>>(), [(fence, Offset(3))]);
        assert_eq!((moves.through(), moves.routed().len()), (MoveNumber(1), 1));
        let subscription = SubscriptionId(5);
        assert!(!moves.pass(subscription, Fence { queue: q(1), ..fence }), "no such fence");
        assert!(moves.pass(subscription, fence) && !moves.pass(subscription, fence));
        assert!(!moves.is_passed(SubscriptionId(6), &fence), "each subscription for itself");
    }
}
