//! All queues that one shard is responsible for, and the epochs of those that were removed. It
//! routes each input to its queue and promises that a removed copy does not come back under an old
//! epoch; the rules of a queue are not here.

use std::collections::{BTreeMap, BTreeSet};

use ringway_proto::admin::QueueLag;
use ringway_proto::batch::Batch;
use ringway_proto::control::{
    FromWorker, HeldQueue, OpenQueue, OpenRight, RightEpoch, SubscriptionSetup,
};
use ringway_proto::{
    Attempt, Code, Epoch, Offset, ProducerId, QueueId, Refusal, RightId, RoutingVersion, Sequence,
    Session, SubscriptionId, Time, Uuid, WallTime,
};

use super::delivery::{Frame, Right, Tally};
use super::hosted::Hosted;
use super::queue::{Append, Queue, stale};
use super::{Action, LateOrder, Rules, Selection, StreamId};
use crate::records::ControlRecord;

/// A step that the coordinator drives, for one queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Be its primary.
    Open(OpenQueue),
    /// Accept nothing any more if it never took a message.
    Seal {
        /// The epoch that it is open under.
        epoch: Epoch,
        /// The attempt to move it.
        attempt: Attempt,
    },
    /// Accept again.
    Unseal {
        /// The newest attempt that was given up.
        attempt: Attempt,
    },
    /// Remove the copy if its epoch is lower.
    Tombstone {
        /// The log.
        uuid: Uuid,
        /// The epoch of the tombstone.
        epoch: Epoch,
    },
    /// Give a subscription a cursor.
    Start(SubscriptionSetup),
    /// Raise a right.
    Raise(RightEpoch),
    /// Send nothing more under this epoch of a right.
    Revoke {
        /// The right.
        right: RightId,
        /// The epoch.
        epoch: Epoch,
    },
}

/// A batch that the journal holds, at a start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredBatch {
    /// The queue.
    pub queue: QueueId,
    /// The offset of its first message.
    pub at: Offset,
    /// Its messages.
    pub count: u32,
    /// Who published it.
    pub producer: ProducerId,
    /// In which session.
    pub session: Session,
    /// Under which sequence.
    pub base_sequence: Sequence,
    /// When it arrived.
    pub appended_at: WallTime,
}

/// How a right stands, for those who look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RightState {
    /// The right.
    pub right: RightId,
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
    routing: RoutingVersion,
    /// Queues that the routing gives to this worker.
    ours: BTreeSet<QueueId>,
    hosted: BTreeMap<QueueId, Hosted>,
    removed: BTreeMap<QueueId, Epoch>,
    /// Rights with acks or a floor to write, or acks to confirm.
    unwritten: BTreeSet<RightId>,
}

impl Host {
    /// No queues.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            routing: RoutingVersion(0),
            ours: BTreeSet::new(),
            hosted: BTreeMap::new(),
            removed: BTreeMap::new(),
            unwritten: BTreeSet::new(),
        }
    }

    /// The routing version that is known.
    #[must_use]
    pub fn routing(&self) -> RoutingVersion {
        self.routing
    }

    /// The routing that holds now gives these queues to this worker.
    pub fn set_routing(&mut self, version: RoutingVersion, ours: BTreeSet<QueueId>) {
        if version >= self.routing {
            self.routing = version;
            self.ours = ours;
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

    /// Decides about a batch.
    pub fn append(&mut self, queue: QueueId, append: Append, out: &mut Vec<Action>) {
        match self.hosted.get_mut(&queue) {
            Some(hosted) => hosted.queue.append(append, self.routing, &self.rules, out),
            None => {
                let refusal = self.not_here(queue, append.routing);
                out.push(Action::Refuse { token: append.token, refusal });
            }
        }
    }

    /// A queue that is not here may be on its way here, which frees nothing, or be elsewhere.
    fn not_here(&self, queue: QueueId, asked_under: RoutingVersion) -> Refusal {
        if self.ours.contains(&queue) || asked_under > self.routing {
            return Refusal::new(Code::NotYet, format!("queue {queue} is not open here yet"));
        }
        stale(format!("queue {queue} is not served here"), self.routing)
    }

    /// Does what the coordinator says.
    pub fn step(&mut self, queue: QueueId, step: Step, out: &mut Vec<Action>) {
        match step {
            Step::Open(open) => self.open_queue(&open, out),
            Step::Tombstone { uuid, epoch } => self.remove(queue, uuid, epoch, out),
            step => {
                let (routing, rules) = (self.routing, self.rules);
                let Some(hosted) = self.hosted.get_mut(&queue) else { return };
                match step {
                    Step::Seal { epoch, attempt } => hosted.seal(queue, epoch, attempt, out),
                    Step::Unseal { attempt } => hosted.unseal(queue, attempt, routing, &rules, out),
                    Step::Start(setup) => hosted.start(queue, &setup, out),
                    Step::Raise(to) => {
                        if hosted.raise(&to, out) {
                            let RightEpoch { right, epoch, .. } = to;
                            out.push(Action::Tell(FromWorker::RightRaised { right, epoch }));
                        }
                    }
                    Step::Revoke { right, epoch } => {
                        if let Some(right) = hosted.rights.get_mut(&right) {
                            right.revoke(epoch);
                        }
                    }
                    Step::Open(_) | Step::Tombstone { .. } => {}
                }
            }
        }
    }

    fn open_queue(&mut self, open: &OpenQueue, out: &mut Vec<Action>) {
        if let Some(why) = self.against_open(open) {
            out.push(Action::Late { queue: open.queue, order: LateOrder::OpenQueue, why });
            return;
        }
        let fresh = !self.hosted.contains_key(&open.queue);
        let hosted = self.hosted.entry(open.queue).or_insert_with(|| Hosted::new(Queue::new(open)));
        hosted.open(open, fresh, out);
        hosted.release(self.routing, &self.rules, out);
    }

    fn against_open(&self, open: &OpenQueue) -> Option<String> {
        if let Some(removed) = self.removed.get(&open.queue).filter(|e| open.epoch <= **e) {
            return Some(format!(
                "it asks for epoch {}, and the copy was removed under epoch {removed}",
                open.epoch
            ));
        }
        let queue = &self.hosted.get(&open.queue)?.queue;
        // Another log under the same name goes only by a tombstone.
        against(queue, open.uuid)
            .or_else(|| (open.epoch < queue.epoch()).then(|| older(queue, open.epoch)))
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
                hosted.leave(self.routing, out);
            }
            out.push(Action::Forget(queue));
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
    pub fn roll_back(&mut self) {
        for hosted in self.hosted.values_mut() {
            hosted.queue.roll_back();
        }
    }

    /// Opens a right on a stream.
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
        let end = hosted.queue.durable();
        let name = &hosted.queue.name;
        let right = hosted.rights.get_mut(&id).ok_or_else(|| {
            let subscription = id.subscription;
            Refusal::new(
                Code::NotYet,
                format!("subscription {subscription} has not begun at queue {name} yet"),
            )
        })?;
        right.open(now, stream, request, end, &self.rules, out)?;
        self.unwritten.insert(id);
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
        let Some(right) = self.right_mut(&id) else { return Tally::default() };
        let tally = right.frame(now, stream, epoch, frame, &rules, out);
        if matches!(frame, Frame::Ack(_)) && !tally.fenced {
            self.unwritten.insert(id);
        }
        tally
    }

    /// A stream has ended.
    pub fn closed(&mut self, stream: StreamId, id: RightId) {
        if let Some(right) = self.right_mut(&id) {
            right.closed(stream);
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
            let Some(right) = self.right_mut(&id) else { continue };
            let (record, confirm) = right.take_unwritten();
            out.extend(record.map(|record| Action::Write { queue: id.queue, record }));
            out.extend(confirm.map(|(stream, confirmed)| Action::Confirm { stream, confirmed }));
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
        let selection = right.select(base, batch, &matching, end, &rules);
        if right.floor_is_ahead_by(rules.floor_every_offsets) {
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

    /// How every right stands.
    #[must_use]
    pub fn states(&self) -> Vec<RightState> {
        let mut states = Vec::new();
        for (_, hosted) in self.queues() {
            for (id, right) in &hosted.rights {
                states.extend(state(hosted, id, right));
            }
        }
        states
    }

    /// How far a subscription is at each queue here.
    #[must_use]
    pub fn lag(&self, subscription: SubscriptionId) -> Vec<QueueLag> {
        let mut lags = Vec::new();
        for (id, hosted) in self.queues() {
            let right = RightId::whole(subscription, id);
            let state = hosted.rights.get(&right).and_then(|r| state(hosted, &right, r));
            lags.extend(state.map(|state| state.lag));
        }
        lags
    }

    /// Takes a batch from the journal at a start.
    ///
    /// # Errors
    /// [`Code::Damaged`] for a batch that no queue can have taken.
    pub fn replay_batch(&mut self, batch: &StoredBatch) -> Result<(), Refusal> {
        let StoredBatch { queue, at, count, producer, session, base_sequence, appended_at } =
            *batch;
        let hosted = self.hosted.get_mut(&queue).ok_or_else(|| {
            Refusal::new(
                Code::Damaged,
                format!("the journal holds offset {at} of queue {queue}, which was never opened"),
            )
        })?;
        hosted.queue.replay(producer, session, base_sequence, at, count)?;
        hosted.ages.push(at, appended_at);
        Ok(())
    }

    /// Takes a control record from the journal at a start. True when it removed the queue.
    ///
    /// # Errors
    /// [`Code::Damaged`] for a record that cannot be about this queue.
    pub fn replay_record(&mut self, id: QueueId, record: ControlRecord) -> Result<bool, Refusal> {
        match record {
            ControlRecord::Removed { epoch, .. } => {
                self.hosted.remove(&id);
                let remembered = self.removed.entry(id).or_default();
                *remembered = epoch.max(*remembered);
                return Ok(true);
            }
            ControlRecord::Opened { uuid, ref name, epoch, max_body_bytes } => {
                self.hosted.entry(id).or_insert_with(|| {
                    Hosted::new(Queue::empty(id, uuid, name.clone(), epoch, max_body_bytes))
                });
            }
            _ => {}
        }
        let hosted = self.hosted.get_mut(&id).ok_or_else(|| {
            Refusal::new(
                Code::Damaged,
                format!("the journal holds a record of queue {id}, which was never opened"),
            )
        })?;
        hosted.replay(id, record)?;
        Ok(false)
    }

    /// Splits into several hosts, `shard_of` naming that of each queue.
    #[must_use]
    pub fn split(self, shards: usize, shard_of: impl Fn(QueueId) -> usize) -> Vec<Host> {
        let mut hosts: Vec<Host> = (0..shards).map(|_| Host::new(self.rules)).collect();
        for (id, hosted) in self.hosted {
            if let Some(host) = hosts.get_mut(shard_of(id)) {
                host.hosted.insert(id, hosted);
            }
        }
        for (id, epoch) in self.removed {
            if let Some(host) = hosts.get_mut(shard_of(id)) {
                host.removed.insert(id, epoch);
            }
        }
        hosts
    }
}

/// What stands against an order about the log `uuid`.
fn against(held: &Queue, uuid: Uuid) -> Option<String> {
    (held.uuid != uuid).then(|| format!("it is about log {uuid}, and this one is {}", held.uuid))
}

fn older(held: &Queue, epoch: Epoch) -> String {
    format!("it comes under epoch {epoch}, and the queue is open under {}", held.epoch())
}

fn state(hosted: &Hosted, id: &RightId, right: &Right) -> Option<RightState> {
    let setup = hosted.subscriptions.get(&id.subscription)?;
    let queue = &hosted.queue;
    let lag_messages = right.lag(queue.durable());
    Some(RightState {
        right: *id,
        subscription: setup.name.to_string(),
        queue: queue.name.clone(),
        oldest: (lag_messages > 0).then(|| hosted.ages.arrived(right.floor())).flatten(),
        lag: QueueLag {
            queue: queue.name.clone(),
            end: queue.durable(),
            floor: right.floor(),
            lag_messages,
            in_flight_messages: right.in_flight() as u64,
            member: right.holder().map(|holder| holder.member.clone()),
        },
    })
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
