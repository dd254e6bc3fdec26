//! A queue together with who reads it: its subscriptions and their rights. It owns the steps that
//! the coordinator drives (seal, start, raise), promises that each may come twice, that a sealed
//! queue with messages does not change, and does not know other queues.

use std::collections::BTreeMap;

use ringway_proto::control::{
    CopyFrom, CopySealed, CopyState, FromWorker, HeldQueue, OpenQueue, OpenRight, RightEpoch,
    Start, SubscriptionSetup,
};
use ringway_proto::routing::moves::{Fence, Moves, SlotMove};
use ringway_proto::{
    Attempt, Code, Epoch, MoveNumber, Offset, QueueId, Refusal, RightId, RoutingVersion,
    SubscriptionId, Time,
};

use super::ages::Ages;
use super::delivery::{Frame, Right};
use super::fences::Fences;
use super::queue::{Queue, stale};
use super::slots::Table;
use super::{Action, Rules, StreamId};
use crate::records::ControlRecord;

/// What a copy of this queue is sent next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CopyNext {
    /// Nothing yet.
    Wait,
    /// The durable batches from where it is. After the seal they are not to be slowed down.
    Batches {
        /// Whether the queue is sealed for this copy.
        sealed: bool,
    },
    /// What is known besides the batches; there is nothing after it.
    Sealed(Box<CopySealed>),
    /// No copy comes of it.
    Over(Refusal),
}

impl CopyNext {
    /// Whether a copy that waits for its pace waits no longer: publishers wait for it now, or it
    /// has nothing to wait for.
    #[must_use]
    pub fn ends_pace(&self) -> bool {
        match self {
            Self::Wait => false,
            Self::Batches { sealed } => *sealed,
            Self::Sealed(_) | Self::Over(_) => true,
        }
    }
}

/// An open that waits for a seal to be lifted, and what its holder said behind it: it is about the
/// messages that the open lists, so it cannot go first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldOpen {
    /// The stream.
    pub stream: StreamId,
    /// The open.
    pub request: OpenRight,
    /// What came after it on that stream, in order.
    pub frames: Vec<Frame>,
    /// The sum of their [`Frame::weight`].
    weight: usize,
}

/// How much an open that waits keeps, as [`Frame::weight`]: under a megabyte. Beyond that its
/// stream is ended, and the holder lists everything when it opens again.
const HELD_WEIGHT: usize = 8192;

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
    /// What its readers have to have read elsewhere first.
    pub fences: Fences,
    /// Opens that wait for a seal to be lifted, the newest of each right.
    held_opens: BTreeMap<RightId, HeldOpen>,
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
            fences: Fences::default(),
            held_opens: BTreeMap::new(),
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
            // Without its end a seal says nothing; it is reported when the end is known.
            sealed: queue.sealed().filter(|_| queue.durable() == queue.end()),
        }
    }

    /// Whether it is sealed with messages: then nothing may change of it that would have to go
    /// into the snapshot, which may have been sent.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.queue.sealed().is_some() && self.queue.end() > Offset(0)
    }

    /// Goes on as the coordinator says, and answers once all of it is durable. `fresh` says that
    /// the copy was made by this very message.
    pub fn open(&mut self, open: &OpenQueue, fresh: bool, moves: &Moves, out: &mut Vec<Action>) {
        let id = open.queue;
        let is_news = fresh || open.epoch > self.queue.epoch();
        let changed = is_news
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
            if is_news && self.queue.end() == Offset(0) {
                self.lay(id, setup.id, &open.rights, out);
            }
        }
        for right in &open.rights {
            self.raise(right, out);
        }
        for moved in &open.moves {
            self.take_move(id, moved, out);
        }
        self.learn_moves(id, moves, out);
        // The epoch comes last: a crash may leave any prefix of these records, and the worker that
        // reports the epoch is not told again what belongs to it.
        if changed || fresh {
            out.push(Action::Write { queue: id, record: opened(open.epoch) });
        }
        out.push(Action::Tell(FromWorker::QueueOpened { queue: id, epoch: open.epoch }));
    }

    /// Gives the subscription a cursor unless it has one. A frozen queue gives none and does not
    /// answer: the next primary will be asked.
    pub fn start(&mut self, id: QueueId, setup: &SubscriptionSetup, out: &mut Vec<Action>) {
        if self.is_frozen() && !self.subscriptions.contains_key(&setup.id) {
            return;
        }
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

    /// Raises a right. False when it is not known here, or at a later epoch, or the queue is
    /// frozen: then there is no answer.
    pub fn raise(&mut self, to: &RightEpoch, out: &mut Vec<Action>) -> bool {
        let frozen = self.is_frozen();
        let Some(right) = self.rights.get_mut(&to.right) else { return false };
        if frozen {
            return right.epoch() == to.epoch;
        }
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

    /// Seals the queue. Declines when it took a message and `only_if_empty`, or when more is known
    /// of it than a snapshot can hold. Everything that was applied before the seal is written
    /// before it; the seal is reported once all that was taken is durable or taken back.
    pub fn seal(
        &mut self,
        id: QueueId,
        epoch: Epoch,
        attempt: Attempt,
        only_if_empty: bool,
        rules: &Rules,
        out: &mut Vec<Action>,
    ) {
        if epoch != self.queue.epoch() {
            return;
        }
        let end = self.queue.end();
        let too_much = || self.snapshot_bytes() > rules.max_snapshot_bytes;
        let declined = end > Offset(0) && (only_if_empty || too_much());
        match self.queue.sealed() {
            Some(sealed) if sealed >= attempt => {}
            _ if declined => {
                out.push(Action::Tell(FromWorker::SealDeclined { queue: id, attempt, end }));
                return;
            }
            _ => {
                self.write_acks(id, out);
                self.queue.seal(attempt);
                out.push(Action::Write { queue: id, record: ControlRecord::Sealed { attempt } });
            }
        }
        self.tell_sealed(id, out);
    }

    /// Seals the queue for a move that it was sealed for when it was open elsewhere.
    fn take_move(&mut self, id: QueueId, moved: &SlotMove, out: &mut Vec<Action>) {
        if self.queue.slots.is_sealed_for(moved.number) {
            return;
        }
        let end = moved.ends.iter().find(|end| end.queue == id).map_or(Offset(0), |end| end.at);
        // All of it came with the queue.
        if let Ok(record) = self.queue.slots.seal(moved.clone(), end, end) {
            out.push(Action::Write { queue: id, record });
        }
    }

    /// Seals the queue for what a move takes from it or gives it, and says where that ends once
    /// all that was taken is durable or taken back. A queue that is sealed to be moved does not
    /// answer: it will be asked again, there or here.
    pub fn seal_slots(
        &mut self,
        id: QueueId,
        epoch: Epoch,
        moved: &SlotMove,
        out: &mut Vec<Action>,
    ) {
        if epoch != self.queue.epoch() || self.queue.sealed().is_some() {
            return;
        }
        let number = moved.number;
        if !self.queue.slots.is_sealed_for(number) {
            let (end, durable) = (self.queue.end(), self.queue.durable());
            // A move that contradicts itself is not answered; the coordinator checks what it makes.
            let Ok(record) = self.queue.slots.seal(moved.clone(), end, durable) else { return };
            out.push(Action::Write { queue: id, record });
        }
        if let Some(at) = self.queue.slots.sealed_at(number) {
            self.tell_slots(id, number, at, out);
        }
    }

    fn tell_slots(&self, id: QueueId, number: MoveNumber, at: Offset, out: &mut Vec<Action>) {
        let epoch = self.queue.epoch();
        out.push(Action::Tell(FromWorker::SlotsSealed { queue: id, epoch, number, at }));
    }

    fn settle_slots(&mut self, id: QueueId, out: &mut Vec<Action>) {
        for (number, at) in self.queue.slots.stored(self.queue.durable()) {
            self.tell_slots(id, number, at, out);
        }
    }

    /// Moves have taken effect: the journal has to know before anything is taken under them.
    pub fn learn_moves(&mut self, id: QueueId, moves: &Moves, out: &mut Vec<Action>) {
        let record = self.queue.slots.learn(moves);
        out.extend(record.map(|record| Action::Write { queue: id, record }));
    }

    /// A subscription has passed fences: what waited for them is looked at again.
    pub fn pass_fences(
        &mut self,
        id: QueueId,
        subscription: SubscriptionId,
        passed: Vec<Fence>,
        out: &mut Vec<Action>,
    ) {
        if !self.fences.pass(subscription, passed.iter().copied()) {
            return;
        }
        let record = ControlRecord::FencesPassed { subscription, passed };
        out.push(Action::Write { queue: id, record });
        for (right, state) in &mut self.rights {
            if right.subscription == subscription && state.look_behind_fences() {
                out.push(Action::Look(*right));
            }
        }
    }

    /// Tells the coordinator which fences at this queue are passed, of those that it waits for.
    /// An end beyond the last message is that of a batch which did not fit the disk.
    pub fn tell_passed(&mut self, out: &mut Vec<Action>) {
        let durable = self.queue.durable();
        let rights = &self.rights;
        let is_past = |subscription: SubscriptionId, at: Offset| {
            let mut of = rights.iter().filter(|(id, _)| id.subscription == subscription).peekable();
            of.peek().is_some() && of.all(|(_, right)| right.is_past(at.min(durable)))
        };
        for (subscription, fence) in self.fences.take_passed(is_past) {
            out.push(Action::Tell(FromWorker::FencePassed { subscription, fence }));
        }
    }

    fn tell_sealed(&self, id: QueueId, out: &mut Vec<Action>) {
        let end = self.queue.end();
        if let Some(attempt) = self.queue.sealed()
            && self.queue.durable() == end
        {
            out.push(Action::Tell(FromWorker::Sealed { queue: id, attempt, end }));
        }
    }

    /// The records of all acks and floors that no record holds yet, each followed by its
    /// confirmation.
    fn write_acks(&mut self, id: QueueId, out: &mut Vec<Action>) {
        for right in self.rights.values_mut() {
            let (record, confirm) = right.take_unwritten();
            out.extend(record.map(|record| Action::Write { queue: id, record }));
            out.extend(confirm.map(|(stream, confirmed)| Action::Confirm { stream, confirmed }));
        }
    }

    /// About how large the snapshot is in MessagePack, rather more than less.
    fn snapshot_bytes(&self) -> usize {
        let setups = self.subscriptions.values();
        let setups: usize =
            setups.map(|s| 200 + s.name.as_str().len() + s.filter.as_str().len()).sum();
        let rights: usize = self.rights.values().map(|r| 400 + 30 * r.acked_ranges()).sum();
        setups + rights
    }

    /// All that is known of the queue besides its batches, if it is sealed and all of it is
    /// durable. It is the same whenever it is asked for, except that messages which match no
    /// filter may be passed over later.
    fn snapshot(&self) -> Option<CopySealed> {
        let end = self.queue.end();
        let attempt = self.queue.sealed().filter(|_| self.queue.durable() == end)?;
        Some(CopySealed {
            attempt,
            end,
            max_body_bytes: self.queue.max_body_bytes,
            subscriptions: self.subscriptions.values().cloned().collect(),
            rights: self.rights.values().map(Right::to_copy).collect(),
        })
    }

    /// What the copy that asks is sent next.
    #[must_use]
    pub fn copy_next(&self, asked: &CopyFrom) -> CopyNext {
        let CopyFrom { queue: id, uuid, attempt, from } = *asked;
        let Self { queue, .. } = self;
        let over = |code, text| CopyNext::Over(Refusal::new(code, text));
        if uuid != queue.uuid {
            return over(
                Code::Fenced,
                format!("queue {id} is log {} here, not {uuid}", queue.uuid),
            );
        }
        if queue.is_over(attempt) {
            return over(Code::Fenced, format!("attempt {attempt} to move queue {id} is over"));
        }
        let durable = queue.durable();
        if from > durable {
            let text = format!("the copy of queue {id} is at {from}, the log ends at {durable}");
            return over(Code::DataMissing, text);
        }
        let sealed = queue.sealed() == Some(attempt);
        if from < durable {
            return CopyNext::Batches { sealed };
        }
        match self.snapshot().filter(|_| sealed) {
            Some(snapshot) => CopyNext::Sealed(Box::new(snapshot)),
            None => CopyNext::Wait,
        }
    }

    /// How far the queue is, `total_bytes` being the size of its durable batches.
    #[must_use]
    pub fn copy_state(&self, total_bytes: u64) -> CopyState {
        CopyState { end: self.queue.durable(), total_bytes }
    }

    /// Takes over what came with the queue from its primary.
    pub fn adopt(&mut self, snapshot: &CopySealed) {
        self.forget_readers();
        self.queue.max_body_bytes = snapshot.max_body_bytes;
        let setups = snapshot.subscriptions.iter();
        self.subscriptions = setups.map(|setup| (setup.id, setup.clone())).collect();
        let rights = snapshot.rights.iter();
        self.rights = rights.map(|r| (r.right.right, Right::from_copy(r))).collect();
    }

    /// Forgets who reads the queue: a copy that is not whole does not know.
    pub fn forget_readers(&mut self) {
        self.subscriptions.clear();
        self.rights.clear();
    }

    /// A write failed: batches that are not durable were refused and are taken back. A seal that
    /// waited for them has its end now.
    pub fn roll_back(&mut self, id: QueueId, out: &mut Vec<Action>) {
        if self.queue.end() > self.queue.durable() {
            self.queue.roll_back();
            let corrected = self.queue.slots.roll_back(self.queue.durable());
            out.extend(corrected.into_iter().map(|record| Action::Write { queue: id, record }));
            self.settle_slots(id, out);
            self.tell_sealed(id, out);
        }
    }

    /// Keeps an open while the queue is frozen, for its acks must not be applied and what it does
    /// not list would be sent again.
    pub fn hold_open(&mut self, stream: StreamId, request: &OpenRight, out: &mut Vec<Action>) {
        let request = request.clone();
        let right = request.right;
        let open = HeldOpen { stream, request, frames: Vec::new(), weight: 0 };
        if let Some(older) = self.held_opens.insert(right, open) {
            out.push(Action::Close { stream: older.stream, refusal: None });
        }
    }

    /// Keeps what came on the stream of an open that waits. False when that is another stream.
    pub fn hold_frame(
        &mut self,
        stream: StreamId,
        right: &RightId,
        frame: &Frame,
        out: &mut Vec<Action>,
    ) -> bool {
        let Some(open) = self.held_opens.get_mut(right).filter(|open| open.stream == stream) else {
            return false;
        };
        open.weight += frame.weight();
        if open.weight <= HELD_WEIGHT {
            open.frames.push(frame.clone());
        } else {
            self.held_opens.remove(right);
            let text = format!("queue {} is being moved; open the right again", self.queue.name);
            let refusal = Some(Refusal::new(Code::NotYet, text));
            out.push(Action::Close { stream, refusal });
        }
        true
    }

    /// A stream has ended.
    pub fn closed(&mut self, stream: StreamId, right: &RightId) {
        if self.held_opens.get(right).is_some_and(|open| open.stream == stream) {
            self.held_opens.remove(right);
        }
        if let Some(right) = self.at(right).and_then(|id| self.rights.get_mut(&id)) {
            right.closed(stream);
        }
    }

    /// The opens that waited.
    pub fn take_held_opens(&mut self) -> Vec<HeldOpen> {
        std::mem::take(&mut self.held_opens).into_values().collect()
    }

    /// Lifts the seal of this attempt or an older one.
    pub fn unseal(&mut self, id: QueueId, attempt: Attempt, out: &mut Vec<Action>) {
        let sealed = self.queue.sealed();
        if sealed.is_some_and(|sealed| sealed > attempt) {
            return;
        }
        self.queue.unseal(attempt);
        if sealed.is_some() {
            out.push(Action::Write { queue: id, record: ControlRecord::Unsealed { attempt } });
        }
        out.push(Action::Tell(FromWorker::Unsealed { queue: id, attempt }));
    }

    /// Decides anew about the appends that waited, if the seal is lifted.
    pub fn release(&mut self, table: &Table, rules: &Rules, out: &mut Vec<Action>) {
        if self.queue.sealed().is_some() {
            return;
        }
        for append in self.queue.take_held() {
            self.queue.append(append, table, rules, out);
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
        for HeldOpen { stream, .. } in self.take_held_opens() {
            out.push(Action::Close { stream, refusal: Some(refusal.clone()) });
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
        // What was under way when the seal came is durable now; it comes here only once, for
        // nothing is taken after it.
        self.settle_slots(id, out);
        self.tell_sealed(id, out);
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
            // The host takes these.
            ControlRecord::Removed { .. }
            | ControlRecord::Copying { .. }
            | ControlRecord::Copied(_)
            | ControlRecord::CopyDropped { .. } => {}
            ControlRecord::Started { setup, floor } => self.subscribe(id, setup, floor),
            ControlRecord::Raised { right, epoch, holder } => {
                let known = self.rights.get_mut(&right).ok_or_else(|| unknown(right))?;
                known.raise(&RightEpoch { right, epoch, holder }, &mut Vec::new());
            }
            ControlRecord::Acked { right, floor, ranges } => {
                let known = self.rights.get_mut(&right).ok_or_else(|| unknown(right))?;
                known.replay_acked(floor, &ranges);
            }
            ControlRecord::Split { right, into } => self.replay_split(right, &into)?,
            ControlRecord::Merged { parts, into } => self.replay_merge(&parts, &into)?,
            ControlRecord::SlotsSealed { moved, at } => self.queue.slots.restore(moved, at)?,
            ControlRecord::SlotsMoved { through, .. } => self.queue.slots.set_known(through),
            ControlRecord::FencesPassed { subscription, passed } => {
                self.fences.pass(subscription, passed);
            }
        }
        Ok(())
    }
}
