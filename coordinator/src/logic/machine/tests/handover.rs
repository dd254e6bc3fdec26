//! Rights on their way from one member to another: join, leave, crash, a new process, late words,
//! and a coordinator that restarts in the middle.

use ringway_proto::control::*;
use ringway_proto::*;

use super::world::*;
use crate::logic::machine::*;
use crate::logic::rows::*;

fn one_member() -> World {
    let mut world = World::with_workers(&["w1", "w2"]);
    world.start_member("a");
    world.calm();
    assert_eq!(world.shares(), [(member_id("a"), 16)].into());
    world
}

/// `b` has joined; `a` was told what to give up and has not done so.
fn half_way() -> World {
    let mut world = one_member();
    world.start_member("b");
    world.deliver();
    world.pass(500);
    world.deliver();
    assert_eq!(world.members[&member_id("a")].draining.len(), 8);
    world
}

fn shares(world: &World) -> Vec<usize> {
    world.shares().into_values().collect()
}

fn granted_to(row: &RightRow) -> Option<&str> {
    match &row.phase {
        Phase::Granted(holder) => Some(holder.member.as_str()),
        _ => None,
    }
}

#[test]
fn joined_is_answered_when_the_primaries_have_journaled_the_start() {
    let mut world = World::with_workers(&["w1"]);
    world.start_member("a");
    let conn = world.members[&member_id("a")].conn.unwrap();
    world.arrive_up(conn);
    let joined = |w: &World| {
        let joined =
            |a: &Action| matches!(a, Action::ToClient { message: ToClient::Joined(_), .. });
        w.log.iter().any(joined)
    };
    assert!(!joined(&world), "nothing is journaled yet");
    world.deliver();
    assert!(joined(&world));
    assert_eq!(world.workers[&worker_id("w1")].started.len(), 16);
}

#[test]
fn a_join_waits_for_a_silent_primary_no_longer_than_its_session() {
    let mut world = World::with_workers(&["w1"]);
    world.kill_worker("w1");
    world.start_member("a");
    world.deliver();
    assert_eq!(world.members[&member_id("a")].subscription, None);
    world.pass(1560);
    world.deliver();
    assert!(world.has_event(&Event::WorkerLapsed));
    assert!(world.members[&member_id("a")].subscription.is_some());
}

#[test]
fn a_join_moves_the_least_and_what_stays_is_not_mentioned() {
    let mut world = half_way();
    let before = world.rights();
    world.calm();
    assert_eq!(shares(&world), [8, 8]);
    let moved = world.rights().iter().zip(&before).filter(|(a, b)| a.epoch != b.epoch).count();
    assert_eq!(moved, 8);
    assert_eq!(world.moves().0, world.moves().1);
}

#[test]
fn raise_comes_before_grant() {
    let mut world = one_member();
    world.start_member("b");
    world.deliver();
    world.pass(500);
    world.deliver();
    world.drain(&member_id("a"));
    let conn = world.members[&member_id("a")].conn.unwrap();
    while !world.up[&conn].is_empty() {
        world.arrive_up(conn);
    }
    let raising = |w: &World| {
        w.rights().iter().filter(|r| matches!(r.phase, Phase::Raising { to: Some(_) })).count()
    };
    assert_eq!(raising(&world), 8);
    assert!(world.members[&member_id("b")].held.is_empty());
    world.deliver();
    assert_eq!(raising(&world), 0);
    assert_eq!(world.members[&member_id("b")].held.len(), 8);
}

/// SCHEDULES 1a.
#[test]
fn two_processes_of_a_member_never_act_under_one_epoch() {
    let mut world = one_member();
    let (old, plan) = (world.rights(), world.machine.meta.plan);
    world.start_member("a");
    world.calm();
    for (old, new) in old.iter().zip(world.rights()) {
        assert_eq!(new.epoch, old.epoch.next());
        let holder = Holder { member: member_id("a"), incarnation: Incarnation(2) };
        assert_eq!(new.phase, Phase::Granted(holder));
    }
    assert!(world.has_event(&Event::MemberSuperseded));
    assert_eq!(world.machine.meta.plan, plan, "a new process is not a leave");
    assert_eq!(world.moves().0, world.moves().1);
}

#[test]
fn an_older_process_gets_no_seat() {
    let mut world = one_member();
    world.start_member("a");
    world.calm();
    let message = FromClient::Join(World::join_message("a", 1));
    world.input(Input::FromClient { conn: 99, message });
    let refused = world.log.iter().rev().find_map(|a| match a {
        Action::ToClient { conn: 99, message: ToClient::JoinRefused { refusal, .. } } => {
            Some(refusal.code)
        }
        _ => None,
    });
    assert_eq!(refused, Some(Code::Superseded));
    assert_eq!(shares(&world), [16]);
}

/// Found by the exhaustive model: a member that was reached by its new connection was taken for
/// gone, and held a seat without rights for ever.
#[test]
fn a_join_that_comes_late_on_a_broken_connection_takes_no_seat_away() {
    let mut world = one_member();
    let conn = world.members[&member_id("a")].conn.unwrap();
    let key = (SubscriptionId(0), member_id("a"));
    let message = FromClient::Join(World::join_message("a", 1));
    world.input(Input::FromClient { conn: conn + 100, message: message.clone() });
    assert_eq!(world.machine.member_sessions.conn(&key), Some(conn + 100));
    world.input(Input::FromClient { conn, message });
    world.input(Input::Disconnected { conn });
    assert_eq!(world.machine.member_sessions.conn(&key), Some(conn + 100));
}

/// SCHEDULES 1d: only `Drained` under the current epoch by its holder hands a right over.
#[test]
fn drained_of_another_epoch_or_member_hands_nothing_over() {
    let mut world = half_way();
    let revoking =
        |w: &World| w.rights().into_iter().find(|r| matches!(r.phase, Phase::Revoking(_))).unwrap();
    let row = revoking(&world);
    let (a, b) = (member_id("a"), member_id("b"));
    let conn_of = |w: &World, m: &MemberId| w.members[m].conn.unwrap();
    let cases = [
        (conn_of(&world, &a), a.clone(), Epoch(row.epoch.0 - 1)),
        (conn_of(&world, &a), a.clone(), row.epoch.next()),
        (conn_of(&world, &b), b.clone(), row.epoch),
        (conn_of(&world, &b), a.clone(), row.epoch),
    ];
    for (conn, member, epoch) in cases {
        let message = FromClient::Drained { member, right: row.id, epoch };
        world.input(Input::FromClient { conn, message });
        assert_eq!(revoking(&world), row);
    }
    let (conn, epoch) = (conn_of(&world, &a), row.epoch);
    let message = FromClient::Drained { member: a, right: row.id, epoch };
    world.input(Input::FromClient { conn, message });
    assert_ne!(revoking(&world), row);
}

/// SCHEDULES 1e: a worker that restarts while a right is revoked ends nothing.
#[test]
fn a_restart_of_the_worker_does_not_drain() {
    let mut world = half_way();
    let before = world.rights();
    world.kill_worker("w1");
    world.start_worker("w1");
    world.deliver();
    assert_eq!(world.rights(), before);
    let again = world
        .log
        .iter()
        .rev()
        .take_while(|a| !matches!(a, Action::ToWorker { message: ToWorker::Registered, .. }));
    let revokes =
        again.filter(|a| matches!(a, Action::ToWorker { message: ToWorker::Revoke { .. }, .. }));
    assert!(revokes.count() > 0, "the revoke is said again");
}

#[test]
fn past_the_deadline_the_holder_is_fenced_and_told() {
    let mut world = half_way();
    for _ in 0..20 {
        world.pass(250);
    }
    world.deliver();
    assert_eq!(shares(&world), [8, 8]);
    assert_eq!(world.members[&member_id("a")].held.len(), 8);
    let lost = |a: &&Action| matches!(a, Action::ToClient { message: ToClient::Lost { .. }, .. });
    assert_eq!(world.log.iter().filter(lost).count(), 8);
}

#[test]
fn a_lapse_hands_over_at_once_and_fences_the_zombie() {
    let mut world = half_way();
    world.calm();
    let zombie = world.members[&member_id("b")].held.clone();
    world.kill_member("b");
    world.pass(1500);
    assert_eq!(shares(&world), [8, 8], "a broken connection is not a leave");
    world.pass(60);
    world.deliver();
    assert_eq!(shares(&world), [16]);
    for (right, epoch) in zombie {
        let raised = world.workers.values().find_map(|w| w.rights.get(&right)).unwrap();
        assert_eq!(raised.epoch, epoch.next());
    }
    assert_eq!(world.moves().0, world.moves().1);
}

#[test]
fn the_last_members_lapse_fences_it_without_a_successor() {
    let mut world = one_member();
    world.kill_member("a");
    world.pass(1560);
    world.deliver();
    for row in world.rights() {
        assert_eq!(row.phase, Phase::Free);
        let primary = world.workers.values().find_map(|w| w.rights.get(&row.id)).unwrap();
        assert_eq!((primary.epoch, &primary.holder), (row.epoch, &None));
    }
    world.start_member("a");
    world.calm();
    assert_eq!(shares(&world), [16]);
    assert_eq!(world.moves().0, world.moves().1);
}

#[test]
fn a_reconnect_in_time_changes_nothing_and_is_told_what_it_holds() {
    let mut world = one_member();
    let (before, plan) = (world.rights(), world.machine.meta.plan);
    let conn = world.members[&member_id("a")].conn.unwrap();
    world.cut(conn);
    world.pass(1500);
    world.connect_member(&member_id("a"));
    world.calm();
    assert_eq!(world.rights(), before);
    assert_eq!(world.machine.meta.plan, plan);
    assert_eq!(world.members[&member_id("a")].held.len(), 16);
}

#[test]
fn a_leaver_is_told_when_nothing_is_held_any_more() {
    let mut world = half_way();
    world.calm();
    world.leave("b");
    world.deliver();
    assert!(!world.members[&member_id("b")].left);
    assert_eq!(world.members[&member_id("b")].draining.len(), 8);
    world.calm();
    assert!(world.members[&member_id("b")].left);
    assert_eq!(shares(&world), [16]);
    assert_eq!(world.moves().0, world.moves().1);
}

#[test]
fn everyone_may_leave_at_once() {
    let mut world = half_way();
    world.leave("a");
    world.leave("b");
    world.calm();
    assert!(world.members.values().all(|m| m.left));
    assert!(world.rights().iter().all(|row| row.phase == Phase::Free && row.target.is_none()));
    assert!(world.machine.members.is_empty());
}

#[test]
fn a_leaver_that_dies_is_simply_gone() {
    let mut world = half_way();
    world.calm();
    world.leave("b");
    world.deliver();
    world.kill_member("b");
    world.pass(1560);
    world.deliver();
    assert_eq!(shares(&world), [16]);
}

#[test]
fn another_filter_or_order_is_refused_with_both_in_the_text() {
    let mut world = one_member();
    let join = World::join_message("c", 1);
    let cases = [
        (
            Join { filter: Filter::new("b.>").unwrap(), ..join.clone() },
            "has the filter 'a.>', not 'b.>'",
        ),
        (Join { order: Some(Order::None), ..join }, "has order key, not none"),
    ];
    for (join, want) in cases {
        world.input(Input::FromClient { conn: 99, message: FromClient::Join(join) });
        let Some(Action::ToClient { message: ToClient::JoinRefused { refusal, .. }, .. }) =
            world.log.last()
        else {
            panic!("not refused");
        };
        assert_eq!(refusal.code, Code::Conflict);
        assert!(refusal.text.contains(want), "{refusal}");
    }
    assert_eq!(shares(&world), [16]);
}

#[test]
fn a_restarted_coordinator_continues_every_phase() {
    let raising = |world: &mut World| {
        world.drain(&member_id("a"));
        let conn = world.members[&member_id("a")].conn.unwrap();
        while !world.up[&conn].is_empty() {
            world.arrive_up(conn);
        }
        assert!(world.rights().iter().any(|r| matches!(r.phase, Phase::Raising { .. })));
    };
    let due = |world: &mut World| {
        // A plan that was due and not made yet.
        world.start_member("c");
        let conn = world.members[&member_id("c")].conn.unwrap();
        world.arrive_up(conn);
    };
    type Phases<'a> = [(&'a str, &'a dyn Fn(&mut World), Vec<usize>); 4];
    let phases: Phases<'_> = [
        ("revoking", &|_| {}, vec![8, 8]),
        ("raising", &raising, vec![8, 8]),
        ("plan due", &due, vec![5, 5, 6]),
        (
            "leaving",
            &|world| {
                world.leave("b");
                world.deliver();
            },
            vec![16],
        ),
    ];
    for (name, go_on, want) in phases {
        let mut world = half_way();
        go_on(&mut world);
        world.restart_coordinator();
        world.calm();
        let mut shares = shares(&world);
        shares.sort_unstable();
        assert_eq!(shares, want, "{name}");
        assert!(world.rights().iter().all(|r| granted_to(r).is_some()), "{name}");
        assert_eq!(world.moves().0, world.moves().1, "{name}");
    }
}

#[test]
fn a_member_that_died_while_the_coordinator_was_down_lapses_after_its_full_time() {
    let mut world = one_member();
    world.members.get_mut(&member_id("a")).unwrap().alive = false;
    world.restart_coordinator();
    world.pass(4500);
    assert_eq!(shares(&world), [16]);
    world.pass(100);
    world.deliver();
    assert!(world.machine.members.is_empty());
    assert!(world.rights().iter().all(|row| row.phase == Phase::Free));
}

#[test]
fn a_settled_restart_makes_no_plan() {
    let mut world = half_way();
    world.calm();
    let (before, plan) = (world.rights(), world.machine.meta.plan);
    world.restart_coordinator();
    world.calm();
    assert_eq!(world.rights(), before);
    assert_eq!(world.machine.meta.plan, plan);
}

#[test]
fn who_needs_the_longest_way_to_a_restarted_coordinator_keeps_everything() {
    let mut world = half_way();
    world.calm();
    let (before, plan) = (world.rights(), world.machine.meta.plan);
    world.restart_coordinator();
    // An attempt that just missed the start, a pause, and a slow handshake.
    world.pass(2000 + 1000 + 500);
    world.calm();
    assert_eq!(world.rights(), before);
    assert_eq!(world.machine.meta.plan, plan);
}

#[test]
fn a_coordinator_that_stood_still_lapses_nobody() {
    let mut world = one_member();
    world.kill_member("a");
    world.now = world.now + std::time::Duration::from_secs(30);
    world.input(Input::Paused);
    world.pass(1500);
    assert_eq!(shares(&world), [16]);
    world.pass(60);
    assert!(world.machine.members.is_empty());
}
