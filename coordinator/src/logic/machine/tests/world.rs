//! A coordinator's machine with a store of rows, fake workers and fake members around it, and
//! the messages between them. It checks at every step what must never happen.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use ringway_proto::control::*;
use ringway_proto::*;

use crate::logic::machine::*;
use crate::logic::rows::*;
use crate::logic::sessions::Conn;
use crate::logic::split::MAX_RANGES_PER_QUEUE;
use crate::logic::timing::Timing;

pub fn worker_id(name: &str) -> WorkerId {
    WorkerId::new(name).unwrap()
}

pub fn member_id(name: &str) -> MemberId {
    MemberId::new(name).unwrap()
}

/// A worker as far as the coordinator can tell; everything here is durable.
#[derive(Debug, Default)]
pub struct FakeWorker {
    pub conn: Option<Conn>,
    pub incarnation: u64,
    pub journal: u128,
    pub queues: BTreeMap<QueueId, HeldQueue>,
    pub copies: BTreeMap<QueueId, HeldCopy>,
    pub removed: BTreeMap<QueueId, Epoch>,
    pub started: BTreeSet<(SubscriptionId, QueueId)>,
    pub rights: BTreeMap<RightId, RightEpoch>,
    /// Every raise that it ever journaled.
    pub raised: BTreeMap<(RightId, Epoch), Option<Holder>>,
    /// It cannot seal queues with messages.
    pub declines: bool,
}

impl FakeWorker {
    /// Does what the coordinator says and returns the answers.
    fn obey(&mut self, message: ToWorker) -> Vec<FromWorker> {
        let answers = match message {
            ToWorker::Split(order) => self.split(&order),
            ToWorker::Merge(order) => self.merge(&order).into_iter().collect(),
            message => self.obey_one(message).into_iter().collect(),
        };
        let rights: Vec<&RightId> = self.rights.keys().collect();
        for pair in rights.windows(2) {
            let apart = !pair[0].is_beside(pair[1]) || !pair[0].lanes.overlaps(pair[1].lanes);
            assert!(apart, "two rights to one lane: {pair:?}");
        }
        answers
    }

    fn is_sealed(&self, queue: QueueId) -> bool {
        self.queues.get(&queue).is_none_or(|held| held.sealed.is_some())
    }

    fn is_free_for(&self, right: &RightId) -> bool {
        let overlaps = |id: &&RightId| id.is_beside(right) && id.lanes.overlaps(right.lanes);
        !self.rights.keys().any(|id| overlaps(&id))
    }

    fn split(&mut self, order: &SplitRight) -> Vec<FromWorker> {
        let SplitRight { right, epoch, into } = order;
        let known = self.rights.get(right).map(|known| known.epoch);
        let is_it = match known {
            Some(known) => known == *epoch,
            None => *epoch == Epoch(0) && self.is_free_for(right),
        };
        if is_it && !self.is_sealed(right.queue) {
            self.rights.remove(right);
            for part in into {
                self.rights.insert(part.right, part.clone());
                self.raised.insert((part.right, part.epoch), part.holder.clone());
            }
        }
        let later = into.iter().filter(|part| part.epoch > *epoch);
        later.filter_map(|part| self.raise(part)).collect()
    }

    fn merge(&mut self, order: &MergeRights) -> Option<FromWorker> {
        let MergeRights { parts, into } = order;
        let is_free = |part: &GrantedRight| {
            let known = self.rights.get(&part.right);
            known.is_some_and(|known| known.epoch == part.epoch && known.holder.is_none())
        };
        if parts.iter().all(is_free) && !self.is_sealed(into.right.queue) {
            for part in parts {
                self.rights.remove(&part.right);
            }
            self.rights.insert(into.right, into.clone());
            self.raised.insert((into.right, into.epoch), into.holder.clone());
        }
        self.raise(into)
    }

    fn raise(&mut self, raise: &RightEpoch) -> Option<FromWorker> {
        if self.is_sealed(raise.right.queue) {
            // What arrives behind a seal is for the next primary.
            return None;
        }
        if !self.rights.contains_key(&raise.right) {
            if !self.is_free_for(&raise.right) {
                return None;
            }
            self.rights.insert(raise.right, raise.clone());
        }
        let known = self.rights.get_mut(&raise.right)?;
        if raise.epoch < known.epoch {
            return None;
        }
        *known = raise.clone();
        self.raised.insert((raise.right, raise.epoch), raise.holder.clone());
        Some(FromWorker::RightRaised { right: raise.right, epoch: raise.epoch })
    }

    fn obey_one(&mut self, message: ToWorker) -> Option<FromWorker> {
        match message {
            ToWorker::OpenQueue(open) => {
                let OpenQueue { queue, uuid, epoch, .. } = open;
                if self.removed.get(&queue).is_some_and(|removed| *removed >= epoch) {
                    return None;
                }
                let copy = self.copies.remove(&queue).filter(|copy| copy.uuid == uuid);
                assert!(copy.as_ref().is_none_or(|copy| copy.synced), "half a copy is opened");
                let end = copy.map_or(Offset(0), |copy| copy.copied);
                let fresh = HeldQueue { queue, uuid, epoch, end, sealed: None };
                let held = self.queues.entry(queue).or_insert_with(|| fresh.clone());
                if held.epoch < epoch {
                    (held.epoch, held.sealed) = (epoch, None);
                }
                let under = held.epoch;
                self.started.extend(open.subscriptions.iter().map(|s| (s.id, queue)));
                for right in open.rights {
                    let known = match self.is_free_for(&right.right) {
                        true => Some(self.rights.entry(right.right).or_insert(right.clone())),
                        false => self.rights.get_mut(&right.right),
                    };
                    if let Some(known) = known.filter(|known| known.epoch < right.epoch) {
                        *known = right;
                    }
                }
                Some(FromWorker::QueueOpened { queue, epoch: under })
            }
            ToWorker::CopyQueue(CopyQueue { queue, uuid, epoch, attempt, .. }) => {
                assert!(!self.queues.contains_key(&queue), "a copy of a queue that is here");
                if self.removed.get(&queue).is_some_and(|removed| *removed > epoch) {
                    return None;
                }
                let fresh = HeldCopy { queue, uuid, attempt, copied: Offset(0), synced: false };
                let copy = self.copies.entry(queue).or_insert(fresh);
                if copy.attempt < attempt {
                    (copy.attempt, copy.synced) = (attempt, false);
                }
                None
            }
            ToWorker::DropCopy { queue, attempt, .. } => {
                if self.copies.get(&queue).is_some_and(|copy| copy.attempt <= attempt) {
                    self.copies.remove(&queue);
                    self.started.retain(|(_, q)| *q != queue);
                    self.rights.retain(|right, _| right.queue != queue);
                }
                Some(FromWorker::CopyDropped { queue, attempt })
            }
            ToWorker::SealQueue { queue, epoch, attempt, only_if_empty } => {
                let held = self.queues.get_mut(&queue).filter(|held| held.epoch == epoch)?;
                if held.end > Offset(0) && (only_if_empty || self.declines) {
                    return Some(FromWorker::SealDeclined { queue, attempt, end: held.end });
                }
                held.sealed = held.sealed.max(Some(attempt));
                Some(FromWorker::Sealed { queue, attempt: held.sealed?, end: held.end })
            }
            ToWorker::Unseal { queue, attempt } => {
                let held = self.queues.get_mut(&queue)?;
                held.sealed = held.sealed.filter(|sealed| *sealed > attempt);
                Some(FromWorker::Unsealed { queue, attempt })
            }
            ToWorker::Tombstone { queue, uuid, epoch } => {
                if self.queues.get(&queue).is_some_and(|h| h.epoch < epoch && h.uuid == uuid) {
                    self.queues.remove(&queue);
                    self.started.retain(|(_, q)| *q != queue);
                    self.rights.retain(|right, _| right.queue != queue);
                }
                let removed = self.removed.entry(queue).or_default();
                *removed = (*removed).max(epoch);
                Some(FromWorker::Removed { queue, epoch })
            }
            ToWorker::StartSubscription { queue, setup } => {
                self.queues.get(&queue).filter(|held| held.sealed.is_none())?;
                self.started.insert((setup.id, queue));
                Some(FromWorker::SubscriptionStarted { subscription: setup.id, queue })
            }
            ToWorker::Raise(raise) => self.raise(&raise),
            ToWorker::SealSlots { queue, epoch, moved } => {
                let held = self.queues.get(&queue).filter(|held| held.epoch == epoch)?;
                let (number, at) = (moved.number, held.end);
                held.sealed.is_none().then_some(FromWorker::SlotsSealed {
                    queue,
                    epoch,
                    number,
                    at,
                })
            }
            ToWorker::AwaitFence { subscription, fence, .. } => {
                self.queues.get(&fence.queue)?;
                Some(FromWorker::FencePassed { subscription, fence })
            }
            ToWorker::RegisterRefused(refusal) => panic!("registration refused: {refusal}"),
            _ => None,
        }
    }
}

/// A member's process.
#[derive(Debug, Default)]
pub struct FakeMember {
    pub conn: Option<Conn>,
    pub incarnation: u64,
    pub subscription: Option<SubscriptionId>,
    pub held: BTreeMap<RightId, Epoch>,
    pub draining: BTreeMap<RightId, Epoch>,
    /// The lanes that it keeps of rights of which it gives some up.
    pub narrowing: BTreeMap<RightId, (Epoch, Lanes)>,
    /// Whether it wants a seat: it comes again when its connection breaks.
    pub alive: bool,
    pub left: bool,
}

pub struct World {
    pub now: Time,
    pub machine: Machine,
    pub rows: BTreeMap<Key, Row>,
    pub workers: BTreeMap<WorkerId, FakeWorker>,
    pub members: BTreeMap<MemberId, FakeMember>,
    /// What every open connection has said and was told, in order, and not yet arrived.
    pub up: BTreeMap<Conn, VecDeque<Input>>,
    pub down: BTreeMap<Conn, VecDeque<Action>>,
    pub log: Vec<Action>,
    pub events: Vec<Event>,
    /// The end of each queue: what was accepted last, by whomever.
    pub accepted: BTreeMap<QueueId, Offset>,
    /// The most copies from one worker, to one worker, and the most sealed queues that were seen.
    pub most: [usize; 3],
    /// The weights of members that have not the usual one.
    pub weights: BTreeMap<MemberId, u32>,
    next_conn: Conn,
    granted: BTreeMap<(RightId, Epoch), Holder>,
    opened: BTreeMap<(QueueId, Epoch), WorkerId>,
    row_epochs: BTreeMap<Key, Epoch>,
}

fn setup() -> Setup {
    Setup {
        id: "c1".into(),
        timing: Timing::default(),
        epoch_ms: 1_700_000_000_000,
        seed: 7,
        ranges_per_queue: MAX_RANGES_PER_QUEUE,
    }
}

impl World {
    pub fn new() -> Self {
        let now = Time(1_000_000);
        let mut world = Self {
            now,
            machine: Machine::new(setup(), Vec::new(), now).unwrap(),
            rows: BTreeMap::new(),
            workers: BTreeMap::new(),
            members: BTreeMap::new(),
            up: BTreeMap::new(),
            down: BTreeMap::new(),
            log: Vec::new(),
            events: Vec::new(),
            accepted: BTreeMap::new(),
            most: [0; 3],
            weights: BTreeMap::new(),
            next_conn: 1,
            granted: BTreeMap::new(),
            opened: BTreeMap::new(),
            row_epochs: BTreeMap::new(),
        };
        world.settle(Effects::default());
        world
    }

    /// With workers that have registered and serve the default group.
    pub fn with_workers(names: &[&str]) -> Self {
        let mut world = Self::new();
        for name in names {
            world.start_worker(name);
            world.calm();
        }
        world
    }

    /// One input and everything that follows inside the coordinator.
    pub fn input(&mut self, input: Input) {
        let mut effects = Effects::default();
        self.machine.handle(self.now, input, &mut effects);
        self.settle(effects);
    }

    pub fn wake(&mut self) {
        let mut effects = Effects::default();
        self.machine.wake(self.now, &mut effects);
        self.settle(effects);
    }

    fn settle(&mut self, mut effects: Effects) {
        self.machine.finish(self.now, &mut effects);
        self.commit(&effects.changes);
        self.check_count();
        self.check_limits();
        self.events.extend(effects.events);
        for action in effects.actions {
            self.check(&action);
            self.log.push(action.clone());
            let conn = match &action {
                Action::ToWorker { conn, .. }
                | Action::ToClient { conn, .. }
                | Action::Close { conn, .. } => *conn,
                Action::Route { .. } | Action::Reply { .. } | Action::Replay { .. } => continue,
            };
            if let Some(queue) = self.down.get_mut(&conn) {
                queue.push_back(action);
            }
        }
    }

    fn commit(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Put(row) => {
                    let epoch = match row {
                        Row::Queue(row) => row.epoch,
                        Row::Right(row) => row.epoch,
                        _ => Epoch(0),
                    };
                    let known = self.row_epochs.entry(row.key()).or_default();
                    assert!(*known <= epoch, "the epoch of {row:?} went back");
                    *known = epoch;
                    self.rows.insert(row.key(), row.clone());
                }
                Change::Delete(key) => {
                    self.rows.remove(key);
                }
            }
        }
    }

    /// Four copies from each worker and to each, and four sealed queues with messages.
    fn check_limits(&mut self) {
        let (mut from, mut to, mut sealed) = (BTreeMap::new(), BTreeMap::new(), 0);
        for queue in self.machine.queues.values() {
            let row = queue.row();
            let Some(moving) = row.moving.as_ref().filter(|m| m.has_copy()) else { continue };
            *from.entry(row.primary.clone()).or_insert(0) += 1;
            *to.entry(moving.to.clone()).or_insert(0) += 1;
            sealed += usize::from(moving.step == MoveStep::Sealing);
        }
        let most = |counts: Option<usize>| counts.unwrap_or(0);
        let now = [most(from.into_values().max()), most(to.into_values().max()), sealed];
        assert!(now.iter().all(|n| *n <= 4), "{now:?} copies from, copies to, sealed");
        for (most, now) in self.most.iter_mut().zip(now) {
            *most = now.max(*most);
        }
    }

    /// Every move that a plan needed is done or under way, and no other is.
    fn check_count(&self) {
        let rights = self.machine.rights.values().filter(|r| r.is_move_pending()).count();
        let moving = |queue: &&crate::logic::placement::Queue| queue.row().moving.is_some();
        let queues = self.machine.queues.values().filter(moving).count();
        let (moves, bound) = self.moves();
        assert_eq!(moves + (rights + queues) as u64, bound, "moves and the lower bound");
    }

    /// What must hold for every action: one holder per right and epoch, who is told only after
    /// the primary confirmed; one primary per queue and epoch.
    fn check(&mut self, action: &Action) {
        match action {
            Action::ToClient { message: ToClient::Granted { member, granted }, .. } => {
                self.check_grant(member.clone(), *granted, None);
            }
            Action::ToClient { message: ToClient::Joined(joined), .. } => {
                for granted in &joined.rights {
                    self.check_grant(joined.member.clone(), *granted, Some(joined.incarnation));
                }
            }
            Action::ToWorker { conn, message: ToWorker::OpenQueue(open) } => {
                let worker = self.worker_at(*conn);
                let first = self.opened.entry((open.queue, open.epoch)).or_insert(worker.clone());
                assert_eq!(*first, worker, "two primaries of {} under one epoch", open.queue);
            }
            _ => {}
        }
    }

    fn check_grant(
        &mut self,
        member: MemberId,
        granted: GrantedRight,
        incarnation: Option<Incarnation>,
    ) {
        let GrantedRight { right, epoch } = granted;
        let is_holder = |holder: &Holder| {
            holder.member == member && incarnation.is_none_or(|i| i == holder.incarnation)
        };
        // Told before: the queue may be on its way to another primary by now.
        if let Some(first) = self.granted.get(&(right, epoch)) {
            assert!(is_holder(first), "two holders of {right:?} under {epoch:?}");
            return;
        }
        // What is left of a right that was split has the holder and the epoch of the whole.
        let whole = self.granted.iter().find(|((whole, under), _)| {
            whole.is_beside(&right) && whole.lanes.covers(right.lanes) && *under == epoch
        });
        if let Some((_, first)) = whole {
            assert!(is_holder(first), "two holders of {right:?} under {epoch:?}");
            return;
        }
        let raised = self.workers.values().find_map(|w| w.raised.get(&(right, epoch)));
        let holder = raised.expect("a grant before its raise").clone();
        let holder = holder.expect("a grant of a free right");
        assert!(is_holder(&holder), "another holder than was raised");
        self.granted.insert((right, epoch), holder);
    }

    fn worker_at(&self, conn: Conn) -> WorkerId {
        let found = self.workers.iter().find(|(_, w)| w.conn == Some(conn));
        found.map_or_else(|| worker_id("gone"), |(id, _)| id.clone())
    }

    fn connect(&mut self) -> Conn {
        let conn = self.next_conn;
        self.next_conn += 1;
        self.up.insert(conn, VecDeque::new());
        self.down.insert(conn, VecDeque::new());
        conn
    }

    pub fn send(&mut self, conn: Conn, input: Input) {
        if let Some(queue) = self.up.get_mut(&conn) {
            queue.push_back(input);
        }
    }

    /// Starts a worker, or restarts it on its journal.
    pub fn start_worker(&mut self, name: &str) {
        let worker = self.workers.entry(worker_id(name)).or_default();
        worker.incarnation += 1;
        if worker.journal == 0 {
            worker.journal = u128::from(proto_hash(name));
        }
        self.connect_worker(&worker_id(name));
    }

    pub fn connect_worker(&mut self, id: &WorkerId) {
        let conn = self.connect();
        let worker = self.workers.get_mut(id).unwrap();
        worker.conn = Some(conn);
        let message = FromWorker::Register(Register {
            worker: id.clone(),
            incarnation: Incarnation(worker.incarnation),
            journal: Uuid(worker.journal),
            address: format!("127.0.0.1:{}", id.as_str().len()),
            http: None,
            weight: 100,
            zone: None,
            queues: worker.queues.values().cloned().collect(),
            copies: worker.copies.values().cloned().collect(),
        });
        self.send(conn, Input::FromWorker { conn, message });
    }

    pub fn join_message(name: &str, incarnation: u64) -> Join {
        Join {
            name: SubscriptionName::new("s").unwrap(),
            filter: Filter::new("a.>").unwrap(),
            order: None,
            start: Start::Start,
            member: member_id(name),
            incarnation: Incarnation(incarnation),
            weight: 100,
            origin: String::new(),
        }
    }

    /// Starts a process of a member: a new incarnation.
    pub fn start_member(&mut self, name: &str) {
        let old = self.members.remove(&member_id(name)).unwrap_or_default();
        let incarnation = old.incarnation + 1;
        let member = FakeMember { incarnation, alive: true, ..FakeMember::default() };
        self.members.insert(member_id(name), member);
        self.connect_member(&member_id(name));
    }

    pub fn connect_member(&mut self, id: &MemberId) {
        let conn = self.connect();
        let member = self.members.get_mut(id).unwrap();
        member.conn = Some(conn);
        let mut join = Self::join_message(id.as_str(), member.incarnation);
        join.weight = self.weights.get(id).copied().unwrap_or(join.weight);
        let message = FromClient::Join(join);
        self.send(conn, Input::FromClient { conn, message });
    }

    pub fn leave(&mut self, name: &str) {
        let id = member_id(name);
        let member = &self.members[&id];
        let (Some(conn), Some(subscription)) = (member.conn, member.subscription) else { return };
        let incarnation = Incarnation(member.incarnation);
        let message = FromClient::Leave { subscription, member: id, incarnation };
        self.send(conn, Input::FromClient { conn, message });
    }

    /// The connection breaks; what was on its way is lost.
    pub fn cut(&mut self, conn: Conn) {
        if self.up.remove(&conn).is_none() {
            return;
        }
        self.down.remove(&conn);
        for worker in self.workers.values_mut().filter(|w| w.conn == Some(conn)) {
            worker.conn = None;
        }
        for member in self.members.values_mut().filter(|m| m.conn == Some(conn)) {
            member.conn = None;
        }
        self.input(Input::Disconnected { conn });
    }

    /// Processes whose place a newer one took are gone at last, and their connections with them.
    pub fn end_old_processes(&mut self) {
        let workers = self.workers.values().filter_map(|w| w.conn);
        let kept: BTreeSet<Conn> =
            workers.chain(self.members.values().filter_map(|m| m.conn)).collect();
        for conn in self.up.keys().copied().filter(|c| !kept.contains(c)).collect::<Vec<_>>() {
            self.cut(conn);
        }
    }

    pub fn kill_worker(&mut self, name: &str) {
        if let Some(conn) = self.workers[&worker_id(name)].conn {
            self.cut(conn);
        }
    }

    pub fn kill_member(&mut self, name: &str) {
        let member = self.members.get_mut(&member_id(name)).unwrap();
        member.alive = false;
        if let Some(conn) = member.conn {
            self.cut(conn);
        }
    }

    /// The coordinator is started again on what its store has. Every connection is gone.
    pub fn restart_coordinator(&mut self) {
        for conn in self.up.keys().copied().collect::<Vec<_>>() {
            self.up.remove(&conn);
            self.down.remove(&conn);
        }
        let rows = self.rows.values().cloned().collect();
        self.machine = Machine::new(setup(), rows, self.now).unwrap();
        self.settle(Effects::default());
        let workers: Vec<_> = self
            .workers
            .iter()
            .filter(|(_, w)| w.conn.is_some())
            .map(|(id, _)| id.clone())
            .collect();
        let members: Vec<_> =
            self.members.iter().filter(|(_, m)| m.alive).map(|(id, _)| id.clone()).collect();
        for id in workers {
            self.connect_worker(&id);
        }
        for id in members {
            self.connect_member(&id);
        }
    }

    /// The next message of this connection to the coordinator arrives.
    pub fn arrive_up(&mut self, conn: Conn) {
        if let Some(input) = self.up.get_mut(&conn).and_then(VecDeque::pop_front) {
            self.input(input);
        }
    }

    /// The next message of this connection to the peer arrives.
    pub fn arrive_down(&mut self, conn: Conn) {
        let Some(action) = self.down.get_mut(&conn).and_then(VecDeque::pop_front) else { return };
        match action {
            Action::ToWorker { message, .. } => {
                let found = self.workers.values_mut().find(|w| w.conn == Some(conn));
                let Some(worker) = found else { return };
                let opens = match &message {
                    ToWorker::OpenQueue(open) => Some((open.queue, open.epoch)),
                    _ => None,
                };
                for message in worker.obey(message) {
                    let worker = self.workers.values().find(|w| w.conn == Some(conn)).unwrap();
                    if let Some((queue, epoch)) = opens
                        && let held = &worker.queues[&queue]
                        && held.epoch == epoch
                    {
                        let accepted = self.accepted.get(&queue).copied().unwrap_or_default();
                        assert_eq!(held.end, accepted, "{queue} is opened without all of it");
                    }
                    self.send(conn, Input::FromWorker { conn, message });
                }
            }
            Action::ToClient { message, .. } => self.obey_member(conn, message),
            Action::Close { .. } => {
                let worker = self.workers.iter().find(|(_, w)| w.conn == Some(conn));
                let worker = worker.map(|(id, _)| id.clone());
                let member = self.members.iter().find(|(_, m)| m.conn == Some(conn) && m.alive);
                let member = member.map(|(id, _)| id.clone());
                self.cut(conn);
                worker.iter().for_each(|id| self.connect_worker(id));
                member.iter().for_each(|id| self.connect_member(id));
            }
            Action::Route { .. } | Action::Reply { .. } | Action::Replay { .. } => {}
        }
    }

    fn obey_member(&mut self, conn: Conn, message: ToClient) {
        let found = self.members.iter_mut().find(|(_, m)| m.conn == Some(conn));
        let Some((member_of, member)) = found.map(|(id, m)| (id.clone(), m)) else { return };
        match message {
            ToClient::Joined(joined) => {
                member.subscription = Some(joined.subscription);
                member.held = joined.rights.iter().map(|g| (g.right, g.epoch)).collect();
                member.draining.retain(|right, epoch| member.held.get(right) == Some(epoch));
                member.narrowing.clear();
            }
            ToClient::Granted { granted, .. } => {
                // What was left of an older epoch is over.
                member.held.insert(granted.right, granted.epoch);
                member.draining.remove(&granted.right);
            }
            ToClient::Revoke { right, epoch, .. } => {
                if member.held.get(&right) == Some(&epoch) {
                    member.draining.insert(right, epoch);
                }
            }
            ToClient::Lost { right, epoch, .. } => {
                if member.held.get(&right) == Some(&epoch) {
                    member.held.remove(&right);
                    member.draining.remove(&right);
                }
            }
            ToClient::Narrow { right, epoch, to, .. } => {
                if member.held.get(&right) == Some(&epoch) {
                    member.narrowing.insert(right, (epoch, to));
                } else if member.held.get(&right.with(to)) == Some(&epoch) {
                    let member = member_of;
                    let message = FromClient::Narrowed { member, right, epoch, to };
                    self.send(conn, Input::FromClient { conn, message });
                }
            }
            ToClient::Narrowed { right, epoch, .. } => {
                let wider = |(id, under): (&RightId, &Epoch)| {
                    (id.is_beside(&right) && id.lanes.covers(right.lanes) && *under == epoch)
                        .then_some(*id)
                };
                if let Some(wider) = member.held.iter().find_map(wider) {
                    member.held.remove(&wider);
                    member.narrowing.remove(&wider);
                    member.held.insert(right, epoch);
                }
            }
            ToClient::Left { .. } => {
                (member.alive, member.left) = (false, true);
                member.held.clear();
                member.draining.clear();
            }
            ToClient::Superseded { .. } | ToClient::JoinRefused { .. } => {
                member.alive = false;
                member.held.clear();
                member.draining.clear();
            }
            ToClient::Routing(_) => {}
        }
    }

    /// A queue accepts a message, if it is open here. Whoever accepts one has all before it.
    pub fn write(&mut self, name: &str, queue: QueueId) {
        let worker = self.workers.get_mut(&worker_id(name)).unwrap();
        let held = worker.queues.get_mut(&queue).filter(|held| held.sealed.is_none());
        let (Some(held), Some(conn)) = (held, worker.conn) else { return };
        let accepted = self.accepted.entry(queue).or_default();
        assert_eq!(held.end, *accepted, "{name} accepts for {queue} what follows something else");
        let is_first = held.end == Offset(0);
        held.end = held.end.next();
        *accepted = held.end;
        if is_first {
            let message = FromWorker::HasData { queue };
            self.send(conn, Input::FromWorker { conn, message });
        }
    }

    /// The copies of a worker grow by at most `messages` each, and it says how far they are. A
    /// message stands for 4 MiB, so that three of them are not close.
    pub fn copy(&mut self, id: &WorkerId, messages: u64) {
        let Some(conn) = self.workers.get(id).and_then(|worker| worker.conn) else { return };
        let copies: Vec<HeldCopy> = self.workers[id].copies.values().cloned().collect();
        for HeldCopy { queue, uuid, attempt, copied, synced } in copies {
            let sources = self.workers.iter().filter(|(w, s)| *w != id && s.conn.is_some());
            let held = sources.filter_map(|(_, source)| Some((source.queues.get(&queue)?, source)));
            let led = held.filter(|(held, _)| held.uuid == uuid).max_by_key(|(held, _)| held.epoch);
            let Some((held, source)) = led.filter(|_| !synced) else { continue };
            let end = held.end;
            let copied = Offset((copied.0 + messages).min(end.0));
            let synced = held.sealed == Some(attempt) && copied == end;
            let of_queue = |right: &RightId| right.queue == queue;
            let rights: Vec<_> =
                source.rights.iter().filter(|(right, _)| synced && of_queue(right)).collect();
            let rights: Vec<_> = rights.into_iter().map(|(r, e)| (*r, e.clone())).collect();
            let started: Vec<_> =
                source.started.iter().filter(|(_, q)| synced && *q == queue).copied().collect();
            let target = self.workers.get_mut(id).unwrap();
            target.rights.extend(rights);
            target.started.extend(started);
            let copy = target.copies.get_mut(&queue).unwrap();
            (copy.copied, copy.synced) = (copied, synced);
            let (copied_bytes, total_bytes) = (copied.0 << 22, end.0 << 22);
            let message = match synced {
                true => FromWorker::CopySynced { queue, attempt, end },
                false => FromWorker::CopyProgress {
                    queue,
                    attempt,
                    copied,
                    end,
                    copied_bytes,
                    total_bytes,
                },
            };
            self.send(conn, Input::FromWorker { conn, message });
        }
    }

    /// An administrator asks and is answered.
    pub fn ask(
        &mut self,
        request: ringway_proto::admin::AdminRequest,
    ) -> Result<ringway_proto::admin::AdminResponse, Refusal> {
        self.input(Input::Admin { reply: ReplyTo(1), request });
        match self.log.iter().rev().find(|a| matches!(a, Action::Reply { .. })) {
            Some(Action::Reply { answer, .. }) => answer.clone(),
            _ => panic!("no answer"),
        }
    }

    /// The member has finished what it had of its revoked rights, and says so.
    pub fn drain(&mut self, id: &MemberId) {
        let member = self.members.get_mut(id).unwrap();
        let Some(conn) = member.conn else { return };
        for (right, (epoch, to)) in std::mem::take(&mut member.narrowing) {
            if member.held.get(&right) == Some(&epoch) {
                member.held.remove(&right);
                member.held.insert(right.with(to), epoch);
                let message = FromClient::Narrowed { member: id.clone(), right, epoch, to };
                if let Some(queue) = self.up.get_mut(&conn) {
                    queue.push_back(Input::FromClient { conn, message });
                }
            }
        }
        for (right, epoch) in std::mem::take(&mut member.draining) {
            assert_eq!(member.held.remove(&right), Some(epoch));
            let message = FromClient::Drained { member: id.clone(), right, epoch };
            if let Some(queue) = self.up.get_mut(&conn) {
                queue.push_back(Input::FromClient { conn, message });
            }
        }
    }

    /// Time passes; whoever is connected pings.
    pub fn pass(&mut self, ms: u64) {
        self.now = self.now + Duration::from_millis(ms);
        for conn in self.up.keys().copied().collect::<Vec<_>>() {
            self.machine.handle(
                self.now,
                Input::Heard { conn, at: self.now },
                &mut Effects::default(),
            );
        }
        if self.machine.next_wakeup().is_some_and(|at| at <= self.now) {
            self.wake();
        }
    }

    /// Everything arrives, except what members have to say about draining.
    pub fn deliver(&mut self) {
        while let Some(conn) = self
            .up
            .iter()
            .find(|(_, q)| !q.is_empty())
            .map(|(conn, _)| *conn)
            .or_else(|| self.down.iter().find(|(_, q)| !q.is_empty()).map(|(conn, _)| *conn))
        {
            self.arrive_up(conn);
            self.arrive_down(conn);
        }
    }

    /// Everything arrives, everyone drains, and the plans that are due are made.
    pub fn calm(&mut self) {
        for _ in 0..12 {
            self.deliver();
            for id in self.members.keys().cloned().collect::<Vec<_>>() {
                self.drain(&id);
            }
            self.deliver();
            for id in self.workers.keys().cloned().collect::<Vec<_>>() {
                self.copy(&id, 1000);
            }
            self.deliver();
            self.pass(250);
        }
    }

    pub fn rights(&self) -> Vec<RightRow> {
        self.machine.rights.values().map(|right| right.row().clone()).collect()
    }

    /// How many rights each member has been granted.
    pub fn shares(&self) -> BTreeMap<MemberId, usize> {
        let mut shares: BTreeMap<MemberId, usize> =
            self.machine.members.keys().map(|(_, member)| (member.clone(), 0)).collect();
        for row in self.rights() {
            if let Phase::Granted(holder) = row.phase {
                *shares.entry(holder.member).or_default() += 1;
            }
        }
        shares
    }

    /// How many lanes each member has been granted.
    pub fn lanes(&self) -> BTreeMap<MemberId, u32> {
        let mut lanes: BTreeMap<MemberId, u32> =
            self.machine.members.keys().map(|(_, member)| (member.clone(), 0)).collect();
        for row in self.rights() {
            if let Phase::Granted(holder) = row.phase {
                *lanes.entry(holder.member).or_default() += u32::from(row.id.lanes.count());
            }
        }
        lanes
    }

    /// How many queues each worker leads.
    pub fn led(&self) -> BTreeMap<WorkerId, usize> {
        let mut led = BTreeMap::new();
        for queue in self.machine.queues.values() {
            *led.entry(queue.row().primary.clone().unwrap()).or_default() += 1;
        }
        led
    }

    pub fn moves(&self) -> (u64, u64) {
        (self.machine.meta.moves, self.machine.meta.lower_bound)
    }

    pub fn has_event(&self, event: &Event) -> bool {
        self.events.contains(event)
    }
}

fn proto_hash(text: &str) -> u64 {
    ringway_proto::hash::hash(text.as_bytes())
}
