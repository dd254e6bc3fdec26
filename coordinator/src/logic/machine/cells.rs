//! The rights of a subscription as its plan takes them: cut into cells of one size, each with the
//! member that its right belongs to; and what a plan of cells means for the rights: who gets which,
//! what is split, what is merged. It does not know how a split happens.

use std::collections::{BTreeMap, BTreeSet};

use ringway_proto::{GroupId, Lanes, MemberId, QueueId, RightId, SubscriptionId, Time};

use super::super::plan::{Item, Node, Pin, Plan, right_point};
use super::super::rights::Right;
use super::super::rows::{Key, Merging, MoveReason, Piece, SubscriptionRow};
use super::super::split::{arrange, cell_width, cells, depth, depth_of, parts};
use super::Machine;
use super::members::MAX_RIGHTS;
use super::planning::move_reason;

/// Some lanes of a queue that belong together in a plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Unit {
    /// What they are.
    kind: Kind,
    /// The first right that they are of, with all the lanes of the unit.
    lanes: RightId,
    /// Whom the plan before gave them to.
    owner: Option<MemberId>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Kind {
    /// A right that may be split.
    Right,
    /// What stays of this right, of which a split is under way.
    Keep(RightId),
    /// A piece of this right, by its place, of which a split is decided.
    Piece(RightId, usize),
    /// Rights that are to become one.
    Merge(Vec<RightId>),
}

/// What the plan of a subscription is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Cells {
    /// How finely queues are cut.
    pub(super) depth: u32,
    units: Vec<Unit>,
    /// Whether another depth is wanted, and something is in its way.
    pub(super) is_late: bool,
}

impl Cells {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// The cells as items, in their order.
    pub(super) fn items(&self) -> Vec<Item<'_, RightId, MemberId>> {
        let mut items = Vec::new();
        for unit in &self.units {
            for lanes in cells(unit.lanes.lanes, self.depth) {
                let id = unit.lanes.with(lanes);
                let owner = unit.owner.as_ref();
                items.push(Item { id, point: right_point(&id), owner, pin: Pin::Free });
            }
        }
        items
    }

    /// The first cell of the unit that has these lanes.
    pub(super) fn cell(&self, id: RightId) -> RightId {
        let first = cells(id.lanes, self.depth).first().copied();
        id.with(first.map_or(id.lanes, |cell| {
            let width = cell_width(self.depth).max(1);
            let start = cell.start / width * width;
            Lanes { start, end: start + width }
        }))
    }
}

impl Machine {
    /// The cells of a subscription, for these members: of the queues that have messages for it or
    /// get them under the routing that holds, or of the others. They are shared apart from each
    /// other, since a share of queues that stay empty is none.
    pub(super) fn cells(
        &self,
        subscription: SubscriptionId,
        nodes: &[Node<MemberId>],
        in_use: bool,
    ) -> Cells {
        let used = self.used_groups(subscription);
        let is_meant = |id: &RightId| self.is_in_use(&used, id.queue) == in_use;
        let rights = || {
            let rights = self.rights_in(subscription).filter(|(id, _)| is_meant(id));
            rights.map(|(_, right)| right)
        };
        let weights: Vec<u32> = nodes.iter().map(|node| node.weight).collect();
        let queues = rights().filter(|right| right.row().id.lanes.start == 0).count();
        let finest = rights().map(finest).max().unwrap_or(0);
        let others = self.rights.len().saturating_sub(rights().count());
        // Queues that get nothing are not worth a split.
        let weights = if in_use { weights } else { Vec::new() };
        let most = queues.saturating_mul(self.setup.ranges_per_queue as usize);
        let most = most.min(MAX_RIGHTS.saturating_sub(others));
        let wanted = depth(queues, &weights, finest, most);
        // A merge waits until no split is under way.
        let is_late = wanted < finest && rights().any(Right::is_changing);
        let depth = if is_late { finest } else { wanted };
        let mut units: Vec<Unit> = Vec::new();
        for right in rights() {
            self.add(right, depth, &mut units);
        }
        Cells { depth, units, is_late }
    }

    fn used_groups(&self, subscription: SubscriptionId) -> BTreeSet<GroupId> {
        let row = self.catalog.subscription(subscription);
        row.map(|row| self.catalog.groups_now(&row.setup.filter)).unwrap_or_default()
    }

    fn is_in_use(&self, used: &BTreeSet<GroupId>, queue: QueueId) -> bool {
        let has_data = || self.queues.get(&queue).is_some_and(|queue| queue.row().has_data);
        used.contains(&queue.group) || has_data()
    }

    /// Whether a right is to a queue that its subscription gets messages from.
    pub(super) fn is_used(&self, id: RightId) -> bool {
        self.is_in_use(&self.used_groups(id.subscription), id.queue)
    }

    /// A queue has its first message: for subscriptions that were to get nothing from it, it is one
    /// more to share.
    pub(super) fn note_use(&mut self, now: Time, queue: QueueId) {
        let ids: Vec<SubscriptionId> = self
            .rights_of(queue)
            .into_iter()
            .filter(|id| !self.used_groups(id.subscription).contains(&queue.group))
            .map(|id| id.subscription)
            .collect();
        for id in ids {
            self.rights_due(now, id, false);
        }
    }

    /// The groups that each subscription gets messages in under the routing that holds.
    pub(super) fn uses(&self) -> BTreeMap<SubscriptionId, BTreeSet<GroupId>> {
        let used = |row: &SubscriptionRow| self.catalog.groups_now(&row.setup.filter);
        self.catalog.subscriptions().map(|row| (row.setup.id, used(row))).collect()
    }

    /// What goes where has changed: who got messages in these groups `before`, and gets them in
    /// others now, has other queues to share.
    pub(super) fn note_uses(
        &mut self,
        now: Time,
        before: &BTreeMap<SubscriptionId, BTreeSet<GroupId>>,
    ) {
        for (id, used) in self.uses() {
            if before.get(&id) != Some(&used) {
                self.rights_due(now, id, false);
            }
        }
    }

    fn add(&self, right: &Right, depth: u32, units: &mut Vec<Unit>) {
        let row = right.row();
        let owner = row.merging.as_ref().map_or(&row.target, |merging| &merging.to).clone();
        let unit = |kind, lanes, owner| Unit { kind, lanes: row.id.with(lanes), owner };
        match &row.cut {
            Some(cut) => {
                let mut cut_up = vec![unit(Kind::Keep(row.id), cut.keep, owner)];
                let pieces = cut.pieces.iter().enumerate().filter(|_| cut.of.is_none());
                cut_up.extend(pieces.map(|(at, piece)| {
                    unit(Kind::Piece(row.id, at), piece.lanes, piece.target.clone())
                }));
                cut_up.sort_by_key(|unit| unit.lanes);
                units.extend(cut_up);
            }
            None if row.id.lanes.count() >= cell_width(depth) => {
                units.push(unit(Kind::Right, row.id.lanes, owner));
            }
            None => {
                let width = cell_width(depth);
                let start = row.id.lanes.start / width * width;
                let lanes = Lanes { start, end: start + width };
                match units.last_mut().filter(|last| last.lanes == row.id.with(lanes)) {
                    Some(Unit { kind: Kind::Merge(parts), .. }) => parts.push(row.id),
                    _ => units.push(unit(Kind::Merge(vec![row.id]), lanes, owner)),
                }
            }
        }
    }

    /// Gives the rights what a plan of their cells says. Returns whether something of it has to
    /// wait for a split that is under way.
    pub(super) fn apply_cells(
        &mut self,
        cells_of: &Cells,
        items: &[RightId],
        made: &Plan<RightId, MemberId>,
    ) -> bool {
        let moves: BTreeMap<RightId, MoveReason> =
            made.moves.iter().map(|step| (step.item, move_reason(&step.reason))).collect();
        let mut waits = cells_of.is_late;
        let mut at = 0;
        for unit in &cells_of.units {
            let lanes = cells(unit.lanes.lanes, cells_of.depth);
            let count = lanes.len();
            let given = (at..at + count).map(|item| made.node_of(item).cloned());
            let mut given: Vec<Option<MemberId>> = given.collect();
            let reasons: BTreeMap<Option<MemberId>, MoveReason> = (at..at + count)
                .filter_map(|n| Some((given.get(n - at)?.clone(), *moves.get(items.get(n)?)?)))
                .collect();
            at += count;
            arrange(unit.owner.is_some().then_some(&unit.owner), &mut given);
            let to: Vec<_> = lanes.into_iter().zip(given).collect();
            waits |= self.apply_unit(unit, &to, &reasons);
        }
        waits
    }

    fn apply_unit(
        &mut self,
        unit: &Unit,
        to: &[(Lanes, Option<MemberId>)],
        reasons: &BTreeMap<Option<MemberId>, MoveReason>,
    ) -> bool {
        let Some((_, first)) = to.first() else { return false };
        let reason = |to: &Option<MemberId>| reasons.get(to).copied();
        let is_one = to.iter().all(|(_, other)| other == first);
        match &unit.kind {
            Kind::Right => {
                let id = unit.lanes;
                if !is_one && let Some(right) = self.rights.get_mut(&id) {
                    let mut parts = parts(to).into_iter();
                    let keep = parts.next().map_or(id.lanes, |(keep, _)| keep);
                    let piece = |(lanes, at): (Lanes, usize)| {
                        let target = to.get(at).and_then(|(_, to)| to.clone());
                        Piece { lanes, reason: reason(&target), target }
                    };
                    right.set_cut(keep, parts.map(piece).collect());
                }
                self.set_merging(id, None);
                self.aim(id, first.clone(), reason(first));
                false
            }
            Kind::Keep(id) => {
                self.aim(*id, first.clone(), reason(first));
                !is_one
            }
            Kind::Piece(id, at) => {
                self.dirty.insert(Key::Right(*id));
                let right = self.rights.get_mut(id);
                if let Some(piece) = right.and_then(|right| right.pieces_mut().get_mut(*at)) {
                    (piece.target, piece.reason) = (first.clone(), reason(first));
                }
                !is_one
            }
            Kind::Merge(parts) => {
                let merging = Merging { lanes: unit.lanes.lanes, to: first.clone() };
                for part in parts {
                    self.set_merging(*part, Some(merging.clone()));
                    self.aim(*part, None, None);
                }
                false
            }
        }
    }

    fn set_merging(&mut self, id: RightId, merging: Option<Merging>) {
        if let Some(right) = self.rights.get_mut(&id)
            && right.row().merging != merging
        {
            right.set_merging(merging);
            self.dirty.insert(Key::Right(id));
        }
    }

    /// Nobody is left to plan for; whoever comes next begins anew.
    pub(super) fn aim_at_nobody(&mut self, subscription: SubscriptionId) {
        let ids: Vec<RightId> = self.rights_in(subscription).map(|(id, _)| *id).collect();
        for id in ids {
            self.set_merging(id, None);
            if let Some(right) = self.rights.get_mut(&id) {
                for piece in right.pieces_mut() {
                    (piece.target, piece.reason) = (None, None);
                }
            }
            self.aim(id, None, None);
        }
    }

    /// How many queues a subscription gets messages from.
    pub(super) fn queues_of(&self, subscription: SubscriptionId) -> u32 {
        let used = self.used_groups(subscription);
        let queues = self.rights_in(subscription).map(|(id, _)| id.queue);
        let mut queues: Vec<QueueId> = queues.filter(|q| self.is_in_use(&used, *q)).collect();
        queues.dedup();
        queues.len() as u32
    }
}

/// How finely the lanes of a right are cut, or are about to be.
fn finest(right: &Right) -> u32 {
    let row = right.row();
    let cut = row.cut.iter().flat_map(|cut| {
        let pieces = cut.pieces.iter().map(|piece| depth_of(piece.lanes));
        pieces.chain([depth_of(cut.keep)])
    });
    cut.chain([depth_of(row.id.lanes)]).max().unwrap_or(0)
}
