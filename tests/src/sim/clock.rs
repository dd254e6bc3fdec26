//! The virtual clock with everything that is going to happen, and the dice that decide how. Both
//! depend on nothing but the seed, so that a seed is a whole run. They do not know what happens.

use std::collections::BTreeMap;

use super::ctx::Event;

/// A source of numbers that are as good as random and the same for the same seed (splitmix64:
/// Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The dice of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x5851_f42d_4c95_7f2d)
    }

    /// The next 64 bits.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 for 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.roll() % n.max(1)
    }

    /// A number from `from` to `to`, both included.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from) + 1)
    }

    /// True this often in a hundred.
    pub fn percent(&mut self, n: u64) -> bool {
        self.below(100) < n
    }

    /// One of these; the first is there.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.below(of.len() as u64) as usize)
    }
}

/// Milliseconds since the beginning, and what is due when. What is due at the same moment happens
/// in the order in which it was asked for.
#[derive(Debug, Default)]
pub struct Clock {
    now: u64,
    asked: u64,
    due: BTreeMap<(u64, u64), Event>,
}

impl Clock {
    /// Milliseconds since the beginning.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Lets `event` happen at `at`, or now if that is past.
    pub fn at(&mut self, at: u64, event: Event) {
        self.asked += 1;
        self.due.insert((at.max(self.now), self.asked), event);
    }

    /// Lets `event` happen after so many milliseconds.
    pub fn after(&mut self, ms: u64, event: Event) {
        self.at(self.now + ms, event);
    }

    /// Goes to the next event, if there is one up to `limit`.
    pub fn next(&mut self, limit: u64) -> Option<Event> {
        let (&(at, _), _) = self.due.first_key_value()?;
        if at > limit {
            return None;
        }
        self.now = at;
        self.due.pop_first().map(|(_, event)| event)
    }
}
