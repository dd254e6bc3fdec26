//! More members than queues: rights are split until each member has its share, and merged when
//! they are not needed so finely any more.

use std::collections::BTreeMap;

use ringway_proto::admin::AdminRequest;
use ringway_proto::control::{FromClient, ToClient};
use ringway_proto::*;

use super::world::*;
use crate::logic::machine::{Event, Input};
use crate::logic::rows::*;

/// A world in which the classes of the subscription go to a group of four queues.
fn of_four_queues() -> World {
    let mut world = World::with_workers(&["w1", "w2"]);
    let name = GroupName::new("few").unwrap();
    let create = AdminRequest::GroupCreate {
        name: name.clone(),
        queues: 4,
        ring_weight: None,
        max_body_bytes: None,
    };
    world.ask(create).unwrap();
    let filter = Filter::new("a.>").unwrap();
    world.ask(AdminRequest::Bind { filter, group: name }).unwrap();
    world.calm();
    world
}

fn rights(world: &World) -> Vec<RightRow> {
    world.rights().into_iter().filter(|row| row.id.queue.group == GroupId(1)).collect()
}

/// The lanes that each member has of the four queues.
fn lanes(world: &World) -> BTreeMap<String, u32> {
    let mut lanes = BTreeMap::new();
    for row in rights(world) {
        let Phase::Granted(holder) = &row.phase else { panic!("{row:?}") };
        *lanes.entry(holder.member.to_string()).or_insert(0) += u32::from(row.id.lanes.count());
    }
    lanes
}

fn join(world: &mut World, members: std::ops::Range<usize>) {
    for n in members {
        world.start_member(&format!("m{n}"));
        world.deliver();
    }
    for _ in 0..4 {
        world.calm();
    }
}

#[test]
fn thirty_two_members_share_four_queues_evenly_and_give_them_back() {
    let mut world = of_four_queues();
    join(&mut world, 0..32);
    assert_eq!(rights(&world).len(), 32);
    let shares = lanes(&world);
    assert!(shares.len() == 32 && shares.values().all(|n| *n == 512), "{shares:?}");

    // One who leaves and comes back merges and splits nothing.
    let count = |world: &World, event: &Event| world.events.iter().filter(|e| *e == event).count();
    let before = count(&world, &Event::RightSplit);
    world.leave("m7");
    world.calm();
    join(&mut world, 7..8);
    assert_eq!(count(&world, &Event::RightSplit), before);
    assert_eq!(count(&world, &Event::RightsMerged), 0);

    for n in 2..32 {
        world.leave(&format!("m{n}"));
        world.deliver();
    }
    for _ in 0..4 {
        world.calm();
    }
    assert_eq!(rights(&world).len(), 4, "whole queues again");
    assert_eq!(lanes(&world).into_values().collect::<Vec<_>>(), [8192, 8192]);
    let (moves, bound) = world.moves();
    assert_eq!(moves, bound);
}

#[test]
fn what_stays_keeps_its_epoch_and_only_the_rest_is_given_up() {
    let mut world = of_four_queues();
    join(&mut world, 0..4);
    let before = rights(&world);
    assert!(before.iter().all(|row| row.id.lanes == Lanes::ALL));
    join(&mut world, 4..8);
    for old in before {
        let at = |row: &&RightRow| row.id.queue == old.id.queue && row.id.lanes.start == 0;
        let kept = rights(&world).iter().find(at).unwrap().clone();
        let lower = Lanes { start: 0, end: 2048 };
        assert_eq!((kept.id.lanes, kept.epoch), (lower, old.epoch));
        assert_eq!(kept.phase, old.phase);
    }
    let revoked = |action: &crate::logic::machine::Action| {
        matches!(
            action,
            crate::logic::machine::Action::ToClient { message: ToClient::Revoke { .. }, .. }
        )
    };
    let group = |action: &&crate::logic::machine::Action| match action {
        crate::logic::machine::Action::ToClient {
            message: ToClient::Revoke { right, .. }, ..
        } => right.queue.group == GroupId(1),
        _ => false,
    };
    let of_four: Vec<_> = world.log.iter().filter(group).filter(|a| revoked(a)).collect();
    assert!(of_four.len() <= 4, "joins one by one move whole queues at most: {of_four:?}");
}

#[test]
fn lanes_that_are_not_given_up_in_time_are_fenced_and_the_others_stay() {
    let mut world = of_four_queues();
    join(&mut world, 0..4);
    for n in 4..8 {
        world.start_member(&format!("m{n}"));
    }
    for _ in 0..10 {
        world.deliver();
        world.pass(100);
    }
    let narrowing = |world: &World| {
        let of = |n: usize| {
            let id = member_id(&format!("m{n}"));
            let rights = world.members[&id].narrowing.clone();
            rights.into_iter().map(|(right, (epoch, to))| (id.clone(), right, epoch, to)).next()
        };
        (0..4).filter_map(of).collect::<Vec<_>>()
    };
    let asked = narrowing(&world);
    assert_eq!(asked.len(), 4, "{asked:?}");
    // They work on what they have and say so once, and then no more.
    for (member, right, epoch, _) in &asked {
        let conn = world.members[member].conn.unwrap();
        let (member, right, epoch) = (member.clone(), *right, *epoch);
        let message = FromClient::StillDraining { member, right, epoch };
        world.send(conn, Input::FromClient { conn, message });
    }
    world.deliver();
    world.pass(4500);
    world.deliver();
    assert_eq!(narrowing(&world), asked, "their time was extended");
    world.pass(1500);
    world.deliver();
    assert_eq!(narrowing(&world), []);
    for (member, right, epoch, to) in asked {
        assert_eq!(world.members[&member].held.get(&right.with(to)), Some(&epoch), "{member}");
    }
    for _ in 0..4 {
        world.calm();
    }
    let shares = lanes(&world);
    assert!(shares.len() == 8 && shares.values().all(|n| *n == 2048), "{shares:?}");
}
