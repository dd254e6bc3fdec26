//! The store in one file, for one coordinator: `redb` in the data directory, behind a lock that
//! dies with the process and a file that says which format the directory is in.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::{FORMAT, RowError, Store, StoreError, key_bytes, parse_row, row_bytes};
use crate::logic::rows::{Change, Row};

const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");

/// The store in one file.
pub struct Embedded {
    dir: PathBuf,
    database: Database,
    /// Held as long as the store is; the system lets go of it when the process ends.
    _lock: File,
}

impl Embedded {
    /// Opens the store in `dir`, which is made if it is not there. Blocks on the disk.
    ///
    /// # Errors
    /// [`StoreError`], as each variant says.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let unusable =
            |e: io::Error| StoreError::Unusable { dir: dir.to_owned(), cause: e.to_string() };
        fs::create_dir_all(dir).map_err(unusable)?;
        let lock = lock(dir)?;
        check_format(dir)?;
        let repaired = Cell::new(false);
        let database = Database::builder()
            .set_repair_callback(move |_| {
                // It is called over and over while the repair goes on.
                if !repaired.replace(true) {
                    tracing::warn!(
                        "the store was not closed in order: it is brought back to its last commit"
                    );
                }
            })
            .create(dir.join("coordinator.redb"))
            .map_err(|e| opening_failed(dir, e))?;
        let store = Self { dir: dir.to_owned(), database, _lock: lock };
        store.transaction(|_| Ok(()))?;
        Ok(store)
    }

    /// Opens the store and reads all of it. Blocks on the disk.
    ///
    /// # Errors
    /// [`StoreError`], as each variant says.
    pub fn open_and_load(dir: &Path) -> Result<(Self, Vec<Row>), StoreError> {
        let read = || {
            let store = Self::open(dir)?;
            let rows = store.load()?;
            Ok((store, rows))
        };
        // The engine meets some pages that make no sense with a panic; nothing outlives it here.
        catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
            let cause = "its pages contradict each other".to_owned();
            Err(StoreError::Damaged { dir: dir.to_owned(), cause })
        })
    }

    fn transaction(
        &self,
        change: impl FnOnce(&mut redb::Table<'_, &[u8], &[u8]>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let transaction = self.database.begin_write().map_err(|e| self.failed(e))?;
        {
            let mut table = transaction.open_table(ROWS).map_err(|e| self.failed(e))?;
            change(&mut table)?;
        }
        transaction.commit().map_err(|e| self.failed(e))
    }

    fn failed(&self, e: impl Into<redb::Error>) -> StoreError {
        let e = e.into();
        if is_damage(&e) {
            damaged(&self.dir, &e)
        } else {
            StoreError::Failed { cause: e.to_string() }
        }
    }
}

impl Store for Embedded {
    fn load(&self) -> Result<Vec<Row>, StoreError> {
        let transaction = self.database.begin_read().map_err(|e| self.failed(e))?;
        let table = transaction.open_table(ROWS).map_err(|e| self.failed(e))?;
        let mut rows = Vec::new();
        for entry in table.iter().map_err(|e| self.failed(e))? {
            let (_, value) = entry.map_err(|e| self.failed(e))?;
            rows.push(parse_row(value.value()).map_err(|e| match e {
                RowError::Newer(version) => {
                    StoreError::DataNewer { dir: self.dir.clone(), found: u32::from(version) }
                }
                RowError::Damaged(cause) => StoreError::Damaged { dir: self.dir.clone(), cause },
            })?);
        }
        Ok(rows)
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.transaction(|table| {
            for change in changes {
                match change {
                    Change::Put(row) => {
                        let bytes = row_bytes(row).map_err(|cause| StoreError::Failed { cause })?;
                        table
                            .insert(key_bytes(&row.key()).as_slice(), bytes.as_slice())
                            .map_err(|e| self.failed(e))?;
                    }
                    Change::Delete(key) => {
                        table.remove(key_bytes(key).as_slice()).map_err(|e| self.failed(e))?;
                    }
                }
            }
            Ok(())
        })
    }
}

/// Takes the directory for this process and writes its id where the next one can read it.
fn lock(dir: &Path) -> Result<File, StoreError> {
    let unusable =
        |e: io::Error| StoreError::Unusable { dir: dir.to_owned(), cause: e.to_string() };
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(dir.join("lock"))
        .map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(StoreError::InUse { dir: dir.to_owned(), pid });
        }
        Err(TryLockError::Error(e)) => return Err(unusable(e)),
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(unusable)?;
    Ok(file)
}

fn check_format(dir: &Path) -> Result<(), StoreError> {
    let unusable =
        |e: io::Error| StoreError::Unusable { dir: dir.to_owned(), cause: e.to_string() };
    let path = dir.join("format");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return write_format(dir, &path).map_err(unusable);
        }
        Err(e) => return Err(unusable(e)),
    };
    match text.trim().parse::<u32>() {
        Ok(found) if found > FORMAT => Err(StoreError::DataNewer { dir: dir.to_owned(), found }),
        Ok(FORMAT) => Ok(()),
        // Every row of an older format is one of this format too.
        Ok(_) => write_format(dir, &path).map_err(unusable),
        Err(_) => Err(StoreError::Damaged {
            dir: dir.to_owned(),
            cause: "the file `format` holds no number".to_owned(),
        }),
    }
}

/// Says which format the directory is in. Written whole or not at all: half a number would be
/// another one.
fn write_format(dir: &Path, path: &Path) -> io::Result<()> {
    let draft = dir.join("format.new");
    let mut file = File::create(&draft)?;
    writeln!(file, "{FORMAT}")?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    File::open(dir)?.sync_all()
}

fn opening_failed(dir: &Path, e: redb::DatabaseError) -> StoreError {
    match e.into() {
        redb::Error::DatabaseAlreadyOpen => StoreError::InUse { dir: dir.to_owned(), pid: None },
        e if is_damage(&e) => damaged(dir, &e),
        e => StoreError::Unusable { dir: dir.to_owned(), cause: e.to_string() },
    }
}

/// Whether the disk did its work and what it gave makes no sense.
fn is_damage(e: &redb::Error) -> bool {
    match e {
        redb::Error::Io(e) => {
            matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        }
        redb::Error::Corrupted(_)
        | redb::Error::UpgradeRequired(_)
        | redb::Error::RepairAborted
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. }
        | redb::Error::TableDoesNotExist(_) => true,
        _ => false,
    }
}

fn damaged(dir: &Path, e: &redb::Error) -> StoreError {
    StoreError::Damaged { dir: dir.to_owned(), cause: e.to_string() }
}

#[cfg(test)]
mod tests {
    use ringway_proto::{Code, Filter, GroupId, SubscriptionId};

    use super::*;
    use crate::logic::rows::{BindingRow, Key, Meta};

    fn binding(filter: &str, group: u32) -> Row {
        Row::Binding(BindingRow { filter: Filter::new(filter).unwrap(), group: GroupId(group) })
    }

    #[test]
    fn what_was_committed_is_there_again() {
        let dir = tempfile::tempdir().unwrap();
        let meta =
            |next| Row::Meta(Meta { next_subscription: SubscriptionId(next), ..Meta::default() });
        let mut store = Embedded::open(dir.path()).unwrap();
        assert_eq!(store.load().unwrap(), []);
        store
            .commit(&[
                Change::Put(meta(1)),
                Change::Put(binding("a.>", 1)),
                Change::Put(binding("b.>", 1)),
            ])
            .unwrap();
        store
            .commit(&[
                Change::Put(meta(2)),
                Change::Put(binding("b.>", 7)),
                Change::Delete(Key::Binding(Filter::new("a.>").unwrap())),
            ])
            .unwrap();
        drop(store);
        let store = Embedded::open(dir.path()).unwrap();
        assert_eq!(store.load().unwrap(), [meta(2), binding("b.>", 7)]);
    }

    #[test]
    fn a_directory_belongs_to_one_process_which_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(dir.path()).unwrap();
        let refusal = Embedded::open(dir.path()).err().unwrap().refusal();
        assert_eq!(refusal.code, Code::InUse);
        assert!(refusal.text.ends_with(&format!("process {}", std::process::id())), "{refusal}");
        drop(store);
        assert!(Embedded::open(dir.path()).is_ok());
    }

    #[test]
    fn data_of_a_newer_version_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("format"), "3\n").unwrap();
        let refusal = Embedded::open(dir.path()).err().unwrap().refusal();
        assert_eq!(refusal.code, Code::DataNewer);
        assert!(refusal.text.contains("format 3"), "{refusal}");
        assert!(!dir.path().join("coordinator.redb").exists());
    }

    #[test]
    fn data_of_an_older_version_is_taken_over_and_marked_as_of_this_one() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("format"), "1\n").unwrap();
        assert_eq!(Embedded::open(dir.path()).unwrap().load().unwrap(), []);
        assert_eq!(fs::read_to_string(dir.path().join("format")).unwrap(), "2\n");
    }

    #[test]
    fn a_store_that_cannot_be_read_is_damage_and_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("coordinator.redb");
        let mut store = Embedded::open(dir.path()).unwrap();
        store.commit(&[Change::Put(binding("a.>", 1))]).unwrap();
        drop(store);
        let whole = fs::read(&file).unwrap();
        let cut = whole[..whole.len() / 2].to_vec();
        let mut garbage_behind_its_header = whole.clone();
        garbage_behind_its_header[4096..].fill(7);
        for bytes in [vec![7; 4096], vec![b'x'; 20], cut, garbage_behind_its_header] {
            fs::write(&file, &bytes).unwrap();
            let refusal = Embedded::open_and_load(dir.path()).err().unwrap().refusal();
            assert_eq!(refusal.code, Code::Damaged, "{} bytes: {refusal}", bytes.len());
            assert!(refusal.hint.contains("docs/operations.md"), "{}", refusal.hint);
        }
        fs::write(&file, whole).unwrap();
        assert_eq!(Embedded::open_and_load(dir.path()).unwrap().1, [binding("a.>", 1)]);
    }

    #[test]
    fn a_file_in_place_of_the_directory_is_no_damage() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let e = Embedded::open_and_load(&file).err().unwrap();
        assert!(matches!(e, StoreError::Unusable { .. }), "{e:?}");
    }
}
