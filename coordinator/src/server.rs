//! Connections to the coordinator: one task for each, session streams and requests on them. It
//! decodes what comes in and hands it to the driver; what it means is none of its business.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use ringway_proto::control::{FromClient, FromWorker};
use ringway_proto::frame::Kind;
use ringway_proto::net::{FrameReader, FrameWriter, Listener, NetError, Peer, Role};
use ringway_proto::{Code, Refusal, codec};

use crate::driver::Message;
use crate::push::Push;

/// How long a stream may take until its first frame is there.
const FIRST_FRAME: Duration = Duration::from_secs(5);

/// Accepts connections until the listener is shut down.
pub async fn accept(listener: Arc<Listener>, inbox: mpsc::Sender<Message>) {
    while let Some(peer) = listener.accept().await {
        tokio::spawn(serve(peer, inbox.clone()));
    }
}

/// Serves one connection until it is gone.
async fn serve(peer: Peer, inbox: mpsc::Sender<Message>) {
    let has_session = Arc::new(AtomicBool::new(false));
    let mut streams = JoinSet::new();
    while let Ok((writer, reader)) = peer.accept().await {
        let stream = Stream {
            peer: peer.clone(),
            inbox: inbox.clone(),
            has_session: Arc::clone(&has_session),
        };
        streams.spawn(stream.serve(writer, reader));
        while streams.try_join_next().is_some() {}
    }
    let why = peer.closed().await;
    tracing::debug!(name = peer.name(), role = %peer.role(), ?why, "connection gone");
    // Nothing of this connection may reach the driver behind its end.
    while streams.join_next().await.is_some() {}
    inbox.send(Message::Closed(peer.id())).await.ok();
}

struct Stream {
    peer: Peer,
    inbox: mpsc::Sender<Message>,
    /// Whether the connection has its one session stream.
    has_session: Arc<AtomicBool>,
}

impl Stream {
    async fn serve(self, mut writer: FrameWriter, mut reader: FrameReader) {
        let refusal = match tokio::time::timeout(FIRST_FRAME, reader.read()).await {
            Ok(Ok(Some((Kind::Request, bytes)))) => return self.request(writer, &bytes).await,
            Ok(Ok(Some((Kind::Control, bytes)))) => match self.check_session() {
                Ok(()) => return self.session(writer, reader, bytes).await,
                Err(refusal) => refusal,
            },
            Ok(Ok(Some((kind, _)))) => Refusal::new(
                Code::Unsupported,
                format!("a coordinator takes no streams that begin with {kind:?}"),
            ),
            Ok(Err(NetError::Protocol(refusal))) => refusal,
            Ok(Ok(None) | Err(_)) => return,
            Err(_) => Refusal::new(
                Code::Protocol,
                format!("a stream was silent for {} s", FIRST_FRAME.as_secs()),
            ),
        };
        writer.refuse(&refusal).await.ok();
    }

    async fn request(self, mut writer: FrameWriter, bytes: &Bytes) {
        let answer = match codec::decode(bytes) {
            Ok(request) => {
                let (reply, answer) = oneshot::channel();
                self.inbox.send(Message::Ask(request, reply)).await.ok();
                answer.await.unwrap_or_else(|_| {
                    Err(Refusal::new(Code::Unavailable, "this coordinator is going away")
                        .hint("ask again shortly"))
                })
            }
            Err(refusal) => Err(refusal),
        };
        let sent = match answer {
            Ok(response) => writer.respond(&response).await,
            Err(refusal) => writer.refuse(&refusal).await,
        };
        if let Err(e) = sent {
            tracing::debug!("an answer did not reach {}: {e}", self.peer.name());
        }
    }

    fn check_session(&self) -> Result<(), Refusal> {
        if self.peer.role() == Role::Coordinator {
            return Err(Refusal::new(Code::Forbidden, "a coordinator has no session here"));
        }
        if self.has_session.swap(true, Ordering::Relaxed) {
            return Err(Refusal::new(Code::Protocol, "this connection has its session stream"));
        }
        Ok(())
    }

    /// A session stream: its end is the end of the connection, since neither makes sense alone.
    async fn session(self, writer: FrameWriter, mut reader: FrameReader, first: Bytes) {
        writer.set_priority(1);
        let push = Push::start(self.peer.clone(), writer);
        if self.inbox.send(Message::Opened(push)).await.is_err() {
            return;
        }
        let ended = self.hear(&mut reader, first).await;
        let (code, reason) = match &ended {
            Ok(()) => (0, "the session stream ended".to_owned()),
            Err(refusal) => (u32::from(refusal.code.number()), refusal.text.clone()),
        };
        if let Err(refusal) = ended {
            tracing::info!("session of {} {}: {refusal}", self.peer.role(), self.peer.name());
        }
        self.peer.close(code, &reason);
    }

    async fn hear(&self, reader: &mut FrameReader, first: Bytes) -> Result<(), Refusal> {
        let conn = self.peer.id();
        let mut next = Some((Kind::Control, first));
        let mut registered = false;
        while let Some((kind, bytes)) = next {
            if kind != Kind::Control {
                return Err(Refusal::new(
                    Code::Protocol,
                    format!("a frame of kind {kind:?} on a session stream"),
                ));
            }
            let message = match self.peer.role() {
                Role::Worker => {
                    let message: FromWorker = parse(&bytes)?;
                    let registers = matches!(message, FromWorker::Register(_));
                    if registers == std::mem::replace(&mut registered, true) {
                        return Err(Refusal::new(
                            Code::Protocol,
                            "a worker registers once on a connection, and first",
                        ));
                    }
                    Message::FromWorker(conn, message)
                }
                _ => Message::FromClient(conn, parse::<FromClient>(&bytes)?),
            };
            if self.inbox.send(message).await.is_err() {
                return Ok(());
            }
            next = match reader.read().await {
                Ok(next) => next,
                Err(NetError::Protocol(refusal)) => return Err(refusal),
                // The connection says why by itself.
                Err(_) => None,
            };
        }
        Ok(())
    }
}

fn parse<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Refusal> {
    codec::decode(bytes)
}
