//! The planner: who should hold what, given who holds it now. Used for queues on workers and for
//! the consume rights of one subscription on its members.
//!
//! It promises exact balance (each node gets the floor or the ceiling of its weighted share), no
//! move that balance does not force, and the same plan for the same input on every machine. It
//! does not know what an item is, when a move happens, or how.
//!
//! The steps, in the order of [`plan`]: quotas by weight ([`share`]); items stay with their owner
//! unless it has left or is over quota, and the consistent-hash ring says which leave and where
//! they go ([`choice`]); how few moves were possible is counted apart from all that ([`bound`]).

pub mod bound;
mod choice;
mod index;
pub mod share;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ringway_proto::hash::hash;
use ringway_proto::ring::{OrderedRing, RingNode};
use ringway_proto::{QueueId, RightId};

use bound::{Owner, Previous};
use index::Index;
use share::Share;

/// Someone who can hold items. A node that is not in the list has left: its items find another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node<N> {
    /// Its id, the same over restarts.
    pub id: N,
    /// Its share of the items; 100 is usual. 0 counts as 1.
    pub weight: u32,
    /// False for a node that is awaited: it keeps what it holds and gets nothing new.
    pub up: bool,
}

/// The version of this planner. Another one may plan the same inputs differently, so a kept plan
/// is computed anew only by the version that made it. Grows with every change of a result.
pub const PLANNER_VERSION: u32 = 1;

/// Whether an item can be moved at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pin {
    /// It can.
    Free,
    /// Not now: who has it is down, and has to give it away itself. Its move is planned for,
    /// listed, and waits. (An item of a node that is in the list and not up need not say so.)
    OwnerDown,
}

/// One thing to assign. Items are passed in the order of their ids.
#[derive(Clone, Debug)]
pub struct Item<'a, I, N> {
    /// Its id.
    pub id: I,
    /// Its place on the ring, see [`queue_point`] and [`right_point`].
    pub point: u64,
    /// Who holds it now; none when nobody ever did.
    pub owner: Option<&'a N>,
    /// Whether it can be moved.
    pub pin: Pin,
}

/// The place of a queue on the ring of workers.
#[must_use]
pub fn queue_point(queue: QueueId) -> u64 {
    hash(&u64::from(queue).to_le_bytes())
}

/// The place of a right on the ring of members. The subscription is part of it, so that the same
/// queue's rights of two subscriptions with the same members do not fall to the same one.
#[must_use]
pub fn right_point(right: &RightId) -> u64 {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&right.subscription.0.to_le_bytes());
    bytes[4..12].copy_from_slice(&u64::from(right.queue).to_le_bytes());
    bytes[12..14].copy_from_slice(&right.lanes.start.to_le_bytes());
    bytes[14..].copy_from_slice(&right.lanes.end.to_le_bytes());
    hash(&bytes)
}

/// The ring over the nodes, kept between plans because making it is most of the work. It is a
/// cache: what a plan says does not depend on what was in it.
#[derive(Clone, Debug)]
pub struct Preferences<N> {
    // Shared, so that a copy of its owner costs little: it is by far the largest part of one.
    ring: Arc<OrderedRing<N>>,
}

impl<N: RingNode> Default for Preferences<N> {
    fn default() -> Self {
        Self { ring: Arc::default() }
    }
}

impl<N: RingNode> Preferences<N> {
    /// Where `node` stands in the order in which an item at `point` prefers `nodes`, from 1.
    pub fn rank(&mut self, nodes: &[Node<N>], point: u64, node: &N) -> Option<u32> {
        let sorted: Vec<&Node<N>> =
            nodes.iter().map(|n| (&n.id, n)).collect::<BTreeMap<_, _>>().into_values().collect();
        self.update(&sorted);
        (1..).zip(self.ring.walk(point)).find(|(_, at)| *at == node).map(|(rank, _)| rank)
    }

    /// Makes this the ring over `nodes`, which are sorted by id: so an index into them is one
    /// into the nodes of the ring.
    fn update(&mut self, nodes: &[&Node<N>]) {
        let same = self.ring.nodes().len() == nodes.len()
            && self
                .ring
                .nodes()
                .iter()
                .zip(nodes)
                .all(|((id, weight), node)| *weight == node.weight && *id == node.id);
        if !same {
            Arc::make_mut(&mut self.ring).update(nodes.iter().map(|n| (n.id.clone(), n.weight)));
        }
    }
}

/// What should be, and what has to happen for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan<I, N> {
    /// Items that nobody held, and who gets them. These are no moves.
    pub first: Vec<(I, N)>,
    /// Items that change hands, at most one move per item, also those that have to wait.
    pub moves: Vec<Move<I, N>>,
    /// Items that nobody can take, because no node is up.
    pub unplaced: Vec<I>,
    /// Where each item should be in the end, in the order of the items: an index in `quotas`.
    pub assignment: Vec<Option<u32>>,
    /// How much each node held and should hold, in the order of their ids.
    pub quotas: Vec<Quota<N>>,
    /// The fewest moves that reach these quotas.
    pub lower_bound: usize,
    /// How many of those can happen now, before what waits.
    pub lower_bound_now: usize,
}

/// One item that changes hands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Move<I, N> {
    /// The item.
    pub item: I,
    /// Who holds it now; may have left.
    pub from: N,
    /// Who should.
    pub to: N,
    /// Why.
    pub reason: Reason<N>,
    /// What it has to wait for; none when it can happen now.
    pub waits: Option<Wait>,
}

/// What a move waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// The node that holds it is not up, and has to give it away itself.
    OwnerDown,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OwnerDown => "owner is down",
        })
    }
}

/// Why an item changes hands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reason<N> {
    /// The node that gets it joined, or came back.
    Joined(N),
    /// The node that held it left.
    Left(N),
    /// The weight of this node changed.
    WeightChanged(N),
    /// The node that holds it has more than its share for another reason.
    OverQuota,
}

impl<N> Reason<N> {
    /// The reason without the node, for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Joined(_) => "joined",
            Self::Left(_) => "left",
            Self::WeightChanged(_) => "weight changed",
            Self::OverQuota => "over quota",
        }
    }
}

impl<N: fmt::Display> fmt::Display for Reason<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Joined(node) => write!(f, "joined {node}"),
            Self::Left(node) => write!(f, "left {node}"),
            Self::WeightChanged(node) => write!(f, "weight of {node} changed"),
            Self::OverQuota => f.write_str("over quota"),
        }
    }
}

/// How much a node held and should hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quota<N> {
    /// The node.
    pub node: N,
    /// Items that it holds now.
    pub held: usize,
    /// Items that it should hold.
    pub quota: usize,
}

impl<I, N> Plan<I, N> {
    /// The moves that can happen now.
    pub fn executable_moves(&self) -> impl Iterator<Item = &Move<I, N>> {
        self.moves.iter().filter(|m| m.waits.is_none())
    }

    /// Moves beyond the fewest possible; 0 unless a rule other than balance forces more.
    #[must_use]
    pub fn excess(&self) -> usize {
        self.moves.len().saturating_sub(self.lower_bound)
    }

    /// Who should hold the item at this position of the input in the end.
    #[must_use]
    pub fn node_of(&self, item: usize) -> Option<&N> {
        let node = (*self.assignment.get(item)?)?;
        Some(&self.quotas.get(node as usize)?.node)
    }
}

/// Plans who should hold what.
///
/// `before` are the nodes of the plan before this one. They decide nothing but the reasons.
pub fn plan<I: Clone, N: RingNode>(
    preferences: &mut Preferences<N>,
    before: &[Node<N>],
    nodes: &[Node<N>],
    items: &[Item<'_, I, N>],
) -> Plan<I, N> {
    let nodes: Vec<&Node<N>> =
        nodes.iter().map(|n| (&n.id, n)).collect::<BTreeMap<_, _>>().into_values().collect();
    preferences.update(&nodes);
    let ring = &preferences.ring;
    let previous = previous(&nodes, items);

    // 1. How much each node should hold.
    let held = bound::held(&previous, nodes.len());
    let quotas = share::quotas(items.len(), &shares(&nodes, &held));

    // 2. Who keeps what: everything but what nobody holds and what is over quota.
    let mut owners: Vec<Option<u32>> =
        previous.iter().map(|p| p.node().map(|n| n as u32)).collect();
    for item in choice::leaving(ring, items, &previous, &held, &quotas) {
        owners[item] = None;
    }
    let (waiting, able): (Vec<u32>, Vec<u32>) = (0u32..)
        .zip(&owners)
        .filter_map(|(item, owner)| owner.is_none().then_some(item))
        .partition(|item| previous[*item as usize].waits.is_some());

    // 3. Where the rest goes. What can go now is spread as evenly as it can be by itself, because
    // what waits may wait for long.
    let mut room: Vec<usize> =
        quotas.iter().zip(&held).map(|(quota, held)| quota.saturating_sub(*held)).collect();
    let mut room_now = share::part(able.len(), &room, &shares(&nodes, &held));
    for (room, now) in room.iter_mut().zip(&room_now) {
        *room -= now;
    }
    choice::place(ring, items, &able, &mut room_now, &mut owners);
    choice::place(ring, items, &waiting, &mut room, &mut owners);

    let mut plan = Plan {
        first: Vec::new(),
        moves: Vec::new(),
        unplaced: Vec::new(),
        lower_bound: bound::lower_bound(&previous, &quotas),
        lower_bound_now: bound::lower_bound_now(&previous, &quotas),
        quotas: (nodes.iter().zip(&held).zip(&quotas))
            .map(|((n, held), quota)| Quota { node: n.id.clone(), held: *held, quota: *quota })
            .collect(),
        assignment: owners,
    };
    plan.list(items, &previous, &Changes::between(before, &nodes));
    plan
}

impl<I: Clone, N: Clone> Plan<I, N> {
    /// Fills the lists from the assignment.
    fn list(&mut self, items: &[Item<'_, I, N>], previous: &[Previous], changes: &Changes) {
        for ((item, previous), to) in items.iter().zip(previous).zip(&self.assignment) {
            let Some(to) = to.map(|to| to as usize) else {
                self.unplaced.push(item.id.clone());
                continue;
            };
            let to_id = &self.quotas[to].node;
            match item.owner {
                None => self.first.push((item.id.clone(), to_id.clone())),
                Some(_) if previous.node() == Some(to) => {}
                Some(from) => self.moves.push(Move {
                    item: item.id.clone(),
                    from: from.clone(),
                    to: to_id.clone(),
                    reason: changes.reason(from, previous.node(), to_id, to),
                    waits: previous.waits,
                }),
            }
        }
    }
}

/// Who holds each item now, by the index of the node.
fn previous<I, N: RingNode>(nodes: &[&Node<N>], items: &[Item<'_, I, N>]) -> Vec<Previous> {
    let index = Index::new(nodes.iter().map(|n| &n.id).collect());
    items
        .iter()
        .map(|item| {
            let owner = match item.owner.map(|id| index.get(id)) {
                None => Owner::Nobody,
                Some(None) => Owner::Left,
                Some(Some(node)) => Owner::Node(node),
            };
            let waits = match (item.pin, owner) {
                (_, Owner::Nobody) => None,
                (Pin::OwnerDown, _) => Some(Wait::OwnerDown),
                (Pin::Free, Owner::Node(node)) if !nodes[node as usize].up => Some(Wait::OwnerDown),
                (Pin::Free, _) => None,
            };
            Previous { owner, waits }
        })
        .collect()
}

fn shares<N: RingNode>(nodes: &[&Node<N>], held: &[usize]) -> Vec<Share> {
    nodes
        .iter()
        .zip(held)
        .map(|(node, held)| Share {
            weight: node.weight.max(1),
            held: *held,
            up: node.up,
            order: node.id.identity(),
        })
        .collect()
}

/// What happened to the nodes since the plan before.
struct Changes {
    joined: Vec<bool>,
    weight_changed: Vec<bool>,
}

impl Changes {
    fn between<N: Ord>(before: &[Node<N>], now: &[&Node<N>]) -> Self {
        let before: BTreeMap<&N, &Node<N>> = before.iter().map(|n| (&n.id, n)).collect();
        let old: Vec<_> = now.iter().map(|n| (before.get(&n.id).copied(), *n)).collect();
        Self {
            joined: old.iter().map(|(old, n)| old.is_none_or(|old| !old.up && n.up)).collect(),
            weight_changed: old
                .iter()
                .map(|(old, n)| old.is_some_and(|old| old.weight != n.weight))
                .collect(),
        }
    }

    fn reason<N: Clone>(
        &self,
        from: &N,
        from_at: Option<usize>,
        to: &N,
        to_at: usize,
    ) -> Reason<N> {
        match from_at {
            None => Reason::Left(from.clone()),
            Some(_) if self.joined[to_at] => Reason::Joined(to.clone()),
            Some(_) if self.weight_changed[to_at] => Reason::WeightChanged(to.clone()),
            Some(from_at) if self.weight_changed[from_at] => Reason::WeightChanged(from.clone()),
            Some(_) => Reason::OverQuota,
        }
    }
}
