//! I1: a publish that was acked is in its queue's log at the end, at the offset that was told,
//! and was handed to every subscription that existed: to one from the start always, to one from
//! now on if it was tried after the join and after the queue had the subscription's beginning.

use std::collections::{BTreeMap, BTreeSet};

use ringway_proto::control::Start;
use ringway_proto::{Filter, Offset, QueueId, SubscriptionId};

use super::super::history::{History, Told, Value, What};

struct Reader {
    filter: Filter,
    start: Start,
    joined: u64,
    started: BTreeMap<QueueId, u64>,
}

/// Everything that was acked and is lost.
#[must_use]
pub fn check(history: &History) -> Vec<String> {
    let mut attempts: BTreeMap<Value, (u64, &str)> = BTreeMap::new();
    let mut acked: Vec<(Value, QueueId, Offset)> = Vec::new();
    let mut log: BTreeMap<(QueueId, Offset), Option<Value>> = BTreeMap::new();
    let mut handed: BTreeSet<(SubscriptionId, Value)> = BTreeSet::new();
    let mut readers: BTreeMap<SubscriptionId, Reader> = BTreeMap::new();
    let mut started: BTreeMap<(SubscriptionId, QueueId), u64> = BTreeMap::new();
    for entry in &history.entries {
        match &entry.what {
            What::Attempt { value, class, .. } => {
                attempts.insert(*value, (entry.at, class));
            }
            What::Published { value, told: Told::Stored(queue, offset) } => {
                acked.push((*value, *queue, *offset));
            }
            What::InLog { queue, offset, value } => {
                log.insert((*queue, *offset), *value);
            }
            What::HandedOut { right, value: Some(value), .. } => {
                handed.insert((right.subscription, *value));
            }
            What::Joined { subscription, filter, start, .. } => {
                readers.entry(*subscription).or_insert_with(|| Reader {
                    filter: filter.clone(),
                    start: *start,
                    joined: entry.at,
                    started: BTreeMap::new(),
                });
            }
            What::Started { subscription, queue } => {
                started.entry((*subscription, *queue)).or_insert(entry.at);
            }
            _ => {}
        }
    }
    for ((subscription, queue), at) in started {
        if let Some(reader) = readers.get_mut(&subscription) {
            reader.started.insert(queue, at);
        }
    }
    let mut lost = Vec::new();
    for (value, queue, offset) in acked {
        if log.get(&(queue, offset)) != Some(&Some(value)) {
            let found = log.get(&(queue, offset));
            lost.push(format!("{value:?} was acked at {queue} {offset}, where {found:?} is"));
            continue;
        }
        let Some((at, class)) = attempts.get(&value) else { continue };
        for (subscription, reader) in &readers {
            let wants = reader.filter.matches(class)
                && match reader.start {
                    Start::Start => true,
                    Start::Now => {
                        let began = reader.started.get(&queue);
                        reader.joined < *at && began.is_some_and(|began| began < at)
                    }
                };
            if wants && !handed.contains(&(*subscription, value)) {
                lost.push(format!(
                    "{value:?} of {class} at {queue} {offset} never reached subscription \
                     {subscription}"
                ));
            }
        }
    }
    lost
}
