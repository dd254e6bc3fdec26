//! Hand-over of a right: section 1, and what sections 4 and 5 say that holds for a whole right.

use ringway_client::logic::right::How;
use ringway_proto::QueueId;
use ringway_proto::control::ToWorker;

use super::cluster::{C, Cluster, Mail};
use super::{Repair, check, check_all};

/// Long enough for a plan, and for the streams that follow from it.
const WHILE: u64 = 600;

/// A worker, and a member `a` that has every right.
fn begin(c: &mut Cluster) {
    c.start("w1");
    c.pass(WHILE);
    c.join("a", "a", 1);
    c.pass(WHILE);
}

/// A queue whose right goes from `a` to `b` when `b` joins.
fn contested() -> QueueId {
    let mut c = Cluster::new(None);
    begin(&mut c);
    c.join("b", "b", 1);
    c.pass(6 * WHILE);
    c.members["b"].granted.first().expect("b has rights").queue
}

#[test]
fn schedule_1a_two_processes_under_one_epoch() {
    check(Repair::NewProcessIsNewHolder, "one_holder", |c| {
        begin(c);
        let queue = contested();
        c.publish("w1", queue, 1, 1);
        assert_eq!(c.take("a"), Some(0));
        c.pause("a");
        c.join("a again", "a", 2);
        c.pass(WHILE);
        assert_eq!(c.take("a again"), Some(0));
        c.ack("a again", 0);
        c.ack("a", 0);
        c.resume("a");
    });
}

#[test]
fn schedule_1b_an_acked_message_comes_again_after_a_broken_connection() {
    check(Repair::AcksAreRepeated, "key_order", |c| {
        begin(c);
        let queue = contested();
        c.publish("w1", queue, 1, 1);
        c.publish("w1", queue, 1, 2);
        assert_eq!(c.take("a"), Some(0));
        c.hold("a", "w1");
        c.ack("a", 0);
        c.cut("a", "w1");
        assert_eq!(c.take("a"), Some(1), "0 is acked as far as the member knows");
        c.release("a", "w1");
        c.pass(WHILE);
    });
}

#[test]
fn schedule_1c_deliveries_of_an_older_stream() {
    check(Repair::OpensAreNumbered, "redeliveries", |c| {
        begin(c);
        let queue = contested();
        c.hold("w1", "a");
        c.publish("w1", queue, 1, 1);
        c.publish("w1", queue, 1, 2);
        let late = c.cut("a", "w1");
        assert_eq!(late.len(), 2, "both are on their way");
        c.pass(WHILE);
        c.deliver(late);
        c.take("a");
        // The second copies arrive.
        c.release("w1", "a");
        assert_eq!(c.take("a"), Some(0));
    });
}

#[test]
fn schedule_1c_a_return_on_an_older_stream() {
    check(Repair::OpensAreNumbered, "redeliveries", |c| {
        begin(c);
        let queue = contested();
        c.publish("w1", queue, 1, 1);
        assert_eq!(c.take("a"), Some(0));
        c.hold("a", "w1");
        c.settle("a", 0, How::GiveBack);
        let late = c.cut("a", "w1");
        assert_eq!(late.len(), 1, "the return is on its way");
        c.release("a", "w1");
        c.pass(WHILE);
        assert_eq!(c.take("a"), Some(0), "it comes again, since the open did not list it");
        c.deliver(late);
        c.take("a");
    });
}

/// A worker that takes a late open sends on its stream, which the member does not hear as long as
/// it drops what comes there: so it takes both repairs out.
#[test]
fn schedule_1c_an_open_that_is_not_newer() {
    let repairs = [Repair::OnlyNewerOpens, Repair::OpensAreNumbered];
    check_all(&repairs, "redeliveries", |c| {
        begin(c);
        let queue = contested();
        c.hold("a", "w1");
        c.cut("a", "w1");
        c.pass(WHILE);
        let late = c.cut("a", "w1");
        assert!(!late.is_empty(), "an open is on its way");
        c.release("a", "w1");
        c.pass(WHILE);
        c.publish("w1", queue, 1, 1);
        assert_eq!(c.take("a"), Some(0));
        c.hold("w1", "a");
        c.deliver(late);
        // It listed nothing. What is sent for it comes when 0 is acked and that is confirmed.
        let sent = c.intercept("w1", "a");
        c.release("w1", "a");
        c.ack("a", 0);
        c.deliver(sent);
        c.take("a");
    });
}

#[test]
fn schedule_1d_drained_before_the_acks_are_in() {
    check(Repair::DrainedAfterAcks, "redeliveries", |c| {
        begin(c);
        let queue = contested();
        c.publish("w1", queue, 1, 1);
        assert_eq!(c.take("a"), Some(0));
        c.join("b", "b", 1);
        c.pass(WHILE);
        c.hold("a", "w1");
        c.ack("a", 0);
        c.pass(WHILE);
        c.take("b");
        c.release("a", "w1");
        c.pass(WHILE);
    });
}

#[test]
fn schedule_1e_drained_said_by_the_worker() {
    check(Repair::OnlyMembersDrain, "redeliveries", |c| {
        begin(c);
        let queue = contested();
        // The revoke reaches only the worker, and what follows from its word waits.
        c.hold(C, "a");
        c.withhold(|mail| matches!(mail, Mail::ToWorker(ToWorker::Raise(_))));
        c.join("b", "b", 1);
        c.pass(WHILE);
        c.crash("w1");
        c.restart("w1");
        c.publish("w1", queue, 1, 1);
        c.publish("w1", queue, 1, 2);
        c.pass(WHILE);
        c.take("a");
        c.withhold(|_| false);
        c.pass(WHILE);
        c.take("b");
        c.release(C, "a");
    });
}

/// Lets `a` be silent until its right is with `b`: what it still hands out then.
fn handed_out_by_a_silent_member(without: Option<Repair>, late: fn(&mut Cluster)) -> Option<u64> {
    let mut c = Cluster::new(without);
    begin(&mut c);
    c.join("b", "b", 1);
    c.pass(6 * WHILE);
    let queue = c.members["a"].granted.iter().map(|right| right.queue);
    let kept = |queue: &QueueId| !c.members["b"].granted.iter().any(|r| r.queue == *queue);
    let queue = queue.clone().find(kept).expect("a keeps rights");
    c.publish("w1", queue, 1, 1);
    c.publish("w1", queue, 2, 1);
    assert_eq!(c.take("a"), Some(0));
    c.hold(C, "a");
    c.hold("w1", "a");
    c.deaf.insert("a");
    late(&mut c);
    assert_eq!(c.take("b"), Some(0), "its session lapsed, and the right has a new holder");
    c.take("a")
}

#[test]
fn schedule_4b_the_lease_of_a_member_counts_from_the_question() {
    let late = |c: &mut Cluster| {
        let asked = c.now;
        // 0.7 TTL under way.
        c.pass(840);
        c.answered("a", asked);
        c.pass(800);
    };
    let out = Some(Repair::AnswersCountFromTheQuestion);
    assert_eq!(handed_out_by_a_silent_member(None, late), None);
    assert_eq!(handed_out_by_a_silent_member(out, late), Some(1), "two members at once");
}

#[test]
fn schedule_4c_an_answer_to_a_member_that_refuses_is_no_answer() {
    let late = |c: &mut Cluster| {
        c.pass(1600);
        // The join is on its way, and questions on the new connection are answered.
        c.hold("a", C);
        c.reconnect("a");
        let now = c.now;
        c.coordinator_answered("a", now);
    };
    let out = Some(Repair::RefusalsAreNoAnswer);
    assert_eq!(handed_out_by_a_silent_member(None, late), None);
    assert_eq!(handed_out_by_a_silent_member(out, late), Some(1), "two members at once");
}

#[test]
fn schedule_5a_a_delivery_on_the_wire_at_a_revoke() {
    check(Repair::NothingAfterTheRevoke, "key_order", |c| {
        begin(c);
        let queue = contested();
        c.publish("w1", queue, 2, 1);
        assert_eq!(c.take("a"), Some(0), "something in hand, so that it does not drain at once");
        c.publish("w1", queue, 1, 1);
        c.hold("w1", "a");
        c.publish("w1", queue, 1, 2);
        c.join("b", "b", 1);
        c.pass(WHILE);
        c.release("w1", "a");
        assert_eq!(c.take("a"), None);
        c.ack("a", 0);
        c.pass(WHILE);
    });
}
