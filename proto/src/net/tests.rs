//! What the parts of this module promise together, over real QUIC on loopback.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::slice;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::ConnectionError;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;

use super::endpoint::{self, Windows, transport};
use super::*;
use crate::codec;
use crate::frame::{self, Kind};
use crate::limits::{MAX_CONTROL_BYTES, MAX_FRAME_BYTES};
use crate::refusal::{Code, Refusal};
use crate::url::{Secret, UrlAuth};

/// Longer than anything here takes; a test that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// A cluster's directory of certificates.
struct Certificates(TempDir);

impl Certificates {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        init_dir(dir.path()).unwrap();
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn server(&self, role: Role) -> ServerTls {
        ServerTls::load(self.path(), role).unwrap()
    }

    fn client(&self) -> Dialer {
        self.dialer(UrlAuth::Dir(self.path().to_owned()))
    }

    fn dialer(&self, auth: UrlAuth) -> Dialer {
        Dialer::new(ClientTls::from_url(&auth).unwrap(), "test")
    }

    fn token(&self, token: &str) -> Dialer {
        let ca: PathBuf = self.path().join("ca.pem");
        self.dialer(UrlAuth::Token { ca, token: Secret::new(token) })
    }

    /// A worker that listens on a free port of loopback.
    fn worker(&self) -> (Listener, String) {
        self.worker_at((Ipv4Addr::LOCALHOST, 0).into(), Limits::default())
    }

    fn worker_at(&self, addr: SocketAddr, limits: Limits) -> (Listener, String) {
        let listener = Listener::bind(addr, &self.server(Role::Worker), "w1", limits).unwrap();
        let addr = format!("127.0.0.1:{}", listener.local_addr().port());
        (listener, addr)
    }
}

async fn dial(dialer: &Dialer, addr: &str) -> Result<Peer, DialError> {
    dialer.dial(addr, Role::Worker, PATIENCE).await
}

/// Both ends of a connection.
async fn pair(dialer: &Dialer, listener: &Listener, addr: &str) -> (Peer, Peer) {
    let (dialled, accepted) = tokio::join!(dial(dialer, addr), listener.accept());
    (dialled.unwrap(), accepted.unwrap())
}

/// A connection that has shaken hands and says nothing.
async fn stranger(tls: &ClientTls, addr: &str) -> Result<quinn::Connection, ConnectionError> {
    let (mut config, _) = tls.quic(Role::Worker).unwrap();
    config.transport_config(transport(PathProfile::Loopback, Windows::CLIENT, None, 0));
    let local = (Ipv4Addr::LOCALHOST, 0).into();
    let endpoint = endpoint::bind(local, PathProfile::Loopback, None).unwrap();
    endpoint.connect_with(config, addr.parse().unwrap(), "worker.ringway").unwrap().await
}

#[tokio::test]
async fn both_ends_know_each_other_and_frames_of_every_size_pass() {
    let certificates = Certificates::new();
    let (listener, addr) = certificates.worker();
    let (here, there) = pair(&certificates.client(), &listener, &addr).await;
    assert_eq!((here.role(), here.name()), (Role::Worker, "w1"));
    assert_eq!((there.role(), there.name()), (Role::Client, "test"));
    assert!(here.last_answer().is_some() && there.last_answer().is_none());

    let echo = tokio::spawn(async move {
        let (mut writer, mut reader) = there.accept().await.unwrap();
        while let Some((kind, bytes)) = reader.read().await.unwrap() {
            writer.write(kind, &[bytes]).await.unwrap();
        }
        writer.finish().unwrap();
        there.closed().await
    });
    let (mut writer, mut reader) = here.open().await.unwrap();
    for len in [0, 1, 2043, 2044, 70_000, MAX_FRAME_BYTES] {
        let parts: Vec<Bytes> = [len / 3, len - len / 3]
            .map(|len| (0..len).map(|i| i as u8).collect::<Vec<u8>>().into())
            .into();
        writer.push(Kind::Append, &parts).unwrap();
        let (sent, got) = tokio::join!(writer.flush(), reader.read());
        sent.unwrap();
        assert_eq!(got.unwrap(), Some((Kind::Append, parts.concat().into())));
    }
    writer.finish().unwrap();
    assert_eq!(reader.read().await.unwrap(), None);
    // Sends that are too large for UDP vanish without an error, and quinn makes do with less.
    assert_eq!(here.datagrams(), (16_000, 0));
    here.close(7, "enough\u{1b}[2J");
    let why = Closed::ByPeer { code: 7, reason: "enough [2J".into() };
    assert_eq!(echo.await.unwrap(), why);
    assert!(matches!(here.closed().await, Closed::ByUs { .. }));
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Question {
    number: u64,
}

#[tokio::test]
async fn a_request_ends_in_its_answer_a_refusal_or_an_unknown() {
    let certificates = Certificates::new();
    let (listener, addr) = certificates.worker();
    let (here, there) = pair(&certificates.client(), &listener, &addr).await;
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut writer, mut reader)) = there.accept().await {
            let bytes = reader.expect(Kind::Request).await.unwrap();
            match codec::decode::<Question>(&bytes).unwrap().number {
                1 => writer.respond(&Question { number: 2 }).await.unwrap(),
                2 => writer.refuse(&Refusal::new(Code::NotYet, "later")).await.unwrap(),
                3 => kept.push((writer, reader)),
                _ => there.close(0, "gone"),
            }
        }
    });
    let ask =
        async |number, deadline| here.request::<_, Question>(&Question { number }, deadline).await;
    assert_eq!(ask(1, PATIENCE).await.unwrap(), Question { number: 2 });
    let refused = ask(2, PATIENCE).await.unwrap_err();
    assert!(matches!(&refused, RpcError::Refused(r) if r.code == Code::NotYet));
    assert!(!refused.is_unknown());
    let late = ask(3, Duration::from_millis(20)).await.unwrap_err();
    assert!(matches!(late, RpcError::Timeout(_)) && late.is_unknown());
    let lost = ask(4, PATIENCE).await.unwrap_err();
    assert!(matches!(lost, RpcError::Closed(_)) && lost.is_unknown());
    let not_sent = ask(5, PATIENCE).await.unwrap_err();
    assert!(matches!(not_sent, RpcError::NotSent(_)) && !not_sent.is_unknown());
}

#[tokio::test]
async fn a_server_of_another_cluster_is_untrusted() {
    let (ours, theirs) = (Certificates::new(), Certificates::new());
    let (_listener, addr) = theirs.worker();
    let e = dial(&ours.client(), &addr).await.unwrap_err();
    assert_eq!(e.code(), "untrusted");
    let text = e.to_string();
    assert!(text.contains("presents a certificate of CA "), "{text}");
    assert!(text.contains("this client trusts CA ") && !text.contains("unknown"), "{text}");
}

#[tokio::test]
async fn a_server_in_another_role_is_untrusted() {
    let certificates = Certificates::new();
    let (_listener, addr) = certificates.worker();
    let e = certificates.client().dial(&addr, Role::Coordinator, PATIENCE).await.unwrap_err();
    assert_eq!(e.code(), "untrusted");
    assert!(e.to_string().contains("not issued to coordinator.ringway"), "{e}");
}

#[tokio::test]
async fn a_client_gets_in_by_the_token_of_the_cluster_alone() {
    let certificates = Certificates::new();
    let (listener, addr) = certificates.worker();
    let token = fs::read_to_string(certificates.path().join("client.token")).unwrap();
    let (_here, there) = pair(&certificates.token(token.trim()), &listener, &addr).await;
    assert_eq!(there.role(), Role::Client);

    let e = dial(&certificates.token("a guess"), &addr).await.unwrap_err();
    assert_eq!(e.code(), "unauthorized");
    assert!(!e.to_string().contains("a guess") && !e.hint().is_empty());
}

#[tokio::test]
async fn a_certificate_of_another_cluster_does_not_get_in() {
    let (ours, theirs) = (Certificates::new(), Certificates::new());
    let (_listener, addr) = ours.worker();
    let stolen = ours.dialer(UrlAuth::Files {
        ca: ours.path().join("ca.pem"),
        cert: theirs.path().join("client.pem"),
        key: theirs.path().join("client.key"),
    });
    let e = dial(&stolen, &addr).await.unwrap_err();
    assert_eq!(e.code(), "unauthorized", "{e}");
}

#[tokio::test]
async fn a_client_certificate_cannot_act_as_a_worker() {
    let certificates = Certificates::new();
    let (_listener, addr) = certificates.worker();
    let forged = Certificates::new();
    for (from, to) in
        [("ca.pem", "ca.pem"), ("client.pem", "worker.pem"), ("client.key", "worker.key")]
    {
        fs::copy(certificates.path().join(from), forged.path().join(to)).unwrap();
    }
    let dialer = Dialer::new(ClientTls::from_server(&forged.server(Role::Worker)), "w9");
    let e = dial(&dialer, &addr).await.unwrap_err();
    assert_eq!(e.code(), "forbidden");
    assert!(e.to_string().contains("issued to client.ringway"), "{e}");
}

#[tokio::test]
async fn servers_dial_each_other_under_their_own_role() {
    let certificates = Certificates::new();
    let (listener, addr) = certificates.worker();
    let tls = ClientTls::from_server(&certificates.server(Role::Coordinator));
    let (_here, there) = pair(&Dialer::new(tls, "c1"), &listener, &addr).await;
    assert_eq!((there.role(), there.name()), (Role::Coordinator, "c1"));
}

#[tokio::test]
async fn garbage_and_other_protocols_leave_others_unharmed() {
    let certificates = Certificates::new();
    let (listener, addr) = certificates.worker();
    let (here, _there) = pair(&certificates.client(), &listener, &addr).await;

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for len in [0, 1, 20, 1200, 9000, 60_000] {
        for fill in [0u8, 0x40, 0xc0, 0xff] {
            socket.send_to(&vec![fill; len], &addr).unwrap();
        }
    }
    let auth = UrlAuth::Dir(certificates.path().to_owned());
    let tls = ClientTls::from_url(&auth).unwrap().with_alpn(b"h3");
    let e = dial(&Dialer::new(tls, "test"), &addr).await.unwrap_err();
    assert_eq!(e.code(), "version", "{e}");

    let (_here, there) = pair(&certificates.client(), &listener, &addr).await;
    assert_eq!(there.name(), "test");
    assert!(!here.is_closed());
}

#[tokio::test]
async fn who_says_nothing_or_nonsense_is_thrown_out() {
    let certificates = Certificates::new();
    let limits = Limits { hello_timeout: Duration::from_millis(50), ..Limits::default() };
    let (listener, addr) = certificates.worker_at((Ipv4Addr::LOCALHOST, 0).into(), limits);
    let tls = ClientTls::from_url(&UrlAuth::Dir(certificates.path().to_owned())).unwrap();

    let silent = stranger(&tls, &addr).await.unwrap();
    let Ok(ConnectionError::ApplicationClosed(close)) = timeout(PATIENCE, silent.closed()).await
    else {
        panic!("{:?}", silent.close_reason());
    };
    assert!(close.to_string().contains("nothing came within 50 ms"), "{close}");

    let huge = stranger(&tls, &addr).await.unwrap();
    let (mut send, recv) = huge.open_bi().await.unwrap();
    send.write_all(&[255, 255, 255, 255, Kind::Hello as u8]).await.unwrap();
    let mut reader = FrameReader::new(recv);
    let Err(NetError::Refused(refusal)) = reader.expect(Kind::Hello).await else { panic!() };
    assert_eq!(refusal.code, Code::TooLarge);
    huge.closed().await;

    let eager = stranger(&tls, &addr).await.unwrap();
    let _first = eager.open_bi().await.unwrap();
    let second = timeout(Duration::from_millis(20), eager.open_bi()).await;
    assert!(second.is_err(), "a stranger has one stream");

    assert!(dial(&certificates.client(), &addr).await.is_ok());
    assert_eq!(listener.accept().await.unwrap().name(), "test");
}

#[tokio::test]
async fn a_frame_that_is_too_large_is_refused_at_both_ends() {
    let certificates = Certificates::new();
    let (listener, addr) = certificates.worker();
    let (here, there) = pair(&certificates.client(), &listener, &addr).await;
    let (mut writer, _reader) = here.open().await.unwrap();
    let large = Bytes::from(vec![0; MAX_CONTROL_BYTES + 1]);
    let Err(NetError::Protocol(refusal)) = writer.write(Kind::Control, &[large]).await else {
        panic!("too large a frame was sent");
    };
    assert_eq!(refusal.code, Code::TooLarge);
    // Nothing of it was sent: the stream is still good.
    writer.write(Kind::Control, &[Bytes::from_static(b"x")]).await.unwrap();
    let (_writer, mut reader) = there.accept().await.unwrap();
    assert!(reader.read().await.unwrap().is_some());

    // A liar writes the prefix itself.
    let lie = frame::prefix(Kind::Control, MAX_CONTROL_BYTES + 1);
    writer.raw().write_all(&lie).await.unwrap();
    for _ in 0..2 {
        let Err(NetError::Protocol(refusal)) = reader.read().await else { panic!() };
        assert_eq!(refusal.code, Code::TooLarge);
    }
}

#[tokio::test]
async fn a_dropped_read_or_write_tears_nothing() {
    let certificates = Certificates::new();
    let (listener, addr) = certificates.worker();
    let (here, there) = pair(&certificates.client(), &listener, &addr).await;
    let (mut writer, _keep) = here.open().await.unwrap();
    // Larger than the stream's window, so that the write cannot end while nobody reads.
    let large = Bytes::from(vec![7; MAX_FRAME_BYTES]);
    let cut =
        timeout(Duration::from_millis(50), writer.write(Kind::Append, slice::from_ref(&large)))
            .await;
    assert!(cut.is_err() && writer.queued_bytes() > 0);
    assert!(writer.finish().is_err(), "half a frame is not finished");

    let (_writer, mut reader) = there.accept().await.unwrap();
    let cut = timeout(Duration::from_millis(50), reader.read()).await;
    assert!(cut.is_err(), "half of it has arrived");
    let rest = async {
        writer.write(Kind::Deliver, &[Bytes::from_static(b"next")]).await.unwrap();
        writer.finish().unwrap();
    };
    let read = async {
        assert_eq!(reader.read().await.unwrap(), Some((Kind::Append, large.clone())));
        assert_eq!(reader.read().await.unwrap(), Some((Kind::Deliver, "next".into())));
        assert_eq!(reader.read().await.unwrap(), None);
    };
    tokio::join!(rest, read);
}

/// A stream on which the first bytes of a frame have arrived at a reader with `patience`, and
/// what of it is still to come; and all that has to stay alive.
async fn begun(
    patience: Duration,
    first: usize,
) -> (FrameWriter, FrameReader, Vec<u8>, impl Sized + use<>) {
    let certificates = Certificates::new();
    let (listener, addr) = certificates.worker();
    let (here, there) = pair(&certificates.client(), &listener, &addr).await;
    let (mut writer, unused) = here.open().await.unwrap();
    let mut frame = frame::prefix(Kind::Control, 3000).to_vec();
    frame.resize(frame.len() + 3000, 7);
    let rest = frame.split_off(first);
    writer.raw().write_all(&frame).await.unwrap();
    let (also_unused, reader) = there.accept().await.unwrap();
    let reader = reader.with_patience(patience);
    (writer, reader, rest, (certificates, listener, here, there, unused, also_unused))
}

#[tokio::test]
async fn a_peer_that_stops_inside_a_frame_is_given_up() {
    for (first, said) in [(3, "3 of at least 5 bytes"), (1505, "1,505 of 3,005 bytes")] {
        let (mut writer, mut reader, _, _alive) = begun(Duration::from_millis(100), first).await;
        for _ in 0..2 {
            let read = timeout(PATIENCE, reader.read()).await.unwrap();
            let Err(NetError::Protocol(refusal)) = read else { panic!("{read:?}") };
            assert_eq!(refusal.code, Code::Protocol);
            assert!(refusal.text.contains(said) && refusal.text.contains(" ms"), "{refusal}");
        }
        let told = timeout(PATIENCE, writer.raw().stopped()).await.unwrap();
        assert!(told.unwrap().is_some(), "the sender is told");
    }
}

#[tokio::test]
async fn neither_a_trickle_nor_dropped_reads_buy_a_peer_more_time() {
    let (mut writer, mut reader, rest, _alive) = begun(Duration::from_millis(200), 1).await;
    // No wait for a byte and no read is nearly as long as the patience.
    let trickle = async {
        for byte in rest {
            if writer.raw().write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let reads = async {
        loop {
            if let Ok(read) = timeout(Duration::from_millis(7), reader.read()).await {
                break read;
            }
        }
    };
    let both = async { tokio::join!(trickle, reads) };
    // All of it would take half a minute.
    let ((), read) = timeout(PATIENCE, both).await.unwrap();
    assert!(matches!(read, Err(NetError::Protocol(_))), "{read:?}");
}

#[tokio::test]
async fn a_peer_is_not_blamed_while_nobody_reads() {
    let patience = Duration::from_secs(2);
    let (mut writer, mut reader, rest, _alive) = begun(patience, 1000).await;
    for unread in [patience, Duration::ZERO] {
        let half = timeout(Duration::from_millis(10), reader.read()).await;
        assert!(half.is_err(), "half of it has arrived: {half:?}");
        tokio::time::sleep(unread).await;
    }
    writer.raw().write_all(&rest).await.unwrap();
    let read = timeout(PATIENCE, reader.read()).await.unwrap();
    assert_eq!(read.unwrap(), Some((Kind::Control, vec![7; 3000].into())));
    let mut reader = reader.with_patience(Duration::from_millis(20));
    let idle = timeout(Duration::from_millis(100), reader.read()).await;
    assert!(idle.is_err(), "between frames a peer may be silent: {idle:?}");
    writer.write(Kind::Control, &[Bytes::from_static(b"x")]).await.unwrap();
    assert!(timeout(PATIENCE, reader.read()).await.unwrap().unwrap().is_some());
}

#[tokio::test]
async fn a_writer_dropped_inside_a_frame_resets_the_stream() {
    let certificates = Certificates::new();
    let (listener, addr) = certificates.worker();
    let (here, there) = pair(&certificates.client(), &listener, &addr).await;
    let (mut writer, _keep) = here.open().await.unwrap();
    writer.write(Kind::Control, &[Bytes::from_static(b"x")]).await.unwrap();
    let (_writer, mut reader) = there.accept().await.unwrap();
    assert!(reader.read().await.unwrap().is_some());
    writer.push(Kind::Control, &[Bytes::from_static(b"y")]).unwrap();
    drop(writer);
    assert!(matches!(reader.read().await, Err(NetError::StreamReset { .. })));
}

#[tokio::test]
async fn a_loopback_client_reaches_a_server_that_listens_everywhere() {
    let certificates = Certificates::new();
    let (listener, addr) =
        certificates.worker_at((Ipv4Addr::UNSPECIFIED, 0).into(), Limits::default());
    let (here, there) = pair(&certificates.client(), &listener, &addr).await;
    let body = Bytes::from(vec![3; 3 << 20]);
    for (from, to) in [(&here, &there), (&there, &here)] {
        let (mut writer, _keep) = from.open().await.unwrap();
        let parts = [body.clone()];
        let (sent, got) = tokio::join!(writer.write(Kind::Deliver, &parts), async {
            let (_keep, mut reader) = to.accept().await.unwrap();
            reader.read().await.unwrap()
        });
        sent.unwrap();
        assert_eq!(got, Some((Kind::Deliver, body.clone())));
    }
    assert_eq!(here.datagrams(), (16_000, 0));
    assert_eq!(there.datagrams().1, 0);
}

#[tokio::test]
async fn nobody_there_is_said_at_once() {
    let certificates = Certificates::new();
    let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let before = Instant::now();
    let e = certificates.client().dial(&free, Role::Coordinator, PATIENCE).await.unwrap_err();
    assert_eq!(e.to_string(), format!("no coordinator answered at {free}: connection refused"));
    assert_eq!(e.code(), "unreachable");
    assert!(before.elapsed() < PATIENCE / 2);

    // Somebody is there and says nothing.
    let mute = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = mute.local_addr().unwrap().to_string();
    let within = Duration::from_millis(50);
    let e = certificates.client().dial(&addr, Role::Worker, within).await.unwrap_err();
    assert!(e.to_string().contains("no answer within "), "{e}");
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let certificates = Certificates::new();
    let (listener, _) = certificates.worker();
    let addr = listener.local_addr();
    let second = Listener::bind(addr, &certificates.server(Role::Worker), "w2", Limits::default());
    let e = second.err().unwrap();
    assert_eq!(e, NetError::AddressInUse { addr });
    assert!(e.to_string().contains(&addr.to_string()));
}

const QUICK: Timing =
    Timing { heartbeat: Duration::from_millis(10), silence: Duration::from_millis(200) };

#[tokio::test]
async fn answers_are_counted_from_when_the_question_was_sent() {
    let certificates = Certificates::new();
    let (listener, addr) = certificates.worker();
    let dialer = certificates.client().with_timing(QUICK);
    let (here, there) = pair(&dialer, &listener, &addr).await;
    let (first, heard) = (here.last_answer().unwrap(), there.last_heard());
    let moved = async {
        while here.last_answer().unwrap() == first || there.last_heard() == heard {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, moved).await.unwrap();
    assert!(here.last_answer().unwrap() <= there.last_heard());
}

#[tokio::test]
async fn full_windows_do_not_make_a_slow_server_look_dead() {
    let certificates = Certificates::new();
    let (listener, addr) = certificates.worker();
    let dialer = certificates.client().with_timing(QUICK);
    let (here, _there) = pair(&dialer, &listener, &addr).await;
    // Nobody reads these streams: the window of the whole connection fills up.
    let body = Bytes::from(vec![0; MAX_FRAME_BYTES]);
    let mut stuck = Vec::new();
    for _ in 0..6 {
        let (mut writer, reader) = here.open().await.unwrap();
        let cut =
            timeout(Duration::from_millis(20), writer.write(Kind::Append, slice::from_ref(&body)))
                .await;
        assert!(cut.is_err());
        stuck.push((writer, reader));
    }
    let full = Instant::now();
    let answered_since = async {
        while here.last_answer().unwrap() < full + QUICK.silence {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, answered_since).await.unwrap();
    assert!(!here.is_closed());
}

#[tokio::test]
async fn a_peer_that_stops_answering_is_closed() {
    let certificates = Certificates::new();
    let server = certificates.server(Role::Worker);
    let mut config = server.quic();
    config.transport_config(transport(PathProfile::Loopback, Windows::CLIENT, None, 1));
    let local = (Ipv4Addr::LOCALHOST, 0).into();
    let endpoint = endpoint::bind(local, PathProfile::Loopback, Some(config)).unwrap();
    let addr = endpoint.local_addr().unwrap().to_string();
    let mute = tokio::spawn(async move {
        let connection = endpoint.accept().await.unwrap().await.unwrap();
        hello::receive(&connection, None, Role::Worker, "w1").await.unwrap();
        connection.closed().await
    });
    let peer = dial(&certificates.client().with_timing(QUICK), &addr).await.unwrap();
    let why = timeout(PATIENCE, peer.closed()).await.unwrap();
    let Closed::Silent { after } = why else { panic!("{why}") };
    assert!(after >= QUICK.silence);
    assert!(matches!(mute.await.unwrap(), ConnectionError::ApplicationClosed(_)));
}

#[tokio::test]
async fn a_link_finds_the_address_that_answers_and_comes_back() {
    let certificates = Certificates::new();
    let dead = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (listener, addr) = certificates.worker();
    let (addresses, list) = watch::channel(vec![dead.clone()]);
    let link = Link::spawn(certificates.client(), list, Role::Worker);
    while link.last_error().is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(link.last_error().unwrap().code(), "unreachable");

    addresses.send(vec![dead, addr]).unwrap();
    let first = timeout(PATIENCE, link.connected()).await.unwrap().unwrap();
    assert!(link.last_error().is_none());

    // The server goes and another one takes its address.
    let again = listener.local_addr();
    let mut peer = link.peer();
    listener.shutdown("restarting").await;
    drop(listener);
    timeout(PATIENCE, peer.wait_for(Option::is_none)).await.unwrap().unwrap();
    let (second, other) = loop {
        // The old socket is gone once its last connection is.
        match Listener::bind(again, &certificates.server(Role::Worker), "w2", Limits::default()) {
            Ok(listener) => break (listener, certificates.worker()),
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let found = timeout(PATIENCE, link.connected()).await.unwrap().unwrap();
    assert_eq!(found.name(), "w2");
    assert_ne!(found.id(), first.id());

    // Its address leaves the list: the link moves at once.
    addresses.send(vec![other.1.clone()]).unwrap();
    let mut peer = link.peer();
    let moved = peer.wait_for(|p| p.as_ref().is_some_and(|p| p.name() == "w1"));
    assert!(timeout(PATIENCE, moved).await.is_ok());
    assert!(found.is_closed());
    drop((second, other));
}

/// Whether the link says within a moment that it is shut out, and by which error.
async fn shut_out(link: &Link) -> Option<DialError> {
    timeout(Duration::from_millis(200), link.shut_out()).await.ok()
}

#[tokio::test]
async fn a_link_is_shut_out_where_nobody_is_trusted_and_nobody_is_awaited() {
    let (ours, theirs) = (Certificates::new(), Certificates::new());
    let dead = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (_listener, strange) = theirs.worker();
    let (_keep, home) = ours.worker();
    let forged = ours.dialer(UrlAuth::Files {
        ca: ours.path().join("ca.pem"),
        cert: theirs.path().join("client.pem"),
        key: theirs.path().join("client.key"),
    });
    let to = |dialer: &Dialer, addresses: &[&String]| {
        let addresses = addresses.iter().map(|&address| address.clone()).collect();
        Link::to(dialer.clone(), addresses, Role::Worker)
    };
    // We trust nobody who answers; those who answer do not trust us.
    let e = timeout(PATIENCE, to(&ours.client(), &[&strange, &strange]).shut_out()).await.unwrap();
    assert_eq!(e.code(), "untrusted");
    assert_eq!(e.refusal().code, Code::Untrusted);
    let e = timeout(PATIENCE, to(&forged, &[&home]).shut_out()).await.unwrap();
    assert_eq!(e.code(), "unauthorized");
    // The right one may still come to the address where nobody is.
    for addresses in [[&strange, &dead], [&dead, &strange]] {
        assert_eq!(shut_out(&to(&ours.client(), &addresses)).await, None);
    }
    // One that was in once waits for its server, whoever is at the address now.
    let (addresses, list) = watch::channel(vec![home]);
    let link = Link::spawn(ours.client(), list, Role::Worker);
    timeout(PATIENCE, link.connected()).await.unwrap().unwrap();
    addresses.send(vec![strange]).unwrap();
    while link.last_error().is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(link.last_error().unwrap().code(), "untrusted");
    assert_eq!(shut_out(&link).await, None);
}

#[tokio::test]
async fn a_dropped_link_closes_its_connection() {
    let certificates = Certificates::new();
    let (listener, addr) = certificates.worker();
    let link = Link::to(certificates.client(), vec![addr], Role::Worker);
    let there = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    timeout(PATIENCE, link.connected()).await.unwrap().unwrap();
    drop(link);
    let why = timeout(PATIENCE, there.closed()).await.unwrap();
    assert_eq!(why, Closed::ByPeer { code: 0, reason: "no longer needed".into() });
}

#[tokio::test]
async fn more_connections_than_allowed_are_refused_as_busy() {
    let certificates = Certificates::new();
    let limits = Limits { max_connections: 1, ..Limits::default() };
    let (listener, addr) = certificates.worker_at((Ipv4Addr::LOCALHOST, 0).into(), limits);
    let (_here, _there) = pair(&certificates.client(), &listener, &addr).await;
    let e = dial(&certificates.client(), &addr).await.unwrap_err();
    assert_eq!(e.code(), "busy", "{e}");
    assert!(e.is_retryable());
}
