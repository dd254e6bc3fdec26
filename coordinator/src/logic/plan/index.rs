//! From the id of a node to its place in the list: a small hash table, because a plan over
//! thousands of nodes asks once per item and comparing names ten times over would be most of its
//! time. Deterministic, since the hash is fixed; it is only ever asked, never listed.

use ringway_proto::ring::RingNode;

/// A table over nodes that are sorted and distinct.
pub(super) struct Index<'a, N> {
    nodes: Vec<&'a N>,
    /// Open addressing with linear probing, at most half full, so that a probe ends.
    slots: Vec<Option<u32>>,
}

impl<'a, N: RingNode> Index<'a, N> {
    pub(super) fn new(nodes: Vec<&'a N>) -> Self {
        let mut slots = vec![None; (nodes.len() * 2).next_power_of_two()];
        let mask = slots.len() - 1;
        for (place, node) in (0u32..).zip(&nodes) {
            let mut at = node.identity() as usize & mask;
            while slots[at].is_some() {
                at = (at + 1) & mask;
            }
            slots[at] = Some(place);
        }
        Self { nodes, slots }
    }

    pub(super) fn get(&self, id: &N) -> Option<u32> {
        let mask = self.slots.len() - 1;
        let mut at = id.identity() as usize & mask;
        while let Some(place) = self.slots[at] {
            if self.nodes[place as usize] == id {
                return Some(place);
            }
            at = (at + 1) & mask;
        }
        None
    }
}
