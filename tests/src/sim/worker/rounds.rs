//! What a simulated worker does with what its logic decided, and the rounds of its journal: an
//! imitation of the shard, in which nothing is answered before its write and everything in order.

use std::sync::Arc;

use ringway_proto::frame::Kind;
use ringway_proto::hash::lane_of_message;
use ringway_proto::{Code, Epoch, Offset, QueueId, Refusal, RightId, codec};
use ringway_worker::journal::{FrameHeader, Kind as FrameKind};
use ringway_worker::logic::{Action, Token, rounds};
use ringway_worker::records::ControlRecord;

use super::super::bugs::Bug;
use super::super::ctx::{Ctx, Timer};
use super::super::disk::control;
use super::super::history::What;
use super::super::net::End;
use super::{Pending, Then, Waiting, Worker, values};

impl Worker {
    /// Carries out what the logic decided, in order.
    pub(in super::super) fn act(&mut self, ctx: &mut Ctx, actions: Vec<Action>) {
        for action in actions {
            let Some(live) = &mut self.live else { return };
            match action {
                Action::Store { token, queue, at } => self.store(ctx, token, queue, at),
                Action::Write { queue, record } => self.write(ctx, queue, &record),
                Action::Repeat { token, at } => self.after_writes(ctx, Then::Repeat { token, at }),
                Action::Tell(event) => self.after_writes(ctx, Then::Tell(event)),
                Action::Confirm { stream, confirmed } => {
                    let then = Then::Confirm { stream, confirmed };
                    if ctx.bug == Some(Bug::UnsyncedConfirmed) {
                        self.follow(ctx, then);
                    } else {
                        self.after_writes(ctx, then);
                    }
                }
                Action::Refuse { token, refusal } => self.answer(ctx, token, Err(refusal)),
                Action::Opened { stream, opened } => {
                    let bytes = codec::encode(&opened).unwrap_or_default();
                    live.send(ctx, stream, Kind::RightOpened, bytes);
                    self.note_opened(ctx, stream);
                }
                Action::WindowSeen { stream, window } => {
                    live.send(ctx, stream, Kind::WindowSeen, window.encode());
                }
                Action::Close { stream, refusal } => live.end(ctx, stream, refusal),
                Action::Look(right) => live.look(right),
                Action::Retire(right) => live.set_timer(right),
                Action::Late { .. } => {}
                Action::Forget(queue) => drop(live.batches.remove(&queue)),
                Action::Fetch { queue, fetch, from, .. } => {
                    live.fetches.insert(queue, (fetch, from));
                }
                Action::StopFetch(queue) => drop(live.fetches.remove(&queue)),
            }
        }
    }

    fn store(&mut self, ctx: &mut Ctx, token: Token, queue: QueueId, at: Offset) {
        let wall = ctx.wall();
        let Some(live) = &mut self.live else { return };
        let Some(Waiting { header, batch, .. }) = live.waiting.get(&token) else { return };
        let body = batch.bytes().clone();
        let frame = FrameHeader {
            kind: FrameKind::Batch,
            queue,
            epoch: header.epoch,
            base_offset: at,
            count: header.count,
            session: header.session,
            producer: header.producer,
            sequence: header.base_sequence,
            appended_at: wall,
            body_len: body.len() as u32,
        };
        let (epoch, worker) = (header.epoch, self.id.clone());
        ctx.note(What::Accepted { queue, epoch, worker });
        let then = Then::Stored { token, queue, at };
        live.pending.push(Pending { record: Some((frame, body)), then });
        if ctx.bug == Some(Bug::UnsyncedAcked) {
            let answer = live.answer_to(token, Ok(at));
            if let Some(((conn, stream), payload)) = answer {
                ctx.send(conn, End::Acceptor, stream, Kind::Appended, payload);
            }
        }
    }

    fn write(&mut self, ctx: &mut Ctx, queue: QueueId, record: &ControlRecord) {
        match (ctx.bug, record) {
            (Some(Bug::RaiseNotJournaled), ControlRecord::Raised { .. })
            | (Some(Bug::SealNotJournaled), ControlRecord::Sealed { .. })
            | (Some(Bug::SplitNotJournaled), ControlRecord::Split { .. }) => return,
            (Some(Bug::MergeForgetsAcks), ControlRecord::Merged { parts, .. }) => {
                parts.iter().for_each(|part| self.forget_acks(part));
            }
            (Some(Bug::CursorReset), ControlRecord::Raised { right, .. }) => {
                self.forget_acks(right);
            }
            _ => {}
        }
        if let ControlRecord::Split { .. } | ControlRecord::Merged { .. } = record {
            ctx.tempt(self.pid, 3);
        }
        let Some(live) = &mut self.live else { return };
        let epoch = live.host.queue(queue).map_or(Epoch(0), |h| h.queue.epoch());
        let body = record.encode().unwrap_or_else(|e| panic!("a record: {e}"));
        let header = control(queue, epoch, ctx.wall(), &body);
        let then = match record {
            ControlRecord::Acked { right, floor, .. } => {
                Then::Cursor { right: *right, copy: epoch, floor: *floor }
            }
            ControlRecord::Split { right, into } => {
                let into = into.iter().map(|part| part.right).collect();
                Then::Laid { parts: vec![*right], into }
            }
            ControlRecord::Merged { parts, into } => {
                Then::Laid { parts: parts.clone(), into: vec![into.right] }
            }
            _ => Then::Nothing,
        };
        live.pending.push(Pending { record: Some((header, body)), then });
    }

    /// For the bug that resets cursors: what was acked of this right was never written.
    fn forget_acks(&mut self, right: &RightId) {
        let is_ack = |header: &FrameHeader, body: &[u8]| {
            header.kind == FrameKind::Control
                && matches!(ControlRecord::decode(body),
                    Ok(ControlRecord::Acked { right: of, .. }) if of == *right)
        };
        self.disk.frames.retain(|(header, body)| !is_ack(header, body));
        self.disk.sync();
    }

    /// Does `then` once everything that was written before is durable.
    pub(super) fn after_writes(&mut self, ctx: &mut Ctx, then: Then) {
        let Some(live) = &mut self.live else { return };
        if live.pending.is_empty() && live.under_way.is_none() {
            self.follow(ctx, then);
        } else {
            live.pending.push(Pending { record: None, then });
        }
    }

    pub(super) fn start_round(&mut self, ctx: &mut Ctx) {
        let Some(live) = &mut self.live else { return };
        if live.under_way.is_some() || live.retry_at.is_some_and(|at| ctx.clock.now() < at) {
            return;
        }
        live.retry_at = None;
        if live.host.has_unwritten() {
            let mut out = Vec::new();
            live.host.write_acks(&mut out);
            self.act(ctx, out);
        }
        let Some(live) = &mut self.live else { return };
        if live.pending.is_empty() {
            return;
        }
        let round = live.pending.next(Pending::part);
        if round.iter().all(|item| item.record.is_none()) {
            for item in round {
                self.follow(ctx, item.then);
            }
            return;
        }
        let kinds = round.iter().filter_map(|item| item.record.as_ref()).map(|(h, _)| h.kind);
        live.finds_no_room = !self.disk.has_room(ctx.clock.now(), kinds);
        if !live.finds_no_room {
            for (header, body) in round.iter().filter_map(|item| item.record.clone()) {
                self.disk.write(header, body);
            }
        }
        live.under_way = Some(round);
        ctx.tempt(self.pid, 1);
        let rare = ctx.dice.percent(5);
        let takes = ctx.dice.between(1, if rare { 60 } else { 6 });
        let at = ctx.clock.now() + takes;
        ctx.timer(self.pid, at, Timer::Synced);
    }

    pub(super) fn synced(&mut self, ctx: &mut Ctx) {
        self.disk.sync();
        let Some(live) = &mut self.live else { return };
        let round = live.under_way.take().unwrap_or_default();
        if live.finds_no_room {
            return self.disk_full(ctx, round);
        }
        for item in round {
            self.follow(ctx, item.then);
        }
    }

    fn disk_full(&mut self, ctx: &mut Ctx, round: Vec<Pending>) {
        let Some(live) = &mut self.live else { return };
        let (host, waiting) = (&live.host, &live.waiting);
        let is_durable = |token, at| {
            let queue = waiting.get(&token).and_then(|w: &Waiting| host.queue(w.header.queue));
            queue.is_some_and(|hosted| at < hosted.queue.durable())
        };
        for token in live.pending.put_back(round, Pending::part, is_durable) {
            self.answer(ctx, token, Err(rounds::refusal()));
        }
        let mut out = Vec::new();
        let Some(live) = &mut self.live else { return };
        if ctx.bug != Some(Bug::FullDiskForgotten) {
            live.host.roll_back(&mut out);
        }
        let at = ctx.clock.now() + rounds::RETRY.as_millis() as u64;
        live.retry_at = Some(at);
        ctx.timer(self.pid, at, Timer::Retry);
        self.act(ctx, out);
    }

    fn follow(&mut self, ctx: &mut Ctx, then: Then) {
        match then {
            Then::Nothing => {}
            Then::Laid { parts, into } => ctx.note(What::Laid { parts, into }),
            Then::Cursor { right, copy, floor } => ctx.note(What::Cursor { right, copy, floor }),
            Then::Stored { token, queue, at } => self.stored(ctx, token, queue, at),
            Then::Repeat { token, at } => self.answer(ctx, token, Ok(at)),
            Then::Tell(event) => self.tell(ctx, event),
            Then::Held { conn, held, copies } => self.register(ctx, conn, held, copies),
            Then::Copied { born, batch, body } => self.copied(ctx, born, &batch, body),
            Then::Confirm { stream, confirmed } => {
                if let Some(live) = &self.live {
                    live.send(ctx, stream, Kind::AckConfirmed, confirmed.encode());
                }
            }
        }
    }

    fn stored(&mut self, ctx: &mut Ctx, token: Token, queue: QueueId, at: Offset) {
        let wall = ctx.wall();
        let Some(live) = &mut self.live else { return };
        let Some(waiting) = live.waiting.get(&token) else { return };
        let (count, batch) = (waiting.header.count, Arc::clone(&waiting.batch));
        for (i, value) in values(&batch).into_iter().enumerate() {
            let offset = Offset(at.0 + i as u64);
            let lane = lane_of_message(batch.key(i), offset);
            ctx.note(What::Stored { queue, offset, value, lane });
        }
        live.batches.entry(queue).or_default().insert(at, batch);
        let end = Offset(at.0 + u64::from(count));
        let mut out = Vec::new();
        if !live.host.stored(queue, at, end, wall, &mut out) {
            live.batches.remove(&queue);
        }
        self.answer(ctx, token, Ok(at));
        self.act(ctx, out);
    }

    fn answer(&mut self, ctx: &mut Ctx, token: Token, outcome: Result<Offset, Refusal>) {
        let Some(live) = &mut self.live else { return };
        if let Err(Refusal { code: Code::DiskFull, .. }) = outcome
            && let Some(waiting) = live.waiting.get(&token)
        {
            ctx.note(What::NoRoom { queue: waiting.header.queue });
        }
        if let Some(((conn, stream), payload)) = live.answer_to(token, outcome) {
            ctx.send(conn, End::Acceptor, stream, Kind::Appended, payload);
        }
        live.waiting.remove(&token);
    }
}
