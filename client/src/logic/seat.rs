//! One member's seat in a subscription: joining, the rights it has, what it hands out, and how it
//! leaves. It promises to hand out nothing of a right that drains, was lost, or whose primary and
//! coordinator are both silent, and to take no seat again once it was superseded. It does not know
//! streams or channels.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ringway_proto::control::{FromClient, GrantedRight, Join, Joined, Order};
use ringway_proto::data::{AckConfirmed, Deliver};
use ringway_proto::routing::Router;
use ringway_proto::{
    Code, Epoch, Holder, Lanes, OpenNumber, Refusal, RightId, SubscriptionId, Time,
};

use super::acks::Waiting;
use super::credit::{Credit, share};
use super::report::{AckOutcome, Action, Counts, End, Event, Settled};
use super::right::{Hold, How, Right, name_of};
use crate::message::Message;

/// Nothing is handed out while neither the primary nor the coordinator answered a question sent
/// within this time: 0.7 of the session's 1.2 s.
pub const SILENCE: Duration = Duration::from_millis(840);
/// Events that are kept for a reader; older ones go.
const EVENTS: usize = 10_000;
/// A coordinator that was silent for this long is not waited for at a leave: it lapses the seat.
const ABSENT: Duration = Duration::from_secs(3);
/// How long a leave without a coordinator waits for acks and for what is in hand.
const LEAVE_ALONE: Duration = Duration::from_secs(4);
/// The wait before a join that was refused for the moment is tried again.
const REJOIN_AFTER: Duration = Duration::from_millis(250);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    Joining { leave: bool },
    Seated,
    Leaving { since: Time },
    Over(End),
}

/// The session stream to the coordinator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Session {
    Down,
    /// The join was sent on it; whether the seat still has its rights is not known yet.
    Asked,
    /// The join was answered, and what the coordinator did not list is lost.
    Confirmed,
}

/// How a right ended that was held before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Past {
    epoch: Epoch,
    drained: bool,
}

/// A member's seat.
#[derive(Clone, Debug)]
pub struct Seat {
    join: Join,
    phase: Phase,
    subscription: Option<SubscriptionId>,
    order: Order,
    created: bool,
    credit: Credit,
    session: Session,
    /// Why the join was refused for the moment.
    hindrance: Option<Refusal>,
    rejoin_at: Option<Time>,
    coordinator_answered: Time,
    rights: BTreeMap<RightId, Right>,
    past: BTreeMap<RightId, Past>,
    /// The right that handed out last, so that all get their turn.
    last: Option<RightId>,
    opens: OpenNumber,
    serial: u64,
    counts: Counts,
    events: VecDeque<Event>,
    out: Vec<Action>,
}

impl Seat {
    /// A seat that is to be taken.
    #[must_use]
    pub fn new(join: Join, credit: Credit) -> Self {
        Self {
            order: join.order.unwrap_or_default(),
            join,
            phase: Phase::Joining { leave: false },
            subscription: None,
            created: false,
            credit,
            session: Session::Down,
            hindrance: None,
            rejoin_at: None,
            coordinator_answered: Time(0),
            rights: BTreeMap::new(),
            past: BTreeMap::new(),
            last: None,
            opens: OpenNumber(0),
            serial: 0,
            counts: Counts::default(),
            events: VecDeque::new(),
            out: Vec::new(),
        }
    }

    /// How it joins.
    #[must_use]
    pub fn join(&self) -> &Join {
        &self.join
    }

    /// The number of its subscription, once joined.
    #[must_use]
    pub fn subscription(&self) -> Option<SubscriptionId> {
        self.subscription
    }

    /// Whether its join made the subscription.
    #[must_use]
    pub fn created(&self) -> bool {
        self.created
    }

    /// The order that holds.
    #[must_use]
    pub fn order(&self) -> Order {
        self.order
    }

    /// Whether it is joined and not over.
    #[must_use]
    pub fn is_seated(&self) -> bool {
        matches!(self.phase, Phase::Seated | Phase::Leaving { .. })
    }

    /// Whether it is leaving.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        matches!(self.phase, Phase::Leaving { .. } | Phase::Joining { leave: true })
    }

    /// Why it is over.
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        match &self.phase {
            Phase::Over(end) => Some(end),
            _ => None,
        }
    }

    /// Whether the coordinator is connected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.session != Session::Down
    }

    /// How many rights it holds, and how many of them are open.
    #[must_use]
    pub fn rights(&self) -> (usize, usize) {
        (self.rights.len(), self.rights.values().filter(|r| r.is_open()).count())
    }

    /// What it has done.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let held = self.rights.values().map(|r| u64::from(r.in_use().messages)).sum();
        let unconfirmed = self.rights.values().map(Right::unconfirmed).sum::<u64>();
        Counts { held, unconfirmed: self.counts.unconfirmed + unconfirmed, ..self.counts }
    }

    /// The next event that nobody has read.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn event(&mut self, event: Event) {
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    fn tell(&mut self, message: FromClient) {
        if self.is_connected() {
            self.out.push(Action::Tell(message));
        }
    }

    /// The session stream to the coordinator is open: the join is repeated on it.
    pub fn coordinator_up(&mut self) {
        if self.end().is_some() {
            return;
        }
        self.session = Session::Asked;
        self.rejoin_at = None;
        self.tell(FromClient::Join(self.join.clone()));
        if matches!(self.phase, Phase::Leaving { .. }) {
            self.tell_leave();
        }
    }

    /// The session stream is lost. Rights are kept.
    pub fn coordinator_down(&mut self) {
        let before = std::mem::replace(&mut self.session, Session::Down);
        if before != Session::Down && self.is_seated() {
            self.event(Event::Reconnecting);
        }
    }

    /// When the question was sent that the coordinator answered last. Until it has answered the
    /// join on a new connection that proves nothing: the rights may be someone else's.
    pub fn coordinator_answered(&mut self, at: Time) {
        if self.session == Session::Confirmed {
            self.coordinator_answered = self.coordinator_answered.max(at);
        }
    }

    /// The primary of a right answered a question that was sent then. Until it has opened the
    /// right that proves nothing: it may be about to refuse it.
    pub fn primary_answered(&mut self, right: &RightId, at: Time) {
        if let Some(right) = self.rights.get_mut(right).filter(|r| r.is_open()) {
            right.answered = right.answered.max(at);
        }
    }

    /// The seat is taken, or still is: these are all the rights that it has.
    pub fn joined(&mut self, now: Time, joined: &Joined, router: &Router) {
        if joined.incarnation != self.join.incarnation || self.end().is_some() {
            return;
        }
        self.subscription = Some(joined.subscription);
        self.session = Session::Confirmed;
        match self.phase.clone() {
            Phase::Joining { leave } => {
                self.order = joined.order;
                self.created = joined.created;
                self.phase = Phase::Seated;
                self.event(Event::Ready);
                if leave {
                    self.leave(now);
                }
            }
            _ => self.event(Event::Reconnected),
        }
        let kept = |name: &RightId, epoch| {
            joined.rights.iter().any(|g| name_of(g.right) == *name && g.epoch == epoch)
        };
        let lost: Vec<(RightId, Epoch)> = self
            .rights
            .iter()
            .filter(|(id, r)| !kept(id, r.epoch()))
            .map(|(id, r)| (*id, r.epoch()))
            .collect();
        for (id, epoch) in lost {
            self.lost(id, epoch);
        }
        for granted in &joined.rights {
            self.narrowed(granted.right, granted.epoch);
            self.granted(now, *granted, router);
        }
    }

    /// The coordinator gives no seat. What may pass is tried again. A refusal that answers no join
    /// of this seat is about another seat of the same name.
    pub fn join_refused(&mut self, now: Time, refusal: Refusal) {
        if self.end().is_some() || self.session != Session::Asked {
            return;
        }
        if refusal.code.is_retryable() {
            self.rejoin_at = Some(now + REJOIN_AFTER);
            self.hindrance = Some(refusal);
        } else if refusal.code == Code::Superseded && self.is_seated() {
            self.superseded();
        } else {
            self.finish(End::Refused(refusal));
        }
    }

    /// The seat was not there in time.
    pub fn give_up(&mut self) {
        let hindrance = self.hindrance.take();
        self.finish(End::Late(hindrance));
    }

    /// A right was granted.
    pub fn granted(&mut self, now: Time, granted: GrantedRight, router: &Router) {
        let GrantedRight { right, epoch } = granted;
        let id = name_of(right);
        if self.end().is_some() || self.rights.get(&id).is_some_and(|r| r.epoch() >= epoch) {
            return;
        }
        if let Some(past) = self.past.get(&id).copied().filter(|p| p.epoch >= epoch) {
            if past.drained && past.epoch == epoch {
                self.tell_drained(right, epoch);
            }
            return;
        }
        if let Some(old) = self.rights.get(&id) {
            let old = old.epoch();
            self.lost(id, old);
        }
        let queue = router.queue_name(id.queue);
        self.event(Event::Granted { queue: queue.clone(), epoch: epoch.0 });
        let mut right = Right::new(now, right, epoch, queue.into(), self.order);
        if matches!(self.phase, Phase::Leaving { .. }) {
            right.begin_drain(now, false);
        }
        self.rights.insert(id, right);
    }

    /// A right is to be given up.
    pub fn revoke(&mut self, now: Time, revoked: RightId, epoch: Epoch) {
        let id = name_of(revoked);
        match self.rights.get_mut(&id) {
            Some(right) if right.epoch() == epoch => {
                let queue = right.queue.to_string();
                if right.begin_drain(now, true) {
                    self.event(Event::Revoked { queue, epoch: epoch.0 });
                }
            }
            Some(right) if right.epoch() > epoch => {}
            _ => {
                // Never opened under this epoch, or drained before: either way nothing is in hand.
                // But what was lost was not drained, and whoever fenced it waits for no word.
                let over = self
                    .past
                    .get(&id)
                    .is_some_and(|p| p.epoch > epoch || (p.epoch == epoch && !p.drained));
                if !over && self.end().is_none() {
                    self.past.insert(id, Past { epoch, drained: true });
                    self.tell_drained(revoked, epoch);
                }
            }
        }
    }

    /// Lanes of a right are to be given up; the others go on.
    pub fn narrow(&mut self, now: Time, id: RightId, epoch: Epoch, to: Lanes) {
        let right = self.rights.get_mut(&name_of(id)).filter(|r| r.epoch() == epoch);
        match right {
            Some(right) if right.id().lanes != to => right.begin_narrow(now, to),
            // The word may have been lost.
            Some(_) => self.tell_narrowed(id, epoch, to),
            // Who lost it waits until it is fenced.
            None => {}
        }
    }

    fn tell_narrowed(&mut self, right: RightId, epoch: Epoch, to: Lanes) {
        self.tell(FromClient::Narrowed { member: self.join.member.clone(), right, epoch, to });
    }

    /// A right has only these lanes from now on: what is held of others is dropped.
    pub fn narrowed(&mut self, id: RightId, epoch: Epoch) {
        let right = self.rights.get_mut(&name_of(id)).filter(|r| r.epoch() == epoch);
        let Some(right) = right.filter(|r| r.id().lanes != id.lanes) else { return };
        if right.id().lanes.covers(id.lanes) {
            let waiting = right.cut_to(id.lanes);
            self.acks_ended(waiting);
        }
    }

    fn tell_drained(&mut self, right: RightId, epoch: Epoch) {
        self.tell(FromClient::Drained { member: self.join.member.clone(), right, epoch });
    }

    /// A right was fenced under this epoch or a later one: what is held of it is dropped.
    pub fn lost(&mut self, id: RightId, epoch: Epoch) {
        let id = name_of(id);
        let Some(right) = self.remove(&id, epoch, false) else { return };
        self.event(Event::Lost { queue: right.queue.to_string(), epoch: right.epoch().0 });
        self.give_up_acks(right);
    }

    /// Nothing of this right will be confirmed any more.
    fn give_up_acks(&mut self, right: Right) {
        self.counts.unconfirmed += right.unconfirmed();
        self.acks_ended(right.into_waiting());
    }

    fn acks_ended(&mut self, waiting: Waiting) {
        let outcomes = [(AckOutcome::Fenced, waiting.unsent), (AckOutcome::Unknown, waiting.sent)];
        for (outcome, tokens) in outcomes.into_iter().filter(|(_, t)| !t.is_empty()) {
            self.out.push(Action::Acked(outcome, tokens));
        }
    }

    fn remove(&mut self, id: &RightId, epoch: Epoch, drained: bool) -> Option<Right> {
        if self.rights.get(id).is_none_or(|r| r.epoch() > epoch) {
            return None;
        }
        let right = self.rights.remove(id)?;
        self.past.insert(*id, Past { epoch: right.epoch(), drained });
        self.out.push(Action::Close(*id));
        Some(right)
    }

    /// Another process took the seat: this one never joins again.
    pub fn superseded(&mut self) {
        self.event(Event::Superseded);
        self.finish(End::Superseded);
    }

    /// The coordinator says that the seat is left.
    pub fn left(&mut self) {
        if self.end().is_none() {
            self.event(Event::Left);
            self.finish(End::Left);
        }
    }

    /// Ends the seat here.
    pub fn finish(&mut self, end: End) {
        if self.end().is_some() {
            return;
        }
        let rights: Vec<(RightId, Epoch)> =
            self.rights.iter().map(|(id, r)| (*id, r.epoch())).collect();
        for (id, epoch) in rights {
            if let Some(right) = self.remove(&id, epoch, false) {
                self.give_up_acks(right);
            }
        }
        self.phase = Phase::Over(end);
    }

    /// Gives everything unread back and asks to leave; what is in hand may still be settled.
    pub fn leave(&mut self, now: Time) {
        match self.phase {
            Phase::Joining { .. } => self.phase = Phase::Joining { leave: true },
            Phase::Seated => {
                self.phase = Phase::Leaving { since: now };
                for right in self.rights.values_mut() {
                    right.begin_drain(now, false);
                }
                self.tell_leave();
            }
            Phase::Leaving { .. } | Phase::Over(_) => {}
        }
    }

    fn tell_leave(&mut self) {
        if let Some(subscription) = self.subscription {
            self.tell(FromClient::Leave {
                subscription,
                member: self.join.member.clone(),
                incarnation: self.join.incarnation,
            });
        }
    }

    /// The primary has opened a right.
    pub fn opened(&mut self, id: &RightId, open: OpenNumber) {
        if let Some(right) = self.rights.get_mut(id) {
            right.opened(open);
        }
    }

    /// Messages of a right.
    ///
    /// # Errors
    /// What is wrong with the frame, which ends the stream.
    pub fn delivered(&mut self, id: &RightId, deliver: &Deliver) -> Result<(), Refusal> {
        self.rights.get_mut(id).map_or(Ok(()), |right| right.delivered(deliver))
    }

    /// Acks are durable.
    pub fn confirmed(&mut self, id: &RightId, confirmed: AckConfirmed) {
        if let Some(right) = self.rights.get_mut(id) {
            let tokens = right.confirmed(confirmed);
            if !tokens.is_empty() {
                self.out.push(Action::Acked(AckOutcome::Durable, tokens));
            }
        }
    }

    /// A window was sent back.
    pub fn window_seen(&mut self, id: &RightId, open: OpenNumber, number: u64) {
        if let Some(right) = self.rights.get_mut(id) {
            right.window_seen(open, number);
        }
    }

    /// A right's stream ended; a fenced one is lost.
    pub fn closed(
        &mut self,
        now: Time,
        id: &RightId,
        open: OpenNumber,
        epoch: Epoch,
        code: Option<Code>,
    ) {
        if code == Some(Code::Fenced) {
            self.lost(*id, epoch);
        } else if let Some(right) = self.rights.get_mut(id) {
            right.closed(now, open);
        }
    }

    /// Hands out one message, the rights taking turns.
    pub fn take(&mut self, now: Time) -> Option<(Hold, Message)> {
        if self.phase != Phase::Seated {
            return None;
        }
        let coordinator = self.coordinator_answered;
        let heard = |r: &Right| now.since(coordinator.max(r.answered)) <= SILENCE;
        let ready = |(_, r): &(&RightId, &Right)| r.has_ready() && heard(r);
        let after = self.last.and_then(|last| {
            let later = (std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded);
            self.rights.range(later).find(ready).map(|(id, _)| *id)
        });
        let id = after.or_else(|| self.rights.iter().find(ready).map(|(id, _)| *id))?;
        self.last = Some(id);
        self.serial += 1;
        let taken = self.rights.get_mut(&id)?.take(now, self.serial)?;
        self.counts.handed_out += 1;
        Some(taken)
    }

    /// Settles a message in hand. What belongs to a lost right changes nothing.
    pub fn settle(&mut self, hold: &Hold, how: How, token: Option<u64>) -> Settled {
        let right = self.rights.get_mut(&hold.right).filter(|r| r.epoch() == hold.epoch);
        let Some(right) = right else {
            self.counts.fenced += 1;
            return Settled::Fenced;
        };
        if !right.settle(hold, how, token) {
            return Settled::Before;
        }
        match how {
            How::Ack => self.counts.acked += 1,
            How::Nack => self.counts.nacked += 1,
            How::GiveBack => self.counts.given_back += 1,
        }
        Settled::Taken
    }

    /// Does what is due: opens, windows, frames, reports. Call it after every run of inputs and
    /// at [`Seat::next_wakeup`].
    pub fn turn(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.rejoin_at.take_if(|at| *at <= now).is_some() {
            self.tell(FromClient::Join(self.join.clone()));
        }
        self.report_narrowed();
        self.report_drained(now);
        self.give_up_leaving(now);
        self.share_credit(now);
        for (id, right) in &mut self.rights {
            right.tick(now);
            let mut frames = Vec::new();
            right.flush(&mut frames);
            if !frames.is_empty() {
                self.out.push(Action::Send(*id, frames));
            }
        }
        out.append(&mut self.out);
    }

    /// Ends a leave that nobody answers any more: at once where nothing is left to be confirmed.
    fn give_up_leaving(&mut self, now: Time) {
        let Phase::Leaving { since } = self.phase else { return };
        if self.session == Session::Confirmed || now.since(self.coordinator_answered) <= ABSENT {
            return;
        }
        if self.rights.values().all(Right::is_settled) || now.since(since) >= LEAVE_ALONE {
            self.finish(End::Unfinished { rights: self.rights.len() as u64 });
        }
    }

    fn report_drained(&mut self, now: Time) {
        let member = &self.join.member;
        let mut drained = Vec::new();
        let mut asks = Vec::new();
        for (id, right) in &mut self.rights {
            if right.is_drained() {
                drained.push((*id, right.epoch()));
            } else if right.asks_for_time(now) {
                let (member, right, epoch) = (member.clone(), right.id(), right.epoch());
                asks.push(FromClient::StillDraining { member, right, epoch });
            }
        }
        for ask in asks {
            self.tell(ask);
        }
        for (id, epoch) in drained {
            let mut frames = Vec::new();
            if let Some(right) = self.rights.get_mut(&id) {
                right.flush(&mut frames);
            }
            self.out.push(Action::Send(id, frames));
            if let Some(right) = self.remove(&id, epoch, true) {
                self.event(Event::Released { queue: right.queue.to_string(), epoch: epoch.0 });
                self.tell_drained(right.id(), epoch);
            }
        }
    }

    fn report_narrowed(&mut self) {
        let mut narrowed = Vec::new();
        for (name, right) in &mut self.rights {
            let (id, epoch) = (right.id(), right.epoch());
            let mut frames = Vec::new();
            if let Some(to) = right.end_narrow(&mut frames) {
                narrowed.push((id, epoch, to));
                self.out.push(Action::Send(*name, frames));
            }
        }
        for (id, epoch, to) in narrowed {
            self.tell_narrowed(id, epoch, to);
        }
    }

    /// Opens what is to be opened and shares the credit among all that is not given up.
    fn share_credit(&mut self, now: Time) {
        let holder =
            Holder { member: self.join.member.clone(), incarnation: self.join.incarnation };
        let (mut messages, mut bytes) = (0u32, 0u64);
        for right in self.rights.values().filter(|r| r.is_draining()) {
            messages = messages.saturating_add(right.in_use().messages);
            bytes = bytes.saturating_add(right.in_use().bytes);
        }
        let taken = Credit { messages, bytes };
        let claims: Vec<_> =
            self.rights.values().filter(|r| !r.is_draining()).map(Right::claim).collect();
        let mut windows = share(self.credit, taken, &claims).into_iter();
        for (id, right) in &mut self.rights {
            let window = if right.is_draining() { None } else { windows.next() };
            if right.wants_open(now) {
                self.opens = self.opens.next();
                // A right that drains opens once more only for its acks.
                let window = window.unwrap_or(Credit { messages: 0, bytes: 0 });
                let open = right.open(self.opens, holder.clone(), window);
                self.out.push(Action::Open(*id, open));
            } else if let Some(window) = window.filter(|_| right.is_open())
                && right.claim().latest != window
            {
                let mut frames = Vec::new();
                right.set_window(window, &mut frames);
                self.out.push(Action::Send(*id, frames));
            }
        }
    }

    /// When to turn at the latest, besides ten times a second.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Time> {
        self.rights.values().filter_map(Right::retry_at).chain(self.rejoin_at).min()
    }
}
