//! `ringway demo`: the main job in about half a minute, for someone who sees Ringway for the first
//! time. It starts a coordinator, three workers and the members of two subscriptions as processes
//! of this same binary, replays flights, lets members and a worker come, go and die, and then
//! checks from receipts and printed messages that nothing was lost, doubled or turned round.
//!
//! [`flights`] reads the input, [`servers`] and [`children`] run the processes, [`progress`] shows
//! how far it is, [`check`] judges, and this file tells the story.

mod check;
mod children;
mod flights;
mod progress;
mod servers;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ringway_client::Client;
use serde::{Deserialize, Serialize};

use super::Context as Command;
use crate::args::DemoArgs;
use crate::exit::Failure;
use crate::output::{cause, grouped};
use crate::signals::Stop;

use self::check::{Delivered, Receipt, Verdict};
use self::children::{Process, Spawner};
use self::flights::{Flights, LATE_MINUTES, delays};
use self::progress::Progress;
use self::servers::{
    ready_address, start_cluster, start_member, start_publisher, start_worker, wait_for_queues,
    wait_for_workers, wait_until,
};

pub use self::children::end_with_demo;

/// Classes are `CARRIER.departed.ORIGIN`: the carrier is the family, so the class ring spreads the
/// carriers over the groups.
const CLASS: &str = "{carrier}.departed.{origin}";
/// The second group on the class ring, beside `default`.
const SECOND_GROUP: &str = "express";
const QUEUES: u32 = 16;

/// What the demo found; `--json` prints exactly this.
#[derive(Debug, Serialize)]
struct Summary {
    /// Flights whose publish was acked.
    published: u64,
    /// Messages that members printed, over both subscriptions.
    delivered: u64,
    /// Messages that were printed again, after the kill of their member.
    redelivered: u64,
    /// Acked flights that a subscription never saw.
    lost: u64,
    /// Flights of one aircraft that were first seen in the wrong order.
    order_violations: u64,
    /// Queues and consume rights that moved.
    moves: u64,
    /// The least that had to move.
    lower_bound: u64,
}

/// Tells the story, or keeps silent for `--json`.
struct Teller {
    quiet: bool,
    began: Instant,
}

impl Teller {
    fn event(&self, text: &str) {
        if !self.quiet {
            let _ =
                writeln!(std::io::stdout(), "{:5.1}s  {text}", self.began.elapsed().as_secs_f64());
        }
    }

    fn line(&self, text: &str) {
        if !self.quiet {
            let _ = writeln!(std::io::stdout(), "        {text}");
        }
    }
}

/// Runs the demo.
///
/// # Errors
/// When the flights cannot be read, a process does not start or ends badly, it is stopped by a
/// signal, or the check finds that something does not hold; the summary is printed before that.
pub async fn run(args: DemoArgs, command: &Command) -> Result<(), Failure> {
    let stop = Stop::on_signal()?;
    let flights = Flights::read(args.flights.as_deref())?;
    let dir = tempfile::Builder::new().prefix("ringway-demo-").tempdir().map_err(|e| {
        let at = std::env::temp_dir();
        Failure::new("io", format!("cannot make a directory in {}: {}", at.display(), cause(&e)))
            .help("name a directory that can be written with TMPDIR")
    })?;
    let teller = Teller { quiet: command.output.is_json(), began: Instant::now() };
    // What is not told to its end takes its processes with it.
    let told = tokio::select! {
        told = tell(&flights, args.rate, dir.path(), &teller) => told,
        () = stop.asked() => {
            return Err(Failure::new("stopped", "stopped before its end; nothing was checked"));
        }
    };
    let found = match told {
        Ok((summary, broken)) => {
            if command.output.is_json() {
                command.output.list(&[summary], &[], "")?;
            }
            broken
        }
        Err(e) => vec![format!("{e:#}")],
    };
    if found.is_empty() {
        return Ok(());
    }
    let kept = dir.keep();
    Err(Failure::new("demo", found.join("; "))
        .note(format!("the logs and data of its processes are in {}", kept.display())))
}

/// Everything from the first process to the verdict. Returns the summary and what does not hold.
async fn tell(
    flights: &Flights,
    rate: u32,
    dir: &Path,
    teller: &Teller,
) -> Result<(Summary, Vec<String>)> {
    let lines: &[&str] = &flights.lines();
    let spawner = Spawner::new(dir)?;
    let mut cluster = start_cluster(&spawner, dir).await?;
    teller.event("a coordinator and three workers are running, each a process of its own");
    let client = Client::connect(&cluster.url).await?;
    wait_for_workers(&client, 3).await?;
    client.admin().group_create(SECOND_GROUP, QUEUES, Some(100), None).await?;
    wait_for_queues(&client).await?;
    show_queues(&client, teller).await?;
    show_ring(&client, flights, teller).await?;

    let counter = start_member(&spawner, &cluster.url, "delays", "counter").await?;
    let mut board = Vec::new();
    for name in ["board-1", "board-2", "board-3"] {
        board.push(start_member(&spawner, &cluster.url, "board", name).await?);
    }
    teller.event("two subscriptions: `delays` with one member, `board` with three that share it");
    let publisher = start_publisher(&spawner, dir, &cluster.url, rate, lines)?;
    teller.event(&format!(
        "publishing {} flights as {CLASS}, key = tail number, {} a second",
        grouped(lines.len() as u64),
        grouped(rate.into())
    ));

    let mut progress = Progress::new(lines.len());
    progress.until(0.25, &client, &publisher, &counter, &board, teller).await?;
    board.push(start_member(&spawner, &cluster.url, "board", "board-4").await?);
    teller.event("a fourth member joins `board`");

    progress.until(0.45, &client, &publisher, &counter, &board, teller).await?;
    board[1].kill().await?;
    teller.event("member board-2 is killed with SIGKILL");

    progress.until(0.65, &client, &publisher, &counter, &board, teller).await?;
    cluster.workers[1].kill().await?;
    teller.event("worker w2 is killed with SIGKILL: its queues wait, the others go on");
    // Receipts come in the order of the input, so theirs stand still until the worker is back.
    let back = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < back {
        progress.tick(&client, &publisher, &counter, &board, teller).await?;
    }
    let address = cluster.worker_addresses[1].clone();
    let (mut worker, _) = start_worker(&spawner, dir, &cluster, 2, &address)?;
    worker.wait_for(ready_address).await?;
    cluster.workers[1] = worker;
    teller.event("worker w2 is started again and finds its queues in its journal");
    progress.until(1.0, &client, &publisher, &counter, &board, teller).await?;

    // Should it have ended early, its own last words say more than the broken pipe.
    let _ = publisher.feed.await?;
    let said = publisher.process.finish(Duration::from_secs(90)).await?;
    teller.event(&format!("the publisher is done: {}", said.last().map_or("", |s| s.as_str())));
    progress.drain(&client, lines.len(), &counter, &board, teller).await?;

    let calm = || async {
        let (_, members, rights) = client.admin().subscription("board").await?;
        Ok(members.len() == board.len() - 1 && rights.iter().all(|r| r.state == "granted"))
    };
    wait_until("the last hand-overs to end", calm).await?;
    let status = client.admin().status().await?;

    let receipts: Vec<Receipt> =
        parse_lines(std::fs::read_to_string(&publisher.receipts)?.lines())?;
    let mut printed = BTreeMap::new();
    let mut members = Vec::new();
    for member in board {
        members.push(last_lines(member).await?);
    }
    printed.insert("board", members);
    printed.insert("delays", vec![last_lines(counter).await?]);
    client.close().await;
    for worker in cluster.workers {
        worker.stop().await?;
    }
    cluster.coordinator.stop().await?;
    judge(lines, &receipts, &printed, status.moves, status.lower_bound, teller)
}

/// Everything that a member printed, also one that was killed; one that runs is stopped.
async fn last_lines(member: Process) -> Result<Vec<Delivered>> {
    if member.id().is_some() {
        return parse_lines(member.stop().await?.iter().map(String::as_str));
    }
    let mut lines = member.take_lines();
    // The kill may have cut the last one short; then it was not acked and came again elsewhere.
    if lines.last().is_some_and(|line| serde_json::from_str::<Delivered>(line).is_err()) {
        lines.pop();
    }
    parse_lines(lines.iter().map(String::as_str))
}

/// Turns what was published and printed into the summary, and says what does not hold.
fn judge(
    lines: &[&str],
    receipts: &[Receipt],
    printed: &BTreeMap<&str, Vec<Vec<Delivered>>>,
    moves: u64,
    lower_bound: u64,
    teller: &Teller,
) -> Result<(Summary, Vec<String>)> {
    let published = receipts.iter().filter(|r| r.status == "ok").count() as u64;
    let mut summary = Summary {
        published,
        delivered: 0,
        redelivered: 0,
        lost: 0,
        order_violations: 0,
        moves,
        lower_bound,
    };
    let mut broken = Vec::new();
    if published != lines.len() as u64 {
        broken.push(format!("only {published} of {} flights were acked", lines.len()));
    }
    for (subscription, members) in printed {
        let Verdict { delivered, redelivered, lost, foreign, order_violations, shared_epochs } =
            check::check(lines, receipts, members, |_| true);
        summary.delivered += delivered;
        summary.redelivered += redelivered;
        summary.lost += lost;
        summary.order_violations += order_violations;
        for (count, what) in [
            (lost, "acked flights were lost"),
            (foreign, "messages are not what was published"),
            (order_violations, "flights came in the wrong order"),
            (shared_epochs, "epochs had two holders"),
        ] {
            if count > 0 {
                broken.push(format!("in {subscription} {count} {what}"));
            }
        }
    }
    if moves != lower_bound {
        broken.push(format!("{moves} moves were made where {lower_bound} would have done"));
    }
    // A message may come again, and counts once.
    let mut places = BTreeSet::new();
    let once = printed["delays"].iter().flatten().filter(|d| places.insert((&d.queue, d.offset)));
    let counted = delays(once.map(|d| d.body.as_str()))?;
    let expected = delays(lines.iter().copied())?;
    if counted != expected {
        broken.push("the delays that `delays` counted are not those of the input".to_owned());
    }
    report(&summary, &counted, teller);
    Ok((summary, broken))
}

fn report(summary: &Summary, counted: &BTreeMap<String, u64>, teller: &Teller) {
    teller.event("done. Checked from the receipts and from what the members printed:");
    for (what, value) in [
        ("published (acked after sync)", summary.published),
        ("delivered to two subscriptions", summary.delivered),
        ("redelivered (from the killed member)", summary.redelivered),
        ("lost", summary.lost),
        ("out of order per aircraft and group", summary.order_violations),
        ("moves of queues and consume rights", summary.moves),
        ("the least that had to move", summary.lower_bound),
    ] {
        teller.line(&format!("{what:<38}{:>10}", grouped(value)));
    }
    let mut late: Vec<_> = counted.iter().collect();
    late.sort_by(|a, b| b.1.cmp(a.1));
    let late: Vec<String> =
        late.iter().take(5).map(|(c, n)| format!("{c} {}", grouped(**n))).collect();
    teller.line(&format!(
        "late by {LATE_MINUTES} minutes or more, as `delays` counted: {}",
        late.join(", ")
    ));
}

fn parse_lines<'a, T: for<'de> Deserialize<'de>>(
    lines: impl Iterator<Item = &'a str>,
) -> Result<Vec<T>> {
    lines
        .map(|l| serde_json::from_str(l).with_context(|| format!("not a line of JSON: {l}")))
        .collect()
}

async fn show_queues(client: &Client, teller: &Teller) -> Result<()> {
    let workers: Vec<String> = client
        .admin()
        .workers()
        .await?
        .iter()
        .map(|w| format!("{} leads {}", w.worker, w.queues))
        .collect();
    teller.event(&format!("two groups of {QUEUES} queues each: {}", workers.join(", ")));
    Ok(())
}

/// Says which carriers the class ring sends where.
async fn show_ring(client: &Client, flights: &Flights, teller: &Teller) -> Result<()> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for carrier in flights.carriers() {
        let route = client.admin().route(&format!("{carrier}.departed.JFK")).await?;
        groups.entry(route.group.to_string()).or_default().push(carrier);
    }
    let text: Vec<String> =
        groups.iter().map(|(group, carriers)| format!("{group}: {}", carriers.join(" "))).collect();
    teller.event(&format!("the class ring decides by the carrier: {}", text.join(" · ")));
    Ok(())
}

#[cfg(test)]
mod tests {
    use ringway_client::proto::routing::{GroupRoute, Router, Routing, even_slots};
    use ringway_client::proto::{GroupId, GroupName, RoutingVersion};

    use super::*;

    /// The groups of the demo with the numbers that a new cluster gives them.
    fn router() -> Router {
        let group = |id: u32, name: &str| GroupRoute {
            id: GroupId(id),
            name: GroupName::new(name).unwrap(),
            ring_weight: Some(100),
            max_body_bytes: 1 << 20,
            slots: even_slots(1),
            queues: vec![ringway_client::proto::routing::QueueRoute {
                uuid: Default::default(),
                epoch: Default::default(),
                primary: None,
            }],
        };
        let groups = vec![group(1, "default"), group(2, SECOND_GROUP)];
        Router::new(Routing { version: RoutingVersion(1), groups, ..Routing::default() }).unwrap()
    }

    #[test]
    fn the_class_ring_gives_both_groups_some_carriers() {
        let router = router();
        let mut carriers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for carrier in Flights::read(None).unwrap().carriers() {
            let class = format!("{carrier}.departed.JFK");
            let group = router.group_of(&class).unwrap().name().to_string();
            carriers.entry(group).or_default().insert(carrier);
        }
        let total: usize = carriers.values().map(BTreeSet::len).sum();
        assert_eq!((carriers.len(), total), (2, 16), "{carriers:?}");
    }
}
