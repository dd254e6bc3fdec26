//! The searches under prompt delivery (`system/prompt.rs`): whole histories, and rights that are
//! split and merged. What no machine has room for at once is shared out among several.

use super::super::system::{Act, Budget};
use super::{CALM, ONE_SEAT, Run, TWO_SEATS, WIDE, rights};

/// Two workers with a queue each, and one member.
const NARROW: &[Act] =
    &[Act::StartCoordinator, Act::StartWorker(0), Act::StartWorker(1), Act::Start(0)];
/// A message in the first queue, wherever that is.
const HALF: &[Act] = &[Act::Publish(0, 0), Act::Publish(1, 0)];
/// A message in each queue.
const FULL: &[Act] =
    &[Act::Publish(0, 0), Act::Publish(1, 0), Act::Publish(0, 1), Act::Publish(1, 1)];

/// Every one.
pub(super) fn all() -> Vec<Run> {
    let mut all = histories();
    all.extend(lanes());
    all
}

/// One queue and one worker; two are seated, one joins, one leaves, one is killed.
fn history(name: &'static str, about: &'static str, budget: Budget) -> Run {
    let budget = Budget { starts: 1, leaves: 1, kills: 1, messages: 1, ..budget };
    Run { before: TWO_SEATS, is_prompt: true, ..rights(name, about, budget) }
}

/// Two queues with a message each and two workers, of which one is to be emptied; one member is
/// seated, two join, one leaves.
fn everything(name: &'static str, about: &'static str, budget: Budget) -> Run {
    let budget = Budget { starts: 2, leaves: 1, drains: 1, messages: 1, ..budget };
    let run =
        Run { workers: 2, queues: 2, before: NARROW, last: FULL, ..rights(name, about, budget) };
    Run { is_prompt: true, wishes_at_rest: true, ..run }
}

/// The same, but two are seated, one joins, one leaves and one is killed; the second queue is empty,
/// and its message is published whenever everything rests.
fn killed(name: &'static str, about: &'static str, budget: Budget) -> Run {
    let mut run = Run { before: WIDE, last: HALF, ..everything(name, about, budget) };
    (run.budget.starts, run.budget.kills) = (1, 1);
    run
}

/// With a second one it needs more memory than the others.
fn one_join(mut run: Run) -> Run {
    run.budget.starts = 1;
    run
}

fn histories() -> Vec<Run> {
    let crashes = Budget { worker_crashes: 1, coordinator_crashes: 1, ..CALM };
    let disturbed = Budget { disturbed: 2, ..CALM };
    let worker = Budget { worker_crashes: 1, disturbed: 1, ..CALM };
    let coordinator = Budget { coordinator_crashes: 1, disturbed: 1, ..CALM };
    vec![
        history("prompt-history", "three membership changes", CALM),
        history("prompt-history-crashes", "the same, and two crashes", crashes),
        history("prompt-history-disturbed", "the same, two disturbed", disturbed),
        everything("prompt-everything", "three membership changes and a move", CALM),
        everything("prompt-everything-crashes", "the same, and two crashes", crashes),
        everything("prompt-everything-disturbed", "the same, two disturbed", disturbed),
        everything(
            "prompt-everything-coordinator-crash",
            "the coordinator dies, one disturbed",
            coordinator,
        ),
        one_join(everything(
            "prompt-everything-worker-crash",
            "only one joins; a worker dies, one disturbed",
            worker,
        )),
        killed("prompt-kill", "a member dies, a queue moves", CALM),
        killed(
            "prompt-kill-worker-crash",
            "and a worker dies",
            Budget { worker_crashes: 1, ..CALM },
        ),
        killed(
            "prompt-kill-coordinator-crash",
            "and the coordinator dies",
            Budget { coordinator_crashes: 1, ..CALM },
        ),
        killed("prompt-kill-disturbed", "and one disturbed", Budget { disturbed: 1, ..CALM }),
    ]
}

/// One queue with messages of two keys; one member is seated, a heavier one joins, so that the
/// right is cut into four, and one of them leaves, so that two of these are merged.
fn lanes() -> Vec<Run> {
    let lanes = |name, about, budget: Budget| {
        let budget = Budget { starts: 1, leaves: 1, messages: 2, ..budget };
        let run = Run { before: ONE_SEAT, is_prompt: true, ..rights(name, about, budget) };
        Run { are_split: true, ..run }
    };
    let crashes = Budget { worker_crashes: 1, coordinator_crashes: 1, ..CALM };
    vec![
        lanes("lanes", "a right is split and merged", CALM),
        lanes(
            "lanes-worker-crash",
            "the same, and the worker dies",
            Budget { worker_crashes: 1, ..CALM },
        ),
        lanes(
            "lanes-coordinator-crash",
            "the same, and the coordinator dies",
            Budget { coordinator_crashes: 1, ..CALM },
        ),
        lanes("lanes-crashes", "the same, and both die", crashes),
        lanes("lanes-disturbed", "the same, one disturbed", Budget { disturbed: 1, ..CALM }),
    ]
}
