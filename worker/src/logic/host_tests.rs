use proptest::prelude::*;
use ringway_proto::batch::BatchBuilder;
use ringway_proto::control::{
    CopyQueue, CopySealed, GrantedRight, MergeRights, Order, SplitRight, Start, SubscriptionSetup,
};
use ringway_proto::data::{OffsetRange, Ranges, Window};
use ringway_proto::message::Message;
use ringway_proto::routing::Routing;
use ringway_proto::{
    Class, Filter, GroupId, Holder, Incarnation, MemberId, OpenNumber, Sequence, Session,
    SubscriptionName,
};

use super::*;
use crate::logic::Token;

fn queue() -> QueueId {
    QueueId::new(GroupId(1), 0)
}

fn setup(id: u32, start: Start) -> SubscriptionSetup {
    SubscriptionSetup {
        id: SubscriptionId(id),
        name: SubscriptionName::new(format!("s{id}")).unwrap(),
        filter: Filter::new(">").unwrap(),
        order: Order::Key,
        start,
    }
}

fn open(epoch: u64) -> Step {
    Step::Open(OpenQueue {
        queue: queue(),
        name: "orders/0".into(),
        uuid: Uuid(77),
        epoch: Epoch(epoch),
        max_body_bytes: 100,
        subscriptions: vec![],
        rights: vec![],
        moves: vec![],
    })
}

fn sealing(attempt: u64) -> Step {
    Step::Seal { epoch: Epoch(3), attempt: Attempt(attempt), only_if_empty: true }
}

fn tombstone(epoch: u64) -> Step {
    Step::Tombstone { uuid: Uuid(77), epoch: Epoch(epoch) }
}

/// A host, and a disk that everything reaches at once unless the test says otherwise.
struct Bench {
    host: Host,
    out: Vec<Action>,
}

impl Bench {
    fn new() -> Self {
        Self { host: Host::new(Rules::default()), out: Vec::new() }
    }

    /// With the queue open under epoch 3.
    fn open() -> Self {
        let mut bench = Self::new();
        bench.step(open(3));
        bench
    }

    fn step(&mut self, step: Step) -> Vec<FromWorker> {
        let mut out = Vec::new();
        self.host.step(Time(0), queue(), step, &mut out);
        let told = out.iter().filter_map(|a| match a {
            Action::Tell(event) => Some(event.clone()),
            _ => None,
        });
        let told = told.collect();
        self.out.extend(out);
        told
    }

    fn append(&mut self, token: Token, base: u64, change: impl Fn(&mut Append)) -> Vec<Action> {
        let mut append = Append {
            token,
            epoch: Epoch(3),
            routing: RoutingVersion(0),
            producer: Uuid(5),
            session: Session(1),
            base_sequence: Sequence(base),
            count: 2,
            largest_body_bytes: 10,
            batch_bytes: 100,
            routes: Routes::default(),
        };
        change(&mut append);
        let mut out = Vec::new();
        self.host.append(queue(), append, &any_batch(), &mut out);
        out
    }

    fn stored(&mut self, end: u64) -> Vec<Action> {
        let mut out = Vec::new();
        self.host.stored(queue(), Offset(end - 2), Offset(end), WallTime(0), &mut out);
        out
    }

    /// The orders that were ignored.
    fn late(&self) -> Vec<LateOrder> {
        let late = |action: &Action| match action {
            Action::Late { order, .. } => Some(*order),
            _ => None,
        };
        self.out.iter().filter_map(late).collect()
    }

    /// What a restart makes of the records written so far.
    fn restarted(&self) -> Bench {
        let mut again = Bench::new();
        for action in &self.out {
            if let Action::Write { queue, record } = action {
                again.host.replay_record(*queue, record.clone()).unwrap();
            }
        }
        again
    }
}

/// A batch of one message without a key.
pub(super) fn any_batch() -> Batch {
    let mut builder = BatchBuilder::new();
    builder.push(&Message::new(Class::new("a.x").unwrap(), "body"));
    Batch::parse(builder.finish(WallTime(0))).unwrap()
}

fn route(host: &mut Host, version: u64, ours: BTreeSet<QueueId>) {
    let routing = Routing { version: RoutingVersion(version), ..Routing::default() };
    host.set_routing(Arc::new(Router::new(routing).unwrap()), ours, &mut Vec::new());
}

fn store(token: Token, at: u64) -> Vec<Action> {
    vec![Action::Store { token, queue: queue(), at: Offset(at) }]
}

fn refusal(actions: &[Action]) -> Option<Code> {
    match actions {
        [Action::Refuse { refusal, .. }] => Some(refusal.code),
        _ => None,
    }
}

/// A crash may leave any prefix of the records of one step. The coordinator does not repeat what
/// belongs to an epoch that the worker reports.
#[test]
fn a_torn_open_is_not_reported_under_its_epoch() {
    let right = RightId::whole(SubscriptionId(1), queue());
    let holder = Holder { member: MemberId::new("a").unwrap(), incarnation: Incarnation(1) };
    let raised = RightEpoch { right, epoch: Epoch(9), holder: Some(holder) };
    let Step::Open(plain) = open(3) else { panic!("an open is an open") };
    let whole = Step::Open(OpenQueue {
        subscriptions: vec![setup(1, Start::Start)],
        rights: vec![raised],
        ..plain
    });
    let mut bench = Bench::new();
    bench.step(whole.clone());
    let writes = bench.out.iter().filter(|a| matches!(a, Action::Write { .. })).count();
    for kept in 0..=writes {
        let mut torn = Bench::new();
        torn.out = bench
            .out
            .iter()
            .filter(|a| matches!(a, Action::Write { .. }))
            .take(kept)
            .cloned()
            .collect();
        let mut again = torn.restarted();
        let epoch = again.host.held().first().map(|held| held.epoch);
        assert_eq!(epoch == Some(Epoch(3)), kept == writes, "{kept} of {writes} records");
        again.step(whole.clone());
        assert_eq!(again.host.right(&right).map(Right::epoch), Some(Epoch(9)), "told again");
    }
}

#[test]
fn a_batch_is_checked_in_the_order_of_the_design() {
    type Change = fn(&mut Append);
    let mut bench = Bench::open();
    assert_eq!(bench.append(1, 0, |a| a.session = Session(4)), store(1, 0));
    // Each row is wrong in what its name says and in everything that is checked after it.
    let table: [(&str, Change, u64, Code); 8] = [
        ("older epoch", |a| (a.epoch, a.session) = (Epoch(2), Session(1)), 9, Code::StaleRouting),
        ("newer epoch", |a| (a.epoch, a.session) = (Epoch(4), Session(1)), 9, Code::NotYet),
        ("older session", |a| a.session = Session(3), 9, Code::OldSession),
        ("gap", |a| (a.session, a.largest_body_bytes) = (Session(4), 101), 9, Code::SequenceGap),
        ("below", |a| a.session = Session(4), 1, Code::SequenceGap),
        (
            "unknown",
            |a| (a.producer, a.largest_body_bytes) = (Uuid(6), 101),
            2,
            Code::UnknownProducer,
        ),
        ("too large", |a| (a.session, a.largest_body_bytes) = (Session(4), 101), 2, Code::TooLarge),
        ("newest session counts", |a| a.session = Session(2), 2, Code::OldSession),
    ];
    for (name, change, base, code) in table {
        assert_eq!(refusal(&bench.append(2, base, change)), Some(code), "{name}");
    }
    // A repeat is recognised whatever else is wrong with it.
    let repeat = bench.append(3, 0, |a| (a.epoch, a.session) = (Epoch(1), Session(1)));
    assert_eq!(repeat, [Action::Repeat { token: 3, at: Offset(0) }]);
    assert_eq!(bench.append(4, 2, |a| a.session = Session(4)), store(4, 2));
}

#[test]
fn a_queue_that_is_not_here_frees_nothing_while_it_may_be_on_its_way() {
    let mut bench = Bench::new();
    route(&mut bench.host, 5, BTreeSet::new());
    let asked = |bench: &mut Bench, version: u64| {
        refusal(&bench.append(1, 0, |a| a.routing = RoutingVersion(version)))
    };
    assert_eq!(asked(&mut bench, 5), Some(Code::StaleRouting));
    assert_eq!(asked(&mut bench, 6), Some(Code::NotYet));
    route(&mut bench.host, 6, BTreeSet::from([queue()]));
    assert_eq!(asked(&mut bench, 6), Some(Code::NotYet));
    route(&mut bench.host, 4, BTreeSet::new());
    assert_eq!(bench.host.routing(), RoutingVersion(6), "an older table changes nothing");
}

/// SCHEDULES 2a.
#[test]
fn a_seal_is_written_before_it_is_reported_and_survives_a_restart() {
    let mut bench = Bench::open();
    let seal = sealing(1);
    let told = bench.step(seal.clone());
    let sealed = FromWorker::Sealed { queue: queue(), attempt: Attempt(1), end: Offset(0) };
    assert_eq!(told, std::slice::from_ref(&sealed));
    let write =
        Action::Write { queue: queue(), record: ControlRecord::Sealed { attempt: Attempt(1) } };
    let (at_write, at_tell) = (
        bench.out.iter().position(|a| *a == write).unwrap(),
        bench.out.iter().position(|a| *a == Action::Tell(sealed.clone())).unwrap(),
    );
    assert!(at_write < at_tell);

    let mut again = bench.restarted();
    assert_eq!(again.host.held()[0].sealed, Some(Attempt(1)));
    assert_eq!(again.append(1, 0, |_| {}), [], "a restarted worker still waits");
    assert_eq!(again.step(seal), [sealed], "asked twice, answered alike");
    assert!(again.out.is_empty() || again.out.iter().all(|a| matches!(a, Action::Tell(_))));
}

/// SCHEDULES 2b: only a give-up of this attempt or a later one lifts the seal.
#[test]
fn a_late_unseal_lifts_no_newer_seal() {
    let mut bench = Bench::open();
    bench.step(sealing(4));
    assert_eq!(bench.append(1, 0, |_| {}), []);
    assert_eq!(bench.append(2, 2, |_| {}), [], "it continues what waits");
    assert_eq!(refusal(&bench.append(3, 6, |_| {})), Some(Code::SequenceGap));
    assert_eq!(bench.append(4, 0, |a| a.session = Session(1)), [], "a repeat of what waits");
    assert_eq!(bench.step(Step::Unseal { attempt: Attempt(3) }), []);
    let told = bench.step(Step::Unseal { attempt: Attempt(5) });
    assert_eq!(told, [FromWorker::Unsealed { queue: queue(), attempt: Attempt(5) }]);
    let goes_on =
        [store(1, 0).remove(0), store(2, 2).remove(0), Action::Repeat { token: 4, at: Offset(0) }];
    assert!(bench.out.ends_with(&goes_on), "what waited goes on in order: {:?}", bench.out);
    assert_eq!(bench.restarted().host.held()[0].sealed, None);
    // Under another epoch, and with data, no seal is taken.
    assert_eq!(
        bench.step(Step::Seal { epoch: Epoch(2), attempt: Attempt(6), only_if_empty: true }),
        []
    );
    let declined = FromWorker::SealDeclined { queue: queue(), attempt: Attempt(6), end: Offset(4) };
    assert_eq!(bench.step(sealing(6)), [declined]);
}

/// SCHEDULES 2c.
#[test]
fn a_late_tombstone_removes_no_newer_copy() {
    let mut bench = Bench::open();
    assert_eq!(bench.step(tombstone(3)), []);
    assert_eq!(bench.step(Step::Tombstone { uuid: Uuid(1), epoch: Epoch(9) }), []);
    assert_eq!(bench.late(), [LateOrder::Tombstone; 2]);
    assert_eq!(bench.host.queues().count(), 1);
    bench.step(sealing(1));
    bench.append(1, 0, |_| {});
    let removed = FromWorker::Removed { queue: queue(), epoch: Epoch(4) };
    assert_eq!(bench.step(tombstone(4)), std::slice::from_ref(&removed));
    let sent_away = |a: &Action| matches!(a, Action::Refuse { token: 1, refusal } if refusal.code == Code::StaleRouting);
    assert!(bench.out.iter().any(sent_away), "what waited for the seal goes elsewhere");
    assert_eq!(bench.step(tombstone(4)), [removed], "asked twice, answered alike");
}

/// SCHEDULES 2d.
#[test]
fn a_late_open_brings_no_removed_copy_back() {
    let mut bench = Bench::open();
    bench.step(tombstone(5));
    for mut bench in [bench.restarted(), bench] {
        assert_eq!(bench.step(open(4)), []);
        assert_eq!(bench.step(open(5)), []);
        assert_eq!(bench.late(), [LateOrder::OpenQueue; 2]);
        assert_eq!(bench.host.queues().count(), 0);
        let opened = FromWorker::QueueOpened { queue: queue(), epoch: Epoch(6) };
        assert_eq!(bench.step(open(6)), [opened]);
    }
}

#[test]
fn a_write_that_failed_leaves_no_trace() {
    let mut bench = Bench::open();
    bench.append(1, 0, |_| {});
    let has_data = Action::Tell(FromWorker::HasData { queue: queue() });
    assert_eq!(bench.stored(2), [has_data]);
    bench.append(2, 2, |_| {});
    bench.append(3, 4, |_| {});
    bench.host.roll_back(&mut Vec::new());
    assert_eq!(bench.append(4, 2, |a| a.session = Session(2)), store(4, 2));
    assert_eq!(bench.stored(4), [], "said once");
    let again = bench.append(5, 2, |a| a.session = Session(2));
    assert_eq!(again, [Action::Repeat { token: 5, at: Offset(2) }]);
}

#[test]
fn a_subscription_from_now_on_misses_nothing_that_was_not_acked_before() {
    let mut bench = Bench::open();
    bench.append(1, 0, |_| {});
    bench.stored(2);
    bench.append(2, 2, |_| {});
    let started =
        FromWorker::SubscriptionStarted { subscription: SubscriptionId(1), queue: queue() };
    assert_eq!(bench.step(Step::Start(setup(1, Start::Now))), std::slice::from_ref(&started));
    let floor = |bench: &Bench| {
        bench.host.right(&RightId::whole(SubscriptionId(1), queue())).unwrap().floor()
    };
    assert_eq!(floor(&bench), Offset(2));
    bench.stored(4);
    assert_eq!(bench.step(Step::Start(setup(1, Start::Start))), [started], "it has a cursor");
    assert_eq!(floor(&bench), Offset(2));
    assert_eq!(bench.host.lag(SubscriptionId(1))[0].lag_messages, 2);
}

#[test]
fn a_raise_is_answered_for_what_is_known_and_never_backwards() {
    let mut bench = Bench::open();
    let right = RightId::whole(SubscriptionId(1), queue());
    let raise = |epoch| Step::Raise(RightEpoch { right, epoch: Epoch(epoch), holder: None });
    assert_eq!(bench.step(raise(1)), [], "the subscription has not begun");
    bench.step(Step::Start(setup(1, Start::Start)));
    let raised = FromWorker::RightRaised { right, epoch: Epoch(2) };
    assert_eq!(bench.step(raise(2)), std::slice::from_ref(&raised));
    assert_eq!(bench.step(raise(2)), [raised]);
    assert_eq!(bench.step(raise(1)), []);
    let again = bench.restarted();
    assert_eq!(again.host.right(&right).unwrap().epoch(), Epoch(2));
}

/// A reader whose filter lets little through acks seldom or never.
#[test]
fn what_was_passed_over_is_not_looked_at_again_after_a_restart() {
    let mut bench = Bench::new();
    bench.host.rules.floor_every_offsets = 8;
    bench.step(open(3));
    bench.step(Step::Start(SubscriptionSetup {
        filter: Filter::new("rare.>").unwrap(),
        ..setup(1, Start::Start)
    }));
    let right = RightId::whole(SubscriptionId(1), queue());
    bench.step(Step::Raise(RightEpoch { right, epoch: Epoch(1), holder: Some(member()) }));
    let request = OpenRight {
        right,
        epoch: Epoch(1),
        holder: member(),
        open: OpenNumber(1),
        held: vec![],
        held_lanes: Vec::new(),
        handed_out: vec![],
        acks: vec![],
        ack_number: 0,
        window: Window { number: 1, messages: 5, bytes: 100 },
    };
    bench.host.open_right(Time(0), 1, &request, &mut bench.out).unwrap();
    bench.host.write_acks(&mut bench.out);
    let mut builder = ringway_proto::batch::BatchBuilder::new();
    for _ in 0..2 {
        let class = ringway_proto::Class::new("common.x").unwrap();
        builder.push(&ringway_proto::message::Message::new(class, &b"x"[..]));
    }
    let batch = Batch::parse(builder.finish(WallTime(0))).unwrap();
    let floor = |bench: &Bench| bench.restarted().host.right(&right).unwrap().floor();
    for n in 0..5 {
        bench.append(n, n * 2, |_| {});
        bench.stored(n * 2 + 2);
        assert_eq!(bench.host.select(&right, Offset(n * 2), &batch), None);
        bench.host.write_acks(&mut bench.out);
        assert_eq!(floor(&bench), Offset(if n < 3 { 0 } else { 8 }), "not at each step");
    }
    bench.host.write_floors();
    bench.host.write_acks(&mut bench.out);
    assert_eq!(floor(&bench), Offset(10), "a clean close writes what is left");
    let written = bench.out.len();
    bench.host.write_floors();
    bench.host.write_acks(&mut bench.out);
    assert_eq!(bench.out.len(), written, "nothing is written twice");
}

#[derive(Clone, Debug)]
enum Op {
    Step(Step),
    Append { producer: u128, session: u32, base: u64, count: u32 },
    Open { subscription: u32, open: u64, acks: Vec<OffsetRange> },
    Ack { subscription: u32, range: OffsetRange },
    Copied { at: u64, count: u32, fetch: u64 },
    CopySealed { end: u64, attempt: Attempt, fetch: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let attempt = || (1u64..5).prop_map(Attempt);
    let range = || (0u64..20, 1u64..6).prop_map(|(at, n)| OffsetRange::new(at, at + n));
    let raise = (1u32..3, 1u64..6).prop_map(|(s, epoch)| RightEpoch {
        right: RightId::whole(SubscriptionId(s), queue()),
        epoch: Epoch(epoch),
        holder: Some(member()),
    });
    prop_oneof![
        1 => (3u64..6).prop_map(|e| Op::Step(open(e))),
        1 => (attempt(), any::<bool>()).prop_map(|(attempt, only_if_empty)| {
            Op::Step(Step::Seal { epoch: Epoch(3), attempt, only_if_empty })
        }),
        2 => (2u64..6, attempt()).prop_map(|(epoch, attempt)| Op::Step(copying(epoch, attempt))),
        1 => attempt().prop_map(|attempt| Op::Step(Step::DropCopy { uuid: Uuid(77), attempt })),
        6 => (0u64..8, 1u32..3, 1u64..9).prop_map(|(at, count, fetch)| {
            Op::Copied { at, count, fetch }
        }),
        2 => (0u64..8, attempt(), 1u64..9).prop_map(|(end, attempt, fetch)| {
            Op::CopySealed { end, attempt, fetch }
        }),
        1 => attempt().prop_map(|attempt| Op::Step(Step::Unseal { attempt })),
        1 => (2u64..6).prop_map(|e| Op::Step(tombstone(e))),
        2 => (1u32..3).prop_map(|s| Op::Step(Step::Start(setup(s, Start::Now)))),
        2 => raise.prop_map(|to| Op::Step(Step::Raise(to))),
        2 => (1u32..3, 0u64..6).prop_map(|(s, epoch)| {
            let (right, halves) = halves(s);
            let holder = Some(member());
            let into = halves.into_iter().zip(epoch..).map(|(right, epoch)| RightEpoch {
                right,
                epoch: Epoch(epoch),
                holder: holder.clone(),
            });
            Op::Step(Step::Split(SplitRight { right, epoch: Epoch(epoch), into: into.collect() }))
        }),
        2 => (1u32..3, 0usize..2, 1u64..8).prop_map(|(s, half, epoch)| {
            let right = halves(s).1[half];
            Op::Step(Step::Raise(RightEpoch { right, epoch: Epoch(epoch), holder: None }))
        }),
        2 => (1u32..3, 1u64..8, 1u64..8).prop_map(|(s, low, high)| {
            let (right, halves) = halves(s);
            let parts = halves.into_iter().zip([low, high]).map(|(right, epoch)| GrantedRight {
                right,
                epoch: Epoch(epoch),
            });
            let into = RightEpoch { right, epoch: Epoch(low.max(high) + 1), holder: Some(member()) };
            Op::Step(Step::Merge(MergeRights { parts: parts.collect(), into }))
        }),
        8 => (1u128..3, 1u32..3, 0u64..8, 1u32..3).prop_map(|(producer, session, base, count)| {
            Op::Append { producer, session, base, count }
        }),
        2 => (1u32..3, 1u64..9, prop::collection::vec(range(), 0..2))
            .prop_map(|(subscription, open, acks)| Op::Open { subscription, open, acks }),
        2 => (1u32..3, range()).prop_map(|(subscription, range)| Op::Ack { subscription, range }),
    ]
}

/// The whole right of a subscription, and its halves.
fn halves(subscription: u32) -> (RightId, [RightId; 2]) {
    let whole = RightId::whole(SubscriptionId(subscription), queue());
    let half = |start| whole.with(ringway_proto::Lanes { start, end: start + 2048 });
    (whole, [half(0), half(2048)])
}

fn copying(epoch: u64, attempt: Attempt) -> Step {
    Step::Copy(CopyQueue {
        queue: queue(),
        name: "orders/0".into(),
        uuid: Uuid(77),
        epoch: Epoch(epoch),
        attempt,
        from: format!("w{}:1", attempt.0 % 2),
    })
}

fn member() -> Holder {
    Holder { member: MemberId::new("m").unwrap(), incarnation: Incarnation(1) }
}

/// What the journal holds of a run.
enum Logged {
    Batch(StoredBatch),
    Record(QueueId, ControlRecord),
}

fn views(host: &Host) -> Vec<impl PartialEq + std::fmt::Debug + use<>> {
    let view = |(id, hosted): (QueueId, &Hosted)| {
        let rights: Vec<_> = hosted.rights.iter().map(|(id, r)| (*id, r.durable_view())).collect();
        (id, hosted.queue.durable_view(), rights, hosted.fences.durable_view())
    };
    host.queues().map(view).collect()
}

fn copies(host: &Host) -> Vec<impl PartialEq + std::fmt::Debug + use<>> {
    host.copies().map(|(id, copy)| (id, copy.durable_view())).collect()
}

/// Mostly the number of the question that stands, else `other`.
fn current(host: &mut Host, other: u64) -> u64 {
    let stands = (0..500).rev().find(|n| host.fetch_from(queue(), *n).is_some());
    stands.filter(|_| other < 7).unwrap_or(other)
}

/// A queue that ends at `end`, with a subscription that acked offset 1 and everything below
/// offset 0.
fn snapshot(attempt: u64, end: u64) -> CopySealed {
    let right = RightId::whole(SubscriptionId(1), queue());
    CopySealed {
        attempt: Attempt(attempt),
        end: Offset(end),
        max_body_bytes: 100,
        subscriptions: vec![setup(1, Start::Start)],
        rights: vec![ringway_proto::control::CopiedRight {
            layers: Vec::new(),
            right: RightEpoch { right, epoch: Epoch(4), holder: Some(member()) },
            floor: Offset(0),
            acked: vec![OffsetRange::new(1, 2)],
        }],
    }
}

proptest! {
    /// Random steps, publishes and acks; then a crash after everything was written. What the
    /// journal gives back is what was there.
    #[test]
    fn a_restart_finds_the_state_that_was_durable(ops in prop::collection::vec(op(), 0..60)) {
        let mut host = Host::new(Rules::default());
        let mut log = Vec::new();
        for (n, op) in ops.into_iter().enumerate() {
            let (n, mut out) = (n as u64, Vec::new());
            let (mut header, mut stored) = (None, None);
            match op {
                Op::Step(step) => host.step(Time(n), queue(), step, &mut out),
                Op::Append { producer, session, base, count } => {
                    let epoch = host.queue(queue()).map_or(Epoch(0), |h| h.queue.epoch());
                    let append = Append {
                        token: n,
                        epoch,
                        routing: RoutingVersion(0),
                        producer: Uuid(producer),
                        session: Session(session),
                        base_sequence: Sequence(base),
                        count,
                        largest_body_bytes: 1,
                        batch_bytes: 1,
                        routes: Routes::default(),
                    };
                    header = Some(append.clone());
                    // Held appends are not under test here.
                    if host.queue(queue()).is_some_and(|h| h.queue.sealed().is_none()) {
                        host.append(queue(), append, &any_batch(), &mut out);
                    }
                }
                Op::Open { subscription, open, acks } => {
                    let right = RightId::whole(SubscriptionId(subscription), queue());
                    let epoch = host.right(&right).map_or(Epoch(0), Right::epoch);
                    let request = OpenRight {
                        right,
                        epoch,
                        holder: member(),
                        open: OpenNumber(open),
                        held: vec![],
                        held_lanes: Vec::new(),
                        handed_out: vec![],
                        acks,
                        ack_number: 1,
                        window: Window { number: 1, messages: 5, bytes: 100 },
                    };
                    let _ = host.open_right(Time(n), n, &request, &mut out);
                }
                Op::Ack { subscription, range } => {
                    let right = RightId::whole(SubscriptionId(subscription), queue());
                    let epoch = host.right(&right).map_or(Epoch(0), Right::epoch);
                    let acks = Ranges { open: OpenNumber(1), number: n, ranges: vec![range] };
                    host.frame(Time(n), n, right, epoch, &Frame::Ack(acks), &mut out);
                }
                Op::Copied { at, count, fetch } => {
                    // Mostly the next one.
                    let next = host.held_copies().first().map_or(0, |copy| copy.copied.0);
                    let batch = StoredBatch {
                        queue: queue(),
                        at: Offset(if at < 6 { next } else { at }),
                        count,
                        producer: Uuid(9),
                        session: Session(1),
                        base_sequence: Sequence(at),
                        appended_at: WallTime(n),
                        bytes: 10,
                    };
                    let fetch = current(&mut host, fetch);
                    if let Ok(Some(_)) = host.copy_batch(fetch, &batch, &mut out) {
                        stored = Some(batch);
                    }
                }
                Op::CopySealed { end, attempt, fetch } => {
                    let held = host.held_copies().first().map(|c| (c.copied, c.attempt));
                    let (copied, of) = held.unwrap_or_default();
                    let mut snapshot = snapshot(attempt.0, end);
                    if end < 6 {
                        (snapshot.end, snapshot.attempt) = (copied, of);
                    }
                    let fetch = current(&mut host, fetch);
                    let _ = host.copy_sealed(queue(), fetch, snapshot, &mut out);
                }
            }
            host.write_acks(&mut out);
            if let Some(batch) = stored {
                log.push(Logged::Batch(batch));
                let born = host.copies().map(|(_, copy)| copy.born()).next().unwrap_or(0);
                host.copy_stored(Time(n), born, &batch, &mut out);
            }
            for action in out {
                match action {
                    Action::Write { queue, record } => log.push(Logged::Record(queue, record)),
                    Action::Store { queue, at, .. } => {
                        let append = header.clone().unwrap();
                        log.push(Logged::Batch(StoredBatch {
                            queue,
                            at,
                            count: append.count,
                            producer: append.producer,
                            session: append.session,
                            base_sequence: append.base_sequence,
                            appended_at: WallTime(n),
                            bytes: 1,
                        }));
                        let end = Offset(at.0 + u64::from(append.count));
                        host.stored(queue, at, end, WallTime(n), &mut Vec::new());
                    }
                    _ => {}
                }
            }
        }
        let mut again = Host::new(Rules::default());
        for logged in log {
            match logged {
                Logged::Batch(batch) => again.replay_batch(&batch).unwrap(),
                Logged::Record(queue, record) => {
                    let written = ControlRecord::decode(&record.encode().unwrap()).unwrap();
                    prop_assert_eq!(&written, &record);
                    again.replay_record(queue, written).unwrap();
                }
            }
        }
        prop_assert_eq!(views(&again), views(&host));
        prop_assert_eq!(copies(&again), copies(&host));
        prop_assert_eq!(again.held_copies(), host.held_copies());
        prop_assert_eq!(again.removed, host.removed);
    }
}
