//! A copy stream at the primary of a queue: it reads what is durable from disk and sends it to the
//! worker that asks, slowly enough that the queue goes on being served, until the queue is sealed
//! and everything has been said. What comes next is decided by the shard.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ringway_proto::control::CopyFrom;
use ringway_proto::data::CopyBatch;
use ringway_proto::frame::Kind;
use ringway_proto::net::{FrameReader, FrameWriter, NetError};
use ringway_proto::{Code, Refusal, Time, codec};
use tokio::sync::oneshot;

use crate::journal::{IndexEntry, Journal};
use crate::logic::pace::Pace;
use crate::metrics::Metrics;
use crate::shard::{CopyAnswer, Input, NextAsked, Shards};

/// What is read and sent at once, in bytes; one batch may be larger.
const PIECE_BYTES: u64 = 256 * 1024;
/// Pieces are at most this part of what may be sent in a second, so that a slow copy hears of a
/// seal soon.
const PIECES_PER_SECOND: u64 = 50;

/// What all copy streams of a worker share.
pub(crate) struct Source {
    shards: Shards,
    journal: Journal,
    metrics: Arc<Metrics>,
    throttle: Throttle,
    piece_bytes: u64,
}

/// The pace of all copies together, on a clock.
struct Throttle {
    start: Instant,
    pace: Mutex<Pace>,
}

impl Throttle {
    fn take(&self, bytes: u64) -> Duration {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        // A pace is whole whatever happened to the task that held it.
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.take(Time(now), bytes)
    }
}

impl Source {
    pub fn new(
        shards: Shards,
        journal: Journal,
        metrics: Arc<Metrics>,
        bytes_per_second: u64,
    ) -> Self {
        let pace = Mutex::new(Pace::new(bytes_per_second));
        Self {
            shards,
            journal,
            metrics,
            throttle: Throttle { start: Instant::now(), pace },
            piece_bytes: PIECE_BYTES.min(bytes_per_second / PIECES_PER_SECOND).max(1),
        }
    }

    /// Serves one copy until everything has been said, or the other side ends the stream.
    pub async fn run(
        &self,
        mut writer: FrameWriter,
        mut reader: FrameReader,
        first: &[u8],
    ) -> Result<(), NetError> {
        let mut from: CopyFrom = match codec::decode(first) {
            Ok(from) => from,
            Err(refusal) => return writer.refuse(&refusal).await,
        };
        let mut said = None;
        loop {
            let next = tokio::select! {
                next = self.next(from, said.is_none()) => next,
                // The other side has nothing more to say, so this is its end.
                _ = reader.read() => return writer.finish(),
            };
            match next {
                Ok(CopyAnswer::Batches { state, entries, sealed }) => {
                    if said != Some(state) {
                        writer.write_control(Kind::CopyState, &state).await?;
                        said = Some(state);
                    }
                    from.from = entries.last().map_or(from.from, IndexEntry::end);
                    if let Err(refusal) = self.send(&mut writer, entries, sealed).await? {
                        return writer.refuse(&refusal).await;
                    }
                }
                Ok(CopyAnswer::Sealed(snapshot)) => {
                    writer.write_control(Kind::CopySealed, &*snapshot).await?;
                    return writer.finish();
                }
                Ok(CopyAnswer::Over(refusal)) | Err(refusal) => {
                    return writer.refuse(&refusal).await;
                }
            }
        }
    }

    async fn next(&self, from: CopyFrom, first: bool) -> Result<CopyAnswer, Refusal> {
        let (reply, answer) = oneshot::channel();
        let asked = NextAsked { from, first, max_bytes: self.piece_bytes, reply };
        self.shards.send(from.queue, Input::CopyNext(asked)).await?;
        answer.await.map_err(|_| Refusal::new(Code::Unavailable, "the worker is shutting down"))
    }

    /// Sends batches; the inner error says why one cannot be read.
    async fn send(
        &self,
        writer: &mut FrameWriter,
        entries: Vec<IndexEntry>,
        sealed: bool,
    ) -> Result<Result<(), Refusal>, NetError> {
        let batches = match self.read(entries).await {
            Ok(batches) => batches,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let bytes: u64 = batches.iter().map(|batch| batch.batch.len() as u64).sum();
        let wait = self.throttle.take(bytes);
        // After the seal publishers wait for the copy, so nothing slows it down.
        if !sealed {
            tokio::time::sleep(wait).await;
        }
        for batch in batches {
            writer.push(Kind::CopyBatch, &[batch.header(), batch.batch.clone()])?;
        }
        writer.flush().await?;
        self.metrics.copy_bytes.with_label_values(&["out"]).inc_by(bytes);
        Ok(Ok(()))
    }

    async fn read(&self, entries: Vec<IndexEntry>) -> Result<Vec<CopyBatch>, Refusal> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let journal = self.journal.clone();
        let read = tokio::task::spawn_blocking(move || {
            entries.into_iter().map(|entry| read_one(&journal, entry)).collect()
        });
        read.await.map_err(|e| Refusal::new(Code::Internal, format!("a read ended early: {e}")))?
    }
}

fn read_one(journal: &Journal, entry: IndexEntry) -> Result<CopyBatch, Refusal> {
    let (header, batch): (_, Bytes) = journal.read(entry.at).map_err(|e| e.refusal())?;
    Ok(CopyBatch {
        epoch: header.epoch,
        base_offset: header.base_offset,
        producer: header.producer,
        session: header.session,
        base_sequence: header.sequence,
        count: header.count,
        appended_at: header.appended_at,
        batch,
    })
}
