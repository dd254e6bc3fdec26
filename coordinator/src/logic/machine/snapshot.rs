//! The state in numbers, for metrics: taken from what is, never counted along.

use std::collections::BTreeMap;

use super::super::placement::Queue;
use super::super::rights::Right;
use super::super::rows::MoveStep;
use super::admin::{count, right_state};
use super::members::MAX_MEMBERS;
use super::moves::{MOVE_PHASES, move_phase};
use super::{Machine, MemberId, SubscriptionId};

/// How evenly something is spread: the largest load over the mean, both in proportion to weight.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Balance {
    /// In thousandths; 1,000 is even, 0 means that there is nothing to spread.
    pub per_mille: u64,
}

/// The state of a subscription in numbers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubscriptionSnapshot {
    /// Its name.
    pub name: String,
    /// How many members it has.
    pub members: u32,
    /// How many rights are in which state.
    pub rights: BTreeMap<&'static str, u32>,
    /// How evenly the rights are spread, counted in lanes.
    pub balance: Balance,
    /// How many members could have a share.
    pub useful_members: u32,
}

/// The state of the coordinator in numbers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// Workers whose session has not lapsed.
    pub workers_up: u32,
    /// The others.
    pub workers_down: u32,
    /// Groups.
    pub groups: u32,
    /// How many queues are in which state.
    pub queues: BTreeMap<&'static str, u32>,
    /// How many queues are in which phase of a move.
    pub queue_moves: BTreeMap<&'static str, u32>,
    /// How evenly the queues are spread.
    pub balance: Balance,
    /// Each subscription.
    pub subscriptions: Vec<SubscriptionSnapshot>,
    /// The number of the last plan.
    pub plan: u64,
    /// The routing version.
    pub routing: u64,
    /// Moves that were carried out since the cluster began.
    pub moves: u64,
    /// The least moves that the same changes could have needed.
    pub lower_bound: u64,
}

impl Machine {
    /// Whether every queue without messages is where the last plan has it, and no plan of queues
    /// is due. A queue with messages serves while it is copied, however long that takes.
    #[must_use]
    pub fn queues_are_settled(&self) -> bool {
        let settled = |queue: &Queue| queue.step().is_none_or(|step| step != MoveStep::Empty);
        !self.meta.queues_due && self.queues.values().all(settled)
    }

    /// The state in numbers.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let up = count(self.workers.values().filter(|row| row.up));
        let mut queues =
            BTreeMap::from([("serving", 0), ("moving", 0), ("waiting", 0), ("unassigned", 0)]);
        let mut queue_moves = MOVE_PHASES.map(|phase| (phase, 0)).into();
        let mut led = BTreeMap::new();
        for queue in self.queues.values() {
            *queues.entry(self.queue_state(queue)).or_default() += 1;
            if let Some(phase) = move_phase(queue) {
                *BTreeMap::entry(&mut queue_moves, phase).or_default() += 1;
            }
            if let Some(primary) = &queue.row().primary {
                *led.entry(primary).or_default() += 1;
            }
        }
        let loads = self
            .workers
            .values()
            .filter(|row| !row.draining)
            .map(|row| (led.get(&row.id).copied().unwrap_or(0), row.weight));
        Snapshot {
            workers_up: up,
            workers_down: count(self.workers.values()) - up,
            groups: count(self.catalog.groups()),
            balance: balance(loads),
            queues,
            queue_moves,
            subscriptions: self.subscription_snapshots(),
            plan: self.meta.plan,
            routing: self.routing.version.0,
            moves: self.meta.moves,
            lower_bound: self.meta.lower_bound,
        }
    }

    fn subscription_snapshots(&self) -> Vec<SubscriptionSnapshot> {
        let names = self.catalog.subscriptions();
        names.map(|row| self.subscription_snapshot(row.setup.id, row.setup.name.as_str())).collect()
    }

    fn subscription_snapshot(&self, id: SubscriptionId, name: &str) -> SubscriptionSnapshot {
        let mut rights =
            BTreeMap::from([("free", 0), ("raising", 0), ("granted", 0), ("revoking", 0)]);
        let mut held: BTreeMap<&MemberId, u32> = BTreeMap::new();
        for (_, right) in self.rights_in(id) {
            *rights.entry(right_state(right)).or_default() += 1;
            if let Some(holder) = Right::holder(right) {
                let lanes = u32::from(right.row().id.lanes.count());
                *held.entry(&holder.member).or_default() += lanes;
            }
        }
        let loads = self
            .members_of(id)
            .filter(|row| !row.leaving)
            .map(|row| (held.get(&row.member).copied().unwrap_or(0), row.weight));
        SubscriptionSnapshot {
            name: name.to_owned(),
            members: count(self.members_of(id)),
            balance: balance(loads),
            rights,
            useful_members: self.useful_members(id),
        }
    }

    /// How many members can have a share: one for each range of lanes of the queues that it gets
    /// messages from, as far as a subscription can have members.
    fn useful_members(&self, id: SubscriptionId) -> u32 {
        let ranges = self.queues_of(id).saturating_mul(self.setup.ranges_per_queue);
        ranges.min(MAX_MEMBERS as u32)
    }
}

fn balance(loads: impl Iterator<Item = (u32, u32)>) -> Balance {
    let loads: Vec<(u64, u64)> = loads.map(|(l, w)| (u64::from(l), u64::from(w))).collect();
    let (load, weight) = loads.iter().fold((0, 0), |(load, weight), (l, w)| (load + l, weight + w));
    if load == 0 {
        return Balance::default();
    }
    let ratio = |(l, w): &(u64, u64)| l * weight * 1000 / (w * load).max(1);
    Balance { per_mille: loads.iter().map(ratio).max().unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balance_is_the_largest_load_over_the_mean_by_weight() {
        let check = |loads: &[(u32, u32)], want| {
            assert_eq!(balance(loads.iter().copied()).per_mille, want, "{loads:?}");
        };
        check(&[], 0);
        check(&[(0, 100), (0, 100)], 0);
        check(&[(8, 100), (8, 100)], 1000);
        check(&[(6, 100), (2, 100)], 1500);
        check(&[(8, 200), (4, 100)], 1000);
    }
}
