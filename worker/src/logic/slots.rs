//! Which keys and classes a queue takes while they move between queues. It owns the seals of
//! moves, promises that of what a move takes or gives nothing is accepted before the table is
//! known that contains the move, and does not know who publishes, nor who reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ringway_proto::batch::Batch;
use ringway_proto::routing::Router;
use ringway_proto::routing::moves::{Move, Moves, SlotMove};
use ringway_proto::{Class, MoveNumber, Offset, QueueId, Refusal, RoutingVersion, Slot};

use crate::records::ControlRecord;

/// What decides where a message belongs: classes and slots of a batch, each pair once. Messages
/// without key and id have no slot and belong everywhere.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Routes(Vec<(Class, Slot)>);

impl Routes {
    /// Those of a batch.
    #[must_use]
    pub fn of(batch: &Batch) -> Self {
        let pair = |index| Some((batch.class_of(index), batch.slot(index)?));
        let pairs: BTreeSet<(usize, Slot)> = (0..batch.len()).filter_map(pair).collect();
        let named =
            |(class, slot): (usize, Slot)| Some((batch.classes().get(class)?.clone(), slot));
        Self(pairs.into_iter().filter_map(named).collect())
    }
}

/// The routing as a worker knows it: the newest that the coordinator sent, and the moves that the
/// journal has when none was sent yet.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Its version; 0 when none was sent.
    pub version: RoutingVersion,
    /// The moves that took effect.
    pub moves: Moves,
    /// The routing itself.
    pub router: Option<Arc<Router>>,
}

/// Whether a batch may be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Everything in it belongs here.
    Take,
    /// Something in it moves, and where it belongs is not known yet.
    Wait(MoveNumber),
    /// Something in it belongs elsewhere, for sure.
    Elsewhere(MoveNumber),
}

/// The seals of one queue.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    seals: BTreeMap<MoveNumber, Seal>,
    /// Up to this move the journal says what took effect.
    known: MoveNumber,
    /// Seals whose end is not durable yet.
    unreported: BTreeSet<MoveNumber>,
}

#[derive(Clone, Debug)]
struct Seal {
    moved: Move,
    at: Offset,
}

impl Slots {
    /// Whether nothing ever moved from here or to here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seals.is_empty()
    }

    /// The end of what a move takes, if the queue is sealed for it and all below is durable.
    #[must_use]
    pub fn sealed_at(&self, number: MoveNumber) -> Option<Offset> {
        let seal = self.seals.get(&number)?;
        (!self.unreported.contains(&number)).then_some(seal.at)
    }

    /// Whether the queue is sealed for this move.
    #[must_use]
    pub fn is_sealed_for(&self, number: MoveNumber) -> bool {
        self.seals.contains_key(&number)
    }

    /// Seals the queue for a move, `at` being its end, below which not everything may be
    /// `durable`. Returns the record; the end counts once [`Slots::stored`] says so.
    ///
    /// # Errors
    /// As [`Move::new`].
    pub fn seal(
        &mut self,
        moved: SlotMove,
        at: Offset,
        durable: Offset,
    ) -> Result<ControlRecord, Refusal> {
        let moved = SlotMove { ends: Vec::new(), ..moved };
        let number = moved.number;
        if at > durable {
            self.unreported.insert(number);
        }
        self.restore(moved.clone(), at)?;
        Ok(ControlRecord::SlotsSealed { moved, at })
    }

    /// Takes a seal from the journal.
    ///
    /// # Errors
    /// As [`Move::new`].
    pub fn restore(&mut self, moved: SlotMove, at: Offset) -> Result<(), Refusal> {
        self.seals.insert(moved.number, Seal { moved: Move::new(moved)?, at });
        Ok(())
    }

    /// Everything below `durable` is on disk: the seals that this settles, with their ends.
    pub fn stored(&mut self, durable: Offset) -> Vec<(MoveNumber, Offset)> {
        let seals = &self.seals;
        let end = |number: &MoveNumber| seals.get(number).map(|seal| (*number, seal.at));
        let settled: Vec<_> = self.unreported.iter().filter_map(end).collect();
        let settled: Vec<_> = settled.into_iter().filter(|(_, at)| *at <= durable).collect();
        for (number, _) in &settled {
            self.unreported.remove(number);
        }
        settled
    }

    /// What is not `durable` was taken back: the seals whose end this moves, as records.
    pub fn roll_back(&mut self, durable: Offset) -> Vec<ControlRecord> {
        let mut records = Vec::new();
        for number in &self.unreported {
            if let Some(seal) = self.seals.get_mut(number).filter(|seal| seal.at > durable) {
                seal.at = durable;
                let moved = seal.moved.plain().clone();
                records.push(ControlRecord::SlotsSealed { moved, at: durable });
            }
        }
        records
    }

    /// Takes over which moves took effect, where some of them is about this queue; returns the
    /// record of what its journal does not have yet.
    pub fn learn(&mut self, moves: &Moves) -> Option<ControlRecord> {
        let through = moves.through();
        self.seals.range(self.known.next()..).find(|(number, _)| **number <= through)?;
        let news = moves.after(self.known).map(|moved| moved.plain().clone()).collect();
        self.known = through;
        Some(ControlRecord::SlotsMoved { through, moves: news })
    }

    /// The journal has the moves up to this one.
    pub fn set_known(&mut self, through: MoveNumber) {
        self.known = self.known.max(through);
    }

    /// Whether a batch may be taken by this queue. The last move of a key decides, and one that
    /// the table does not contain yet decides nothing.
    #[must_use]
    pub fn judge(&self, queue: QueueId, routes: &Routes, router: Option<&Router>) -> Verdict {
        let mut verdict = Verdict::Take;
        for (class, slot) in &routes.0 {
            match self.judge_one(queue, class, *slot, router) {
                Verdict::Take => {}
                Verdict::Wait(number) => verdict = Verdict::Wait(number),
                elsewhere @ Verdict::Elsewhere(_) => return elsewhere,
            }
        }
        verdict
    }

    fn judge_one(
        &self,
        queue: QueueId,
        class: &Class,
        slot: Slot,
        router: Option<&Router>,
    ) -> Verdict {
        for (number, seal) in self.seals.iter().rev() {
            let leaves = || seal.moved.from_group(queue.group, class, slot);
            let comes = || seal.moved.to_group(queue.group, class, slot);
            let leaves = leaves().is_some_and(|(from, _)| from == queue);
            if !leaves && comes().is_none_or(|(_, to)| to != queue) {
                continue;
            }
            if *number > self.known {
                return Verdict::Wait(*number);
            }
            // A group that is gone gives back without a move what it took.
            let is_back = router.is_some_and(|router| {
                let group = router.group_of(class.as_str());
                group.and_then(|group| group.queue_of_slot(slot)) == Some(queue)
            });
            return if leaves && !is_back { Verdict::Elsewhere(*number) } else { Verdict::Take };
        }
        Verdict::Take
    }

    /// What a restart must find again.
    #[cfg(test)]
    pub fn durable_view(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        let seals = self.seals.values().map(|seal| (seal.moved.plain().clone(), seal.at));
        (seals.collect::<Vec<_>>(), self.known)
    }
}
