//! All queues that one shard is responsible for, those that are copied here, and the epochs of
//! those that were removed. It routes each input to its queue and promises that a removed copy does
//! not come back under an old epoch; the rules of a queue or a copy are not here.

mod copies;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ringway_proto::admin::QueueLag;
use ringway_proto::batch::Batch;
use ringway_proto::control::{FromWorker, HeldQueue, OpenQueue, OpenRight, Order, RightEpoch};
use ringway_proto::routing::Router;
use ringway_proto::{
    Attempt, Code, Epoch, Offset, QueueId, Refusal, RightId, RoutingVersion, SubscriptionId, Time,
    Uuid, WallTime,
};

use super::copy::Copy;
use super::delivery::{Frame, Right, Tally};
use super::hosted::{HeldOpen, Hosted};
use super::queue::{Append, Queue, StoredBatch, stale};
use super::slots::{Routes, Table};
use super::step::Step;
use super::{Action, LateOrder, Rules, Selection, StreamId};
use crate::records::ControlRecord;

/// How a subscription stands at a queue, for those who look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RightState {
    /// The subscription's name.
    pub subscription: String,
    /// The queue's name, `GROUP/N`.
    pub queue: String,
    /// How far it is.
    pub lag: QueueLag,
    /// About when the oldest message that is not acked arrived.
    pub oldest: Option<WallTime>,
}

/// The queues of one shard.
#[derive(Clone, Debug)]
pub struct Host {
    rules: Rules,
    table: Table,
    /// Queues that the routing gives to this worker.
    ours: BTreeSet<QueueId>,
    hosted: BTreeMap<QueueId, Hosted>,
    copies: BTreeMap<QueueId, Copy>,
    /// The number of the last copy or question; each has one of its own.
    last_number: u64,
    removed: BTreeMap<QueueId, Epoch>,
    /// What remains of a copy that was given up: the attempt at or below which it is not begun
    /// again.
    dropped: BTreeMap<QueueId, (Uuid, Attempt)>,
    /// Rights with acks or a floor to write, or acks to confirm.
    unwritten: BTreeSet<RightId>,
}

impl Host {
    /// No queues.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            table: Table::default(),
            ours: BTreeSet::new(),
            hosted: BTreeMap::new(),
            copies: BTreeMap::new(),
            last_number: 0,
            removed: BTreeMap::new(),
            dropped: BTreeMap::new(),
            unwritten: BTreeSet::new(),
        }
    }

    /// The routing version that is known.
    #[must_use]
    pub fn routing(&self) -> RoutingVersion {
        self.table.version
    }

    /// The routing that holds now, which gives these queues to this worker. What waited for the
    /// moves that it contains is decided.
    pub fn set_routing(
        &mut self,
        router: Arc<Router>,
        ours: BTreeSet<QueueId>,
        out: &mut Vec<Action>,
    ) {
        if router.version() < self.table.version {
            return;
        }
        self.ours = ours;
        self.table.version = router.version();
        let is_news =
            self.table.router.is_none() || router.moves().through() > self.table.moves.through();
        if is_news {
            self.table.moves = router.moves().clone();
        }
        self.table.router = Some(router);
        if is_news {
            let (table, rules) = (&self.table, &self.rules);
            for (id, hosted) in &mut self.hosted {
                hosted.learn_moves(*id, &table.moves, out);
                hosted.release(table, rules, out);
            }
        }
    }

    /// Every queue, in order.
    pub fn queues(&self) -> impl Iterator<Item = (QueueId, &Hosted)> {
        self.hosted.iter().map(|(id, hosted)| (*id, hosted))
    }

    /// One queue.
    #[must_use]
    pub fn queue(&self, id: QueueId) -> Option<&Hosted> {
        self.hosted.get(&id)
    }

    /// One right.
    #[must_use]
    pub fn right(&self, id: &RightId) -> Option<&Right> {
        self.hosted.get(&id.queue)?.rights.get(id)
    }

    /// Every queue as it is said at registration.
    #[must_use]
    pub fn held(&self) -> Vec<HeldQueue> {
        self.queues().map(|(id, hosted)| hosted.held(id)).collect()
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Decides about an append of `batch`.
    pub fn append(
        &mut self,
        queue: QueueId,
        mut append: Append,
        batch: &Batch,
        out: &mut Vec<Action>,
    ) {
        match self.hosted.get_mut(&queue) {
            Some(hosted) => {
                // Also one that waits is decided on when the queue may have seals.
                if hosted.queue.sealed().is_some() || !hosted.queue.slots.is_empty() {
                    append.routes = Routes::of(batch);
                }
                hosted.queue.append(append, &self.table, &self.rules, out);
            }
            None => {
                let refusal = self.not_here(queue, append.routing);
                out.push(Action::Refuse { token: append.token, refusal });
            }
        }
    }

    /// A queue that is not here may be on its way here, which frees nothing, or be elsewhere.
    fn not_here(&self, queue: QueueId, asked_under: RoutingVersion) -> Refusal {
        if self.ours.contains(&queue) || asked_under > self.table.version {
            return Refusal::new(Code::NotYet, format!("queue {queue} is not open here yet"));
        }
        stale(format!("queue {queue} is not served here"), self.table.version)
    }

    /// Does what the coordinator says.
    pub fn step(&mut self, now: Time, queue: QueueId, step: Step, out: &mut Vec<Action>) {
        match step {
            Step::Open(open) => self.open_queue(now, &open, out),
            Step::Tombstone { uuid, epoch } => self.remove(queue, uuid, epoch, out),
            Step::Copy(copy) => self.copy_queue(&copy, out),
            Step::DropCopy { uuid, attempt } => {
                if self
                    .copies
                    .get(&queue)
                    .is_some_and(|c| c.uuid() == uuid && c.attempt() <= attempt)
                {
                    self.forget_copy(queue, attempt, out);
                }
                self.note_dropped(queue, uuid, attempt);
                out.push(Action::Tell(FromWorker::CopyDropped { queue, attempt }));
            }
            step => {
                let rules = self.rules;
                let Some(hosted) = self.hosted.get_mut(&queue) else { return };
                match step {
                    Step::Seal { epoch, attempt, only_if_empty } => {
                        hosted.seal(queue, epoch, attempt, only_if_empty, &rules, out);
                    }
                    Step::Unseal { attempt } => {
                        hosted.unseal(queue, attempt, out);
                        self.release(now, queue, out);
                    }
                    Step::Start(setup) => {
                        hosted.start(queue, &setup, out);
                        hosted.tell_passed(out);
                    }
                    Step::Raise(to) => {
                        if hosted.raise(&to, out) {
                            let RightEpoch { right, epoch, .. } = to;
                            out.push(Action::Tell(FromWorker::RightRaised { right, epoch }));
                        }
                    }
                    Step::SealSlots { epoch, moved } => {
                        hosted.seal_slots(queue, epoch, &moved, out);
                        // It may have taken effect already.
                        hosted.learn_moves(queue, &self.table.moves, out);
                    }
                    Step::AwaitFence { subscription, fence, at } => {
                        hosted.fences.watch(subscription, fence, at);
                        hosted.tell_passed(out);
                    }
                    Step::FencesPassed { subscription, passed } => {
                        hosted.pass_fences(queue, subscription, passed, out);
                    }
                    Step::Revoke { right, epoch } => {
                        if let Some(right) = hosted.rights.get_mut(&right) {
                            right.revoke(epoch);
                        }
                    }
                    Step::Split(order) => hosted.split(queue, &order, out),
                    Step::Merge(order) => hosted.merge(queue, &order, out),
                    Step::Open(_)
                    | Step::Tombstone { .. }
                    | Step::Copy(_)
                    | Step::DropCopy { .. } => {}
                }
            }
        }
    }

    fn open_queue(&mut self, now: Time, open: &OpenQueue, out: &mut Vec<Action>) {
        if let Some(why) = self.against_open(open) {
            out.push(Action::Late { queue: open.queue, order: LateOrder::OpenQueue, why });
            return;
        }
        let id = open.queue;
        if let Some(copy) = self.copies.get(&id).filter(|copy| copy.uuid() != open.uuid) {
            self.forget_copy(id, copy.attempt(), out);
        }
        let fresh = !self.hosted.contains_key(&id);
        self.open_copy(id);
        let hosted = self.hosted.entry(id).or_insert_with(|| Hosted::new(Queue::new(open)));
        hosted.open(open, fresh, &self.table.moves, out);
        self.release(now, id, out);
    }

    /// What was copied becomes the queue.
    fn open_copy(&mut self, id: QueueId) {
        if let Some(copy) = self.copies.remove(&id) {
            self.hosted.insert(id, copy.into_hosted());
        }
    }

    /// Decides anew about what waited for a seal, if it is lifted: batches in their order, then
    /// acks, then opens, which may list what those acks are about, each followed by what came after
    /// it.
    fn release(&mut self, now: Time, id: QueueId, out: &mut Vec<Action>) {
        let Some(hosted) = self.hosted.get_mut(&id) else { return };
        if hosted.queue.sealed().is_some() {
            return;
        }
        hosted.release(&self.table, &self.rules, out);
        for right in hosted.rights.values_mut() {
            right.release_acks(out);
        }
        let opens = hosted.take_held_opens();
        self.unwritten.extend(hosted.rights.keys());
        for HeldOpen { stream, request, frames, .. } in opens {
            match self.open_right(now, stream, &request, out) {
                Ok(()) => {
                    for frame in &frames {
                        self.frame(now, stream, request.right, request.epoch, frame, out);
                    }
                }
                Err(refusal) => out.push(Action::Close { stream, refusal: Some(refusal) }),
            }
        }
    }

    fn against_open(&self, open: &OpenQueue) -> Option<String> {
        if let Some(removed) = self.removed.get(&open.queue).filter(|e| open.epoch <= **e) {
            return Some(format!(
                "it asks for epoch {}, and the copy was removed under epoch {removed}",
                open.epoch
            ));
        }
        // A copy that is not whole lacks messages that were acked.
        let copy = self.copies.get(&open.queue).filter(|c| c.uuid() == open.uuid && !c.is_whole());
        if let Some(copy) = copy {
            return Some(format!("its copy is not whole: it ends at {}", copy.copied()));
        }
        let hosted = self.hosted.get(&open.queue)?;
        let queue = &hosted.queue;
        let frozen = || {
            (open.epoch == queue.epoch() && hosted.is_frozen())
                .then(|| "the queue is sealed to be moved".to_owned())
        };
        // Another log under the same name goes only by a tombstone.
        against(queue, open.uuid)
            .or_else(|| (open.epoch < queue.epoch()).then(|| older(queue, open.epoch)))
            .or_else(frozen)
    }

    fn remove(&mut self, queue: QueueId, uuid: Uuid, epoch: Epoch, out: &mut Vec<Action>) {
        if let Some(hosted) = self.hosted.get(&queue) {
            let held = &hosted.queue;
            let why =
                against(held, uuid).or_else(|| (epoch <= held.epoch()).then(|| older(held, epoch)));
            if let Some(why) = why {
                out.push(Action::Late { queue, order: LateOrder::Tombstone, why });
                return;
            }
            if let Some(mut hosted) = self.hosted.remove(&queue) {
                hosted.leave(self.table.version, out);
            }
            out.push(Action::Forget(queue));
        }
        let older = |copy: &&Copy| copy.uuid() == uuid && copy.epoch() < epoch;
        if let Some(copy) = self.copies.get(&queue).filter(older) {
            self.forget_copy(queue, copy.attempt(), out);
        }
        let remembered = self.removed.entry(queue).or_default();
        if *remembered < epoch {
            *remembered = epoch;
            out.push(Action::Write { queue, record: ControlRecord::Removed { uuid, epoch } });
        }
        out.push(Action::Tell(FromWorker::Removed { queue, epoch }));
    }

    /// A batch of `queue` that ends at `end` is on disk. False when that copy is gone.
    pub fn stored(
        &mut self,
        queue: QueueId,
        at: Offset,
        end: Offset,
        when: WallTime,
        out: &mut Vec<Action>,
    ) -> bool {
        let Some(hosted) = self.hosted.get_mut(&queue) else { return false };
        let news = hosted.stored(queue, end, out);
        if news {
            hosted.ages.push(at, when);
        }
        news
    }

    /// A write failed: batches that are not durable were refused and are taken back.
    pub fn roll_back(&mut self, out: &mut Vec<Action>) {
        for (id, hosted) in &mut self.hosted {
            hosted.roll_back(*id, out);
        }
        let ahead: Vec<QueueId> =
            self.copies().filter(|(_, copy)| copy.is_ahead()).map(|(id, _)| id).collect();
        for id in ahead {
            let fetch = self.next_number();
            if let Some(copy) = self.copies.get_mut(&id) {
                copy.roll_back();
                copy.fetch_again(fetch, out);
            }
        }
    }

    /// Opens a right on a stream, or keeps the open while the queue is sealed to be moved.
    ///
    /// # Errors
    /// What [`Right::open`] refuses; [`Code::NotYet`] for a right that is not known here yet.
    pub fn open_right(
        &mut self,
        now: Time,
        stream: StreamId,
        request: &OpenRight,
        out: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        let id = request.right;
        let Some(hosted) = self.hosted.get_mut(&id.queue) else {
            return Err(Refusal::new(Code::NotYet, format!("queue {} is not open here", id.queue)));
        };
        let (end, frozen) = (hosted.queue.durable(), hosted.is_frozen());
        let at = hosted.at(&id).unwrap_or(id);
        let name = &hosted.queue.name;
        let right = hosted.rights.get_mut(&at).ok_or_else(|| {
            let subscription = id.subscription;
            Refusal::new(
                Code::NotYet,
                format!("subscription {subscription} has not begun at queue {name} yet"),
            )
        })?;
        if frozen {
            right.may_open(request, &self.rules)?;
            hosted.hold_open(stream, request, out);
            return Ok(());
        }
        right.open(now, stream, request, end, &self.rules, out)?;
        self.unwritten.insert(at);
        Ok(())
    }

    /// What a holder said on its stream, which it opened under `epoch`.
    pub fn frame(
        &mut self,
        now: Time,
        stream: StreamId,
        id: RightId,
        epoch: Epoch,
        frame: &Frame,
        out: &mut Vec<Action>,
    ) -> Tally {
        let rules = self.rules;
        let Some(hosted) = self.hosted.get_mut(&id.queue) else { return Tally::default() };
        if hosted.hold_frame(stream, &id, frame, out) {
            return Tally::default();
        }
        let frozen = hosted.is_frozen();
        // A stream goes on when its right is split, and names what it opened.
        let Some(id) = hosted.at(&id) else { return Tally::default() };
        let Some(right) = hosted.rights.get_mut(&id) else { return Tally::default() };
        if let Frame::Ack(acks) = frame
            && frozen
        {
            return right.hold_ack(stream, epoch, acks, out);
        }
        let tally = right.frame(now, stream, epoch, frame, &rules, out);
        if matches!(frame, Frame::Ack(_)) && !tally.fenced {
            self.unwritten.insert(id);
        }
        tally
    }

    /// A stream has ended.
    pub fn closed(&mut self, stream: StreamId, id: RightId) {
        if let Some(hosted) = self.hosted.get_mut(&id.queue) {
            hosted.closed(stream, &id);
        }
    }

    /// Ends the stream of a right that cannot be served.
    pub fn close_right(&mut self, id: &RightId, refusal: &Refusal, out: &mut Vec<Action>) {
        if let Some(right) = self.right_mut(id) {
            right.close(refusal, out);
        }
    }

    fn right_mut(&mut self, id: &RightId) -> Option<&mut Right> {
        self.hosted.get_mut(&id.queue)?.rights.get_mut(id)
    }

    /// What was passed over counts as looked at also after a restart that comes now.
    pub fn write_floors(&mut self) {
        for hosted in self.hosted.values() {
            let ahead = hosted.rights.iter().filter(|(_, right)| right.floor_is_ahead_by(1));
            self.unwritten.extend(ahead.map(|(id, _)| *id));
        }
    }

    /// The records of all acks that no record holds yet, each followed by its confirmation.
    pub fn write_acks(&mut self, out: &mut Vec<Action>) {
        for id in std::mem::take(&mut self.unwritten) {
            // What was applied before a seal was written before it; a frozen queue writes nothing.
            if self.hosted.get(&id.queue).is_some_and(Hosted::is_frozen) {
                continue;
            }
            let Some(right) = self.right_mut(&id) else { continue };
            let (record, confirm) = right.take_unwritten();
            out.extend(record.map(|record| Action::Write { queue: id.queue, record }));
            out.extend(confirm.map(|(stream, confirmed)| Action::Confirm { stream, confirmed }));
        }
        for hosted in self.hosted.values_mut().filter(|hosted| hosted.fences.is_watched()) {
            hosted.tell_passed(out);
        }
    }

    /// Whether [`Host::write_acks`] has something to write.
    #[must_use]
    pub fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// The offset that a right wants to see next.
    #[must_use]
    pub fn wants(&self, id: &RightId) -> Option<Offset> {
        let hosted = self.hosted.get(&id.queue)?;
        hosted.rights.get(id)?.wants(hosted.queue.durable(), &self.rules)
    }

    /// Which classes of `batch` the subscription of the right wants.
    #[must_use]
    pub fn matching(&self, id: &RightId, batch: &Batch) -> Vec<bool> {
        let setup = self.hosted.get(&id.queue).and_then(|h| h.subscriptions.get(&id.subscription));
        let matches = |class: &ringway_proto::Class| {
            setup.is_some_and(|setup| setup.filter.matches(class.as_str()))
        };
        batch.classes().iter().map(matches).collect()
    }

    /// Picks what the right may be sent of `batch`, the one that holds what it wants.
    pub fn select(&mut self, id: &RightId, base: Offset, batch: &Batch) -> Option<Selection> {
        let matching = self.matching(id, batch);
        let rules = self.rules;
        let hosted = self.hosted.get_mut(&id.queue)?;
        let end = hosted.queue.durable();
        let right = hosted.rights.get_mut(id)?;
        let is_ordered = hosted
            .subscriptions
            .get(&id.subscription)
            .is_some_and(|setup| setup.order == Order::Key);
        let moves = &self.table.moves;
        let gate = if is_ordered && moves.gave(id.queue) {
            hosted.fences.gate(id.queue, id.subscription, moves)
        } else {
            None
        };
        let selection = right.select(base, batch, &matching, gate, end, &rules);
        let is_ahead = right.floor_is_ahead_by(rules.floor_every_offsets);
        if is_ahead || hosted.fences.is_watched() {
            self.unwritten.insert(*id);
        }
        selection
    }

    /// A deadline of a right has passed.
    pub fn wake(&mut self, now: Time, id: &RightId, out: &mut Vec<Action>) {
        if let Some(hosted) = self.hosted.get_mut(&id.queue) {
            hosted.wake(now, id, out);
        }
    }

    /// How every subscription stands at every queue.
    #[must_use]
    pub fn states(&self) -> Vec<RightState> {
        let mut states = Vec::new();
        for (id, hosted) in self.queues() {
            states.extend(hosted.subscriptions.keys().filter_map(|of| state(hosted, id, *of)));
        }
        states
    }

    /// How far a subscription is at each queue here.
    #[must_use]
    pub fn lag(&self, subscription: SubscriptionId) -> Vec<QueueLag> {
        let mut lags = Vec::new();
        for (id, hosted) in self.queues() {
            lags.extend(state(hosted, id, subscription).map(|state| state.lag));
        }
        lags
    }

    /// Takes a batch from the journal at a start.
    ///
    /// # Errors
    /// [`Code::Damaged`] for a batch that no queue can have taken.
    pub fn replay_batch(&mut self, batch: &StoredBatch) -> Result<(), Refusal> {
        let StoredBatch { queue, at, .. } = *batch;
        if let Some(copy) = self.copies.get_mut(&queue) {
            return copy.replay_batch(batch);
        }
        let hosted = self.hosted.get_mut(&queue).ok_or_else(|| {
            Refusal::new(
                Code::Damaged,
                format!("the journal holds offset {at} of queue {queue}, which was never opened"),
            )
        })?;
        hosted.queue.replay(batch)?;
        hosted.ages.push(at, batch.appended_at);
        Ok(())
    }

    /// Takes a control record from the journal at a start. True when it removed the queue or its
    /// copy.
    ///
    /// # Errors
    /// [`Code::Damaged`] for a record that cannot be about this queue.
    pub fn replay_record(&mut self, id: QueueId, record: ControlRecord) -> Result<bool, Refusal> {
        if let ControlRecord::SlotsMoved { through, moves } = &record {
            self.table.moves.extend(*through, moves.iter().cloned())?;
        }
        match record {
            ControlRecord::Copying { uuid, name, epoch, attempt } => {
                let born = self.next_number();
                self.begin_copy(id, uuid, name, epoch, attempt, born);
                return Ok(false);
            }
            ControlRecord::Copied(snapshot) => {
                let copy = self.copies.get_mut(&id).ok_or_else(|| never_began(id))?;
                copy.replay_copied(&snapshot)?;
                return Ok(false);
            }
            ControlRecord::CopyDropped { uuid, attempt } => {
                self.note_dropped(id, uuid, attempt);
                return Ok(self.copies.remove(&id).is_some());
            }
            ControlRecord::Removed { epoch, .. } => {
                self.hosted.remove(&id);
                let remembered = self.removed.entry(id).or_default();
                *remembered = epoch.max(*remembered);
                return Ok(!self.copies.contains_key(&id));
            }
            ControlRecord::Opened { uuid, ref name, epoch, max_body_bytes } => {
                self.open_copy(id);
                self.hosted.entry(id).or_insert_with(|| {
                    Hosted::new(Queue::empty(id, uuid, name.clone(), epoch, max_body_bytes))
                });
            }
            _ => {}
        }
        let hosted = self.hosted.get_mut(&id).ok_or_else(|| never_began(id))?;
        hosted.replay(id, record)?;
        Ok(false)
    }

    /// Splits into several hosts, `shard_of` naming that of each queue.
    #[must_use]
    pub fn split(self, shards: usize, shard_of: impl Fn(QueueId) -> usize) -> Vec<Host> {
        let mut hosts: Vec<Host> = (0..shards).map(|_| Host::new(self.rules)).collect();
        for (id, hosted) in self.hosted {
            if let Some(host) = hosts.get_mut(shard_of(id)) {
                host.table.moves = self.table.moves.clone();
                host.hosted.insert(id, hosted);
            }
        }
        for (id, copy) in self.copies {
            if let Some(host) = hosts.get_mut(shard_of(id)) {
                host.last_number = host.last_number.max(self.last_number);
                host.copies.insert(id, copy);
            }
        }
        for (id, epoch) in self.removed {
            if let Some(host) = hosts.get_mut(shard_of(id)) {
                host.removed.insert(id, epoch);
            }
        }
        for (id, over) in self.dropped {
            if let Some(host) = hosts.get_mut(shard_of(id)) {
                host.dropped.insert(id, over);
            }
        }
        hosts
    }
}

fn never_began(id: QueueId) -> Refusal {
    let text = format!("the journal holds a record of queue {id}, which was never opened");
    Refusal::new(Code::Damaged, text)
}

/// What stands against an order about the log `uuid`.
fn against(held: &Queue, uuid: Uuid) -> Option<String> {
    (held.uuid != uuid).then(|| format!("it is about log {uuid}, and this one is {}", held.uuid))
}

fn older(held: &Queue, epoch: Epoch) -> String {
    format!("it comes under epoch {epoch}, and the queue is open under {}", held.epoch())
}

fn state(hosted: &Hosted, id: QueueId, subscription: SubscriptionId) -> Option<RightState> {
    let setup = hosted.subscriptions.get(&subscription)?;
    let queue = &hosted.queue;
    let rights = || hosted.rights_of(id, subscription);
    let floor = rights().map(Right::floor).min()?;
    let lag_messages = hosted.lag_of(id, subscription, queue.durable());
    let mut holders = rights().map(|right| right.holder().map(|holder| &holder.member));
    let member = holders.next().flatten().filter(|first| holders.all(|h| h == Some(first)));
    Some(RightState {
        subscription: setup.name.to_string(),
        queue: queue.name.clone(),
        oldest: (lag_messages > 0).then(|| hosted.ages.arrived(floor)).flatten(),
        lag: QueueLag {
            queue: queue.name.clone(),
            end: queue.durable(),
            floor,
            lag_messages,
            in_flight_messages: rights().map(|right| right.in_flight() as u64).sum(),
            fenced_messages: rights().map(|right| right.fenced_messages() as u64).sum(),
            member: member.cloned(),
        },
    })
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "move_tests.rs"]
mod move_tests;

#[cfg(test)]
#[path = "grow_tests.rs"]
mod grow_tests;
