//! Segment files: their names, the 64 bytes that each begins with, and how one is made so that it
//! is either there with a whole header or not there at all. It does not know what comes after
//! the header.
//!
//! ```text
//!  0 magic [u8; 8]     8 format version u16   10 zeros
//! 16 number u64       24 journal UUID u128    40 end of the segment before u64
//! 48 zeros            60 crc32c of all before u32
//! ```
//!
//! A segment is begun when everything before it is synced. The end of the segment before is
//! written down, so that a segment that has lost its tail is noticed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use ringway_proto::Uuid;

use super::disk::Disk;
use super::error::failed_sync;
use super::frame::{u32_at, u64_at};

/// Bytes before the first frame.
pub(super) const SEGMENT_HEADER_BYTES: u64 = 64;
/// The format of segments that this build writes, and the newest that it reads.
pub(super) const SEGMENT_VERSION: u16 = 1;
const MAGIC: [u8; 8] = *b"RWSEG\0\0\x01";
const SUFFIX: &str = ".seg";
const UNFINISHED: &str = ".seg.tmp";
const DIGITS: usize = 16;

/// What a segment says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentHeader {
    /// Its number; the first is 1.
    pub(super) number: u64,
    /// The journal that it belongs to.
    pub(super) journal: Uuid,
    /// Where the segment before ends, in bytes; 0 in the first.
    pub(super) previous_end: u64,
}

/// Why bytes are no segment header that this build reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BadSegment {
    /// They are not what was written.
    Broken,
    /// They are whole, and of this newer format.
    Newer(u16),
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES as usize] {
        let mut out = [0; SEGMENT_HEADER_BYTES as usize];
        out[0..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&SEGMENT_VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&self.number.to_le_bytes());
        out[24..40].copy_from_slice(&self.journal.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.previous_end.to_le_bytes());
        let crc = crc32c::crc32c(&out[..60]);
        out[60..64].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8; SEGMENT_HEADER_BYTES as usize]) -> Result<Self, BadSegment> {
        if bytes[..8] != MAGIC || crc32c::crc32c(&bytes[..60]) != u32_at(bytes, 60) {
            return Err(BadSegment::Broken);
        }
        match u16::from_le_bytes([bytes[8], bytes[9]]) {
            SEGMENT_VERSION => Ok(Self {
                number: u64_at(bytes, 16),
                journal: Uuid(u128::from(u64_at(bytes, 24)) | u128::from(u64_at(bytes, 32)) << 64),
                previous_end: u64_at(bytes, 40),
            }),
            newer => Err(BadSegment::Newer(newer)),
        }
    }
}

/// The file of segment `number`.
pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:0DIGITS$}{SUFFIX}"))
}

/// Makes segment `header.number` and opens it. It is on the disk, in its directory too, when this
/// returns. After an error that [`is_full`](super::error::is_full) there is none.
pub(super) fn create(dir: &Path, header: &SegmentHeader, disk: &dyn Disk) -> io::Result<File> {
    let unfinished = dir.join(format!("{:0DIGITS$}{UNFINISHED}", header.number));
    let made = write_header(&unfinished, header, disk).and_then(|file| {
        fs::rename(&unfinished, path(dir, header.number))?;
        Ok(file)
    });
    match made {
        Ok(file) => {
            sync_dir(dir).map_err(failed_sync)?;
            Ok(file)
        }
        Err(e) => {
            // What is left over is removed at the next start at the latest.
            let _ = fs::remove_file(&unfinished);
            Err(e)
        }
    }
}

fn write_header(path: &Path, header: &SegmentHeader, disk: &dyn Disk) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    disk.write(&file, 0, &mut [IoSlice::new(&header.encode())])?;
    disk.sync(&file).map_err(failed_sync)?;
    Ok(file)
}

/// The numbers of the segments in `dir`, ascending, and the files that a crash left unfinished.
pub(super) fn list(dir: &Path) -> io::Result<(Vec<u64>, Vec<PathBuf>)> {
    let (mut numbers, mut unfinished) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if number_of(name, UNFINISHED).is_some() {
            unfinished.push(entry.path());
        } else if let Some(number) = number_of(name, SUFFIX) {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok((numbers, unfinished))
}

fn number_of(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    let all_digits = digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
    if all_digits { digits.parse().ok() } else { None }
}

/// Returns when what was created, renamed or removed in `dir` is on the disk.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_header_reads_as_written_and_no_flipped_bit_passes() {
        let header = SegmentHeader { number: 3, journal: Uuid(9 << 70), previous_end: 4096 };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&bad), Err(BadSegment::Broken), "bit {bit}");
        }
    }

    #[test]
    fn only_names_of_sixteen_digits_are_segments() {
        assert_eq!(number_of("0000000000000012.seg", SUFFIX), Some(12));
        for other in ["12.seg", "000000000000001x.seg", "0000000000000012.seg.bak", ".seg"] {
            assert_eq!(number_of(other, SUFFIX), None, "{other}");
        }
    }
}
