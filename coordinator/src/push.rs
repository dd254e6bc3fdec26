//! What goes out on a session stream: messages wait here, in order, until the peer takes them.
//! The driver never waits for a peer; one that does not read is disconnected at a bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use ringway_proto::Code;
use ringway_proto::frame::Kind;
use ringway_proto::net::{FrameWriter, Peer};

/// What may wait for one peer, in bytes. A peer that lets this much pile up does not read, and
/// learns everything anew when it comes again.
pub const MAX_BACKLOG_BYTES: usize = 16 << 20;
/// What is handed to the stream at once, in bytes.
const ROUND_BYTES: usize = 256 * 1024;

/// The outgoing side of a session stream.
#[derive(Clone, Debug)]
pub struct Push {
    peer: Peer,
    waiting: mpsc::UnboundedSender<Bytes>,
    backlog: Arc<AtomicUsize>,
}

impl Push {
    /// Starts the writer of a session stream; it ends with the last copy of this.
    #[must_use]
    pub fn start(peer: Peer, writer: FrameWriter) -> Self {
        // Unbounded in messages, bounded in bytes by `send`.
        let (waiting, messages) = mpsc::unbounded_channel();
        let backlog = Arc::new(AtomicUsize::new(0));
        tokio::spawn(write(writer, messages, Arc::clone(&backlog)));
        Self { peer, waiting, backlog }
    }

    /// Puts an encoded control message behind those that wait.
    pub fn send(&self, message: Bytes) {
        let bytes = message.len();
        let backlog = self.backlog.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if backlog > MAX_BACKLOG_BYTES {
            let reason = format!("{backlog} bytes of control messages were not read");
            self.peer.close(u32::from(Code::Busy.number()), &reason);
            return;
        }
        // Without a receiver the stream is broken, which its reader finds out too.
        self.waiting.send(message).ok();
    }

    /// Ends the connection.
    pub fn close(&self, code: Code, reason: &str) {
        self.peer.close(u32::from(code.number()), reason);
    }

    /// The connection that this belongs to.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

async fn write(
    mut writer: FrameWriter,
    mut messages: mpsc::UnboundedReceiver<Bytes>,
    backlog: Arc<AtomicUsize>,
) {
    while let Some(first) = messages.recv().await {
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(message) = next {
            bytes += message.len();
            if writer.push(Kind::Control, &[message]).is_err() {
                return;
            }
            next = if bytes < ROUND_BYTES { messages.try_recv().ok() } else { None };
        }
        if writer.flush().await.is_err() {
            return;
        }
        backlog.fetch_sub(bytes, Ordering::Relaxed);
    }
    // The last word is out; the peer reads the end of the stream.
    writer.finish().ok();
}
