//! I14: a right that stays where it is never pauses while others move: what becomes durable in its
//! queue is sent to its holder within 50 ms. Judged where nothing goes wrong, since a right may
//! well pause when something breaks, and until a group grows or classes move: from then on messages
//! may have to wait for earlier ones of their keys in another queue.

use std::collections::{BTreeMap, BTreeSet};

use ringway_proto::{Epoch, Filter, Holder, Offset, QueueId, RightId, SubscriptionId};

use super::super::history::{History, Value, What};

/// The longest pause, in milliseconds.
const PAUSE: u64 = 50;

#[derive(Default)]
struct State<'a> {
    classes: BTreeMap<Value, &'static str>,
    filters: BTreeMap<SubscriptionId, &'a Filter>,
    /// The rights that are open and stay so, as far as is known.
    open: BTreeMap<RightId, (Epoch, &'a Holder)>,
    /// The rights that are being given up, also where they are opened again for their acks.
    revoked: BTreeSet<(RightId, Epoch)>,
    /// What has to be sent, since when.
    due: BTreeMap<(RightId, Offset), u64>,
    wrong: Vec<String>,
}

impl State<'_> {
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

    fn stored(&mut self, at: u64, queue: QueueId, offset: Offset, value: Option<Value>) {
        let Some(class) = value.and_then(|value| self.classes.get(&value)) else { return };
        for right in self.open.keys().filter(|right| right.queue == queue) {
            if self.filters.get(&right.subscription).is_some_and(|filter| filter.matches(class)) {
                self.due.insert((*right, offset), at);
            }
        }
    }
}

/// Whether keys or classes get another queue.
fn is_change(fault: &str) -> bool {
    ["Grow", "Bind", "RingGroup"].iter().any(|change| fault.starts_with(change))
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
            What::Attempt { value, class, .. } => drop(state.classes.insert(*value, class)),
            What::Joined { subscription, filter, .. } => {
                state.filters.insert(*subscription, filter);
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
                state.stored(entry.at, *queue, *offset, *value);
            }
            What::Sent { right, offset } => drop(state.due.remove(&(*right, *offset))),
            _ => {}
        }
    }
    state.wrong
}
