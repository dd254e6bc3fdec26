//! A copy stream at the primary of a queue: it reads what is durable from disk and sends it to the
//! worker that asks, slowly enough that the queue goes on being served, until the queue is sealed
//! and everything has been said. What comes next is decided by the shard.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ringway_proto::control::{CopyFrom, CopySealed, CopyState};
use ringway_proto::data::CopyBatch;
use ringway_proto::frame::Kind;
use ringway_proto::net::{FrameReader, FrameWriter, NetError};
use ringway_proto::{Code, Offset, Refusal, Time, codec};
use tokio::sync::oneshot;

use crate::journal::{IndexEntry, Journal};
use crate::logic::pace::Pace;
use crate::metrics::Metrics;
use crate::shard::{CopyAnswer, Input, NextAsked, Shards, Wants};

/// What is read and sent at once, in bytes; one batch may be larger.
const PIECE_BYTES: u64 = 256 * 1024;
/// Pieces are at most this part of what may be sent in a second, so that a slow copy hears of a
/// seal soon.
const PIECES_PER_SECOND: u64 = 50;

/// What goes out next on a copy stream.
enum Piece {
    /// Batches up to `end`, read from disk.
    Batches { state: CopyState, batches: Vec<CopyBatch>, end: Offset, sealed: bool },
    /// What is known besides the batches; nothing comes after it.
    Sealed(Box<CopySealed>),
    /// No copy comes of it.
    Over(Refusal),
}

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
        let from: CopyFrom = match codec::decode(first) {
            Ok(from) => from,
            Err(refusal) => return writer.refuse(&refusal).await,
        };
        let ended = tokio::select! {
            ended = self.serve(&mut writer, from) => ended?,
            // The other side has nothing more to say, so this is its end.
            _ = reader.read() => None,
        };
        match ended {
            Some(refusal) => writer.refuse(&refusal).await,
            None => writer.finish(),
        }
    }

    /// Says everything, or why it ends before.
    async fn serve(
        &self,
        writer: &mut FrameWriter,
        mut from: CopyFrom,
    ) -> Result<Option<Refusal>, NetError> {
        let mut said = None;
        let mut next = self.piece(from, Wants::State).await;
        loop {
            match next {
                Piece::Batches { state, batches, end, sealed } => {
                    if said != Some(state) {
                        writer.push_control(Kind::CopyState, &state)?;
                        said = Some(state);
                    }
                    from.from = end;
                    // The next is read while this one waits and goes out.
                    let sent = self.send(writer, batches, from, sealed);
                    let (sent, read) = tokio::join!(sent, self.piece(from, Wants::Next));
                    sent?;
                    next = read;
                }
                Piece::Sealed(snapshot) => {
                    writer.write_control(Kind::CopySealed, &*snapshot).await?;
                    return Ok(None);
                }
                Piece::Over(refusal) => return Ok(Some(refusal)),
            }
        }
    }

    /// Waits for what goes out next, and reads it.
    async fn piece(&self, from: CopyFrom, wants: Wants) -> Piece {
        match self.ask(from, wants).await {
            Ok(CopyAnswer::Batches { state, entries, sealed }) => {
                let end = entries.last().map_or(from.from, IndexEntry::end);
                match self.read(entries).await {
                    Ok(batches) => Piece::Batches { state, batches, end, sealed },
                    Err(refusal) => Piece::Over(refusal),
                }
            }
            Ok(CopyAnswer::Sealed(snapshot)) => Piece::Sealed(snapshot),
            Ok(CopyAnswer::Over(refusal)) | Err(refusal) => Piece::Over(refusal),
        }
    }

    async fn ask(&self, from: CopyFrom, wants: Wants) -> Result<CopyAnswer, Refusal> {
        let (reply, answer) = oneshot::channel();
        let asked = NextAsked { from, wants, max_bytes: self.piece_bytes, reply };
        self.shards.send(from.queue, Input::CopyNext(asked)).await?;
        answer.await.map_err(|_| Refusal::new(Code::Unavailable, "the worker is shutting down"))
    }

    /// Sends batches when their time has come; `behind` is what comes after them.
    async fn send(
        &self,
        writer: &mut FrameWriter,
        batches: Vec<CopyBatch>,
        behind: CopyFrom,
        sealed: bool,
    ) -> Result<(), NetError> {
        let bytes: u64 = batches.iter().map(|batch| batch.batch.len() as u64).sum();
        let wait = self.throttle.take(bytes);
        if !sealed && !wait.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // From the seal on publishers wait for the copy, so nothing slows it down.
                _ = self.ask(behind, Wants::EndOfPace) => {}
            }
        }
        for batch in batches {
            writer.push(Kind::CopyBatch, &[batch.header(), batch.batch])?;
        }
        writer.flush().await?;
        self.metrics.copy_bytes.with_label_values(&["out"]).inc_by(bytes);
        Ok(())
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
