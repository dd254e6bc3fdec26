//! What the planner promises, over hand-made cases and over long random histories.

use std::collections::BTreeMap;

use ringway_proto::{GroupId, Lanes, SubscriptionId, WorkerId};

use super::*;

type Owners = BTreeMap<u32, WorkerId>;

fn worker(n: u32) -> WorkerId {
    WorkerId::new(format!("w{n}")).unwrap()
}

fn node(n: u32, weight: u32) -> Node<WorkerId> {
    Node { id: worker(n), weight, up: true }
}

fn nodes(ns: impl IntoIterator<Item = u32>) -> Vec<Node<WorkerId>> {
    ns.into_iter().map(|n| node(n, 100)).collect()
}

fn point(item: u32) -> u64 {
    queue_point(QueueId::new(GroupId(1), item))
}

/// A cluster that does at once what each plan says can be done.
#[derive(Default)]
struct Cluster {
    items: u32,
    owners: Owners,
    stuck: Vec<u32>,
    before: Vec<Node<WorkerId>>,
    preferences: Preferences<WorkerId>,
}

impl Cluster {
    fn with(items: u32, nodes: Vec<Node<WorkerId>>) -> Self {
        let mut cluster = Self { items, ..Self::default() };
        cluster.plan(nodes);
        cluster
    }

    /// Plans, checks what every plan promises, and does it.
    fn plan(&mut self, nodes: Vec<Node<WorkerId>>) -> Plan<u32, WorkerId> {
        let items: Vec<_> = (0..self.items)
            .map(|id| Item {
                id,
                point: point(id),
                owner: self.owners.get(&id),
                pin: if self.stuck.contains(&id) { Pin::OwnerDown } else { Pin::Free },
            })
            .collect();
        let plan = plan(&mut self.preferences, &self.before, &nodes, &items);
        assert_eq!(plan.moves.len(), plan.lower_bound, "excess");
        assert_eq!(
            plan.executable_moves().count(),
            plan.lower_bound_now,
            "excess of what can move"
        );
        let mut counts = vec![0; plan.quotas.len()];
        for at in plan.assignment.iter().flatten() {
            counts[*at as usize] += 1;
        }
        if plan.unplaced.is_empty() {
            assert!(plan.quotas.iter().zip(counts).all(|(q, count)| q.quota == count));
        }
        self.before = nodes;
        for (item, to) in &plan.first {
            assert_eq!(self.owners.insert(*item, to.clone()), None);
        }
        for m in &plan.moves {
            assert_eq!(self.owners.get(&m.item), Some(&m.from));
            assert_ne!(m.from, m.to);
            if m.waits.is_none() {
                self.owners.insert(m.item, m.to.clone());
            }
        }
        plan
    }

    fn count(&self, n: u32) -> usize {
        self.owners.values().filter(|w| **w == worker(n)).count()
    }

    fn items_of(&self, n: u32) -> Vec<u32> {
        self.owners.iter().filter(|(_, w)| **w == worker(n)).map(|(item, _)| *item).collect()
    }
}

/// A fixed sequence of numbers (G. Marsaglia, "Xorshift RNGs"), so that a failure repeats.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

#[test]
fn any_history_of_joins_and_leaves_stays_balanced_without_excess() {
    let mut numbers = Numbers(0x5eed);
    let mut present: Vec<u32> = (0..30).collect();
    let mut cluster = Cluster::with(1000, nodes(present.clone()));
    let (mut moves, mut bound) = (0, 0);
    for step in 0..200 {
        let joins = present.len() <= 15 || present.len() < 50 && numbers.below(2) == 0;
        if joins {
            let new = (0..100).find(|n| !present.contains(n)).unwrap();
            present.push(new);
        } else {
            present.swap_remove(numbers.below(present.len() as u64) as usize);
        }
        if numbers.below(10) == 0 {
            cluster.items += numbers.below(20) as u32;
        }
        let plan = cluster.plan(nodes(present.clone()));
        moves += plan.moves.len();
        bound += least_moves(&plan, cluster.items as usize);
        let counts: Vec<_> = present.iter().map(|n| cluster.count(*n)).collect();
        let spread = counts.iter().max().unwrap() - counts.iter().min().unwrap();
        assert!(spread <= 1, "step {step}: {counts:?}");
    }
    assert!(moves > 1000);
    assert_eq!(moves, bound);
}

/// Every plan is checked against the bounds, those of what can move now too.
#[test]
fn items_that_stay_nodes_that_are_silent_and_weights_force_no_excess() {
    let mut numbers = Numbers(0xda7a);
    let mut all = nodes(0..12);
    let mut cluster = Cluster::with(300, all.clone());
    let (mut waited, mut moved) = (0, 0);
    for _ in 0..300 {
        let at = numbers.below(all.len() as u64) as usize;
        match numbers.below(6) {
            0 if all.len() > 4 => drop(all.swap_remove(at)),
            1 => all.push(node(100 + numbers.below(1000) as u32, 100)),
            2 => all[at].up = !all[at].up,
            3 => all[at].weight = 1 + numbers.below(1000) as u32,
            4 => cluster.items += numbers.below(5) as u32,
            _ => cluster.stuck.push(numbers.below(u64::from(cluster.items)) as u32),
        }
        let plan = cluster.plan(all.clone());
        moved += plan.executable_moves().count();
        waited += plan.moves.len() - plan.executable_moves().count();
    }
    assert!(moved > 100 && waited > 100, "{moved} moved, {waited} waited");
}

/// The fewest moves under any choice of who gets a ceiling, for equal weights: an owner keeps at
/// most the ceiling, and only as many nodes as there are ceilings keep that much.
fn least_moves(plan: &Plan<u32, WorkerId>, items: usize) -> usize {
    let (floor, ceilings) = (items / plan.quotas.len(), items % plan.quotas.len());
    let above_floor = plan.quotas.iter().filter(|q| q.held > floor).count();
    let kept: usize = plan.quotas.iter().map(|q| q.held.min(floor)).sum();
    items - plan.first.len() - kept - above_floor.min(ceilings)
}

#[test]
fn a_join_takes_exactly_its_share_and_says_why() {
    let mut cluster = Cluster::with(16, nodes(1..=3));
    let plan = cluster.plan(nodes(1..=4));
    assert_eq!(plan.moves.len(), 4);
    assert!(plan.moves.iter().all(|m| m.to == worker(4) && m.reason.to_string() == "joined w4"));
    let plan = cluster.plan(nodes([1, 3, 4]));
    assert_eq!(plan.moves.len(), 4);
    assert!(plan.moves.iter().all(|m| m.from == worker(2) && m.reason.to_string() == "left w2"));
    assert_eq!(cluster.plan(nodes([1, 3, 4])).moves, []);
}

#[test]
fn a_weight_is_respected_and_named_when_it_changes() {
    let mut cluster = Cluster::with(60, nodes(1..=3));
    let heavier = vec![node(1, 400), node(2, 100), node(3, 100)];
    let plan = cluster.plan(heavier.clone());
    assert_eq!([1, 2, 3].map(|n| cluster.count(n)), [40, 10, 10]);
    assert!(plan.moves.iter().all(|m| m.reason.to_string() == "weight of w1 changed"));
    let plan = cluster.plan(nodes(1..=3));
    assert_eq!(plan.moves.len(), 20);
    assert!(plan.moves.iter().all(|m| m.reason == Reason::WeightChanged(worker(1))));
    // Without a change of nodes, what is uneven is simply over quota.
    cluster.owners.values_mut().for_each(|w| *w = worker(1));
    let plan = cluster.plan(nodes(1..=3));
    assert!(plan.moves.iter().all(|m| m.reason.label() == "over quota"));
    assert_eq!(plan.moves.len(), 40);
}

#[test]
fn a_node_that_comes_back_is_offered_its_old_items_first() {
    let (mut back, mut all) = (0, 0);
    for n in 1..=20 {
        let mut cluster = Cluster::with(1024, nodes(1..=20));
        let had = cluster.items_of(n);
        cluster.plan(nodes((1..=20).filter(|m| *m != n)));
        assert_eq!(cluster.items_of(n), []);
        cluster.plan(nodes(1..=20));
        back += cluster.items_of(n).iter().filter(|item| had.contains(item)).count();
        all += had.len();
    }
    // Taking any items would bring back one in twenty.
    assert!(back * 10 >= all * 8, "{back} of {all} came back");
}

#[test]
fn the_same_inputs_give_the_same_plan_whatever_was_planned_before() {
    let mut travelled = Cluster::with(64, nodes([3, 9, 1]));
    travelled.plan(vec![node(9, 50), node(7, 300)]);
    travelled.owners.clear();
    travelled.before.clear();
    let mut fresh = Cluster { items: 64, ..Cluster::default() };
    let (a, b) = (travelled.plan(nodes(1..=5)), fresh.plan(nodes([5, 3, 1, 2, 4])));
    assert_eq!(a, b);
    let table: String =
        (0..64).map(|i| fresh.owners[&i].as_str().trim_start_matches('w').to_owned()).collect();
    assert_eq!(table, "4145143245223332313515521342534111454153231341433144242251522555");
    fresh.plan(nodes([1, 2, 4, 5, 6]));
    let table: String =
        (0..64).map(|i| fresh.owners[&i].as_str().trim_start_matches('w').to_owned()).collect();
    assert_eq!(table, "4145146245226662616515521642564111454156261641466144242251522555");
}

#[test]
fn an_item_that_cannot_be_given_away_stays_and_its_move_is_listed_as_waiting() {
    let mut cluster = Cluster::with(16, nodes([1]));
    cluster.stuck = (0..12).collect();
    let plan = cluster.plan(nodes([1, 2]));
    assert_eq!((plan.lower_bound, plan.lower_bound_now), (8, 4));
    assert_eq!(cluster.items_of(2), [12, 13, 14, 15]);
    let waiting: Vec<_> = plan.moves.iter().filter(|m| m.waits.is_some()).collect();
    assert_eq!(waiting.len(), 4);
    assert!(waiting.iter().all(|m| m.waits.unwrap().to_string() == "owner is down"));
    // What an owner that leaves cannot give away goes on waiting.
    let plan = cluster.plan(nodes([2]));
    assert_eq!((plan.lower_bound, plan.lower_bound_now), (12, 0));
    assert!(plan.moves.iter().all(|m| m.reason == Reason::Left(worker(1))));
}

#[test]
fn what_can_move_is_spread_evenly_though_the_rest_waits() {
    let mut cluster = Cluster::with(18, nodes([1]));
    cluster.stuck = (0..12).collect();
    let plan = cluster.plan(nodes([1, 2, 3]));
    assert_eq!((plan.lower_bound, plan.lower_bound_now), (12, 6));
    assert_eq!([1, 2, 3].map(|n| cluster.count(n)), [12, 3, 3]);
}

#[test]
fn a_node_that_is_down_keeps_its_items_and_gets_none() {
    let down = |mut all: Vec<Node<WorkerId>>| {
        all[1].up = false;
        all
    };
    let mut cluster = Cluster::with(12, nodes(1..=3));
    let had = cluster.items_of(2);
    assert_eq!(cluster.plan(down(nodes(1..=3))).moves, []);
    cluster.items = 24;
    cluster.plan(down(nodes(1..=3)));
    assert_eq!(cluster.items_of(2), had);
    // Where it holds more than its share, the surplus waits for it.
    let plan = cluster.plan(down(nodes(1..=9)));
    let from_down: Vec<_> = plan.moves.iter().filter(|m| m.from == worker(2)).collect();
    assert!(!from_down.is_empty());
    assert!(from_down.iter().all(|m| m.waits == Some(Wait::OwnerDown)));
    assert_eq!(cluster.items_of(2), had);
    // Back up, it is one that joined.
    let mut cluster = Cluster::with(12, nodes(1..=3));
    cluster.items = 24;
    cluster.plan(down(nodes(1..=3)));
    let plan = cluster.plan(nodes(1..=3));
    assert_eq!(plan.moves.len(), 4);
    assert!(plan.moves.iter().all(|m| m.reason == Reason::Joined(worker(2))));
}

#[test]
fn without_anyone_up_nothing_is_placed_or_lost() {
    let mut cluster = Cluster { items: 5, ..Cluster::default() };
    let plan = cluster.plan(vec![]);
    assert_eq!((plan.unplaced, plan.first), (vec![0, 1, 2, 3, 4], vec![]));
    cluster.plan(nodes([1, 2]));
    let plan = cluster.plan(vec![]);
    assert_eq!((plan.unplaced.len(), plan.moves.len()), (5, 0));
    assert_eq!(cluster.plan(nodes([3])).moves.len(), 5);
}

#[test]
fn rights_of_two_subscriptions_lie_apart() {
    let right = |subscription, index| RightId {
        subscription: SubscriptionId(subscription),
        queue: QueueId::new(GroupId(1), index),
        lanes: Lanes::ALL,
    };
    assert_ne!(right_point(&right(1, 0)), right_point(&right(2, 0)));
    assert_ne!(right_point(&right(1, 0)), right_point(&right(1, 1)));
    assert_eq!(right_point(&right(1, 0)), 0xadc8_c14d_5c56_3bad);
}
