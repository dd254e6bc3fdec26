//! How a worker of the model copies a queue that is moved to it: what it asks its original, what
//! that answers, and what becomes of the answer. The rest of a move are orders like any other.

use bytes::Bytes;
use ringway_proto::QueueId;
use ringway_proto::control::{CopyFrom, CopySealed, CopyState};
use ringway_worker::logic::Action;
use ringway_worker::logic::hosted::CopyNext;
use ringway_worker::logic::queue::StoredBatch;
use ringway_worker::logic::step::Step;

use super::super::super::bugs::Bug;
use super::super::Cast;
use super::writes::{Pending, Then, Write};
use super::{NOW, Worker};

/// What an original answers its copy.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    /// How far it is.
    State(CopyState),
    /// The next batch.
    Batch(CopyState, StoredBatch, Bytes),
    /// Everything else.
    Sealed(Box<CopySealed>),
}

impl Worker {
    /// What its copies ask for, and whom.
    #[must_use]
    pub fn asks(&self) -> Vec<(u8, u64, String, CopyFrom)> {
        let Some(live) = self.live.as_ref().filter(|live| live.pending.is_empty()) else {
            return Vec::new();
        };
        let mut host = None;
        let ask = |(id, (fetch, from)): (&QueueId, &(u64, String))| {
            let host = host.get_or_insert_with(|| live.host.clone());
            let asked = host.fetch_from(*id, *fetch)?;
            Some((id.index as u8, *fetch, from.clone(), asked))
        };
        live.fetches.iter().filter_map(ask).collect()
    }

    /// What is sent next of a queue that it leads, if there is anything.
    #[must_use]
    pub fn answer(&self, cast: &Cast, asked: &CopyFrom) -> Option<Answer> {
        let live = self.live.as_ref()?;
        let log = self.disk.logs.get(&asked.queue);
        let state = live.host.queue(asked.queue)?.copy_state(log.map_or(0, |log| log.len() as u64));
        let next = match live.host.copy_next(asked) {
            CopyNext::Wait if cast.bug == Some(Bug::UnsyncedCopied) => {
                let unsynced = live.pending.iter().find_map(|pending| match &pending.record {
                    Some(Write::Batch(batch, body)) if batch.at == asked.from => {
                        Some(Answer::Batch(state, *batch, body.clone()))
                    }
                    _ => None,
                });
                return unsynced.or(Some(Answer::State(state)));
            }
            CopyNext::Wait if cast.bug == Some(Bug::OpenedBeforeSeal) => {
                // A twin is sealed in its place.
                let (mut twin, epoch) =
                    (live.host.clone(), live.host.queue(asked.queue)?.queue.epoch());
                let seal = Step::Seal { epoch, attempt: asked.attempt, only_if_empty: false };
                twin.step(NOW, asked.queue, seal, &mut Vec::new());
                twin.copy_next(asked)
            }
            next => next,
        };
        match next {
            CopyNext::Wait => Some(Answer::State(state)),
            CopyNext::Batches { .. } => {
                let (batch, body) = log?.get(&asked.from)?;
                Some(Answer::Batch(state, *batch, body.clone()))
            }
            // A seal counts only when it is on disk.
            CopyNext::Sealed(snapshot) => {
                live.pending.is_empty().then_some(Answer::Sealed(snapshot))
            }
            CopyNext::Over(_) => None,
        }
    }

    pub(super) fn copied(
        &mut self,
        id: QueueId,
        fetch: u64,
        answer: &Answer,
        actions: &mut Vec<Action>,
    ) {
        let Some(live) = &mut self.live else { return };
        match answer {
            Answer::State(state) => live.host.copy_heard(NOW, id, fetch, *state, actions),
            Answer::Batch(state, batch, body) => {
                live.host.copy_heard(NOW, id, fetch, *state, actions);
                if let Ok(Some(born)) = live.host.copy_batch(fetch, batch, actions) {
                    let then = Then::Copied { born, batch: *batch, body: body.clone() };
                    let record = Some(Write::Batch(*batch, body.clone()));
                    live.pending.push(Pending { record, then });
                }
            }
            Answer::Sealed(snapshot) => {
                // One that does not fit is asked for again.
                live.host.copy_sealed(id, fetch, CopySealed::clone(snapshot), actions).ok();
            }
        }
    }
}
