//! What a worker decides, without a clock, a socket or a file: which batch is taken under which
//! offset, what a right may be sent, what a restart must find. Inputs and the time go in, actions
//! come out; the [`crate::shard`] carries them out.
//!
//! Order matters: every action that answers somebody is carried out only when all writes that
//! were asked for before it are durable, unless its description says otherwise.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use ringway_proto::control::{FromWorker, RightOpened};
use ringway_proto::data::{AckConfirmed, DeliverEntry, Window};
use ringway_proto::limits::MAX_CONTROL_BYTES;
use ringway_proto::{Offset, OpenNumber, QueueId, Refusal, RightId};

use crate::records::ControlRecord;

pub mod ages;
pub mod copy;
pub mod cursor;
pub mod dedup;
pub mod delivery;
pub mod fences;
pub mod flight;
pub mod host;
pub mod hosted;
pub mod layers;
pub mod pace;
pub mod queue;
pub mod ranges;
pub mod rounds;
pub mod slots;
pub mod step;

/// Names an append that waits for its answer; the driver knows whose it is.
pub type Token = u64;
/// Names a delivery stream; the driver knows where it leads.
pub type StreamId = u64;

/// Bounds and waits that decisions depend on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// A message that was handed out and is neither acked nor extended comes again after this.
    pub ack_timeout: Duration,
    /// The first wait of a message that was nacked more than once; it doubles with each nack.
    pub nack_backoff: Duration,
    /// The longest wait of a nacked message.
    pub nack_backoff_max: Duration,
    /// Messages of one right that may be unsettled (in flight, or waiting to come again) before
    /// nothing new is read for it.
    pub max_unsettled: usize,
    /// The largest window of a right, in bytes of records, whatever its holder asks for: that much
    /// may wait in memory for a holder that does not read.
    pub max_window_bytes: u64,
    /// A floor that moved this far without an ack is written down, so that a restart does not look
    /// at all of it again.
    pub floor_every_offsets: u64,
    /// A delivery is closed at this size, in bytes of records; one message may be larger.
    pub delivery_bytes: u64,
    /// Appends that a sealed queue keeps waiting; beyond it they are refused as `Busy`.
    pub max_held_appends: usize,
    /// Bytes of appends that a sealed queue keeps waiting.
    pub max_held_bytes: usize,
    /// A queue of which more is known than this, in bytes besides its batches, is not sealed to be
    /// moved: the snapshot would not fit a frame.
    pub max_snapshot_bytes: usize,
    /// A copy that grows says how far it is after this.
    pub progress_every: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            ack_timeout: Duration::from_secs(30),
            nack_backoff: Duration::from_millis(100),
            nack_backoff_max: Duration::from_secs(10),
            max_unsettled: 65_536,
            max_window_bytes: 16 << 20,
            floor_every_offsets: 10_000,
            delivery_bytes: 256 * 1024,
            max_held_appends: 4096,
            max_held_bytes: 16 << 20,
            max_snapshot_bytes: MAX_CONTROL_BYTES / 8 * 7,
            progress_every: Duration::from_millis(500),
        }
    }
}

/// An order that can come too late.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LateOrder {
    /// Be the primary of a queue.
    OpenQueue,
    /// Remove the copy of a queue.
    Tombstone,
    /// Copy a queue from its primary.
    CopyQueue,
}

/// What the driver is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Write the batch of this append at this offset, then answer it and report the queue's new
    /// end as durable.
    Store {
        /// The append.
        token: Token,
        /// The queue.
        queue: QueueId,
        /// The offset of its first message.
        at: Offset,
    },
    /// Answer a repeat with the offset that the batch has.
    Repeat {
        /// The append.
        token: Token,
        /// The old offset.
        at: Offset,
    },
    /// Refuse an append. Needs no write, so it goes out at once.
    Refuse {
        /// The append.
        token: Token,
        /// Why.
        refusal: Refusal,
    },
    /// Write a control record.
    Write {
        /// The queue that it belongs to.
        queue: QueueId,
        /// The record.
        record: ControlRecord,
    },
    /// Tell the coordinator.
    Tell(FromWorker),
    /// The right is open on this stream. Needs no write, so it goes out at once, before any
    /// delivery of this stream.
    Opened {
        /// The stream.
        stream: StreamId,
        /// What to say.
        opened: RightOpened,
    },
    /// This window holds for what is sent from now on. At once, in order with deliveries.
    WindowSeen {
        /// The stream.
        stream: StreamId,
        /// The window.
        window: Window,
    },
    /// The acks that are written by now are durable.
    Confirm {
        /// The stream that sent them.
        stream: StreamId,
        /// What to say.
        confirmed: AckConfirmed,
    },
    /// End a stream: with a refusal, or quietly because a newer one took its place. At once.
    Close {
        /// The stream.
        stream: StreamId,
        /// Why, if the holder has to know.
        refusal: Option<Refusal>,
    },
    /// The right may have something to send or to write: look at it again.
    Look(RightId),
    /// This right has become others: drop what is kept for it.
    Retire(RightId),
    /// An order of the coordinator came too late and changed nothing. It needs no answer; count it
    /// and say so.
    Late {
        /// The queue.
        queue: QueueId,
        /// The order.
        order: LateOrder,
        /// What stands against it.
        why: String,
    },
    /// The copy of this queue is gone: drop what is kept of its messages.
    Forget(QueueId),
    /// Ask the primary for what is missing of a copy, instead of what is asked for now. At once.
    Fetch {
        /// The queue.
        queue: QueueId,
        /// Names the question: what comes under an older number is ignored.
        fetch: u64,
        /// HOST:PORT of the primary.
        from: String,
        /// An earlier question failed: wait a little.
        again: bool,
    },
    /// Ask for nothing more of this queue. At once.
    StopFetch(QueueId),
}

/// Messages of one batch that are to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Selection {
    /// The stream that they go to.
    pub stream: StreamId,
    /// Its open.
    pub open: OpenNumber,
    /// Which messages, by their index in the batch, ascending.
    pub entries: Vec<DeliverEntry>,
    /// The same as runs of indices `from..to`.
    pub runs: Vec<(usize, usize)>,
}
