//! Moves of queues as they go on: whose turn it is to be copied, when a queue is sealed for its
//! copy, the swap, and giving up. Everything is driven from the stored step of each move and said
//! again until it is answered. It does not know why a queue moves.

use std::collections::BTreeMap;

use ringway_proto::admin::MovingInfo;
use ringway_proto::control::{CopyQueue, ToWorker};
use ringway_proto::{Attempt, Epoch, Offset, QueueId, Time, Uuid, WorkerId};

use super::super::placement::{Copied, Moved, Queue};
use super::super::rows::{GraveRow, Key, MoveReason, MoveStep};
use super::{Effects, Event, Machine};

/// Queues that are copied from one worker, or to one, at once.
const COPIES_PER_WORKER: u32 = 4;
/// Queues with messages that are sealed at once in the whole cluster: publishes to them wait.
const SEALED_AT_ONCE: u32 = 4;

/// A copy that has to go because its attempt was given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Drop {
    uuid: Uuid,
    attempt: Attempt,
}

/// How many moves are at work.
#[derive(Default)]
struct Load<'a> {
    from: BTreeMap<&'a WorkerId, u32>,
    to: BTreeMap<&'a WorkerId, u32>,
    sealed: u32,
}

impl Machine {
    /// Gives moves their turns: begins copies, and seals what is close, within the limits.
    pub(super) fn drive_moves(&mut self, now: Time, out: &mut Effects) {
        if !std::mem::take(&mut self.moves_due) {
            return;
        }
        for (id, step) in self.turns() {
            let Some(queue) = self.queues.get_mut(&id) else { continue };
            queue.set_step(now, step);
            self.dirty.insert(Key::Queue(id));
            match step {
                MoveStep::Copying => self.tell_copy(now, id, out),
                _ => self.tell_seal(now, id, out),
            }
        }
        self.stalled_since = self.queues.values().filter_map(Queue::stalled_since).min();
        self.sealing_since = self.queues.values().filter_map(|queue| queue.sealing_since).min();
        self.declined_at = self.queues.values().filter_map(|queue| queue.declined_at).min();
    }

    /// The steps that can be taken now.
    fn turns(&self) -> Vec<(QueueId, MoveStep)> {
        let mut load = Load::default();
        for queue in self.queues.values().filter(|queue| queue.row().moving.is_some()) {
            let row = queue.row();
            if let (Some(moving), Some(from)) = (&row.moving, &row.primary)
                && moving.has_copy()
            {
                *load.from.entry(from).or_default() += 1;
                *load.to.entry(&moving.to).or_default() += 1;
                load.sealed += u32::from(moving.step == MoveStep::Sealing);
            }
        }
        let mut turns = Vec::new();
        for (id, queue) in &self.queues {
            let row = queue.row();
            let (Some(moving), Some(from)) = (&row.moving, &row.primary) else { continue };
            match moving.step {
                MoveStep::Waiting if self.can_copy(*id, from, &moving.to) => {
                    let from = load.from.entry(from).or_default();
                    let to = load.to.entry(&moving.to).or_default();
                    if (*from).max(*to) < COPIES_PER_WORKER {
                        *from += 1;
                        *to += 1;
                        turns.push((*id, MoveStep::Copying));
                    }
                }
                MoveStep::Copying
                    if load.sealed < SEALED_AT_ONCE
                        && self.is_connected(from)
                        && queue.declined_at.is_none()
                        && queue.copy.is_some_and(|copy| copy.is_close()) =>
                {
                    load.sealed += 1;
                    turns.push((*id, MoveStep::Sealing));
                }
                _ => {}
            }
        }
        turns
    }

    /// Both are there, and the target has removed what it had of the queue under an older epoch.
    fn can_copy(&self, id: QueueId, from: &WorkerId, to: &WorkerId) -> bool {
        let is_up = |worker| self.workers.get(worker).is_some_and(|row| row.up);
        is_up(from) && is_up(to) && !self.graves.contains_key(&(to.clone(), id))
    }

    /// Tells the target of a move to copy the queue.
    pub(super) fn tell_copy(&mut self, now: Time, id: QueueId, out: &mut Effects) {
        let Some(row) = self.queues.get(&id).map(Queue::row) else { return };
        let (Some(moving), Some(from)) = (&row.moving, &row.primary) else { return };
        let Some(source) = self.workers.get(from).filter(|_| moving.has_copy()) else { return };
        let copy = CopyQueue {
            queue: id,
            name: self.catalog.queue_name(id),
            uuid: row.uuid,
            epoch: row.epoch,
            attempt: moving.attempt,
            from: source.address.clone(),
        };
        let to = moving.to.clone();
        self.tell_worker(&to, ToWorker::CopyQueue(copy), out);
        self.expect_answer(now);
    }

    /// Tells the primary to seal a queue that moves, if its step says so.
    pub(super) fn tell_seal(&mut self, now: Time, id: QueueId, out: &mut Effects) {
        if let Some((worker, message)) = self.seal_of(id) {
            self.tell_worker(&worker, message, out);
            self.expect_answer(now);
        }
    }

    /// The seal that a primary has to be told of and has not answered.
    pub(super) fn seal_of(&self, id: QueueId) -> Option<(WorkerId, ToWorker)> {
        let queue = self.queues.get(&id).filter(|queue| !queue.is_sealed())?;
        let row = queue.row();
        let (moving, worker) = (row.moving.as_ref()?, row.primary.clone()?);
        let only_if_empty = match moving.step {
            MoveStep::Empty => true,
            MoveStep::Sealing => false,
            MoveStep::Waiting | MoveStep::Copying => return None,
        };
        let (epoch, attempt) = (row.epoch, moving.attempt);
        Some((worker, ToWorker::SealQueue { queue: id, epoch, attempt, only_if_empty }))
    }

    /// Says what this worker has not answered about copies: those to drop, those to make, and,
    /// to others, that it can be copied from (again), perhaps at another address.
    pub(super) fn repeat_copies_to(
        &mut self,
        now: Time,
        worker: &WorkerId,
        is_new: bool,
        out: &mut Effects,
    ) {
        let from = (worker.clone(), QueueId::from(0));
        let drops: Vec<(QueueId, Drop)> = self
            .drops
            .range(from..)
            .take_while(|((at, _), _)| at == worker)
            .map(|((_, queue), drop)| (*queue, *drop))
            .collect();
        for (queue, Drop { uuid, attempt }) in drops {
            self.tell_worker(worker, ToWorker::DropCopy { queue, uuid, attempt }, out);
            self.expect_answer(now);
        }
        let to_say = |queue: &&Queue| {
            queue.is_moving_to(worker) && (is_new || queue.copy.is_none())
                || is_new && queue.is_led_by(worker)
        };
        let copies: Vec<QueueId> =
            self.queues.values().filter(to_say).map(|queue| queue.row().id).collect();
        for id in copies {
            self.tell_copy(now, id, out);
        }
    }

    /// Gives a move up, if there is one. The raised attempt is stored before the unseal and the
    /// removal of the copy are sent.
    pub(super) fn give_up_move(&mut self, now: Time, id: QueueId, out: &mut Effects) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let Some(moving) = queue.give_up() else { return };
        let (attempt, uuid) = (queue.lift(), queue.row().uuid);
        self.dirty.insert(Key::Queue(id));
        self.uncount_move();
        self.moves_due = true;
        if let Some(worker) = self.primary(id) {
            self.tell_worker(&worker, ToWorker::Unseal { queue: id, attempt }, out);
        }
        if moving.has_copy() {
            self.drop_copy(now, &moving.to, id, uuid, attempt, out);
        }
    }

    /// Tells a worker to remove its copy, until it says that it did. One that is away says at its
    /// registration what it still has.
    pub(super) fn drop_copy(
        &mut self,
        now: Time,
        worker: &WorkerId,
        queue: QueueId,
        uuid: Uuid,
        attempt: Attempt,
        out: &mut Effects,
    ) {
        if self.is_connected(worker) {
            self.drops.insert((worker.clone(), queue), Drop { uuid, attempt });
            self.tell_worker(worker, ToWorker::DropCopy { queue, uuid, attempt }, out);
            self.expect_answer(now);
        }
    }

    pub(super) fn note_dropped(&mut self, worker: &WorkerId, queue: QueueId, attempt: Attempt) {
        let key = (worker.clone(), queue);
        if self.drops.get(&key).is_some_and(|drop| drop.attempt <= attempt) {
            self.drops.remove(&key);
        }
    }

    /// The target says how far its copy is.
    pub(super) fn note_copied(
        &mut self,
        worker: &WorkerId,
        id: QueueId,
        attempt: Attempt,
        said: Copied,
    ) {
        let Some(queue) = self.queues.get_mut(&id).filter(|q| q.is_moving_to(worker)) else {
            return;
        };
        if queue.row().moving.as_ref().is_none_or(|m| m.attempt != attempt || !m.has_copy()) {
            return;
        }
        self.moves_due |= said.is_close();
        queue.note_copied(said);
    }

    pub(super) fn note_sealed(
        &mut self,
        now: Time,
        worker: &WorkerId,
        id: QueueId,
        attempt: Attempt,
        end: Offset,
        out: &mut Effects,
    ) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let before = queue.row().clone();
        let moved = queue.sealed(now, worker, attempt, end);
        if *queue.row() != before {
            self.dirty.insert(Key::Queue(id));
            self.moves_due = true;
        }
        if moved == Moved::Sealed && self.queues.get(&id).is_some_and(|q| q.copy.is_none()) {
            self.tell_copy(now, id, out);
        }
        self.note_moved(now, id, Some(worker), moved, out);
    }

    /// The primary does not seal the queue: it has messages after all, or more is known of it than
    /// a snapshot holds. In the second case the copy stays and goes on.
    pub(super) fn note_declined(
        &mut self,
        now: Time,
        worker: &WorkerId,
        id: QueueId,
        attempt: Attempt,
    ) {
        self.note_data(now, worker, id);
        if self.queues.get_mut(&id).is_some_and(|queue| queue.declined(now, worker, attempt)) {
            self.dirty.insert(Key::Queue(id));
            self.moves_due = true;
        }
    }

    /// The target says that its copy is whole.
    pub(super) fn note_synced(
        &mut self,
        now: Time,
        worker: &WorkerId,
        id: QueueId,
        attempt: Attempt,
        end: Offset,
        out: &mut Effects,
    ) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let moved = queue.synced(worker, attempt, end);
        self.note_moved(now, id, None, moved, out);
    }

    fn note_moved(
        &mut self,
        now: Time,
        id: QueueId,
        sealed_at: Option<&WorkerId>,
        moved: Moved,
        out: &mut Effects,
    ) {
        match moved {
            Moved::Ignored | Moved::Sealed => {}
            Moved::Lift(attempt) => {
                if let Some(worker) = sealed_at {
                    self.tell_worker(worker, ToWorker::Unseal { queue: id, attempt }, out);
                }
            }
            Moved::Broken => {
                self.give_up_move(now, id, out);
                self.queues_due(now, false);
            }
            Moved::Swapped { from, reason, since } => {
                out.events.push(Event::QueueMoved(reason));
                out.events.extend(since.map(|since| Event::QueueMoveTook(now.since(since))));
                self.swapped(now, id, from, out);
            }
        }
    }

    /// The queue has a new primary: it opens, and what the old one has of it goes.
    fn swapped(&mut self, now: Time, id: QueueId, from: WorkerId, out: &mut Effects) {
        let Some(row) = self.queues.get(&id).map(Queue::row) else { return };
        let (uuid, epoch) = (row.uuid, row.epoch);
        let to = row.primary.clone();
        self.dirty.insert(Key::Queue(id));
        self.routing_changed = true;
        self.moves_due = true;
        self.meta.moves += 1;
        self.dirty.insert(Key::Meta);
        if let Some(to) = to {
            // It may still have a tombstone or a removal to answer; this open is above both.
            self.graves.remove(&(to.clone(), id));
            self.drops.remove(&(to.clone(), id));
            self.dirty.insert(Key::Grave(to, id));
        }
        self.restart_subscriptions(id);
        self.tell_queue(now, id, out);
        self.tell_worker(&from, ToWorker::Tombstone { queue: id, uuid, epoch }, out);
        self.bury(GraveRow { worker: from, queue: id, uuid, epoch });
        self.expect_answer(now);
    }

    /// The queue is open at its primary.
    pub(super) fn note_opened(
        &mut self,
        worker: &WorkerId,
        id: QueueId,
        epoch: Epoch,
        out: &mut Effects,
    ) {
        if let Some(queue) = self.queues.get_mut(&id)
            && queue.is_led_by(worker)
            && queue.row().epoch == epoch
        {
            queue.opened = true;
            queue.came_from = None;
            self.tell_fences(id, out);
        }
    }

    /// A worker's session lapsed. What needs it at once is given up, so that nobody waits for it;
    /// copies wait for a while, since they go on where they were.
    pub(super) fn lapse_moves(&mut self, now: Time, worker: &WorkerId, out: &mut Effects) {
        self.drops.retain(|(at, _), _| at != worker);
        self.down_since.insert(worker.clone(), now);
        let is_stuck = |queue: &&Queue| match queue.step() {
            Some(MoveStep::Empty) => queue.is_moving_to(worker) || queue.is_led_by(worker),
            Some(MoveStep::Sealing) => queue.is_moving_to(worker),
            _ => false,
        };
        self.give_up_where(now, is_stuck, out);
    }

    /// A worker is not to be emptied any more: what was on its way from it for that, and is not to
    /// be sealed yet, stays where it is.
    pub(super) fn call_back(&mut self, now: Time, worker: &WorkerId, out: &mut Effects) {
        let stays = |queue: &&Queue| {
            let moving = queue.row().moving.as_ref();
            let may = matches!(queue.step(), Some(MoveStep::Waiting | MoveStep::Copying));
            may && queue.is_led_by(worker) && moving.is_some_and(|m| m.label == MoveReason::Left)
        };
        self.give_up_where(now, stays, out);
    }

    /// Gives up what waited for a worker, for a copy to grow, or with a sealed queue, long
    /// enough.
    pub(super) fn expire_moves(&mut self, now: Time, out: &mut Effects) {
        let patience = self.setup.timing.move_patience;
        let gone: Vec<WorkerId> = self
            .down_since
            .iter()
            .filter(|(_, since)| **since + patience <= now)
            .map(|(worker, _)| worker.clone())
            .collect();
        for worker in &gone {
            self.down_since.remove(worker);
        }
        let patience = self.setup.timing.seal_patience;
        if self.declined_at.is_some_and(|at| at + patience <= now) {
            let over =
                |queue: &&mut Queue| queue.declined_at.is_some_and(|at| at + patience <= now);
            self.queues.values_mut().filter(over).for_each(|queue| queue.declined_at = None);
            self.moves_due = true;
        }
        let copy_patience = self.setup.timing.copy_patience;
        let is_over = |since: Option<Time>, patience| since.is_some_and(|at| at + patience <= now);
        if gone.is_empty()
            && !is_over(self.sealing_since, patience)
            && !is_over(self.stalled_since, copy_patience)
        {
            return;
        }
        self.moves_due = true;
        let is_stuck = |queue: &&Queue| {
            is_over(queue.sealing_since, patience)
                || is_over(queue.stalled_since(), copy_patience)
                || gone.iter().any(|worker| queue.is_moving_to(worker) || queue.is_led_by(worker))
        };
        self.give_up_where(now, is_stuck, out);
    }

    fn give_up_where(&mut self, now: Time, is_stuck: impl Fn(&&Queue) -> bool, out: &mut Effects) {
        let moving = self.queues.values().filter(|queue| queue.row().moving.is_some());
        let stuck: Vec<QueueId> = moving.filter(is_stuck).map(|queue| queue.row().id).collect();
        for id in &stuck {
            self.give_up_move(now, *id, out);
        }
        if !stuck.is_empty() {
            self.queues_due(now, false);
        }
    }

    /// When the next move is given up, if nothing happens before.
    pub(super) fn next_give_up(&self) -> Option<Time> {
        let timing = &self.setup.timing;
        let down = self.down_since.values().min().map(|since| *since + timing.move_patience);
        let stalled = self.stalled_since.map(|since| since + timing.copy_patience);
        let sealed = self.sealing_since.map(|since| since + timing.seal_patience);
        let declined = self.declined_at.map(|at| at + timing.seal_patience);
        [stalled, sealed, down, declined].into_iter().flatten().min()
    }

    /// The queues that are on their way.
    pub(super) fn moving_infos(&self) -> Vec<MovingInfo> {
        self.queues.values().filter_map(|queue| self.moving_info(queue)).collect()
    }

    fn moving_info(&self, queue: &Queue) -> Option<MovingInfo> {
        let row = queue.row();
        let phase = move_phase(queue)?;
        let to = queue.owner()?.clone();
        let from = if row.moving.is_some() { &row.primary } else { &queue.came_from };
        let copy = queue.copy.unwrap_or_default();
        Some(MovingInfo {
            queue: self.catalog.queue_name(row.id),
            from: from.clone(),
            to,
            phase: phase.to_owned(),
            copied_bytes: copy.copied_bytes,
            total_bytes: copy.total_bytes,
            eta_seconds: queue.copy.and_then(|copy| copy.eta_seconds()),
        })
    }
}

/// The phases of a move in a word each.
pub(super) const MOVE_PHASES: [&str; 4] = ["waiting", "copying", "sealed", "opening"];

/// How far a queue is on its way, in a word; none when it does not move.
pub(super) fn move_phase(queue: &Queue) -> Option<&'static str> {
    let [waiting, copying, sealed, opening] = MOVE_PHASES;
    match queue.step() {
        Some(MoveStep::Waiting) => Some(waiting),
        Some(MoveStep::Copying) => Some(copying),
        Some(MoveStep::Empty | MoveStep::Sealing) => Some(sealed),
        None => queue.came_from.as_ref().map(|_| opening),
    }
}
