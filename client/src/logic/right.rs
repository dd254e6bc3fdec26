//! One consume right in its holder's hands: what is held of it, what may be handed out, what is
//! acked and not yet confirmed. It promises at most one message of a key in hand, no hand-out once
//! it drains, and "drained" only when every ack is confirmed. It does not know other rights.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ringway_proto::batch::{parse_classes, parse_record};
use ringway_proto::control::{OpenRight, Order};
use ringway_proto::data::{AckConfirmed, Deliver, OffsetRange, Ranges};
use ringway_proto::frame::Kind;
use ringway_proto::limits::MAX_RANGES;
use ringway_proto::{Epoch, Holder, Offset, OpenNumber, Refusal, RightId, Time};

use super::credit::{Claim, Credit, Promise};
use super::lane::back_off;
use crate::message::Message;

/// How often a message in hand is reported again, which extends its ack timeout.
pub const EXTEND_EVERY: Duration = Duration::from_secs(10);
/// How long a message in hand is extended at most.
pub const HANDLING_LIMIT: Duration = Duration::from_secs(15 * 60);
/// How often a draining right with messages in hand asks for more time.
pub const STILL_DRAINING_EVERY: Duration = Duration::from_secs(1);
/// How long a draining right asks for more time at most.
pub const DRAIN_MAX: Duration = Duration::from_secs(60);
/// Ack frames that may be unconfirmed before further acks are gathered.
const ACK_FRAMES: usize = 4;
/// A nacked message that waits this long for room makes some.
const NACK_PATIENCE: Duration = Duration::from_millis(100);

/// How a message in hand is settled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// It is done.
    Ack,
    /// It could not be handled and comes again, counted.
    Nack,
    /// It was not looked at and comes again, not counted.
    GiveBack,
}

/// A delivery in hand: which right, under which epoch, which message, which hand-out of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hold {
    /// The right.
    pub right: RightId,
    /// Its epoch.
    pub epoch: Epoch,
    /// The message.
    pub offset: Offset,
    /// The hand-out; a later one of the same message has a larger one.
    pub serial: u64,
}

/// A frame for the right's stream.
pub type Frame = (Kind, Bytes);

#[derive(Debug, PartialEq)]
enum State {
    /// Not yet in the application's hands.
    Unread(Box<Message>),
    InHand,
    /// Given back to the queue; its key waits until it comes again.
    Awaited(Time),
}

#[derive(Debug)]
struct Held {
    key: Option<Bytes>,
    bytes: u64,
    delivery: u16,
    state: State,
}

/// The messages of one key, in order.
#[derive(Debug, Default)]
struct KeyLine {
    offsets: BTreeSet<Offset>,
    /// The one that is ready or in hand.
    front: Option<Offset>,
}

#[derive(Debug)]
struct InHand {
    serial: u64,
    since: Time,
    told: Time,
}

#[derive(Debug)]
struct SentAcks {
    number: u64,
    ranges: Vec<OffsetRange>,
    tokens: Vec<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stream {
    Closed { retry_at: Time },
    Opening,
    Open,
}

#[derive(Debug)]
struct Drain {
    /// The coordinator asked for it and waits for the report.
    revoked: bool,
    since: Time,
    told: Time,
}

/// One right under one epoch.
#[derive(Debug)]
pub struct Right {
    id: RightId,
    epoch: Epoch,
    /// The queue, `GROUP/N`.
    pub queue: Arc<str>,
    order: Order,
    open: OpenNumber,
    stream: Stream,
    failures: u32,
    drain: Option<Drain>,
    held: BTreeMap<Offset, Held>,
    held_bytes: u64,
    hand: BTreeMap<Offset, InHand>,
    /// What may be handed out now.
    ready: BTreeSet<Offset>,
    /// The messages of each key, where order is by key.
    keys: BTreeMap<Bytes, KeyLine>,
    /// When room was made last for a message that has to come again.
    made_room: Time,
    handed: BTreeSet<Offset>,
    returned: BTreeSet<Offset>,
    nacked: BTreeSet<Offset>,
    acked: BTreeSet<Offset>,
    tokens: Vec<u64>,
    ack_number: u64,
    unconfirmed: VecDeque<SentAcks>,
    promise: Promise,
    /// When the question was sent that its primary answered last.
    pub answered: Time,
}

impl Right {
    /// A right that was granted just now and is not open yet.
    #[must_use]
    pub fn new(now: Time, id: RightId, epoch: Epoch, queue: Arc<str>, order: Order) -> Self {
        Self {
            id,
            epoch,
            queue,
            order,
            open: OpenNumber(0),
            stream: Stream::Closed { retry_at: now },
            failures: 0,
            drain: None,
            held: BTreeMap::new(),
            held_bytes: 0,
            hand: BTreeMap::new(),
            ready: BTreeSet::new(),
            keys: BTreeMap::new(),
            made_room: now,
            handed: BTreeSet::new(),
            returned: BTreeSet::new(),
            nacked: BTreeSet::new(),
            acked: BTreeSet::new(),
            tokens: Vec::new(),
            ack_number: 0,
            unconfirmed: VecDeque::new(),
            promise: Promise::default(),
            answered: now,
        }
    }

    /// Its epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether it is being given up.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    /// Whether its stream is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.stream == Stream::Open
    }

    /// Messages held: unread, in hand, or due to come again.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Whether something may be handed out.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// What it has of the member's credit.
    #[must_use]
    pub fn claim(&self) -> Claim {
        let (latest, most, held) = (self.promise.latest(), self.promise.most(), self.in_use());
        Claim {
            latest: Credit { messages: latest.messages, bytes: latest.bytes },
            used: Credit {
                messages: most.messages.max(held.messages),
                bytes: most.bytes.max(held.bytes),
            },
        }
    }

    /// What is held, as credit.
    #[must_use]
    pub fn in_use(&self) -> Credit {
        let messages = u32::try_from(self.held.len()).unwrap_or(u32::MAX);
        Credit { messages, bytes: self.held_bytes }
    }

    /// Whether it is to be opened now.
    #[must_use]
    pub fn wants_open(&self, now: Time) -> bool {
        self.retry_at().is_some_and(|at| at <= now)
    }

    /// When it is to be opened. A right that drains is opened again only for its acks.
    #[must_use]
    pub fn retry_at(&self) -> Option<Time> {
        match self.stream {
            Stream::Closed { retry_at } if self.drain.is_none() || self.has_unconfirmed() => {
                Some(retry_at)
            }
            _ => None,
        }
    }

    /// The open, which lists what is held and repeats every ack that was not confirmed. What was
    /// to be said under the older open is void: what is not listed comes again.
    pub fn open(&mut self, open: OpenNumber, holder: Holder, window: Credit) -> OpenRight {
        self.open = open;
        self.stream = Stream::Opening;
        self.handed.clear();
        self.returned.clear();
        self.nacked.clear();
        self.promise.void();
        let window = self.promise.send(window.messages, window.bytes);
        let mut tokens = std::mem::take(&mut self.tokens);
        let mut acked = std::mem::take(&mut self.acked);
        for sent in std::mem::take(&mut self.unconfirmed) {
            acked.extend(sent.ranges.iter().flat_map(|r| r.offsets()));
            tokens.extend(sent.tokens);
        }
        let acks = OffsetRange::collect(acked);
        let mut ack_number = 0;
        if !acks.is_empty() {
            self.ack_number += 1;
            ack_number = self.ack_number;
            let sent = SentAcks { number: ack_number, ranges: acks.clone(), tokens };
            self.unconfirmed.push_back(sent);
        }
        let kept =
            |(at, h): (&Offset, &Held)| (!matches!(h.state, State::Awaited(_))).then_some(*at);
        OpenRight {
            right: self.id,
            epoch: self.epoch,
            holder,
            open,
            held: OffsetRange::collect(self.held.iter().filter_map(kept)),
            handed_out: OffsetRange::collect(self.hand.keys().copied()),
            acks,
            ack_number,
            window,
        }
    }

    /// The primary has opened it.
    pub fn opened(&mut self, open: OpenNumber) {
        if open == self.open && self.stream == Stream::Opening {
            self.stream = Stream::Open;
            self.failures = 0;
        }
    }

    /// The stream of this open is gone; the right is opened again after a wait.
    pub fn closed(&mut self, now: Time, open: OpenNumber) {
        if open == self.open && !matches!(self.stream, Stream::Closed { .. }) {
            self.stream = Stream::Closed { retry_at: now + back_off(self.failures) };
            self.failures = self.failures.saturating_add(1);
            self.promise.void();
        }
    }

    /// Messages from the primary. Those of an older open are dropped.
    ///
    /// # Errors
    /// What is wrong with the frame, which ends the stream.
    pub fn delivered(&mut self, deliver: &Deliver) -> Result<(), Refusal> {
        if deliver.open != self.open {
            return Ok(());
        }
        let classes = parse_classes(&deliver.class_table, usize::from(deliver.classes))?;
        let mut records = deliver.records.iter().cloned();
        let mut rest = records.next().unwrap_or_default();
        for entry in &deliver.entries {
            if rest.is_empty() {
                rest = records.next().unwrap_or_default();
            }
            let (m, len) = parse_record(&rest, &classes)?;
            rest = rest.slice(len..);
            let offset = Offset(deliver.base_offset.0 + u64::from(entry.index));
            let message = Message {
                class: m.class,
                key: m.key,
                id: m.id,
                headers: m.headers,
                body: m.body,
                queue: self.queue.clone(),
                offset: offset.0,
                epoch: self.epoch.0,
                delivery: u32::from(entry.delivery),
                published_at: deliver.published_at,
            };
            self.arrived(offset, entry.delivery, len as u64, message);
        }
        Ok(())
    }

    fn arrived(&mut self, offset: Offset, delivery: u16, bytes: u64, mut message: Message) {
        let confirmed_soon =
            |s: &SentAcks| s.ranges.iter().any(|r| r.first <= offset && offset < r.end);
        if self.acked.contains(&offset) || self.unconfirmed.iter().any(confirmed_soon) {
            return;
        }
        if self.drain.is_some() {
            if !self.hand.contains_key(&offset) {
                self.returned.insert(offset);
            }
            return;
        }
        if let Some(held) = self.held.get_mut(&offset) {
            let delivery = held.delivery.max(delivery);
            held.delivery = delivery;
            message.delivery = u32::from(delivery);
            if let State::Unread(unread) = &mut held.state {
                unread.delivery = u32::from(delivery);
                return;
            }
            // Its ack timed out, or it was given back: it is handed out again.
            held.state = State::Unread(Box::new(message));
            self.hand.remove(&offset);
        } else {
            let key = message.key.clone().filter(|_| self.order == Order::Key);
            if let Some(key) = &key {
                self.keys.entry(key.clone()).or_default().offsets.insert(offset);
            }
            let state = State::Unread(Box::new(message));
            self.held.insert(offset, Held { key, bytes, delivery, state });
            self.held_bytes += bytes;
        }
        self.look_at(offset);
    }

    /// Decides anew what may be handed out of the messages that share this one's key.
    fn look_at(&mut self, offset: Offset) {
        match self.held.get(&offset).map(|h| h.key.clone()) {
            Some(Some(key)) => self.look_at_key(&key),
            Some(None) if self.is_unread(offset) => {
                self.ready.insert(offset);
            }
            _ => {
                self.ready.remove(&offset);
            }
        }
    }

    /// Of a key, the first message may go if it is unread and no other is in hand.
    fn look_at_key(&mut self, key: &Bytes) {
        let Some(line) = self.keys.get_mut(key) else { return };
        if let Some(front) = line.front {
            if self.hand.contains_key(&front) {
                return;
            }
            self.ready.remove(&front);
        }
        let unread =
            |at: &Offset| self.held.get(at).is_some_and(|h| matches!(h.state, State::Unread(_)));
        line.front = line.offsets.first().copied().filter(unread);
        self.ready.extend(line.front);
    }

    fn is_unread(&self, offset: Offset) -> bool {
        self.held.get(&offset).is_some_and(|h| matches!(h.state, State::Unread(_)))
    }

    /// Hands out the oldest message that may go.
    pub fn take(&mut self, now: Time, serial: u64) -> Option<(Hold, Message)> {
        let offset = self.ready.pop_first()?;
        let held = self.held.get_mut(&offset)?;
        let State::Unread(message) = std::mem::replace(&mut held.state, State::InHand) else {
            return None;
        };
        self.hand.insert(offset, InHand { serial, since: now, told: now });
        self.handed.insert(offset);
        Some((Hold { right: self.id, epoch: self.epoch, offset, serial }, *message))
    }

    /// The application is done with a message. False when that changed nothing: it was settled
    /// before, or (for nacks and returns) handed out again since. `token` waits for the ack's
    /// confirmation; it is kept only when this is true.
    pub fn settle(&mut self, now: Time, hold: &Hold, how: How, token: Option<u64>) -> bool {
        let offset = hold.offset;
        let current = self.hand.get(&offset).is_some_and(|h| h.serial == hold.serial);
        if !self.held.contains_key(&offset) || (how != How::Ack && !current) {
            return false;
        }
        self.hand.remove(&offset);
        match how {
            How::Ack => {
                self.handed.remove(&offset);
                self.nacked.remove(&offset);
                self.returned.remove(&offset);
                self.acked.insert(offset);
                self.tokens.extend(token);
                self.forget(offset);
            }
            How::Nack | How::GiveBack => {
                let list = if how == How::Nack { &mut self.nacked } else { &mut self.returned };
                list.insert(offset);
                if self.drain.is_some() {
                    self.forget(offset);
                } else if let Some(held) = self.held.get_mut(&offset) {
                    held.state = State::Awaited(now);
                    self.look_at(offset);
                }
            }
        }
        true
    }

    fn forget(&mut self, offset: Offset) {
        let Some(held) = self.held.remove(&offset) else { return };
        self.held_bytes -= held.bytes;
        self.ready.remove(&offset);
        if let Some(key) = held.key {
            if let Some(line) = self.keys.get_mut(&key) {
                line.offsets.remove(&offset);
                if line.offsets.is_empty() {
                    self.keys.remove(&key);
                }
            }
            self.look_at_key(&key);
        }
    }

    /// From now on nothing more is handed out, and what is unread goes back. True when it began
    /// to drain just now.
    pub fn begin_drain(&mut self, now: Time, revoked: bool) -> bool {
        if let Some(drain) = &mut self.drain {
            drain.revoked |= revoked;
            return false;
        }
        self.drain = Some(Drain { revoked, since: now, told: now });
        self.return_unread(usize::MAX);
        let awaited: Vec<Offset> = self
            .held
            .iter()
            .filter(|(_, h)| matches!(h.state, State::Awaited(_)))
            .map(|(at, _)| *at)
            .collect();
        for offset in awaited {
            self.forget(offset);
        }
        true
    }

    /// Returns unread messages, the latest first.
    fn return_unread(&mut self, most: usize) {
        let unread: Vec<Offset> = self
            .held
            .iter()
            .rev()
            .filter(|(_, h)| matches!(h.state, State::Unread(_)))
            .map(|(at, _)| *at)
            .take(most)
            .collect();
        for offset in unread {
            self.returned.insert(offset);
            self.forget(offset);
        }
    }

    /// Whether acks are on the way or still to be sent.
    #[must_use]
    pub fn has_unconfirmed(&self) -> bool {
        !self.acked.is_empty() || !self.unconfirmed.is_empty()
    }

    /// Whether nothing is in hand and every ack is confirmed.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.hand.is_empty() && !self.has_unconfirmed()
    }

    /// Whether `Drained` may be said.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.drain.as_ref().is_some_and(|d| d.revoked) && self.is_settled()
    }

    /// Whether to ask for more time, because a handler has a message of it.
    pub fn asks_for_time(&mut self, now: Time) -> bool {
        match &mut self.drain {
            Some(drain)
                if drain.revoked
                    && !self.hand.is_empty()
                    && now.since(drain.told) >= STILL_DRAINING_EVERY
                    && now.since(drain.since) <= DRAIN_MAX =>
            {
                drain.told = now;
                true
            }
            _ => false,
        }
    }

    /// All acks up to this one are durable; returns the tokens that waited for them.
    pub fn confirmed(&mut self, confirmed: AckConfirmed) -> Vec<u64> {
        let mut tokens = Vec::new();
        while confirmed.open == self.open
            && self.unconfirmed.front().is_some_and(|s| s.number <= confirmed.number)
            && let Some(sent) = self.unconfirmed.pop_front()
        {
            tokens.extend(sent.tokens);
        }
        tokens
    }

    /// The worker obeys this window from now on.
    pub fn window_seen(&mut self, open: OpenNumber, number: u64) {
        if open == self.open {
            self.promise.seen(number);
        }
    }

    /// Changes the window.
    pub fn set_window(&mut self, window: Credit, out: &mut Vec<Frame>) {
        let window = self.promise.send(window.messages, window.bytes);
        out.push((Kind::Window, window.encode()));
    }

    /// Extends what is in hand, and makes room where a message that has to come again waits
    /// behind messages that cannot go before it.
    pub fn tick(&mut self, now: Time) {
        for (offset, hand) in &mut self.hand {
            let due = now.since(hand.told) >= EXTEND_EVERY;
            if due && now.since(hand.since) <= HANDLING_LIMIT {
                hand.told = now;
                self.handed.insert(*offset);
            }
        }
        let waits_long =
            |h: &Held| matches!(h.state, State::Awaited(at) if now.since(at) >= NACK_PATIENCE);
        if self.hand.is_empty()
            && self.ready.is_empty()
            && now.since(self.made_room) >= NACK_PATIENCE
            && self.held.values().any(waits_long)
        {
            self.made_room = now;
            self.return_unread(1);
        }
    }

    /// The frames that are due. Acks are gathered while several frames of them are unconfirmed.
    pub fn flush(&mut self, out: &mut Vec<Frame>) {
        if matches!(self.stream, Stream::Closed { .. }) {
            return;
        }
        for (kind, offsets) in [
            (Kind::HandedOut, &mut self.handed),
            (Kind::Nack, &mut self.nacked),
            (Kind::Return, &mut self.returned),
        ] {
            let ranges = OffsetRange::collect(std::mem::take(offsets));
            for ranges in ranges.chunks(MAX_RANGES) {
                let ranges = Ranges { open: self.open, number: 0, ranges: ranges.to_vec() };
                out.push((kind, ranges.encode()));
            }
        }
        if self.acked.is_empty() || self.unconfirmed.len() >= ACK_FRAMES {
            return;
        }
        let ranges = OffsetRange::collect(std::mem::take(&mut self.acked));
        let last = ranges.len().div_ceil(MAX_RANGES);
        for (i, ranges) in ranges.chunks(MAX_RANGES).enumerate() {
            self.ack_number += 1;
            let tokens = if i + 1 == last { std::mem::take(&mut self.tokens) } else { Vec::new() };
            let acks = Ranges { open: self.open, number: self.ack_number, ranges: ranges.to_vec() };
            out.push((Kind::Ack, acks.encode()));
            self.unconfirmed.push_back(SentAcks {
                number: self.ack_number,
                ranges: acks.ranges,
                tokens,
            });
        }
    }

    /// The tokens of every ack that was not confirmed, of a right that is lost.
    #[must_use]
    pub fn into_tokens(self) -> Vec<u64> {
        self.unconfirmed.into_iter().flat_map(|s| s.tokens).chain(self.tokens).collect()
    }
}
