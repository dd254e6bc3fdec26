//! The searches that are made: who takes part, what has happened before they begin, and what may
//! happen in them. Each is small enough to be complete, or says where it is cut.

mod prompt;

use super::bugs::Bug;
use super::explore::{Bounds, Found, search};
use super::parts::{Cast, keys};
use super::system::{Act, Budget, State, System};

/// A search.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    workers: u8,
    queues: u8,
    processes: &'static [(u8, u8)],
    /// What has happened before.
    before: &'static [Act],
    /// What has happened just now; what follows from it has not.
    last: &'static [Act],
    /// What may happen.
    budget: Budget,
    /// Everything arrives before anything else happens.
    is_prompt: bool,
    wishes_at_rest: bool,
    are_split: bool,
    /// Where it is cut; it is complete if it ends before.
    pub bounds: Bounds,
}

/// Nothing may go wrong.
const CALM: Budget = Budget {
    starts: 0,
    leaves: 0,
    kills: 0,
    lapses: 0,
    overruns: 0,
    hurries: 0,
    worker_crashes: 0,
    coordinator_crashes: 0,
    breaks: 0,
    lates: 0,
    echoes: 0,
    disturbed: 0,
    drains: 0,
    messages: 0,
};

/// As much as a beginning needs.
const PLENTY: Budget = Budget { starts: 9, leaves: 9, messages: 99, drains: 9, ..CALM };

/// What the largest searches need is more than a machine has; the others end long before.
const UNCUT: Bounds = Bounds { depth: u32::MAX, states: 16_000_000 };

const THREE: &[(u8, u8)] = &[(1, 1), (2, 1), (3, 1)];
/// The first member's process is started again while the old one may still run.
const AGAIN: &[(u8, u8)] = &[(1, 1), (1, 2), (2, 1)];

const ONE_UP: &[Act] = &[Act::StartCoordinator, Act::StartWorker(0)];
const ONE_SEAT: &[Act] = &[Act::StartCoordinator, Act::StartWorker(0), Act::Start(0)];
const TWO_SEATS: &[Act] =
    &[Act::StartCoordinator, Act::StartWorker(0), Act::Start(0), Act::Start(1)];
/// The queue is at the first worker, with a message; then the second comes.
const FILLED: &[Act] =
    &[Act::StartCoordinator, Act::StartWorker(0), Act::Publish(0, 0), Act::StartWorker(1)];
/// The same, and a member is there.
const SERVED: &[Act] =
    &[Act::StartCoordinator, Act::StartWorker(0), Act::StartWorker(1), Act::Start(0)];

/// Two workers with a queue each, and two members.
const WIDE: &[Act] = &[
    Act::StartCoordinator,
    Act::StartWorker(0),
    Act::StartWorker(1),
    Act::Start(0),
    Act::Start(1),
];

const fn rights(name: &'static str, about: &'static str, budget: Budget) -> Run {
    Run {
        name,
        about,
        workers: 1,
        queues: 1,
        processes: THREE,
        before: TWO_SEATS,
        budget,
        last: &[],
        is_prompt: false,
        wishes_at_rest: false,
        are_split: false,
        bounds: UNCUT,
    }
}

const fn moves(name: &'static str, about: &'static str, budget: Budget) -> Run {
    Run { workers: 2, processes: &[], before: FILLED, ..rights(name, about, budget) }
}

/// Every search.
#[must_use]
pub fn all() -> Vec<Run> {
    let mut all = in_any_order();
    all.extend(prompt::all());
    all
}

/// Those in which everything happens in every order.
fn in_any_order() -> Vec<Run> {
    let leave = Budget { leaves: 1, messages: 2, ..CALM };
    let drain = Budget { drains: 1, messages: 2, ..CALM };
    vec![
        rights("leave", "the holder of a right leaves", leave),
        rights("leave-twice", "two leave, one after the other", Budget { leaves: 2, ..leave }),
        Run {
            queues: 2,
            before: ONE_SEAT,
            ..rights(
                "join",
                "a second member joins; two queues",
                Budget { starts: 1, messages: 1, ..CALM },
            )
        },
        Run {
            queues: 2,
            before: ONE_UP,
            ..rights(
                "joins",
                "two members join; two queues",
                Budget { starts: 2, messages: 1, ..CALM },
            )
        },
        Run {
            before: ONE_UP,
            ..rights(
                "churn",
                "three members join, one leaves",
                Budget { starts: 3, leaves: 1, messages: 1, ..CALM },
            )
        },
        Run {
            processes: AGAIN,
            before: ONE_SEAT,
            ..rights(
                "again",
                "a member's process is started again, the old one lives",
                Budget { starts: 1, messages: 2, ..CALM },
            )
        },
        rights("overrun", "a leaver is too slow", Budget { overruns: 1, ..leave }),
        rights("lapse", "a holder lapses and lives", Budget { lapses: 1, messages: 2, ..CALM }),
        rights(
            "lapse-worker-crash",
            "a holder lapses and lives, and the worker dies",
            Budget { lapses: 1, worker_crashes: 1, messages: 1, ..CALM },
        ),
        rights("kill", "a holder dies", Budget { kills: 1, messages: 2, ..CALM }),
        rights(
            "kill-late",
            "a holder dies, its last words come late",
            Budget { kills: 1, lates: 1, messages: 2, ..CALM },
        ),
        rights(
            "worker-crash",
            "a hand-over, and the worker dies",
            Budget { worker_crashes: 1, messages: 1, ..leave },
        ),
        rights(
            "worker-crashes",
            "a hand-over, and the worker dies twice",
            Budget { worker_crashes: 2, messages: 1, ..leave },
        ),
        rights(
            "coordinator-crash",
            "a hand-over, and the coordinator dies",
            Budget { coordinator_crashes: 1, ..leave },
        ),
        rights(
            "coordinator-crashes",
            "a hand-over, and the coordinator dies twice",
            Budget { coordinator_crashes: 2, messages: 1, ..leave },
        ),
        rights(
            "crashes",
            "a hand-over, and both die",
            Budget { worker_crashes: 1, coordinator_crashes: 1, messages: 1, ..leave },
        ),
        rights(
            "break",
            "a hand-over, and a connection breaks",
            Budget { breaks: 1, lates: 1, messages: 1, ..leave },
        ),
        rights(
            "breaks",
            "a hand-over, and two connections break",
            Budget { breaks: 2, lates: 2, messages: 1, ..leave },
        ),
        rights(
            "echo",
            "a hand-over, and a message comes twice",
            Budget { echoes: 2, messages: 1, ..leave },
        ),
        moves("move", "a queue moves", drain),
        moves(
            "move-back",
            "a queue moves, the order to is taken back",
            Budget { drains: 2, ..drain },
        ),
        moves(
            "move-thrice",
            "two such orders and what takes the first back",
            Budget { drains: 3, ..drain },
        ),
        moves(
            "move-given-up",
            "a queue moves, and that is given up twice",
            Budget { hurries: 2, ..drain },
        ),
        moves(
            "move-there-and-back",
            "a queue moves there and back, a message comes twice",
            Budget { drains: 3, echoes: 1, ..drain },
        ),
        moves(
            "move-worker-crash",
            "a queue moves, and a worker dies",
            Budget { worker_crashes: 1, ..drain },
        ),
        moves(
            "move-back-worker-crash",
            "a queue moves, the order to is taken back, and a worker dies",
            Budget { worker_crashes: 1, drains: 2, ..drain },
        ),
        moves(
            "move-worker-crashes",
            "a queue moves, and workers die",
            Budget { worker_crashes: 2, ..drain },
        ),
        moves(
            "move-coordinator-crash",
            "a queue moves, the order to is taken back, the coordinator dies",
            Budget { coordinator_crashes: 1, drains: 2, ..drain },
        ),
        moves(
            "move-break",
            "a queue moves, the order to is taken back, a connection breaks",
            Budget { breaks: 1, lates: 1, drains: 2, ..drain },
        ),
        moves(
            "move-echo",
            "a queue moves, the order to is taken back, messages come twice",
            Budget { echoes: 2, drains: 2, ..drain },
        ),
        moves(
            "move-crashes",
            "a queue moves, a worker and the coordinator die, and it is given up",
            Budget { worker_crashes: 1, coordinator_crashes: 1, hurries: 1, ..drain },
        ),
        Run {
            processes: &[(1, 1)],
            before: SERVED,
            ..moves("move-served", "a queue moves away from under its reader", drain)
        },
        rights(
            "history",
            "three membership changes, two crashes, a break, a late and a doubled message",
            Budget {
                starts: 1,
                leaves: 1,
                kills: 1,
                worker_crashes: 1,
                coordinator_crashes: 1,
                breaks: 1,
                lates: 1,
                echoes: 1,
                messages: 1,
                ..CALM
            },
        ),
        Run {
            workers: 2,
            queues: 2,
            before: WIDE,
            ..rights(
                "everything",
                "the same with two queues, and one of them moves",
                Budget {
                    starts: 1,
                    leaves: 1,
                    kills: 1,
                    worker_crashes: 1,
                    coordinator_crashes: 1,
                    breaks: 1,
                    lates: 1,
                    echoes: 1,
                    drains: 1,
                    messages: 1,
                    ..CALM
                },
            )
        },
        Run {
            processes: &[(1, 1)],
            before: SERVED,
            ..moves(
                "move-served-crash",
                "the same, and a worker dies",
                Budget { worker_crashes: 1, messages: 1, ..drain },
            )
        },
    ]
}

/// The search that finds a planted bug.
#[must_use]
pub fn against(bug: Bug) -> &'static str {
    match bug {
        Bug::GrantBeforeRaise | Bug::DrainedBeforeAcks => "leave",
        Bug::SameIncarnation => "again",
        Bug::RaiseNotJournaled => "lapse-worker-crash",
        Bug::UnsyncedConfirmed => "worker-crash",
        Bug::EpochIgnored => "overrun",
        Bug::AcksNotRepeated => "break",
        Bug::SealNotJournaled | Bug::UnsyncedCopied => "move-worker-crash",
        Bug::TombstoneOfAnyEpoch => "move-there-and-back",
        Bug::AttemptNotRaised => "move-given-up",
        Bug::OpenedBeforeSeal => "move",
        Bug::SplitOverlaps | Bug::MergeForgetsAcks => "lanes",
    }
}

/// Searches that take longer than a test should.
const LONG: [&str; 24] = [
    "lapse-worker-crash",
    "joins",
    "churn",
    "worker-crash",
    "worker-crashes",
    "coordinator-crash",
    "coordinator-crashes",
    "crashes",
    "breaks",
    "move-crashes",
    "move-served-crash",
    "history",
    "everything",
    "prompt-history-crashes",
    "prompt-history-disturbed",
    "prompt-everything-crashes",
    "prompt-everything-disturbed",
    "prompt-everything-worker-crash",
    "prompt-everything-coordinator-crash",
    "prompt-kill-worker-crash",
    "prompt-kill-coordinator-crash",
    "prompt-kill-disturbed",
    "lanes-crashes",
    "lanes-disturbed",
];

/// The search of this name.
#[must_use]
pub fn named(name: &str) -> Option<Run> {
    all().into_iter().find(|run| run.name == name)
}

impl Run {
    /// Whether it takes minutes.
    #[must_use]
    pub fn is_long(&self) -> bool {
        LONG.contains(&self.name)
    }

    /// The same under prompt delivery, where every kind of disturbance is one number.
    #[must_use]
    pub fn prompt(mut self) -> Self {
        let Budget { breaks, lates, echoes, .. } = self.budget;
        self.budget.disturbed += breaks.max(lates) + echoes;
        (self.budget.breaks, self.budget.lates, self.budget.echoes) = (0, 0, 0);
        self.is_prompt = true;
        self
    }

    /// Changes what it may use of one kind.
    ///
    /// # Errors
    /// When nothing has this name.
    pub fn allow(&mut self, kind: &str, number: u8) -> Result<(), String> {
        let known = self.budget.named(kind);
        *known.ok_or_else(|| format!("no budget has {kind}"))? = number;
        Ok(())
    }

    /// Makes the search.
    #[must_use]
    pub fn go(&self, bug: Option<Bug>) -> Found {
        let cast = Cast {
            workers: self.workers,
            queues: self.queues,
            processes: self.processes.to_vec(),
            sync_at_once: self.budget.worker_crashes == 0,
            is_prompt: self.is_prompt,
            keys: keys(self.are_split),
            wishes_at_rest: self.wishes_at_rest,
            bug: None,
        };
        let mut system = System::new(cast);
        let beginning = self.beginning(&mut system);
        system.plant(bug);
        search(&mut system, &beginning, self.bounds)
    }

    /// Where the search begins.
    ///
    /// # Panics
    /// When a promise is broken before it.
    pub fn beginning(&self, system: &mut System) -> State {
        let mut state = system.nothing(PLENTY);
        for act in self.before {
            state = settled(system, state, *act);
        }
        for act in self.last {
            state = made(system, &state, *act);
        }
        System::with_budget(&state, self.budget)
    }
}

/// The state behind a step.
fn made(system: &mut System, state: &State, act: Act) -> State {
    let next = system.apply(state, act);
    next.unwrap_or_else(|why| panic!("{}: {why}", system.describe(state, act)))
}

/// The state behind a step, when all has happened that follows from it.
fn settled(system: &mut System, state: State, act: Act) -> State {
    let mut state = made(system, &state, act);
    for _ in 0..10_000 {
        let next = system.acts(&state).into_iter().find(Act::is_free);
        // Time goes on only when nothing else does.
        match next {
            Some(act) if !matches!(act, Act::Wait(_)) => state = made(system, &state, act),
            _ => return state,
        }
    }
    panic!("{act:?} never comes to an end")
}
