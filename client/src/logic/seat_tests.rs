use std::time::Duration;

use bytes::Bytes;
use ringway_proto::batch::{Batch, BatchBuilder};
use ringway_proto::control::{FromClient, GrantedRight, Join, Joined, OpenRight, Order, Start};
use ringway_proto::data::{
    AckConfirmed, Deliver, DeliverEntry, OffsetRange, Ranges, Window, decode_lanes,
};
use ringway_proto::frame::Kind;
use ringway_proto::hash::lane_of;
use ringway_proto::message::Message as Published;
use ringway_proto::routing::{Router, Routing};
use ringway_proto::{
    Class, Code, Epoch, Filter, GroupId, Incarnation, Lanes, MemberId, Offset, OpenNumber, QueueId,
    Refusal, RightId, SubscriptionId, SubscriptionName, Time, WallTime,
};

use super::credit::Credit;
use super::report::{AckOutcome, Action, End, Event, Settled};
use super::right::{Hold, How};
use super::seat::Seat;

const SUBSCRIPTION: SubscriptionId = SubscriptionId(4);

fn right(queue: u32) -> RightId {
    RightId::whole(SUBSCRIPTION, QueueId::new(GroupId(1), queue))
}

struct World {
    seat: Seat,
    router: Router,
    now: Time,
    told: Vec<FromClient>,
    opens: Vec<OpenRight>,
    frames: Vec<(RightId, Kind, Ranges)>,
    acked: Vec<(AckOutcome, Vec<u64>)>,
    /// What was sent, in order.
    kinds: Vec<Kind>,
    windows: Vec<u32>,
    /// The lanes that the queue was told to send.
    narrowed: Vec<Lanes>,
}

impl World {
    /// A seat that has joined and holds the right to queue 0 under epoch 1, opened.
    fn new() -> Self {
        let mut w = Self::joining(Order::Key);
        w.joined(&[(0, 1)]);
        let open = w.opens[0].open;
        w.seat.opened(&right(0), open);
        w
    }

    fn joining(order: Order) -> Self {
        let join = Join {
            name: SubscriptionName::new("s").unwrap(),
            filter: Filter::new(">").unwrap(),
            order: Some(order),
            start: Start::Start,
            member: MemberId::new("m").unwrap(),
            incarnation: Incarnation(9),
            weight: 100,
            origin: String::new(),
        };
        let mut w = Self {
            seat: Seat::new(join, Credit { messages: 100, bytes: 1 << 20 }),
            router: Router::new(Routing::default()).unwrap(),
            now: Time(10_000),
            told: vec![],
            opens: vec![],
            frames: vec![],
            acked: vec![],
            kinds: vec![],
            windows: vec![],
            narrowed: vec![],
        };
        w.seat.coordinator_up();
        w.turn();
        assert!(matches!(w.told.remove(0), FromClient::Join(_)));
        w
    }

    fn joined(&mut self, rights: &[(u32, u64)]) {
        let granted = |(q, e): &(u32, u64)| GrantedRight { right: right(*q), epoch: Epoch(*e) };
        let joined = Joined {
            name: self.seat.join().name.clone(),
            subscription: SUBSCRIPTION,
            member: self.seat.join().member.clone(),
            incarnation: Incarnation(9),
            created: true,
            order: self.seat.order(),
            rights: rights.iter().map(granted).collect(),
        };
        self.seat.joined(self.now, &joined, &self.router);
        self.turn();
    }

    fn turn(&mut self) {
        self.seat.coordinator_answered(self.now);
        let mut actions = Vec::new();
        self.seat.turn(self.now, &mut actions);
        for action in actions {
            match action {
                Action::Tell(message) => self.told.push(message),
                Action::Open(_, open) => self.opens.push(open),
                Action::Send(right, frames) => {
                    self.kinds.extend(frames.iter().map(|(kind, _)| *kind));
                    for (kind, payload) in frames {
                        if kind == Kind::Narrow {
                            self.narrowed.push(decode_lanes(payload).unwrap());
                        } else if kind == Kind::Window {
                            self.windows.push(Window::decode(payload).unwrap().messages);
                        } else {
                            self.frames.push((right, kind, Ranges::decode(payload).unwrap()));
                        }
                    }
                }
                Action::Close(_) => {}
                Action::Acked(outcome, tokens) => self.acked.push((outcome, tokens)),
            }
        }
    }

    fn open(&self) -> OpenNumber {
        self.opens.last().unwrap().open
    }

    /// Delivers messages `(offset, key, delivery)` under an open; the body is the offset.
    fn deliver_as(&mut self, open: OpenNumber, messages: &[(u64, &'static str, u16)]) {
        self.deliver_to(right(0), open, messages);
    }

    fn deliver_to(
        &mut self,
        right: RightId,
        open: OpenNumber,
        messages: &[(u64, &'static str, u16)],
    ) {
        for (offset, key, delivery) in messages {
            let body = Bytes::from(vec![*offset as u8]);
            let mut message = Published::new(Class::new("a.b").unwrap(), body);
            message.key = (!key.is_empty()).then(|| Bytes::from(*key));
            let mut builder = BatchBuilder::new();
            builder.push(&message);
            let batch = Batch::parse(builder.finish(WallTime(1))).unwrap();
            let deliver = Deliver {
                open,
                base_offset: Offset(*offset),
                published_at: WallTime(1),
                classes: 1,
                entries: vec![DeliverEntry { index: 0, delivery: *delivery }],
                class_table: batch.class_table(),
                records: vec![batch.records(0, 1)],
            };
            self.seat.delivered(&right, &deliver).unwrap();
        }
    }

    fn deliver(&mut self, messages: &[(u64, &'static str, u16)]) {
        self.deliver_as(self.open(), messages);
    }

    fn take(&mut self) -> Option<(Hold, u64, u32)> {
        let (hold, message) = self.seat.take(self.now)?;
        assert_eq!(message.body[..], [message.offset as u8]);
        Some((hold, message.offset, message.delivery))
    }

    fn take_offset(&mut self, offset: u64) -> Hold {
        let (hold, got, _) = self.take().expect("nothing to hand out");
        assert_eq!(got, offset);
        hold
    }

    fn settle(&mut self, hold: &Hold, how: How) -> Settled {
        let settled = self.seat.settle(hold, how, None);
        self.turn();
        settled
    }

    /// The ranges that were said of this kind since the last look.
    fn said(&mut self, kind: Kind) -> Vec<OffsetRange> {
        let said = self.frames.iter().filter(|f| f.1 == kind).flat_map(|f| f.2.ranges.clone());
        let said = said.collect();
        self.frames.retain(|f| f.1 != kind);
        said
    }

    fn confirm(&mut self, number: u64) {
        let confirmed = AckConfirmed { open: self.open(), number };
        self.seat.confirmed(&right(0), confirmed);
        self.turn();
    }

    fn lose_stream(&mut self) {
        let (open, now) = (self.open(), self.now);
        self.seat.closed(now, &right(0), open, Epoch(1), None);
        self.now = self.now + Duration::from_secs(1);
        self.turn();
    }

    fn drained(&mut self) -> bool {
        let drained = |m: &FromClient| matches!(m, FromClient::Drained { right: r, epoch: Epoch(1), .. } if *r == right(0));
        let any = self.told.iter().any(drained);
        self.told.retain(|m| !drained(m));
        any
    }
}

#[test]
fn one_message_of_a_key_is_handed_out_until_it_is_acked() {
    let mut w = World::new();
    w.deliver(&[(0, "a", 1), (1, "a", 1), (2, "b", 1), (3, "", 1), (4, "", 1)]);
    let first = w.take_offset(0);
    let others: Vec<u64> = std::iter::from_fn(|| w.take().map(|t| t.1)).collect();
    assert_eq!(others, [2, 3, 4]);
    w.turn();
    assert_eq!(w.said(Kind::HandedOut), [OffsetRange::new(0, 1), OffsetRange::new(2, 5)]);
    assert_eq!(w.settle(&first, How::Ack), Settled::Taken);
    assert_eq!(w.said(Kind::Ack), [OffsetRange::new(0, 1)]);
    w.take_offset(1);
}

#[test]
fn without_order_everything_is_handed_out() {
    let mut w = World::joining(Order::None);
    w.joined(&[(0, 1)]);
    w.deliver(&[(0, "a", 1), (1, "a", 1)]);
    w.take_offset(0);
    w.take_offset(1);
}

#[test]
fn a_nack_holds_its_keys_later_messages_back_until_it_came_again() {
    let mut w = World::new();
    w.deliver(&[(0, "a", 1), (1, "a", 1), (2, "b", 1)]);
    let hold = w.take_offset(0);
    w.settle(&hold, How::Nack);
    assert_eq!(w.said(Kind::Nack), [OffsetRange::new(0, 1)]);
    assert_eq!(w.seat.counts().held, 2, "what has to come again is not here");
    w.take_offset(2);
    assert_eq!(w.take(), None);
    w.deliver(&[(0, "a", 2)]);
    let (again, offset, delivery) = w.take().unwrap();
    assert_eq!((offset, delivery), (0, 2));
    assert_eq!(w.seat.counts().held, 3);
    // The first hand-out's holder speaks up late: it has no say any more.
    assert_eq!(w.settle(&hold, How::Nack), Settled::Before);
    w.settle(&again, How::Ack);
    w.take_offset(1);
}

#[test]
fn a_message_that_timed_out_is_handed_out_again_before_its_keys_later_ones() {
    let mut w = World::new();
    w.deliver(&[(0, "a", 1), (1, "a", 1)]);
    w.take_offset(0);
    w.deliver(&[(1, "a", 3), (0, "a", 2)]);
    assert_eq!(w.take().map(|t| (t.1, t.2)), Some((0, 2)));
    assert_eq!(w.take(), None);
}

#[test]
fn schedule_1b_a_reopen_lists_what_is_held_and_repeats_acks_that_were_not_confirmed() {
    let mut w = World::new();
    w.deliver(&[(0, "a", 1), (1, "b", 1), (2, "c", 1), (3, "d", 1)]);
    let first = w.take_offset(0);
    w.take_offset(1);
    w.settle(&first, How::Ack);
    w.lose_stream();
    let open = w.opens.last().unwrap();
    assert_eq!(open.open, OpenNumber(2));
    assert_eq!(open.acks, [OffsetRange::new(0, 1)]);
    assert_eq!(open.held, [OffsetRange::new(1, 4)]);
    assert_eq!(open.handed_out, [OffsetRange::new(1, 2)]);
    assert!(open.ack_number > 0);
    // A copy that comes all the same is not handed out again.
    w.deliver(&[(0, "a", 1)]);
    w.take_offset(2);
    w.take_offset(3);
    assert_eq!(w.take(), None);
}

#[test]
fn schedule_1c_deliveries_of_an_older_open_are_dropped() {
    let mut w = World::new();
    let older = w.open();
    w.lose_stream();
    w.deliver_as(older, &[(0, "a", 1)]);
    assert_eq!(w.take(), None);
    w.deliver(&[(0, "a", 1)]);
    let hold = w.take_offset(0);
    w.settle(&hold, How::Ack);
    w.confirm(1);
    w.deliver_as(older, &[(0, "a", 1)]);
    assert_eq!(w.take(), None);
}

#[test]
fn schedule_1d_drained_is_said_only_when_every_ack_is_confirmed() {
    let mut w = World::new();
    w.deliver(&[(0, "a", 1), (1, "a", 1), (2, "b", 1)]);
    let hold = w.take_offset(0);
    w.seat.revoke(w.now, right(0), Epoch(1));
    w.turn();
    assert_eq!(w.said(Kind::Return), [OffsetRange::new(1, 3)]);
    w.deliver(&[(3, "c", 1)]);
    assert_eq!(w.take(), None, "handed out after the revoke");
    w.turn();
    assert_eq!(w.said(Kind::Return), [OffsetRange::new(3, 4)]);
    w.settle(&hold, How::Ack);
    assert!(!w.drained(), "drained before the ack was confirmed");
    w.confirm(1);
    assert!(w.drained());
    // The coordinator repeats itself: so does the answer, and nothing is opened any more.
    let opens = w.opens.len();
    w.seat.revoke(w.now, right(0), Epoch(1));
    w.joined(&[(0, 1)]);
    assert!(w.drained());
    assert_eq!(w.opens.len(), opens);
}

#[test]
fn a_handler_that_is_busy_asks_for_more_time_to_drain_but_not_for_ever() {
    let mut w = World::new();
    w.deliver(&[(0, "a", 1)]);
    w.take_offset(0);
    w.seat.revoke(w.now, right(0), Epoch(1));
    for _ in 0..90 {
        w.now = w.now + Duration::from_secs(1);
        w.turn();
    }
    let asked = w.told.iter().filter(|m| matches!(m, FromClient::StillDraining { .. })).count();
    assert_eq!(asked, 60);
}

#[test]
fn a_message_in_hand_is_extended_up_to_the_handling_limit() {
    let mut w = World::new();
    w.deliver(&[(0, "a", 1)]);
    w.take_offset(0);
    w.turn();
    w.said(Kind::HandedOut);
    for _ in 0..(20 * 60) {
        w.now = w.now + Duration::from_secs(1);
        w.turn();
    }
    assert_eq!(w.said(Kind::HandedOut).len(), 90);
}

#[test]
fn what_is_in_hand_of_a_fenced_right_changes_nothing() {
    let mut w = World::new();
    w.deliver(&[(0, "a", 1), (1, "b", 1)]);
    let acked = w.take_offset(0);
    w.seat.settle(&acked, How::Ack, Some(77));
    let late = w.take_offset(1);
    let open = w.open();
    w.seat.closed(w.now, &right(0), open, Epoch(1), Some(Code::Fenced));
    w.turn();
    assert_eq!(w.acked, [(AckOutcome::Fenced, vec![77])]);
    assert_eq!(w.settle(&late, How::Ack), Settled::Fenced);
    assert_eq!(w.seat.counts().fenced, 1);
    // A revoke that comes after the fence is not answered: what was in hand was not drained.
    w.seat.revoke(w.now, right(0), Epoch(1));
    assert!(!w.drained());
    // The same epoch is never opened again; the next one is, and old holds have no say in it.
    w.joined(&[(0, 1)]);
    assert_eq!(w.opens.len(), 1);
    w.joined(&[(0, 3)]);
    assert_eq!(w.opens.last().unwrap().epoch, Epoch(3));
    assert_eq!(w.settle(&late, How::Ack), Settled::Fenced);
}

#[test]
fn rights_that_the_coordinator_does_not_list_are_lost() {
    let mut w = World::new();
    w.deliver(&[(0, "a", 1)]);
    w.seat.coordinator_down();
    w.seat.coordinator_up();
    w.joined(&[(1, 5)]);
    assert_eq!(w.take(), None);
    let events: Vec<Event> = std::iter::from_fn(|| w.seat.next_event()).collect();
    assert!(events.contains(&Event::Lost { queue: w.router.queue_name(right(0).queue), epoch: 1 }));
    assert_eq!(w.opens.last().unwrap().right, right(1));
}

#[test]
fn a_superseded_seat_never_joins_again() {
    let mut w = World::new();
    w.deliver(&[(0, "a", 1)]);
    w.seat.superseded();
    w.turn();
    w.told.clear();
    w.seat.coordinator_up();
    w.joined(&[(0, 2)]);
    assert_eq!((w.told.len(), w.opens.len()), (0, 1));
    assert_eq!(w.take(), None);
    assert_eq!(w.seat.end(), Some(&End::Superseded));
}

#[test]
fn nothing_is_handed_out_while_primary_and_coordinator_are_silent() {
    let mut w = World::new();
    w.deliver(&[(0, "a", 1), (1, "b", 1)]);
    w.now = w.now + Duration::from_millis(841);
    assert_eq!(w.seat.take(w.now), None);
    // Either of them is enough.
    w.seat.primary_answered(&right(0), w.now);
    w.take_offset(0);
    w.now = w.now + Duration::from_millis(841);
    assert_eq!(w.seat.take(w.now), None);
    w.seat.coordinator_answered(w.now);
    w.take_offset(1);
}

#[test]
fn a_new_connection_proves_nothing_until_the_join_or_the_open_is_answered() {
    let mut w = World::new();
    w.deliver(&[(0, "a", 1), (1, "b", 1)]);
    // The process stood still for long: everything was lost meanwhile, and is dialled again.
    w.seat.coordinator_down();
    let (open, now) = (w.open(), w.now);
    w.seat.closed(now, &right(0), open, Epoch(1), None);
    w.now = w.now + Duration::from_secs(10);
    w.seat.coordinator_up();
    w.turn();
    w.seat.primary_answered(&right(0), w.now);
    assert_eq!(w.take(), None, "the right may be someone else's by now");
    w.seat.opened(&right(0), w.open());
    w.seat.primary_answered(&right(0), w.now);
    w.take_offset(0);
    w.now = w.now + Duration::from_secs(10);
    assert_eq!(w.take(), None);
    w.joined(&[(0, 1)]);
    w.turn();
    w.take_offset(1);
}

#[test]
fn an_ack_that_was_sent_under_a_right_that_is_lost_may_count() {
    let mut w = World::new();
    w.deliver(&[(0, "a", 1), (1, "b", 1)]);
    let (sent, unsent) = (w.take_offset(0), w.take_offset(1));
    w.seat.settle(&sent, How::Ack, Some(1));
    w.turn();
    w.seat.settle(&unsent, How::Ack, Some(2));
    w.seat.lost(right(0), Epoch(1));
    w.turn();
    assert_eq!(w.acked, [(AckOutcome::Fenced, vec![2]), (AckOutcome::Unknown, vec![1])]);
}

#[test]
fn a_refusal_of_another_join_under_the_same_name_leaves_the_seat_alone() {
    let mut w = World::new();
    let refusal = Refusal::new(Code::Conflict, "another filter");
    w.seat.join_refused(w.now, refusal.clone());
    assert_eq!(w.seat.end(), None);
    w.seat.coordinator_down();
    w.seat.coordinator_up();
    w.seat.join_refused(w.now, refusal.clone());
    assert_eq!(w.seat.end(), Some(&End::Refused(refusal)));
}

#[test]
fn a_join_that_is_given_up_says_what_was_in_the_way() {
    let mut w = World::joining(Order::Key);
    let refusal = Refusal::new(Code::Unavailable, "the store is away");
    w.seat.join_refused(w.now, refusal.clone());
    w.now = w.now + Duration::from_secs(1);
    w.turn();
    assert!(matches!(w.told[..], [FromClient::Join(_)]), "not asked again");
    w.seat.give_up();
    assert_eq!(w.seat.end(), Some(&End::Late(Some(refusal))));
}

#[test]
fn leaving_returns_the_unread_and_waits_for_what_is_in_hand() {
    let mut w = World::new();
    w.deliver(&[(0, "a", 1), (1, "b", 1)]);
    let hold = w.take_offset(0);
    w.seat.leave(w.now);
    w.turn();
    assert!(matches!(w.told[..], [FromClient::Leave { incarnation: Incarnation(9), .. }]));
    assert_eq!(w.said(Kind::Return), [OffsetRange::new(1, 2)]);
    w.seat.revoke(w.now, right(0), Epoch(1));
    w.settle(&hold, How::Ack);
    assert!(!w.drained());
    w.confirm(1);
    assert!(w.drained());
    w.seat.left();
    assert_eq!(w.seat.end(), Some(&End::Left));
}

#[test]
fn a_drain_closes_the_window_before_it_returns_anything() {
    let leave: fn(&mut World) = |w| w.seat.leave(w.now);
    let revoke: fn(&mut World) = |w| w.seat.revoke(w.now, right(0), Epoch(1));
    for drain in [leave, revoke] {
        let mut w = World::new();
        w.deliver(&[(0, "a", 1), (1, "b", 1)]);
        w.take_offset(0);
        w.turn();
        (w.kinds, w.windows) = (vec![], vec![]);
        drain(&mut w);
        w.turn();
        assert_eq!((&w.kinds[..], &w.windows[..]), (&[Kind::Window, Kind::Return][..], &[0][..]));
        w.turn();
        assert_eq!(w.windows, [0], "said more than once");
    }
}

#[test]
fn a_leave_that_no_coordinator_hears_ends_with_what_is_not_confirmed() {
    let after_silence = |ack: bool| {
        let mut w = World::new();
        w.deliver(&[(0, "a", 1)]);
        let hold = w.take_offset(0);
        w.turn();
        w.seat.coordinator_down();
        w.seat.settle(&hold, if ack { How::Ack } else { How::GiveBack }, None);
        w.turn();
        w.now = w.now + Duration::from_secs(10);
        w.seat.leave(w.now);
        w.turn();
        w
    };
    let mut w = after_silence(false);
    assert_eq!(w.seat.end(), Some(&End::Unfinished { rights: 1 }), "nothing to wait for");
    assert_eq!(w.seat.counts().unconfirmed, 0);
    // The queue may still confirm the ack.
    w = after_silence(true);
    assert_eq!(w.seat.end(), None);
    w.now = w.now + Duration::from_secs(4);
    w.turn();
    assert_eq!(w.seat.end(), Some(&End::Unfinished { rights: 1 }));
    assert_eq!(w.seat.counts().unconfirmed, 1);
    w = after_silence(true);
    w.confirm(1);
    assert_eq!(w.seat.end(), Some(&End::Unfinished { rights: 1 }));
    assert_eq!(w.seat.counts().unconfirmed, 0);
    // One that comes back in time is waited for as usual.
    w = after_silence(true);
    w.seat.coordinator_up();
    w.joined(&[(0, 1)]);
    w.now = w.now + Duration::from_secs(5);
    w.turn();
    assert_eq!(w.seat.end(), None);
}

#[test]
fn rights_take_turns() {
    let mut w = World::new();
    w.joined(&[(0, 1), (1, 1)]);
    let opens = [w.opens[0].open, w.opens[1].open];
    for (queue, open) in [0, 1].into_iter().zip(opens) {
        w.deliver_to(right(queue), open, &[(0, "", 1), (1, "", 1), (2, "", 1)]);
    }
    let order: Vec<RightId> = std::iter::from_fn(|| w.take().map(|t| t.0.right)).collect();
    let (a, b) = (right(0), right(1));
    assert_eq!(order, [a, b, a, b, a, b]);
}

const LOWER: Lanes = Lanes { start: 0, end: 2048 };
/// Two keys in the lower half of the lanes, or in the upper.
fn keys(lower: bool) -> [&'static str; 2] {
    let all = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"];
    let mut keys = all.into_iter().filter(|k| LOWER.contains(lane_of(k.as_bytes())) == lower);
    [keys.next().unwrap(), keys.next().unwrap()]
}

#[test]
fn lanes_are_given_up_without_a_pause_for_the_others_and_only_once_their_acks_are_confirmed() {
    let (low_keys, high_keys) = (keys(true), keys(false));
    let mut w = World::new();
    w.deliver(&[
        (0, high_keys[0], 1),
        (1, high_keys[1], 1),
        (2, low_keys[0], 1),
        (3, high_keys[0], 1),
    ]);
    let (high, opens) = (w.take_offset(0), w.opens.len());
    w.seat.narrow(w.now, right(0), Epoch(1), LOWER);
    w.turn();
    let back = w.said(Kind::Return);
    assert_eq!(back, [OffsetRange::new(1, 2), OffsetRange::new(3, 4)]);
    assert_eq!(w.narrowed, [LOWER]);
    // The lower half goes on; what still arrives of the upper one goes back.
    let low = w.take_offset(2);
    w.deliver(&[(4, high_keys[1], 1), (5, low_keys[1], 1)]);
    w.take_offset(5);
    w.settle(&low, How::Ack);
    assert_eq!(w.said(Kind::Return), [OffsetRange::new(4, 5)]);
    let narrowed = |w: &World| {
        w.told.iter().any(
            |m| matches!(m, FromClient::Narrowed { right: r, to: LOWER, .. } if *r == right(0)),
        )
    };
    w.settle(&high, How::Ack);
    assert!(!narrowed(&w), "the ack is on its way");
    w.confirm(2);
    assert!(narrowed(&w));
    assert_eq!(w.opens.len(), opens, "nothing was opened again");
    w.lose_stream();
    assert_eq!(w.opens.last().unwrap().right, right(0).with(LOWER));
    // The word got lost: it is said again.
    w.told.clear();
    w.seat.narrow(w.now, right(0), Epoch(1), LOWER);
    w.turn();
    assert!(narrowed(&w));
}

#[test]
fn lanes_that_were_fenced_are_dropped_with_their_acks_and_the_others_stay() {
    let (low_keys, high_keys) = (keys(true), keys(false));
    let mut w = World::new();
    w.deliver(&[(0, high_keys[0], 1), (1, high_keys[1], 1), (2, low_keys[0], 1)]);
    let (acked, in_hand, low) = (w.take_offset(0), w.take_offset(1), w.take_offset(2));
    w.seat.settle(&acked, How::Ack, Some(70));
    w.turn();
    w.seat.settle(&low, How::Ack, Some(71));
    w.seat.narrowed(right(0).with(LOWER), Epoch(1));
    w.turn();
    assert_eq!(w.acked, [(AckOutcome::Unknown, vec![70])]);
    assert_eq!(w.settle(&in_hand, How::Ack), Settled::Before, "it is someone else's");
    w.lose_stream();
    let open = w.opens.last().unwrap();
    assert_eq!(
        (open.right, open.acks.as_slice()),
        (right(0).with(LOWER), &[OffsetRange::new(2, 3)][..])
    );
    assert_eq!(w.seat.rights().0, 1);
}
