//! How queues are copied between workers in the simulation: an imitation of the streams between
//! them. A copy asks when nothing of it is on its way to the disk and is answered with one frame
//! in its shipped encoding, as long as both run and hear each other.

use std::sync::Arc;

use ringway_proto::batch::Batch;
use ringway_proto::control::{CopyFrom, CopySealed, CopyState};
use ringway_proto::data::CopyBatch;
use ringway_proto::{Offset, QueueId, codec};
use ringway_worker::journal::{FrameHeader, Kind as FrameKind};
use ringway_worker::logic::hosted::CopyNext;
use ringway_worker::logic::queue::StoredBatch;

use super::bugs::Bug;
use super::ctx::Ctx;
use super::worker::{Pending, Then, Worker, parsed};
use super::world::{Process, World};

/// What an original answers.
enum Answer {
    State(CopyState),
    Batch(CopyState, CopyBatch),
    Sealed(CopySealed),
}

impl World {
    /// Every copy that asks is answered, if its original can be reached.
    pub(super) fn copy_queues(&mut self) {
        for target in 0..self.processes.len() {
            let Process::Worker(worker) = &mut self.processes[target] else { continue };
            for (queue, fetch, from, asked) in worker.asks(&mut self.ctx) {
                let is_source = |process: &Process| match process {
                    Process::Worker(worker) => from == format!("{}:7400", worker.id),
                    _ => false,
                };
                let Some(source) = self.processes.iter().position(is_source) else { continue };
                let now = self.ctx.clock.now();
                let deaf = |a, b| self.ctx.net.silent_until(now, a, b).is_some();
                let paused = [source, target].iter().any(|pid| self.ctx.is_paused(*pid));
                if paused || deaf(source, target) || deaf(target, source) {
                    continue;
                }
                let Process::Worker(original) = &self.processes[source] else { continue };
                let Some(answer) = original.copy_answer(&asked, self.ctx.bug) else { continue };
                if matches!(answer, Answer::Batch(..)) && original.is_writing() {
                    // What is not on disk yet may be lost, and something else take its offset.
                    self.ctx.tempt(source, 30);
                }
                if let Process::Worker(worker) = &mut self.processes[target] {
                    worker.fetched(&mut self.ctx, queue, fetch, answer);
                }
            }
        }
    }
}

impl Worker {
    /// What its copies ask for, and whom.
    fn asks(&mut self, ctx: &mut Ctx) -> Vec<(QueueId, u64, String, CopyFrom)> {
        let time = ctx.local(self.pid);
        let Some(live) = &mut self.live else { return Vec::new() };
        if live.fetches.is_empty() || !live.pending.is_empty() || live.under_way.is_some() {
            return Vec::new();
        }
        let mut out = Vec::new();
        live.host.wake_copies(time, &mut out);
        let mut asks = Vec::new();
        for (queue, (fetch, from)) in &live.fetches {
            let asked = live.host.fetch_from(*queue, *fetch);
            asks.extend(asked.map(|asked| (*queue, *fetch, from.clone(), asked)));
        }
        self.act(ctx, out);
        asks
    }

    /// Whether a round of its journal is under way.
    fn is_writing(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.under_way.is_some())
    }

    /// What is sent next of a queue that it leads, if there is anything.
    fn copy_answer(&self, asked: &CopyFrom, bug: Option<Bug>) -> Option<Answer> {
        let live = self.live.as_ref()?;
        let durable = match bug {
            Some(Bug::UnsyncedCopied) => &self.disk.frames,
            _ => self.disk.durable(),
        };
        let of_queue = |(header, _): &&(FrameHeader, bytes::Bytes)| {
            header.kind == FrameKind::Batch && header.queue == asked.queue
        };
        let total_bytes = durable.iter().filter(of_queue).map(|(_, body)| body.len() as u64).sum();
        let state = live.host.queue(asked.queue)?.copy_state(total_bytes);
        let next = || {
            let mut frames = durable.iter().rev().filter(of_queue);
            let (header, body) = frames.find(|(header, _)| header.base_offset == asked.from)?;
            Some(CopyBatch {
                epoch: header.epoch,
                base_offset: header.base_offset,
                producer: header.producer,
                session: header.session,
                base_sequence: header.sequence,
                count: header.count,
                appended_at: header.appended_at,
                batch: body.clone(),
            })
        };
        match live.host.copy_next(asked) {
            CopyNext::Wait if bug == Some(Bug::UnsyncedCopied) => {
                Some(next().map_or(Answer::State(state), |batch| Answer::Batch(state, batch)))
            }
            CopyNext::Wait => Some(Answer::State(state)),
            CopyNext::Batches { .. } => next().map(|batch| Answer::Batch(state, batch)),
            // A seal counts only when it is on disk.
            CopyNext::Sealed(snapshot) => (live.pending.is_empty() && live.under_way.is_none())
                .then_some(Answer::Sealed(*snapshot)),
            CopyNext::Over(_) => None,
        }
    }

    fn fetched(&mut self, ctx: &mut Ctx, queue: QueueId, fetch: u64, answer: Answer) {
        let time = ctx.local(self.pid);
        let Some(live) = &mut self.live else { return };
        let mut out = Vec::new();
        match answer {
            Answer::State(state) => live.host.copy_heard(time, queue, fetch, state, &mut out),
            Answer::Batch(state, batch) => {
                live.host.copy_heard(time, queue, fetch, state, &mut out);
                let frame = [&batch.header()[..], &batch.batch[..]].concat();
                let batch = CopyBatch::decode(frame.into())
                    .unwrap_or_else(|e| panic!("a batch of a copy: {e}"));
                let stored = StoredBatch {
                    queue,
                    at: batch.base_offset,
                    count: batch.count,
                    producer: batch.producer,
                    session: batch.session,
                    base_sequence: batch.base_sequence,
                    appended_at: batch.appended_at,
                    bytes: batch.batch.len() as u32,
                };
                if let Ok(Some(born)) = live.host.copy_batch(fetch, &stored, &mut out) {
                    let header = FrameHeader {
                        kind: FrameKind::Batch,
                        queue,
                        epoch: batch.epoch,
                        base_offset: batch.base_offset,
                        count: batch.count,
                        session: batch.session,
                        producer: batch.producer,
                        sequence: batch.base_sequence,
                        appended_at: batch.appended_at,
                        body_len: batch.batch.len() as u32,
                    };
                    let body = parsed(batch.batch.clone());
                    let then = Then::Copied { born, batch: stored, body };
                    live.pending.push(Pending { record: Some((header, batch.batch)), then });
                }
            }
            Answer::Sealed(snapshot) => {
                let bytes = codec::encode(&snapshot).unwrap_or_default();
                let snapshot = codec::decode(&bytes).unwrap_or_else(|e| panic!("a seal: {e}"));
                // One that does not fit is asked for again.
                live.host.copy_sealed(queue, fetch, snapshot, &mut out).ok();
            }
        }
        self.act(ctx, out);
        self.turn(ctx);
    }

    /// A batch of a copy is on disk.
    pub(super) fn copied(
        &mut self,
        ctx: &mut Ctx,
        born: u64,
        batch: &StoredBatch,
        body: Arc<Batch>,
    ) {
        let time = ctx.local(self.pid);
        let Some(live) = &mut self.live else { return };
        let mut out = Vec::new();
        if live.host.copy_stored(time, born, batch, &mut out) {
            live.batches.entry(batch.queue).or_default().insert(Offset(batch.at.0), body);
        }
        self.act(ctx, out);
    }
}
