//! The SDK's clock: [`Time`] for everything that waits, and the calendar for what people read. It
//! is the one place of this crate that asks either.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ringway_proto::{Time, WallTime};

/// A monotonic clock that begins a while before it was made, so that moments before it have a
/// [`Time`] too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

/// What lies before the start, in milliseconds.
const BEFORE: u64 = 1_000_000;

impl Clock {
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }

    pub fn now(&self) -> Time {
        self.at(Instant::now())
    }

    pub fn at(&self, moment: Instant) -> Time {
        match moment.checked_duration_since(self.start) {
            Some(after) => Time(BEFORE + after.as_millis() as u64),
            None => Time(BEFORE.saturating_sub((self.start - moment).as_millis() as u64)),
        }
    }

    /// The moment of a [`Time`], never before the start.
    pub fn instant(&self, time: Time) -> Instant {
        self.start + time.since(Time(BEFORE))
    }
}

pub(crate) fn wall() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(since.as_millis() as u64)
}
