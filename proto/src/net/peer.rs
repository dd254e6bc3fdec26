//! An authenticated connection and its heartbeat. It owns the question "are you there" and the
//! memory of when it was answered; it promises that a peer which stops answering is closed long
//! before QUIC would notice. What the streams carry it does not know.
//!
//! Heartbeats go as QUIC datagrams, in the envelope of every other frame. On a stream they would
//! share the connection's flow control with the data: a server that reads slowly, because its
//! disk is slow, would look dead. Datagrams get past full windows and go before stream data;
//! since they may be lost, a late answer is asked for more often.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use quinn::{Connection, VarInt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout_at};

use super::error::{Closed, NetError, RpcError};
use super::frames::{FrameReader, FrameWriter};
use super::hello::Role;
use crate::codec;
use crate::frame::{self, Kind, PREFIX_LEN};
use crate::refusal::Code;

/// How often the dialler asks, and when it takes silence for an end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// Between two questions.
    pub heartbeat: Duration,
    /// Since the last question that was answered.
    pub silence: Duration,
}

impl Default for Timing {
    /// 300 ms, and 1.3 times the session TTL of 1.2 s.
    fn default() -> Self {
        Self { heartbeat: Duration::from_millis(300), silence: Duration::from_millis(1560) }
    }
}

/// Questions that are remembered until their answer comes; older ones count as lost.
const MAX_UNANSWERED: usize = 64;

/// A connection whose other side has proved who it is. Cheap to clone; the connection closes when
/// the last clone and the last stream are gone.
#[derive(Clone)]
pub struct Peer(Arc<Inner>);

struct Inner {
    id: u64,
    name: String,
    role: Role,
    agent: String,
    connection: Connection,
    pulse: Arc<Pulse>,
    heartbeat: AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.heartbeat.abort();
    }
}

/// What the heartbeat task writes and others read.
struct Pulse {
    /// At the dialler when the last answered question was sent, at the acceptor when the last
    /// question came.
    last: Mutex<Instant>,
    /// Why this side closed the connection, if it did.
    closed: OnceLock<Closed>,
}

impl Pulse {
    fn new(last: Instant) -> Arc<Self> {
        Arc::new(Self { last: Mutex::new(last), closed: OnceLock::new() })
    }

    fn last(&self) -> Instant {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, at: Instant) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = at.max(*last);
    }
}

/// Who is at the other end.
pub(super) struct Identity {
    pub name: String,
    pub role: Role,
    pub agent: String,
}

impl Peer {
    /// The dialler's handle: it asks. `asked` is when the hello was sent that was just answered.
    pub(super) fn dialled(
        connection: Connection,
        identity: Identity,
        asked: Instant,
        timing: Timing,
    ) -> Self {
        let pulse = Pulse::new(asked);
        let task = tokio::spawn(ask(connection.clone(), Arc::clone(&pulse), timing));
        Self::new(connection, identity, pulse, task.abort_handle())
    }

    /// The acceptor's handle: it answers.
    pub(super) fn accepted(connection: Connection, identity: Identity) -> Self {
        let pulse = Pulse::new(Instant::now());
        let task = tokio::spawn(answer(connection.clone(), Arc::clone(&pulse)));
        Self::new(connection, identity, pulse, task.abort_handle())
    }

    fn new(
        connection: Connection,
        identity: Identity,
        pulse: Arc<Pulse>,
        heartbeat: AbortHandle,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let Identity { name, role, agent } = identity;
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(Arc::new(Inner { id, name, role, agent, connection, pulse, heartbeat }))
    }

    /// A number that no other connection of this process has had.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The other side's id, or a client's name. Clients choose it; it proves nothing.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What the other side has proved to be.
    #[must_use]
    pub fn role(&self) -> Role {
        self.0.role
    }

    /// Program and version of the other side.
    #[must_use]
    pub fn agent(&self) -> &str {
        &self.0.agent
    }

    /// Where the other side is.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.0.connection.remote_address()
    }

    /// The round trip as QUIC estimates it.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.0.connection.rtt()
    }

    /// The size of datagrams, in bytes, and how often it proved too large.
    #[cfg(test)]
    pub(super) fn datagrams(&self) -> (u16, u64) {
        let path = self.0.connection.stats().path;
        (path.current_mtu, path.black_holes_detected)
    }

    /// Opens a stream. The other side sees it with its first frame. Waits while too many are
    /// open.
    ///
    /// # Cancellation
    /// Safe.
    ///
    /// # Errors
    /// [`NetError::Closed`].
    pub async fn open(&self) -> Result<(FrameWriter, FrameReader), NetError> {
        let stream = self.0.connection.open_bi().await;
        let (send, recv) = stream.map_err(|e| self.why(e))?;
        Ok((FrameWriter::new(send), FrameReader::new(recv)))
    }

    /// The next stream that the other side opened.
    ///
    /// # Cancellation
    /// Safe.
    ///
    /// # Errors
    /// [`NetError::Closed`].
    pub async fn accept(&self) -> Result<(FrameWriter, FrameReader), NetError> {
        let stream = self.0.connection.accept_bi().await;
        let (send, recv) = stream.map_err(|e| self.why(e))?;
        Ok((FrameWriter::new(send), FrameReader::new(recv)))
    }

    /// Closes the connection with all its streams; what is under way may be lost. `code` is 0 for
    /// an orderly close, else the number of a [`Code`].
    pub fn close(&self, code: u32, reason: &str) {
        let why = Closed::ByUs { reason: reason.to_owned() };
        close(&self.0.connection, &self.0.pulse, code, reason, why);
    }

    /// Waits for the end of the connection and says why.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn closed(&self) -> Closed {
        let e = self.0.connection.closed().await;
        self.why(e)
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.connection.close_reason().is_some()
    }

    fn why(&self, e: quinn::ConnectionError) -> Closed {
        self.0.pulse.closed.get().cloned().unwrap_or_else(|| e.into())
    }

    /// Asks `question` on a stream of its own and waits for the answer, at most for `deadline`.
    ///
    /// # Cancellation
    /// Unknown if dropped: the question may have left.
    ///
    /// # Errors
    /// [`RpcError`], which tells what was not done from what is unknown.
    pub async fn request<Q, A>(&self, question: &Q, deadline: Duration) -> Result<A, RpcError>
    where
        Q: Serialize + ?Sized,
        A: DeserializeOwned,
    {
        let until = tokio::time::Instant::now() + deadline;
        let (mut writer, mut reader) = match timeout_at(until, self.open()).await {
            Ok(stream) => stream.map_err(RpcError::NotSent)?,
            Err(_) => return Err(RpcError::NotSent(NetError::Timeout { after: deadline })),
        };
        writer.push_control(Kind::Request, question).map_err(RpcError::NotSent)?;
        let exchange = async {
            writer.flush().await?;
            writer.finish()?;
            reader.expect(Kind::Response).await
        };
        match timeout_at(until, exchange).await {
            Ok(Ok(bytes)) => codec::decode(&bytes).map_err(RpcError::Protocol),
            // The stream saw QUIC's view of the end; ours may say more.
            Ok(Err(NetError::Closed(closed))) => {
                let why = self.0.pulse.closed.get().cloned();
                Err(RpcError::Closed(why.unwrap_or(closed)))
            }
            Ok(Err(e)) => Err(RpcError::after_sending(e)),
            Err(_) => Err(RpcError::Timeout(deadline)),
        }
    }

    /// At the dialler, when the question was *sent* that was answered last; a lease counts from
    /// there. At the acceptor none: it does not ask.
    #[must_use]
    pub fn last_answer(&self) -> Option<Instant> {
        let dialler = self.0.connection.side() == quinn::Side::Client;
        dialler.then(|| self.0.pulse.last())
    }

    /// When the other side was heard last: at the acceptor its last question, at the dialler as
    /// [`Peer::last_answer`].
    #[must_use]
    pub fn last_heard(&self) -> Instant {
        self.0.pulse.last()
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} at {}", self.role(), self.name(), self.remote_address())
    }
}

fn close(connection: &Connection, pulse: &Pulse, code: u32, reason: &str, why: Closed) {
    // The first reason stands, as it does in QUIC.
    if connection.close_reason().is_none() {
        let _ = pulse.closed.set(why);
    }
    connection.close(VarInt::from_u32(code), reason.as_bytes());
}

/// The dialler's task: asks, remembers, and closes when it is silent for too long.
async fn ask(connection: Connection, pulse: Arc<Pulse>, timing: Timing) {
    let mut unanswered: VecDeque<(u64, Instant)> = VecDeque::new();
    let mut number = 0;
    // Silence is judged from here: answers that came while this process itself stood still
    // (stopped, or a runtime that was blocked) are still to be read.
    let mut awake = pulse.last();
    let mut asked = Instant::now();
    loop {
        let pause = pause(asked.saturating_duration_since(pulse.last()), timing);
        tokio::select! {
            datagram = connection.read_datagram() => {
                let Ok(datagram) = datagram else { return };
                let Some(answered) = parse(&datagram, Kind::Pong) else { continue };
                while let Some((n, sent)) = unanswered.front().copied().filter(|(n, _)| *n <= answered) {
                    unanswered.pop_front();
                    if n == answered {
                        pulse.set(sent);
                    }
                }
            }
            () = sleep(pause.saturating_sub(asked.elapsed())) => {
                let now = Instant::now();
                if now.saturating_duration_since(asked) > pause + timing.silence / 2 {
                    awake = now;
                }
                let silent = now.saturating_duration_since(pulse.last().max(awake));
                if silent > timing.silence {
                    let why = Closed::Silent { after: silent };
                    close(&connection, &pulse, Code::Unavailable.number().into(), "silent", why);
                    return;
                }
                number += 1;
                asked = now;
                unanswered.push_back((number, now));
                if unanswered.len() > MAX_UNANSWERED {
                    unanswered.pop_front();
                }
                // Fails only with the connection, which the read above reports.
                let _ = connection.send_datagram(datagram(Kind::Ping, number));
            }
        }
    }
}

/// Until the next question: shorter once two of them have gone unanswered.
fn pause(unanswered_for: Duration, timing: Timing) -> Duration {
    if unanswered_for > timing.heartbeat * 2 { timing.heartbeat / 3 } else { timing.heartbeat }
}

/// The acceptor's task: answers.
async fn answer(connection: Connection, pulse: Arc<Pulse>) {
    while let Ok(bytes) = connection.read_datagram().await {
        if let Some(number) = parse(&bytes, Kind::Ping) {
            pulse.set(Instant::now());
            let _ = connection.send_datagram(datagram(Kind::Pong, number));
        }
    }
}

fn datagram(kind: Kind, number: u64) -> Bytes {
    let mut bytes = BytesMut::with_capacity(PREFIX_LEN + 8);
    bytes.put_slice(&frame::prefix(kind, 8));
    bytes.put_u64_le(number);
    bytes.freeze()
}

/// The number in a datagram of `kind`; none for anything else, which is ignored: a datagram that
/// is lost and one that makes no sense are the same.
fn parse(bytes: &[u8], kind: Kind) -> Option<u64> {
    let (prefix, body) = bytes.split_first_chunk::<PREFIX_LEN>()?;
    let (got, len) = frame::parse_prefix(*prefix).ok()?;
    let number = <[u8; 8]>::try_from(body).ok()?;
    (got == kind && len == number.len()).then(|| u64::from_le_bytes(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_reads_back_and_nothing_else_does() {
        let ping = datagram(Kind::Ping, 7);
        assert_eq!(parse(&ping, Kind::Ping), Some(7));
        assert_eq!(parse(&ping, Kind::Pong), None);
        assert_eq!(parse(&ping[..12], Kind::Ping), None);
        assert_eq!(parse(&[ping.to_vec(), vec![0]].concat(), Kind::Ping), None);
        assert_eq!(parse(&[], Kind::Ping), None);
    }

    #[test]
    fn a_late_answer_is_asked_for_more_often() {
        let timing = Timing::default();
        assert_eq!(pause(timing.heartbeat, timing), timing.heartbeat);
        assert_eq!(pause(timing.heartbeat * 3, timing), timing.heartbeat / 3);
    }
}
