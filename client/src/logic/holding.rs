//! The messages of one right that are here: unread, in hand, or due to come again. It promises at
//! most one message of a key in hand, and that a key's later messages wait while an earlier one is
//! in hand or has to come again. It does not know streams, acks or credit.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use ringway_proto::control::Order;
use ringway_proto::data::OffsetRange;
use ringway_proto::hash::lane_of_message;
use ringway_proto::{Lanes, Offset, Time};

use super::credit::Credit;
use crate::message::Message;

/// How often a message in hand is reported again, which extends its ack timeout.
pub const EXTEND_EVERY: Duration = Duration::from_secs(10);
/// How long a message in hand is extended at most.
pub const HANDLING_LIMIT: Duration = Duration::from_secs(15 * 60);

#[derive(Clone, Debug, PartialEq)]
enum State {
    /// Not yet in the application's hands.
    Unread(Box<Message>),
    InHand,
    /// Given back to the queue; its key waits until it comes again.
    Awaited,
}

#[derive(Clone, Debug)]
struct Held {
    key: Option<Bytes>,
    lane: u16,
    bytes: u64,
    delivery: u16,
    state: State,
}

/// The messages of one key, in order.
#[derive(Clone, Debug, Default)]
struct KeyLine {
    offsets: BTreeSet<Offset>,
    /// The one that is ready or in hand.
    front: Option<Offset>,
}

#[derive(Clone, Debug)]
struct InHand {
    serial: u64,
    since: Time,
    told: Time,
}

/// What is held of one right.
#[derive(Clone, Debug)]
pub struct Holding {
    order: Order,
    held: BTreeMap<Offset, Held>,
    /// Those of `held` that are here: unread or in hand.
    here: Credit,
    hand: BTreeMap<Offset, InHand>,
    /// What may be handed out now.
    ready: BTreeSet<Offset>,
    /// The messages of each key, where order is by key.
    keys: BTreeMap<Bytes, KeyLine>,
}

impl Holding {
    /// Nothing is held.
    #[must_use]
    pub fn new(order: Order) -> Self {
        Self {
            order,
            held: BTreeMap::new(),
            here: Credit { messages: 0, bytes: 0 },
            hand: BTreeMap::new(),
            ready: BTreeSet::new(),
            keys: BTreeMap::new(),
        }
    }

    /// What is unread or in hand, as credit. What has to come again is not: its queue may send
    /// others in its place.
    #[must_use]
    pub fn in_use(&self) -> Credit {
        self.here
    }

    /// Whether something may be handed out.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether this message is in hand.
    #[must_use]
    pub fn is_in_hand(&self, offset: Offset) -> bool {
        self.hand.contains_key(&offset)
    }

    /// Whether anything is in hand.
    #[must_use]
    pub fn is_any_in_hand(&self) -> bool {
        !self.hand.is_empty()
    }

    /// What the queue is to leave here: unread and in hand.
    #[must_use]
    pub fn kept(&self) -> Vec<OffsetRange> {
        let here = self.held.iter().filter(|(_, h)| h.state != State::Awaited);
        OffsetRange::collect(here.map(|(at, _)| *at))
    }

    /// What is in hand.
    #[must_use]
    pub fn handed_out(&self) -> Vec<OffsetRange> {
        OffsetRange::collect(self.hand.keys().copied())
    }

    /// Takes a message that was delivered. One that is here unread is the same; one that is not
    /// comes again, because its ack timed out or it was given back.
    pub fn arrived(&mut self, offset: Offset, delivery: u16, bytes: u64, mut message: Message) {
        let lane = lane_of_message(message.key.as_deref(), offset);
        if let Some(held) = self.held.get_mut(&offset) {
            held.delivery = held.delivery.max(delivery);
            message.delivery = u32::from(held.delivery);
            if let State::Unread(unread) = &mut held.state {
                unread.delivery = message.delivery;
                return;
            }
            if held.state == State::Awaited {
                self.here.messages += 1;
                self.here.bytes += held.bytes;
            }
            held.state = State::Unread(Box::new(message));
            self.hand.remove(&offset);
        } else {
            let key = message.key.clone().filter(|_| self.order == Order::Key);
            if let Some(key) = &key {
                self.keys.entry(key.clone()).or_default().offsets.insert(offset);
            }
            let state = State::Unread(Box::new(message));
            self.held.insert(offset, Held { key, lane, bytes, delivery, state });
            self.here.messages += 1;
            self.here.bytes += bytes;
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
    pub fn take(&mut self, now: Time, serial: u64) -> Option<(Offset, Message)> {
        let offset = self.ready.pop_first()?;
        let held = self.held.get_mut(&offset)?;
        let State::Unread(message) = std::mem::replace(&mut held.state, State::InHand) else {
            return None;
        };
        self.hand.insert(offset, InHand { serial, since: now, told: now });
        Some((offset, *message))
    }

    /// The message is done; false when it is not here any more. The hand-out does not matter: who
    /// has handled it, late or not, has handled it.
    pub fn done(&mut self, offset: Offset) -> bool {
        self.hand.remove(&offset);
        self.forget(offset)
    }

    /// Whether this is the hand-out of the message that counts: it was not settled before, nor
    /// handed out again since.
    #[must_use]
    pub fn is_current(&self, offset: Offset, serial: u64) -> bool {
        self.hand.get(&offset).is_some_and(|h| h.serial == serial)
    }

    /// A message in hand goes back, and its key waits until it comes again.
    pub fn put_back(&mut self, offset: Offset) {
        self.hand.remove(&offset);
        if let Some(held) = self.held.get_mut(&offset) {
            held.state = State::Awaited;
            self.here.messages -= 1;
            self.here.bytes -= held.bytes;
            self.look_at(offset);
        }
    }

    fn forget(&mut self, offset: Offset) -> bool {
        let Some(held) = self.held.remove(&offset) else { return false };
        if held.state != State::Awaited {
            self.here.messages -= 1;
            self.here.bytes -= held.bytes;
        }
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
        true
    }

    /// The lane of a message that is here or has to come again.
    #[must_use]
    pub fn lane(&self, offset: Offset) -> Option<u16> {
        self.held.get(&offset).map(|held| held.lane)
    }

    /// The lanes of what [`Holding::kept`] lists, in its order.
    #[must_use]
    pub fn kept_lanes(&self) -> Vec<u16> {
        self.held.values().filter(|h| h.state != State::Awaited).map(|h| h.lane).collect()
    }

    /// Whether a message of another lane than these is in hand.
    #[must_use]
    pub fn is_any_in_hand_beside(&self, lanes: Lanes) -> bool {
        self.hand.keys().any(|at| self.lane(*at).is_some_and(|lane| !lanes.contains(lane)))
    }

    /// Lets go of everything of other lanes than these, also of what is in hand.
    pub fn drop_beside(&mut self, lanes: Lanes) {
        let beside = self.held.iter().filter(|(_, held)| !lanes.contains(held.lane));
        for offset in beside.map(|(at, _)| *at).collect::<Vec<_>>() {
            self.done(offset);
        }
    }

    /// Lets go of everything of other lanes than these that is not in hand, and says what of it
    /// was unread.
    pub fn drop_all_but_in_hand(&mut self, lanes: Option<Lanes>) -> Vec<Offset> {
        let beside = |held: &Held| lanes.is_none_or(|lanes| !lanes.contains(held.lane));
        let gone =
            self.held.iter().filter(|(at, held)| beside(held) && !self.hand.contains_key(at));
        let gone: Vec<Offset> = gone.map(|(at, _)| *at).collect();
        let unread = gone.iter().filter(|at| self.is_unread(**at)).copied().collect();
        for offset in gone {
            self.forget(offset);
        }
        unread
    }

    /// The messages in hand whose ack timeout is to be extended now.
    pub fn due_extensions(&mut self, now: Time) -> Vec<Offset> {
        let due =
            |h: &InHand| now.since(h.told) >= EXTEND_EVERY && now.since(h.since) <= HANDLING_LIMIT;
        let due = self.hand.iter_mut().filter(|(_, h)| due(h));
        due.map(|(at, hand)| {
            hand.told = now;
            *at
        })
        .collect()
    }
}
