//! What a right knows of lanes: how it becomes several and how several become one. It promises
//! that no part forgets what was done in its lanes, and that what a holder had of lanes which go
//! to someone else goes there first. It does not know who wants it, nor when that is durable.

use ringway_proto::control::{CopiedLayer, RightEpoch};
use ringway_proto::{Lanes, Offset};

use super::cursor::Cursor;
use super::delivery::Right;
use super::flight::{State, Unsettled};

/// What is done in some lanes only: the cursors of the rights that a right was merged from. Its
/// own cursor begins at the lowest of their floors, and a layer goes when the floor has passed it.
/// So a merge needs no more room than its parts did, and nothing that was acked is forgotten.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Layers(Vec<(Lanes, Cursor)>);

impl Layers {
    /// Whether the message at `at` is done in its lane.
    #[must_use]
    pub fn has(&self, lane: u16, at: Offset) -> bool {
        self.0.iter().any(|(lanes, done)| lanes.contains(lane) && done.contains(at))
    }

    /// Forgets what says nothing above `floor`.
    pub fn trim(&mut self, floor: Offset) {
        self.0.retain(|(_, done)| done.end() > floor);
    }

    /// How many ranges there are.
    #[must_use]
    pub fn ranges(&self) -> usize {
        self.0.iter().map(|(_, done)| 1 + done.ranges().count()).sum()
    }

    /// Those of some lanes.
    fn within(&self, lanes: Lanes) -> Self {
        let cut =
            |of: Lanes| Lanes { start: of.start.max(lanes.start), end: of.end.min(lanes.end) };
        let inside = self.0.iter().filter(|(of, _)| of.overlaps(lanes));
        Self(inside.map(|(of, done)| (cut(*of), done.clone())).collect())
    }

    /// What a right with these lanes, this cursor and these layers is done with, as layers.
    /// They lie side by side, so there are never more than there are lanes.
    fn of(right: &Right) -> Vec<(Lanes, Cursor)> {
        let mut flat = Vec::new();
        let mut start = right.id.lanes.start;
        for (lanes, done) in &right.layers.0 {
            if start < lanes.start {
                flat.push((Lanes { start, end: lanes.start }, right.cursor.clone()));
            }
            let mut both = right.cursor.clone();
            done.done().into_iter().for_each(|range| both.insert(range));
            flat.push((*lanes, both));
            start = lanes.end;
        }
        let end = right.id.lanes.end;
        if start < end {
            flat.push((Lanes { start, end }, right.cursor.clone()));
        }
        flat
    }

    /// As they came with their queue from another worker.
    #[must_use]
    pub fn from_copy(copied: &[CopiedLayer]) -> Self {
        let layer = |layer: &CopiedLayer| {
            let mut done = Cursor::new(layer.floor);
            for range in layer.acked.iter().filter(|r| r.first < r.end) {
                done.insert(*range);
            }
            (layer.lanes, done)
        };
        Self(copied.iter().map(layer).collect())
    }

    /// As they go with their queue to another worker.
    #[must_use]
    pub fn to_copy(&self) -> Vec<CopiedLayer> {
        let layer = |(lanes, done): &(Lanes, Cursor)| CopiedLayer {
            lanes: *lanes,
            floor: done.floor(),
            acked: done.ranges().collect(),
        };
        self.0.iter().map(layer).collect()
    }
}

impl Right {
    /// Becomes these parts, which cover its lanes. A part under the same epoch goes on where the
    /// whole was, with its holder and its stream; the others begin with what was in flight.
    #[must_use]
    pub fn split(self, into: &[RightEpoch]) -> Vec<Right> {
        let mut parts: Vec<Right> = Vec::new();
        let mut whole = self;
        let mut gone: Vec<Offset> = Vec::new();
        for part in into.iter().filter(|part| part.epoch != whole.epoch) {
            let mut right = whole.part(part);
            let inside = |u: &Unsettled| u.lane.is_some_and(|l| part.right.lanes.contains(l));
            for (at, unsettled) in whole.flight.all().filter(|(_, u)| inside(u)) {
                let again = if unsettled.is_sent() { unsettled.again() } else { unsettled };
                right.flight.put(at, Unsettled { state: State::Ready, ..again });
                gone.push(at);
            }
            parts.push(right);
        }
        for at in gone {
            whole.flight.remove(at);
            // Also what timed out: its holder may have it still.
            whole.foreign.insert(at);
        }
        let mut stays = into.iter().filter(|part| part.epoch == whole.epoch);
        if let Some(part) = stays.next() {
            // Only a right that nobody held yet has several parts under its epoch.
            parts.extend(stays.map(|part| whole.part(part)));
            whole.narrow_to(part.right.lanes);
            parts.push(whole);
        }
        parts
    }

    /// A part of this right that is not served: with all that is done, from the floor on.
    fn part(&self, to: &RightEpoch) -> Right {
        let lanes = to.right.lanes;
        let mut right = Right::new(to.right, self.cursor.floor());
        right.cursor = self.cursor.clone();
        right.layers = self.layers.within(lanes);
        right.raise(to, &mut Vec::new());
        right.flight.set_sendable(lanes);
        right.written_floor = self.written_floor;
        right
    }

    fn narrow_to(&mut self, lanes: Lanes) {
        self.id.lanes = lanes;
        self.layers = self.layers.within(lanes);
        self.flight.set_sendable(lanes);
        // What was left out of the lanes that went is passed over now: else the floor stays there.
        self.look_again(self.cursor.floor());
    }

    /// The right that these parts, which nobody holds, become.
    #[must_use]
    pub fn merged(parts: Vec<Right>, into: &RightEpoch) -> Right {
        let floor = parts.iter().map(Right::floor).min().unwrap_or_default();
        let mut right = Right::new(into.right, floor);
        right.raise(into, &mut Vec::new());
        right.flight.set_sendable(into.right.lanes);
        for part in parts {
            right.layers.0.extend(Layers::of(&part));
            for (at, unsettled) in part.flight.all() {
                right.flight.put(at, Unsettled { state: State::Ready, ..unsettled });
            }
            right.written_floor = right.written_floor.min(part.written_floor);
        }
        right.layers.trim(floor);
        right
    }
}

/// Whether parts cover `whole` exactly, in the order of lanes.
#[must_use]
pub fn cover(whole: Lanes, parts: impl IntoIterator<Item = Lanes>) -> bool {
    let mut at = whole.start;
    for part in parts {
        if part.start != at || part.start >= part.end {
            return false;
        }
        at = part.end;
    }
    at == whole.end
}

#[cfg(test)]
#[path = "layers_tests.rs"]
mod tests;
