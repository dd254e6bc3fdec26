//! `ringway demo`: the main job in about half a minute, for someone who sees Ringway for the first
//! time. It starts a coordinator, three workers and the members of two subscriptions as processes
//! of this same binary, replays flights, lets members and a worker come, go and die, and then
//! checks from receipts and printed messages that nothing was lost, doubled or turned round.
//!
//! [`check`] judges, [`children`] runs the processes, this file tells the story.

pub mod check;
mod children;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ringway_client::Client;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::process::ChildStdin;
use tokio::task::JoinHandle;

use super::Context as Command;
use crate::args::DemoArgs;
use crate::exit::Failure;

use self::check::{Delivered, Receipt, Verdict};
use self::children::{Process, Spawner};

/// The first 33,677 flights of 2013 from New York (US Department of Transportation, public domain).
const FLIGHTS: &[u8] = include_bytes!("../../../data/flights.ndjson.gz");
/// Classes are `CARRIER.departed.ORIGIN`: the carrier is the family, so the class ring spreads the
/// carriers over the groups.
pub const CLASS: &str = "{carrier}.departed.{origin}";
/// The second group on the class ring, beside `default`.
pub const SECOND_GROUP: &str = "express";
const QUEUES: &str = "16";
/// Flights that left this many minutes late count as delayed.
const LATE_MINUTES: i64 = 15;

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

#[derive(Deserialize)]
struct Flight {
    carrier: String,
    dep_delay: Option<i64>,
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
/// When a process does not start or ends badly, or when the check finds that something does not
/// hold; the summary is printed before that.
pub async fn run(args: DemoArgs, command: &Command) -> Result<(), Failure> {
    let dir = tempfile::Builder::new().prefix("ringway-demo-").tempdir();
    let dir = dir.map_err(|e| Failure::new("demo", format!("cannot make a directory: {e}")))?;
    let teller = Teller { quiet: command.output.is_json(), began: Instant::now() };
    let found = match tell(&args, dir.path(), &teller).await {
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

/// Reads the flights: the excerpt in this binary, or a file that may be gzipped.
fn read_flights(file: Option<&Path>) -> Result<String> {
    let bytes = match file {
        None => FLIGHTS.to_vec(),
        Some(path) => {
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?
        }
    };
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut text = String::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text)?;
        return Ok(text);
    }
    Ok(String::from_utf8(bytes)?)
}

/// The processes that serve.
struct Cluster {
    coordinator: Process,
    workers: Vec<Process>,
    worker_addresses: Vec<String>,
    url: String,
    tls: String,
}

/// Starts a coordinator and three workers, each on a port of its own choice.
async fn start_cluster(spawner: &Spawner, dir: &Path) -> Result<Cluster> {
    let tls = path_text(&dir.join("tls"));
    let (process, _) = spawner.start("tls", &["tls", "init", &tls], false)?;
    process.finish(Duration::from_secs(20)).await?;
    let data = path_text(&dir.join("coordinator"));
    let (mut coordinator, _) = spawner.start(
        "coordinator",
        &[
            "coordinator",
            "--id",
            "c1",
            "--listen",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
            "--data",
            &data,
            "--tls-dir",
            &tls,
        ],
        false,
    )?;
    let address = coordinator.wait_for(ready_address).await?;
    let mut cluster = Cluster {
        coordinator,
        workers: Vec::new(),
        worker_addresses: Vec::new(),
        url: format!("ringway://{address}?tls={tls}"),
        tls,
    };
    for n in 1..=3 {
        let (mut worker, _) = start_worker(spawner, dir, &cluster, n, "127.0.0.1:0")?;
        cluster.worker_addresses.push(worker.wait_for(ready_address).await?);
        cluster.workers.push(worker);
    }
    Ok(cluster)
}

fn start_worker(
    spawner: &Spawner,
    dir: &Path,
    cluster: &Cluster,
    n: usize,
    listen: &str,
) -> Result<(Process, Option<ChildStdin>)> {
    let id = format!("w{n}");
    let data = path_text(&dir.join(&id));
    let coordinator = cluster
        .url
        .strip_prefix("ringway://")
        .and_then(|rest| rest.split('?').next())
        .unwrap_or_default();
    spawner.start(
        &id,
        &[
            "worker",
            "--id",
            &id,
            "--listen",
            listen,
            "--http",
            "127.0.0.1:0",
            "--data",
            &data,
            "--coordinator",
            coordinator,
            "--tls-dir",
            &cluster.tls,
        ],
        false,
    )
}

/// The address in `ready worker w1 at 127.0.0.1:7401 …`.
fn ready_address(line: &str) -> Option<String> {
    let rest = line.strip_prefix("ready ")?;
    let address = rest.split(" at ").nth(1)?.split_whitespace().next()?;
    Some(address.to_owned())
}

fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// One member process.
struct Member {
    process: Process,
}

async fn start_member(
    spawner: &Spawner,
    url: &str,
    subscription: &str,
    name: &str,
) -> Result<Member> {
    let args = [
        "--url",
        url,
        "sub",
        "*.departed.*",
        "--as",
        subscription,
        "--member",
        name,
        "--format",
        "json",
    ];
    let (process, _) = spawner.start(&format!("{subscription}-{name}"), &args, false)?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while !process.said("ready") {
        if Instant::now() > deadline {
            bail!("member {name} of {subscription} did not become ready");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(Member { process })
}

/// The publisher process, and the task that feeds it the flights.
struct Publisher {
    process: Process,
    feed: JoinHandle<std::io::Result<()>>,
    receipts: PathBuf,
}

fn start_publisher(
    spawner: &Spawner,
    dir: &Path,
    url: &str,
    rate: u32,
    lines: &[&str],
) -> Result<Publisher> {
    let receipts = dir.join("receipts.ndjson");
    let (rate, file) = (rate.to_string(), path_text(&receipts));
    let args = [
        "--url",
        url,
        "pub",
        "--class-field",
        CLASS,
        "--key-field",
        "tail",
        "--rate",
        &rate,
        "--receipts",
        &file,
        "--json",
    ];
    let (process, stdin) = spawner.start("publisher", &args, true)?;
    let mut stdin = stdin.context("the publisher has no input")?;
    let text = lines.join("\n") + "\n";
    let feed = tokio::spawn(async move {
        stdin.write_all(text.as_bytes()).await?;
        stdin.shutdown().await
    });
    Ok(Publisher { process, feed, receipts })
}

/// How many receipts there are. The file is only counted further, never read again.
#[derive(Default)]
struct ReceiptCount {
    at: u64,
    count: usize,
}

impl ReceiptCount {
    fn update(&mut self, file: &Path) -> usize {
        use std::io::Seek;
        let read = || -> std::io::Result<Vec<u8>> {
            let mut f = std::fs::File::open(file)?;
            f.seek(std::io::SeekFrom::Start(self.at))?;
            let mut bytes = Vec::new();
            f.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        if let Ok(bytes) = read() {
            self.at += bytes.len() as u64;
            self.count += bytes.iter().filter(|b| **b == b'\n').count();
        }
        self.count
    }
}

/// Everything from the first process to the verdict. Returns the summary and what does not hold.
async fn tell(args: &DemoArgs, dir: &Path, teller: &Teller) -> Result<(Summary, Vec<String>)> {
    let input = read_flights(args.flights.as_deref())?;
    let lines: &[&str] = &input.lines().collect::<Vec<_>>();
    if lines.is_empty() {
        bail!("there are no flights to publish");
    }
    let spawner = Spawner::new(dir)?;
    let mut cluster = start_cluster(&spawner, dir).await?;
    teller.event("a coordinator and three workers are running, each a process of its own");
    let client = Client::connect(&cluster.url).await?;
    wait_for_workers(&client, 3).await?;
    client.admin().group_create(SECOND_GROUP, 16, Some(100), None).await?;
    wait_for_queues(&client).await?;
    show_queues(&client, teller).await?;
    show_ring(&client, lines, teller).await?;

    let counter = start_member(&spawner, &cluster.url, "delays", "counter").await?;
    let mut board = Vec::new();
    for name in ["board-1", "board-2", "board-3"] {
        board.push(start_member(&spawner, &cluster.url, "board", name).await?);
    }
    teller.event("two subscriptions: `delays` with one member, `board` with three that share it");
    let publisher = start_publisher(&spawner, dir, &cluster.url, args.rate, lines)?;
    teller.event(&format!(
        "publishing {} flights as {CLASS}, key = tail number, {} a second",
        thousands(lines.len()),
        thousands(args.rate as usize)
    ));

    let mut progress = Progress::new(lines.len());
    progress.until(0.25, &client, &publisher, &counter, &board, teller).await?;
    board.push(start_member(&spawner, &cluster.url, "board", "board-4").await?);
    teller.event("a fourth member joins `board`");

    progress.until(0.45, &client, &publisher, &counter, &board, teller).await?;
    board[1].process.kill().await?;
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

    publisher.feed.await??;
    let said = publisher.process.finish(Duration::from_secs(90)).await?;
    teller.event(&format!("the publisher is done: {}", said.last().map_or("", |s| s.as_str())));
    progress.drain(&client, lines.len(), &counter, &board, teller).await?;

    let receipts: Vec<Receipt> =
        parse_lines(std::fs::read_to_string(&publisher.receipts)?.lines())?;
    let mut printed = BTreeMap::new();
    let mut members = Vec::new();
    for member in board {
        let killed = member.process.id().is_none();
        let out = if killed { member.process.take_lines() } else { member.process.stop().await? };
        // The last line of a killed process may be cut short.
        let whole = if killed { whole_lines(&out) } else { out };
        members.push(parse_lines(whole.iter().map(String::as_str))?);
    }
    printed.insert("board", members);
    let counted = parse_lines(counter.process.stop().await?.iter().map(String::as_str))?;
    printed.insert("delays", vec![counted]);
    let status = client.admin().status().await?;
    client.close().await;
    for worker in cluster.workers {
        worker.stop().await?;
    }
    cluster.coordinator.stop().await?;
    judge(lines, &receipts, &printed, status.moves, status.lower_bound, teller)
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
    let counted = delays(printed["delays"].iter().flatten().map(|d| d.body.as_str()))?;
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
        teller.line(&format!("{what:<38}{:>10}", thousands(value as usize)));
    }
    let mut late: Vec<_> = counted.iter().collect();
    late.sort_by(|a, b| b.1.cmp(a.1));
    let late: Vec<String> =
        late.iter().take(5).map(|(c, n)| format!("{c} {}", thousands(**n as usize))).collect();
    teller.line(&format!(
        "late by {LATE_MINUTES} minutes or more, as `delays` counted: {}",
        late.join(", ")
    ));
}

/// How many flights of each carrier left late.
fn delays<'a>(flights: impl Iterator<Item = &'a str>) -> Result<BTreeMap<String, u64>> {
    let mut late = BTreeMap::new();
    for text in flights {
        let flight: Flight = serde_json::from_str(text)?;
        if flight.dep_delay.is_some_and(|minutes| minutes >= LATE_MINUTES) {
            *late.entry(flight.carrier).or_default() += 1;
        }
    }
    Ok(late)
}

fn parse_lines<'a, T: for<'de> Deserialize<'de>>(
    lines: impl Iterator<Item = &'a str>,
) -> Result<Vec<T>> {
    lines
        .map(|l| serde_json::from_str(l).with_context(|| format!("not a line of JSON: {l}")))
        .collect()
}

/// Drops a last line that a kill cut short.
fn whole_lines(lines: &[String]) -> Vec<String> {
    lines.iter().filter(|l| l.ends_with('}')).cloned().collect()
}

fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A line a second while messages flow.
struct Progress {
    total: usize,
    receipts: ReceiptCount,
    last: (Instant, usize),
    held: String,
}

impl Progress {
    fn new(total: usize) -> Self {
        Self {
            total,
            receipts: ReceiptCount::default(),
            last: (Instant::now(), 0),
            held: String::new(),
        }
    }

    /// Waits until this share of the flights is published and acked.
    async fn until(
        &mut self,
        share: f64,
        client: &Client,
        publisher: &Publisher,
        counter: &Member,
        board: &[Member],
        teller: &Teller,
    ) -> Result<()> {
        let goal = (self.total as f64 * share) as usize;
        let mut stalled_since = Instant::now();
        let mut seen = 0;
        loop {
            let acked = self.receipts.update(&publisher.receipts);
            if acked >= goal {
                return Ok(());
            }
            if acked > seen {
                (seen, stalled_since) = (acked, Instant::now());
            }
            if stalled_since.elapsed() > Duration::from_secs(60) {
                bail!("publishing stands still at {acked} of {} flights", self.total);
            }
            self.tick(client, publisher, counter, board, teller).await?;
        }
    }

    /// Waits a moment, and prints the line of this second if it is due.
    async fn tick(
        &mut self,
        client: &Client,
        publisher: &Publisher,
        counter: &Member,
        board: &[Member],
        teller: &Teller,
    ) -> Result<()> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if self.last.0.elapsed() >= Duration::from_secs(1) {
            let acked = self.receipts.update(&publisher.receipts);
            self.print(acked, client, counter, board, teller).await?;
        }
        Ok(())
    }

    async fn print(
        &mut self,
        acked: usize,
        client: &Client,
        counter: &Member,
        board: &[Member],
        teller: &Teller,
    ) -> Result<()> {
        let rate = (acked - self.last.1) as f64 / self.last.0.elapsed().as_secs_f64();
        self.last = (Instant::now(), acked);
        let seen: usize = board.iter().map(|m| m.process.printed()).sum();
        teller.event(&format!(
            "published {:>7}  {:>6}/s   delays {:>7} (lag {})   board {:>7} (lag {})",
            thousands(acked),
            thousands(rate as usize),
            thousands(counter.process.printed()),
            thousands(acked.saturating_sub(counter.process.printed())),
            thousands(seen),
            thousands(acked.saturating_sub(seen)),
        ));
        let held = holders(client).await?;
        if held != self.held {
            teller.line(&format!("board: {held}"));
            self.held = held;
        }
        Ok(())
    }

    /// Waits until both subscriptions have nothing left.
    async fn drain(
        &mut self,
        client: &Client,
        acked: usize,
        counter: &Member,
        board: &[Member],
        teller: &Teller,
    ) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let mut left = 0;
            for subscription in ["delays", "board"] {
                let lag = client.admin().lag(subscription).await?;
                left += lag.lag_messages() + lag.unanswered.len() as u64;
            }
            if left == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{left} messages are still not acked a minute after the last publish");
            }
            if self.last.0.elapsed() >= Duration::from_secs(1) {
                self.print(acked, client, counter, board, teller).await?;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Who holds how many of the queues of `board`: `board-1 11 queues, board-2 11, …`.
async fn holders(client: &Client) -> Result<String> {
    let (_, members, rights) = client.admin().subscription("board").await?;
    let mut text: Vec<String> =
        members.iter().map(|m| format!("{} holds {} queues", m.member, m.rights)).collect();
    let moving = rights.iter().filter(|r| r.state != "granted").count();
    if moving > 0 {
        text.push(format!("{moving} in hand-over"));
    }
    Ok(text.join(", "))
}

async fn wait_for_workers(client: &Client, count: u32) -> Result<()> {
    wait_until("the workers to register", || async {
        Ok(client.admin().status().await?.workers_up == count)
    })
    .await
}

/// Waits until every queue serves and no queue is on its way.
async fn wait_for_queues(client: &Client) -> Result<()> {
    wait_until("the queues to be balanced", || async {
        let status = client.admin().status().await?;
        let plan = client.admin().plan().await?;
        let workers = client.admin().workers().await?;
        let most = workers.iter().map(|w| w.queues).max().unwrap_or(0);
        let least = workers.iter().map(|w| w.queues).min().unwrap_or(0);
        Ok(status.queues_serving == status.queues && plan.moves.is_empty() && most - least <= 1)
    })
    .await
}

async fn wait_until<F: Future<Output = Result<bool>>>(
    what: &str,
    done: impl Fn() -> F,
) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done().await? {
        if Instant::now() > deadline {
            bail!("waited 20 s for {what}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
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
async fn show_ring(client: &Client, lines: &[&str], teller: &Teller) -> Result<()> {
    let mut carriers = BTreeMap::new();
    for line in lines {
        let flight: Flight = serde_json::from_str(line)?;
        carriers.entry(flight.carrier).or_insert(());
    }
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for carrier in carriers.into_keys() {
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
    use std::collections::BTreeSet;

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
        let flights = read_flights(None).unwrap();
        let mut carriers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for line in flights.lines() {
            let flight: Flight = serde_json::from_str(line).unwrap();
            let class = format!("{}.departed.JFK", flight.carrier);
            let group = router.group_of(&class).unwrap().name().to_string();
            carriers.entry(group).or_default().insert(flight.carrier);
        }
        let total: usize = carriers.values().map(BTreeSet::len).sum();
        assert_eq!((carriers.len(), total), (2, 16), "{carriers:?}");
    }

    #[test]
    fn numbers_are_read_in_thousands() {
        assert_eq!(thousands(7), "7");
        assert_eq!(thousands(33_677), "33,677");
        assert_eq!(thousands(1_234_567), "1,234,567");
    }
}
