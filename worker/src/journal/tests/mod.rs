//! Tests of the journal as a whole. Here: a disk that counts, holds back and fails as told, and
//! helpers; the promises are in `live` (a running journal) and `crash` (what a restart finds).

mod crash;
mod live;

use std::fs::{self, File};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, MutexGuard};

use ringway_proto::GroupId;

use super::recovery::{SEGMENTS, recover};
use super::*;

/// Does what the system's disk does, except for the waiting, and notes it down.
#[derive(Default)]
pub(super) struct TestDisk {
    state: Mutex<DiskState>,
    changed: Condvar,
}

#[derive(Default)]
struct DiskState {
    /// What was done, in order.
    log: Vec<Event>,
    /// Where the last write began and ended, and the end of what was synced.
    written_from: u64,
    written: u64,
    synced: u64,
    syncs_begun: usize,
    hold_syncs: bool,
    fail_syncs: bool,
    /// Bytes that still fit.
    room: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    Written,
    Synced,
    Cut,
    Acked,
}

impl TestDisk {
    fn state(&self) -> MutexGuard<'_, DiskState> {
        self.state.lock().unwrap()
    }

    fn set(&self, change: impl FnOnce(&mut DiskState)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    /// Waits for another thread to get there; what never happens fails the test.
    fn wait_until(&self, mut reached: impl FnMut(&DiskState) -> bool) {
        let limit = Duration::from_secs(30);
        let waited = self.changed.wait_timeout_while(self.state(), limit, |s| !reached(s)).unwrap();
        assert!(!waited.1.timed_out(), "not reached: {:?}", waited.0.log);
    }
}

impl Disk for TestDisk {
    fn write(&self, file: &File, position: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut bytes: Vec<u8> = parts.iter().flat_map(|p| p.iter().copied()).collect();
        let mut full = false;
        let mut state = self.state();
        if let Some(room) = &mut state.room {
            full = bytes.len() as u64 > *room;
            bytes.truncate(*room as usize);
            *room -= bytes.len() as u64;
        }
        // A full disk takes what fits before it says so.
        file.write_all_at(&bytes, position)?;
        state.written_from = position;
        state.written = position + bytes.len() as u64;
        state.log.push(Event::Written);
        if full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&self, _file: &File) -> io::Result<()> {
        let mut state = self.state();
        state.syncs_begun += 1;
        self.changed.notify_all();
        let mut state = self.changed.wait_while(state, |s| s.hold_syncs).unwrap();
        if state.fail_syncs {
            return Err(io::Error::other("input/output error"));
        }
        state.synced = state.written;
        state.log.push(Event::Synced);
        self.changed.notify_all();
        Ok(())
    }

    fn truncate(&self, file: &File, len: u64) -> io::Result<()> {
        file.set_len(len)?;
        self.set(|s| s.log.push(Event::Cut));
        Ok(())
    }
}

/// Options with `disk`, and no sync point that a test does not ask for.
fn options(disk: &Arc<TestDisk>) -> Options {
    let disk = disk.clone();
    Options { disk, idle: Duration::from_secs(3600), ..Options::new("w1".parse().unwrap()) }
}

/// A batch of two messages at offset `2 * n`, with a body of `len` bytes that differs for each `n`.
fn record(n: u64, len: usize) -> Record {
    Record {
        kind: RecordKind::Batch,
        queue: QueueId::new(GroupId(1), n as u32 % 3),
        epoch: Epoch(5),
        base_offset: Offset(2 * n),
        count: 2,
        session: Session(1),
        producer: Uuid(0xfeed),
        sequence: Sequence(n),
        appended_at: WallTime(1_795_521_600_000 + n),
        body: Bytes::from((0..len).map(|i| (i as u64 * 7 + n) as u8 | 1).collect::<Vec<_>>()),
    }
}

/// What the visitor saw, as records.
fn collect(into: &mut Vec<(Record, Location)>) -> impl FnMut(&FrameHeader, Location, &[u8]) + '_ {
    |header, at, body| into.push((as_record(header, Bytes::copy_from_slice(body)), at))
}

fn as_record(h: &FrameHeader, body: Bytes) -> Record {
    assert_eq!(h.body_len as usize, body.len());
    Record {
        kind: match h.kind {
            Kind::Batch => RecordKind::Batch,
            Kind::Control => RecordKind::Control,
            own => panic!("the visitor was shown a frame of the journal's own: {own:?}"),
        },
        queue: h.queue,
        epoch: h.epoch,
        base_offset: h.base_offset,
        count: h.count,
        session: h.session,
        producer: h.producer,
        sequence: h.sequence,
        appended_at: h.appended_at,
        body,
    }
}

fn open(dir: &Path, options: Options) -> Result<(Journal, Recovered, Vec<Record>), JournalError> {
    let mut seen = Vec::new();
    let (journal, report) = Journal::open(dir, options, &mut collect(&mut seen))?;
    Ok((journal, report, seen.into_iter().map(|(record, _)| record).collect()))
}

/// What a start on `dir` finds and leaves, without a running journal.
fn restart(dir: &Path, disk: &Arc<TestDisk>) -> Result<(Recovered, Vec<Record>), JournalError> {
    let mut seen = Vec::new();
    let report = recover(dir, &options(disk), &mut collect(&mut seen))?.report;
    Ok((report, seen.into_iter().map(|(record, _)| record).collect()))
}

/// Appends in a round of its own and waits for the answer.
async fn append(journal: &Journal, records: Vec<Record>) -> Result<Vec<Location>, JournalError> {
    let (done, answer) = oneshot::channel();
    journal.append(records, Box::new(move |result| drop(done.send(result)))).await;
    answer.await.expect("every append is answered")
}

fn segment_path(dir: &Path, number: u64) -> PathBuf {
    segment::path(&dir.join(SEGMENTS), number)
}

/// Every file below `dir` but the lock, with its bytes.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for folder in [dir.to_owned(), dir.join(SEGMENTS)] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() && path.file_name() != Some("lock".as_ref()) {
                files.insert(path.clone(), fs::read(path).unwrap());
            }
        }
    }
    files
}

/// Makes `to` what the disk holds of `from` after the process was killed.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.join(SEGMENTS)).unwrap();
    for (path, bytes) in contents(from) {
        fs::write(to.join(path.strip_prefix(from).unwrap()), bytes).unwrap();
    }
}
