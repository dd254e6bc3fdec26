//! Changes of workers that administrators order or think through, and why things are where they
//! are. It answers from the state, the planner and the plans that are kept.

use ringway_proto::admin::{AdminResponse, Explanation, MoveInfo, PlanChange, PlanInfo};
use ringway_proto::{
    Code, Epoch, GroupName, Lanes, QueueId, Refusal, RightId, SubscriptionName, Time, WorkerId,
};

use super::super::rows::Key;
use super::admin::{lost, right_state};
use super::moves::move_phase;
use super::planning::Standing;
use super::{Effects, Machine};

impl Machine {
    /// A worker is to be emptied, or not any more. Plans take it as having left.
    pub(super) fn drain(
        &mut self,
        now: Time,
        worker: &WorkerId,
        undo: bool,
        out: &mut Effects,
    ) -> Result<AdminResponse, Refusal> {
        let unknown = self.no_worker(worker);
        let row = self.workers.get_mut(worker).ok_or(unknown)?;
        if std::mem::replace(&mut row.draining, !undo) == undo {
            self.dirty.insert(Key::Worker(worker.clone()));
            self.queues_due(now, true);
            if undo {
                self.call_back(now, worker, out);
            }
        }
        let row = self.workers.get(worker).ok_or_else(|| lost("the worker"))?;
        Ok(AdminResponse::Draining(self.worker_info(row)))
    }

    /// Refuses a worker that nobody knows.
    pub(super) fn no_worker(&self, worker: &WorkerId) -> Refusal {
        let known: Vec<&str> = self.workers.keys().map(WorkerId::as_str).collect();
        let known = match known.len() {
            0 => "there are none".to_owned(),
            1..=8 => format!("there are {}", known.join(", ")),
            n => format!("there are {n} others"),
        };
        Refusal::new(Code::InvalidOption, format!("there is no worker {worker}; {known}"))
            .hint("`ringway cluster workers` lists them")
    }

    pub(super) fn plan_if_info(&self, change: &PlanChange) -> Result<PlanInfo, Refusal> {
        let made = self.plan_if(change)?;
        let info = |step: &super::super::plan::Move<QueueId, WorkerId>| MoveInfo {
            queue: self.catalog.queue_name(step.item),
            from: Some(step.from.clone()),
            to: step.to.clone(),
            reason: step.reason.to_string(),
            waits: step.waits.map(|wait| wait.to_string()),
        };
        Ok(PlanInfo {
            number: self.meta.queue_plan,
            moves: made.moves.iter().map(info).collect(),
            lower_bound: made.lower_bound as u64,
        })
    }

    pub(super) fn explain(
        &self,
        name: &str,
        subscription: Option<SubscriptionName>,
    ) -> Result<Explanation, Refusal> {
        let (name, lane) = lane_named(name)?;
        let queue = self.queue_named(name)?;
        match subscription {
            None => self.explain_primary(queue),
            Some(subscription) => self.explain_holder(queue, lane, subscription),
        }
    }

    fn queue_named(&self, name: &str) -> Result<QueueId, Refusal> {
        let parsed = name.rsplit_once('/').and_then(|(group, n)| Some((group, n.parse().ok()?)));
        let Some((group, index)) = parsed else {
            return Err(Refusal::new(
                Code::InvalidName,
                format!("{name:?} is no queue: a queue is named GROUP/NUMBER"),
            )
            .hint("`ringway group describe default` lists the queues of a group"));
        };
        let group = self.catalog.group_named(&GroupName::new(group)?)?;
        let id = QueueId::new(group.id, index);
        if !self.queues.contains_key(&id) {
            let (name, last) = (&group.name, group.queues.saturating_sub(1));
            return Err(Refusal::new(
                Code::InvalidOption,
                format!("group {name} has no queue {index}; its queues are 0 to {last}"),
            )
            .hint(format!("`ringway group describe {name}` lists them")));
        }
        Ok(id)
    }

    fn explain_primary(&self, id: QueueId) -> Result<Explanation, Refusal> {
        let queue = self.queues.get(&id).ok_or_else(|| lost("the queue"))?;
        let row = queue.row();
        let owner = row.primary.as_ref();
        let standing = owner.map(|owner| self.explain_queue(id, owner)).unwrap_or_default();
        let because = match (owner, &row.moving) {
            (None, _) => "no worker was up when it was made; it goes to the next one".to_owned(),
            (Some(_), Some(moving)) => format!(
                "it is on its way to {} ({}): {}",
                moving.to,
                moving.reason,
                move_phase(queue).unwrap_or("waiting")
            ),
            (Some(owner), None) => self.why_at_worker(owner, &standing),
        };
        Ok(Explanation {
            queue: self.catalog.queue_name(id),
            subscription: None,
            owner: owner.map(ToString::to_string),
            epoch: row.epoch,
            state: self.queue_info(queue).state,
            preference: standing.rank,
            held: standing.held,
            quota: standing.quota,
            because,
            last_move: owner.and_then(|owner| self.plans.last_move(id, None, owner.as_str())),
        })
    }

    fn why_at_worker(&self, owner: &WorkerId, standing: &Standing) -> String {
        let row = self.workers.get(owner);
        if row.is_some_and(|row| !row.up) {
            return format!("{owner} is down and has the only copy: the queue waits for it");
        }
        if row.is_some_and(|row| row.draining) {
            return format!("{owner} is being drained, and nobody else can take it now");
        }
        why_here(owner.as_str(), "worker", standing)
    }

    fn explain_holder(
        &self,
        queue: QueueId,
        lane: u16,
        name: SubscriptionName,
    ) -> Result<Explanation, Refusal> {
        let subscription = self.catalog.subscription_named(&name)?.setup.id;
        let mut rights = self.rights_at(subscription, queue);
        let right = rights.find(|(id, _)| id.lanes.contains(lane)).map(|(_, right)| right);
        let whole = RightId::whole(subscription, queue);
        let id = right.map_or(whole, |right| right.row().id);
        let owner = right.and_then(|right| right.epoch().holder).map(|holder| holder.member);
        let standing = owner.as_ref().map(|o| self.explain_right(id, o)).unwrap_or_default();
        let target = right.and_then(|right| right.row().target.clone());
        let because = match (right, &owner, &target) {
            (None, _, _) => format!("subscription {name} reads nothing from this queue"),
            (Some(_), None, None) => format!("subscription {name} has no members"),
            (Some(_), None, Some(to)) => format!("it is about to be granted to {to}"),
            (Some(_), Some(owner), Some(to)) if owner != to => {
                format!("it is on its way to {to}: {owner} is giving it up")
            }
            (Some(_), Some(owner), _) => why_here(owner.as_str(), "member", &standing),
        };
        let last_move = owner
            .as_ref()
            .and_then(|owner| self.plans.last_move(queue, Some(subscription), owner.as_str()));
        Ok(Explanation {
            queue: id.lanes.of(&self.catalog.queue_name(queue)),
            subscription: Some(name),
            owner: owner.map(|owner| owner.to_string()),
            epoch: right.map_or(Epoch(0), |right| right.row().epoch),
            state: right.map_or("none", right_state).to_owned(),
            preference: standing.rank,
            held: standing.held,
            quota: standing.quota,
            because,
            last_move,
        })
    }
}

/// The queue and the first lane of what is named like `orders/7 lanes 0-2047`, or `orders/7`.
fn lane_named(name: &str) -> Result<(&str, u16), Refusal> {
    let Some((queue, lanes)) = name.split_once(" lanes ") else { return Ok((name, 0)) };
    let first = lanes.split_once('-').and_then(|(first, _)| first.parse().ok());
    let first = first.filter(|lane| Lanes::ALL.contains(*lane)).ok_or_else(|| {
        let text = format!("{lanes:?} are no lanes: they are 0-4095, or a part of that");
        Refusal::new(Code::InvalidName, text).hint("`ringway subscription describe` lists rights")
    })?;
    Ok((queue, first))
}

/// Why something stays with its owner: the ring's preference, and the owner's share.
fn why_here(owner: &str, kind: &str, standing: &Standing) -> String {
    let Standing { rank, held, quota, nodes } = standing;
    let share = format!("{owner} has {held}, and its share is {quota}");
    match rank {
        Some(1) => {
            format!("{owner} comes first of the {kind}s on its way around the ring; {share}")
        }
        Some(rank) => format!(
            "{owner} is number {rank} of {nodes} {kind}s on its way around the ring: those before \
             it were full when it was placed, and what has an owner stays; {share}"
        ),
        None => format!("{owner} takes no part in plans any more"),
    }
}
