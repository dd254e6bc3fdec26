//! A worker over real QUIC, between a coordinator and a client that are played by the test.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ringway_proto::admin::{WorkerRequest, WorkerResponse};
use ringway_proto::batch::BatchBuilder;
use ringway_proto::control::{
    FromWorker, OpenQueue, OpenRight, Order, Register, RightEpoch, RightOpened, Start,
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
use ringway_proto::routing::Routing;
use ringway_proto::url::UrlAuth;
use ringway_proto::{
    Attempt, Class, Code, Epoch, Filter, GroupId, Holder, Incarnation, MemberId, Offset,
    OpenNumber, QueueId, RightId, RoutingVersion, Sequence, Session, SubscriptionId,
    SubscriptionName, Uuid, WallTime, WorkerId, codec,
};
use ringway_worker::journal::{Disk, SystemDisk};
use ringway_worker::{Config, Worker};

const LOCAL: &str = "127.0.0.1:0";

fn queue() -> QueueId {
    QueueId::new(GroupId(1), 0)
}

fn holder() -> Holder {
    Holder { member: MemberId::new("m1").unwrap(), incarnation: Incarnation(1) }
}

fn right(subscription: u32) -> RightId {
    RightId::whole(SubscriptionId(subscription), queue())
}

fn setup(id: u32, filter: &str) -> SubscriptionSetup {
    SubscriptionSetup {
        id: SubscriptionId(id),
        name: SubscriptionName::new(format!("s{id}")).unwrap(),
        filter: Filter::new(filter).unwrap(),
        order: Order::Key,
        start: Start::Start,
    }
}

/// The queue, read by everything (1) and by what matches `a.even` (2).
fn open_queue() -> ToWorker {
    let rights =
        [1, 2].map(|s| RightEpoch { right: right(s), epoch: Epoch(1), holder: Some(holder()) });
    ToWorker::OpenQueue(OpenQueue {
        queue: queue(),
        name: "orders/0".into(),
        uuid: Uuid(9),
        epoch: Epoch(1),
        max_body_bytes: 1000,
        subscriptions: vec![setup(1, ">"), setup(2, "a.even")],
        rights: rights.into(),
        moves: vec![],
    })
}

/// The coordinator's side of the session stream.
struct Link {
    to: FrameWriter,
    from: FrameReader,
    register: Register,
}

impl Link {
    async fn accept(listener: &Listener) -> Self {
        let peer = listener.accept().await.unwrap();
        assert_eq!((peer.role(), peer.name()), (Role::Worker, "w1"));
        let (to, mut from) = peer.accept().await.unwrap();
        let first = from.expect(Kind::Control).await.unwrap();
        let FromWorker::Register(register) = codec::decode(&first).unwrap() else {
            panic!("the first message registers");
        };
        Self { to, from, register }
    }

    async fn say(&mut self, message: ToWorker) {
        self.to.write_control(Kind::Control, &message).await.unwrap();
    }

    async fn hear(&mut self) -> FromWorker {
        codec::decode(&self.from.expect(Kind::Control).await.unwrap()).unwrap()
    }
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        init_dir(&place.tls()).unwrap();
        place
    }

    fn tls(&self) -> std::path::PathBuf {
        self.dir.path().join("tls")
    }

    fn coordinator(&self) -> Listener {
        let tls = ServerTls::load(&self.tls(), Role::Coordinator).unwrap();
        Listener::bind(LOCAL.parse().unwrap(), &tls, "c1", Limits::default()).unwrap()
    }

    fn config(&self, coordinator: SocketAddr) -> Config {
        let data: &Path = self.dir.path();
        let id = WorkerId::new("w1").unwrap();
        let coordinators = vec![coordinator.to_string()];
        Config::new(id, LOCAL.parse().unwrap(), data.join("w1"), coordinators, self.tls())
    }

    /// A worker that has opened the queue.
    async fn serving(&self, change: impl Fn(&mut Config)) -> (Listener, Link, Worker) {
        let listener = self.coordinator();
        let mut config = self.config(listener.local_addr());
        change(&mut config);
        let worker = Worker::start(config).await.unwrap();
        let mut session = Link::accept(&listener).await;
        session.say(ToWorker::Registered).await;
        session.say(open_queue()).await;
        let opened = FromWorker::QueueOpened { queue: queue(), epoch: Epoch(1) };
        assert_eq!(session.hear().await, opened);
        (listener, session, worker)
    }

    async fn client(&self, worker: &Worker) -> Peer {
        let tls = ClientTls::from_url(&UrlAuth::Dir(self.tls())).unwrap();
        let address = worker.local_addr().to_string();
        let dialer = Dialer::new(tls, "test");
        dialer.dial(&address, Role::Worker, Duration::from_secs(5)).await.unwrap()
    }
}

/// Messages `from..to`, of class `a.even` or `a.odd`; the body is `needle-N;`.
fn append(from: u64, to: u64, session: u32) -> Append {
    let mut builder = BatchBuilder::new();
    for n in from..to {
        let class = if n % 2 == 0 { "a.even" } else { "a.odd" };
        builder.push(&Message::new(Class::new(class).unwrap(), format!("needle-{n};")));
    }
    Append {
        queue: queue(),
        epoch: Epoch(1),
        routing: RoutingVersion(0),
        producer: Uuid(3),
        session: Session(session),
        base_sequence: Sequence(from),
        count: (to - from) as u32,
        batch: builder.finish(WallTime(1)),
    }
}

async fn send(to: &mut FrameWriter, append: &Append) {
    to.write(Kind::Append, &[append.header(), append.batch.clone()]).await.unwrap();
}

async fn outcome(from: &mut FrameReader) -> Result<Offset, Code> {
    let answer = AppendAnswer::decode(from.expect(Kind::Appended).await.unwrap()).unwrap();
    answer.outcome.map_err(|refusal| refusal.code)
}

fn open_right(subscription: u32, open: u64) -> OpenRight {
    OpenRight {
        right: right(subscription),
        epoch: Epoch(1),
        holder: holder(),
        open: OpenNumber(open),
        held: vec![],
        held_lanes: Vec::new(),
        handed_out: vec![],
        acks: vec![],
        ack_number: 0,
        window: Window { number: 1, messages: 1000, bytes: 1 << 20 },
    }
}

async fn opened(client: &Peer, request: &OpenRight) -> (FrameWriter, FrameReader, RightOpened) {
    let (mut to, mut from) = client.open().await.unwrap();
    to.write_control(Kind::OpenRight, request).await.unwrap();
    let opened = codec::decode(&from.expect(Kind::RightOpened).await.unwrap()).unwrap();
    (to, from, opened)
}

/// Reads deliveries until `n` messages have come: their offsets.
async fn delivered(from: &mut FrameReader, n: usize) -> Vec<u64> {
    let mut offsets = Vec::new();
    while offsets.len() < n {
        let frame = from.expect(Kind::Deliver).await.unwrap();
        let deliver = Deliver::decode(frame).unwrap();
        let classes =
            ringway_proto::batch::parse_classes(&deliver.class_table, deliver.classes.into());
        let (classes, mut records) = (classes.unwrap(), deliver.records[0].clone());
        for entry in &deliver.entries {
            let (message, len) = ringway_proto::batch::parse_record(&records, &classes).unwrap();
            let offset = deliver.base_offset.0 + u64::from(entry.index);
            assert_eq!(message.body, format!("needle-{offset};"));
            offsets.push(offset);
            records = records.split_off(len);
        }
    }
    offsets
}

async fn ack(to: &mut FrameWriter, open: u64, number: u64, ranges: Vec<OffsetRange>) {
    let acks = Ranges { open: OpenNumber(open), number, ranges };
    to.write(Kind::Ack, &[acks.encode()]).await.unwrap();
}

async fn confirmed(from: &mut FrameReader) -> u64 {
    AckConfirmed::decode(from.expect(Kind::AckConfirmed).await.unwrap()).unwrap().number
}

#[tokio::test]
async fn what_was_acked_survives_a_restart_without_a_coordinator() {
    let place = Place::new();
    let (coordinator, mut session, worker) = place.serving(|_| {}).await;
    assert!(session.register.queues.is_empty());
    let client = place.client(&worker).await;
    let (mut to, mut from) = client.open().await.unwrap();
    send(&mut to, &append(0, 3, 1)).await;
    assert_eq!(outcome(&mut from).await, Ok(Offset(0)));
    assert_eq!(session.hear().await, FromWorker::HasData { queue: queue() });
    // A repeat, a gap, and a body that is too large.
    send(&mut to, &append(0, 3, 2)).await;
    assert_eq!(outcome(&mut from).await, Ok(Offset(0)));
    send(&mut to, &append(4, 5, 2)).await;
    assert_eq!(outcome(&mut from).await, Err(Code::SequenceGap));
    let mut large = BatchBuilder::new();
    large.push(&Message::new(Class::new("a.b").unwrap(), vec![0; 1001]));
    let large = Append { count: 1, batch: large.finish(WallTime(1)), ..append(3, 4, 3) };
    send(&mut to, &large).await;
    assert_eq!(outcome(&mut from).await, Err(Code::TooLarge));
    send(&mut to, &Append { count: 9, ..append(3, 4, 4) }).await;
    assert_eq!(outcome(&mut from).await, Err(Code::Protocol));

    let (mut to, mut from, first) = opened(&client, &open_right(1, 1)).await;
    assert_eq!(first, RightOpened { open: OpenNumber(1), end: Offset(3) });
    assert_eq!(delivered(&mut from, 3).await, [0, 1, 2]);
    ack(&mut to, 1, 1, vec![OffsetRange::new(0, 2)]).await;
    assert_eq!(confirmed(&mut from).await, 1);
    worker.shutdown().await;
    drop((coordinator, session));

    // Nobody answers where the coordinator was.
    let worker = Worker::start(place.config("127.0.0.1:9".parse().unwrap())).await.unwrap();
    assert!(!worker.is_ready());
    let client = place.client(&worker).await;
    let (mut to, mut from) = client.open().await.unwrap();
    send(&mut to, &append(0, 3, 5)).await;
    assert_eq!(outcome(&mut from).await, Ok(Offset(0)), "dedup survives");
    send(&mut to, &append(3, 6, 5)).await;
    assert_eq!(outcome(&mut from).await, Ok(Offset(3)));
    let (_to, mut all, first) = opened(&client, &open_right(1, 2)).await;
    assert_eq!(first.end, Offset(6));
    assert_eq!(delivered(&mut all, 4).await, [2, 3, 4, 5]);
    // The other subscription reads from disk what was stored before, and only what matches.
    let (mut to, mut even, _) = opened(&client, &open_right(2, 1)).await;
    assert_eq!(delivered(&mut even, 3).await, [0, 2, 4]);
    ack(&mut to, 1, 1, vec![OffsetRange::new(0, 5)]).await;
    assert_eq!(confirmed(&mut even).await, 1);
    let question = WorkerRequest::Lag { subscription: SubscriptionId(1) };
    let WorkerResponse::Lag(lag) = client.request(&question, Duration::from_secs(5)).await.unwrap();
    let lag: Vec<_> = lag.iter().map(|l| (l.queue.as_str(), l.lag_messages, l.floor)).collect();
    assert_eq!(lag, [("orders/0", 4, Offset(2))]);
    let families = worker.registry().gather();
    worker.shutdown().await;
    lint(&prometheus::TextEncoder::new().encode_to_string(&families).unwrap());
}

/// What Prometheus' own linter says of these metrics, where it is installed.
fn lint(text: &str) {
    for counted in [
        "ringway_messages_published_total{group=\"orders\",worker=\"w1\"} 3",
        "ringway_messages_delivered_total{group=\"orders\",subscription=\"s2\",worker=\"w1\"} 3",
        "ringway_acks_total{subscription=\"s2\",worker=\"w1\"} 3",
        "ringway_duplicates_total{worker=\"w1\"} 1",
        "ringway_publish_seconds_count{worker=\"w1\"} 2",
    ] {
        assert!(text.contains(counted), "{counted} in {text}");
    }
    let linter = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut linter) = linter else {
        eprintln!("skipped promtool: it is not installed");
        return;
    };
    linter.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let said = linter.wait_with_output().unwrap();
    assert!(said.status.success() && said.stderr.is_empty(), "{said:?}");
}

#[tokio::test]
async fn a_raise_fences_the_older_stream_and_a_new_registration_tells_all() {
    let place = Place::new();
    let (listener, mut session, worker) = place.serving(|_| {}).await;
    session
        .say(ToWorker::Routing(Routing { version: RoutingVersion(7), ..Routing::default() }))
        .await;
    let client = place.client(&worker).await;
    let (mut to, mut old, _) = opened(&client, &open_right(1, 1)).await;
    let to_new = Holder { incarnation: Incarnation(2), ..holder() };
    let raise = RightEpoch { right: right(1), epoch: Epoch(2), holder: Some(to_new.clone()) };
    session.say(ToWorker::Raise(raise)).await;
    let raised = FromWorker::RightRaised { right: right(1), epoch: Epoch(2) };
    assert_eq!(session.hear().await, raised);
    let fenced = old.expect(Kind::Deliver).await.unwrap_err().refusal();
    assert_eq!(fenced.code, Code::Fenced);
    // The stream is over; what is still said on it goes nowhere.
    let late = Ranges { open: OpenNumber(1), number: 1, ranges: vec![OffsetRange::new(0, 1)] };
    let _ = to.write(Kind::Ack, &[late.encode()]).await;

    session
        .say(ToWorker::SealQueue {
            queue: queue(),
            epoch: Epoch(1),
            attempt: Attempt(1),
            only_if_empty: true,
        })
        .await;
    let sealed = FromWorker::Sealed { queue: queue(), attempt: Attempt(1), end: Offset(0) };
    assert_eq!(session.hear().await, sealed);
    assert!(worker.is_ready());
    drop(session);
    let mut session = Link::accept(&listener).await;
    let held = &session.register.queues[0];
    assert_eq!((held.uuid, held.epoch, held.sealed), (Uuid(9), Epoch(1), Some(Attempt(1))));
    session.say(ToWorker::Superseded).await;
    assert_eq!(worker.failed().await.code, Code::Superseded);
    assert!(!worker.is_ready());
    worker.shutdown().await;
}

/// Knows which needles were written, and which of them were synced since.
#[derive(Default)]
struct Watching {
    written: Mutex<HashSet<String>>,
    synced: Mutex<HashSet<String>>,
    full: AtomicBool,
}

impl Disk for Watching {
    fn write(&self, file: &File, position: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        if self.full.load(Ordering::SeqCst) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.to_vec()).collect();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let needles = text.split("needle-").skip(1).filter_map(|rest| rest.split(';').next());
        self.written.lock().unwrap().extend(needles.map(str::to_owned));
        SystemDisk.write(file, position, parts)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        let written = std::mem::take(&mut *self.written.lock().unwrap());
        SystemDisk.sync(file)?;
        self.synced.lock().unwrap().extend(written);
        Ok(())
    }

    fn truncate(&self, file: &File, len: u64) -> io::Result<()> {
        SystemDisk.truncate(file, len)
    }
}

#[tokio::test]
async fn no_answer_precedes_its_sync() {
    let place = Place::new();
    let disk = Arc::new(Watching::default());
    let (_listener, _session, worker) =
        place.serving(|config| config.disk = Some(Arc::clone(&disk) as _)).await;
    let client = place.client(&worker).await;
    let (mut to, mut from) = client.open().await.unwrap();
    let publish = async {
        for n in 0..500 {
            send(&mut to, &append(n, n + 1, 1)).await;
        }
    };
    let check = async {
        for n in 0..500 {
            assert_eq!(outcome(&mut from).await, Ok(Offset(n)));
            assert!(disk.synced.lock().unwrap().contains(&n.to_string()), "{n} was not synced");
        }
    };
    tokio::join!(publish, check);
    worker.shutdown().await;
}

#[tokio::test]
async fn a_full_disk_refuses_publishes_and_goes_on_by_itself() {
    let place = Place::new();
    let disk = Arc::new(Watching::default());
    let (_listener, _session, worker) =
        place.serving(|config| config.disk = Some(Arc::clone(&disk) as _)).await;
    let client = place.client(&worker).await;
    let (mut to, mut from) = client.open().await.unwrap();
    send(&mut to, &append(0, 2, 1)).await;
    assert_eq!(outcome(&mut from).await, Ok(Offset(0)));
    let (mut acks, mut reader, _) = opened(&client, &open_right(1, 1)).await;
    assert_eq!(delivered(&mut reader, 2).await, [0, 1]);

    disk.full.store(true, Ordering::SeqCst);
    ack(&mut acks, 1, 1, vec![OffsetRange::new(0, 2)]).await;
    for n in 2..5 {
        send(&mut to, &append(n, n + 1, 1)).await;
    }
    let mut refused = Vec::new();
    for _ in 2..5 {
        refused.push(outcome(&mut from).await.unwrap_err());
    }
    assert_eq!(refused[0], Code::DiskFull);
    assert!(refused.iter().all(|c| matches!(c, Code::DiskFull | Code::SequenceGap)), "{refused:?}");
    disk.full.store(false, Ordering::SeqCst);
    send(&mut to, &append(2, 5, 2)).await;
    assert_eq!(outcome(&mut from).await, Ok(Offset(2)));
    assert_eq!(confirmed_or_delivered(&mut reader).await, 1);
    worker.shutdown().await;
}

/// The number of the next confirmation, deliveries before it passed over.
async fn confirmed_or_delivered(from: &mut FrameReader) -> u64 {
    loop {
        match from.read().await.unwrap() {
            Some((Kind::AckConfirmed, payload)) => {
                return AckConfirmed::decode(payload).unwrap().number;
            }
            Some((Kind::Deliver, _)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn garbage_and_orders_from_a_client_are_refused() {
    let place = Place::new();
    let (_listener, _session, worker) = place.serving(|_| {}).await;
    let client = place.client(&worker).await;
    for (kind, payload, code) in [
        (Kind::Control, codec::encode(&ToWorker::Superseded).unwrap(), Code::Forbidden),
        (Kind::Deliver, Bytes::from_static(b"x"), Code::Protocol),
        (Kind::Append, Bytes::from_static(b"x"), Code::Protocol),
        (Kind::OpenRight, Bytes::from_static(b"x"), Code::Protocol),
        (Kind::Request, Bytes::from_static(b"x"), Code::Protocol),
    ] {
        let (mut to, mut from) = client.open().await.unwrap();
        to.write(kind, &[payload]).await.unwrap();
        let refusal = from.expect(Kind::Response).await.unwrap_err().refusal();
        assert_eq!(refusal.code, code, "{kind:?}: {refusal}");
    }
    // Others are unharmed.
    let (mut to, mut from) = client.open().await.unwrap();
    send(&mut to, &append(0, 1, 1)).await;
    assert_eq!(outcome(&mut from).await, Ok(Offset(0)));
    worker.shutdown().await;
}

#[tokio::test]
async fn a_process_that_was_refused_the_right_acks_nothing() {
    let place = Place::new();
    let (_listener, _session, worker) = place.serving(|_| {}).await;
    let client = place.client(&worker).await;
    let (mut to, mut from) = client.open().await.unwrap();
    send(&mut to, &append(0, 2, 1)).await;
    assert_eq!(outcome(&mut from).await, Ok(Offset(0)));
    let (_right, mut deliveries, _) = opened(&client, &open_right(1, 1)).await;
    assert_eq!(delivered(&mut deliveries, 2).await, [0, 1]);

    // Another process names the holder's epoch and does not wait for the answer.
    let other = Holder { incarnation: Incarnation(2), ..holder() };
    for open in 2..20 {
        let (mut to, mut from) = client.open().await.unwrap();
        let request = OpenRight { holder: other.clone(), ..open_right(1, open) };
        let acks =
            Ranges { open: OpenNumber(open), number: 1, ranges: vec![OffsetRange::new(0, 2)] };
        to.push_control(Kind::OpenRight, &request).unwrap();
        to.push(Kind::Ack, &[acks.encode()]).unwrap();
        to.flush().await.unwrap();
        let refusal = from.expect(Kind::RightOpened).await.unwrap_err().refusal();
        assert_eq!(refusal.code, Code::Fenced);
    }
    assert_eq!(floor(&client, 1).await, Offset(0));
    worker.shutdown().await;
}

#[tokio::test]
async fn a_clean_close_keeps_what_was_passed_over() {
    let place = Place::new();
    let (_listener, _session, worker) = place.serving(|_| {}).await;
    let client = place.client(&worker).await;
    let (mut to, mut from) = client.open().await.unwrap();
    let (_right, mut even, first) = opened(&client, &open_right(2, 1)).await;
    assert_eq!(first.end, Offset(0));
    // Only the last of them is for this subscription.
    for (sequence, n) in [1, 3, 4].into_iter().enumerate() {
        let base_sequence = Sequence(sequence as u64);
        send(&mut to, &Append { base_sequence, ..append(n, n + 1, 1) }).await;
        outcome(&mut from).await.unwrap();
    }
    let deliver = Deliver::decode(even.expect(Kind::Deliver).await.unwrap()).unwrap();
    assert_eq!(deliver.base_offset, Offset(2));
    assert_eq!(floor(&client, 2).await, Offset(2));
    worker.shutdown().await;

    let worker = Worker::start(place.config("127.0.0.1:9".parse().unwrap())).await.unwrap();
    let client = place.client(&worker).await;
    assert_eq!(floor(&client, 2).await, Offset(2));
    worker.shutdown().await;
}

/// Up to where a subscription is done with the queue.
async fn floor(client: &Peer, subscription: u32) -> Offset {
    let question = WorkerRequest::Lag { subscription: SubscriptionId(subscription) };
    let WorkerResponse::Lag(lag) = client.request(&question, Duration::from_secs(5)).await.unwrap();
    lag[0].floor
}
