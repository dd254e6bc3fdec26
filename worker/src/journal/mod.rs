//! The worker's journal: one sequence of frames on disk that all queues append to, with one sync
//! per round however many appends wait (group commit). It promises that an append is answered
//! only when it is synced, that what was answered is found again or reported as damaged, and that
//! a failed sync is never tried again. It knows bytes, queue ids and offsets, and nothing of
//! subscriptions.
//!
//! On disk, in the worker's data directory: `lock`, `meta` (see `meta.rs`) and `journal/` with
//! segment files (see `segment.rs`) full of frames (see `frame.rs`). Each round is a Sync frame
//! that names the end of what was synced before, then the records that waited:
//!
//! ```text
//! segment header | Sync Batch Batch Control | Sync Batch | Sync | Sync Close
//!                  round 1                    round 2      idle   closed
//! ```

mod disk;
mod error;
mod frame;
mod index;
mod meta;
mod reader;
mod recovery;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use bytes::Bytes;
use ringway_proto::{
    Epoch, Offset, ProducerId, QueueId, Sequence, Session, Uuid, WallTime, WorkerId,
};
use tokio::sync::{Semaphore, oneshot, watch};

pub use disk::{Disk, SystemDisk};
pub use error::JournalError;
pub use frame::{FRAME_HEADER_BYTES, FrameHeader, Kind, Location, MAX_BODY_BYTES, Position};
pub use index::{IndexEntry, OutOfOrder, QueueIndex};
pub use recovery::{Cut, Recovered};

use writer::{Append, Job, Writer};

/// The segment size after which the next segment is begun, in bytes.
pub const DEFAULT_SEGMENT_BYTES: u64 = 256 << 20;
/// What may wait for the journal at once, in bytes.
pub const DEFAULT_INBOX_BYTES: u32 = 64 << 20;
/// How long after the last round a sync point is written.
pub const DEFAULT_IDLE: Duration = Duration::from_millis(50);
/// Segment files that are kept open for reading.
const OPEN_FILES: usize = 64;

/// How to open a journal.
#[derive(Clone)]
pub struct Options {
    /// Whose journal it is. A directory of another worker is refused.
    pub worker: WorkerId,
    /// The segment size after which the next segment is begun, in bytes. One round is never
    /// split, so a segment with a single large round may be larger.
    pub segment_bytes: u64,
    /// What may wait at once, headers included, in bytes; at the bound [`Journal::append`] waits.
    pub inbox_bytes: u32,
    /// How long after the last round a sync point is written.
    pub idle: Duration,
    /// The disk; another one only in tests.
    pub disk: Arc<dyn Disk>,
    /// Told the duration of each sync, on the journal's thread.
    pub on_sync: Option<Arc<dyn Fn(Duration) + Send + Sync>>,
}

impl Options {
    /// The usual settings for this worker.
    #[must_use]
    pub fn new(worker: WorkerId) -> Self {
        Self {
            worker,
            segment_bytes: DEFAULT_SEGMENT_BYTES,
            inbox_bytes: DEFAULT_INBOX_BYTES,
            idle: DEFAULT_IDLE,
            disk: Arc::new(SystemDisk),
            on_sync: None,
        }
    }
}

/// What a record is; the other kinds of frames are the journal's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordKind {
    /// A batch of messages.
    Batch,
    /// A control record, opaque to the journal.
    Control,
}

/// Something to append. The fields are those of [`FrameHeader`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// What it is.
    pub kind: RecordKind,
    /// The queue that it is about.
    pub queue: QueueId,
    /// The queue's epoch.
    pub epoch: Epoch,
    /// The offset of the first message; 0 for a control record.
    pub base_offset: Offset,
    /// How many messages the body has; 0 for a control record.
    pub count: u32,
    /// The producer's session at the queue.
    pub session: Session,
    /// Who published it.
    pub producer: ProducerId,
    /// The sequence of the first message.
    pub sequence: Sequence,
    /// When the worker took it, by its calendar.
    pub appended_at: WallTime,
    /// The bytes, at most [`MAX_BODY_BYTES`].
    pub body: Bytes,
}

impl Record {
    /// A control record of `queue`.
    #[must_use]
    pub fn control(queue: QueueId, epoch: Epoch, appended_at: WallTime, body: Bytes) -> Self {
        Self {
            kind: RecordKind::Control,
            queue,
            epoch,
            base_offset: Offset(0),
            count: 0,
            session: Session(0),
            producer: Uuid(0),
            sequence: Sequence(0),
            appended_at,
            body,
        }
    }

    /// The header of its frame. The body was checked to be within the bound.
    fn header(&self) -> FrameHeader {
        FrameHeader {
            kind: match self.kind {
                RecordKind::Batch => Kind::Batch,
                RecordKind::Control => Kind::Control,
            },
            queue: self.queue,
            epoch: self.epoch,
            base_offset: self.base_offset,
            count: self.count,
            session: self.session,
            producer: self.producer,
            sequence: self.sequence,
            appended_at: self.appended_at,
            body_len: self.body.len() as u32,
        }
    }
}

/// Called once with the places of an append's records when they are synced, or with the reason
/// why not. It runs on the journal's thread, which syncs nothing meanwhile: keep it short.
pub type Completion = Box<dyn FnOnce(Result<Vec<Location>, JournalError>) + Send>;

/// Sees each Batch and Control frame, in the order of the journal, while it is opened.
pub type Visitor<'a> = dyn FnMut(&FrameHeader, Location, &[u8]) + 'a;

/// What the journal has done since it was opened.
#[derive(Default, Debug)]
pub struct JournalStats {
    /// Rounds written and synced, sync points included.
    pub rounds: AtomicU64,
    /// Syncs that returned without an error.
    pub syncs: AtomicU64,
    /// Records written and synced.
    pub records: AtomicU64,
    /// Bytes written and synced, headers and padding included.
    pub bytes_written: AtomicU64,
}

/// What the handles and the journal's thread share.
struct Shared {
    segments: PathBuf,
    uuid: Uuid,
    stats: JournalStats,
    /// Why the journal closed itself.
    failed: watch::Sender<Option<JournalError>>,
}

impl Shared {
    /// Why an append that was not written was not.
    fn reason(&self) -> JournalError {
        self.failed.borrow().clone().unwrap_or(JournalError::Closed)
    }
}

struct Handle {
    shared: Arc<Shared>,
    inbox: mpsc::Sender<Job>,
    /// Bytes that may still be appended; given back when their round is over.
    room: Arc<Semaphore>,
    inbox_bytes: u32,
    /// Segments open for reading, at most [`OPEN_FILES`].
    files: Mutex<BTreeMap<u64, Arc<File>>>,
}

/// A handle of an open journal; cheap to clone. When the last one is dropped without
/// [`close`](Self::close), what waits is still written, and the next start finds no
/// clean-shutdown mark.
#[derive(Clone)]
pub struct Journal {
    handle: Arc<Handle>,
}

impl Journal {
    /// Opens the journal in the worker's data directory `dir`, or begins one where there is none,
    /// and shows all that it holds to `visit`. After an error, what `visit` saw counts for
    /// nothing. It reads and syncs files: not for a thread that serves others.
    ///
    /// # Errors
    /// Everything of [`JournalError`] that a start can meet: `InUse`, `Unusable`, `OtherWorker`,
    /// `DataNewer`, `Damaged`, `MetaDamaged`, `DataMissing`, `Failed`. Nothing was changed then,
    /// except that `Unusable` and `Failed` may leave a cut half done; the next start does it again.
    pub fn open(
        dir: &Path,
        options: Options,
        visit: &mut Visitor<'_>,
    ) -> Result<(Self, Recovered), JournalError> {
        let opened = recovery::recover(dir, &options, visit)?;
        let report = opened.report;
        if let Some(cut) = report.cut {
            tracing::warn!(
                segment = cut.segment,
                position = cut.position,
                bytes = cut.bytes,
                "cut a torn tail off the journal; nothing in it was acked"
            );
        }
        let shared = Arc::new(Shared {
            segments: opened.segments.clone(),
            uuid: report.uuid,
            stats: JournalStats::default(),
            failed: watch::Sender::new(None),
        });
        let (inbox, jobs) = mpsc::channel();
        let inbox_bytes = options.inbox_bytes.max(1);
        let writer = Writer::new(dir, opened, options, shared.clone());
        std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || writer.run(&jobs))
            .map_err(|e| JournalError::disk("start the journal's thread", &e))?;
        let room = Arc::new(Semaphore::new(inbox_bytes as usize));
        let files = Mutex::default();
        let handle = Arc::new(Handle { shared, inbox, room, inbox_bytes, files });
        Ok((Self { handle }, report))
    }

    /// Appends `records`, all in one round, and has `done` called once with their places when they
    /// are synced, or with the error. Returns as soon as there was room for them to wait in;
    /// appends that wait are written in the order in which they were called. Without records it
    /// is a barrier: `done` is called when all before it are answered.
    ///
    /// A future that is dropped before it returns appends nothing and never calls `done`.
    ///
    /// `done` is given `TooLarge`, `DiskFull` (nothing was kept; later appends may succeed),
    /// `Failed` (whether it survives is not known; the journal is closed) or `Closed`.
    pub async fn append(&self, records: Vec<Record>, done: Completion) {
        let large = records.iter().map(|r| r.body.len()).find(|len| *len > MAX_BODY_BYTES as usize);
        if let Some(len) = large {
            let limit = u64::from(MAX_BODY_BYTES);
            return done(Err(JournalError::TooLarge { bytes: len as u64, limit }));
        }
        // An append larger than the whole inbox goes alone.
        let bytes: u64 = records.iter().map(|r| frame::padded(r.body.len() as u32)).sum();
        let share = bytes.min(u64::from(self.handle.inbox_bytes)) as u32;
        let room = self.handle.room.clone().acquire_many_owned(share).await.ok();
        let append = Append::new(records, done, room, self.handle.shared.clone());
        // Where the thread is gone, the append comes back, and answers itself when dropped.
        drop(self.handle.inbox.send(Job::Append(append)));
    }

    /// The frame at `at`, a place that a completion or the visitor named. Reads the file on the
    /// caller's thread.
    ///
    /// # Errors
    /// `Damaged` when it is not what was written there, `DataNewer` when the frame is of a newer
    /// format, `Failed` when the disk cannot be read.
    pub fn read(&self, at: Location) -> Result<(FrameHeader, Bytes), JournalError> {
        let damaged = |what: &str| JournalError::Damaged {
            segment: at.segment,
            position: at.position,
            what: what.to_owned(),
        };
        let body_len = at.body_len();
        if at.length < FRAME_HEADER_BYTES as u32 || body_len > MAX_BODY_BYTES {
            return Err(damaged("a frame cannot have the length asked for"));
        }
        let mut frame = vec![0; at.length as usize];
        match self.file(at.segment)?.read_exact_at(&mut frame, at.position) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                return Err(damaged("the file ends inside a frame"));
            }
            Err(e) => {
                return Err(JournalError::disk(format!("read segment {}", at.segment), &e));
            }
        }
        let Some((header, body)) = frame.split_first_chunk() else {
            return Err(damaged("a frame cannot have the length asked for"));
        };
        let seal = frame::Seal::new(self.handle.shared.uuid, at.segment);
        match frame::decode(header, body, seal, at.position) {
            Ok(header) => Ok((header, Bytes::from(frame).slice(FRAME_HEADER_BYTES..))),
            Err(frame::BadFrame::Broken(what)) => Err(damaged(what)),
            Err(frame::BadFrame::Newer { version }) => Err(JournalError::DataNewer {
                what: format!("the frame at byte {} of segment {}", at.position, at.segment),
                found: u32::from(version),
                known: u32::from(frame::FRAME_VERSION),
            }),
        }
    }

    fn file(&self, segment: u64) -> Result<Arc<File>, JournalError> {
        // A map of files is whole whatever happened to the thread that held it.
        let mut files = self.handle.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(&segment) {
            return Ok(file.clone());
        }
        let path = segment::path(&self.handle.shared.segments, segment);
        let file = File::open(path)
            .map_err(|e| JournalError::disk(format!("open segment {segment}"), &e))?;
        let file = Arc::new(file);
        if files.len() >= OPEN_FILES {
            files.pop_first();
        }
        files.insert(segment, file.clone());
        Ok(file)
    }

    /// Writes all that was appended before, then the clean-shutdown mark, and gives the data
    /// directory free. Later appends are answered `Closed`. Closing twice is closing once.
    ///
    /// # Errors
    /// `Failed` when the journal has failed, `DiskFull` when there was no room for the mark: then
    /// it is closed, but the next start will not call it clean.
    pub async fn close(&self) -> Result<(), JournalError> {
        let (done, closed) = oneshot::channel();
        if self.handle.inbox.send(Job::Close(done)).is_ok()
            && let Ok(result) = closed.await
        {
            return result;
        }
        match self.handle.shared.reason() {
            JournalError::Closed => Ok(()),
            failed => Err(failed),
        }
    }

    /// Becomes `Some` when the disk failed and the journal has closed itself: the worker must
    /// leave.
    #[must_use]
    pub fn failed(&self) -> watch::Receiver<Option<JournalError>> {
        self.handle.shared.failed.subscribe()
    }

    /// What the journal has done since it was opened.
    #[must_use]
    pub fn stats(&self) -> &JournalStats {
        &self.handle.shared.stats
    }

    /// The identity of the journal.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.handle.shared.uuid
    }
}

impl JournalStats {
    fn count(&self, records: usize, bytes: u64) {
        self.rounds.fetch_add(1, Ordering::Relaxed);
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.records.fetch_add(records as u64, Ordering::Relaxed);
        self.bytes_written.fetch_add(bytes, Ordering::Relaxed);
    }
}
