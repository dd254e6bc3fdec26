//! The schedules that broke earlier wordings of the design, each a test by name. A schedule is
//! played step by step on the shipped logic of all roles; with its repair taken out, which is done
//! around the logic and never in it, the same steps break a promise. The promises are judged by
//! the checks of the simulation.

mod appends;
mod cluster;
mod copies;
mod grow;
mod lanes;
mod members;
mod moves;
mod producers;
mod rights;
mod workers;

use ringway_tests::sim::checks;

use self::cluster::Cluster;

/// What keeps a schedule from doing harm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repair {
    /// A new process of a member is a new holder (1a).
    NewProcessIsNewHolder,
    /// A member repeats the acks that were not confirmed (1b).
    AcksAreRepeated,
    /// Every open carries a number that grows; what is said on an older stream is ignored (1c).
    OpensAreNumbered,
    /// A worker ignores an open that is not newer (1c).
    OnlyNewerOpens,
    /// Drained, and so narrowed, is said only when all acks are confirmed (1d).
    DrainedAfterAcks,
    /// Only the member says that it drained (1e).
    OnlyMembersDrain,
    /// A seal is in the journal before it is reported (2a).
    SealIsJournaled,
    /// A sealed primary is told to go on only when the attempt is over (2b).
    GiveUpIsStored,
    /// What is said about a move names the attempt (2b).
    MovesNameTheAttempt,
    /// A tombstone removes only a copy of a lower epoch (2c).
    TombstonesHaveAnEpoch,
    /// The epoch of a removed copy is remembered (2d).
    RemovalsAreRemembered,
    /// Only what is synced is copied (2e).
    OnlySyncedIsCopied,
    /// Later messages of a slot wait until the earlier ones are answered elsewhere (3a).
    SlotsWaitForAnswers,
    /// A worker refuses a session of a producer that is lower than the highest it has seen (3b).
    SessionsGoUp,
    /// A producer ignores answers to older sessions (3b).
    OldAnswersAreIgnored,
    /// Publishes to sealed slots wait until the seal is durable and its table known (3c).
    SealedSlotsWait,
    /// What is asked under a newer table is answered `NotYet`, which frees nothing (3c).
    NotYetFreesNothing,
    /// Whether a slot is here is looked at last (3d).
    SlotsComeLast,
    /// A refusal waits until everything before it is answered (3d).
    RefusalsWaitForTheirTurn,
    /// A fence is passed only when those before it are (3e).
    FencesAreAChain,
    /// Fences bind subscriptions that begin later.
    FencesBindLaterSubscriptions,
    /// A batch is sent again only to the queue that it was sent to first.
    RetriesStay,
    /// A repeat is recognised before anything else.
    RepeatsComeFirst,
    /// A seal of slots is in the journal before it is reported.
    SlotSealIsJournaled,
    /// An answer counts from when its question was sent (4b).
    AnswersCountFromTheQuestion,
    /// An answer counts only when it does not refuse (4c).
    RefusalsAreNoAnswer,
    /// After the revoke nothing more is handed out (5a).
    NothingAfterTheRevoke,
    /// An ack is checked against the lanes of its right, too (5b).
    AcksAreOfTheLanes,
    /// Nothing is served under new ranges before their record is durable (5c).
    RangesAreJournaled,
}

/// Plays a schedule as shipped, where nothing may break, and without the repair, where this
/// promise has to.
fn check(repair: Repair, promise: &str, play: fn(&mut Cluster)) {
    check_all(&[repair], promise, play);
}

/// The same of repairs that stand in for each other: this promise has to break when all of them
/// are out, and nothing as long as one of them is in.
fn check_all(repairs: &[Repair], promise: &str, play: fn(&mut Cluster)) {
    assert_eq!(broken(&[], play), [""; 0], "as shipped");
    for kept in repairs.iter().filter(|_| repairs.len() > 1) {
        let others: Vec<Repair> = repairs.iter().copied().filter(|r| r != kept).collect();
        assert_eq!(broken(&others, play), [""; 0], "without {others:?} only");
    }
    let broken = broken(repairs, play);
    assert!(broken.iter().any(|b| b.starts_with(promise)), "without {repairs:?}: {broken:?}");
}

fn broken(without: &[Repair], play: fn(&mut Cluster)) -> Vec<String> {
    played(Cluster::new(without.iter().copied()), play)
}

/// What is broken once this was played.
fn played(mut cluster: Cluster, play: fn(&mut Cluster)) -> Vec<String> {
    play(&mut cluster);
    let violations = checks::all(&cluster.finish());
    violations.iter().map(ToString::to_string).collect()
}
