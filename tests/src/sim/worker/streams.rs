//! The delivery streams of a simulated worker, and whose turn it is: an imitation of the shard's
//! delivery and of the tasks of the streams. Every batch is found in memory.

use std::sync::Arc;

use bytes::Bytes;
use ringway_proto::batch::Batch;
use ringway_proto::data::{AppendAnswer, Deliver};
use ringway_proto::frame::Kind;
use ringway_proto::{Offset, Refusal, RightId, codec};
use ringway_worker::logic::{Selection, StreamId, Token};

use super::super::bugs::Bug;
use super::super::ctx::Ctx;
use super::super::history::What;
use super::super::net::{ConnId, End, StreamNo, joined};
use super::{Live, Waiting};

impl Live {
    pub(super) fn send(&self, ctx: &mut Ctx, stream: StreamId, kind: Kind, payload: Bytes) {
        if let Some((conn, no)) = self.streams.get(&stream) {
            ctx.send(*conn, End::Acceptor, *no, kind, payload);
        }
    }

    pub(super) fn end(&mut self, ctx: &mut Ctx, stream: StreamId, refusal: Option<Refusal>) {
        let Some(at) = self.streams.remove(&stream) else { return };
        if let Some(refusal) = refusal {
            let bytes = codec::encode(&refusal).unwrap_or_default();
            ctx.send(at.0, End::Acceptor, at.1, Kind::Refused, bytes);
        }
        ctx.finish(at.0, End::Acceptor, at.1);
        if let Some(reader) = self.readers.get_mut(&at) {
            reader.ended = true;
        }
    }

    pub(super) fn answer_to(
        &self,
        token: Token,
        outcome: Result<Offset, Refusal>,
    ) -> Option<((ConnId, StreamNo), Bytes)> {
        let Waiting { header, to, .. } = self.waiting.get(&token)?;
        let answer = AppendAnswer {
            queue: header.queue,
            session: header.session,
            base_sequence: header.base_sequence,
            outcome,
            routing: self.host.routing(),
        };
        Some((*to, answer.encode()))
    }

    pub(super) fn look(&mut self, right: RightId) {
        if !self.turns.contains(&right) {
            self.turns.push_back(right);
        }
        self.set_timer(right);
    }

    pub(super) fn set_timer(&mut self, right: RightId) {
        match self.host.right(&right).and_then(|r| r.next_wakeup()) {
            Some(at) => drop(self.timers.insert(right, at)),
            None => drop(self.timers.remove(&right)),
        }
    }

    pub(super) fn serve(&mut self, ctx: &mut Ctx, right: RightId) {
        let Some(at) = self.host.wants(&right) else { return };
        let found = self.batches.get(&right.queue).and_then(|b| b.range(..=at).next_back());
        let Some((base, batch)) = found.map(|(base, batch)| (*base, Arc::clone(batch))) else {
            panic!("offset {at} of queue {} is not where it should be", right.queue);
        };
        if let Some(selection) = self.host.select(&right, base, &batch) {
            self.deliver(ctx, right, base, &batch, selection);
        }
        if self.host.wants(&right).is_some_and(|next| next != at) {
            self.turns.push_back(right);
        }
    }

    fn deliver(
        &self,
        ctx: &mut Ctx,
        right: RightId,
        base: Offset,
        batch: &Batch,
        selection: Selection,
    ) {
        let Selection { stream, open, entries, runs } = selection;
        if ctx.bug == Some(Bug::DeliveryLost) && ctx.dice.percent(2) {
            return;
        }
        for entry in &entries {
            ctx.note(What::Sent { right, offset: Offset(base.0 + u64::from(entry.index)) });
        }
        let deliver = Deliver {
            open,
            base_offset: base,
            published_at: batch.published_at(),
            classes: batch.classes().len() as u16,
            entries,
            class_table: batch.class_table(),
            records: runs.into_iter().map(|(from, to)| batch.records(from, to)).collect(),
        };
        let mut parts = vec![deliver.header()];
        parts.extend(deliver.records);
        self.send(ctx, stream, Kind::Deliver, joined(&parts));
    }
}
