//! The routing snapshot: which class goes to which group, which key to which queue, and which
//! worker serves it.
//!
//! [`Routing`] is what the coordinator publishes and everyone else receives. [`Router`] is the same,
//! checked and compiled for lookups that allocate nothing; it never changes, so that it can be
//! shared and a new version simply takes its place. Neither knows how a snapshot travels, nor what
//! a caller does when it turns out to be stale.

mod bindings;
pub mod moves;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::class::{Filter, family_of};
use crate::hash::slot_of;
use crate::ids::{
    Epoch, GroupId, GroupName, MoveNumber, QueueId, RoutingVersion, Slot, Uuid, WorkerId,
};
use crate::limits::{
    MAX_BINDINGS, MAX_GROUPS, MAX_QUEUES_PER_GROUP, MAX_WORKERS, SLOTS, WEIGHT_RANGE,
};
use crate::refusal::{Code, Refusal};
use crate::ring::Ring;
use bindings::BindingTree;
use moves::{Moves, SlotMove};

/// One version of everything that is needed to find a queue.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Routing {
    /// Grows with every change of what follows.
    pub version: RoutingVersion,
    /// All queue groups.
    pub groups: Vec<GroupRoute>,
    /// All bindings; the order does not matter.
    pub bindings: Vec<Binding>,
    /// All workers that ever registered and were not removed.
    pub workers: Vec<WorkerRoute>,
    /// The last move of slots or classes that this version contains, and with it all before.
    #[serde(default)]
    pub moved: MoveNumber,
    /// Those moves that left messages behind, in order, with their fences. Only workers get them.
    #[serde(default)]
    pub moves: Vec<SlotMove>,
}

impl Routing {
    /// What clients need of it: fences are the workers' business.
    #[must_use]
    pub fn for_clients(&self) -> Self {
        Self {
            version: self.version,
            groups: self.groups.clone(),
            bindings: self.bindings.clone(),
            workers: self.workers.clone(),
            moved: self.moved,
            moves: Vec::new(),
        }
    }
}

/// A queue group as far as routing is concerned.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GroupRoute {
    /// Its number.
    pub id: GroupId,
    /// Its name.
    pub name: GroupName,
    /// Its weight on the class ring; none for a group that only bindings lead to.
    #[serde(default)]
    pub ring_weight: Option<u32>,
    /// The largest body that its queues accept, in bytes.
    pub max_body_bytes: u32,
    /// The slot table, run-length: each entry holds up to the first slot of the next.
    pub slots: Vec<SlotRange>,
    /// Its queues; the position is the index.
    pub queues: Vec<QueueRoute>,
}

/// Slots from `first` up to the next range's first (or the last slot) go to one queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SlotRange {
    /// The first slot of the range.
    pub first: Slot,
    /// The index of the queue.
    pub queue: u32,
}

/// Where a queue is served.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct QueueRoute {
    /// The identity of its log.
    pub uuid: Uuid,
    /// The epoch of its primary.
    pub epoch: Epoch,
    /// The worker that serves it; none while it has not been assigned.
    #[serde(default)]
    pub primary: Option<WorkerId>,
}

/// Classes that match `filter` go to `group`, unless a more specific binding matches.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Binding {
    /// Which classes.
    pub filter: Filter,
    /// Where they go.
    pub group: GroupId,
}

/// How to reach a worker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WorkerRoute {
    /// Its id.
    pub id: WorkerId,
    /// `HOST:PORT`, as the worker advertises it.
    pub address: String,
    /// Whether the coordinator has a session with it.
    pub up: bool,
}

/// The slot table of a new group: 4,096 slots in runs that differ by at most one, one run for
/// each queue. More than 4,096 queues cannot all have a slot; the rest get none.
#[must_use]
pub fn even_slots(queues: u32) -> Vec<SlotRange> {
    let runs = queues.min(u32::from(SLOTS));
    (0..runs)
        .map(|queue| SlotRange { first: Slot((queue * u32::from(SLOTS) / runs) as u16), queue })
        .collect()
}

/// A routing snapshot that was checked and made quick to ask.
#[derive(Clone, Debug)]
pub struct Router {
    routing: Routing,
    /// In the order of their ids. `index` of everything below points here.
    groups: Vec<Group>,
    group_names: BTreeMap<GroupName, usize>,
    workers: BTreeMap<WorkerId, usize>,
    /// Bindings, the most specific first.
    bindings: Vec<Binding>,
    tree: BindingTree,
    class_ring: Ring<GroupId>,
    moves: Moves,
}

/// One queue group of a [`Router`].
#[derive(Clone, Debug)]
pub struct Group {
    route: GroupRoute,
    /// Slot to queue index. Every entry is the index of a queue of `route`.
    table: Box<[u16; SLOTS as usize]>,
}

impl Router {
    /// Checks a snapshot and compiles it.
    ///
    /// # Errors
    /// [`Code::Protocol`] when it contradicts itself: a slot table with gaps or unknown queues, a
    /// binding to an unknown group, an id or name that occurs twice, a weight outside of its
    /// range. [`Code::TooLarge`] when it has more groups, bindings or workers than allowed.
    pub fn new(routing: Routing) -> Result<Self, Refusal> {
        at_most("groups", routing.groups.len(), MAX_GROUPS)?;
        at_most("bindings", routing.bindings.len(), MAX_BINDINGS)?;
        at_most("workers", routing.workers.len(), MAX_WORKERS)?;

        let mut groups =
            routing.groups.iter().map(Group::new).collect::<Result<Vec<_>, Refusal>>()?;
        groups.sort_by_key(Group::id);
        if let Some(pair) = groups.windows(2).find(|pair| pair[0].id() == pair[1].id()) {
            return Err(twice("group", &pair[0].name().to_string()));
        }
        let mut group_names = BTreeMap::new();
        for (index, group) in groups.iter().enumerate() {
            if group_names.insert(group.name().clone(), index).is_some() {
                return Err(twice("group", group.name().as_str()));
            }
        }
        let mut workers = BTreeMap::new();
        for (index, worker) in routing.workers.iter().enumerate() {
            if workers.insert(worker.id.clone(), index).is_some() {
                return Err(twice("worker", worker.id.as_str()));
            }
        }

        let mut bindings = routing.bindings.clone();
        bindings.sort_by(|a, b| a.filter.cmp_specificity(&b.filter));
        if let Some(pair) = bindings.windows(2).find(|pair| pair[0].filter == pair[1].filter) {
            return Err(twice("binding", pair[0].filter.as_str()));
        }
        let mut rules = Vec::with_capacity(bindings.len());
        for binding in &bindings {
            let group = index_of(&groups, binding.group).ok_or_else(|| {
                inconsistent(format!(
                    "the binding {} leads to group {}, which is not there",
                    binding.filter, binding.group
                ))
            })?;
            rules.push((&binding.filter, group));
        }
        let tree = BindingTree::new(&rules);

        let class_ring =
            Ring::new(groups.iter().filter_map(|g| Some((g.id(), g.route.ring_weight?))));
        let moves = Moves::new(routing.moved, routing.moves.iter().cloned())?;
        Ok(Self { routing, groups, group_names, workers, bindings, tree, class_ring, moves })
    }

    /// The moves that this version contains.
    #[must_use]
    pub fn moves(&self) -> &Moves {
        &self.moves
    }

    /// The snapshot that this was made of.
    #[must_use]
    pub fn routing(&self) -> &Routing {
        &self.routing
    }

    /// The version of the snapshot.
    #[must_use]
    pub fn version(&self) -> RoutingVersion {
        self.routing.version
    }

    /// The group of a class: that of the most specific binding, else by the class ring over the
    /// hash of the family. None when no binding matches and no group is on the ring.
    #[must_use]
    pub fn group_of(&self, class: &str) -> Option<&Group> {
        match self.tree.find(class) {
            Some(index) => self.groups.get(index),
            None => self.group(*self.class_ring.get(family_of(class).as_bytes())?),
        }
    }

    /// The group with this number.
    #[must_use]
    pub fn group(&self, id: GroupId) -> Option<&Group> {
        self.groups.get(index_of(&self.groups, id)?)
    }

    /// The group with this name.
    #[must_use]
    pub fn group_by_name(&self, name: &str) -> Option<&Group> {
        let name = GroupName::new(name).ok()?;
        self.groups.get(*self.group_names.get(&name)?)
    }

    /// All groups in the order of their numbers.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter()
    }

    /// Every group that may hold messages that match `filter`, as far as this version sends them
    /// there: the groups of overlapping bindings, and those that the class ring may choose unless
    /// one binding takes everything that the filter wants.
    #[must_use]
    pub fn groups_for_filter(&self, filter: &Filter) -> BTreeSet<GroupId> {
        let mut groups = BTreeSet::new();
        for binding in self.bindings.iter().filter(|b| b.filter.overlaps(filter)) {
            groups.insert(binding.group);
            if binding.filter.covers(filter) {
                // All that follow are less specific, and so is the ring.
                return groups;
            }
        }
        match filter.family() {
            Some(family) => groups.extend(self.class_ring.get(family.as_bytes())),
            None => groups.extend(self.class_ring.nodes().iter().map(|(id, _)| *id)),
        }
        groups
    }

    /// Where a queue is served.
    #[must_use]
    pub fn queue(&self, id: QueueId) -> Option<&QueueRoute> {
        self.group(id.group)?.route.queues.get(id.index as usize)
    }

    /// The name of a queue as users see it, `orders/7`; `#3/7` for a group that is not known here.
    #[must_use]
    pub fn queue_name(&self, id: QueueId) -> String {
        match self.group(id.group) {
            Some(group) => format!("{}/{}", group.name(), id.index),
            None => format!("#{id}"),
        }
    }

    /// The queue with this name, `orders/7`.
    #[must_use]
    pub fn parse_queue_name(&self, name: &str) -> Option<QueueId> {
        let (group, index) = name.split_once('/')?;
        let id = QueueId::new(self.group_by_name(group)?.id(), index.parse().ok()?);
        self.queue(id).map(|_| id)
    }

    /// The worker with this id.
    #[must_use]
    pub fn worker(&self, id: &WorkerId) -> Option<&WorkerRoute> {
        self.routing.workers.get(*self.workers.get(id)?)
    }

    /// The address of a worker, `HOST:PORT`.
    #[must_use]
    pub fn worker_address(&self, id: &WorkerId) -> Option<&str> {
        Some(&self.worker(id)?.address)
    }
}

impl Group {
    fn new(route: &GroupRoute) -> Result<Self, Refusal> {
        let wrong = |what: String| Err(inconsistent(format!("group {} {what}", route.name)));
        let count = route.queues.len();
        if count == 0 || count > MAX_QUEUES_PER_GROUP as usize {
            return wrong(format!("has {count} queues; 1 to {MAX_QUEUES_PER_GROUP} are allowed"));
        }
        if let Some(weight) = route.ring_weight.filter(|w| !WEIGHT_RANGE.contains(w)) {
            return wrong(format!("has the ring weight {weight}"));
        }
        if route.slots.first().is_none_or(|range| range.first != Slot(0)) {
            return wrong("has a slot table that does not begin at slot 0".to_owned());
        }
        let mut table = Box::new([0; SLOTS as usize]);
        let mut previous = None;
        for range in &route.slots {
            if range.first.0 >= SLOTS || previous.is_some_and(|p| range.first <= p) {
                return wrong(format!("has slot {} out of order in its slot table", range.first));
            }
            if range.queue as usize >= count {
                return wrong(format!("sends slot {} to queue {}", range.first, range.queue));
            }
            // A later range overwrites the tail of this one.
            table[usize::from(range.first.0)..].fill(range.queue as u16);
            previous = Some(range.first);
        }
        Ok(Self { route: route.clone(), table })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.route.id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &GroupName {
        &self.route.name
    }

    /// The largest body that it accepts, in bytes.
    #[must_use]
    pub fn max_body_bytes(&self) -> u32 {
        self.route.max_body_bytes
    }

    /// How many queues it has, at least one.
    #[must_use]
    pub fn queue_count(&self) -> u32 {
        self.route.queues.len() as u32
    }

    /// The group as it is in the snapshot.
    #[must_use]
    pub fn route(&self) -> &GroupRoute {
        &self.route
    }

    /// The queue of a key (or of a message's id, where it has no key).
    #[must_use]
    pub fn queue_of(&self, key: &[u8]) -> QueueId {
        let slot = usize::from(slot_of(key).0);
        QueueId::new(self.id(), u32::from(self.table[slot]))
    }

    /// The queue of a slot; none for a number that is no slot.
    #[must_use]
    pub fn queue_of_slot(&self, slot: Slot) -> Option<QueueId> {
        let queue = self.table.get(usize::from(slot.0))?;
        Some(QueueId::new(self.id(), u32::from(*queue)))
    }
}

fn index_of(groups: &[Group], id: GroupId) -> Option<usize> {
    groups.binary_search_by_key(&id, Group::id).ok()
}

fn at_most(what: &str, count: usize, limit: usize) -> Result<(), Refusal> {
    if count <= limit {
        return Ok(());
    }
    let text = format!("the routing has {count} {what}; at most {limit} are allowed");
    Err(Refusal::new(Code::TooLarge, text))
}

fn inconsistent(what: String) -> Refusal {
    Refusal::new(Code::Protocol, format!("the routing contradicts itself: {what}"))
}

fn twice(kind: &str, name: &str) -> Refusal {
    inconsistent(format!("{kind} {name} occurs twice"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn group(id: u32, name: &str, ring_weight: Option<u32>, queues: u32) -> GroupRoute {
        let route = QueueRoute { uuid: Uuid(7), epoch: Epoch(1), primary: None };
        GroupRoute {
            id: GroupId(id),
            name: GroupName::new(name).unwrap(),
            ring_weight,
            max_body_bytes: 1 << 20,
            slots: even_slots(queues),
            queues: vec![route; queues as usize],
        }
    }

    fn binding(filter: &str, group: u32) -> Binding {
        Binding { filter: Filter::new(filter).unwrap(), group: GroupId(group) }
    }

    fn routing(groups: Vec<GroupRoute>, bindings: &[(&str, u32)]) -> Routing {
        Routing {
            version: RoutingVersion(3),
            groups,
            bindings: bindings.iter().map(|(f, g)| binding(f, *g)).collect(),
            ..Routing::default()
        }
    }

    fn name_of(router: &Router, class: &str) -> String {
        router.group_of(class).map_or("none".to_owned(), |g| g.name().to_string())
    }

    #[test]
    fn the_most_specific_binding_wins_and_the_ring_takes_the_rest() {
        let groups = ["default", "one", "two", "three", "four"];
        let groups = (1..).zip(groups).map(|(id, n)| group(id, n, (id == 1).then_some(100), 4));
        let bindings =
            [("orders.>", 2), ("orders.*.eu", 3), ("orders.new.>", 4), ("*.new.eu", 5), ("x.*", 5)];
        let router = Router::new(routing(groups.collect(), &bindings)).unwrap();
        for (class, want) in [
            ("orders.old.us", "one"),
            ("orders.old.eu", "two"),
            ("orders.new.eu", "three"),
            ("orders.new", "one"),
            ("orders", "default"),
            ("bills.new.eu", "four"),
            ("bills.new.eu.x", "default"),
            ("x.y", "four"),
            ("x", "default"),
        ] {
            assert_eq!(name_of(&router, class), want, "{class}");
        }
    }

    #[test]
    fn without_a_ring_group_only_bound_classes_have_a_group() {
        let router = Router::new(routing(vec![group(1, "a", None, 1)], &[("a.>", 1)])).unwrap();
        assert_eq!((name_of(&router, "a.b"), name_of(&router, "b")), ("a".into(), "none".into()));
        assert!(Router::new(Routing::default()).unwrap().group_of("a").is_none());
    }

    #[test]
    fn a_ring_group_takes_its_share_of_the_families_and_nothing_else_moves() {
        let one = Router::new(routing(vec![group(1, "default", Some(100), 4)], &[])).unwrap();
        let groups = vec![group(1, "default", Some(100), 4), group(2, "more", Some(300), 4)];
        let two = Router::new(routing(groups, &[])).unwrap();
        let families = 4000;
        let moved = (0..families).filter(|n| name_of(&two, &format!("f{n}.x")) == "more").count();
        assert!((0..100).all(|n| name_of(&one, &format!("f{n}.x")) == "default"));
        assert!((2600..3400).contains(&moved), "{moved} of {families}");
        assert_eq!(name_of(&two, "f7"), name_of(&two, "f7.a.b"));
    }

    #[test]
    fn every_slot_has_a_queue_and_the_queues_share_them_evenly() {
        for queues in [1, 3, 16, 1000, 4096] {
            let router = Router::new(routing(vec![group(1, "g", None, queues)], &[])).unwrap();
            let group = router.group_by_name("g").unwrap();
            let mut counts = vec![0u32; queues as usize];
            for slot in 0..SLOTS {
                counts[group.queue_of_slot(Slot(slot)).unwrap().index as usize] += 1;
            }
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(*least >= 1 && most - least <= 1, "{queues} queues: {least} to {most}");
            assert_eq!(group.queue_of_slot(Slot(SLOTS)), None);
            assert_eq!(Some(group.queue_of(b"N14228")), group.queue_of_slot(slot_of(b"N14228")));
        }
        assert_eq!(even_slots(0), vec![]);
    }

    #[test]
    fn queues_are_found_by_number_and_by_name() {
        let router = Router::new(routing(vec![group(9, "orders", None, 2)], &[])).unwrap();
        let queue = QueueId::new(GroupId(9), 1);
        assert_eq!(router.queue_name(queue), "orders/1");
        assert_eq!(router.parse_queue_name("orders/1"), Some(queue));
        assert!(router.queue(queue).is_some());
        assert_eq!(router.queue(QueueId::new(GroupId(9), 2)), None);
        assert_eq!(router.queue(QueueId::new(GroupId(8), 0)), None);
        for bad in ["orders/2", "orders", "order/1", "orders/-1", "a b/1", "/"] {
            assert_eq!(router.parse_queue_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_snapshot_that_contradicts_itself_is_refused() {
        let table = |slots: &[(u16, u32)]| {
            let mut g = group(1, "g", None, 2);
            g.slots = slots
                .iter()
                .map(|(first, queue)| SlotRange { first: Slot(*first), queue: *queue })
                .collect();
            routing(vec![g], &[])
        };
        let mut workers = routing(vec![], &[]);
        let w1 = WorkerRoute { id: WorkerId::new("w1").unwrap(), address: String::new(), up: true };
        workers.workers = vec![w1.clone(), w1];
        let cases = [
            table(&[]),
            table(&[(1, 0)]),
            table(&[(0, 0), (0, 1)]),
            table(&[(0, 0), (9, 1), (8, 0)]),
            table(&[(0, 2)]),
            table(&[(0, 0), (4096, 1)]),
            routing(vec![group(1, "g", None, 0)], &[]),
            routing(vec![group(1, "g", None, 4097)], &[]),
            routing(vec![group(1, "g", Some(0), 1)], &[]),
            routing(vec![group(1, "g", None, 1), group(1, "h", None, 1)], &[]),
            routing(vec![group(1, "g", None, 1), group(2, "g", None, 1)], &[]),
            routing(vec![group(1, "g", None, 1)], &[("a", 2)]),
            routing(vec![group(1, "g", None, 1)], &[("a", 1), ("a", 1)]),
            workers,
        ];
        for (n, case) in cases.into_iter().enumerate() {
            assert_eq!(Router::new(case).unwrap_err().code, Code::Protocol, "case {n}");
        }
        let many = (0..=MAX_GROUPS as u32).map(|n| group(n, &format!("g{n}"), None, 1)).collect();
        assert_eq!(Router::new(routing(many, &[])).unwrap_err().code, Code::TooLarge);
        assert!(Router::new(table(&[(0, 1), (4095, 0)])).is_ok());
    }

    #[test]
    fn a_filter_that_one_binding_takes_whole_does_not_reach_the_ring() {
        let groups = vec![group(1, "default", Some(100), 1), group(2, "orders", None, 1)];
        let router = Router::new(routing(groups, &[("orders.>", 2)])).unwrap();
        let groups = |f: &str| {
            let ids = router.groups_for_filter(&Filter::new(f).unwrap());
            ids.into_iter().map(|g| g.0).collect::<Vec<_>>()
        };
        assert_eq!(groups("orders.>"), [2]);
        assert_eq!(groups("orders.new"), [2]);
        assert_eq!(groups("orders"), [1]);
        assert_eq!(groups(">"), [1, 2]);
        assert_eq!(groups("*.new"), [1, 2]);
        assert_eq!(groups("bills.>"), [1]);
    }

    fn any_filter() -> impl Strategy<Value = String> {
        let token = prop::sample::select(vec!["a", "b", "*"]);
        (prop::collection::vec(token, 1..4), any::<bool>())
            .prop_map(|(t, rest)| t.join(".") + if rest { ".>" } else { "" })
    }

    proptest! {
        #[test]
        fn a_class_goes_where_the_rule_says_and_its_filters_know_it(
            bindings in prop::collection::btree_map(any_filter(), 1u32..5, 0..8),
            filter in any_filter(),
            class in prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..5),
        ) {
            let groups =
                (1..5).map(|n| group(n, &format!("g{n}"), (n < 3).then_some(100), 1)).collect();
            let bindings: Vec<_> = bindings.iter().map(|(f, g)| (f.as_str(), *g)).collect();
            let router = Router::new(routing(groups, &bindings)).unwrap();
            let class = class.join(".");
            let got = router.group_of(&class).unwrap().id();
            let best = router.routing().bindings.iter()
                .filter(|b| b.filter.matches(&class))
                .min_by(|a, b| a.filter.cmp_specificity(&b.filter));
            match best {
                Some(best) => prop_assert_eq!(got, best.group),
                None => prop_assert!(got.0 < 3),
            }
            let filter = Filter::new(&filter).unwrap();
            if filter.matches(&class) {
                prop_assert!(router.groups_for_filter(&filter).contains(&got));
            }
        }

        #[test]
        fn any_snapshot_is_compiled_or_refused_without_panic(
            firsts in prop::collection::vec((any::<u16>(), 0u32..5), 0..6),
            queues in 0u32..5, weight in prop::option::of(0u32..1200), bound in 0u32..3,
        ) {
            let mut g = group(1, "g", weight, queues);
            g.slots = firsts.iter().map(|(f, q)| SlotRange { first: Slot(*f), queue: *q }).collect();
            if let Ok(router) = Router::new(routing(vec![g], &[("a.>", bound)])) {
                let queue = router.group_of("a.b").unwrap().queue_of(b"k");
                prop_assert!(router.queue(queue).is_some());
            }
        }
    }
}
