//! What the process says about itself while it runs: log lines on stderr, as many as `RINGWAY_LOG`
//! asks for. Servers say what they do, commands only what is odd.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// Who runs here, which decides how much is said unless `RINGWAY_LOG` does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Voice {
    /// A server: from `info` on.
    Server,
    /// A command: from `warn` on.
    Command,
}

/// Starts the log of this process. A second call changes nothing.
pub fn start(voice: Voice) {
    let usual = match voice {
        Voice::Server => "info",
        Voice::Command => "warn",
    };
    let filter = match std::env::var("RINGWAY_LOG") {
        Ok(wanted) if !wanted.is_empty() => EnvFilter::try_new(&wanted).unwrap_or_else(|e| {
            eprintln!("note: RINGWAY_LOG is not used: {e}");
            EnvFilter::new(usual)
        }),
        _ => EnvFilter::new(usual),
    };
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colour)
        .with_target(false)
        .with_writer(io::stderr)
        .try_init();
}
