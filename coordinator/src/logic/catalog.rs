//! Groups, bindings and subscriptions: what exists, and what may be made, changed and deleted.
//! Numbers are never given twice. It does not know where queues are or who reads them.

use std::collections::{BTreeMap, BTreeSet};

use ringway_proto::class::Filter;
use ringway_proto::control::{Join, Order, SubscriptionSetup};
use ringway_proto::limits::{
    DEFAULT_MAX_BODY_BYTES, DEFAULT_WEIGHT, MAX_FRAME_BYTES, MAX_GROUPS, MAX_QUEUES_PER_GROUP,
    WEIGHT_RANGE,
};
use ringway_proto::routing::{SlotRange, even_slots};
use ringway_proto::{Code, GroupId, GroupName, QueueId, Refusal, SubscriptionId, SubscriptionName};

use super::history::History;
use super::rows::{BindingRow, GroupRow, Key, Meta, Row, SubscriptionRow};
use super::similar::{note, similar};

/// The group that is always there.
pub const DEFAULT_GROUP: &str = "default";
/// How many queues it has.
pub const DEFAULT_GROUP_QUEUES: u32 = 16;
/// The largest body that a group may allow, in bytes: a frame holds it with room for the rest.
pub const MAX_MAX_BODY_BYTES: u32 = MAX_FRAME_BYTES as u32 - (1 << 20);
/// The most subscriptions of a cluster.
pub const MAX_SUBSCRIPTIONS: usize = 10_000;

/// What exists.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    groups: BTreeMap<GroupId, GroupRow>,
    bindings: BTreeMap<Filter, GroupId>,
    history: History,
    subscriptions: BTreeMap<SubscriptionId, SubscriptionRow>,
    names: BTreeMap<SubscriptionName, SubscriptionId>,
    next_group: GroupId,
    next_subscription: SubscriptionId,
}

/// What a group is to be like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupWish {
    /// Its name.
    pub name: GroupName,
    /// How many queues.
    pub queues: u32,
    /// Its weight on the class ring, if it shall be on it.
    pub ring_weight: Option<u32>,
    /// The largest body, in bytes; none is 1 MiB.
    pub max_body_bytes: Option<u32>,
}

impl Catalog {
    /// Takes a row of the store that is the catalog's.
    ///
    /// # Errors
    /// [`Code::Damaged`] for a past ring that cannot be one.
    pub fn restore(&mut self, row: Row) -> Result<(), Refusal> {
        match row {
            Row::Meta(meta) => {
                self.next_group = meta.next_group;
                self.next_subscription = meta.next_subscription;
            }
            Row::Group(row) => {
                self.groups.insert(row.id, row);
            }
            Row::Binding(row) => {
                self.bindings.insert(row.filter, row.group);
            }
            Row::PastBinding(row) => {
                self.history.restore_binding(row);
            }
            Row::PastRing(ring) => {
                self.history.restore_ring(ring)?;
            }
            Row::Subscription(row) => {
                self.names.insert(row.setup.name.clone(), row.setup.id);
                self.subscriptions.insert(row.setup.id, row);
            }
            _ => {}
        }
        Ok(())
    }

    /// The row with this key as it is now, if the catalog owns it and it exists.
    #[must_use]
    pub fn row(&self, key: &Key) -> Option<Row> {
        match key {
            Key::Group(id) => self.groups.get(id).cloned().map(Row::Group),
            Key::Binding(filter) => self
                .bindings
                .get(filter)
                .map(|group| Row::Binding(BindingRow { filter: filter.clone(), group: *group })),
            Key::PastBinding(filter, group) => {
                self.history.binding(filter, *group).map(Row::PastBinding)
            }
            Key::PastRing(number) => self.history.ring(*number).map(Row::PastRing),
            Key::Subscription(id) => self.subscriptions.get(id).cloned().map(Row::Subscription),
            _ => None,
        }
    }

    /// Writes its numbers into the row of numbers.
    pub fn fill(&self, meta: &mut Meta) {
        meta.next_group = self.next_group;
        meta.next_subscription = self.next_subscription;
    }

    /// All groups in the order of their numbers.
    pub fn groups(&self) -> impl Iterator<Item = &GroupRow> {
        self.groups.values()
    }

    /// The group with this number.
    #[must_use]
    pub fn group(&self, id: GroupId) -> Option<&GroupRow> {
        self.groups.get(&id)
    }

    /// The group with this name.
    ///
    /// # Errors
    /// [`Code::UnknownGroup`], with the names that are like it.
    pub fn group_named(&self, name: &GroupName) -> Result<&GroupRow, Refusal> {
        self.groups.values().find(|group| group.name == *name).ok_or_else(|| {
            self.unknown_group(name, "", "`ringway group list` shows those there are")
        })
    }

    /// Whether a group ever had this number.
    #[must_use]
    pub fn was_given_out(&self, id: GroupId) -> bool {
        id < self.next_group
    }

    /// `GROUP/N`.
    #[must_use]
    pub fn queue_name(&self, queue: QueueId) -> String {
        match self.groups.get(&queue.group) {
            Some(group) => format!("{}/{}", group.name, queue.index),
            None => queue.to_string(),
        }
    }

    /// Makes a group, or finds it alike. Returns its number and whether it is new.
    ///
    /// # Errors
    /// [`Code::InvalidOption`] for a number out of bounds, [`Code::Conflict`] for a group of that
    /// name that is different, [`Code::TooLarge`] for one group too many.
    pub fn create_group(
        &mut self,
        wish: GroupWish,
        dirty: &mut BTreeSet<Key>,
    ) -> Result<(GroupId, bool), Refusal> {
        let max_body_bytes = wish.max_body_bytes.unwrap_or(DEFAULT_MAX_BODY_BYTES);
        check_bounds("queues", wish.queues, 1..=MAX_QUEUES_PER_GROUP)?;
        check_bounds("max body bytes", max_body_bytes, 1..=MAX_MAX_BODY_BYTES)?;
        if let Some(weight) = wish.ring_weight {
            check_bounds("ring weight", weight, WEIGHT_RANGE)?;
        }
        let row = GroupRow {
            id: self.next_group,
            name: wish.name,
            queues: wish.queues,
            ring_weight: wish.ring_weight,
            max_body_bytes,
            slots: Vec::new(),
            // The first group of all is on the ring from the start: there is nobody to give.
            off_ring: wish.ring_weight.is_some() && !self.groups.is_empty(),
        };
        if let Some(there) = self.groups.values().find(|group| group.name == row.name) {
            let is_alike = there.queues == row.queues
                && there.ring_weight == row.ring_weight
                && there.max_body_bytes == row.max_body_bytes;
            return if is_alike { Ok((there.id, false)) } else { Err(unlike(there, &row)) };
        }
        if self.groups.len() >= MAX_GROUPS {
            return Err(Refusal::new(
                Code::TooLarge,
                format!("there are {MAX_GROUPS} groups, and no more are possible"),
            )
            .hint("send several filters to one group with `ringway bind`"));
        }
        self.next_group = self.next_group.next();
        dirty.extend([Key::Meta, Key::Group(row.id)]);
        let id = row.id;
        let on_ring = row.ring_weight.is_some();
        self.groups.insert(id, row);
        if on_ring {
            self.remember_ring(dirty)?;
        }
        Ok((id, true))
    }

    /// Whether the group may go; `leaves` says of a filter that it is on its way elsewhere.
    ///
    /// # Errors
    /// [`Code::UnknownGroup`]; [`Code::InUse`] for `default` and for a group with bindings that
    /// stay.
    pub fn check_delete(
        &self,
        name: &GroupName,
        leaves: impl Fn(&Filter) -> bool,
    ) -> Result<GroupId, Refusal> {
        let group = self.group_named(name)?;
        if name.as_str() == DEFAULT_GROUP {
            return Err(Refusal::new(
                Code::InUse,
                format!("group {DEFAULT_GROUP:?} takes every class that nothing else takes"),
            )
            .hint("keep it; other groups can be deleted"));
        }
        let filters: Vec<String> = self
            .bindings
            .iter()
            .filter(|(filter, to)| **to == group.id && !leaves(filter))
            .map(|(filter, _)| format!("'{filter}'"))
            .collect();
        if filters.is_empty() {
            return Ok(group.id);
        }
        Err(Refusal::new(
            Code::InUse,
            format!("group {:?} has bindings: {}", name.as_str(), filters.join(", ")),
        )
        .hint(format!("bind them elsewhere first, such as `ringway bind {} default`", filters[0])))
    }

    /// Removes a group that [`Self::check_delete`] lets go, and the bindings that it still has.
    ///
    /// # Errors
    /// As [`Self::check_delete`].
    pub fn delete_group(
        &mut self,
        name: &GroupName,
        leaves: impl Fn(&Filter) -> bool,
        dirty: &mut BTreeSet<Key>,
    ) -> Result<GroupRow, Refusal> {
        let id = self.check_delete(name, leaves)?;
        let Some(row) = self.groups.remove(&id) else { return Err(gone(name)) };
        dirty.insert(Key::Group(id));
        let left = self.bindings.iter().filter(|(_, to)| **to == id);
        for filter in left.map(|(filter, _)| filter.clone()).collect::<Vec<_>>() {
            self.bindings.remove(&filter);
            dirty.insert(Key::Binding(filter));
        }
        if row.ring_weight.is_some() {
            self.remember_ring(dirty)?;
        }
        Ok(row)
    }

    /// Whether a filter can be sent to a group.
    ///
    /// # Errors
    /// [`Code::UnknownGroup`], with the names that are like it.
    pub fn check_bind(&self, filter: &Filter, name: &GroupName) -> Result<GroupId, Refusal> {
        self.groups.values().find(|group| group.name == *name).map(|group| group.id).ok_or_else(
            || {
                self.unknown_group(
                    name,
                    &format!(" to bind '{filter}' to"),
                    &format!("create it with `ringway group create {name} --queues 16`"),
                )
            },
        )
    }

    /// A filter will go to a group: who reads it reads that group from now on.
    pub fn expect_binding(&mut self, filter: &Filter, group: GroupId, dirty: &mut BTreeSet<Key>) {
        self.history.remember_binding(filter, group, dirty);
    }

    /// The group that a filter is bound to.
    #[must_use]
    pub fn bound_to(&self, filter: &Filter) -> Option<GroupId> {
        self.bindings.get(filter).copied()
    }

    /// Sends a filter to a group from now on.
    pub fn bind(&mut self, filter: &Filter, group: GroupId, dirty: &mut BTreeSet<Key>) {
        self.bindings.insert(filter.clone(), group);
        dirty.insert(Key::Binding(filter.clone()));
        self.history.remember_binding(filter, group, dirty);
    }

    /// Gives a group more queues; its slots stay where they are.
    ///
    /// # Errors
    /// [`Code::UnknownGroup`]; [`Code::InvalidOption`] for a number out of bounds, or one that is
    /// smaller than what it has.
    pub fn grow(
        &mut self,
        name: &GroupName,
        queues: u32,
        dirty: &mut BTreeSet<Key>,
    ) -> Result<GroupId, Refusal> {
        let (id, has) = self.group_named(name).map(|group| (group.id, group.queues))?;
        check_bounds("queues", queues, 1..=MAX_QUEUES_PER_GROUP)?;
        if queues < has {
            return Err(Refusal::new(
                Code::InvalidOption,
                format!("group {:?} has {has} queues and cannot shrink to {queues}", name.as_str()),
            )
            .hint("create a smaller group and bind its classes to it"));
        }
        if let Some(group) = self.groups.get_mut(&id) {
            group.slots = group.table();
            group.queues = queues;
            dirty.insert(Key::Group(id));
        }
        Ok(id)
    }

    /// Gives a group another slot table.
    pub fn set_slots(&mut self, id: GroupId, slots: Vec<SlotRange>, dirty: &mut BTreeSet<Key>) {
        if let Some(group) = self.groups.get_mut(&id) {
            group.slots = slots;
            dirty.insert(Key::Group(id));
        }
    }

    /// A group takes its place on the ring.
    ///
    /// # Errors
    /// None in fact: what the catalog lets on the ring makes one.
    pub fn put_on_ring(&mut self, id: GroupId, dirty: &mut BTreeSet<Key>) -> Result<(), Refusal> {
        if let Some(group) = self.groups.get_mut(&id) {
            group.off_ring = false;
            dirty.insert(Key::Group(id));
        }
        self.remember_ring(dirty)
    }

    /// The groups that are on the ring, with their weights.
    #[must_use]
    pub fn ring(&self) -> Vec<(GroupId, u32)> {
        let on_ring = self.groups.values().filter(|group| !group.off_ring);
        on_ring.filter_map(|group| Some((group.id, group.ring_weight?))).collect()
    }

    /// All bindings, most specific first.
    #[must_use]
    pub fn bindings(&self) -> Vec<BindingRow> {
        let mut all: Vec<_> = self
            .bindings
            .iter()
            .map(|(filter, group)| BindingRow { filter: filter.clone(), group: *group })
            .collect();
        all.sort_by(|a, b| a.filter.cmp_specificity(&b.filter));
        all
    }

    /// How many bindings send to a group.
    #[must_use]
    pub fn bindings_of(&self, group: GroupId) -> usize {
        self.bindings.values().filter(|to| **to == group).count()
    }

    /// Every group that is there and may hold messages that the filter wants, under the routing
    /// that holds or any that ever held.
    #[must_use]
    pub fn groups_for_filter(&self, filter: &Filter) -> BTreeSet<GroupId> {
        let mut groups = self.history.groups_for_filter(filter);
        groups.retain(|group| self.groups.contains_key(group));
        groups
    }

    /// The groups that messages which the filter wants go to under the routing that holds.
    #[must_use]
    pub fn groups_now(&self, filter: &Filter) -> BTreeSet<GroupId> {
        let mut groups = BTreeSet::new();
        for binding in self.bindings().iter().filter(|b| b.filter.overlaps(filter)) {
            groups.insert(binding.group);
            if binding.filter.covers(filter) {
                // All that follow are less specific, and so is the ring.
                return groups;
            }
        }
        groups.extend(self.history.ring_groups(&self.ring(), filter));
        groups
    }

    /// All subscriptions in the order of their numbers.
    pub fn subscriptions(&self) -> impl Iterator<Item = &SubscriptionRow> {
        self.subscriptions.values()
    }

    /// The subscription with this number.
    #[must_use]
    pub fn subscription(&self, id: SubscriptionId) -> Option<&SubscriptionRow> {
        self.subscriptions.get(&id)
    }

    /// The subscription with this name, if there is one.
    #[must_use]
    pub fn find_subscription(&self, name: &SubscriptionName) -> Option<&SubscriptionRow> {
        self.names.get(name).and_then(|id| self.subscriptions.get(id))
    }

    /// The subscription with this name, which somebody asked for.
    ///
    /// # Errors
    /// [`Code::UnknownSubscription`], with the names that are like it.
    pub fn subscription_named(&self, name: &SubscriptionName) -> Result<&SubscriptionRow, Refusal> {
        if let Some(row) = self.find_subscription(name) {
            return Ok(row);
        }
        let similar = similar(name.as_str(), self.names.keys().map(SubscriptionName::as_str));
        let note = note(" subscriptions", &similar);
        Err(Refusal::new(
            Code::UnknownSubscription,
            format!("there is no subscription {:?}{note}", name.as_str()),
        )
        .hint("`ringway subscription list` shows those there are"))
    }

    /// The number of the subscription that a join is for, which is made if there is none, and
    /// whether it is new.
    ///
    /// # Errors
    /// [`Code::Conflict`] for one with another filter or order, [`Code::TooLarge`] for one too
    /// many.
    pub fn subscribe(
        &mut self,
        join: &Join,
        dirty: &mut BTreeSet<Key>,
    ) -> Result<(SubscriptionId, bool), Refusal> {
        if let Some(row) = self.names.get(&join.name).and_then(|id| self.subscriptions.get(id)) {
            check_alike(&row.setup, join)?;
            return Ok((row.setup.id, false));
        }
        if self.subscriptions.len() >= MAX_SUBSCRIPTIONS {
            return Err(Refusal::new(
                Code::TooLarge,
                format!("there are {MAX_SUBSCRIPTIONS} subscriptions, and no more are possible"),
            ));
        }
        let id = self.next_subscription;
        self.next_subscription = id.next();
        let setup = SubscriptionSetup {
            id,
            name: join.name.clone(),
            filter: join.filter.clone(),
            order: join.order.unwrap_or_default(),
            start: join.start,
        };
        self.names.insert(join.name.clone(), id);
        self.subscriptions.insert(id, SubscriptionRow { setup, plan_due: false });
        dirty.extend([Key::Meta, Key::Subscription(id)]);
        Ok((id, true))
    }

    /// Notes whether the rights of a subscription wait for a plan. Returns whether that is news.
    pub fn set_plan_due(&mut self, id: SubscriptionId, due: bool) -> bool {
        let row = self.subscriptions.get_mut(&id);
        row.is_some_and(|row| std::mem::replace(&mut row.plan_due, due) != due)
    }

    fn remember_ring(&mut self, dirty: &mut BTreeSet<Key>) -> Result<(), Refusal> {
        // Who reads reads a group that is to be on the ring already. Moves to the ring come one
        // after the other, and a group may be deleted meanwhile: what holds now counts too.
        let wished = self.groups.values().filter_map(|g| Some((g.id, g.ring_weight?))).collect();
        self.history.remember_ring(wished, dirty)?;
        self.history.remember_ring(self.ring(), dirty)
    }

    fn unknown_group(&self, name: &GroupName, purpose: &str, hint: &str) -> Refusal {
        let similar = similar(name.as_str(), self.groups.values().map(|g| g.name.as_str()));
        let hint = match similar.first() {
            Some(first) if !purpose.is_empty() => format!("{hint}, or bind to {first}"),
            _ => hint.to_owned(),
        };
        let note = note(" groups", &similar);
        Refusal::new(
            Code::UnknownGroup,
            format!("there is no group {:?}{purpose}{note}", name.as_str()),
        )
        .hint(hint)
    }
}

impl GroupRow {
    /// Its slot table.
    #[must_use]
    pub fn table(&self) -> Vec<SlotRange> {
        if self.slots.is_empty() { even_slots(self.queues) } else { self.slots.clone() }
    }
}

/// What the group that is always there is like.
///
/// # Errors
/// None in fact: its name is a legal one.
pub fn default_group() -> Result<GroupWish, Refusal> {
    Ok(GroupWish {
        name: GroupName::new(DEFAULT_GROUP)?,
        queues: DEFAULT_GROUP_QUEUES,
        ring_weight: Some(DEFAULT_WEIGHT),
        max_body_bytes: None,
    })
}

/// Refuses a number that is out of its bounds.
///
/// # Errors
/// [`Code::InvalidOption`].
pub fn check_bounds(
    what: &str,
    value: u32,
    bounds: std::ops::RangeInclusive<u32>,
) -> Result<(), Refusal> {
    if bounds.contains(&value) {
        return Ok(());
    }
    let (least, most) = (bounds.start(), bounds.end());
    Err(Refusal::new(
        Code::InvalidOption,
        format!("{what} {value} is not within {least} to {most}"),
    )
    .hint(format!("choose {least} to {most}")))
}

fn unlike(there: &GroupRow, wish: &GroupRow) -> Refusal {
    let describe = |g: &GroupRow| {
        let ring = g.ring_weight.map_or("off the ring".to_owned(), |w| format!("ring weight {w}"));
        format!("{} queues, {ring}, bodies up to {} bytes", g.queues, g.max_body_bytes)
    };
    Refusal::new(
        Code::Conflict,
        format!(
            "group {:?} exists with {}, not with {}",
            there.name.as_str(),
            describe(there),
            describe(wish)
        ),
    )
    .hint("use it as it is, or choose another name")
}

fn check_alike(setup: &SubscriptionSetup, join: &Join) -> Result<(), Refusal> {
    let conflict = |what: &str, has: &dyn std::fmt::Display, asked: &dyn std::fmt::Display| {
        Err(Refusal::new(
            Code::Conflict,
            format!("subscription {:?} has {what} {has}, not {asked}", setup.name.as_str()),
        )
        .hint("join it as it is, or choose another name"))
    };
    if setup.filter != join.filter {
        return conflict(
            "the filter",
            &format_args!("'{}'", setup.filter),
            &format_args!("'{}'", join.filter),
        );
    }
    match join.order {
        Some(order) if order != setup.order => {
            conflict("order", &order_name(setup.order), &order_name(order))
        }
        _ => Ok(()),
    }
}

fn order_name(order: Order) -> &'static str {
    match order {
        Order::Key => "key",
        Order::None => "none",
    }
}

fn gone(name: &GroupName) -> Refusal {
    Refusal::new(Code::UnknownGroup, format!("there is no group {:?}", name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> (Catalog, BTreeSet<Key>) {
        let (mut catalog, mut dirty) = (Catalog::default(), BTreeSet::new());
        catalog.create_group(default_group().unwrap(), &mut dirty).unwrap();
        let orders = GroupWish {
            name: GroupName::new("orders").unwrap(),
            queues: 4,
            ring_weight: None,
            max_body_bytes: None,
        };
        catalog.create_group(orders, &mut dirty).unwrap();
        (catalog, dirty)
    }

    #[test]
    fn binding_to_a_group_that_is_not_there_names_those_like_it() {
        let (catalog, _) = catalog();
        let (filter, name) = (Filter::new("orders.>").unwrap(), GroupName::new("order").unwrap());
        let refusal = catalog.check_bind(&filter, &name).unwrap_err();
        assert_eq!(refusal.code, Code::UnknownGroup);
        assert_eq!(
            refusal.text,
            "there is no group \"order\" to bind 'orders.>' to; groups with similar names: orders"
        );
        assert_eq!(
            refusal.hint,
            "create it with `ringway group create order --queues 16`, or bind to orders"
        );
    }

    #[test]
    fn a_filter_goes_on_covering_the_groups_that_it_was_bound_to_before() {
        let (mut catalog, mut dirty) = catalog();
        let filter = Filter::new("orders.>").unwrap();
        let orders = GroupName::new("orders").unwrap();
        let seen = |c: &Catalog| c.groups_for_filter(&filter).into_iter().collect::<Vec<_>>();
        assert_eq!(seen(&catalog), [GroupId(0)], "the ring");
        let to = catalog.check_bind(&filter, &orders).unwrap();
        catalog.expect_binding(&filter, to, &mut dirty);
        assert_eq!(catalog.bound_to(&filter), None, "not yet");
        assert_eq!(seen(&catalog), [GroupId(0), GroupId(1)]);
        let now = |c: &Catalog| c.groups_now(&filter).into_iter().collect::<Vec<_>>();
        assert_eq!(now(&catalog), [GroupId(0)], "not yet");
        assert_eq!(seen(&catalog), [GroupId(0), GroupId(1)]);
        catalog.bind(&filter, to, &mut dirty);
        assert_eq!(now(&catalog), [GroupId(1)], "nothing goes to the ring any more");
        catalog.bind(&filter, GroupId(0), &mut dirty);
        assert_eq!(seen(&catalog), [GroupId(0), GroupId(1)]);
        catalog.delete_group(&orders, |_| false, &mut dirty).unwrap();
        assert_eq!(seen(&catalog), [GroupId(0)], "what is deleted is not read");
    }
}
