//! A queue moves: section 2. The queues here have messages, except where a schedule is about none.

use ringway_proto::admin::AdminRequest;
use ringway_proto::control::{FromWorker, ToWorker};
use ringway_proto::{QueueId, WorkerId};

use super::cluster::{C, Cluster, Mail};
use super::{Repair, check};

const WHILE: u64 = 600;

/// A worker that leads every queue, and a member that reads them.
fn begin(c: &mut Cluster) {
    c.start("w1");
    c.pass(WHILE);
    c.join("a", "a", 1);
    c.pass(WHILE);
}

/// A queue that goes from `w1` to `w2` when `w2` joins.
fn contested() -> QueueId {
    let mut c = Cluster::new(None);
    begin(&mut c);
    c.start("w2");
    c.pass(6 * WHILE);
    let right = c.members["a"].granted.iter().find(|r| c.primary(r.queue) == Some("w2"));
    right.expect("w2 has queues").queue
}

/// One message at `w1`, sealed for a copy at `w2` that is whole, of which only `w2` knows.
fn sealed_and_copied(c: &mut Cluster) -> QueueId {
    begin(c);
    let queue = contested();
    c.publish("w1", queue, 1, 1);
    c.withhold(is_news_of_the_seal);
    c.start("w2");
    c.pass(6 * WHILE);
    queue
}

fn is_synced(mail: &Mail) -> bool {
    matches!(mail, Mail::FromWorker(FromWorker::CopySynced { .. }))
}

/// That the copy is whole, or that the original may go on.
fn is_news_of_the_seal(mail: &Mail) -> bool {
    is_synced(mail) || matches!(mail, Mail::ToWorker(ToWorker::Unseal { .. }))
}

#[test]
fn schedule_2a_the_seal_dies_with_a_crash() {
    check(Repair::SealIsJournaled, "acked_survives", |c| {
        let queue = sealed_and_copied(c);
        c.crash("w1");
        c.hold(C, "w1");
        c.restart("w1");
        c.publish("w1", queue, 1, 2);
        c.withhold(|_| false);
        c.release(C, "w1");
        c.pass(6 * WHILE);
    });
}

#[test]
fn schedule_2b_an_unseal_and_a_late_confirmation() {
    check(Repair::GiveUpIsStored, "acked_survives", |c| {
        let queue = sealed_and_copied(c);
        c.withhold(is_synced);
        c.publish("w1", queue, 1, 2);
        c.withhold(|_| false);
        c.pass(6 * WHILE);
    });
}

#[test]
fn schedule_2b_a_late_confirmation_of_an_attempt_that_was_given_up() {
    check(Repair::MovesNameTheAttempt, "acked_survives", |c| {
        let queue = sealed_and_copied(c);
        let late = c.intercept("w2", C);
        // Nobody hears of the copy, and the seal lasts too long.
        c.hold(C, "w2");
        c.withhold(|_| false);
        c.pass(11_000);
        c.publish("w1", queue, 1, 2);
        c.deliver(late);
        c.release(C, "w2");
        c.pass(6 * WHILE);
    });
}

/// The queue has moved to `w2` and back.
fn there_and_back(c: &mut Cluster) -> QueueId {
    begin(c);
    let queue = contested();
    c.publish("w1", queue, 1, 1);
    c.start("w2");
    c.pass(6 * WHILE);
    assert_eq!(c.primary(queue), Some("w2"));
    let worker = WorkerId::new("w2").unwrap();
    c.administer(AdminRequest::Drain { worker, undo: false });
    c.pass(6 * WHILE);
    assert_eq!(c.primary(queue), Some("w1"));
    c.publish("w1", queue, 1, 2);
    queue
}

#[test]
fn schedule_2c_a_late_tombstone() {
    check(Repair::TombstonesHaveAnEpoch, "acked_survives", |c| {
        let queue = there_and_back(c);
        let is_tombstone = |mail: &Mail| matches!(mail, Mail::ToWorker(ToWorker::Tombstone { .. }));
        let late = c.arrived("w1", is_tombstone, queue);
        c.arrive_again("w1", late);
        c.pass(WHILE);
    });
}

#[test]
fn schedule_2d_a_late_open() {
    check(Repair::RemovalsAreRemembered, "one_primary", |c| {
        let queue = there_and_back(c);
        let is_open = |mail: &Mail| matches!(mail, Mail::ToWorker(ToWorker::OpenQueue(_)));
        let late = c.arrived("w2", is_open, queue);
        c.crash("w2");
        c.hold("w2", C);
        c.restart("w2");
        c.arrive_again("w2", late);
        c.publish("w2", queue, 2, 1);
    });
}

#[test]
fn schedule_2e_the_copy_is_ahead_of_the_original() {
    check(Repair::OnlySyncedIsCopied, "one_value", |c| {
        begin(c);
        let queue = contested();
        c.publish("w1", queue, 1, 1);
        // Nobody hears how far the copy is, so the queue is not sealed.
        c.withhold(|mail| matches!(mail, Mail::FromWorker(FromWorker::CopyProgress { .. })));
        c.start("w2");
        c.pass(6 * WHILE);
        c.slow_disk("w1");
        c.publish("w1", queue, 1, 2);
        c.crash("w1");
        c.restart("w1");
        c.publish("w1", queue, 2, 1);
        c.withhold(|_| false);
        c.pass(6 * WHILE);
        assert_eq!(c.primary(queue), Some("w2"));
    });
}
