use proptest::prelude::*;
use ringway_proto::batch::BatchBuilder;
use ringway_proto::message::Message;
use ringway_proto::{Class, GroupId, Incarnation, MemberId, QueueId, SubscriptionId, WallTime};

use super::*;

fn right_id() -> RightId {
    RightId::whole(SubscriptionId(1), QueueId::new(GroupId(1), 0))
}

fn holder(name: &str) -> Holder {
    Holder { member: MemberId::new(name).unwrap(), incarnation: Incarnation(1) }
}

fn ranges(ranges: &[(u64, u64)]) -> Vec<OffsetRange> {
    ranges.iter().map(|(a, b)| OffsetRange::new(*a, *b)).collect()
}

/// `n` messages of 17 bytes each; every message whose index is in `other` is of a class that the
/// subscription does not want.
fn batch(n: u64, other: &[u64]) -> Batch {
    let mut builder = BatchBuilder::new();
    for index in 0..n {
        let class = if other.contains(&index) { "other.x" } else { "wanted.x" };
        builder.push(&Message::new(Class::new(class).unwrap(), &b"0123456789"[..]));
    }
    Batch::parse(builder.finish(WallTime(0))).unwrap()
}

const RECORD_BYTES: u64 = 17;

/// A right over one batch from offset 0, its holder, and its streams.
struct Bench {
    right: Right,
    batch: Batch,
    rules: Rules,
    now: Time,
    out: Vec<Action>,
}

impl Bench {
    /// Held by `a` under epoch 1.
    fn new(messages: u64, other: &[u64]) -> Self {
        let mut bench = Self {
            right: Right::new(right_id(), Offset(0)),
            batch: batch(messages, other),
            rules: Rules::default(),
            now: Time(0),
            out: Vec::new(),
        };
        assert!(bench.raise(1, "a"));
        bench
    }

    fn end(&self) -> Offset {
        Offset(self.batch.len() as u64)
    }

    fn raise(&mut self, epoch: u64, to: &str) -> bool {
        let to = RightEpoch { right: right_id(), epoch: Epoch(epoch), holder: Some(holder(to)) };
        self.right.raise(&to, &mut self.out)
    }

    fn request(epoch: u64, who: &str, open: u64, messages: u32) -> OpenRight {
        OpenRight {
            right: right_id(),
            epoch: Epoch(epoch),
            holder: holder(who),
            open: OpenNumber(open),
            held: vec![],
            held_lanes: Vec::new(),
            handed_out: vec![],
            acks: vec![],
            ack_number: 0,
            window: Window { number: 1, messages, bytes: 1 << 20 },
        }
    }

    /// Opens as stream `epoch * 10 + open`.
    fn open(&mut self, request: &OpenRight) -> Result<(), Code> {
        let (stream, end) = (request.epoch.0 * 10 + request.open.0, self.end());
        let opened = self.right.open(self.now, stream, request, end, &self.rules, &mut self.out);
        opened.map_err(|refusal| refusal.code)
    }

    fn say(&mut self, epoch: u64, open: u64, make: fn(Ranges) -> Frame, r: &[(u64, u64)]) -> Tally {
        let frame = make(Ranges { open: OpenNumber(open), number: 7, ranges: ranges(r) });
        self.frame(epoch, open, &frame)
    }

    fn frame(&mut self, epoch: u64, open: u64, frame: &Frame) -> Tally {
        let stream = epoch * 10 + open;
        self.right.frame(self.now, stream, Epoch(epoch), frame, &self.rules, &mut self.out)
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.right.wake(self.now, &mut self.out);
    }

    /// Everything that may be sent now, as (offset, delivery).
    fn sent(&mut self) -> Vec<(u64, u16)> {
        let matching: Vec<bool> =
            self.batch.classes().iter().map(|c| c.as_str() == "wanted.x").collect();
        let mut sent = Vec::new();
        while let Some(at) = self.right.wants(self.end(), &self.rules) {
            let end = self.end();
            let picked =
                self.right.select(Offset(0), &self.batch, &matching, None, end, &self.rules);
            if let Some(picked) = picked {
                let runs: Vec<usize> = picked.runs.iter().flat_map(|(a, b)| *a..*b).collect();
                let entries: Vec<usize> = picked.entries.iter().map(|e| e.index as usize).collect();
                assert_eq!(runs, entries, "the records are those that the entries name");
                sent.extend(picked.entries.iter().map(|e| (u64::from(e.index), e.delivery)));
            } else if self.right.wants(self.end(), &self.rules) == Some(at) {
                break;
            }
        }
        sent
    }
}

fn firsts(offsets: std::ops::Range<u64>) -> Vec<(u64, u16)> {
    offsets.map(|at| (at, 1)).collect()
}

#[test]
fn late_ack_from_old_holder_is_fenced() {
    let mut bench = Bench::new(4, &[]);
    bench.open(&Bench::request(1, "a", 1, 10)).unwrap();
    assert_eq!(bench.sent(), firsts(0..4));
    assert_eq!(bench.say(1, 1, Frame::Ack, &[(0, 1)]).acked, 1);

    assert!(bench.raise(2, "b"));
    let closed = |a: &Action| matches!(a, Action::Close { stream: 11, refusal: Some(r) } if r.code == Code::Fenced);
    assert!(bench.out.iter().any(closed), "the old stream is told at once: {:?}", bench.out);

    bench.open(&Bench::request(2, "b", 1, 10)).unwrap();
    assert!(bench.say(1, 1, Frame::Ack, &[(1, 4)]).fenced);
    assert_eq!(bench.right.floor(), Offset(1));
    assert_eq!(bench.sent(), firsts(1..4), "in flight goes to the new holder, in order");
}

#[test]
fn an_open_is_judged_by_epoch_holder_and_number() {
    let mut bench = Bench::new(1, &[]);
    bench.raise(5, "a");
    bench.open(&Bench::request(5, "a", 3, 10)).unwrap();
    let mut too_much = Bench::request(5, "a", 9, 10);
    too_much.held = ranges(&[(0, u64::MAX)]);
    let mut other_process = Bench::request(5, "a", 9, 10);
    other_process.holder.incarnation = Incarnation(2);
    for (request, code) in [
        (Bench::request(4, "a", 9, 10), Code::Fenced),
        (Bench::request(6, "a", 9, 10), Code::NotYet),
        (Bench::request(5, "b", 9, 10), Code::Fenced),
        (other_process, Code::Fenced),
        (Bench::request(5, "a", 3, 10), Code::Protocol),
        (too_much, Code::Protocol),
    ] {
        assert_eq!(bench.open(&request), Err(code), "{request:?}");
    }
    assert_eq!(bench.open(&Bench::request(5, "a", 4, 10)), Ok(()));
}

/// SCHEDULES 1b: the member repeats the acks that were not confirmed and lists what it holds.
#[test]
fn a_reopened_right_sends_only_the_rest() {
    let mut bench = Bench::new(6, &[]);
    bench.open(&Bench::request(1, "a", 1, 4)).unwrap();
    assert_eq!(bench.sent(), firsts(0..4));
    bench.say(1, 1, Frame::HandedOut, &[(0, 2)]);
    // The ack of 0 was under way when the connection broke; 1 is in hand, 2 unread, 3 was lost.
    let mut request = Bench::request(1, "a", 2, 10);
    request.acks = ranges(&[(0, 1)]);
    request.ack_number = 5;
    request.held = ranges(&[(1, 3)]);
    request.handed_out = ranges(&[(1, 2)]);
    bench.open(&request).unwrap();
    assert_eq!(bench.right.floor(), Offset(1));
    assert_eq!(bench.sent(), [(3, 1), (4, 1), (5, 1)]);
    let (record, confirm) = bench.right.take_unwritten();
    let acked =
        ControlRecord::Acked { right: right_id(), floor: Offset(1), ranges: ranges(&[(0, 1)]) };
    assert_eq!(record, Some(acked));
    assert_eq!(confirm, Some((12, AckConfirmed { open: OpenNumber(2), number: 5 })));
}

/// The same after a restart of the worker, which remembers no flight.
#[test]
fn a_restarted_worker_redelivers_nothing_that_the_member_still_holds() {
    let mut bench = Bench::new(6, &[2]);
    bench.right.replay_acked(Offset(0), &ranges(&[(1, 2)]));
    let mut request = Bench::request(1, "a", 1, 10);
    request.held = ranges(&[(0, 1), (4, 5)]);
    bench.open(&request).unwrap();
    assert_eq!(bench.sent(), [(3, 1), (5, 1)]);
    assert_eq!(bench.right.lag(bench.end()), 4);
}

/// SCHEDULES 1c: returns and nacks of an older open have no say, its acks do.
#[test]
fn an_older_open_may_ack_and_nothing_else() {
    let mut bench = Bench::new(3, &[]);
    bench.open(&Bench::request(1, "a", 1, 10)).unwrap();
    bench.sent();
    let mut again = Bench::request(1, "a", 2, 10);
    again.held = ranges(&[(0, 3)]);
    bench.open(&again).unwrap();
    for make in [Frame::Return, Frame::Nack, Frame::HandedOut] {
        bench.say(1, 1, make, &[(0, 3)]);
    }
    assert_eq!((bench.sent(), bench.right.next_wakeup()), (vec![], None));
    assert_eq!(bench.say(1, 1, Frame::Ack, &[(0, 1)]).acked, 1);
    assert_eq!(bench.right.in_flight(), 2);
}

#[test]
fn a_message_that_is_not_acked_in_time_comes_again() {
    let mut bench = Bench::new(3, &[]);
    bench.open(&Bench::request(1, "a", 1, 3)).unwrap();
    bench.sent();
    // Delivered is not handed out: nothing runs yet.
    bench.pass(Duration::from_secs(100));
    assert_eq!(bench.sent(), []);
    bench.say(1, 1, Frame::HandedOut, &[(0, 2)]);
    bench.pass(Duration::from_secs(20));
    bench.say(1, 1, Frame::HandedOut, &[(0, 1)]);
    bench.pass(Duration::from_secs(11));
    assert_eq!(bench.sent(), [(1, 2)], "0 was extended, 2 was never handed out");
    assert_eq!(bench.say(1, 1, Frame::Ack, &[(1, 2)]).acked, 1, "an ack is never too late");
    bench.pass(Duration::from_secs(20));
    assert_eq!(bench.sent(), [(0, 2)]);
}

#[test]
fn nacked_messages_come_again_before_what_is_new_and_wait_longer_each_time() {
    let mut bench = Bench::new(10, &[]);
    bench.open(&Bench::request(1, "a", 1, 4)).unwrap();
    assert_eq!(bench.sent(), firsts(0..4));
    bench.say(1, 1, Frame::Nack, &[(2, 4)]);
    assert_eq!(bench.sent(), [(2, 2), (3, 2)], "at once at first, in order, before 4");
    bench.say(1, 1, Frame::Nack, &[(2, 3)]);
    assert_eq!(bench.sent(), [], "2 waits and keeps its place");
    bench.say(1, 1, Frame::Ack, &[(3, 4)]);
    bench.pass(Duration::from_millis(99));
    assert_eq!(bench.sent(), [(4, 1)], "2 holds nothing back but its place");
    bench.say(1, 1, Frame::Ack, &[(4, 5)]);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.sent(), [(2, 3), (5, 1)]);
    let waits: Vec<u64> = (1..=20).map(|n| back_off(n, &bench.rules).as_millis() as u64).collect();
    assert_eq!(waits[..5], [0, 100, 200, 400, 800]);
    assert_eq!(waits[19], 10_000);
}

/// All messages may have one key: then nothing that follows 0 can be handed out before it.
#[test]
fn a_nacked_message_is_never_shut_out_by_its_followers() {
    let mut bench = Bench::new(10, &[]);
    bench.open(&Bench::request(1, "a", 1, 4)).unwrap();
    assert_eq!(bench.sent(), firsts(0..4));
    for delivery in 2..9 {
        bench.say(1, 1, Frame::Nack, &[(0, 1)]);
        assert!(bench.sent().iter().all(|sent| *sent == (0, delivery)), "no follower comes in");
        bench.pass(Duration::from_secs(10));
        bench.sent();
        assert_eq!(bench.right.in_flight(), 4);
    }
    // Shut out by a window that shrank, it goes all the same, and nothing else does.
    let narrow = Window { number: 2, messages: 2, bytes: RECORD_BYTES };
    bench.frame(1, 1, &Frame::Window(narrow));
    bench.say(1, 1, Frame::Return, &[(0, 1), (3, 4)]);
    assert_eq!(bench.sent(), [(0, 8)]);
    bench.say(1, 1, Frame::Return, &[(0, 1)]);
    bench.frame(1, 1, &Frame::Window(Window { number: 3, messages: 0, bytes: 0 }));
    assert_eq!(bench.sent(), [], "a window of nothing is that");
}

/// The same after a restart of the worker, when the member lists only the followers.
#[test]
fn what_precedes_everything_that_the_member_holds_goes_although_the_window_is_full() {
    let mut bench = Bench::new(10, &[]);
    let mut request = Bench::request(1, "a", 1, 2);
    request.held = ranges(&[(1, 4)]);
    bench.open(&request).unwrap();
    assert_eq!(bench.sent(), [(0, 1)]);
    assert_eq!(bench.say(1, 1, Frame::Ack, &[(0, 3)]).acked, 3);
    assert_eq!(bench.sent(), [(4, 1)]);
}

#[test]
fn a_late_ack_of_an_older_open_displaces_no_confirmation() {
    let mut bench = Bench::new(4, &[]);
    bench.open(&Bench::request(1, "a", 1, 10)).unwrap();
    bench.sent();
    let mut again = Bench::request(1, "a", 2, 10);
    (again.held, again.acks, again.ack_number) = (ranges(&[(1, 4)]), ranges(&[(0, 1)]), 9);
    bench.open(&again).unwrap();
    assert_eq!(bench.say(1, 1, Frame::Ack, &[(1, 2)]).acked, 1);
    let (_, confirm) = bench.right.take_unwritten();
    assert_eq!(confirm, Some((12, AckConfirmed { open: OpenNumber(2), number: 9 })));
}

#[test]
fn a_late_ack_of_an_older_open_displaces_no_confirmation_that_a_seal_holds_up() {
    let mut bench = Bench::new(4, &[]);
    bench.open(&Bench::request(1, "a", 1, 10)).unwrap();
    bench.sent();
    let again = OpenRight { held: ranges(&[(0, 4)]), ..Bench::request(1, "a", 2, 10) };
    bench.open(&again).unwrap();
    let ack = |number, at| Ranges { open: OpenNumber(2), number, ranges: ranges(&[(at, at + 1)]) };
    bench.right.hold_ack(12, Epoch(1), &ack(8, 0), &mut bench.out);
    let late = Ranges { open: OpenNumber(1), ..ack(3, 1) };
    bench.right.hold_ack(11, Epoch(1), &late, &mut bench.out);
    bench.right.release_acks(&mut bench.out);
    let (_, confirm) = bench.right.take_unwritten();
    assert_eq!(confirm, Some((12, AckConfirmed { open: OpenNumber(2), number: 8 })));
    assert_eq!(bench.right.floor(), Offset(2), "both are applied");
}

/// Sends everything and has it acked, until nothing is left to send.
fn serve(bench: &mut Bench, open: u64) -> usize {
    let mut served = 0;
    loop {
        let sent = bench.sent();
        if sent.is_empty() {
            return served;
        }
        served += sent.len();
        for (at, _) in sent {
            bench.say(1, open, Frame::Ack, &[(at, at + 1)]);
        }
    }
}

#[test]
fn what_is_left_out_while_lanes_are_given_up_leaves_a_bounded_number_of_pieces() {
    let mut bench = Bench::new(2000, &[]);
    bench.rules.max_unsettled = 16;
    let mut half = Bench::request(1, "a", 1, 10);
    half.right.lanes.end = 2048;
    bench.open(&half).unwrap();
    let served = serve(&mut bench, 1);
    assert!((16..100).contains(&served), "{served}");
    assert!(bench.right.cursor.pieces() <= 32, "{}", bench.right.cursor.pieces());

    bench.open(&Bench::request(1, "a", 2, 10)).unwrap();
    assert_eq!(served + serve(&mut bench, 2), 2000);
    assert_eq!(bench.right.floor(), Offset(2000), "nothing stays behind");
}

#[test]
fn an_open_of_no_lanes_is_refused_and_a_lane_of_someone_else_is_not_believed() {
    let mut bench = Bench::new(2, &[]);
    let mut none = Bench::request(1, "a", 1, 10);
    none.right.lanes.end = 0;
    assert_eq!(bench.open(&none).unwrap_err(), Code::NotYet);
    let held = OpenRight {
        held: ranges(&[(0, 1)]),
        held_lanes: vec![60_000],
        ..Bench::request(1, "a", 1, 10)
    };
    bench.open(&held).unwrap();
    assert!(bench.raise(2, "b"));
    bench.open(&Bench::request(2, "b", 1, 10)).unwrap();
    assert_eq!(bench.sent().len(), 2, "the next holder gets it");
}

#[test]
fn a_holder_that_does_not_read_costs_no_more_than_the_largest_window() {
    let mut bench = Bench::new(10, &[]);
    bench.rules.max_window_bytes = 3 * RECORD_BYTES;
    let everything = Window { number: 1, messages: u32::MAX, bytes: u64::MAX };
    bench.open(&OpenRight { window: everything, ..Bench::request(1, "a", 1, 1) }).unwrap();
    assert_eq!(bench.sent(), firsts(0..3));
    bench.frame(1, 1, &Frame::Window(Window { number: 2, ..everything }));
    assert_eq!(bench.sent(), []);
}

#[test]
fn what_comes_back_unread_was_not_delivered() {
    let mut bench = Bench::new(3, &[]);
    bench.open(&Bench::request(1, "a", 1, 10)).unwrap();
    bench.sent();
    bench.say(1, 1, Frame::Return, &[(0, 2)]);
    assert_eq!(bench.sent(), firsts(0..2));
    // A member that crashes: what is known to have been handed out counts, the rest does not.
    bench.say(1, 1, Frame::HandedOut, &[(1, 2)]);
    bench.raise(2, "b");
    bench.open(&Bench::request(2, "b", 1, 10)).unwrap();
    assert_eq!(bench.sent(), [(0, 1), (1, 2), (2, 1)]);
}

#[test]
fn a_revoked_right_is_sent_nothing_more_and_its_acks_go_on() {
    let mut bench = Bench::new(5, &[]);
    bench.open(&Bench::request(1, "a", 1, 2)).unwrap();
    assert_eq!(bench.sent(), firsts(0..2));
    bench.right.revoke(Epoch(9));
    bench.right.revoke(Epoch(1));
    assert_eq!(bench.say(1, 1, Frame::Ack, &[(0, 2)]).acked, 2);
    assert_eq!(bench.sent(), []);
    // Reopened to repeat its acks, it still gets nothing.
    bench.open(&Bench::request(1, "a", 2, 2)).unwrap();
    assert_eq!(bench.sent(), []);
    bench.raise(2, "b");
    bench.open(&Bench::request(2, "b", 1, 9)).unwrap();
    assert_eq!(bench.sent(), firsts(2..5));
}

#[test]
fn raising_twice_or_backwards_changes_nothing() {
    let mut bench = Bench::new(1, &[]);
    assert!(bench.raise(3, "b"));
    assert!(!bench.raise(3, "c"));
    assert!(!bench.raise(2, "a"));
    assert_eq!((bench.right.epoch(), bench.right.holder()), (Epoch(3), Some(&holder("b"))));
}

#[test]
fn messages_that_do_not_match_are_passed_over_and_split_the_runs() {
    let mut bench = Bench::new(8, &[0, 1, 4, 7]);
    bench.open(&Bench::request(1, "a", 1, 10)).unwrap();
    assert_eq!(bench.sent(), [(2, 1), (3, 1), (5, 1), (6, 1)]);
    assert_eq!(bench.right.floor(), Offset(2));
    assert_eq!(bench.right.lag(bench.end()), 4);
    bench.say(1, 1, Frame::Ack, &[(2, 7)]);
    assert_eq!(bench.right.floor(), Offset(8));
    assert_eq!(bench.right.lag(bench.end()), 0);
}

#[test]
fn acks_of_what_was_never_delivered_are_ignored() {
    let mut bench = Bench::new(5, &[]);
    bench.open(&Bench::request(1, "a", 1, 2)).unwrap();
    assert_eq!(bench.sent(), firsts(0..2));
    assert_eq!(bench.say(1, 1, Frame::Ack, &[(1, 5), (100, u64::MAX)]).acked, 1);
    assert_eq!(bench.sent(), firsts(2..3));
    assert_eq!(bench.right.lag(bench.end()), 4);
}

#[test]
fn a_new_window_is_echoed_before_it_holds_and_one_message_always_fits() {
    let mut bench = Bench::new(5, &[]);
    bench.open(&Bench::request(1, "a", 1, 0)).unwrap();
    assert_eq!(bench.sent(), []);
    let narrow = Window { number: 2, messages: 9, bytes: 1 };
    bench.frame(1, 1, &Frame::Window(narrow));
    assert!(bench.out.contains(&Action::WindowSeen { stream: 11, window: narrow }));
    assert_eq!(bench.sent(), firsts(0..1), "larger than the window, and nothing in flight");
    bench.frame(1, 1, &Frame::Window(Window { number: 1, messages: 9, bytes: 1 << 20 }));
    assert_eq!(bench.sent(), [], "an older window changes nothing");
    let two = Window { number: 3, messages: 9, bytes: 2 * RECORD_BYTES };
    bench.frame(1, 1, &Frame::Window(two));
    assert_eq!(bench.sent(), firsts(1..2));
}

#[derive(Clone, Debug)]
enum Op {
    Serve,
    Say(u8, u64, u64),
    Reopen,
    Raise,
    Pass(u64),
    Window(u32, u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => Just(Op::Serve),
        6 => (0u8..4, 0u64..60, 1u64..9).prop_map(|(what, at, n)| Op::Say(what, at, n)),
        1 => Just(Op::Reopen),
        1 => Just(Op::Raise),
        2 => (0u64..40_000).prop_map(Op::Pass),
        1 => (0u32..20, 0u64..300).prop_map(|(m, b)| Op::Window(m, b)),
    ]
}

proptest! {
    /// Whatever a member does: the window holds, nothing acked comes again, and in the end
    /// everything that matches was acked.
    #[test]
    fn windows_hold_and_everything_is_settled_in_the_end(ops in prop::collection::vec(op(), 0..80)) {
        let mut bench = Bench::new(60, &[3, 4, 5, 20, 59]);
        let (mut epoch, mut open, mut number) = (1, 1, 1);
        let mut window = Window { number, messages: 8, bytes: 1 << 20 };
        let mut acked = std::collections::BTreeSet::new();
        bench.open(&OpenRight { window, ..Bench::request(1, "a", 1, 8) }).unwrap();
        for op in ops {
            match op {
                Op::Serve => {
                    let before = bench.right.in_flight();
                    let sent = bench.sent();
                    prop_assert!(sent.iter().all(|(at, _)| !acked.contains(at)));
                    // One message may exceed it: the first of all, or one before all that was sent.
                    let places = bench.right.in_flight();
                    let fits = places <= window.messages as usize
                        && places as u64 * RECORD_BYTES <= window.bytes;
                    if !fits && !sent.is_empty() {
                        prop_assert_eq!((sent.len(), places), (1, before + 1));
                        let earlier = [OffsetRange::new(0, sent[0].0)];
                        let earlier = bench.right.flight.named(&earlier);
                        prop_assert!(earlier.iter().all(|(_, u)| !u.is_sent()));
                    }
                }
                Op::Say(0, at, n) => {
                    let known: Vec<u64> =
                        bench.right.flight.named(&ranges(&[(at, at + n)])).iter().map(|(o, _)| o.0).collect();
                    prop_assert_eq!(bench.say(epoch, open, Frame::Ack, &[(at, at + n)]).acked, known.len() as u64);
                    acked.extend(known);
                }
                Op::Say(what, at, n) => {
                    let make = [Frame::HandedOut, Frame::Return, Frame::Nack][usize::from(what) - 1];
                    bench.say(epoch, open, make, &[(at, at + n)]);
                }
                Op::Reopen => {
                    open += 1;
                    bench.open(&OpenRight { window, ..Bench::request(epoch, "a", open, 1) }).unwrap();
                }
                Op::Raise => {
                    epoch += 1;
                    open = 1;
                    bench.raise(epoch, "a");
                    bench.open(&OpenRight { window, ..Bench::request(epoch, "a", 1, 1) }).unwrap();
                }
                Op::Pass(ms) => bench.pass(Duration::from_millis(ms)),
                Op::Window(messages, bytes) => {
                    number += 1;
                    window = Window { number, messages, bytes };
                    bench.frame(epoch, open, &Frame::Window(window));
                }
            }
            prop_assert!(bench.right.floor().0 <= 60);
        }
        let wide = Window { number: number + 1, messages: 100, bytes: 1 << 20 };
        bench.frame(epoch, open, &Frame::Window(wide));
        bench.pass(Duration::from_secs(60));
        bench.sent();
        bench.say(epoch, open, Frame::Ack, &[(0, 60)]);
        prop_assert_eq!(bench.right.floor(), Offset(60));
        prop_assert_eq!(bench.right.lag(Offset(60)), 0);
        prop_assert!(bench.right.flight.is_empty(), "{:?}", bench.right.flight);
    }
}
