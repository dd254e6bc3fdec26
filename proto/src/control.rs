//! Control messages: what the coordinator, the workers and the clients tell each other about
//! membership, rights and queues. MessagePack with field names, so that either side can add
//! optional fields.
//!
//! Each link to the coordinator carries one *session stream*: the worker or client opens it and
//! sends [`FromWorker`] or [`FromClient`] messages, the coordinator answers with [`ToWorker`] or
//! [`ToClient`] messages, each in a frame of kind `Control`. Every step carries the epoch or
//! attempt that it belongs to, is driven from the coordinator's store, and is repeated (also on a
//! new connection) until it is answered; so every message may come twice and its receiver answers
//! the second as it answered the first.

use serde::{Deserialize, Serialize};

use crate::class::Filter;
use crate::data::{OffsetRange, Window};
use crate::ids::{
    Attempt, Epoch, Holder, Incarnation, Lanes, MemberId, MoveNumber, Offset, OpenNumber, QueueId,
    RightId, RoutingVersion, SubscriptionId, SubscriptionName, Uuid, WorkerId,
};
use crate::refusal::Refusal;
use crate::routing::Routing;
use crate::routing::moves::{Fence, SlotMove};

/// Whether a subscription keeps the order of each key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// At most one message of a key is handed out until it is acked.
    #[default]
    Key,
    /// Messages are handed out as they come.
    None,
}

/// Where a new subscription begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// With the oldest message that is kept.
    #[default]
    Start,
    /// With what is published after the join.
    Now,
}

/// What a worker has to know of a subscription to serve it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SubscriptionSetup {
    /// Its number.
    pub id: SubscriptionId,
    /// Its name, for metrics and messages.
    pub name: SubscriptionName,
    /// What it wants to see.
    pub filter: Filter,
    /// Whether the order of each key is kept.
    pub order: Order,
    /// Where it begins at a queue that it has no cursor at.
    pub start: Start,
}

/// A queue as its worker holds it, said at registration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HeldQueue {
    /// The queue.
    pub queue: QueueId,
    /// The identity of its log.
    pub uuid: Uuid,
    /// The epoch under which it was opened last.
    pub epoch: Epoch,
    /// The offset behind its last durable message.
    pub end: Offset,
    /// The attempt that it is sealed for, if it is.
    #[serde(default)]
    pub sealed: Option<Attempt>,
}

/// A copy of a queue on its way to this worker, said at registration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HeldCopy {
    /// The queue.
    pub queue: QueueId,
    /// The identity of its log.
    pub uuid: Uuid,
    /// The attempt that it is copied for.
    pub attempt: Attempt,
    /// The offset behind the last message that is durable in the copy.
    pub copied: Offset,
    /// Whether the copy is whole: synced to the end of the sealed original.
    #[serde(default)]
    pub synced: bool,
}

/// First message of a worker on its session stream, at every (re)connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Register {
    /// Who it is.
    pub worker: WorkerId,
    /// Which process of it; a later start has a larger one (wall clock milliseconds at start).
    pub incarnation: Incarnation,
    /// The identity of its journal: another one under the same id is an empty disk.
    pub journal: Uuid,
    /// HOST:PORT that clients and other workers shall use.
    pub address: String,
    /// HOST:PORT of its metrics and health, if it serves them.
    #[serde(default)]
    pub http: Option<String>,
    /// Its share of the queues in proportion to the others', 1 to 1,000.
    pub weight: u32,
    /// Where it stands; not used yet.
    #[serde(default)]
    pub zone: Option<String>,
    /// Every queue in its journal, tombstones excluded.
    pub queues: Vec<HeldQueue>,
    /// Every copy in its journal that is not open yet.
    #[serde(default)]
    pub copies: Vec<HeldCopy>,
}

/// Worker to coordinator.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FromWorker {
    /// Here I am, and this is what I hold.
    Register(Register),
    /// The queue is open under this epoch, durably. Answers [`ToWorker::OpenQueue`].
    QueueOpened {
        /// The queue.
        queue: QueueId,
        /// The epoch.
        epoch: Epoch,
    },
    /// The queue has accepted its first message: from now on it moves only with its data. Said
    /// once, when that message is durable.
    HasData {
        /// The queue.
        queue: QueueId,
    },
    /// The queue is sealed for this attempt, durably; nothing is accepted any more. Answers
    /// [`ToWorker::SealQueue`], and is repeated at every registration while it holds.
    Sealed {
        /// The queue.
        queue: QueueId,
        /// The attempt.
        attempt: Attempt,
        /// The offset behind its last message: 0 for a queue that never accepted one.
        end: Offset,
    },
    /// How far a copy is: said when it begins, every 500 ms while it grows, and at once when it
    /// comes close to its original's end. Answers [`ToWorker::CopyQueue`].
    CopyProgress {
        /// The queue.
        queue: QueueId,
        /// The attempt.
        attempt: Attempt,
        /// The offset behind the last message that is durable in the copy.
        copied: Offset,
        /// The offset behind the original's last durable message, as last heard.
        end: Offset,
        /// Bytes of batches copied in all.
        copied_bytes: u64,
        /// Bytes of batches of the original, as last heard.
        total_bytes: u64,
    },
    /// The copy is durable up to the end of the sealed original, with everything else that is
    /// known of the queue. Repeated at every registration while it holds ([`HeldCopy::synced`]).
    CopySynced {
        /// The queue.
        queue: QueueId,
        /// The attempt.
        attempt: Attempt,
        /// The offset behind the last message.
        end: Offset,
    },
    /// The copy of this attempt, or of an older one, is gone. Answers [`ToWorker::DropCopy`].
    CopyDropped {
        /// The queue.
        queue: QueueId,
        /// The attempt.
        attempt: Attempt,
    },
    /// The queue has messages and was asked to seal only if it has none: it goes on.
    SealDeclined {
        /// The queue.
        queue: QueueId,
        /// The attempt.
        attempt: Attempt,
        /// The offset behind its last message.
        end: Offset,
    },
    /// The seal of this attempt, or of an older one, is lifted, durably. Answers
    /// [`ToWorker::Unseal`].
    Unsealed {
        /// The queue.
        queue: QueueId,
        /// The attempt.
        attempt: Attempt,
    },
    /// The copy is removed. Answers [`ToWorker::Tombstone`].
    Removed {
        /// The queue.
        queue: QueueId,
        /// The epoch of the tombstone.
        epoch: Epoch,
    },
    /// The subscription has a cursor at the queue, durably. Answers
    /// [`ToWorker::StartSubscription`].
    SubscriptionStarted {
        /// The subscription.
        subscription: SubscriptionId,
        /// The queue.
        queue: QueueId,
    },
    /// The queue takes nothing more of what moves before the table is known that names this
    /// offset, durably. Answers [`ToWorker::SealSlots`].
    SlotsSealed {
        /// The queue.
        queue: QueueId,
        /// The epoch that it is open under.
        epoch: Epoch,
        /// The move.
        number: MoveNumber,
        /// The offset behind the last message of what moves.
        at: Offset,
    },
    /// The subscription has acked everything below the end of a move at the queue, durably.
    /// Answers [`ToWorker::AwaitFence`].
    FencePassed {
        /// The subscription.
        subscription: SubscriptionId,
        /// The move, and the queue that gave.
        fence: Fence,
    },
    /// The right has this epoch, durably, and every older holder is fenced. Answers
    /// [`ToWorker::Raise`].
    RightRaised {
        /// The right.
        right: RightId,
        /// The epoch.
        epoch: Epoch,
    },
}

/// Open a queue as its primary.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OpenQueue {
    /// The queue.
    pub queue: QueueId,
    /// Its name, `GROUP/N`, for messages and metrics.
    pub name: String,
    /// The identity of its log.
    pub uuid: Uuid,
    /// The epoch under which to open it. Refused (not answered) when the worker has removed a
    /// copy under this epoch or a later one.
    pub epoch: Epoch,
    /// The largest body that it accepts, in bytes.
    pub max_body_bytes: u32,
    /// The subscriptions that read it.
    pub subscriptions: Vec<SubscriptionSetup>,
    /// The epochs of their rights; the larger of this and the journal's holds.
    pub rights: Vec<RightEpoch>,
    /// Every move that the queue was sealed for, with its end there.
    #[serde(default)]
    pub moves: Vec<SlotMove>,
}

/// The default of [`ToWorker::SealQueue`]'s `only_if_empty`: what older coordinators mean.
fn yes() -> bool {
    true
}

/// Copy a queue from its primary.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopyQueue {
    /// The queue.
    pub queue: QueueId,
    /// Its name, `GROUP/N`.
    pub name: String,
    /// The identity of its log.
    pub uuid: Uuid,
    /// The epoch that its primary has it open under. Refused (not answered) when the worker has
    /// removed a copy under a later one.
    pub epoch: Epoch,
    /// The attempt to move it.
    pub attempt: Attempt,
    /// HOST:PORT of its primary.
    pub from: String,
}

/// Asks a worker for the log of a queue that it leads; first frame of a stream between workers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopyFrom {
    /// The queue.
    pub queue: QueueId,
    /// The identity of its log.
    pub uuid: Uuid,
    /// The attempt that the copy is for.
    pub attempt: Attempt,
    /// The offset of the first message that is wanted.
    pub from: Offset,
}

/// How far the original of a copy is; sent first and then now and then.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopyState {
    /// The offset behind its last durable message.
    pub end: Offset,
    /// Bytes of its batches.
    pub total_bytes: u64,
}

/// With no more than this many bytes missing a copy is close to its original, ...
const CLOSE_BYTES: u64 = 256 << 10;
/// ... and with no more than this many messages, ...
const CLOSE_MESSAGES: u64 = 256;
/// ... unless those have more than this many bytes. What is missing when a queue is sealed keeps
/// its publishers waiting, and each MiB of it does so for milliseconds.
const CLOSE_LARGE_BYTES: u64 = 1 << 20;

/// Whether so little is missing in a copy that its original may be sealed for it. Target and
/// coordinator judge by the same: a target that called itself close too early would say nothing
/// when it really is.
#[must_use]
pub fn is_close(missing_messages: u64, missing_bytes: u64) -> bool {
    missing_messages == 0
        || missing_bytes <= CLOSE_BYTES
        || missing_messages <= CLOSE_MESSAGES && missing_bytes <= CLOSE_LARGE_BYTES
}

/// All that is known of a sealed queue besides its batches; sent behind the batch that ends at
/// `end`. The same whenever it is asked for, since a sealed queue does not change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopySealed {
    /// The attempt that it is sealed for.
    pub attempt: Attempt,
    /// The offset behind the last message.
    pub end: Offset,
    /// The largest body that it accepts, in bytes.
    pub max_body_bytes: u32,
    /// The subscriptions that read it.
    pub subscriptions: Vec<SubscriptionSetup>,
    /// Their rights, with epochs, holders and cursors.
    pub rights: Vec<CopiedRight>,
}

/// A right as it travels with its queue.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopiedRight {
    /// The right, its epoch and its holder.
    pub right: RightEpoch,
    /// Everything below is acked or does not match.
    pub floor: Offset,
    /// What is acked above, in ascending ranges.
    pub acked: Vec<OffsetRange>,
    /// What is done besides, lane by lane: what the rights knew that this one was merged from.
    #[serde(default)]
    pub layers: Vec<CopiedLayer>,
}

/// What is done in some lanes of a right.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopiedLayer {
    /// Which lanes.
    pub lanes: Lanes,
    /// Everything below is acked or does not match.
    pub floor: Offset,
    /// What is acked above, in ascending ranges.
    pub acked: Vec<OffsetRange>,
}

/// The epoch of a right, and who holds it under that epoch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RightEpoch {
    /// The right.
    pub right: RightId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Who may open it under that epoch; nobody when the right is free.
    #[serde(default)]
    pub holder: Option<Holder>,
}

/// Split a right into several.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SplitRight {
    /// The right that is split.
    pub right: RightId,
    /// Its epoch; ignored under another.
    pub epoch: Epoch,
    /// What becomes of it, in the order of lanes and covering all of them. A part under the same
    /// epoch stays with its holder and is not interrupted; each other one has a later epoch.
    pub into: Vec<RightEpoch>,
}

/// Merge rights to lanes that lie side by side.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MergeRights {
    /// The rights, in the order of lanes, and their epochs; ignored under others, or while one of
    /// them is held.
    pub parts: Vec<GrantedRight>,
    /// What they become, under an epoch later than each of theirs.
    pub into: RightEpoch,
}

/// Coordinator to worker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ToWorker {
    /// The registration holds. What the worker has to do follows as messages of their own.
    Registered,
    /// The registration is refused; the worker reports it and leaves.
    RegisterRefused(Refusal),
    /// A newer process of this worker has registered; this one leaves.
    Superseded,
    /// Be the primary of a queue.
    OpenQueue(OpenQueue),
    /// Stop accepting messages and acks for good.
    SealQueue {
        /// The queue.
        queue: QueueId,
        /// The epoch that it is open under; ignored under another.
        epoch: Epoch,
        /// The attempt to move it.
        attempt: Attempt,
        /// Decline if it ever accepted a message: there is no copy of it.
        #[serde(default = "yes")]
        only_if_empty: bool,
    },
    /// Copy a queue from its primary, to take it over when the copy is whole. Answered by
    /// [`FromWorker::CopyProgress`] and in the end by [`FromWorker::CopySynced`].
    CopyQueue(CopyQueue),
    /// The attempt was given up: remove the copy, if it is of this attempt or of an older one.
    DropCopy {
        /// The queue.
        queue: QueueId,
        /// The log.
        uuid: Uuid,
        /// The newest attempt that was given up.
        attempt: Attempt,
    },
    /// The attempt was given up: accept messages again. Ignored unless sealed for this attempt
    /// or an older one.
    Unseal {
        /// The queue.
        queue: QueueId,
        /// The newest attempt that was given up.
        attempt: Attempt,
    },
    /// Remove the copy of this log if its epoch is lower.
    Tombstone {
        /// The queue.
        queue: QueueId,
        /// The log.
        uuid: Uuid,
        /// The epoch of the tombstone.
        epoch: Epoch,
    },
    /// Give the subscription a cursor at the queue, unless it has one.
    StartSubscription {
        /// The queue.
        queue: QueueId,
        /// The subscription.
        setup: SubscriptionSetup,
    },
    /// Raise a right to this epoch: journal it, fence every older holder, and let only this
    /// holder open it.
    Raise(RightEpoch),
    /// Send nothing more under this epoch; acks go on.
    Revoke {
        /// The right.
        right: RightId,
        /// The epoch.
        epoch: Epoch,
    },
    /// Split a right, durably and in one record. Each part with a later epoch is answered by
    /// [`FromWorker::RightRaised`].
    Split(SplitRight),
    /// Merge rights, durably and in one record. Answered by [`FromWorker::RightRaised`].
    Merge(MergeRights),
    /// Take nothing more of what this move takes from the queue or gives it, until the table is
    /// known that contains the move; say where what it takes ends.
    SealSlots {
        /// The queue.
        queue: QueueId,
        /// The epoch that it is open under; ignored under another.
        epoch: Epoch,
        /// The move; its ends are not known yet.
        moved: SlotMove,
    },
    /// Say when the subscription has acked everything below this offset of the fence's queue.
    AwaitFence {
        /// The subscription.
        subscription: SubscriptionId,
        /// The move, and the queue that gave.
        fence: Fence,
        /// The end of what it gave.
        at: Offset,
    },
    /// The subscription has passed these fences: what waits for them at the queue may be
    /// delivered. Always all that it has passed.
    FencesPassed {
        /// The queue.
        queue: QueueId,
        /// The subscription.
        subscription: SubscriptionId,
        /// All fences that it has passed.
        passed: Vec<Fence>,
    },
    /// The routing that holds now.
    Routing(Routing),
}

/// Take a seat in a subscription. The subscription is made if there is none of that name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Join {
    /// The name of the subscription.
    pub name: SubscriptionName,
    /// What it wants to see; an existing subscription must have the same.
    pub filter: Filter,
    /// The order; without one, that of the existing subscription or [`Order::Key`].
    #[serde(default)]
    pub order: Option<Order>,
    /// Where a new subscription begins; an existing one keeps its own.
    pub start: Start,
    /// Who joins.
    pub member: MemberId,
    /// Which process of it.
    pub incarnation: Incarnation,
    /// Its share of the rights in proportion to the others', 1 to 1,000.
    pub weight: u32,
    /// Where it runs, for those who look (host and process id, say).
    #[serde(default)]
    pub origin: String,
}

/// The answer to [`Join`], after every reachable primary has journaled the start of the
/// subscription.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Joined {
    /// The name of the subscription.
    pub name: SubscriptionName,
    /// Its number.
    pub subscription: SubscriptionId,
    /// Who joined.
    pub member: MemberId,
    /// Which process of it.
    pub incarnation: Incarnation,
    /// Whether the subscription was made by this join.
    pub created: bool,
    /// The order that holds.
    pub order: Order,
    /// Every right that this holder has now. What it believed to hold beyond these, it has lost.
    pub rights: Vec<GrantedRight>,
}

/// A right under the epoch that it was granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GrantedRight {
    /// The right.
    pub right: RightId,
    /// The epoch.
    pub epoch: Epoch,
}

/// Client to coordinator.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FromClient {
    /// First message of a client on its session stream: send me the routing when it is newer,
    /// now and whenever it changes.
    Watch {
        /// The newest version that the client has.
        have: RoutingVersion,
    },
    /// Send the routing again if it is newer than this (after a `StaleRouting`).
    Refresh {
        /// The newest version that the client has.
        have: RoutingVersion,
    },
    /// Take a seat. Repeated on a new connection, it says "I am still here".
    Join(Join),
    /// Everything handed out under this epoch is acked and confirmed; the member opens nothing
    /// under it any more.
    Drained {
        /// Whose right it was.
        member: MemberId,
        /// The right.
        right: RightId,
        /// The epoch.
        epoch: Epoch,
    },
    /// Everything that was handed out under this epoch of the lanes beside `to` is acked and
    /// confirmed; the member takes nothing of them any more. Answers [`ToClient::Narrow`].
    Narrowed {
        /// Whose right it is.
        member: MemberId,
        /// The right with all its lanes.
        right: RightId,
        /// The epoch.
        epoch: Epoch,
        /// What it keeps.
        to: Lanes,
    },
    /// A handler makes progress on what is left of a revoked right, or of the lanes that it is to
    /// give up: extend its deadline.
    StillDraining {
        /// Whose right it is.
        member: MemberId,
        /// The right.
        right: RightId,
        /// The epoch.
        epoch: Epoch,
    },
    /// Leave the subscription: its rights are revoked, [`ToClient::Left`] follows when all are
    /// released.
    Leave {
        /// The subscription.
        subscription: SubscriptionId,
        /// Who leaves.
        member: MemberId,
        /// Which process of it.
        incarnation: Incarnation,
    },
}

/// Coordinator to client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ToClient {
    /// The routing that holds now.
    Routing(Routing),
    /// The member has its seat.
    Joined(Joined),
    /// The member gets no seat.
    JoinRefused {
        /// The name of the subscription.
        name: SubscriptionName,
        /// Who asked.
        member: MemberId,
        /// Why not.
        refusal: Refusal,
    },
    /// The member holds this right from now on.
    Granted {
        /// Who holds it.
        member: MemberId,
        /// The right and its epoch.
        granted: GrantedRight,
    },
    /// Give the right up: hand out nothing more of it, return what is unread, finish and ack the
    /// rest, then say `Drained`.
    Revoke {
        /// Who holds it.
        member: MemberId,
        /// The right.
        right: RightId,
        /// The epoch.
        epoch: Epoch,
        /// Milliseconds until the right is fenced.
        deadline_ms: u32,
    },
    /// Give the lanes beside `to` up: hand out nothing more of them, return what is unread, finish
    /// and ack the rest, then say `Narrowed`. The others go on.
    Narrow {
        /// Who holds the right.
        member: MemberId,
        /// The right with all its lanes.
        right: RightId,
        /// The epoch.
        epoch: Epoch,
        /// What it keeps.
        to: Lanes,
        /// Milliseconds until the other lanes are fenced.
        deadline_ms: u32,
    },
    /// The lanes of a right beside those that it has here were fenced: what was held of them goes
    /// to someone else. The others go on.
    Narrowed {
        /// Who holds the right.
        member: MemberId,
        /// The right with the lanes that are left.
        right: RightId,
        /// The epoch.
        epoch: Epoch,
    },
    /// The right was fenced: what was held of it goes to someone else.
    Lost {
        /// Who held it.
        member: MemberId,
        /// The right.
        right: RightId,
        /// The epoch that was lost.
        epoch: Epoch,
    },
    /// A newer process joined as this member.
    Superseded {
        /// The subscription.
        subscription: SubscriptionId,
        /// The member.
        member: MemberId,
        /// The process that lost its seat.
        incarnation: Incarnation,
    },
    /// The member has left; nothing is held any more.
    Left {
        /// The subscription.
        subscription: SubscriptionId,
        /// The member.
        member: MemberId,
        /// The process that left.
        incarnation: Incarnation,
    },
}

/// Open a right at its primary: first frame of a delivery stream. One stream serves one open; a
/// member that opens again opens a new stream with a larger number.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OpenRight {
    /// The right. Fewer lanes than it has at the worker: only these are sent. More: `NotYet`, and
    /// the coordinator says which are left.
    pub right: RightId,
    /// The epoch under which it was granted. Older than the worker's is `Fenced`, newer `NotYet`.
    pub epoch: Epoch,
    /// Who opens it; someone else than the epoch's holder is `Fenced`.
    pub holder: Holder,
    /// Larger than in every earlier open of this right by this holder; else ignored.
    pub open: OpenNumber,
    /// Offsets that the member still holds, unread or in hand, in ascending ranges: they stay in
    /// flight and are not sent again.
    pub held: Vec<OffsetRange>,
    /// The lane of each of `held`, in their order; may be left out.
    #[serde(default)]
    pub held_lanes: Vec<u16>,
    /// Those of `held` that were handed to the application.
    pub handed_out: Vec<OffsetRange>,
    /// Acks that were never confirmed, in ascending ranges: applied before anything is sent.
    pub acks: Vec<OffsetRange>,
    /// The number under which these acks are confirmed; 0 when there are none.
    pub ack_number: u64,
    /// How much may be in flight.
    pub window: Window,
}

/// The right is open; deliveries follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RightOpened {
    /// The open that this answers.
    pub open: OpenNumber,
    /// The offset behind the queue's last durable message.
    pub end: Offset,
}
