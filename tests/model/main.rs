//! The exhaustive model, as far as a minute reaches: each short search is complete and keeps every
//! promise, and each planted bug is found.

use ringway_tests::model::bugs::Bug;
use ringway_tests::model::runs;

#[test]
fn every_short_search_is_complete_and_keeps_every_promise() {
    let mut states = 0;
    for run in runs::all().into_iter().filter(|run| !run.is_long()) {
        let found = run.go(None);
        let trace = found.broken.or(found.stuck);
        assert!(
            trace.is_none(),
            "{}: {}",
            run.name,
            trace.map_or(String::new(), |t| t.to_string())
        );
        assert!(found.is_complete, "{} is cut", run.name);
        assert!(found.settled > 0, "{} never comes to an end", run.name);
        states += found.states;
    }
    // A search that lost its beginning visits few.
    assert!(states > 1_000_000, "{states} states");
}

#[test]
fn every_planted_bug_is_found() {
    let found = |bug: &Bug| {
        let run = runs::named(runs::against(*bug));
        run.is_some_and(|run| {
            let found = run.go(Some(*bug));
            found.broken.or(found.stuck).is_some()
        })
    };
    let missed: Vec<Bug> = Bug::ALL.into_iter().filter(|bug| !found(bug)).collect();
    assert_eq!(missed, []);
}

#[test]
fn planted_bugs_are_found_under_prompt_delivery_too() {
    // Disks are prompt as well, so that no copy is asked for between a write and its sync.
    let can_be = |bug: &Bug| *bug != Bug::UnsyncedCopied;
    let found = |bug: &Bug| {
        let Some(run) = runs::named(runs::against(*bug)) else { return false };
        let mut run = run.prompt();
        if *bug == Bug::OpenedBeforeSeal {
            // The seal has to come late.
            assert_eq!(run.allow("disturbed", 1), Ok(()));
        }
        let found = run.go(Some(*bug));
        found.broken.or(found.stuck).is_some()
    };
    let missed: Vec<Bug> = Bug::ALL.into_iter().filter(|bug| can_be(bug) && !found(bug)).collect();
    assert_eq!(missed, []);
}

#[test]
fn the_same_search_twice_visits_the_same() {
    let run = || runs::named("leave").map(|run| run.go(None));
    assert!(run().is_some());
    assert_eq!(run(), run());
}
