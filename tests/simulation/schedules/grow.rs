//! A group grows: section 3. The group `g` begins with one queue and takes the classes `g.>`.

use ringway_coordinator::logic::slots::grown;
use ringway_proto::admin::AdminRequest;
use ringway_proto::control::ToWorker;
use ringway_proto::hash::slot_of;
use ringway_proto::routing::even_slots;
use ringway_proto::{GroupName, QueueId};

use super::cluster::{C, Cluster, Mail, Name};
use super::producers::Size::{Half, Small, Whole};
use super::{Repair, check, check_all};

const WHILE: u64 = 600;

/// These workers, the group, a member `a` that has every right, and a producer `p`.
fn begin(c: &mut Cluster, workers: &[Name]) {
    for worker in workers {
        c.start(worker);
    }
    c.pass(WHILE);
    c.make_group("g.>");
    c.pass(WHILE);
    c.join("a", "a", 1);
    c.produce("p");
    c.pass(WHILE);
}

fn grow(c: &mut Cluster, queues: u32) {
    c.administer(AdminRequest::GroupGrow { name: GroupName::new("g").unwrap(), queues });
}

/// A key that is in these queues while the group has one, two and three of them.
fn key(path: [u32; 3]) -> u32 {
    let one = even_slots(1);
    let two = grown(&one, 2);
    let three = grown(&two, 3);
    let home = |table: &[_], key: u32| {
        let slot = slot_of(key.to_string().as_bytes());
        let ranges = table.iter().rev();
        ranges.clone().find(|r: &&ringway_proto::routing::SlotRange| r.first <= slot).unwrap().queue
    };
    (0..).find(|key| [&one, &two, &three].map(|table| home(table, *key)) == path).unwrap()
}

fn queue(c: &Cluster, index: u32) -> QueueId {
    let routing = c.routing.as_ref().unwrap();
    let group = routing.groups.iter().find(|group| group.name.as_str() == "g").unwrap();
    QueueId::new(group.id, index)
}

/// With two workers: the one that has the first queue, and the one that will have the second.
fn workers(c: &Cluster) -> (Name, Name) {
    let first = c.primary(queue(c, 0)).unwrap();
    (first, if first == "w1" { "w2" } else { "w1" })
}

fn is_table(mail: &Mail) -> bool {
    matches!(mail, Mail::ToWorker(ToWorker::Routing(_)))
}

#[test]
fn schedule_3a_the_next_message_overtakes_on_the_new_queue() {
    check(Repair::SlotsWaitForAnswers, "key_order", |c| {
        begin(c, &["w1"]);
        let moves = key([0, 1, 1]);
        c.hold(C, "p");
        grow(c, 2);
        c.pass(WHILE);
        // The refusal is on its way.
        c.hold("w1", "p");
        c.offer("p", moves, 1, Small);
        c.release(C, "p");
        c.offer("p", moves, 2, Small);
        c.release("w1", "p");
        c.pass(WHILE);
    });
}

/// Message 1, which moves, and 2, which stays, were sent and stay behind in an older connection.
/// On the next one the queue refuses 1, and takes 2 under the sequence that 1 had.
fn reuse_a_sequence(c: &mut Cluster) -> Vec<super::cluster::Letter> {
    begin(c, &["w1"]);
    c.hold("p", "w1");
    c.offer("p", key([0, 1, 1]), 1, Whole);
    c.offer("p", key([0, 0, 0]), 2, Whole);
    let late = c.break_link("p", "w1");
    assert_eq!(late.len(), 2, "both are on their way");
    grow(c, 2);
    c.pass(WHILE);
    c.release("p", "w1");
    c.pass(WHILE);
    late
}

#[test]
fn schedule_3b_a_late_frame_fits_a_reused_sequence() {
    check(Repair::SessionsGoUp, "published_once", |c| {
        let late = reuse_a_sequence(c);
        c.deliver(late);
    });
}

/// The frame that comes late takes the sequence of message 3, and 3 is answered as its repeat: an
/// answer names a sequence and no message, so it is the next publish that is acked and in no log.
#[test]
fn schedule_3b_a_publish_is_acked_that_is_in_no_log() {
    check(Repair::SessionsGoUp, "acked_survives", |c| {
        let late = reuse_a_sequence(c);
        c.hold("p", "w1");
        c.offer("p", key([0, 0, 0]), 3, Small);
        c.deliver(late);
        c.release("p", "w1");
        c.pass(WHILE);
    });
}

/// The other half of the repair: the refusal of 1 comes a second time when 2 has its sequence, and
/// meanwhile there is a queue that 2 could go to.
#[test]
fn schedule_3b_an_answer_to_an_older_session() {
    check(Repair::OldAnswersAreIgnored, "published_once", |c| {
        begin(c, &["w1"]);
        c.hold(C, "p");
        grow(c, 2);
        c.pass(WHILE);
        c.hold("w1", "p");
        c.offer("p", key([0, 1, 1]), 1, Small);
        let late = c.break_link("p", "w1");
        assert_eq!(late.len(), 1, "the refusal is on its way");
        c.release(C, "p");
        c.release("w1", "p");
        c.pass(WHILE);
        c.hold("w1", "p");
        c.offer("p", key([0, 0, 2]), 2, Small);
        grow(c, 3);
        c.pass(WHILE);
        c.deliver(late);
        c.pass(WHILE);
        c.release("w1", "p");
    });
}

/// The producer goes by the table, never by the refusal alone, and a refusal of an older session
/// frees nothing: so it takes both repairs out to show the first form.
#[test]
fn schedule_3c_a_refusal_before_the_seal_is_durable() {
    let repairs = [Repair::SealedSlotsWait, Repair::OldAnswersAreIgnored];
    check_all(&repairs, "published_once", |c| {
        begin(c, &["w1"]);
        c.slow_disk("w1");
        grow(c, 2);
        c.hold("w1", "p");
        c.offer("p", key([0, 1, 1]), 1, Small);
        c.hold("p", "w1");
        let late = c.break_link("p", "w1");
        // The seal is gone, and a copy of the message is taken.
        c.hold(C, "w1");
        c.crash("w1");
        c.restart("w1");
        c.release("p", "w1");
        c.deliver(late);
        c.release(C, "w1");
        c.pass(WHILE);
        c.release("w1", "p");
    });
}

#[test]
fn schedule_3c_a_refusal_of_a_primary_that_has_not_the_table() {
    check(Repair::NotYetFreesNothing, "published_once", |c| {
        begin(c, &["w1", "w2"]);
        let (_, new) = workers(c);
        c.hold(C, new);
        grow(c, 2);
        c.pass(WHILE);
        assert_eq!(c.primary(queue(c, 1)), Some(new));
        c.hold("p", new);
        c.offer("p", key([0, 1, 2]), 1, Small);
        let late = c.break_link("p", new);
        assert_eq!(late.len(), 1, "a copy is on its way");
        c.release("p", new);
        // The new primary owns the slot now, and the copy fits.
        c.release(C, new);
        c.deliver(late);
        grow(c, 3);
        c.pass(WHILE);
    });
}

/// Once 3c is in, the order of the checks is a second line: a session that is seen only after the
/// slots were looked at is not seen where they refuse, which does harm only where such a refusal
/// frees.
#[test]
fn schedule_3d_slots_are_looked_at_before_the_session_and_the_sequence() {
    let repairs = [Repair::SlotsComeLast, Repair::NotYetFreesNothing];
    check_all(&repairs, "heals", |c| {
        begin(c, &["w1", "w2"]);
        let (_, new) = workers(c);
        c.withhold(is_table);
        grow(c, 2);
        c.pass(WHILE);
        assert_eq!(c.primary(queue(c, 1)), Some(new));
        c.hold("p", new);
        let moves = key([0, 1, 1]);
        c.offer("p", moves, 1, Small);
        let late = c.break_link("p", new);
        assert_eq!(late.len(), 1, "the first copy of 1 is stuck");
        c.offer("p", moves, 2, Half);
        c.offer("p", moves, 3, Half);
        c.release("p", new);
        // All are freed, and the first copy arrives before they are sent again, in other batches.
        c.withhold(|_| false);
        c.deliver(late);
        c.pass(WHILE);
    });
}

#[test]
fn schedule_3d_a_later_refusal_is_acted_on_while_an_earlier_batch_is_open() {
    check(Repair::RefusalsWaitForTheirTurn, "heals", |c| {
        begin(c, &["w1"]);
        c.hold(C, "p");
        grow(c, 2);
        c.pass(WHILE);
        // 1 waits for the disk, and the refusal of 2 does not.
        c.slow_disk("w1");
        c.offer("p", key([0, 0, 0]), 1, Whole);
        c.offer("p", key([0, 1, 1]), 2, Whole);
        c.release(C, "p");
        c.offer("p", key([0, 0, 0]), 3, Small);
        c.quick_disk("w1");
        c.pass(WHILE);
    });
}

#[test]
fn schedule_3e_two_moves_of_one_slot() {
    check(Repair::FencesAreAChain, "key_order", |c| {
        begin(c, &["w1"]);
        let moves = key([0, 1, 2]);
        c.hold("w1", "a");
        c.offer("p", moves, 1, Small);
        let late = c.intercept("w1", "a");
        assert_eq!(late.len(), 1, "1 is on its way to the member");
        c.release("w1", "a");
        grow(c, 2);
        c.pass(WHILE);
        grow(c, 3);
        c.pass(WHILE);
        c.offer("p", moves, 2, Small);
        c.pass(WHILE);
        c.take("a");
        c.deliver(late);
    });
}

#[test]
fn schedule_3_fences_bind_a_subscription_that_begins_later() {
    check(Repair::FencesBindLaterSubscriptions, "key_order", |c| {
        begin(c, &["w1", "w2"]);
        let (old, _) = workers(c);
        let moves = key([0, 1, 1]);
        c.offer("p", moves, 1, Small);
        c.settle_all("a");
        grow(c, 2);
        c.pass(WHILE);
        c.offer("p", moves, 2, Small);
        c.pass(WHILE);
        c.hold(old, "b");
        c.join_as("b", "later", "b", 1);
        c.pass(WHILE);
        c.take("b");
        c.release(old, "b");
    });
}

/// The answer to a message is lost, and it is sent again when its slot has moved.
fn lose_an_answer(c: &mut Cluster) {
    begin(c, &["w1"]);
    c.hold("w1", "p");
    c.offer("p", key([0, 1, 1]), 1, Small);
    c.hold("p", "w1");
    let lost = c.break_link("p", "w1");
    assert_eq!(lost.len(), 1, "the answer is lost");
    grow(c, 2);
    c.pass(WHILE);
    c.release("p", "w1");
    c.release("w1", "p");
    c.pass(WHILE);
}

#[test]
fn schedule_3_a_repeat_is_answered_after_its_slot_has_moved() {
    check(Repair::RepeatsComeFirst, "published_once", lose_an_answer);
}

#[test]
fn schedule_3_a_batch_is_sent_again_only_to_its_queue() {
    check(Repair::RetriesStay, "published_once", lose_an_answer);
}

#[test]
fn schedule_3_the_seal_of_slots_dies_with_a_crash() {
    check(Repair::SlotSealIsJournaled, "key_order", |c| {
        begin(c, &["w1", "w2"]);
        let (old, _) = workers(c);
        let moves = key([0, 1, 1]);
        c.offer("p", moves, 1, Small);
        c.settle_all("a");
        c.hold(C, "p");
        grow(c, 2);
        c.pass(WHILE);
        c.crash(old);
        c.hold(C, old);
        c.restart(old);
        c.hold(old, "a");
        // The producer does not know that the slot is elsewhere.
        c.offer("p", moves, 2, Small);
        c.release(C, "p");
        c.release(C, old);
        c.offer("p", moves, 3, Small);
        c.pass(WHILE);
        c.take("a");
        c.release(old, "a");
    });
}
