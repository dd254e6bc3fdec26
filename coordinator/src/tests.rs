//! A whole coordinator over real QUIC on loopback, with peers that speak the protocol by hand.

use std::path::Path;
use std::time::Duration;

use ringway_proto::admin::{AdminRequest, AdminResponse};
use ringway_proto::control::*;
use ringway_proto::frame::Kind;
use ringway_proto::net::*;
use ringway_proto::url::UrlAuth;
use ringway_proto::*;

use super::*;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        init_dir(&dir.path().join("tls")).unwrap();
        Self { dir }
    }

    fn tls(&self) -> PathBuf {
        self.dir.path().join("tls")
    }

    async fn start(&self) -> Result<Coordinator, StartError> {
        let data = self.dir.path().join("data");
        let listen = "127.0.0.1:0".parse().unwrap();
        Coordinator::start(Config::new("c1", listen, data, self.tls())).await
    }

    async fn client(&self, to: &Coordinator) -> Peer {
        let tls = ClientTls::from_url(&UrlAuth::Dir(self.tls())).unwrap();
        dial(Dialer::new(tls, "client"), to).await
    }

    async fn worker(&self, to: &Coordinator, name: &str) -> Peer {
        let server = ServerTls::load(&self.tls(), Role::Worker).unwrap();
        dial(Dialer::new(ClientTls::from_server(&server), name), to).await
    }
}

async fn dial(dialer: Dialer, to: &Coordinator) -> Peer {
    let address = to.local_addr().to_string();
    dialer.dial(&address, Role::Coordinator, Duration::from_secs(5)).await.unwrap()
}

async fn ask(peer: &Peer, request: AdminRequest) -> Result<AdminResponse, RpcError> {
    peer.request(&request, Duration::from_secs(5)).await
}

async fn session<M: serde::Serialize>(peer: &Peer, first: &M) -> (FrameWriter, FrameReader) {
    let (mut writer, reader) = peer.open().await.unwrap();
    writer.write_control(Kind::Control, first).await.unwrap();
    (writer, reader)
}

async fn next<M: serde::de::DeserializeOwned>(reader: &mut FrameReader) -> M {
    codec::decode(&reader.expect(Kind::Control).await.unwrap()).unwrap()
}

fn register(name: &str) -> FromWorker {
    FromWorker::Register(Register {
        worker: WorkerId::new(name).unwrap(),
        incarnation: Incarnation(1),
        journal: Uuid(1),
        address: "127.0.0.1:7401".into(),
        http: None,
        weight: 100,
        zone: None,
        queues: Vec::new(),
        copies: Vec::new(),
    })
}

fn create(name: &str) -> AdminRequest {
    AdminRequest::GroupCreate {
        name: GroupName::new(name).unwrap(),
        queues: 4,
        ring_weight: None,
        max_body_bytes: None,
    }
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
}

#[tokio::test]
async fn a_worker_gets_its_queues_and_a_watcher_the_routing() {
    let place = Place::new();
    let coordinator = place.start().await.unwrap();
    assert!(coordinator.is_ready());
    let client = place.client(&coordinator).await;
    let watch = FromClient::Watch { have: RoutingVersion(0) };
    let (_client_writer, mut updates) = session(&client, &watch).await;
    let ToClient::Routing(first) = next(&mut updates).await else { panic!("no routing") };
    assert_eq!(first.groups[0].queues.len(), 16);

    let worker = place.worker(&coordinator, "w1").await;
    let (_worker_writer, mut orders) = session(&worker, &register("w1")).await;
    assert_eq!(next::<ToWorker>(&mut orders).await, ToWorker::Registered);
    let mut opened = 0;
    while opened < 16 {
        if let ToWorker::OpenQueue(open) = next(&mut orders).await {
            assert_eq!(open.epoch, Epoch(1));
            opened += 1;
        }
    }
    let ToClient::Routing(second) = next(&mut updates).await else { panic!("no routing") };
    assert!(second.version > first.version);
    assert_eq!(second.groups[0].queues[0].primary, Some(WorkerId::new("w1").unwrap()));
    coordinator.shutdown().await;
}

#[tokio::test]
async fn a_worker_whose_connection_breaks_has_its_full_time_from_its_last_ping() {
    let place = Place::new();
    let coordinator = place.start().await.unwrap();
    let client = place.client(&coordinator).await;
    let worker = place.worker(&coordinator, "w1").await;
    let (_writer, mut orders) = session(&worker, &register("w1")).await;
    assert_eq!(next::<ToWorker>(&mut orders).await, ToWorker::Registered);
    let registered = Instant::now();
    let pinged = || worker.last_answer().unwrap();
    while pinged() < registered + Duration::from_millis(500) {
        assert!(is_up(&client).await);
    }
    worker.close(0, "broken");
    while is_up(&client).await {}
    assert!(pinged().elapsed() >= crate::Timing::default().lapse(), "{:?}", pinged().elapsed());
    coordinator.shutdown().await;
}

async fn is_up(client: &Peer) -> bool {
    match ask(client, AdminRequest::ClusterWorkers).await {
        Ok(AdminResponse::Workers(workers)) => workers.iter().any(|w| w.state == "up"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_was_made_is_there_after_a_restart_and_the_directory_is_free_again() {
    let place = Place::new();
    let coordinator = place.start().await.unwrap();
    let client = place.client(&coordinator).await;
    let made = ask(&client, create("orders")).await.unwrap();
    assert!(matches!(made, AdminResponse::GroupCreated { created: true, .. }));
    let refusal = place.start().await.err().unwrap().refusal();
    assert_eq!(refusal.code, Code::InUse);
    coordinator.shutdown().await;

    let coordinator = place.start().await.unwrap();
    let client = place.client(&coordinator).await;
    let made = ask(&client, create("orders")).await.unwrap();
    assert!(matches!(made, AdminResponse::GroupCreated { created: false, .. }));
    coordinator.shutdown().await;
}

#[tokio::test]
async fn a_client_cannot_register_and_garbage_harms_nobody_else() {
    let place = Place::new();
    let coordinator = place.start().await.unwrap();
    let good = place.client(&coordinator).await;
    let bad = place.client(&coordinator).await;
    let (_writer, mut reader) = session(&bad, &register("w1")).await;
    assert!(!matches!(reader.read().await, Ok(Some(_))));
    assert!(
        matches!(bad.closed().await, Closed::ByPeer { code, .. } if code == u32::from(Code::Protocol.number()))
    );

    let (mut writer, mut reader) = good.open().await.unwrap();
    writer.write(Kind::Append, &[vec![1, 2, 3].into()]).await.unwrap();
    let Err(NetError::Refused(refusal)) = reader.expect(Kind::Control).await else { panic!() };
    assert_eq!(refusal.code, Code::Unsupported);
    let Ok(AdminResponse::Workers(workers)) = ask(&good, AdminRequest::ClusterWorkers).await else {
        panic!("no answer")
    };
    assert!(workers.is_empty());
    coordinator.shutdown().await;
}

#[tokio::test]
async fn without_certificates_nothing_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let listen = "127.0.0.1:0".parse().unwrap();
    let config = Config::new("c1", listen, data.clone(), dir.path().join("none"));
    assert!(matches!(Coordinator::start(config).await, Err(StartError::Tls(_))));
    assert!(is_empty(&data));
}
