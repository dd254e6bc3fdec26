//! What the ring decides: which items leave a node that is over quota, and which node takes an
//! item that is free. Nothing here changes how many; that is settled by the quotas.

use ringway_proto::ring::{OrderedRing, Point, RingNode};

use super::Item;
use super::bound::Previous;

/// The items that leave the nodes that hold more than their quota.
///
/// From each such node, those that can move now leave before those that have to wait. Among them,
/// first those that prefer a node with room to their owner, because a point of it comes before any
/// point of the owner on the walk from the item; then the others. Within each, the item whose
/// walk reaches a node with room in the shortest distance leaves first, then the earlier item. So
/// a node that comes back gets the items that it had rather than others.
pub(super) fn leaving<I, N: RingNode>(
    ring: &OrderedRing<N>,
    items: &[Item<'_, I, N>],
    previous: &[Previous],
    held: &[usize],
    quotas: &[usize],
) -> Vec<usize> {
    let surplus: Vec<usize> =
        held.iter().zip(quotas).map(|(held, quota)| held.saturating_sub(*quota)).collect();
    if surplus.iter().all(|n| *n == 0) {
        return Vec::new();
    }
    let mut with_room: Vec<u64> = Vec::new();
    let mut own: Vec<Vec<u64>> = vec![Vec::new(); held.len()];
    for point in ring.points() {
        let node = point.node as usize;
        if held[node] < quotas[node] {
            with_room.push(point.at);
        } else if surplus[node] > 0 {
            own[node].push(point.at);
        }
    }
    let mut candidates: Vec<Vec<Candidate>> = held
        .iter()
        .zip(&surplus)
        .map(|(h, s)| Vec::with_capacity(if *s > 0 { *h } else { 0 }))
        .collect();
    for (item, previous) in previous.iter().enumerate() {
        let Some(node) = previous.node().filter(|node| surplus[*node] > 0) else { continue };
        let to_room = distance(items[item].point, &with_room);
        candidates[node].push(Candidate {
            waits: previous.waits.is_some(),
            prefers_owner: distance(items[item].point, &own[node]) <= to_room,
            to_room,
            item,
        });
    }
    let mut leaving = Vec::new();
    for (mut candidates, surplus) in candidates.into_iter().zip(surplus) {
        if 0 < surplus && surplus < candidates.len() {
            candidates.select_nth_unstable(surplus);
        }
        leaving.extend(candidates.iter().take(surplus).map(|c| c.item));
    }
    leaving
}

/// An item of a node that is over quota; the smallest leave.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    waits: bool,
    prefers_owner: bool,
    to_room: u64,
    item: usize,
}

/// How far it is from a place on the ring to the next of these points, which are sorted.
fn distance(from: u64, points: &[u64]) -> u64 {
    let next = points.partition_point(|at| *at < from);
    points.get(next).or(points.first()).map_or(u64::MAX, |at| at.wrapping_sub(from))
}

/// Gives each of the `free` items, in their order, to the first node with room on the walk from its point.
/// Items beyond the room stay without owner.
pub(super) fn place<I, N: RingNode>(
    ring: &OrderedRing<N>,
    items: &[Item<'_, I, N>],
    free: &[u32],
    room: &mut [usize],
    owners: &mut [Option<u32>],
) {
    if free.is_empty() {
        return;
    }
    let with_room: Vec<Point> =
        ring.points().iter().filter(|p| room[p.node as usize] > 0).copied().collect();
    let mut left: usize = room.iter().sum();
    for item in free {
        if left == 0 {
            return;
        }
        let item = *item as usize;
        let start = with_room.partition_point(|p| p.at < items[item].point);
        let (before, after) = with_room.split_at(start);
        let found = after.iter().chain(before).find(|p| room[p.node as usize] > 0);
        if let Some(point) = found {
            room[point.node as usize] -= 1;
            left -= 1;
            owners[item] = Some(point.node);
        }
    }
}
