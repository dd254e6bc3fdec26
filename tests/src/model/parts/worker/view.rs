//! What there is to know of a worker's copy of a queue, for the checks. It changes nothing.

use bytes::Bytes;
use ringway_proto::control::CopiedRight;
use ringway_proto::data::OffsetRange;
use ringway_proto::{Attempt, Epoch, Offset, WallTime};
use ringway_worker::logic::delivery::Right;
use ringway_worker::logic::hosted::Hosted;
use ringway_worker::logic::queue::StoredBatch;

use super::super::{Cast, queue};
use super::Worker;

/// What there is to know of a worker's copy of a queue, for the checks.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The process runs and has it open, under an epoch that was given out.
    pub open: Option<Opened>,
    /// The messages that are on its disk, by their offsets, whether it is open or a copy.
    pub log: Vec<Kept>,
    /// The disk has it as a copy that is whole, or open.
    pub is_whole: bool,
    /// The epoch of the right to each key, if that is known there and the process runs.
    pub rights: Vec<Option<Epoch>>,
    /// What a restart finds acked of each key.
    pub acked: Vec<Vec<(Offset, Offset)>>,
}

/// A message in a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept {
    /// Where.
    pub offset: Offset,
    /// Which.
    pub number: u64,
    /// In which run of its first worker it was taken.
    pub taken: WallTime,
}

/// A queue that a worker has open.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// Its epoch.
    pub epoch: Epoch,
    /// Whether it takes nothing.
    pub sealed: Option<Attempt>,
}

impl Worker {
    /// What there is to know of its copy of a queue.
    #[must_use]
    pub fn view(&self, cast: &Cast, index: u8) -> View {
        let id = queue(index);
        let disk = &self.disk;
        let log = disk.logs.get(&id).into_iter().flatten();
        let kept = |(at, (batch, _)): (&Offset, &(StoredBatch, Bytes))| Kept {
            offset: *at,
            number: batch.base_sequence.0,
            taken: batch.appended_at,
        };
        let mut log: Vec<Kept> = log.map(kept).collect();
        let copy = disk.host.copies().find(|(of, _)| *of == id).map(|(_, copy)| copy);
        let hosted = disk.host.queue(id);
        let whole = copy.filter(|copy| copy.is_whole()).cloned().map(|copy| copy.into_hosted());
        let kept = hosted.or(whole.as_ref());
        if hosted.is_none() && copy.is_none() {
            log.clear();
        }
        let lanes = (0..cast.keys.len() as u8).map(|key| cast.lane(key));
        let acked = lanes.clone().map(|lane| {
            let right = kept.and_then(|hosted| right_in(hosted, lane));
            right.map(|right| acked(&right.to_copy(), lane)).unwrap_or_default()
        });
        let live = self.live.as_ref().and_then(|live| live.host.queue(id));
        let open = live
            .filter(|hosted| hosted.queue.epoch() > Epoch(0))
            .map(|hosted| Opened { epoch: hosted.queue.epoch(), sealed: hosted.queue.sealed() });
        let rights = lanes.map(|lane| Some(right_in(live?, lane)?.epoch()));
        let (rights, acked) = (rights.collect(), acked.collect());
        View { open, log, is_whole: kept.is_some(), rights, acked }
    }
}

/// The right to a lane.
fn right_in(hosted: &Hosted, lane: u16) -> Option<&Right> {
    hosted.rights.values().find(|right| right.id().lanes.contains(lane))
}

/// What is acked of a lane.
fn acked(of: &CopiedRight, lane: u16) -> Vec<(Offset, Offset)> {
    let range = |range: &OffsetRange| (range.first, range.end);
    let mut all = vec![(Offset(0), of.floor)];
    all.extend(of.acked.iter().map(range));
    for layer in of.layers.iter().filter(|layer| layer.lanes.contains(lane)) {
        all.push((Offset(0), layer.floor));
        all.extend(layer.acked.iter().map(range));
    }
    all
}
