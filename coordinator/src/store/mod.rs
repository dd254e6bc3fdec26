//! Where the coordinator's rows are kept. A store loads all of them at the start and commits the
//! changes of a step together or not at all. It does not know what a row means.

mod embedded;

use std::path::PathBuf;

use ringway_proto::codec;
use ringway_proto::{Code, Refusal};

use crate::logic::rows::{Change, Key, Row};

pub use embedded::Embedded;

/// The version of the format in the data directory.
pub const FORMAT: u32 = 2;
/// The version of one row.
const ROW_VERSION: u8 = 1;

/// Keeps rows.
pub trait Store: Send {
    /// All rows.
    ///
    /// # Errors
    /// [`StoreError::Failed`], [`StoreError::Damaged`], [`StoreError::DataNewer`].
    fn load(&self) -> Result<Vec<Row>, StoreError>;

    /// Makes all changes durable, together or not at all.
    ///
    /// # Errors
    /// [`StoreError::Failed`]; whether the changes are stored is unknown then, and the process
    /// has to leave.
    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError>;
}

/// Why the store cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the data directory.
    #[error("the data directory {} is in use by {}", .dir.display(), owner(.pid))]
    InUse {
        /// Which directory.
        dir: PathBuf,
        /// Which process, if it said so.
        pid: Option<u32>,
    },
    /// A newer version wrote the data.
    #[error("the data directory {} was written in format {found}; this Ringway reads up to format {FORMAT}", .dir.display())]
    DataNewer {
        /// Which directory.
        dir: PathBuf,
        /// The format it is in.
        found: u32,
    },
    /// The directory cannot be made or written.
    #[error("the data directory {} cannot be used: {cause}", .dir.display())]
    Unusable {
        /// Which directory.
        dir: PathBuf,
        /// What the system says.
        cause: String,
    },
    /// What is there is no store, or no longer one.
    #[error("the store in {} is damaged: {cause}", .dir.display())]
    Damaged {
        /// Which directory.
        dir: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// Reading or writing failed.
    #[error("the store failed: {cause}")]
    Failed {
        /// What the system says.
        cause: String,
    },
}

impl StoreError {
    /// The error as a refusal.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        let (code, hint) = match self {
            Self::InUse { .. } => {
                (Code::InUse, "a Ringway may be running already; else choose another with --data")
            }
            Self::DataNewer { .. } => {
                (Code::DataNewer, "start the version that wrote it; nothing was changed")
            }
            Self::Unusable { .. } => {
                (Code::DiskFailed, "choose a directory that this user can write, with --data")
            }
            Self::Damaged { .. } => (
                Code::Damaged,
                "keep the directory and start on a backup of it: docs/operations.md, Backups",
            ),
            Self::Failed { .. } => (Code::DiskFailed, "look after the disk, then start again"),
        };
        Refusal::new(code, self.to_string()).hint(hint)
    }
}

fn owner(pid: &Option<u32>) -> String {
    pid.map_or("another process".to_owned(), |pid| format!("process {pid}"))
}

/// The bytes that name a row: its table, and what is unique in it. Only ever compared.
fn key_bytes(key: &Key) -> Vec<u8> {
    match key {
        Key::Meta => vec![0],
        Key::Group(id) => with(1, &[&id.0.to_be_bytes()]),
        Key::Binding(filter) => with(2, &[filter.as_str().as_bytes()]),
        // No filter holds a zero byte, and no name does.
        Key::PastBinding(filter, group) => {
            with(3, &[filter.as_str().as_bytes(), &[0], &group.0.to_be_bytes()])
        }
        Key::PastRing(number) => with(4, &[&number.to_be_bytes()]),
        Key::Subscription(id) => with(5, &[&id.0.to_be_bytes()]),
        Key::Worker(id) => with(6, &[id.as_str().as_bytes()]),
        Key::Queue(id) => with(7, &[&u64::from(*id).to_be_bytes()]),
        Key::Grave(worker, queue) => {
            with(8, &[worker.as_str().as_bytes(), &[0], &u64::from(*queue).to_be_bytes()])
        }
        Key::Member(subscription, member) => {
            with(9, &[&subscription.0.to_be_bytes(), member.as_str().as_bytes()])
        }
        Key::Plan(number) => with(11, &[&number.to_be_bytes()]),
        Key::SlotMove(number) => with(12, &[&number.0.to_be_bytes()]),
        Key::Passed(id) => with(13, &[&id.0.to_be_bytes()]),
        Key::Right(id) => with(
            10,
            &[
                &id.subscription.0.to_be_bytes(),
                &u64::from(id.queue).to_be_bytes(),
                &id.lanes.start.to_be_bytes(),
                &id.lanes.end.to_be_bytes(),
            ],
        ),
    }
}

fn with(table: u8, parts: &[&[u8]]) -> Vec<u8> {
    [&[table], parts.concat().as_slice()].concat()
}

/// A row as it is stored: a version, and MessagePack with field names.
fn row_bytes(row: &Row) -> Result<Vec<u8>, String> {
    let body = codec::encode(row).map_err(|refusal| refusal.text)?;
    Ok([&[ROW_VERSION], &body[..]].concat())
}

/// What is wrong with a stored row.
enum RowError {
    Newer(u8),
    Damaged(String),
}

fn parse_row(bytes: &[u8]) -> Result<Row, RowError> {
    match bytes.split_first() {
        Some((&ROW_VERSION, body)) => {
            codec::decode(body).map_err(|refusal| RowError::Damaged(refusal.text))
        }
        Some((version, _)) if *version > ROW_VERSION => Err(RowError::Newer(*version)),
        _ => Err(RowError::Damaged("a row without a version".to_owned())),
    }
}
