//! The virtual disks: a worker's journal as a list of frames of which a prefix is durable, and a
//! coordinator's rows. A crash keeps what is durable and any prefix of the rest. They do not know
//! what is in a frame; torn writes are the journal's own tests.

use std::collections::BTreeMap;

use bytes::Bytes;
use ringway_coordinator::logic::rows::{Change, Key, Row};
use ringway_proto::{Epoch, Offset, QueueId, Sequence, Session, Uuid, WallTime};
use ringway_worker::journal::{FrameHeader, Kind, Location};

use super::clock::Dice;

/// What is written and whether it is there to stay.
#[derive(Debug)]
pub struct Journal {
    /// Its identity.
    pub uuid: Uuid,
    /// Every frame that was written.
    pub frames: Vec<(FrameHeader, Bytes)>,
    durable: usize,
    /// Until when there is no room, and whether not even for a round without batches.
    pub full: Option<(u64, Full)>,
}

/// How full a disk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    /// A batch does not fit.
    ForBatches,
    /// Nothing fits.
    ForAll,
}

impl Journal {
    /// An empty journal.
    #[must_use]
    pub fn new(uuid: Uuid) -> Self {
        Self { uuid, frames: Vec::new(), durable: 0, full: None }
    }

    /// Whether a round finds room now.
    #[must_use]
    pub fn has_room(&self, now: u64, mut kinds: impl Iterator<Item = Kind>) -> bool {
        match self.full.filter(|(until, _)| now < *until) {
            None => true,
            Some((_, Full::ForAll)) => false,
            Some((_, Full::ForBatches)) => !kinds.any(|kind| kind == Kind::Batch),
        }
    }

    /// Writes a frame, which is not durable yet.
    pub fn write(&mut self, header: FrameHeader, body: Bytes) {
        self.frames.push((header, body));
    }

    /// Everything that was written is durable.
    pub fn sync(&mut self) {
        self.durable = self.frames.len();
    }

    /// The process is gone: of what is not durable any prefix may be there.
    pub fn crash(&mut self, dice: &mut Dice) {
        let open = self.frames.len() - self.durable;
        let kept = dice.below(open as u64 + 1) as usize;
        self.frames.truncate(self.durable + kept);
        self.sync();
    }

    /// The frames that are durable.
    #[must_use]
    pub fn durable(&self) -> &[(FrameHeader, Bytes)] {
        &self.frames[..self.durable]
    }

    /// Every frame with its place.
    pub fn replay(&self) -> impl Iterator<Item = (&FrameHeader, Location, &[u8])> {
        self.frames.iter().enumerate().map(|(i, (header, body))| {
            let at = Location { segment: 0, position: i as u64, length: header.body_len };
            (header, at, &body[..])
        })
    }
}

/// The header of a control record.
#[must_use]
pub fn control(queue: QueueId, epoch: Epoch, at: WallTime, body: &Bytes) -> FrameHeader {
    FrameHeader {
        kind: Kind::Control,
        queue,
        epoch,
        base_offset: Offset(0),
        count: 0,
        session: Session(0),
        producer: Uuid(0),
        sequence: Sequence(0),
        appended_at: at,
        body_len: body.len() as u32,
    }
}

/// The coordinator's store.
#[derive(Debug, Default)]
pub struct Rows(BTreeMap<Key, Row>);

impl Rows {
    /// Makes all changes.
    pub fn commit(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Put(row) => drop(self.0.insert(row.key(), row.clone())),
                Change::Delete(key) => drop(self.0.remove(key)),
            }
        }
    }

    /// Every row.
    #[must_use]
    pub fn load(&self) -> Vec<Row> {
        self.0.values().cloned().collect()
    }
}
