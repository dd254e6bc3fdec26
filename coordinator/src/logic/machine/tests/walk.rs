//! A long random walk: members and workers come, go, break and restart, messages are late and
//! doubled, queues move with their
//! messages, the coordinator restarts; between, everything calms down and has to be whole.

use ringway_proto::admin::AdminRequest;
use ringway_proto::*;

use super::world::*;
use crate::logic::machine::Event;
use crate::logic::rows::*;

const MEMBERS: [&str; 5] = ["a", "b", "c", "d", "e"];
const WORKERS: [&str; 3] = ["w1", "w2", "w3"];

/// xorshift64* (G. Marsaglia 2003, S. Vigna 2016).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }
}

fn step(world: &mut World, dice: &mut Dice) {
    let conns: Vec<_> = world.up.keys().copied().collect();
    let conn = conns.get(dice.below(conns.len().max(1))).copied();
    let member = MEMBERS[dice.below(MEMBERS.len())];
    let known = world.members.get(&member_id(member));
    let (is_known, is_alive) = (known.is_some(), known.is_some_and(|m| m.alive));
    let worker = WORKERS[dice.below(WORKERS.len())];
    let worker_up = world.workers.get(&worker_id(worker)).is_some_and(|w| w.conn.is_some());
    match dice.below(100) {
        0..35 => conn.into_iter().for_each(|conn| world.arrive_up(conn)),
        35..70 => conn.into_iter().for_each(|conn| world.arrive_down(conn)),
        // The next message of a connection comes twice.
        70..74 => {
            if let Some(first) = conn.and_then(|conn| world.up[&conn].front().cloned()) {
                world.input(first);
            }
        }
        74..82 if is_known => world.drain(&member_id(member)),
        82..84 if !is_alive => world.start_member(member),
        84 if is_alive => world.start_member(member),
        85..87 if is_alive => world.leave(member),
        87 if is_alive => world.kill_member(member),
        88 if is_alive => {
            if let Some(conn) = world.members[&member_id(member)].conn {
                world.cut(conn);
            }
            world.connect_member(&member_id(member));
        }
        89 if worker_up => world.kill_worker(worker),
        90..93 if !worker_up => world.start_worker(worker),
        93 if worker_up => {
            world.kill_worker(worker);
            world.start_worker(worker);
        }
        94 if worker_up => write(world, worker, dice),
        95 => world.restart_coordinator(),
        96 if dice.below(4) == 0 => {
            let undo = dice.below(3) > 0;
            let _ = world.ask(AdminRequest::Drain { worker: worker_id(worker), undo });
        }
        97 | 98 => world.copy(&worker_id(worker), dice.below(4) as u64),
        _ => world.pass(dice.below(400) as u64),
    }
}

/// Some queue of this worker takes a few messages, if it has one that is open.
fn write(world: &mut World, name: &str, dice: &mut Dice) {
    let worker = &world.workers[&worker_id(name)];
    let open: Vec<QueueId> =
        worker.queues.values().filter(|q| q.sealed.is_none()).map(|q| q.queue).collect();
    if !open.is_empty() {
        let queue = open[dice.below(open.len())];
        (0..=dice.below(6)).for_each(|_| world.write(name, queue));
    }
}

fn check_calm(world: &mut World, seed: u64) {
    world.end_old_processes();
    for name in WORKERS {
        if world.workers.get(&worker_id(name)).is_none_or(|w| w.conn.is_none()) {
            world.start_worker(name);
        }
    }
    for _ in 0..4 {
        world.calm();
    }
    let queues = &world.machine.queues;
    for (id, queue) in queues {
        let row = queue.row();
        let primary = row.primary.as_ref().unwrap();
        let held = &world.workers[primary].queues[id];
        assert!(queue.opened && row.moving.is_none(), "seed {seed}: {row:?}");
        assert_eq!((held.epoch, held.sealed), (row.epoch, None), "seed {seed}: {id}");
        assert_eq!(held.end > Offset(0), row.has_data, "seed {seed}: {id}");
        assert_eq!(held.end, world.accepted.get(id).copied().unwrap_or_default(), "seed {seed}");
        let here = world.workers.values().filter(|w| w.queues.contains_key(id)).count();
        let copies = world.workers.values().filter(|w| w.copies.contains_key(id)).count();
        assert_eq!((here, copies), (1, 0), "seed {seed}: {id}");
    }
    let (led, rows) = (world.led(), &world.machine.workers);
    let of = |draining: bool| {
        let rows = rows.values().filter(move |row| row.draining == draining);
        rows.map(|row| led.get(&row.id).copied().unwrap_or(0)).collect::<Vec<usize>>()
    };
    if let (Some(most), Some(least)) = (of(false).iter().max(), of(false).iter().min()) {
        assert!(most - least <= 1, "seed {seed}: {led:?}");
        assert!(of(true).iter().all(|n| *n == 0), "seed {seed}: {led:?} while draining");
    }
    let lanes = world.lanes();
    if lanes.is_empty() {
        assert!(world.rights().iter().all(|r| r.phase == Phase::Free), "seed {seed}");
    } else {
        // Each has its weighted share, to the smallest range that there is.
        let rights = world.rights();
        let smallest = rights.iter().map(|r| u32::from(r.id.lanes.count())).min().unwrap();
        let weight = |member| world.weights.get(member).copied().unwrap_or(100);
        let all: u32 = lanes.values().sum();
        let total: u32 = lanes.keys().map(weight).sum();
        for (member, has) in &lanes {
            let share = all / smallest * weight(member) / total;
            let cells = has / smallest;
            assert!((share..=share + 1).contains(&cells), "seed {seed}: {lanes:?} of {smallest}");
            assert!(cells > 0, "seed {seed}: {lanes:?}");
        }
        assert!(
            rights.iter().all(|r| r.cut.is_none() && r.parts.is_empty() && r.merging.is_none())
        );
        for row in world.rights() {
            let Phase::Granted(holder) = &row.phase else { panic!("seed {seed}: {row:?}") };
            let member = &world.members[&holder.member];
            assert_eq!(member.incarnation, holder.incarnation.0, "seed {seed}");
            assert_eq!(member.held.get(&row.id), Some(&row.epoch), "seed {seed}: {row:?}");
            let primary = world.machine.primary(row.id.queue).unwrap();
            let raised = &world.workers[&primary].rights[&row.id];
            assert_eq!((raised.epoch, raised.holder.as_ref()), (row.epoch, Some(holder)));
        }
    }
    let alive = world.members.values().filter(|m| m.alive).count();
    assert_eq!(alive, world.machine.members.len(), "seed {seed}");
    let (moves, bound) = world.moves();
    assert_eq!(moves, bound, "seed {seed}: moves against the lower bound");
}

#[test]
fn whatever_happens_one_holder_per_epoch_and_everything_is_whole_in_the_end() {
    let is_move = |event: &Event| matches!(event, Event::QueueMoved(_));
    let (mut most, mut moved_with_data) = ([0; 3], 0);
    let (mut split, mut merged) = (0, 0);
    for seed in 1..=150 {
        let mut dice = Dice(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed));
        let mut world = World::new();
        // Their shares are parts of a queue.
        if seed % 2 == 0 {
            let weights = [("d", 40), ("e", 6 + seed as u32 % 30)];
            world.weights = weights.map(|(name, weight)| (member_id(name), weight)).into();
        }
        for _ in 0..6 {
            for _ in 0..250 {
                step(&mut world, &mut dice);
            }
            check_calm(&mut world, seed);
        }
        for (most, seen) in most.iter_mut().zip(world.most) {
            *most = seen.max(*most);
        }
        let count = |event: &Event| world.events.iter().filter(|e| *e == event).count();
        split += count(&Event::RightSplit);
        merged += count(&Event::RightsMerged);
        moved_with_data += world.events.iter().filter(|e| is_move(e)).count();
    }
    assert_eq!(most, [4, 4, 4], "the limits were reached");
    assert!(split > 500 && merged > 300, "{split} splits, {merged} merges");
    assert!(moved_with_data > 1000, "{moved_with_data} moves of queues");
}

#[test]
fn one_seed_gives_one_history() {
    let run = || {
        let (mut dice, mut world) = (Dice(4711), World::new());
        for _ in 0..1500 {
            step(&mut world, &mut dice);
        }
        (world.rows, world.log)
    };
    assert!(run() == run());
}
