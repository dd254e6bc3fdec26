//! When rights are split by lanes, how finely, and who gets which part. It promises ranges that are
//! powers of two, that a member keeps the first part of what it has, and that no more parts are
//! made than members or weights ask for. It does not know who holds what, nor how a split happens.
//!
//! A plan is made over *cells*: all queues of a subscription cut into the same number of ranges, so
//! that a plan of equal items is a plan counted in lanes.

use ringway_proto::limits::SLOTS;
use ringway_proto::{Lanes, QueueId};

/// A queue is cut into at most two to this power of ranges.
pub const MAX_DEPTH: u32 = 6;
/// The most ranges of one queue.
pub const MAX_RANGES_PER_QUEUE: u32 = 1 << MAX_DEPTH;

/// How many lanes a cell has at this depth.
#[must_use]
pub fn cell_width(depth: u32) -> u16 {
    SLOTS >> depth.min(MAX_DEPTH)
}

/// The depth at which a range of lanes is one cell.
#[must_use]
pub fn depth_of(lanes: Lanes) -> u32 {
    (0..MAX_DEPTH).find(|depth| cell_width(*depth) <= lanes.count()).unwrap_or(MAX_DEPTH)
}

/// The cells of a range; the range itself where that is no larger than a cell.
#[must_use]
pub fn cells(lanes: Lanes, depth: u32) -> Vec<Lanes> {
    let width = cell_width(depth).min(lanes.count()).max(1);
    let starts = (lanes.start..lanes.end).step_by(usize::from(width));
    starts.map(|start| Lanes { start, end: start + width }).collect()
}

/// How deep the rights to `queues` queues are to be cut for members of these weights, who have them
/// cut to `finest` now, with room for `most` rights.
///
/// Deep enough that the share of the lightest member is a cell: with equal weights, as many cells
/// as members. Undone only when half as many cells would do for twice as many, so that somebody
/// who leaves and comes back merges and splits nothing.
#[must_use]
pub fn depth(queues: usize, weights: &[u32], finest: u32, most: usize) -> u32 {
    let total: u64 = weights.iter().map(|w| u64::from((*w).max(1))).sum();
    let least = weights.iter().map(|w| u64::from((*w).max(1))).min().unwrap_or(1);
    let needed = total.div_ceil(least);
    let has = |depth: &u32, cells: u64| (queues as u64) << depth >= cells;
    let fits = |depth: &u32| queues << depth <= most;
    let deepest = (0..=MAX_DEPTH).rev().find(fits).unwrap_or(0).max(finest);
    let enough = |cells| (0..deepest).find(|depth| has(depth, cells)).unwrap_or(deepest);
    match enough(needed) {
        wanted if wanted >= finest => wanted,
        _ => enough(needed.saturating_mul(2)).min(finest),
    }
}

/// Puts what a plan gave to the cells of one right in order: first what its owner keeps, then what
/// each other one gets. The plan counts the same, for the cells of a right are alike.
pub fn arrange<N: Ord>(owner: Option<&N>, cells: &mut [N]) {
    cells.sort_by(|a, b| (Some(a) != owner, a).cmp(&(Some(b) != owner, b)));
}

/// The parts of a right whose cells go to these: ranges of powers of two, as few as possible, each
/// with the place of its first cell.
#[must_use]
pub fn parts<N: PartialEq>(cells: &[(Lanes, N)]) -> Vec<(Lanes, usize)> {
    let mut parts = Vec::new();
    let mut at = 0;
    while let Some((first, to)) = cells.get(at) {
        let same = cells.iter().skip(at).take_while(|(_, other)| other == to).count();
        let width = usize::from(first.count());
        let place = usize::from(first.start) / width.max(1);
        let fits = |size: &usize| *size <= same && place.is_multiple_of(*size);
        let size = (0..=MAX_DEPTH).rev().map(|power| 1usize << power).find(fits).unwrap_or(1);
        let end = cells.get(at + size - 1).map_or(first.end, |(last, _)| last.end);
        parts.push((Lanes { start: first.start, end }, at));
        at += size;
    }
    parts
}

/// A cell as a number of its own among those of one depth, in their order: kept plans name cells
/// like queues.
#[must_use]
pub fn numbered(queue: QueueId, lanes: Lanes, depth: u32) -> QueueId {
    let cell = u32::from(lanes.start) / u32::from(cell_width(depth));
    QueueId { group: queue.group, index: queue.index << depth | cell }
}

/// The cell of [`numbered`].
#[must_use]
pub fn cell_of(number: QueueId, depth: u32) -> (QueueId, Lanes) {
    let depth = depth.min(MAX_DEPTH);
    let cell = number.index & ((1 << depth) - 1);
    let start = cell as u16 * cell_width(depth);
    let queue = QueueId { group: number.group, index: number.index >> depth };
    (queue, Lanes { start, end: start + cell_width(depth) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ringway_proto::GroupId;

    use super::*;

    #[test]
    fn queues_are_cut_until_each_member_has_its_share_and_no_further() {
        let check = |queues, members: usize, finest, want| {
            let depth = depth(queues, &vec![100; members], finest, usize::MAX);
            assert_eq!(depth, want, "{queues} queues, {members} members, cut to {finest}");
        };
        check(4, 4, 0, 0);
        check(4, 5, 0, 1);
        check(4, 32, 0, 3);
        check(4, 33, 0, 4);
        check(1, 1000, 0, MAX_DEPTH);
        // One who leaves changes nothing; many who leave do.
        check(4, 32, 4, 4);
        check(4, 16, 4, 3);
        check(4, 4, 3, 1);
        check(4, 2, 3, 0);
        check(4, 1, 1, 0);
        assert_eq!(depth(16, &[100, 100, 10], 0, usize::MAX), 1, "by weight");
        assert_eq!(depth(4, &[1; 64], 0, 16), 2, "no more rights than there may be");
        assert_eq!(depth(0, &[1], 0, 16), MAX_DEPTH.min(6));
    }

    #[test]
    fn a_cell_has_a_number_and_depth_zero_keeps_that_of_the_queue() {
        let queue = QueueId::new(GroupId(3), 4095);
        for depth in 0..=MAX_DEPTH {
            for lanes in cells(Lanes::ALL, depth) {
                assert_eq!(cell_of(numbered(queue, lanes, depth), depth), (queue, lanes));
            }
        }
        assert_eq!(numbered(queue, Lanes::ALL, 0), queue);
    }

    proptest! {
        #[test]
        fn parts_cover_a_right_and_each_is_an_aligned_power_of_two(
            depth in 0..=MAX_DEPTH, targets in prop::collection::vec(0u8..4, 64), owner in 0u8..4,
        ) {
            let lanes = cells(Lanes::ALL, depth);
            let mut targets = targets[..lanes.len()].to_vec();
            let count = targets.iter().filter(|to| **to == owner).count();
            arrange(Some(&owner), &mut targets);
            prop_assert!(targets[..count].iter().all(|to| *to == owner));
            let cells: Vec<_> = lanes.into_iter().zip(targets).collect();
            let mut end = 0;
            for (part, at) in parts(&cells) {
                prop_assert_eq!(part.start, end);
                prop_assert!(part.count().is_power_of_two() && part.start % part.count() == 0);
                let inside = cells.iter().filter(|(cell, _)| part.covers(*cell));
                prop_assert!(inside.clone().all(|(_, to)| *to == cells[at].1));
                prop_assert!(inside.count() > 0);
                end = part.end;
            }
            prop_assert_eq!(end, 4096);
        }
    }
}
