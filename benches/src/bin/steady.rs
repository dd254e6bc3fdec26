//! What those notice who are not concerned: the pauses of rights that do not move, while others join,
//! leave, are killed, and a worker restarts, beside the pauses of the quiet ten seconds before.
//!
//! ```sh
//! cargo build --release -p ringway-cli
//! cargo run --release -p ringway-benches --bin steady -- --rounds 8
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use ringway_benches::Outcome;
use ringway_benches::args::Args;
use ringway_benches::handed::{Handed, Span, gaps, latencies, moved};
use ringway_benches::load::Member;
use ringway_benches::report::{Bar, Report, percentile};
use ringway_benches::scene::{FILTER, SUBSCRIPTION, Scene, conclude};

/// The quiet time before each kind of event.
const QUIET: Duration = Duration::from_secs(10);
/// What is looked at after a change: joins, leaves and restarts are over by then.
const AFTER: Duration = Duration::from_secs(1);
/// The same after a kill, which is noticed later.
const AFTER_KILL: Duration = Duration::from_millis(2500);
/// Between the end of what is looked at and the next change.
const BETWEEN: Duration = Duration::from_secs(1);
/// A right counts as moved when it had two holders in the span with this much on either side.
const AROUND: Duration = Duration::from_millis(500);

/// One kind of event.
struct Kind {
    what: &'static str,
    /// The quiet time before.
    quiet: Span,
    /// What is looked at, with the queues that the event concerned by itself.
    spans: Vec<(Span, BTreeSet<u32>)>,
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let args = Args::read(&[
        ("rounds", 8),
        ("workers", 3),
        ("queues", 64),
        ("members", 8),
        ("rate", 3200),
    ])?;
    let mut report = Report::new("steady", args.json);
    let mut scene = Scene::set(&args, args.number("members") as u32).await?;
    let rounds = args.number("rounds") as usize;
    let mut kinds = joins_and_leaves(&scene, rounds).await?;
    kinds.push(restarts(&mut scene, rounds, args.number("workers") as usize).await?);
    kinds.push(kills(&scene, rounds, args.number("members") as u32).await?);
    let (handed, published) = scene.strike().await?;
    kinds.iter().for_each(|kind| rows(&mut report, kind, &handed));
    conclude(&mut report, &handed, &published, Bar::None);
    report.print();
    Ok(())
}

fn rows(report: &mut Report, kind: &Kind, handed: &[Handed]) {
    let none = BTreeSet::new();
    let quiet = gaps(handed, kind.quiet, &none);
    let (mut pauses, mut late) = (Vec::new(), Vec::new());
    for (span, concerned) in &kind.spans {
        let mut without = moved(handed, span.widened(AROUND));
        without.extend(concerned);
        pauses.extend(gaps(handed, *span, &without));
        late.extend(latencies(handed, *span, &without));
    }
    let p999 = |times: &[Duration]| {
        let mut times = times.to_vec();
        times.sort();
        percentile(&times, 0.999).as_secs_f64()
    };
    let ratio = p999(&pauses) / p999(&quiet);
    let what = kind.what;
    report.times(&format!("gap, the quiet 10 s before: {what}"), quiet, Bar::None);
    report.times(&format!("gap of rights that do not move: {what}"), pauses, Bar::None);
    report.number(
        &format!("p99.9 over that of the quiet time: {what}"),
        ratio,
        "x",
        Bar::Most(1.5),
    );
    let quiet = latencies(handed, kind.quiet, &none);
    report.times(&format!("publish to hand-out, the quiet 10 s before: {what}"), quiet, Bar::None);
    report.times(&format!("publish to hand-out, not moved: {what}"), late, Bar::None);
}

/// Waits through the quiet time.
async fn quiet(scene: &Scene) -> Span {
    tokio::time::sleep(BETWEEN).await;
    let from = scene.log.now();
    tokio::time::sleep(QUIET).await;
    Span { from, to: scene.log.now() }
}

/// What follows `from`, looked at for so long.
async fn look(scene: &Scene, from: Duration, after: Duration) -> Span {
    let to = scene.log.now() + after;
    tokio::time::sleep(after + BETWEEN).await;
    Span { from, to }
}

async fn joins_and_leaves(scene: &Scene, rounds: usize) -> Outcome<Vec<Kind>> {
    let quiet = quiet(scene).await;
    let (mut joins, mut leaves) = (Vec::new(), Vec::new());
    let newcomer = scene.residents.len() as u32;
    for _ in 0..rounds {
        let from = scene.log.now();
        let url = scene.cluster.url();
        let member = Member::join(&url, &scene.log, FILTER, SUBSCRIPTION, newcomer).await?;
        joins.push((look(scene, from, AFTER).await, BTreeSet::new()));
        let from = scene.log.now();
        member.leave().await?;
        leaves.push((look(scene, from, AFTER).await, BTreeSet::new()));
    }
    let kind = |what, spans| Kind { what, quiet, spans };
    Ok(vec![kind("a member joins", joins), kind("a member leaves", leaves)])
}

async fn restarts(scene: &mut Scene, rounds: usize, workers: usize) -> Outcome<Kind> {
    let quiet = quiet(scene).await;
    let mut spans = Vec::new();
    for round in 0..rounds {
        let led = scene.led_by(round % workers).into_iter().collect();
        let from = scene.log.now();
        scene.cluster.stop_worker(round % workers).await?;
        scene.cluster.start_worker(round % workers).await?;
        spans.push((look(scene, from, AFTER).await, led));
    }
    Ok(Kind { what: "a worker restarts", quiet, spans })
}

async fn kills(scene: &Scene, rounds: usize, members: u32) -> Outcome<Kind> {
    let quiet = quiet(scene).await;
    let mut spans = Vec::new();
    for round in 0..rounds {
        let name = format!("victim{round}");
        let mut victim = scene.cluster.member(FILTER, SUBSCRIPTION, &name).await?;
        scene.until_even(members + 1).await?;
        tokio::time::sleep(BETWEEN).await;
        let held = scene.held_by(&name).await?.into_iter().collect();
        let from = scene.log.now();
        victim.kill()?;
        victim.ended().await?;
        spans.push((look(scene, from, AFTER_KILL).await, held));
        scene.until_even(members).await?;
    }
    Ok(Kind { what: "a member is killed", quiet, spans })
}
