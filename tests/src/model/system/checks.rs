//! What must hold in every state, and when all is well. It changes no state.

use std::collections::BTreeSet;

use ringway_coordinator::logic::rows::QueueRow;
use ringway_proto::{Epoch, Offset};

use super::super::parts::queue as numbered;
use super::super::parts::worker::{Kept, View};
use super::{Broken, State, System};

impl System {
    /// What must hold in every state.
    ///
    /// # Errors
    /// The promise that it breaks.
    pub fn check(&mut self, state: &State) -> Result<(), Broken> {
        let key = (state.coordinator, state.workers, state.ghost);
        if !self.checked.contains_key(&key) {
            for queue in 0..self.cast.queues {
                self.check_queue(state, queue)?;
            }
            let is_well = self.coordinator(state).is_up() && self.are_queues_well(state);
            self.checked.insert(key, is_well);
        }
        self.check_hands(state)
    }

    pub(super) fn check_queue(&mut self, state: &State, queue: u8) -> Result<(), Broken> {
        let id = numbered(queue);
        let primary = self.leader(state, queue);
        let stored = self.coordinator(state).rights().find(|row| row.id.queue == id);
        let stored = stored.map_or(Epoch(0), |row| row.epoch);
        let past = self.ghost(state).queues.get(&queue).cloned().unwrap_or_default();
        let views: Vec<View> = (0..self.cast.workers)
            .map(|worker| self.view(state, worker)[usize::from(queue)].clone())
            .collect();
        if let Some(primary) = primary {
            let view = &views[usize::from(primary)];
            for (number, offset) in (0..).zip(&past.acked) {
                let is_it = |kept: &Kept| kept.offset == *offset && kept.number == number;
                if !view.log.iter().any(is_it) {
                    return Err(format!(
                        "I1: message {number} of {queue} was acked at {offset}; its primary {primary} \
                         has {:?}",
                        view.log
                    ));
                }
            }
            if !past.acked.is_empty() && !view.is_whole {
                return Err(format!("I9: primary {primary} of queue {queue} has a part of it"));
            }
            let acked = |at: &Offset| view.acked.iter().any(|(from, to)| from <= at && at < to);
            if let Some(at) = past.confirmed.keys().find(|at| !acked(at)) {
                return Err(format!(
                    "I8: the ack of {at} of queue {queue} was confirmed and is lost"
                ));
            }
        }
        for view in &views {
            let numbers: BTreeSet<u64> = view.log.iter().map(|kept| kept.number).collect();
            if numbers.len() < view.log.len() {
                return Err(format!("I6: queue {queue} has a message twice: {:?}", view.log));
            }
            if view.open.and_then(|open| open.right).is_some_and(|epoch| epoch > stored) {
                return Err(format!(
                    "I5: a worker knows an epoch of {queue} that the store has not"
                ));
            }
        }
        let logs = views.iter().flat_map(|view| &view.log);
        let acked = |kept: &&Kept| past.acked.contains(&kept.offset);
        for one in logs.clone().filter(acked) {
            if let Some(other) = logs.clone().find(|kept| kept.offset == one.offset && *kept != one)
            {
                return Err(format!("I3: queue {queue} has {one:?} and {other:?}"));
            }
        }
        let open: Vec<_> = views.iter().filter_map(|view| view.open).collect();
        if let [a, b] = open[..] {
            let (old, new) = if a.epoch < b.epoch { (a, b) } else { (b, a) };
            if old.epoch == new.epoch || old.sealed.is_none() {
                return Err(format!("I9: two workers lead queue {queue}: {old:?}, {new:?}"));
            }
        }
        Ok(())
    }

    /// No two applications have messages of one key in hand, unless one of them lost the right.
    pub(super) fn check_hands(&self, state: &State) -> Result<(), Broken> {
        let hands = self.processes().flat_map(|process| {
            self.member(state, process).hand().iter().map(move |hold| (process, hold))
        });
        let hands: Vec<_> = hands.collect();
        for (process, hold) in &hands {
            for (other, later) in &hands {
                let same = process == other || hold.right != later.right;
                if same || hold.epoch > later.epoch {
                    continue;
                }
                let queue = hold.right.queue.index as u8;
                let past = self.ghost(state).queues.get(&queue);
                if !past.is_some_and(|past| past.was_forced(hold.epoch, later.epoch)) {
                    return Err(format!(
                        "I5: processes {process} and {other} have messages of queue {queue} in \
                         hand, under {} and {}",
                        hold.epoch, later.epoch
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether everything is as it should be in the end: each queue is open at its primary and does
    /// not move, and where a member stays, all that was published was handed out and is acked.
    pub fn is_settled(&mut self, state: &State) -> bool {
        let key = (state.coordinator, state.workers, state.ghost);
        let is_well = self.checked.get(&key).copied().unwrap_or_default();
        is_well && !self.is_unread(state)
    }

    pub(super) fn are_queues_well(&mut self, state: &State) -> bool {
        (0..self.cast.queues).all(|queue| {
            let row = self.queue_row(state, queue).cloned();
            row.zip(self.leader(state, queue)).is_some_and(|(row, leader)| {
                let open = self.view(state, leader)[usize::from(queue)].open;
                let is_open =
                    open.is_some_and(|open| open.epoch == row.epoch && open.sealed.is_none());
                is_open && row.moving.is_none()
            })
        })
    }

    /// Whether somebody is there to read and something is not read.
    pub(super) fn is_unread(&mut self, state: &State) -> bool {
        self.processes().any(|process| self.member(state, process).stays())
            && (0..self.cast.queues).any(|queue| {
                let Some(leader) = self.leader(state, queue) else { return true };
                let acked = self.view(state, leader)[usize::from(queue)].acked.clone();
                let is_acked = |at: &Offset| acked.iter().any(|(from, to)| from <= at && at < to);
                self.ghost(state).queues.get(&queue).is_some_and(|past| {
                    past.acked.iter().any(|at| !is_acked(at) || at.0 >= past.handed)
                })
            })
    }

    pub(super) fn queue_row(&self, state: &State, queue: u8) -> Option<&QueueRow> {
        let id = numbered(queue);
        self.coordinator(state).queues().find(|row| row.id == id)
    }

    /// The worker that leads a queue, as the store says.
    pub(super) fn leader(&self, state: &State, queue: u8) -> Option<u8> {
        let primary = self.queue_row(state, queue)?.primary.as_ref()?;
        self.cast.worker_index(primary)
    }
}
