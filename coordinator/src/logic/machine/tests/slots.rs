//! Groups that grow and classes that move: seals before tables, fences behind them, and crashes of
//! the coordinator in the middle.

use ringway_proto::admin::*;
use ringway_proto::control::*;
use ringway_proto::routing::moves::Fence;
use ringway_proto::*;

use super::world::*;
use crate::logic::machine::*;
use crate::logic::rows::SlotChange;
use crate::logic::slots;

fn default(index: u32) -> QueueId {
    QueueId::new(GroupId(0), index)
}

fn grow(world: &mut World, queues: u32) -> Result<Option<GrowInfo>, Refusal> {
    let name = GroupName::new("default").unwrap();
    match world.ask(AdminRequest::GroupGrow { name, queues })? {
        AdminResponse::Growing { growing, .. } => Ok(growing),
        other => panic!("{other:?}"),
    }
}

fn table(world: &World) -> (usize, MoveNumber, usize) {
    let routing = world.machine.build_routing();
    let group = &routing.groups[0];
    let used: std::collections::BTreeSet<u32> = group.slots.iter().map(|r| r.queue).collect();
    (used.len(), routing.moved, routing.moves.iter().map(|moved| moved.ends.len()).sum())
}

#[test]
fn the_table_is_published_only_when_every_queue_that_gives_or_gets_is_sealed() {
    let mut world = World::with_workers(&["w1", "w2"]);
    world.write(
        "w1",
        world
            .machine
            .queues
            .iter()
            .find(|(_, q)| q.is_led_by(&worker_id("w1")))
            .map(|(id, _)| *id)
            .unwrap(),
    );
    world.kill_worker("w2");
    world.calm();
    let growing = grow(&mut world, 20).unwrap().unwrap();
    assert_eq!(growing.queues, 20);
    world.calm();
    assert_eq!(table(&world), (16, MoveNumber(0), 0), "w2 is away");
    let growing = grow(&mut world, 20).unwrap().unwrap();
    assert_eq!(growing.waits.as_deref(), Some("w2"));
    assert!(growing.sealed < growing.of, "{growing:?}");
    assert_eq!(grow(&mut world, 24).unwrap_err().code, Code::InUse);
    assert_eq!(grow(&mut world, 4).unwrap_err().code, Code::InUse);

    world.restart_coordinator();
    world.calm();
    assert_eq!(table(&world).0, 16, "the wish survives, and what is missing still is");
    world.start_worker("w2");
    world.calm();
    assert_eq!(table(&world), (20, MoveNumber(1), 16));
    assert_eq!(grow(&mut world, 20).unwrap(), None, "done, and asked again");
    assert_eq!(grow(&mut world, 4).unwrap_err().code, Code::InvalidOption, "no shrinking");
    let before = world.machine.build_routing();
    world.restart_coordinator();
    world.calm();
    assert_eq!(world.machine.build_routing().moves, before.moves);
}

#[test]
fn what_cannot_move_any_more_is_refused_and_changes_nothing() {
    let mut world = World::with_workers(&["w1"]);
    world.calm();
    for number in 1000..1000 + slots::MAX_SLOT_MOVES as u64 {
        let change = SlotChange::Grow { group: GroupId(7) };
        world.machine.slot_moves.wish(MoveNumber(number), change).unwrap();
    }
    let before: Vec<_> = world.machine.catalog.groups().cloned().collect();
    assert_eq!(grow(&mut world, 20).unwrap_err().code, Code::TooLarge);
    let create = AdminRequest::GroupCreate {
        name: GroupName::new("ring").unwrap(),
        queues: 2,
        ring_weight: Some(100),
        max_body_bytes: None,
    };
    assert_eq!(world.ask(create).unwrap_err().code, Code::TooLarge);
    assert_eq!(world.machine.catalog.groups().cloned().collect::<Vec<_>>(), before);
}

#[test]
fn an_end_that_was_said_under_an_older_epoch_is_not_taken() {
    let mut world = World::with_workers(&["w1"]);
    let conn = world.workers[&worker_id("w1")].conn.unwrap();
    grow(&mut world, 17).unwrap();
    let said = |world: &mut World, epoch, at| {
        let (queue, number) = (default(0), MoveNumber(1));
        let message = FromWorker::SlotsSealed { queue, epoch, number, at: Offset(at) };
        world.input(Input::FromWorker { conn, message });
    };
    said(&mut world, Epoch(9), 5);
    said(&mut world, Epoch(1), 3);
    said(&mut world, Epoch(1), 4);
    world.calm();
    let routing = world.machine.build_routing();
    let end = routing.moves[0].ends.iter().find(|end| end.queue == default(0)).unwrap();
    assert_eq!(end.at, Offset(3), "the first under the epoch that holds");
}

#[test]
fn a_class_goes_to_its_new_group_only_behind_the_seals_and_one_move_after_the_other() {
    let mut world = World::with_workers(&["w1"]);
    world.write("w1", default(3));
    let create = |name: &str, ring_weight| AdminRequest::GroupCreate {
        name: GroupName::new(name).unwrap(),
        queues: 2,
        ring_weight,
        max_body_bytes: None,
    };
    world.ask(create("orders", None)).unwrap();
    world.ask(create("east", Some(100))).unwrap();
    let bind = AdminRequest::Bind {
        filter: Filter::new("a.>").unwrap(),
        group: GroupName::new("orders").unwrap(),
    };
    let moving = |answer| match answer {
        Ok(AdminResponse::Bound { moving, .. }) => moving,
        other => panic!("{other:?}"),
    };
    assert!(moving(world.ask(bind.clone())));
    assert_eq!(world.machine.open_slot_moves(), 2);
    assert!(world.machine.build_routing().bindings.is_empty());
    world.calm();
    assert!(!moving(world.ask(bind)));
    assert_eq!(world.machine.open_slot_moves(), 0);
    let routing = world.machine.build_routing();
    assert_eq!((routing.bindings.len(), routing.moved), (1, MoveNumber(2)));
    assert!(routing.groups.iter().any(|g| g.name.as_str() == "east" && g.ring_weight == Some(100)));
}

#[test]
fn every_subscription_passes_fences_for_itself_and_later_ones_are_asked_too() {
    let mut world = World::with_workers(&["w1"]);
    world.write("w1", default(3));
    world.start_member("a");
    world.calm();
    grow(&mut world, 32).unwrap();
    world.calm();
    let fence = Fence { number: MoveNumber(1), queue: default(3) };
    let first = SubscriptionId(0);
    assert!(world.machine.slot_moves.is_passed(first, &fence), "the worker said so");
    let later =
        Join { name: SubscriptionName::new("later").unwrap(), ..World::join_message("b", 1) };
    let conn = 999;
    world.input(Input::FromClient { conn, message: FromClient::Watch { have: RoutingVersion(0) } });
    world.input(Input::FromClient { conn, message: FromClient::Join(later) });
    let second = SubscriptionId(1);
    assert!(!world.machine.slot_moves.is_passed(second, &fence));
    world.calm();
    assert!(world.machine.slot_moves.is_passed(second, &fence), "it was asked for");
    world.restart_coordinator();
    assert!(world.machine.slot_moves.is_passed(first, &fence), "stored");
}
