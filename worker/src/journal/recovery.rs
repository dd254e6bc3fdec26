//! Reads a journal at start: which frames are there, and whether a bad one is a torn tail, which
//! is cut and reported, or damage, which is an error that changes nothing. It hands every frame
//! on and keeps none; what the frames mean is the visitor's business.
//!
//! Torn or damaged? A round is written only when all rounds before it are synced, and begins with
//! a Sync frame that says up to where. The highest such place that any valid Sync frame names is
//! *proven*: bytes below it were on the disk, so a bad frame there is damage. At or above it the
//! bytes may belong to a round whose sync never returned, which nobody was told of; sectors of
//! such a round can be on the disk in any order, so the whole frames before the first bad one are
//! kept and the rest is cut. A later segment exists only when the one before it is synced to the
//! end that the later one's header names, so only the last segment can be torn.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ringway_proto::Uuid;

use super::disk::Disk;
use super::error::JournalError;
use super::frame::{
    ALIGNMENT, BadFrame, FRAME_HEADER_BYTES, FRAME_VERSION, FrameHeader, Kind, Location, MAGIC,
    Position, SYNC_FRAME_BYTES, Seal, SyncBody, claimed_body_len, decode, padded,
};
use super::meta::{Lock, Meta};
use super::reader::Reader;
use super::segment::{
    self, BadSegment, SEGMENT_HEADER_BYTES, SEGMENT_VERSION, SegmentHeader, sync_dir,
};
use super::{Options, Visitor};

/// The folder of the segment files in the data directory.
pub(super) const SEGMENTS: &str = "journal";
/// How much of a tail is written again at once, in bytes.
const CHUNK_BYTES: u64 = 1 << 20;

/// What was found when the journal was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// The identity of the journal; a new one where the directory was empty.
    pub uuid: Uuid,
    /// Whether the last process closed it in order, or the directory was empty.
    pub clean: bool,
    /// What was cut from the end because its sync had never returned.
    pub cut: Option<Cut>,
    /// Where the next frame goes.
    pub end: Position,
    /// How many frames the visitor saw.
    pub frames: u64,
}

/// A torn tail that was cut. Nothing in it was ever acked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// The number of the segment file.
    pub segment: u64,
    /// The byte in it where the cut was made.
    pub position: u64,
    /// How many bytes were cut.
    pub bytes: u64,
}

/// A journal that was read and is ready for more.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) lock: Lock,
    pub(super) meta: Meta,
    pub(super) segments: PathBuf,
    /// The last segment.
    pub(super) file: File,
    /// The number of the last round.
    pub(super) round: u64,
    pub(super) report: Recovered,
}

/// Takes the data directory `dir`, reads its journal, and cuts a torn tail.
pub(super) fn recover(
    dir: &Path,
    options: &Options,
    visit: &mut Visitor<'_>,
) -> Result<Opened, JournalError> {
    let lock = Lock::take(dir)?;
    let unusable = |e: io::Error| JournalError::unusable(dir, &e);
    let segments = dir.join(SEGMENTS);
    fs::create_dir_all(&segments).map_err(unusable)?;
    let (numbers, unfinished) = segment::list(&segments).map_err(unusable)?;
    let mut meta = match Meta::read(dir)? {
        Some(meta) => meta,
        None if numbers.is_empty() => begin(dir, options).map_err(unusable)?,
        None => {
            let what = format!("{} has segments, but the file meta is missing", dir.display());
            return Err(JournalError::DataMissing { what });
        }
    };
    if meta.worker != options.worker {
        let (owner, worker) = (meta.worker, options.worker.clone());
        return Err(JournalError::OtherWorker { dir: dir.to_owned(), owner, worker });
    }
    check_complete(&numbers, meta.last_segment)?;

    let mut scan = Scan {
        segments: &segments,
        journal: meta.journal,
        proven: Position::default(),
        round: 0,
        frames: 0,
        last: None,
    };
    let Some(tail) = scan.run(&numbers, visit)? else {
        let header = SegmentHeader { number: 1, journal: meta.journal, previous_end: 0 };
        let file = segment::create(&segments, &header, &*options.disk).map_err(unusable)?;
        meta.last_segment = 1;
        meta.write(dir).map_err(unusable)?;
        let end = Position { segment: 1, position: SEGMENT_HEADER_BYTES };
        let report = Recovered { uuid: meta.journal, clean: true, cut: None, end, frames: 0 };
        return Ok(Opened { lock, meta, segments, file, round: 0, report });
    };

    // Nothing was changed up to here; from here on nothing can be damage.
    for path in unfinished {
        fs::remove_file(path).map_err(unusable)?;
    }
    let file = settle(&segments, &tail, scan.proven, &*options.disk)?;
    let round = scan.round;
    let report = Recovered {
        uuid: meta.journal,
        clean: tail.clean,
        cut: tail.cut,
        end: tail.end,
        frames: scan.frames,
    };
    Ok(Opened { lock, meta, segments, file, round, report })
}

/// Writes down whose directory this is, before there is anything in it.
fn begin(dir: &Path, options: &Options) -> io::Result<Meta> {
    let journal = Uuid(rand::random());
    let meta = Meta { journal, worker: options.worker.clone(), last_segment: 0 };
    meta.write(dir)?;
    match dir.parent() {
        Some(parent) if parent != Path::new("") => sync_dir(parent)?,
        _ => sync_dir(Path::new("."))?,
    }
    Ok(meta)
}

/// Segments are numbered from 1 without a gap, and as many as `meta` names are there.
fn check_complete(numbers: &[u64], last: u64) -> Result<(), JournalError> {
    let gap = (1..).zip(numbers).find(|(expected, found)| expected != *found);
    let count = numbers.len() as u64;
    let what = match gap {
        Some((expected, _)) => format!("segment {expected} of the journal is missing"),
        None if count < last => format!("segment {} of the journal is missing", count + 1),
        // The one after the last may have been made just before a crash; no more than that.
        None if count > last + 1 => {
            format!("the journal has {count} segments, but the file meta knows of {last}")
        }
        None => return Ok(()),
    };
    Err(JournalError::DataMissing { what })
}

/// Where the journal ends.
struct Tail {
    /// Where the next frame goes.
    end: Position,
    /// Bytes of the last segment's file.
    file_len: u64,
    clean: bool,
    cut: Option<Cut>,
}

/// Makes the last segment end at `tail.end`, on the disk too.
fn settle(
    segments: &Path,
    tail: &Tail,
    proven: Position,
    disk: &dyn Disk,
) -> Result<File, JournalError> {
    let number = tail.end.segment;
    let failed =
        |doing: &str, e: io::Error| JournalError::disk(format!("{doing} segment {number}"), &e);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(segment::path(segments, number))
        .map_err(|e| failed("open", e))?;
    // A clean-shutdown mark is used up by this start: a crash before the first round is no clean
    // shutdown either.
    if tail.file_len > tail.end.position {
        disk.truncate(&file, tail.end.position).map_err(|e| failed("cut", e))?;
    }
    // Whole frames above the proven point may be in the system's memory only, and after a failed
    // sync the system may take such pages for written. Written once more, they are synced for sure.
    let from = if proven.segment == number { proven.position } else { SEGMENT_HEADER_BYTES };
    let mut at = from;
    while at < tail.end.position {
        let mut bytes = vec![0; CHUNK_BYTES.min(tail.end.position - at) as usize];
        file.read_exact_at(&mut bytes, at).map_err(|e| failed("read", e))?;
        disk.write(&file, at, &mut [IoSlice::new(&bytes)]).map_err(|e| failed("write", e))?;
        at += bytes.len() as u64;
    }
    disk.sync(&file).map_err(|e| failed("sync", e))?;
    Ok(file)
}

/// One reading of all segments.
struct Scan<'a> {
    segments: &'a Path,
    journal: Uuid,
    /// The end of what is known to have been synced.
    proven: Position,
    /// The highest round seen.
    round: u64,
    frames: u64,
    /// Kind and place of the frame read last.
    last: Option<(Kind, Position)>,
}

/// Where the frames of a segment end, and why.
struct Stop {
    at: u64,
    /// `None`: nothing but zeros, or nothing at all, comes after.
    bad: Option<&'static str>,
}

impl Scan<'_> {
    /// Reads segments `numbers`; `None` when there are none.
    fn run(
        &mut self,
        numbers: &[u64],
        visit: &mut Visitor<'_>,
    ) -> Result<Option<Tail>, JournalError> {
        // The headers first: a missing or swapped file is known before any frame is handed on.
        let mut headers = Vec::with_capacity(numbers.len());
        for &number in numbers {
            headers.push(self.header(number)?);
        }
        for pair in headers.windows(2) {
            let [header, next] = pair else { continue };
            self.sealed_segment(header.number, next.previous_end, visit)?;
        }
        headers.last().map(|header| self.last_segment(header.number, visit)).transpose()
    }

    fn header(&self, number: u64) -> Result<SegmentHeader, JournalError> {
        let damaged = |what: String| JournalError::Damaged { segment: number, position: 0, what };
        let mut reader = self.open(number)?;
        let bytes = reader
            .at(0, SEGMENT_HEADER_BYTES as usize)?
            .and_then(|b| <&[u8; SEGMENT_HEADER_BYTES as usize]>::try_from(b).ok())
            .ok_or_else(|| damaged("it is shorter than its header".into()))?;
        let header = match SegmentHeader::decode(bytes) {
            Ok(header) => header,
            Err(BadSegment::Broken) => return Err(damaged("its header is broken".into())),
            Err(BadSegment::Newer(version)) => {
                return Err(JournalError::DataNewer {
                    what: format!("segment {number} of the journal"),
                    found: u32::from(version),
                    known: u32::from(SEGMENT_VERSION),
                });
            }
        };
        if header.number != number {
            return Err(damaged(format!("its header says segment {}", header.number)));
        }
        if header.journal != self.journal {
            return Err(damaged(format!(
                "it belongs to journal {}, this is {}",
                header.journal, self.journal
            )));
        }
        Ok(header)
    }

    /// A segment that another one follows, whose header says that this one ends at `end`.
    fn sealed_segment(
        &mut self,
        number: u64,
        end: u64,
        visit: &mut Visitor<'_>,
    ) -> Result<(), JournalError> {
        let mut reader = self.open(number)?;
        let stop = self.frames(&mut reader, visit)?;
        let what = match stop.bad {
            Some(what) => what.to_owned(),
            None if stop.at != end => format!("it should end at byte {end}"),
            None => return Ok(()),
        };
        Err(JournalError::Damaged { segment: number, position: stop.at, what })
    }

    /// The last segment, which alone may have a torn tail.
    fn last_segment(&mut self, number: u64, visit: &mut Visitor<'_>) -> Result<Tail, JournalError> {
        let mut reader = self.open(number)?;
        let stop = self.frames(&mut reader, visit)?;
        let end = Position { segment: number, position: stop.at };
        if stop.bad.is_some() {
            self.prove_from(&mut reader, stop.at)?;
        }
        if self.proven > end {
            let what = stop.bad.unwrap_or("it ends before what was synced").to_owned();
            return Err(JournalError::Damaged { segment: number, position: stop.at, what });
        }
        let (file_len, at) = (reader.len, stop.at);
        let cut = stop.bad.map(|_| Cut { segment: number, position: at, bytes: file_len - at });
        // A mark with something after it is none: the process that wrote more did not close.
        match self.last {
            Some((Kind::Close, mark)) if mark.segment == number && cut.is_none() => {
                Ok(Tail { end: mark, file_len, clean: true, cut })
            }
            _ => Ok(Tail { end, file_len, clean: false, cut }),
        }
    }

    /// Hands on the frames of a segment up to the first bad one or the end.
    fn frames(
        &mut self,
        reader: &mut Reader,
        visit: &mut Visitor<'_>,
    ) -> Result<Stop, JournalError> {
        let segment = reader.number;
        let seal = Seal::new(self.journal, segment);
        let mut at = SEGMENT_HEADER_BYTES;
        loop {
            if reader.is_zero_from(at)? {
                return Ok(Stop { at, bad: None });
            }
            let Some(header) = reader.frame_header(at)? else {
                return Ok(Stop { at, bad: Some("the file ends inside a frame") });
            };
            let body_len = match claimed_body_len(&header) {
                Ok(len) => len,
                Err(bad) => return stop_or_newer(segment, at, bad),
            };
            let Some(frame) = reader.at(at, padded(body_len) as usize)? else {
                return Ok(Stop { at, bad: Some("the file ends inside a frame") });
            };
            let (body, padding) = frame[FRAME_HEADER_BYTES..].split_at(body_len as usize);
            let header = match decode(&header, body, seal, at) {
                Ok(header) => header,
                Err(bad) => return stop_or_newer(segment, at, bad),
            };
            if padding.iter().any(|b| *b != 0) {
                return Ok(Stop { at, bad: Some("its padding is not zero") });
            }
            self.frame(&header, Position { segment, position: at }, body, visit)?;
            at += padded(body_len);
        }
    }

    fn frame(
        &mut self,
        header: &FrameHeader,
        at: Position,
        body: &[u8],
        visit: &mut Visitor<'_>,
    ) -> Result<(), JournalError> {
        self.last = Some((header.kind, at));
        match header.kind {
            Kind::Close => {}
            Kind::Sync => {
                let sync = SyncBody::decode(body)
                    .filter(|sync| sync.synced <= at && sync.round > self.round)
                    .ok_or_else(|| JournalError::Damaged {
                        segment: at.segment,
                        position: at.position,
                        what: "its sync point is out of sequence".into(),
                    })?;
                self.proven = self.proven.max(sync.synced);
                self.round = sync.round;
            }
            Kind::Batch | Kind::Control => {
                let length = FRAME_HEADER_BYTES as u32 + header.body_len;
                let place = Location { segment: at.segment, position: at.position, length };
                self.frames += 1;
                visit(header, place, body);
            }
        }
        Ok(())
    }

    /// Looks for Sync frames beyond a bad frame at `bad`: one that is valid proves that the round
    /// with the bad frame was synced.
    fn prove_from(&mut self, reader: &mut Reader, bad: u64) -> Result<(), JournalError> {
        let seal = Seal::new(self.journal, reader.number);
        let mut at = bad + ALIGNMENT;
        while let Some(bytes) = reader.at(at, SYNC_FRAME_BYTES)? {
            if bytes.starts_with(&MAGIC)
                && let Some((header, body)) = bytes.split_first_chunk()
                && let Ok(FrameHeader { kind: Kind::Sync, .. }) = decode(header, body, seal, at)
                && let Some(sync) = SyncBody::decode(body)
            {
                self.proven = self.proven.max(sync.synced);
            }
            at += ALIGNMENT;
        }
        Ok(())
    }

    fn open(&self, number: u64) -> Result<Reader, JournalError> {
        Reader::open(&segment::path(self.segments, number), number)
    }
}

fn stop_or_newer(segment: u64, at: u64, bad: BadFrame) -> Result<Stop, JournalError> {
    match bad {
        BadFrame::Broken(what) => Ok(Stop { at, bad: Some(what) }),
        BadFrame::Newer { version } => Err(JournalError::DataNewer {
            what: format!("the frame at byte {at} of segment {segment}"),
            found: u32::from(version),
            known: u32::from(FRAME_VERSION),
        }),
    }
}
