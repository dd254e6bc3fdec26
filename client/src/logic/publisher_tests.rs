use std::sync::Arc;
use std::time::Duration;

use ringway_proto::batch::Batch;
use ringway_proto::data::{Append, AppendAnswer};
use ringway_proto::limits::BATCH_TARGET_BYTES;
use ringway_proto::message::Message;
use ringway_proto::routing::{
    Binding, GroupRoute, QueueRoute, Router, Routing, SlotRange, WorkerRoute,
};
use ringway_proto::{
    Class, Code, Epoch, Filter, GroupId, GroupName, MoveNumber, Offset, QueueId, Refusal,
    RoutingVersion, Sequence, Session, Slot, Time, Uuid, WallTime, WorkerId,
};

use super::lane::{Action, Item, Outcome, Ticket};
use super::publisher::Publisher;

fn worker(name: &str) -> WorkerId {
    WorkerId::new(name).unwrap()
}

fn group(id: u32, name: &str, all_slots_at: u32) -> GroupRoute {
    let queue = |n: u128| QueueRoute {
        uuid: Uuid(u128::from(id) * 10 + n),
        epoch: Epoch(1),
        primary: Some(worker("w1")),
    };
    GroupRoute {
        id: GroupId(id),
        name: GroupName::new(name).unwrap(),
        ring_weight: (id == 1).then_some(100),
        max_body_bytes: 1 << 20,
        slots: vec![SlotRange { first: Slot(0), queue: all_slots_at }],
        queues: vec![queue(0), queue(1)],
    }
}

/// Two queues, all keys at one of them.
fn routing(version: u64, all_slots_at: u32) -> Routing {
    Routing {
        version: RoutingVersion(version),
        groups: vec![group(1, "default", all_slots_at)],
        bindings: Vec::new(),
        workers: ["w1", "w2"]
            .map(|w| WorkerRoute { id: worker(w), address: format!("{w}:1"), up: true })
            .to_vec(),
        ..Routing::default()
    }
}

struct World {
    publisher: Publisher,
    now: Time,
    tickets: u64,
    sent: Vec<(WorkerId, Append)>,
    done: Vec<(u64, Outcome)>,
    room: u64,
    wanted: Vec<WorkerId>,
    refreshes: usize,
}

impl World {
    fn new() -> Self {
        let router = Arc::new(Router::new(routing(1, 0)).unwrap());
        let mut publisher = Publisher::new(router, Uuid(7), 1);
        publisher.connected(worker("w1"));
        let now = Time(1000);
        Self {
            publisher,
            now,
            tickets: 0,
            sent: vec![],
            done: vec![],
            room: 0,
            refreshes: 0,
            wanted: vec![],
        }
    }

    fn take(&mut self, mut actions: Vec<Action>) {
        self.publisher.pump(self.now, WallTime(5), &mut actions);
        for action in actions {
            match action {
                Action::Send { worker, append } => self.sent.push((worker, append)),
                Action::Done { ticket, outcome } => self.done.push((ticket.0, outcome)),
                Action::Room(bytes) => self.room += bytes,
                Action::Refresh => self.refreshes += 1,
                Action::Want(worker) => self.wanted.push(worker),
            }
        }
    }

    fn publish_as(&mut self, class: &str, key: &'static str, body: Vec<u8>) -> u64 {
        self.tickets += 1;
        let bytes = body.len() as u32 + 16;
        let mut message = Message::new(Class::new(class).unwrap(), body);
        message.key = Some(key.into());
        let deadline = self.now + Duration::from_secs(60);
        let item = Item { ticket: Ticket(self.tickets), message, bytes, deadline };
        let mut out = Vec::new();
        self.publisher.publish(item, &mut out);
        self.take(out);
        self.tickets
    }

    fn publish(&mut self, body: &str) -> u64 {
        self.publish_as("a.b", "k", body.as_bytes().to_vec())
    }

    /// A message that fills a batch by itself, so that it goes at once.
    fn publish_full(&mut self, mark: u8) -> u64 {
        self.publish_as("a.b", "k", vec![mark; BATCH_TARGET_BYTES])
    }

    fn routing(&mut self, routing: Routing) {
        let mut out = Vec::new();
        self.publisher.routing(Arc::new(Router::new(routing).unwrap()), &mut out);
        self.take(out);
    }

    fn answer(&mut self, append: &Append, outcome: Result<u64, Code>, routing: u64) {
        let answer = AppendAnswer {
            queue: append.queue,
            session: append.session,
            base_sequence: append.base_sequence,
            outcome: outcome.map(Offset).map_err(|code| Refusal::new(code, "no")),
            routing: RoutingVersion(routing),
        };
        let mut out = Vec::new();
        self.publisher.answered(self.now, answer, &mut out);
        self.take(out);
    }

    fn after(&mut self, wait: Duration) {
        self.now = self.now + wait;
        self.take(Vec::new());
    }

    fn sent(&mut self) -> Vec<Append> {
        std::mem::take(&mut self.sent).into_iter().map(|(_, a)| a).collect()
    }

    fn sent_one(&mut self) -> Append {
        let mut sent = self.sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.remove(0)
    }

    fn stored(&self) -> Vec<(u64, u64)> {
        let stored = |(ticket, outcome): &(u64, Outcome)| match outcome {
            Outcome::Stored { offset, .. } => Some((*ticket, offset.0)),
            _ => None,
        };
        self.done.iter().filter_map(stored).collect()
    }
}

/// Session, first sequence and first byte of each body.
fn shape(append: &Append) -> (u32, u64, Vec<u8>) {
    let batch = Batch::parse(append.batch.clone()).unwrap();
    assert_eq!(batch.len() as u32, append.count);
    let bodies = (0..batch.len()).map(|i| batch.message(i).unwrap().body[0]).collect();
    (append.session.0, append.base_sequence.0, bodies)
}

#[test]
fn what_piled_up_goes_at_once_when_the_last_batch_is_answered() {
    let mut w = World::new();
    w.publish("1");
    let first = w.sent_one();
    w.publish("2");
    w.publish("3");
    assert_eq!(w.sent(), []);
    w.answer(&first, Ok(40), 1);
    assert_eq!(shape(&w.sent_one()), (1, 1, b"23".to_vec()));
    assert_eq!(w.stored(), [(1, 40)]);
    assert_eq!(w.room, 17);
}

#[test]
fn at_most_sixteen_batches_are_unanswered() {
    let mut w = World::new();
    for mark in 0..20 {
        w.publish_full(mark);
    }
    let sent = w.sent();
    assert_eq!(sent.len(), 16);
    w.answer(&sent[0], Ok(0), 1);
    assert_eq!(shape(&w.sent_one()), (1, 16, vec![16]));
}

#[test]
fn a_lost_connection_repeats_the_unanswered_in_order_under_a_new_session() {
    let mut w = World::new();
    for mark in 1..=3 {
        w.publish_full(mark);
    }
    let sent = w.sent();
    w.answer(&sent[0], Ok(0), 1);
    w.publisher.disconnected(&worker("w1"), "gone");
    w.publish_full(4);
    assert_eq!(w.sent(), []);
    w.publisher.connected(worker("w1"));
    w.take(Vec::new());
    let again = w.sent();
    let shapes: Vec<_> = again.iter().map(shape).collect();
    assert_eq!(shapes, [(2, 1, vec![2]), (2, 2, vec![3]), (2, 3, vec![4])]);
    // The first copy's answer arrives after all: it is of an older session.
    w.answer(&sent[1], Ok(77), 1);
    assert_eq!(w.stored(), [(1, 0)]);
    w.answer(&again[0], Ok(1), 1);
    assert_eq!(w.stored(), [(1, 0), (2, 1)]);
}

#[test]
fn schedule_3a_the_next_message_waits_while_its_slot_is_unanswered_elsewhere() {
    let mut w = World::new();
    w.publish("1");
    let first = w.sent_one();
    w.routing(routing(2, 1));
    w.publish("2");
    assert_eq!(w.sent(), [], "the second message overtook the first");
    // The refusal is definite: the queue still has the epoch that it was asked under.
    w.answer(&first, Err(Code::StaleRouting), 2);
    let moved = w.sent();
    let at: Vec<_> = moved.iter().map(|a| (a.queue.index, shape(a).2)).collect();
    assert!(at == [(1, b"12".to_vec())] || at == [(1, b"1".to_vec())], "{at:?}");
    w.answer(&moved[0], Ok(0), 2);
    assert_eq!(w.stored()[0], (1, 0));
}

/// The same across groups: a new binding sends the class elsewhere.
#[test]
fn schedule_3a_the_next_message_waits_while_its_class_is_unanswered_at_another_group() {
    let mut w = World::new();
    w.publish("1");
    let first = w.sent_one();
    let mut bound = routing(2, 0);
    bound.groups.push(group(2, "other", 0));
    bound.bindings = vec![Binding { filter: Filter::new("a.>").unwrap(), group: GroupId(2) }];
    bound.moved = MoveNumber(1);
    w.routing(bound);
    w.publish("2");
    assert_eq!(w.sent(), [], "the second message overtook the first");
    w.answer(&first, Err(Code::StaleRouting), 2);
    let moved = w.sent();
    let at: Vec<_> = moved.iter().map(|a| (a.queue.group.0, shape(a).2)).collect();
    assert!(at == [(2, b"12".to_vec())] || at == [(2, b"1".to_vec())], "{at:?}");
}

#[test]
fn schedule_3b_sequences_are_used_again_only_under_a_newer_session() {
    let mut w = World::new();
    w.publish_full(1);
    w.publish_full(2);
    let sent = w.sent();
    w.answer(&sent[0], Err(Code::TooLarge), 1);
    assert!(matches!(&w.done[..], [(1, Outcome::Refused(r))] if r.code == Code::TooLarge));
    assert_eq!(shape(&w.sent_one()), (2, 0, vec![2]));
    w.answer(&sent[1], Ok(9), 1);
    assert_eq!(w.stored(), [], "an answer to the older session was taken");
}

#[test]
fn schedule_3c_not_yet_frees_nothing() {
    let mut w = World::new();
    w.publish("1");
    let first = w.sent_one();
    w.routing(routing(2, 1));
    w.answer(&first, Err(Code::NotYet), 1);
    assert_eq!(w.sent(), []);
    w.after(Duration::from_millis(20));
    let again = w.sent_one();
    assert_eq!((again.queue, shape(&again)), (first.queue, (2, 0, b"1".to_vec())));
}

#[test]
fn a_worker_that_comes_up_is_met_before_the_first_queue_moves_there() {
    let newer = |up: bool| {
        let mut newer = routing(2, 0);
        let mut joins = newer.workers[0].clone();
        (joins.id, joins.up) = (worker("w9"), up);
        newer.workers.push(joins);
        newer
    };
    let mut w = World::new();
    w.routing(newer(true));
    assert_eq!(w.wanted, [], "by nobody who does not publish");
    let mut w = World::new();
    w.publish("1");
    w.routing(newer(false));
    assert_eq!(w.wanted, []);
    w.routing(Routing { version: RoutingVersion(3), ..newer(true) });
    assert_eq!(w.wanted, [worker("w9")]);
    w.routing(Routing { version: RoutingVersion(4), ..newer(true) });
    assert_eq!(w.wanted.len(), 1, "once");
}

#[test]
fn a_queue_that_is_about_to_open_is_asked_again_within_milliseconds_and_less_often_later() {
    let mut w = World::new();
    w.publish("1");
    for wait in [2, 4, 8, 16, 32, 64, 128, 256, 500, 500] {
        let sent = w.sent_one();
        w.answer(&sent, Err(Code::NotYet), 1);
        w.after(Duration::from_millis(wait - 1));
        assert_eq!(w.sent(), []);
        w.after(Duration::from_millis(1));
    }
}

#[test]
fn schedule_3d_a_refusal_waits_for_the_answers_before_it() {
    let mut w = World::new();
    w.publish_full(1);
    w.publish_full(2);
    let sent = w.sent();
    w.answer(&sent[1], Err(Code::Busy), 1);
    w.after(Duration::from_secs(1));
    assert_eq!(w.sent(), [], "acted on while an earlier batch is open");
    w.answer(&sent[0], Ok(0), 1);
    w.after(Duration::from_millis(20));
    assert_eq!(shape(&w.sent_one()), (2, 1, vec![2]));
}

#[test]
fn stale_routing_asks_for_a_newer_one_and_follows_the_primary() {
    let mut w = World::new();
    w.publish("1");
    let first = w.sent_one();
    w.answer(&first, Err(Code::StaleRouting), 2);
    assert_eq!(w.refreshes, 1);
    let mut newer = routing(2, 0);
    newer.groups[0].queues[0].primary = Some(worker("w2"));
    newer.groups[0].queues[0].epoch = Epoch(2);
    w.publisher.connected(worker("w2"));
    w.routing(newer);
    let (to, again) = w.sent.pop().unwrap();
    assert_eq!((to, again.epoch, again.base_sequence), (worker("w2"), Epoch(2), Sequence(0)));
    assert!(again.session > Session(1));
}

#[test]
fn a_refusal_frees_nothing_once_the_batch_was_sent_again() {
    let mut w = World::new();
    w.publish("1");
    let first = w.sent_one();
    w.answer(&first, Err(Code::StaleRouting), 2);
    w.after(Duration::from_millis(20));
    let again = w.sent_one();
    // The second copy may be stored by now: the routing that moves the slot must not free it.
    w.routing(routing(2, 1));
    assert_eq!(w.sent(), []);
    w.answer(&again, Ok(0), 2);
    assert_eq!(w.stored(), [(1, 0)]);
}

#[test]
fn past_the_deadline_sent_is_unknown_and_never_sent_is_definite() {
    let mut w = World::new();
    w.publish_full(1);
    w.sent();
    w.publisher.disconnected(&worker("w1"), "connection to w1 lost");
    w.publish_full(2);
    w.after(Duration::from_secs(61));
    let cause = "connection to w1 lost".to_owned();
    assert_eq!(w.done, [(2, Outcome::NotSent(cause.clone())), (1, Outcome::Unknown(cause))]);
    // The batch goes on, so that the sequence holds; its caller is not told twice.
    w.publisher.connected(worker("w1"));
    w.publish_full(3);
    let sent = w.sent();
    assert_eq!(
        sent.iter().map(shape).map(|s| (s.1, s.2)).collect::<Vec<_>>(),
        [(0, vec![1]), (1, vec![3])]
    );
    w.answer(&sent[0], Ok(0), 1);
    assert_eq!(w.done.len(), 2);
}

/// A lane that was refused again and again: each answer comes, each retry goes out.
fn refuse_until(w: &mut World, mut append: Append, code: Code, until: Time) -> Append {
    loop {
        w.answer(&append, Err(code), 1);
        w.after(Duration::from_millis(500));
        append = w.sent_one();
        if w.now >= until {
            return append;
        }
    }
}

#[test]
fn what_was_only_ever_refused_is_not_stored_when_its_deadline_passes() {
    let mut w = World::new();
    w.publish("1");
    let deadline = w.now + Duration::from_secs(60);
    let first = w.sent_one();
    let almost = deadline - Duration::from_secs(1);
    let last = refuse_until(&mut w, first, Code::DiskFull, almost);
    // What waits behind it is younger.
    w.publish("2");
    w.now = deadline;
    w.take(Vec::new());
    assert_eq!(w.done, [], "told while the answer to the last copy is on its way");
    w.now = w.now + Duration::from_millis(100);
    w.answer(&last, Err(Code::DiskFull), 1);
    assert!(
        matches!(&w.done[..], [(1, Outcome::Refused(r))] if r.code == Code::DiskFull),
        "{:?}",
        w.done
    );
    // It is never sent again, and the next message takes its sequence.
    w.after(Duration::from_millis(500));
    let next = w.sent_one();
    assert_eq!(shape(&next).1, 0);
    assert_eq!(shape(&next).2, b"2".to_vec());
    w.answer(&next, Ok(0), 1);
    assert_eq!(w.stored(), [(2, 0)]);
    assert_eq!(w.room, 34);
}

#[test]
fn an_answer_that_never_comes_leaves_even_the_refused_unknown() {
    let check = |after_refusal: fn(&mut World)| {
        let mut w = World::new();
        w.publish("1");
        let first = w.sent_one();
        w.answer(&first, Err(Code::Busy), 1);
        w.after(Duration::from_millis(20));
        let again = w.sent_one();
        after_refusal(&mut w);
        w.sent();
        w.now = Time(1000) + Duration::from_millis(60_500);
        w.take(Vec::new());
        assert!(matches!(&w.done[..], [(1, Outcome::Unknown(_))]), "{:?}", w.done);
        // Too late to be told, and it may have been stored: the sequence is kept.
        w.answer(&again, Err(Code::Busy), 1);
        assert_eq!(w.done.len(), 1);
    };
    check(|_| {});
    check(|w| w.publisher.disconnected(&worker("w1"), "gone"));
    check(|w| {
        // Refused on the new connection too: the first copy may be on its way all the same.
        w.publisher.disconnected(&worker("w1"), "gone");
        w.publisher.connected(worker("w1"));
        w.take(Vec::new());
        let third = w.sent_one();
        w.answer(&third, Err(Code::Busy), 1);
    });
}

#[test]
fn what_was_behind_a_refused_batch_is_not_stored_either_and_keeps_what_is_in_time() {
    let mut w = World::new();
    w.publish("1");
    let first = w.sent_one();
    w.publish("2");
    w.after(Duration::from_secs(30));
    w.publish("3");
    w.answer(&first, Ok(7), 1);
    let both = w.sent_one();
    assert_eq!(shape(&both), (1, 1, b"23".to_vec()));
    w.publish_full(4);
    let behind = w.sent_one();
    w.answer(&both, Err(Code::DiskFull), 1);
    // The answer to the batch behind is of an older session by now; it still says "not stored".
    w.answer(&behind, Err(Code::SequenceGap), 1);
    w.publisher.disconnected(&worker("w1"), "gone");
    w.now = Time(1000) + Duration::from_secs(60);
    w.take(Vec::new());
    assert!(matches!(&w.done[1..], [(2, Outcome::Refused(r))] if r.code == Code::DiskFull));
    w.publisher.connected(worker("w1"));
    w.take(Vec::new());
    let rest: Vec<_> = w.sent().iter().map(shape).map(|s| (s.1, s.2)).collect();
    assert_eq!(rest, [(1, b"3".to_vec()), (2, vec![4])]);
    w.now = Time(1000) + Duration::from_secs(90);
    w.publisher.disconnected(&worker("w1"), "gone again");
    w.take(Vec::new());
    let told = |n: usize| matches!(&w.done[n], (_, Outcome::Unknown(_)));
    assert!(w.done.len() == 4 && told(2) && told(3), "{:?}", w.done);
}

#[test]
fn a_disk_that_failed_may_have_the_batch() {
    let mut w = World::new();
    w.publish("1");
    let first = w.sent_one();
    w.answer(&first, Err(Code::DiskFailed), 1);
    w.publisher.disconnected(&worker("w1"), "gone");
    w.after(Duration::from_secs(61));
    assert!(matches!(&w.done[..], [(1, Outcome::Unknown(_))]), "{:?}", w.done);
}

#[test]
fn a_group_that_is_deleted_gives_its_messages_back_in_order() {
    let mut w = World::new();
    let mut bound = routing(2, 0);
    bound.groups.push(group(2, "orders", 0));
    let filter = Filter::new("orders.>").unwrap();
    bound.bindings.push(Binding { filter, group: GroupId(2) });
    w.routing(bound);
    for mark in 1..=2 {
        w.publish_as("orders.new", "k", vec![mark; BATCH_TARGET_BYTES]);
    }
    w.publish_as("orders.new", "k", vec![3]);
    assert!(w.sent().iter().all(|a| a.queue == QueueId::new(GroupId(2), 0)));
    w.routing(routing(3, 0));
    let again = w.sent();
    assert!(again.iter().all(|a| a.queue.group == GroupId(1)), "{again:?}");
    let bodies: Vec<u8> = again.iter().flat_map(|a| shape(a).2).collect();
    assert_eq!(bodies[..2], [1, 2]);
}

#[test]
fn an_unknown_producer_leaves_the_unanswered_unknown_and_starts_over() {
    let mut w = World::new();
    w.publish_full(1);
    let first = w.sent_one();
    w.answer(&first, Ok(0), 1);
    w.publish_full(2);
    w.publish("3");
    let second = w.sent_one();
    w.answer(&second, Err(Code::UnknownProducer), 1);
    assert!(matches!(&w.done[1..], [(2, Outcome::Unknown(_))]));
    let fresh = w.sent_one();
    assert_ne!(fresh.producer, first.producer);
    assert_eq!(shape(&fresh), (2, 0, b"3".to_vec()));
}

#[test]
fn only_the_guilty_message_of_a_batch_fails() {
    let mut w = World::new();
    w.publish("1");
    let first = w.sent_one();
    for body in ["2", "3", "4"] {
        w.publish(body);
    }
    w.answer(&first, Ok(0), 1);
    let batch = w.sent_one();
    w.answer(&batch, Err(Code::InvalidMessage), 1);
    let alone = w.sent();
    assert_eq!(
        alone.iter().map(shape).collect::<Vec<_>>(),
        [(2, 1, b"2".to_vec()), (2, 2, b"3".to_vec()), (2, 3, b"4".to_vec())]
    );
    w.answer(&alone[0], Ok(1), 1);
    w.answer(&alone[1], Err(Code::InvalidMessage), 1);
    assert!(matches!(w.done.last(), Some((3, Outcome::Refused(_)))));
    assert_eq!(shape(&w.sent_one()), (3, 2, b"4".to_vec()));
}

#[test]
fn a_body_over_the_groups_limit_is_refused_before_anything_is_sent() {
    let mut w = World::new();
    w.publish_as("a.b", "k", vec![0; (1 << 20) + 1]);
    assert!(matches!(&w.done[..], [(1, Outcome::Refused(r))] if r.code == Code::TooLarge));
    assert_eq!(w.sent(), []);
    assert_eq!(w.room, (1 << 20) + 17);
}

#[test]
fn a_queue_whose_primary_is_away_is_not_tried_again_before_that_changes() {
    let mut w = World::new();
    w.publish("1");
    let first = w.sent_one();
    w.answer(&first, Err(Code::Unavailable), 1);
    let mut moved = routing(2, 0);
    moved.groups[0].queues[0].primary = Some(worker("w2"));
    moved.groups[0].queues[0].epoch = Epoch(2);
    w.routing(moved);
    w.after(Duration::from_secs(1));
    assert_eq!(w.sent(), []);
    let deadline = Time(1000) + Duration::from_secs(60);
    assert_eq!(w.publisher.next_wakeup(), Some(deadline), "a wake-up that does nothing");
    w.publisher.connected(worker("w2"));
    w.take(Vec::new());
    assert_eq!(w.sent_one().epoch, Epoch(2));
}

#[test]
fn what_never_found_a_connection_says_to_whom() {
    let mut w = World::new();
    w.publisher.disconnected(&worker("w1"), "gone");
    w.publish("1");
    w.after(Duration::from_secs(61));
    assert_eq!(w.done, [(1, Outcome::NotSent("worker w1 is not connected".into()))]);
}
