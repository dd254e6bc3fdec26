//! `sim`: the long version of the simulation. It plays seeds, prints every run that breaks a
//! promise with what replays it, and exits 1 if there was one. It decides nothing about a run.

use std::process::ExitCode;
use std::time::Instant;

use ringway_tests::sim::{self, Bug, Faults, Options};

const USAGE: &str = "usage: sim [--seeds N] [--from S] [--seed S] [--steps N] \
[--faults none|churn|rolling|all] [--bug NAME] [--threads N] [--first]

  --seeds N     how many seeds, 1,000 if not given
  --from S      the first of them, 0 if not given
  --seed S      this one only, printing what happens as it does
  --steps N     cut each run after so many events
  --faults F    none, churn (only comings and goings), rolling (every process is restarted in
                turn), or all if not given
  --bug NAME    plant this bug in the drivers
  --threads N   as many as there are processors if not given
  --first       stop at the first run that breaks a promise";

struct Wishes {
    options: Options,
    seeds: u64,
    from: u64,
    threads: usize,
    first: bool,
}

fn main() -> ExitCode {
    let wishes = match parse(std::env::args().skip(1)) {
        Ok(Some(wishes)) => wishes,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(text) => {
            eprintln!("{text}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    // A panic is reported with its seed, like every other violation.
    if !wishes.options.trace {
        std::panic::set_hook(Box::new(|_| {}));
    }
    let began = Instant::now();
    let seeds = wishes.from..wishes.from.saturating_add(wishes.seeds);
    let options = |seed| Options { seed, ..wishes.options };
    let failures = sim::judge_all(seeds, wishes.threads, wishes.first, options);
    for failure in &failures {
        println!("{failure}\n");
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{} seeds, {} broke a promise, {seconds:.1} s", wishes.seeds, failures.len());
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Wishes>, String> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let options = Options::new(0);
    let mut wishes = Wishes { options, seeds: 1000, from: 0, threads, first: false };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--help" | "-h" => return Ok(None),
            "--first" => {
                wishes.first = true;
                continue;
            }
            _ => {}
        }
        let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
        let number = || value.parse().map_err(|_| format!("{arg} {value}: no number"));
        match arg.as_str() {
            "--seeds" => wishes.seeds = number()?,
            "--from" => wishes.from = number()?,
            "--seed" => {
                (wishes.from, wishes.seeds) = (number()?, 1);
                wishes.options.trace = true;
            }
            "--steps" => wishes.options.steps = number()?,
            "--threads" => wishes.threads = number()? as usize,
            "--faults" => {
                let known = Faults::NAMES.into_iter().find(|(name, _)| *name == value);
                let (_, faults) = known.ok_or_else(|| format!("--faults {value} is unknown"))?;
                wishes.options.faults = faults;
            }
            "--bug" => {
                let bug = Bug::named(&value).ok_or_else(|| format!("no bug is named {value}"))?;
                wishes.options.bug = Some(bug);
            }
            _ => return Err(format!("{arg} is unknown")),
        }
    }
    Ok(Some(wishes))
}
