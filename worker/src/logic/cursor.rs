//! A cursor: which messages of a queue a right is done with. It owns a floor and the ranges above
//! it, promises that neither ever goes back, and does not know why a message is done (acked, or
//! not matching the filter).

use std::collections::BTreeMap;

use ringway_proto::Offset;
use ringway_proto::data::OffsetRange;

/// A floor, below which everything is done, and disjoint ranges above it that are done too.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cursor {
    floor: Offset,
    /// First offset -> the offset behind the last. No two of them touch, none touches the floor.
    above: BTreeMap<Offset, Offset>,
}

impl Cursor {
    /// A cursor that is done with everything below `floor`.
    #[must_use]
    pub fn new(floor: Offset) -> Self {
        Self { floor, above: BTreeMap::new() }
    }

    /// Everything below is done.
    #[must_use]
    pub fn floor(&self) -> Offset {
        self.floor
    }

    /// What is done above the floor, in ascending ranges.
    pub fn ranges(&self) -> impl Iterator<Item = OffsetRange> + '_ {
        self.above.iter().map(|(&first, &end)| OffsetRange { first, end })
    }

    /// How many ranges there are above the floor.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.above.len()
    }

    /// The offset behind the last message that is done.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.above.last_key_value().map_or(self.floor, |(_, end)| *end)
    }

    /// Everything that is done, in ascending ranges; a floor above 0 is the first of them.
    #[must_use]
    pub fn done(&self) -> Vec<OffsetRange> {
        let below = OffsetRange { first: Offset(0), end: self.floor };
        let below = (below.end > Offset(0)).then_some(below);
        below.into_iter().chain(self.ranges()).collect()
    }

    /// Whether the message at `at` is done.
    #[must_use]
    pub fn contains(&self, at: Offset) -> bool {
        at < self.floor || self.range_over(at).is_some()
    }

    /// The first offset from `at` on that is not done.
    #[must_use]
    pub fn next_open(&self, at: Offset) -> Offset {
        let at = at.max(self.floor);
        self.range_over(at).map_or(at, |range| range.end)
    }

    fn range_over(&self, at: Offset) -> Option<OffsetRange> {
        let (&first, &end) = self.above.range(..=at).next_back()?;
        (at < end).then_some(OffsetRange { first, end })
    }

    /// How many messages of `range` are done.
    #[must_use]
    pub fn count_in(&self, range: OffsetRange) -> u64 {
        let overlap = |first: Offset, end: Offset| {
            end.min(range.end).0.saturating_sub(first.max(range.first).0)
        };
        let straddling = self.range_over(range.first).map_or(range.first, |r| r.first);
        let above: u64 = self
            .above
            .range(straddling..range.end.max(straddling))
            .map(|(&f, &e)| overlap(f, e))
            .sum();
        above + overlap(Offset(0), self.floor)
    }

    /// Marks `range` as done. Marking twice changes nothing.
    pub fn insert(&mut self, range: OffsetRange) {
        let (mut first, mut end) = (range.first.max(self.floor), range.end);
        if first >= end {
            return;
        }
        // Joins with the range that reaches `first`, and with all that begin up to `end`.
        if let Some((&f, &e)) = self.above.range(..=first).next_back()
            && e >= first
        {
            first = f;
            end = end.max(e);
            self.above.remove(&f);
        }
        while let Some((&f, &e)) = self.above.range(first..=end).next() {
            end = end.max(e);
            self.above.remove(&f);
        }
        if first <= self.floor {
            self.floor = end;
        } else {
            self.above.insert(first, end);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn acks_out_of_order_move_the_floor_when_the_gap_closes() {
        let mut cursor = Cursor::new(Offset(10));
        cursor.insert(OffsetRange::new(12, 14));
        cursor.insert(OffsetRange::new(11, 12));
        assert_eq!(cursor.floor(), Offset(10));
        assert_eq!(cursor.ranges().collect::<Vec<_>>(), [OffsetRange::new(11, 14)]);
        cursor.insert(OffsetRange::new(3, 11));
        assert_eq!((cursor.floor(), cursor.ranges().count()), (Offset(14), 0));
    }

    proptest! {
        #[test]
        fn a_cursor_is_a_set_of_offsets(
            floor in 0u64..20,
            ranges in prop::collection::vec((0u64..60, 0u64..10), 0..40),
            probe in (0u64..70, 0u64..70),
        ) {
            let mut cursor = Cursor::new(Offset(floor));
            let mut model: BTreeSet<u64> = (0..floor).collect();
            let mut last_floor = cursor.floor();
            for (first, len) in ranges {
                cursor.insert(OffsetRange::new(first, first + len));
                model.extend(first..first + len);
                prop_assert!(cursor.floor() >= last_floor);
                last_floor = cursor.floor();
            }
            let open = |from: u64| (from..).find(|o| !model.contains(o)).unwrap();
            prop_assert_eq!(cursor.floor().0, open(0));
            for at in 0..80 {
                prop_assert_eq!(cursor.contains(Offset(at)), model.contains(&at));
                prop_assert_eq!(cursor.next_open(Offset(at)).0, open(at));
            }
            let (a, b) = (probe.0.min(probe.1), probe.0.max(probe.1));
            let count = cursor.count_in(OffsetRange::new(a, b));
            prop_assert_eq!(count, model.range(a..b).count() as u64);
            let ranges: Vec<_> = cursor.ranges().collect();
            prop_assert!(ranges.windows(2).all(|w| w[0].end < w[1].first));
            prop_assert!(ranges.iter().all(|r| r.first > cursor.floor()));
        }
    }
}
