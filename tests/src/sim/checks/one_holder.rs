//! I5: a right has one holder at a time. Of one epoch only one process ever learns that it holds
//! it or opens it; it learns so only after the primary confirmed the epoch; once an epoch is
//! confirmed nobody acks under an older one, nor opens at the newest copy of the queue; and who lost a right hands out nothing of it
//! for longer than it may be deaf.

use std::collections::{BTreeMap, BTreeSet};

use ringway_proto::{Epoch, Holder, RightId};

use super::super::history::{History, What};

/// How long a holder that hears nothing any more may still hand out, in milliseconds: 0.7 TTL,
/// and what its clocks and the news take.
const DEAF: u64 = 1300;

#[derive(Clone, Copy)]
struct Newest {
    epoch: Epoch,
    copy: Epoch,
    since: u64,
}

#[derive(Default)]
struct State {
    holders: BTreeMap<(RightId, Epoch), Holder>,
    raised: BTreeSet<(RightId, Epoch)>,
    /// The newest confirmed epoch of each right, and since when.
    newest: BTreeMap<RightId, Newest>,
    wrong: Vec<String>,
}

impl State {
    fn holds(&mut self, at: u64, right: RightId, epoch: Epoch, holder: &Holder) {
        let first = self.holders.entry((right, epoch)).or_insert_with(|| holder.clone());
        if first != holder {
            let text = format!(
                "{first:?} and, at {at}, {holder:?} hold {} of subscription {} under {epoch:?}",
                right.queue, right.subscription
            );
            self.wrong.push(text);
        }
    }

    fn is_current(&mut self, at: u64, right: RightId, epoch: Epoch, what: &str) {
        let newest = self.newest.get(&right).map_or(Epoch(0), |newest| newest.epoch);
        if epoch < newest {
            self.wrong.push(format!(
                "{what} of {} of subscription {} under {epoch:?} at {at}, after {newest:?} was \
                 confirmed",
                right.queue, right.subscription
            ));
        }
    }
}

/// Every overlap.
#[must_use]
pub fn check(history: &History) -> Vec<String> {
    let mut state = State::default();
    for entry in &history.entries {
        let at = entry.at;
        match &entry.what {
            What::Raised { right, copy, epoch } => {
                state.raised.insert((*right, *epoch));
                let new = Newest { epoch: *epoch, copy: *copy, since: at };
                let newest = state.newest.entry(*right).or_insert(new);
                if newest.epoch < *epoch {
                    *newest = new;
                }
            }
            What::Granted { right, epoch, holder } => {
                if !state.raised.contains(&(*right, *epoch)) {
                    state.wrong.push(format!(
                        "{} was granted {} under {epoch:?} at {at}, which no primary had confirmed",
                        holder.member, right.queue
                    ));
                }
                state.holds(at, *right, *epoch, holder);
            }
            What::Opened { right, copy, epoch, holder } => {
                state.holds(at, *right, *epoch, holder);
                // An empty copy that moved away may be opened until its tombstone comes: it has
                // nothing to deliver.
                if state.newest.get(right).is_none_or(|newest| *copy >= newest.copy) {
                    state.is_current(at, *right, *epoch, "an open");
                }
            }
            What::Acked { right, epoch, holder } => {
                state.holds(at, *right, *epoch, holder);
                state.is_current(at, *right, *epoch, "an ack");
            }
            What::HandedOut { right, epoch, holder, .. } => {
                state.holds(at, *right, *epoch, holder);
                if let Some(Newest { epoch: newest, since, .. }) = state.newest.get(right).copied()
                    && *epoch < newest
                    && at > since + DEAF
                {
                    state.wrong.push(format!(
                        "{} handed out {} under {epoch:?} at {at}, {newest:?} was confirmed at \
                         {since}",
                        holder.member, right.queue
                    ));
                }
            }
            _ => {}
        }
    }
    state.wrong
}
