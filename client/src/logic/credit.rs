//! How a member shares its credit among its rights. It promises that what the workers may send,
//! by every window that one of them may still obey, together with what is held, never exceeds the
//! credit, except that each right may always have one message. It does not know what a message is.

use std::collections::VecDeque;

use ringway_proto::data::Window;

/// What a member may have delivered and unsettled at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Credit {
    /// In messages.
    pub messages: u32,
    /// In bytes.
    pub bytes: u64,
}

/// The windows of one right that its worker may still obey.
#[derive(Clone, Debug, Default)]
pub struct Promise {
    number: u64,
    /// The oldest one is in force for sure; the newest is what was sent last.
    windows: VecDeque<Window>,
}

impl Promise {
    /// The window that was sent last; nothing before the first open.
    #[must_use]
    pub fn latest(&self) -> Window {
        self.windows.back().copied().unwrap_or(Window {
            number: self.number,
            messages: 0,
            bytes: 0,
        })
    }

    /// The most that the worker may send under any window that it may still obey.
    #[must_use]
    pub fn most(&self) -> Credit {
        Credit {
            messages: self.windows.iter().map(|w| w.messages).max().unwrap_or(0),
            bytes: self.windows.iter().map(|w| w.bytes).max().unwrap_or(0),
        }
    }

    /// Makes a new window, which is to be sent.
    pub fn send(&mut self, messages: u32, bytes: u64) -> Window {
        self.number += 1;
        let window = Window { number: self.number, messages, bytes };
        self.windows.push_back(window);
        window
    }

    /// The worker sent this window back: older ones are void.
    pub fn seen(&mut self, number: u64) {
        while self.windows.len() > 1 && self.windows.front().is_some_and(|w| w.number < number) {
            self.windows.pop_front();
        }
    }

    /// The stream is gone, and with it every window: deliveries of older opens are dropped.
    pub fn void(&mut self) {
        self.windows.clear();
    }
}

/// One right in the eyes of [`share`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// The window that was sent last.
    pub latest: Credit,
    /// The most that may be or become held: of every window that may be obeyed and what is held.
    pub used: Credit,
}

/// The windows that the rights should have now, in their order. `taken` is what rights outside
/// these (draining ones) hold.
#[must_use]
pub fn share(credit: Credit, taken: Credit, claims: &[Claim]) -> Vec<Credit> {
    let messages = share_one(
        u64::from(credit.messages),
        u64::from(taken.messages),
        claims.iter().map(|c| (u64::from(c.latest.messages), u64::from(c.used.messages))),
    );
    let bytes =
        share_one(credit.bytes, taken.bytes, claims.iter().map(|c| (c.latest.bytes, c.used.bytes)));
    messages
        .into_iter()
        .zip(bytes)
        .map(|(m, bytes)| Credit { messages: u32::try_from(m).unwrap_or(u32::MAX), bytes })
        .collect()
}

/// Shares one kind of credit: everyone down to an even share, then up to it out of what is free.
/// A raise of less than an eighth of the share waits, so that not every ack makes a window.
fn share_one(
    credit: u64,
    taken: u64,
    claims: impl Iterator<Item = (u64, u64)> + Clone,
) -> Vec<u64> {
    let even = (credit / (claims.clone().count() as u64).max(1)).max(1);
    let used: u64 = claims.clone().map(|(_, used)| used).sum();
    let mut free = credit.saturating_sub(used.saturating_add(taken));
    claims
        .map(|(latest, used)| {
            if latest >= even {
                return even;
            }
            let reach = even.min(used.saturating_add(free)).max(1);
            if reach < even && reach < latest + (even / 8).max(1) {
                return latest.max(1);
            }
            free = free.saturating_sub(reach.saturating_sub(used));
            reach.max(latest)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn credit(messages: u32) -> Credit {
        Credit { messages, bytes: u64::from(messages) * 1000 }
    }

    fn claim(latest: u32, used: u32) -> Claim {
        Claim { latest: credit(latest), used: credit(used) }
    }

    #[test]
    fn a_new_right_gets_its_share_when_the_others_have_given_it_up() {
        // One right has all of it; a second appears.
        let first = share(credit(100), credit(0), &[claim(100, 100), claim(0, 0)]);
        assert_eq!(first, [credit(50), Credit { messages: 1, bytes: 1 }]);
        // The worker has sent the smaller window back and nothing is held.
        let then = share(credit(100), credit(0), &[claim(50, 50), claim(1, 1)]);
        assert_eq!(then, [credit(50), credit(50)]);
        // It still holds more than its share: the other gets what is free.
        let held = share(credit(100), credit(0), &[claim(50, 80), claim(1, 1)]);
        assert_eq!(held[1].messages, 20);
    }

    #[test]
    fn a_window_counts_until_its_successor_was_seen() {
        let mut promise = Promise::default();
        promise.send(100, 1000);
        promise.send(10, 100);
        assert_eq!(promise.most(), Credit { messages: 100, bytes: 1000 });
        promise.seen(2);
        assert_eq!(promise.most(), Credit { messages: 10, bytes: 100 });
        promise.void();
        assert_eq!(promise.most().messages, 0);
    }

    proptest! {
        /// Rights come, go, receive, settle, and their workers answer late and in any order.
        #[test]
        fn windows_never_promise_more_than_the_credit(
            total in 1u32..200,
            steps in proptest::collection::vec((0u8..6, 0usize..8), 1..300),
        ) {
            let mut rights: Vec<(Promise, u32)> = Vec::new();
            for (what, who) in steps {
                let n = rights.len();
                match what {
                    0 => rights.push((Promise::default(), 0)),
                    1 if n > 1 => { rights.remove(who % n); }
                    // The worker delivers as much as it may by the largest window it may obey.
                    2 if n > 0 => {
                        let (promise, held) = &mut rights[who % n];
                        *held = (*held).max(promise.most().messages);
                    }
                    3 if n > 0 => rights[who % n].1 /= 2,
                    4 if n > 0 => {
                        let (promise, _) = &mut rights[who % n];
                        let number = promise.latest().number;
                        promise.seen(number);
                    }
                    5 if n > 0 => rights[who % n].0.void(),
                    _ => {}
                }
                let used = |(p, held): &(Promise, u32)| p.most().messages.max(*held);
                let claims: Vec<Claim> = rights
                    .iter()
                    .map(|r| Claim {
                        latest: Credit {
                            messages: r.0.latest().messages,
                            bytes: r.0.latest().bytes,
                        },
                        used: credit(used(r)),
                    })
                    .collect();
                for ((promise, _), window) in
                    rights.iter_mut().zip(share(credit(total), credit(0), &claims))
                {
                    if promise.latest().messages != window.messages {
                        promise.send(window.messages, window.bytes);
                    }
                }
                let sum: u32 = rights.iter().map(used).sum();
                // Each right may always have one message.
                prop_assert!(sum <= total + rights.len() as u32, "{sum} of {total}: {rights:?}");
            }
        }
    }
}
