//! Questions and commands of administrators, one per request stream, and their answers: plain
//! data, which is also what the command line prints with `--json`. Keys are only ever added.

use serde::{Deserialize, Serialize};

use crate::class::{Class, Filter};
use crate::control::{Order, Start};
use crate::ids::{
    Epoch, GroupName, MemberId, MoveNumber, Offset, RoutingVersion, SubscriptionId,
    SubscriptionName, WorkerId,
};

/// What an administrator asks of the coordinator.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum AdminRequest {
    /// Make a group. One that exists alike is success.
    GroupCreate {
        /// Its name.
        name: GroupName,
        /// How many queues, 1 to 4,096.
        queues: u32,
        /// Its weight on the class ring; none keeps it off the ring.
        ring_weight: Option<u32>,
        /// The largest body, in bytes; none is 1 MiB.
        max_body_bytes: Option<u32>,
    },
    /// Give a group more queues. Asked again, it says how far that is.
    GroupGrow {
        /// Its name.
        name: GroupName,
        /// How many queues it is to have in all.
        queues: u32,
    },
    /// All groups.
    GroupList,
    /// One group with its queues.
    GroupDescribe {
        /// Its name.
        name: GroupName,
    },
    /// Remove a group, its queues and their messages.
    GroupDelete {
        /// Its name.
        name: GroupName,
        /// Only say what would go.
        dry_run: bool,
    },
    /// Send classes that match to a group. A binding of the same filter is replaced.
    Bind {
        /// Which classes.
        filter: Filter,
        /// Where to.
        group: GroupName,
    },
    /// All bindings, most specific first.
    BindingList,
    /// Which group a class goes to, and why.
    Route {
        /// The class.
        class: Class,
    },
    /// All subscriptions.
    SubscriptionList,
    /// One subscription with its members and rights.
    SubscriptionDescribe {
        /// Its name.
        name: SubscriptionName,
    },
    /// The cluster as a whole.
    ClusterStatus,
    /// All workers.
    ClusterWorkers,
    /// The plan of queues as it stands, with what waits and why.
    Plan,
    /// Move every queue away from a worker, or take that back.
    Drain {
        /// The worker.
        worker: WorkerId,
        /// Give it queues again.
        undo: bool,
    },
    /// What would move if a worker joined, came with another weight, or left. Changes nothing.
    PlanIf {
        /// The change to think through.
        change: PlanChange,
    },
    /// Why a queue, or a consume right, is where it is, and why it moved last.
    Explain {
        /// The queue, `GROUP/N`.
        queue: String,
        /// The subscription whose right to that queue is meant; none means the queue.
        subscription: Option<SubscriptionName>,
    },
    /// The plans that are kept, newest first.
    PlanList {
        /// At most so many.
        limit: u32,
    },
    /// Compute kept plans anew from their inputs, and compare.
    PlanReplay {
        /// From this number on; none means all that are kept.
        from: Option<u64>,
    },
}

/// A change of the workers that a plan can be asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PlanChange {
    /// A worker joins, or has another weight.
    Join {
        /// The worker.
        worker: WorkerId,
        /// Its weight.
        weight: u32,
    },
    /// A worker leaves.
    Leave {
        /// The worker.
        worker: WorkerId,
    },
}

/// What the coordinator answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum AdminResponse {
    /// A group was made, or was there already.
    GroupCreated {
        /// The group.
        group: GroupInfo,
        /// Whether it is new.
        created: bool,
    },
    /// All groups.
    Groups(Vec<GroupInfo>),
    /// One group.
    Group {
        /// The group.
        group: GroupInfo,
        /// Its queues.
        queues: Vec<QueueInfo>,
        /// How far it is, while it grows.
        #[serde(default)]
        growing: Option<GrowInfo>,
        /// Fences at its queues that subscriptions have not passed: what moved away from these
        /// queues is delivered behind what they still have.
        #[serde(default)]
        fences: u32,
    },
    /// The group has, or will have, so many queues.
    Growing {
        /// The group.
        group: GroupInfo,
        /// How far it is; none when all its queues take their share of the slots.
        growing: Option<GrowInfo>,
    },
    /// What went, or would go.
    GroupDeleted {
        /// The group.
        group: GroupInfo,
        /// Whether it was only said and not done.
        dry_run: bool,
    },
    /// The binding holds.
    Bound {
        /// The binding.
        binding: BindingInfo,
        /// The group that it sent to before, if it was changed.
        replaced: Option<GroupName>,
        /// The classes are on their way: they go there when every queue that gives or gets some of
        /// them is sealed for it.
        #[serde(default)]
        moving: bool,
    },
    /// All bindings.
    Bindings(Vec<BindingInfo>),
    /// Where a class goes.
    Route(RouteInfo),
    /// All subscriptions.
    Subscriptions(Vec<SubscriptionInfo>),
    /// One subscription.
    Subscription {
        /// The subscription.
        subscription: SubscriptionInfo,
        /// Its members.
        members: Vec<MemberInfo>,
        /// Its rights.
        rights: Vec<RightInfo>,
    },
    /// The cluster.
    Status(ClusterStatus),
    /// All workers.
    Workers(Vec<WorkerInfo>),
    /// The plan of queues.
    Plan(PlanInfo),
    /// The worker is being drained, or not any more.
    Draining(WorkerInfo),
    /// Why something is where it is.
    Explanation(Explanation),
    /// Plans that are kept.
    Plans(Vec<PlanSummary>),
    /// What computing plans anew found.
    Replayed(ReplayInfo),
}

/// Why a queue, or a right to it, is where it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// The queue, `GROUP/N`.
    pub queue: String,
    /// Whose right to it is explained; none means the queue.
    pub subscription: Option<SubscriptionName>,
    /// The worker or member that has it.
    pub owner: Option<String>,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its state.
    pub state: String,
    /// The rank of the owner in the item's own order of preference, from 1; none without owner.
    pub preference: Option<u32>,
    /// How many items the owner has, and how many it may have.
    pub held: u32,
    /// How many it may have by its weight.
    pub quota: u32,
    /// Why it is there, in a sentence.
    pub because: String,
    /// The last move: plan number, from, to, reason; none when it never moved.
    pub last_move: Option<LastMove>,
}

/// The last move of a queue or right.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LastMove {
    /// The plan that moved it.
    pub plan: u64,
    /// From where.
    pub from: Option<String>,
    /// To where.
    pub to: String,
    /// Why.
    pub reason: String,
}

/// A plan that is kept, in short.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlanSummary {
    /// Its number.
    pub number: u64,
    /// The version of the planner that made it.
    pub planner: u32,
    /// What it is a plan of: `queues`, or the name of a subscription.
    pub of: String,
    /// When it was made, in milliseconds since 1970.
    pub made_at_ms: u64,
    /// How many nodes it had.
    pub nodes: u32,
    /// How many items it had.
    pub items: u32,
    /// How many of them it moved.
    pub moves: u32,
    /// The least that had to move.
    pub lower_bound: u32,
}

/// What computing plans anew found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ReplayInfo {
    /// Computed anew and found the same.
    pub same: u32,
    /// Computed anew and found different: their numbers.
    pub different: Vec<u64>,
    /// Made by another version of the planner, and not computed.
    pub other_version: Vec<u64>,
}

/// A queue on its way from one worker to another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MovingInfo {
    /// The queue, `GROUP/N`.
    pub queue: String,
    /// From which worker.
    pub from: Option<WorkerId>,
    /// To which worker.
    pub to: WorkerId,
    /// `waiting`, `copying`, `sealed`, `opening`.
    pub phase: String,
    /// Bytes of batches that the copy has.
    pub copied_bytes: u64,
    /// Bytes of batches that the original has, as last heard.
    pub total_bytes: u64,
    /// How long the rest of the copy takes at the present rate, in seconds, if that can be said.
    pub eta_seconds: Option<u64>,
}

/// How far a group is that grows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GrowInfo {
    /// The number of the move of its slots.
    pub number: MoveNumber,
    /// How many queues it will use.
    pub queues: u32,
    /// Queues that are sealed for the move.
    pub sealed: u32,
    /// Queues that have to be.
    pub of: u32,
    /// Whom it waits for, if somebody is missing.
    pub waits: Option<String>,
}

/// A group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GroupInfo {
    /// Its name.
    pub name: GroupName,
    /// How many queues it has.
    pub queues: u32,
    /// Its weight on the class ring, if it is on it.
    pub ring_weight: Option<u32>,
    /// The largest body, in bytes.
    pub max_body_bytes: u32,
    /// How many bindings send to it.
    pub bindings: u32,
}

/// A queue.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct QueueInfo {
    /// `GROUP/N`.
    pub queue: String,
    /// Its primary.
    pub primary: Option<WorkerId>,
    /// The primary's epoch.
    pub epoch: Epoch,
    /// `serving`, `moving`, `waiting for w2`, `no worker`.
    pub state: String,
    /// Whether it ever accepted a message.
    pub has_data: bool,
}

/// A binding.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BindingInfo {
    /// Which classes.
    pub filter: Filter,
    /// Where to.
    pub group: GroupName,
}

/// Where a class goes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RouteInfo {
    /// The class.
    pub class: Class,
    /// The group.
    pub group: GroupName,
    /// The binding that says so; none means the class ring.
    pub binding: Option<Filter>,
}

/// A subscription.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SubscriptionInfo {
    /// Its name.
    pub name: SubscriptionName,
    /// Its number.
    pub id: SubscriptionId,
    /// What it sees.
    pub filter: Filter,
    /// Whether the order of each key is kept.
    pub order: Order,
    /// Where it began.
    pub start: Start,
    /// How many members it has.
    pub members: u32,
    /// How many rights it has.
    pub rights: u32,
    /// How many of them are held by a member.
    pub granted: u32,
}

/// A member.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberInfo {
    /// Its id.
    pub member: MemberId,
    /// Its weight.
    pub weight: u32,
    /// `live`, `silent`, `leaving`.
    pub state: String,
    /// Where it runs, in its own words.
    pub origin: String,
    /// How many rights it holds.
    pub rights: u32,
}

/// A right.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RightInfo {
    /// The queue, `GROUP/N`.
    pub queue: String,
    /// Its epoch.
    pub epoch: Epoch,
    /// `free`, `raising`, `granted`, `revoking`.
    pub state: String,
    /// Who holds it, or gets it next.
    pub member: Option<MemberId>,
}

/// The cluster as a whole.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The coordinator that answers.
    pub coordinator: String,
    /// Its version of Ringway.
    pub version: String,
    /// The routing version.
    pub routing: RoutingVersion,
    /// The number of the last plan.
    pub plan: u64,
    /// Workers known.
    pub workers: u32,
    /// Workers connected.
    pub workers_up: u32,
    /// Groups.
    pub groups: u32,
    /// Queues of all groups.
    pub queues: u32,
    /// Queues whose primary is connected and serves.
    pub queues_serving: u32,
    /// Subscriptions.
    pub subscriptions: u32,
    /// Members of all subscriptions.
    pub members: u32,
    /// Moves of queues and rights that were carried out since the cluster began.
    pub moves: u64,
    /// The least moves that the same changes could have needed.
    pub lower_bound: u64,
    /// Queues on their way.
    #[serde(default)]
    pub moving: Vec<MovingInfo>,
}

/// A worker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WorkerInfo {
    /// Its id.
    pub worker: WorkerId,
    /// `up`, `down`, `draining`, or `drained`: nothing is left on it, it may be stopped for good.
    pub state: String,
    /// Where it is reached.
    pub address: String,
    /// Where its metrics are, if it serves them.
    pub http: Option<String>,
    /// Its weight.
    pub weight: u32,
    /// How many queues it leads.
    pub queues: u32,
}

/// The plan of queues as it stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlanInfo {
    /// Its number.
    pub number: u64,
    /// Its moves, with those that wait.
    pub moves: Vec<MoveInfo>,
    /// The least moves that would balance the queues.
    pub lower_bound: u64,
}

/// One move of a plan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MoveInfo {
    /// The queue, `GROUP/N`.
    pub queue: String,
    /// From which worker.
    pub from: Option<WorkerId>,
    /// To which worker.
    pub to: WorkerId,
    /// Why: `joined w4`, `left w2`, `over quota`.
    pub reason: String,
    /// Why it does not happen now, `has data`; none while it happens.
    pub waits: Option<String>,
}

/// What is asked of a worker, on a request stream.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum WorkerRequest {
    /// How far a subscription is at each queue of this worker.
    Lag {
        /// The subscription.
        subscription: SubscriptionId,
    },
}

/// What a worker answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum WorkerResponse {
    /// How far a subscription is.
    Lag(Vec<QueueLag>),
}

/// How far a subscription is at one queue.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct QueueLag {
    /// The queue, `GROUP/N`.
    pub queue: String,
    /// The offset behind its last durable message.
    pub end: Offset,
    /// Everything below is acked or does not match.
    pub floor: Offset,
    /// Matching messages not acked: exact up to the read position, an upper bound beyond it.
    pub lag_messages: u64,
    /// Delivered and not acked.
    pub in_flight_messages: u64,
    /// Messages among them that wait until others are acked at the queues that they moved from.
    #[serde(default)]
    pub fenced_messages: u64,
    /// Who holds the right.
    pub member: Option<MemberId>,
}
