//! What must hold in every state, and when all is well. It changes no state.

use std::collections::BTreeSet;

use ringway_coordinator::logic::rows::QueueRow;
use ringway_proto::{Epoch, Lanes, Offset};

use super::super::parts::worker::{Kept, View};
use super::super::parts::{Share, queue as numbered};
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
        let log = self.ghost(state).queues.get(&queue).cloned().unwrap_or_default();
        let shares: Vec<Share> = self.cast.shares(id, Lanes::ALL).collect();
        let views: Vec<View> = (0..self.cast.workers)
            .map(|worker| self.view(state, worker)[usize::from(queue)].clone())
            .collect();
        if let Some(primary) = primary {
            let view = &views[usize::from(primary)];
            for (number, offset) in (0..).zip(&log.acked) {
                let is_it = |kept: &Kept| kept.offset == *offset && kept.number == number;
                if !view.log.iter().any(is_it) {
                    return Err(format!(
                        "I1: message {number} of {queue} was acked at {offset}; its primary {primary} \
                         has {:?}",
                        view.log
                    ));
                }
            }
            if !log.acked.is_empty() && !view.is_whole {
                return Err(format!("I9: primary {primary} of queue {queue} has a part of it"));
            }
            for (share, acked) in shares.iter().zip(&view.acked) {
                let is_acked = |at: &Offset| acked.iter().any(|(from, to)| from <= at && at < to);
                let past = self.ghost(state).shares.get(share);
                let lost = past.and_then(|past| past.confirmed.keys().find(|at| !is_acked(at)));
                if let Some(at) = lost {
                    return Err(format!(
                        "I8: the ack of {at} of {share} was confirmed and is lost"
                    ));
                }
            }
        }
        for view in &views {
            let numbers: BTreeSet<u64> = view.log.iter().map(|kept| kept.number).collect();
            if numbers.len() < view.log.len() {
                return Err(format!("I6: queue {queue} has a message twice: {:?}", view.log));
            }
            for (share, known) in shares.iter().zip(&view.rights) {
                let stored = self.coordinator(state).right(id, self.cast.lane(share.key));
                let stored = stored.map_or(Epoch(0), |row| row.epoch);
                if view.open.is_some() && known.is_some_and(|known| known > stored) {
                    return Err(format!(
                        "I5: a worker knows an epoch of {share} that the store has not"
                    ));
                }
            }
        }
        let logs = views.iter().flat_map(|view| &view.log);
        let acked = |kept: &&Kept| log.acked.contains(&kept.offset);
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
                let share = self.cast.share_at(hold.right.queue, hold.offset);
                let others = self.cast.share_at(later.right.queue, later.offset);
                if process == other || share != others || hold.epoch > later.epoch {
                    continue;
                }
                let past = self.ghost(state).shares.get(&share);
                if !past.is_some_and(|past| past.was_forced(hold.epoch, later.epoch)) {
                    return Err(format!(
                        "I5: processes {process} and {other} have messages of {share} in \
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
                let ghost = self.ghost(state);
                let is_unread = |at: &Offset| {
                    let share = self.cast.share_at(numbered(queue), *at);
                    let acked = &acked[usize::from(share.key)];
                    let handed = ghost.shares.get(&share).map_or(0, |past| past.handed);
                    !acked.iter().any(|(from, to)| from <= at && at < to)
                        || at.0 / self.cast.keys.len() as u64 >= handed
                };
                ghost.queues.get(&queue).is_some_and(|log| log.acked.iter().any(is_unread))
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
