//! The simulation: a whole cluster in one thread, under a virtual clock, network and disk. The
//! shipped logic of coordinator, worker and client decides; thin imitations of the drivers carry
//! out what it decides, with faults drawn from a seed. The checks then read what happened. The
//! same seed gives the same run.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod bugs;
pub mod checks;
mod client;
mod clock;
mod coordinator;
mod copies;
mod ctx;
mod disk;
mod dispatch;
mod faults;
pub mod history;
mod net;
mod worker;
mod workload;
mod world;

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

pub use self::bugs::Bug;
pub use self::checks::Violation;
pub use self::ctx::Options;
pub use self::disk::Full;
pub use self::faults::Faults;
use self::history::History;

/// Plays a run.
///
/// # Panics
/// Where the logic or its driver hits something that cannot be.
#[must_use]
pub fn play(options: &Options) -> History {
    world::World::new(options).run(options.steps)
}

/// A run that broke a promise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The run.
    pub options: Options,
    /// Every promise that it broke.
    pub violations: Vec<Violation>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { seed, faults, bug, .. } = self.options;
        let mut last = "";
        for violation in &self.violations {
            // One of each check says enough.
            if std::mem::replace(&mut last, violation.check) != violation.check {
                writeln!(f, "{violation}")?;
            }
        }
        write!(f, "replay: sim --seed {seed} --faults {}", faults.name())?;
        bug.map_or(Ok(()), |bug| write!(f, " --bug {bug:?}"))
    }
}

/// Plays a run and judges it. A panic is a violation too.
#[must_use]
pub fn judge(options: &Options) -> Option<Failure> {
    let played = std::panic::catch_unwind(AssertUnwindSafe(|| checks::all(&play(options))));
    let violations = played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        vec![Violation { check: "panic", text: text.unwrap_or_else(|| "no words".to_owned()) }]
    });
    (!violations.is_empty()).then_some(Failure { options: *options, violations })
}

/// Plays the runs of these seeds on several threads and returns those that broke a promise, in
/// the order of their seeds; with `first`, no further run begins once one was found.
#[must_use]
pub fn judge_all(
    seeds: std::ops::Range<u64>,
    threads: usize,
    first: bool,
    options: impl Fn(u64) -> Options + Sync,
) -> Vec<Failure> {
    let next = AtomicU64::new(seeds.start);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    if let Some(failure) = judge(&options(seed)) {
                        if let Ok(mut failures) = failures.lock() {
                            failures.push(failure);
                        }
                        if first {
                            next.store(seeds.end, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap_or_default();
    failures.sort_by_key(|failure| failure.options.seed);
    failures
}
