//! The schedules that broke earlier wordings of the design, each a test by name. A schedule is
//! played step by step on the shipped logic of all roles; with its repair taken out, which is done
//! around the logic and never in it, the same steps break a promise. The promises are judged by
//! the checks of the simulation.

mod cluster;
mod copies;
mod members;
mod moves;
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
    /// Every open carries a number that grows; what belongs to an older one is ignored (1c).
    OpensAreNumbered,
    /// Drained is said only when all acks are confirmed (1d).
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
    /// An answer counts from when its question was sent (4b).
    AnswersCountFromTheQuestion,
    /// An answer counts only when it does not refuse (4c).
    RefusalsAreNoAnswer,
    /// After the revoke nothing more is handed out (5a).
    NothingAfterTheRevoke,
}

/// Plays a schedule as shipped, where nothing may break, and without the repair, where this
/// promise has to.
fn check(repair: Repair, promise: &str, play: fn(&mut Cluster)) {
    assert_eq!(broken(None, play), [""; 0], "as shipped");
    let broken = broken(Some(repair), play);
    assert!(broken.iter().any(|b| b.starts_with(promise)), "without {repair:?}: {broken:?}");
}

fn broken(without: Option<Repair>, play: fn(&mut Cluster)) -> Vec<String> {
    let mut cluster = Cluster::new(without);
    play(&mut cluster);
    let violations = checks::all(&cluster.finish());
    violations.iter().map(ToString::to_string).collect()
}
