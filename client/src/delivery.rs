//! A message in the application's hands, and how it is settled. It promises that a settlement is
//! decided when it is called, and that a message which is dropped unsettled goes back.

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::cell::SeatCell;
use crate::client::Inner;
use crate::engine::Command;
use crate::error::AckError;
use crate::logic::report::Settled;
use crate::logic::right::{Hold, How};
use crate::logic::seat::Seat;
use crate::message::Message;

/// A seat in somebody's hands.
#[derive(Clone)]
pub(crate) struct Held {
    pub client: Arc<Inner>,
    pub cell: Arc<SeatCell>,
}

impl Held {
    /// Tells the engine to look. False when the client is closed.
    pub fn poke(&self) -> bool {
        if self.cell.poke() {
            return self.client.commands.send(Command::Poke(self.cell.id)).is_ok();
        }
        !self.client.commands.is_closed()
    }

    /// Waits until `look` finds something, looking whenever the seat has changed.
    pub async fn wait_for<T>(&self, mut look: impl FnMut(&mut Seat) -> Option<T>) -> T {
        loop {
            let changed = self.cell.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(found) = look(&mut self.cell.seat()) {
                return found;
            }
            changed.await;
        }
    }
}

/// A message in the application's hands. Settling takes it; dropped unsettled it comes again, as
/// after [`Delivery::nack`]. While it lives its ack timeout is extended, up to 15 minutes.
#[must_use = "dropped unsettled, the message comes again"]
pub struct Delivery {
    seat: Held,
    hold: Hold,
    message: Message,
    settled: bool,
}

impl Deref for Delivery {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

impl Delivery {
    pub(crate) fn new(seat: Held, hold: Hold, message: Message) -> Self {
        Self { seat, hold, message, settled: false }
    }

    /// The message itself.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.message
    }

    fn settle(&mut self, how: How, token: Option<u64>) -> (Settled, bool) {
        self.settled = true;
        let settled = self.seat.cell.seat().settle(&self.hold, how, token);
        // A settlement may let the next message of its key go.
        self.seat.cell.changed.notify_waiters();
        (settled, self.seat.poke())
    }

    fn settle_now(mut self, how: How) -> Settle {
        let (_, told) = self.settle(how, None);
        Settle(if told { Ok(()) } else { Err(AckError::Closed) })
    }

    /// The message is done. Decided at the call; the future that it returns is ready at once and
    /// need not be awaited. An ack under a right that was lost is counted, not an error.
    pub fn ack(self) -> Settle {
        self.settle_now(How::Ack)
    }

    /// The message could not be handled: it comes again, before its key's later messages.
    pub fn nack(self) -> Settle {
        self.settle_now(How::Nack)
    }

    /// The message was not looked at: it comes again, and this delivery does not count.
    pub fn give_back(self) -> Settle {
        self.settle_now(How::GiveBack)
    }

    /// The message is done, durably.
    ///
    /// # Cancellation
    /// Decided at the call: the ack is on its way.
    ///
    /// # Errors
    /// [`AckError`].
    pub fn ack_confirmed(mut self) -> impl Future<Output = Result<(), AckError>> + Send + use<> {
        let (token, confirmed) = self.seat.cell.wait();
        let (settled, told) = self.settle(How::Ack, Some(token));
        let early = match settled {
            Settled::Taken if told => None,
            Settled::Taken => Some(AckError::Closed),
            Settled::Before => Some(AckError::Expired),
            Settled::Fenced => Some(AckError::Fenced),
        };
        if let Some(e) = early {
            self.seat.cell.confirm(token, Err(e));
        }
        async { confirmed.await.unwrap_or(Err(AckError::Unknown)) }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.settled {
            self.settle(How::Nack, None);
        }
    }
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} @ {}", self.message.queue, self.message.offset)
    }
}

/// What became of a settlement: ready at once.
#[derive(Debug)]
pub struct Settle(Result<(), AckError>);

impl Future for Settle {
    type Output = Result<(), AckError>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(self.0.clone())
    }
}
