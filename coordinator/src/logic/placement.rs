//! One queue's life: first assignment, move of an empty queue by seal and swap, giving a move up;
//! and the judgement over what a worker says that it holds. It promises that epochs and attempts
//! only grow, and that no copy with messages is ever ordered away. It does not know who plans.

use std::collections::{BTreeMap, BTreeSet};

use ringway_proto::control::{HeldQueue, Register};
use ringway_proto::{Attempt, Code, Epoch, Offset, QueueId, Refusal, Uuid, WorkerId};

use super::catalog::Catalog;
use super::rows::{MoveReason, Moving, QueueRow, WorkerRow};

/// A queue: what is stored of it, and whether its primary said that it is open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Queue {
    row: QueueRow,
    /// The primary confirmed that it is open under `row.epoch`.
    pub opened: bool,
}

/// What a sealed queue led to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sealed {
    /// The queue has a new primary under a new epoch; the old one's copy goes.
    Swapped {
        /// Who had it.
        from: WorkerId,
        /// Why it moved.
        reason: MoveReason,
    },
    /// The seal is of no use: the worker goes on.
    Lift(Attempt),
    /// The queue had accepted messages before it was sealed: it stays, and so does its seal
    /// until this attempt is lifted.
    HasData(Attempt),
    /// Not asked for by the queue's primary.
    Ignored,
}

impl Queue {
    /// A queue from its row; whether it is open is not known.
    #[must_use]
    pub fn new(row: QueueRow) -> Self {
        Self { row, opened: false }
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
    pub fn begin_move(&mut self, to: WorkerId, reason: String, label: MoveReason) {
        self.row.attempt = self.row.attempt.next();
        self.row.moving = Some(Moving { to, attempt: self.row.attempt, reason, label });
    }

    /// Gives the move up, by raising the attempt. Returns whether there was one; then the seal of
    /// [`Self::lift`] may be lifted once this is stored.
    pub fn give_up(&mut self) -> bool {
        let was_moving = self.row.moving.take().is_some();
        if was_moving {
            self.row.attempt = self.row.attempt.next();
        }
        was_moving
    }

    /// The newest attempt that a worker may be sealed for and that no longer stands.
    #[must_use]
    pub fn lift(&self) -> Attempt {
        match &self.row.moving {
            Some(moving) => Attempt(moving.attempt.0.saturating_sub(1)),
            None => self.row.attempt,
        }
    }

    /// The queue accepted a message: it stays. Returns whether that is news.
    pub fn set_has_data(&mut self) -> bool {
        !std::mem::replace(&mut self.row.has_data, true)
    }

    /// The worker says that it sealed the queue for this attempt, with this end.
    pub fn sealed(&mut self, worker: &WorkerId, attempt: Attempt, end: Offset) -> Sealed {
        if !self.is_led_by(worker) {
            return Sealed::Ignored;
        }
        match self.row.moving.take() {
            Some(moving) if moving.attempt == attempt && end == Offset(0) => {
                self.row.epoch = self.row.epoch.next();
                self.row.primary = Some(moving.to);
                self.opened = false;
                Sealed::Swapped { from: worker.clone(), reason: moving.label }
            }
            Some(moving) if moving.attempt == attempt => {
                self.row.moving = Some(moving);
                self.give_up();
                self.row.has_data = true;
                Sealed::HasData(self.row.attempt)
            }
            moving => {
                self.row.moving = moving;
                Sealed::Lift(self.lift())
            }
        }
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
    /// Copies that it has to remove.
    pub tombstones: Vec<(QueueId, Uuid, Epoch)>,
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
        // Only an empty queue ever moves, so a copy with messages elsewhere is not ours to remove.
        if held.end > Offset(0) || held.epoch == row.epoch {
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
    if let Some(attempt) = held.sealed {
        findings.sealed.push((row.id, attempt, held.end));
    }
    Ok(())
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
        queue.begin_move(worker(to), String::new(), MoveReason::Joined);
        queue.row().attempt
    }

    #[test]
    fn only_the_seal_of_the_standing_attempt_swaps() {
        let mut queue = queue();
        let first = moving("w2", &mut queue);
        assert!(queue.give_up());
        assert!(queue.row().attempt > first, "giving up is a write that raises the attempt");
        assert_eq!(queue.lift(), queue.row().attempt);
        let second = moving("w3", &mut queue);

        let before = queue.clone();
        assert_eq!(queue.sealed(&worker("w2"), second, Offset(0)), Sealed::Ignored);
        let late = queue.sealed(&worker("w1"), first, Offset(0));
        assert_eq!(late, Sealed::Lift(Attempt(second.0 - 1)), "the standing one is not lifted");
        assert_eq!(queue, before);

        let swapped = queue.sealed(&worker("w1"), second, Offset(0));
        let reason = MoveReason::Joined;
        assert_eq!(swapped, Sealed::Swapped { from: worker("w1"), reason });
        assert_eq!((queue.row().epoch, queue.is_led_by(&worker("w3"))), (Epoch(2), true));
        assert_eq!(queue.sealed(&worker("w1"), second, Offset(0)), Sealed::Ignored, "doubled");
    }

    #[test]
    fn a_seal_behind_messages_is_lifted_and_the_queue_stays() {
        let mut queue = queue();
        let attempt = moving("w2", &mut queue);
        let answer = queue.sealed(&worker("w1"), attempt, Offset(1));
        assert_eq!(answer, Sealed::HasData(attempt.next()));
        assert!(queue.row().has_data && queue.row().moving.is_none());
        assert!(queue.is_led_by(&worker("w1")));
    }
}
