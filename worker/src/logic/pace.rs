//! How fast a worker copies queues to others: a leaky bucket over bytes. It promises that what was
//! taken over any stretch of time is at most the rate plus one piece; it does not know what is
//! sent.

use std::time::Duration;

use ringway_proto::Time;

/// A rate, and what was taken of it already.
#[derive(Clone, Debug)]
pub struct Pace {
    bytes_per_second: u64,
    /// Taken and not yet paid by time.
    debt_bytes: u64,
    /// Up to when the time has paid.
    paid_until: Time,
}

impl Pace {
    /// Nothing taken yet.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), debt_bytes: 0, paid_until: Time(0) }
    }

    /// Takes `bytes`, to be sent after the wait that it returns.
    pub fn take(&mut self, now: Time, bytes: u64) -> Duration {
        let rate = self.bytes_per_second;
        let ms = u64::try_from(now.since(self.paid_until).as_millis()).unwrap_or(u64::MAX);
        let paid = rate.saturating_mul(ms) / 1000;
        if paid >= self.debt_bytes {
            (self.debt_bytes, self.paid_until) = (0, now);
        } else {
            self.debt_bytes -= paid;
            // The part of a byte that is left over is paid with the next.
            self.paid_until = Time(self.paid_until.0 + paid.saturating_mul(1000).div_ceil(rate));
        }
        let wait = self.debt_bytes.saturating_mul(1000) / rate;
        self.debt_bytes = self.debt_bytes.saturating_add(bytes);
        Duration::from_millis(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_keeps_to_the_rate_however_small_the_pieces() {
        for (rate, piece) in [(1_000_000, 10_000), (64 << 20, 256 * 1024), (700, 64)] {
            let mut pace = Pace::new(rate);
            let (mut now, mut sent) = (Time(5_000), 0);
            while now < Time(15_000) {
                now = now + pace.take(now, piece);
                sent += piece;
                now = now + Duration::from_millis(sent % 3);
            }
            let most = rate * 10 + 2 * piece;
            assert!(sent <= most && sent >= rate * 9, "{sent} bytes at {rate} a second");
        }
    }

    #[test]
    fn a_pause_earns_no_burst() {
        let mut pace = Pace::new(1000);
        assert_eq!(pace.take(Time(0), 500), Duration::ZERO);
        assert_eq!(pace.take(Time(60_000), 500), Duration::ZERO);
        assert_eq!(pace.take(Time(60_000), 500), Duration::from_millis(500));
    }
}
