//! I2: nothing is delivered that no producer tried to publish, and nothing that its producer was
//! told had failed.

use std::collections::BTreeSet;

use super::super::history::{History, Told, Value, What};

/// Everything that was delivered and should not exist.
#[must_use]
pub fn check(history: &History) -> Vec<String> {
    let mut tried: BTreeSet<Value> = BTreeSet::new();
    let mut failed: BTreeSet<Value> = BTreeSet::new();
    for entry in &history.entries {
        match &entry.what {
            What::Attempt { value, .. } => drop(tried.insert(*value)),
            What::Published { value, told: Told::Failed(_) } => drop(failed.insert(*value)),
            _ => {}
        }
    }
    let mut invented = Vec::new();
    for entry in &history.entries {
        let (value, place) = match &entry.what {
            What::HandedOut { value, offset, right, .. } => (value, (right.queue, offset)),
            What::InLog { value, offset, queue } => (value, (*queue, offset)),
            _ => continue,
        };
        match value {
            Some(value) if failed.contains(value) => {
                invented.push(format!("{value:?} failed for sure and is at {place:?}"));
            }
            Some(value) if tried.contains(value) => {}
            other => invented.push(format!("{other:?} at {place:?} was never published")),
        }
    }
    invented
}
