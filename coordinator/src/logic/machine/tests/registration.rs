//! Workers and their queues: registration, the move of an empty queue, and what may never be
//! lost.

use ringway_proto::admin::*;
use ringway_proto::control::*;
use ringway_proto::*;

use super::world::*;
use crate::logic::machine::*;
use crate::logic::rows::*;

fn queue(index: u32) -> QueueId {
    QueueId::new(GroupId(0), index)
}

fn row(world: &World, id: QueueId) -> QueueRow {
    world.machine.queues[&id].row().clone()
}

fn ask(world: &mut World, request: AdminRequest) -> Result<AdminResponse, Refusal> {
    world.ask(request)
}

/// A queue that is on its way from `w1` to `w2`, sealed at `w1` and not yet reported.
fn sealed() -> (World, QueueId) {
    let mut world = World::with_workers(&["w1"]);
    world.start_worker("w2");
    let w2 = world.workers[&worker_id("w2")].conn.unwrap();
    world.arrive_up(w2);
    world.pass(500);
    let w1 = world.workers[&worker_id("w1")].conn.unwrap();
    while !world.down[&w1].is_empty() {
        world.arrive_down(w1);
    }
    let id = world.machine.queues.values().find(|q| q.row().moving.is_some()).unwrap().row().id;
    assert!(world.workers[&worker_id("w1")].queues[&id].sealed.is_some());
    (world, id)
}

fn registration(worker: &str, journal: u128, queues: Vec<HeldQueue>) -> FromWorker {
    FromWorker::Register(Register {
        worker: worker_id(worker),
        incarnation: Incarnation(99),
        journal: Uuid(journal),
        address: "127.0.0.1:1".into(),
        http: None,
        weight: 100,
        zone: None,
        queues,
        copies: Vec::new(),
    })
}

/// What a registration with these queues is answered with.
fn registers(world: &mut World, worker: &str, journal: u128, queues: Vec<HeldQueue>) -> ToWorker {
    let message = registration(worker, journal, queues);
    world.input(Input::FromWorker { conn: 99, message });
    let answer =
        world.log.iter().rev().find_map(|action| match action {
            Action::ToWorker {
                conn: 99,
                message:
                    message @ (ToWorker::Registered
                    | ToWorker::RegisterRefused(_)
                    | ToWorker::Superseded),
            } => Some(message.clone()),
            _ => None,
        });
    answer.unwrap()
}

fn refused(answer: ToWorker) -> Option<Code> {
    match answer {
        ToWorker::RegisterRefused(refusal) => Some(refusal.code),
        _ => None,
    }
}

#[test]
fn workers_that_register_one_after_the_other_end_balanced_with_the_least_moves() {
    let world = World::with_workers(&["w1", "w2", "w3"]);
    let mut led: Vec<usize> = world.led().into_values().collect();
    led.sort_unstable();
    assert_eq!(led, [5, 5, 6]);
    assert_eq!(world.moves(), (8 + 5, 8 + 5));
    for (id, queue) in &world.machine.queues {
        assert!(queue.opened);
        let holders = world.workers.values().filter(|w| w.queues.contains_key(id)).count();
        assert_eq!(holders, 1, "the old copy of {id} is removed");
    }
    assert!(world.machine.graves.is_empty());
    assert_eq!(
        world.machine.next_wakeup(),
        world.machine.worker_sessions.next_lapse(Timing::default().lapse())
    );
}

/// SCHEDULES 2a: the seal is for the attempt that stands, also after a crash of the worker.
#[test]
fn a_worker_that_starts_sealed_for_the_standing_attempt_is_taken_at_its_word() {
    let (mut world, id) = sealed();
    world.kill_worker("w1");
    world.start_worker("w1");
    world.calm();
    assert_eq!((row(&world, id).primary, row(&world, id).epoch), (Some(worker_id("w2")), Epoch(2)));
    assert!(!world.workers[&worker_id("w1")].queues.contains_key(&id));
    assert_eq!(world.moves().0, world.moves().1);
}

/// SCHEDULES 2b: a move that was given up is not completed by a late confirmation, and no seal
/// stays for ever.
#[test]
fn a_late_seal_of_a_given_up_attempt_moves_nothing_and_is_lifted() {
    let (mut world, id) = sealed();
    world.kill_worker("w2");
    // Nothing of w1 arrives until w2's session has lapsed.
    world.pass(1560);
    assert_eq!(row(&world, id).moving, None);
    let attempt = row(&world, id).attempt;
    world.deliver();
    assert_eq!((row(&world, id).primary, row(&world, id).epoch), (Some(worker_id("w1")), Epoch(1)));
    assert_eq!(row(&world, id).attempt, attempt);
    assert_eq!(world.workers[&worker_id("w1")].queues[&id].sealed, None);
    assert_eq!(world.moves(), (0, 0));
    world.start_worker("w2");
    world.calm();
    assert_eq!(world.led().into_values().collect::<Vec<_>>(), [8, 8]);
}

/// SCHEDULES 2c: the tombstone of an earlier move cannot remove the copy of a later one.
#[test]
fn a_tombstone_is_dropped_when_the_queue_comes_back_and_names_the_lower_epoch() {
    let (mut world, id) = sealed();
    world.deliver();
    assert_eq!(row(&world, id).epoch, Epoch(2));
    let tombstones = world.log.iter().filter_map(|action| match action {
        Action::ToWorker { message: ToWorker::Tombstone { queue, epoch, .. }, .. }
            if *queue == id =>
        {
            Some(*epoch)
        }
        _ => None,
    });
    assert_eq!(tombstones.collect::<Vec<_>>(), [Epoch(2)]);
    // Back to w1, while its tombstone is not confirmed.
    let machine = &mut world.machine;
    machine.queues.get_mut(&id).unwrap().begin_move(
        world.now,
        worker_id("w1"),
        String::new(),
        MoveReason::Quota,
    );
    machine.meta.lower_bound += 1;
    let attempt = row(&world, id).attempt;
    let conn = world.workers[&worker_id("w2")].conn.unwrap();
    world.machine.bury(GraveRow {
        worker: worker_id("w1"),
        queue: id,
        uuid: row(&world, id).uuid,
        epoch: Epoch(2),
    });
    world.input(Input::FromWorker {
        conn,
        message: FromWorker::Sealed { queue: id, attempt, end: Offset(0) },
    });
    assert_eq!(row(&world, id).epoch, Epoch(3));
    assert!(!world.machine.graves.contains_key(&(worker_id("w1"), id)));
    assert!(world.machine.graves.contains_key(&(worker_id("w2"), id)));
    world.deliver();
    assert_eq!(world.workers[&worker_id("w1")].queues[&id].epoch, Epoch(3));
}

/// SCHEDULES 2d: what is said on a connection of the past changes nothing.
#[test]
fn a_late_word_of_the_old_primary_changes_nothing() {
    let (mut world, id) = sealed();
    world.deliver();
    let before = row(&world, id);
    let (uuid, conn) = (before.uuid, world.workers[&worker_id("w1")].conn.unwrap());
    for message in [
        FromWorker::QueueOpened { queue: id, epoch: Epoch(1) },
        FromWorker::HasData { queue: id },
        FromWorker::Sealed { queue: id, attempt: before.attempt, end: Offset(0) },
        FromWorker::Removed { queue: id, epoch: Epoch(1) },
    ] {
        world.input(Input::FromWorker { conn, message });
        assert_eq!(row(&world, id), before);
    }
    // A copy of the old epoch that turns up again is ordered away, the stored one is not.
    let held = HeldQueue { queue: id, uuid, epoch: Epoch(1), end: Offset(0), sealed: None };
    let journal = world.workers[&worker_id("w1")].journal;
    let mut queues: Vec<_> = world.workers[&worker_id("w1")].queues.values().cloned().collect();
    queues.push(held);
    assert_eq!(registers(&mut world, "w1", journal, queues), ToWorker::Registered);
    assert_eq!(world.machine.graves[&(worker_id("w1"), id)].epoch, Epoch(2));
}

#[test]
fn messages_that_are_missing_or_foreign_are_never_replaced_or_removed() {
    let mut world = World::with_workers(&["w1"]);
    let conn = world.workers[&worker_id("w1")].conn.unwrap();
    world.input(Input::FromWorker { conn, message: FromWorker::HasData { queue: queue(3) } });
    let before = world.rows.clone();
    let journal = world.workers[&worker_id("w1")].journal;
    let held: Vec<_> = world.workers[&worker_id("w1")].queues.values().cloned().collect();
    let without: Vec<_> = held.iter().filter(|h| h.queue != queue(3)).cloned().collect();
    let with = |change: &dyn Fn(&mut HeldQueue)| {
        let mut held = held.clone();
        change(&mut held[3]);
        held
    };
    let unknown = HeldQueue { queue: QueueId::new(GroupId(7), 0), ..held[0].clone() };
    let cases = [
        ("an empty disk", 5, vec![], Code::DataMissing),
        ("a queue is missing", journal, without, Code::DataMissing),
        ("another log", journal, with(&|h| h.uuid = Uuid(1)), Code::Conflict),
        ("a later epoch", journal, with(&|h| h.epoch = Epoch(9)), Code::Conflict),
        ("a later attempt", journal, with(&|h| h.sealed = Some(Attempt(9))), Code::Conflict),
        ("never given out", journal, [held.clone(), vec![unknown]].concat(), Code::Conflict),
    ];
    for (name, journal, queues, code) in cases {
        let answer = registers(&mut world, "w1", journal, queues);
        assert_eq!(refused(answer), Some(code), "{name}");
        assert_eq!(world.rows, before, "{name}");
    }
    let elsewhere = HeldQueue { end: Offset(5), ..held[0].clone() };
    assert_eq!(refused(registers(&mut world, "w9", 9, vec![elsewhere])), Some(Code::Conflict));
    assert_eq!(registers(&mut world, "w1", journal, held), ToWorker::Registered);
}

#[test]
fn an_empty_disk_under_an_old_id_opens_its_empty_queues_under_new_epochs() {
    let mut world = World::with_workers(&["w1"]);
    world.start_member("a");
    world.calm();
    world.kill_worker("w1");
    let worker = world.workers.get_mut(&worker_id("w1")).unwrap();
    *worker = FakeWorker { incarnation: worker.incarnation, journal: 77, ..FakeWorker::default() };
    world.start_worker("w1");
    world.calm();
    assert_eq!(row(&world, queue(0)).epoch, Epoch(2));
    assert!(world.machine.queues.values().all(|q| q.opened));
    let worker = &world.workers[&worker_id("w1")];
    assert_eq!(
        (worker.started.len(), worker.rights.len()),
        (16, 16),
        "cursors and epochs are back"
    );
}

#[test]
fn a_registration_that_comes_late_on_a_broken_connection_takes_no_worker_away() {
    let mut world = World::with_workers(&["w1"]);
    let worker = &world.workers[&worker_id("w1")];
    let held = worker.queues.values().cloned().collect();
    let message = registration("w1", worker.journal, held);
    for conn in [99, 98] {
        world.input(Input::FromWorker { conn, message: message.clone() });
    }
    world.input(Input::Disconnected { conn: 98 });
    assert_eq!(world.machine.worker_sessions.conn(&worker_id("w1")), Some(99));
}

#[test]
fn the_newer_process_of_a_worker_wins() {
    let mut world = World::with_workers(&["w1"]);
    let old = world.workers[&worker_id("w1")].conn.unwrap();
    let (journal, plan) = (world.workers[&worker_id("w1")].journal, world.machine.meta.plan);
    let held: Vec<_> = world.workers[&worker_id("w1")].queues.values().cloned().collect();
    assert_eq!(registers(&mut world, "w1", journal, held), ToWorker::Registered);
    let superseded = Action::ToWorker { conn: old, message: ToWorker::Superseded };
    assert!(world.log.contains(&superseded));
    assert_eq!(world.machine.meta.plan, plan, "a restart is not a leave");
    world.connect_worker(&worker_id("w1"));
    world.deliver();
    assert!(matches!(
        world.log.last(),
        Some(Action::ToWorker { message: ToWorker::Superseded, .. })
    ));
}

#[test]
fn a_lapsed_worker_keeps_its_queues() {
    let mut world = World::with_workers(&["w1", "w2"]);
    let (led, plan) = (world.led(), world.machine.meta.plan);
    world.kill_worker("w2");
    world.pass(1560);
    assert!(!world.machine.workers[&worker_id("w2")].up);
    world.calm();
    assert_eq!((world.led(), world.machine.meta.plan), (led.clone(), plan));
    let Ok(AdminResponse::Group { queues, .. }) =
        ask(&mut world, AdminRequest::GroupDescribe { name: GroupName::new("default").unwrap() })
    else {
        panic!()
    };
    assert_eq!(queues.iter().filter(|q| q.state == "waiting for w2").count(), 8);
    world.start_worker("w2");
    world.calm();
    assert_eq!(world.led(), led);
    assert_eq!(world.moves().0, world.moves().1);
}

#[test]
fn a_deleted_group_is_forgotten_when_every_copy_is_gone() {
    let mut world = World::with_workers(&["w1", "w2"]);
    let name = GroupName::new("orders").unwrap();
    let create = AdminRequest::GroupCreate {
        name: name.clone(),
        queues: 4,
        ring_weight: None,
        max_body_bytes: None,
    };
    assert!(matches!(
        ask(&mut world, create.clone()),
        Ok(AdminResponse::GroupCreated { created: true, .. })
    ));
    assert!(matches!(
        ask(&mut world, create),
        Ok(AdminResponse::GroupCreated { created: false, .. })
    ));
    let bind = |to: &str| AdminRequest::Bind {
        filter: Filter::new("a.>").unwrap(),
        group: GroupName::new(to).unwrap(),
    };
    ask(&mut world, bind("orders")).unwrap();
    world.start_member("a");
    world.calm();
    assert_eq!(world.rights().len(), 20, "the old way and the new one");
    let delete = |dry_run| AdminRequest::GroupDelete { name: name.clone(), dry_run };
    assert_eq!(ask(&mut world, delete(false)).unwrap_err().code, Code::InUse);
    ask(&mut world, bind("default")).unwrap();
    ask(&mut world, delete(true)).unwrap();
    assert_eq!(world.rights().len(), 20);
    world.kill_worker("w2");
    ask(&mut world, delete(false)).unwrap();
    world.calm();
    assert_eq!(world.rights().len(), 16);
    let left = world.machine.graves.keys().filter(|(w, _)| *w == worker_id("w2")).count();
    assert_eq!((left, world.machine.graves.len()), (2, 2), "w2 is awaited");
    world.restart_coordinator();
    world.start_worker("w2");
    world.calm();
    assert!(world.machine.graves.is_empty());
    assert!(world.workers.values().all(|w| w.queues.keys().all(|q| q.group == GroupId(0))));
    let again =
        AdminRequest::GroupCreate { name, queues: 1, ring_weight: None, max_body_bytes: None };
    ask(&mut world, again).unwrap();
    assert!(world.machine.queues.contains_key(&QueueId::new(GroupId(2), 0)), "numbers come once");
}

#[test]
fn a_new_binding_brings_rights_that_begin_at_the_start() {
    let mut world = World::with_workers(&["w1"]);
    world.input(Input::FromClient {
        conn: 50,
        message: FromClient::Join(Join { start: Start::Now, ..World::join_message("a", 1) }),
    });
    let name = GroupName::new("orders").unwrap();
    let create = AdminRequest::GroupCreate {
        name: name.clone(),
        queues: 2,
        ring_weight: None,
        max_body_bytes: None,
    };
    ask(&mut world, create).unwrap();
    ask(&mut world, AdminRequest::Bind { filter: Filter::new("a.b.>").unwrap(), group: name })
        .unwrap();
    let starts: Vec<_> = world.rights().into_iter().map(|r| r.start).collect();
    assert_eq!(starts, [vec![Start::Now; 16], vec![Start::Start; 2]].concat());
    world.pass(500);
    world.deliver();
    assert_eq!(world.workers[&worker_id("w1")].started.len(), 18);
}
