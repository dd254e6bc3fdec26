//! What can go wrong with a journal, in words. Every variant is plain data that can be given to
//! each of the appends of one round; it knows how to become a refusal on the wire.

use std::io;
use std::path::{Path, PathBuf};

use ringway_proto::{Code, Refusal, WorkerId};

/// Why the journal did not do what was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has the data directory.
    #[error("the data directory {} is in use by {holder}", dir.display())]
    InUse {
        /// The data directory.
        dir: PathBuf,
        /// Who has it, as far as its lock file says: `process 4711`.
        holder: String,
    },
    /// The data directory cannot be created, read or written.
    #[error("cannot use the data directory {}: {reason}", dir.display())]
    Unusable {
        /// The data directory.
        dir: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The data directory was made by a worker with another id.
    #[error("the data directory {} belongs to worker {owner}, this is worker {worker}", dir.display())]
    OtherWorker {
        /// The data directory.
        dir: PathBuf,
        /// Whose it is.
        owner: WorkerId,
        /// Who asked.
        worker: WorkerId,
    },
    /// A newer Ringway wrote it. Nothing was changed.
    #[error("{what} was written in format {found}; this Ringway reads up to format {known}")]
    DataNewer {
        /// What was read, `the data directory` or the frame with its place.
        what: String,
        /// The format found.
        found: u32,
        /// The newest format that this build reads.
        known: u32,
    },
    /// What was synced once no longer reads as it was written. Nothing was changed.
    #[error("segment {segment} is damaged at byte {position}: {what}")]
    Damaged {
        /// The number of the segment file.
        segment: u64,
        /// The byte in it where the first bad frame begins.
        position: u64,
        /// What was found there.
        what: String,
    },
    /// The file `meta` no longer reads as it was written. Nothing was changed.
    #[error("the file {} is damaged: {what}", path.display())]
    MetaDamaged {
        /// The file.
        path: PathBuf,
        /// What was found there.
        what: String,
    },
    /// A file that should be there is not. Nothing was changed.
    #[error("{what}")]
    DataMissing {
        /// What is missing.
        what: String,
    },
    /// A record's body is larger than a frame may hold. Nothing of its append was written.
    #[error("a record of {bytes} bytes is larger than the limit of {limit} bytes")]
    TooLarge {
        /// The size of the body.
        bytes: u64,
        /// The largest body of a frame.
        limit: u64,
    },
    /// There is no room on disk. Nothing of the append was kept; the journal goes on.
    #[error("the disk is full")]
    DiskFull,
    /// The disk refused to write, sync or read. After a write or sync the journal is closed for
    /// good, and whether the append survives is not known.
    #[error("the disk failed to {doing}: {reason}")]
    Failed {
        /// What was tried, `sync segment 3`.
        doing: String,
        /// What the system said.
        reason: String,
    },
    /// The journal was closed before.
    #[error("the journal is closed")]
    Closed,
}

impl JournalError {
    /// An error about a data directory that cannot be used.
    pub(super) fn unusable(dir: &Path, error: &io::Error) -> Self {
        Self::Unusable { dir: dir.to_owned(), reason: error.to_string() }
    }

    /// An error of the disk while `doing` something.
    pub(super) fn disk(doing: impl Into<String>, error: &io::Error) -> Self {
        Self::Failed { doing: doing.into(), reason: error.to_string() }
    }

    /// The same as a refusal: a code to match on, the text, and one thing to do.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        let (code, hint) = match self {
            Self::InUse { .. } => {
                (Code::InUse, "stop that process, or choose another directory with --data")
            }
            Self::Unusable { .. } => {
                (Code::DiskFailed, "make the directory writable, or choose another with --data")
            }
            Self::OtherWorker { .. } => (
                Code::Conflict,
                "start it under the id that the directory was made with, or choose another with --data",
            ),
            Self::DataNewer { .. } => {
                (Code::DataNewer, "nothing was changed; start the newer Ringway on it")
            }
            Self::Damaged { .. } | Self::MetaDamaged { .. } => {
                (Code::Damaged, "nothing was changed; restore the directory from a copy")
            }
            Self::DataMissing { .. } => {
                (Code::DataMissing, "nothing was changed; put the missing file back")
            }
            Self::TooLarge { .. } => (Code::TooLarge, "send less at once"),
            Self::DiskFull => (Code::DiskFull, "make room on the worker's disk"),
            Self::Failed { .. } => {
                (Code::DiskFailed, "look at the worker's disk and restart the worker")
            }
            Self::Closed => (Code::Unavailable, "try again when the worker is back"),
        };
        Refusal::new(code, self.to_string()).hint(hint)
    }
}

/// Whether `error` says that there is no room, which is no failure of the disk.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The same error of a sync, but never taken for a full disk: after a failed sync nobody knows
/// what is on the disk, whatever the reason was.
pub(super) fn failed_sync(error: io::Error) -> io::Error {
    io::Error::other(error)
}
