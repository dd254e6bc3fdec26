//! I7: a message is handed out again only for a reason: it was nacked or given back, or its holder
//! lost the right without draining it. A broken connection or a restart of a worker or of the
//! coordinator is none, and neither is an orderly hand-over.

use std::collections::BTreeMap;

use ringway_client::logic::right::How;
use ringway_proto::{Epoch, Holder, Lanes, Offset, QueueId, RightId, SubscriptionId};

use super::super::history::{History, What};
use super::one_holder::{Epochs, without};

struct Hand {
    epoch: Epoch,
    holder: Holder,
    at: u64,
    /// It was nacked or given back.
    back: bool,
}

/// What was given up in order.
#[derive(Default)]
struct GivenUp {
    raised: Epochs<()>,
    lanes: BTreeMap<(SubscriptionId, QueueId, Epoch), Vec<(Lanes, Holder)>>,
}

impl GivenUp {
    /// Who was fenced may still say that it gave something up; nobody listens.
    fn note(&mut self, right: RightId, epoch: Epoch, holder: &Holder) {
        if self.raised.of(right).all(|(newest, ())| newest == epoch) {
            let of = (right.subscription, right.queue, epoch);
            self.lanes.entry(of).or_default().push((right.lanes, holder.clone()));
        }
    }

    fn has(&self, right: &RightId, lane: u16, old: &Hand) -> bool {
        let of = (right.subscription, right.queue, old.epoch);
        let given = self.lanes.get(&of).into_iter().flatten();
        given.into_iter().any(|(lanes, by)| lanes.contains(lane) && *by == old.holder)
    }
}

/// Every hand-out without a reason.
#[must_use]
pub fn check(history: &History) -> Vec<String> {
    let mut hands: BTreeMap<(SubscriptionId, QueueId, Offset), Hand> = BTreeMap::new();
    let mut given_up = GivenUp::default();
    let mut wrong = Vec::new();
    for entry in &history.entries {
        match &entry.what {
            What::Raised { right, epoch, .. } => given_up.raised.raise(*right, *epoch, ()),
            What::Drained { right, epoch, holder } => given_up.note(*right, *epoch, holder),
            What::Narrowed { right, epoch, to, holder } => {
                for lanes in without(right.lanes, *to) {
                    given_up.note(right.with(lanes), *epoch, holder);
                }
            }
            What::Settled { right, offset, how, epoch, .. } if *how != How::Ack => {
                if let Some(hand) = hands.get_mut(&(right.subscription, right.queue, *offset))
                    && hand.epoch == *epoch
                {
                    hand.back = true;
                }
            }
            What::HandedOut { right, epoch, holder, offset, lane, .. } => {
                let at = entry.at;
                let new = Hand { epoch: *epoch, holder: holder.clone(), at, back: false };
                let message = (right.subscription, right.queue, *offset);
                let Some(old) = hands.insert(message, new) else { continue };
                let orderly = old.epoch == *epoch || given_up.has(right, *lane, &old);
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
