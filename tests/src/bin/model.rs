use ringway_tests::model::{bugs::Bug, runs};
use std::time::Instant;
fn main() {
    let mut args = std::env::args().skip(1);
    let name = args.next();
    let cap: usize = std::env::var("CAP").ok().and_then(|s| s.parse().ok()).unwrap_or(usize::MAX);
    let bug = args.next().and_then(|n| Bug::named(&n));

    if name.as_deref() == Some("bugs") {
        for bug in Bug::ALL {
            let began = Instant::now();
            let mut run = runs::named(runs::against(bug)).unwrap();
            run.bounds.states = run.bounds.states.min(cap);
            let found = run.go(Some(bug));
            println!("BUG {bug:?} in {}: {} states {:.1} s: {}", run.name, found.states, began.elapsed().as_secs_f64(), found.broken.or(found.stuck).map_or("NOT FOUND".to_owned(), |t| format!("{} ({} steps)", t.why, t.steps.len())));
        }
        return;
    }
    for mut run in runs::all() {
        run.bounds.states = run.bounds.states.min(cap);
        if name.as_ref().is_some_and(|n| n != run.name && n != "all") {
            continue;
        }
        let began = Instant::now();
        let found = run.go(bug);
        println!(
            "{}: {} states, {} steps, depth {}, complete {}, settled {}, computed {}, {:.1} s",
            run.name,
            found.states,
            found.steps,
            found.depth,
            found.is_complete,
            found.settled,
            found.computed,
            began.elapsed().as_secs_f64()
        );
        if let Some(t) = found.broken.or(found.stuck) {
            println!("{t}");
        }
    }
}
