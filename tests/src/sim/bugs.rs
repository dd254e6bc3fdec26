//! Bugs that can be planted in the drivers of the simulation, each of which breaks a promise of
//! the design. They show that the checks have teeth; a run without one never looks at them.

use super::faults::Faults;

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
    /// Worker and member take what is said on an older stream of a right for news.
    OpenNumbersIgnored,
    /// A message that has to come again does not hold back the later ones of its key.
    OrderLost,
    /// A primary sends batches to a copy that are not durable yet.
    UnsyncedCopied,
    /// A sealed primary is told to go on, and the attempt to move its queue still stands.
    GiveUpNotStored,
    /// A queue has its next primary as soon as the old one was asked to seal it.
    OpenedBeforeSeal,
    /// Batches that did not fit the disk are refused, and their offsets stay taken.
    FullDiskForgotten,
    /// While a right is given up its worker serves no other right of that subscription either.
    RebalanceStops,
    /// A worker says that it sealed slots, and goes on taking them.
    TableBeforeSeal,
    /// A worker looks where a batch belongs before it looks whether it has it already.
    SlotsBeforeDedup,
    /// A worker takes every append for one of the newest session.
    SessionsIgnored,
    /// A publisher sends a slot's later messages elsewhere before the earlier ones are answered.
    SentElsewhere,
    /// Of several fences of a slot a worker knows the last only.
    ChainBroken,
    /// A subscription that begins later passes all fences.
    LateWithoutFences,
}

impl Bug {
    /// Every bug.
    pub const ALL: [Self; 33] = [
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
        Self::OpenNumbersIgnored,
        Self::OrderLost,
        Self::UnsyncedCopied,
        Self::GiveUpNotStored,
        Self::OpenedBeforeSeal,
        Self::FullDiskForgotten,
        Self::RebalanceStops,
        Self::TableBeforeSeal,
        Self::SlotsBeforeDedup,
        Self::SessionsIgnored,
        Self::SentElsewhere,
        Self::ChainBroken,
        Self::LateWithoutFences,
    ];

    /// The faults among which it shows.
    #[must_use]
    pub fn faults(self) -> Faults {
        // A right may well pause when something breaks.
        if self == Self::RebalanceStops { Faults::Churn } else { Faults::All }
    }

    /// The bug of this name, as `Debug` writes it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| format!("{bug:?}") == name)
    }
}
