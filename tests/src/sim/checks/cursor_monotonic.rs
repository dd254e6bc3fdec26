//! A cursor never moves back: what a durable record says, every later record says too, and so
//! does every restart.

use std::collections::BTreeMap;

use super::super::history::{History, What};

/// Every cursor that moved back.
#[must_use]
pub fn check(history: &History) -> Vec<String> {
    let mut floors = BTreeMap::new();
    let mut back = Vec::new();
    for entry in &history.entries {
        if let What::Laid { parts, into } = &entry.what {
            // A part begins where the whole was, and a whole where the last of its parts was.
            floors.retain(|right, _| !parts.contains(right) && !into.contains(right));
        }
        let What::Cursor { right, copy, floor } = &entry.what else { continue };
        let (newest, known) = floors.entry(*right).or_insert((*copy, *floor));
        if copy < newest {
            continue;
        }
        *newest = *copy;
        if floor < known {
            back.push(format!(
                "the cursor of subscription {} at {} went back from {known} to {floor} at {}",
                right.subscription, right.queue, entry.at
            ));
        }
        *known = *floor;
    }
    back
}
