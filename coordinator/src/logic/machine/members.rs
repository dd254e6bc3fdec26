//! What clients say and what is said to them: joins, leaves, lapses, and the hand-over of rights
//! as the members take part in it.

use std::collections::BTreeSet;

use ringway_proto::control::{FromClient, GrantedRight, Join, Joined, ToClient, ToWorker};
use ringway_proto::limits::WEIGHT_RANGE;
use ringway_proto::{
    Code, Epoch, Holder, Incarnation, MemberId, QueueId, Refusal, RightId, SubscriptionId, Time,
    WorkerId,
};

use super::super::catalog::check_bounds;
use super::super::rights::{Confirmed, Right, Step};
use super::super::rows::{Key, MemberRow, Phase};
use super::super::sessions::Conn;
use super::lanes::narrow_of;
use super::{Action, Effects, Event, Machine};

/// The most members of one subscription.
pub(super) const MAX_MEMBERS: usize = 4096;
/// The most rights of all subscriptions.
pub(super) const MAX_RIGHTS: usize = 1 << 20;
/// The longest text of a member about where it runs, in bytes.
const MAX_ORIGIN_BYTES: usize = 300;

/// A join that waits for primaries to journal where the subscription begins. Until it is
/// answered the member is told of nothing else; the answer has all that it was granted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PendingJoin {
    incarnation: Incarnation,
    created: bool,
    /// Queues whose primary is awaited.
    pub waiting: BTreeSet<QueueId>,
    /// When it is answered all the same.
    pub deadline: Time,
}

impl Machine {
    pub(super) fn hear_client(
        &mut self,
        now: Time,
        conn: Conn,
        message: FromClient,
        out: &mut Effects,
    ) {
        match message {
            FromClient::Watch { have } | FromClient::Refresh { have } => {
                self.watchers.insert(conn, have);
            }
            FromClient::Join(join) => {
                let (name, member) = (join.name.clone(), join.member.clone());
                if let Err(refusal) = self.join(now, conn, join, out) {
                    let message = ToClient::JoinRefused { name, member, refusal };
                    out.actions.push(Action::ToClient { conn, message });
                }
            }
            FromClient::Drained { member, right, epoch } => {
                if self.is_seat_of(conn, right.subscription, &member) {
                    self.drained(now, &member, right, epoch, out);
                }
            }
            FromClient::Narrowed { member, right, epoch, to } => {
                if self.is_seat_of(conn, right.subscription, &member) {
                    self.narrowed(now, &member, right, epoch, to, out);
                }
            }
            FromClient::StillDraining { member, right, epoch } => {
                if self.is_seat_of(conn, right.subscription, &member)
                    && let Some(right) = self.rights.get_mut(&right)
                {
                    right.still_draining(now, &self.setup.timing, &member, epoch);
                }
            }
            FromClient::Leave { subscription, member, incarnation } => {
                self.leave(now, conn, subscription, member, incarnation, out);
            }
        }
    }

    fn is_seat_of(&self, conn: Conn, subscription: SubscriptionId, member: &MemberId) -> bool {
        self.member_sessions.is_at(&(subscription, member.clone()), conn)
    }

    fn join(
        &mut self,
        now: Time,
        conn: Conn,
        join: Join,
        out: &mut Effects,
    ) -> Result<(), Refusal> {
        check_bounds("weight", join.weight, WEIGHT_RANGE)?;
        if join.origin.len() > MAX_ORIGIN_BYTES {
            return Err(Refusal::new(
                Code::TooLarge,
                format!("the origin has {} bytes, at most {MAX_ORIGIN_BYTES}", join.origin.len()),
            ));
        }
        self.check_room(&join)?;
        let (subscription, created) = self.catalog.subscribe(&join, &mut self.dirty)?;
        let key = (subscription, join.member.clone());
        let known = self.members.get(&key);
        if let Some(known) = known
            && join.incarnation < known.incarnation
        {
            return Err(taken_over(&join));
        }
        let is_same = known.is_some_and(|row| row.incarnation == join.incarnation);
        if is_same && self.member_sessions.is_past(&key, conn) {
            // From a connection that broke: it would take the seat away from where it is reached.
            return Ok(());
        }
        let row = MemberRow {
            subscription,
            member: join.member.clone(),
            incarnation: join.incarnation,
            weight: join.weight,
            origin: join.origin,
            // A process that asked to leave and comes by a new connection goes on leaving.
            leaving: is_same && known.is_some_and(|row| row.leaving),
        };
        let same_share =
            known.is_some_and(|old| old.weight == row.weight && old.leaving == row.leaving);
        if let Some(old) = known.filter(|_| !is_same) {
            let message = ToClient::Superseded {
                subscription,
                member: join.member.clone(),
                incarnation: old.incarnation,
            };
            if let Some(conn) = self.member_sessions.conn(&key) {
                out.actions.push(Action::ToClient { conn, message });
            }
            out.events.push(Event::MemberSuperseded);
            // The rights of the old process go to the new one under new epochs, without a plan.
            self.to_drive.insert(subscription);
        }
        if known != Some(&row) {
            self.dirty.insert(Key::Member(subscription, join.member.clone()));
            self.members.insert(key.clone(), row);
        }
        self.member_sessions.attach(&key, conn, now);
        let covers_more = self.cover(subscription, join.start);
        if !same_share {
            self.rights_due(now, subscription, false);
        }
        self.await_start(now, key, join.incarnation, created, out);
        if covers_more {
            self.tell_fences_to(subscription, out);
        }
        Ok(())
    }

    fn check_room(&self, join: &Join) -> Result<(), Refusal> {
        let Some(row) = self.catalog.find_subscription(&join.name) else {
            let groups = self.catalog.groups_for_filter(&join.filter);
            let new: u32 =
                groups.iter().filter_map(|id| self.catalog.group(*id)).map(|g| g.queues).sum();
            if self.rights.len() + new as usize > MAX_RIGHTS {
                return Err(Refusal::new(
                    Code::TooLarge,
                    format!(
                        "subscription {:?} would bring {new} rights to the {} there are, more than \
                         {MAX_RIGHTS}",
                        join.name.as_str(),
                        self.rights.len()
                    ),
                )
                .hint("choose a filter that fewer queues hold messages of"));
            }
            return Ok(());
        };
        let key = (row.setup.id, join.member.clone());
        if self.members_of(row.setup.id).count() >= MAX_MEMBERS && !self.members.contains_key(&key)
        {
            return Err(Refusal::new(
                Code::TooLarge,
                format!("subscription {:?} has {MAX_MEMBERS} members", join.name.as_str()),
            )
            .hint("give each process more to do, or use a second subscription"));
        }
        Ok(())
    }

    /// Sends out the beginnings that are missing; the join is answered when they are confirmed.
    fn await_start(
        &mut self,
        now: Time,
        key: (SubscriptionId, MemberId),
        incarnation: Incarnation,
        created: bool,
        out: &mut Effects,
    ) {
        // A worker whose connection just broke is about to come again and journal it then.
        let is_live = |queue: &QueueId| {
            let primary = self.primary(*queue);
            primary.is_some_and(|worker| self.worker_sessions.is_live(&worker))
        };
        let waiting = self.not_started(key.0).filter(is_live).collect();
        let created = created || self.joins.get(&key).is_some_and(|join| join.created);
        let deadline = now + self.setup.timing.join_wait;
        self.start_subscription(now, key.0, out);
        self.joins.insert(key, PendingJoin { incarnation, created, waiting, deadline });
    }

    /// Answers the joins that need not wait any more.
    pub(super) fn complete_joins(&mut self, now: Time, out: &mut Effects) {
        let gone = |queue: &QueueId| {
            let primary = self.primary(*queue);
            !primary.is_some_and(|worker| self.worker_sessions.is_live(&worker))
        };
        let ready: Vec<_> = self
            .joins
            .iter()
            .filter(|(_, join)| join.deadline <= now || join.waiting.iter().all(gone))
            .map(|(key, _)| key.clone())
            .collect();
        for key in ready {
            if let Some(join) = self.joins.remove(&key) {
                self.complete_join(now, key.0, key.1, &join, out);
            }
        }
    }

    fn complete_join(
        &mut self,
        now: Time,
        subscription: SubscriptionId,
        member: MemberId,
        join: &PendingJoin,
        out: &mut Effects,
    ) {
        let Some(row) = self.catalog.subscription(subscription) else { return };
        let holder = Holder { member: member.clone(), incarnation: join.incarnation };
        let held: Vec<&Right> = self
            .rights_in(subscription)
            .map(|(_, right)| right)
            .filter(|right| right.holder() == Some(&holder))
            .collect();
        let joined = Joined {
            name: row.setup.name.clone(),
            subscription,
            member: member.clone(),
            incarnation: join.incarnation,
            created: join.created,
            order: row.setup.order,
            rights: held
                .iter()
                .map(|right| GrantedRight { right: right.row().id, epoch: right.row().epoch })
                .collect(),
        };
        let still = |right: &&Right| revoke_of(now, right).or_else(|| narrow_of(now, right));
        let revokes: Vec<ToClient> = held.iter().filter_map(still).collect();
        self.tell_member(subscription, &member, ToClient::Joined(joined), out);
        for revoke in revokes {
            self.tell_member(subscription, &member, revoke, out);
        }
    }

    fn leave(
        &mut self,
        now: Time,
        conn: Conn,
        subscription: SubscriptionId,
        member: MemberId,
        incarnation: Incarnation,
        out: &mut Effects,
    ) {
        let key = (subscription, member.clone());
        match self.members.get_mut(&key) {
            Some(row) if row.incarnation == incarnation => {
                if !std::mem::replace(&mut row.leaving, true) {
                    self.dirty.insert(Key::Member(subscription, member));
                    self.rights_due(now, subscription, true);
                }
            }
            Some(row) if row.incarnation > incarnation => {
                let message = ToClient::Superseded { subscription, member, incarnation };
                out.actions.push(Action::ToClient { conn, message });
            }
            // It holds nothing, which is what it asked for.
            _ => {
                let message = ToClient::Left { subscription, member, incarnation };
                out.actions.push(Action::ToClient { conn, message });
            }
        }
    }

    /// Lets those go who asked to leave and hold nothing any more.
    pub(super) fn complete_leaves(&mut self, out: &mut Effects) {
        let leaving: Vec<MemberRow> =
            self.members.values().filter(|row| row.leaving).cloned().collect();
        for row in leaving {
            let (subscription, holder) = (row.subscription, row.holder());
            let keeps = |right: &Right| right.epoch().holder.as_ref() == Some(&holder);
            if self.rights_in(subscription).any(|(_, right)| keeps(right)) {
                continue;
            }
            let MemberRow { member, incarnation, .. } = row;
            let key = (subscription, member.clone());
            self.joins.remove(&key);
            let message = ToClient::Left { subscription, member: member.clone(), incarnation };
            self.tell_member(subscription, &member, message, out);
            self.member_sessions.end(&key);
            self.members.remove(&key);
            self.dirty.insert(Key::Member(subscription, member));
        }
    }

    pub(super) fn lapse_member(
        &mut self,
        now: Time,
        subscription: SubscriptionId,
        member: &MemberId,
        out: &mut Effects,
    ) {
        let key = (subscription, member.clone());
        if let Some(conn) = self.member_sessions.end(&key) {
            let reason = "the session lapsed";
            let close = Action::Close { conn, reason };
            if !out.actions.contains(&close) {
                out.actions.push(close);
            }
        }
        self.joins.remove(&key);
        self.members.remove(&key);
        self.dirty.insert(Key::Member(subscription, member.clone()));
        out.events.push(Event::MemberLapsed);
        self.rights_due(now, subscription, true);
    }

    /// The members of a subscription.
    pub(super) fn members_of(
        &self,
        subscription: SubscriptionId,
    ) -> impl Iterator<Item = &MemberRow> {
        self.members.values().filter(move |row| row.subscription == subscription)
    }

    fn drained(
        &mut self,
        now: Time,
        member: &MemberId,
        id: RightId,
        epoch: Epoch,
        out: &mut Effects,
    ) {
        let target = self.target_of(id);
        let Some(right) = self.rights.get_mut(&id) else { return };
        if let Some(took) = right.drained(now, member, epoch, target) {
            out.events.push(Event::Drained(took));
            self.tell_raise(now, id, out);
        }
    }

    /// Fences those whose time to drain is over.
    pub(super) fn expire_rights(&mut self, now: Time, out: &mut Effects) {
        let over = |id: &RightId| self.deadline_of(*id).is_some_and(|at| at <= now);
        let ids: Vec<RightId> = self.revoking.iter().copied().filter(over).collect();
        for id in ids {
            let target = self.target_of(id);
            self.fence_lanes(now, id, out);
            let Some(right) = self.rights.get_mut(&id) else { continue };
            let Some((holder, epoch, took)) = right.expire(now, target) else { continue };
            out.events.push(Event::Drained(took));
            self.tell_raise(now, id, out);
            self.tell_lost(id, &holder, epoch, out);
        }
        let rights = &self.rights;
        let has_deadline = |id: &RightId| rights.get(id).is_some_and(|r| r.deadline().is_some());
        self.revoking.retain(has_deadline);
    }

    /// When the holder of a right is fenced, while it is to give it up.
    pub(super) fn deadline_of(&self, id: RightId) -> Option<Time> {
        self.rights.get(&id)?.deadline()
    }

    fn tell_lost(&self, id: RightId, holder: &Holder, epoch: Epoch, out: &mut Effects) {
        let seat = (id.subscription, holder.member.clone());
        if self.members.get(&seat).is_some_and(|row| row.incarnation == holder.incarnation) {
            let message = ToClient::Lost { member: holder.member.clone(), right: id, epoch };
            self.tell_member(id.subscription, &holder.member, message, out);
        }
    }

    /// Who the right is to belong to, as the process that its member is now.
    fn target_of(&self, id: RightId) -> Option<Holder> {
        // What is about to be split is given to nobody first.
        let right = self.rights.get(&id).filter(|right| !right.is_to_be_cut())?;
        self.holder_now(id.subscription, right.row().target.as_ref()?)
    }

    /// Lets every right take its step that may have one.
    pub(super) fn drive_rights(&mut self, now: Time, out: &mut Effects) {
        for subscription in std::mem::take(&mut self.to_drive) {
            let ids: Vec<RightId> = self.rights_in(subscription).map(|(id, _)| *id).collect();
            for id in ids {
                self.drive(now, id, out);
            }
            self.drive_merges(now, subscription, out);
        }
    }

    fn drive(&mut self, now: Time, id: RightId, out: &mut Effects) {
        let cut = self.rights.get(&id).is_some_and(|right| right.row().cut.is_some());
        if cut && !self.drive_cut(now, id, out) {
            return;
        }
        let target = self.target_of(id);
        let members = &self.members;
        let is_present = |holder: &Holder| {
            let row = members.get(&(id.subscription, holder.member.clone()));
            row.is_some_and(|row| row.incarnation == holder.incarnation)
        };
        let Some(right) = self.rights.get_mut(&id) else { return };
        match right.drive(now, &self.setup.timing, target, is_present) {
            None => {}
            Some(Step::Raise) => self.tell_raise(now, id, out),
            Some(Step::Revoke(holder)) => {
                let epoch = right.row().epoch;
                let to_member = revoke_of(now, right);
                self.dirty.insert(Key::Right(id));
                self.revoking.insert(id);
                if let Some(worker) = self.primary(id.queue) {
                    self.tell_worker(&worker, ToWorker::Revoke { right: id, epoch }, out);
                }
                if let Some(message) = to_member {
                    self.tell_member(id.subscription, &holder.member, message, out);
                }
            }
        }
    }

    fn tell_raise(&mut self, now: Time, id: RightId, out: &mut Effects) {
        self.dirty.insert(Key::Right(id));
        if let Some(order) = self.order_of(id) {
            self.tell_primary(now, id, order, out);
        }
    }

    /// The primary confirmed an epoch: only now its holder is told.
    pub(super) fn note_raised(
        &mut self,
        now: Time,
        worker: &WorkerId,
        id: RightId,
        epoch: Epoch,
        out: &mut Effects,
    ) {
        if !self.queues.get(&id.queue).is_some_and(|q| q.is_led_by(worker)) {
            return;
        }
        let Some(right) = self.rights.get_mut(&id) else { return };
        let Some(Confirmed { holder, moved, raise, total }) = right.confirm(now, epoch) else {
            return;
        };
        self.dirty.insert(Key::Right(id));
        self.note_cut(id);
        if holder.is_none() {
            // What is to be split or merged waited for this.
            self.to_drive.insert(id.subscription);
        }
        self.plan_again(now, id.subscription);
        out.events.push(Event::Raised(raise));
        out.events.extend(total.map(Event::HandedOver));
        if let Some(reason) = moved {
            self.meta.moves += 1;
            self.dirty.insert(Key::Meta);
            out.events.push(Event::RightMoved(reason));
        }
        if let Some(holder) = holder {
            let granted = GrantedRight { right: id, epoch };
            let message = ToClient::Granted { member: holder.member.clone(), granted };
            self.tell_member(id.subscription, &holder.member, message, out);
        }
    }
}

fn revoke_of(now: Time, right: &Right) -> Option<ToClient> {
    let Phase::Revoking(holder) = &right.row().phase else { return None };
    let left = right.deadline()?.since(now);
    Some(ToClient::Revoke {
        member: holder.member.clone(),
        right: right.row().id,
        epoch: right.row().epoch,
        deadline_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
    })
}

fn taken_over(join: &Join) -> Refusal {
    Refusal::new(
        Code::Superseded,
        format!(
            "a newer process has joined subscription {:?} as member {:?}",
            join.name.as_str(),
            join.member.as_str()
        ),
    )
    .hint("give each process its own member id, or leave it out")
}
