//! Spreads messages evenly over time. It promises no burst after a pause: what was missed while
//! nothing came, or while the cluster made it wait, is not made up for.

use std::time::Duration;

use tokio::time::Instant;

/// How late a message may be and still count as in time: a timer is no finer than a millisecond.
const SLACK: Duration = Duration::from_millis(10);

/// When the next message is due.
#[derive(Debug)]
pub struct Pace {
    gap: Duration,
    due: Instant,
}

impl Pace {
    /// `rate` messages per second, the first of them at `now`.
    #[must_use]
    pub fn new(rate: f64, now: Instant) -> Self {
        Self { gap: Duration::from_secs_f64(1.0 / rate), due: now }
    }

    /// When the message that is ready at `now` may go; none means at once.
    pub fn next(&mut self, now: Instant) -> Option<Instant> {
        let due = self.due.max(now.checked_sub(SLACK).unwrap_or(now));
        self.due = due + self.gap;
        (due > now).then_some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_spread_and_a_pause_makes_no_burst() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut pace = Pace::new(10.0, start);
        assert_eq!(pace.next(start), None);
        assert_eq!(pace.next(start), Some(at(100)));
        assert_eq!(pace.next(at(100)), Some(at(200)));
        assert_eq!(pace.next(at(5000)), None);
        assert_eq!(pace.next(at(5000)), Some(at(5090)));
    }

    #[test]
    fn a_rate_above_the_timer_s_grain_is_kept_on_average() {
        let start = Instant::now();
        let mut pace = Pace::new(5000.0, start);
        let mut now = start;
        for _ in 0..5000 {
            // A timer that wakes on whole milliseconds only.
            while pace.due > now {
                now += Duration::from_millis(1);
            }
            pace.next(now);
        }
        let took = now - start;
        assert!((990..=1010).contains(&took.as_millis()), "{took:?}");
    }
}
