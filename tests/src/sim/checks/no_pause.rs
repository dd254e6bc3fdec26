//! I14: a right that stays where it is never pauses while others move: what becomes durable in its
//! queue is sent to its holder within 50 ms, unless earlier messages are still to be sent: a holder
//! that works through a backlog is as fast as its handlers. Judged where nothing goes wrong, since
//! a right may well pause when something breaks, and until a group grows or classes move: from then
//! on messages may have to wait for earlier ones of their keys in another queue.

use std::collections::{BTreeMap, BTreeSet};

use ringway_client::logic::right::How;
use ringway_proto::{Epoch, Filter, Holder, Offset, QueueId, RightId, SubscriptionId};

use super::super::history::{History, Value, What};

/// The longest pause, in milliseconds.
const PAUSE: u64 = 50;
/// A holder that has so many messages in hand may have no credit for more.
const BUSY: usize = 32;

#[derive(Default)]
struct State<'a> {
    classes: BTreeMap<Value, &'static str>,
    filters: BTreeMap<SubscriptionId, &'a Filter>,
    /// What is durable, by queue.
    stored: BTreeMap<QueueId, Vec<(Offset, &'static str)>>,
    /// The rights that are open and stay so, as far as is known.
    open: BTreeMap<RightId, (Epoch, &'a Holder)>,
    /// The rights that are being given up, also where they are opened again for their acks.
    revoked: BTreeSet<(RightId, Epoch)>,
    /// The last message of each queue that a subscription is to have.
    last: BTreeMap<(SubscriptionId, QueueId), Offset>,
    /// The last message that was sent of each right.
    sent: BTreeMap<RightId, Offset>,
    /// What was sent of each right and is not acked.
    in_hand: BTreeMap<RightId, BTreeSet<Offset>>,
    /// What has to be sent, since when.
    due: BTreeMap<(RightId, Offset), u64>,
    wrong: Vec<String>,
}

impl<'a> State<'a> {
    /// Everything that was due before now and was not sent is a pause.
    fn judge(&mut self, now: u64) {
        let late = |since: u64| since + PAUSE < now;
        for ((right, offset), since) in self.due.iter().filter(|(_, since)| late(**since)) {
            self.wrong.push(format!(
                "offset {offset} of {} was durable at {since} and not sent to subscription {} by \
                 {now}",
                right.queue, right.subscription
            ));
        }
        self.due.retain(|_, since| !late(*since));
    }

    /// These rights may pause from now on.
    fn leave(&mut self, is_over: impl Fn(&RightId, Epoch, &Holder) -> bool) {
        let over =
            self.open.iter().filter(|(right, (epoch, holder))| is_over(right, *epoch, holder));
        let over: BTreeSet<RightId> = over.map(|(right, _)| *right).collect();
        self.open.retain(|right, _| !over.contains(right));
        self.due.retain(|(right, _), _| !over.contains(right));
    }

    fn joined(&mut self, subscription: SubscriptionId, filter: &'a Filter) {
        self.filters.insert(subscription, filter);
        for (queue, stored) in &self.stored {
            let last = stored.iter().rfind(|(_, class)| filter.matches(class));
            if let Some((offset, _)) = last {
                self.last.insert((subscription, *queue), *offset);
            }
        }
    }

    fn store(&mut self, at: u64, queue: QueueId, offset: Offset, value: Option<Value>) {
        let Some(class) = value.and_then(|value| self.classes.get(&value)) else { return };
        self.stored.entry(queue).or_default().push((offset, class));
        let theirs = self.filters.iter().filter(|(_, filter)| filter.matches(class));
        for (subscription, _) in theirs {
            let before = self.last.insert((*subscription, queue), offset);
            let is_of =
                |right: &&RightId| (right.subscription, right.queue) == (*subscription, queue);
            for right in self.open.keys().filter(is_of) {
                let is_next = before.is_none_or(|before| {
                    self.sent.get(right).is_some_and(|sent| *sent >= before)
                        || self.due.contains_key(&(*right, before))
                });
                let in_hand = self.in_hand.get(right).map_or(0, BTreeSet::len);
                if is_next && in_hand < BUSY {
                    self.due.insert((*right, offset), at);
                }
            }
        }
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
                state.joined(*subscription, filter);
            }
            What::Opened { right, epoch, holder, .. }
                if !state.revoked.contains(&(*right, *epoch)) =>
            {
                state.open.insert(*right, (*epoch, holder));
            }
            What::Revoked { right, epoch } => {
                state.revoked.insert((*right, *epoch));
                state.leave(|r, e, _| r == right && e == *epoch);
            }
            What::Raised { right, epoch, .. } => state.leave(|r, e, _| r == right && e < *epoch),
            What::Leaving(holder) => state.leave(|_, _, h| h == holder),
            // Its queue moves, and the right with it.
            What::Sealed(queue) => state.leave(|right, _, _| right.queue == *queue),
            What::Stored { queue, offset, value } => {
                state.store(entry.at, *queue, *offset, *value);
            }
            What::Sent { right, offset } => {
                state.due.remove(&(*right, *offset));
                let last = state.sent.entry(*right).or_insert(*offset);
                *last = *offset.max(last);
                state.in_hand.entry(*right).or_default().insert(*offset);
            }
            What::Settled { right, offset, how: How::Ack, .. } => {
                if let Some(in_hand) = state.in_hand.get_mut(right) {
                    in_hand.remove(offset);
                }
            }
            _ => {}
        }
    }
    state.wrong
}
