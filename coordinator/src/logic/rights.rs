//! One consume right's life: free, raising, granted, revoking, raising again. It promises that
//! epochs only grow, that each change of holder takes a new one, and that nobody is told of a
//! right before its primary confirmed the epoch. It does not know who plans the targets, nor how
//! a message reaches anyone.

use std::time::Duration;

use ringway_proto::control::{GrantedRight, RightEpoch};
use ringway_proto::{Epoch, Holder, Lanes, MemberId, Time};

use super::rows::{Cut, Merging, MoveReason, Phase, Piece, RightRow};
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
    /// Since when its holder is to give some of its lanes up.
    narrowing: Option<Time>,
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
            narrowing: None,
            row,
        }
    }

    /// Whether a split of it was decided and is not done.
    #[must_use]
    pub fn is_to_be_cut(&self) -> bool {
        self.row.cut.as_ref().is_some_and(|cut| cut.of.is_none())
    }

    /// Whether the primary has not confirmed a split of it: until then it takes no step.
    #[must_use]
    pub fn is_being_cut(&self) -> bool {
        self.row.cut.as_ref().is_some_and(|cut| cut.of.is_some())
    }

    /// Whether a split or merge of it is not over: then there is no other.
    #[must_use]
    pub fn is_changing(&self) -> bool {
        self.row.cut.is_some() || !self.row.parts.is_empty()
    }

    /// Decides a split.
    pub fn set_cut(&mut self, keep: Lanes, pieces: Vec<Piece>) {
        self.row.cut = Some(Cut { keep, pieces, of: None });
    }

    /// The pieces of a split that is decided and not done.
    pub fn pieces_mut(&mut self) -> &mut [Piece] {
        match &mut self.row.cut {
            Some(Cut { of: None, pieces, .. }) => pieces,
            _ => &mut [],
        }
    }

    /// Decides a merge, or against one.
    pub fn set_merging(&mut self, merging: Option<Merging>) {
        self.row.merging = merging;
    }

    /// The lanes that its holder is to keep, while it gives up the others.
    #[must_use]
    pub fn narrowing_to(&self) -> Option<Lanes> {
        self.narrowing?;
        self.row.cut.as_ref().map(|cut| cut.keep)
    }

    /// For how long its holder has been giving lanes up.
    #[must_use]
    pub fn narrowing_for(&self, now: Time) -> Option<Duration> {
        self.narrowing.map(|since| now.since(since))
    }

    /// The holder is to give up what is cut off. False if it was told already.
    pub fn begin_narrow(&mut self, now: Time, timing: &Timing) -> bool {
        if self.narrowing.is_some() {
            return false;
        }
        self.narrowing = Some(now);
        self.deadline = Some(now + timing.drain);
        true
    }

    /// The primary confirmed the split.
    pub fn cut_is_done(&mut self) {
        self.row.cut = None;
    }

    /// Does the split that was decided: what stays, and the other parts, each on its way to the
    /// holder that `to` names.
    pub fn split(mut self, now: Time, to: impl Fn(&MemberId) -> Option<Holder>) -> Vec<Self> {
        let Some(cut) = &mut self.row.cut else { return vec![self] };
        cut.of = Some(self.row.id.lanes);
        let (keep, pieces) = (cut.keep, cut.pieces.clone());
        let since = self.narrowing.take();
        (self.revoked_at, self.deadline) = (None, None);
        let mut parts = Vec::new();
        for piece in pieces {
            let row = RightRow { last: self.row.last.clone(), ..self.row.clone() };
            let row = RightRow { id: row.id.with(piece.lanes), cut: None, merging: None, ..row };
            let mut part = Self { row, revoked_at: since, ..self.clone() };
            let holder = piece.target.as_ref().and_then(&to);
            part.set_target(piece.target, piece.reason);
            part.raise(now, holder);
            parts.push(part);
        }
        self.row.id.lanes = keep;
        parts.push(self);
        parts
    }

    /// The right that these parts, which are free, become, on its way to `to`.
    #[must_use]
    pub fn merged(now: Time, parts: &[Self], into: &Merging, to: Option<Holder>) -> Option<Self> {
        let first = parts.first()?;
        let epoch = parts.iter().map(|part| part.row.epoch).max()?;
        let of = |part: &Self| GrantedRight { right: part.row.id, epoch: part.row.epoch };
        let row = RightRow {
            epoch,
            target: into.to.clone(),
            started: parts.iter().all(|part| part.row.started),
            parts: parts.iter().map(of).collect(),
            ..RightRow::new(first.row.id.with(into.lanes), first.row.start)
        };
        let deadline = None;
        let mut right = Self { row, deadline, revoked_at: None, raised_at: None, narrowing: None };
        right.raise(now, to);
        Some(right)
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
        let since = self.narrowing.or(self.revoked_at);
        let narrows = self.narrowing.is_some() && self.is_held_by(member, epoch);
        if narrows || self.revoking(member, epoch).is_some() {
            let limit = since.unwrap_or(now) + timing.drain_max;
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
        self.row.parts.clear();
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

    /// Whether this member holds it under this epoch.
    #[must_use]
    pub fn is_held_by(&self, member: &MemberId, epoch: Epoch) -> bool {
        self.row.epoch == epoch && self.holder().is_some_and(|holder| holder.member == *member)
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
        (self.deadline, self.narrowing) = (None, None);
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
            epoch: Epoch(epoch),
            phase,
            last,
            started: true,
            ..RightRow::new(id, Start::Start)
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
