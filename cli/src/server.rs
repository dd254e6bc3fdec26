//! What `up`, `coordinator` and `worker` have in common: where certificates are, how failures of a
//! start are told, what addresses are told to others, and waiting until a process must leave.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use ringway_coordinator::{Coordinator, StartError as CoordinatorError};
use ringway_proto::Refusal;
use ringway_proto::net::NetError;
use ringway_worker::{StartError as WorkerError, Worker};

use crate::exit::{Exit, Failure};
use crate::output::cause;

/// How often readiness is looked at.
pub const LOOK: Duration = Duration::from_millis(20);
/// How long something may take before a word is said about it.
pub const NOTICE: Duration = Duration::from_secs(2);

/// A failed start of a coordinator, as this command says it.
#[must_use]
pub fn coordinator_failed(e: &CoordinatorError) -> Failure {
    let failure = Failure::new(e.code(), e.to_string()).help(e.hint());
    Failure { retryable: e.refusal().code.is_retryable(), ..failure }
}

/// A failed start of a worker, as this command says it.
#[must_use]
pub fn worker_failed(e: &WorkerError) -> Failure {
    let mut failure = Failure::from(e.refusal()).exit(Exit::Failed);
    // The same word as of a coordinator: another process has the port, not the data.
    if matches!(e, WorkerError::Net(NetError::AddressInUse { .. })) {
        failure.code = "address-in-use".to_owned();
    }
    failure
}

/// Why a server that was running must leave, as this command says it. Its command line was good
/// enough to start it, whatever a peer says of it.
#[must_use]
pub fn must_leave(reason: Refusal) -> Failure {
    let failure = Failure::from(reason);
    let exit = if failure.exit == Exit::Usage { Exit::Failed } else { failure.exit };
    failure.exit(exit)
}

/// The directory of certificates: what was given, else `tls` beside the data.
#[must_use]
pub fn tls_dir(given: Option<PathBuf>, data: &Path) -> PathBuf {
    given.unwrap_or_else(|| data.join("tls"))
}

/// Makes a data directory that only its owner reads, and returns its absolute path.
///
/// # Errors
/// When it cannot be made or looked at.
pub fn data_dir(path: &Path) -> Result<PathBuf, Failure> {
    use std::os::unix::fs::DirBuilderExt as _;

    let failed = |e: std::io::Error| {
        Failure::new(
            "unusable-directory",
            format!("cannot use {} as data directory: {}", path.display(), cause(&e)),
        )
        .help("choose a directory that this user can write, with --data")
    };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    path.canonicalize().map_err(failed)
}

/// Where this machine reaches what listens at `address`: an address for all interfaces is reached
/// on loopback.
#[must_use]
pub fn reached_at(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Waits until one of the servers must leave, and says why. Safe to cancel.
pub async fn first_failure(coordinator: Option<&Coordinator>, workers: &[Worker]) -> Refusal {
    type Reason<'a> = Pin<Box<dyn Future<Output = Refusal> + 'a>>;
    let mut reasons: Vec<Reason<'_>> = Vec::new();
    if let Some(coordinator) = coordinator {
        reasons.push(Box::pin(coordinator.failed()));
    }
    reasons.extend(workers.iter().map(|worker| Box::pin(worker.failed()) as Reason<'_>));
    poll_fn(|context| {
        for reason in &mut reasons {
            if let Poll::Ready(refusal) = reason.as_mut().poll(context) {
                return Poll::Ready(refusal);
            }
        }
        Poll::Pending
    })
    .await
}

/// Keeps `ready` true to `is`, for `/readyz`. Ends with the select that it stands in.
pub async fn mirror(ready: &AtomicBool, is: impl Fn() -> bool) -> Infallible {
    loop {
        ready.store(is(), Relaxed);
        tokio::time::sleep(LOOK).await;
    }
}

/// `text` for a POSIX shell: quoted only where the shell would change it.
#[must_use]
pub fn shell_quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pasted_word_reaches_the_program_unchanged() {
        for word in ["/usr/bin/ringway", "a b", "it's", "$HOME `x`", "ringway://h:1?tls=/a&b", ""] {
            let script = format!("printf %s {}", shell_quote(word));
            let out = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(out.stdout).unwrap(), word);
        }
        assert_eq!(shell_quote("target/release/ringway"), "target/release/ringway");
    }

    #[test]
    fn what_listens_everywhere_is_reached_on_loopback() {
        for (listens, reached) in
            [("0.0.0.0:7", "127.0.0.1:7"), ("[::]:7", "[::1]:7"), ("10.0.0.5:7", "10.0.0.5:7")]
        {
            assert_eq!(reached_at(listens.parse().unwrap()).to_string(), reached);
        }
    }
}
