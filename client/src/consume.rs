//! A subscription with a handler: messages of one key in order, different keys side by side. It
//! owns which handlers run; what a message's fate means is the delivery's.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::task::JoinSet;

use crate::delivery::Delivery;
use crate::error::{ConsumeError, HandlerError};
use crate::message::Message;
use crate::subscriber::Subscribe;

impl Subscribe {
    /// Joins and calls `handler` for every message: in order for each key, different keys side by
    /// side, on the caller's tokio runtime. `Ok` acks; an error or a panic lets the message come
    /// again. Ends when `until` comes true: running handlers finish, and the seat is left.
    ///
    /// # Cancellation
    /// Running handlers are dropped and their messages come again.
    ///
    /// # Errors
    /// [`ConsumeError`].
    pub async fn for_each<H, F>(self, handler: H) -> Result<Summary, ConsumeError>
    where
        H: Fn(Message) -> F,
        F: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        let concurrency = self.concurrency;
        let mut subscription = self.join().await?;
        let mut handlers = JoinSet::new();
        let mut ended = Ok(());
        loop {
            tokio::select! {
                next = subscription.next(), if handlers.len() < concurrency => match next {
                    Ok(Some(delivery)) => {
                        // A handler may panic before there is a future; dropped, the delivery
                        // goes back, as it does when the future panics.
                        let message = delivery.message().clone();
                        if let Ok(handling) = catch_unwind(AssertUnwindSafe(|| handler(message))) {
                            handlers.spawn(handle(delivery, handling));
                        }
                    }
                    Ok(None) => break,
                    Err(e) => {
                        ended = Err(e);
                        break;
                    }
                },
                Some(_) = handlers.join_next(), if !handlers.is_empty() => {}
            }
        }
        while handlers.join_next().await.is_some() {}
        let seat = subscription.seat.clone();
        let left = subscription.leave().await;
        if let Err(e) = &left {
            tracing::warn!(error = %e, "the subscription was not left in order");
        }
        ended?;
        let counts = seat.cell.seat().counts();
        Ok(Summary { handled: counts.acked, retried: counts.nacked, given_back: counts.given_back })
    }
}

/// Settles a delivery by what its handler says. A panic drops the delivery, which nacks it.
async fn handle(
    delivery: Delivery,
    handling: impl Future<Output = Result<(), HandlerError>> + Send,
) {
    match handling.await {
        Ok(()) => delivery.ack(),
        Err(e) => {
            tracing::warn!(
                queue = %delivery.queue,
                offset = delivery.offset,
                delivery = delivery.delivery,
                error = e.text(),
                "a message could not be handled and comes again"
            );
            delivery.nack()
        }
    };
}

/// What became of the messages of a handler.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Summary {
    /// Messages that were handled and acked.
    pub handled: u64,
    /// Messages that failed and come again.
    pub retried: u64,
    /// Messages that were given back out of hand.
    pub given_back: u64,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { handled, retried, given_back } = self;
        write!(f, "handled {handled} · retried {retried} · given back {given_back}")
    }
}
