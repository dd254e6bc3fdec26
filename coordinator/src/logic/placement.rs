//! One queue's life: first assignment, move by copy, seal and swap, giving a move up; and the
//! judgement over what a worker says that it holds. It promises that epochs and attempts only
//! grow, and that no messages are ever ordered away that are not at the queue's primary. It does
//! not know who plans, nor when a move's turn comes.

use std::collections::{BTreeMap, BTreeSet};

use ringway_proto::control::{HeldCopy, HeldQueue, Register, is_close};
use ringway_proto::{Attempt, Code, Epoch, Offset, QueueId, Refusal, Time, Uuid, WorkerId};

use super::catalog::Catalog;
use super::rows::{MoveReason, MoveStep, Moving, QueueRow, WorkerRow};

/// A queue: what is stored of it, and what its workers said since the coordinator started.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Queue {
    row: QueueRow,
    /// The primary confirmed that it is open under `row.epoch`.
    pub opened: bool,
    /// How far the copy is; none when its worker has not said so on its present connection.
    pub copy: Option<Copied>,
    /// The old primary said that it sealed the queue for the standing attempt, with this end.
    sealed: Option<Offset>,
    /// Since when the present move is under way.
    pub moving_since: Option<Time>,
    /// Since when the copy that is awaited has not grown.
    pub copying_since: Option<Time>,
    /// Since when the old primary is to be sealed.
    pub sealing_since: Option<Time>,
    /// When the old primary last said that it cannot be sealed yet.
    pub declined_at: Option<Time>,
    /// Who led it before, while its new primary has not opened it.
    pub came_from: Option<WorkerId>,
}

/// How far a copy is, as its worker said last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Copied {
    /// The offset behind the last message that is durable in the copy.
    pub copied: Offset,
    /// The offset behind the original's last durable message.
    pub end: Offset,
    /// Bytes of batches in the copy.
    pub copied_bytes: u64,
    /// Bytes of batches in the original.
    pub total_bytes: u64,
    /// When that was said.
    pub at: Time,
    /// What was copied when it was said first, and when: the present rate follows from it.
    pub first: Option<(u64, Time)>,
}

impl Copied {
    /// Whether so little is left that the queue may be sealed for it.
    #[must_use]
    pub fn is_close(&self) -> bool {
        let messages = self.end.0.saturating_sub(self.copied.0);
        let bytes = self.total_bytes.saturating_sub(self.copied_bytes);
        is_close(messages, bytes)
    }

    /// How long the rest takes at the rate so far, in seconds, if there is a rate.
    #[must_use]
    pub fn eta_seconds(&self) -> Option<u64> {
        let (first_bytes, first_at) = self.first?;
        let took = self.at.since(first_at).as_millis() as u64;
        let came = self.copied_bytes.saturating_sub(first_bytes);
        let left = self.total_bytes.saturating_sub(self.copied_bytes);
        if left == 0 {
            return Some(0);
        }
        (came > 0 && took > 0).then(|| left.saturating_mul(took).div_ceil(came).div_ceil(1000))
    }
}

/// What a worker's word about a move led to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Moved {
    /// The queue has a new primary under a new epoch; the old one's copy goes.
    Swapped {
        /// Who had it.
        from: WorkerId,
        /// Why it moved.
        reason: MoveReason,
        /// Since when the move was under way.
        since: Option<Time>,
    },
    /// The seal is of no use: the worker goes on.
    Lift(Attempt),
    /// It is sealed behind messages; the copy is awaited.
    Sealed,
    /// The copy does not end where the sealed original does: the move has to be given up.
    Broken,
    /// Not asked for, or no longer.
    Ignored,
}

impl Queue {
    /// A queue from its row; what its workers say of it is not known.
    #[must_use]
    pub fn new(row: QueueRow) -> Self {
        Self {
            row,
            opened: false,
            copy: None,
            sealed: None,
            moving_since: None,
            copying_since: None,
            sealing_since: None,
            declined_at: None,
            came_from: None,
        }
    }

    /// What is stored of it.
    #[must_use]
    pub fn row(&self) -> &QueueRow {
        &self.row
    }

    /// Where the plan has it: where it is, or where it is moving to.
    #[must_use]
    pub fn owner(&self) -> Option<&WorkerId> {
        self.row.moving.as_ref().map(|m| &m.to).or(self.row.primary.as_ref())
    }

    /// Whether this worker is its primary.
    #[must_use]
    pub fn is_led_by(&self, worker: &WorkerId) -> bool {
        self.row.primary.as_ref() == Some(worker)
    }

    /// Whether it moves to this worker.
    #[must_use]
    pub fn is_moving_to(&self, worker: &WorkerId) -> bool {
        self.row.moving.as_ref().is_some_and(|moving| moving.to == *worker)
    }

    /// How far its move has come, if it moves.
    #[must_use]
    pub fn step(&self) -> Option<MoveStep> {
        self.row.moving.as_ref().map(|moving| moving.step)
    }

    /// Whether the old primary said that it is sealed for the standing attempt.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.sealed.is_some()
    }

    /// The first assignment.
    pub fn assign(&mut self, to: WorkerId) {
        self.row.epoch = self.row.epoch.next();
        self.row.primary = Some(to);
        self.opened = false;
    }

    /// The primary lost the empty copy with its disk: it opens the queue under a new epoch.
    pub fn reopen(&mut self) {
        self.row.epoch = self.row.epoch.next();
        self.opened = false;
    }

    /// Begins a move under a new attempt.
    pub fn begin_move(&mut self, now: Time, to: WorkerId, reason: String, label: MoveReason) {
        self.forget_move();
        self.row.attempt = self.row.attempt.next();
        let step = if self.row.has_data { MoveStep::Waiting } else { MoveStep::Empty };
        self.row.moving = Some(Moving { to, attempt: self.row.attempt, reason, label, step });
        self.moving_since = Some(now);
    }

    /// The move takes a step.
    pub fn set_step(&mut self, now: Time, step: MoveStep) {
        if let Some(moving) = &mut self.row.moving {
            moving.step = step;
            self.copying_since = (step == MoveStep::Copying).then_some(now);
            self.sealing_since = (step == MoveStep::Sealing).then_some(now);
        }
    }

    /// How far the copy is, as its worker says.
    pub fn note_copied(&mut self, said: Copied) {
        let before = self.copy.unwrap_or_default();
        // One that is close grows no more than its original, and has not stood still.
        let grew = said.copied > before.copied || said.is_close();
        if grew && self.copying_since.is_some() {
            self.copying_since = Some(said.at);
        }
        let first = before.first.filter(|(bytes, _)| *bytes <= said.copied_bytes);
        let first = first.or(Some((said.copied_bytes, said.at)));
        self.copy = Some(Copied { first, ..said });
    }

    /// Since when a copy has not grown that lacks too much for the queue to be sealed. One that is
    /// close grows no more than its original.
    #[must_use]
    pub fn stalled_since(&self) -> Option<Time> {
        let is_close = self.copy.is_some_and(|copy| copy.is_close());
        self.copying_since.filter(|_| !is_close)
    }

    /// Gives the move up, by raising the attempt. Returns it, if there was one; then what is
    /// sealed or copied for the attempt of [`Self::lift`] may go once this is stored.
    pub fn give_up(&mut self) -> Option<Moving> {
        let moving = self.row.moving.take()?;
        self.row.attempt = self.row.attempt.next();
        self.forget_move();
        Some(moving)
    }

    fn forget_move(&mut self) {
        self.copy = None;
        self.sealed = None;
        self.moving_since = None;
        self.copying_since = None;
        self.sealing_since = None;
        self.declined_at = None;
    }

    /// The old primary cannot seal the queue for this attempt yet: more is known of it than goes
    /// over at once. The copy goes on, and it is asked again later. Returns whether that changed
    /// the step.
    pub fn declined(&mut self, now: Time, worker: &WorkerId, attempt: Attempt) -> bool {
        let asked = self.step() == Some(MoveStep::Sealing) && self.sealed.is_none();
        if !asked || !self.is_led_by(worker) || !self.stands(attempt) {
            return false;
        }
        self.set_step(now, MoveStep::Copying);
        self.declined_at = Some(now);
        true
    }

    /// The newest attempt that a worker may be sealed or copying for and that no longer stands.
    #[must_use]
    pub fn lift(&self) -> Attempt {
        match &self.row.moving {
            Some(moving) => Attempt(moving.attempt.0.saturating_sub(1)),
            None => self.row.attempt,
        }
    }

    /// The queue accepted a message: it moves only with its data. Returns whether that is news.
    pub fn set_has_data(&mut self) -> bool {
        if let Some(moving) = &mut self.row.moving
            && moving.step == MoveStep::Empty
        {
            moving.step = MoveStep::Waiting;
        }
        !std::mem::replace(&mut self.row.has_data, true)
    }

    fn stands(&self, attempt: Attempt) -> bool {
        self.row.moving.as_ref().is_some_and(|moving| moving.attempt == attempt)
    }

    /// The worker says that it sealed the queue for this attempt, with this end.
    pub fn sealed(&mut self, now: Time, worker: &WorkerId, attempt: Attempt, end: Offset) -> Moved {
        if !self.is_led_by(worker) {
            return Moved::Ignored;
        }
        if !self.stands(attempt) {
            return Moved::Lift(self.lift());
        }
        if end == Offset(0) && !self.row.has_data {
            return self.swap();
        }
        self.row.has_data = true;
        self.sealed = Some(end);
        if self.step() != Some(MoveStep::Sealing) {
            self.set_step(now, MoveStep::Sealing);
        }
        Moved::Sealed
    }

    /// The worker says that its copy for this attempt is whole, up to this end.
    pub fn synced(&mut self, worker: &WorkerId, attempt: Attempt, end: Offset) -> Moved {
        if !self.is_moving_to(worker) || !self.stands(attempt) {
            return Moved::Ignored;
        }
        if self.sealed.is_some_and(|sealed| sealed != end) {
            return Moved::Broken;
        }
        self.swap()
    }

    fn swap(&mut self) -> Moved {
        let (Some(moving), Some(from)) = (self.row.moving.take(), self.row.primary.take()) else {
            return Moved::Ignored;
        };
        let since = self.moving_since;
        self.forget_move();
        self.row.epoch = self.row.epoch.next();
        self.row.primary = Some(moving.to);
        self.opened = false;
        self.came_from = Some(from.clone());
        Moved::Swapped { from, reason: moving.label, since }
    }
}

/// What follows from what a worker says that it holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Findings {
    /// Queues that it leads and has open under the stored epoch.
    pub open: BTreeSet<QueueId>,
    /// Queues that it leads on a disk that has nothing of them, while an earlier disk had them.
    pub reopen: BTreeSet<QueueId>,
    /// Queues that it leads and that are news to have messages.
    pub has_data: BTreeSet<QueueId>,
    /// Queues that it leads and has sealed, for which attempt and with which end.
    pub sealed: Vec<(QueueId, Attempt, Offset)>,
    /// Copies that it has to remove: it led these queues once.
    pub tombstones: Vec<(QueueId, Uuid, Epoch)>,
    /// Copies for the standing attempt that are whole, with their ends.
    pub synced: Vec<(QueueId, Attempt, Offset)>,
    /// Copies for attempts that were given up.
    pub drops: Vec<(QueueId, Uuid, Attempt)>,
}

/// Judges a registration against the store; changes nothing.
///
/// # Errors
/// [`Code::DataMissing`] when messages that the worker had are not there, [`Code::Conflict`] when
/// it holds what this store never gave out. In neither case is anything removed.
pub fn judge(
    register: &Register,
    known: Option<&WorkerRow>,
    queues: &BTreeMap<QueueId, Queue>,
    catalog: &Catalog,
) -> Result<Findings, Refusal> {
    let worker = &register.worker;
    let mut findings = Findings::default();
    let mut held_ids = BTreeSet::new();
    for held in &register.queues {
        held_ids.insert(held.queue);
        match queues.get(&held.queue) {
            Some(queue) => judge_held(worker, held, queue, &mut findings)?,
            None if catalog.was_given_out(held.queue.group) => {
                // The group is deleted; its numbers come never again.
                findings.tombstones.push((held.queue, held.uuid, held.epoch.next()));
            }
            None => return Err(foreign(worker)),
        }
    }
    for copy in &register.copies {
        if judge_copy(worker, copy, queues, catalog, &mut findings)? {
            held_ids.insert(copy.queue);
        }
    }
    let same_disk = known.is_some_and(|row| row.journal == register.journal);
    for (id, queue) in queues.iter().filter(|(_, q)| q.is_led_by(worker)) {
        if held_ids.contains(id) {
            continue;
        }
        if queue.row.has_data {
            return Err(data_missing(worker, &catalog.queue_name(*id), same_disk));
        }
        if !same_disk {
            findings.reopen.insert(*id);
        }
    }
    Ok(findings)
}

fn judge_held(
    worker: &WorkerId,
    held: &HeldQueue,
    queue: &Queue,
    findings: &mut Findings,
) -> Result<(), Refusal> {
    let row = &queue.row;
    // A store that is older than what the workers hold was restored or lost. It may order nothing.
    let newer_attempt = held.sealed.is_some_and(|attempt| attempt > row.attempt);
    if held.uuid != row.uuid || held.epoch > row.epoch || newer_attempt {
        return Err(foreign(worker));
    }
    if !queue.is_led_by(worker) {
        // It led the queue until everything in it was durable at the next primary. Two under one
        // epoch are nothing that this store gave out.
        if held.epoch == row.epoch {
            return Err(foreign(worker));
        }
        findings.tombstones.push((row.id, row.uuid, row.epoch));
        return Ok(());
    }
    if held.epoch == row.epoch {
        findings.open.insert(row.id);
    }
    if held.end > Offset(0) && !row.has_data {
        findings.has_data.insert(row.id);
    }
    // What it sealed under an older epoch is not lifted: until it hears of its new epoch it would
    // take appends under the old one. The open under the new epoch lifts the seal.
    if let Some(attempt) = held.sealed.filter(|_| held.epoch == row.epoch) {
        findings.sealed.push((row.id, attempt, held.end));
    }
    Ok(())
}

/// Judges a copy that is not open. Returns whether it is the one that its worker has to open.
fn judge_copy(
    worker: &WorkerId,
    copy: &HeldCopy,
    queues: &BTreeMap<QueueId, Queue>,
    catalog: &Catalog,
    findings: &mut Findings,
) -> Result<bool, Refusal> {
    let Some(queue) = queues.get(&copy.queue) else {
        if !catalog.was_given_out(copy.queue.group) {
            return Err(foreign(worker));
        }
        findings.drops.push((copy.queue, copy.uuid, copy.attempt));
        return Ok(false);
    };
    let row = &queue.row;
    if copy.uuid != row.uuid || copy.attempt > row.attempt {
        return Err(foreign(worker));
    }
    if queue.is_led_by(worker) {
        return Ok(copy.synced);
    }
    if !queue.is_moving_to(worker) || !queue.stands(copy.attempt) {
        findings.drops.push((row.id, row.uuid, copy.attempt));
    } else if copy.synced {
        findings.synced.push((row.id, copy.attempt, copy.copied));
    }
    Ok(false)
}

fn foreign(worker: &WorkerId) -> Refusal {
    Refusal::new(
        Code::Conflict,
        format!("worker {worker} holds queues of another cluster or of a lost store"),
    )
    .hint("start it with its own cluster's coordinator, or with an empty data directory")
}

fn data_missing(worker: &WorkerId, queue: &str, same_disk: bool) -> Refusal {
    let how = if same_disk { "without it" } else { "with an empty journal" };
    Refusal::new(
        Code::DataMissing,
        format!("worker {worker} holds messages of queue {queue}, and came back {how}"),
    )
    .hint(format!("start {worker} on the data directory that it had before"))
}

#[cfg(test)]
mod tests {
    use ringway_proto::GroupId;

    use super::*;

    fn worker(name: &str) -> WorkerId {
        WorkerId::new(name).unwrap()
    }

    fn queue() -> Queue {
        let row = QueueRow {
            id: QueueId::new(GroupId(0), 0),
            uuid: Uuid(1),
            epoch: Epoch(0),
            primary: None,
            has_data: false,
            attempt: Attempt(0),
            moving: None,
        };
        let mut queue = Queue::new(row);
        queue.assign(worker("w1"));
        queue
    }

    fn moving(to: &str, queue: &mut Queue) -> Attempt {
        queue.begin_move(Time(0), worker(to), String::new(), MoveReason::Joined);
        queue.row().attempt
    }

    fn swapped(moved: &Moved) -> bool {
        matches!(moved, Moved::Swapped { from, .. } if *from == worker("w1"))
    }

    #[test]
    fn only_the_seal_of_the_standing_attempt_swaps_an_empty_queue() {
        let mut queue = queue();
        let first = moving("w2", &mut queue);
        assert!(queue.give_up().is_some());
        assert!(queue.row().attempt > first, "giving up is a write that raises the attempt");
        assert_eq!(queue.lift(), queue.row().attempt);
        let second = moving("w3", &mut queue);

        let before = queue.clone();
        let now = Time(0);
        assert_eq!(queue.sealed(now, &worker("w2"), second, Offset(0)), Moved::Ignored);
        let late = queue.sealed(now, &worker("w1"), first, Offset(0));
        assert_eq!(late, Moved::Lift(Attempt(second.0 - 1)), "the standing one is not lifted");
        assert_eq!(queue, before);

        assert!(swapped(&queue.sealed(now, &worker("w1"), second, Offset(0))));
        assert_eq!((queue.row().epoch, queue.is_led_by(&worker("w3"))), (Epoch(2), true));
        assert_eq!(queue.sealed(now, &worker("w1"), second, Offset(0)), Moved::Ignored, "doubled");
    }

    #[test]
    fn a_seal_of_an_older_epoch_is_not_judged_when_the_queue_came_back() {
        let mut queue = queue();
        let attempt = moving("w2", &mut queue);
        let id = queue.row().id;
        let found = |queue: &Queue| {
            let (uuid, end) = (Uuid(1), Offset(0));
            let held = HeldQueue { queue: id, uuid, epoch: Epoch(1), end, sealed: Some(attempt) };
            let mut findings = Findings::default();
            judge_held(&worker("w1"), &held, queue, &mut findings).unwrap();
            findings.sealed
        };
        assert_eq!(found(&queue), [(id, attempt, Offset(0))]);
        assert!(swapped(&queue.sealed(Time(0), &worker("w1"), attempt, Offset(0))));
        let back = moving("w1", &mut queue);
        let moved = queue.sealed(Time(0), &worker("w2"), back, Offset(0));
        assert!(matches!(moved, Moved::Swapped { .. }));
        assert!(queue.is_led_by(&worker("w1")));
        assert_eq!(found(&queue), [], "nobody lifts it but the open under the new epoch");
    }

    #[test]
    fn behind_messages_only_the_whole_copy_of_the_standing_attempt_swaps() {
        let mut queue = queue();
        let first = moving("w2", &mut queue);
        assert!(queue.set_has_data());
        assert_eq!(queue.step(), Some(MoveStep::Waiting), "no seal without a copy");
        queue.give_up();
        let attempt = moving("w2", &mut queue);
        queue.set_step(Time(0), MoveStep::Sealing);
        assert_eq!(queue.sealed(Time(0), &worker("w1"), attempt, Offset(4)), Moved::Sealed);
        let before = queue.clone();
        assert_eq!(queue.synced(&worker("w2"), first, Offset(4)), Moved::Ignored);
        assert_eq!(queue.synced(&worker("w3"), attempt, Offset(4)), Moved::Ignored);
        assert_eq!(queue.synced(&worker("w2"), attempt, Offset(3)), Moved::Broken);
        assert_eq!(queue, before);
        assert!(swapped(&queue.synced(&worker("w2"), attempt, Offset(4))));
        assert!(queue.row().has_data && queue.is_led_by(&worker("w2")));
    }

    #[test]
    fn a_copy_is_close_when_little_is_left_in_messages_and_bytes() {
        for (messages, bytes, close) in [
            (0, 1 << 30, true),
            (9_999, 1 << 18, true),
            (256, 1 << 20, true),
            (257, (1 << 18) + 1, false),
            (10, (1 << 20) + 1, false),
        ] {
            let copied = Copied {
                copied: Offset(5),
                end: Offset(5 + messages),
                copied_bytes: 7,
                total_bytes: 7 + bytes,
                ..Copied::default()
            };
            assert_eq!(copied.is_close(), close, "{messages} messages, {bytes} bytes");
        }
    }

    #[test]
    fn a_copy_that_was_close_has_not_stood_still_when_its_original_grows() {
        let mut queue = queue();
        moving("w2", &mut queue);
        queue.set_step(Time(0), MoveStep::Copying);
        let said = |at, end| Copied {
            copied: Offset(5),
            end: Offset(end),
            total_bytes: end << 20,
            at: Time(at),
            ..Copied::default()
        };
        queue.note_copied(said(100, 500));
        assert_eq!(queue.stalled_since(), Some(Time(100)));
        queue.note_copied(Copied { total_bytes: 0, ..said(70_000, 5) });
        assert_eq!(queue.stalled_since(), None, "it waits for its turn");
        queue.note_copied(said(70_100, 500));
        assert_eq!(queue.stalled_since(), Some(Time(70_000)));
    }

    #[test]
    fn what_is_left_takes_as_long_as_the_rate_so_far_says() {
        let copied = Copied {
            copied_bytes: 3000,
            total_bytes: 9000,
            at: Time(2500),
            first: Some((1000, Time(1500))),
            ..Copied::default()
        };
        assert_eq!(copied.eta_seconds(), Some(3));
        assert_eq!(Copied { first: Some((3000, Time(0))), ..copied }.eta_seconds(), None);
        assert_eq!(Copied { total_bytes: 3000, ..copied }.eta_seconds(), Some(0));
    }
}
