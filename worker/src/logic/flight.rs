//! The messages of one right that are neither acked nor new: sent, waiting to come again, or due
//! to. It owns their states, timers and places in the window, and promises that what it counts is
//! what it holds. It does not know who holds the right, nor why a message changes its state.
//!
//! A message has its place from when it is sent until it is acked, comes back unread or is lost.
//! A nacked one keeps it while it waits: else later messages of its key, which the member cannot
//! hand out before it, would fill the window and block it.

use std::collections::{BTreeMap, BTreeSet};

use ringway_proto::data::{OffsetRange, Window};
use ringway_proto::{Lanes, Offset, Time};

/// A message that is not settled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unsettled {
    /// Size of the record.
    pub bytes: u64,
    /// Its lane, where that is known: not of what a holder listed without saying so.
    pub lane: Option<u16>,
    /// How often it was handed out before the delivery that is under way or comes next.
    pub handed: u16,
    /// Where it is.
    pub state: State,
}

/// Where an unsettled message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Sent and not yet known to be read.
    Delivered,
    /// In the application's hands until then.
    HandedOut(Time),
    /// May be sent.
    Ready,
    /// May be sent from then on; keeps its place until then.
    Waiting(Time),
    /// Has to come again, in a lane of which nothing more is sent.
    Parked,
}

impl Unsettled {
    /// Whether the member has it.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        matches!(self.state, State::Delivered | State::HandedOut(_))
    }

    fn timer(&self) -> Option<Time> {
        match self.state {
            State::HandedOut(until) | State::Waiting(until) => Some(until),
            State::Delivered | State::Ready | State::Parked => None,
        }
    }
}

/// All unsettled messages of a right.
#[derive(Clone, Debug)]
pub struct Flight {
    /// What is due to be sent in other lanes is parked.
    sendable: Lanes,
    messages: BTreeMap<Offset, Unsettled>,
    /// Those that may go now.
    ready: BTreeSet<Offset>,
    /// Ack timeouts and the ends of waits.
    timers: BTreeSet<(Time, Offset)>,
    sent: usize,
    waiting: usize,
    /// Bytes of those that have a place.
    bytes: u64,
}

impl Default for Flight {
    fn default() -> Self {
        Self {
            sendable: Lanes::ALL,
            messages: BTreeMap::new(),
            ready: BTreeSet::new(),
            timers: BTreeSet::new(),
            sent: 0,
            waiting: 0,
            bytes: 0,
        }
    }
}

impl Flight {
    /// The lanes that may be sent.
    #[must_use]
    pub fn sendable(&self) -> Lanes {
        self.sendable
    }

    /// Changes which lanes may be sent.
    pub fn set_sendable(&mut self, lanes: Lanes) {
        self.sendable = lanes;
        let due = |u: &Unsettled| !u.is_sent();
        let due: Vec<_> =
            self.messages.iter().filter(|(_, u)| due(u)).map(|(at, u)| (*at, *u)).collect();
        for (at, unsettled) in due {
            self.put(at, unsettled);
        }
    }

    /// Every message.
    pub fn all(&self) -> impl Iterator<Item = (Offset, Unsettled)> + '_ {
        self.messages.iter().map(|(at, u)| (*at, *u))
    }

    /// One message.
    #[must_use]
    pub fn get(&self, at: Offset) -> Option<Unsettled> {
        self.messages.get(&at).copied()
    }

    /// How many there are, with a place or without.
    #[must_use]
    pub fn count(&self) -> usize {
        self.messages.len()
    }

    /// How many are below `at`.
    #[must_use]
    pub fn count_below(&self, at: Offset) -> u64 {
        self.messages.range(..at).count() as u64
    }

    /// Messages that have a place in the window.
    #[must_use]
    pub fn places(&self) -> usize {
        self.sent + self.waiting
    }

    /// Those of `ranges` that are unsettled; work is bounded by what is unsettled, however wide
    /// the ranges are.
    #[must_use]
    pub fn named(&self, ranges: &[OffsetRange]) -> Vec<(Offset, Unsettled)> {
        let named = |r: &OffsetRange| self.messages.range(r.first..r.end).map(|(at, u)| (*at, *u));
        ranges.iter().flat_map(named).collect()
    }

    /// The first message from `from` on that may go now.
    #[must_use]
    pub fn next_ready(&self, from: Offset) -> Option<Offset> {
        self.ready.range(from..).next().copied()
    }

    /// The next moment at which [`Flight::expire`] has something to do.
    #[must_use]
    pub fn next_timer(&self) -> Option<Time> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Whether the message at `at`, below which none is ready, may be looked at, and sent if it is
    /// not too large. Beyond the window goes only a message that comes before everything that was
    /// sent: a window that shrank may be full of messages that the member cannot hand out before
    /// that one.
    #[must_use]
    pub fn admits(&self, at: Offset, window: Window) -> bool {
        let has_room = self.places() < window.messages as usize
            && (self.places() == 0 || self.bytes < window.bytes);
        has_room || (window.messages > 0 && self.leads(at))
    }

    /// Whether a message of `bytes` at `at`, which is admitted, fits into the window. One message
    /// always does, however large.
    #[must_use]
    pub fn fits(&self, at: Offset, bytes: u64, window: Window) -> bool {
        self.places() == 0 || self.bytes + bytes <= window.bytes || self.leads(at)
    }

    /// Whether something was sent, and all of it comes after `at`.
    fn leads(&self, at: Offset) -> bool {
        self.sent > 0 && !self.messages.range(..at).any(|(_, u)| u.is_sent())
    }

    /// The one place that changes a message, so that what is counted beside it stays true.
    pub fn put(&mut self, at: Offset, new: Unsettled) {
        self.remove(at);
        let may_go = new.lane.is_none_or(|lane| self.sendable.contains(lane));
        let state = match new.state {
            State::Ready | State::Waiting(_) if !may_go => State::Parked,
            State::Parked if may_go => State::Ready,
            state => state,
        };
        let new = Unsettled { state, ..new };
        self.timers.extend(new.timer().map(|until| (until, at)));
        match new.state {
            State::Delivered | State::HandedOut(_) => self.sent += 1,
            State::Waiting(_) => self.waiting += 1,
            State::Ready => drop(self.ready.insert(at)),
            State::Parked => {}
        }
        if new.has_place() {
            self.bytes += new.bytes;
        }
        self.messages.insert(at, new);
    }

    /// Forgets a message.
    pub fn remove(&mut self, at: Offset) {
        let Some(old) = self.messages.remove(&at) else { return };
        if let Some(until) = old.timer() {
            self.timers.remove(&(until, at));
        }
        match old.state {
            State::Delivered | State::HandedOut(_) => self.sent -= 1,
            State::Waiting(_) => self.waiting -= 1,
            State::Ready => drop(self.ready.remove(&at)),
            State::Parked => {}
        }
        if old.has_place() {
            self.bytes -= old.bytes;
        }
    }

    /// Times out what was handed out too long ago and ends waits. Whether there was any.
    pub fn expire(&mut self, now: Time) -> bool {
        let mut any = false;
        while let Some((at, offset)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.pop_first();
            if let Some(old) = self.get(offset) {
                self.put(offset, old.again());
                any = true;
            }
        }
        any
    }

    /// Turns what was sent and is not in `keep` into what goes first: it was lost with its stream.
    pub fn recall(&mut self, keep: impl Fn(Offset) -> bool) {
        let is_lost = |(at, u): &(&Offset, &Unsettled)| u.is_sent() && !keep(**at);
        let lost: Vec<(Offset, Unsettled)> =
            self.messages.iter().filter(is_lost).map(|(at, u)| (*at, *u)).collect();
        for (at, old) in lost {
            self.put(at, old.again());
        }
    }

    /// Turns everything into what goes first: somebody else has the right now.
    pub fn recall_all(&mut self) {
        self.recall(|_| false);
        for (at, old) in self.messages.clone() {
            self.put(at, Unsettled { state: State::Ready, ..old });
        }
    }
}

impl Unsettled {
    fn has_place(&self) -> bool {
        !matches!(self.state, State::Ready | State::Parked)
    }

    /// The same, due to be sent again. What is known to have been handed out was delivered; what
    /// was not, comes again as if it had never been sent.
    #[must_use]
    pub fn again(self) -> Self {
        let handed_out = matches!(self.state, State::HandedOut(_));
        let handed = self.handed.saturating_add(u16::from(handed_out));
        Self { handed, state: State::Ready, ..self }
    }
}

#[cfg(test)]
impl Flight {
    /// Whether nothing is left, in what is counted either.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
            && self.ready.is_empty()
            && self.timers.is_empty()
            && (self.sent, self.waiting, self.bytes) == (0, 0, 0)
    }
}
