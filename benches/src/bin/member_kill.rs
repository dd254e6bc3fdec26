//! A member, `ringway sub` in a process of its own, is killed with SIGKILL under constant load: how
//! long until each of its keys is delivered to someone else. All settings are the defaults.
//!
//! ```sh
//! cargo build --release -p ringway-cli
//! cargo run --release -p ringway-benches --bin member_kill -- --rounds 30
//! ```

use std::time::Duration;

use ringway_benches::Outcome;
use ringway_benches::args::Args;
use ringway_benches::load::KEYS_PER_QUEUE;
use ringway_benches::report::{Bar, Report};
use ringway_benches::scene::{FILTER, SUBSCRIPTION, Scene, conclude};

/// How long a key may stay silent before it is counted as failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// Ordinary service before each kill. A fraction of a heartbeat is added to it, another each round,
/// so that the kill falls anywhere between two of them.
const BETWEEN: Duration = Duration::from_millis(1500);
const STEP: Duration = Duration::from_millis(37);

#[tokio::main]
async fn main() -> Outcome<()> {
    let args = Args::read(&[
        ("rounds", 30),
        ("workers", 3),
        ("queues", 64),
        ("members", 8),
        ("rate", 3200),
    ])?;
    let mut report = Report::new("member_kill", args.json);
    let members = args.number("members") as u32;
    let scene = Scene::set(&args, members.saturating_sub(1)).await?;
    let (mut each, mut all, mut silent) = (vec![], vec![], 0u64);
    for round in 0..args.number("rounds") as u32 {
        let name = format!("victim{round}");
        let mut victim = scene.cluster.member(FILTER, SUBSCRIPTION, &name).await?;
        scene.until_even(members).await?;
        tokio::time::sleep(BETWEEN + STEP * (round % 8)).await;
        let held = scene.held_by(&name).await?;
        let per_queue = KEYS_PER_QUEUE as u32;
        let keys = held.iter().flat_map(|q| q * per_queue..(q + 1) * per_queue);
        let keys: Vec<u32> = keys.collect();
        let killed = scene.log.now();
        victim.kill()?;
        // Nobody else holds these queues, so whoever notes one of their messages is a new holder.
        let first = scene.first(&keys, killed, PATIENCE, |h| Some(h.key)).await;
        silent += first.values().filter(|at| at.is_none()).count() as u64;
        let waits: Vec<Duration> = first.values().flatten().map(|at| *at - killed).collect();
        let most = waits.iter().max().copied().unwrap_or(PATIENCE);
        eprintln!("round {round}: {} keys, all elsewhere after {most:.0?}", keys.len());
        all.push(most);
        each.extend(waits);
        victim.ended().await?;
        scene.until_even(members - 1).await?;
    }
    let (handed, published) = scene.strike().await?;
    report.times("kill -9 to delivery elsewhere, each key", each, Bar::Most(2000.0));
    report.times("kill -9 to delivery elsewhere, all keys of the member", all, Bar::Most(2000.0));
    report.number("keys that stayed silent", silent as f64, "", Bar::Most(0.0));
    conclude(&mut report, &handed, &published, Bar::None);
    report.print();
    Ok(())
}
