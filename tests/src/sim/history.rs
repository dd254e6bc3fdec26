//! What happened in a run, as the checks read it: who tried, who was told, what was written. It
//! records and judges nothing. A publish that was not answered is unknown, never failed.

use super::disk::Full;
use ringway_client::logic::right::How;
use ringway_proto::control::Start;
use ringway_proto::{
    Epoch, Filter, Holder, Lanes, Offset, QueueId, RightId, SubscriptionId, WorkerId,
};

/// What a message says: unique in a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Value {
    /// Which process published it.
    pub producer: u32,
    /// Its how manieth message it is; ascending with each attempt.
    pub number: u32,
}

impl Value {
    /// The body of its message.
    #[must_use]
    pub fn body(self) -> Vec<u8> {
        [self.producer.to_le_bytes(), self.number.to_le_bytes()].concat()
    }

    /// The value of a body. None for a body that no producer made.
    #[must_use]
    pub fn of(body: &[u8]) -> Option<Self> {
        let half = |at: usize| Some(u32::from_le_bytes(body.get(at..at + 4)?.try_into().ok()?));
        Some(Self { producer: half(0)?, number: half(4)? }).filter(|_| body.len() == 8)
    }
}

/// What a publisher was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// It is stored there.
    Stored(QueueId, Offset),
    /// It is not and never will be.
    Failed(String),
    /// Nobody knows.
    Unknown,
}

/// One thing that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// A producer gave a message to its SDK. `key` is unique to the producer.
    Attempt {
        /// The message.
        value: Value,
        /// Its key.
        key: Option<u32>,
        /// Its class.
        class: &'static str,
    },
    /// The SDK told the producer what became of it.
    Published {
        /// The message.
        value: Value,
        /// What became of it.
        told: Told,
    },
    /// A member has its seat.
    Joined {
        /// In which subscription.
        subscription: SubscriptionId,
        /// What that sees.
        filter: Filter,
        /// Where it began.
        start: Start,
        /// Who.
        holder: Holder,
    },
    /// A primary said that the subscription has its beginning at a queue.
    Started {
        /// Which subscription.
        subscription: SubscriptionId,
        /// At which queue.
        queue: QueueId,
    },
    /// A worker confirmed the epoch of a right.
    Raised {
        /// Which right.
        right: RightId,
        /// The epoch of the queue's copy that has it.
        copy: Epoch,
        /// Which epoch.
        epoch: Epoch,
    },
    /// A member learnt that it holds a right.
    Granted {
        /// Which right.
        right: RightId,
        /// Under which epoch.
        epoch: Epoch,
        /// Who.
        holder: Holder,
    },
    /// A member said that it gave a right up.
    Drained {
        /// Which right.
        right: RightId,
        /// Under which epoch.
        epoch: Epoch,
        /// Who: another process of the same member had nothing to give up.
        holder: Holder,
    },
    /// A member was told to give up the lanes of a right beside these.
    Narrowing {
        /// Which right, with all its lanes.
        right: RightId,
        /// Under which epoch.
        epoch: Epoch,
        /// What it keeps.
        to: Lanes,
    },
    /// A member said that it gave up the lanes of a right beside these.
    Narrowed {
        /// Which right, with all its lanes.
        right: RightId,
        /// Under which epoch.
        epoch: Epoch,
        /// What it keeps.
        to: Lanes,
        /// Who.
        holder: Holder,
    },
    /// Rights became others, durably: one was split, or several were merged.
    Laid {
        /// What they were.
        parts: Vec<RightId>,
        /// What they are.
        into: Vec<RightId>,
    },
    /// A worker let a member open a right.
    Opened {
        /// Which right.
        right: RightId,
        /// The epoch of the queue's copy that has it.
        copy: Epoch,
        /// Under which epoch.
        epoch: Epoch,
        /// Who.
        holder: Holder,
    },
    /// A worker applied acks.
    Acked {
        /// Of which right.
        right: RightId,
        /// The epoch of the stream that they came on.
        epoch: Epoch,
        /// The holder that opened that stream.
        holder: Holder,
        /// The lanes of the messages.
        lanes: Vec<u16>,
    },
    /// A message was handed to an application.
    HandedOut {
        /// Of which right.
        right: RightId,
        /// Under which epoch.
        epoch: Epoch,
        /// To whom.
        holder: Holder,
        /// Where it is from.
        offset: Offset,
        /// Its lane.
        lane: u16,
        /// What it says.
        value: Option<Value>,
    },
    /// An application settled a message, and that counted.
    Settled {
        /// Of which right.
        right: RightId,
        /// Under which epoch.
        epoch: Epoch,
        /// Who.
        holder: Holder,
        /// Which message.
        offset: Offset,
        /// How.
        how: How,
    },
    /// A member was told that its ack is durable.
    Confirmed {
        /// Of which right.
        right: RightId,
        /// Under which epoch.
        epoch: Epoch,
        /// Which message.
        offset: Offset,
    },
    /// A worker decided to store a message.
    Accepted {
        /// In which queue.
        queue: QueueId,
        /// Under which epoch of it.
        epoch: Epoch,
        /// Who.
        worker: WorkerId,
    },
    /// A worker has a queue open, durably.
    QueueOpened {
        /// Which queue.
        queue: QueueId,
        /// Under which epoch.
        epoch: Epoch,
        /// Who.
        worker: WorkerId,
    },
    /// A message is durable.
    Stored {
        /// In which queue.
        queue: QueueId,
        /// Where.
        offset: Offset,
        /// What it says.
        value: Option<Value>,
        /// Its lane.
        lane: u16,
    },
    /// A right's cursor as a durable record has it, or as a restart found it.
    Cursor {
        /// Which right.
        right: RightId,
        /// The epoch of the queue's copy that has it.
        copy: Epoch,
        /// Everything below is done.
        floor: Offset,
    },
    /// A worker sends a message to the holder of a right.
    Sent {
        /// Of which right.
        right: RightId,
        /// Which message.
        offset: Offset,
    },
    /// A right is to be given up: its worker sends nothing more under this epoch.
    Revoked {
        /// Which right.
        right: RightId,
        /// Under which epoch.
        epoch: Epoch,
    },
    /// A process of a member began to leave.
    Leaving(Holder),
    /// A queue is sealed, to be moved.
    Sealed(QueueId),
    /// A batch found no room.
    NoRoom {
        /// In which queue.
        queue: QueueId,
    },
    /// The disk of a worker has no room for a while.
    Full {
        /// Whose.
        worker: WorkerId,
        /// How little.
        full: Full,
        /// Until when.
        until: u64,
    },
    /// Nothing goes wrong in this run: processes only come and go.
    Calm,
    /// A fault began or ended.
    Fault(String),
    /// A process must leave: a refusal that no run should see.
    Left {
        /// Who.
        who: String,
        /// Why.
        why: String,
    },
    /// No faults from here on.
    Quiet,
    /// A message in a primary's log at the end.
    InLog {
        /// In which queue.
        queue: QueueId,
        /// Where.
        offset: Offset,
        /// What it says.
        value: Option<Value>,
    },
    /// The moves of the whole run.
    Moves {
        /// Carried out.
        done: u64,
        /// The least that was needed.
        least: u64,
    },
    /// What is still not as it should be when the run ends.
    Unhealed(String),
    /// Everything is as it should be.
    Healed,
}

/// What happened when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Milliseconds since the beginning.
    pub at: u64,
    /// What.
    pub what: What,
}

/// A whole run.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct History {
    /// In the order in which it happened.
    pub entries: Vec<Entry>,
}

impl History {
    /// A number that two histories share only if they are the same.
    #[must_use]
    pub fn hash(&self) -> u64 {
        use std::fmt::Write as _;
        let mut text = String::new();
        let mut hash = 0u64;
        for entry in &self.entries {
            text.clear();
            // Writing into a string does not fail.
            let _ = write!(text, "{hash:x} {entry:?}");
            hash = ringway_proto::hash::hash(text.as_bytes());
        }
        hash
    }
}
