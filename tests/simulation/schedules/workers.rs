//! The workers of a cluster that is played by hand: the shipped host, and a journal that keeps what
//! was synced. Unless the schedule slows its disk down, everything is synced at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringway_proto::batch::Batch;
use ringway_proto::control::{CopyState, FromWorker, OpenRight, Register, ToWorker};
use ringway_proto::data::{AckConfirmed, Deliver, OffsetRange};
use ringway_proto::hash::lane_of_message;
use ringway_proto::routing::Router;
use ringway_proto::{
    Epoch, Holder, Incarnation, Offset, OpenNumber, QueueId, RightId, SubscriptionId, Time, Uuid,
    WallTime, WorkerId,
};
use ringway_tests::sim::history::What;
use ringway_worker::logic::delivery::Frame;
use ringway_worker::logic::host::Host;
use ringway_worker::logic::queue::{Append, StoredBatch};
use ringway_worker::logic::step::Step;
use ringway_worker::logic::{Action, Rules, Selection, StreamId, Token};
use ringway_worker::records::ControlRecord;

use super::Repair;
use super::appends::{Waiting, values_of};
use super::cluster::{C, Cluster, Mail, Name};

#[derive(Clone, Debug)]
pub(super) enum Written {
    Batch(StoredBatch, Batch),
    Record(QueueId, ControlRecord),
}

pub struct Worker {
    pub(super) id: WorkerId,
    /// None while it is down.
    pub host: Option<Host>,
    pub(super) journal: Vec<Written>,
    /// Up to where the journal is about copies that are gone.
    forgotten: BTreeMap<QueueId, usize>,
    /// What waits for the next sync.
    pending: Vec<Action>,
    slow: bool,
    streams: BTreeMap<StreamId, (Name, RightId, Epoch, Holder)>,
    /// The stream that each right was opened on last.
    newest: BTreeMap<RightId, StreamId>,
    /// The open of each stream, as its member numbered it and as the host was told.
    numbers: BTreeMap<StreamId, (OpenNumber, OpenNumber)>,
    pub(super) waiting: BTreeMap<Token, Waiting>,
    pub(super) tokens: Token,
    /// The newest routing that it was told.
    pub(super) router: Option<Arc<Router>>,
    /// What copies ask for: the number of the question, whom, and what that said last.
    pub(super) fetches: BTreeMap<QueueId, (u64, String, Option<CopyState>)>,
    looks: Vec<RightId>,
    opens: u64,
    starts: u64,
}

impl Worker {
    pub fn is_up(&self) -> bool {
        self.host.is_some()
    }

    pub(super) fn host(&mut self) -> &mut Host {
        self.host.as_mut().expect("it is up")
    }

    /// The batches of the copies that it has.
    fn log(&self) -> impl DoubleEndedIterator<Item = (StoredBatch, Batch)> + '_ {
        self.journal.iter().enumerate().filter_map(|(i, written)| match written {
            Written::Batch(stored, batch) => {
                let is_gone = self.forgotten.get(&stored.queue).is_some_and(|end| i < *end);
                (!is_gone).then(|| (*stored, batch.clone()))
            }
            Written::Record(..) => None,
        })
    }

    pub(super) fn batch_at(&self, queue: QueueId, at: Offset) -> Option<(StoredBatch, Batch)> {
        self.log().rfind(|(stored, _)| (stored.queue, stored.at) == (queue, at))
    }

    /// The lanes of messages that it has.
    fn lanes_of(&self, queue: QueueId, ranges: &[OffsetRange]) -> Vec<u16> {
        let lane = |at: Offset| {
            let holds = |(stored, _): &(StoredBatch, Batch)| {
                stored.queue == queue && (stored.at..stored.end()).contains(&at)
            };
            let (stored, batch) = self.log().find(holds)?;
            Some(lane_of_message(batch.key((at.0 - stored.at.0) as usize), at))
        };
        ranges.iter().flat_map(|range| range.offsets()).filter_map(lane).collect()
    }

    /// Without its repair: what confirms an ack of lanes that have left their right.
    fn foreign(
        &self,
        now: Time,
        stream: StreamId,
        right: RightId,
        epoch: Epoch,
        frame: &Frame,
    ) -> Option<AckConfirmed> {
        let Frame::Ack(acks) = frame else { return None };
        let host = self.host.as_ref()?;
        let current = host.queue(right.queue)?.at(&right)?;
        let is_current = host.right(&current)?.epoch() == epoch;
        let tally = host.clone().frame(now, stream, right, epoch, frame, &mut Vec::new());
        (is_current && tally.fenced)
            .then_some(AckConfirmed { open: acks.open, number: acks.number })
    }

    /// Whether a split or a merge waits for the next sync.
    fn is_laying(&self) -> bool {
        let lays = |record: &ControlRecord| {
            matches!(record, ControlRecord::Split { .. } | ControlRecord::Merged { .. })
        };
        let mut pending = self.pending.iter();
        pending.any(|a| matches!(a, Action::Write { record, .. } if lays(record)))
    }

    /// The same of what is not synced.
    pub(super) fn unsynced_at(&self, queue: QueueId, from: Offset) -> Option<(StoredBatch, Batch)> {
        self.pending.iter().find_map(|action| match action {
            Action::Store { token, queue: of, at } if (*of, *at) == (queue, from) => {
                let Waiting { batch, append, .. } = self.waiting.get(token)?;
                Some((stored(queue, from, append), batch.clone()))
            }
            _ => None,
        })
    }
}

fn stored(queue: QueueId, at: Offset, append: &Append) -> StoredBatch {
    StoredBatch {
        queue,
        at,
        count: append.count,
        producer: append.producer,
        session: append.session,
        base_sequence: append.base_sequence,
        appended_at: WallTime(1),
        bytes: 10,
    }
}

impl Cluster {
    pub(super) fn worker(&mut self, name: Name) -> &mut Worker {
        self.workers.get_mut(name).unwrap()
    }

    /// A worker with an empty disk starts.
    pub fn start(&mut self, name: Name) {
        let worker = Worker {
            id: WorkerId::new(name).unwrap(),
            host: Some(Host::new(Rules::default())),
            journal: Vec::new(),
            forgotten: BTreeMap::new(),
            pending: Vec::new(),
            slow: false,
            streams: BTreeMap::new(),
            newest: BTreeMap::new(),
            numbers: BTreeMap::new(),
            waiting: BTreeMap::new(),
            tokens: 0,
            router: None,
            fetches: BTreeMap::new(),
            looks: Vec::new(),
            opens: 0,
            starts: 1,
        };
        self.workers.insert(name, worker);
        self.register(name);
    }

    fn register(&mut self, name: Name) {
        self.connect(name);
        let worker = self.worker(name);
        let register = Register {
            worker: worker.id.clone(),
            incarnation: Incarnation(worker.starts),
            journal: Uuid(name.as_bytes().iter().fold(1, |n, b| n * 256 + u128::from(*b))),
            address: format!("{name}:7400"),
            http: None,
            weight: 100,
            zone: None,
            queues: worker.host().held(),
            copies: worker.host().held_copies(),
        };
        self.send(name, C, Mail::FromWorker(FromWorker::Register(register)));
        self.run();
    }

    /// The process is gone, and with it what was not synced. Its connections break.
    pub fn crash(&mut self, name: Name) {
        for member in self.members.keys().copied().collect::<Vec<_>>() {
            self.cut(member, name);
        }
        let worker = self.worker(name);
        worker.host = None;
        worker.pending.clear();
        worker.slow = false;
        worker.streams.clear();
        worker.newest.clear();
        worker.router = None;
        worker.fetches.clear();
        worker.looks.clear();
        for (_, waiting) in std::mem::take(&mut worker.waiting) {
            self.never_answered(&waiting);
        }
        self.leave_producers(name);
    }

    /// It starts again on what its disk has.
    pub fn restart(&mut self, name: Name) {
        let forgets = self.is_out(Repair::RemovalsAreRemembered);
        let worker = self.worker(name);
        let is_removal = |written: &Written| match written {
            Written::Record(queue, ControlRecord::Removed { .. }) => Some(*queue),
            _ => None,
        };
        let removed: Vec<QueueId> = worker.journal.iter().filter_map(is_removal).collect();
        let mut host = Host::new(Rules::default());
        for written in worker.journal.clone() {
            match written {
                Written::Batch(stored, _) if forgets && removed.contains(&stored.queue) => {}
                Written::Record(queue, _) if forgets && removed.contains(&queue) => {}
                Written::Batch(stored, _) => host.replay_batch(&stored).unwrap(),
                Written::Record(queue, record) => {
                    host.replay_record(queue, record).map(drop).unwrap();
                }
            }
        }
        worker.host = Some(host);
        worker.starts += 1;
        self.register(name);
        self.reach_producers(name);
    }

    /// From now on nothing is synced at this worker.
    pub fn slow_disk(&mut self, name: Name) {
        self.worker(name).slow = true;
    }

    /// What waited for the disk is synced.
    pub fn quick_disk(&mut self, name: Name) {
        self.worker(name).slow = false;
        self.carry(name, Vec::new());
        self.run();
    }

    /// An order of the coordinator.
    pub fn order(&mut self, name: Name, order: ToWorker) {
        if self.worker(name).host.is_none() {
            return;
        }
        let any_epoch = self.is_out(Repair::TombstonesHaveAnEpoch);
        let drains = self.is_out(Repair::OnlyMembersDrain);
        let order = match order {
            ToWorker::RegisterRefused(refusal) => panic!("{name}: {refusal}"),
            ToWorker::Routing(mut routing) => {
                if self.is_out(Repair::FencesAreAChain) {
                    routing.moves = routing.moves.pop().into_iter().collect();
                }
                let group = |g: &ringway_proto::routing::GroupRoute| {
                    let ours = g.queues.iter().zip(0..).filter(|(route, _)| {
                        route.primary.as_ref().is_some_and(|p| p.as_str() == name)
                    });
                    ours.map(|(_, index)| QueueId::new(g.id, index)).collect::<Vec<_>>()
                };
                let ours = routing.groups.iter().flat_map(group).collect();
                let router = Arc::new(Router::new(routing).unwrap());
                let mut out = Vec::new();
                let worker = self.worker(name);
                worker.router = Some(Arc::clone(&router));
                worker.host().set_routing(router, ours, &mut out);
                return self.carry(name, out);
            }
            ToWorker::Tombstone { queue, uuid, epoch } => {
                let held = self.worker(name).host().queue(queue);
                let above = held.map(|hosted| hosted.queue.epoch().next()).filter(|_| any_epoch);
                ToWorker::Tombstone { queue, uuid, epoch: epoch.max(above.unwrap_or(epoch)) }
            }
            order => order,
        };
        match &order {
            ToWorker::StartSubscription { queue, setup }
                if self.is_out(Repair::FencesBindLaterSubscriptions) =>
            {
                self.pass_every_fence(name, *queue, setup.id);
            }
            ToWorker::Revoke { right, epoch } if drains => {
                let known = self.worker(name).host().right(right);
                let known = known.filter(|r| r.epoch() == *epoch && r.in_flight() == 0);
                if let Some(holder) = known.and_then(|right| right.holder().cloned()) {
                    self.drain_for(*right, *epoch, &holder);
                }
            }
            _ => {}
        }
        let Some((queue, step)) = Step::of(order) else { return };
        let (now, mut out) = (self.now, Vec::new());
        self.worker(name).host().step(now, queue, step, &mut out);
        self.carry(name, out);
    }

    /// Without its repair: a subscription that begins later has passed every fence.
    fn pass_every_fence(&mut self, name: Name, queue: QueueId, subscription: SubscriptionId) {
        let now = self.now;
        let worker = self.worker(name);
        let moves = worker.router.as_ref().map(|router| router.moves().all_fences().collect());
        let step = Step::FencesPassed { subscription, passed: moves.unwrap_or_default() };
        worker.host().step(now, queue, step, &mut Vec::new());
    }

    /// A member opens a right.
    pub fn open(&mut self, member: Name, name: Name, stream: StreamId, request: &OpenRight) {
        let now = self.now;
        let blind = self.is_out(Repair::NewProcessIsNewHolder);
        let takes_older = self.is_out(Repair::OnlyNewerOpens);
        let worker = self.worker(name);
        let Some(host) = worker.host.as_mut() else { return };
        let mut asked = request.clone();
        if blind {
            asked.holder.incarnation = Incarnation(1);
        }
        if takes_older {
            worker.opens += 1;
            asked.open = OpenNumber(1_000_000 + worker.opens);
        }
        worker.numbers.insert(stream, (request.open, asked.open));
        let OpenRight { right, epoch, holder, .. } = request.clone();
        worker.streams.insert(stream, (member, right, epoch, holder.clone()));
        let mut out = Vec::new();
        match host.open_right(now, stream, &asked, &mut out) {
            Ok(()) => {
                worker.newest.insert(right, stream);
                let copy = host.queue(right.queue).map_or(Epoch(0), |h| h.queue.epoch());
                if !request.acks.is_empty() {
                    let lanes = self.worker(name).lanes_of(right.queue, &request.acks);
                    self.note(What::Acked { right, epoch, holder: holder.clone(), lanes });
                }
                self.note(What::Opened { right, copy, epoch, holder });
            }
            Err(refusal) => out.push(Action::Close { stream, refusal: Some(refusal) }),
        }
        self.carry(name, out);
    }

    /// A member says something on a stream.
    pub fn say(&mut self, name: Name, mut stream: StreamId, mut frame: Frame) {
        let now = self.now;
        let unnumbered = self.is_out(Repair::OpensAreNumbered);
        let worker = self.worker(name);
        let Some((_, right, epoch, holder)) = worker.streams.get(&stream).cloned() else {
            return;
        };
        if !worker.is_up() {
            return;
        }
        if unnumbered && let Some(newest) = worker.newest.get(&right) {
            stream = *newest;
        }
        let (own, asked) = worker.numbers[&stream];
        if let Frame::HandedOut(r) | Frame::Return(r) | Frame::Nack(r) = &mut frame
            && (unnumbered || r.open == own)
        {
            r.open = asked;
        }
        let mut out = Vec::new();
        let any_lane = self.is_out(Repair::AcksAreOfTheLanes);
        let worker = self.workers.get_mut(name).unwrap();
        let foreign = any_lane.then(|| worker.foreign(now, stream, right, epoch, &frame)).flatten();
        let host = worker.host();
        let refused = match foreign {
            // As if it counted: it is confirmed like any other.
            Some(confirmed) => {
                out.push(Action::Confirm { stream, confirmed });
                false
            }
            None => host.frame(now, stream, right, epoch, &frame, &mut out).fenced,
        };
        let hosted = host.queue(right.queue).filter(|hosted| !hosted.is_frozen());
        if let (Frame::Ack(acks), Some(hosted)) = (&frame, hosted)
            && !refused
        {
            let right = hosted.at(&right).unwrap_or(right);
            let lanes = worker.lanes_of(right.queue, &acks.ranges);
            self.note(What::Acked { right, epoch, holder, lanes });
        }
        self.carry(name, out);
    }

    /// Carries out what a host decided, in order.
    pub(super) fn carry(&mut self, name: Name, out: Vec<Action>) {
        for action in out {
            match action {
                Action::Store { token, queue, .. } => {
                    let worker = self.worker(name);
                    let (id, epoch) = (worker.id.clone(), worker.waiting[&token].append.epoch);
                    self.note(What::Accepted { queue, epoch, worker: id });
                    self.worker(name).pending.push(action);
                }
                Action::Write { record: ControlRecord::Sealed { .. }, .. }
                    if self.is_out(Repair::SealIsJournaled) => {}
                Action::Write { record: ControlRecord::SlotsSealed { .. }, .. }
                    if self.is_out(Repair::SlotSealIsJournaled) => {}
                Action::Tell(FromWorker::RightRaised { .. })
                    if self.is_out(Repair::RangesAreJournaled) && self.worker(name).is_laying() =>
                {
                    self.synced(name, action);
                }
                Action::Write { .. }
                | Action::Tell(_)
                | Action::Confirm { .. }
                | Action::Repeat { .. } => self.worker(name).pending.push(action),
                Action::Refuse { token, refusal } => self.answer(name, token, Err(refusal)),
                Action::Opened { stream, opened } => {
                    self.write_to(name, stream, Mail::Opened(stream, opened));
                }
                Action::WindowSeen { stream, window } => {
                    self.write_to(name, stream, Mail::Window(stream, window));
                }
                Action::Close { stream, refusal } => {
                    let code = refusal.map(|refusal| refusal.code);
                    self.write_to(name, stream, Mail::Closed(stream, code));
                }
                Action::Look(right) => self.worker(name).looks.push(right),
                Action::Late { .. } | Action::Retire(_) => {}
                Action::Forget(queue) => {
                    let worker = self.worker(name);
                    worker.forgotten.insert(queue, worker.journal.len());
                }
                Action::Fetch { queue, fetch, from, .. } => {
                    self.worker(name).fetches.insert(queue, (fetch, from, None));
                }
                Action::StopFetch(queue) => drop(self.worker(name).fetches.remove(&queue)),
            }
        }
        if !self.worker(name).slow {
            self.sync(name);
        }
        self.serve(name);
    }

    fn write_to(&mut self, name: Name, stream: StreamId, mut mail: Mail) {
        let worker = self.worker(name);
        let Some((member, ..)) = worker.streams.get(&stream) else { return };
        let (member, (own, _)) = (*member, worker.numbers[&stream]);
        match &mut mail {
            Mail::Opened(_, opened) => opened.open = own,
            Mail::Deliver(_, deliver) => deliver.open = own,
            Mail::Confirmed(_, confirmed) => confirmed.open = own,
            _ => {}
        }
        self.send(name, member, mail);
    }

    /// Everything that waits is written and synced, and what follows from it is said.
    fn sync(&mut self, name: Name) {
        let worker = self.worker(name);
        let host = worker.host.as_mut().unwrap();
        let mut acks = Vec::new();
        host.write_acks(&mut acks);
        worker.pending.extend(acks);
        for action in std::mem::take(&mut worker.pending) {
            self.synced(name, action);
        }
    }

    fn synced(&mut self, name: Name, action: Action) {
        let worker = self.worker(name);
        match action {
            Action::Store { token, queue, at } => {
                let Some(Waiting { batch, append, .. }) = worker.waiting.get(&token).cloned()
                else {
                    return;
                };
                let stored = stored(queue, at, &append);
                worker.journal.push(Written::Batch(stored, batch.clone()));
                let mut out = Vec::new();
                worker.host().stored(queue, at, stored.end(), WallTime(1), &mut out);
                for (value, n) in values_of(&batch).into_iter().zip(0..) {
                    let offset = Offset(at.0 + n);
                    let lane = lane_of_message(batch.key(n as usize), offset);
                    self.note(What::Stored { queue, offset, value, lane });
                }
                self.answer(name, token, Ok(at));
                self.carry(name, out);
            }
            Action::Repeat { token, at } => self.answer(name, token, Ok(at)),
            Action::Write { queue, record } => {
                let copy = worker.host().queue(queue).map_or(Epoch(0), |h| h.queue.epoch());
                if let ControlRecord::Acked { right, floor, .. } = &record {
                    let (right, floor) = (*right, *floor);
                    self.note(What::Cursor { right, copy, floor });
                }
                match &record {
                    ControlRecord::Split { right, into } => {
                        let into = into.iter().map(|part| part.right).collect();
                        self.note(What::Laid { parts: vec![*right], into });
                    }
                    ControlRecord::Merged { parts, into } => {
                        let (parts, into) = (parts.clone(), vec![into.right]);
                        self.note(What::Laid { parts, into });
                    }
                    _ => {}
                }
                self.worker(name).journal.push(Written::Record(queue, record));
            }
            Action::Tell(event) => {
                match &event {
                    FromWorker::RightRaised { right, epoch } => {
                        let hosted = worker.host().queue(right.queue);
                        let copy = hosted.map_or(Epoch(0), |h| h.queue.epoch());
                        self.note(What::Raised { right: *right, copy, epoch: *epoch });
                    }
                    FromWorker::QueueOpened { queue, epoch } => {
                        let worker = worker.id.clone();
                        self.note(What::QueueOpened { queue: *queue, epoch: *epoch, worker });
                    }
                    _ => {}
                }
                self.send(name, C, Mail::FromWorker(event));
            }
            Action::Confirm { stream, confirmed } => {
                self.write_to(name, stream, Mail::Confirmed(stream, confirmed));
            }
            _ => {}
        }
    }

    /// Sends what may be sent.
    fn serve(&mut self, name: Name) {
        while let Some(right) = self.worker(name).looks.pop() {
            let worker = self.worker(name);
            let Some(at) = worker.host().wants(&right) else { continue };
            let (stored, batch) = worker.batch_at(right.queue, at).expect("it is stored");
            let selection = worker.host().select(&right, stored.at, &batch);
            // Also when nothing of this batch is to be sent, there are others.
            if worker.host().wants(&right).is_some_and(|next| next != at) {
                worker.looks.push(right);
            }
            let Some(Selection { stream, open, entries, runs }) = selection else { continue };
            let deliver = Deliver {
                open,
                base_offset: stored.at,
                published_at: batch.published_at(),
                classes: batch.classes().len() as u16,
                entries,
                class_table: batch.class_table(),
                records: runs.into_iter().map(|(from, to)| batch.records(from, to)).collect(),
            };
            self.write_to(name, stream, Mail::Deliver(stream, deliver));
        }
    }

    /// Timers of rights and copies go off.
    pub fn wake_workers(&mut self) {
        let now = self.now;
        for name in self.workers.keys().copied().collect::<Vec<_>>() {
            let Some(host) = self.worker(name).host.as_mut() else { continue };
            let mut out = Vec::new();
            host.wake_copies(now, &mut out);
            let rights: Vec<RightId> =
                host.queues().flat_map(|(_, hosted)| hosted.rights.keys().copied()).collect();
            for right in rights {
                host.wake(now, &right, &mut out);
            }
            self.carry(name, out);
        }
    }

    /// What its primaries have that subscriptions are not done with.
    pub fn unread(&self) -> Vec<What> {
        let mut unread = Vec::new();
        for (name, worker) in &self.workers {
            let queues = worker.host.iter().flat_map(|host| host.queues());
            for (id, hosted) in queues.filter(|(id, _)| self.primary(*id) == Some(*name)) {
                for subscription in hosted.subscriptions.keys() {
                    let lag = hosted.lag_of(id, *subscription, hosted.queue.durable());
                    if lag > 0 {
                        let text = format!("{lag} messages of {id} are left to {subscription}");
                        unread.push(What::Unhealed(text));
                    }
                }
            }
        }
        unread
    }

    /// Every message in its queue's log, as its primary has it.
    pub fn logs(&self) -> Vec<What> {
        let mut logs = Vec::new();
        for (name, worker) in &self.workers {
            for (stored, batch) in worker.log() {
                if self.primary(stored.queue) != Some(*name) {
                    continue;
                }
                for (value, n) in values_of(&batch).into_iter().zip(0..) {
                    let (queue, offset) = (stored.queue, Offset(stored.at.0 + n));
                    logs.push(What::InLog { queue, offset, value });
                }
            }
        }
        logs
    }
}
