//! One connection that is kept: dialled, watched, and dialled again. It promises a current
//! [`Peer`] as long as any address of its list answers, and that a change of the list is acted on
//! at once. What is done over the connection, and what must be repeated after its loss, is the
//! user's business.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ConstantBuilder, ExponentialBuilder};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::dial::Dialer;
use super::error::DialError;
use super::hello::Role;
use super::peer::Peer;

/// For one attempt at one address.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Before the second round through the addresses; it doubles from there.
const FIRST_DELAY: Duration = Duration::from_millis(50);
/// Jitter adds up to as much again, which makes a second.
const LAST_DELAY: Duration = Duration::from_millis(500);
/// Between the first attempts after the loss of a connection, jitter adding up to as much again:
/// a server that is restarted is back soon, and nobody should wait for the next step of a back-off.
const RESTART_DELAY: Duration = Duration::from_millis(25);
/// How many such attempts there are: about two seconds of them.
const RESTART_ATTEMPTS: usize = 50;
/// A connection that lasted this long was a success: the next loss is dialled at once. One that
/// did not, such as to a server that lets in and throws out, counts as a failed attempt.
const SETTLED: Duration = Duration::from_secs(1);

/// A connection to one of several addresses, kept until it is dropped.
pub struct Link {
    peer: watch::Receiver<Option<Peer>>,
    last_error: Arc<Mutex<Option<DialError>>>,
    shut_out: watch::Receiver<Option<DialError>>,
    task: AbortHandle,
}

impl Link {
    /// Keeps a connection to one of `addresses`, where servers of the role `expect` should be. An
    /// empty list waits. Needs a tokio runtime around it.
    #[must_use]
    pub fn spawn(dialer: Dialer, addresses: watch::Receiver<Vec<String>>, expect: Role) -> Self {
        let (out, peer) = watch::channel(None);
        let last_error = Arc::new(Mutex::new(None));
        let (verdict, shut_out) = watch::channel(None);
        let keeper = Keeper {
            dialer,
            addresses,
            expect,
            out,
            last_error: Arc::clone(&last_error),
            verdict,
            was_connected: false,
        };
        let task = tokio::spawn(keeper.run()).abort_handle();
        Self { peer, last_error, shut_out, task }
    }

    /// The same with a list that does not change.
    #[must_use]
    pub fn to(dialer: Dialer, addresses: Vec<String>, expect: Role) -> Self {
        Self::spawn(dialer, watch::channel(addresses).1, expect)
    }

    /// The current connection, and every change of it.
    #[must_use]
    pub fn peer(&self) -> watch::Receiver<Option<Peer>> {
        self.peer.clone()
    }

    /// The current connection.
    #[must_use]
    pub fn current(&self) -> Option<Peer> {
        self.peer.borrow().clone()
    }

    /// Waits for a connection; none when the link's task has ended with its runtime.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn connected(&self) -> Option<Peer> {
        let mut peer = self.peer.clone();
        peer.wait_for(Option::is_some).await.ok()?.clone()
    }

    /// Why the last attempt failed; none while connected, and before the first failure.
    #[must_use]
    pub fn last_error(&self) -> Option<DialError> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it is settled that this process, as it is set up, gets in nowhere: in one round
    /// somebody answered at every address, and on each the one side did not trust the other
    /// ([`DialError::is_distrust`]). As long as anyone may still turn up at an address, and once
    /// this link had a connection, it waits for ever.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn shut_out(&self) -> DialError {
        let mut verdict = self.shut_out.clone();
        match verdict.wait_for(Option::is_some).await.map(|verdict| verdict.clone()) {
            Ok(Some(e)) => e,
            // The link's task has ended, which `connected` tells.
            _ => std::future::pending().await,
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(peer) = self.current() {
            peer.close(0, "no longer needed");
        }
    }
}

struct Keeper {
    dialer: Dialer,
    addresses: watch::Receiver<Vec<String>>,
    expect: Role,
    out: watch::Sender<Option<Peer>>,
    last_error: Arc<Mutex<Option<DialError>>>,
    /// What [`Link::shut_out`] waits for.
    verdict: watch::Sender<Option<DialError>>,
    was_connected: bool,
}

impl Keeper {
    async fn run(mut self) {
        let mut delays: Delays = Box::new(delays());
        loop {
            let (address, peer) = self.connect(&mut delays).await;
            let since = Instant::now();
            self.was_connected = true;
            self.set_error(None);
            self.verdict.send_replace(None);
            self.out.send_replace(Some(peer.clone()));
            self.watch_over(&address, &peer).await;
            self.out.send_replace(None);
            if since.elapsed() >= SETTLED {
                delays = delays_after_loss();
            } else {
                self.pause(&mut delays).await;
            }
        }
    }

    /// Goes round the addresses until one answers.
    async fn connect(&mut self, delays: &mut Delays) -> (String, Peer) {
        loop {
            if self.addresses.has_changed().is_ok_and(|changed| changed) {
                self.verdict.send_replace(None);
            }
            let addresses = self.addresses.borrow_and_update().clone();
            tokio::select! {
                found = self.round(&addresses) => {
                    if let Some(connected) = found {
                        return connected;
                    }
                }
                () = changed(self.addresses.clone()) => continue,
            }
            if addresses.is_empty() {
                changed(self.addresses.clone()).await;
            } else {
                self.pause(delays).await;
            }
        }
    }

    /// One attempt at each address in turn.
    async fn round(&self, addresses: &[String]) -> Option<(String, Peer)> {
        let mut distrusted = None;
        let mut everywhere = true;
        for address in addresses {
            match self.dialer.dial(address, self.expect, ATTEMPT).await {
                Ok(peer) => return Some((address.clone(), peer)),
                Err(e) => {
                    everywhere &= e.is_distrust();
                    distrusted = Some(e.clone());
                    self.set_error(Some(e));
                }
            }
        }
        let settled = everywhere && !self.was_connected;
        self.verdict.send_replace(distrusted.filter(|_| settled));
        None
    }

    /// Waits before the next round, unless the list changes.
    async fn pause(&self, delays: &mut Delays) {
        tokio::select! {
            () = tokio::time::sleep(delays.next().unwrap_or(LAST_DELAY)) => {}
            () = changed(self.addresses.clone()) => {}
        }
    }

    /// Returns when the connection has ended, or its address has left the list.
    async fn watch_over(&mut self, address: &String, peer: &Peer) {
        loop {
            tokio::select! {
                why = peer.closed() => return tracing::debug!(?peer, "connection lost: {why}"),
                () = changed(self.addresses.clone()) => {
                    if !self.addresses.borrow_and_update().contains(address) {
                        return peer.close(0, "the address has changed");
                    }
                }
            }
        }
    }

    fn set_error(&self, e: Option<DialError>) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = e;
    }
}

type Delays = Box<dyn Iterator<Item = Duration> + Send>;

/// A server that was there a moment ago is expected back soon.
fn delays_after_loss() -> Delays {
    let soon = ConstantBuilder::new()
        .with_delay(RESTART_DELAY)
        .with_max_times(RESTART_ATTEMPTS)
        .with_jitter()
        .build();
    Box::new(soon.chain(delays()))
}

fn delays() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::new()
        .with_min_delay(FIRST_DELAY)
        .with_max_delay(LAST_DELAY)
        .with_jitter()
        .without_max_times()
        .build()
}

/// The next change of the list; never, once nobody can change it any more.
async fn changed(mut addresses: watch::Receiver<Vec<String>>) {
    if addresses.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
