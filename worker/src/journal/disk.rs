//! The few things that the journal asks of a disk, behind a trait so that a test can count syncs,
//! hold one back, or fail as a disk does. It promises nothing more than the system calls do and
//! knows nothing of frames.

use std::fs::File;
use std::io::{self, IoSlice, Seek, SeekFrom, Write};

/// Writes and syncs of segment files.
pub trait Disk: Send + Sync {
    /// Writes all of `parts`, one after the other, from byte `position` on.
    ///
    /// # Errors
    /// What the system says. Some of the bytes may be in the file then.
    fn write(&self, file: &File, position: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()>;

    /// Returns when all that was written to the file is on the disk.
    ///
    /// # Errors
    /// What the system says. What is on the disk is not known then, and a second try would tell
    /// nothing: the system may have dropped the pages that it could not write.
    fn sync(&self, file: &File) -> io::Result<()>;

    /// Shortens the file to `len` bytes and returns when that is on the disk.
    ///
    /// # Errors
    /// What the system says.
    fn truncate(&self, file: &File, len: u64) -> io::Result<()>;
}

/// The disk of the operating system.
#[derive(Clone, Copy, Default, Debug)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn write(&self, mut file: &File, position: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        file.seek(SeekFrom::Start(position))?;
        let mut parts = parts;
        // Skips empty slices at the front, so that a write of nothing is not asked for.
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            match file.write_vectored(parts) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => IoSlice::advance_slices(&mut parts, n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn truncate(&self, file: &File, len: u64) -> io::Result<()> {
        file.set_len(len)?;
        file.sync_all()
    }
}
