//! Moving a queue with its messages, as far as its workers decide: SCHEDULES section 2 with H > 0.
//! Two hosts are played against each other; what the one sends is handed to the other.

use ringway_proto::control::{CopyFrom, CopyQueue, CopyState, Order, Start, SubscriptionSetup};
use ringway_proto::data::{OffsetRange, Ranges, Window};
use ringway_proto::limits::MAX_RANGES;
use ringway_proto::message::Message;
use ringway_proto::{
    Filter, GroupId, Holder, Incarnation, MemberId, OpenNumber, Sequence, Session,
    SubscriptionName, batch::BatchBuilder, class::Class,
};

use super::tests::any_batch;
use super::*;
use crate::logic::hosted::CopyNext;

const UUID: Uuid = Uuid(77);

fn queue() -> QueueId {
    QueueId::new(GroupId(1), 0)
}

fn right() -> RightId {
    RightId::whole(SubscriptionId(1), queue())
}

fn member() -> Holder {
    Holder { member: MemberId::new("m").unwrap(), incarnation: Incarnation(1) }
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

fn open(epoch: u64) -> Step {
    Step::Open(OpenQueue {
        queue: queue(),
        name: "orders/0".into(),
        uuid: UUID,
        epoch: Epoch(epoch),
        max_body_bytes: 100,
        subscriptions: vec![setup(1)],
        rights: vec![RightEpoch { right: right(), epoch: Epoch(1), holder: Some(member()) }],
        moves: vec![],
    })
}

fn seal(epoch: u64, attempt: u64) -> Step {
    Step::Seal { epoch: Epoch(epoch), attempt: Attempt(attempt), only_if_empty: false }
}

fn unseal(attempt: u64) -> Step {
    Step::Unseal { attempt: Attempt(attempt) }
}

fn tombstone(epoch: u64) -> Step {
    Step::Tombstone { uuid: UUID, epoch: Epoch(epoch) }
}

fn copy(epoch: u64, attempt: u64) -> Step {
    Step::Copy(CopyQueue {
        queue: queue(),
        name: "orders/0".into(),
        uuid: UUID,
        epoch: Epoch(epoch),
        attempt: Attempt(attempt),
        from: "a:1".into(),
    })
}

fn drop_copy(attempt: u64) -> Step {
    Step::DropCopy { uuid: UUID, attempt: Attempt(attempt) }
}

/// A batch of three messages.
fn three() -> Batch {
    let mut builder = BatchBuilder::new();
    for _ in 0..3 {
        builder.push(&Message::new(Class::new("a.b").unwrap(), &b"x"[..]));
    }
    Batch::parse(builder.finish(WallTime(0))).unwrap()
}

/// A worker with a disk that everything reaches when [`Side::sync`] says so.
struct Side {
    host: Host,
    /// Journal: what a restart reads.
    log: Vec<(Option<StoredBatch>, Option<ControlRecord>)>,
    /// Batches that were taken and are not durable.
    unsynced: Vec<StoredBatch>,
    told: Vec<FromWorker>,
    out: Vec<Action>,
    token: u64,
    fetch: u64,
}

impl Side {
    fn new() -> Self {
        Self {
            host: Host::new(Rules::default()),
            log: vec![],
            unsynced: vec![],
            told: vec![],
            out: vec![],
            token: 0,
            fetch: 0,
        }
    }

    /// The primary, with messages 0, 1 and 2 delivered to the member.
    fn primary() -> Self {
        let mut side = Self::new();
        side.step(open(3));
        side.publish(0, 3);
        side.sync();
        side.open_right(1, vec![]).unwrap();
        side.host.select(&right(), Offset(0), &three()).unwrap();
        side
    }

    fn act(&mut self, out: Vec<Action>) {
        for action in &out {
            match action {
                Action::Write { record, .. } => self.log.push((None, Some(record.clone()))),
                Action::Tell(event) => self.told.push(event.clone()),
                Action::Fetch { fetch, .. } => self.fetch = *fetch,
                _ => {}
            }
        }
        self.out.extend(out);
    }

    fn step(&mut self, step: Step) -> Vec<FromWorker> {
        self.told.clear();
        let mut out = Vec::new();
        self.host.step(Time(0), queue(), step, &mut out);
        self.act(out);
        self.told.clone()
    }

    fn publish(&mut self, base: u64, count: u32) -> Vec<Action> {
        self.token += 1;
        let (producer, session, base_sequence) = (Uuid(5), Session(1), Sequence(base));
        let epoch = self.host.queue(queue()).map_or(Epoch(0), |h| h.queue.epoch());
        let append = Append {
            token: self.token,
            epoch,
            routing: RoutingVersion(0),
            producer,
            session,
            base_sequence,
            count,
            largest_body_bytes: 1,
            batch_bytes: 1,
            routes: Routes::default(),
        };
        let mut out = Vec::new();
        self.host.append(queue(), append, &any_batch(), &mut out);
        if let [Action::Store { at, .. }] = out[..] {
            self.unsynced.push(StoredBatch {
                queue: queue(),
                at,
                count,
                producer,
                session,
                base_sequence,
                appended_at: WallTime(1),
                bytes: 10,
            });
        }
        out
    }

    fn sync(&mut self) {
        for batch in std::mem::take(&mut self.unsynced) {
            self.log.push((Some(batch), None));
            let mut out = Vec::new();
            self.host.stored(queue(), batch.at, batch.end(), WallTime(1), &mut out);
            self.act(out);
        }
    }

    fn open_right(&mut self, number: u64, held: Vec<OffsetRange>) -> Result<(), Refusal> {
        let request = OpenRight {
            right: right(),
            epoch: Epoch(1),
            holder: member(),
            open: OpenNumber(number),
            held_lanes: Vec::new(),
            handed_out: held.clone(),
            held,
            acks: vec![],
            ack_number: 0,
            window: Window { number: 1, messages: 100, bytes: 1000 },
        };
        let mut out = Vec::new();
        let opened = self.host.open_right(Time(0), number, &request, &mut out);
        self.act(out);
        opened
    }

    /// The ack is applied; nothing but a seal writes it.
    fn ack(&mut self, number: u64, first: u64, end: u64) {
        self.ack_on(1, number, first, end);
    }

    fn ack_on(&mut self, open: u64, number: u64, first: u64, end: u64) {
        let acks =
            Ranges { open: OpenNumber(open), number, ranges: vec![OffsetRange::new(first, end)] };
        let mut out = Vec::new();
        self.host.frame(Time(0), open, right(), Epoch(1), &Frame::Ack(acks), &mut out);
        self.act(out);
    }

    fn confirmed(&self) -> Vec<u64> {
        let confirmed = |action: &Action| match action {
            Action::Confirm { confirmed, .. } => Some(confirmed.number),
            _ => None,
        };
        self.out.iter().filter_map(confirmed).collect()
    }

    fn restarted(&self) -> Self {
        let mut again = Self { log: self.log.clone(), ..Self::new() };
        for (batch, record) in &self.log {
            if let Some(batch) = batch {
                again.host.replay_batch(batch).unwrap();
            }
            if let Some(record) = record {
                again.host.replay_record(queue(), record.clone()).unwrap();
            }
        }
        again
    }

    fn floor(&self) -> Offset {
        self.host.right(&right()).unwrap().floor()
    }

    fn end(&self) -> Offset {
        self.host.queue(queue()).unwrap().queue.durable()
    }

    fn late(&self) -> usize {
        self.out.iter().filter(|action| matches!(action, Action::Late { .. })).count()
    }

    /// Takes from `from` what it has to give to this copy: whether it sent the snapshot.
    fn copy_from(&mut self, from: &Side) -> bool {
        loop {
            let Some(ask) = self.host.fetch_from(queue(), self.fetch) else { return false };
            let mut out = Vec::new();
            let end = match from.host.copy_next(&ask) {
                CopyNext::Batches { .. } => {
                    let state = CopyState { end: from.end(), total_bytes: 10 };
                    self.host.copy_heard(Time(0), queue(), self.fetch, state, &mut out);
                    let mut next = from.log.iter().filter_map(|(batch, _)| *batch);
                    let batch = next.rfind(|batch| batch.at == ask.from).unwrap();
                    let born = self.host.copy_batch(self.fetch, &batch, &mut out).unwrap().unwrap();
                    self.log.push((Some(batch), None));
                    assert!(self.host.copy_stored(Time(0), born, &batch, &mut out));
                    None
                }
                CopyNext::Sealed(snapshot) => {
                    self.host.copy_sealed(queue(), self.fetch, *snapshot, &mut out).unwrap();
                    Some(true)
                }
                CopyNext::Wait | CopyNext::Over(_) => Some(false),
            };
            self.act(out);
            if let Some(sealed) = end {
                return sealed;
            }
        }
    }
}

fn sealed(attempt: u64, end: u64) -> FromWorker {
    FromWorker::Sealed { queue: queue(), attempt: Attempt(attempt), end: Offset(end) }
}

fn synced(attempt: u64, end: u64) -> FromWorker {
    FromWorker::CopySynced { queue: queue(), attempt: Attempt(attempt), end: Offset(end) }
}

fn opened(epoch: u64) -> FromWorker {
    FromWorker::QueueOpened { queue: queue(), epoch: Epoch(epoch) }
}

/// The whole way, with every worker restarted at every step.
#[test]
fn a_queue_moves_with_its_messages_cursors_and_producers() {
    for restart in [false, true] {
        let turn = |side: Side| if restart { side.restarted() } else { side };
        let (mut a, mut b) = (Side::primary(), Side::new());
        a.ack(1, 0, 2);
        b.step(copy(3, 1));
        assert!(!b.copy_from(&a), "the original goes on");
        assert!(b.told.iter().any(|event| matches!(
            event,
            FromWorker::CopyProgress { copied: Offset(3), end: Offset(3), .. }
                | FromWorker::CopyProgress { copied: Offset(0), end: Offset(3), .. }
        )));
        a.publish(3, 2);
        a.sync();
        assert_eq!(a.step(seal(3, 1)), [sealed(1, 5)]);
        let mut a = turn(a);
        let mut b = turn(b);
        assert_eq!(b.step(open(4)), [], "a copy that is not whole is not opened");
        assert_eq!(b.late(), 1);
        b.step(copy(3, 1));
        assert!(b.copy_from(&a));
        assert_eq!(b.told.last(), Some(&synced(1, 5)));
        let mut b = turn(b);
        let held = &b.host.held_copies()[0];
        assert_eq!((held.copied, held.attempt, held.synced), (Offset(5), Attempt(1), true));
        assert_eq!(b.step(copy(3, 1)), [synced(1, 5)], "asked twice, answered alike");
        assert_eq!(b.step(open(4)), [opened(4)]);
        let mut b = turn(b);
        assert!(b.host.held_copies().is_empty());
        assert_eq!((b.end(), b.floor()), (Offset(5), Offset(2)));
        assert!(matches!(b.publish(3, 2)[..], [Action::Repeat { at: Offset(3), .. }]));
        assert!(matches!(b.publish(5, 1)[..], [Action::Store { at: Offset(5), .. }]));
        b.open_right(2, vec![OffsetRange::new(2, 3)]).unwrap();
        assert_eq!(b.host.select(&right(), Offset(0), &three()), None, "the member has it");
        assert_eq!(b.host.wants(&right()), Some(Offset(3)));

        let removed = FromWorker::Removed { queue: queue(), epoch: Epoch(4) };
        assert_eq!(a.step(tombstone(4)), [removed]);
        assert_eq!(a.host.queues().count(), 0);
    }
}

/// 2a: the seal is journaled before it is reported, with everything that counts before it.
#[test]
fn a_seal_with_messages_survives_a_restart_and_says_the_same() {
    let mut a = Side::primary();
    a.ack(1, 0, 1);
    a.publish(3, 2);
    assert_eq!(a.step(seal(3, 1)), [], "what is under way may still fail");
    assert_eq!(a.host.held()[0].sealed, None);
    assert_eq!(a.publish(5, 1), []);
    a.sync();
    assert_eq!(a.told, [sealed(1, 5)]);
    let ask = CopyFrom { queue: queue(), uuid: UUID, attempt: Attempt(1), from: Offset(5) };
    let said = a.host.copy_next(&ask);
    assert!(matches!(said, CopyNext::Sealed(_)));
    let mut again = a.restarted();
    assert_eq!(again.host.copy_next(&ask), said);
    assert_eq!(again.publish(5, 1), [], "a restarted worker still waits");
    assert_eq!(again.step(seal(3, 1)), [sealed(1, 5)]);
}

/// A full disk between the two: the end that is reported is that of what was written.
#[test]
fn a_seal_behind_a_failed_write_reports_the_end_that_is_durable() {
    let mut a = Side::primary();
    a.publish(3, 2);
    a.step(seal(3, 1));
    let mut out = Vec::new();
    a.host.roll_back(&mut out);
    assert_eq!(out, [Action::Tell(sealed(1, 3))]);
    let mut b = Side::new();
    b.step(copy(3, 1));
    assert!(b.copy_from(&a));
    assert_eq!(b.told.last(), Some(&synced(1, 3)));
}

/// What comes after the seal is in no snapshot, so it is neither applied nor confirmed.
#[test]
fn what_comes_after_the_seal_waits_for_the_unseal_or_the_next_primary() {
    let after = |a: &mut Side| {
        a.ack(1, 0, 1);
        a.step(seal(3, 1));
        a.ack(2, 1, 2);
        assert_eq!((a.floor(), a.confirmed()), (Offset(1), vec![1]));
        let raise = RightEpoch { right: right(), epoch: Epoch(2), holder: None };
        assert_eq!(a.step(Step::Raise(raise)), []);
        assert_eq!(a.step(Step::Start(setup(2))), []);
        assert_eq!(a.step(open(3)), [], "an open under the same epoch changes nothing either");
        a.open_right(2, vec![OffsetRange::new(2, 3)]).unwrap();
        a.publish(3, 1);
        a.publish(4, 1);
        let now = Time(60_000);
        a.host.wake(now, &right(), &mut Vec::new());
        assert_eq!(a.host.wants(&right()), None, "what was acked is not sent again");
    };
    let mut a = Side::primary();
    after(&mut a);
    a.out.clear();
    a.step(unseal(1));
    assert_eq!(a.floor(), Offset(2));
    let stores: Vec<_> = a.out.iter().filter(|x| matches!(x, Action::Store { .. })).collect();
    assert_eq!(stores.len(), 2);
    assert!(a.out.iter().any(|x| matches!(x, Action::Opened { stream: 2, .. })));
    assert_eq!(a.restarted().floor(), Offset(1), "the ack is not written yet");
    let mut out = Vec::new();
    a.host.write_acks(&mut out);
    a.act(out);
    assert_eq!(a.restarted().floor(), Offset(2));

    let mut a = Side::primary();
    after(&mut a);
    a.out.clear();
    a.step(tombstone(4));
    let gone = |x: &Action| match x {
        Action::Refuse { refusal, .. } | Action::Close { refusal: Some(refusal), .. } => {
            refusal.code == Code::StaleRouting
        }
        _ => false,
    };
    assert_eq!(a.out.iter().filter(|x| gone(x)).count(), 4, "two appends, two streams");
    assert_eq!(a.confirmed(), [0; 0]);
}

/// The primary starts again sealed and knows nothing of what is in flight; the open that lists it
/// waits. An ack of it that follows on the same stream must not be passed over and then confirmed
/// by the next one.
#[test]
fn what_follows_an_open_that_waits_is_applied_behind_it() {
    let mut a = Side::primary();
    a.step(seal(3, 1));
    let mut a = a.restarted();
    a.open_right(2, vec![OffsetRange::new(0, 3)]).unwrap();
    a.ack_on(2, 1, 0, 1);
    a.ack_on(2, 2, 1, 2);
    assert_eq!(a.floor(), Offset(0), "nothing is applied while it is sealed");
    a.step(unseal(1));
    assert_eq!(a.floor(), Offset(2));

    let mut a = a.restarted();
    a.step(seal(3, 2));
    a.open_right(2, vec![OffsetRange::new(0, 3)]).unwrap();
    // A few frames of the largest size are as much as many small ones.
    let ranges = vec![OffsetRange::new(0, 1); MAX_RANGES];
    for number in 1..=3 {
        let acks = Ranges { open: OpenNumber(2), number, ranges: ranges.clone() };
        let mut out = Vec::new();
        a.host.frame(Time(0), 2, right(), Epoch(1), &Frame::Ack(acks), &mut out);
        a.act(out);
    }
    let ended = |x: &Action| matches!(x, Action::Close { stream: 2, refusal: Some(_) });
    assert!(a.out.iter().any(ended), "what an open that waits keeps is bounded");
    a.step(unseal(2));
    assert!(!a.out.iter().any(|x| matches!(x, Action::Opened { .. })));
}

/// 2b: a copy for an attempt that was given up is worth nothing, however whole it is.
#[test]
fn a_copy_of_an_attempt_that_was_given_up_is_made_whole_anew() {
    let (mut a, mut b) = (Side::primary(), Side::new());
    b.step(copy(3, 1));
    a.step(seal(3, 1));
    assert!(b.copy_from(&a));
    a.step(unseal(1));
    a.publish(3, 1);
    a.sync();
    // The old attempt asks for more, and a seal for a newer one is none for it.
    let ask = CopyFrom { queue: queue(), uuid: UUID, attempt: Attempt(1), from: Offset(3) };
    assert!(matches!(a.host.copy_next(&ask), CopyNext::Over(r) if r.code == Code::Fenced));
    b.step(copy(3, 2));
    assert_eq!(b.step(open(4)), []);
    assert!(!b.restarted().host.held_copies()[0].synced);
    assert!(!b.copy_from(&a));
    assert_eq!(b.step(copy(3, 1)), [], "an older order changes nothing");
    a.step(seal(3, 2));
    assert!(b.copy_from(&a));
    assert_eq!(b.told.last(), Some(&synced(2, 4)));
    assert_eq!(b.step(open(4)), [opened(4)]);
    assert_eq!(b.end(), Offset(4));
}

#[test]
fn a_dropped_copy_leaves_nothing_in_the_way_of_the_next() {
    let (a, mut b) = (Side::primary(), Side::new());
    b.step(copy(3, 2));
    b.copy_from(&a);
    let dropped = |n| FromWorker::CopyDropped { queue: queue(), attempt: Attempt(n) };
    assert_eq!(b.step(drop_copy(1)), [dropped(1)]);
    assert_eq!(b.host.held_copies().len(), 1, "the copy is of a newer attempt");
    assert_eq!(b.step(drop_copy(2)), [dropped(2)]);
    for mut b in [b.restarted(), b] {
        assert!(b.host.held_copies().is_empty());
        assert_eq!(b.step(drop_copy(2)), [dropped(2)], "asked twice, answered alike");
        b.step(copy(3, 2));
        assert!(b.host.held_copies().is_empty(), "a late order begins nothing anew");
        b.step(copy(3, 3));
        b.copy_from(&a);
        assert_eq!(b.host.held_copies()[0].copied, Offset(3));
    }
}

/// There and back: 2c and 2d.
#[test]
fn a_late_tombstone_copy_or_open_of_an_earlier_move_changes_nothing() {
    let (mut a, mut b) = (Side::primary(), Side::new());
    b.step(copy(3, 1));
    a.step(seal(3, 1));
    assert!(b.copy_from(&a));
    b.step(open(4));
    a.step(tombstone(4));
    assert_eq!(a.step(copy(3, 1)), [], "it names an epoch that is over");
    a.step(copy(4, 2));
    b.step(seal(4, 2));
    assert!(a.copy_from(&b));
    assert_eq!(a.step(open(5)), [opened(5)]);
    assert!(matches!(a.publish(3, 1)[..], [Action::Store { .. }]));
    a.sync();
    a.step(tombstone(4));
    for mut a in [a.restarted(), a] {
        assert_eq!(a.end(), Offset(4), "the tombstone of epoch 4 comes late");
        assert_eq!(a.step(copy(4, 2)), [], "it is open here");
    }
    b.step(tombstone(5));
    for mut b in [b.restarted(), b] {
        assert_eq!(b.step(open(4)), []);
        assert_eq!(b.step(copy(4, 1)), []);
        assert_eq!((b.host.queues().count(), b.host.held_copies().len()), (0, 0));
    }
}

/// 2e.
#[test]
fn what_is_not_synced_is_not_copied() {
    let (mut a, mut b) = (Side::primary(), Side::new());
    a.publish(3, 1);
    b.step(copy(3, 1));
    b.copy_from(&a);
    assert_eq!(b.host.held_copies()[0].copied, Offset(3));
    let ahead = CopyFrom { queue: queue(), uuid: UUID, attempt: Attempt(1), from: Offset(4) };
    assert!(matches!(a.host.copy_next(&ahead), CopyNext::Over(r) if r.code == Code::DataMissing));
    a.sync();
    b.copy_from(&a);
    assert_eq!(b.host.held_copies()[0].copied, Offset(4));
}

#[test]
fn a_copy_takes_only_what_continues_it_and_asks_again_for_what_is_missing() {
    let mut b = Side::new();
    b.step(copy(3, 1));
    let batch = |at, count| StoredBatch {
        queue: queue(),
        at: Offset(at),
        count,
        producer: Uuid(1),
        session: Session(1),
        base_sequence: Sequence(at),
        appended_at: WallTime(0),
        bytes: 1,
    };
    let fetch = b.fetch;
    let mut out = Vec::new();
    assert!(b.host.copy_batch(fetch, &batch(0, 2), &mut out).unwrap().is_some());
    assert_eq!(b.host.copy_batch(fetch, &batch(0, 2), &mut out), Ok(None), "here already");
    assert_eq!(b.host.copy_batch(fetch + 1, &batch(2, 1), &mut out), Ok(None), "nobody asked");
    assert_eq!(out, []);
    let gap = b.host.copy_batch(fetch, &batch(3, 1), &mut out).unwrap_err();
    assert_eq!(gap.code, Code::Damaged);
    let [Action::Fetch { fetch: next, again: true, .. }] = out[..] else { panic!("{out:?}") };
    assert_eq!(b.host.fetch_from(queue(), next).unwrap().from, Offset(2), "what is taken stays");
    assert_eq!(b.host.fetch_from(queue(), fetch), None);
    // A full disk takes it back.
    out.clear();
    b.host.roll_back(&mut out);
    let [Action::Fetch { fetch: next, again: true, .. }] = out[..] else { panic!("{out:?}") };
    assert_eq!(b.host.fetch_from(queue(), next).unwrap().from, Offset(0));
}

#[test]
fn progress_is_said_at_the_beginning_when_close_and_twice_a_second() {
    let mut b = Side::new();
    b.step(copy(3, 1));
    assert_eq!(b.told, [], "nothing is known of the original yet");
    let fetch = b.fetch;
    let mut said = Vec::new();
    let mut heard = |b: &mut Side, at: u64, end: u64| {
        let mut out = Vec::new();
        let state = CopyState { end: Offset(end), total_bytes: end * 10_000 };
        b.host.copy_heard(Time(at), queue(), fetch, state, &mut out);
        for action in out {
            if let Action::Tell(FromWorker::CopyProgress { copied, .. }) = action {
                said.push((at, copied.0));
            }
        }
    };
    let store = |b: &mut Side, at: u64, first: u64, count: u32| {
        let batch = StoredBatch {
            queue: queue(),
            at: Offset(first),
            count,
            producer: Uuid(1),
            session: Session(1),
            base_sequence: Sequence(first),
            appended_at: WallTime(0),
            bytes: count * 10_000,
        };
        let mut out = Vec::new();
        let born = b.host.copy_batch(fetch, &batch, &mut out).unwrap().unwrap();
        b.host.copy_stored(Time(at), born, &batch, &mut out);
        out.len()
    };
    heard(&mut b, 0, 10_000);
    heard(&mut b, 400, 10_000);
    assert_eq!(store(&mut b, 100, 0, 1000), 0, "said just now");
    assert_eq!(b.host.copies_wakeup(), Some(Time(500)));
    let mut out = Vec::new();
    b.host.wake_copies(Time(500), &mut out);
    assert_eq!((out.len(), b.host.copies_wakeup()), (1, None));
    assert_eq!(store(&mut b, 600, 1000, 8800), 0, "two hundred messages, but of 10,000 bytes each");
    assert_eq!(store(&mut b, 610, 9800, 100), 1, "close");
    assert_eq!(store(&mut b, 620, 9900, 50), 0);
    assert_eq!(said, [(0, 0)]);
}

#[test]
fn a_queue_of_which_too_much_is_known_goes_on() {
    let mut a = Side::primary();
    a.host.rules.max_snapshot_bytes = 100;
    let declined = FromWorker::SealDeclined { queue: queue(), attempt: Attempt(1), end: Offset(3) };
    assert_eq!(a.step(seal(3, 1)), [declined]);
    assert!(matches!(a.publish(3, 1)[..], [Action::Store { .. }]));
}
