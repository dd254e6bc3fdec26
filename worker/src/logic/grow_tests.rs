//! Slots that move between queues, as far as the workers decide: SCHEDULES section 3.

use ringway_proto::batch::BatchBuilder;
use ringway_proto::control::{Order, SplitRight, Start, SubscriptionSetup};
use ringway_proto::data::{OffsetRange, Ranges, Window};
use ringway_proto::hash::{lane_of, slot_of};
use ringway_proto::message::Message;
use ringway_proto::routing::moves::{Fence, MovedSlots, QueueEnd, SlotMove};
use ringway_proto::routing::{Routing, SlotRange};
use ringway_proto::{
    Class, Filter, GroupId, Holder, Incarnation, Lanes, MemberId, MoveNumber, OpenNumber, Sequence,
    Session, Slot, SubscriptionName,
};

use super::*;
use crate::logic::Token;

fn q(index: u32) -> QueueId {
    QueueId::new(GroupId(1), index)
}

/// A key whose slot is in the half of the table that moves, or in the other.
fn key(moves: bool) -> String {
    let half = |key: &String| slot_of(key.as_bytes()) >= Slot(2048);
    (0..).map(|n| format!("k{n}")).find(|key| half(key) == moves).unwrap()
}

fn batch(moves: bool) -> Batch {
    let mut message = Message::new(Class::new("a.x").unwrap(), "body");
    message.key = Some(key(moves).into());
    let mut builder = BatchBuilder::new();
    builder.push(&message);
    Batch::parse(builder.finish(WallTime(0))).unwrap()
}

/// The upper half of the slots goes from one queue to another.
fn half(number: u64, from: u32, to: u32) -> SlotMove {
    let table = |upper| vec![range(0, 0), range(2048, upper)];
    let groups = MovedSlots { group: GroupId(1), before: table(from), after: table(to) };
    SlotMove { number: MoveNumber(number), groups: vec![groups], classes: None, ends: vec![] }
}

const LOWER: Lanes = Lanes { start: 0, end: 2048 };
const UPPER: Lanes = Lanes { start: 2048, end: 4096 };

/// The half of a right that has the key which moves, and the other; each with its epoch.
fn owner(index: u32) -> [(RightId, u64); 2] {
    let whole = RightId::whole(SubscriptionId(1), q(index));
    let [lower, upper] = [(whole.with(LOWER), 1), (whole.with(UPPER), 2)];
    if LOWER.contains(lane_of(key(true).as_bytes())) { [lower, upper] } else { [upper, lower] }
}

fn held(right: RightId, epoch: u64) -> RightEpoch {
    let holder = Holder { member: MemberId::new("m").unwrap(), incarnation: Incarnation(1) };
    RightEpoch { right, epoch: Epoch(epoch), holder: Some(holder) }
}

fn range(first: u16, queue: u32) -> SlotRange {
    SlotRange { first: Slot(first), queue }
}

fn fence(number: u64, index: u32) -> Fence {
    Fence { number: MoveNumber(number), queue: q(index) }
}

fn setup(id: u32) -> SubscriptionSetup {
    SubscriptionSetup {
        id: SubscriptionId(id),
        name: SubscriptionName::new(format!("s{id}")).unwrap(),
        filter: Filter::new(">").unwrap(),
        order: Order::Key,
        start: Start::Start,
    }
}

/// A worker with three queues, and a disk that everything reaches at once.
struct Bench {
    host: Host,
    out: Vec<Action>,
    token: Token,
}

impl Bench {
    fn empty() -> Self {
        Self { host: Host::new(Rules::default()), out: Vec::new(), token: 0 }
    }

    fn new() -> Self {
        let mut bench = Self::empty();
        for index in 0..3 {
            let open = OpenQueue {
                queue: q(index),
                name: format!("orders/{index}"),
                uuid: Uuid(77),
                epoch: Epoch(3),
                max_body_bytes: 100,
                subscriptions: vec![setup(1)],
                rights: vec![],
                moves: vec![],
            };
            bench.step(index, Step::Open(open));
        }
        bench
    }

    fn step(&mut self, index: u32, step: Step) -> Vec<FromWorker> {
        let mut out = Vec::new();
        self.host.step(Time(0), q(index), step, &mut out);
        let told = |action: &Action| match action {
            Action::Tell(event) => Some(event.clone()),
            _ => None,
        };
        let told = out.iter().filter_map(told).collect();
        self.out.extend(out);
        told
    }

    fn seal(&mut self, index: u32, moved: &SlotMove) -> Vec<FromWorker> {
        self.step(index, Step::SealSlots { epoch: Epoch(3), moved: moved.clone() })
    }

    /// An append of one message under its next sequence, or a repeat of an earlier one.
    fn send(&mut self, index: u32, moves: bool, sequence: u64, routing: u64) -> Vec<Action> {
        self.token += 1;
        let append = Append {
            token: self.token,
            epoch: Epoch(3),
            routing: RoutingVersion(routing),
            producer: Uuid(5),
            session: Session(1),
            base_sequence: Sequence(sequence),
            count: 1,
            largest_body_bytes: 4,
            batch_bytes: 100,
            routes: Routes::default(),
        };
        let mut out = Vec::new();
        self.host.append(q(index), append, &batch(moves), &mut out);
        self.store(&out);
        out
    }

    /// What was taken reaches the disk.
    fn store(&mut self, out: &[Action]) {
        for action in out {
            if let Action::Store { queue, at, .. } = action {
                self.host.stored(*queue, *at, at.next(), WallTime(0), &mut self.out);
            }
        }
    }

    /// The table that contains these moves, as its version says.
    fn route(&mut self, version: u64, moves: &[SlotMove]) -> Vec<Action> {
        let moved = moves.last().map_or(MoveNumber(0), |moved| moved.number);
        let version = RoutingVersion(version);
        let routing = Routing { version, moved, moves: moves.to_vec(), ..Routing::default() };
        let ours = (0..3).map(q).collect();
        let mut out = Vec::new();
        self.host.set_routing(Arc::new(Router::new(routing).unwrap()), ours, &mut out);
        self.store(&out);
        self.out.extend(out.clone());
        out
    }

    /// What a restart makes of the records written so far; of the messages nothing is left.
    fn restarted(&self) -> Self {
        let mut again = Self::empty();
        for action in &self.out {
            if let Action::Write { queue, record } = action {
                again.host.replay_record(*queue, record.clone()).unwrap();
            }
        }
        again
    }

    /// Opens the right of a subscription at a queue on a stream of its own.
    fn open(&mut self, id: u32, index: u32) {
        let right = RightId::whole(SubscriptionId(id), q(index));
        self.step(index, Step::Raise(held(right, 1)));
        self.open_under(right, 1, u64::from(id * 10 + index));
    }

    fn open_under(&mut self, right: RightId, epoch: u64, stream: u64) {
        let request = OpenRight {
            right,
            epoch: Epoch(epoch),
            holder: held(right, epoch).holder.unwrap(),
            open: OpenNumber(1),
            held: vec![],
            held_lanes: Vec::new(),
            handed_out: vec![],
            acks: vec![],
            ack_number: 0,
            window: Window { number: 1, messages: 100, bytes: 1 << 20 },
        };
        self.host.open_right(Time(0), stream, &request, &mut self.out).unwrap();
    }

    /// Splits the right of the first subscription to a queue, which is open: the lower half stays,
    /// the upper one is opened on stream 99.
    fn split(&mut self, index: u32) {
        let whole = RightId::whole(SubscriptionId(1), q(index));
        let into = vec![held(whole.with(LOWER), 1), held(whole.with(UPPER), 2)];
        let order = SplitRight { right: whole, epoch: Epoch(1), into };
        let right = whole.with(UPPER);
        let raised = FromWorker::RightRaised { right, epoch: Epoch(2) };
        assert_eq!(self.step(index, Step::Split(order)), [raised]);
        self.open_under(right, 2, 99);
    }

    /// How many messages are sent now; each batch of this queue holds one like this.
    fn sent(&mut self, id: u32, index: u32, moves: bool) -> usize {
        self.sent_of(RightId::whole(SubscriptionId(id), q(index)), moves)
    }

    fn sent_of(&mut self, right: RightId, moves: bool) -> usize {
        let mut sent = 0;
        while let Some(at) = self.host.wants(&right) {
            let picked = self.host.select(&right, at, &batch(moves));
            sent += picked.map_or(0, |picked| picked.entries.len());
        }
        sent
    }

    /// Acks everything below `end` and writes it down; what the coordinator is told then.
    fn ack(&mut self, id: u32, index: u32, end: u64) -> Vec<FromWorker> {
        let right = RightId::whole(SubscriptionId(id), q(index));
        self.ack_under(right, 1, u64::from(id * 10 + index), end)
    }

    fn ack_under(&mut self, right: RightId, epoch: u64, stream: u64, end: u64) -> Vec<FromWorker> {
        let (open, ranges) = (OpenNumber(1), vec![OffsetRange::new(0, end)]);
        let frame = Frame::Ack(Ranges { open, number: 1, ranges });
        self.host.frame(Time(0), stream, right, Epoch(epoch), &frame, &mut self.out);
        self.written()
    }

    /// What the coordinator is told when the acks are written down.
    fn written(&mut self) -> Vec<FromWorker> {
        let mut out = Vec::new();
        self.host.write_acks(&mut out);
        let written = out.iter().position(|a| matches!(a, Action::Write { .. }));
        let told = out.iter().position(|a| matches!(a, Action::Tell(_)));
        assert!(told.is_none() || written < told, "told before it is written: {out:?}");
        let told = |action: Action| match action {
            Action::Tell(event) => Some(event),
            _ => None,
        };
        out.into_iter().filter_map(told).collect()
    }
}

fn refusal(actions: &[Action]) -> Option<Code> {
    match actions {
        [Action::Refuse { refusal, .. }] => Some(refusal.code),
        _ => None,
    }
}

fn is_stored(actions: &[Action]) -> bool {
    matches!(actions, [Action::Store { .. }])
}

fn with_end(moved: &SlotMove, index: u32, at: u64) -> SlotMove {
    let ends = vec![QueueEnd { queue: q(index), at: Offset(at) }];
    SlotMove { ends, ..moved.clone() }
}

/// SCHEDULES 3c: a seal that is not on disk frees nothing, and neither does an old table.
#[test]
fn schedule_3c_a_publish_is_freed_only_by_a_durable_seal_and_the_table_that_names_it() {
    let mut bench = Bench::new();
    let moved = half(1, 0, 1);
    assert!(is_stored(&bench.send(0, true, 0, 1)));
    let sealed = FromWorker::SlotsSealed {
        queue: q(0),
        epoch: Epoch(3),
        number: MoveNumber(1),
        at: Offset(1),
    };
    assert_eq!(bench.seal(0, &moved), std::slice::from_ref(&sealed));
    let is_record =
        |a: &Action| matches!(a, Action::Write { record: ControlRecord::SlotsSealed { .. }, .. });
    let written = bench.out.iter().position(is_record).unwrap();
    let told = bench.out.iter().position(|a| *a == Action::Tell(sealed.clone())).unwrap();
    assert!(written < told);
    bench.seal(1, &moved);

    assert_eq!(bench.send(0, true, 1, 0), [], "it waits");
    assert_eq!(refusal(&bench.send(1, true, 0, 2)), Some(Code::NotYet), "no table names the end");
    assert_eq!(
        bench.seal(0, &moved),
        std::slice::from_ref(&sealed),
        "said again with the same end"
    );
    let mut again = bench.restarted();
    assert_eq!(again.seal(0, &moved), [sealed], "also after a restart");

    let released = bench.route(2, &[with_end(&moved, 0, 1)]);
    let freed = |a: &Action| matches!(a, Action::Refuse { refusal, .. } if refusal.code == Code::StaleRouting);
    assert_eq!(released.iter().filter(|a| freed(a)).count(), 1, "{released:?}");
    assert!(is_stored(&bench.send(1, true, 0, 2)), "the new queue takes it from now on");
    assert_eq!(refusal(&bench.send(0, true, 1, 1)), Some(Code::StaleRouting));
    let mut again = bench.restarted();
    assert_eq!(refusal(&again.send(0, true, 0, 1)), Some(Code::StaleRouting), "for good");
    assert!(is_stored(&again.send(1, true, 0, 2)), "without a coordinator too");
}

#[test]
fn what_does_not_move_goes_on_and_what_follows_in_sequence_waits() {
    let mut bench = Bench::new();
    bench.seal(0, &half(1, 0, 1));
    assert!(is_stored(&bench.send(0, false, 0, 1)));
    assert_eq!(bench.send(0, true, 1, 0), []);
    assert_eq!(bench.send(0, false, 2, 0), [], "behind what waits");
    let released = bench.route(1, &[half(1, 0, 1)]);
    let codes: Vec<Option<Code>> = released
        .iter()
        .filter(|a| matches!(a, Action::Refuse { .. }))
        .map(|a| refusal(std::slice::from_ref(a)))
        .collect();
    assert_eq!(codes, [Some(Code::StaleRouting), Some(Code::SequenceGap)]);
}

/// The order of the checks: a repeat gets its old offset although its slot has moved.
#[test]
fn a_repeat_gets_its_old_offset_although_its_slot_has_moved() {
    let mut bench = Bench::new();
    assert!(is_stored(&bench.send(0, true, 0, 1)));
    bench.seal(0, &half(1, 0, 1));
    let repeat =
        |actions: Vec<Action>| matches!(actions[..], [Action::Repeat { at: Offset(0), .. }]);
    assert!(repeat(bench.send(0, true, 0, 1)), "sealed");
    bench.route(2, &[with_end(&half(1, 0, 1), 0, 1)]);
    assert!(repeat(bench.send(0, true, 0, 1)), "moved");
}

/// SCHEDULES 3d: slots are looked at last, so a batch out of sequence is not freed.
#[test]
fn schedule_3d_a_batch_out_of_sequence_is_not_freed_by_its_slot() {
    let mut bench = Bench::new();
    bench.seal(0, &half(1, 0, 1));
    bench.route(2, &[half(1, 0, 1)]);
    assert_eq!(refusal(&bench.send(0, false, 0, 2)), None);
    assert_eq!(refusal(&bench.send(0, true, 2, 1)), Some(Code::SequenceGap));
    assert_eq!(refusal(&bench.send(0, true, 1, 1)), Some(Code::StaleRouting));
}

#[test]
fn an_end_counts_when_everything_below_it_is_durable_or_taken_back() {
    for durable in [true, false] {
        let mut bench = Bench::new();
        bench.send(0, false, 0, 1);
        bench.token += 1;
        let append = Append {
            token: 9,
            epoch: Epoch(3),
            routing: RoutingVersion(1),
            producer: Uuid(5),
            session: Session(1),
            base_sequence: Sequence(1),
            count: 1,
            largest_body_bytes: 4,
            batch_bytes: 100,
            routes: Routes::default(),
        };
        let mut out = Vec::new();
        bench.host.append(q(0), append, &batch(true), &mut out);
        assert_eq!(bench.seal(0, &half(1, 0, 1)), [], "a batch is under way");
        let mut out = Vec::new();
        if durable {
            bench.host.stored(q(0), Offset(1), Offset(2), WallTime(0), &mut out);
        } else {
            bench.host.roll_back(&mut out);
        }
        let at = Offset(if durable { 2 } else { 1 });
        let (epoch, number) = (Epoch(3), MoveNumber(1));
        let told = Action::Tell(FromWorker::SlotsSealed { queue: q(0), epoch, number, at });
        assert!(out.contains(&told), "{out:?}");
        bench.out.extend(out);
        assert_eq!(bench.restarted().seal(0, &half(1, 0, 1)).len(), 1);
    }
}

/// A move, its table, and a message of the moved half on either side of it.
fn grown() -> Bench {
    let mut bench = Bench::new();
    bench.send(0, true, 0, 1);
    for index in [0, 1] {
        bench.seal(index, &half(1, 0, 1));
    }
    bench.route(2, &[with_end(&half(1, 0, 1), 0, 1)]);
    bench.send(1, true, 0, 2);
    bench
}

#[test]
fn what_moved_waits_until_the_subscription_has_acked_what_came_before() {
    let mut bench = grown();
    bench.open(1, 0);
    bench.open(1, 1);
    assert_eq!(bench.sent(1, 1, true), 0, "the old queue comes first");
    let watch =
        Step::AwaitFence { subscription: SubscriptionId(1), fence: fence(1, 0), at: Offset(1) };
    assert_eq!(bench.step(0, watch.clone()), [], "not yet");
    assert_eq!(bench.sent(1, 0, true), 1);
    let passed = FromWorker::FencePassed { subscription: SubscriptionId(1), fence: fence(1, 0) };
    assert_eq!(bench.ack(1, 0, 1), std::slice::from_ref(&passed));
    assert_eq!(bench.step(0, watch), [passed], "asked again, answered alike");
    let opens = Step::FencesPassed { subscription: SubscriptionId(1), passed: vec![fence(1, 0)] };
    bench.step(1, opens.clone());
    assert_eq!(bench.sent(1, 1, true), 1);
    // A subscription that begins later has passed nothing, whatever others have.
    bench.step(1, Step::Start(setup(2)));
    bench.open(2, 1);
    assert_eq!(bench.sent(2, 1, true), 0);
    let mut again = bench.restarted();
    assert!(
        !again.host.hosted.get_mut(&q(1)).unwrap().fences.pass(SubscriptionId(1), [fence(1, 0)])
    );
}

#[test]
fn a_fence_is_passed_when_every_part_of_a_right_that_was_split_has_passed_it() {
    let mut bench = grown();
    bench.open(1, 0);
    assert_eq!(bench.sent(1, 0, true), 1);
    let watch =
        Step::AwaitFence { subscription: SubscriptionId(1), fence: fence(1, 0), at: Offset(1) };
    assert_eq!(bench.step(0, watch), []);
    bench.split(0);
    let [(owner, epoch), (other, _)] = owner(0);
    assert_eq!(bench.sent_of(other, true), 0, "it is of the other lanes");
    assert_eq!(bench.written(), [], "one part has passed");
    bench.sent_of(owner, true);
    let passed = FromWorker::FencePassed { subscription: SubscriptionId(1), fence: fence(1, 0) };
    let stream = if epoch == 1 { 10 } else { 99 };
    assert_eq!(bench.ack_under(owner, epoch, stream, 1), [passed]);
}

#[test]
fn what_waits_for_a_fence_goes_on_waiting_in_the_part_that_has_its_lane() {
    let mut bench = grown();
    bench.open(1, 1);
    assert_eq!(bench.sent(1, 1, true), 0);
    bench.split(1);
    let [(owner, _), (other, _)] = owner(1);
    assert_eq!((bench.sent_of(owner, true), bench.sent_of(other, true)), (0, 0));
    let waits = |bench: &Bench, id| bench.host.right(&id).unwrap().fenced_messages();
    assert_eq!((waits(&bench, owner), waits(&bench, other)), (1, 0));
    let passed = vec![fence(1, 0)];
    bench.step(1, Step::FencesPassed { subscription: SubscriptionId(1), passed });
    assert_eq!((bench.sent_of(owner, true), bench.sent_of(other, true)), (1, 0));
}

#[test]
fn only_messages_that_moved_wait_and_a_gate_lets_others_by() {
    let mut bench = grown();
    bench.open(1, 1);
    bench.send(1, false, 1, 2);
    assert_eq!(bench.sent(1, 1, true), 0);
    let right = RightId::whole(SubscriptionId(1), q(1));
    assert_eq!(
        bench.host.right(&right).unwrap().fenced_messages(),
        2,
        "both batches were moved ones"
    );
    let mut bench = grown();
    bench.open(1, 1);
    assert_eq!(bench.sent(1, 1, false), 1, "a key of the half that stays");
}

/// SCHEDULES 3e: the queue between got no message, and its fence is passed.
#[test]
fn schedule_3e_a_fence_opens_nothing_while_an_earlier_one_is_not_passed() {
    let mut bench = grown();
    for index in [1, 2] {
        bench.seal(index, &half(2, 1, 2));
    }
    bench.route(3, &[with_end(&half(1, 0, 1), 0, 1), with_end(&half(2, 1, 2), 1, 1)]);
    bench.send(2, true, 0, 3);
    bench.open(1, 2);
    let opens = |passed| Step::FencesPassed { subscription: SubscriptionId(1), passed };
    bench.step(2, opens(vec![fence(2, 1)]));
    assert_eq!(bench.sent(1, 2, true), 0, "the first queue has not been read");
    bench.step(2, opens(vec![fence(1, 0), fence(2, 1)]));
    assert_eq!(bench.sent(1, 2, true), 1);
}
