//! The acks of one right on their way to the queue: gathered, sent in numbered frames, confirmed.
//! It promises that each is said until it is confirmed, also on a later stream. It does not know
//! what was acked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ringway_proto::data::{OffsetRange, Ranges};
use ringway_proto::frame::Kind;
use ringway_proto::limits::MAX_RANGES;
use ringway_proto::{Lanes, Offset, OpenNumber};

use super::report::Frame;

/// Ack frames that may be unconfirmed before further acks are gathered.
const FRAMES: usize = 4;

#[derive(Clone, Debug)]
struct Sent {
    number: u64,
    ranges: Vec<OffsetRange>,
    tokens: Vec<(Offset, u64)>,
}

/// Acks that are not confirmed yet.
#[derive(Clone, Debug, Default)]
pub struct Acks {
    unsent: BTreeSet<Offset>,
    /// Who waits for the confirmation of what is unsent.
    tokens: Vec<(Offset, u64)>,
    number: u64,
    sent: VecDeque<Sent>,
    /// The lane of each that is not confirmed.
    lanes: BTreeMap<Offset, u16>,
}

/// Who waits for acks of a right that is lost.
#[derive(Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Their acks never left: they do not count.
    pub unsent: Vec<u64>,
    /// Their acks were sent: they may count.
    pub sent: Vec<u64>,
}

impl Acks {
    /// One more, of this lane; `token` waits for its confirmation.
    pub fn add(&mut self, offset: Offset, lane: u16, token: Option<u64>) {
        self.unsent.insert(offset);
        self.lanes.insert(offset, lane);
        self.tokens.extend(token.map(|token| (offset, token)));
    }

    /// Whether an ack of another lane than these is not confirmed.
    #[must_use]
    pub fn any_beside(&self, lanes: Lanes) -> bool {
        self.lanes.values().any(|lane| !lanes.contains(*lane))
    }

    /// Acks of other lanes than these are not said any more; returns who waited for them.
    pub fn keep_only(&mut self, lanes: Lanes) -> Waiting {
        let beside: BTreeSet<Offset> = self
            .lanes
            .iter()
            .filter(|(_, lane)| !lanes.contains(**lane))
            .map(|(at, _)| *at)
            .collect();
        let mut gone = Waiting { unsent: Vec::new(), sent: Vec::new() };
        if beside.is_empty() {
            return gone;
        }
        self.lanes.retain(|at, _| !beside.contains(at));
        self.unsent.retain(|at| !beside.contains(at));
        let split = |tokens: &mut Vec<(Offset, u64)>, gone: &mut Vec<u64>| {
            gone.extend(tokens.iter().filter(|(at, _)| beside.contains(at)).map(|(_, t)| *t));
            tokens.retain(|(at, _)| !beside.contains(at));
        };
        split(&mut self.tokens, &mut gone.unsent);
        for sent in &mut self.sent {
            split(&mut sent.tokens, &mut gone.sent);
            let stays = sent.ranges.iter().flat_map(|r| r.offsets());
            sent.ranges = OffsetRange::collect(stays.filter(|at| !beside.contains(at)));
        }
        gone
    }

    /// Whether nothing is unconfirmed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.unsent.is_empty() && self.sent.is_empty()
    }

    /// How many are not confirmed.
    #[must_use]
    pub fn count(&self) -> u64 {
        let sent = self.sent.iter().flat_map(|s| &s.ranges).map(|r| r.end.0 - r.first.0);
        self.unsent.len() as u64 + sent.sum::<u64>()
    }

    /// Whether the ack of this message is not confirmed yet.
    #[must_use]
    pub fn contains(&self, offset: Offset) -> bool {
        let names = |r: &OffsetRange| r.first <= offset && offset < r.end;
        self.unsent.contains(&offset) || self.sent.iter().any(|s| s.ranges.iter().any(names))
    }

    /// Everything that is not confirmed, to be said at an open, and the number that confirms it; 0
    /// when there is nothing.
    pub fn repeat(&mut self) -> (Vec<OffsetRange>, u64) {
        let mut offsets = std::mem::take(&mut self.unsent);
        let mut tokens = std::mem::take(&mut self.tokens);
        for sent in std::mem::take(&mut self.sent) {
            offsets.extend(sent.ranges.iter().flat_map(|r| r.offsets()));
            tokens.extend(sent.tokens);
        }
        let ranges = OffsetRange::collect(offsets);
        if ranges.is_empty() {
            return (ranges, 0);
        }
        self.number += 1;
        self.sent.push_back(Sent { number: self.number, ranges: ranges.clone(), tokens });
        (ranges, self.number)
    }

    /// All up to this number are durable; returns who waited for them.
    pub fn confirmed(&mut self, number: u64) -> Vec<u64> {
        let mut tokens = Vec::new();
        while self.sent.front().is_some_and(|s| s.number <= number)
            && let Some(sent) = self.sent.pop_front()
        {
            for at in sent.ranges.iter().flat_map(|r| r.offsets()) {
                self.lanes.remove(&at);
            }
            tokens.extend(sent.tokens.into_iter().map(|(_, token)| token));
        }
        tokens
    }

    /// The frames that are due. Acks are gathered while several frames of them are unconfirmed.
    pub fn flush(&mut self, open: OpenNumber, out: &mut Vec<Frame>) {
        if self.unsent.is_empty() || self.sent.len() >= FRAMES {
            return;
        }
        let ranges = OffsetRange::collect(std::mem::take(&mut self.unsent));
        let last = ranges.len().div_ceil(MAX_RANGES);
        for (i, ranges) in ranges.chunks(MAX_RANGES).enumerate() {
            self.number += 1;
            let tokens = if i + 1 == last { std::mem::take(&mut self.tokens) } else { Vec::new() };
            let acks = Ranges { open, number: self.number, ranges: ranges.to_vec() };
            out.push((Kind::Ack, acks.encode()));
            self.sent.push_back(Sent { number: self.number, ranges: acks.ranges, tokens });
        }
    }

    /// Who still waits, when nothing will be confirmed any more.
    #[must_use]
    pub fn into_waiting(self) -> Waiting {
        let of = |tokens: Vec<(Offset, u64)>| tokens.into_iter().map(|(_, token)| token);
        let sent = self.sent.into_iter().flat_map(|s| of(s.tokens)).collect();
        Waiting { unsent: of(self.tokens).collect(), sent }
    }
}
