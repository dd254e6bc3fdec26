//! I8: a message whose ack was confirmed is never handed to that subscription again. A holder that
//! was fenced and has not heard of it yet may hand out what it has: `one_holder` bounds that.

use std::collections::BTreeMap;

use super::super::history::{History, What};

/// Every hand-out behind a confirmed ack.
#[must_use]
pub fn check(history: &History) -> Vec<String> {
    let mut confirmed = BTreeMap::new();
    let mut again = Vec::new();
    for entry in &history.entries {
        match &entry.what {
            What::Confirmed { right, epoch, offset } => {
                confirmed
                    .entry((right.subscription, right.queue, *offset))
                    .or_insert((*epoch, entry.at));
            }
            What::HandedOut { right, offset, holder, epoch, .. } => {
                let message = (right.subscription, right.queue, *offset);
                if let Some((under, at)) = confirmed.get(&message)
                    && epoch >= under
                {
                    again.push(format!(
                        "{} offset {offset} was confirmed at {at} and handed to {} under \
                         {epoch:?} at {}",
                        right.queue, holder.member, entry.at
                    ));
                }
            }
            _ => {}
        }
    }
    again
}
