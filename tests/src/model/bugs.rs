//! Bugs that can be planted around the logic that is modelled, each of which breaks a promise of
//! the design. They show that the model can find something; without one nothing looks at them.

/// A planted bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// A member is told of a right as soon as the worker was asked to raise it.
    GrantBeforeRaise,
    /// The worker confirms a raise that is in no journal.
    RaiseNotJournaled,
    /// A new process of a member counts as its old one, under the old epoch.
    SameIncarnation,
    /// The worker says that it sealed a queue, and its journal does not.
    SealNotJournaled,
    /// A tombstone removes a copy of any epoch.
    TombstoneOfAnyEpoch,
    /// A move is given up, and its attempt stays the newest.
    AttemptNotRaised,
    /// The new primary opens the queue when its copy is close, before the old one is sealed.
    OpenedBeforeSeal,
    /// A copy is sent what is not durable at its original.
    UnsyncedCopied,
    /// A member reports drained as soon as it is told to give a right up.
    DrainedBeforeAcks,
    /// The worker takes every ack for one of the current epoch.
    EpochIgnored,
    /// A member that opens a right again does not repeat the acks that were not confirmed.
    AcksNotRepeated,
    /// The worker confirms acks before their record is durable.
    UnsyncedConfirmed,
    /// A member gives up fewer lanes than it says.
    SplitOverlaps,
    /// The acks of the rights that are merged are gone from the journal.
    MergeForgetsAcks,
}

impl Bug {
    /// Every bug.
    pub const ALL: [Self; 14] = [
        Self::GrantBeforeRaise,
        Self::RaiseNotJournaled,
        Self::SameIncarnation,
        Self::SealNotJournaled,
        Self::TombstoneOfAnyEpoch,
        Self::AttemptNotRaised,
        Self::OpenedBeforeSeal,
        Self::UnsyncedCopied,
        Self::DrainedBeforeAcks,
        Self::EpochIgnored,
        Self::AcksNotRepeated,
        Self::UnsyncedConfirmed,
        Self::SplitOverlaps,
        Self::MergeForgetsAcks,
    ];

    /// The bug of this name, as `Debug` writes it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| format!("{bug:?}") == name)
    }
}
