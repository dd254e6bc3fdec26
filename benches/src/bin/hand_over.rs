//! How long a newcomer waits: from `join` to the first message in its hands, and from the start of
//! `leave` to its end, while messages flow and another member serves. Runs against the cluster of
//! `RINGWAY_URL` (else the one of `ringway up`), over the public SDK alone.
//!
//! ```sh
//! ringway up --workers 3 &
//! cargo run --release -p ringway-benches --bin hand_over -- 50
//! ```

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringway_client::Client;

/// Published per second, over [`KEYS`] keys, so that every queue has something all the time.
const RATE: u32 = 2000;
const KEYS: u32 = 500;
const SUBSCRIPTION: &str = "bench-hand-over";
/// Longer than the coordinator's settling time, so that each join is a first change.
const BETWEEN: Duration = Duration::from_millis(700);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let rounds: usize = std::env::args().nth(1).map_or(Ok(30), |n| n.parse())?;
    let stop = Arc::new(AtomicBool::new(false));
    let publisher = tokio::spawn(publish(Client::from_env().await?, stop.clone()));
    let resident = tokio::spawn(serve(Client::from_env().await?, stop.clone()));
    tokio::time::sleep(Duration::from_secs(1)).await;

    let (mut joins, mut leaves) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let client = Client::from_env().await?;
        let began = Instant::now();
        let mut seat = client.subscribe("bench.hand.over").name(SUBSCRIPTION).join().await?;
        let Some(message) = seat.next().await? else { break };
        joins.push(began.elapsed());
        message.ack().await?;
        // A moment of ordinary service before the newcomer goes again.
        let until = Instant::now() + BETWEEN;
        while Instant::now() < until {
            if let Ok(Ok(Some(message))) =
                tokio::time::timeout(Duration::from_millis(50), seat.next()).await
            {
                message.ack().await?;
            }
        }
        let began = Instant::now();
        seat.leave().await?;
        leaves.push(began.elapsed());
        client.close().await;
        tokio::time::sleep(BETWEEN).await;
    }
    stop.store(true, Ordering::Relaxed);
    publisher.await?.map_err(|e| e.to_string())?;
    resident.await?.map_err(|e| e.to_string())?;
    println!("| what | rounds | p50 | p99 | most |\n| --- | --- | --- | --- | --- |");
    row("join to first message", joins);
    row("leave, everything handed over", leaves);
    Ok(())
}

fn row(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| {
        let index = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len()) - 1;
        times[index].as_secs_f64() * 1000.0
    };
    if times.is_empty() {
        return println!("| {what} | 0 | | | |");
    }
    println!(
        "| {what} | {} | {:.1} ms | {:.1} ms | {:.1} ms |",
        times.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

async fn publish(
    client: Client,
    stop: Arc<AtomicBool>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let producer = client.producer().build();
    let mut tick = tokio::time::interval(Duration::from_secs(1) / RATE);
    for n in 0u32.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        tick.tick().await;
        producer.send("bench.hand.over", "x").key((n % KEYS).to_string()).await?;
    }
    producer.flush().await?;
    client.close().await;
    Ok(())
}

/// The member that is there all the time.
async fn serve(client: Client, stop: Arc<AtomicBool>) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut seat = client.subscribe("bench.hand.over").name(SUBSCRIPTION).join().await?;
    while !stop.load(Ordering::Relaxed) {
        if let Ok(next) = tokio::time::timeout(Duration::from_millis(50), seat.next()).await
            && let Some(message) = next?
        {
            message.ack().await?;
        }
    }
    seat.leave().await?;
    client.close().await;
    Ok(())
}
