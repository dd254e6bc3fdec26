//! The SDK's streams, a task for each: the session with the coordinator, appends to a worker, and
//! the deliveries of a right. A task moves frames between its stream and the engine's channel; it
//! decides nothing.

use std::time::Duration;

use bytes::Bytes;
use ringway_proto::codec;
use ringway_proto::control::{FromClient, OpenRight, RightOpened, ToClient};
use ringway_proto::data::{AckConfirmed, Append, AppendAnswer, Deliver, Window};
use ringway_proto::frame::Kind;
use ringway_proto::net::{FrameReader, FrameWriter, NetError, Peer};
use ringway_proto::{Code, OpenNumber, Refusal, RightId, WorkerId};
use tokio::sync::{mpsc, watch};

/// The wait before a stream that ended is opened again on the same connection.
const REOPEN_AFTER: Duration = Duration::from_millis(50);
/// Bytes that a stream's writer may hold before more is taken from the engine.
const QUEUED_BYTES: usize = 256 * 1024;

/// Names a delivery stream: seat, right, open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StreamId {
    pub seat: u64,
    pub right: RightId,
    pub open: OpenNumber,
}

/// What the streams tell the engine.
#[derive(Debug)]
pub(crate) enum Event {
    SessionUp { peer: Peer, tx: mpsc::UnboundedSender<FromClient> },
    Session(ToClient),
    SessionDown,
    PublishUp { worker: WorkerId, generation: u64, tx: mpsc::UnboundedSender<Append> },
    Appended(AppendAnswer),
    PublishDown { worker: WorkerId, generation: u64, cause: String },
    Opened(StreamId, Peer),
    Delivered(StreamId, Deliver),
    Confirmed(StreamId, AckConfirmed),
    WindowSeen(StreamId, Window),
    Closed(StreamId, Option<Code>),
}

pub(crate) type Events = mpsc::UnboundedSender<Event>;

/// One frame that is to be written.
type Outgoing = (Kind, Vec<Bytes>);

async fn next_peer(peers: &mut watch::Receiver<Option<Peer>>) -> Option<Peer> {
    peers.wait_for(Option::is_some).await.ok()?.clone()
}

/// Moves frames both ways until the stream ends, the engine lets go of it (then what is queued
/// still leaves), or `on_frame` refuses one.
async fn run<T>(
    writer: &mut FrameWriter,
    reader: &mut FrameReader,
    rx: &mut mpsc::UnboundedReceiver<T>,
    encode: impl Fn(T) -> Result<Outgoing, Refusal>,
    mut on_frame: impl FnMut(Kind, Bytes) -> Result<(), Refusal>,
) -> NetError {
    let over = |text: &str| NetError::Protocol(Refusal::new(Code::Unavailable, text));
    loop {
        let step = tokio::select! {
            frame = reader.read() => match frame {
                Ok(Some((Kind::Refused, bytes))) => match codec::decode(&bytes) {
                    Ok(refusal) => Err(NetError::Refused(refusal)),
                    Err(e) => Err(NetError::Protocol(e)),
                },
                Ok(Some((kind, bytes))) => on_frame(kind, bytes).map_err(NetError::Protocol),
                Ok(None) => Err(over("the other side ended the stream")),
                Err(e) => Err(e),
            },
            message = rx.recv(), if writer.queued_bytes() < QUEUED_BYTES => match message {
                Some(message) => match encode(message) {
                    Ok((kind, parts)) => writer.push(kind, &parts),
                    Err(e) => Err(NetError::Protocol(e)),
                },
                None => {
                    let _ = writer.flush().await;
                    let _ = writer.finish();
                    Err(over("the stream is no longer needed"))
                }
            },
            flushed = writer.flush(), if writer.queued_bytes() > 0 => flushed,
        };
        if let Err(e) = step {
            return e;
        }
    }
}

fn unexpected(kind: Kind) -> Refusal {
    Refusal::new(Code::Protocol, format!("a frame of kind {kind:?} on this stream"))
}

/// Keeps the session stream with the coordinator. `first` makes the first message of each.
pub(crate) async fn session(
    mut peers: watch::Receiver<Option<Peer>>,
    events: Events,
    first: impl Fn() -> FromClient,
) {
    while let Some(peer) = next_peer(&mut peers).await {
        if let Ok((mut writer, mut reader)) = peer.open().await
            && writer.push_control(Kind::Control, &first()).is_ok()
        {
            let (tx, mut rx) = mpsc::unbounded_channel();
            if events.send(Event::SessionUp { peer: peer.clone(), tx }).is_err() {
                return;
            }
            let encode = |m: FromClient| Ok((Kind::Control, vec![codec::encode(&m)?]));
            let cause = run(&mut writer, &mut reader, &mut rx, encode, |kind, bytes| {
                if kind != Kind::Control {
                    return Err(unexpected(kind));
                }
                let _ = events.send(Event::Session(codec::decode(&bytes)?));
                Ok(())
            })
            .await;
            tracing::debug!(%cause, "the session with the coordinator ended");
            let _ = events.send(Event::SessionDown);
        }
        tokio::time::sleep(REOPEN_AFTER).await;
    }
}

/// Keeps the publish stream to one worker.
pub(crate) async fn publish(
    mut peers: watch::Receiver<Option<Peer>>,
    events: Events,
    worker: WorkerId,
    generation: u64,
) {
    while let Some(peer) = next_peer(&mut peers).await {
        if let Ok((mut writer, mut reader)) = peer.open().await {
            let (tx, mut rx) = mpsc::unbounded_channel();
            let up = Event::PublishUp { worker: worker.clone(), generation, tx };
            if events.send(up).is_err() {
                return;
            }
            let encode = |a: Append| Ok((Kind::Append, vec![a.header(), a.batch]));
            let cause = run(&mut writer, &mut reader, &mut rx, encode, |kind, bytes| {
                if kind != Kind::Appended {
                    return Err(unexpected(kind));
                }
                let _ = events.send(Event::Appended(AppendAnswer::decode(bytes)?));
                Ok(())
            })
            .await;
            let cause = format!("connection to {worker} lost: {cause}");
            let _ = events.send(Event::PublishDown { worker: worker.clone(), generation, cause });
        }
        tokio::time::sleep(REOPEN_AFTER).await;
    }
}

/// Serves one open of a right, from the moment its primary is connected.
pub(crate) async fn deliveries(
    mut peers: watch::Receiver<Option<Peer>>,
    events: Events,
    id: StreamId,
    open: OpenRight,
    mut rx: mpsc::UnboundedReceiver<(Kind, Bytes)>,
) {
    let code = match serve(&mut peers, &events, id, &open, &mut rx).await {
        NetError::Refused(refusal) => {
            tracing::debug!(queue = %id.right.queue, %refusal, "a delivery stream was refused");
            Some(refusal.code)
        }
        cause => {
            tracing::debug!(queue = %id.right.queue, %cause, "a delivery stream ended");
            None
        }
    };
    let _ = events.send(Event::Closed(id, code));
}

async fn serve(
    peers: &mut watch::Receiver<Option<Peer>>,
    events: &Events,
    id: StreamId,
    open: &OpenRight,
    rx: &mut mpsc::UnboundedReceiver<(Kind, Bytes)>,
) -> NetError {
    let Some(peer) = next_peer(peers).await else {
        return NetError::Protocol(Refusal::new(Code::Unavailable, "the client is closing"));
    };
    if rx.is_closed() {
        // The right was given up while its primary was away: it must not be opened any more.
        return NetError::Protocol(Refusal::new(Code::Unavailable, "the right was given up"));
    }
    let (mut writer, mut reader) = match peer.open().await {
        Ok(stream) => stream,
        Err(e) => return e,
    };
    if let Err(e) = writer.push_control(Kind::OpenRight, open) {
        return e;
    }
    let encode = |(kind, payload)| Ok((kind, vec![payload]));
    run(&mut writer, &mut reader, rx, encode, |kind, bytes| {
        let event = match kind {
            Kind::RightOpened => {
                let _: RightOpened = codec::decode(&bytes)?;
                Event::Opened(id, peer.clone())
            }
            Kind::Deliver => Event::Delivered(id, Deliver::decode(bytes)?),
            Kind::AckConfirmed => Event::Confirmed(id, AckConfirmed::decode(bytes)?),
            Kind::WindowSeen => Event::WindowSeen(id, Window::decode(bytes)?),
            other => return Err(unexpected(other)),
        };
        let _ = events.send(event);
        Ok(())
    })
    .await
}
