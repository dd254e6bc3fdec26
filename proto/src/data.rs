//! Data frames: fixed little-endian headers before bodies that pass through untouched.
//!
//! A data frame is decoded by looking at its first bytes; what follows stays a [`Bytes`] that
//! shares the memory it was read into.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::ids::{
    Epoch, Lanes, Offset, OpenNumber, ProducerId, QueueId, RoutingVersion, Sequence, Session, Uuid,
};
use crate::limits::{MAX_BATCH_MESSAGES, MAX_RANGES};
use crate::refusal::{Code, Refusal};
use crate::time::WallTime;

fn short(what: &str, bytes: &Bytes, need: usize) -> Result<(), Refusal> {
    if bytes.len() < need {
        return Err(Refusal::new(
            Code::Protocol,
            format!("{what} of {} bytes; {need} are the least", bytes.len()),
        ));
    }
    Ok(())
}

/// Append a batch to a queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Append {
    /// The queue.
    pub queue: QueueId,
    /// The queue's epoch as the producer knows it.
    pub epoch: Epoch,
    /// The routing version under which the producer chose the queue.
    pub routing: RoutingVersion,
    /// Who publishes.
    pub producer: ProducerId,
    /// The producer's session at this queue.
    pub session: Session,
    /// The sequence of the first message.
    pub base_sequence: Sequence,
    /// Messages in the batch.
    pub count: u32,
    /// The encoded batch ([`crate::batch`]).
    pub batch: Bytes,
}

impl Append {
    const LEN: usize = 56;

    /// The fixed header; the batch follows it in the frame.
    #[must_use]
    pub fn header(&self) -> Bytes {
        let mut b = BytesMut::with_capacity(Self::LEN);
        b.put_u64_le(self.queue.into());
        b.put_u64_le(self.epoch.0);
        b.put_u64_le(self.routing.0);
        b.put_u128_le(self.producer.0);
        b.put_u32_le(self.session.0);
        b.put_u32_le(self.count);
        b.put_u64_le(self.base_sequence.0);
        b.freeze()
    }

    /// Reads a payload of [`crate::frame::Kind::Append`]; the batch itself is not looked into.
    ///
    /// # Errors
    /// [`Code::Protocol`] when it is too short.
    pub fn decode(mut b: Bytes) -> Result<Self, Refusal> {
        short("an append", &b, Self::LEN)?;
        Ok(Self {
            queue: b.get_u64_le().into(),
            epoch: Epoch(b.get_u64_le()),
            routing: RoutingVersion(b.get_u64_le()),
            producer: Uuid(b.get_u128_le()),
            session: Session(b.get_u32_le()),
            count: b.get_u32_le(),
            base_sequence: Sequence(b.get_u64_le()),
            batch: b,
        })
    }
}

/// The answer to an [`Append`]. A refusal refuses this batch and every later sequence of the
/// producer's session at that queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppendAnswer {
    /// The queue.
    pub queue: QueueId,
    /// The session that was answered; the SDK ignores answers to older ones.
    pub session: Session,
    /// The batch that was answered.
    pub base_sequence: Sequence,
    /// Stored (the offset of the first message), or why not.
    pub outcome: Result<Offset, Refusal>,
    /// The routing version that the worker knows.
    pub routing: RoutingVersion,
}

impl AppendAnswer {
    const LEN: usize = 8 + 4 + 8 + 8 + 8 + 2;

    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut b = BytesMut::with_capacity(Self::LEN);
        b.put_u64_le(self.queue.into());
        b.put_u32_le(self.session.0);
        b.put_u64_le(self.base_sequence.0);
        b.put_u64_le(self.routing.0);
        match &self.outcome {
            Ok(offset) => {
                b.put_u64_le(offset.0);
                b.put_u16_le(0);
            }
            Err(refusal) => {
                b.put_u64_le(0);
                b.put_u16_le(refusal.code.number());
                b.put_slice(crate::refusal::shorten(&refusal.text).as_bytes());
            }
        }
        b.freeze()
    }

    /// Reads a payload of [`crate::frame::Kind::Appended`].
    ///
    /// # Errors
    /// [`Code::Protocol`] when it is too short.
    pub fn decode(mut b: Bytes) -> Result<Self, Refusal> {
        short("an append's answer", &b, Self::LEN)?;
        let queue = b.get_u64_le().into();
        let session = Session(b.get_u32_le());
        let base_sequence = Sequence(b.get_u64_le());
        let routing = RoutingVersion(b.get_u64_le());
        let offset = Offset(b.get_u64_le());
        let outcome = match b.get_u16_le() {
            0 => Ok(offset),
            code => {
                Err(Refusal::new(Code::from_number(code), String::from_utf8_lossy(&b).into_owned()))
            }
        };
        Ok(Self { queue, session, base_sequence, outcome, routing })
    }
}

/// Messages of one batch for the holder of a right. The records are those of the stored batch;
/// the entries say which they are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Deliver {
    /// The open that this answers; deliveries of older opens are dropped.
    pub open: OpenNumber,
    /// The offset of the batch's first message.
    pub base_offset: Offset,
    /// When the producer made the batch.
    pub published_at: WallTime,
    /// Number of classes in the table.
    pub classes: u16,
    /// One entry a record, in order.
    pub entries: Vec<DeliverEntry>,
    /// The class table of the batch.
    pub class_table: Bytes,
    /// The records, one behind the other, as one or more slices of the batch.
    pub records: Vec<Bytes>,
}

/// One delivered message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeliverEntry {
    /// Its index in the batch; base offset + index is its offset.
    pub index: u32,
    /// The how manieth delivery this is, from 1.
    pub delivery: u16,
}

impl Deliver {
    const LEN: usize = 8 + 8 + 8 + 2 + 4 + 4;
    const ENTRY_LEN: usize = 6;

    /// Everything before the records: write this, then each slice of `records`.
    #[must_use]
    pub fn header(&self) -> Bytes {
        let mut b = BytesMut::with_capacity(
            Self::LEN + self.entries.len() * Self::ENTRY_LEN + self.class_table.len(),
        );
        b.put_u64_le(self.open.0);
        b.put_u64_le(self.base_offset.0);
        b.put_u64_le(self.published_at.0);
        b.put_u16_le(self.classes);
        b.put_u32_le(self.entries.len() as u32);
        b.put_u32_le(self.class_table.len() as u32);
        for entry in &self.entries {
            b.put_u32_le(entry.index);
            b.put_u16_le(entry.delivery);
        }
        b.put_slice(&self.class_table);
        b.freeze()
    }

    /// Reads a payload of [`crate::frame::Kind::Deliver`]; the records come as one slice and are
    /// not looked into ([`crate::batch::parse_record`] does).
    ///
    /// # Errors
    /// [`Code::Protocol`] where lengths do not add up.
    pub fn decode(mut b: Bytes) -> Result<Self, Refusal> {
        short("a delivery", &b, Self::LEN)?;
        let open = OpenNumber(b.get_u64_le());
        let base_offset = Offset(b.get_u64_le());
        let published_at = WallTime(b.get_u64_le());
        let classes = b.get_u16_le();
        let count = b.get_u32_le() as usize;
        let table_len = b.get_u32_le() as usize;
        if count > MAX_BATCH_MESSAGES {
            return Err(Refusal::new(Code::Protocol, format!("a delivery of {count} messages")));
        }
        short("a delivery", &b, count * Self::ENTRY_LEN + table_len)?;
        let entries = (0..count)
            .map(|_| DeliverEntry { index: b.get_u32_le(), delivery: b.get_u16_le() })
            .collect();
        let class_table = b.split_to(table_len);
        Ok(Self {
            open,
            base_offset,
            published_at,
            classes,
            entries,
            class_table,
            records: vec![b],
        })
    }
}

/// Offsets `first..end` of one queue.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize,
)]
pub struct OffsetRange {
    /// The first offset.
    pub first: Offset,
    /// The offset behind the last.
    pub end: Offset,
}

impl OffsetRange {
    /// The offsets from `first` up to but not including `end`.
    #[must_use]
    pub fn new(first: u64, end: u64) -> Self {
        Self { first: Offset(first), end: Offset(end) }
    }

    /// The single offset `at`.
    #[must_use]
    pub fn one(at: Offset) -> Self {
        Self { first: at, end: at.next() }
    }

    /// Joins sorted offsets into ranges.
    #[must_use]
    pub fn collect(offsets: impl IntoIterator<Item = Offset>) -> Vec<Self> {
        let mut out: Vec<Self> = Vec::new();
        for at in offsets {
            match out.last_mut() {
                Some(last) if last.end == at => last.end = at.next(),
                _ => out.push(Self::one(at)),
            }
        }
        out
    }

    /// Every offset of it.
    pub fn offsets(self) -> impl Iterator<Item = Offset> {
        (self.first.0..self.end.0).map(Offset)
    }
}

/// Offsets that the holder of a right acks, has handed out, gives back or could not handle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ranges {
    /// The open under which it speaks. Hand-outs, returns and nacks of older opens are ignored.
    pub open: OpenNumber,
    /// For acks: grows with each frame; [`AckConfirmed`] names it. Otherwise 0.
    pub number: u64,
    /// The offsets, in ascending ranges that do not touch.
    pub ranges: Vec<OffsetRange>,
}

impl Ranges {
    /// The payload. At most [`MAX_RANGES`] ranges fit; the caller splits.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut b = BytesMut::with_capacity(20 + self.ranges.len() * 16);
        b.put_u64_le(self.open.0);
        b.put_u64_le(self.number);
        b.put_u32_le(self.ranges.len() as u32);
        for r in &self.ranges {
            b.put_u64_le(r.first.0);
            b.put_u64_le(r.end.0);
        }
        b.freeze()
    }

    /// Reads a payload of one of the kinds that carry ranges.
    ///
    /// # Errors
    /// [`Code::Protocol`] where lengths do not add up or ranges are empty or out of order.
    pub fn decode(mut b: Bytes) -> Result<Self, Refusal> {
        short("ranges", &b, 20)?;
        let open = OpenNumber(b.get_u64_le());
        let number = b.get_u64_le();
        let count = b.get_u32_le() as usize;
        if count > MAX_RANGES || b.len() != count * 16 {
            return Err(Refusal::new(
                Code::Protocol,
                format!("{count} ranges in {} bytes", b.len()),
            ));
        }
        let ranges: Vec<OffsetRange> =
            (0..count).map(|_| OffsetRange::new(b.get_u64_le(), b.get_u64_le())).collect();
        check_ranges(&ranges)?;
        Ok(Self { open, number, ranges })
    }
}

/// Checks that ranges are ascending and none is empty.
///
/// # Errors
/// [`Code::Protocol`] where they are not.
pub fn check_ranges(ranges: &[OffsetRange]) -> Result<(), Refusal> {
    let ascending = ranges.windows(2).all(|w| w[0].end <= w[1].first);
    if !ascending || ranges.iter().any(|r| r.first >= r.end) {
        return Err(Refusal::new(Code::Protocol, "ranges that are empty or out of order"));
    }
    Ok(())
}

/// All acks up to this number, under this open, are durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AckConfirmed {
    /// The open whose acks are meant.
    pub open: OpenNumber,
    /// The number of the last durable ack frame.
    pub number: u64,
}

impl AckConfirmed {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut b = BytesMut::with_capacity(16);
        b.put_u64_le(self.open.0);
        b.put_u64_le(self.number);
        b.freeze()
    }

    /// Reads a payload of [`crate::frame::Kind::AckConfirmed`].
    ///
    /// # Errors
    /// [`Code::Protocol`] when it is too short.
    pub fn decode(mut b: Bytes) -> Result<Self, Refusal> {
        short("an ack's confirmation", &b, 16)?;
        Ok(Self { open: OpenNumber(b.get_u64_le()), number: b.get_u64_le() })
    }
}

/// The payload of a [`crate::frame::Kind::Narrow`].
#[must_use]
pub fn encode_lanes(lanes: Lanes) -> Bytes {
    let mut b = BytesMut::with_capacity(4);
    b.put_u16_le(lanes.start);
    b.put_u16_le(lanes.end);
    b.freeze()
}

/// Reads a payload of [`crate::frame::Kind::Narrow`].
///
/// # Errors
/// [`Code::Protocol`] when it is too short, or names no lane of a queue.
pub fn decode_lanes(mut b: Bytes) -> Result<Lanes, Refusal> {
    short("a range of lanes", &b, 4)?;
    let lanes = Lanes { start: b.get_u16_le(), end: b.get_u16_le() };
    if lanes.start >= lanes.end || !Lanes::ALL.covers(lanes) {
        let text = format!("lanes {}..{} of a queue", lanes.start, lanes.end);
        return Err(Refusal::new(Code::Protocol, text));
    }
    Ok(lanes)
}

/// How much of one right may be delivered and neither acked nor given back. A member shares its
/// credit among its rights; so that it never promises the same credit twice, it counts the larger
/// of two windows until the worker has sent the newer one back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Window {
    /// Grows with each change.
    pub number: u64,
    /// In messages.
    pub messages: u32,
    /// In bytes of records; one message is always let through, however large.
    pub bytes: u64,
}

impl Window {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut b = BytesMut::with_capacity(20);
        b.put_u64_le(self.number);
        b.put_u32_le(self.messages);
        b.put_u64_le(self.bytes);
        b.freeze()
    }

    /// Reads a payload of [`crate::frame::Kind::Window`] or its echo.
    ///
    /// # Errors
    /// [`Code::Protocol`] when it is too short.
    pub fn decode(mut b: Bytes) -> Result<Self, Refusal> {
        short("a window", &b, 20)?;
        Ok(Self { number: b.get_u64_le(), messages: b.get_u32_le(), bytes: b.get_u64_le() })
    }
}

/// One batch of a queue that is copied, with all that its frame in the journal says of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopyBatch {
    /// The epoch under which it was accepted.
    pub epoch: Epoch,
    /// The offset of its first message.
    pub base_offset: Offset,
    /// Who published it.
    pub producer: ProducerId,
    /// The producer's session.
    pub session: Session,
    /// The sequence of the first message.
    pub base_sequence: Sequence,
    /// Messages in the batch.
    pub count: u32,
    /// When the primary accepted it.
    pub appended_at: WallTime,
    /// The encoded batch ([`crate::batch`]).
    pub batch: Bytes,
}

impl CopyBatch {
    const LEN: usize = 56;

    /// The fixed header; the batch follows it in the frame.
    #[must_use]
    pub fn header(&self) -> Bytes {
        let mut b = BytesMut::with_capacity(Self::LEN);
        b.put_u64_le(self.epoch.0);
        b.put_u64_le(self.base_offset.0);
        b.put_u128_le(self.producer.0);
        b.put_u32_le(self.session.0);
        b.put_u32_le(self.count);
        b.put_u64_le(self.base_sequence.0);
        b.put_u64_le(self.appended_at.0);
        b.freeze()
    }

    /// Reads a payload of [`crate::frame::Kind::CopyBatch`]; the batch itself is not looked into.
    ///
    /// # Errors
    /// [`Code::Protocol`] when it is too short.
    pub fn decode(mut b: Bytes) -> Result<Self, Refusal> {
        short("a copied batch", &b, Self::LEN)?;
        Ok(Self {
            epoch: Epoch(b.get_u64_le()),
            base_offset: Offset(b.get_u64_le()),
            producer: Uuid(b.get_u128_le()),
            session: Session(b.get_u32_le()),
            count: b.get_u32_le(),
            base_sequence: Sequence(b.get_u64_le()),
            appended_at: WallTime(b.get_u64_le()),
            batch: b,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::GroupId;

    #[test]
    fn data_frames_read_back() {
        let append = Append {
            queue: QueueId::new(GroupId(2), 9),
            epoch: Epoch(3),
            routing: RoutingVersion(4),
            producer: Uuid(5),
            session: Session(6),
            base_sequence: Sequence(7),
            count: 8,
            batch: Bytes::from_static(b"batch"),
        };
        let frame = Bytes::from([&append.header()[..], b"batch"].concat());
        assert_eq!(Append::decode(frame).unwrap(), append);

        let copied = CopyBatch {
            epoch: Epoch(3),
            base_offset: Offset(9),
            producer: Uuid(5),
            session: Session(6),
            base_sequence: Sequence(7),
            count: 8,
            appended_at: WallTime(10),
            batch: Bytes::from_static(b"batch"),
        };
        let frame = Bytes::from([&copied.header()[..], b"batch"].concat());
        assert_eq!(CopyBatch::decode(frame).unwrap(), copied);

        for outcome in [Ok(Offset(11)), Err(Refusal::new(Code::StaleRouting, "moved"))] {
            let answer = AppendAnswer {
                queue: append.queue,
                session: Session(6),
                base_sequence: Sequence(7),
                outcome,
                routing: RoutingVersion(12),
            };
            assert_eq!(AppendAnswer::decode(answer.encode()).unwrap(), answer);
        }

        let deliver = Deliver {
            open: OpenNumber(1),
            base_offset: Offset(100),
            published_at: WallTime(5),
            classes: 1,
            entries: vec![
                DeliverEntry { index: 0, delivery: 1 },
                DeliverEntry { index: 4, delivery: 2 },
            ],
            class_table: Bytes::from_static(b"tt"),
            records: vec![Bytes::from_static(b"records")],
        };
        let frame = Bytes::from([&deliver.header()[..], b"records"].concat());
        assert_eq!(Deliver::decode(frame).unwrap(), deliver);

        let ranges =
            Ranges { open: OpenNumber(1), number: 2, ranges: vec![OffsetRange::new(3, 5)] };
        assert_eq!(Ranges::decode(ranges.encode()).unwrap(), ranges);
        let window = Window { number: 1, messages: 2, bytes: 3 };
        assert_eq!(Window::decode(window.encode()).unwrap(), window);
    }

    #[test]
    fn short_and_lying_frames_are_refused() {
        for n in 0..16 {
            let b = Bytes::from(vec![0xff; n]);
            assert!(Append::decode(b.clone()).is_err());
            assert!(AppendAnswer::decode(b.clone()).is_err());
            assert!(Deliver::decode(b.clone()).is_err());
            assert!(Ranges::decode(b.clone()).is_err());
            assert!(AckConfirmed::decode(b.clone()).is_err());
            assert!(decode_lanes(b.clone()).is_err());
            assert!(Window::decode(b).is_err());
        }
        let half = Lanes { start: 0, end: 2048 };
        assert_eq!(decode_lanes(encode_lanes(half)), Ok(half));
        assert!(Deliver::decode(Bytes::from(vec![0xff; 64])).is_err());
        assert!(Ranges::decode(Bytes::from(vec![0xff; 64])).is_err());
        let backwards =
            Ranges { open: OpenNumber(1), number: 0, ranges: vec![OffsetRange::new(5, 5)] };
        assert!(Ranges::decode(backwards.encode()).is_err());
    }

    #[test]
    fn neighbouring_offsets_become_one_range() {
        let ranges = OffsetRange::collect([1, 2, 3, 7, 9, 10].map(Offset));
        assert_eq!(
            ranges,
            [OffsetRange::new(1, 4), OffsetRange::new(7, 8), OffsetRange::new(9, 11)]
        );
    }
}
