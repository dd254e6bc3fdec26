//! A publish stream: appends in, answers out, each at its own pace. What is read and unanswered
//! is bounded; at the bound the stream is not read, and QUIC's flow control makes the producer
//! wait. Batches are checked here, away from the shard.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use ringway_proto::batch::Batch;
use ringway_proto::data::{Append, AppendAnswer};
use ringway_proto::frame::Kind;
use ringway_proto::net::{FrameReader, FrameWriter, NetError};
use ringway_proto::{Code, Refusal, RoutingVersion};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{Shared, misplaced};
use crate::shard::{Answer, Answered, AppendInput, Input};

/// The unit in which unanswered appends are counted, in bytes.
const UNIT_BYTES: usize = 1024;

pub(super) async fn run(
    writer: FrameWriter,
    reader: FrameReader,
    first: Bytes,
    shared: &Shared,
) -> Result<(), NetError> {
    let (to, answers) = mpsc::unbounded_channel();
    let intake = Intake {
        shared,
        to,
        room: Arc::new(Semaphore::new(shared.settings.stream_bytes / UNIT_BYTES)),
    };
    let (ended, written) = tokio::join!(intake.run(reader, first), write(writer, answers, shared));
    let mut writer = written?;
    match ended {
        Some(refusal) => writer.refuse(&refusal).await,
        None => writer.finish(),
    }
}

struct Intake<'a> {
    shared: &'a Shared,
    to: mpsc::UnboundedSender<Answered>,
    room: Arc<Semaphore>,
}

impl Intake<'_> {
    /// Reads until the producer ends the stream, or says why it is refused.
    async fn run(self, mut reader: FrameReader, first: Bytes) -> Option<Refusal> {
        let mut payload = first;
        loop {
            if let Err(refusal) = self.append(payload).await {
                return Some(refusal);
            }
            if self.to.is_closed() {
                return None;
            }
            payload = match reader.read().await {
                Ok(Some((Kind::Append, payload))) => payload,
                Ok(Some((kind, _))) => return Some(misplaced(kind)),
                Ok(None) => return None,
                Err(e) => return Some(e.refusal()),
            };
        }
    }

    async fn append(&self, payload: Bytes) -> Result<(), Refusal> {
        let received = Instant::now();
        let mut header = Append::decode(payload)?;
        let permit = self.room_for(header.batch.len()).await?;
        let answer = Answer { to: self.to.clone(), permit, received };
        let input = match check(&mut header) {
            Ok((batch, largest_body_bytes)) => {
                AppendInput { header, batch, largest_body_bytes, answer }
            }
            Err(refusal) => {
                self.refuse(&header, refusal, answer);
                return Ok(());
            }
        };
        let queue = input.header.queue;
        let waiting = Instant::now();
        self.shared.shards.send(queue, Input::Append(Box::new(input))).await?;
        self.shared.metrics.waited(waiting.elapsed());
        Ok(())
    }

    /// Room for one more unanswered append. Small ones count as if they were larger, which bounds
    /// their number.
    async fn room_for(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let settings = &self.shared.settings;
        let all = settings.stream_bytes / UNIT_BYTES;
        let least = all / settings.stream_appends.max(1);
        let units = (bytes / UNIT_BYTES).max(least).clamp(1, all.max(1));
        let room = Arc::clone(&self.room);
        let waiting = Instant::now();
        let permit = room.acquire_many_owned(u32::try_from(units).unwrap_or(u32::MAX)).await;
        self.shared.metrics.waited(waiting.elapsed());
        permit.map_err(|_| Refusal::new(Code::Unavailable, "the worker is shutting down"))
    }

    fn refuse(&self, header: &Append, refusal: Refusal, answer: Answer) {
        self.shared.metrics.refused(&refusal);
        let message = AppendAnswer {
            queue: header.queue,
            session: header.session,
            base_sequence: header.base_sequence,
            outcome: Err(refusal),
            routing: RoutingVersion(self.shared.routing.load(Ordering::Relaxed)),
        };
        let Answer { permit, received, .. } = answer;
        // The writer ends only with the stream.
        let _ = self.to.send(Answered { answer: message, received, _permit: permit });
    }
}

/// Takes the batch out of the append and looks at it from end to end.
fn check(append: &mut Append) -> Result<(Batch, usize), Refusal> {
    let batch = Batch::parse(std::mem::take(&mut append.batch))?;
    if batch.len() != append.count as usize {
        return Err(Refusal::new(
            Code::Protocol,
            format!("an append of {} messages with a batch of {}", append.count, batch.len()),
        ));
    }
    let mut largest = 0;
    for index in 0..batch.len() {
        // A record is larger than its body, so most need not be looked into.
        if batch.record_len(index) > largest {
            largest = largest.max(batch.message(index)?.body.len());
        }
    }
    Ok((batch, largest))
}

async fn write(
    mut writer: FrameWriter,
    mut answers: mpsc::UnboundedReceiver<Answered>,
    shared: &Shared,
) -> Result<FrameWriter, NetError> {
    while let Some(first) = answers.recv().await {
        push(&mut writer, first, shared)?;
        while let Ok(next) = answers.try_recv() {
            push(&mut writer, next, shared)?;
        }
        writer.flush().await?;
    }
    Ok(writer)
}

fn push(writer: &mut FrameWriter, answered: Answered, shared: &Shared) -> Result<(), NetError> {
    shared.metrics.publish_seconds.observe(answered.received.elapsed().as_secs_f64());
    writer.push(Kind::Appended, &[answered.answer.encode()])
}
