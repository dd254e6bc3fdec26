//! How long the other side may take for one frame. It counts the time in which a read stood and
//! waited, and no other: whoever does not read cannot blame the sender for it. What has arrived,
//! and what happens to those who are too slow, is the reader's business.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::limits::{FRAME_PATIENCE, MIN_FRAME_RATE};

/// Waiting is counted in pieces of at most this. If this process itself stood still, or a read was
/// kept and not polled, that costs the other side one piece and no more.
const PIECE: Duration = Duration::from_secs(1);

/// What is left of the patience with one frame.
pub(super) struct Patience {
    /// For a frame of no length.
    base: Duration,
    waited: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self::new(FRAME_PATIENCE)
    }
}

impl Patience {
    /// `base` is for a frame of no length; more bytes have more time.
    pub(super) fn new(base: Duration) -> Self {
        Self { base, waited: Duration::ZERO }
    }

    /// What a frame of `len` bytes may take.
    pub(super) fn with(&self, len: usize) -> Duration {
        let per_byte = Duration::from_secs(1) / MIN_FRAME_RATE;
        self.base + per_byte * u32::try_from(len).unwrap_or(u32::MAX)
    }

    /// The next frame has all of it again.
    pub(super) fn renew(&mut self) {
        self.waited = Duration::ZERO;
    }

    /// What `arriving` brings of a frame of `len` bytes; none when the patience with this frame is
    /// used up. What is here already costs neither a timer nor a look at the clock.
    ///
    /// # Cancellation
    /// As `arriving`. What was waited until then stays counted.
    pub(super) async fn wait<F: Future>(&mut self, len: usize, arriving: F) -> Option<F::Output> {
        let mut arriving = pin!(arriving);
        let here = poll_fn(|cx| Poll::Ready(arriving.as_mut().poll(cx))).await;
        if let Poll::Ready(arrived) = here {
            return Some(arrived);
        }
        let all = self.with(len);
        while self.waited < all {
            let piece = PIECE.min(all - self.waited);
            let _counted = Piece::begin(&mut self.waited, piece);
            // It looks at `arriving` before it looks at the clock.
            if let Ok(arrived) = timeout(piece, arriving.as_mut()).await {
                return Some(arrived);
            }
        }
        None
    }
}

/// A piece of waiting, counted when it ends, also where the read is dropped.
struct Piece<'a> {
    waited: &'a mut Duration,
    since: Instant,
    most: Duration,
}

impl<'a> Piece<'a> {
    fn begin(waited: &'a mut Duration, most: Duration) -> Self {
        Self { waited, since: Instant::now(), most }
    }
}

impl Drop for Piece<'_> {
    fn drop(&mut self) {
        *self.waited += self.since.elapsed().min(self.most);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;
    use crate::limits::MAX_FRAME_BYTES;

    #[test]
    fn a_slow_honest_link_has_time_for_the_largest_frame() {
        let patience = Patience::default();
        for (len, seconds) in [(0, 10), (64 << 10, 11), (1 << 20, 26), (MAX_FRAME_BYTES, 138)] {
            let off = patience.with(len).abs_diff(Duration::from_secs(seconds));
            assert!(off < Duration::from_millis(50), "{len}: {:?}", patience.with(len));
        }
        assert!(patience.with(usize::MAX) > patience.with(MAX_FRAME_BYTES));
    }

    #[tokio::test]
    async fn what_is_here_is_taken_even_when_patience_is_used_up() {
        let mut patience = Patience::new(Duration::from_millis(5));
        assert_eq!(patience.wait(0, pending::<()>()).await, None);
        assert_eq!(patience.wait(0, ready(1)).await, Some(1));
        assert_eq!(patience.wait(0, pending::<()>()).await, None);
        patience.renew();
        assert_eq!(patience.waited, Duration::ZERO);
    }

    #[tokio::test]
    async fn only_waiting_counts_and_all_of_it() {
        let mut patience = Patience::new(Duration::from_secs(3600));
        assert_eq!(patience.wait(0, ready(1)).await, Some(1));
        assert_eq!(patience.waited, Duration::ZERO, "nothing was waited for");
        let mut before = patience.waited;
        for _ in 0..3 {
            // A read in a select whose other branch wins.
            let read = patience.wait(0, pending::<()>());
            assert!(timeout(Duration::from_millis(5), read).await.is_err());
            assert!(patience.waited >= before + Duration::from_millis(5));
            before = patience.waited;
        }
    }

    #[test]
    fn a_process_that_stood_still_counts_one_piece() {
        let mut waited = Duration::ZERO;
        let piece = Piece::begin(&mut waited, Duration::from_nanos(1));
        while piece.since.elapsed() < Duration::from_micros(10) {}
        drop(piece);
        assert_eq!(waited, Duration::from_nanos(1));
    }
}
