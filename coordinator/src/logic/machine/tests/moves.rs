//! Queues that move with their messages: turns, seals, swaps, giving up, and workers that are
//! emptied.

use ringway_proto::admin::*;
use ringway_proto::control::*;
use ringway_proto::*;

use super::world::*;
use crate::logic::machine::*;
use crate::logic::plans::replay;
use crate::logic::rows::*;

fn queue(index: u32) -> QueueId {
    QueueId::new(GroupId(0), index)
}

/// `w1` with ten messages in each of 16 queues, and `w2` that has just come.
fn two() -> World {
    let mut world = World::with_workers(&["w1"]);
    for index in 0..16 {
        (0..10).for_each(|_| world.write("w1", queue(index)));
    }
    world.start_worker("w2");
    world.deliver();
    world.pass(500);
    world.deliver();
    world
}

fn steps(world: &World) -> [usize; 3] {
    let count = |step| world.machine.queues.values().filter(|q| q.step() == Some(step)).count();
    [MoveStep::Waiting, MoveStep::Copying, MoveStep::Sealing].map(count)
}

fn led(world: &World) -> Vec<usize> {
    world.led().into_values().collect()
}

fn conn(world: &World, name: &str) -> u64 {
    world.workers[&worker_id(name)].conn.unwrap()
}

fn status(world: &mut World) -> ClusterStatus {
    match world.ask(AdminRequest::ClusterStatus) {
        Ok(AdminResponse::Status(status)) => status,
        other => panic!("{other:?}"),
    }
}

fn drain(world: &mut World, name: &str, undo: bool) -> Result<WorkerInfo, Refusal> {
    match world.ask(AdminRequest::Drain { worker: worker_id(name), undo })? {
        AdminResponse::Draining(info) => Ok(info),
        other => panic!("{other:?}"),
    }
}

#[test]
fn queues_with_messages_are_copied_four_at_a_time_and_sealed_only_when_close() {
    let mut world = two();
    assert_eq!(steps(&world), [4, 4, 0]);
    let w2 = worker_id("w2");
    world.copy(&w2, 5);
    world.deliver();
    assert_eq!(steps(&world), [4, 4, 0], "five messages of 4 MiB are left");
    let moving = status(&mut world).moving;
    assert_eq!(moving.len(), 8);
    let copying: Vec<_> = moving.iter().filter(|m| m.phase == "copying").collect();
    assert_eq!(copying.len(), 4);
    assert_eq!((copying[0].copied_bytes, copying[0].total_bytes), (5 << 22, 10 << 22));
    assert_eq!((copying[0].from.clone(), &copying[0].to), (Some(worker_id("w1")), &w2));
    world.copy(&w2, 5);
    world.deliver();
    assert_eq!(steps(&world), [4, 0, 4]);
    assert_eq!(led(&world), [16], "a seal is no swap");
    world.calm();
    assert_eq!(led(&world), [8, 8]);
    assert_eq!(world.moves(), (8, 8));
    assert!(status(&mut world).moving.is_empty());
    assert!(world.machine.drops.is_empty() && world.machine.graves.is_empty());
}

#[test]
fn a_copy_goes_on_after_a_short_absence_and_is_dropped_after_a_long_one() {
    let mut world = two();
    let w2 = worker_id("w2");
    world.copy(&w2, 5);
    world.deliver();
    world.kill_worker("w2");
    world.pass(1560);
    assert!(!world.machine.workers[&w2].up);
    assert_eq!(steps(&world), [4, 4, 0], "a copy waits for its worker");
    world.pass(8000);
    world.start_worker("w2");
    world.deliver();
    let kept: Vec<u64> = world.workers[&w2].copies.values().map(|copy| copy.copied.0).collect();
    assert_eq!(kept, [5; 4]);

    let attempts: Vec<Attempt> = world.machine.queues.values().map(|q| q.row().attempt).collect();
    world.kill_worker("w2");
    world.pass(1560);
    world.pass(10_000);
    assert_eq!(steps(&world), [0; 3]);
    let raised = world.machine.queues.values().zip(attempts).filter(|(q, a)| q.row().attempt > *a);
    assert_eq!(raised.count(), 8, "giving up is a write that raises the attempt");
    assert_eq!(world.moves(), (0, 0));
    // Its copies of what was given up go before those of the next attempt begin.
    world.start_worker("w2");
    world.deliver();
    assert!(world.workers[&w2].copies.is_empty());
    world.calm();
    assert_eq!(led(&world), [8, 8]);
}

#[test]
fn a_queue_does_not_stay_sealed_for_a_copy_that_does_not_come() {
    let mut world = two();
    world.copy(&worker_id("w2"), 10);
    world.deliver();
    let sealed = |world: &World| {
        world.workers[&worker_id("w1")].queues.values().filter(|q| q.sealed.is_some()).count()
    };
    assert_eq!((steps(&world), sealed(&world)), ([4, 0, 4], 4));
    // The target lives and says nothing.
    for _ in 0..10 {
        world.pass(1000);
    }
    world.deliver();
    assert_eq!(sealed(&world), 0, "publishers wait no longer");

    let mut world = two();
    world.copy(&worker_id("w2"), 10);
    world.deliver();
    world.kill_worker("w2");
    world.pass(1560);
    world.deliver();
    assert_eq!(sealed(&world), 0, "the target of a sealed queue is not waited for");
    world.start_worker("w2");
    world.calm();
    assert_eq!(led(&world), [8, 8]);
}

#[test]
fn a_copy_that_does_not_grow_is_given_up_and_planned_again_also_after_a_restart() {
    for restart in [false, true] {
        let mut world = two();
        let w2 = worker_id("w2");
        world.copy(&w2, 2);
        world.deliver();
        let attempts = |world: &World| -> Vec<Attempt> {
            let copies = world.workers[&worker_id("w2")].copies.values();
            copies.map(|copy| copy.attempt).collect()
        };
        let before = attempts(&world);
        let wait = |world: &mut World, seconds: u64| {
            for _ in 0..seconds {
                world.pass(1000);
                world.deliver();
            }
        };
        wait(&mut world, 59);
        assert_eq!(attempts(&world), before);
        world.copy(&w2, 2);
        world.deliver();
        wait(&mut world, 50);
        assert_eq!(attempts(&world), before, "it grew");
        if restart {
            world.restart_coordinator();
            wait(&mut world, 59);
            assert_eq!(attempts(&world), before, "how long it stood still is not known");
        }
        wait(&mut world, 12);
        assert_eq!(steps(&world), [4, 4, 0], "planned again");
        assert!(attempts(&world).iter().zip(&before).all(|(now, then)| now > then));
        world.calm();
        assert_eq!((led(&world), world.moves()), (vec![8, 8], (8, 8)));
    }
}

#[test]
fn a_queue_that_cannot_be_sealed_yet_keeps_its_copy_and_is_asked_again() {
    let mut world = two();
    world.workers.get_mut(&worker_id("w1")).unwrap().declines = true;
    world.copy(&worker_id("w2"), 10);
    world.deliver();
    assert_eq!(steps(&world), [4, 4, 0], "others may be sealed meanwhile");
    for _ in 0..9 {
        world.pass(1000);
        world.deliver();
    }
    let kept: Vec<u64> =
        world.workers[&worker_id("w2")].copies.values().map(|copy| copy.copied.0).collect();
    assert_eq!(kept, [10; 4], "nothing is copied anew");
    assert_eq!(steps(&world), [4, 4, 0]);
    world.workers.get_mut(&worker_id("w1")).unwrap().declines = false;
    world.pass(2000);
    world.deliver();
    world.calm();
    assert_eq!(led(&world), [8, 8]);
}

#[test]
fn a_late_word_about_a_copy_that_was_given_up_moves_nothing() {
    let mut world = two();
    world.copy(&worker_id("w2"), 10);
    world.deliver();
    let before = world.machine.queues.values().find(|q| q.step() == Some(MoveStep::Sealing));
    let row = before.unwrap().row().clone();
    let again = world.machine.queues.get_mut(&row.id).unwrap();
    again.give_up();
    again.begin_move(world.now, worker_id("w2"), String::new(), MoveReason::Joined);
    let attempt = row.moving.unwrap().attempt;
    let message = FromWorker::CopySynced { queue: row.id, attempt, end: Offset(10) };
    let conn = conn(&world, "w2");
    world.input(Input::FromWorker { conn, message });
    let now = world.machine.queues[&row.id].row();
    assert_eq!((&now.primary, now.epoch), (&row.primary, row.epoch));
}

#[test]
fn no_copy_begins_where_something_older_of_the_queue_is_still_to_be_removed() {
    let mut world = two();
    let next = world.machine.queues.values().find(|q| q.step() == Some(MoveStep::Waiting));
    let QueueRow { id, uuid, epoch, .. } = next.unwrap().row().clone();
    world.machine.bury(GraveRow { worker: worker_id("w2"), queue: id, uuid, epoch });
    for _ in 0..4 {
        world.copy(&worker_id("w2"), 10);
        world.deliver();
    }
    assert_eq!((led(&world), steps(&world)), (vec![9, 7], [1, 0, 0]));
    let conn = conn(&world, "w2");
    world.input(Input::FromWorker { conn, message: FromWorker::Removed { queue: id, epoch } });
    assert_eq!(steps(&world), [0, 1, 0]);
}

#[test]
fn a_restarted_coordinator_continues_every_step_of_a_move() {
    for copied in [0, 5, 10] {
        let mut world = two();
        world.copy(&worker_id("w2"), copied);
        world.deliver();
        let before = steps(&world);
        world.restart_coordinator();
        assert_eq!(steps(&world), before);
        world.deliver();
        assert_eq!(steps(&world), before, "the turns are the same");
        world.calm();
        assert_eq!((led(&world), world.moves()), (vec![8, 8], (8, 8)));
    }
}

#[test]
fn a_whole_copy_that_is_not_open_yet_is_no_missing_data() {
    let mut world = two();
    let w2 = worker_id("w2");
    world.copy(&w2, 10);
    world.deliver();
    world.copy(&w2, 0);
    // The swap is stored, and the order to open is lost with the connection.
    let conn = conn(&world, "w2");
    while !world.up[&conn].is_empty() {
        world.arrive_up(conn);
    }
    let swapped = world.machine.queues.values().filter(|q| q.is_led_by(&w2)).count();
    assert_eq!((swapped, world.workers[&w2].copies.len()), (4, 4));
    world.kill_worker("w2");
    world.start_worker("w2");
    world.calm();
    assert_eq!(led(&world), [8, 8]);
    // Half a copy of a queue that it leads is not all of it.
    let id = world.machine.queues.values().find(|q| q.is_led_by(&w2)).unwrap().row().id;
    let held = world.workers.get_mut(&w2).unwrap().queues.remove(&id).unwrap();
    let attempt = world.machine.queues[&id].row().attempt;
    let copy = HeldCopy { queue: id, uuid: held.uuid, attempt, copied: Offset(9), synced: false };
    world.kill_worker("w2");
    world.workers.get_mut(&w2).unwrap().copies.insert(id, copy);
    world.connect_worker(&w2);
    let conn = world.workers[&w2].conn.unwrap();
    world.arrive_up(conn);
    let refused = world.log.iter().rev().find_map(|action| match action {
        Action::ToWorker { message: ToWorker::RegisterRefused(refusal), .. } => Some(refusal.code),
        _ => None,
    });
    assert_eq!(refused, Some(Code::DataMissing));
}

#[test]
fn a_worker_is_drained_says_when_nothing_is_left_and_gets_queues_again_when_that_is_undone() {
    let mut world = two();
    world.calm();
    assert_eq!(drain(&mut world, "w9", false).unwrap_err().code, Code::InvalidOption);
    let info = drain(&mut world, "w2", false).unwrap();
    assert_eq!((info.state.as_str(), info.queues), ("draining", 8));
    world.deliver();
    assert_eq!(steps(&world), [4, 4, 0], "at once, and no more than may");
    world.restart_coordinator();
    world.calm();
    assert_eq!(drain(&mut world, "w2", false).unwrap().state, "drained");
    world.kill_worker("w2");
    world.pass(1560);
    assert_eq!(drain(&mut world, "w2", false).unwrap().state, "drained");
    world.start_worker("w2");
    world.calm();
    assert_eq!(led(&world), [16], "a restart undoes nothing");
    assert_eq!(drain(&mut world, "w2", true).unwrap().state, "up");
    world.calm();
    assert_eq!(led(&world), [8, 8]);
    assert_eq!(world.moves(), (24, 24));
}

#[test]
fn what_is_not_sealed_yet_stays_when_a_drain_is_undone() {
    let mut world = two();
    world.calm();
    drain(&mut world, "w2", false).unwrap();
    world.deliver();
    world.copy(&worker_id("w1"), 10);
    world.deliver();
    assert_eq!(steps(&world), [4, 0, 4]);
    drain(&mut world, "w2", true).unwrap();
    world.deliver();
    assert_eq!(steps(&world)[..2], [0, 0], "called back");
    world.calm();
    assert_eq!(led(&world), [8, 8]);
    let (moves, least) = world.moves();
    assert_eq!(moves, least);
    assert!(world.machine.drops.is_empty());

    // Nothing was sealed: nothing moves at all.
    let moved = world.moves().0;
    drain(&mut world, "w2", false).unwrap();
    world.deliver();
    drain(&mut world, "w2", true).unwrap();
    world.calm();
    assert_eq!((led(&world), world.moves()), (vec![8, 8], (moved, moved)));
}

#[test]
fn a_drained_worker_that_is_down_keeps_its_queues_until_it_is_back() {
    let mut world = two();
    world.calm();
    world.kill_worker("w2");
    world.pass(1560);
    drain(&mut world, "w2", false).unwrap();
    world.calm();
    assert_eq!(led(&world), [8, 8]);
    let Ok(AdminResponse::Plan(plan)) = world.ask(AdminRequest::Plan) else { panic!() };
    assert_eq!(plan.moves.len(), 8);
    assert!(plan.moves.iter().all(|m| m.waits.as_deref() == Some("w2 is down")), "{plan:?}");
    world.start_worker("w2");
    world.calm();
    assert_eq!(led(&world), [16]);
}

#[test]
fn what_if_says_what_the_plan_does_then_and_changes_nothing() {
    let mut world = two();
    world.calm();
    let rows = world.rows.clone();
    let change = PlanChange::Join { worker: worker_id("w3"), weight: 200 };
    let Ok(AdminResponse::Plan(would)) = world.ask(AdminRequest::PlanIf { change }) else {
        panic!()
    };
    assert_eq!((would.moves.len() as u64, would.lower_bound), (8, 8));
    assert!(would.moves.iter().all(|m| m.reason == "joined w3" && m.to == worker_id("w3")));
    let change = PlanChange::Leave { worker: worker_id("w2") };
    let Ok(AdminResponse::Plan(left)) = world.ask(AdminRequest::PlanIf { change }) else {
        panic!()
    };
    assert!(left.moves.len() == 8 && left.moves.iter().all(|m| m.reason == "left w2"));
    assert_eq!(world.rows, rows);
    drain(&mut world, "w2", false).unwrap();
    let Ok(AdminResponse::Plan(plan)) = world.ask(AdminRequest::Plan) else { panic!() };
    let of = |plan: &PlanInfo| -> Vec<(String, WorkerId)> {
        plan.moves.iter().map(|m| (m.queue.clone(), m.to.clone())).collect()
    };
    assert_eq!(of(&plan), of(&left));
    let unknown = PlanChange::Leave { worker: worker_id("w9") };
    assert!(world.ask(AdminRequest::PlanIf { change: unknown }).is_err());
}

#[test]
fn every_plan_is_kept_and_computes_to_the_same_again_and_explains_the_last_moves() {
    let mut world = two();
    world.start_member("a");
    world.calm();
    world.start_member("b");
    world.calm();
    world.restart_coordinator();
    world.calm();
    let Ok(AdminResponse::Plans(plans)) = world.ask(AdminRequest::PlanList { limit: 100 }) else {
        panic!()
    };
    let numbers: Vec<u64> = plans.iter().map(|plan| plan.number).collect();
    assert_eq!(numbers, (1..=world.machine.meta.plan).rev().collect::<Vec<_>>());
    assert_eq!((plans[0].of.as_str(), plans[0].moves, plans[0].nodes), ("s", 8, 2));
    assert!(plans.iter().all(|plan| plan.moves == plan.lower_bound), "{plans:?}");
    world.input(Input::Admin {
        reply: ReplyTo(9),
        request: AdminRequest::PlanReplay { from: None },
    });
    let Some(Action::Replay { plans, .. }) = world.log.last() else { panic!() };
    let replayed = replay(plans);
    assert_eq!((replayed.same as usize, replayed.different), (numbers.len(), vec![]));

    let moved = world.machine.queues.values().find(|q| q.is_led_by(&worker_id("w2"))).unwrap();
    let name = world.machine.catalog.queue_name(moved.row().id);
    let explain = |subscription: Option<&str>| AdminRequest::Explain {
        queue: name.clone(),
        subscription: subscription.map(|name| SubscriptionName::new(name).unwrap()),
    };
    let Ok(AdminResponse::Explanation(why)) = world.ask(explain(None)) else { panic!() };
    assert_eq!((why.owner.as_deref(), why.held, why.quota), (Some("w2"), 8, 8));
    let last = why.last_move.unwrap();
    assert_eq!((last.from.as_deref(), last.reason.as_str()), (Some("w1"), "joined w2"));
    assert!(numbers.contains(&last.plan) && why.preference.is_some());
    let Ok(AdminResponse::Explanation(why)) = world.ask(explain(Some("s"))) else { panic!() };
    assert!(["a", "b"].contains(&why.owner.as_deref().unwrap()) && why.state == "granted");
    for (bad, code) in [
        ("default", Code::InvalidName),
        ("default/16", Code::InvalidOption),
        ("nowhere/0", Code::UnknownGroup),
    ] {
        let request = AdminRequest::Explain { queue: bad.to_owned(), subscription: None };
        assert_eq!(world.ask(request).unwrap_err().code, code, "{bad}");
    }
}
