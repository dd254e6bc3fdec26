//! The planner: how long a join and a leave take to plan, and over a long history how even the
//! shares are and how many moves are made beyond the fewest possible.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use ringway_coordinator::logic::plan::{Item, Node, Pin, Plan, Preferences, plan, queue_point};
use ringway_proto::{GroupId, QueueId, WorkerId};

fn node(n: usize) -> Node<WorkerId> {
    let id = WorkerId::new(format!("worker-{n}")).expect("legal as written");
    Node { id, weight: 100, up: true }
}

fn nodes(count: usize) -> Vec<Node<WorkerId>> {
    (0..count).map(node).collect()
}

fn items(owners: &[Option<WorkerId>]) -> Vec<Item<'_, u32, WorkerId>> {
    (0u32..)
        .zip(owners)
        .map(|(id, owner)| Item {
            id,
            point: queue_point(QueueId::new(GroupId(0), id)),
            owner: owner.as_ref(),
            pin: Pin::Free,
        })
        .collect()
}

fn apply(owners: &mut [Option<WorkerId>], plan: &Plan<u32, WorkerId>) {
    for (item, owner) in owners.iter_mut().enumerate() {
        *owner = plan.node_of(item).cloned();
    }
}

/// The time of a plan, with the ring of the plan before at hand.
fn time(c: &mut Criterion, item_count: usize, node_count: usize) {
    let before = nodes(node_count);
    let mut preferences = Preferences::default();
    let mut owners = vec![None; item_count];
    let first = plan(&mut preferences, &[], &before, &items(&owners));
    apply(&mut owners, &first);
    let items = items(&owners);
    for (what, after) in [
        ("nothing", before.clone()),
        ("a join", nodes(node_count + 1)),
        ("a leave", before[1..].to_vec()),
    ] {
        c.bench_function(&format!("plan {what}, {item_count} items, {node_count} nodes"), |b| {
            b.iter_batched_ref(
                || preferences.clone(),
                |preferences| plan(preferences, &before, black_box(&after), black_box(&items)),
                BatchSize::LargeInput,
            );
        });
    }
}

/// A thousand random joins and leaves of 50 to 150 nodes with 4,096 items.
fn history() {
    let mut seed = 0x5eed_u64;
    let mut below = |n: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % n as u64) as usize
    };
    let (mut present, mut next) = (nodes(100), 100);
    let mut owners = vec![None; 4096];
    let mut preferences = Preferences::default();
    let first = plan(&mut preferences, &[], &present, &items(&owners));
    apply(&mut owners, &first);
    let (mut moves, mut bound, mut widest) = (0, 0, 0);
    for _ in 0..1000 {
        let before = present.clone();
        if present.len() <= 50 || present.len() < 150 && below(2) == 0 {
            present.push(node(next));
            next += 1;
        } else {
            present.swap_remove(below(present.len()));
        }
        let plan = plan(&mut preferences, &before, &present, &items(&owners));
        apply(&mut owners, &plan);
        moves += plan.moves.len();
        bound += plan.lower_bound;
        let quotas = plan.quotas.iter().map(|q| q.quota);
        widest = widest.max(quotas.clone().max().unwrap_or(0) - quotas.min().unwrap_or(0));
    }
    println!(
        "1000 joins and leaves, 4096 items: {moves} moves, lower bound {bound}, excess {}, \
         largest less smallest share {widest}",
        moves - bound
    );
    assert!(moves == bound && widest <= 1);
}

fn planner(c: &mut Criterion) {
    history();
    time(c, 4096, 100);
    time(c, 65_536, 1000);
}

criterion_group!(benches, planner);
criterion_main!(benches);
