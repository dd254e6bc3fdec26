//! A worker is told to stop and started again at once, under constant load: how long from its ready
//! line until every right at it is delivered again. Nothing may be handed out twice meanwhile, and the
//! publisher sees no error.
//!
//! ```sh
//! cargo build --release -p ringway-cli
//! cargo run --release -p ringway-benches --bin worker_restart -- --rounds 100
//! ```

use std::time::Duration;

use ringway_benches::Outcome;
use ringway_benches::args::Args;
use ringway_benches::report::{Bar, Report};
use ringway_benches::scene::{Scene, conclude};

/// How long a right may stay silent before its round is counted as failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// Ordinary service between two restarts.
const BETWEEN: Duration = Duration::from_millis(1500);

#[tokio::main]
async fn main() -> Outcome<()> {
    let args = Args::read(&[
        ("rounds", 30),
        ("workers", 3),
        ("queues", 64),
        ("members", 8),
        ("rate", 3200),
    ])?;
    let mut report = Report::new("worker_restart", args.json);
    let mut scene = Scene::set(&args, args.number("members") as u32).await?;
    let (mut each, mut all, mut ends, mut starts) = (vec![], vec![], vec![], vec![]);
    let (mut receipts, mut silent) = (vec![], 0u64);
    for round in 0..args.number("rounds") as usize {
        let worker = round % args.number("workers") as usize;
        let led = scene.led_by(worker);
        let told = scene.log.now();
        scene.cluster.stop_worker(worker).await?;
        let ended = scene.log.now();
        let ready = scene.log.time_of(scene.cluster.start_worker(worker).await?.at);
        // Only what was published after the end can have come from the new process.
        let first =
            scene.first(&led, ended, PATIENCE, |h| (h.sent > ended).then_some(h.queue)).await;
        silent += first.values().filter(|at| at.is_none()).count() as u64;
        let waits = first.values().flatten().map(|at| at.saturating_sub(ready));
        let waits: Vec<Duration> = waits.collect();
        let most = waits.iter().max().copied().unwrap_or(PATIENCE);
        eprintln!(
            "round {round}: w{} ended after {:.0?}, its ready line after {:.0?}, all delivered {most:.0?} later",
            worker + 1,
            ended - told,
            ready.saturating_sub(ended),
        );
        all.push(most);
        each.extend(waits);
        ends.push(ended - told);
        starts.push(ready.saturating_sub(ended));
        tokio::time::sleep(BETWEEN).await;
        let published = scene.publisher.published();
        for queue in led {
            let answers = published.answers.iter().filter(|a| a.queue == queue && a.at > ended);
            receipts.extend(answers.map(|a| a.at.saturating_sub(ready)).min());
        }
    }
    let (handed, published) = scene.strike().await?;
    report.times("ready line to delivery on all rights of the worker", all, Bar::Most(100.0));
    report.times("ready line to delivery, each right", each, Bar::None);
    report.times("ready line to the publisher's first receipt, each queue", receipts, Bar::None);
    report.times("SIGTERM to the end of the process", ends, Bar::None);
    report.times("the next process, from its start to its ready line", starts, Bar::None);
    report.number("rights that stayed silent", silent as f64, "", Bar::Most(0.0));
    conclude(&mut report, &handed, &published, Bar::Most(0.0));
    report.print();
    Ok(())
}
