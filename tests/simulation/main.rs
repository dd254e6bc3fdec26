//! The simulated cluster: two thousand seeds keep every promise, a seed is a run, and every
//! planted bug is caught. The schedules that broke earlier wordings of the design are beside it.

mod schedules;

use std::collections::{BTreeMap, BTreeSet};

use ringway_proto::Lanes;
use ringway_tests::sim::history::{History, What};
use ringway_tests::sim::{self, Bug, Faults, Full, Options};

/// Within so many seeds a planted bug has to be caught.
const SEEDS: u64 = 2000;

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[test]
fn two_thousand_seeds_keep_every_promise() {
    let failures = sim::judge_all(0..SEEDS, threads(), false, Options::new);
    let text: Vec<String> = failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{}", text.join("\n"));
}

#[test]
fn a_run_without_faults_keeps_every_promise() {
    let options = |seed| Options { faults: Faults::None, ..Options::new(seed) };
    let failures = sim::judge_all(0..100, threads(), false, options);
    let text: Vec<String> = failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{}", text.join("\n"));
}

#[test]
fn rights_that_stay_never_pause_while_others_move() {
    let options = |seed| Options { faults: Faults::Churn, ..Options::new(seed) };
    let failures = sim::judge_all(0..100, threads(), false, options);
    let text: Vec<String> = failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{}", text.join("\n"));
}

/// A rolling restart of every worker, every member and the coordinator.
#[test]
fn a_rolling_restart_keeps_every_promise() {
    let options = |seed| Options { faults: Faults::Rolling, ..Options::new(seed) };
    let failures = sim::judge_all(0..200, threads(), false, options);
    let text: Vec<String> = failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{}", text.join("\n"));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let hashes = |seed| sim::play(&Options::new(seed)).hash();
    let once: Vec<u64> = (0..100).map(hashes).collect();
    let twice: Vec<u64> = (0..100).map(hashes).collect();
    assert_eq!(once, twice);
    assert_eq!(once.iter().collect::<BTreeSet<_>>().len(), 100, "seeds differ");
}

#[test]
fn every_planted_bug_is_caught() {
    let missed: Vec<Bug> = Bug::ALL
        .into_iter()
        .filter(|bug| {
            let (bug, faults) = (Some(*bug), bug.faults());
            let options = |seed| Options { bug, faults, ..Options::new(seed) };
            sim::judge_all(0..SEEDS, threads(), true, options).is_empty()
        })
        .collect();
    assert_eq!(missed, [], "not caught within {SEEDS} seeds");
}

/// How often acks became durable at a worker whose disk had no room for batches.
fn acked_on_full_disks(run: &History) -> usize {
    let (mut leads, mut full, mut acked) = (BTreeMap::new(), BTreeMap::new(), 0);
    for entry in &run.entries {
        match &entry.what {
            What::QueueOpened { queue, worker, .. } => drop(leads.insert(*queue, worker)),
            What::Full { worker, full: Full::ForBatches, until } => {
                full.insert(worker, *until);
            }
            What::Cursor { right, .. } => {
                let until = leads.get(&right.queue).and_then(|worker| full.get(worker));
                acked += usize::from(until.is_some_and(|until| entry.at < *until));
            }
            _ => {}
        }
    }
    acked
}

/// How often a queue was sealed to be moved, and how often a group grew, while rights were split;
/// and how often rights were split or merged after that.
fn split_meanwhile(run: &History) -> [usize; 3] {
    let (mut split, mut has_grown, mut counts) = (BTreeSet::new(), false, [0; 3]);
    for entry in &run.entries {
        match &entry.what {
            What::Laid { parts, into } => {
                counts[2] += usize::from(has_grown);
                for right in parts {
                    split.remove(right);
                }
                split.extend(into.iter().filter(|right| right.lanes != Lanes::ALL).copied());
            }
            What::Sealed(queue) => {
                counts[0] += usize::from(split.iter().any(|right| right.queue == *queue));
            }
            What::Fault(text) if text.starts_with("Grow") => {
                has_grown = true;
                counts[1] += usize::from(!split.is_empty());
            }
            _ => {}
        }
    }
    counts
}

/// A simulation in which nothing happens keeps every promise too.
#[test]
fn runs_are_full_of_what_they_are_to_prove() {
    let runs: Vec<History> = (0..30).map(|seed| sim::play(&Options::new(seed))).collect();
    let count = |is: fn(&What) -> bool| {
        let all = runs.iter().flat_map(|run| &run.entries);
        all.filter(|entry| is(&entry.what)).count()
    };
    let expect = |name: &str, least: usize, n: usize| assert!(n >= least, "{name}: {n}");
    expect("acked publishes", 5000, count(|w| matches!(w, What::Published { .. })));
    expect("confirmed acks", 5000, count(|w| matches!(w, What::Confirmed { .. })));
    expect("orderly hand-overs", 300, count(|w| matches!(w, What::Drained { .. })));
    expect("raises", 1000, count(|w| matches!(w, What::Raised { .. })));
    expect("openings of queues", 500, count(|w| matches!(w, What::QueueOpened { .. })));
    expect("faults", 300, count(|w| matches!(w, What::Fault(_))));
    expect("batches that found no room", 20, count(|w| matches!(w, What::NoRoom { .. })));
    expect("acks on full disks", 3, runs.iter().map(acked_on_full_disks).sum());
    let grown = count(|w| matches!(w, What::Fault(text) if text.starts_with("Grow")));
    expect("groups that grow", 15, grown);
    let bound = count(|w| matches!(w, What::Fault(text) if text.starts_with("Bind")));
    expect("classes that move", 5, bound);
    let drained = count(|w| matches!(w, What::Fault(text) if text.starts_with("Drain")));
    expect("workers that are drained", 8, drained);
    let split: Vec<[usize; 3]> = runs.iter().map(split_meanwhile).collect();
    let split = |n: usize| split.iter().map(|counts| counts[n]).sum();
    expect("queues with split rights that move", 5, split(0));
    expect("groups that grow while rights are split", 2, split(1));
    expect("splits and merges after a group has grown", 10, split(2));
    let moves = count(|w| matches!(w, What::Moves { done, .. } if *done > 0));
    expect("runs with moves", 25, moves);
}
