//! Reads one segment file from front to back through a buffer, for recovery. It knows where the
//! file ends and nothing of what a frame says.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::error::JournalError;
use super::frame::FRAME_HEADER_BYTES;

/// How much is read at once, in bytes; a larger frame is read whole.
const CHUNK_BYTES: u64 = 1 << 20;

/// Reads a segment from front to back through a buffer.
pub(super) struct Reader {
    /// The number of the segment.
    pub(super) number: u64,
    file: File,
    /// Bytes of the file.
    pub(super) len: u64,
    /// The place of the buffer in the file.
    start: u64,
    buffer: Vec<u8>,
}

impl Reader {
    pub(super) fn open(path: &Path, number: u64) -> Result<Self, JournalError> {
        let failed = |e| JournalError::disk(format!("open segment {number}"), &e);
        let file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        Ok(Self { number, file, len, start: 0, buffer: Vec::new() })
    }

    /// `len` bytes from `position` on; `None` when the file ends before.
    pub(super) fn at(&mut self, position: u64, len: usize) -> Result<Option<&[u8]>, JournalError> {
        let wanted = len as u64;
        let Some(left) = self.len.checked_sub(position).filter(|left| *left >= wanted) else {
            return Ok(None);
        };
        let buffered =
            position >= self.start && position + wanted <= self.start + self.buffer.len() as u64;
        if !buffered {
            self.buffer.resize(CHUNK_BYTES.max(wanted).min(left) as usize, 0);
            self.start = position;
            if let Err(e) = self.file.read_exact_at(&mut self.buffer, position) {
                self.buffer.clear();
                return Err(JournalError::disk(format!("read segment {}", self.number), &e));
            }
        }
        let from = (position - self.start) as usize;
        Ok(self.buffer.get(from..from + len))
    }

    pub(super) fn frame_header(
        &mut self,
        at: u64,
    ) -> Result<Option<[u8; FRAME_HEADER_BYTES]>, JournalError> {
        Ok(self.at(at, FRAME_HEADER_BYTES)?.and_then(|bytes| bytes.try_into().ok()))
    }

    /// Whether nothing but zeros comes from `position` on.
    pub(super) fn is_zero_from(&mut self, mut position: u64) -> Result<bool, JournalError> {
        // A frame begins with its magic, so this ends at the first byte nearly always.
        while position < self.len {
            let step = CHUNK_BYTES.min(self.len - position).min(self.step_at(position));
            match self.at(position, step as usize)? {
                Some(bytes) if bytes.iter().all(|b| *b == 0) => position += step,
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Small steps while in the buffer, so that looking for zeros never reads the buffer anew.
    fn step_at(&self, position: u64) -> u64 {
        let buffered_end = self.start + self.buffer.len() as u64;
        if position >= self.start && position < buffered_end {
            buffered_end - position
        } else {
            CHUNK_BYTES
        }
    }
}
