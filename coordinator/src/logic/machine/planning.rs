//! When plans are made, and what a plan changes. Queues are one plan over all workers, the rights
//! of each subscription one over its members. It keeps count of the moves that plans needed at
//! least; who goes where is the planner's business.

use std::collections::BTreeMap;

use ringway_proto::admin::PlanChange;
use ringway_proto::limits::WEIGHT_RANGE;
use ringway_proto::ring::RingNode;
use ringway_proto::{MemberId, QueueId, Refusal, RightId, SubscriptionId, Time, WorkerId};

use super::super::catalog::check_bounds;
use super::super::placement::Queue;
use super::super::plan::{
    Item, Move, Node, Pin, Plan, Preferences, Reason, plan, queue_point, right_point,
};
use super::super::plans::{Inputs, PlanOf, PlanRow};
use super::super::rows::{Key, MoveReason};
use super::super::split::numbered;
use super::{Effects, Event, Machine};

/// What is kept between the plans over one set of nodes.
#[derive(Clone, Debug)]
pub struct Planner<N> {
    pub(super) preferences: Preferences<N>,
    /// The nodes of the last plan, for the reasons of the next.
    pub(super) before: Vec<Node<N>>,
    /// When the last plan was made.
    pub(super) planned_at: Option<Time>,
    /// When the next one may be made, if one is due.
    pub(super) due: Option<Time>,
}

impl<N: RingNode> Default for Planner<N> {
    fn default() -> Self {
        Self {
            preferences: Preferences::default(),
            before: Vec::new(),
            planned_at: None,
            due: None,
        }
    }
}

impl<N> Planner<N> {
    /// A plan is due: at once if it is urgent or the last one is long ago, else when that is
    /// `settling` ago.
    fn mark(&mut self, now: Time, settling: std::time::Duration, urgent: bool) {
        let settled = self.planned_at.map_or(now, |at| at + settling);
        let at = if urgent { now } else { settled.max(now) };
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    fn is_due(&self, now: Time) -> bool {
        self.due.is_some_and(|due| due <= now)
    }
}

/// A move of a queue as the last plan has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueueMove {
    /// The queue.
    pub queue: QueueId,
    /// From which worker.
    pub from: WorkerId,
    /// To which.
    pub to: WorkerId,
    /// Why, for people.
    pub reason: String,
}

/// How an item's owner stands among the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// Its rank in the order in which the item prefers nodes, from 1; none when it takes no part.
    pub rank: Option<u32>,
    /// How many items it has.
    pub held: u32,
    /// How many it may have.
    pub quota: u32,
    /// How many nodes take part.
    pub nodes: u32,
}

impl Standing {
    fn new<I, N: RingNode>(made: &Plan<I, N>, nodes: &[Node<N>], point: u64, owner: &N) -> Self {
        let share = made.quotas.iter().find(|quota| quota.node == *owner);
        Self {
            rank: Preferences::default().rank(nodes, point, owner),
            held: share.map_or(0, |share| share.held as u32),
            quota: share.map_or(0, |share| share.quota as u32),
            nodes: nodes.len() as u32,
        }
    }
}

impl Machine {
    /// Workers or queues changed.
    pub(super) fn queues_due(&mut self, now: Time, urgent: bool) {
        self.queue_planner.mark(now, self.setup.timing.settling, urgent);
        self.meta.queues_due = true;
        self.dirty.insert(Key::Meta);
    }

    /// Members or rights of a subscription changed.
    pub(super) fn rights_due(&mut self, now: Time, subscription: SubscriptionId, urgent: bool) {
        let planner = self.right_planners.entry(subscription).or_default();
        planner.mark(now, self.setup.timing.settling, urgent);
        if self.catalog.set_plan_due(subscription, true) {
            self.dirty.insert(Key::Subscription(subscription));
        }
    }

    /// After a restart: the nodes that the last plans knew are those in the store, and a plan
    /// that was due is due.
    pub(super) fn restore_plans(&mut self, now: Time) {
        self.queue_planner.before = self.worker_nodes();
        if self.meta.queues_due {
            self.queue_planner.due = Some(now);
        }
        let subscriptions: Vec<_> =
            self.catalog.subscriptions().map(|row| (row.setup.id, row.plan_due)).collect();
        for (id, due) in subscriptions {
            let before = self.member_nodes(id);
            let planner = self.right_planners.entry(id).or_default();
            planner.before = before;
            planner.due = due.then_some(now);
            self.to_drive.insert(id);
        }
    }

    /// When the next plan may be made.
    pub(super) fn next_plan(&self) -> Option<Time> {
        let rights = self.right_planners.values().filter_map(|planner| planner.due);
        rights.chain(self.queue_planner.due).min()
    }

    /// Makes the plans that are due.
    pub(super) fn make_plans(&mut self, now: Time, out: &mut Effects) {
        if self.queue_planner.is_due(now) {
            self.plan_queues(now, out);
        }
        let due: Vec<SubscriptionId> = self
            .right_planners
            .iter()
            .filter(|(_, planner)| planner.is_due(now))
            .map(|(id, _)| *id)
            .collect();
        for subscription in due {
            self.plan_rights(now, subscription, out);
        }
    }

    fn worker_nodes(&self) -> Vec<Node<WorkerId>> {
        let staying = self.workers.values().filter(|row| !row.draining);
        staying.map(|row| Node { id: row.id.clone(), weight: row.weight, up: row.up }).collect()
    }

    /// The queues as a plan takes them. What is at a worker that is down has to be given away by
    /// that worker.
    fn queue_items(&self) -> Vec<Item<'_, QueueId, WorkerId>> {
        let is_down = |worker| self.workers.get(worker).is_some_and(|row| !row.up);
        let item = |queue| {
            let row = Queue::row(queue);
            let pin =
                if row.primary.as_ref().is_some_and(is_down) { Pin::OwnerDown } else { Pin::Free };
            Item { id: row.id, point: queue_point(row.id), owner: queue.owner(), pin }
        };
        self.queues.values().map(item).collect()
    }

    /// What the next plan of queues would be if the workers changed like this.
    pub(super) fn plan_if(&self, change: &PlanChange) -> Result<Plan<QueueId, WorkerId>, Refusal> {
        let before = self.worker_nodes();
        let mut nodes = before.clone();
        let (PlanChange::Join { worker, .. } | PlanChange::Leave { worker }) = change;
        nodes.retain(|node| node.id != *worker);
        match change {
            PlanChange::Join { weight, .. } => {
                check_bounds("weight", *weight, WEIGHT_RANGE)?;
                nodes.push(Node { id: worker.clone(), weight: *weight, up: true });
            }
            PlanChange::Leave { .. } if nodes.len() == before.len() => {
                return Err(self.no_worker(worker));
            }
            PlanChange::Leave { .. } => {}
        }
        let mut preferences = self.queue_planner.preferences.clone();
        Ok(plan(&mut preferences, &before, &nodes, &self.queue_items()))
    }

    /// Where the queues stand: who has how many and may have, and the rank of `owner` in the order
    /// in which this one prefers workers.
    pub(super) fn explain_queue(&self, id: QueueId, owner: &WorkerId) -> Standing {
        let nodes = self.worker_nodes();
        let made =
            plan(&mut self.queue_planner.preferences.clone(), &nodes, &nodes, &self.queue_items());
        Standing::new(&made, &nodes, queue_point(id), owner)
    }

    /// As [`Self::explain_queue`], for a right.
    pub(super) fn explain_right(&self, id: RightId, owner: &MemberId) -> Standing {
        let nodes = self.member_nodes(id.subscription);
        let cells = self.cells(id.subscription, &nodes, self.is_used(id));
        let made = plan(&mut Preferences::default(), &nodes, &nodes, &cells.items());
        Standing::new(&made, &nodes, right_point(&cells.cell(id)), owner)
    }

    /// Keeps a plan that was made, in the place of the oldest.
    fn keep_plan(&mut self, row: PlanRow) {
        self.dirty.insert(Key::Plan(row.number));
        let gone = self.plans.keep(row);
        self.dirty.extend(gone.into_iter().map(Key::Plan));
    }

    fn member_nodes(&self, subscription: SubscriptionId) -> Vec<Node<MemberId>> {
        self.members_of(subscription)
            .filter(|row| !row.leaving)
            .map(|row| Node { id: row.member.clone(), weight: row.weight, up: true })
            .collect()
    }

    fn begin_plan(&mut self, out: &mut Effects) {
        self.meta.plan += 1;
        self.dirty.insert(Key::Meta);
        out.events.push(Event::Planned);
    }

    fn plan_queues(&mut self, now: Time, out: &mut Effects) {
        let nodes = self.worker_nodes();
        let mut planner = std::mem::take(&mut self.queue_planner);
        let items = self.queue_items();
        let made = plan(&mut planner.preferences, &planner.before, &nodes, &items);
        let inputs = Inputs {
            number: self.meta.plan + 1,
            of: PlanOf::Queues,
            made_at_ms: self.calendar(now),
            before: &planner.before,
            nodes: &nodes,
        };
        let row = PlanRow::new(inputs, &items, |id| *id, &made);
        planner.before = nodes;
        planner.planned_at = Some(now);
        planner.due = None;
        self.queue_planner = planner;
        self.meta.queues_due = false;
        self.begin_plan(out);
        self.keep_plan(row);
        self.meta.queue_plan = self.meta.plan;
        self.meta.lower_bound += made.lower_bound_now as u64;

        for (queue, to) in made.first {
            self.assign_queue(now, queue, to, out);
        }
        let mut moves = self.moves_under_way();
        for step in made.moves {
            let listed = QueueMove {
                queue: step.item,
                from: self.primary(step.item).unwrap_or_else(|| step.from.clone()),
                to: step.to.clone(),
                reason: step.reason.to_string(),
            };
            moves.insert(step.item, listed);
            if step.waits.is_none() {
                self.move_queue(now, step, out);
            }
        }
        self.queue_moves = moves.into_values().filter(|step| step.from != step.to).collect();
    }

    /// The moves of earlier plans that are not done yet.
    fn moves_under_way(&self) -> BTreeMap<QueueId, QueueMove> {
        let under_way = |queue: &super::Queue| {
            let row = queue.row();
            let (moving, from) = (row.moving.as_ref()?, row.primary.clone()?);
            let (to, reason) = (moving.to.clone(), moving.reason.clone());
            Some((row.id, QueueMove { queue: row.id, from, to, reason }))
        };
        self.queues.values().filter_map(under_way).collect()
    }

    fn assign_queue(&mut self, now: Time, id: QueueId, to: WorkerId, out: &mut Effects) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        queue.assign(to);
        self.dirty.insert(Key::Queue(id));
        self.routing_changed = true;
        self.restart_subscriptions(id);
        self.tell_queue(now, id, out);
    }

    fn move_queue(&mut self, now: Time, step: Move<QueueId, WorkerId>, out: &mut Effects) {
        let id = step.item;
        // A move that this one replaces no longer counts; neither does going back.
        self.give_up_move(now, id, out);
        let Some(queue) = self.queues.get_mut(&id) else { return };
        if queue.is_led_by(&step.to) {
            self.uncount_move();
            return;
        }
        queue.begin_move(now, step.to, step.reason.to_string(), move_reason(&step.reason));
        self.dirty.insert(Key::Queue(id));
        self.moves_due = true;
        self.tell_seal(now, id, out);
    }

    /// What the calendar says, in milliseconds since 1970.
    fn calendar(&self, now: Time) -> u64 {
        self.setup.epoch_ms.saturating_add(now.0)
    }

    /// A move that a plan counted does not happen: the least that was needed is one less.
    pub(super) fn uncount_move(&mut self) {
        self.meta.lower_bound = self.meta.lower_bound.saturating_sub(1);
        self.dirty.insert(Key::Meta);
    }

    fn plan_rights(&mut self, now: Time, subscription: SubscriptionId, out: &mut Effects) {
        if self.catalog.set_plan_due(subscription, false) {
            self.dirty.insert(Key::Subscription(subscription));
        }
        self.to_drive.insert(subscription);
        let nodes = self.member_nodes(subscription);
        let Some(mut planner) = self.right_planners.remove(&subscription) else { return };
        planner.planned_at = Some(now);
        planner.due = None;
        if nodes.is_empty() {
            self.aim_at_nobody(subscription);
        } else {
            for in_use in [true, false] {
                self.plan_cells(now, subscription, &mut planner, &nodes, in_use, out);
            }
        }
        planner.before = nodes;
        self.right_planners.insert(subscription, planner);
    }

    fn plan_cells(
        &mut self,
        now: Time,
        subscription: SubscriptionId,
        planner: &mut Planner<MemberId>,
        nodes: &[Node<MemberId>],
        in_use: bool,
        out: &mut Effects,
    ) {
        let cells = self.cells(subscription, nodes, in_use);
        if cells.is_empty() {
            return;
        }
        let items = cells.items();
        let made = plan(&mut planner.preferences, &planner.before, nodes, &items);
        let name = self.catalog.subscription(subscription).map(|row| row.setup.name.clone());
        let row = name.map(|name| {
            let inputs = Inputs {
                number: self.meta.plan + 1,
                of: PlanOf::Rights { id: subscription, name, depth: cells.depth },
                made_at_ms: self.calendar(now),
                before: &planner.before,
                nodes,
            };
            let number = |id: &RightId| numbered(id.queue, id.lanes, cells.depth);
            PlanRow::new(inputs, &items, number, &made)
        });
        self.begin_plan(out);
        if let Some(row) = row {
            self.keep_plan(row);
        }
        // The moves that were needed are counted as rights get their targets: a right of many
        // cells moves once. What a plan moved beyond the least shows all the same.
        let excess = made.moves.len().saturating_sub(made.lower_bound_now) as u64;
        self.meta.lower_bound = self.meta.lower_bound.saturating_sub(excess);
        let ids: Vec<RightId> = items.iter().map(|item| item.id).collect();
        if self.apply_cells(&cells, &ids, &made) {
            self.replan.insert(subscription);
            self.catalog.set_plan_due(subscription, true);
            self.dirty.insert(Key::Subscription(subscription));
        }
    }

    /// Makes a plan again that had to leave something out, once no split is under way.
    pub(super) fn plan_again(&mut self, now: Time, subscription: SubscriptionId) {
        if self.replan.contains(&subscription)
            && !self.rights_in(subscription).any(|(_, right)| right.is_changing())
        {
            self.replan.remove(&subscription);
            self.rights_due(now, subscription, false);
        }
    }

    /// Gives a right its target. What counts in the least number of moves is a right on its way
    /// from the member that had it last to another one: a target that is replaced before it is
    /// reached was no move.
    pub(super) fn aim(
        &mut self,
        id: RightId,
        target: Option<MemberId>,
        reason: Option<MoveReason>,
    ) {
        let Some(right) = self.rights.get_mut(&id) else { return };
        let before = right.is_move_pending();
        right.set_target(target, reason);
        let after = right.is_move_pending();
        self.dirty.insert(Key::Right(id));
        match (before, after) {
            (true, false) => self.uncount_move(),
            (false, true) => self.meta.lower_bound += 1,
            _ => {}
        }
    }
}

pub(super) fn move_reason<N>(reason: &Reason<N>) -> MoveReason {
    match reason {
        Reason::Joined(_) => MoveReason::Joined,
        Reason::Left(_) => MoveReason::Left,
        Reason::WeightChanged(_) => MoveReason::Weight,
        Reason::OverQuota => MoveReason::Quota,
    }
}
