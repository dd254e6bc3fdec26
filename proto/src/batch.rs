//! A batch: messages of one queue, encoded once by the producer and walked by everyone else
//! without copying.
//!
//! Little-endian:
//!
//! ```text
//! header   u8 format = 1 · u8 compression = 0 · u16 classes · u32 messages
//!          u64 published_at (ms since 1970) · u32 class table bytes · u32 record bytes
//! classes  per class:   u16 length · text
//! records  per message: u32 length of the rest · u16 class · u8 flags
//!          [flag 1: u16 length · key] [flag 2: u16 length · id]
//!          [flag 4: u8 count, then per header u8 length · name · u16 length · value]
//!          body to the end of the record
//! ```
//!
//! The class table stands apart so that a worker checks a filter once per class and not once per
//! message; records stand side by side so that any run of them is a slice. The same class table
//! and records are what a delivery carries ([`crate::data::Deliver`]).

use bytes::{BufMut, Bytes, BytesMut};

use crate::class::Class;
use crate::hash::slot_of;
use crate::ids::Slot;
use crate::limits::{
    MAX_BATCH_CLASSES, MAX_BATCH_MESSAGES, MAX_HEADER_NAME_BYTES, MAX_HEADER_VALUE_BYTES,
    MAX_HEADERS, MAX_KEY_BYTES,
};
use crate::message::{Header, Message};
use crate::refusal::{Code, Refusal};
use crate::time::WallTime;

/// Bytes of the header of a batch.
pub const HEADER_LEN: usize = 24;
const FORMAT: u8 = 1;
const MIN_RECORD_LEN: usize = 7;
const HAS_KEY: u8 = 1;
const HAS_ID: u8 = 2;
const HAS_HEADERS: u8 = 4;

fn broken(text: impl Into<String>) -> Refusal {
    Refusal::new(Code::Protocol, text)
}

/// Collects messages and encodes them.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    classes: Vec<Class>,
    class_table_bytes: usize,
    records: BytesMut,
    messages: usize,
}

impl BatchBuilder {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Messages so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.messages
    }

    /// Whether nothing was added yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Size of the encoded batch so far, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        HEADER_LEN + self.class_table_bytes + self.records.len()
    }

    /// Whether `message` may still be added, by the number of messages and of classes.
    #[must_use]
    pub fn has_room_for(&self, message: &Message) -> bool {
        self.messages < MAX_BATCH_MESSAGES
            && (self.classes.len() < MAX_BATCH_CLASSES
                || self.class_index(&message.class).is_some())
    }

    fn class_index(&self, class: &Class) -> Option<usize> {
        // Batches have few classes and the last one is the likeliest.
        self.classes.iter().rposition(|c| c == class)
    }

    /// Adds a message that was checked ([`Message::check`]) and for which there is room.
    pub fn push(&mut self, message: &Message) {
        let class = self.class_index(&message.class).unwrap_or_else(|| {
            self.classes.push(message.class.clone());
            self.class_table_bytes += 2 + message.class.as_str().len();
            self.classes.len() - 1
        });
        let start = self.records.len();
        let mut flags = 0;
        self.records.put_u32_le(0);
        self.records.put_u16_le(class as u16);
        self.records.put_u8(0);
        for (flag, part) in [(HAS_KEY, &message.key), (HAS_ID, &message.id)] {
            if let Some(part) = part {
                flags |= flag;
                self.records.put_u16_le(part.len() as u16);
                self.records.put_slice(part);
            }
        }
        if !message.headers.is_empty() {
            flags |= HAS_HEADERS;
            self.records.put_u8(message.headers.len() as u8);
            for Header { name, value } in &message.headers {
                self.records.put_u8(name.len() as u8);
                self.records.put_slice(name.as_bytes());
                self.records.put_u16_le(value.len() as u16);
                self.records.put_slice(value);
            }
        }
        self.records.put_slice(&message.body);
        let rest = (self.records.len() - start - 4) as u32;
        self.records[start..start + 4].copy_from_slice(&rest.to_le_bytes());
        self.records[start + 6] = flags;
        self.messages += 1;
    }

    /// The encoded batch.
    #[must_use]
    pub fn finish(self, published_at: WallTime) -> Bytes {
        let mut out = BytesMut::with_capacity(self.bytes());
        out.put_u8(FORMAT);
        out.put_u8(0);
        out.put_u16_le(self.classes.len() as u16);
        out.put_u32_le(self.messages as u32);
        out.put_u64_le(published_at.0);
        out.put_u32_le(self.class_table_bytes as u32);
        out.put_u32_le(self.records.len() as u32);
        for class in &self.classes {
            out.put_u16_le(class.as_str().len() as u16);
            out.put_slice(class.as_str().as_bytes());
        }
        out.put_slice(&self.records);
        out.freeze()
    }
}

/// A batch that was checked from end to end: every record lies inside it and names a class of
/// its table. Cloning it copies no message.
#[derive(Clone, Debug)]
pub struct Batch {
    bytes: Bytes,
    published_at: WallTime,
    classes: Vec<Class>,
    /// Where each record starts, and behind the last where it ends.
    starts: Vec<u32>,
}

impl Batch {
    /// Checks and takes an encoded batch.
    ///
    /// # Errors
    /// [`Code::Protocol`] where lengths do not add up, [`Code::Unsupported`] for another format,
    /// [`Code::InvalidClass`] for an illegal class, [`Code::InvalidMessage`] for a key or header
    /// over its bound.
    pub fn parse(bytes: Bytes) -> Result<Self, Refusal> {
        if bytes.len() < HEADER_LEN {
            return Err(broken(format!("a batch of {} bytes", bytes.len())));
        }
        if bytes[0] != FORMAT || bytes[1] != 0 {
            return Err(Refusal::new(
                Code::Unsupported,
                format!("batches of format {} with compression {}", bytes[0], bytes[1]),
            ));
        }
        let class_count = usize::from(u16_at(&bytes, 2)?);
        let messages = u32_at(&bytes, 4)? as usize;
        let published_at = WallTime(u64_at(&bytes, 8)?);
        let table_len = u32_at(&bytes, 16)? as usize;
        let records_len = u32_at(&bytes, 20)? as usize;
        if HEADER_LEN + table_len + records_len != bytes.len() {
            return Err(broken("a batch whose lengths do not add up"));
        }
        if messages == 0 || messages > MAX_BATCH_MESSAGES || messages * MIN_RECORD_LEN > records_len
        {
            return Err(broken(format!("a batch of {messages} messages in {records_len} bytes")));
        }
        if class_count == 0 || class_count > MAX_BATCH_CLASSES {
            return Err(broken(format!("a batch of {class_count} classes")));
        }
        let classes = parse_classes(&bytes[HEADER_LEN..HEADER_LEN + table_len], class_count)?;
        let starts = walk_records(&bytes, HEADER_LEN + table_len, messages, classes.len())?;
        Ok(Self { bytes, published_at, classes, starts })
    }

    /// The encoded bytes, header and all: what the journal stores.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// When the producer made it, by the producer's calendar.
    #[must_use]
    pub fn published_at(&self) -> WallTime {
        self.published_at
    }

    /// Number of messages, at least 1.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// The classes of its messages.
    #[must_use]
    pub fn classes(&self) -> &[Class] {
        &self.classes
    }

    /// The encoded class table, as a slice of the batch.
    #[must_use]
    pub fn class_table(&self) -> Bytes {
        self.bytes.slice(HEADER_LEN..self.starts[0] as usize)
    }

    /// The encoded records `from..to` (indices in the batch), as a slice of the batch.
    #[must_use]
    pub fn records(&self, from: usize, to: usize) -> Bytes {
        self.bytes.slice(self.starts[from] as usize..self.starts[to] as usize)
    }

    /// Size of the record at `index`, in bytes.
    #[must_use]
    pub fn record_len(&self, index: usize) -> usize {
        (self.starts[index + 1] - self.starts[index]) as usize
    }

    /// Index into [`Batch::classes`] of the message at `index`.
    #[must_use]
    pub fn class_of(&self, index: usize) -> usize {
        let at = self.starts[index] as usize + 4;
        usize::from(u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]))
    }

    /// The key of the message at `index`.
    #[must_use]
    pub fn key(&self, index: usize) -> Option<&[u8]> {
        let record = &self.bytes[self.starts[index] as usize..self.starts[index + 1] as usize];
        if record[6] & HAS_KEY == 0 {
            return None;
        }
        let len = usize::from(u16::from_le_bytes([record[7], record[8]]));
        Some(&record[9..9 + len])
    }

    /// The slot of the message at `index`: that of its key, else of its id; none without both.
    #[must_use]
    pub fn slot(&self, index: usize) -> Option<Slot> {
        if let Some(key) = self.key(index) {
            return Some(slot_of(key));
        }
        let record = &self.bytes[self.starts[index] as usize..self.starts[index + 1] as usize];
        if record[6] & HAS_ID == 0 {
            return None;
        }
        let len = usize::from(u16::from_le_bytes([record[7], record[8]]));
        Some(slot_of(&record[9..9 + len]))
    }

    /// The message at `index`, its parts sharing the batch's memory.
    ///
    /// # Errors
    /// [`Code::Protocol`]: never for a batch that [`Batch::parse`] took.
    pub fn message(&self, index: usize) -> Result<Message, Refusal> {
        let (message, _) = parse_record(&self.records(index, index + 1), &self.classes)?;
        Ok(message)
    }
}

/// Reads an encoded class table of `count` classes.
///
/// # Errors
/// [`Code::Protocol`] where lengths do not add up, [`Code::InvalidClass`] for an illegal class.
pub fn parse_classes(mut table: &[u8], count: usize) -> Result<Vec<Class>, Refusal> {
    let mut classes = Vec::with_capacity(count.min(MAX_BATCH_CLASSES));
    for _ in 0..count {
        let len = usize::from(u16_at(table, 0)?);
        let text = table.get(2..2 + len).ok_or_else(|| broken("a class table cut short"))?;
        let text = std::str::from_utf8(text).map_err(|_| broken("a class that is not UTF-8"))?;
        classes.push(Class::new(text)?);
        table = &table[2 + len..];
    }
    if !table.is_empty() {
        return Err(broken("bytes behind the class table"));
    }
    Ok(classes)
}

fn walk_records(
    bytes: &[u8],
    first: usize,
    messages: usize,
    classes: usize,
) -> Result<Vec<u32>, Refusal> {
    let mut starts = Vec::with_capacity(messages + 1);
    let mut at = first;
    for _ in 0..messages {
        starts.push(at as u32);
        let rest = u32_at(bytes, at)? as usize;
        let end = at + 4 + rest;
        let record = bytes.get(at..end).ok_or_else(|| broken("a record beyond its batch"))?;
        check_record(record, classes)?;
        at = end;
    }
    if at != bytes.len() {
        return Err(broken("bytes behind the last record"));
    }
    starts.push(at as u32);
    Ok(starts)
}

/// Checks one record without making a message of it.
fn check_record(record: &[u8], classes: usize) -> Result<(), Refusal> {
    if usize::from(u16_at(record, 4)?) >= classes {
        return Err(broken("a record of a class that is not in the table"));
    }
    let flags = *record.get(6).ok_or_else(|| broken("a record without flags"))?;
    if flags & !(HAS_KEY | HAS_ID | HAS_HEADERS) != 0 {
        return Err(Refusal::new(Code::Unsupported, format!("records with flags {flags}")));
    }
    let mut at = 7;
    for flag in [HAS_KEY, HAS_ID] {
        if flags & flag != 0 {
            let len = usize::from(u16_at(record, at)?);
            if len > MAX_KEY_BYTES {
                return Err(Refusal::new(Code::InvalidMessage, format!("a key of {len} bytes")));
            }
            at += 2 + len;
        }
    }
    if flags & HAS_HEADERS != 0 {
        let count = usize::from(*record.get(at).ok_or_else(|| broken("headers cut short"))?);
        if count > MAX_HEADERS {
            return Err(Refusal::new(Code::InvalidMessage, format!("{count} headers")));
        }
        at += 1;
        for _ in 0..count {
            let len = usize::from(*record.get(at).ok_or_else(|| broken("headers cut short"))?);
            let name =
                record.get(at + 1..at + 1 + len).ok_or_else(|| broken("headers cut short"))?;
            if len == 0 || len > MAX_HEADER_NAME_BYTES || std::str::from_utf8(name).is_err() {
                return Err(Refusal::new(Code::InvalidMessage, "a header name that is none"));
            }
            at += 1 + len;
            let len = usize::from(u16_at(record, at)?);
            if len > MAX_HEADER_VALUE_BYTES {
                return Err(Refusal::new(Code::InvalidMessage, format!("a header of {len} bytes")));
            }
            at += 2 + len;
        }
    }
    if at > record.len() {
        return Err(broken("a record shorter than its parts"));
    }
    Ok(())
}

/// Reads the first record of `bytes`: the message, its parts sharing the memory of `bytes`, and
/// the length of the record in bytes.
///
/// # Errors
/// As [`Batch::parse`].
pub fn parse_record(bytes: &Bytes, classes: &[Class]) -> Result<(Message, usize), Refusal> {
    let len = 4 + u32_at(bytes, 0)? as usize;
    let record = bytes.get(..len).ok_or_else(|| broken("a record cut short"))?;
    check_record(record, classes.len())?;
    let class = classes[usize::from(u16_at(record, 4)?)].clone();
    let flags = record[6];
    let mut at = 7;
    let mut part = |flag: u8| -> Result<Option<Bytes>, Refusal> {
        if flags & flag == 0 {
            return Ok(None);
        }
        let len = usize::from(u16_at(record, at)?);
        let part = bytes.slice(at + 2..at + 2 + len);
        at += 2 + len;
        Ok(Some(part))
    };
    let key = part(HAS_KEY)?;
    let id = part(HAS_ID)?;
    let mut headers = Vec::new();
    if flags & HAS_HEADERS != 0 {
        let count = record[at];
        at += 1;
        for _ in 0..count {
            let len = usize::from(record[at]);
            let name = String::from_utf8_lossy(&record[at + 1..at + 1 + len]).into_owned();
            at += 1 + len;
            let len = usize::from(u16_at(record, at)?);
            headers.push(Header { name, value: bytes.slice(at + 2..at + 2 + len) });
            at += 2 + len;
        }
    }
    Ok((Message { class, key, id, headers, body: bytes.slice(at..len) }, len))
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Refusal> {
    bytes
        .get(at..at + 2)
        .and_then(|b| b.try_into().ok())
        .map(u16::from_le_bytes)
        .ok_or_else(|| broken("a batch cut short"))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Refusal> {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map(u32::from_le_bytes)
        .ok_or_else(|| broken("a batch cut short"))
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, Refusal> {
    bytes
        .get(at..at + 8)
        .and_then(|b| b.try_into().ok())
        .map(u64::from_le_bytes)
        .ok_or_else(|| broken("a batch cut short"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message() -> impl Strategy<Value = Message> {
        (
            "[a-z]{1,4}(\\.[A-Z0-9]{1,3}){0,3}",
            prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
            prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
            prop::collection::vec(("[a-z]{1,8}", prop::collection::vec(any::<u8>(), 0..20)), 0..4),
            prop::collection::vec(any::<u8>(), 0..100),
        )
            .prop_map(|(class, key, id, headers, body)| Message {
                class: Class::new(&class).unwrap(),
                key: key.map(Bytes::from),
                id: id.map(Bytes::from),
                headers: headers
                    .into_iter()
                    .map(|(name, value)| Header { name, value: value.into() })
                    .collect(),
                body: body.into(),
            })
    }

    fn encode(messages: &[Message]) -> Bytes {
        let mut builder = BatchBuilder::new();
        for m in messages {
            assert!(builder.has_room_for(m));
            builder.push(m);
        }
        let size = builder.bytes();
        let bytes = builder.finish(WallTime(77));
        assert_eq!(bytes.len(), size);
        bytes
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_read_back(messages in prop::collection::vec(message(), 1..20)) {
            let batch = Batch::parse(encode(&messages)).unwrap();
            prop_assert_eq!(batch.len(), messages.len());
            prop_assert_eq!(batch.published_at(), WallTime(77));
            for (i, m) in messages.iter().enumerate() {
                prop_assert_eq!(&batch.message(i).unwrap(), m);
                prop_assert_eq!(batch.key(i), m.key.as_deref());
                prop_assert_eq!(&batch.classes()[batch.class_of(i)], &m.class);
            }
        }

        #[test]
        fn damage_is_refused_or_harmless(
            messages in prop::collection::vec(message(), 1..5),
            hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = encode(&messages).to_vec();
            for (at, byte) in hits {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let cut = cut.index(bytes.len());
            for bytes in [Bytes::copy_from_slice(&bytes[..cut]), Bytes::from(bytes)] {
                if let Ok(batch) = Batch::parse(bytes) {
                    for i in 0..batch.len() {
                        let _ = batch.key(i);
                        batch.message(i).unwrap();
                    }
                }
            }
        }
    }

    #[test]
    fn a_batch_on_the_wire_has_these_bytes() {
        let mut m = Message::new(Class::new("a.b").unwrap(), &b"hi"[..]);
        m.key = Some(Bytes::from_static(b"k"));
        let hex: String = encode(&[m]).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "01000100010000004d00000000000000050000000c000000\
             0300612e62\
             0800000000000101006b6869"
        );
    }
}
