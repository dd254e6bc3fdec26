use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use ringway_proto::batch::{Batch, BatchBuilder};
use ringway_proto::control::OpenRight;
use ringway_proto::data::{OffsetRange, Ranges, Window};
use ringway_proto::hash::lane_of_offset;
use ringway_proto::message::Message;
use ringway_proto::{
    Class, Code, Epoch, GroupId, Holder, Incarnation, MemberId, OpenNumber, QueueId, RightId,
    SubscriptionId, Time, WallTime,
};

use super::*;
use crate::logic::delivery::Frame;
use crate::logic::{Action, Rules};

const COUNT: u64 = 24;
const LOWER: Lanes = Lanes { start: 0, end: 2048 };
const UPPER: Lanes = Lanes { start: 2048, end: 4096 };

fn id(lanes: Lanes) -> RightId {
    RightId::whole(SubscriptionId(1), QueueId::new(GroupId(1), 0)).with(lanes)
}

fn holder(name: &str) -> Holder {
    Holder { member: MemberId::new(name).unwrap(), incarnation: Incarnation(1) }
}

fn to(lanes: Lanes, epoch: u64, name: Option<&str>) -> RightEpoch {
    RightEpoch { right: id(lanes), epoch: Epoch(epoch), holder: name.map(holder) }
}

fn batch() -> Batch {
    let mut builder = BatchBuilder::new();
    for _ in 0..COUNT {
        builder.push(&Message::new(Class::new("a.b").unwrap(), &b"x"[..]));
    }
    Batch::parse(builder.finish(WallTime(0))).unwrap()
}

/// The offsets of the messages, which have no keys, in these lanes.
fn within(lanes: Lanes) -> BTreeSet<u64> {
    (0..COUNT).filter(|at| lanes.contains(lane_of_offset(Offset(*at)))).collect()
}

fn open(right: &mut Right, lanes: Lanes, number: u64, acks: &[u64]) -> Result<(), Code> {
    let request = OpenRight {
        right: id(lanes),
        epoch: right.epoch(),
        holder: right.holder().unwrap().clone(),
        open: OpenNumber(number),
        held: vec![],
        held_lanes: vec![],
        handed_out: vec![],
        acks: OffsetRange::collect(acks.iter().map(|at| Offset(*at))),
        ack_number: u64::from(!acks.is_empty()),
        window: Window { number: 1, messages: 1000, bytes: 1 << 20 },
    };
    let opened =
        right.open(Time(0), number, &request, Offset(COUNT), &Rules::default(), &mut vec![]);
    opened.map_err(|refusal| refusal.code)
}

/// Everything that may be sent now, as offset and delivery.
fn sent(right: &mut Right) -> BTreeMap<u64, u16> {
    let (batch, end, mut sent) = (batch(), Offset(COUNT), BTreeMap::new());
    let mut last = None;
    while let Some(at) = right.wants(end, &Rules::default()).filter(|at| last != Some(*at)) {
        last = Some(at);
        let picked = right.select(Offset(0), &batch, &[true], None, end, &Rules::default());
        let entries = picked.into_iter().flat_map(|picked| picked.entries);
        sent.extend(entries.map(|entry| (u64::from(entry.index), entry.delivery)));
    }
    sent
}

fn say(right: &mut Right, stream: u64, frame: &Frame) -> (bool, Vec<Action>) {
    let mut out = Vec::new();
    let epoch = right.epoch();
    let tally = right.frame(Time(0), stream, epoch, frame, &Rules::default(), &mut out);
    (tally.fenced, out)
}

fn ranges(offsets: impl IntoIterator<Item = u64>) -> Ranges {
    let ranges = OffsetRange::collect(offsets.into_iter().map(Offset));
    Ranges { open: OpenNumber(1), number: 7, ranges }
}

/// Held whole by `a`, who has all messages and has handed the first of each half out.
fn in_hand() -> (Right, u64, u64) {
    let mut right = Right::new(id(Lanes::ALL), Offset(0));
    right.raise(&to(Lanes::ALL, 1, Some("a")), &mut vec![]);
    open(&mut right, Lanes::ALL, 1, &[]).unwrap();
    assert_eq!(sent(&mut right).len() as u64, COUNT);
    let (low, high) = (*within(LOWER).first().unwrap(), *within(UPPER).first().unwrap());
    say(&mut right, 1, &Frame::HandedOut(ranges([low.min(high), low.max(high)])));
    (right, low, high)
}

fn halves(right: Right) -> (Right, Right) {
    let mut parts = right.split(&[to(LOWER, 1, Some("a")), to(UPPER, 2, Some("b"))]);
    parts.sort_by_key(Right::id);
    let upper = parts.pop().unwrap();
    (parts.pop().unwrap(), upper)
}

#[test]
fn what_stays_goes_on_and_what_was_in_flight_of_the_rest_goes_first_to_the_other() {
    let (right, low, high) = in_hand();
    let (mut lower, mut upper) = halves(right);
    assert_eq!(
        (lower.id(), lower.epoch(), lower.holder()),
        (id(LOWER), Epoch(1), Some(&holder("a")))
    );
    assert_eq!(lower.in_flight(), within(LOWER).len());
    // Its stream is the same, and its acks count.
    let (fenced, _) = say(&mut lower, 1, &Frame::Ack(ranges([low])));
    assert!(!fenced);
    assert!(lower.take_unwritten().1.is_some(), "the ack is confirmed");

    open(&mut upper, UPPER, 1, &[]).unwrap();
    let sent = sent(&mut upper);
    assert_eq!(sent.keys().copied().collect::<BTreeSet<_>>(), within(UPPER));
    assert!(sent.iter().all(|(at, n)| *n == if *at == high { 2 } else { 1 }), "{sent:?}");
}

#[test]
fn an_ack_of_lanes_that_went_to_someone_else_is_neither_taken_nor_confirmed() {
    let (right, low, high) = in_hand();
    let (mut lower, mut upper) = halves(right);
    let both = [low.min(high), low.max(high)];
    let (fenced, out) = say(&mut lower, 1, &Frame::Ack(ranges(both)));
    assert!(fenced);
    let closed = |a: &Action| matches!(a, Action::Close { stream: 1, refusal: Some(r) } if r.code == Code::NotYet);
    assert!(out.iter().any(closed), "{out:?}");
    assert_eq!(lower.take_unwritten(), (None, None));
    // It opens again with the lanes that are left, and acks what it may.
    assert_eq!(open(&mut lower, Lanes::ALL, 2, &[]), Err(Code::NotYet));
    assert_eq!(open(&mut lower, LOWER, 3, &[low]), Ok(()));
    open(&mut upper, UPPER, 1, &[]).unwrap();
    assert!(sent(&mut upper).contains_key(&high), "it was not acked");
}

#[test]
fn lanes_that_are_being_given_up_are_not_sent_and_stop_nothing() {
    let (mut right, low, _) = in_hand();
    say(&mut right, 1, &Frame::Narrow(LOWER));
    // Everything unread comes back; only the half that stays is sent again.
    let back: Vec<u64> = (0..COUNT).filter(|at| *at != low).collect();
    say(&mut right, 1, &Frame::Return(ranges(back)));
    let again: BTreeSet<u64> = sent(&mut right).into_keys().collect();
    let stay: BTreeSet<u64> = within(LOWER).into_iter().filter(|at| *at != low).collect();
    assert_eq!(again, stay);
    assert!(right.unsettled() + right.unread(Offset(COUNT)) >= COUNT, "all of it still counts");
    // Somebody else who gets the whole is sent all of it.
    right.raise(&to(Lanes::ALL, 2, Some("b")), &mut vec![]);
    open(&mut right, Lanes::ALL, 1, &[]).unwrap();
    assert_eq!(sent(&mut right).len() as u64, COUNT);
}

/// A fence at this queue is passed when the floor of every right is past it.
#[test]
fn what_was_left_out_of_lanes_that_went_does_not_hold_the_floor_back() {
    let (mut right, ..) = in_hand();
    say(&mut right, 1, &Frame::Narrow(LOWER));
    say(&mut right, 1, &Frame::Ack(ranges(within(LOWER))));
    say(&mut right, 1, &Frame::Return(ranges(0..COUNT)));
    assert_eq!(sent(&mut right).len(), 0, "the rest is given up");
    right.take_unwritten();
    assert!(!right.is_past(Offset(COUNT)), "nobody has acked it");
    let (mut lower, mut upper) = halves(right);
    assert_eq!(sent(&mut lower).len(), 0);
    assert!(lower.is_past(Offset(COUNT)));
    assert!(!upper.is_past(Offset(COUNT)));
    open(&mut upper, UPPER, 1, &[]).unwrap();
    assert_eq!(sent(&mut upper).len(), within(UPPER).len());
    say(&mut upper, 1, &Frame::Ack(ranges(within(UPPER))));
    upper.take_unwritten();
    assert!(upper.is_past(Offset(COUNT)));
}

#[derive(Clone, Debug)]
enum Op {
    Ack(u64),
    Split(usize),
    Merge(usize),
    Move(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..COUNT).prop_map(Op::Ack),
        2 => (0..8usize).prop_map(Op::Split),
        2 => (0..8usize).prop_map(Op::Merge),
        1 => (0..8usize).prop_map(Op::Move),
    ]
}

proptest! {
    /// However a queue's rights are split, merged and moved to other workers: what was acked is
    /// never sent again, and everything else is, by one of them.
    #[test]
    fn no_ack_is_forgotten_and_no_message_lost(ops in prop::collection::vec(op(), 0..40)) {
        let mut rights = vec![Right::new(id(Lanes::ALL), Offset(0))];
        let (mut acked, mut epoch, mut opens) = (BTreeSet::new(), 0, 0);
        let mut next = || { epoch += 1; epoch };
        for op in ops {
            let n = rights.len();
            match op {
                Op::Ack(at) => {
                    let lane = lane_of_offset(Offset(at));
                    let right = rights.iter_mut().find(|r| r.id().lanes.contains(lane)).unwrap();
                    let lanes = right.id().lanes;
                    right.raise(&to(lanes, next(), Some("a")), &mut vec![]);
                    opens += 1;
                    open(right, lanes, opens, &[at]).unwrap();
                    // What the reader passes over moves the floor.
                    sent(right);
                    acked.insert(at);
                }
                Op::Split(i) => {
                    let right = rights.remove(i % n);
                    let Lanes { start, end } = right.id().lanes;
                    if end - start < 128 {
                        rights.push(right);
                        continue;
                    }
                    let half = start + (end - start) / 2;
                    let parts = [Lanes { start, end: half }, Lanes { start: half, end }];
                    let stays = to(parts[0], right.epoch().0, None);
                    rights.extend(right.split(&[stays, to(parts[1], next(), None)]));
                }
                Op::Merge(i) if n > 1 => {
                    let at = i % (n - 1);
                    let parts: Vec<Right> = rights.drain(at..at + 2).collect();
                    let lanes = Lanes {
                        start: parts[0].id().lanes.start,
                        end: parts[1].id().lanes.end,
                    };
                    rights.push(Right::merged(parts, &to(lanes, next(), None)));
                }
                Op::Move(i) => rights[i % n] = Right::from_copy(&rights[i % n].to_copy()),
                Op::Merge(_) => {}
            }
            rights.sort_by_key(Right::id);
            prop_assert!(cover(Lanes::ALL, rights.iter().map(|right| right.id().lanes)));
            prop_assert!(rights.iter().all(|r| r.acked_ranges() as u64 <= 64 * COUNT));
        }
        let mut all = Vec::new();
        for right in &mut rights {
            let lanes = right.id().lanes;
            right.raise(&to(lanes, next(), Some("b")), &mut vec![]);
            open(right, lanes, 1000, &[]).unwrap();
            all.extend(sent(right).into_keys());
            prop_assert_eq!(right.unread(Offset(COUNT)), 0);
        }
        all.sort_unstable();
        let left: Vec<u64> = (0..COUNT).filter(|at| !acked.contains(at)).collect();
        prop_assert_eq!(all, left);
    }
}
