//! A queue together with who reads it: its subscriptions and their rights. It owns the steps that
//! the coordinator drives (seal, start, raise), promises that each may come twice, and does not
//! know other queues.

use std::collections::BTreeMap;

use ringway_proto::control::{
    FromWorker, HeldQueue, OpenQueue, RightEpoch, Start, SubscriptionSetup,
};
use ringway_proto::{
    Attempt, Code, Epoch, Offset, QueueId, Refusal, RightId, RoutingVersion, SubscriptionId, Time,
};

use super::ages::Ages;
use super::delivery::Right;
use super::queue::{Queue, stale};
use super::{Action, Rules};
use crate::records::ControlRecord;

/// A queue of this worker.
#[derive(Clone, Debug)]
pub struct Hosted {
    /// Its publishing side.
    pub queue: Queue,
    /// Its readers.
    pub subscriptions: BTreeMap<SubscriptionId, SubscriptionSetup>,
    /// Their rights.
    pub rights: BTreeMap<RightId, Right>,
    /// When its messages arrived.
    pub ages: Ages,
}

impl Hosted {
    /// A queue that nobody reads yet.
    #[must_use]
    pub fn new(queue: Queue) -> Self {
        Self {
            queue,
            subscriptions: BTreeMap::new(),
            rights: BTreeMap::new(),
            ages: Ages::default(),
        }
    }

    /// As it is said at registration.
    #[must_use]
    pub fn held(&self, id: QueueId) -> HeldQueue {
        let Self { queue, .. } = self;
        HeldQueue {
            queue: id,
            uuid: queue.uuid,
            epoch: queue.epoch(),
            end: queue.durable(),
            sealed: queue.sealed(),
        }
    }

    /// Goes on as the coordinator says, and answers once all of it is durable. `fresh` says that
    /// the copy was made by this very message.
    pub fn open(&mut self, open: &OpenQueue, fresh: bool, out: &mut Vec<Action>) {
        let id = open.queue;
        let changed = open.epoch > self.queue.epoch()
            || open.name != self.queue.name
            || open.max_body_bytes != self.queue.max_body_bytes;
        self.queue.raise(open.epoch);
        self.queue.name.clone_from(&open.name);
        self.queue.max_body_bytes = open.max_body_bytes;
        let opened = |epoch| ControlRecord::Opened {
            uuid: open.uuid,
            name: open.name.clone(),
            epoch,
            max_body_bytes: open.max_body_bytes,
        };
        if fresh {
            out.push(Action::Write { queue: id, record: opened(Epoch(0)) });
        }
        for setup in &open.subscriptions {
            self.begin(id, setup, out);
        }
        for right in &open.rights {
            self.raise(right, out);
        }
        // The epoch comes last: a crash may leave any prefix of these records, and the worker that
        // reports the epoch is not told again what belongs to it.
        if changed || fresh {
            out.push(Action::Write { queue: id, record: opened(open.epoch) });
        }
        out.push(Action::Tell(FromWorker::QueueOpened { queue: id, epoch: open.epoch }));
    }

    /// Gives the subscription a cursor unless it has one.
    pub fn start(&mut self, id: QueueId, setup: &SubscriptionSetup, out: &mut Vec<Action>) {
        self.begin(id, setup, out);
        let subscription = setup.id;
        out.push(Action::Tell(FromWorker::SubscriptionStarted { subscription, queue: id }));
    }

    fn begin(&mut self, id: QueueId, setup: &SubscriptionSetup, out: &mut Vec<Action>) {
        if self.subscriptions.contains_key(&setup.id) {
            return;
        }
        let floor = match setup.start {
            Start::Start => Offset(0),
            // What is not durable yet was not acked, so it may still count as "after": and it may
            // never become durable, so a floor beyond it could skip what comes in its place.
            Start::Now => self.queue.durable(),
        };
        self.subscribe(id, setup.clone(), floor);
        let record = ControlRecord::Started { setup: setup.clone(), floor };
        out.push(Action::Write { queue: id, record });
    }

    fn subscribe(&mut self, id: QueueId, setup: SubscriptionSetup, floor: Offset) {
        let right = RightId::whole(setup.id, id);
        self.subscriptions.insert(setup.id, setup);
        self.rights.entry(right).or_insert_with(|| Right::new(right, floor));
    }

    /// Raises a right. False when it is not known here, or at a later epoch: then there is no
    /// answer.
    pub fn raise(&mut self, to: &RightEpoch, out: &mut Vec<Action>) -> bool {
        let Some(right) = self.rights.get_mut(&to.right) else { return false };
        if right.raise(to, out) {
            let record = ControlRecord::Raised {
                right: to.right,
                epoch: to.epoch,
                holder: to.holder.clone(),
            };
            out.push(Action::Write { queue: to.right.queue, record });
        }
        right.epoch() == to.epoch
    }

    /// Seals the queue unless it ever took a message.
    pub fn seal(&mut self, id: QueueId, epoch: Epoch, attempt: Attempt, out: &mut Vec<Action>) {
        if epoch != self.queue.epoch() {
            return;
        }
        let end = self.queue.end();
        if end > Offset(0) {
            out.push(Action::Tell(FromWorker::SealDeclined { queue: id, attempt, end }));
            return;
        }
        match self.queue.sealed() {
            Some(sealed) if sealed >= attempt => {}
            _ => {
                self.queue.seal(attempt);
                out.push(Action::Write { queue: id, record: ControlRecord::Sealed { attempt } });
            }
        }
        let attempt = self.queue.sealed().unwrap_or(attempt);
        out.push(Action::Tell(FromWorker::Sealed { queue: id, attempt, end }));
    }

    /// Lifts the seal of this attempt or an older one, and decides about what waited.
    pub fn unseal(
        &mut self,
        id: QueueId,
        attempt: Attempt,
        routing: RoutingVersion,
        rules: &Rules,
        out: &mut Vec<Action>,
    ) {
        match self.queue.sealed() {
            Some(sealed) if sealed > attempt => return,
            Some(_) => {
                self.queue.unseal(attempt);
                out.push(Action::Write { queue: id, record: ControlRecord::Unsealed { attempt } });
            }
            None => {}
        }
        out.push(Action::Tell(FromWorker::Unsealed { queue: id, attempt }));
        self.release(routing, rules, out);
    }

    /// Decides anew about the appends that waited, if the seal is lifted.
    pub fn release(&mut self, routing: RoutingVersion, rules: &Rules, out: &mut Vec<Action>) {
        if self.queue.sealed().is_some() {
            return;
        }
        for append in self.queue.take_held() {
            self.queue.append(append, routing, rules, out);
        }
    }

    /// Sends away everybody who publishes here or reads: the queue is served elsewhere.
    pub fn leave(&mut self, routing: RoutingVersion, out: &mut Vec<Action>) {
        let refusal =
            stale(format!("queue {} is not served here any more", self.queue.name), routing);
        for append in self.queue.take_held() {
            out.push(Action::Refuse { token: append.token, refusal: refusal.clone() });
        }
        for right in self.rights.values_mut() {
            right.close(&refusal, out);
        }
    }

    /// Everything below `end` is on disk.
    pub fn stored(&mut self, id: QueueId, end: Offset, out: &mut Vec<Action>) -> bool {
        let first = self.queue.durable() == Offset(0);
        if !self.queue.stored(end) {
            return false;
        }
        if first {
            out.push(Action::Tell(FromWorker::HasData { queue: id }));
        }
        out.extend(self.rights.keys().map(|right| Action::Look(*right)));
        true
    }

    /// Ends waits and times out.
    pub fn wake(&mut self, now: Time, right: &RightId, out: &mut Vec<Action>) {
        if let Some(right) = self.rights.get_mut(right) {
            right.wake(now, out);
        }
    }

    /// Takes a control record from the journal at a start.
    ///
    /// # Errors
    /// [`Code::Damaged`] for a record that cannot be about this queue.
    pub fn replay(&mut self, id: QueueId, record: ControlRecord) -> Result<(), Refusal> {
        let unknown = |right: RightId| {
            Refusal::new(
                Code::Damaged,
                format!(
                    "the journal names a right of {} to queue {id} that never began",
                    right.subscription.0
                ),
            )
        };
        match record {
            ControlRecord::Opened { name, epoch, max_body_bytes, .. } => {
                self.queue.raise(epoch);
                self.queue.name = name;
                self.queue.max_body_bytes = max_body_bytes;
            }
            ControlRecord::Sealed { attempt } => self.queue.seal(attempt),
            ControlRecord::Unsealed { attempt } => self.queue.unseal(attempt),
            // The host takes this one.
            ControlRecord::Removed { .. } => {}
            ControlRecord::Started { setup, floor } => self.subscribe(id, setup, floor),
            ControlRecord::Raised { right, epoch, holder } => {
                let known = self.rights.get_mut(&right).ok_or_else(|| unknown(right))?;
                known.raise(&RightEpoch { right, epoch, holder }, &mut Vec::new());
            }
            ControlRecord::Acked { right, floor, ranges } => {
                let known = self.rights.get_mut(&right).ok_or_else(|| unknown(right))?;
                known.replay_acked(floor, &ranges);
            }
        }
        Ok(())
    }
}
