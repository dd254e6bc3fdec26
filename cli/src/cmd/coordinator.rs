//! `ringway coordinator`: runs one coordinator in this process until it is told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use ringway_coordinator::{Config, Coordinator};

use super::Context;
use crate::args::CoordinatorArgs;
use crate::exit::{Exit, Failure};
use crate::http::Http;
use crate::server::{coordinator_failed, data_dir, first_failure, mirror, tls_dir};
use crate::signals::Stop;

/// Runs until a signal comes or the store fails.
///
/// # Errors
/// When it cannot start, or has to leave.
pub async fn run(args: CoordinatorArgs, context: &Context) -> Result<(), Failure> {
    let stop = Stop::on_signal()?;
    let data = data_dir(&args.data)?;
    let tls = tls_dir(args.tls_dir, &data);
    let mut config = Config::new(&args.id, args.listen, data, tls);
    config.advertise = args.advertise;
    let coordinator = Coordinator::start(config).await.map_err(|e| coordinator_failed(&e))?;
    let http = match Http::bind(args.http).await {
        Ok(http) => http,
        Err(failure) => {
            coordinator.shutdown().await;
            return Err(failure);
        }
    };
    let ready = format!(
        "ready coordinator {} at {} http {}",
        args.id,
        coordinator.local_addr(),
        http.address()
    );
    let is_ready = Arc::new(AtomicBool::new(coordinator.is_ready()));
    let shared = is_ready.clone();
    http.serve(vec![coordinator.registry()], move || shared.load(Relaxed));
    context.output.line(&ready)?;
    let reason = tokio::select! {
        () = stop.asked() => None,
        reason = first_failure(Some(&coordinator), &[]) => Some(reason),
        never = mirror(&is_ready, || coordinator.is_ready()) => match never {},
    };
    coordinator.shutdown().await;
    match reason {
        None => Ok(()),
        Some(refusal) => Err(Failure::from(refusal).exit(Exit::Failed)),
    }
}
