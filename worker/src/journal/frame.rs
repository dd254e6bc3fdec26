//! One frame of the journal: a fixed header of 80 bytes, a body, zeros up to a multiple of 8.
//! Encodes and checks bytes in memory; it knows no file and nothing of what a body means. A
//! frame's checksum holds only at the place, and in the journal, that it was written for.
//!
//! ```text
//!  0 magic u32      4 version u16    6 kind u8   7 flags u8
//!  8 crc32c u32    12 body length u32
//! 16 queue u64     24 epoch u64     32 base offset u64
//! 40 count u32     44 session u32   48 producer u128
//! 64 sequence u64  72 appended at u64 (milliseconds since 1970)
//! ```
//!
//! All numbers are little-endian. The checksum is CRC-32C (Castagnoli) over the journal's UUID,
//! the segment number and the position (none of them in the frame), then the header without the
//! checksum itself, then the body. So neither a stale frame of a recycled file nor one that was
//! moved passes, and a body that a stranger published cannot pose as a frame.

use ringway_proto::{Epoch, Offset, ProducerId, QueueId, Sequence, Session, Uuid, WallTime};

/// Bytes of a frame's header.
pub const FRAME_HEADER_BYTES: usize = 80;
/// The largest body of a frame, in bytes.
pub const MAX_BODY_BYTES: u32 = 16 << 20;
/// Frames begin at multiples of this.
pub(super) const ALIGNMENT: u64 = 8;
/// The format of frames that this build writes, and the newest that it reads.
pub(super) const FRAME_VERSION: u16 = 1;
/// The first four bytes of every frame.
pub(super) const MAGIC: [u8; 4] = *b"RWf1";
const HEADER: u64 = FRAME_HEADER_BYTES as u64;
const SYNC_BODY_BYTES: usize = 24;
/// Bytes of a whole Sync frame; no padding is needed.
pub(super) const SYNC_FRAME_BYTES: usize = FRAME_HEADER_BYTES + SYNC_BODY_BYTES;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Begins a round and names the end of what was synced before it.
    Sync,
    /// A batch of messages of one queue.
    Batch,
    /// A control record of one queue: cursor, epoch, seal. Opaque here.
    Control,
    /// The journal was closed in order; written last.
    Close,
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Self::Sync => 1,
            Self::Batch => 2,
            Self::Control => 3,
            Self::Close => 4,
        }
    }

    fn from_number(n: u8) -> Option<Self> {
        match n {
            1 => Some(Self::Sync),
            2 => Some(Self::Batch),
            3 => Some(Self::Control),
            4 => Some(Self::Close),
            _ => None,
        }
    }
}

/// What stands before a frame's body. Sync and Close frames fill in `kind` only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// What the frame is.
    pub kind: Kind,
    /// The queue that it is about.
    pub queue: QueueId,
    /// The queue's epoch under which it was appended.
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
    /// Bytes of the body.
    pub body_len: u32,
}

impl FrameHeader {
    /// The header of a frame that is about no queue.
    pub(super) fn bare(kind: Kind, body_len: u32) -> Self {
        Self {
            kind,
            queue: QueueId::from(0),
            epoch: Epoch(0),
            base_offset: Offset(0),
            count: 0,
            session: Session(0),
            producer: Uuid(0),
            sequence: Sequence(0),
            appended_at: WallTime(0),
            body_len,
        }
    }
}

/// A byte of the journal: positions of a later segment are higher.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Position {
    /// The number of the segment file.
    pub segment: u64,
    /// The byte in it.
    pub position: u64,
}

/// Where a frame is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Location {
    /// The number of the segment file.
    pub segment: u64,
    /// The byte in it where the header begins.
    pub position: u64,
    /// Bytes of header and body.
    pub length: u32,
}

impl Location {
    /// Bytes of the body.
    #[must_use]
    pub fn body_len(self) -> u32 {
        self.length.saturating_sub(FRAME_HEADER_BYTES as u32)
    }
}

/// Why bytes are no frame that this build reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BadFrame {
    /// They do not begin as a frame does, or the checksum says that they are not what was written.
    Broken(&'static str),
    /// They are whole, and of a newer format.
    Newer {
        /// Its format.
        version: u16,
    },
}

/// The part of the checksum that all frames of one segment share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seal(u32);

impl Seal {
    pub(super) fn new(journal: Uuid, segment: u64) -> Self {
        let journal = crc32c::crc32c(&journal.0.to_le_bytes());
        Self(crc32c::crc32c_append(journal, &segment.to_le_bytes()))
    }

    /// `header` is a frame's first 80 bytes; its bytes 8 to 12 do not count.
    pub(super) fn checksum(
        self,
        position: u64,
        header: &[u8; FRAME_HEADER_BYTES],
        body: &[u8],
    ) -> u32 {
        let place = crc32c::crc32c_append(self.0, &position.to_le_bytes());
        let front = crc32c::crc32c_append(place, &header[..8]);
        let rest = crc32c::crc32c_append(front, &header[12..]);
        crc32c::crc32c_append(rest, body)
    }
}

/// Bytes that a frame with a body of `body_len` takes, padding included.
pub(super) fn padded(body_len: u32) -> u64 {
    (HEADER + u64::from(body_len)).next_multiple_of(ALIGNMENT)
}

/// The header's bytes for a frame at `position`. The body's length must be `header.body_len`.
pub(super) fn encode(
    header: &FrameHeader,
    body: &[u8],
    seal: Seal,
    position: u64,
) -> [u8; FRAME_HEADER_BYTES] {
    debug_assert_eq!(header.body_len as usize, body.len());
    let mut out = [0; FRAME_HEADER_BYTES];
    out[0..4].copy_from_slice(&MAGIC);
    out[4..6].copy_from_slice(&FRAME_VERSION.to_le_bytes());
    out[6] = header.kind.number();
    out[12..16].copy_from_slice(&header.body_len.to_le_bytes());
    out[16..24].copy_from_slice(&u64::from(header.queue).to_le_bytes());
    out[24..32].copy_from_slice(&header.epoch.0.to_le_bytes());
    out[32..40].copy_from_slice(&header.base_offset.0.to_le_bytes());
    out[40..44].copy_from_slice(&header.count.to_le_bytes());
    out[44..48].copy_from_slice(&header.session.0.to_le_bytes());
    out[48..64].copy_from_slice(&header.producer.0.to_le_bytes());
    out[64..72].copy_from_slice(&header.sequence.0.to_le_bytes());
    out[72..80].copy_from_slice(&header.appended_at.0.to_le_bytes());
    let crc = seal.checksum(position, &out, body);
    out[8..12].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The body length that a header claims, so that the caller can fetch the body.
///
/// # Errors
/// [`BadFrame::Broken`] when it does not begin as a frame does or the length is over the bound.
pub(super) fn claimed_body_len(header: &[u8; FRAME_HEADER_BYTES]) -> Result<u32, BadFrame> {
    if header[..4] != MAGIC {
        return Err(BadFrame::Broken("no frame begins here"));
    }
    match u32_at(header, 12) {
        len if len <= MAX_BODY_BYTES => Ok(len),
        _ => Err(BadFrame::Broken("its length is impossible")),
    }
}

/// Checks the frame whose header and body were read at `position`.
///
/// # Errors
/// [`BadFrame`] when it is not what was written there, or is of a newer format.
pub(super) fn decode(
    header: &[u8; FRAME_HEADER_BYTES],
    body: &[u8],
    seal: Seal,
    position: u64,
) -> Result<FrameHeader, BadFrame> {
    let body_len = claimed_body_len(header)?;
    if body_len as usize != body.len() {
        return Err(BadFrame::Broken("its length is not the one asked for"));
    }
    if seal.checksum(position, header, body) != u32_at(header, 8) {
        return Err(BadFrame::Broken("its checksum does not match"));
    }
    let version = u16::from_le_bytes([header[4], header[5]]);
    // A kind or flag that this build does not know is a newer format, whatever its number says.
    let kind = match Kind::from_number(header[6]) {
        Some(kind) if version == FRAME_VERSION && header[7] == 0 => kind,
        _ => return Err(BadFrame::Newer { version: version.max(FRAME_VERSION + 1) }),
    };
    Ok(FrameHeader {
        kind,
        queue: QueueId::from(u64_at(header, 16)),
        epoch: Epoch(u64_at(header, 24)),
        base_offset: Offset(u64_at(header, 32)),
        count: u32_at(header, 40),
        session: Session(u32_at(header, 44)),
        producer: Uuid(u128::from(u64_at(header, 48)) | u128::from(u64_at(header, 56)) << 64),
        sequence: Sequence(u64_at(header, 64)),
        appended_at: WallTime(u64_at(header, 72)),
        body_len,
    })
}

/// What a Sync frame says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SyncBody {
    /// The end of what was synced before this round began.
    pub(super) synced: Position,
    /// The number of the round; grows.
    pub(super) round: u64,
}

impl SyncBody {
    /// The whole Sync frame for `position`.
    pub(super) fn encode(self, seal: Seal, position: u64) -> [u8; SYNC_FRAME_BYTES] {
        let mut out = [0; SYNC_FRAME_BYTES];
        let (header, body) = out.split_at_mut(FRAME_HEADER_BYTES);
        body[0..8].copy_from_slice(&self.synced.segment.to_le_bytes());
        body[8..16].copy_from_slice(&self.synced.position.to_le_bytes());
        body[16..24].copy_from_slice(&self.round.to_le_bytes());
        let bare = FrameHeader::bare(Kind::Sync, SYNC_BODY_BYTES as u32);
        header.copy_from_slice(&encode(&bare, body, seal, position));
        out
    }

    /// What the body of a Sync frame says; `None` when it has another length.
    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        let body: &[u8; SYNC_BODY_BYTES] = body.try_into().ok()?;
        Some(Self {
            synced: Position { segment: u64_at(body, 0), position: u64_at(body, 8) },
            round: u64_at(body, 16),
        })
    }
}

/// The number at `at`, which lies inside by the layout above.
pub(super) fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(out)
}

/// The number at `at`, which lies inside by the layout above.
pub(super) fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"hello";

    fn header() -> FrameHeader {
        FrameHeader {
            kind: Kind::Batch,
            queue: QueueId::from(7 << 32 | 3),
            epoch: Epoch(4),
            base_offset: Offset(1000),
            count: 2,
            session: Session(9),
            producer: Uuid(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
            sequence: Sequence(77),
            appended_at: WallTime(1_795_521_600_000),
            body_len: BODY.len() as u32,
        }
    }

    fn seal() -> Seal {
        Seal::new(Uuid(42), 1)
    }

    #[test]
    fn a_frame_reads_as_it_was_written() {
        let bytes = encode(&header(), BODY, seal(), 64);
        assert_eq!(decode(&bytes, BODY, seal(), 64), Ok(header()));
        assert_eq!(padded(5), 88);
        assert_eq!(padded(0), 80);
    }

    #[test]
    fn the_layout_on_disk_is_fixed() {
        let bytes = encode(&header(), BODY, seal(), 64);
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let golden = concat!(
            "52576631010002000000000005000000",
            "03000000070000000400000000000000e803000000000000",
            "0200000009000000100f0e0d0c0b0a090807060504030201",
            "4d00000000000000005a6d0da2010000",
        );
        assert_eq!(hex[..16], golden[..16]);
        assert_eq!(hex[24..], golden[24..]);
        assert_eq!(u32_at(&bytes, 8), GOLDEN_CRC);
    }

    /// Computed apart from this crate, bit by bit, over 42 as u128, 1 and 64 as u64, header, body.
    const GOLDEN_CRC: u32 = 0xbd5b_5671;

    #[test]
    fn any_flipped_bit_is_noticed() {
        let bytes = encode(&header(), BODY, seal(), 64);
        for bit in 0..(bytes.len() + BODY.len()) * 8 {
            let (mut head, mut body) = (bytes, BODY.to_vec());
            match bit / 8 {
                at if at < head.len() => head[at] ^= 1 << (bit % 8),
                at => body[at - head.len()] ^= 1 << (bit % 8),
            }
            let read = decode(&head, &body, seal(), 64);
            assert!(matches!(read, Err(BadFrame::Broken(_))), "bit {bit}: {read:?}");
        }
    }

    #[test]
    fn a_frame_passes_only_at_its_own_place() {
        let bytes = encode(&header(), BODY, seal(), 64);
        for (journal, segment, position) in [(42, 1, 72), (42, 2, 64), (43, 1, 64)] {
            let elsewhere = Seal::new(Uuid(journal), segment);
            let read = decode(&bytes, BODY, elsewhere, position);
            assert_eq!(read, Err(BadFrame::Broken("its checksum does not match")));
        }
    }

    #[test]
    fn a_whole_frame_of_an_unknown_kind_or_version_is_newer() {
        for (at, value, version) in [(6, 99, 2), (4, 7, 7), (7, 1, 2)] {
            let mut bytes = encode(&header(), BODY, seal(), 64);
            bytes[at] = value;
            let crc = seal().checksum(64, &bytes, BODY);
            bytes[8..12].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(decode(&bytes, BODY, seal(), 64), Err(BadFrame::Newer { version }));
        }
    }
}
