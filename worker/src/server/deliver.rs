//! A delivery stream: one open of one right. Frames of the member go to the shard, what the shard
//! sends goes to the member. A member that does not read is not read either, so that it costs no
//! more than its window.

use ringway_proto::control::OpenRight;
use ringway_proto::data::{Ranges, Window, decode_lanes};
use ringway_proto::frame::Kind;
use ringway_proto::net::{FrameReader, FrameWriter, NetError};
use ringway_proto::{Refusal, codec};
use tokio::sync::mpsc;

use super::{Shared, misplaced};
use crate::logic::delivery::Frame;
use crate::shard::{Input, Out};

/// Bytes in the writer above which nothing more is taken from the shard or from the member.
const HIGH_BYTES: usize = 512 * 1024;
/// Frames from the shard above which the member is not read.
const HIGH_FRAMES: usize = 4096;

pub(super) async fn run(
    mut writer: FrameWriter,
    reader: FrameReader,
    first: &[u8],
    shared: &Shared,
) -> Result<(), NetError> {
    let request: OpenRight = match codec::decode(first) {
        Ok(request) => request,
        Err(refusal) => return writer.refuse(&refusal).await,
    };
    let (right, epoch) = (request.right, request.epoch);
    let stream = shared.stream_id();
    let (out, from_shard) = mpsc::unbounded_channel();
    let open = Input::Open { stream, request: Box::new(request), out };
    if let Err(refusal) = shared.shards.send(right.queue, open).await {
        return writer.refuse(&refusal).await;
    }
    let to_shard =
        |frame| shared.shards.send(right.queue, Input::Frame { stream, right, epoch, frame });
    let ended = pump(&mut writer, reader, from_shard, to_shard).await;
    // When the shard is gone there is nobody to tell.
    let _ = shared.shards.send(right.queue, Input::Closed { stream, right }).await;
    match ended? {
        Some(refusal) => writer.refuse(&refusal).await,
        None => writer.finish(),
    }
}

/// Moves frames both ways until one side ends the stream, and says why if the worker did. Nothing
/// is read before the right is open: a process that is refused has no say, and the epoch that it
/// names may be the holder's.
async fn pump<F: Future<Output = Result<(), Refusal>>>(
    writer: &mut FrameWriter,
    mut reader: FrameReader,
    mut from_shard: mpsc::UnboundedReceiver<Out>,
    to_shard: impl Fn(Frame) -> F,
) -> Result<Option<Refusal>, NetError> {
    let opened = match from_shard.recv().await {
        Some(first) => push(writer, first)?,
        None => Some(None),
    };
    if let Some(ended) = opened {
        return Ok(ended);
    }
    loop {
        while writer.queued_bytes() < HIGH_BYTES
            && let Ok(out) = from_shard.try_recv()
        {
            if let Some(ended) = push(writer, out)? {
                return Ok(ended);
            }
        }
        let queued = writer.queued_bytes();
        let backlog = from_shard.len();
        tokio::select! {
            flushed = writer.flush(), if queued > 0 => flushed?,
            frame = reader.read(), if queued < HIGH_BYTES && backlog < HIGH_FRAMES => {
                let Some((kind, payload)) = frame? else { return Ok(None) };
                let frame = match decode(kind, payload) {
                    Ok(frame) => frame,
                    Err(refusal) => return Ok(Some(refusal)),
                };
                if let Err(refusal) = to_shard(frame).await {
                    return Ok(Some(refusal));
                }
            }
            out = from_shard.recv(), if queued < HIGH_BYTES => {
                // The shard drops the sender only after it said `End`, or when it is gone.
                let Some(out) = out else { return Ok(None) };
                if let Some(ended) = push(writer, out)? {
                    return Ok(ended);
                }
            }
        }
    }
}

/// Queues what the shard sends. `Some` when the stream is over.
fn push(writer: &mut FrameWriter, out: Out) -> Result<Option<Option<Refusal>>, NetError> {
    match out {
        Out::Frame(kind, payload) => writer.push(kind, &[payload])?,
        Out::Deliver(deliver) => {
            let mut parts = Vec::with_capacity(1 + deliver.records.len());
            parts.push(deliver.header());
            parts.extend(deliver.records);
            writer.push(Kind::Deliver, &parts)?;
        }
        Out::End(refusal) => return Ok(Some(refusal)),
    }
    Ok(None)
}

fn decode(kind: Kind, payload: bytes::Bytes) -> Result<Frame, Refusal> {
    Ok(match kind {
        Kind::Ack => Frame::Ack(Ranges::decode(payload)?),
        Kind::HandedOut => Frame::HandedOut(Ranges::decode(payload)?),
        Kind::Return => Frame::Return(Ranges::decode(payload)?),
        Kind::Nack => Frame::Nack(Ranges::decode(payload)?),
        Kind::Window => Frame::Window(Window::decode(payload)?),
        Kind::Narrow => Frame::Narrow(decode_lanes(payload)?),
        other => return Err(misplaced(other)),
    })
}
