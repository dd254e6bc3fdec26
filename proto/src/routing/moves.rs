//! Moves of slots and of classes between queues, and the fences that they leave behind: where a
//! message would have gone before each of them, and up to which offset the queues that gave hold
//! messages that come first. It does not know who has read what, nor how a move is carried out.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Binding, SlotRange};
use crate::class::{Class, Filter, family_of};
use crate::ids::{GroupId, MoveNumber, Offset, QueueId, Slot};
use crate::limits::SLOTS;
use crate::refusal::{Code, Refusal};
use crate::ring::Ring;

/// A move: from its number on, some keys or some classes go to other queues.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SlotMove {
    /// Which move. Moves take effect in the order of their numbers.
    pub number: MoveNumber,
    /// The slot tables of all groups that take part, before and after. They differ only for a
    /// group that grows.
    pub groups: Vec<MovedSlots>,
    /// Which classes change their group; none when a group grows.
    #[serde(default)]
    pub classes: Option<MovedClasses>,
    /// The offset behind the last message of what moves, for each queue that gives some of it.
    #[serde(default)]
    pub ends: Vec<QueueEnd>,
}

impl SlotMove {
    /// What one queue needs of the move: of a group that grows only the slots that it gives or
    /// gets. The others stay, all of them at one queue that is not there, so that the tables are
    /// short.
    #[must_use]
    pub fn for_queue(&self, queue: QueueId) -> Self {
        let ends = self.ends.iter().filter(|end| end.queue == queue).copied().collect();
        if self.classes.is_some() {
            return Self { ends, ..self.clone() };
        }
        let groups = self.groups.iter().map(|group| group.for_queue(queue)).collect();
        Self { number: self.number, groups, classes: None, ends }
    }
}

impl MovedSlots {
    fn for_queue(&self, queue: QueueId) -> Self {
        let firsts = self.before.iter().chain(&self.after).map(|range| range.first);
        let firsts: BTreeSet<Slot> = firsts.collect();
        let mut trimmed = Self { group: self.group, before: Vec::new(), after: Vec::new() };
        for first in firsts {
            let here = |table| queue_in(table, self.group, first).map_or(u32::MAX, |q| q.index);
            let (from, to) = (here(&self.before), here(&self.after));
            let is_meant = from != to && (from == queue.index || to == queue.index);
            let pair = if is_meant { (from, to) } else { (u32::MAX, u32::MAX) };
            for (table, queue) in [(&mut trimmed.before, pair.0), (&mut trimmed.after, pair.1)] {
                if table.last().is_none_or(|last: &SlotRange| last.queue != queue) {
                    table.push(SlotRange { first, queue });
                }
            }
        }
        trimmed
    }
}

/// The slot table of a group before and after a move, as [`super::GroupRoute::slots`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MovedSlots {
    /// The group.
    pub group: GroupId,
    /// Before.
    pub before: Vec<SlotRange>,
    /// After.
    pub after: Vec<SlotRange>,
}

/// Classes that may change their group: those that match `filter` and none of `except`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MovedClasses {
    /// Which classes; all where there is none.
    #[serde(default)]
    pub filter: Option<Filter>,
    /// Bindings that say better where a class goes, and do not change.
    pub except: Vec<Filter>,
    /// Where they went before.
    pub before: ClassMap,
    /// Where they go after.
    pub after: ClassMap,
}

/// Where classes go: by the most specific binding, else by the ring.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ClassMap {
    /// The bindings that matter.
    pub bindings: Vec<Binding>,
    /// The groups on the class ring with their weights.
    pub ring: Vec<(GroupId, u32)>,
}

/// How far a queue goes that gives something away.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct QueueEnd {
    /// The queue.
    pub queue: QueueId,
    /// What moves is below.
    pub at: Offset,
}

/// What a subscription has to have acked at a queue before messages behind a move are delivered:
/// everything below the end that the move has at that queue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Fence {
    /// The move.
    pub number: MoveNumber,
    /// The queue that gave.
    pub queue: QueueId,
}

/// A move in a form that answers for a message.
#[derive(Clone, Debug)]
pub struct Move {
    plain: SlotMove,
    classes: Option<Classes>,
    /// Queues that may lose something, and queues that may get something.
    gives: BTreeSet<QueueId>,
    takes: BTreeSet<QueueId>,
    /// `plain.ends`, to be asked for each message.
    ends: BTreeMap<QueueId, Offset>,
}

#[derive(Clone, Debug)]
struct Classes {
    before: Resolver,
    after: Resolver,
}

#[derive(Clone, Debug)]
struct Resolver {
    /// The most specific first.
    bindings: Vec<Binding>,
    ring: Ring<GroupId>,
}

impl Resolver {
    fn new(map: &ClassMap) -> Self {
        let mut bindings = map.bindings.clone();
        bindings.sort_by(|a, b| a.filter.cmp_specificity(&b.filter));
        Self { bindings, ring: Ring::new(map.ring.iter().copied()) }
    }

    fn group_of(&self, class: &str) -> Option<GroupId> {
        let bound = self.bindings.iter().find(|b| b.filter.matches(class));
        match bound {
            Some(binding) => Some(binding.group),
            None => self.ring.get(family_of(class).as_bytes()).copied(),
        }
    }
}

fn queue_in(table: &[SlotRange], group: GroupId, slot: Slot) -> Option<QueueId> {
    let at = table.partition_point(|range| range.first <= slot).checked_sub(1)?;
    table.get(at).map(|range| QueueId::new(group, range.queue))
}

impl Move {
    /// Checks a move and compiles it.
    ///
    /// # Errors
    /// [`Code::Protocol`] for a slot table that does not begin at slot 0 or is out of order.
    pub fn new(plain: SlotMove) -> Result<Self, Refusal> {
        for group in &plain.groups {
            for table in [&group.before, &group.after] {
                let begins = table.first().is_some_and(|range| range.first == Slot(0));
                let ascends = table.windows(2).all(|w| w[0].first < w[1].first);
                let ends = table.last().is_some_and(|range| range.first.0 < SLOTS);
                if !(begins && ascends && ends) {
                    let text = format!(
                        "move {} has a slot table of group {} that is out of order",
                        plain.number, group.group
                    );
                    return Err(Refusal::new(Code::Protocol, text));
                }
            }
        }
        let classes = plain.classes.as_ref().map(|classes| Classes {
            before: Resolver::new(&classes.before),
            after: Resolver::new(&classes.after),
        });
        let ends = plain.ends.iter().map(|end| (end.queue, end.at)).collect();
        let (gives, takes) = (BTreeSet::new(), BTreeSet::new());
        let mut moved = Self { plain, classes, gives, takes, ends };
        moved.find_queues();
        Ok(moved)
    }

    /// Fills in who gives and who takes. Where a range of either table begins is the first slot
    /// of every piece that differs.
    fn find_queues(&mut self) {
        for MovedSlots { group, before, after } in &self.plain.groups {
            let (mut may_give, mut may_take) = (true, true);
            if let Some(classes) = &self.classes {
                may_give = classes.before.may_be(*group);
                may_take = classes.after.may_be(*group);
            }
            for slot in before.iter().chain(after).map(|range| range.first) {
                let from = queue_in(before, *group, slot);
                let to = queue_in(after, *group, slot);
                if self.classes.is_some() || from != to {
                    self.gives.extend(from.filter(|_| may_give));
                    self.takes.extend(to.filter(|_| may_take));
                }
            }
        }
    }

    /// The end of a queue that gives something away is known now.
    pub fn set_end(&mut self, queue: QueueId, at: Offset) {
        if self.ends.insert(queue, at).is_none() {
            self.plain.ends.push(QueueEnd { queue, at });
        }
    }

    /// Which move.
    #[must_use]
    pub fn number(&self) -> MoveNumber {
        self.plain.number
    }

    /// The move as it travels.
    #[must_use]
    pub fn plain(&self) -> &SlotMove {
        &self.plain
    }

    /// The end of a queue that gives something away.
    #[must_use]
    pub fn end_of(&self, queue: QueueId) -> Option<Offset> {
        self.ends.get(&queue).copied()
    }

    /// Whether the move may take something from this queue or give it something.
    #[must_use]
    pub fn concerns(&self, queue: QueueId) -> bool {
        self.gives(queue) || self.takes(queue)
    }

    /// Whether the move may take something from this queue.
    #[must_use]
    pub fn gives(&self, queue: QueueId) -> bool {
        self.gives.contains(&queue)
    }

    /// Whether the move may give this queue something.
    #[must_use]
    pub fn takes(&self, queue: QueueId) -> bool {
        self.takes.contains(&queue)
    }

    /// From which queue to which other one messages of this class and slot move, `group` being
    /// where they went before; none if they do not.
    #[must_use]
    pub fn from_group(
        &self,
        group: GroupId,
        class: &Class,
        slot: Slot,
    ) -> Option<(QueueId, QueueId)> {
        self.step(class, slot, |before, _| before == group)
    }

    /// The same, `group` being where they go after.
    #[must_use]
    pub fn to_group(
        &self,
        group: GroupId,
        class: &Class,
        slot: Slot,
    ) -> Option<(QueueId, QueueId)> {
        self.step(class, slot, |_, after| after == group)
    }

    fn step(
        &self,
        class: &Class,
        slot: Slot,
        is_meant: impl Fn(GroupId, GroupId) -> bool,
    ) -> Option<(QueueId, QueueId)> {
        let table = |id: GroupId| self.plain.groups.iter().find(|g| g.group == id);
        let (before, after) = match (&self.classes, &self.plain.classes) {
            (Some(compiled), Some(plain)) => {
                let class = class.as_str();
                let is_selected = plain.filter.as_ref().is_none_or(|f| f.matches(class))
                    && !plain.except.iter().any(|f| f.matches(class));
                if !is_selected {
                    return None;
                }
                (compiled.before.group_of(class)?, compiled.after.group_of(class)?)
            }
            _ => {
                let group = self.plain.groups.first()?.group;
                (group, group)
            }
        };
        if !is_meant(before, after) {
            return None;
        }
        let from = queue_in(&table(before)?.before, before, slot)?;
        let to = queue_in(&table(after)?.after, after, slot)?;
        (from != to).then_some((from, to))
    }
}

impl Resolver {
    fn may_be(&self, group: GroupId) -> bool {
        self.bindings.iter().any(|binding| binding.group == group)
            || self.ring.nodes().iter().any(|(id, _)| *id == group)
    }
}

/// All moves that a routing contains.
#[derive(Clone, Debug, Default)]
pub struct Moves {
    through: MoveNumber,
    /// Those that left messages behind.
    moves: BTreeMap<MoveNumber, Move>,
}

impl Moves {
    /// Moves up to `through`, of which these left messages behind.
    ///
    /// # Errors
    /// As [`Move::new`].
    pub fn new(
        through: MoveNumber,
        moves: impl IntoIterator<Item = SlotMove>,
    ) -> Result<Self, Refusal> {
        let mut all = Self { through, moves: BTreeMap::new() };
        all.extend(through, moves)?;
        Ok(all)
    }

    /// Adds what is known up to a later move.
    ///
    /// # Errors
    /// As [`Move::new`].
    pub fn extend(
        &mut self,
        through: MoveNumber,
        moves: impl IntoIterator<Item = SlotMove>,
    ) -> Result<(), Refusal> {
        for plain in moves {
            self.moves.insert(plain.number, Move::new(plain)?);
        }
        self.through = self.through.max(through);
        Ok(())
    }

    /// The last move that took effect.
    #[must_use]
    pub fn through(&self) -> MoveNumber {
        self.through
    }

    /// The moves behind `after` that left messages behind, in order.
    pub fn after(&self, after: MoveNumber) -> impl Iterator<Item = &Move> {
        self.moves.range(after.next()..).map(|(_, moved)| moved)
    }

    /// Every fence that there is.
    pub fn all_fences(&self) -> impl Iterator<Item = Fence> + '_ {
        self.moves.values().flat_map(|moved| {
            let ends = moved.plain.ends.iter().filter(|end| end.at > Offset(0));
            ends.map(|end| Fence { number: moved.number(), queue: end.queue })
        })
    }

    /// Whether some move may have given this queue something.
    #[must_use]
    pub fn gave(&self, queue: QueueId) -> bool {
        self.moves.values().any(|moved| moved.takes(queue))
    }

    /// The fences that a message of this class and slot waits for at an offset of a queue: of
    /// every queue that such messages went to before, in the order of their moves. They form a
    /// chain: none counts without those before it (`SCHEDULES` 3e).
    #[must_use]
    pub fn fences(&self, queue: QueueId, at: Offset, class: &Class, slot: Slot) -> Vec<Fence> {
        // A queue may have given such messages away and got them back: a message below the end of
        // a move away came before that move.
        let left = self.moves.iter().find(|(_, moved)| {
            let step = moved.from_group(queue.group, class, slot);
            step.is_some_and(|(from, _)| from == queue)
                && moved.end_of(queue).is_some_and(|end| at < end)
        });
        let until = left.map_or(MoveNumber(u64::MAX), |(number, _)| *number);
        let mut fences = Vec::new();
        let mut group = queue.group;
        for (number, moved) in self.moves.range(..until).rev() {
            let Some((from, _)) = moved.to_group(group, class, slot) else { continue };
            if moved.end_of(from).is_some_and(|end| end > Offset(0)) {
                fences.push(Fence { number: *number, queue: from });
            }
            group = from.group;
        }
        fences.reverse();
        fences
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::even_slots;

    fn q(group: u32, index: u32) -> QueueId {
        QueueId::new(GroupId(group), index)
    }

    fn ends(ends: &[(QueueId, u64)]) -> Vec<QueueEnd> {
        ends.iter().map(|(queue, at)| QueueEnd { queue: *queue, at: Offset(*at) }).collect()
    }

    fn ranges(of: &[(u16, u32)]) -> Vec<SlotRange> {
        of.iter().map(|(first, queue)| SlotRange { first: Slot(*first), queue: *queue }).collect()
    }

    fn grow(number: u64, before: &[(u16, u32)], after: &[(u16, u32)], at: (u32, u64)) -> SlotMove {
        let (before, after) = (ranges(before), ranges(after));
        SlotMove {
            number: MoveNumber(number),
            groups: vec![MovedSlots { group: GroupId(1), before, after }],
            classes: None,
            ends: ends(&[(q(1, at.0), at.1)]),
        }
    }

    fn class(s: &str) -> Class {
        Class::new(s).unwrap()
    }

    #[test]
    fn schedule_3e_a_slot_that_moved_twice_waits_for_both_queues_that_it_left() {
        let first = grow(1, &[(0, 0)], &[(0, 1)], (0, 5));
        let mut second = grow(2, &[(0, 1)], &[(0, 2)], (1, 3));
        let fence = |number, index| Fence { number: MoveNumber(number), queue: q(1, index) };
        let both = Moves::new(MoveNumber(2), [first.clone(), second.clone()]).unwrap();
        let fences =
            |moves: &Moves, index, at| moves.fences(q(1, index), Offset(at), &class("a"), Slot(9));
        assert_eq!(fences(&both, 2, 0), [fence(1, 0), fence(2, 1)]);
        assert_eq!(fences(&both, 1, 2), [fence(1, 0)], "before it moved on");
        assert_eq!(fences(&both, 0, 4), []);
        // The queue between got no message: the fence before it counts all the same.
        second.ends = ends(&[(q(1, 1), 0)]);
        let both = Moves::new(MoveNumber(2), [first, second]).unwrap();
        assert_eq!(fences(&both, 2, 0), [fence(1, 0)]);
    }

    #[test]
    fn only_what_moves_waits() {
        let moves =
            Moves::new(MoveNumber(1), [grow(1, &[(0, 0)], &[(0, 0), (2048, 1)], (0, 5))]).unwrap();
        let fences = |index, slot| moves.fences(q(1, index), Offset(9), &class("a"), Slot(slot));
        assert_eq!(fences(0, 100), []);
        assert_eq!(fences(1, 3000).len(), 1);
        let moved = moves.after(MoveNumber(0)).next().unwrap();
        let concerned = [moved.gives(q(1, 0)), moved.takes(q(1, 0)), moved.gives(q(1, 1))];
        assert_eq!(concerned, [true, false, false]);
        for index in [0, 1] {
            let trimmed = Move::new(moved.plain().for_queue(q(1, index))).unwrap();
            for slot in [0, 100, 2047, 2048, 4095].map(Slot) {
                let step = |m: &Move| m.from_group(GroupId(1), &class("a"), slot);
                assert_eq!(step(&trimmed), step(moved), "{slot} at {index}");
            }
        }
        let other = moved.plain().for_queue(q(1, 7));
        assert_eq!(other.groups[0].before, other.groups[0].after, "nothing of it is there");
        assert!(moved.takes(q(1, 1)) && !moved.concerns(q(2, 0)) && !moved.concerns(q(1, 2)));
    }

    #[test]
    fn a_class_that_comes_back_to_its_group_waits_for_where_it_was_meanwhile() {
        let binding =
            |group| Binding { filter: Filter::new("b.>").unwrap(), group: GroupId(group) };
        let same = |group: u32, queues| MovedSlots {
            group: GroupId(group),
            before: even_slots(queues),
            after: even_slots(queues),
        };
        let bind = |number, from: Vec<Binding>, to: u32, at: &[(QueueId, u64)]| SlotMove {
            number: MoveNumber(number),
            groups: vec![same(1, 2), same(2, 1)],
            classes: Some(MovedClasses {
                filter: Some(Filter::new("b.>").unwrap()),
                except: vec![Filter::new("b.stay").unwrap()],
                before: ClassMap { bindings: from, ring: vec![(GroupId(1), 100)] },
                after: ClassMap { bindings: vec![binding(to)], ring: vec![(GroupId(1), 100)] },
            }),
            ends: ends(at),
        };
        let there = bind(1, vec![], 2, &[(q(1, 0), 7), (q(1, 1), 0)]);
        let back = bind(2, vec![binding(2)], 1, &[(q(2, 0), 4)]);
        let moves = Moves::new(MoveNumber(2), [there, back]).unwrap();
        let fences = |queue, at, c| moves.fences(queue, Offset(at), &class(c), Slot(3));
        let fence = |number, queue| Fence { number: MoveNumber(number), queue };
        assert_eq!(fences(q(1, 0), 3, "b.x"), [], "from before it left");
        assert_eq!(fences(q(2, 0), 3, "b.x"), [fence(1, q(1, 0))]);
        assert_eq!(fences(q(1, 0), 7, "b.x"), [fence(1, q(1, 0)), fence(2, q(2, 0))]);
        assert_eq!(fences(q(1, 0), 9, "b.stay"), []);
        assert_eq!(fences(q(1, 0), 9, "a.x"), []);
    }

    #[test]
    fn a_table_out_of_order_is_refused() {
        for table in [&[][..], &[(1, 0)], &[(0, 0), (0, 1)], &[(0, 0), (4096, 1)]] {
            let moved = grow(1, table, &[(0, 0)], (0, 0));
            assert_eq!(Move::new(moved).unwrap_err().code, Code::Protocol, "{table:?}");
        }
    }
}
