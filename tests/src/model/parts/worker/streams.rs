//! The delivery streams of a worker of the model: what members say on them and what is sent. Who
//! may read what is the host's decision.

use bytes::Bytes;
use ringway_proto::batch::Batch;
use ringway_proto::control::OpenRight;
use ringway_proto::data::{Deliver, OffsetRange, Ranges, Window, decode_lanes};
use ringway_proto::frame::Kind;
use ringway_proto::{Epoch, Incarnation, Offset, QueueId, Refusal, RightId, codec};
use ringway_worker::logic::delivery::Frame;
use ringway_worker::logic::{Action, Selection, StreamId};

use super::super::super::bugs::Bug;
use super::super::{Cast, Event, Link, Message, Out, Share, Stream};
use super::{Live, NOW, Worker, copy_of, decoded};

#[derive(Clone, Debug)]
pub(super) struct Reader {
    /// As it was opened.
    right: RightId,
    pub(super) epoch: Epoch,
    pub(super) process: u8,
    /// The worker has ended it.
    pub(super) ended: bool,
}

impl Worker {
    pub(super) fn streamed(
        &mut self,
        cast: &Cast,
        stream: Stream,
        message: &Message,
        actions: &mut Vec<Action>,
        out: &mut Out,
    ) {
        let Some(live) = &mut self.live else { return };
        let id = number(stream);
        match message {
            Message::Frame(Kind::OpenRight, payload) => {
                let mut request: OpenRight = decoded(codec::decode(payload));
                if cast.bug == Some(Bug::SameIncarnation) {
                    request.holder.incarnation = Incarnation(1);
                }
                let (epoch, process) = (request.epoch, stream.process);
                let of = request.right;
                live.readers.insert(stream, Reader { right: of, epoch, process, ended: false });
                match live.host.open_right(NOW, id, &request, actions) {
                    Ok(()) => {
                        let copy = copy_of(&live.host, of.queue);
                        let opened = cast.shares(of.queue, of.lanes).map(|share| (share, false));
                        let acked = shares_at(cast, of.queue, &request.acks);
                        let acted = opened.chain(acked.map(|share| (share, true)));
                        out.events.extend(acted.map(|(share, acked)| Event::Acted {
                            share,
                            epoch,
                            copy,
                            process,
                            acked,
                        }));
                    }
                    Err(refusal) => {
                        actions.push(Action::Close { stream: id, refusal: Some(refusal) });
                    }
                }
            }
            Message::Frame(kind, payload) => {
                // Also what comes behind the end: it may have been read before it.
                let Some(reader) = live.readers.get(&stream).cloned() else { return };
                let frame = frame(*kind, payload);
                let (of, mut epoch) = (reader.right, reader.epoch);
                if cast.bug == Some(Bug::EpochIgnored)
                    && let Some(right) = live.host.right(&of)
                {
                    epoch = right.epoch();
                }
                let tally = live.host.frame(NOW, id, of, epoch, &frame, actions);
                let hosted = live.host.queue(of.queue);
                let applied = !tally.fenced && hosted.is_some_and(|hosted| !hosted.is_frozen());
                if let (Frame::Ack(acks), true) = (&frame, applied) {
                    let copy = copy_of(&live.host, of.queue);
                    let (process, epoch) = (reader.process, reader.epoch);
                    let acked = shares_at(cast, of.queue, &acks.ranges);
                    out.events.extend(acked.map(|share| Event::Acted {
                        share,
                        epoch,
                        copy,
                        process,
                        acked: true,
                    }));
                }
            }
            _ => {
                if let Some(reader) = live.readers.remove(&stream) {
                    live.host.closed(id, reader.right);
                }
            }
        }
    }
}

impl Live {
    pub(super) fn send(&self, stream: StreamId, kind: Kind, payload: Bytes, out: &mut Out) {
        let known = self.readers.iter().find(|(at, _)| number(**at) == stream);
        if let Some((stream, _)) = known.filter(|(_, reader)| !reader.ended) {
            out.sends.push((Link::Down(*stream), Message::Frame(kind, payload)));
        }
    }

    pub(super) fn end(&mut self, stream: StreamId, refusal: Option<&Refusal>, out: &mut Out) {
        let known = self.readers.iter_mut().find(|(at, _)| number(**at) == stream);
        let Some((at, reader)) = known.filter(|(_, reader)| !reader.ended) else { return };
        reader.ended = true;
        if let Some(refusal) = refusal {
            let bytes = codec::encode(refusal).unwrap_or_default();
            out.sends.push((Link::Down(*at), Message::Frame(Kind::Refused, bytes)));
        }
        out.sends.push((Link::Down(*at), Message::Closed));
    }

    pub(super) fn serve(&mut self, right: RightId, out: &mut Out) {
        while let Some(at) = self.host.wants(&right) {
            let found = self.batches.get(&right.queue).and_then(|b| b.range(..=at).next_back());
            let Some((base, bytes)) = found.map(|(base, bytes)| (*base, bytes.clone())) else {
                panic!("offset {at} of queue {} is not where it should be", right.queue);
            };
            let batch = parsed(bytes);
            if let Some(selection) = self.host.select(&right, base, &batch) {
                self.deliver(base, &batch, selection, out);
            }
            if self.host.wants(&right) == Some(at) {
                return;
            }
        }
    }

    fn deliver(&self, base: Offset, batch: &Batch, selection: Selection, out: &mut Out) {
        let Selection { stream, open, entries, runs } = selection;
        let deliver = Deliver {
            open,
            base_offset: base,
            published_at: batch.published_at(),
            classes: batch.classes().len() as u16,
            entries,
            class_table: batch.class_table(),
            records: runs.into_iter().map(|(from, to)| batch.records(from, to)).collect(),
        };
        let mut bytes = deliver.header().to_vec();
        deliver.records.iter().for_each(|records| bytes.extend_from_slice(records));
        self.send(stream, Kind::Deliver, bytes.into(), out);
    }
}

fn number(stream: Stream) -> StreamId {
    let Stream { process, worker, queue, lane: _, open } = stream;
    let parts = [process, worker, queue].into_iter();
    parts.fold(u64::from(open), |n, part| n << 8 | u64::from(part))
}

/// Whose messages these are.
fn shares_at<'a>(
    cast: &'a Cast,
    queue: QueueId,
    ranges: &'a [OffsetRange],
) -> impl Iterator<Item = Share> + 'a {
    let offsets = ranges.iter().copied().flat_map(OffsetRange::offsets);
    offsets.map(move |at| cast.share_at(queue, at))
}

fn frame(kind: Kind, payload: &Bytes) -> Frame {
    let payload = payload.clone();
    match kind {
        Kind::Ack => Frame::Ack(decoded(Ranges::decode(payload))),
        Kind::HandedOut => Frame::HandedOut(decoded(Ranges::decode(payload))),
        Kind::Return => Frame::Return(decoded(Ranges::decode(payload))),
        Kind::Nack => Frame::Nack(decoded(Ranges::decode(payload))),
        Kind::Narrow => Frame::Narrow(decoded(decode_lanes(payload))),
        Kind::Window => Frame::Window(decoded(Window::decode(payload))),
        other => panic!("a frame of kind {other:?}"),
    }
}

fn parsed(bytes: Bytes) -> Batch {
    decoded(Batch::parse(bytes))
}
