//! What the coordinator's store holds, row by row, and the changes to it. Everything that a
//! restarted coordinator needs is here and nothing else is: deadlines, connections and liveness
//! begin anew. It does not know how a row becomes bytes.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use ringway_proto::control::{GrantedRight, Start, SubscriptionSetup};
use ringway_proto::routing::SlotRange;
use ringway_proto::routing::moves::{Fence, SlotMove};
use ringway_proto::{
    Attempt, Epoch, Filter, GroupId, GroupName, Holder, Incarnation, Lanes, MemberId, MoveNumber,
    QueueId, RightId, RoutingVersion, SubscriptionId, Uuid, WorkerId,
};

pub use super::plans::PlanRow;

/// The one row of numbers that count for the cluster as a whole.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Meta {
    /// The number that the next group gets.
    pub next_group: GroupId,
    /// The number that the next subscription gets.
    pub next_subscription: SubscriptionId,
    /// The routing version that holds.
    pub routing: RoutingVersion,
    /// The number of the last plan, of queues or of rights.
    pub plan: u64,
    /// The number of the last plan of queues.
    pub queue_plan: u64,
    /// Whether workers or queues changed since the last plan of queues.
    pub queues_due: bool,
    /// Moves of queues and rights that were carried out.
    pub moves: u64,
    /// The least moves that the same changes could have needed.
    pub lower_bound: u64,
    /// The number of the last move of slots or classes that was wished for.
    #[serde(default)]
    pub last_move: MoveNumber,
}

/// A queue group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GroupRow {
    /// Its number.
    pub id: GroupId,
    /// Its name.
    pub name: GroupName,
    /// How many queues it has.
    pub queues: u32,
    /// Its weight on the class ring, if it is on it.
    pub ring_weight: Option<u32>,
    /// The largest body, in bytes.
    pub max_body_bytes: u32,
    /// Its slot table; empty while it has the one that a group of its size begins with.
    #[serde(default)]
    pub slots: Vec<SlotRange>,
    /// It is to be on the ring, and the move that puts it there has not taken effect.
    #[serde(default)]
    pub off_ring: bool,
}

/// A change of where keys or classes go, as it was wished for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SlotChange {
    /// A group spreads its slots over all queues that it has now.
    Grow {
        /// The group.
        group: GroupId,
    },
    /// Classes that match go to a group.
    Bind {
        /// Which classes.
        filter: Filter,
        /// Where to.
        group: GroupId,
    },
    /// A group gets its place on the class ring.
    Ring {
        /// The group.
        group: GroupId,
    },
}

/// A move of slots or classes. Moves are carried out one after the other: sealed at every queue
/// that gives or gets something, then in effect.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SlotMoveRow {
    /// Which move.
    pub number: MoveNumber,
    /// What was wished for.
    pub change: SlotChange,
    /// What that means, from when its turn has come, with the ends that are known.
    pub moved: Option<SlotMove>,
    /// The queues that are sealed for it.
    pub sealed: BTreeSet<QueueId>,
    /// Whether it is in effect.
    pub published: bool,
}

/// The fences that a subscription has passed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PassedRow {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// What it has passed.
    pub passed: Vec<Fence>,
}

/// A binding that holds, or one that held once.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct BindingRow {
    /// Which classes.
    pub filter: Filter,
    /// Where to.
    pub group: GroupId,
}

/// A set of ring groups that held once: which families it sent where is not forgotten, since
/// messages from then are still read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PastRing {
    /// Counts the sets, from 0.
    pub number: u32,
    /// The groups and their weights.
    pub groups: Vec<(GroupId, u32)>,
}

/// A subscription.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SubscriptionRow {
    /// Everything that its workers know too.
    pub setup: SubscriptionSetup,
    /// Whether members or rights changed since the last plan of its rights.
    pub plan_due: bool,
}

/// A worker that has registered once.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WorkerRow {
    /// Who it is.
    pub id: WorkerId,
    /// The process that registered last.
    pub incarnation: Incarnation,
    /// The identity of its journal.
    pub journal: Uuid,
    /// HOST:PORT for clients and other workers.
    pub address: String,
    /// HOST:PORT of its metrics, if it serves them.
    pub http: Option<String>,
    /// Its share of the queues in proportion to the others'.
    pub weight: u32,
    /// Where it stands.
    pub zone: Option<String>,
    /// Whether its session has not lapsed.
    pub up: bool,
    /// Whether it is to be emptied: plans treat it as having left.
    #[serde(default)]
    pub draining: bool,
}

/// Why a queue or a right moves, as the metrics tell it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MoveReason {
    /// A node came.
    Joined,
    /// A node went.
    Left,
    /// A weight changed.
    Weight,
    /// A node had more than its share.
    Quota,
}

impl MoveReason {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Joined, Self::Left, Self::Weight, Self::Quota];

    /// The value of the `reason` label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Left => "left",
            Self::Weight => "weight",
            Self::Quota => "quota",
        }
    }
}

/// How far a move of a queue has come. Each step is stored before anyone is told of it, so that
/// the limits of what goes on at once hold over restarts too.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MoveStep {
    /// The queue never accepted a message: its primary seals it if that is still so.
    #[default]
    Empty,
    /// It has messages, and its turn to be copied has not come.
    Waiting,
    /// Its new primary copies it.
    Copying,
    /// The copy is close: the old primary seals the queue, the new one copies the rest.
    Sealing,
}

/// A move of a queue that is under way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Moving {
    /// To which worker.
    pub to: WorkerId,
    /// The attempt that seal and swap name.
    pub attempt: Attempt,
    /// Why, for people: `joined w4`.
    pub reason: String,
    /// Why, for metrics.
    pub label: MoveReason,
    /// How far it has come.
    #[serde(default)]
    pub step: MoveStep,
}

impl Moving {
    /// Whether the new primary was told to copy.
    #[must_use]
    pub fn has_copy(&self) -> bool {
        matches!(self.step, MoveStep::Copying | MoveStep::Sealing)
    }
}

/// A queue.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct QueueRow {
    /// Which queue.
    pub id: QueueId,
    /// The identity of its log.
    pub uuid: Uuid,
    /// The primary's epoch; 0 before the first assignment.
    pub epoch: Epoch,
    /// Who orders and serves it.
    pub primary: Option<WorkerId>,
    /// Whether it ever accepted a message: then it moves only with its data.
    pub has_data: bool,
    /// The newest attempt to move it that was made or given up.
    pub attempt: Attempt,
    /// The move that is under way.
    pub moving: Option<Moving>,
}

/// A copy of a queue that a worker has to remove, until it said that it did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GraveRow {
    /// Who has the copy.
    pub worker: WorkerId,
    /// Which queue.
    pub queue: QueueId,
    /// Which log.
    pub uuid: Uuid,
    /// Only a copy of a lower epoch goes.
    pub epoch: Epoch,
}

/// A member of a subscription.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberRow {
    /// Of which subscription.
    pub subscription: SubscriptionId,
    /// Who it is.
    pub member: MemberId,
    /// Which process of it has the seat.
    pub incarnation: Incarnation,
    /// Its share of the rights in proportion to the others'.
    pub weight: u32,
    /// Where it runs, in its own words.
    pub origin: String,
    /// Whether it asked to leave: it gets no rights any more and goes when it holds none.
    pub leaving: bool,
}

impl MemberRow {
    /// The holder that this member is now.
    #[must_use]
    pub fn holder(&self) -> Holder {
        Holder { member: self.member.clone(), incarnation: self.incarnation }
    }
}

/// Where a right is in its life.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Phase {
    /// Nobody holds it, and the primary knows that (or nobody ever held it).
    Free,
    /// The primary is to confirm the epoch; then it belongs to `to`, or to nobody.
    Raising {
        /// Who gets it.
        to: Option<Holder>,
    },
    /// Held.
    Granted(Holder),
    /// Held until drained, or until a deadline that is not stored.
    Revoking(Holder),
}

/// A split of a right: first decided; its holder gives the other parts up, if there is one; then
/// done here, until the primary confirmed it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cut {
    /// What stays under its epoch.
    pub keep: Lanes,
    /// The other parts, in the order of lanes.
    pub pieces: Vec<Piece>,
    /// Once it is done: what the right was before.
    pub of: Option<Lanes>,
}

/// A part of a right that goes to somebody else.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Piece {
    /// Which lanes.
    pub lanes: Lanes,
    /// To whom the plan gives it.
    pub target: Option<MemberId>,
    /// Why it moves there.
    pub reason: Option<MoveReason>,
}

/// A merge that was decided. It happens when nobody holds any of its parts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Merging {
    /// What the parts become.
    pub lanes: Lanes,
    /// To whom the plan gives that.
    pub to: Option<MemberId>,
}

/// A consume right.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RightRow {
    /// Which right.
    pub id: RightId,
    /// Its epoch; 0 before it was ever raised.
    pub epoch: Epoch,
    /// Where it is in its life.
    pub phase: Phase,
    /// To whom the plan gives it.
    pub target: Option<MemberId>,
    /// Who was granted it last; none again when the plan gave it to nobody.
    pub last: Option<MemberId>,
    /// Why it moves from `last` to `target`, while it does.
    pub reason: Option<MoveReason>,
    /// Where the subscription begins at this queue.
    pub start: Start,
    /// Whether the primary confirmed that beginning.
    pub started: bool,
    /// How it is being split.
    #[serde(default)]
    pub cut: Option<Cut>,
    /// What it is to be merged into.
    #[serde(default)]
    pub merging: Option<Merging>,
    /// What it was merged from, until its primary confirmed that.
    #[serde(default)]
    pub parts: Vec<GrantedRight>,
}

impl RightRow {
    /// A right that nobody ever held.
    #[must_use]
    pub fn new(id: RightId, start: Start) -> Self {
        Self {
            id,
            epoch: Epoch(0),
            phase: Phase::Free,
            target: None,
            last: None,
            reason: None,
            start,
            started: false,
            cut: None,
            merging: None,
            parts: Vec::new(),
        }
    }
}

/// One row of the store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Row {
    /// Numbers of the cluster.
    Meta(Meta),
    /// A group.
    Group(GroupRow),
    /// A binding that holds.
    Binding(BindingRow),
    /// A binding that holds or held once.
    PastBinding(BindingRow),
    /// A set of ring groups that holds or held once.
    PastRing(PastRing),
    /// A subscription.
    Subscription(SubscriptionRow),
    /// A worker.
    Worker(WorkerRow),
    /// A queue.
    Queue(QueueRow),
    /// A copy to remove.
    Grave(GraveRow),
    /// A member.
    Member(MemberRow),
    /// A right.
    Right(RightRow),
    /// A plan that was made.
    Plan(PlanRow),
    /// A move of slots or classes.
    SlotMove(Box<SlotMoveRow>),
    /// What a subscription has passed.
    Passed(PassedRow),
}

/// What names a row.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Key {
    /// The one [`Row::Meta`].
    Meta,
    /// A group.
    Group(GroupId),
    /// A binding that holds.
    Binding(Filter),
    /// A binding that holds or held once.
    PastBinding(Filter, GroupId),
    /// A set of ring groups.
    PastRing(u32),
    /// A subscription.
    Subscription(SubscriptionId),
    /// A worker.
    Worker(WorkerId),
    /// A queue.
    Queue(QueueId),
    /// A copy to remove.
    Grave(WorkerId, QueueId),
    /// A member.
    Member(SubscriptionId, MemberId),
    /// A right.
    Right(RightId),
    /// A plan that was made.
    Plan(u64),
    /// A move of slots or classes.
    SlotMove(MoveNumber),
    /// What a subscription has passed.
    Passed(SubscriptionId),
}

impl Row {
    /// What names this row.
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Self::Meta(_) => Key::Meta,
            Self::Group(row) => Key::Group(row.id),
            Self::Binding(row) => Key::Binding(row.filter.clone()),
            Self::PastBinding(row) => Key::PastBinding(row.filter.clone(), row.group),
            Self::PastRing(row) => Key::PastRing(row.number),
            Self::Subscription(row) => Key::Subscription(row.setup.id),
            Self::Worker(row) => Key::Worker(row.id.clone()),
            Self::Queue(row) => Key::Queue(row.id),
            Self::Grave(row) => Key::Grave(row.worker.clone(), row.queue),
            Self::Member(row) => Key::Member(row.subscription, row.member.clone()),
            Self::Right(row) => Key::Right(row.id),
            Self::Plan(row) => Key::Plan(row.number),
            Self::SlotMove(row) => Key::SlotMove(row.number),
            Self::Passed(row) => Key::Passed(row.subscription),
        }
    }
}

/// A change to the store. All changes of one step are committed together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// The row is this from now on.
    Put(Row),
    /// There is no such row any more.
    Delete(Key),
}
