//! Splits and merges of a right: section 5. The group `g` has one queue and takes the classes
//! `a.>`, which the members read; so the second member gets half of its lanes.

use ringway_proto::control::ToWorker;
use ringway_proto::hash::lane_of_message;
use ringway_proto::limits::SLOTS;
use ringway_proto::{Lanes, Offset, QueueId};

use super::cluster::{C, Cluster, Mail};
use super::{Repair, played};

/// Long enough for a plan, and for the streams that follow from it.
const WHILE: u64 = 600;
/// Longer than lanes may take to be given up.
const DEADLINE: u64 = 6000;
/// The halves of a right: the first one stays with who had all of it.
const LOWER: Lanes = Lanes { start: 0, end: SLOTS / 2 };
const UPPER: Lanes = Lanes { start: SLOTS / 2, end: SLOTS };

/// What is broken in a cluster where rights are split.
fn broken(without: &[Repair], play: fn(&mut Cluster)) -> Vec<String> {
    played(Cluster::with_ranges(without.iter().copied(), 4), play)
}

/// Plays a schedule as shipped, where nothing may break, and without the repair, where this
/// promise has to.
fn check(repair: Repair, promise: &str, play: fn(&mut Cluster)) {
    assert_eq!(broken(&[], play), [""; 0], "as shipped");
    let broken = broken(&[repair], play);
    assert!(breaks(&broken, promise), "without {repair:?}: {broken:?}");
}

fn breaks(broken: &[String], promise: &str) -> bool {
    broken.iter().any(|b| b.starts_with(promise))
}

/// A worker, the group, and a member `a` that has the whole right to its queue.
fn begin(c: &mut Cluster) -> QueueId {
    c.start("w1");
    c.pass(WHILE);
    c.make_group("a.>");
    c.pass(WHILE);
    c.join_to("a", "a.>");
    c.pass(WHILE);
    let routing = c.routing.as_ref().unwrap();
    let group = routing.groups.iter().find(|group| group.name.as_str() == "g").unwrap();
    QueueId::new(group.id, 0)
}

/// A key of these lanes; a larger `nth` is another one.
fn key(lanes: Lanes, nth: usize) -> u32 {
    let lane = |key: &u32| lane_of_message(Some(key.to_string().as_bytes()), Offset(0));
    (1..).filter(|key| lanes.contains(lane(key))).nth(nth).unwrap()
}

#[test]
fn schedule_5a_a_delivery_on_the_wire_at_a_revoke_of_a_lane() {
    check(Repair::NothingAfterTheRevoke, "key_order", |c| {
        let queue = begin(c);
        c.publish("w1", queue, key(UPPER, 1), 1);
        assert_eq!(c.take("a"), Some(0), "something in hand, so that it is not narrowed at once");
        c.publish("w1", queue, key(UPPER, 0), 1);
        c.hold("w1", "a");
        c.publish("w1", queue, key(UPPER, 0), 2);
        c.join_to("b", "a.>");
        c.pass(WHILE);
        c.publish("w1", queue, key(LOWER, 0), 1);
        c.release("w1", "a");
        assert_eq!(c.take("a"), Some(3), "the lanes that stay go on");
        assert_eq!(c.take("a"), None);
        c.ack("a", 0);
        c.pass(WHILE);
    });
}

/// The lanes leave because the time to give them up is over, and that is not known to `a` yet.
#[test]
fn schedule_5b_an_ack_for_lanes_that_have_left() {
    check(Repair::AcksAreOfTheLanes, "confirmed_acks", |c| {
        let queue = begin(c);
        c.publish("w1", queue, key(UPPER, 0), 1);
        assert_eq!(c.take("a"), Some(0));
        c.hold("a", "w1");
        c.ack("a", 0);
        c.join_to("b", "a.>");
        c.pass(WHILE);
        c.hold(C, "a");
        c.pass(DEADLINE);
        // The ack arrives under the epoch that the other half has kept.
        c.release("a", "w1");
        assert_eq!(c.take("b"), Some(0), "it went there with its lanes");
        c.release(C, "a");
    });
}

/// Where `a` gives the lanes up in order, no ack comes late: it says so only when its acks are
/// confirmed. Without that the message comes again, which is 1d for some of the lanes; it takes
/// both repairs out that an ack is confirmed of what comes again.
#[test]
fn schedule_5b_an_ack_for_lanes_that_were_given_up() {
    let play = |c: &mut Cluster| {
        let queue = begin(c);
        c.publish("w1", queue, key(UPPER, 0), 1);
        assert_eq!(c.take("a"), Some(0));
        c.join_to("b", "a.>");
        c.pass(WHILE);
        c.hold("a", "w1");
        c.ack("a", 0);
        c.pass(WHILE);
        c.release("a", "w1");
        c.take("b");
    };
    let (lanes, drained) = (Repair::AcksAreOfTheLanes, Repair::DrainedAfterAcks);
    assert_eq!(broken(&[], play), [""; 0], "as shipped");
    assert_eq!(broken(&[lanes], play), [""; 0], "without {lanes:?}");
    let early = broken(&[drained], play);
    assert!(breaks(&early, "redeliveries"), "without {drained:?}: {early:?}");
    assert!(!breaks(&early, "confirmed_acks"), "without {drained:?}: {early:?}");
    let both = broken(&[lanes, drained], play);
    assert!(breaks(&both, "confirmed_acks"), "without both: {both:?}");
}

/// A crash takes the split back, and with it the new right, for which `b` acks in vain.
#[test]
fn schedule_5c_serving_before_the_record_of_a_split() {
    check(Repair::RangesAreJournaled, "acked_survives", |c| {
        let queue = begin(c);
        c.publish("w1", queue, key(UPPER, 0), 1);
        c.slow_disk("w1");
        c.join_to("b", "a.>");
        c.pass(WHILE);
        let early = c.is_out(Repair::RangesAreJournaled);
        assert_eq!(c.take("b"), early.then_some(0));
        c.settle_all("b");
        c.crash("w1");
        c.restart("w1");
        c.publish("w1", queue, key(UPPER, 0), 2);
        c.pass(WHILE);
    });
}

/// The same where `a` was too late to give the lanes up: it still has them as far as it knows, and
/// so does the worker behind the crash.
#[test]
fn schedule_5c_serving_before_the_record_of_a_split_at_the_deadline() {
    check(Repair::RangesAreJournaled, "one_holder", |c| {
        let queue = begin(c);
        c.publish("w1", queue, key(UPPER, 0), 1);
        assert_eq!(c.take("a"), Some(0));
        c.join_to("b", "a.>");
        c.pass(WHILE);
        c.hold("a", C);
        c.hold(C, "a");
        c.slow_disk("w1");
        c.pass(DEADLINE);
        let early = c.is_out(Repair::RangesAreJournaled);
        assert_eq!(c.take("b"), early.then_some(0));
        c.crash("w1");
        c.restart("w1");
        c.pass(WHILE);
        c.ack("a", 0);
        c.release("a", C);
        c.release(C, "a");
    });
}

#[test]
fn schedule_5c_serving_before_the_record_of_a_merge() {
    check(Repair::RangesAreJournaled, "acked_survives", |c| {
        let queue = begin(c);
        // Three members have quarters; when two of them are gone these become halves.
        for other in ["b", "d"] {
            c.join_to(other, "a.>");
            c.pass(3 * WHILE);
        }
        let quarters = (0..4).map(|n| Lanes { start: n * (SLOTS / 4), end: (n + 1) * (SLOTS / 4) });
        let keys: Vec<u32> = quarters.map(|lanes| key(lanes, 0)).collect();
        for key in &keys {
            c.publish("w1", queue, *key, 1);
        }
        c.withhold(|mail| matches!(mail, Mail::ToWorker(ToWorker::Merge(_))));
        c.leave("b");
        c.leave("d");
        c.pass(3 * WHILE);
        c.slow_disk("w1");
        c.withhold(|_| false);
        c.pass(WHILE);
        let early = c.is_out(Repair::RangesAreJournaled);
        assert_eq!(c.take("a").is_some(), early);
        c.settle_all("a");
        let halves = c.members["a"].granted.iter().filter(|r| [LOWER, UPPER].contains(&r.lanes));
        assert_eq!(halves.count(), if early { 2 } else { 0 });
        c.crash("w1");
        c.restart("w1");
        for key in &keys {
            c.publish("w1", queue, *key, 2);
        }
        c.pass(WHILE);
    });
}
