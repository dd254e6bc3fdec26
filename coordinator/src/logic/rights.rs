//! One consume right's life: free, raising, granted, revoking, raising again. It promises that
//! epochs only grow, that each change of holder takes a new one, and that nobody is told of a
//! right before its primary confirmed the epoch. It does not know who plans the targets, nor how
//! a message reaches anyone.

use std::time::Duration;

use ringway_proto::control::RightEpoch;
use ringway_proto::{Epoch, Holder, MemberId, Time};

use super::rows::{MoveReason, Phase, RightRow};
use super::timing::Timing;

/// A right: what is stored of it, and the clocks that begin anew after a restart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Right {
    row: RightRow,
    /// While revoking: when the holder is fenced if it has not drained.
    deadline: Option<Time>,
    /// When this hand-over began, and when its raise was first sent.
    revoked_at: Option<Time>,
    raised_at: Option<Time>,
}

/// What has to be said after a right took a step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Tell the primary of the new epoch.
    Raise,
    /// Tell the primary and the holder that the right is to be given up.
    Revoke(Holder),
}

/// What a confirmed raise led to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Confirmed {
    /// Who holds the right now; nobody when it is free.
    pub holder: Option<Holder>,
    /// Why the right moved, if it moved to another member than had it last.
    pub moved: Option<MoveReason>,
    /// How long the raise took.
    pub raise: Duration,
    /// How long the hand-over took from the revoke on, if there was one.
    pub total: Option<Duration>,
}

impl Right {
    /// A right from its row. What was being revoked gets its full time again.
    #[must_use]
    pub fn new(row: RightRow, now: Time, timing: &Timing) -> Self {
        let revoking = matches!(row.phase, Phase::Revoking(_));
        Self {
            deadline: revoking.then(|| now + timing.drain),
            revoked_at: revoking.then_some(now),
            raised_at: None,
            row,
        }
    }

    /// What is stored of it.
    #[must_use]
    pub fn row(&self) -> &RightRow {
        &self.row
    }

    /// Its epoch and its holder under it, as a worker has to know them.
    #[must_use]
    pub fn epoch(&self) -> RightEpoch {
        let holder = match &self.row.phase {
            Phase::Free => None,
            Phase::Raising { to } => to.clone(),
            Phase::Granted(holder) | Phase::Revoking(holder) => Some(holder.clone()),
        };
        RightEpoch { right: self.row.id, epoch: self.row.epoch, holder }
    }

    /// Who may act under the current epoch: it was told, and has not given the right up.
    #[must_use]
    pub fn holder(&self) -> Option<&Holder> {
        match &self.row.phase {
            Phase::Granted(holder) | Phase::Revoking(holder) => Some(holder),
            Phase::Free | Phase::Raising { .. } => None,
        }
    }

    /// While revoking: when the holder is fenced.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.deadline
    }

    /// Whether the plan gave it to another member than had it last, and that is not done yet.
    #[must_use]
    pub fn is_move_pending(&self) -> bool {
        self.row.last.is_some() && self.row.last != self.row.target
    }

    /// The plan gives the right to this member, or to nobody: then whoever gets it next is its
    /// first holder.
    pub fn set_target(&mut self, target: Option<MemberId>, reason: Option<MoveReason>) {
        if target.is_none() {
            self.row.last = None;
        }
        self.row.target = target;
        self.row.reason = reason.filter(|_| self.is_move_pending());
    }

    /// The subscription has, or has not yet, its beginning at the primary.
    pub fn set_started(&mut self, started: bool) {
        self.row.started = started;
    }

    /// Takes the step towards `target`, if one is due. `is_present` says whether a holder is
    /// still its member's process; one that is not is past its deadline at once.
    pub fn drive(
        &mut self,
        now: Time,
        timing: &Timing,
        target: Option<Holder>,
        is_present: impl Fn(&Holder) -> bool,
    ) -> Option<Step> {
        match &self.row.phase {
            Phase::Free if target.is_none() => None,
            Phase::Raising { to } if *to == target => None,
            // Also a raise that nobody was told of takes a new epoch for a new holder: the
            // primary may have confirmed the first one already.
            Phase::Free | Phase::Raising { .. } => Some(self.raise(now, target)),
            Phase::Granted(holder) if Some(holder) == target.as_ref() => None,
            Phase::Granted(holder) | Phase::Revoking(holder) if !is_present(holder) => {
                Some(self.raise(now, target))
            }
            Phase::Granted(holder) => {
                let holder = holder.clone();
                self.row.phase = Phase::Revoking(holder.clone());
                self.deadline = Some(now + timing.drain);
                self.revoked_at = Some(now);
                Some(Step::Revoke(holder))
            }
            Phase::Revoking(_) => None,
        }
    }

    /// The member says that it gave the right up. Returns how long that took, or nothing when
    /// the words belong to another holder, epoch or phase.
    pub fn drained(
        &mut self,
        now: Time,
        member: &MemberId,
        epoch: Epoch,
        target: Option<Holder>,
    ) -> Option<Duration> {
        self.revoking(member, epoch)?;
        let took = now.since(self.revoked_at.unwrap_or(now));
        self.raise(now, target);
        Some(took)
    }

    /// The member still works on what it holds: its time begins anew, within the bound.
    pub fn still_draining(&mut self, now: Time, timing: &Timing, member: &MemberId, epoch: Epoch) {
        if self.revoking(member, epoch).is_some() {
            let limit = self.revoked_at.unwrap_or(now) + timing.drain_max;
            self.deadline = Some((now + timing.drain).min(limit));
        }
    }

    /// Fences the holder if its time is over. Returns who lost it, under which epoch, and how
    /// long after its revoke.
    pub fn expire(
        &mut self,
        now: Time,
        target: Option<Holder>,
    ) -> Option<(Holder, Epoch, Duration)> {
        let (Phase::Revoking(holder), Some(deadline)) = (&self.row.phase, self.deadline) else {
            return None;
        };
        if now < deadline {
            return None;
        }
        let took = now.since(self.revoked_at.unwrap_or(now));
        let lost = (holder.clone(), self.row.epoch, took);
        self.raise(now, target);
        Some(lost)
    }

    /// The primary confirmed this epoch. Returns what that leads to, or nothing when it is not
    /// the epoch that is waited for.
    pub fn confirm(&mut self, now: Time, epoch: Epoch) -> Option<Confirmed> {
        let Phase::Raising { to } = &self.row.phase else { return None };
        if epoch != self.row.epoch {
            return None;
        }
        let holder = to.clone();
        let raise = now.since(self.raised_at.take().unwrap_or(now));
        let total = self.revoked_at.take().map(|from| now.since(from));
        let mut moved = None;
        match &holder {
            Some(holder) => {
                let other = self.row.last.as_ref().is_some_and(|last| *last != holder.member);
                moved = other.then(|| self.row.reason.unwrap_or(MoveReason::Quota));
                self.row.last = Some(holder.member.clone());
                self.row.reason = None;
                self.row.phase = Phase::Granted(holder.clone());
            }
            None => self.row.phase = Phase::Free,
        }
        Some(Confirmed { holder, moved, raise, total })
    }

    fn revoking(&self, member: &MemberId, epoch: Epoch) -> Option<()> {
        match &self.row.phase {
            Phase::Revoking(h) if h.member == *member && self.row.epoch == epoch => Some(()),
            _ => None,
        }
    }

    fn raise(&mut self, now: Time, to: Option<Holder>) -> Step {
        self.row.epoch = self.row.epoch.next();
        self.row.phase = Phase::Raising { to };
        self.deadline = None;
        self.raised_at = Some(now);
        Step::Raise
    }
}

#[cfg(test)]
mod tests {
    use ringway_proto::control::Start;
    use ringway_proto::{GroupId, Incarnation, QueueId, RightId, SubscriptionId};

    use super::*;

    fn holder(name: &str, incarnation: u64) -> Holder {
        let member = MemberId::new(name).unwrap();
        Holder { member, incarnation: Incarnation(incarnation) }
    }

    fn right(epoch: u64, phase: Phase) -> Right {
        let id = RightId::whole(SubscriptionId(1), QueueId::new(GroupId(0), 0));
        let last = match &phase {
            Phase::Granted(h) | Phase::Revoking(h) => Some(h.member.clone()),
            _ => None,
        };
        let row = RightRow {
            id,
            epoch: Epoch(epoch),
            phase,
            target: None,
            last,
            reason: None,
            start: Start::Start,
            started: true,
        };
        Right::new(row, Time(0), &Timing::default())
    }

    fn check(from: Phase, target: Option<Holder>, present: bool, epoch: u64, to: Phase) {
        let mut right = right(5, from.clone());
        right.drive(Time(10), &Timing::default(), target.clone(), |_| present);
        assert_eq!(
            (right.row.epoch, &right.row.phase),
            (Epoch(epoch), &to),
            "{from:?} -> {target:?}, holder present: {present}"
        );
    }

    #[test]
    fn each_change_of_holder_takes_a_new_epoch_and_a_raise() {
        let (a, a2, b) = (holder("a", 1), holder("a", 2), holder("b", 1));
        let raising = |h: &Holder| Phase::Raising { to: Some(h.clone()) };
        let (granted, revoking) = (Phase::Granted(a.clone()), Phase::Revoking(a.clone()));
        let nobody = Phase::Raising { to: None };
        check(Phase::Free, None, true, 5, Phase::Free);
        check(Phase::Free, Some(a.clone()), true, 6, raising(&a));
        check(raising(&a), Some(a.clone()), true, 5, raising(&a));
        check(raising(&a), Some(b.clone()), true, 6, raising(&b));
        check(raising(&a), None, true, 6, nobody.clone());
        check(granted.clone(), Some(a.clone()), true, 5, granted.clone());
        check(granted.clone(), Some(b.clone()), true, 5, revoking.clone());
        check(granted.clone(), None, true, 5, revoking.clone());
        check(granted.clone(), Some(a2.clone()), false, 6, raising(&a2));
        check(granted, None, false, 6, nobody);
        check(revoking.clone(), Some(b.clone()), true, 5, revoking.clone());
        check(revoking.clone(), Some(a), true, 5, revoking.clone());
        check(revoking, Some(b.clone()), false, 6, raising(&b));
    }

    #[test]
    fn a_handler_that_makes_progress_extends_the_deadline_within_its_bound() {
        let timing = Timing::default();
        let a = holder("a", 1);
        let mut right = right(5, Phase::Granted(a.clone()));
        right.drive(Time(0), &timing, None, |_| true);
        right.still_draining(Time(4000), &timing, &a.member, Epoch(4));
        assert_eq!(right.deadline(), Some(Time(5000)), "another epoch extends nothing");
        right.still_draining(Time(4000), &timing, &a.member, Epoch(5));
        assert_eq!(right.deadline(), Some(Time(9000)));
        right.still_draining(Time(58_000), &timing, &a.member, Epoch(5));
        assert_eq!(right.deadline(), Some(Time(60_000)));
        assert_eq!(right.expire(Time(59_999), None), None);
        assert_eq!(right.expire(Time(60_000), None), Some((a, Epoch(5), timing.drain_max)));
        assert_eq!(right.row().epoch, Epoch(6));
    }
}
