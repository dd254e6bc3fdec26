//! SIGTERM and Ctrl-C: the first asks the process to finish in good order, the second ends it at
//! once. It does not know what finishing means.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::exit::{Exit, Failure};
use crate::output::cause;

/// Tells whether this process was asked to stop. Copies see the same.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Listens for signals from now on; needs a tokio runtime.
    ///
    /// # Errors
    /// When the operating system does not let it listen.
    pub fn on_signal() -> Result<Self, Failure> {
        let failed = |e| Failure::new("io", format!("cannot listen for signals: {}", cause(&e)));
        let mut term = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let (asked, stop) = watch::channel(false);
        tokio::spawn(async move {
            let mut next = async || {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = interrupt.recv() => {}
                }
            };
            next().await;
            asked.send_replace(true);
            next().await;
            std::process::exit(Exit::Failed as i32);
        });
        Ok(Self(stop))
    }

    /// Returns when the process was asked to stop. Safe to cancel.
    pub async fn asked(&self) {
        let mut stop = self.0.clone();
        // The sender lives as long as the runtime, so an error means that all is over anyway.
        let _ = stop.wait_for(|asked| *asked).await;
    }

    /// Whether the process was asked to stop.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        *self.0.borrow()
    }
}
