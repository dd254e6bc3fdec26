//! `model`: the searches of the exhaustive model, also the long ones. It prints what each found, with
//! a shortest way to what is broken, and exits 1 if anything was. It decides nothing about a search.

use std::process::ExitCode;
use std::time::Instant;

use ringway_tests::model::bugs::Bug;
use ringway_tests::model::explore::Found;
use ringway_tests::model::runs::{self, Run};
use ringway_tests::model::system::Budget;

const USAGE: &str = "usage: model [--run NAME] [--bug NAME] [--states N] [--budget KIND=N] [--prompt] [--long] [--bugs]

  --run NAME    this search only
  --bug NAME    plant this bug
  --states N    cut each search after so many states
  --budget KIND=N    allow so many of one kind, as `Budget` names them; may be repeated
  --prompt      deliver promptly (docs/model.md)
  --long        also the searches that take minutes
  --bugs        each planted bug, in the search that finds it";

#[derive(Default)]
struct Wishes {
    run: Option<String>,
    bug: Option<Bug>,
    states: Option<usize>,
    budget: Vec<(String, u8)>,
    prompt: bool,
    long: bool,
    bugs: bool,
}

impl Wishes {
    fn shape(&self, run: &mut Run) {
        run.bounds.states = self.states.unwrap_or(run.bounds.states);
        if self.prompt {
            *run = run.clone().prompt();
        }
        for (kind, number) in &self.budget {
            // It was tried when it was parsed.
            run.allow(kind, *number).ok();
        }
    }
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
    // A part that gives up is reported with the way to it, like every other broken promise.
    std::panic::set_hook(Box::new(|_| {}));
    let all = if wishes.bugs { bugs(&wishes) } else { searches(&wishes) };
    if all { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Makes the searches; true when nothing was broken.
fn searches(wishes: &Wishes) -> bool {
    let mut all = true;
    for mut run in runs::all() {
        let is_wanted = match &wishes.run {
            Some(name) => *name == run.name,
            None => wishes.long || !run.is_long(),
        };
        if !is_wanted {
            continue;
        }
        wishes.shape(&mut run);
        let began = Instant::now();
        let found = run.go(wishes.bug);
        println!("{}: {}: {}", run.name, run.about, figures(&found, began));
        if let Some(trace) = found.broken.or(found.stuck) {
            println!("{trace}");
            all = false;
        }
    }
    all
}

/// Plants every bug; true when each was found.
fn bugs(wishes: &Wishes) -> bool {
    let mut all = true;
    for bug in Bug::ALL {
        let Some(mut run) = runs::named(runs::against(bug)) else { continue };
        wishes.shape(&mut run);
        let began = Instant::now();
        let found = run.go(Some(bug));
        let figures = figures(&found, began);
        match found.broken.or(found.stuck) {
            Some(trace) => {
                let steps = trace.steps.len();
                println!("{bug:?} in {}: {} ({steps} steps); {figures}", run.name, trace.why);
            }
            None => {
                println!("{bug:?} in {}: not found; {figures}", run.name);
                all = false;
            }
        }
    }
    all
}

fn figures(found: &Found, began: Instant) -> String {
    let Found { states, steps, depth, computed, .. } = found;
    let extent = match found.cut_at {
        Some(at) => format!("all that is nearer than {at}"),
        None => format!("depth {depth}"),
    };
    let seconds = began.elapsed().as_secs_f64();
    format!("{states} states, {steps} steps, {extent}, {computed} computed, {seconds:.1} s")
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Wishes>, String> {
    let mut wishes = Wishes::default();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--help" | "-h" => return Ok(None),
            "--long" => wishes.long = true,
            "--bugs" => wishes.bugs = true,
            "--prompt" => wishes.prompt = true,
            "--run" | "--bug" | "--states" | "--budget" => {
                let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
                match arg.as_str() {
                    "--run" => {
                        runs::named(&value).ok_or_else(|| format!("no search is named {value}"))?;
                        wishes.run = Some(value);
                    }
                    "--bug" => {
                        let bug = Bug::named(&value);
                        wishes.bug = Some(bug.ok_or_else(|| format!("no bug is named {value}"))?);
                    }
                    "--budget" => {
                        let (kind, number) = value.split_once('=').unwrap_or((&value, ""));
                        let number = number.parse();
                        let number = number.map_err(|_| format!("{arg} {value}: no number"))?;
                        Budget::default()
                            .named(kind)
                            .ok_or_else(|| format!("no budget has {kind}"))?;
                        wishes.budget.push((kind.to_owned(), number));
                    }
                    _ => {
                        let states = value.parse();
                        let states = states.map_err(|_| format!("{arg} {value}: no number"))?;
                        wishes.states = Some(states);
                    }
                }
            }
            _ => return Err(format!("{arg} is unknown")),
        }
    }
    Ok(Some(wishes))
}
