//! When the messages of a queue arrived, coarsely. It owns a bounded list of (offset, time) and
//! answers how old an offset is; it does not know who has acked what.

use ringway_proto::{Offset, WallTime};

const MAX_MARKS: usize = 2048;
const FINEST_MS: u64 = 250;

/// Arrival times, thinned out as they get more.
#[derive(Clone, Debug)]
pub struct Ages {
    marks: Vec<(Offset, WallTime)>,
    step_ms: u64,
}

impl Default for Ages {
    fn default() -> Self {
        Self { marks: Vec::new(), step_ms: FINEST_MS }
    }
}

impl Ages {
    /// The message at `at` arrived at `when`. Offsets ascend.
    pub fn push(&mut self, at: Offset, when: WallTime) {
        if self.marks.last().is_some_and(|(_, last)| when.0 < last.0 + self.step_ms) {
            return;
        }
        if self.marks.len() >= MAX_MARKS {
            let mut n = 0;
            self.marks.retain(|_| {
                n += 1;
                n % 2 == 1
            });
            self.step_ms *= 2;
        }
        self.marks.push((at, when));
    }

    /// About when the message at `at` arrived: never later than it did.
    #[must_use]
    pub fn arrived(&self, at: Offset) -> Option<WallTime> {
        let after = self.marks.partition_point(|(offset, _)| *offset <= at);
        self.marks.get(after.checked_sub(1)?).map(|(_, when)| *when)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_stay_bounded_and_never_make_a_message_younger() {
        let mut ages = Ages::default();
        for n in 0..100_000 {
            ages.push(Offset(n), WallTime(n * 100));
        }
        assert!(ages.marks.len() <= MAX_MARKS);
        for n in [0, 1, 777, 50_000, 99_999] {
            let when = ages.arrived(Offset(n)).unwrap().0;
            assert!(when <= n * 100 && n * 100 - when <= 2 * ages.step_ms, "{n}: {when}");
        }
    }
}
