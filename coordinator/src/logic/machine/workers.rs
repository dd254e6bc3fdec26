//! What workers say and what is said to them: registration, lapse, and everything that has to be
//! repeated to a worker that is reached again.

use ringway_proto::control::{FromWorker, Register, ToWorker};
use ringway_proto::limits::{MAX_WORKERS, WEIGHT_RANGE};
use ringway_proto::{Code, QueueId, Refusal, RoutingVersion, Time, WorkerId};

use super::super::catalog::check_bounds;
use super::super::placement::{Copied, Findings, judge};
use super::super::rows::{GraveRow, Key, WorkerRow};
use super::super::sessions::Conn;
use super::{Action, Effects, Event, Machine};

/// The longest address, in bytes.
const MAX_ADDRESS_BYTES: usize = 300;

impl Machine {
    pub(super) fn hear_worker(
        &mut self,
        now: Time,
        conn: Conn,
        message: FromWorker,
        out: &mut Effects,
    ) {
        if let FromWorker::Register(register) = message {
            self.register(now, conn, register, out);
            return;
        }
        // What comes on a connection that a newer one replaced belongs to the past.
        let Some(worker) = self.worker_sessions.on(conn).next().cloned() else { return };
        match message {
            FromWorker::Register(_) => {}
            FromWorker::QueueOpened { queue, epoch } => {
                self.note_opened(&worker, queue, epoch, out);
            }
            FromWorker::SlotsSealed { queue, epoch, number, at } => {
                self.note_slots_sealed(now, &worker, queue, epoch, number, at);
            }
            FromWorker::FencePassed { subscription, fence } => {
                self.note_passed(&worker, subscription, fence, out);
            }
            FromWorker::HasData { queue } => self.note_data(now, &worker, queue),
            FromWorker::Sealed { queue, attempt, end } => {
                self.note_sealed(now, &worker, queue, attempt, end, out);
            }
            FromWorker::SealDeclined { queue, attempt, .. } => {
                self.note_declined(now, &worker, queue, attempt);
            }
            FromWorker::CopyProgress { queue, attempt, copied, end, copied_bytes, total_bytes } => {
                let said = Copied { copied, end, copied_bytes, total_bytes, at: now, first: None };
                self.note_copied(&worker, queue, attempt, said);
            }
            FromWorker::CopySynced { queue, attempt, end } => {
                self.note_synced(now, &worker, queue, attempt, end, out);
            }
            FromWorker::CopyDropped { queue, attempt } => {
                self.note_dropped(&worker, queue, attempt);
            }
            FromWorker::Unsealed { .. } => {}
            FromWorker::Removed { queue, epoch } => {
                let key = (worker, queue);
                if self.graves.get(&key).is_some_and(|grave| grave.epoch == epoch) {
                    self.graves.remove(&key);
                    self.dirty.insert(Key::Grave(key.0, key.1));
                    // A copy of it may begin there now.
                    self.moves_due = true;
                }
            }
            FromWorker::SubscriptionStarted { subscription, queue } => {
                self.note_started(&worker, subscription, queue);
            }
            FromWorker::RightRaised { right, epoch } => {
                self.note_raised(now, &worker, right, epoch, out);
            }
        }
    }

    fn register(&mut self, now: Time, conn: Conn, register: Register, out: &mut Effects) {
        let worker = register.worker.clone();
        let known = self.workers.get(&worker);
        let older = known.is_some_and(|row| register.incarnation < row.incarnation);
        if older && self.worker_sessions.is_live(&worker) {
            out.actions.push(Action::ToWorker { conn, message: ToWorker::Superseded });
            out.events.push(Event::WorkerSuperseded);
            return;
        }
        let same = known.is_some_and(|row| register.incarnation == row.incarnation);
        if same && self.worker_sessions.is_past(&worker, conn) {
            // From a connection that broke: it would take the worker away from where it is reached.
            return;
        }
        let judged = self
            .check_register(&register)
            .and_then(|()| judge(&register, known, &self.queues, &self.catalog));
        let findings = match judged {
            Ok(findings) => findings,
            Err(refusal) => {
                let message = ToWorker::RegisterRefused(refusal);
                out.actions.push(Action::ToWorker { conn, message });
                return;
            }
        };
        self.supersede(conn, &register, out);
        self.worker_sessions.attach(&worker, conn, now);
        self.worker_routing.insert(conn, RoutingVersion(0));
        self.take_row(now, register);
        out.actions.push(Action::ToWorker { conn, message: ToWorker::Registered });
        self.take_findings(now, &worker, findings, out);
        self.repeat_to(now, &worker, true, out);
    }

    fn check_register(&self, register: &Register) -> Result<(), Refusal> {
        check_bounds("weight", register.weight, WEIGHT_RANGE)?;
        let texts = [Some(&register.address), register.http.as_ref(), register.zone.as_ref()];
        if texts.into_iter().flatten().any(|text| text.len() > MAX_ADDRESS_BYTES) {
            return Err(Refusal::new(
                Code::TooLarge,
                format!("an address has at most {MAX_ADDRESS_BYTES} bytes"),
            ));
        }
        if self.workers.len() >= MAX_WORKERS && !self.workers.contains_key(&register.worker) {
            return Err(Refusal::new(
                Code::TooLarge,
                format!("there are {MAX_WORKERS} workers, and no more are possible"),
            ));
        }
        Ok(())
    }

    /// Tells an older process of this worker that its place is taken.
    fn supersede(&mut self, conn: Conn, register: &Register, out: &mut Effects) {
        let Some(old) = self.worker_sessions.conn(&register.worker).filter(|old| *old != conn)
        else {
            return;
        };
        self.worker_routing.remove(&old);
        let known = self.workers.get(&register.worker);
        if known.is_some_and(|row| row.incarnation != register.incarnation) {
            out.actions.push(Action::ToWorker { conn: old, message: ToWorker::Superseded });
            out.events.push(Event::WorkerSuperseded);
        }
    }

    fn take_row(&mut self, now: Time, register: Register) {
        let row = WorkerRow {
            id: register.worker.clone(),
            incarnation: register.incarnation,
            journal: register.journal,
            address: register.address,
            http: register.http,
            weight: register.weight,
            zone: register.zone,
            up: true,
            draining: self.workers.get(&register.worker).is_some_and(|row| row.draining),
        };
        self.down_since.remove(&row.id);
        self.moves_due = true;
        let known = self.workers.get(&row.id);
        if known == Some(&row) {
            return;
        }
        let same_route = known.is_some_and(|old| old.up && old.address == row.address);
        let same_share = known.is_some_and(|old| old.up && old.weight == row.weight);
        self.dirty.insert(Key::Worker(row.id.clone()));
        self.workers.insert(row.id.clone(), row);
        self.routing_changed |= !same_route;
        if !same_share {
            self.queues_due(now, false);
        }
    }

    fn take_findings(
        &mut self,
        now: Time,
        worker: &WorkerId,
        findings: Findings,
        out: &mut Effects,
    ) {
        for id in &findings.reopen {
            self.give_up_move(now, *id, out);
            if let Some(queue) = self.queues.get_mut(id) {
                queue.reopen();
            }
            self.restart_subscriptions(*id);
            self.routing_changed = true;
            self.dirty.insert(Key::Queue(*id));
        }
        let led: Vec<QueueId> =
            self.queues.iter().filter(|(_, q)| q.is_led_by(worker)).map(|(id, _)| *id).collect();
        for id in led {
            let open = findings.open.contains(&id);
            if let Some(queue) = self.queues.get_mut(&id) {
                queue.opened = open;
                if open {
                    queue.came_from = None;
                }
            }
            if !open {
                // The journal may have been lost before the subscriptions were in it.
                self.restart_subscriptions(id);
            }
        }
        for id in findings.has_data {
            self.note_data(now, worker, id);
        }
        for (queue, uuid, epoch) in findings.tombstones {
            self.bury(GraveRow { worker: worker.clone(), queue, uuid, epoch });
        }
        for (queue, attempt, end) in findings.sealed {
            self.note_sealed(now, worker, queue, attempt, end, out);
        }
        self.drops.retain(|(at, _), _| at != worker);
        for (queue, uuid, attempt) in findings.drops {
            self.drop_copy(now, worker, queue, uuid, attempt, out);
        }
        for (queue, attempt, end) in findings.synced {
            self.note_synced(now, worker, queue, attempt, end, out);
        }
    }

    /// Notes a copy that has to go, until the worker says that it went.
    pub(super) fn bury(&mut self, grave: GraveRow) {
        let key = (grave.worker.clone(), grave.queue);
        if self.graves.get(&key).is_some_and(|known| known.epoch >= grave.epoch) {
            return;
        }
        self.dirty.insert(Key::Grave(key.0.clone(), key.1));
        self.graves.insert(key, grave);
    }

    pub(super) fn lapse_worker(&mut self, now: Time, worker: &WorkerId, out: &mut Effects) {
        if let Some(conn) = self.worker_sessions.end(worker) {
            self.worker_routing.remove(&conn);
            out.actions.push(Action::Close { conn, reason: "the session lapsed" });
        }
        out.events.push(Event::WorkerLapsed);
        if let Some(row) = self.workers.get_mut(worker) {
            row.up = false;
            self.dirty.insert(Key::Worker(worker.clone()));
            self.routing_changed = true;
        }
        self.lapse_moves(now, worker, out);
    }

    /// Says everything again that a connected worker has not answered.
    pub(super) fn repeat(&mut self, now: Time, out: &mut Effects) {
        self.repeat_at = None;
        let connected: Vec<WorkerId> = self
            .workers
            .keys()
            .filter(|id| self.worker_sessions.conn(id).is_some())
            .cloned()
            .collect();
        for worker in connected {
            self.repeat_to(now, &worker, false, out);
        }
    }

    /// Says everything that this worker has not answered.
    fn repeat_to(&mut self, now: Time, worker: &WorkerId, is_new: bool, out: &mut Effects) {
        let from = (worker.clone(), QueueId::from(0));
        let graves: Vec<GraveRow> = self
            .graves
            .range(from..)
            .take_while(|(k, _)| k.0 == *worker)
            .map(|(_, g)| g.clone())
            .collect();
        for GraveRow { queue, uuid, epoch, .. } in graves {
            self.tell_worker(worker, ToWorker::Tombstone { queue, uuid, epoch }, out);
            self.expect_answer(now);
        }
        let led: Vec<QueueId> =
            self.queues.iter().filter(|(_, q)| q.is_led_by(worker)).map(|(id, _)| *id).collect();
        for queue in led {
            self.tell_queue(now, queue, out);
            if is_new {
                self.tell_fences(queue, out);
            }
        }
        self.repeat_copies_to(now, worker, is_new, out);
    }
}
