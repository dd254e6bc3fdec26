//! A consistent-hash ring (D. Karger et al., "Consistent Hashing and Random Trees", 1997) with
//! weights: which node a point belongs to, and in which order a point would take the others.
//!
//! Equal nodes and weights give an equal ring on every machine, whatever was on it before. The
//! ring gives preference, not balance: with few points the shares are uneven, and whoever needs
//! them even (the planner) counts for itself.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::ops::Range;

use hashring::HashRing;

use crate::hash::hash;
use crate::ids::{GroupId, MemberId, WorkerId};
use crate::limits::DEFAULT_WEIGHT;

/// Virtual nodes of a node with the default weight of 100; more buys no better balance.
const VIRTUAL_NODES: u32 = 128;

/// What can stand on a ring.
pub trait RingNode: Ord + Clone {
    /// The hash of the bytes that name this node for good. Its places on the ring follow from it.
    fn identity(&self) -> u64;
}

impl RingNode for WorkerId {
    fn identity(&self) -> u64 {
        hash(self.as_str().as_bytes())
    }
}

impl RingNode for MemberId {
    fn identity(&self) -> u64 {
        hash(self.as_str().as_bytes())
    }
}

impl RingNode for GroupId {
    fn identity(&self) -> u64 {
        hash(&self.0.to_le_bytes())
    }
}

/// A ring over nodes with weights, to ask which node a key belongs to.
#[derive(Clone)]
pub struct Ring<N> {
    /// In the order of their ids; `VirtualNode::node` is an index into it.
    nodes: Vec<(N, u32)>,
    ring: HashRing<VirtualNode, FixedHash>,
}

impl<N: fmt::Debug> fmt::Debug for Ring<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ring").field(&self.nodes).finish()
    }
}

impl<N: RingNode> Ring<N> {
    /// The ring over these nodes, each with its weight (100 is usual). Of a node that is named
    /// twice the last weight counts.
    pub fn new(nodes: impl IntoIterator<Item = (N, u32)>) -> Self {
        let nodes = sorted(nodes);
        let places = (0u32..).zip(&nodes).flat_map(|(index, (node, weight))| {
            virtual_nodes(index, node.identity(), 0..count(*weight))
        });
        let mut ring = HashRing::with_hasher(FixedHash);
        // Nodes are sorted: between two at the same place the order of insertion decides.
        ring.batch_add(places.collect());
        Self { nodes, ring }
    }

    /// The nodes and their weights in the order of their ids.
    #[must_use]
    pub fn nodes(&self) -> &[(N, u32)] {
        &self.nodes
    }

    /// The node that `key` belongs to; none on an empty ring.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&N> {
        let found = self.ring.get(&Key(key))?;
        Some(&self.nodes[found.node as usize].0)
    }
}

/// The same ring as an ordered list of its points, which can be walked and changed at little cost.
/// `HashRing` can be walked only by copying it, and changed only by sorting it.
#[derive(Clone, Debug)]
pub struct OrderedRing<N> {
    /// In the order of their ids; `Point::node` is an index into it.
    nodes: Vec<(N, u32)>,
    points: Vec<Point>,
}

/// One place on the ring. The order is that of the ring; points at the same place are ordered by
/// node, so that it cannot show which was there first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Point {
    /// Where it is.
    pub at: u64,
    /// Whose it is: the index in [`OrderedRing::nodes`].
    pub node: u32,
    number: u32,
}

impl<N: RingNode> Default for OrderedRing<N> {
    fn default() -> Self {
        Self { nodes: Vec::new(), points: Vec::new() }
    }
}

impl<N: RingNode> OrderedRing<N> {
    /// The ring over these nodes, as [`Ring::new`].
    pub fn new(nodes: impl IntoIterator<Item = (N, u32)>) -> Self {
        let mut ring = Self::default();
        ring.update(nodes);
        ring
    }

    /// Makes this the ring over `nodes`. The result is that of [`OrderedRing::new`]; the cost is
    /// that of the points that come, and one pass over those that stay.
    pub fn update(&mut self, nodes: impl IntoIterator<Item = (N, u32)>) {
        let nodes = sorted(nodes);
        if nodes == self.nodes {
            return;
        }
        self.keep_points_of(&nodes);
        let present = |node: &N| match self.nodes.binary_search_by(|(old, _)| old.cmp(node)) {
            Ok(at) => count(self.nodes[at].1),
            Err(_) => 0,
        };
        let mut come: Vec<Point> = (0u32..)
            .zip(&nodes)
            .flat_map(|(index, (node, weight))| {
                virtual_nodes(index, node.identity(), present(node)..count(*weight))
            })
            .map(|v| Point { at: FixedHash.hash_one(v), node: v.node, number: v.number })
            .collect();
        come.sort_unstable();
        merge(&mut self.points, &come);
        self.nodes = nodes;
    }

    /// Drops the points that are not on the ring over `nodes` and gives the others their new index.
    /// Nodes are sorted before and after, so points at the same place stay in order.
    fn keep_points_of(&mut self, nodes: &[(N, u32)]) {
        let now: Vec<Option<(u32, u32)>> = self
            .nodes
            .iter()
            .map(|(old, _)| {
                let at = nodes.binary_search_by(|(new, _)| new.cmp(old)).ok()?;
                Some((at as u32, count(nodes[at].1)))
            })
            .collect();
        self.points.retain_mut(|point| match now[point.node as usize] {
            Some((node, count)) if point.number < count => {
                point.node = node;
                true
            }
            _ => false,
        });
    }

    /// The nodes and their weights in the order of their ids.
    #[must_use]
    pub fn nodes(&self) -> &[(N, u32)] {
        &self.nodes
    }

    /// All points in ring order.
    #[must_use]
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Every node once, in the order in which a key with this hash prefers them.
    pub fn walk(&self, hash: u64) -> impl Iterator<Item = &N> {
        let start = self.points.partition_point(|p| p.at < hash);
        let (before, after) = self.points.split_at(start);
        let mut seen = vec![false; self.nodes.len()];
        after
            .iter()
            .chain(before)
            .filter(move |p| !std::mem::replace(&mut seen[p.node as usize], true))
            .map(|p| &self.nodes[p.node as usize].0)
            .take(self.nodes.len())
    }
}

/// Merges `come` into `points`, both in order, from the back, so that nothing is copied twice.
fn merge(points: &mut Vec<Point>, come: &[Point]) {
    let mut kept = points.len();
    points.extend_from_slice(come);
    let mut to = points.len();
    for point in come.iter().rev() {
        while kept > 0 && points[kept - 1] > *point {
            kept -= 1;
            to -= 1;
            points[to] = points[kept];
        }
        to -= 1;
        points[to] = *point;
    }
}

fn sorted<N: Ord>(nodes: impl IntoIterator<Item = (N, u32)>) -> Vec<(N, u32)> {
    nodes.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect()
}

/// The virtual nodes with these numbers of the node with this index and identity.
fn virtual_nodes(
    node: u32,
    identity: u64,
    numbers: Range<u32>,
) -> impl Iterator<Item = VirtualNode> {
    numbers.map(move |number| VirtualNode { identity, number, node })
}

/// How many places a node of this weight has, at least one.
fn count(weight: u32) -> u32 {
    (u64::from(weight) * u64::from(VIRTUAL_NODES) / u64::from(DEFAULT_WEIGHT))
        .clamp(1, u64::from(u32::MAX)) as u32
}

/// The `number`th place of a node. What is hashed is the identity and the number, little-endian,
/// in one write: a derived `Hash` would depend on the machine's byte order.
#[derive(Clone, Copy, Debug)]
struct VirtualNode {
    identity: u64,
    number: u32,
    node: u32,
}

impl Hash for VirtualNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&self.identity.to_le_bytes());
        bytes[8..].copy_from_slice(&self.number.to_le_bytes());
        state.write(&bytes);
    }
}

/// A key to look up. A slice's own `Hash` would write its length first.
struct Key<'a>(&'a [u8]);

impl Hash for Key<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.0);
    }
}

/// The hash of [`crate::hash`] for values that are written in one piece.
#[derive(Clone, Copy)]
struct FixedHash;

struct OneWrite(u64);

impl BuildHasher for FixedHash {
    type Hasher = OneWrite;
    fn build_hasher(&self) -> OneWrite {
        OneWrite(0)
    }
}

impl Hasher for OneWrite {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = hash(bytes);
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(n: u32) -> WorkerId {
        WorkerId::new(format!("w{n}")).unwrap()
    }

    fn workers(ns: impl IntoIterator<Item = u32>) -> Vec<(WorkerId, u32)> {
        ns.into_iter().map(|n| (worker(n), 100)).collect()
    }

    fn owners(ring: &Ring<WorkerId>, keys: usize) -> Vec<WorkerId> {
        (0..keys).map(|k| ring.get(format!("key-{k}").as_bytes()).unwrap().clone()).collect()
    }

    #[test]
    fn the_same_keys_belong_to_the_same_nodes_on_every_machine() {
        let got: String = owners(&Ring::new(workers(1..=5)), 100)
            .iter()
            .map(|w| w.as_str().trim_start_matches('w').to_owned())
            .collect();
        assert_eq!(
            got,
            "21534411332454152411514244143313152542344222413432\
             31213334245341431122142442244434114355344422213432"
        );
    }

    #[test]
    fn a_ring_does_not_remember_what_was_on_it() {
        let mut ring = OrderedRing::new(workers([1, 7, 3]));
        ring.update(workers([9, 3, 4]));
        ring.update([(worker(3), 37), (worker(4), 1000), (worker(2), 1)]);
        ring.update([(worker(3), 250), (worker(1), 100), (worker(4), 100)]);
        let fresh = OrderedRing::new([(worker(4), 100), (worker(1), 100), (worker(3), 250)]);
        assert_eq!(ring.nodes(), fresh.nodes());
        assert_eq!(ring.points(), fresh.points());
        assert!(ring.points().is_sorted());
        assert_eq!(ring.points().len(), 128 + 320 + 128);
    }

    #[test]
    fn a_node_that_joins_takes_keys_and_nothing_else_moves() {
        let before = owners(&Ring::new(workers(1..=4)), 4000);
        let after = owners(&Ring::new(workers(1..=5)), 4000);
        let moved: Vec<_> = before.iter().zip(&after).filter(|(b, a)| b != a).collect();
        assert!(moved.iter().all(|(_, to)| **to == worker(5)));
        assert!((400..1300).contains(&moved.len()), "{} of 4000 moved", moved.len());
    }

    #[test]
    fn a_walk_names_every_node_once_and_begins_with_the_owner() {
        let (ring, ordered) = (Ring::new(workers(1..=9)), OrderedRing::new(workers(1..=9)));
        for key in (0..500u32).map(u32::to_le_bytes) {
            let walk: Vec<_> = ordered.walk(hash(&key)).cloned().collect();
            assert_eq!(walk.first(), ring.get(&key));
            let mut sorted = walk.clone();
            sorted.sort();
            assert_eq!(sorted, workers(1..=9).into_iter().map(|w| w.0).collect::<Vec<_>>());
        }
        assert_eq!(OrderedRing::<WorkerId>::default().walk(7).count(), 0);
        assert_eq!(Ring::<WorkerId>::new([]).get(b"a"), None);
    }
}
