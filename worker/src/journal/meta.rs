//! The data directory itself: the lock that keeps a second process out, and the small file `meta`
//! that says whose journal it is, in which format, and how many segments must be there. `meta` is
//! replaced as a whole, so it is always an old or a new one. It knows nothing of frames.
//!
//! ```text
//! ringway worker data
//! format 1
//! journal 5f0c…            (the UUID, 32 hex digits)
//! worker w1
//! last-segment 3
//! crc32c 89abcdef          (of everything above)
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use ringway_proto::{Uuid, WorkerId};

use super::error::{JournalError, failed_sync};
use super::segment::sync_dir;

/// The format of data directories that this build writes, and the newest that it reads.
pub(super) const FORMAT: u32 = 1;
const TITLE: &str = "ringway worker data";
const META: &str = "meta";
const UNFINISHED: &str = "meta.tmp";
const LOCK: &str = "lock";
/// More than `meta` or `lock` ever has; the rest of a larger file is not looked at.
const READ_LIMIT_BYTES: u64 = 4096;

/// A data directory that is ours until this is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the data directory `dir`, and makes it where there is none.
    ///
    /// # Errors
    /// [`JournalError::InUse`] when a process has it, [`JournalError::Unusable`] when the system
    /// refuses.
    pub(super) fn take(dir: &Path) -> Result<Self, JournalError> {
        let unusable = |e: io::Error| JournalError::unusable(dir, &e);
        fs::create_dir_all(dir).map_err(unusable)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join(LOCK))
            .map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // Who has it is a courtesy: without it the refusal stands all the same.
                let _ = file.take(READ_LIMIT_BYTES).read_to_string(&mut pid);
                let holder = match pid.trim().parse::<u32>() {
                    Ok(pid) => format!("process {pid}"),
                    Err(_) => "another process".to_owned(),
                };
                return Err(JournalError::InUse { dir: dir.to_owned(), holder });
            }
            Err(TryLockError::Error(e)) => return Err(unusable(e)),
        }
        // The number inside is for people; on a full disk the lock itself still holds.
        let _ = file
            .set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
        Ok(Self { _file: file })
    }
}

/// What the file `meta` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Meta {
    /// The identity of the journal, drawn when the directory was made.
    pub(super) journal: Uuid,
    /// The worker whose data this is.
    pub(super) worker: WorkerId,
    /// The highest segment that must be there. The one after it may be, when the process was
    /// stopped between making it and writing it down here.
    pub(super) last_segment: u64,
}

impl Meta {
    /// What `dir` says about itself; `None` when it says nothing.
    ///
    /// # Errors
    /// [`JournalError::DataNewer`], [`JournalError::MetaDamaged`], [`JournalError::Unusable`].
    pub(super) fn read(dir: &Path) -> Result<Option<Self>, JournalError> {
        let path = dir.join(META);
        let mut bytes = Vec::new();
        match File::open(&path) {
            Ok(file) => file.take(READ_LIMIT_BYTES).read_to_end(&mut bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => Err(e),
        }
        .map_err(|e| JournalError::unusable(dir, &e))?;
        let damaged =
            |what: &str| JournalError::MetaDamaged { path: path.clone(), what: what.to_owned() };
        let text = std::str::from_utf8(&bytes).map_err(|_| damaged("it is no text"))?;
        // The format comes first: a newer one may have changed everything below its line.
        let mut lines = text.lines();
        if lines.next() != Some(TITLE) {
            return Err(damaged("it does not begin as such a file does"));
        }
        match lines.next().and_then(|l| l.strip_prefix("format ")?.parse::<u32>().ok()) {
            Some(FORMAT) => {}
            Some(found) if found > FORMAT => {
                let what = format!("the data directory {}", dir.display());
                return Err(JournalError::DataNewer { what, found, known: FORMAT });
            }
            _ => return Err(damaged("it names no format")),
        }
        Self::parse(text).map(Some).map_err(damaged)
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let (above, crc) = text.rsplit_once("crc32c ").ok_or("its checksum is missing")?;
        if u32::from_str_radix(crc.trim_end(), 16) != Ok(crc32c::crc32c(above.as_bytes())) {
            return Err("its checksum does not match");
        }
        let field = |name: &str| {
            above
                .lines()
                .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '))
                .ok_or("a line is missing")
        };
        Ok(Self {
            journal: u128::from_str_radix(field("journal")?, 16)
                .map(Uuid)
                .map_err(|_| "its journal is no UUID")?,
            worker: field("worker")?.parse().map_err(|_| "its worker is no name")?,
            last_segment: field("last-segment")?
                .parse()
                .map_err(|_| "its last segment is no number")?,
        })
    }

    fn text(&self) -> String {
        let Self { journal, worker, last_segment } = self;
        let mut text = format!(
            "{TITLE}\nformat {FORMAT}\njournal {journal}\nworker {worker}\nlast-segment {last_segment}\n"
        );
        let crc = crc32c::crc32c(text.as_bytes());
        text.push_str(&format!("crc32c {crc:08x}\n"));
        text
    }

    /// Replaces what `dir` says about itself; it is on the disk when this returns.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        let unfinished = dir.join(UNFINISHED);
        let mut file = File::create(&unfinished)?;
        file.write_all(self.text().as_bytes())?;
        file.sync_all().map_err(failed_sync)?;
        fs::rename(&unfinished, dir.join(META))?;
        sync_dir(dir).map_err(failed_sync)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta() -> Meta {
        Meta { journal: Uuid(77), worker: "w1".parse().unwrap(), last_segment: 3 }
    }

    #[test]
    fn meta_reads_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Meta::read(dir.path()), Ok(None));
        meta().write(dir.path()).unwrap();
        assert_eq!(Meta::read(dir.path()), Ok(Some(meta())));
    }

    #[test]
    fn a_changed_meta_is_damaged_and_a_newer_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let whole = meta().text();
        let read = |text: &str| {
            fs::write(dir.path().join(META), text).unwrap();
            Meta::read(dir.path())
        };
        for cut in 0..whole.len() - 1 {
            let error = read(&whole[..cut]).unwrap_err();
            assert!(matches!(error, JournalError::MetaDamaged { .. }), "{cut}: {error}");
        }
        let error = read(&whole.replace("last-segment 3", "last-segment 2")).unwrap_err();
        assert!(error.to_string().ends_with("its checksum does not match"), "{error}");
        let error = read("ringway worker data\nformat 3\nanything").unwrap_err();
        assert!(matches!(&error, JournalError::DataNewer { found: 3, known: 1, .. }), "{error}");
    }
}
