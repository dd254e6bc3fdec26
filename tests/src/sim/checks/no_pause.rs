//! I14: a right that stays where it is never pauses while others move: what becomes durable in its
//! queue, in its lanes, is sent to its holder within 50 ms, unless earlier messages are still to be
//! sent: a holder that works through a backlog is as fast as its handlers. Of a right that is split
//! the half that stays is such a right. Judged where nothing goes wrong, since a right may well
//! pause when something breaks, and until a group grows or classes move: from then on messages may
//! have to wait for earlier ones of their keys in another queue.

use std::collections::{BTreeMap, BTreeSet};

use ringway_client::logic::right::How;
use ringway_proto::{Epoch, Filter, Holder, Lanes, Offset, QueueId, RightId, SubscriptionId};

use super::super::history::{History, Value, What};

/// The longest pause, in milliseconds.
const PAUSE: u64 = 50;
/// A holder that has so many messages in hand may have no credit for more.
const BUSY: usize = 32;

/// What a right is known by while lanes are cut from its end: its first lane stays.
type Place = (SubscriptionId, QueueId, u16);

fn place(right: &RightId) -> Place {
    (right.subscription, right.queue, right.lanes.start)
}

/// Whether rights have lanes in common.
fn meet(one: &RightId, other: &RightId) -> bool {
    one.is_beside(other) && one.lanes.overlaps(other.lanes)
}

/// A message that is durable.
struct Stored {
    offset: Offset,
    class: &'static str,
    lane: u16,
}

#[derive(Default)]
struct State<'a> {
    classes: BTreeMap<Value, &'static str>,
    filters: BTreeMap<SubscriptionId, &'a Filter>,
    /// What is durable, by queue.
    stored: BTreeMap<QueueId, Vec<Stored>>,
    /// The lanes of that.
    lanes: BTreeMap<(QueueId, Offset), u16>,
    /// The rights that are open and stay so, as far as is known.
    open: BTreeMap<Place, (RightId, Epoch, &'a Holder)>,
    /// The rights that are being given up, also where they are opened again for their acks.
    revoked: BTreeSet<(RightId, Epoch)>,
    /// What stays of rights of which lanes are being given up, also when they are opened again.
    narrowed: BTreeMap<(Place, Epoch), Lanes>,
    /// The lanes that a right had when it was open last.
    known: BTreeMap<Place, Lanes>,
    /// The last message that was sent of each right.
    sent: BTreeMap<Place, Offset>,
    /// What was sent of each right and is not acked.
    in_hand: BTreeMap<Place, BTreeSet<Offset>>,
    /// What has to be sent, since when.
    due: BTreeMap<(Place, Offset), u64>,
    wrong: Vec<String>,
}

impl<'a> State<'a> {
    /// Everything that was due before now and was not sent is a pause.
    fn judge(&mut self, now: u64) {
        let late = |since: u64| since + PAUSE < now;
        let all = self.due.iter().filter(|(_, since)| late(**since));
        for (((subscription, queue, lane), offset), since) in all {
            self.wrong.push(format!(
                "offset {offset} of {queue} was durable at {since} and not sent to subscription \
                 {subscription} by {now}, whose right begins at lane {lane}"
            ));
        }
        self.due.retain(|_, since| !late(*since));
    }

    /// These rights may pause from now on.
    fn leave(&mut self, is_over: impl Fn(&RightId, Epoch, &Holder) -> bool) {
        let open = self.open.iter();
        let over = open.filter(|(_, (right, epoch, holder))| is_over(right, *epoch, holder));
        let over: BTreeSet<Place> = over.map(|(place, _)| *place).collect();
        self.open.retain(|place, _| !over.contains(place));
        self.due.retain(|(place, _), _| !over.contains(place));
    }

    fn opened(&mut self, right: &RightId, epoch: Epoch, holder: &'a Holder) {
        if self.revoked.iter().any(|(revoked, under)| *under == epoch && meet(revoked, right)) {
            return;
        }
        let before = self.known.insert(place(right), right.lanes);
        if before.is_some_and(|before| !before.covers(right.lanes)) {
            // It was merged: what its other parts have to send is not known.
            self.sent.remove(&place(right));
        }
        let narrowed = self.narrowed.get(&(place(right), epoch)).copied();
        let lanes = narrowed.filter(|to| right.lanes.covers(*to)).unwrap_or(right.lanes);
        self.open.insert(place(right), (right.with(lanes), epoch, holder));
    }

    /// Only these lanes of a right stay; the others may pause from now on.
    fn narrow(&mut self, right: &RightId, epoch: Epoch, to: Lanes) {
        let at = place(right);
        self.narrowed.insert((at, epoch), to);
        let is_it = |(known, under, _): &&mut (RightId, Epoch, &Holder)| {
            *under == epoch && known.lanes.covers(to)
        };
        let Some((known, ..)) = self.open.get_mut(&at).filter(is_it) else { return };
        known.lanes = to;
        self.known.insert(at, to);
        let lanes = &self.lanes;
        let stays = |offset: &Offset| {
            lanes.get(&(right.queue, *offset)).is_some_and(|lane| to.contains(*lane))
        };
        self.due.retain(|(place, offset), _| *place != at || stays(offset));
        if let Some(in_hand) = self.in_hand.get_mut(&at) {
            in_hand.retain(stays);
        }
    }

    fn store(&mut self, at: u64, queue: QueueId, stored: Stored) {
        let Stored { offset, class, lane } = stored;
        self.lanes.insert((queue, offset), lane);
        let earlier = self.stored.entry(queue).or_default();
        for (place, (right, ..)) in &self.open {
            let matches = |class: &str| {
                self.filters.get(&right.subscription).is_some_and(|filter| filter.matches(class))
            };
            if right.queue != queue || !right.lanes.contains(lane) || !matches(class) {
                continue;
            }
            let is_its = |other: &&Stored| right.lanes.contains(other.lane) && matches(other.class);
            let is_next = earlier.iter().rfind(is_its).is_none_or(|before| {
                self.sent.get(place).is_some_and(|sent| *sent >= before.offset)
                    || self.due.contains_key(&(*place, before.offset))
            });
            let in_hand = self.in_hand.get(place).map_or(0, BTreeSet::len);
            if is_next && in_hand < BUSY {
                self.due.insert((*place, offset), at);
            }
        }
        earlier.push(stored);
    }

    fn sent(&mut self, right: &RightId, offset: Offset) {
        let at = place(right);
        self.due.remove(&(at, offset));
        let last = self.sent.entry(at).or_insert(offset);
        *last = offset.max(*last);
        self.in_hand.entry(at).or_default().insert(offset);
    }
}

/// Whether keys or classes get another queue.
fn is_change(fault: &str) -> bool {
    ["Grow", "Bind", "RingGroup"].iter().any(|change| fault.starts_with(change))
}

/// The member of which a process starts or ends.
fn comes_or_goes(fault: &str) -> Option<&str> {
    let process = fault.strip_suffix(" starts").or_else(|| fault.strip_suffix(" ends"))?;
    Some(process.trim_end_matches('\''))
}

/// Every pause.
#[must_use]
pub fn check(history: &History) -> Vec<String> {
    let mut state = State::default();
    if !history.entries.iter().any(|entry| entry.what == What::Calm) {
        return state.wrong;
    }
    for entry in &history.entries {
        state.judge(entry.at);
        match &entry.what {
            What::Fault(text) if is_change(text) => break,
            // Another process of the member takes over, or the last one is gone.
            What::Fault(text) => {
                if let Some(member) = comes_or_goes(text) {
                    state.leave(|_, _, holder| holder.member.as_str() == member);
                }
            }
            What::Attempt { value, class, .. } => drop(state.classes.insert(*value, class)),
            What::Joined { subscription, filter, .. } => {
                state.filters.insert(*subscription, filter);
            }
            What::Opened { right, epoch, holder, .. } => state.opened(right, *epoch, holder),
            What::Narrowing { right, epoch, to } => state.narrow(right, *epoch, *to),
            What::Revoked { right, epoch } => {
                state.revoked.insert((*right, *epoch));
                state.leave(|r, e, _| meet(r, right) && e == *epoch);
            }
            What::Raised { right, epoch, .. } => {
                state.leave(|r, e, _| meet(r, right) && e < *epoch);
            }
            What::Leaving(holder) => state.leave(|_, _, h| h == holder),
            // Its queue moves, and the right with it.
            What::Sealed(queue) => state.leave(|right, _, _| right.queue == *queue),
            What::Stored { queue, offset, value, lane } => {
                let class = value.as_ref().and_then(|value| state.classes.get(value)).copied();
                if let Some(class) = class {
                    let stored = Stored { offset: *offset, class, lane: *lane };
                    state.store(entry.at, *queue, stored);
                }
            }
            What::Sent { right, offset } => state.sent(right, *offset),
            What::Settled { right, offset, how: How::Ack, .. } => {
                if let Some(in_hand) = state.in_hand.get_mut(&place(right)) {
                    in_hand.remove(offset);
                }
            }
            _ => {}
        }
    }
    state.wrong
}
