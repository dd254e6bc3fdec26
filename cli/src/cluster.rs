//! Finds the cluster that a command speaks to, connects, and turns what the SDK refuses into what
//! this command says. It promises that an error of the connection names where the address came
//! from. It does not know what is asked of the cluster.

use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use ringway_client::{
    AdminError, Client, ClientBuilder, ConnectError, JoinError, LeaveError, PublishError,
    ReceiveError, SendError, default_url_file,
};

use crate::exit::{Exit, Failure};
use crate::output::{Output, cause};

/// How long a command tries to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long something may take before a word is said about it.
const NOTICE: Duration = Duration::from_secs(2);

/// Where a connection string came from.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Source {
    Flag,
    Environment,
    File(PathBuf),
}

impl Source {
    fn describe(&self) -> String {
        match self {
            Self::Flag => "the address is from --url".to_owned(),
            Self::Environment => "the address is from RINGWAY_URL".to_owned(),
            Self::File(path) => {
                format!("the address is from {}, which `ringway up` wrote", path.display())
            }
        }
    }
}

/// The connection string to use, and where it came from.
fn find(flag: Option<&str>) -> Result<(String, Source), Failure> {
    if let Some(url) = flag {
        return Ok((url.to_owned(), Source::Flag));
    }
    if let Ok(url) = std::env::var("RINGWAY_URL")
        && !url.is_empty()
    {
        return Ok((url, Source::Environment));
    }
    let none = |text: String| {
        Failure::new("no-cluster", text)
            .help("start one here with `ringway up`, or point RINGWAY_URL at a running cluster")
            .exit(Exit::Unreachable)
    };
    let Some(path) = default_url_file() else {
        return Err(none("neither --url nor RINGWAY_URL says which cluster".to_owned()));
    };
    match std::fs::read_to_string(&path) {
        Ok(url) => Ok((url.trim().to_owned(), Source::File(path))),
        Err(e) => Err(none(format!(
            "neither --url nor RINGWAY_URL says which cluster, and {} cannot be read: {}",
            path.display(),
            cause(&e)
        ))),
    }
}

/// Connects to the cluster that `flag`, the environment or `up` names.
///
/// # Errors
/// Exit code 3 when no cluster answers or it is not the one that is trusted.
pub async fn connect(flag: Option<&str>, output: Output) -> Result<Client, Failure> {
    connect_with(flag, output, |builder| builder).await
}

/// The same with further options.
///
/// # Errors
/// As [`connect`].
pub async fn connect_with(
    flag: Option<&str>,
    output: Output,
    options: impl FnOnce(ClientBuilder) -> ClientBuilder,
) -> Result<Client, Failure> {
    let (url, source) = find(flag)?;
    let builder = options(Client::builder(&url).connect_timeout(CONNECT_TIMEOUT));
    noticed(output, "the coordinator to answer", builder.connect()).await.map_err(|e| {
        let mut failure = Failure::from(e).note(source.describe());
        if failure.hint.is_empty() && failure.exit == Exit::Unreachable {
            failure.hint =
                "start one here with `ringway up`, or point RINGWAY_URL at a running cluster"
                    .into();
        }
        failure
    })
}

/// Waits for `future`, and after 2 s says for what, once; with `--json` stderr is for errors only.
pub async fn noticed<T>(output: Output, what: &str, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    match tokio::time::timeout(NOTICE, &mut future).await {
        Ok(output) => output,
        Err(_) => {
            if !output.is_json() {
                eprintln!("waiting for {what}");
            }
            future.await
        }
    }
}

macro_rules! failure_of {
    ($($error:ty: $exit:expr;)*) => {$(
        impl From<$error> for Failure {
            fn from(e: $error) -> Self {
                let exit: fn(&$error) -> Exit = $exit;
                let exit = match e.code() {
                    "invalid-option" => Exit::Usage,
                    _ => exit(&e),
                };
                Failure::new(e.code(), e.to_string())
                    .help(e.hint())
                    .retryable(e.is_retryable())
                    .exit(exit)
            }
        }
    )*};
}

failure_of! {
    ConnectError: |e| match e {
        ConnectError::NoUrl { .. } | ConnectError::Unreachable { .. } | ConnectError::Untrusted(_) => {
            Exit::Unreachable
        }
        _ => Exit::Failed,
    };
    AdminError: |e| match e {
        AdminError::Unavailable(_) => Exit::Unreachable,
        _ => Exit::Failed,
    };
    PublishError: |_| Exit::Failed;
    SendError: |_| Exit::Failed;
    JoinError: |_| Exit::Failed;
    ReceiveError: |_| Exit::Failed;
    LeaveError: |_| Exit::Failed;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_asked_first_and_every_source_is_named() {
        assert_eq!(find(Some("u")).unwrap(), ("u".to_owned(), Source::Flag));
        assert!(Source::Environment.describe().contains("RINGWAY_URL"));
        assert!(Source::File("/d/url".into()).describe().contains("/d/url"));
    }
}
