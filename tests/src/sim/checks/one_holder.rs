//! I5: a lane of a queue has one holder at a time. Of one epoch only one process ever learns that
//! it holds it or opens it; it learns so only after the primary confirmed the epoch; once an epoch
//! is confirmed nobody acks under an older one, nor opens at the newest copy of the queue; and who
//! lost a lane hands out nothing of it for longer than it may be deaf.

use std::collections::BTreeMap;

use ringway_proto::{Epoch, Holder, Lanes, QueueId, RightId, SubscriptionId};

use super::super::history::{History, What};

/// How long a holder that hears nothing any more may still hand out, in milliseconds: 0.7 TTL,
/// and what its clocks and the news take.
const DEAF: u64 = 1300;

#[derive(Clone, Copy, Default)]
struct Newest {
    epoch: Epoch,
    copy: Epoch,
    since: u64,
}

type Place = (SubscriptionId, QueueId);

fn place(right: RightId) -> Place {
    (right.subscription, right.queue)
}

/// The newest confirmed epochs by lanes: each lane is in one entry at most.
#[derive(Default)]
pub(super) struct Epochs<T>(BTreeMap<Place, Vec<(Lanes, Epoch, T)>>);

impl<T: Copy> Epochs<T> {
    /// This epoch is confirmed for the lanes of `right`; a later one stays.
    pub(super) fn raise(&mut self, right: RightId, epoch: Epoch, what: T) {
        let known = self.0.entry(place(right)).or_default();
        let mut rest = vec![right.lanes];
        for (lanes, ..) in known.iter().filter(|(_, older, _)| *older >= epoch) {
            rest = rest.into_iter().flat_map(|of| without(of, *lanes)).collect();
        }
        let older = std::mem::take(known);
        for (lanes, under, what) in older {
            match under < epoch {
                true => {
                    known.extend(without(lanes, right.lanes).map(|lanes| (lanes, under, what)));
                }
                false => known.push((lanes, under, what)),
            }
        }
        known.extend(rest.into_iter().map(|lanes| (lanes, epoch, what)));
    }

    /// What is newest in some of these lanes.
    pub(super) fn of(&self, right: RightId) -> impl Iterator<Item = (Epoch, T)> + '_ {
        let known = self.0.get(&place(right)).into_iter().flatten();
        let inside = known.filter(move |(lanes, ..)| lanes.overlaps(right.lanes));
        inside.map(|(_, epoch, what)| (*epoch, *what))
    }
}

/// The lanes of `all` that are not in `cut`.
pub(super) fn without(all: Lanes, cut: Lanes) -> impl Iterator<Item = Lanes> {
    let before = Lanes { start: all.start, end: all.end.min(cut.start) };
    let behind = Lanes { start: all.start.max(cut.end), end: all.end };
    [before, behind].into_iter().filter(|lanes| lanes.start < lanes.end)
}

#[derive(Default)]
struct State {
    holders: BTreeMap<(Place, Epoch), Vec<(Lanes, Holder)>>,
    raised: BTreeMap<(Place, Epoch), Vec<Lanes>>,
    newest: Epochs<Newest>,
    wrong: Vec<String>,
}

impl State {
    fn holds(&mut self, at: u64, right: RightId, epoch: Epoch, holder: &Holder) {
        let known = self.holders.entry((place(right), epoch)).or_default();
        let others = known.iter().filter(|(lanes, _)| lanes.overlaps(right.lanes));
        if let Some((_, first)) = others.clone().find(|(_, first)| first != holder) {
            let text = format!(
                "{first:?} and, at {at}, {holder:?} hold {} of subscription {} under {epoch:?}",
                right.queue, right.subscription
            );
            self.wrong.push(text);
        }
        if !others.into_iter().any(|(lanes, _)| lanes.covers(right.lanes)) {
            known.push((right.lanes, holder.clone()));
        }
    }

    fn is_current(&mut self, at: u64, right: RightId, epoch: Epoch, what: &str) {
        let newest = self.newest.of(right).map(|(epoch, _)| epoch).max().unwrap_or(Epoch(0));
        if epoch < newest {
            self.wrong.push(format!(
                "{what} of {} of subscription {} under {epoch:?} at {at}, after {newest:?} was \
                 confirmed",
                right.queue, right.subscription
            ));
        }
    }

    fn was_raised(&self, right: RightId, epoch: Epoch) -> bool {
        let raised = self.raised.get(&(place(right), epoch)).into_iter().flatten();
        raised.into_iter().any(|lanes| lanes.covers(right.lanes))
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
                state.raised.entry((place(*right), *epoch)).or_default().push(right.lanes);
                let new = Newest { epoch: *epoch, copy: *copy, since: at };
                state.newest.raise(*right, *epoch, new);
            }
            What::Granted { right, epoch, holder } => {
                if !state.was_raised(*right, *epoch) {
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
                if state.newest.of(*right).all(|(_, newest)| *copy >= newest.copy) {
                    state.is_current(at, *right, *epoch, "an open");
                }
            }
            What::Acked { right, epoch, holder, lanes } => {
                state.holds(at, *right, *epoch, holder);
                state.is_current(at, *right, *epoch, "an ack");
                for lane in lanes {
                    let lane = right.with(Lanes { start: *lane, end: lane + 1 });
                    state.is_current(at, lane, *epoch, "an ack of another lane");
                }
            }
            What::HandedOut { right, epoch, holder, lane, .. } => {
                let lane = right.with(Lanes { start: *lane, end: lane + 1 });
                state.holds(at, lane, *epoch, holder);
                let newest = state.newest.of(lane).map(|(_, newest)| newest).next();
                if let Some(Newest { epoch: newest, since, .. }) = newest
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
