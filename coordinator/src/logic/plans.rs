//! The plans that were made, with their inputs: enough to compute each of them anew and to say
//! why something moved. It promises that a plan which is kept is kept whole, and that what is kept
//! is bounded. It does not know what became of a plan.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use ringway_proto::admin::{LastMove, PlanSummary, ReplayInfo};
use ringway_proto::ring::RingNode;
use ringway_proto::{MemberId, QueueId, RightId, SubscriptionId, SubscriptionName, WorkerId};

use super::plan::{
    Item, Node, PLANNER_VERSION, Pin, Plan, Preferences, plan, queue_point, right_point,
};
use super::split::cell_of;

/// How many plans are kept.
pub const MAX_KEPT: usize = 10_000;
/// How much memory they may take, about, in bytes: large plans are kept for a shorter time.
pub const MAX_KEPT_BYTES: usize = 256 << 20;

/// What a plan is a plan of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PlanOf {
    /// All queues, on the workers.
    Queues,
    /// The rights of a subscription, on its members.
    Rights {
        /// Its number.
        id: SubscriptionId,
        /// Its name.
        name: SubscriptionName,
        /// How finely its queues were cut: an item is a cell ([`super::split::numbered`]).
        #[serde(default)]
        depth: u32,
    },
}

impl PlanOf {
    fn point(&self, queue: QueueId) -> u64 {
        match self {
            Self::Queues => queue_point(queue),
            Self::Rights { id, depth, .. } => {
                let (queue, lanes) = cell_of(queue, *depth);
                right_point(&RightId::whole(*id, queue).with(lanes))
            }
        }
    }

    /// The queue that an item is, or is cut from.
    fn queue(&self, item: QueueId) -> QueueId {
        match self {
            Self::Queues => item,
            Self::Rights { depth, .. } => cell_of(item, *depth).0,
        }
    }

    fn label(&self) -> String {
        match self {
            Self::Queues => "queues".to_owned(),
            Self::Rights { name, .. } => name.to_string(),
        }
    }
}

/// Who takes part in plans that are kept: has a name that it can be made from again.
pub trait Named: RingNode + fmt::Display {
    /// The node of this name.
    fn named(name: &str) -> Option<Self>;
}

impl Named for WorkerId {
    fn named(name: &str) -> Option<Self> {
        Self::new(name).ok()
    }
}

impl Named for MemberId {
    fn named(name: &str) -> Option<Self> {
        Self::new(name).ok()
    }
}

/// A node of a plan: its name, its weight, and whether it is up.
type NodeRow = (String, u32, bool);

/// A plan with its inputs. Items are queues, or the rights to them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlanRow {
    /// Its number.
    pub number: u64,
    /// The version of the planner that made it.
    pub planner: u32,
    /// What it is a plan of.
    pub of: PlanOf,
    /// When it was made, in milliseconds since 1970.
    pub made_at_ms: u64,
    before: Vec<NodeRow>,
    nodes: Vec<NodeRow>,
    /// Runs of items: the number of the first queue, and how many follow each other.
    items: Vec<(u64, u32)>,
    /// Everyone who has or gets an item.
    names: Vec<String>,
    /// Who has each item: the place in `names` from 1, 0 for nobody.
    owners: Vec<u32>,
    /// Which items cannot be moved: their places.
    pinned: Vec<u32>,
    steps: Vec<StepRow>,
    lower_bound: u32,
}

/// An item that gets another owner by a plan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct StepRow {
    /// Its place among the items.
    item: u32,
    /// Who gets it: the place in `names`.
    to: u32,
    /// Why it moves; none when nobody had it.
    reason: Option<String>,
    /// Whether it cannot move yet.
    waits: bool,
}

/// What a plan was made from, besides its items.
#[derive(Clone, Debug)]
pub struct Inputs<'a, N> {
    /// Its number.
    pub number: u64,
    /// What it is a plan of.
    pub of: PlanOf,
    /// When it was made, in milliseconds since 1970.
    pub made_at_ms: u64,
    /// The nodes of the plan before.
    pub before: &'a [Node<N>],
    /// The nodes.
    pub nodes: &'a [Node<N>],
}

impl PlanRow {
    /// The plan that was made from these inputs. Items stand in the order of their queues.
    #[must_use]
    pub fn new<I, N: Named>(
        inputs: Inputs<'_, N>,
        items: &[Item<'_, I, N>],
        queue_of: impl Fn(&I) -> QueueId,
        made: &Plan<I, N>,
    ) -> Self {
        let mut names = Names::default();
        let queues: Vec<u64> = items.iter().map(|item| u64::from(queue_of(&item.id))).collect();
        let place = |id: &I| queues.binary_search(&u64::from(queue_of(id))).unwrap_or(0) as u32;
        let first = made.first.iter().map(|(id, to)| (place(id), to, None, false));
        let moves = made
            .moves
            .iter()
            .map(|m| (place(&m.item), &m.to, Some(m.reason.to_string()), m.waits.is_some()));
        let steps = first
            .chain(moves)
            .map(|(item, to, reason, waits)| StepRow { item, to: names.place(to), reason, waits })
            .collect();
        let owners = items.iter().map(|i| i.owner.map_or(0, |id| names.place(id) + 1)).collect();
        let pinned = (0..).zip(items).filter(|(_, item)| item.pin != Pin::Free);
        Self {
            number: inputs.number,
            planner: PLANNER_VERSION,
            of: inputs.of,
            made_at_ms: inputs.made_at_ms,
            before: inputs.before.iter().map(node_row).collect(),
            nodes: inputs.nodes.iter().map(node_row).collect(),
            items: runs(&queues),
            owners,
            pinned: pinned.map(|(place, _)| place).collect(),
            steps,
            names: names.list,
            lower_bound: made.lower_bound as u32,
        }
    }

    /// The plan in short.
    #[must_use]
    pub fn summary(&self) -> PlanSummary {
        let moves = self.steps.iter().filter(|step| step.reason.is_some()).count();
        PlanSummary {
            number: self.number,
            planner: self.planner,
            of: self.of.label(),
            made_at_ms: self.made_at_ms,
            nodes: self.nodes.len() as u32,
            items: self.owners.len() as u32,
            moves: moves as u32,
            lower_bound: self.lower_bound,
        }
    }

    /// The move of this queue, or of the right to it, if the plan has one to this owner.
    fn move_of(&self, queue: QueueId, owner: &str) -> Option<LastMove> {
        let items: Vec<QueueId> = self.queues().map(|item| self.of.queue(item)).collect();
        let is_it = |step: &&StepRow| {
            let to = self.names.get(step.to as usize).is_some_and(|to| to == owner);
            to && items.get(step.item as usize) == Some(&queue)
        };
        let step = self.steps.iter().find(is_it)?;
        let to = self.names.get(step.to as usize)?;
        let had = (*self.owners.get(step.item as usize)? as usize).checked_sub(1);
        Some(LastMove {
            plan: self.number,
            from: had.and_then(|had| self.names.get(had)).cloned(),
            to: to.clone(),
            reason: step.reason.clone()?,
        })
    }

    /// Whether the planner makes the same of these inputs again, to the last bit.
    fn is_same_again(&self) -> bool {
        let again = match self.of {
            PlanOf::Queues => self.again::<WorkerId>(),
            PlanOf::Rights { .. } => self.again::<MemberId>(),
        };
        again.is_some_and(|again| again == *self)
    }

    fn again<N: Named>(&self) -> Option<Self> {
        let nodes = |rows: &[NodeRow]| rows.iter().map(node).collect::<Option<Vec<Node<N>>>>();
        let (before, nodes) = (nodes(&self.before)?, nodes(&self.nodes)?);
        let names: Vec<N> = self.names.iter().map(|n| N::named(n)).collect::<Option<_>>()?;
        let mut items: Vec<Item<'_, QueueId, N>> = Vec::with_capacity(self.owners.len());
        for (queue, owner) in self.queues().zip(&self.owners) {
            let owner = (*owner as usize).checked_sub(1).map(|at| names.get(at).ok_or(()));
            let owner = owner.transpose().ok()?;
            items.push(Item { id: queue, point: self.of.point(queue), owner, pin: Pin::Free });
        }
        for place in &self.pinned {
            items.get_mut(*place as usize)?.pin = Pin::OwnerDown;
        }
        let made = plan(&mut Preferences::default(), &before, &nodes, &items);
        let inputs = Inputs {
            number: self.number,
            of: self.of.clone(),
            made_at_ms: self.made_at_ms,
            before: &before,
            nodes: &nodes,
        };
        Some(Self::new(inputs, &items, |queue| *queue, &made))
    }

    fn queues(&self) -> impl Iterator<Item = QueueId> + '_ {
        let numbers = |(first, n): &(u64, u32)| (0..u64::from(*n)).zip(std::iter::repeat(*first));
        self.items.iter().flat_map(numbers).map(|(n, first)| QueueId::from(first.wrapping_add(n)))
    }

    /// About how many bytes it takes in memory.
    fn bytes(&self) -> usize {
        let names = self.before.len() + self.nodes.len() + self.names.len();
        256 + 48 * names + 4 * (self.owners.len() + self.pinned.len()) + 64 * self.steps.len()
    }
}

fn node_row<N: Named>(node: &Node<N>) -> NodeRow {
    (node.id.to_string(), node.weight, node.up)
}

fn node<N: Named>((name, weight, up): &NodeRow) -> Option<Node<N>> {
    Some(Node { id: N::named(name)?, weight: *weight, up: *up })
}

fn runs(queues: &[u64]) -> Vec<(u64, u32)> {
    let mut runs: Vec<(u64, u32)> = Vec::new();
    for queue in queues {
        match runs.last_mut() {
            Some((first, n)) if first.checked_add(u64::from(*n)) == Some(*queue) => *n += 1,
            _ => runs.push((*queue, 1)),
        }
    }
    runs
}

/// Gives each name a place.
#[derive(Default)]
struct Names {
    list: Vec<String>,
    places: BTreeMap<String, u32>,
}

impl Names {
    fn place(&mut self, id: &impl fmt::Display) -> u32 {
        let name = id.to_string();
        if let Some(place) = self.places.get(&name) {
            return *place;
        }
        let place = self.list.len() as u32;
        self.list.push(name.clone());
        self.places.insert(name, place);
        place
    }
}

/// The plans that are kept, oldest first.
#[derive(Clone, Debug, Default)]
pub struct PlanLog {
    plans: VecDeque<Arc<PlanRow>>,
    bytes: usize,
}

impl PlanLog {
    /// Takes a stored plan. They come in the order of their numbers.
    pub fn restore(&mut self, row: PlanRow) {
        self.bytes += row.bytes();
        self.plans.push_back(Arc::new(row));
    }

    /// Keeps a plan. Returns the numbers of those that had to go for it.
    pub fn keep(&mut self, row: PlanRow) -> Vec<u64> {
        self.restore(row);
        let mut gone = Vec::new();
        while self.plans.len() > MAX_KEPT || self.bytes > MAX_KEPT_BYTES && self.plans.len() > 1 {
            let Some(oldest) = self.plans.pop_front() else { break };
            self.bytes -= oldest.bytes();
            gone.push(oldest.number);
        }
        gone
    }

    /// The plan with this number, if it is kept.
    #[must_use]
    pub fn get(&self, number: u64) -> Option<&PlanRow> {
        let found = self.plans.binary_search_by_key(&number, |row| row.number).ok()?;
        self.plans.get(found).map(Arc::as_ref)
    }

    /// The newest plans in short, newest first.
    #[must_use]
    pub fn newest(&self, limit: usize) -> Vec<PlanSummary> {
        self.plans.iter().rev().take(limit).map(|row| row.summary()).collect()
    }

    /// The plans from this number on, or all.
    #[must_use]
    pub fn since(&self, from: Option<u64>) -> Vec<Arc<PlanRow>> {
        let wanted = |row: &&Arc<PlanRow>| from.is_none_or(|from| row.number >= from);
        self.plans.iter().filter(wanted).cloned().collect()
    }

    /// The newest plan by which `owner` got this queue, or the right to it, from someone else.
    #[must_use]
    pub fn last_move(
        &self,
        queue: QueueId,
        of: Option<SubscriptionId>,
        owner: &str,
    ) -> Option<LastMove> {
        let concerns = |row: &&Arc<PlanRow>| match (&row.of, of) {
            (PlanOf::Queues, None) => true,
            (PlanOf::Rights { id, .. }, Some(of)) => *id == of,
            _ => false,
        };
        let mut newest_first = self.plans.iter().rev().filter(concerns);
        newest_first.find_map(|row| row.move_of(queue, owner))
    }
}

/// Computes plans anew from their inputs and compares. Takes as long as making them did.
#[must_use]
pub fn replay(plans: &[Arc<PlanRow>]) -> ReplayInfo {
    let mut info = ReplayInfo::default();
    for row in plans {
        if row.planner != PLANNER_VERSION {
            info.other_version.push(row.number);
        } else if row.is_same_again() {
            info.same += 1;
        } else {
            info.different.push(row.number);
        }
    }
    info
}

#[cfg(test)]
mod tests {
    use ringway_proto::GroupId;

    use super::*;

    fn worker(name: &str) -> WorkerId {
        WorkerId::new(name).unwrap()
    }

    /// A plan of eight queues at `w1` when `w2` joins; `w0` is gone, and had one of them.
    fn made(number: u64) -> PlanRow {
        let node = |name| Node { id: worker(name), weight: 100, up: true };
        let (before, nodes) = ([node("w0"), node("w1")], [node("w1"), node("w2")]);
        let (w0, w1) = (worker("w0"), worker("w1"));
        let queue = |n: u32| QueueId::new(GroupId(n / 5), n % 5);
        let owner = |n| [Some(&w0), None].get(n as usize).copied().unwrap_or(Some(&w1));
        let pin = |n| if n == 0 { Pin::OwnerDown } else { Pin::Free };
        let item =
            |n| Item { id: queue(n), point: queue_point(queue(n)), owner: owner(n), pin: pin(n) };
        let items: Vec<_> = (0..8).map(item).collect();
        let plan = plan(&mut Preferences::default(), &before, &nodes, &items);
        let (of, made_at_ms) = (PlanOf::Queues, 7);
        let inputs = Inputs { number, of, made_at_ms, before: &before, nodes: &nodes };
        PlanRow::new(inputs, &items, |id| *id, &plan)
    }

    #[test]
    fn a_kept_plan_computes_to_the_same_again_and_a_changed_one_is_found() {
        let row = made(1);
        let summary = row.summary();
        assert_eq!((summary.items, summary.nodes, summary.lower_bound), (8, 2, 3));
        assert_eq!(summary.moves, summary.lower_bound);
        let stored = ringway_proto::codec::encode(&row).unwrap();
        assert_eq!(ringway_proto::codec::decode::<PlanRow>(&stored).unwrap(), row);

        let (mut other_owner, mut old) = (row.clone(), row.clone());
        other_owner.owners[7] = 0;
        other_owner.number = 2;
        old.planner = 0;
        let info = replay(&[row.into(), other_owner.into(), old.into()]);
        assert_eq!((info.same, info.different, info.other_version), (1, vec![2], vec![1]));
    }

    #[test]
    fn the_last_move_names_its_plan_and_only_the_newest_plans_are_kept() {
        let mut log = PlanLog::default();
        assert!((1..=MAX_KEPT as u64).all(|n| log.keep(made(n)).is_empty()));
        assert_eq!(log.keep(made(MAX_KEPT as u64 + 1)), [1]);
        assert_eq!((log.get(1), log.get(2).map(|p| p.number)), (None, Some(2)));
        assert_eq!(log.newest(2).iter().map(|p| p.number).collect::<Vec<_>>(), [10_001, 10_000]);
        let first = QueueId::new(GroupId(0), 0);
        let to = ["w1", "w2"].map(|to| log.last_move(first, None, to));
        let last = to.into_iter().flatten().next().unwrap();
        assert_eq!((last.plan, last.from.as_deref()), (10_001, Some("w0")));
        assert_eq!(last.reason, "left w0");
        assert_eq!(log.last_move(first, Some(SubscriptionId(0)), &last.to), None);
    }
}
