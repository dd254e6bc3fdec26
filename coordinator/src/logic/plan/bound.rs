//! How few moves reach given quotas: counted from who holds what and from the quotas alone, never
//! from a plan, so that it can accuse one.

use super::Wait;

/// Who holds an item.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// Nobody ever did: to give it to someone is no move.
    Nobody,
    /// A node that is no longer there.
    Left,
    /// The node with this index.
    Node(u32),
}

/// One item before a plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Previous {
    /// Who holds it.
    pub owner: Owner,
    /// What a move of it would have to wait for.
    pub waits: Option<Wait>,
}

impl Previous {
    /// The node that holds it, if it is still there.
    #[must_use]
    pub fn node(&self) -> Option<usize> {
        match self.owner {
            Owner::Node(node) => Some(node as usize),
            Owner::Nobody | Owner::Left => None,
        }
    }
}

/// The fewest moves that reach `quotas`: every item whose owner has left, and what each node holds
/// beyond its quota. Where the quotas leave items over, no node can take any, and those of the
/// nodes that left stay where they are.
#[must_use]
pub fn lower_bound(previous: &[Previous], quotas: &[usize]) -> usize {
    let held = held(previous, quotas.len());
    let over = held.iter().zip(quotas).map(|(held, quota)| held.saturating_sub(*quota));
    over.sum::<usize>() + left(previous, quotas, |_| true)
}

/// How many of those moves can happen while what waits stays: a node gives away its surplus as
/// far as it has items that do not wait.
#[must_use]
pub fn lower_bound_now(previous: &[Previous], quotas: &[usize]) -> usize {
    let mut waiting = vec![0; quotas.len()];
    for node in previous.iter().filter(|p| p.waits.is_some()).filter_map(Previous::node) {
        waiting[node] += 1;
    }
    let over = (held(previous, quotas.len()).into_iter().zip(quotas).zip(waiting))
        .map(|((held, quota), waiting)| held.saturating_sub(*quota).min(held - waiting));
    over.sum::<usize>() + left(previous, quotas, |p| p.waits.is_none())
}

/// How many items of nodes that left have a place to go to and count.
fn left(previous: &[Previous], quotas: &[usize], counts: impl Fn(&Previous) -> bool) -> usize {
    if quotas.iter().sum::<usize>() < previous.len() {
        return 0;
    }
    previous.iter().filter(|p| p.owner == Owner::Left && counts(p)).count()
}

/// How many items each of `nodes` nodes holds.
#[must_use]
pub fn held(previous: &[Previous], nodes: usize) -> Vec<usize> {
    let mut held = vec![0; nodes];
    for node in previous.iter().filter_map(Previous::node) {
        held[node] += 1;
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(owners: &[(Owner, bool)]) -> Vec<Previous> {
        owners
            .iter()
            .map(|(owner, waits)| Previous {
                owner: *owner,
                waits: waits.then_some(Wait::OwnerDown),
            })
            .collect()
    }

    #[test]
    fn the_bound_counts_what_left_and_what_is_over() {
        use Owner::{Left, Nobody, Node};
        let over = items(&[
            (Node(0), true),
            (Node(0), true),
            (Node(0), true),
            (Node(0), false),
            (Node(1), false),
            (Left, false),
            (Left, true),
            (Nobody, false),
        ]);
        for (quotas, bound, now) in [
            (&[4, 4][..], 2, 1),
            (&[1, 7], 5, 2),
            (&[0, 8], 6, 2),
            (&[8, 0], 3, 2),
            (&[4, 1], 0, 0), // nobody can take what is free
        ] {
            assert_eq!(lower_bound(&over, quotas), bound, "{quotas:?}");
            assert_eq!(lower_bound_now(&over, quotas), now, "{quotas:?}, now");
        }
    }
}
