//! A seat as the application and the SDK's thread share it: the logic under a short lock, and a
//! bell that rings when it changed. Hand-outs and settlements happen under that lock, so a revoke
//! and a hand-out never cross.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ringway_proto::Time;
use tokio::sync::{Notify, oneshot};

use crate::error::AckError;
use crate::logic::seat::Seat;

/// One seat.
pub(crate) struct SeatCell {
    pub id: u64,
    /// When the join is given up.
    pub join_by: Time,
    seat: Mutex<Seat>,
    /// Rings for everyone who waits for a message, an event, or the end.
    pub changed: Notify,
    poked: AtomicBool,
    tokens: AtomicU64,
    waiters: Mutex<HashMap<u64, oneshot::Sender<Result<(), AckError>>>>,
}

impl SeatCell {
    pub fn new(id: u64, join_by: Time, seat: Seat) -> Self {
        Self {
            id,
            join_by,
            seat: Mutex::new(seat),
            changed: Notify::new(),
            poked: AtomicBool::new(false),
            tokens: AtomicU64::new(1),
            waiters: Mutex::new(HashMap::new()),
        }
    }

    /// The logic. Never hold it across an await.
    pub fn seat(&self) -> MutexGuard<'_, Seat> {
        self.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True for the first poke since the engine looked.
    pub fn poke(&self) -> bool {
        !self.poked.swap(true, Ordering::AcqRel)
    }

    /// The engine looks now.
    pub fn looked_at(&self) {
        self.poked.store(false, Ordering::Release);
    }

    fn waiters(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Result<(), AckError>>>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody waits for the confirmation of an ack.
    pub fn wait(&self) -> (u64, oneshot::Receiver<Result<(), AckError>>) {
        let (tx, rx) = oneshot::channel();
        let token = self.tokens.fetch_add(1, Ordering::Relaxed);
        self.waiters().insert(token, tx);
        (token, rx)
    }

    /// The ack with this token is confirmed, or is not.
    pub fn confirm(&self, token: u64, result: Result<(), AckError>) {
        if let Some(waiter) = self.waiters().remove(&token) {
            let _ = waiter.send(result);
        }
    }

    /// Nothing will be confirmed any more.
    pub fn forget_waiters(&self) {
        self.waiters().clear();
    }
}
