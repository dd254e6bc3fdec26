//! The processes of the demo and how each is started: the servers, the members and the publisher,
//! with the very command lines that a user would give.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ringway_client::Client;
use tokio::io::AsyncWriteExt;
use tokio::process::ChildStdin;
use tokio::task::JoinHandle;

use super::CLASS;
use super::children::{PATIENCE, Process, Spawner};

/// The processes that serve.
pub struct Cluster {
    pub coordinator: Process,
    pub workers: Vec<Process>,
    pub worker_addresses: Vec<String>,
    /// The connection string.
    pub url: String,
    tls: String,
}

/// Starts a coordinator and three workers, each on a port of its own choice.
pub async fn start_cluster(spawner: &Spawner, dir: &Path) -> Result<Cluster> {
    let tls = path_text(&dir.join("tls"));
    let (process, _) = spawner.start("tls", &["tls", "init", &tls], false)?;
    process.finish(PATIENCE).await?;
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

/// Starts worker `n`, also a second time on its data.
pub fn start_worker(
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
pub fn ready_address(line: &str) -> Option<String> {
    let rest = line.strip_prefix("ready ")?;
    let address = rest.split(" at ").nth(1)?.split_whitespace().next()?;
    Some(address.to_owned())
}

fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Starts a member and waits until it has its seat.
pub async fn start_member(
    spawner: &Spawner,
    url: &str,
    subscription: &str,
    name: &str,
) -> Result<Process> {
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
    let deadline = Instant::now() + PATIENCE;
    while !process.said("ready") {
        if Instant::now() > deadline {
            bail!("member {name} of {subscription} did not become ready");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(process)
}

/// The publisher process, and the task that feeds it the flights.
pub struct Publisher {
    pub process: Process,
    pub feed: JoinHandle<std::io::Result<()>>,
    /// Where its receipts are.
    pub receipts: PathBuf,
}

/// Starts the publisher of these lines.
pub fn start_publisher(
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

/// Waits until so many workers are there.
pub async fn wait_for_workers(client: &Client, count: u32) -> Result<()> {
    wait_until("the workers to register", || async {
        Ok(client.admin().status().await?.workers_up == count)
    })
    .await
}

/// Waits until every queue serves and no queue is on its way.
pub async fn wait_for_queues(client: &Client) -> Result<()> {
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

/// Waits until `done`, but not for ever.
pub async fn wait_until<F: Future<Output = Result<bool>>>(
    what: &str,
    done: impl Fn() -> F,
) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done().await? {
        if Instant::now() > deadline {
            bail!("waited {} s for {what}", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
