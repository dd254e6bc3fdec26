//! The newest routing that this client has heard of, for the engine that sets it and for the
//! handles that look at it.

use std::sync::Arc;

use ringway_proto::routing::Router;
use tokio::sync::watch;

/// The routing of one client.
pub(crate) struct Routes {
    current: watch::Sender<(bool, Arc<Router>)>,
}

impl Routes {
    /// Begins with an empty routing.
    pub fn new(empty: Arc<Router>) -> Self {
        Self { current: watch::Sender::new((false, empty)) }
    }

    /// The newest routing.
    pub fn current(&self) -> Arc<Router> {
        self.current.borrow().1.clone()
    }

    /// Takes a routing if it is newer, or the first. True when it was taken.
    pub fn set(&self, router: Arc<Router>) -> bool {
        self.current.send_if_modified(|(known, current)| {
            let newer = !*known || router.version() > current.version();
            if newer {
                (*known, *current) = (true, router);
            }
            newer
        })
    }

    /// Waits for the first routing of the coordinator.
    pub async fn known(&self) {
        let mut current = self.current.subscribe();
        let _ = current.wait_for(|(known, _)| *known).await;
    }
}
