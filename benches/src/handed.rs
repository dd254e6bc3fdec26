//! What was handed out during a run: who got which message when, in one list that members append to.
//! It answers what figures are made of (gaps, first messages, who held a queue) and judges the run:
//! repeats, order per key. It does not know what was done to the cluster meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One message in a member's hands. Times count from the start of the run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handed {
    /// When it was handed out.
    pub at: Duration,
    /// When it was given to the producer.
    pub sent: Duration,
    /// Its number among all messages of the run.
    pub number: u64,
    /// Its key, as a number.
    pub key: u32,
    /// The number of its queue in the group.
    pub queue: u32,
    /// Who got it.
    pub member: u32,
}

/// What a message of the run says: its number, key and time, so that a member needs nothing else.
#[must_use]
pub fn body(number: u64, key: u32, sent: Duration) -> String {
    format!("{number} {key} {}", sent.as_nanos())
}

/// Everything that was handed out, in the order in which it was.
pub struct Log {
    started: Instant,
    handed: Mutex<Vec<Handed>>,
    last_right: Mutex<Duration>,
}

impl Default for Log {
    fn default() -> Self {
        Self { started: Instant::now(), handed: Mutex::default(), last_right: Mutex::default() }
    }
}

impl Log {
    /// How long the run has lasted.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// When something happened, as the log counts.
    #[must_use]
    pub fn time_of(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.started)
    }

    fn list(&self) -> MutexGuard<'_, Vec<Handed>> {
        self.handed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a message of the run; one with another body is passed over.
    pub fn note(&self, member: u32, queue: &str, text: &str) {
        let mut words = text.split(' ');
        let mut number = || words.next()?.parse::<u64>().ok();
        let queue = queue.rsplit_once('/').and_then(|(_, n)| n.parse().ok());
        let (Some(n), Some(key), Some(sent), Some(queue)) = (number(), number(), number(), queue)
        else {
            return;
        };
        let (at, sent) = (self.now(), Duration::from_nanos(sent));
        self.list().push(Handed { at, sent, number: n, key: key as u32, queue, member });
    }

    /// Notes that a member gained or gave up a right just now.
    pub fn note_right(&self) {
        let now = self.now();
        *self.last_right.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// When a member gained or gave up a right last.
    #[must_use]
    pub fn last_right(&self) -> Duration {
        *self.last_right.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of what was noted from `since` on.
    #[must_use]
    pub fn since(&self, since: Duration) -> Vec<Handed> {
        let list = self.list();
        let mut first = list.len();
        // From the end: a look at the last second does not walk through the minutes before it. The
        // list is in order but for the moment between reading the clock and taking the lock.
        while first > 0 && list[first - 1].at + Duration::from_millis(100) >= since {
            first -= 1;
        }
        list[first..].iter().filter(|h| h.at >= since).copied().collect()
    }
}

/// A span of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Its begin.
    pub from: Duration,
    /// Its end.
    pub to: Duration,
}

impl Span {
    /// Whether a moment is in it.
    #[must_use]
    pub fn holds(&self, at: Duration) -> bool {
        self.from <= at && at < self.to
    }

    /// The span with this much more on either side.
    #[must_use]
    pub fn widened(&self, by: Duration) -> Self {
        Self { from: self.from.saturating_sub(by), to: self.to + by }
    }
}

/// The queues that more than one member got messages of within the span: their rights moved.
#[must_use]
pub fn moved(handed: &[Handed], span: Span) -> BTreeSet<u32> {
    let mut holders: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    for h in handed.iter().filter(|h| span.holds(h.at)) {
        holders.entry(h.queue).or_default().insert(h.member);
    }
    holders.into_iter().filter(|(_, members)| members.len() > 1).map(|(queue, _)| queue).collect()
}

/// The pauses between one message of a queue and the next that ended within the span, for each queue
/// but those of `without`. A queue from which nothing came any more has the rest of the span.
#[must_use]
pub fn gaps(handed: &[Handed], span: Span, without: &BTreeSet<u32>) -> Vec<Duration> {
    let mut last: BTreeMap<u32, Duration> = BTreeMap::new();
    let mut gaps = Vec::new();
    for h in handed.iter().filter(|h| h.at < span.to && !without.contains(&h.queue)) {
        if let Some(before) = last.insert(h.queue, h.at)
            && span.holds(h.at)
        {
            gaps.push(h.at.saturating_sub(before));
        }
    }
    // One that has just begun is no pause: it is left to the next span.
    let unended = last.values().filter(|at| **at < span.from);
    gaps.extend(unended.map(|at| span.to.saturating_sub(*at)));
    gaps
}

/// How long messages were under way that arrived within the span, from the producer to a member's
/// hands.
#[must_use]
pub fn latencies(handed: &[Handed], span: Span, without: &BTreeSet<u32>) -> Vec<Duration> {
    let arrived = handed.iter().filter(|h| span.holds(h.at) && !without.contains(&h.queue));
    arrived.map(|h| h.at.saturating_sub(h.sent)).collect()
}

/// What is wrong with a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Verdict {
    /// Messages that were handed out, repeats not counted.
    pub messages: u64,
    /// Messages that were handed out again.
    pub repeats: u64,
    /// Messages that came for the first time behind a later one of their key.
    pub out_of_order: u64,
}

/// Judges everything that was handed out.
#[must_use]
pub fn judge(handed: &[Handed]) -> Verdict {
    let mut verdict = Verdict::default();
    let mut seen = BTreeSet::new();
    let mut last: BTreeMap<u32, u64> = BTreeMap::new();
    for h in handed {
        if !seen.insert(h.number) {
            verdict.repeats += 1;
            continue;
        }
        verdict.messages += 1;
        let latest = last.entry(h.key).or_default();
        verdict.out_of_order += u64::from(h.number < *latest);
        *latest = h.number.max(*latest);
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn handed(at_ms: u32, queue: u32, member: u32, number: u64) -> Handed {
        Handed { at: MS * at_ms, sent: MS * at_ms, number, key: queue, queue, member }
    }

    #[test]
    fn gaps_of_a_span_are_those_that_end_in_it_and_the_one_that_does_not_end() {
        let list =
            [handed(0, 0, 0, 0), handed(5, 1, 0, 1), handed(30, 0, 0, 2), handed(40, 0, 0, 3)];
        let span = Span { from: MS * 20, to: MS * 100 };
        assert_eq!(gaps(&list, span, &BTreeSet::new()), [MS * 30, MS * 10, MS * 95]);
        assert_eq!(gaps(&list, span, &BTreeSet::from([0])), [MS * 95]);
    }

    #[test]
    fn a_right_moved_when_two_members_got_its_messages() {
        let list = [handed(0, 0, 0, 0), handed(1, 1, 0, 1), handed(2, 1, 1, 2)];
        assert_eq!(moved(&list, Span { from: Duration::ZERO, to: MS * 9 }), BTreeSet::from([1]));
        assert_eq!(moved(&list, Span { from: MS * 2, to: MS * 9 }), BTreeSet::new());
    }

    #[test]
    fn repeats_and_disorder_are_counted_apart() {
        let list = [handed(0, 0, 0, 1), handed(1, 0, 0, 3), handed(2, 0, 0, 2), handed(3, 0, 0, 3)];
        assert_eq!(judge(&list), Verdict { messages: 3, repeats: 1, out_of_order: 1 });
    }
}
