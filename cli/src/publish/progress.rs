//! Tells a person how far publishing is: one line that changes on a terminal, else a line every
//! two seconds. It only reads the tally.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::receipts::Tally;
use crate::output::grouped;

/// How often a line is written where no terminal is.
const LINE: Duration = Duration::from_secs(2);
/// How often a terminal is brought up to date.
const REDRAW: Duration = Duration::from_millis(100);

/// A display that goes on until it is dropped.
#[derive(Debug)]
pub struct Progress {
    task: JoinHandle<()>,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Shows `tally` from now on.
    #[must_use]
    pub fn start(tally: Arc<Tally>) -> Self {
        let bar = io::stderr().is_terminal().then(ProgressBar::new_spinner);
        let (shown, started) = (bar.clone(), Instant::now());
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(if shown.is_some() { REDRAW } else { LINE });
            ticks.tick().await;
            loop {
                ticks.tick().await;
                let text = describe(&tally, started.elapsed());
                match &shown {
                    Some(bar) => {
                        bar.set_message(text);
                        bar.tick();
                    }
                    None => eprintln!("{text}"),
                }
            }
        });
        Self { task, bar }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// `3,200 stored · 40 under way · 1,600/s`, and what went wrong if anything did.
fn describe(tally: &Tally, elapsed: Duration) -> String {
    let (acked, failed) = (tally.acked.load(Relaxed), tally.failed.load(Relaxed));
    let unknown = tally.unknown.load(Relaxed);
    let under_way = tally.published.load(Relaxed).saturating_sub(acked + unknown);
    let rate = acked as f64 / elapsed.as_secs_f64().max(0.001);
    let mut text = format!(
        "{} stored · {} under way · {}/s",
        grouped(acked),
        grouped(under_way),
        grouped(rate as u64)
    );
    for (n, what) in [(failed, "failed"), (unknown, "unknown")] {
        if n > 0 {
            text.push_str(&format!(" · {} {what}", grouped(n)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_many_how_fast_and_what_went_wrong() {
        let tally = Tally::default();
        tally.published.store(3240, Relaxed);
        tally.acked.store(3200, Relaxed);
        assert_eq!(
            describe(&tally, Duration::from_secs(2)),
            "3,200 stored · 40 under way · 1,600/s"
        );
        tally.failed.store(1, Relaxed);
        assert!(describe(&tally, Duration::from_secs(2)).ends_with("1,600/s · 1 failed"));
    }
}
