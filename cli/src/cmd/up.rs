//! `ringway up`: a coordinator and workers in this process, each exactly as it runs apart, with
//! certificates and a connection string of its own. It promises that the lines it prints work as
//! they are, and that a second start on the same directory finds everything again.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use ringway_client::default_url_file;
use ringway_coordinator::{Config as CoordinatorConfig, Coordinator};
use ringway_proto::net::init_dir;
use ringway_proto::url::{ConnectUrl, UrlAuth};
use ringway_proto::{Refusal, WorkerId};
use ringway_worker::{Config as WorkerConfig, Worker};
use serde_json::json;
use tokio::time::Instant;

use super::Context;
use crate::args::UpArgs;
use crate::exit::{Exit, Failure};
use crate::http::Http;
use crate::output::{cause, counted};
use crate::server::{
    LOOK, NOTICE, coordinator_failed, data_dir, first_failure, mirror, must_leave, reached_at,
    shell_quote, worker_failed,
};
use crate::signals::Stop;

/// Everything that runs in this process.
struct Parts {
    coordinator: Coordinator,
    workers: Vec<Worker>,
}

impl Parts {
    fn is_ready(&self) -> bool {
        self.coordinator.is_ready() && self.workers.iter().all(Worker::is_ready)
    }

    async fn failed(&self) -> Refusal {
        first_failure(Some(&self.coordinator), &self.workers).await
    }

    /// Workers first, all at once, while there is still a coordinator that hears of it.
    async fn shutdown(self) {
        let mut leaving = tokio::task::JoinSet::new();
        for worker in self.workers {
            leaving.spawn(worker.shutdown());
        }
        while leaving.join_next().await.is_some() {}
        self.coordinator.shutdown().await;
    }
}

/// Runs until a signal comes or a part must leave.
///
/// # Errors
/// When a part cannot start, or must leave.
pub async fn run(args: UpArgs, context: &Context) -> Result<(), Failure> {
    let stop = Stop::on_signal()?;
    let home = default_url_file().and_then(|file| file.parent().map(Path::to_owned));
    let chosen = args.data.clone().or_else(|| home.clone()).ok_or_else(|| {
        Failure::usage("there is no home directory to keep data in").help("choose one with --data")
    })?;
    let data = data_dir(&chosen)?;
    let is_home = home.and_then(|home| home.canonicalize().ok()).is_some_and(|home| home == data);

    let tls = data.join("tls");
    init_dir(&tls).map_err(|e| Failure::from(e.refusal()).exit(Exit::Failed))?;
    let mut config = CoordinatorConfig::new("c1", args.listen, data.join("coordinator"), tls);
    if args.listen.ip().is_unspecified() && args.listen.port() != 0 {
        config.advertise = Some(reached_at(args.listen).to_string());
    }
    let coordinator = Coordinator::start(config).await.map_err(|e| coordinator_failed(&e))?;
    let mut parts = Parts { coordinator, workers: Vec::new() };
    let result = serve(&args, context, &stop, &data, is_home, &mut parts).await;
    parts.shutdown().await;
    result
}

async fn serve(
    args: &UpArgs,
    context: &Context,
    stop: &Stop,
    data: &Path,
    is_home: bool,
    parts: &mut Parts,
) -> Result<(), Failure> {
    let http = Http::bind(args.http).await?;
    let metrics = http.address();
    let listens = parts.coordinator.local_addr();
    if listens.ip().is_unspecified() {
        tracing::warn!(
            "others are told loopback addresses; --listen with an address of this machine lets \
             clients elsewhere in"
        );
    }
    for number in 1..=workers_wanted(args.workers, data) {
        let worker = start_worker(number, args, data, reached_at(listens), metrics).await?;
        parts.workers.push(worker);
    }
    let ready = Arc::new(AtomicBool::new(false));
    let mut registries = vec![parts.coordinator.registry()];
    registries.extend(parts.workers.iter().map(|worker| worker.registry().clone()));
    let shared = ready.clone();
    http.serve(registries, move || shared.load(Relaxed));

    let url = ConnectUrl {
        addresses: vec![reached_at(listens).to_string()],
        auth: UrlAuth::Dir(data.join("tls")),
    };
    let parts = &*parts;
    tokio::select! {
        () = stop.asked() => return Ok(()),
        reason = parts.failed() => return Err(must_leave(reason)),
        () = wait_ready(parts) => {}
    }
    ready.store(true, Relaxed);
    write_url(data, &url.to_string())?;
    announce(context, &url.to_string(), metrics, is_home)?;
    tokio::select! {
        () = stop.asked() => Ok(()),
        reason = parts.failed() => Err(must_leave(reason)),
        never = mirror(&ready, || parts.is_ready()) => match never {},
    }
}

async fn start_worker(
    number: u16,
    args: &UpArgs,
    data: &Path,
    coordinator: SocketAddr,
    metrics: SocketAddr,
) -> Result<Worker, Failure> {
    let id = WorkerId::new(format!("w{number}"))?;
    let port = match args.listen.port() {
        0 => 0,
        first => first.checked_add(number).ok_or_else(|| {
            Failure::usage(format!("worker {id} would listen behind port 65535"))
                .help("choose a lower port with --listen")
        })?,
    };
    let listen = SocketAddr::new(args.listen.ip(), port);
    let own = data.join("workers").join(id.as_str());
    let own = data_dir(&own)?;
    let coordinators = vec![coordinator.to_string()];
    let mut config = WorkerConfig::new(id, listen, own, coordinators, data.join("tls"));
    // What listens on all interfaces is at no address that could be told. Where the port is not
    // known before it listens, the worker tells what it bound.
    if listen.ip().is_unspecified() && port != 0 {
        config.advertise = Some(reached_at(listen).to_string());
    }
    config.http = Some(metrics.to_string());
    config.weight = args.weight;
    Worker::start(config).await.map_err(|e| worker_failed(&e))
}

/// How many workers to start: what is asked for, but never fewer than have data here, since the
/// queues of a worker that is not started would wait for it.
fn workers_wanted(asked: u16, data: &Path) -> u16 {
    let known =
        (1..=256).take_while(|n| data.join("workers").join(format!("w{n}")).is_dir()).count();
    let known = u16::try_from(known).unwrap_or(u16::MAX);
    if known > asked {
        tracing::info!("starting {}: so many have data here", counted(known.into(), "worker"));
    }
    asked.max(known)
}

/// Waits until everything serves. With several workers the queues have found their places then,
/// too: one that gets a message before that stays where it happens to be.
async fn wait_ready(parts: &Parts) {
    let started = Instant::now();
    let mut said = false;
    while !parts.is_ready() || !parts.coordinator.is_settled() {
        if !said && started.elapsed() > NOTICE {
            let waiting = parts.workers.iter().filter(|worker| !worker.is_ready()).count();
            eprintln!(
                "waiting for {} to register and open its queues",
                counted(waiting as u64, "worker")
            );
            said = true;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Writes the connection string beside the data, so that it is there whole or not at all.
fn write_url(data: &Path, url: &str) -> Result<(), Failure> {
    let failed = |e: std::io::Error| {
        let path = data.join("url");
        Failure::new("io", format!("cannot write {}: {}", path.display(), cause(&e)))
    };
    // A temporary file is made with mode 0600.
    let mut file = tempfile::Builder::new().prefix(".url-").tempfile_in(data).map_err(failed)?;
    file.write_all(format!("{url}\n").as_bytes()).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(data.join("url")).map_err(|e| failed(e.error))?;
    fs::File::open(data).and_then(|dir| dir.sync_all()).map_err(failed)
}

/// The ready line, and three lines that can be pasted.
fn announce(
    context: &Context,
    url: &str,
    metrics: SocketAddr,
    is_home: bool,
) -> Result<(), Failure> {
    let scrape = format!("http://{}/metrics", reached_at(metrics));
    if context.output.is_json() {
        return context.output.said(&json!({"ready": true, "url": url, "metrics": scrape}), "");
    }
    let program = std::env::args_os().next().map_or_else(|| "ringway".into(), PathBuf::from);
    let program = shell_quote(&program.to_string_lossy());
    // Commands find the usual place by themselves, unless the environment sends them elsewhere.
    let found = is_home && std::env::var_os("RINGWAY_URL").is_none_or(|other| other == url);
    let at = if found { String::new() } else { format!(" --url {}", shell_quote(url)) };
    context.output.line(&format!("ready  {url}  {scrape}"))?;
    context.output.line(&format!("{program} pub hello.world 'hello, world'{at}"))?;
    context.output.line(&format!("{program} sub 'hello.>' --as me{at}"))?;
    context.output.line(&format!("curl {}", shell_quote(&scrape)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_connection_string_is_written_whole_and_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        write_url(dir.path(), "ringway://h:1?tls=/a").unwrap();
        write_url(dir.path(), "ringway://h:2?tls=/a").unwrap();
        let path = dir.path().join("url");
        assert_eq!(fs::read_to_string(&path).unwrap(), "ringway://h:2?tls=/a\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn no_worker_that_has_data_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(workers_wanted(2, dir.path()), 2);
        for id in ["w1", "w2", "w3", "w9"] {
            fs::create_dir_all(dir.path().join("workers").join(id)).unwrap();
        }
        assert_eq!(workers_wanted(1, dir.path()), 3);
        assert_eq!(workers_wanted(4, dir.path()), 4);
    }
}
