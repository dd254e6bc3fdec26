//! I3: one offset of a queue is one value, for every reader, at every time.

use std::collections::BTreeMap;

use ringway_proto::{Offset, QueueId};

use super::super::history::{History, Told, Value, What};

/// Every offset with two values.
#[must_use]
pub fn check(history: &History) -> Vec<String> {
    let mut known: BTreeMap<(QueueId, Offset), Value> = BTreeMap::new();
    let mut wrong = Vec::new();
    for entry in &history.entries {
        let (queue, offset, value) = match &entry.what {
            What::Stored { queue, offset, value, .. } | What::InLog { queue, offset, value } => {
                (*queue, *offset, *value)
            }
            What::HandedOut { right, offset, value, .. } => (right.queue, *offset, *value),
            What::Published { value, told: Told::Stored(queue, offset) } => {
                (*queue, *offset, Some(*value))
            }
            _ => continue,
        };
        let Some(value) = value else { continue };
        let first = known.entry((queue, offset)).or_insert(value);
        if *first != value {
            let at = entry.at;
            wrong.push(format!("{queue} offset {offset} is {first:?} and, at {at}, {value:?}"));
        }
    }
    wrong
}
