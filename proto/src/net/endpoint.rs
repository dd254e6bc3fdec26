//! UDP sockets and transport settings. It owns how large datagrams, windows and buffers are, and
//! closes three traps of quinn in one socket wrapper: sends above 65,507 bytes that vanish, an
//! initial datagram size that panics, and receive buffers of a hundred megabytes. It knows
//! nothing of who is at the other end.

use std::fmt::Debug;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{
    AsyncUdpSocket, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, Runtime,
    ServerConfig, TokioRuntime, TransportConfig, UdpPoller, VarInt,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::error::NetError;

/// What lies between two processes; decides how large datagrams are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PathProfile {
    /// Anything: 1,200 bytes, growing to 1,452 by discovery.
    Internet,
    /// One network with jumbo frames: growing to 8,952 by discovery.
    Lan,
    /// One machine: 16,000.
    Loopback,
}

impl PathProfile {
    /// The profile towards or at this address unless one is set.
    pub(super) fn of(addr: SocketAddr) -> Self {
        if addr.ip().to_canonical().is_loopback() { Self::Loopback } else { Self::Internet }
    }

    /// The largest datagram that is sent, in bytes. From 32,000 on quinn panics in the handshake:
    /// the length in a long header has 14 bits.
    fn largest_datagram(self) -> u16 {
        match self {
            Self::Internet => 1452,
            Self::Lan => 8952,
            Self::Loopback => 16_000,
        }
    }

    fn first_datagram(self) -> u16 {
        match self {
            Self::Internet => 1200,
            Self::Lan => 1452,
            Self::Loopback => 16_000,
        }
    }
}

/// Every endpoint receives datagrams up to this size whatever its own profile, since the sender
/// chooses by what it sees: a server on 0.0.0.0 is dialled over loopback too. Four of them are
/// 64 KiB, the most that the kernel hands over at once.
const MAX_RECEIVED_DATAGRAM: u16 = 16_384;
const RECEIVED_DATAGRAMS_PER_BUFFER: usize = 4;
/// The largest UDP payload of IPv4, in bytes: what one send may hold in all its segments.
const MAX_UDP_SEND: usize = 65_507;
/// Wanted in the kernel for each direction, in bytes; one socket carries all connections.
const SOCKET_BUFFER: usize = 4 << 20;
/// Room for heartbeats ([`super::peer`]), in bytes; more than that waiting is of no use.
const HEARTBEAT_BUFFER: usize = 1024;
/// QUIC's own idle time, for connections on which not even heartbeats come.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams that either side of an authenticated connection may have open: a delivery stream is
/// one per right.
pub(super) const MAX_STREAMS: VarInt = VarInt::from_u32(4096);

/// How much of a stream, and of a connection, may be under way unread, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Windows {
    stream: u32,
    connection: u32,
    send: u64,
}

impl Windows {
    /// Towards clients: there may be many.
    pub(super) const CLIENT: Self = Self { stream: 2 << 20, connection: 8 << 20, send: 8 << 20 };
    /// Between servers.
    pub(super) const SERVER: Self = Self { stream: 16 << 20, connection: 64 << 20, send: 64 << 20 };

    /// Widens a connection whose other side turned out to be a server. The window of a single
    /// stream cannot be changed any more; it stays that of a client.
    pub(super) fn widen(connection: &quinn::Connection) {
        connection.set_receive_window(VarInt::from_u32(Self::SERVER.connection));
        connection.set_send_window(Self::SERVER.send);
    }
}

/// Settings of a connection. `streams` is what the other side may open until it is known.
pub(super) fn transport(
    path: PathProfile,
    windows: Windows,
    keep_alive: Option<Duration>,
    streams: u32,
) -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(path.largest_datagram());
    transport
        .stream_receive_window(VarInt::from_u32(windows.stream))
        .receive_window(VarInt::from_u32(windows.connection))
        .send_window(windows.send)
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_idle_timeout(IdleTimeout::try_from(IDLE_TIMEOUT).ok())
        .keep_alive_interval(keep_alive)
        .datagram_receive_buffer_size(Some(HEARTBEAT_BUFFER))
        .datagram_send_buffer_size(HEARTBEAT_BUFFER)
        .send_fairness(false)
        .initial_mtu(path.first_datagram())
        .mtu_discovery_config(Some(discovery));
    if path != PathProfile::Internet {
        // The usual first window holds less than one datagram of 16,000 bytes, and the usual
        // first guess of the round trip makes every lost first packet cost a second.
        let mut cubic = CubicConfig::default();
        cubic.initial_window(256 << 10);
        transport.congestion_controller_factory(Arc::new(cubic));
        transport.initial_rtt(Duration::from_millis(5));
    }
    Arc::new(transport)
}

/// An endpoint at `addr`. Needs a tokio runtime around it.
///
/// # Errors
/// [`NetError::AddressInUse`] or [`NetError::Bind`].
pub(super) fn bind(
    addr: SocketAddr,
    path: PathProfile,
    server: Option<ServerConfig>,
) -> Result<Endpoint, NetError> {
    let inner = || -> io::Result<Endpoint> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() && addr.ip().is_unspecified() {
            // Without it `[::]` would not answer IPv4 on some systems; a refusal is no harm.
            let _ = socket.set_only_v6(false);
        }
        // Best effort: the kernel caps it at its own maximum without an error.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
        socket.bind(&addr.into())?;
        let runtime = Arc::new(TokioRuntime);
        let socket = runtime.wrap_udp_socket(socket.into())?;
        let segments = MAX_UDP_SEND / usize::from(path.largest_datagram());
        let socket = Arc::new(BoundedSocket { inner: socket, segments });
        let mut config = EndpointConfig::default();
        config.max_udp_payload_size(MAX_RECEIVED_DATAGRAM).map_err(io::Error::other)?;
        Endpoint::new_with_abstract_socket(config, server, socket, runtime)
    };
    inner().map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => NetError::AddressInUse { addr },
        _ => NetError::Bind { addr, cause: e.to_string() },
    })
}

/// A socket that sends no more at once than UDP can hold and promises no larger receives than
/// its buffers are meant for.
#[derive(Debug)]
struct BoundedSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    segments: usize,
}

impl AsyncUdpSocket for BoundedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments().min(self.segments)
    }

    fn max_receive_segments(&self) -> usize {
        // Not the inner value: without receive offload it is 1 and the buffers would be smaller
        // than need be, with it 64 and they would be 32 MiB.
        RECEIVED_DATAGRAMS_PER_BUFFER
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
