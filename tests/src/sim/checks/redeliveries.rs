//! I7: a message is handed out again only for a reason: it was nacked or given back, or its holder
//! lost the right without draining it. A broken connection or a restart of a worker or of the
//! coordinator is none, and neither is an orderly hand-over.

use std::collections::{BTreeMap, BTreeSet};

use ringway_client::logic::right::How;
use ringway_proto::{Epoch, Holder, Offset, RightId};

use super::super::history::{History, What};

struct Hand {
    epoch: Epoch,
    holder: Holder,
    at: u64,
    /// It was nacked or given back.
    back: bool,
}

/// Every hand-out without a reason.
#[must_use]
pub fn check(history: &History) -> Vec<String> {
    let mut hands: BTreeMap<(RightId, Offset), Hand> = BTreeMap::new();
    let mut raised: BTreeMap<RightId, Epoch> = BTreeMap::new();
    let mut drained: BTreeSet<(RightId, Epoch, Holder)> = BTreeSet::new();
    let mut wrong = Vec::new();
    for entry in &history.entries {
        match &entry.what {
            What::Raised { right, epoch, .. } => {
                let newest = raised.entry(*right).or_insert(*epoch);
                *newest = *epoch.max(newest);
            }
            // Who was fenced may still say that it drained; nobody listens.
            What::Drained { right, epoch, holder } if raised.get(right) == Some(epoch) => {
                drained.insert((*right, *epoch, holder.clone()));
            }
            What::Settled { right, offset, how, epoch, .. } if *how != How::Ack => {
                if let Some(hand) = hands.get_mut(&(*right, *offset))
                    && hand.epoch == *epoch
                {
                    hand.back = true;
                }
            }
            What::HandedOut { right, epoch, holder, offset, .. } => {
                let at = entry.at;
                let new = Hand { epoch: *epoch, holder: holder.clone(), at, back: false };
                let Some(old) = hands.insert((*right, *offset), new) else { continue };
                let orderly = old.epoch == *epoch
                    || drained.contains(&(*right, old.epoch, old.holder.clone()));
                if orderly && !old.back {
                    wrong.push(format!(
                        "{} offset {offset} was handed to {} under {:?} at {} and to {} under \
                         {epoch:?} at {at}",
                        right.queue, old.holder.member, old.epoch, old.at, holder.member
                    ));
                }
            }
            _ => {}
        }
    }
    wrong
}
