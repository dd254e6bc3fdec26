//! What administrators ask, and the answers: changes go to the catalog and have their
//! consequences for queues and rights; questions are answered from the state as it is.

use ringway_proto::admin::{
    AdminRequest, AdminResponse, BindingInfo, ClusterStatus, GroupInfo, MemberInfo, MoveInfo,
    PlanInfo, QueueInfo, RightInfo, RouteInfo, SubscriptionInfo, WorkerInfo,
};
use ringway_proto::class::Class;
use ringway_proto::codec;
use ringway_proto::limits::{MAX_BINDINGS, MAX_CONTROL_BYTES, MAX_NAME_LEN};
use ringway_proto::routing::{Binding, GroupRoute, QueueRoute, Router, Routing, even_slots};
use ringway_proto::{
    Code, Epoch, Filter, GroupName, MemberId, Refusal, SubscriptionId, SubscriptionName, Time,
    Uuid, WorkerId,
};

use super::super::catalog::GroupWish;
use super::super::placement::Queue;
use super::super::rights::Right;
use super::super::rows::{
    GroupRow, MemberRow, MoveStep, Phase, SlotChange, SubscriptionRow, WorkerRow,
};
use super::{Effects, Machine, too_large_to_route};

/// What the routing may have when a group or binding is added; later epochs need some bytes too.
const MAX_ROUTING_BYTES: usize = MAX_CONTROL_BYTES / 4 * 3;

/// The most plans of one list.
const MAX_LISTED_PLANS: usize = 1_000;

impl Machine {
    pub(super) fn answer(
        &mut self,
        now: Time,
        request: AdminRequest,
        out: &mut Effects,
    ) -> Result<AdminResponse, Refusal> {
        match request {
            AdminRequest::GroupCreate { name, queues, ring_weight, max_body_bytes } => {
                let wish = GroupWish { name, queues, ring_weight, max_body_bytes };
                self.group_create(now, wish, out)
            }
            AdminRequest::GroupList => Ok(AdminResponse::Groups(
                self.catalog.groups().map(|group| self.group_info(group)).collect(),
            )),
            AdminRequest::GroupGrow { name, queues } => self.group_grow(now, &name, queues, out),
            AdminRequest::GroupDescribe { name } => {
                let group = self.catalog.group_named(&name)?;
                let queues = self.queues.values().filter(|q| q.row().id.group == group.id);
                Ok(AdminResponse::Group {
                    group: self.group_info(group),
                    queues: queues.map(|queue| self.queue_info(queue)).collect(),
                    growing: self.grow_info(group.id),
                    fences: self.open_fences(group.id),
                })
            }
            AdminRequest::GroupDelete { name, dry_run } => {
                self.group_delete(now, &name, dry_run, out)
            }
            AdminRequest::Bind { filter, group } => self.bind(now, filter, group, out),
            AdminRequest::BindingList => Ok(AdminResponse::Bindings(self.binding_infos())),
            AdminRequest::Route { class } => self.route(class).map(AdminResponse::Route),
            AdminRequest::SubscriptionList => Ok(AdminResponse::Subscriptions(
                self.catalog.subscriptions().map(|row| self.subscription_info(row)).collect(),
            )),
            AdminRequest::SubscriptionDescribe { name } => self.subscription_describe(&name),
            AdminRequest::ClusterStatus => Ok(AdminResponse::Status(self.status())),
            AdminRequest::ClusterWorkers => Ok(AdminResponse::Workers(
                self.workers.values().map(|row| self.worker_info(row)).collect(),
            )),
            AdminRequest::Plan => Ok(AdminResponse::Plan(self.plan_info())),
            AdminRequest::Drain { worker, undo } => self.drain(now, &worker, undo, out),
            AdminRequest::PlanIf { change } => self.plan_if_info(&change).map(AdminResponse::Plan),
            AdminRequest::Explain { queue, subscription } => {
                self.explain(&queue, subscription).map(AdminResponse::Explanation)
            }
            AdminRequest::PlanList { limit } => {
                Ok(AdminResponse::Plans(self.plans.newest((limit as usize).min(MAX_LISTED_PLANS))))
            }
            // Answered by whoever can wait for it.
            AdminRequest::PlanReplay { .. } => Err(lost("the question")),
        }
    }

    fn group_create(
        &mut self,
        now: Time,
        wish: GroupWish,
        out: &mut Effects,
    ) -> Result<AdminResponse, Refusal> {
        if !self.catalog.groups().any(|group| group.name == wish.name) {
            self.check_routing_with(|routing| routing.groups.push(largest_route(&wish)))?;
            if wish.ring_weight.is_some() {
                self.slot_moves.check_room()?;
            }
        }
        let (id, created) = self.create_group(wish)?;
        if created {
            self.routing_changed = true;
            self.queues_due(now, false);
            self.cover_all(now, out);
            if self.catalog.group(id).is_some_and(|group| group.off_ring) {
                self.wish(SlotChange::Ring { group: id })?;
            }
        }
        let group = self.catalog.group(id).ok_or_else(|| lost("the new group"))?;
        Ok(AdminResponse::GroupCreated { group: self.group_info(group), created })
    }

    fn group_grow(
        &mut self,
        now: Time,
        name: &GroupName,
        queues: u32,
        out: &mut Effects,
    ) -> Result<AdminResponse, Refusal> {
        let row = self.catalog.group_named(name)?;
        let (id, has) = (row.id, row.queues);
        if self.slot_moves.growing(id).is_some() && queues != has {
            return Err(Refusal::new(
                Code::InUse,
                format!("group {:?} is growing to {has} queues already", name.as_str()),
            )
            .hint(format!("`ringway group describe {name}` shows how far it is")));
        }
        if queues > has {
            self.slot_moves.check_room()?;
            let more = largest_queues(queues.saturating_sub(has));
            self.check_routing_with(|routing| {
                let group = routing.groups.iter_mut().find(|group| group.id == id);
                if let Some(group) = group {
                    group.queues.extend(more);
                }
            })?;
        }
        self.catalog.grow(name, queues, &mut self.dirty)?;
        if queues > has {
            self.wish(SlotChange::Grow { group: id })?;
            self.create_queues(id);
            self.routing_changed = true;
            self.queues_due(now, false);
            self.cover_all(now, out);
        }
        let group = self.catalog.group(id).ok_or_else(|| lost("the group"))?;
        Ok(AdminResponse::Growing { group: self.group_info(group), growing: self.grow_info(id) })
    }

    fn group_delete(
        &mut self,
        now: Time,
        name: &GroupName,
        dry_run: bool,
        out: &mut Effects,
    ) -> Result<AdminResponse, Refusal> {
        // A wish that sends a filter elsewhere is enough: it may wait for the very queues that go.
        let moves = &self.slot_moves;
        let leaves = |filter: &Filter| moves.binding(filter).is_some();
        let id = self.catalog.check_delete(name, leaves)?;
        if let Some(filter) = moves.bound_for(id) {
            return Err(Refusal::new(
                Code::InUse,
                format!("'{filter}' is on its way to group {:?}", name.as_str()),
            )
            .hint(format!("bind it elsewhere first, such as `ringway bind '{filter}' default`")));
        }
        let row = self.catalog.group(id).ok_or_else(|| lost("the group"))?;
        let group = self.group_info(row);
        if !dry_run {
            let readers: Vec<SubscriptionId> = self
                .catalog
                .subscriptions()
                .map(|row| row.setup.id)
                .filter(|s| self.rights_in(*s).any(|(right, _)| right.queue.group == id))
                .collect();
            let moves = &self.slot_moves;
            let leaves = |filter: &Filter| moves.binding(filter).is_some();
            let row = self.catalog.delete_group(name, leaves, &mut self.dirty)?;
            self.slots_due = true;
            self.remove_queues(now, &row, out);
            for subscription in readers {
                self.rights_due(now, subscription, false);
            }
            self.queue_moves.retain(|step| step.queue.group != id);
            self.routing_changed = true;
            self.queues_due(now, false);
            self.expect_answer(now);
            self.cover_all(now, out);
            self.tell_all_fences(out);
        }
        Ok(AdminResponse::GroupDeleted { group, dry_run })
    }

    fn bind(
        &mut self,
        now: Time,
        filter: Filter,
        group: GroupName,
        out: &mut Effects,
    ) -> Result<AdminResponse, Refusal> {
        let bindings = self.catalog.bindings();
        if bindings.len() >= MAX_BINDINGS && !bindings.iter().any(|b| b.filter == filter) {
            return Err(Refusal::new(
                Code::TooLarge,
                format!("there are {MAX_BINDINGS} bindings, and no more are possible"),
            )
            .hint("bind a wider filter, such as orders.>"));
        }
        let to = self.catalog.check_bind(&filter, &group)?;
        let binding = Binding { filter: filter.clone(), group: to };
        self.check_routing_with(|routing| routing.bindings.push(binding))?;
        let open = self.slot_moves.binding(&filter);
        let before = open.or_else(|| self.catalog.bound_to(&filter));
        if before != Some(to) {
            self.wish(SlotChange::Bind { filter: filter.clone(), group: to })?;
            self.catalog.expect_binding(&filter, to, &mut self.dirty);
            self.cover_all(now, out);
            // Where nobody has to be waited for, it is in effect at once.
            self.drive_slots(now, out);
        }
        let moving = self.slot_moves.binding(&filter).is_some();
        let replaced = before.filter(|before| *before != to);
        let replaced = replaced.and_then(|id| Some(self.catalog.group(id)?.name.clone()));
        Ok(AdminResponse::Bound { binding: BindingInfo { filter, group }, replaced, moving })
    }

    /// Refuses a change after which the routing would not fit into a frame.
    fn check_routing_with(&self, change: impl FnOnce(&mut Routing)) -> Result<(), Refusal> {
        let mut routing = self.build_routing();
        change(&mut routing);
        let bytes = codec::encode(&routing)?.len();
        if bytes > MAX_ROUTING_BYTES {
            return Err(too_large_to_route(bytes));
        }
        Ok(())
    }

    fn route(&self, class: Class) -> Result<RouteInfo, Refusal> {
        let router = Router::new(self.build_routing())?;
        let Some(group) = router.group_of(class.as_str()) else {
            return Err(Refusal::new(
                Code::UnknownGroup,
                format!("no group takes the class {:?}", class.as_str()),
            ));
        };
        let name = group.name().clone();
        let bindings = self.catalog.bindings();
        let binding = bindings.into_iter().find(|b| b.filter.matches(class.as_str()));
        Ok(RouteInfo { class, group: name, binding: binding.map(|b| b.filter) })
    }

    fn subscription_describe(&self, name: &SubscriptionName) -> Result<AdminResponse, Refusal> {
        let row = self.catalog.subscription_named(name)?;
        let id = row.setup.id;
        Ok(AdminResponse::Subscription {
            subscription: self.subscription_info(row),
            members: self.members_of(id).map(|row| self.member_info(row)).collect(),
            rights: self.rights_in(id).map(|(_, right)| self.right_info(right)).collect(),
        })
    }

    fn status(&self) -> ClusterStatus {
        ClusterStatus {
            coordinator: self.setup.id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            routing: self.routing.version,
            plan: self.meta.plan,
            workers: count(self.workers.values()),
            workers_up: count(self.workers.keys().filter(|id| self.is_connected(id))),
            groups: count(self.catalog.groups()),
            queues: count(self.queues.values()),
            queues_serving: count(self.queues.values().filter(|queue| self.is_serving(queue))),
            subscriptions: count(self.catalog.subscriptions()),
            members: count(self.members.values()),
            moves: self.meta.moves,
            lower_bound: self.meta.lower_bound,
            moving: self.moving_infos(),
        }
    }

    fn plan_info(&self) -> PlanInfo {
        let open = |step: &&super::QueueMove| self.primary(step.queue).as_ref() != Some(&step.to);
        let moves: Vec<MoveInfo> = self
            .queue_moves
            .iter()
            .filter(open)
            .map(|step| MoveInfo {
                queue: self.catalog.queue_name(step.queue),
                from: self.primary(step.queue),
                to: step.to.clone(),
                reason: step.reason.clone(),
                waits: self.waits(step),
            })
            .collect();
        PlanInfo { number: self.meta.queue_plan, lower_bound: moves.len() as u64, moves }
    }

    fn waits(&self, step: &super::QueueMove) -> Option<String> {
        let queue = self.queues.get(&step.queue)?;
        let row = queue.row();
        if queue.is_moving_to(&step.to) && queue.step() != Some(MoveStep::Waiting) {
            return None;
        }
        let down = |id: &WorkerId| self.workers.get(id).is_none_or(|row| !row.up);
        let stuck = row.primary.iter().chain([&step.to]).find(|id| down(id));
        Some(match stuck {
            Some(worker) => format!("{worker} is down"),
            None if queue.is_moving_to(&step.to) => "its turn".to_owned(),
            None => "next plan".to_owned(),
        })
    }

    pub(super) fn is_connected(&self, worker: &WorkerId) -> bool {
        self.worker_sessions.conn(worker).is_some()
    }

    pub(super) fn is_serving(&self, queue: &Queue) -> bool {
        queue.opened && queue.row().primary.as_ref().is_some_and(|id| self.is_connected(id))
    }

    /// The state of a queue in a word, for metrics.
    pub(super) fn queue_state(&self, queue: &Queue) -> &'static str {
        match &queue.row().primary {
            None => "unassigned",
            Some(_) if queue.row().moving.is_some() => "moving",
            Some(_) if self.is_serving(queue) => "serving",
            Some(_) => "waiting",
        }
    }

    fn group_info(&self, group: &GroupRow) -> GroupInfo {
        GroupInfo {
            name: group.name.clone(),
            queues: group.queues,
            ring_weight: group.ring_weight,
            max_body_bytes: group.max_body_bytes,
            bindings: u32::try_from(self.catalog.bindings_of(group.id)).unwrap_or(u32::MAX),
        }
    }

    pub(super) fn queue_info(&self, queue: &Queue) -> QueueInfo {
        let row = queue.row();
        let state = match (self.queue_state(queue), &row.primary) {
            ("waiting", Some(worker)) => format!("waiting for {worker}"),
            ("unassigned", _) => "no worker".to_owned(),
            (state, _) => state.to_owned(),
        };
        QueueInfo {
            queue: self.catalog.queue_name(row.id),
            primary: row.primary.clone(),
            epoch: row.epoch,
            state,
            has_data: row.has_data,
        }
    }

    fn binding_infos(&self) -> Vec<BindingInfo> {
        let named = |b: super::super::rows::BindingRow| {
            let group = self.catalog.group(b.group)?.name.clone();
            Some(BindingInfo { filter: b.filter, group })
        };
        self.catalog.bindings().into_iter().filter_map(named).collect()
    }

    fn subscription_info(&self, row: &SubscriptionRow) -> SubscriptionInfo {
        let setup = &row.setup;
        let rights = || self.rights_in(setup.id).map(|(_, right)| right);
        SubscriptionInfo {
            name: setup.name.clone(),
            id: setup.id,
            filter: setup.filter.clone(),
            order: setup.order,
            start: setup.start,
            members: count(self.members_of(setup.id)),
            rights: count(rights()),
            granted: count(rights().filter(|right| right.holder().is_some())),
        }
    }

    fn member_info(&self, row: &MemberRow) -> MemberInfo {
        let key = (row.subscription, row.member.clone());
        let state = match self.member_sessions.conn(&key) {
            _ if row.leaving => "leaving",
            Some(_) => "live",
            None => "silent",
        };
        MemberInfo {
            member: row.member.clone(),
            weight: row.weight,
            state: state.to_owned(),
            origin: row.origin.clone(),
            rights: self.rights_held(row.subscription, &row.member),
        }
    }

    pub(super) fn rights_held(&self, subscription: SubscriptionId, member: &MemberId) -> u32 {
        let held = |right: &Right| right.holder().is_some_and(|holder| holder.member == *member);
        count(self.rights_in(subscription).filter(|(_, right)| held(right)))
    }

    fn right_info(&self, right: &Right) -> RightInfo {
        let epoch = right.epoch();
        RightInfo {
            queue: epoch.right.lanes.of(&self.catalog.queue_name(epoch.right.queue)),
            epoch: epoch.epoch,
            state: right_state(right).to_owned(),
            member: epoch.holder.map(|holder| holder.member),
        }
    }

    pub(super) fn worker_info(&self, row: &WorkerRow) -> WorkerInfo {
        let queues = count(self.queues.values().filter(|queue| queue.is_led_by(&row.id)));
        let state = match (row.draining, row.up) {
            (true, _) if queues == 0 => "drained",
            (_, false) => "down",
            (true, true) => "draining",
            (false, true) => "up",
        };
        WorkerInfo {
            worker: row.id.clone(),
            state: state.to_owned(),
            address: row.address.clone(),
            http: row.http.clone(),
            weight: row.weight,
            queues,
        }
    }
}

/// The state of a right in a word.
pub(super) fn right_state(right: &Right) -> &'static str {
    match &right.row().phase {
        Phase::Free | Phase::Raising { to: None } => "free",
        Phase::Raising { to: Some(_) } => "raising",
        Phase::Granted(_) => "granted",
        Phase::Revoking(_) => "revoking",
    }
}

pub(super) fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}

/// The route of a group at its largest: every queue at a worker with the longest id.
fn largest_route(wish: &GroupWish) -> GroupRoute {
    GroupRoute {
        id: ringway_proto::GroupId(u32::MAX),
        name: wish.name.clone(),
        ring_weight: wish.ring_weight,
        max_body_bytes: u32::MAX,
        slots: even_slots(wish.queues),
        queues: largest_queues(wish.queues),
    }
}

/// Routes of queues at workers with the longest id.
fn largest_queues(count: u32) -> Vec<QueueRoute> {
    let primary = WorkerId::new("w".repeat(MAX_NAME_LEN)).ok();
    let queue = QueueRoute { uuid: Uuid(u128::MAX), epoch: Epoch(u64::MAX), primary };
    // A wish out of bounds is refused by the catalog; it needs no list as long as that.
    vec![queue; count.min(ringway_proto::limits::MAX_QUEUES_PER_GROUP) as usize]
}

/// An invariant of our own is broken; said instead of a panic.
pub(super) fn lost(what: &str) -> Refusal {
    Refusal::new(Code::Internal, format!("{what} is not where it was put"))
}
