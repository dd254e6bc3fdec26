//! `ringway worker`: runs one worker in this process until it is told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use ringway_proto::WorkerId;
use ringway_proto::url::DEFAULT_PORT;
use ringway_worker::{Config, Worker};
use tokio::time::Instant;

use super::Context;
use crate::args::WorkerArgs;
use crate::exit::Failure;
use crate::http::Http;
use crate::server::{LOOK, NOTICE, data_dir, first_failure, must_leave, tls_dir, worker_failed};
use crate::signals::Stop;

/// Runs until a signal comes, the journal fails, the coordinator sends it away, or it turns out to
/// be of another cluster than every coordinator that it was given.
///
/// # Errors
/// When it cannot start, or has to leave.
pub async fn run(args: WorkerArgs, context: &Context) -> Result<(), Failure> {
    let stop = Stop::on_signal()?;
    let id = WorkerId::new(args.id)?;
    let data = data_dir(&args.data)?;
    let tls = tls_dir(args.tls_dir, &data);
    let coordinators: Vec<String> = args.coordinator.iter().map(|a| with_port(a)).collect();
    let http = Http::bind(args.http).await?;
    let mut config = Config::new(id.clone(), args.listen, data, coordinators.clone(), tls);
    config.advertise = args.advertise;
    config.http = Some(http.address().to_string());
    config.weight = args.weight;
    config.zone = args.zone;
    config.settings.copy_bytes_per_second = args.copy_bytes_per_second;
    let workers = [Worker::start(config).await.map_err(|e| worker_failed(&e))?];
    let [worker] = &workers;
    let ready = Arc::new(AtomicBool::new(false));
    let line = format!("ready worker {id} at {} http {}", worker.local_addr(), http.address());
    let shared = ready.clone();
    http.serve(vec![worker.registry().clone()], move || shared.load(Relaxed));
    context.output.line(&line)?;
    let named = coordinators.join(", ");
    let reason = tokio::select! {
        () = stop.asked() => None,
        reason = first_failure(None, &workers) => Some(reason),
        never = watch(worker, &ready, &named) => match never {},
    };
    let [worker] = workers;
    worker.shutdown().await;
    match reason {
        None => Ok(()),
        Some(reason) => Err(must_leave(reason)),
    }
}

/// Keeps `ready` true to the worker, and says when it registered and what it waits for.
async fn watch(
    worker: &Worker,
    ready: &AtomicBool,
    coordinators: &str,
) -> std::convert::Infallible {
    let started = Instant::now();
    let mut quiet = true;
    loop {
        let is = worker.is_ready();
        let was = ready.swap(is, Relaxed);
        if is && !was {
            tracing::info!("registered, and all queues are open");
            quiet = false;
        } else if !is && quiet && started.elapsed() > NOTICE {
            tracing::info!("waiting for a coordinator at {coordinators}; what is stored is served");
            quiet = false;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// An address with the usual port where it names none.
fn with_port(address: &str) -> String {
    let host_ends = address.rfind(']').map_or(0, |at| at + 1);
    match address.get(host_ends..) {
        Some(rest) if rest.contains(':') => address.to_owned(),
        _ => format!("{address}:{DEFAULT_PORT}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coordinator_without_a_port_has_the_usual_one() {
        for (given, used) in
            [("h", "h:7400"), ("h:1", "h:1"), ("[::1]", "[::1]:7400"), ("[::1]:9", "[::1]:9")]
        {
            assert_eq!(with_port(given), used);
        }
    }
}
