//! I4: the first deliveries of a key to a subscription come in publish order, and under one epoch
//! the deliveries of a key never go back.

use std::collections::{BTreeMap, BTreeSet};

use ringway_proto::{Epoch, Offset, QueueId, SubscriptionId};

use super::super::history::{History, Value, What};

/// Every delivery out of order.
#[must_use]
pub fn check(history: &History) -> Vec<String> {
    let mut keys: BTreeMap<Value, u32> = BTreeMap::new();
    let mut seen: BTreeSet<(SubscriptionId, Value)> = BTreeSet::new();
    // A key belongs to one producer, so producer and key name it.
    let mut first: BTreeMap<(SubscriptionId, u32, u32), u32> = BTreeMap::new();
    let mut last: BTreeMap<(SubscriptionId, QueueId, Epoch, u32, u32), Offset> = BTreeMap::new();
    let mut wrong = Vec::new();
    for entry in &history.entries {
        match &entry.what {
            What::Attempt { value, key: Some(key), .. } => {
                keys.insert(*value, *key);
            }
            What::HandedOut { right, epoch, offset, value: Some(value), holder, .. } => {
                let Some(key) = keys.get(value).copied() else { continue };
                let subscription = right.subscription;
                if seen.insert((subscription, *value)) {
                    let newest = first.entry((subscription, value.producer, key)).or_default();
                    if value.number < *newest {
                        wrong.push(format!(
                            "key {}/{key}: {} first reached subscription {subscription} at {}, \
                             behind {newest}",
                            value.producer, value.number, entry.at
                        ));
                    }
                    *newest = value.number.max(*newest);
                }
                let line = (subscription, right.queue, *epoch, value.producer, key);
                let newest = last.entry(line).or_default();
                if *offset < *newest {
                    wrong.push(format!(
                        "key {}/{key}: {} was handed {} offset {offset} under {epoch:?} at {}, \
                         behind {newest}",
                        value.producer, holder.member, right.queue, entry.at
                    ));
                }
                *newest = *offset.max(newest);
            }
            _ => {}
        }
    }
    wrong
}
