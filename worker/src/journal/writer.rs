//! The journal's one thread: it takes everything that waits, writes it as one round, syncs once,
//! and answers. It promises that nothing is answered before its sync, that a round that found the
//! disk full leaves nothing behind, and that after a failed write or sync nothing is written any
//! more. What the records are it does not look at.

use std::fs::File;
use std::io::{self, IoSlice};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::error::{JournalError, is_full};
use super::frame::{
    FRAME_HEADER_BYTES, FrameHeader, Kind, Location, Position, SYNC_FRAME_BYTES, Seal, SyncBody,
    encode, padded,
};
use super::meta::{Lock, Meta};
use super::recovery::Opened;
use super::segment::{self, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::{Completion, Options, Record, Shared};

/// Zeros up to the next multiple of 8.
const PADDING: [u8; 8] = [0; 8];

/// What the thread is asked for.
pub(super) enum Job {
    Append(Append),
    Close(oneshot::Sender<Result<(), JournalError>>),
}

/// Records that wait to be written. It is answered exactly once: where nothing else answers it,
/// dropping it does, so that no error path can forget one.
pub(super) struct Append {
    records: Vec<Record>,
    done: Option<Completion>,
    /// Room in the inbox, given back with this.
    _room: Option<OwnedSemaphorePermit>,
    shared: Arc<Shared>,
}

impl Append {
    pub(super) fn new(
        records: Vec<Record>,
        done: Completion,
        room: Option<OwnedSemaphorePermit>,
        shared: Arc<Shared>,
    ) -> Self {
        Self { records, done: Some(done), _room: room, shared }
    }

    fn answer(mut self, result: Result<Vec<Location>, JournalError>) {
        if let Some(done) = self.done.take() {
            done(result);
        }
    }
}

impl Drop for Append {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            done(Err(self.shared.reason()));
        }
    }
}

/// Why a round was not written.
enum Trouble {
    /// The disk is full; the journal is as it was before the round.
    Full,
    /// What is on the disk is not known.
    Broken(JournalError),
}

impl Trouble {
    fn of(doing: &str, segment: u64, error: &io::Error) -> Self {
        match is_full(error) {
            true => Self::Full,
            false => Self::Broken(JournalError::disk(format!("{doing} segment {segment}"), error)),
        }
    }
}

/// The state of the thread.
pub(super) struct Writer {
    dir: PathBuf,
    options: Options,
    shared: Arc<Shared>,
    /// Ours until the journal is closed or has failed.
    lock: Option<Lock>,
    meta: Meta,
    /// The last segment.
    file: File,
    /// Where the next round goes. Everything before is synced.
    end: Position,
    /// The end of the last round: `end`, or the end of the segment before when `end` is the
    /// beginning of a segment.
    synced: Position,
    /// The number of the last round.
    round: u64,
    /// Whether there are records that no Sync frame covers yet.
    unproven: bool,
}

impl Writer {
    pub(super) fn new(dir: &Path, opened: Opened, options: Options, shared: Arc<Shared>) -> Self {
        let Opened { lock, meta, file, round, report, .. } = opened;
        Self {
            dir: dir.to_owned(),
            options,
            shared,
            lock: Some(lock),
            meta,
            file,
            end: report.end,
            synced: report.end,
            round,
            unproven: report.frames > 0,
        }
    }

    /// Serves `jobs` until the journal is closed, has failed, or nobody is left to ask.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        let mut waiting = Vec::new();
        while let Some(first) = self.next(jobs) {
            let mut close = None;
            for job in std::iter::once(first).chain(jobs.try_iter()) {
                match job {
                    Job::Append(append) => waiting.push(append),
                    Job::Close(done) => {
                        close = Some(done);
                        break;
                    }
                }
            }
            if !waiting.is_empty() && !self.commit(mem::take(&mut waiting)) {
                return;
            }
            if let Some(done) = close {
                return self.close(done);
            }
        }
    }

    /// The next job. Writes the sync point when none comes for a while after a round.
    fn next(&mut self, jobs: &Receiver<Job>) -> Option<Job> {
        if self.unproven {
            match jobs.recv_timeout(self.options.idle) {
                Ok(job) => return Some(job),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            // On a full disk the next round that finds room proves the same.
            if let Err(Trouble::Broken(error)) = self.write(&[], false) {
                self.fail(error);
                return None;
            }
            self.unproven = false;
        }
        jobs.recv().ok()
    }

    /// One round with all that waits. Returns whether the journal goes on.
    fn commit(&mut self, appends: Vec<Append>) -> bool {
        let records: Vec<&Record> = appends.iter().flat_map(|a| &a.records).collect();
        match self.write(&records, false) {
            Ok(locations) => {
                self.unproven = true;
                let mut locations = locations.into_iter();
                for append in appends {
                    let places = locations.by_ref().take(append.records.len()).collect();
                    append.answer(Ok(places));
                }
                true
            }
            Err(Trouble::Full) => {
                for append in appends {
                    append.answer(Err(JournalError::DiskFull));
                }
                true
            }
            Err(Trouble::Broken(error)) => {
                // The appends answer themselves with this error when they are dropped.
                self.fail(error);
                false
            }
        }
    }

    fn close(mut self, done: oneshot::Sender<Result<(), JournalError>>) {
        let result = match self.write(&[], true) {
            Ok(_) => Ok(()),
            Err(Trouble::Full) => Err(JournalError::DiskFull),
            Err(Trouble::Broken(error)) => {
                self.fail(error.clone());
                Err(error)
            }
        };
        // The directory is free before anyone hears that it is.
        self.lock = None;
        // Nobody may be waiting any more.
        let _ = done.send(result);
    }

    fn fail(&mut self, error: JournalError) {
        tracing::error!(%error, "the journal has closed itself");
        self.lock = None;
        self.shared.failed.send_replace(Some(error));
    }

    /// Writes and syncs one round: a Sync frame, `records`, and the clean-shutdown mark if `close`.
    fn write(&mut self, records: &[&Record], close: bool) -> Result<Vec<Location>, Trouble> {
        let mark = FrameHeader::bare(Kind::Close, 0);
        let headers: Vec<FrameHeader> =
            records.iter().map(|r| r.header()).chain(close.then_some(mark)).collect();
        let frames: u64 = headers.iter().map(|h| padded(h.body_len)).sum();
        let bytes = SYNC_FRAME_BYTES as u64 + frames;
        self.make_room(bytes)?;

        let Position { segment, position: start } = self.end;
        let seal = Seal::new(self.meta.journal, segment);
        let sync = SyncBody { synced: self.synced, round: self.round + 1 }.encode(seal, start);
        let bodies = records.iter().map(|r| &r.body[..]).chain(close.then_some(&[][..]));
        let mut at = start + SYNC_FRAME_BYTES as u64;
        let (mut encoded, mut locations) = (Vec::with_capacity(headers.len()), Vec::new());
        for (header, body) in headers.iter().zip(bodies.clone()) {
            encoded.push(encode(header, body, seal, at));
            let length = FRAME_HEADER_BYTES as u32 + header.body_len;
            locations.push(Location { segment, position: at, length });
            at += padded(header.body_len);
        }
        let mut parts = Vec::with_capacity(1 + 3 * encoded.len());
        parts.push(IoSlice::new(&sync));
        for (header, body) in encoded.iter().zip(bodies) {
            let padding = body.len().next_multiple_of(PADDING.len()) - body.len();
            let slices = [&header[..], body, &PADDING[..padding]];
            parts.extend(slices.into_iter().filter(|s| !s.is_empty()).map(IoSlice::new));
        }

        self.put(start, &mut parts)?;
        locations.truncate(records.len());
        self.end.position = at;
        self.synced = self.end;
        self.round += 1;
        self.shared.stats.count(records.len(), bytes);
        Ok(locations)
    }

    /// Writes `parts` at `start` and syncs. A disk that is full is left without them.
    fn put(&self, start: u64, parts: &mut [IoSlice<'_>]) -> Result<(), Trouble> {
        let segment = self.end.segment;
        let broken = |doing: &str, e: io::Error| {
            Trouble::Broken(JournalError::disk(format!("{doing} segment {segment}"), &e))
        };
        let disk = &*self.options.disk;
        if let Err(e) = disk.write(&self.file, start, parts) {
            if !is_full(&e) {
                return Err(broken("write", e));
            }
            // On the disk, before anyone is told: else a crash could bring back whole frames
            // that were refused.
            disk.truncate(&self.file, start).map_err(|e| broken("cut", e))?;
            return Err(Trouble::Full);
        }
        let begun = Instant::now();
        disk.sync(&self.file).map_err(|e| broken("sync", e))?;
        if let Some(on_sync) = &self.options.on_sync {
            on_sync(begun.elapsed());
        }
        Ok(())
    }

    /// Begins the next segment when a round of `bytes` does not fit into this one.
    fn make_room(&mut self, bytes: u64) -> Result<(), Trouble> {
        let Position { segment, position } = self.end;
        if position > SEGMENT_HEADER_BYTES && position + bytes > self.options.segment_bytes {
            let number = segment + 1;
            let header =
                SegmentHeader { number, journal: self.meta.journal, previous_end: position };
            self.file = segment::create(&self.shared.segments, &header, &*self.options.disk)
                .map_err(|e| Trouble::of("begin", number, &e))?;
            self.end = Position { segment: number, position: SEGMENT_HEADER_BYTES };
        }
        // `meta` may lag by one segment that has no answered record, and by no more.
        if self.meta.last_segment < self.end.segment {
            let meta = Meta { last_segment: self.end.segment, ..self.meta.clone() };
            meta.write(&self.dir).map_err(|e| Trouble::of("note", self.end.segment, &e))?;
            self.meta = meta;
        }
        Ok(())
    }
}

impl Drop for Writer {
    /// A completion that panics ends the thread: the worker must hear of it.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = JournalError::Failed {
                doing: "go on".into(),
                reason: "the journal's thread panicked".into(),
            };
            self.shared.failed.send_replace(Some(error));
        }
    }
}
