//! How a client is set up: its name, its limits, and where its connection string comes from.

use std::path::PathBuf;
use std::time::Duration;

/// What a client is set up with.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// What it is called in the servers' logs.
    pub name: String,
    /// How long a connect, and an administrator's call, waits for a coordinator.
    pub connect_timeout: Duration,
    /// How long a publish is tried.
    pub publish_deadline: Duration,
    /// What may be published and unanswered, in bytes.
    pub max_in_flight_bytes: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: format!("client-{}", std::process::id()),
            connect_timeout: Duration::from_secs(10),
            publish_deadline: Duration::from_secs(60),
            max_in_flight_bytes: 64 << 20,
        }
    }
}

/// Waits that are longer than a clock can count end after this: a year.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long a join may take before it is given up.
pub(crate) const JOIN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long leaving and closing may take.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the SDK's thread still works after the last handle was dropped.
pub(crate) const DROP_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a worker may take to answer a question.
pub(crate) const WORKER_TIMEOUT: Duration = Duration::from_secs(3);

/// The file that `ringway up` writes its connection string to when it is told no other place:
/// `$XDG_DATA_HOME/ringway/url`, else `~/.local/share/ringway/url`. None without a home.
#[must_use]
pub fn default_url_file() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let data = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|h| h.join(".local/share")))?;
    Some(data.join("ringway").join("url"))
}
