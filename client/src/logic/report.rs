//! What a seat says of itself: its events, its end, what it wants done, what it has counted. Plain
//! data without a rule.

use bytes::Bytes;
use ringway_proto::control::{FromClient, OpenRight};
use ringway_proto::frame::Kind;
use ringway_proto::{Refusal, RightId};

/// A frame for a right's stream.
pub type Frame = (Kind, Bytes);

/// What happened to a seat, for those who watch.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The seat is taken: nothing that is published from now on is missed.
    Ready,
    /// A right was gained.
    Granted {
        /// The queue, `GROUP/N`.
        queue: String,
        /// The right's epoch.
        epoch: u64,
    },
    /// A right has to be given up: nothing more of it is handed out.
    Revoked {
        /// The queue, `GROUP/N`.
        queue: String,
        /// The right's epoch.
        epoch: u64,
    },
    /// A right was given up in order.
    Released {
        /// The queue, `GROUP/N`.
        queue: String,
        /// The right's epoch.
        epoch: u64,
    },
    /// A right was fenced; what is in hand of it comes to someone else.
    Lost {
        /// The queue, `GROUP/N`.
        queue: String,
        /// The right's epoch.
        epoch: u64,
    },
    /// The coordinator is not connected; deliveries go on.
    Reconnecting,
    /// The coordinator is connected again and the seat is kept.
    Reconnected,
    /// Another process took the seat.
    Superseded,
    /// The seat was left.
    Left,
}

/// Why a seat is over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// Another process joined as this member.
    Superseded,
    /// The coordinator refuses the seat.
    Refused(Refusal),
    /// It was left.
    Left,
    /// The join was given up; this was in the way last, if anything was said.
    Late(Option<Refusal>),
    /// The time to leave was over, or nobody answered any more.
    Unfinished {
        /// Rights that were still held.
        rights: u64,
    },
    /// The client is closed.
    Closed,
}

/// What the seat wants done.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Tell the coordinator.
    Tell(FromClient),
    /// Open a delivery stream at the right's primary; an older one of that right is dropped.
    /// What belongs to the stream names the right as it was granted, which is given first: the
    /// open may name fewer lanes.
    Open(RightId, OpenRight),
    /// Send frames on the right's stream.
    Send(RightId, Vec<Frame>),
    /// Drop the right's stream once what was sent is out.
    Close(RightId),
    /// This became of the acks with these tokens.
    Acked(AckOutcome, Vec<u64>),
}

/// What became of an ack whose confirmation was waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AckOutcome {
    /// It is durable.
    Durable,
    /// The right was lost before it was sent.
    Fenced,
    /// The right was lost after it was sent: it may count.
    Unknown,
}

/// What a seat has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Counts {
    /// Messages handed to the application.
    pub handed_out: u64,
    /// Messages acked.
    pub acked: u64,
    /// Messages that could not be handled.
    pub nacked: u64,
    /// Messages that went back unread out of the application's hands.
    pub given_back: u64,
    /// Settlements that came too late: the right was lost.
    pub fenced: u64,
    /// Acks that are not confirmed, those of rights that were lost meanwhile included.
    pub unconfirmed: u64,
    /// Messages held now: unread or in the application's hands.
    pub held: u64,
}

/// What became of a settlement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Settled {
    /// It counts. A token that was given waits for the confirmation.
    Taken,
    /// The message was settled before, or handed out again since.
    Before,
    /// The right was lost.
    Fenced,
}
