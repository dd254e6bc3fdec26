//! Which queue a message goes to, and the order of what changes its queue. It owns one
//! [`Lane`] for each queue and promises that, of one slot, nothing goes to another queue while
//! something is unanswered at the first, also where a class changes its group. It does not know
//! how a frame reaches a worker.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use ringway_proto::data::AppendAnswer;
use ringway_proto::hash::{hash, slot_of};
use ringway_proto::limits::MAX_FRAME_BYTES;
use ringway_proto::routing::{Group, Router};
use ringway_proto::{
    Class, Code, GroupId, ProducerId, QueueId, Refusal, Slot, Time, Uuid, WallTime, WorkerId,
};

use super::lane::{Action, Item, Lane, Out, Outcome, Target};

/// Room that a batch and its append need beside the message itself.
const FRAME_OVERHEAD: usize = 4096;

struct Place {
    queue: QueueId,
    messages: u64,
}

/// Everything that one client publishes.
pub struct Publisher {
    router: Arc<Router>,
    lanes: BTreeMap<QueueId, Lane>,
    /// Where the unanswered messages of each slot are.
    places: BTreeMap<(GroupId, Slot), Place>,
    /// Slots that have messages unanswered at a group which the class of some of them has left:
    /// whatever is of such a slot and goes to another group waits.
    crossing: BTreeSet<(Slot, GroupId)>,
    /// What waits until its slot has nothing unanswered elsewhere.
    held: BTreeMap<Slot, VecDeque<Item>>,
    connected: BTreeSet<WorkerId>,
    /// The queue that gathers messages without a key, for each group.
    spread: BTreeMap<GroupId, QueueId>,
    dirty: BTreeSet<QueueId>,
    earliest: Option<Time>,
    seed: u64,
    draws: u64,
    producer: ProducerId,
}

impl Publisher {
    /// A publisher of this routing. `producer` is drawn at random, and `seed` too: it spreads
    /// what has no key.
    #[must_use]
    pub fn new(router: Arc<Router>, producer: ProducerId, seed: u64) -> Self {
        Self {
            router,
            lanes: BTreeMap::new(),
            places: BTreeMap::new(),
            crossing: BTreeSet::new(),
            held: BTreeMap::new(),
            connected: BTreeSet::new(),
            spread: BTreeMap::new(),
            dirty: BTreeSet::new(),
            earliest: None,
            seed,
            draws: 0,
            producer,
        }
    }

    /// A message of the application.
    pub fn publish(&mut self, item: Item, out: &mut Vec<Action>) {
        self.note_deadline(item.deadline);
        self.route(item, out);
    }

    fn note_deadline(&mut self, deadline: Time) {
        self.earliest = Some(self.earliest.map_or(deadline, |e| e.min(deadline)));
    }

    fn route(&mut self, item: Item, out: &mut Vec<Action>) {
        let router = self.router.clone();
        let Some(group) = router.group_of(item.message.class.as_str()) else {
            let text = format!("no group takes the class {:?}", item.message.class.as_str());
            let hint = "bind it to a group, or give a group a ring weight";
            return refuse(item, Refusal::new(Code::UnknownGroup, text).hint(hint), out);
        };
        let name = group.name().as_str();
        if let Err(refusal) = item.message.check(name, group.max_body_bytes()) {
            return refuse(item, refusal, out);
        }
        if item.bytes as usize + FRAME_OVERHEAD > MAX_FRAME_BYTES {
            let text = format!(
                "the message has {} bytes with key and headers; {} fit into a frame",
                item.bytes,
                MAX_FRAME_BYTES - FRAME_OVERHEAD
            );
            return refuse(item, Refusal::new(Code::TooLarge, text), out);
        }
        let Some(key) = item.message.routing_key() else {
            let queue = self.queue_for_keyless(group);
            self.enqueue(queue, item);
            return;
        };
        let slot = slot_of(key);
        let queue = group.queue_of(key);
        if self.is_elsewhere(slot, queue) || self.held.contains_key(&slot) {
            self.held.entry(slot).or_default().push_back(item);
            return;
        }
        let place = self.places.entry((queue.group, slot));
        place.or_insert(Place { queue, messages: 0 }).messages += 1;
        self.enqueue(queue, item);
    }

    /// Whether something of the slot is unanswered that has to be answered before more of it goes
    /// to `queue`.
    fn is_elsewhere(&self, slot: Slot, queue: QueueId) -> bool {
        let here = self.places.get(&(queue.group, slot));
        let mut left = self.crossing.range((slot, GroupId(0))..=(slot, GroupId(u32::MAX)));
        here.is_some_and(|place| place.queue != queue)
            || left.any(|(_, group)| *group != queue.group)
    }

    fn enqueue(&mut self, queue: QueueId, item: Item) {
        let producer = self.producer;
        // Each lane has a range of producer ids of its own, so that one that starts over never
        // takes the id of another.
        let producer = Uuid(producer.0.wrapping_add(u128::from(u64::from(queue)) << 32));
        self.lanes.entry(queue).or_insert_with(|| Lane::new(queue, producer)).push(item);
        self.dirty.insert(queue);
    }

    /// A random queue, kept until its batch is closed; one whose primary is up where there is one.
    fn queue_for_keyless(&mut self, group: &Group) -> QueueId {
        if let Some(queue) = self.spread.get(&group.id())
            && self.lanes.get(queue).is_some_and(Lane::is_gathering)
            && self.is_up(*queue)
        {
            return *queue;
        }
        self.draws += 1;
        let draw = hash(&[self.seed.to_le_bytes(), self.draws.to_le_bytes()].concat());
        let count = group.queue_count().max(1);
        let first = (draw % u64::from(count)) as u32;
        let nth = |i: u32| QueueId::new(group.id(), (first + i) % count);
        let queue = (0..count).map(nth).find(|q| self.is_up(*q)).unwrap_or_else(|| nth(0));
        self.spread.insert(group.id(), queue);
        queue
    }

    fn is_up(&self, queue: QueueId) -> bool {
        let primary = self.router.queue(queue).and_then(|q| q.primary.as_ref());
        primary.and_then(|w| self.router.worker(w)).is_some_and(|w| w.up)
    }

    /// A newer routing. Queues that are gone give their messages back, which are routed anew;
    /// messages that were never sent follow their slot and their class.
    pub fn routing(&mut self, router: Arc<Router>, out: &mut Vec<Action>) {
        let before = std::mem::replace(&mut self.router, router.clone());
        self.meet_newcomers(&before, out);
        if before.moves().through() != router.moves().through() {
            self.note_crossing();
        }
        let mut lane_out = Out::default();
        let mut freed = Vec::new();
        let queues: Vec<QueueId> = self.lanes.keys().copied().collect();
        for queue in queues {
            let known = router.queue(queue).zip(router.group(queue.group));
            let Some((route, _)) = known else {
                if let Some(lane) = self.lanes.remove(&queue) {
                    freed.extend(lane.dissolve(&mut lane_out).into_iter().map(|i| (queue, i)));
                    self.absorb(queue.group, &mut lane_out, out);
                }
                continue;
            };
            let Some(lane) = self.lanes.get_mut(&queue) else { continue };
            let stays = |item: &Item| belongs(&router, item, queue);
            let gone = if lane.is_refused_for_good(router.version(), route.epoch) {
                lane.free_moved(stays, &mut lane_out)
            } else {
                lane.free_pending(stays)
            };
            freed.extend(gone.into_iter().map(|i| (queue, i)));
            lane.routing_changed();
            self.absorb(queue.group, &mut lane_out, out);
            self.dirty.insert(queue);
        }
        self.reroute(freed, out);
    }

    /// A worker that came up soon leads queues of others. A publisher that needed most of those
    /// connects to it now, so that no publish to the first queue that moves there waits for that.
    fn meet_newcomers(&self, before: &Router, out: &mut Vec<Action>) {
        let is_up = |router: &Router, id| router.worker(id).is_some_and(|worker| worker.up);
        let up_before = before.routing().workers.iter().filter(|worker| worker.up).count();
        if self.lanes.is_empty() || self.connected.len() * 2 < up_before {
            return;
        }
        let up = self.router.routing().workers.iter().filter(|worker| worker.up);
        let new = up.filter(|worker| !is_up(before, &worker.id));
        out.extend(new.map(|worker| Action::Want(worker.id.clone())));
    }

    /// Which slots have messages unanswered at a group that their class has left.
    fn note_crossing(&mut self) {
        for (queue, lane) in &self.lanes {
            let router = &self.router;
            let has_left = |class: &Class| {
                router.group_of(class.as_str()).is_none_or(|group| group.id() != queue.group)
            };
            let slots = lane.unanswered().filter(|(class, _)| has_left(class));
            self.crossing.extend(slots.map(|(_, slot)| (slot, queue.group)));
        }
    }

    /// Messages that left a queue without being stored come before everything that is held back
    /// for their slot.
    fn reroute(&mut self, freed: Vec<(QueueId, Item)>, out: &mut Vec<Action>) {
        let mut slots = BTreeSet::new();
        let mut free = Vec::new();
        for (queue, item) in freed.into_iter().rev() {
            match item.slot() {
                Some(slot) => {
                    self.leave((queue.group, slot));
                    self.held.entry(slot).or_default().push_front(item);
                    slots.insert(slot);
                }
                None => free.push(item),
            }
        }
        for item in free.into_iter().rev() {
            self.route(item, out);
        }
        for slot in slots {
            self.release(slot, out);
        }
    }

    /// A message of the slot is not unanswered at the group any more. True when it was the last.
    fn leave(&mut self, at: (GroupId, Slot)) -> bool {
        let Some(place) = self.places.get_mut(&at) else { return false };
        place.messages = place.messages.saturating_sub(1);
        let is_last = place.messages == 0;
        if is_last {
            self.places.remove(&at);
            self.crossing.remove(&(at.1, at.0));
        }
        is_last
    }

    /// Lets what was held back go on, as far as nothing of its slot is unanswered elsewhere.
    fn release(&mut self, slot: Slot, out: &mut Vec<Action>) {
        for item in self.held.remove(&slot).unwrap_or_default() {
            self.route(item, out);
        }
    }

    /// Forgets what is unanswered where, so that later messages do not wait for it: a bug that the
    /// simulation plants to show that it would be noticed.
    #[doc(hidden)]
    pub fn forget_places(&mut self, out: &mut Vec<Action>) {
        self.places.clear();
        self.crossing.clear();
        for slot in self.held.keys().copied().collect::<Vec<_>>() {
            self.release(slot, out);
        }
    }

    fn absorb(&mut self, group: GroupId, lane_out: &mut Out, out: &mut Vec<Action>) {
        out.append(&mut lane_out.actions);
        for slot in std::mem::take(&mut lane_out.left) {
            if self.leave((group, slot)) {
                self.release(slot, out);
            }
        }
    }

    /// The publish stream to a worker is open.
    pub fn connected(&mut self, worker: WorkerId) {
        let router = &self.router;
        let led =
            |q: &&QueueId| router.queue(**q).is_some_and(|r| r.primary.as_ref() == Some(&worker));
        self.dirty.extend(self.lanes.keys().filter(led));
        self.connected.insert(worker);
    }

    /// The publish stream to a worker is lost.
    pub fn disconnected(&mut self, worker: &WorkerId, cause: &str) {
        self.connected.remove(worker);
        for lane in self.lanes.values_mut() {
            lane.disconnected(worker, cause);
        }
    }

    /// A worker's answer.
    pub fn answered(&mut self, now: Time, answer: AppendAnswer, out: &mut Vec<Action>) {
        let queue = answer.queue;
        let Some(lane) = self.lanes.get_mut(&queue) else { return };
        let mut lane_out = Out::default();
        let is_refusal = answer.outcome.is_err();
        lane.answered(now, answer, &mut lane_out);
        // What is late and is known now not to be stored must not be sent again.
        let due = lane.earliest_deadline().filter(|_| is_refusal);
        let mut freed = Vec::new();
        if let Some(route) = self.router.queue(queue)
            && lane.is_refused_for_good(self.router.version(), route.epoch)
        {
            let router = &self.router;
            freed = lane.free_moved(|item| belongs(router, item, queue), &mut lane_out);
        }
        self.earliest = self.earliest.into_iter().chain(due).min();
        self.dirty.insert(queue);
        self.absorb(queue.group, &mut lane_out, out);
        self.reroute(freed.into_iter().map(|i| (queue, i)).collect(), out);
    }

    /// Sends what may go and gives up what is late. Call it after every run of inputs and at
    /// [`Publisher::next_wakeup`].
    pub fn pump(&mut self, now: Time, wall: WallTime, out: &mut Vec<Action>) {
        if self.earliest.is_some_and(|at| at <= now) {
            self.expire(now, out);
        }
        let due = |(_, l): &(&QueueId, &Lane)| l.retry_at().is_some_and(|at| at <= now);
        self.dirty.extend(self.lanes.iter().filter(due).map(|(q, _)| *q));
        while let Some(queue) = self.dirty.pop_first() {
            let Some(lane) = self.lanes.get_mut(&queue) else { continue };
            if lane.is_empty() {
                continue;
            }
            // Another primary, or the connection to this one, makes the lane dirty again.
            let route = self.router.queue(queue);
            let Some((worker, route)) = route.and_then(|r| Some((r.primary.as_ref()?, r))) else {
                lane.wait_for_primary(|| "no worker serves the queue".into());
                continue;
            };
            if !self.connected.contains(worker) {
                lane.wait_for_primary(|| format!("worker {worker} is not connected"));
                out.push(Action::Want(worker.clone()));
                continue;
            }
            let routing = self.router.version();
            let target = Target { worker: worker.clone(), epoch: route.epoch, routing };
            let mut lane_out = Out::default();
            lane.pump(now, wall, &target, &mut lane_out);
            self.absorb(queue.group, &mut lane_out, out);
        }
    }

    /// Gives up what is past its deadline.
    pub fn expire(&mut self, now: Time, out: &mut Vec<Action>) {
        let queues: Vec<QueueId> = self.lanes.keys().copied().collect();
        for queue in queues {
            let Some(lane) = self.lanes.get_mut(&queue) else { continue };
            let mut lane_out = Out::default();
            lane.expire(now, &mut lane_out);
            self.absorb(queue.group, &mut lane_out, out);
        }
        for items in self.held.values_mut() {
            for item in std::mem::take(items) {
                if item.deadline > now {
                    items.push_back(item);
                    continue;
                }
                let cause = "its slot is moving to another queue".to_owned();
                out.push(Action::Done { ticket: item.ticket, outcome: Outcome::NotSent(cause) });
                out.push(Action::Room(u64::from(item.bytes)));
            }
        }
        self.held.retain(|_, items| !items.is_empty());
        let held = self.held.values().flatten().map(|i| i.deadline);
        let lanes = self.lanes.values().filter_map(Lane::earliest_deadline);
        self.earliest = lanes.chain(held).min();
    }

    /// When to pump at the latest.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Time> {
        self.lanes.values().filter_map(Lane::retry_at).chain(self.earliest).min()
    }
}

/// Whether the routing sends a message to this queue, or, without a key, to its group.
fn belongs(router: &Router, item: &Item, queue: QueueId) -> bool {
    router.group_of(item.message.class.as_str()).is_some_and(|group| {
        group.id() == queue.group
            && item.slot().is_none_or(|slot| group.queue_of_slot(slot) == Some(queue))
    })
}

fn refuse(item: Item, refusal: Refusal, out: &mut Vec<Action>) {
    out.push(Action::Done { ticket: item.ticket, outcome: Outcome::Refused(refusal) });
    out.push(Action::Room(u64::from(item.bytes)));
}
