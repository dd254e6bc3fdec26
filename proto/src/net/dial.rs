//! Reaching a server: resolves an address, connects, proves who calls, and checks who answers. It
//! promises an error that says which of these failed. Whether and when to try again is the
//! business of [`super::Link`].

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quinn::{Connection, ConnectionError, Endpoint, TransportErrorCode, VarInt};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::endpoint::{self, MAX_STREAMS, PathProfile, Windows, transport};
use super::error::{DialError, NetError, printable};
use super::hello::{self, AGENT, Hello, PROTOCOL, Role};
use super::peer::{Identity, Peer, Timing};
use super::tls::ClientTls;
use super::verify::Recorder;
use crate::refusal::{Code, Refusal, spoken};

/// TLS alert 120, `no_application_protocol` (RFC 7301).
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// Dials servers under one identity. Cheap to clone; clones share their sockets.
#[derive(Clone)]
pub struct Dialer {
    shared: Arc<Shared>,
    timing: Timing,
    path: Option<PathProfile>,
}

struct Shared {
    tls: ClientTls,
    name: String,
    endpoints: Mutex<BTreeMap<SocketKind, Endpoint>>,
}

/// One socket for each kind is made when it is first needed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct SocketKind {
    ipv6: bool,
    loopback: bool,
    path: PathProfile,
}

impl Dialer {
    /// A dialler that proves itself by `tls` and calls itself `name`: a server its id, a client
    /// any name.
    #[must_use]
    pub fn new(tls: ClientTls, name: &str) -> Self {
        let shared = Shared { tls, name: name.to_owned(), endpoints: Mutex::default() };
        Self { shared: Arc::new(shared), timing: Timing::default(), path: None }
    }

    /// The same with other heartbeats.
    #[must_use]
    pub fn with_timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// The same with a path that is set, not decided by whether an address is a loopback one.
    #[must_use]
    pub fn with_path(mut self, path: PathProfile) -> Self {
        self.path = Some(path);
        self
    }

    /// Connects to `addr` (`HOST:PORT`), where a server of the role `expect` should be.
    ///
    /// # Cancellation
    /// Safe: what was begun is closed.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn dial(
        &self,
        addr: &str,
        expect: Role,
        within: Duration,
    ) -> Result<Peer, DialError> {
        let until = Instant::now() + within;
        let resolve = |cause: String| DialError::Resolve { addr: addr.to_owned(), cause };
        let ips: Vec<SocketAddr> = match timeout(within, tokio::net::lookup_host(addr)).await {
            Ok(Ok(ips)) => ips.collect(),
            Ok(Err(e)) => return Err(resolve(e.to_string())),
            Err(_) => return Err(resolve(format!("no answer within {}", spoken(within)))),
        };
        let mut last = resolve("the name has no address".to_owned());
        for (tried, ip) in ips.iter().enumerate() {
            let left = until.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(ips.len() - tried).unwrap_or(1).max(1);
            let call = Call { dialer: self, addr, ip: *ip, expect };
            match timeout(share, call.place()).await {
                Ok(Ok(peer)) => return Ok(peer),
                Ok(Err(e)) => last = e,
                Err(_) => {
                    last = call.unreachable(format!("no answer within {}", spoken(share)));
                }
            }
        }
        Err(last)
    }

    fn path_to(&self, ip: SocketAddr) -> PathProfile {
        self.path.unwrap_or_else(|| PathProfile::of(ip))
    }

    fn socket_kind(&self, ip: SocketAddr) -> SocketKind {
        let loopback = ip.ip().is_loopback();
        SocketKind { ipv6: ip.is_ipv6(), loopback, path: self.path_to(ip) }
    }

    fn endpoint(&self, ip: SocketAddr) -> Result<Endpoint, NetError> {
        let kind = self.socket_kind(ip);
        let mut endpoints = self.shared.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(endpoint) = endpoints.get(&kind) {
            return Ok(endpoint.clone());
        }
        let local = match (kind.ipv6, kind.loopback) {
            (false, false) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            (false, true) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            (true, false) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            (true, true) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        let endpoint = endpoint::bind(SocketAddr::new(local, 0), kind.path, None)?;
        endpoints.insert(kind, endpoint.clone());
        Ok(endpoint)
    }

    /// Forgets a socket whose driver has ended, as it does with the runtime that it was made in.
    fn forget(&self, ip: SocketAddr) {
        let mut endpoints = self.shared.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.remove(&self.socket_kind(ip));
    }
}

/// One attempt at one IP address.
struct Call<'a> {
    dialer: &'a Dialer,
    addr: &'a str,
    ip: SocketAddr,
    expect: Role,
}

impl Call<'_> {
    async fn place(&self) -> Result<Peer, DialError> {
        let connection = tokio::select! {
            connection = self.connect() => connection?,
            cause = nobody_there(self.ip) => return Err(self.unreachable(cause)),
        };
        let asked = Instant::now();
        match hello::send(&connection, &self.hello()).await {
            Ok(welcome) if welcome.role == self.expect => {
                connection.set_max_concurrent_bi_streams(MAX_STREAMS);
                let identity =
                    Identity { name: welcome.name, role: welcome.role, agent: welcome.agent };
                Ok(Peer::dialled(connection, identity, asked, self.dialer.timing))
            }
            Ok(welcome) => {
                connection.close(VarInt::from_u32(0), b"wrong role");
                Err(self.untrusted(format!("is a {}, not a {}", welcome.role, self.expect)))
            }
            Err(e) => {
                let e = self.not_let_in(&connection, e);
                connection.close(VarInt::from_u32(0), b"not let in");
                Err(e)
            }
        }
    }

    async fn connect(&self) -> Result<Connection, DialError> {
        let tls = &self.dialer.shared.tls;
        let (mut config, recorder) =
            tls.quic(self.expect).map_err(|e| self.unreachable(e.to_string()))?;
        let (windows, keep_alive) = match tls.role() {
            Role::Client => (Windows::CLIENT, Duration::from_secs(3)),
            Role::Coordinator | Role::Worker => (Windows::SERVER, Duration::from_secs(1)),
        };
        let path = self.dialer.path_to(self.ip);
        config.transport_config(transport(path, windows, Some(keep_alive), 0));
        let endpoint =
            self.dialer.endpoint(self.ip).map_err(|e| self.unreachable(e.to_string()))?;
        let connecting =
            endpoint.connect_with(config, self.ip, self.expect.dns_name()).map_err(|e| {
                self.dialer.forget(self.ip);
                self.unreachable(e.to_string())
            })?;
        connecting.await.map_err(|e| self.no_handshake(e, &recorder))
    }

    fn hello(&self) -> Hello {
        let Shared { tls, name, .. } = &*self.dialer.shared;
        Hello {
            protocol: PROTOCOL,
            role: tls.role(),
            name: name.clone(),
            token: tls.token().map(|token| token.expose().to_owned()),
            agent: AGENT.to_owned(),
        }
    }

    /// Why there was no connection.
    fn no_handshake(&self, e: ConnectionError, recorder: &Recorder) -> DialError {
        if let Some(cause) = recorder.refused() {
            return self.untrusted(cause);
        }
        let alert = TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL);
        match e {
            ConnectionError::VersionMismatch => self.version(),
            ConnectionError::ConnectionClosed(close) if close.error_code == alert => self.version(),
            ConnectionError::ConnectionClosed(close)
                if close.error_code == TransportErrorCode::CONNECTION_REFUSED =>
            {
                let refusal =
                    Refusal::new(Code::Busy, "the server takes no more connections at the moment")
                        .hint("try again shortly");
                DialError::Refused { addr: self.addr.to_owned(), refusal }
            }
            other => self.unreachable(printable(other.to_string().as_bytes())),
        }
    }

    /// Why there was a connection and no welcome.
    fn not_let_in(&self, connection: &Connection, e: NetError) -> DialError {
        let refusal = match (e, connection.close_reason()) {
            (NetError::Refused(refusal), _) => refusal,
            // The server looks at our certificate after our handshake is done.
            (_, Some(ConnectionError::ConnectionClosed(close)))
                if (0x100..0x200).contains(&u64::from(close.error_code)) =>
            {
                let role = self.dialer.shared.tls.role();
                return DialError::Unauthorized(
                    Refusal::new(
                        Code::Unauthorized,
                        format!(
                            "the server at {} does not accept this {role}'s certificate: {}",
                            self.addr,
                            printable(&close.reason)
                        ),
                    )
                    .hint("use a certificate of that cluster's CA"),
                );
            }
            (_, Some(ConnectionError::ApplicationClosed(close))) => {
                let code = u16::try_from(close.error_code.into_inner()).unwrap_or(0);
                Refusal::new(Code::from_number(code), printable(&close.reason))
            }
            (NetError::Protocol(refusal), _) => refusal,
            (e, _) => return self.unreachable(e.to_string()),
        };
        match refusal.code {
            Code::Unauthorized | Code::Forbidden => DialError::Unauthorized(refusal),
            Code::Unsupported => DialError::Version { addr: self.addr.to_owned(), refusal },
            _ => DialError::Refused { addr: self.addr.to_owned(), refusal },
        }
    }

    fn unreachable(&self, cause: String) -> DialError {
        DialError::Unreachable { addr: self.addr.to_owned(), expect: self.expect, cause }
    }

    fn untrusted(&self, cause: String) -> DialError {
        DialError::Untrusted { addr: self.addr.to_owned(), cause }
    }

    fn version(&self) -> DialError {
        DialError::Version {
            addr: self.addr.to_owned(),
            refusal: Refusal::new(Code::Unsupported, "the server speaks another protocol")
                .hint("check that the address is that of a Ringway of the same version"),
        }
    }
}

/// Ends only when the system says that nobody can be there. QUIC's own socket is not connected
/// and hears no such thing; without this every dial of a stopped server would last to its end.
async fn nobody_there(ip: SocketAddr) -> String {
    let local: IpAddr = match ip {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let probe = async {
        let socket = UdpSocket::bind(SocketAddr::new(local, 0)).await?;
        socket.connect(ip).await?;
        // One byte is no QUIC packet; a server drops it.
        socket.send(&[0]).await?;
        socket.recv(&mut [0]).await
    };
    match probe.await {
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
            ) =>
        {
            e.kind().to_string()
        }
        _ => std::future::pending().await,
    }
}
