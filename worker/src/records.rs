//! The control records of the journal: what a worker has to remember of its queues besides the
//! messages. Each is MessagePack with field names, so that a later version can add optional
//! fields. Which record follows from which message is decided in [`crate::logic`].

use bytes::Bytes;
use ringway_proto::codec;
use ringway_proto::control::{CopySealed, RightEpoch, SubscriptionSetup};
use ringway_proto::data::OffsetRange;
use ringway_proto::routing::moves::{Fence, SlotMove};
use ringway_proto::{
    Attempt, Epoch, Holder, MoveNumber, Offset, Refusal, RightId, SubscriptionId, Uuid,
};
use serde::{Deserialize, Serialize};

/// Something that changed about a queue, other than a message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ControlRecord {
    /// This worker is the primary under this epoch. Lifts a seal of an older epoch.
    Opened {
        /// The identity of the log.
        uuid: Uuid,
        /// `GROUP/N`.
        name: String,
        /// The epoch.
        epoch: Epoch,
        /// The largest body, in bytes.
        max_body_bytes: u32,
    },
    /// Nothing is accepted any more, for this attempt to move the queue.
    Sealed {
        /// The attempt.
        attempt: Attempt,
    },
    /// The seals up to this attempt are lifted.
    Unsealed {
        /// The attempt.
        attempt: Attempt,
    },
    /// The copy is gone; only this epoch stays of it.
    Removed {
        /// The log.
        uuid: Uuid,
        /// The epoch of the tombstone.
        epoch: Epoch,
    },
    /// A subscription has a cursor here.
    Started {
        /// The subscription.
        setup: SubscriptionSetup,
        /// Where it begins.
        floor: Offset,
    },
    /// A right has a new epoch, and only this holder may open it.
    Raised {
        /// The right.
        right: RightId,
        /// The epoch.
        epoch: Epoch,
        /// The holder.
        #[serde(default)]
        holder: Option<Holder>,
    },
    /// These messages were acked.
    Acked {
        /// The right.
        right: RightId,
        /// Everything below is acked or does not match the filter.
        floor: Offset,
        /// What was acked beyond what earlier records say.
        ranges: Vec<OffsetRange>,
    },
    /// A right became these, which cover its lanes. What it was done with, each of them is done
    /// with; one under the epoch that it had stays with its holder.
    Split {
        /// The right that was split.
        right: RightId,
        /// What became of it.
        into: Vec<RightEpoch>,
    },
    /// Rights to lanes side by side became one, which is done in the lanes of each with what that
    /// one was done with.
    Merged {
        /// The rights, in the order of lanes.
        parts: Vec<RightId>,
        /// What they became.
        into: RightEpoch,
    },
    /// The queue is copied here from its primary; the batches that follow are those of the
    /// original. What an earlier attempt copied stays, what it knew of the readers does not.
    Copying {
        /// The identity of the log.
        uuid: Uuid,
        /// `GROUP/N`.
        name: String,
        /// The epoch that the original was open under when the copy was ordered.
        epoch: Epoch,
        /// The attempt to move the queue.
        attempt: Attempt,
    },
    /// The copy is whole, and this is what is known of the queue besides its batches.
    Copied(CopySealed),
    /// The copy is gone, and nothing stays of it: another may come under any attempt.
    CopyDropped {
        /// The log.
        uuid: Uuid,
        /// The newest attempt that was given up.
        attempt: Attempt,
    },
    /// Nothing more of what this move takes from the queue or gives it is accepted before the
    /// move is known to have taken effect. A later record about the same move corrects the end.
    SlotsSealed {
        /// The move, without its ends.
        moved: SlotMove,
        /// The offset behind the last message of what it takes.
        at: Offset,
    },
    /// The moves up to this one have taken effect.
    SlotsMoved {
        /// The last of them.
        through: MoveNumber,
        /// Those among them that left messages behind and that no earlier record has.
        moves: Vec<SlotMove>,
    },
    /// The subscription has passed these fences, wherever they are.
    FencesPassed {
        /// The subscription.
        subscription: SubscriptionId,
        /// The fences.
        passed: Vec<Fence>,
    },
}

impl ControlRecord {
    /// The body of the record in the journal.
    ///
    /// # Errors
    /// [`ringway_proto::Code::Internal`] for what MessagePack cannot hold, which no record is.
    pub fn encode(&self) -> Result<Bytes, Refusal> {
        codec::encode(self)
    }

    /// Reads what [`ControlRecord::encode`] wrote.
    ///
    /// # Errors
    /// [`ringway_proto::Code::Protocol`] for anything else.
    pub fn decode(body: &[u8]) -> Result<Self, Refusal> {
        codec::decode(body)
    }
}
