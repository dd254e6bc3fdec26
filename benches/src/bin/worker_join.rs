//! One more worker under load, with queues that are full: how long until the queues are balanced, how
//! many bytes a second that is beside a plain sequential write to the same disk, and how long the
//! publisher of a queue that moves has to wait.
//!
//! ```sh
//! cargo build --release -p ringway-cli
//! cargo run --release -p ringway-benches --bin worker_join -- --mib 1024 --rounds 3
//! ```

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ringway_benches::Outcome;
use ringway_benches::args::Args;
use ringway_benches::cluster::{Cluster, LOOK, worker_id};
use ringway_benches::handed::Span;
use ringway_benches::load::{Answered, keys};
use ringway_benches::report::{Bar, Report};
use ringway_benches::scene::{CLASS, GROUP, Scene, conclude, make};
use ringway_client::Client;

/// The bodies that fill the queues.
const BODY_BYTES: usize = 64 << 10;
/// What is written at once to measure the disk.
const BLOCK_BYTES: usize = 1 << 20;
/// A queue is sealed for less than this before its swap is heard of, and publishes go to its new
/// primary within less than this after it.
const BEFORE_SWAP: Duration = Duration::from_millis(300);
const AFTER_SWAP: Duration = Duration::from_millis(100);
const MIB: f64 = (1 << 20) as f64;

#[tokio::main]
async fn main() -> Outcome<()> {
    let args = Args::read(&[
        ("rounds", 3),
        ("workers", 3),
        ("queues", 64),
        ("members", 8),
        ("rate", 3200),
        ("mib", 1024),
        // Of each worker that sends copies; 0 is the default of `ringway worker`.
        ("copy-mib-per-second", 0),
    ])?;
    let mut report = Report::new("worker_join", args.json);
    let mut workers = args.number("workers") as usize;
    let cluster = filled(&args, workers).await?;
    let client = Client::connect(&cluster.url()).await?;
    let mut scene =
        Scene::set_on(cluster, client, &args, args.number("members") as u32, false).await?;
    let (mut pauses, mut others) = (vec![], vec![]);
    for _ in 0..args.number("rounds") {
        let (before, cpu) = (primaries(&scene), scene.cluster.cpu_time());
        let from = scene.log.time_of(scene.cluster.add_worker().await?.at);
        workers += 1;
        let mut swaps = BTreeMap::new();
        tokio::select! {
            settled = scene.cluster.settled(&scene.client, workers) => settled?,
            never = watch(&scene, &before, &mut swaps) => match never {},
        }
        let span = Span { from, to: scene.log.now() };
        let took = (span.to - span.from).as_secs_f64();
        let cpu = scene.cluster.cpu_time().saturating_sub(cpu).as_secs_f64();
        // Until this client has heard of the last swap, and publishes that were under way are answered.
        let last = watch(&scene, &before, &mut swaps);
        let _ = tokio::time::timeout(Duration::from_secs(1), last).await;
        let label = "direction=\"in\"";
        let name = "ringway_copy_bytes_total";
        let copied = scene.cluster.worker_metric(workers - 1, name, label).await?;
        let id = worker_id(workers - 1);
        let moved = swaps.len() as f64;
        report.number(&format!("{id} joins: queues that moved"), moved, "", Bar::None);
        report.number(&format!("{id} joins: to balance"), took, "s", Bar::None);
        report.number(&format!("{id} joins: copied"), copied / MIB, "MiB", Bar::None);
        report.number(&format!("{id} joins: processor time of the cluster"), cpu, "s", Bar::None);
        let rate = copied / MIB / took;
        report.number(&format!("{id} joins: copied per second"), rate, "MiB/s", Bar::None);
        let disk = disk_rate(scene.cluster.dir().join("plain"), copied as usize).await?;
        report.number("plain write and fdatasync under this load", disk, "MiB/s", Bar::None);
        let published = scene.publisher.published();
        let longest = |queue, at| longest(&published.answers, queue, around(at));
        pauses.extend(swaps.iter().map(|(queue, at)| longest(*queue, *at)));
        // Those that stay, at the same moments.
        let stays = before.keys().filter(|queue| !swaps.contains_key(queue));
        others.extend(stays.zip(swaps.values().cycle()).map(|(queue, at)| longest(*queue, *at)));
    }
    let (mut seals, mut short) = (0.0, 0.0);
    for worker in 0..workers {
        let name = "ringway_publish_pause_seconds";
        seals += scene.cluster.worker_metric(worker, &format!("{name}_count"), "").await?;
        let name = format!("{name}_bucket");
        short += scene.cluster.worker_metric(worker, &name, "le=\"0.05\"").await?;
    }
    let (handed, published) = scene.strike().await?;
    report.times("longest publish around the swap, each queue that moved", pauses, Bar::Most(50.0));
    report.times("the same of queues that did not move", others, Bar::None);
    report.number("seals, by the workers' own count", seals, "", Bar::None);
    report.number("seals of more than 50 ms", seals - short, "", Bar::Most(0.0));
    conclude(&mut report, &handed, &published, Bar::Most(0.0));
    report.print();
    Ok(())
}

/// A cluster whose group has `--mib` MiB in its queues.
async fn filled(args: &Args, workers: usize) -> Outcome<Cluster> {
    let mut cluster = Cluster::start(args.dir.as_deref(), 0).await?;
    if args.number("copy-mib-per-second") > 0 {
        cluster.set_copy_rate(args.number("copy-mib-per-second") << 20);
    }
    for _ in 0..workers {
        cluster.add_worker().await?;
    }
    let client = Client::connect(&cluster.url()).await?;
    make(&client, &cluster, args.number("queues") as u32, workers).await?;
    let keys = keys(&client, GROUP)?;
    let producer = client.producer().build();
    let body = vec![b'x'; BODY_BYTES];
    for n in 0..(args.number("mib") << 20) as usize / BODY_BYTES {
        let of_queue = &keys[n % keys.len()];
        let key = &of_queue[n / keys.len() % of_queue.len()];
        drop(producer.send(CLASS, body.clone()).key(key).await?);
    }
    producer.flush().await?;
    client.close().await;
    Ok(cluster)
}

/// Which worker leads each queue of the group.
fn primaries(scene: &Scene) -> BTreeMap<u32, String> {
    let router = scene.client.router();
    let Some(group) = router.group_by_name(GROUP) else { return BTreeMap::new() };
    let queues = group.route().queues.iter().zip(0..);
    queues.filter_map(|(q, n)| Some((n, q.primary.as_ref()?.to_string()))).collect()
}

/// Notes when this client hears that a queue has another primary than before, until it is dropped.
async fn watch(
    scene: &Scene,
    before: &BTreeMap<u32, String>,
    swaps: &mut BTreeMap<u32, Duration>,
) -> Infallible {
    loop {
        let (now, at) = (primaries(scene), scene.log.now());
        let moved = now.iter().filter(|(queue, worker)| before.get(queue) != Some(worker));
        for (queue, _) in moved {
            swaps.entry(*queue).or_insert(at);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// When publishes to a queue were sent that its move made wait, if the client heard of it then.
fn around(swapped: Duration) -> Span {
    Span { from: swapped.saturating_sub(BEFORE_SWAP), to: swapped + AFTER_SWAP }
}

/// The longest that a message to this queue waited for its receipt, of those sent within the span.
fn longest(answers: &[Answered], queue: u32, span: Span) -> Duration {
    let of_queue = answers.iter().filter(|a| a.queue == queue && span.holds(a.sent));
    of_queue.map(|a| a.at.saturating_sub(a.sent)).max().unwrap_or_default()
}

/// How fast so many bytes can be written to a file in one go and synced, in MiB per second.
async fn disk_rate(path: PathBuf, bytes: usize) -> Outcome<f64> {
    let write = move || {
        let mut file = File::create(&path)?;
        let block = vec![0x5a; BLOCK_BYTES];
        let began = Instant::now();
        for _ in 0..bytes.div_ceil(BLOCK_BYTES) {
            file.write_all(&block)?;
        }
        file.sync_data()?;
        let took = began.elapsed();
        std::fs::remove_file(&path)?;
        Ok::<_, std::io::Error>(bytes as f64 / MIB / took.as_secs_f64())
    };
    Ok(tokio::task::spawn_blocking(write).await??)
}
