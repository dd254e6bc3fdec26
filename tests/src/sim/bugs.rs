//! Bugs that can be planted in the drivers of the simulation, each of which breaks a promise of
//! the design. They show that the checks have teeth; a run without one never looks at them.

/// A planted bug.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Bug {
    /// The member is told of its right as soon as the worker was asked to raise it.
    GrantBeforeRaise,
    /// The worker confirms a raise that is in no journal.
    RaiseNotJournaled,
    /// A publish is acked before its batch is durable.
    UnsyncedAcked,
    /// Acks are confirmed before their record is durable.
    UnsyncedConfirmed,
    /// The member reports drained as soon as it is told to give a right up.
    DrainedBeforeAcks,
    /// The cursor of a right is gone from the journal when the right has a new holder.
    CursorReset,
    /// A restarted worker does not know what its producers had published.
    DedupForgotten,
    /// The worker takes every ack for one of the current epoch.
    EpochIgnored,
    /// The coordinator acts before it has stored what it decided.
    ActBeforeCommit,
    /// A member that opens a right again does not say what it holds of it.
    HeldNotListed,
    /// A member that opens a right again does not repeat the acks that were not confirmed.
    AcksNotRepeated,
    /// A delivery gets lost between the worker and its stream.
    DeliveryLost,
    /// A new process of a member counts as its old one, under the old epoch.
    SameIncarnation,
    /// The worker says that it sealed a queue, and its journal does not.
    SealNotJournaled,
    /// A tombstone removes a copy of any epoch.
    TombstoneOfAnyEpoch,
    /// A member takes itself for heard although nobody answers it.
    DeafHolder,
    /// A member gives up fewer lanes than it says.
    SplitOverlaps,
    /// The worker confirms a split that is in no journal.
    SplitNotJournaled,
    /// The worker confirms acks of lanes that went to someone else.
    ForeignAckTaken,
    /// The acks of the rights that are merged are gone from the journal.
    MergeForgetsAcks,
}

impl Bug {
    /// Every bug.
    pub const ALL: [Self; 20] = [
        Self::GrantBeforeRaise,
        Self::RaiseNotJournaled,
        Self::UnsyncedAcked,
        Self::UnsyncedConfirmed,
        Self::DrainedBeforeAcks,
        Self::CursorReset,
        Self::DedupForgotten,
        Self::EpochIgnored,
        Self::ActBeforeCommit,
        Self::HeldNotListed,
        Self::AcksNotRepeated,
        Self::DeliveryLost,
        Self::SameIncarnation,
        Self::SealNotJournaled,
        Self::TombstoneOfAnyEpoch,
        Self::DeafHolder,
        Self::SplitOverlaps,
        Self::SplitNotJournaled,
        Self::ForeignAckTaken,
        Self::MergeForgetsAcks,
    ];

    /// The bug of this name, as `Debug` writes it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| format!("{bug:?}") == name)
    }
}
