//! Queues that move between two workers over real QUIC, with a coordinator that the test plays.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ringway_proto::batch::BatchBuilder;
use ringway_proto::control::{
    CopyFrom, CopyQueue, FromWorker, OpenQueue, OpenRight, Order, Register, RightEpoch, Start,
    SubscriptionSetup, ToWorker,
};
use ringway_proto::data::{
    AckConfirmed, Append, AppendAnswer, Deliver, OffsetRange, Ranges, Window,
};
use ringway_proto::frame::Kind;
use ringway_proto::message::Message;
use ringway_proto::net::{
    ClientTls, Dialer, FrameReader, FrameWriter, Limits, Listener, Peer, Role, ServerTls, init_dir,
};
use ringway_proto::url::UrlAuth;
use ringway_proto::{
    Attempt, Class, Code, Epoch, Filter, GroupId, Holder, Incarnation, MemberId, Offset,
    OpenNumber, QueueId, RightId, RoutingVersion, Sequence, Session, SubscriptionId,
    SubscriptionName, Uuid, WallTime, WorkerId, codec,
};
use ringway_worker::journal::JournalError;
use ringway_worker::{Config, StartError, Worker};

const LOCAL: &str = "127.0.0.1:0";
const ATTEMPT: Attempt = Attempt(1);

fn queue() -> QueueId {
    QueueId::new(GroupId(1), 0)
}

fn right() -> RightId {
    RightId::whole(SubscriptionId(1), queue())
}

fn holder() -> Holder {
    Holder { member: MemberId::new("m1").unwrap(), incarnation: Incarnation(1) }
}

fn open_queue(epoch: u64) -> ToWorker {
    ToWorker::OpenQueue(OpenQueue {
        queue: queue(),
        name: "orders/0".into(),
        uuid: Uuid(9),
        epoch: Epoch(epoch),
        max_body_bytes: 10_000,
        subscriptions: vec![SubscriptionSetup {
            id: SubscriptionId(1),
            name: SubscriptionName::new("s1").unwrap(),
            filter: Filter::new(">").unwrap(),
            order: Order::Key,
            start: Start::Start,
        }],
        rights: vec![RightEpoch { right: right(), epoch: Epoch(1), holder: Some(holder()) }],
        moves: vec![],
    })
}

fn copy_queue(from: &Worker) -> ToWorker {
    ToWorker::CopyQueue(CopyQueue {
        queue: queue(),
        name: "orders/0".into(),
        uuid: Uuid(9),
        epoch: Epoch(1),
        attempt: ATTEMPT,
        from: from.local_addr().to_string(),
    })
}

fn seal() -> ToWorker {
    let (epoch, attempt) = (Epoch(1), ATTEMPT);
    ToWorker::SealQueue { queue: queue(), epoch, attempt, only_if_empty: false }
}

/// A worker, its data, and the coordinator that it alone talks to.
struct Site {
    config: Config,
    listener: Listener,
}

/// A site that runs, and the coordinator's side of its session.
struct Running {
    worker: Worker,
    _peer: Peer,
    to: FrameWriter,
    from: FrameReader,
    register: Register,
}

impl Site {
    fn new(dir: &tempfile::TempDir, id: &str) -> Self {
        let tls_dir = tls(dir);
        let tls = ServerTls::load(&tls_dir, Role::Coordinator).unwrap();
        let listener = Listener::bind(LOCAL.parse().unwrap(), &tls, "c1", Limits::default());
        let listener = listener.unwrap();
        let coordinators = vec![listener.local_addr().to_string()];
        let data = dir.path().join(id);
        let id = WorkerId::new(id).unwrap();
        let config = Config::new(id, LOCAL.parse().unwrap(), data, coordinators, tls_dir);
        Self { config, listener }
    }

    async fn run(&self) -> Running {
        let worker = loop {
            match Worker::start(self.config.clone()).await {
                Ok(worker) => break worker,
                // One that was killed holds its directory until its tasks have ended.
                Err(StartError::Journal(JournalError::InUse { .. })) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(e) => panic!("{e}"),
            }
        };
        loop {
            let peer = self.listener.accept().await.unwrap();
            // One of an earlier process may come first.
            let Ok((to, mut from)) = peer.accept().await else { continue };
            let Ok(first) = from.expect(Kind::Control).await else { continue };
            let FromWorker::Register(register) = codec::decode(&first).unwrap() else {
                panic!("the first message registers");
            };
            let mut running = Running { worker, _peer: peer, to, from, register };
            running.say(ToWorker::Registered).await;
            return running;
        }
    }
}

impl Running {
    async fn say(&mut self, message: ToWorker) {
        self.to.write_control(Kind::Control, &message).await.unwrap();
    }

    /// Hears until `wanted` has come.
    async fn until(&mut self, wanted: impl Fn(&FromWorker) -> bool) -> FromWorker {
        let heard = async {
            loop {
                let frame = self.from.expect(Kind::Control).await.unwrap();
                let event: FromWorker = codec::decode(&frame).unwrap();
                if wanted(&event) {
                    return event;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), heard).await.expect("it says so in time")
    }

    async fn open(&mut self, epoch: u64) {
        self.say(open_queue(epoch)).await;
        self.until(
            |event| matches!(event, FromWorker::QueueOpened { epoch: e, .. } if e.0 == epoch),
        )
        .await;
    }

    async fn seal(&mut self) -> Offset {
        self.say(seal()).await;
        match self.until(|event| matches!(event, FromWorker::Sealed { .. })).await {
            FromWorker::Sealed { end, .. } => end,
            other => panic!("{other:?}"),
        }
    }

    async fn synced(&mut self) -> Offset {
        match self.until(|event| matches!(event, FromWorker::CopySynced { .. })).await {
            FromWorker::CopySynced { end, attempt: ATTEMPT, .. } => end,
            other => panic!("{other:?}"),
        }
    }

    /// Hears until the copy holds more than `offset`.
    async fn copied(&mut self, offset: u64) -> Offset {
        let more = |event: &FromWorker| matches!(event, FromWorker::CopyProgress { copied, .. } if copied.0 > offset);
        match self.until(more).await {
            FromWorker::CopyProgress { copied, .. } => copied,
            other => panic!("{other:?}"),
        }
    }
}

fn tls(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("tls")
}

fn place() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    init_dir(&tls(&dir)).unwrap();
    dir
}

async fn dial(dir: &tempfile::TempDir, worker: &Worker) -> Peer {
    let tls = ClientTls::from_url(&UrlAuth::Dir(tls(dir))).unwrap();
    let address = worker.local_addr().to_string();
    Dialer::new(tls, "test").dial(&address, Role::Worker, Duration::from_secs(5)).await.unwrap()
}

/// One message, whose body is its sequence, padded.
fn append(sequence: u64, epoch: u64, session: u32) -> Append {
    batch(sequence, 1, epoch, session)
}

/// The same with so many messages.
fn batch(sequence: u64, count: u32, epoch: u64, session: u32) -> Append {
    let mut builder = BatchBuilder::new();
    for sequence in sequence..sequence + u64::from(count) {
        let body = format!("{sequence:<2000}");
        builder.push(&Message::new(Class::new("a.b").unwrap(), body));
    }
    Append {
        queue: queue(),
        epoch: Epoch(epoch),
        routing: RoutingVersion(0),
        producer: Uuid(3),
        session: Session(session),
        base_sequence: Sequence(sequence),
        count,
        batch: builder.finish(WallTime(1)),
    }
}

/// One producer, with several batches in flight.
struct Producer {
    to: FrameWriter,
    from: FrameReader,
    epoch: u64,
    session: u32,
    sent: u64,
    /// Sequence to offset.
    acked: BTreeMap<u64, u64>,
}

impl Producer {
    async fn new(peer: &Peer, epoch: u64, session: u32, acked: BTreeMap<u64, u64>) -> Self {
        let (to, from) = peer.open().await.unwrap();
        let sent = acked.last_key_value().map_or(0, |(sequence, _)| sequence + 1);
        Self { to, from, epoch, session, sent, acked }
    }

    async fn send(&mut self) {
        let append = append(self.sent, self.epoch, self.session);
        self.sent += 1;
        self.to.write(Kind::Append, &[append.header(), append.batch.clone()]).await.unwrap();
    }

    async fn answer(&mut self) -> Result<(), Code> {
        let answer = AppendAnswer::decode(self.from.expect(Kind::Appended).await.unwrap()).unwrap();
        let at = answer.outcome.map_err(|refusal| refusal.code)?;
        self.acked.insert(answer.base_sequence.0, at.0);
        Ok(())
    }

    async fn publish(&mut self, n: u64) {
        for _ in 0..n {
            self.send().await;
        }
        for _ in 0..n {
            self.answer().await.unwrap();
        }
    }

    /// Publishes, with up to 16 in flight, until told to stop or refused; then all is answered.
    async fn run(mut self, stop: Arc<AtomicBool>) -> Self {
        let mut refused = false;
        while !refused && !stop.load(Ordering::Relaxed) {
            while self.sent - self.acked.len() as u64 >= 16 && !refused {
                refused = self.answer().await.is_err();
            }
            if !refused {
                self.send().await;
            }
        }
        let mut open = self.sent - self.acked.len() as u64 - u64::from(refused);
        while open > 0 {
            open -= 1;
            match self.answer().await {
                Ok(()) => assert!(!refused, "nothing is taken after a refusal"),
                Err(code) => assert_eq!(code, Code::StaleRouting),
            }
        }
        self
    }
}

/// The member that holds the right.
struct Reader {
    to: FrameWriter,
    from: FrameReader,
    open: u64,
}

impl Reader {
    async fn open(peer: &Peer, open: u64, held: Vec<OffsetRange>, acks: Vec<OffsetRange>) -> Self {
        let (mut to, mut from) = peer.open().await.unwrap();
        let request = OpenRight {
            right: right(),
            epoch: Epoch(1),
            holder: holder(),
            open: OpenNumber(open),
            held,
            held_lanes: Vec::new(),
            handed_out: vec![],
            ack_number: u64::from(!acks.is_empty()),
            acks,
            window: Window { number: 1, messages: 100_000, bytes: 16 << 20 },
        };
        to.write_control(Kind::OpenRight, &request).await.unwrap();
        from.expect(Kind::RightOpened).await.unwrap();
        Self { to, from, open }
    }

    /// The offsets of the next delivery; none when the stream has ended.
    async fn next(&mut self) -> Option<Vec<u64>> {
        loop {
            match self.from.read().await.ok()?? {
                (Kind::Deliver, payload) => {
                    let deliver = Deliver::decode(payload).unwrap();
                    let at = |e: &ringway_proto::data::DeliverEntry| {
                        assert_eq!(e.delivery, 1, "a redelivery");
                        deliver.base_offset.0 + u64::from(e.index)
                    };
                    return Some(deliver.entries.iter().map(at).collect());
                }
                (Kind::Refused, _) => return None,
                _ => {}
            }
        }
    }

    async fn ack(&mut self, number: u64, first: u64, end: u64) {
        let ranges = vec![OffsetRange::new(first, end)];
        let acks = Ranges { open: OpenNumber(self.open), number, ranges };
        self.to.write(Kind::Ack, &[acks.encode()]).await.unwrap();
    }

    async fn confirmed(&mut self) -> u64 {
        loop {
            if let (Kind::AckConfirmed, payload) = self.from.read().await.unwrap().unwrap() {
                return AckConfirmed::decode(payload).unwrap().number;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_moves_under_load_and_nothing_is_lost_doubled_or_sent_again() {
    let dir = place();
    let (site_a, site_b) = (Site::new(&dir, "w1"), Site::new(&dir, "w2"));
    let (mut a, mut b) = (site_a.run().await, site_b.run().await);
    a.open(1).await;
    let client = dial(&dir, &a.worker).await;
    let mut producer = Producer::new(&client, 1, 1, BTreeMap::new()).await;
    producer.publish(200).await;
    let mut reader = Reader::open(&client, 1, vec![], vec![]).await;
    let mut seen = Vec::new();
    while seen.len() < 200 {
        seen.extend(reader.next().await.unwrap());
    }
    reader.ack(1, 0, 50).await;
    assert_eq!(reader.confirmed().await, 1);

    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn(producer.run(Arc::clone(&stop)));
    b.say(copy_queue(&a.worker)).await;
    b.copied(0).await;
    let end = a.seal().await;
    // An ack that comes too late for the snapshot.
    reader.ack(2, 50, 60).await;
    assert_eq!(b.synced().await, end);
    b.open(2).await;
    a.say(ToWorker::Tombstone { queue: queue(), uuid: Uuid(9), epoch: Epoch(2) }).await;
    a.until(|event| matches!(event, FromWorker::Removed { .. })).await;
    let producer = load.await.unwrap();
    assert_eq!(producer.acked.len() as u64, end.0, "all below the end is acked, nothing beyond");
    while let Some(more) = reader.next().await {
        seen.extend(more);
    }

    let client = dial(&dir, &b.worker).await;
    // Ten repeats of what the other worker acked, and a hundred more.
    let acked = producer.acked.range(..end.0 - 10).map(|(s, at)| (*s, *at)).collect();
    let mut producer = Producer::new(&client, 2, 2, acked).await;
    producer.publish(110).await;
    let held = OffsetRange::collect(seen.iter().filter(|at| **at >= 60).map(|at| Offset(*at)));
    let mut reader = Reader::open(&client, 2, held, vec![OffsetRange::new(50, 60)]).await;
    assert_eq!(reader.confirmed().await, 1);
    let total = end.0 + 100;
    while (seen.len() as u64) < total {
        seen.extend(reader.next().await.unwrap());
    }
    assert_eq!(seen, (0..total).collect::<Vec<_>>(), "each once and in order");
    assert!(producer.acked.iter().all(|(sequence, at)| sequence == at));
    reader.ack(3, 60, total).await;
    assert_eq!(reader.confirmed().await, 3);
    let text = |worker: &Worker| {
        prometheus::TextEncoder::new().encode_to_string(&worker.registry().gather()).unwrap()
    };
    assert!(text(&a.worker).contains("ringway_publish_pause_seconds_count{worker=\"w1\"} 1"));
    assert!(
        !text(&b.worker).contains("ringway_copy_bytes_total{direction=\"in\",worker=\"w2\"} 0")
    );

    // A restart finds all of it, and a repeat its old offset.
    b.worker.shutdown().await;
    let b = site_b.run().await;
    assert_eq!((b.register.queues[0].epoch, b.register.queues[0].end), (Epoch(2), Offset(total)));
    assert!(b.register.copies.is_empty());
    let client = dial(&dir, &b.worker).await;
    let acked = producer.acked.range(..total - 10).map(|(s, at)| (*s, *at)).collect();
    let mut producer = Producer::new(&client, 2, 3, acked).await;
    producer.publish(12).await;
    assert!(producer.acked.iter().all(|(sequence, at)| sequence == at));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_was_killed_goes_on_from_what_it_has() {
    let dir = place();
    let (mut site_a, site_b) = (Site::new(&dir, "w1"), Site::new(&dir, "w2"));
    // About two megabytes, in about four seconds.
    site_a.config.settings.copy_bytes_per_second = 500_000;
    let (mut a, mut b) = (site_a.run().await, site_b.run().await);
    a.open(1).await;
    let client = dial(&dir, &a.worker).await;
    let mut producer = Producer::new(&client, 1, 1, BTreeMap::new()).await;
    producer.publish(1000).await;
    b.say(copy_queue(&a.worker)).await;
    let before = b.copied(0).await;
    assert!(before < Offset(1000), "the copy keeps to its pace");
    drop(b);
    let mut b = site_b.run().await;
    let copy = b.register.copies[0].clone();
    assert!(copy.copied >= before && !copy.synced, "{copy:?}");
    b.say(copy_queue(&a.worker)).await;
    // After the seal the pace does not hold.
    b.copied(copy.copied.0).await;
    assert_eq!(a.seal().await, Offset(1000));
    assert_eq!(b.synced().await, Offset(1000));
    drop(b);
    let mut b = site_b.run().await;
    assert!(b.register.copies[0].synced);
    b.open(2).await;
    let client = dial(&dir, &b.worker).await;
    let mut reader = Reader::open(&client, 1, vec![], vec![]).await;
    let mut seen = Vec::new();
    while seen.len() < 1000 {
        seen.extend(reader.next().await.unwrap());
    }
    assert_eq!(seen, (0..1000).collect::<Vec<_>>());
    Producer::new(&client, 2, 2, producer.acked).await.publish(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seal_ends_the_wait_for_the_pace() {
    let dir = place();
    let (mut site_a, site_b) = (Site::new(&dir, "w1"), Site::new(&dir, "w2"));
    // A batch of 120,000 bytes takes two minutes.
    site_a.config.settings.copy_bytes_per_second = 1024;
    let (mut a, mut b) = (site_a.run().await, site_b.run().await);
    a.open(1).await;
    let client = dial(&dir, &a.worker).await;
    let mut producer = Producer::new(&client, 1, 1, BTreeMap::new()).await;
    for first in [0, 60, 120] {
        let append = batch(first, 60, 1, 1);
        producer.to.write(Kind::Append, &[append.header(), append.batch.clone()]).await.unwrap();
        producer.answer().await.unwrap();
    }
    b.say(copy_queue(&a.worker)).await;
    assert_eq!(b.copied(0).await, Offset(60), "the second waits");
    assert_eq!(a.seal().await, Offset(180));
    assert_eq!(b.synced().await, Offset(180));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_restarts_sealed_says_the_same_and_goes_on_when_unsealed() {
    let dir = place();
    let (site_a, site_b) = (Site::new(&dir, "w1"), Site::new(&dir, "w2"));
    let (mut a, mut b) = (site_a.run().await, site_b.run().await);
    a.open(1).await;
    let client = dial(&dir, &a.worker).await;
    let mut producer = Producer::new(&client, 1, 1, BTreeMap::new()).await;
    producer.publish(20).await;
    let mut reader = Reader::open(&client, 1, vec![], vec![]).await;
    reader.next().await.unwrap();
    reader.ack(1, 0, 1).await;
    assert_eq!(reader.confirmed().await, 1);
    assert_eq!(a.seal().await, Offset(20));
    // Only workers may ask for a copy.
    let (mut to, mut from) = client.open().await.unwrap();
    let ask = CopyFrom { queue: queue(), uuid: Uuid(9), attempt: ATTEMPT, from: Offset(0) };
    to.write_control(Kind::CopyFrom, &ask).await.unwrap();
    let refusal = from.expect(Kind::CopyState).await.unwrap_err().refusal();
    assert_eq!(refusal.code, Code::Forbidden);
    drop(a);

    let mut a = site_a.run().await;
    let held = &a.register.queues[0];
    assert_eq!((held.sealed, held.end), (Some(ATTEMPT), Offset(20)));
    b.say(copy_queue(&a.worker)).await;
    assert_eq!(b.synced().await, Offset(20));
    let client = dial(&dir, &a.worker).await;
    let mut waiting = Producer::new(&client, 1, 2, producer.acked).await;
    waiting.send().await;
    waiting.send().await;

    // The move is given up.
    a.say(ToWorker::Unseal { queue: queue(), attempt: ATTEMPT }).await;
    a.until(|event| matches!(event, FromWorker::Unsealed { .. })).await;
    waiting.answer().await.unwrap();
    waiting.answer().await.unwrap();
    b.say(ToWorker::DropCopy { queue: queue(), uuid: Uuid(9), attempt: ATTEMPT }).await;
    b.until(|event| matches!(event, FromWorker::CopyDropped { .. })).await;
    b.worker.shutdown().await;
    let b = site_b.run().await;
    assert!(b.register.copies.is_empty() && b.register.queues.is_empty());
}
