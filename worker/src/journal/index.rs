//! Where each batch of one queue is in the journal. It promises to find the batch of an offset by
//! binary search; it does not know how the batches got there, nor read them.

use std::collections::VecDeque;

use ringway_proto::Offset;

use super::frame::Location;

/// One batch of the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexEntry {
    /// The offset of its first message.
    pub base: Offset,
    /// How many messages it has, at least 1.
    pub count: u32,
    /// Where its frame is.
    pub at: Location,
}

impl IndexEntry {
    /// The offset after its last message.
    #[must_use]
    pub fn end(&self) -> Offset {
        Offset(self.base.0.saturating_add(u64::from(self.count)))
    }
}

/// A batch that does not come after the ones before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a batch of {count} messages at offset {base} does not follow the queue's end {end}")]
pub struct OutOfOrder {
    /// The offset of its first message.
    pub base: Offset,
    /// How many messages it has.
    pub count: u32,
    /// The offset after the last message of the queue.
    pub end: Offset,
}

/// The batches of one queue, by offset.
#[derive(Clone, Default, Debug)]
pub struct QueueIndex {
    /// Ascending and without overlap; a gap is where messages are gone.
    entries: VecDeque<IndexEntry>,
    bytes: u64,
}

impl QueueIndex {
    /// Adds the batch of `count` messages from `base` on, whose frame is at `at`.
    ///
    /// # Errors
    /// [`OutOfOrder`] when `base` is below [`end`](Self::end), `count` is 0, or the offsets would
    /// pass 2^64. Nothing is added then.
    pub fn push(&mut self, base: Offset, count: u32, at: Location) -> Result<(), OutOfOrder> {
        let end = self.end();
        if base < end || count == 0 || base.0.checked_add(u64::from(count)).is_none() {
            return Err(OutOfOrder { base, count, end });
        }
        self.entries.push_back(IndexEntry { base, count, at });
        self.bytes += u64::from(at.body_len());
        Ok(())
    }

    /// The batch that holds `offset`; `None` when it is before the first, in a gap, or not yet
    /// there.
    #[must_use]
    pub fn find(&self, offset: Offset) -> Option<IndexEntry> {
        self.from(offset).next().filter(|e| e.base <= offset)
    }

    /// The batch that holds `offset`, or else the next one, and all after it.
    pub fn from(&self, offset: Offset) -> impl Iterator<Item = IndexEntry> + '_ {
        let first = self.entries.partition_point(|e| e.end() <= offset);
        self.entries.range(first..).copied()
    }

    /// The offset of the first message; `None` when there is none.
    #[must_use]
    pub fn start(&self) -> Option<Offset> {
        self.entries.front().map(|e| e.base)
    }

    /// The offset after the last message; 0 when there is none.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.entries.back().map_or(Offset(0), IndexEntry::end)
    }

    /// Bytes of the batches.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many batches there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no batch.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(position: u64) -> Location {
        Location { segment: 1, position, length: 100 }
    }

    fn index() -> QueueIndex {
        let mut index = QueueIndex::default();
        for (base, count) in [(0, 3), (3, 1), (10, 5)] {
            index.push(Offset(base), count, at(base * 8)).unwrap();
        }
        index
    }

    #[test]
    fn every_offset_finds_its_batch() {
        let found: Vec<_> = (0..17).map(|o| index().find(Offset(o)).map(|e| e.base.0)).collect();
        let mut expected = vec![Some(0), Some(0), Some(0), Some(3)];
        expected.extend([None; 6]);
        expected.extend([Some(10); 5]);
        expected.extend([None; 2]);
        assert_eq!(found, expected);
    }

    #[test]
    fn reading_on_from_an_offset_skips_a_gap() {
        let from = |o| index().from(Offset(o)).map(|e| e.base.0).collect::<Vec<_>>();
        assert_eq!(from(2), [0, 3, 10]);
        assert_eq!(from(5), [10]);
        assert_eq!(from(15), [0; 0]);
    }

    #[test]
    fn a_batch_never_covers_what_another_covers() {
        let mut index = index();
        for (base, count) in [(14, 1), (0, 1), (15, 0), (u64::MAX, 1)] {
            let refused = index.push(Offset(base), count, at(0)).unwrap_err();
            assert_eq!(refused, OutOfOrder { base: Offset(base), count, end: Offset(15) });
        }
        assert_eq!((index.len(), index.end()), (3, Offset(15)));
    }
}
