//! What the coordinator orders, as steps of a queue. It says which queue an order is for, and
//! nothing of what a step does.

use ringway_proto::control::{
    CopyQueue, MergeRights, OpenQueue, RightEpoch, SplitRight, SubscriptionSetup, ToWorker,
};
use ringway_proto::routing::moves::{Fence, SlotMove};
use ringway_proto::{Attempt, Epoch, Offset, QueueId, RightId, SubscriptionId, Uuid};

/// A step that the coordinator drives, for one queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Be its primary.
    Open(OpenQueue),
    /// Accept nothing any more.
    Seal {
        /// The epoch that it is open under.
        epoch: Epoch,
        /// The attempt to move it.
        attempt: Attempt,
        /// Decline if it ever took a message.
        only_if_empty: bool,
    },
    /// Copy it from its primary.
    Copy(CopyQueue),
    /// Remove what was copied for this attempt or an older one.
    DropCopy {
        /// The log.
        uuid: Uuid,
        /// The newest attempt that was given up.
        attempt: Attempt,
    },
    /// Accept again.
    Unseal {
        /// The newest attempt that was given up.
        attempt: Attempt,
    },
    /// Remove the copy if its epoch is lower.
    Tombstone {
        /// The log.
        uuid: Uuid,
        /// The epoch of the tombstone.
        epoch: Epoch,
    },
    /// Give a subscription a cursor.
    Start(SubscriptionSetup),
    /// Raise a right.
    Raise(RightEpoch),
    /// Send nothing more under this epoch of a right.
    Revoke {
        /// The right.
        right: RightId,
        /// The epoch.
        epoch: Epoch,
    },
    /// Split a right.
    Split(SplitRight),
    /// Merge rights.
    Merge(MergeRights),
    /// Take nothing more of what a move takes from the queue or gives it.
    SealSlots {
        /// The epoch that it is open under.
        epoch: Epoch,
        /// The move.
        moved: SlotMove,
    },
    /// Say when a subscription is past a fence.
    AwaitFence {
        /// The subscription.
        subscription: SubscriptionId,
        /// The fence.
        fence: Fence,
        /// The end of the move at the queue.
        at: Offset,
    },
    /// A subscription has passed fences.
    FencesPassed {
        /// The subscription.
        subscription: SubscriptionId,
        /// All that it has passed.
        passed: Vec<Fence>,
    },
}

impl Step {
    /// The step that an order asks for, and of which queue; none for what is said to the worker as
    /// a whole.
    #[must_use]
    pub fn of(order: ToWorker) -> Option<(QueueId, Self)> {
        Some(match order {
            ToWorker::OpenQueue(open) => (open.queue, Self::Open(open)),
            ToWorker::SealQueue { queue, epoch, attempt, only_if_empty } => {
                (queue, Self::Seal { epoch, attempt, only_if_empty })
            }
            ToWorker::CopyQueue(copy) => (copy.queue, Self::Copy(copy)),
            ToWorker::DropCopy { queue, uuid, attempt } => {
                (queue, Self::DropCopy { uuid, attempt })
            }
            ToWorker::Unseal { queue, attempt } => (queue, Self::Unseal { attempt }),
            ToWorker::Tombstone { queue, uuid, epoch } => (queue, Self::Tombstone { uuid, epoch }),
            ToWorker::StartSubscription { queue, setup } => (queue, Self::Start(setup)),
            ToWorker::Raise(to) => (to.right.queue, Self::Raise(to)),
            ToWorker::Revoke { right, epoch } => (right.queue, Self::Revoke { right, epoch }),
            ToWorker::Split(order) => (order.right.queue, Self::Split(order)),
            ToWorker::Merge(order) => (order.into.right.queue, Self::Merge(order)),
            ToWorker::SealSlots { queue, epoch, moved } => {
                (queue, Self::SealSlots { epoch, moved })
            }
            ToWorker::AwaitFence { subscription, fence, at } => {
                (fence.queue, Self::AwaitFence { subscription, fence, at })
            }
            ToWorker::FencesPassed { queue, subscription, passed } => {
                (queue, Self::FencesPassed { subscription, passed })
            }
            ToWorker::Registered
            | ToWorker::RegisterRefused(_)
            | ToWorker::Superseded
            | ToWorker::Routing(_) => return None,
        })
    }
}
