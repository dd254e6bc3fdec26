//! Where the messages of a filter may ever have gone: every binding and every set of ring groups
//! that held once. Nothing of it is forgotten, since what was published then is still read. It
//! does not know which of the groups are still there.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use ringway_proto::class::Filter;
use ringway_proto::limits::DEFAULT_MAX_BODY_BYTES;
use ringway_proto::routing::{GroupRoute, QueueRoute, Router, Routing, even_slots};
use ringway_proto::{Code, Epoch, GroupId, GroupName, Refusal, RoutingVersion, Uuid};

use super::rows::{BindingRow, Key, PastRing};

/// Every routing that held once, as far as it decides about groups.
#[derive(Clone, Default)]
pub struct History {
    bindings: BTreeSet<BindingRow>,
    rings: Vec<PastRing>,
    /// `rings`, compiled: which ring group a family went to.
    routers: Vec<Arc<Router>>,
}

impl fmt::Debug for History {
    /// Without the compiled form, which says nothing more.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bindings, rings, routers: _ } = self;
        f.debug_struct("History").field("bindings", bindings).field("rings", rings).finish()
    }
}

impl History {
    /// Takes a stored binding.
    pub fn restore_binding(&mut self, row: BindingRow) {
        self.bindings.insert(row);
    }

    /// Takes a stored set of ring groups.
    ///
    /// # Errors
    /// [`Code::Damaged`] for one that cannot be.
    pub fn restore_ring(&mut self, ring: PastRing) -> Result<(), Refusal> {
        let router = compile(&ring).map_err(|e| Refusal::new(Code::Damaged, e.text))?;
        self.routers.push(Arc::new(router));
        self.rings.push(ring);
        Ok(())
    }

    /// The row of this binding, if it ever held.
    #[must_use]
    pub fn binding(&self, filter: &Filter, group: GroupId) -> Option<BindingRow> {
        self.bindings.get(&BindingRow { filter: filter.clone(), group }).cloned()
    }

    /// The set of ring groups with this number.
    #[must_use]
    pub fn ring(&self, number: u32) -> Option<PastRing> {
        self.rings.iter().find(|ring| ring.number == number).cloned()
    }

    /// This binding holds from now on.
    pub fn remember_binding(&mut self, filter: &Filter, group: GroupId, dirty: &mut BTreeSet<Key>) {
        self.bindings.insert(BindingRow { filter: filter.clone(), group });
        dirty.insert(Key::PastBinding(filter.clone(), group));
    }

    /// These groups with these weights are the ring from now on.
    ///
    /// # Errors
    /// None in fact: what the catalog lets on the ring makes one.
    pub fn remember_ring(
        &mut self,
        groups: Vec<(GroupId, u32)>,
        dirty: &mut BTreeSet<Key>,
    ) -> Result<(), Refusal> {
        if groups.is_empty() || self.rings.iter().any(|past| past.groups == groups) {
            return Ok(());
        }
        let number = self.rings.iter().map(|past| past.number + 1).max().unwrap_or(0);
        let ring = PastRing { number, groups };
        self.routers.push(Arc::new(compile(&ring)?));
        self.rings.push(ring);
        dirty.insert(Key::PastRing(number));
        Ok(())
    }

    /// Every group that may hold messages that the filter wants, under any routing that ever
    /// held; also groups that are gone.
    #[must_use]
    pub fn groups_for_filter(&self, filter: &Filter) -> BTreeSet<GroupId> {
        let overlapping = self.bindings.iter().filter(|past| past.filter.overlaps(filter));
        let by_ring = self.routers.iter().flat_map(|router| router.groups_for_filter(filter));
        overlapping.map(|past| past.group).chain(by_ring).collect()
    }

    /// The ring groups that may hold messages that the filter wants, while these are the ring.
    #[must_use]
    pub fn ring_groups(&self, ring: &[(GroupId, u32)], filter: &Filter) -> BTreeSet<GroupId> {
        let now = self.rings.iter().zip(&self.routers).find(|(past, _)| past.groups == ring);
        now.map(|(_, router)| router.groups_for_filter(filter)).unwrap_or_default()
    }
}

/// A router that knows nothing but this ring; it decides exactly as the real one did.
fn compile(ring: &PastRing) -> Result<Router, Refusal> {
    let route = |(id, weight): &(GroupId, u32)| {
        Ok(GroupRoute {
            id: *id,
            name: GroupName::new(format!("group-{}", id.0))?,
            ring_weight: Some(*weight),
            max_body_bytes: DEFAULT_MAX_BODY_BYTES,
            slots: even_slots(1),
            queues: vec![QueueRoute { uuid: Uuid::default(), epoch: Epoch(0), primary: None }],
        })
    };
    let groups = ring.groups.iter().map(route).collect::<Result<_, Refusal>>()?;
    let version = RoutingVersion(0);
    Router::new(Routing { version, groups, ..Routing::default() })
}
