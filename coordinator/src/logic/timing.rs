//! Every duration that the coordinator decides by, named, with the defaults of the design.

use std::time::Duration;

/// The durations that the coordinator decides by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// How long a session is good for without being heard. The coordinator acts at 1.3 times
    /// this, so that the other side, which stops at 0.7 of it, has stopped by then.
    pub ttl: Duration,
    /// The least time between two plans of the same things, unless one has left.
    pub settling: Duration,
    /// How long a member may take to give a right up.
    pub drain: Duration,
    /// How long it may take in all while a handler reports progress.
    pub drain_max: Duration,
    /// How long a join waits at most for the primaries to journal its start.
    pub join_wait: Duration,
    /// What a session gets beyond its time after a restart of the coordinator, to reconnect.
    pub reconnect_allowance: Duration,
    /// After how long an unanswered step is said again on the same connection.
    pub repeat: Duration,
    /// How long a copy waits for a worker whose session has lapsed before its move is given up.
    pub move_patience: Duration,
    /// How long a copy between two workers that live may go without growing before its move is
    /// given up and planned anew.
    pub copy_patience: Duration,
    /// How long a queue may be sealed before its move is given up: publishes to it wait.
    pub seal_patience: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            ttl: Duration::from_millis(1200),
            settling: Duration::from_millis(500),
            drain: Duration::from_secs(5),
            drain_max: Duration::from_secs(60),
            join_wait: Duration::from_secs(5),
            // An attempt that began too early lasts 2 s, and the pause behind it up to 1 s.
            reconnect_allowance: Duration::from_secs(3),
            repeat: Duration::from_secs(2),
            move_patience: Duration::from_secs(10),
            copy_patience: Duration::from_secs(60),
            seal_patience: Duration::from_secs(10),
        }
    }
}

impl Timing {
    /// How long after it was last heard a session lapses: 1.3 TTL.
    #[must_use]
    pub fn lapse(&self) -> Duration {
        self.ttl * 13 / 10
    }
}
