//! A coordinator with ten thousand subscriptions, each with a right for every queue of the first group:
//! the memory that its process takes, and how long a join takes then. Each subscription is made by a
//! real join; all but the last ones are left again, so that most rights are without a holder.
//!
//! ```sh
//! cargo build --release -p ringway-cli
//! cargo run --release -p ringway-benches --bin scale
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ringway_benches::Outcome;
use ringway_benches::args::Args;
use ringway_benches::cluster::{Cluster, Process};
use ringway_benches::report::{Bar, Report};
use ringway_client::{Client, Start, Subscription};

const MIB: f64 = (1 << 20) as f64;
const FILTER: &str = "scale.>";
/// How long is waited, and then looked, to see what idle processes do.
const IDLE: Duration = Duration::from_secs(3);
/// The rights of the bar.
const WANTED_RIGHTS: u64 = 100_000;

#[tokio::main]
async fn main() -> Outcome<()> {
    let args = Args::read(&[
        ("workers", 3),
        ("subscriptions", 10_000),
        // Subscriptions, the last ones, whose member stays.
        ("stay", 200),
        ("clients", 8),
        // Joins that are timed at the end, of either kind.
        ("joins", 50),
    ])?;
    let mut report = Report::new("scale", args.json);
    let cluster =
        Arc::new(Cluster::start(args.dir.as_deref(), args.number("workers") as usize).await?);
    let client = Client::connect(&cluster.url()).await?;
    let queues = u64::from(client.admin().status().await?.queues);
    let empty = cluster.coordinator().resident_bytes();
    let wanted = args.number("subscriptions").saturating_sub(args.number("joins"));
    let began = Instant::now();
    let (at_bar, stayed) = grow(&cluster, &args, wanted, queues).await?;
    let took = began.elapsed();
    let idle = idle(&cluster, args.number("workers") as usize).await;
    let (mut fresh, mut second) = (Vec::new(), Vec::new());
    for n in 0..args.number("joins") {
        fresh.push(timed(&client, &format!("s{}", wanted + n)).await?);
        second.push(timed(&client, &format!("s{}", wanted.saturating_sub(n + 1))).await?);
    }
    let all = client.admin().subscriptions().await?;
    let rights: u64 = all.iter().map(|s| u64::from(s.rights)).sum();
    report.number("subscriptions", all.len() as f64, "", Bar::None);
    report.number("rights", rights as f64, "", Bar::None);
    report.number("members", all.iter().map(|s| f64::from(s.members)).sum(), "", Bar::None);
    report.number(
        "joins and leaves before, per second",
        wanted as f64 / took.as_secs_f64(),
        "",
        Bar::None,
    );
    report.number("coordinator, empty", empty as f64 / MIB, "MiB", Bar::None);
    report.number("coordinator at 100,000 rights", at_bar as f64 / MIB, "MiB", Bar::Most(1024.0));
    let now = cluster.coordinator().resident_bytes();
    report.number("coordinator at the end", now as f64 / MIB, "MiB", Bar::None);
    for worker in 0..args.number("workers") as usize {
        let bytes = cluster.worker(worker).map_or(0, |w| w.resident_bytes());
        report.number(&format!("worker {}", worker + 1), bytes as f64 / MIB, "MiB", Bar::None);
    }
    for (who, share) in idle {
        report.number(&format!("{who}, with nothing to do"), share, "% of a core", Bar::None);
    }
    report.times("join, a new subscription", fresh, Bar::Most(50.0));
    report.times("join, a subscription that is there", second, Bar::Most(50.0));
    drop(stayed);
    client.close().await;
    report.print();
    Ok(())
}

/// How busy each process is while nobody asks for anything, in percent of a core.
async fn idle(cluster: &Cluster, workers: usize) -> Vec<(String, f64)> {
    // What the last join brought about is over by then.
    tokio::time::sleep(IDLE).await;
    let used = || {
        let of = |worker| cluster.worker(worker).map_or(Duration::ZERO, Process::cpu_time);
        let coordinator = ("coordinator".to_owned(), cluster.coordinator().cpu_time());
        let workers = (0..workers).map(|worker| (format!("worker {}", worker + 1), of(worker)));
        [coordinator].into_iter().chain(workers).collect::<Vec<_>>()
    };
    let (before, began) = (used(), Instant::now());
    tokio::time::sleep(IDLE).await;
    let took = began.elapsed().as_secs_f64();
    let share = |(who, after): (String, Duration), (_, before): (String, Duration)| {
        (who, after.saturating_sub(before).as_secs_f64() / took * 100.0)
    };
    used().into_iter().zip(before).map(|(after, before)| share(after, before)).collect()
}

/// Makes `wanted` subscriptions. Returns the coordinator's memory when the rights of the bar were
/// there (or at the end, if they are fewer), and the seats that stay.
async fn grow(
    cluster: &Arc<Cluster>,
    args: &Args,
    wanted: u64,
    queues: u64,
) -> Outcome<(u64, Vec<(Client, Vec<Subscription>)>)> {
    let next = Arc::new(AtomicU64::new(0));
    let at_bar = Arc::new(AtomicU64::new(0));
    let stays_from = wanted.saturating_sub(args.number("stay"));
    let mut tasks = Vec::new();
    for _ in 0..args.number("clients").max(1) {
        let client = Client::connect(&cluster.url()).await?;
        let (cluster, next, at_bar) = (cluster.clone(), next.clone(), at_bar.clone());
        tasks.push(tokio::spawn(async move {
            let mut stayed = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= wanted {
                    return Outcome::Ok((client, stayed));
                }
                let seat = client.subscribe(FILTER).name(format!("s{n}")).from(Start::Now);
                let seat = seat.join().await?;
                if n >= stays_from {
                    stayed.push(seat)
                } else {
                    seat.leave().await?
                }
                if n * queues >= WANTED_RIGHTS && at_bar.load(Ordering::Relaxed) == 0 {
                    at_bar.store(cluster.coordinator().resident_bytes(), Ordering::Relaxed);
                }
                if n % 1000 == 0 {
                    let mib = cluster.coordinator().resident_bytes() as f64 / MIB;
                    eprintln!("{n} subscriptions, coordinator {mib:.0} MiB");
                }
            }
        }));
    }
    let mut seats = Vec::new();
    for task in tasks {
        seats.push(task.await??);
    }
    let at_bar = match at_bar.load(Ordering::Relaxed) {
        0 => cluster.coordinator().resident_bytes(),
        bytes => bytes,
    };
    Ok((at_bar, seats))
}

/// How long a join takes; the seat is left again.
async fn timed(client: &Client, name: &str) -> Outcome<Duration> {
    let began = Instant::now();
    let seat = client.subscribe(FILTER).name(name).from(Start::Now).join().await?;
    let took = began.elapsed();
    seat.leave().await?;
    Ok(took)
}
