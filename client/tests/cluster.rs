//! The whole SDK over real QUIC against a stand-in for a cluster: one process that is coordinator
//! and worker of a single queue, keeps what is published in memory, and grants the one right to
//! whoever joins. What it answers follows the protocol; it decides nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ringway_client::{Client, Event, HandlerError, Order, PublishError};
use ringway_proto::batch::Batch;
use ringway_proto::codec;
use ringway_proto::control::{FromClient, GrantedRight, Joined, OpenRight, RightOpened, ToClient};
use ringway_proto::data::{AckConfirmed, Append, AppendAnswer, Deliver, DeliverEntry, Ranges};
use ringway_proto::frame::Kind;
use ringway_proto::net::{
    FrameReader, FrameWriter, Limits, Listener, Peer, Role, ServerTls, init_dir,
};
use ringway_proto::routing::{GroupRoute, QueueRoute, Routing, SlotRange, WorkerRoute};
use ringway_proto::{
    Code, Epoch, GroupId, GroupName, Incarnation, Offset, QueueId, Refusal, RightId,
    RoutingVersion, Slot, SubscriptionId, Uuid, WorkerId,
};

const QUEUE: QueueId = QueueId { group: GroupId(1), index: 0 };

#[derive(Default)]
struct Log {
    batches: Vec<Batch>,
    taken: BTreeMap<(Uuid, u64), u64>,
    end: u64,
    acked: Vec<u64>,
    returned: Vec<u64>,
    /// Appends that are refused before any is taken.
    refusals: Vec<Code>,
    /// Said after the routing.
    late: Option<Joined>,
    told: Vec<FromClient>,
}

type Shared = Arc<Mutex<Log>>;

struct Cluster {
    url: String,
    log: Shared,
    workers: Arc<Mutex<Vec<Peer>>>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        init_dir(dir.path()).unwrap();
        let listen = async |role| {
            let tls = ServerTls::load(dir.path(), role).unwrap();
            let any = "127.0.0.1:0".parse().unwrap();
            Listener::bind(any, &tls, "w1", Limits::default()).unwrap()
        };
        let (coordinator, worker) = (listen(Role::Coordinator).await, listen(Role::Worker).await);
        let url = format!("ringway://{}?tls={}", coordinator.local_addr(), dir.path().display());
        let log = Shared::default();
        let workers: Arc<Mutex<Vec<Peer>>> = Arc::default();
        let routing = routing(&worker.local_addr().to_string());
        let shared = log.clone();
        tokio::spawn(async move {
            while let Some(peer) = coordinator.accept().await {
                tokio::spawn(sessions(peer, routing.clone(), shared.clone()));
            }
        });
        let (shared, peers) = (log.clone(), workers.clone());
        tokio::spawn(async move {
            while let Some(peer) = worker.accept().await {
                peers.lock().unwrap().push(peer.clone());
                tokio::spawn(streams(peer, shared.clone()));
            }
        });
        Self { url, log, workers, _dir: dir }
    }

    fn break_connections_to_the_worker(&self) {
        for peer in self.workers.lock().unwrap().drain(..) {
            peer.close(0, "broken by the test");
        }
    }

    fn acked(&self) -> Vec<u64> {
        let mut acked = self.log.lock().unwrap().acked.clone();
        acked.sort_unstable();
        acked
    }
}

fn routing(worker: &str) -> Routing {
    let primary = WorkerId::new("w1").unwrap();
    Routing {
        version: RoutingVersion(1),
        groups: vec![GroupRoute {
            id: QUEUE.group,
            name: GroupName::new("default").unwrap(),
            ring_weight: Some(100),
            max_body_bytes: 1 << 20,
            slots: vec![SlotRange { first: Slot(0), queue: 0 }],
            queues: vec![QueueRoute {
                uuid: Uuid(1),
                epoch: Epoch(1),
                primary: Some(primary.clone()),
            }],
        }],
        bindings: Vec::new(),
        workers: vec![WorkerRoute { id: primary, address: worker.to_owned(), up: true }],
        ..Routing::default()
    }
}

async fn sessions(peer: Peer, routing: Routing, log: Shared) {
    while let Ok((mut w, mut r)) = peer.accept().await {
        let (routing, log) = (routing.clone(), log.clone());
        tokio::spawn(async move {
            let mut incarnation = Incarnation(0);
            while let Ok(Some((_, bytes))) = r.read().await {
                let message: FromClient = codec::decode(&bytes).unwrap();
                if let FromClient::Join(join) = &message {
                    incarnation = join.incarnation;
                }
                for answer in answers(&message, incarnation, &routing) {
                    let _ = w.write_control(Kind::Control, &answer).await;
                }
                let late = log.lock().unwrap().late.take();
                if let Some(late) = late {
                    let _ = w.write_control(Kind::Control, &ToClient::Joined(late)).await;
                }
                log.lock().unwrap().told.push(message);
            }
        });
    }
}

fn answers(message: &FromClient, incarnation: Incarnation, routing: &Routing) -> Vec<ToClient> {
    let subscription = SubscriptionId(1);
    let right = RightId::whole(subscription, QUEUE);
    let epoch = Epoch(1);
    match message.clone() {
        FromClient::Watch { .. } => vec![ToClient::Routing(routing.clone())],
        FromClient::Join(join) => vec![ToClient::Joined(Joined {
            name: join.name,
            subscription,
            member: join.member,
            incarnation: join.incarnation,
            created: true,
            order: join.order.unwrap_or(Order::Key),
            rights: vec![GrantedRight { right, epoch }],
        })],
        FromClient::Leave { member, .. } => {
            vec![ToClient::Revoke { member, right, epoch, deadline_ms: 5000 }]
        }
        FromClient::Drained { member, .. } => {
            vec![ToClient::Left { subscription, member, incarnation }]
        }
        FromClient::Refresh { .. }
        | FromClient::StillDraining { .. }
        | FromClient::Narrowed { .. } => vec![],
    }
}

async fn streams(peer: Peer, log: Shared) {
    while let Ok((w, mut r)) = peer.accept().await {
        let log = log.clone();
        tokio::spawn(async move {
            match r.read().await {
                Ok(Some((Kind::Append, bytes))) => appends(w, r, bytes, log).await,
                Ok(Some((Kind::OpenRight, bytes))) => deliveries(w, r, bytes, log).await,
                _ => {}
            }
        });
    }
}

async fn appends(mut w: FrameWriter, mut r: FrameReader, first: Bytes, log: Shared) {
    let mut next = Some(first);
    while let Some(bytes) = next {
        let append = Append::decode(bytes).unwrap();
        let outcome = {
            let mut log = log.lock().unwrap();
            let key = (append.producer, append.base_sequence.0);
            match (log.taken.get(&key).copied(), log.refusals.pop()) {
                (Some(offset), _) => Ok(Offset(offset)),
                (None, Some(code)) => Err(Refusal::new(code, "not now")),
                (None, None) => {
                    let offset = log.end;
                    log.taken.insert(key, offset);
                    log.end += u64::from(append.count);
                    log.batches.push(Batch::parse(append.batch.clone()).unwrap());
                    Ok(Offset(offset))
                }
            }
        };
        let answer = AppendAnswer {
            queue: append.queue,
            session: append.session,
            base_sequence: append.base_sequence,
            outcome,
            routing: RoutingVersion(1),
        };
        let _ = w.write(Kind::Appended, &[answer.encode()]).await;
        next = r.read().await.ok().flatten().map(|(_, bytes)| bytes);
    }
}

async fn deliveries(mut w: FrameWriter, mut r: FrameReader, first: Bytes, log: Shared) {
    let open: OpenRight = codec::decode(&first).unwrap();
    let held: Vec<u64> = open.held.iter().flat_map(|r| r.offsets()).map(|o| o.0).collect();
    let opened = RightOpened { open: open.open, end: Offset(0) };
    w.write_control(Kind::RightOpened, &opened).await.unwrap();
    if open.ack_number > 0 {
        let acks = open.acks.iter().flat_map(|r| r.offsets()).map(|o| o.0);
        log.lock().unwrap().acked.extend(acks);
        let confirmed = AckConfirmed { open: open.open, number: open.ack_number };
        let _ = w.write(Kind::AckConfirmed, &[confirmed.encode()]).await;
    }
    let mut frames = Vec::new();
    {
        let log = log.lock().unwrap();
        let mut base = 0;
        for batch in &log.batches {
            for i in 0..batch.len() as u64 {
                if held.contains(&(base + i)) || log.acked.contains(&(base + i)) {
                    continue;
                }
                let deliver = Deliver {
                    open: open.open,
                    base_offset: Offset(base),
                    published_at: batch.published_at(),
                    classes: batch.classes().len() as u16,
                    entries: vec![DeliverEntry { index: i as u32, delivery: 1 }],
                    class_table: batch.class_table(),
                    records: Vec::new(),
                };
                frames.push([deliver.header(), batch.records(i as usize, i as usize + 1)]);
            }
            base += batch.len() as u64;
        }
    }
    for frame in frames {
        let _ = w.write(Kind::Deliver, &frame).await;
    }
    while let Ok(Some((kind, bytes))) = r.read().await {
        match kind {
            Kind::Ack => {
                let acks = Ranges::decode(bytes).unwrap();
                let offsets = acks.ranges.iter().flat_map(|r| r.offsets()).map(|o| o.0);
                log.lock().unwrap().acked.extend(offsets);
                let confirmed = AckConfirmed { open: acks.open, number: acks.number };
                let _ = w.write(Kind::AckConfirmed, &[confirmed.encode()]).await;
            }
            Kind::Return => {
                let returned = Ranges::decode(bytes).unwrap();
                let offsets = returned.ranges.iter().flat_map(|r| r.offsets()).map(|o| o.0);
                log.lock().unwrap().returned.extend(offsets);
            }
            Kind::Window => {
                let _ = w.write(Kind::WindowSeen, &[bytes]).await;
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn publishing_rides_out_refusals_and_a_broken_connection() {
    let cluster = Cluster::start().await;
    cluster.log.lock().unwrap().refusals = vec![Code::Busy, Code::NotYet];
    let client = Client::connect(&cluster.url).await.unwrap();
    let first = client.publish("a.b", "0").key("k").await.unwrap();
    assert_eq!((first.queue.as_str(), first.offset), ("default/0", 0));
    let producer = client.producer().build();
    for n in 1..200u32 {
        if n % 50 == 0 {
            cluster.break_connections_to_the_worker();
        }
        producer.send("a.b", n.to_string()).key("k").await.unwrap();
    }
    assert_eq!(producer.flush().await.unwrap().stored, 199);
    let log = cluster.log.lock().unwrap();
    let bodies: Vec<Bytes> =
        log.batches.iter().flat_map(|b| (0..b.len()).map(|i| b.message(i).unwrap().body)).collect();
    let expected: Vec<String> = (0..200).map(|n: u32| n.to_string()).collect();
    assert_eq!(bodies, expected, "lost, doubled or out of order");
}

#[tokio::test]
async fn messages_are_received_acked_and_not_seen_again_after_a_broken_connection() {
    let cluster = Cluster::start().await;
    let client = Client::connect(&cluster.url).await.unwrap();
    for n in 0..6 {
        client.publish("a.b", n.to_string()).key(format!("k{}", n % 3)).await.unwrap();
    }
    let mut seat = client.subscribe("a.>").name("s").member("m").join().await.unwrap();
    assert!(seat.created());
    let mut seen = Vec::new();
    for n in 0..6 {
        let delivery = seat.next().await.unwrap().unwrap();
        seen.push(delivery.text().unwrap().to_owned());
        if n == 2 {
            cluster.break_connections_to_the_worker();
        }
        delivery.ack_confirmed().await.unwrap();
    }
    seen.sort();
    assert_eq!(seen, ["0", "1", "2", "3", "4", "5"]);
    assert_eq!(cluster.acked(), [0, 1, 2, 3, 4, 5]);
    let mut events = seat.events();
    assert_eq!(events.next().await, Some(Event::Ready));
    let granted = Event::Granted { queue: "default/0".into(), epoch: 1 };
    assert_eq!(events.next().await, Some(granted));
}

#[tokio::test]
async fn handlers_keep_the_order_of_a_key_and_a_stop_gives_the_unread_back() {
    let cluster = Cluster::start().await;
    let client = Client::connect(&cluster.url).await.unwrap();
    for n in 0..40u32 {
        client.publish("a.b", n.to_string()).key(format!("k{}", n % 4)).await.unwrap();
    }
    let seen: Arc<Mutex<Vec<u32>>> = Arc::default();
    let (enough, stop) = tokio::sync::watch::channel(0);
    let until = {
        let mut stop = stop.clone();
        async move {
            stop.wait_for(|n| *n >= 20).await.ok();
        }
    };
    let (sink, enough) = (seen.clone(), Arc::new(enough));
    let consume =
        client.subscribe("a.>").name("s").until(until).concurrency(4).for_each(move |message| {
            let (sink, enough) = (sink.clone(), enough.clone());
            async move {
                let n: u32 = message.text()?.parse()?;
                sink.lock().unwrap().push(n);
                tokio::task::yield_now().await;
                enough.send_modify(|count| *count += 1);
                Ok::<(), HandlerError>(())
            }
        });
    let summary = consume.await.unwrap();
    let seen = seen.lock().unwrap().clone();
    for key in 0..4 {
        let of_key: Vec<u32> = seen.iter().copied().filter(|n| n % 4 == key).collect();
        assert!(of_key.is_sorted(), "{of_key:?}");
    }
    let mut all: Vec<u64> = cluster.acked();
    assert_eq!(all.len(), seen.len(), "what was handled is acked, and nothing else");
    assert_eq!(summary.handled, seen.len() as u64);
    all.extend(&cluster.log.lock().unwrap().returned);
    all.sort_unstable();
    all.dedup();
    assert_eq!(all, (0..40).collect::<Vec<u64>>(), "acked or given back");
    let told = cluster.log.lock().unwrap().told.clone();
    assert!(told.iter().any(|m| matches!(m, FromClient::Drained { .. })));
}

#[tokio::test]
async fn a_handler_that_panics_before_it_returns_a_future_hurts_only_its_message() {
    let cluster = Cluster::start().await;
    let client = Client::connect(&cluster.url).await.unwrap();
    for n in 0..4u32 {
        client.publish("a.b", n.to_string()).key(n.to_string()).await.unwrap();
    }
    let (handled, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let stop = async move {
        for _ in 0..3 {
            seen.recv().await;
        }
    };
    let summary = client.subscribe("a.>").name("s").until(stop).for_each(move |message| {
        assert_ne!(message.text().unwrap(), "1", "this one panics");
        let handled = handled.clone();
        async move {
            handled.send(())?;
            Ok::<(), HandlerError>(())
        }
    });
    let summary = summary.await.unwrap();
    assert_eq!((summary.handled, summary.retried), (3, 1));
    assert_eq!(cluster.acked().len(), 3);
}

#[tokio::test]
async fn a_seat_that_nobody_waits_for_any_more_is_left_again() {
    let cluster = Cluster::start().await;
    // The answer to a join that was given up.
    let late = Joined {
        name: "s".parse().unwrap(),
        subscription: SubscriptionId(1),
        member: "m".parse().unwrap(),
        incarnation: Incarnation(7),
        created: false,
        order: Order::Key,
        rights: vec![],
    };
    cluster.log.lock().unwrap().late = Some(late);
    let _client = Client::connect(&cluster.url).await.unwrap();
    let is_left = || {
        let left =
            |m: &FromClient| matches!(m, FromClient::Leave { incarnation: Incarnation(7), .. });
        cluster.log.lock().unwrap().told.iter().any(left)
    };
    let left = async {
        while !is_left() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), left).await.expect("a seat without a holder");
}

#[tokio::test]
async fn a_closed_client_says_so_and_an_unreachable_one_says_where_it_looked() {
    let cluster = Cluster::start().await;
    let client = Client::connect(&cluster.url).await.unwrap();
    let also = client.clone();
    assert!(client.close().await.is_empty());
    assert_eq!(also.publish("a.b", "x").await.unwrap_err(), PublishError::Closed);

    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (_, tls) = cluster.url.split_once('?').unwrap();
    let refused = Client::builder(&format!("ringway://{nobody}?{tls}"))
        .connect_timeout(Duration::from_millis(100))
        .connect()
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), "unreachable");
    assert!(refused.to_string().contains(&nobody.to_string()), "{refused}");
}
