//! How long a newcomer waits: from `join` to the first message in its hands, and from the start of
//! `leave` to its end, while messages flow to every queue and the other members serve. Each join is a
//! first change: the coordinator has made no plan for longer than its settling time.
//!
//! ```sh
//! cargo build --release -p ringway-cli
//! cargo run --release -p ringway-benches --bin hand_over -- --rounds 100
//! ```

use std::time::Duration;

use ringway_benches::Outcome;
use ringway_benches::args::Args;
use ringway_benches::load::Member;
use ringway_benches::report::{Bar, Report};
use ringway_benches::scene::{FILTER, SUBSCRIPTION, Scene, conclude};
use ringway_client::Client;

/// Longer than the coordinator's settling time.
const BETWEEN: Duration = Duration::from_millis(700);
/// How long the newcomer may get nothing before its round is counted as failed.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> Outcome<()> {
    let args = Args::read(&[
        ("rounds", 40),
        ("workers", 3),
        ("queues", 64),
        ("members", 8),
        ("rate", 3200),
    ])?;
    let mut report = Report::new("hand_over", args.json);
    let newcomer = args.number("members") as u32;
    let scene = Scene::set(&args, newcomer.saturating_sub(1)).await?;
    let (mut firsts, mut answers, mut leaves, mut silent) = (vec![], vec![], vec![], 0u64);
    for _ in 0..args.number("rounds") {
        // What a process does once at its start is not part of a hand-over.
        let client = Client::connect(&scene.cluster.url()).await?;
        let member = Member::join_with(&client, &scene.log, FILTER, SUBSCRIPTION, newcomer).await?;
        let (asked, answered) = member.joined;
        answers.push(answered - asked);
        let is_new = |member: u32| (member == newcomer).then_some(());
        let first = scene.first(&[()], asked, PATIENCE, |h| is_new(h.member)).await;
        match first.get(&()).copied().flatten() {
            Some(at) => firsts.push(at - asked),
            None => silent += 1,
        }
        tokio::time::sleep(BETWEEN).await;
        let leaving = scene.log.now();
        member.leave().await?;
        leaves.push(scene.log.now() - leaving);
        client.close().await;
        tokio::time::sleep(BETWEEN).await;
    }
    let (handed, published) = scene.strike().await?;
    report.times("join to first message", firsts, Bar::Most(100.0));
    report.times("join to its answer", answers, Bar::None);
    report.times("leave, everything handed over, acks durable", leaves, Bar::None);
    report.number("joins without a message", silent as f64, "", Bar::Most(0.0));
    conclude(&mut report, &handed, &published, Bar::Most(0.0));
    report.print();
    Ok(())
}
