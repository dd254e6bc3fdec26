//! I9: a queue has one primary under each epoch, and what is accepted is never accepted under an
//! older epoch than something before.

use std::collections::BTreeMap;

use ringway_proto::{Epoch, QueueId, WorkerId};

use super::super::history::{History, What};

/// Every second primary, and every epoch that went back.
#[must_use]
pub fn check(history: &History) -> Vec<String> {
    let mut primaries: BTreeMap<(QueueId, Epoch), WorkerId> = BTreeMap::new();
    let mut newest: BTreeMap<QueueId, Epoch> = BTreeMap::new();
    let mut wrong = Vec::new();
    for entry in &history.entries {
        let (queue, epoch, worker, accepts) = match &entry.what {
            What::Accepted { queue, epoch, worker } => (*queue, *epoch, worker, true),
            What::QueueOpened { queue, epoch, worker } => (*queue, *epoch, worker, false),
            _ => continue,
        };
        let first = primaries.entry((queue, epoch)).or_insert_with(|| worker.clone());
        if first != worker {
            let at = entry.at;
            wrong.push(format!("{first} and, at {at}, {worker} lead {queue} under {epoch:?}"));
        }
        let known = newest.entry(queue).or_insert(epoch);
        if accepts && epoch < *known {
            let at = entry.at;
            wrong.push(format!("{worker} accepts for {queue} under {epoch:?} at {at}: {known:?}"));
        }
        *known = epoch.max(*known);
    }
    wrong
}
