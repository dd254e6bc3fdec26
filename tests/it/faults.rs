//! Bad input and faults: each is refused in one sentence with the documented exit code, and
//! nobody else is harmed.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::harness::{Caller, Cluster, Scratch, Up, free_ports, read};

const LIMIT: Duration = Duration::from_secs(180);

#[test]
fn who_is_not_trusted_is_told_so() {
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 1);
    let address = format!("127.0.0.1:{}", up.port());
    let other = scratch.path("other");
    scratch.ringway(["tls", "init", other.to_str().unwrap()]).ok();
    let status = |url: String| Caller::new(&scratch, url).run(&["cluster", "status"]).output();

    status(format!("ringway://{address}?tls={}", other.display())).refused(
        3,
        "untrusted",
        &[&address],
    );
    let ca = up.data().join("tls/ca.pem");
    let with_token = |token: &str| format!("ringway://{address}?ca={}&token={token}", ca.display());
    let bad = "0123456789abcdef0123456789abcdef";
    let refused = status(with_token(bad)).refused(1, "unauthorized", &[]);
    assert!(!refused.stderr.contains(bad), "a secret is never printed");
    let good = read(&up.data().join("tls/client.token"));
    status(with_token(good.trim())).exits(0);
    let missing = format!("ringway://{address}?tls={}", scratch.path("nowhere").display());
    assert_ne!(status(missing).code, 0);
}

#[test]
fn bad_classes_filters_groups_and_bodies_are_refused_with_what_is_wrong() {
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 1);
    let caller = up.caller();
    let cases: [(&[&str], &str, &[&str]); 6] = [
        (&["pub", "orders..new", "x"], "invalid-class", &["orders..new", "token 2"]),
        (&["pub", "orders.*", "x"], "invalid-class", &["orders.*"]),
        (&["sub", "a.>.b", "--as", "s"], "invalid-filter", &["a.>.b"]),
        (&["sub", "a.>", "--as", "no name"], "invalid-name", &["no name"]),
        (&["bind", "a..b", "default"], "invalid-filter", &["a..b"]),
        (&["bind", "a.>", "nowhere"], "unknown-group", &["nowhere"]),
    ];
    for (command, code, words) in cases {
        caller.run(command).output().refused(1, code, words);
    }
    let most = 1 << 20;
    caller.run(&["pub", "a.b", "-"]).stdin(vec![b'x'; most]).ok();
    let over = caller.run(&["pub", "a.b", "-"]).stdin(vec![b'x'; most + 1]).output();
    let over = over.refused(1, "too-large", &["default"]).stderr.replace(',', "");
    assert!(over.contains("1048577") && over.contains("1048576"), "both sizes: {over}");
    // The same in a line among others.
    let long = format!(r#"{{"n":"{}"}}"#, "x".repeat(most));
    let lines = format!("{{\"n\":1}}\n{long}\n{{\"n\":2}}\n");
    let output = caller.run(&["pub", "a.b"]).stdin(lines).output().exits(1);
    assert!(output.stderr.contains("line 2"), "{}", output.stderr);
    assert_eq!(caller.read_all("a.>", "reader").len(), 3);
}

#[test]
fn a_text_of_many_megabytes_without_a_newline_is_one_bad_line() {
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 1);
    let caller = up.caller();
    let mut lines = vec![b'x'; 20 << 20];
    lines.extend(b"\n{\"n\":1}\n");
    let args = ["pub", "--class-field", "a.{n}"];
    let output = caller.run(&args).stdin(lines).output().exits(1);
    assert!(output.stderr.contains("line 1"), "{}", output.stderr);
    assert_eq!(caller.read_all("a.>", "reader").len(), 1);
}

#[test]
fn an_occupied_port_or_directory_is_named() {
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 1);
    let other = |listen: u16, http: u16, data: &str| {
        let (listen, http) = (format!("127.0.0.1:{listen}"), format!("127.0.0.1:{http}"));
        let args = ["up", "--listen", &listen, "--http", &http, "--data", data];
        scratch.ringway(args).output()
    };
    let fresh = scratch.path("fresh");
    let fresh = fresh.to_str().unwrap();
    let free = free_ports(4);
    let taken = format!("127.0.0.1:{}", up.port());
    other(up.port(), free, fresh).refused(1, "address-in-use", &[&taken]);
    let http = TcpListener::bind("127.0.0.1:0").expect("a port");
    let http_port = http.local_addr().expect("an address").port();
    other(free, http_port, fresh).refused(1, "address-in-use", &[&http_port.to_string()]);
    let used = up.data().to_str().unwrap();
    other(free, free + 3, used).refused(1, "in-use", &[used]);
    // The one that has it all is none the worse.
    up.caller().publish("a.b", "x");
}

#[test]
fn data_of_a_newer_version_or_of_another_worker_is_left_alone() {
    let scratch = Scratch::new(LIMIT);
    let mut cluster = Cluster::start(&scratch, 1);
    cluster.caller().publish("a.b", "kept");
    cluster.stop_all();
    let meta = scratch.path("w1/meta");
    let text = read(&meta);
    let newer = text.replacen("format 1\n", "format 9\n", 1);
    assert_ne!(newer, text, "the line that names the format");
    std::fs::write(&meta, &newer).expect("a file of the worker");
    cluster.worker_command(0).output().refused(1, "data-newer", &["9", "1"]);
    assert_eq!(read(&meta), newer, "nothing was changed");
    std::fs::write(&meta, text).expect("a file of the worker");

    let as_w9 = cluster.worker_command(0).arg("--id").arg("w9");
    let output = as_w9.output();
    assert!(output.code == 1 || output.code == 2, "{output:?}");
    cluster.start_all();
    assert_eq!(cluster.caller().read_all("a.>", "reader").len(), 1);
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let scratch = Scratch::new(LIMIT);
    let file = scratch.file("file", "no directory");
    let inside = file.join("data");
    let listen = format!("127.0.0.1:{}", free_ports(2));
    for data in [file.to_str().unwrap(), inside.to_str().unwrap()] {
        let args = ["up", "--listen", &listen, "--http", "127.0.0.1:0", "--data", data];
        let output = scratch.ringway(args).output().exits(1);
        assert!(output.stderr.starts_with("error["), "{}", output.stderr);
        assert!(output.stderr.contains(data), "{}", output.stderr);
        assert!(output.stderr.contains("  help: "), "{}", output.stderr);
    }
    assert_eq!(read(&file), "no directory");
}

#[test]
fn a_worker_that_lost_its_data_is_not_taken_for_the_old_one() {
    let scratch = Scratch::new(LIMIT);
    let mut cluster = Cluster::start(&scratch, 1);
    let caller = cluster.caller();
    caller.publish("a.b", "kept");
    cluster.kill_worker(0);
    let (data, aside) = (scratch.path("w1"), scratch.path("aside"));
    std::fs::rename(&data, &aside).expect("a directory that can be moved");
    cluster.worker_command(0).output().refused(1, "data-missing", &["w1"]);
    std::fs::remove_dir_all(&data).expect("a directory that can be removed");
    std::fs::rename(&aside, &data).expect("a directory that can be moved");
    cluster.start_worker(0);
    assert_eq!(caller.read_all("a.>", "reader").len(), 1);
}

/// A directory with certificates of a CA of its own.
fn other_certificates(scratch: &Scratch) -> String {
    let other = scratch.path("other").to_string_lossy().into_owned();
    scratch.ringway(["tls", "init", &other]).ok();
    other
}

#[test]
fn a_worker_of_another_cluster_leaves_and_says_why() {
    let scratch = Scratch::new(LIMIT);
    let mut cluster = Cluster::prepare(&scratch, 2);
    cluster.start_coordinator();
    let coordinator = cluster.address(0);
    let other = other_certificates(&scratch);
    let worker = |index: usize, tls: &str, more: &[&str]| {
        let (id, listen) = (format!("w{}", index + 1), cluster.address(index + 1));
        let data = scratch.path(&id).to_string_lossy().into_owned();
        let args = ["worker", "--id", &id, "--listen", &listen, "--http", &listen, "--data", &data];
        let args = [&args[..], &["--coordinator", &coordinator, "--tls-dir", tls], more].concat();
        scratch.ringway(args).named(&id)
    };
    // It does not trust the coordinator.
    worker(0, &other, &[]).output().refused(
        3,
        "untrusted",
        &[&coordinator, "this worker trusts CA", "--tls-dir"],
    );
    // The coordinator does not trust it.
    let mixed = scratch.path("mixed");
    std::fs::create_dir(&mixed).expect("a directory");
    for (from, name) in
        [(cluster.tls(), "ca.pem"), (other.as_ref(), "worker.pem"), (other.as_ref(), "worker.key")]
    {
        std::fs::copy(from.join(name), mixed.join(name)).expect("a copy of a certificate");
    }
    worker(0, &mixed.to_string_lossy(), &[]).output().refused(
        1,
        "unauthorized",
        &[&coordinator, "worker's certificate"],
    );
    // Nobody is at the other address yet: the right coordinator may come there.
    let nobody = format!("127.0.0.1:{}", free_ports(1));
    let mut waiting = worker(1, &other, &["--coordinator", &nobody]).spawn();
    waiting.wait_stderr(|line| line.contains("not registered: "));
    assert!(waiting.is_running());
    waiting.stop();
    // With the right certificates the same directory is as good as new.
    cluster.start_worker(0);
    cluster.wait_workers(1);
    cluster.stop_all();
}

#[test]
fn a_worker_waits_for_its_coordinator_whoever_else_is_at_the_address() {
    let scratch = Scratch::new(LIMIT);
    let mut cluster = Cluster::prepare(&scratch, 1);
    cluster.start_worker(0);
    cluster.worker(0).wait_stderr(|line| line.contains("not registered: no coordinator answered"));
    cluster.start_coordinator();
    cluster.wait_workers(1);
    let caller = cluster.caller();
    caller.wait_serving();
    caller.publish("a.b", "kept");
    // Another cluster's coordinator takes the address, and goes again.
    cluster.kill_coordinator();
    let (listen, other) = (cluster.address(0), other_certificates(&scratch));
    let data = scratch.path("impostor").to_string_lossy().into_owned();
    let args = ["coordinator", "--listen", &listen, "--http", &listen, "--data", &data];
    let mut impostor = scratch.ringway([&args[..], &["--tls-dir", &other]].concat()).spawn();
    impostor.wait_stdout(|line| line.starts_with("ready coordinator"));
    cluster.worker(0).wait_stderr(|line| line.contains("presents a certificate of CA"));
    assert!(cluster.worker(0).is_running(), "a worker that serves goes on");
    impostor.stop();
    cluster.start_coordinator();
    cluster.wait_workers(1);
    assert_eq!(caller.read_all("a.>", "reader").len(), 1);
    cluster.stop_all();
}

/// How a peer that is no Ringway behaves once its handshake is through.
#[derive(Clone, Copy, Debug)]
enum Peer {
    /// Opens nothing and says nothing.
    Silent,
    /// Opens a stream and stops inside the first frame.
    Stuck,
    /// Announces a frame of almost 4 GiB.
    Huge,
    /// Says a kind that nobody knows.
    UnknownKind,
    /// Sends bytes without any form.
    Garbage,
    /// Opens streams as fast as it can.
    ManyStreams,
}

impl Peer {
    const ALL: [Self; 6] = [
        Self::Silent,
        Self::Stuck,
        Self::Huge,
        Self::UnknownKind,
        Self::Garbage,
        Self::ManyStreams,
    ];

    /// What it sends on its first stream.
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Silent => Vec::new(),
            Self::Stuck | Self::ManyStreams => vec![40, 0, 0],
            Self::Huge => vec![0xff, 0xff, 0xff, 0xff, 1, 0x80],
            Self::UnknownKind => vec![2, 0, 0, 0, 250, 1],
            Self::Garbage => {
                (0..60_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
            }
        }
    }
}

/// An endpoint with a client's certificate and no manners.
fn rude_endpoint(tls: &std::path::Path) -> quinn::Endpoint {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(tls.join("ca.pem")).expect("a certificate");
    roots.add(ca).expect("a CA");
    let chain = vec![CertificateDer::from_pem_file(tls.join("client.pem")).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_file(tls.join("client.key")).expect("a key");
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .expect("a certificate with its key");
    config.alpn_protocols = vec![b"ringway/1".to_vec()];
    let quic = QuicClientConfig::try_from(config).expect("a configuration for QUIC");
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut endpoint = quinn::Endpoint::client(loopback).expect("an endpoint");
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(quic)));
    endpoint
}

/// Behaves like `peer` until the server has had enough of it.
async fn misbehave(endpoint: &quinn::Endpoint, address: SocketAddr, server: &str, peer: Peer) {
    let connecting = endpoint.connect(address, server).expect("an address");
    let connection = connecting.await.unwrap_or_else(|e| panic!("{peer:?} at {server}: {e}"));
    let mut streams = Vec::new();
    if !matches!(peer, Peer::Silent) {
        let opened = if matches!(peer, Peer::ManyStreams) { 64 } else { 1 };
        for _ in 0..opened {
            let soon = tokio::time::timeout(Duration::from_millis(200), connection.open_bi());
            // The server bounds the streams of a peer that has not said who it is.
            let Ok(Ok((mut send, recv))) = soon.await else { break };
            let _ = send.write_all(&peer.bytes()).await;
            streams.push((send, recv));
        }
        let bound = if matches!(peer, Peer::ManyStreams) { 8 } else { 1 };
        assert!(streams.len() <= bound, "{} streams before a hello at {server}", streams.len());
    }
    let closed = tokio::time::timeout(Duration::from_secs(20), connection.closed()).await;
    assert!(closed.is_ok(), "{peer:?} was let stay at {server}");
}

#[test]
fn peers_without_manners_are_sent_away_and_harm_nobody() {
    let scratch = Scratch::new(LIMIT);
    let mut cluster = Cluster::start(&scratch, 1);
    let caller = cluster.caller();
    let member = caller.member("a.>", "s", "m1", &["--count", "300"]);
    let lines: String = (0..300).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let args = ["pub", "--class-field", "a.{n}", "--key-field", "n", "--rate", "60"];
    let publisher = caller.run(&args).stdin(lines).spawn();

    let targets = [(0, "coordinator.ringway"), (1, "worker.ringway")]
        .map(|(index, server)| (cluster.address(index).parse::<SocketAddr>().unwrap(), server));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let endpoint = rude_endpoint(cluster.tls());
        let mut peers = tokio::task::JoinSet::new();
        for (address, server) in targets {
            for peer in Peer::ALL {
                let endpoint = endpoint.clone();
                peers.spawn(async move { misbehave(&endpoint, address, server, peer).await });
            }
            peers.spawn_blocking(move || throw_garbage(address));
        }
        while let Some(done) = peers.join_next().await {
            done.expect("a peer that is sent away");
        }
    });

    publisher.finish().exits(0);
    assert_eq!(member.finish().exits(0).json_lines().len(), 300);
    assert!(cluster.worker(0).is_running());
    cluster.stop_all();
}

/// Datagrams that are no QUIC, and some that begin like it.
fn throw_garbage(address: SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    for n in 0..2_000_u32 {
        let mut datagram: Vec<u8> = (0..n % 1400)
            .map(|i| (i.wrapping_mul(2_246_822_519).wrapping_add(n) >> 11) as u8)
            .collect();
        if let Some(first) = datagram.first_mut().filter(|_| n % 2 == 0) {
            *first |= 0xc0;
        }
        // A full socket buffer drops some of it, which is as well.
        let _ = socket.send_to(&datagram, address);
    }
}
