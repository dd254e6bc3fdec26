//! I6: a message is in the logs once, however often it was sent.

use std::collections::BTreeMap;

use super::super::history::{History, What};

/// Every message that is stored twice.
#[must_use]
pub fn check(history: &History) -> Vec<String> {
    let mut places = BTreeMap::new();
    let mut twice = Vec::new();
    for entry in &history.entries {
        let What::InLog { queue, offset, value: Some(value) } = &entry.what else { continue };
        // A copy whose tombstone is on its way has the same message at the same place.
        if let Some((other, at)) = places.insert(*value, (*queue, *offset))
            && (other, at) != (*queue, *offset)
        {
            twice.push(format!("{value:?} is at {other} {at} and at {queue} {offset}"));
        }
    }
    twice
}
