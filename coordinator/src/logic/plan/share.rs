//! How many items each node should hold: whole numbers whose sum is the number of items, each the
//! floor or the ceiling of the node's weighted share. It does not know which items.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// A node as far as shares are concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// Its weight, at least 1.
    pub weight: u32,
    /// Items that it holds now.
    pub held: usize,
    /// False for a node that keeps what it holds but gets nothing new.
    pub up: bool,
    /// Decides between nodes that are otherwise alike; the same on every machine.
    pub order: u64,
}

/// The quota of each node. Their sum is `items`, or less when no node is up to take the rest.
///
/// The ceilings go first to nodes that hold as much already, so that no node gives an item away
/// for the sake of rounding; then by the largest remainder (A. Hamilton's method), then by order.
#[must_use]
pub fn quotas(items: usize, nodes: &[Share]) -> Vec<usize> {
    let mut quotas = vec![0; nodes.len()];
    let (left, open) = keep_down_nodes(items, nodes, &mut quotas);
    let total = total_weight(nodes, &open);
    if total == 0 {
        return quotas;
    }
    let mut given = 0;
    let mut remainders = Vec::with_capacity(open.len());
    for i in open {
        let product = left as u128 * u128::from(nodes[i].weight);
        quotas[i] = (product / total) as usize;
        given += quotas[i];
        let remainder = product % total;
        if remainder > 0 {
            let at_ceiling = nodes[i].held > quotas[i];
            remainders.push((Reverse(at_ceiling), Reverse(remainder), nodes[i].order, i));
        }
    }
    remainders.sort_unstable();
    for (.., i) in remainders.into_iter().take(left - given) {
        quotas[i] += 1;
    }
    quotas
}

/// Nodes that are not up keep what they hold when that is no more than their share; the others
/// share what remains. This raises their shares, so it is repeated until it changes nothing.
/// Returns how many items remain and the nodes that share them.
fn keep_down_nodes(items: usize, nodes: &[Share], quotas: &mut [usize]) -> (usize, Vec<usize>) {
    let mut left = items;
    let mut open: Vec<usize> = (0..nodes.len()).collect();
    loop {
        let total = total_weight(nodes, &open);
        let (kept, rest): (Vec<usize>, Vec<usize>) = open.into_iter().partition(|i| {
            let node = &nodes[*i];
            !node.up && node.held as u128 * total <= left as u128 * u128::from(node.weight)
        });
        for i in &kept {
            quotas[*i] = nodes[*i].held;
            left -= nodes[*i].held;
        }
        open = rest;
        if kept.is_empty() {
            return (left, open);
        }
    }
}

fn total_weight(nodes: &[Share], of: &[usize]) -> u128 {
    of.iter().map(|i| u128::from(nodes[*i].weight)).sum()
}

/// Gives `count` items to nodes that have `room`, one after the other to the one that is least
/// loaded for its weight, and says how many each gets: as even as they can be by themselves.
#[must_use]
pub fn part(count: usize, room: &[usize], nodes: &[Share]) -> Vec<usize> {
    if count >= room.iter().sum() {
        return room.to_vec();
    }
    let mut part = vec![0; room.len()];
    let mut heap: BinaryHeap<Reverse<Load>> = (0..room.len())
        .filter(|i| room[*i] > 0)
        .map(|i| {
            Reverse(Load { with_one_more: nodes[i].held + 1, weight: nodes[i].weight, node: i })
        })
        .collect();
    for _ in 0..count {
        let Some(Reverse(load)) = heap.pop() else { break };
        part[load.node] += 1;
        if part[load.node] < room[load.node] {
            heap.push(Reverse(Load { with_one_more: load.with_one_more + 1, ..load }));
        }
    }
    part
}

/// The load of a node after it gets another item, ordered by load per weight.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Load {
    with_one_more: usize,
    weight: u32,
    node: usize,
}

impl Ord for Load {
    fn cmp(&self, other: &Self) -> Ordering {
        let scaled = |load: &Self, by: u32| load.with_one_more as u128 * u128::from(by);
        scaled(self, other.weight).cmp(&scaled(other, self.weight)).then(self.node.cmp(&other.node))
    }
}

impl PartialOrd for Load {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(weight: u32, held: usize, up: bool) -> Share {
        Share { weight, held, up, order: u64::from(weight) }
    }

    #[test]
    fn ceilings_go_to_those_who_hold_as_much_already() {
        let nodes = [node(100, 0, true), node(100, 4, true), node(100, 3, true)];
        assert_eq!(quotas(10, &nodes), [3, 4, 3]);
        assert_eq!(quotas(0, &nodes), [0, 0, 0]);
        assert_eq!(quotas(7, &[]), [0usize; 0]);
    }

    #[test]
    fn weights_are_kept_to_the_item() {
        let nodes = [node(100, 0, true), node(200, 0, true), node(300, 0, true)];
        assert_eq!(quotas(60, &nodes), [10, 20, 30]);
        assert_eq!(quotas(61, &nodes), [10, 20, 31]);
    }

    #[test]
    fn a_node_that_is_down_keeps_its_items_and_gets_none() {
        let nodes = [node(100, 2, false), node(100, 0, true), node(100, 9, false)];
        // Nine are more than a third of twelve: the surplus of the last is still planned for.
        assert_eq!(quotas(12, &nodes), [2, 5, 5]);
        assert_eq!(quotas(15, &[node(100, 2, false), node(100, 9, false)]), [2, 9]);
    }

    #[test]
    fn a_part_evens_out_what_the_nodes_hold() {
        let nodes = [node(100, 3, true), node(100, 0, true), node(200, 0, true)];
        assert_eq!(part(3, &[5, 5, 10], &nodes), [0, 1, 2]);
        assert_eq!(part(9, &[5, 1, 3], &nodes), [5, 1, 3]);
        assert_eq!(part(5, &[5, 1, 3], &nodes), [1, 1, 3]);
    }

    proptest! {
        #[test]
        fn quotas_are_floor_or_ceiling_and_lose_nothing(
            nodes in prop::collection::vec((1u32..1001, 0usize..50), 1..20), more in 0usize..200,
        ) {
            let items = nodes.iter().map(|n| n.1).sum::<usize>() + more;
            let nodes: Vec<Share> = nodes.iter().map(|(w, h)| node(*w, *h, true)).collect();
            let total: usize = nodes.iter().map(|n| n.weight as usize).sum();
            let quotas = quotas(items, &nodes);
            prop_assert_eq!(quotas.iter().sum::<usize>(), items);
            for (quota, node) in quotas.iter().zip(&nodes) {
                let floor = items * node.weight as usize / total;
                prop_assert!(*quota == floor || *quota == floor + 1);
            }
        }

        #[test]
        fn down_nodes_never_get_more_and_everything_has_a_place_while_one_is_up(
            nodes in prop::collection::vec((1u32..1001, 0usize..50, any::<bool>()), 1..12),
            more in 0usize..100,
        ) {
            let items = nodes.iter().map(|n| n.1).sum::<usize>() + more;
            let nodes: Vec<Share> = nodes.iter().map(|(w, h, up)| node(*w, *h, *up)).collect();
            let quotas = quotas(items, &nodes);
            prop_assert!(quotas.iter().zip(&nodes).all(|(q, n)| n.up || *q <= n.held));
            let placed = quotas.iter().sum::<usize>();
            let up = nodes.iter().any(|n| n.up);
            prop_assert_eq!(placed, if up { items } else { items - more });
        }
    }
}
