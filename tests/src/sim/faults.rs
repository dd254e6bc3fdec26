//! What goes wrong in a run, and who comes and goes: drawn once, before it begins, so that a seed
//! is a schedule. It does not know what a fault does.

use super::bugs::Bug;
use super::ctx::{COORDINATOR, Ctx, Event, Pid};
use super::disk::Full;

/// When the faults are over at the earliest, in milliseconds.
const LAST: (u64, u64) = (4000, 8000);
/// When a rolling restart begins, and how long after one process the next is asked to end, in
/// milliseconds.
const ROLLING: (u64, u64, u64) = (1500, 100, 1200);

/// Which faults a run has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Faults {
    /// None, and nobody leaves.
    None,
    /// None, but members and a worker come and go in order.
    Churn,
    /// None, but every process ends in good order and starts again, one after the other.
    Rolling,
    /// Everything that there is.
    All,
}

impl Faults {
    /// Every choice by its name on the command line.
    pub const NAMES: [(&str, Self); 4] = [
        ("none", Self::None),
        ("churn", Self::Churn),
        ("rolling", Self::Rolling),
        ("all", Self::All),
    ];

    /// Whether nothing goes wrong and nobody is away for a while.
    #[must_use]
    pub fn is_calm(self) -> bool {
        matches!(self, Self::None | Self::Churn)
    }

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.into_iter().find(|(_, faults)| *faults == self).map_or("", |(name, _)| name)
    }
}

/// Who there is.
#[derive(Clone, Debug, Default)]
pub struct Cast {
    /// The workers.
    pub workers: Vec<Pid>,
    /// The producers.
    pub producers: Vec<Pid>,
    /// The seats of the first subscription: for each, a process and the one that takes over.
    pub first: Vec<[Pid; 2]>,
    /// Those of the second.
    pub second: Vec<[Pid; 2]>,
}

/// Something that goes wrong, or somebody who leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A process is killed, and perhaps started again.
    Crash {
        /// Which.
        pid: Pid,
        /// Started again after so many milliseconds.
        for_ms: Option<u64>,
    },
    /// A process stands still and does not know it.
    Pause {
        /// Which.
        pid: Pid,
        /// For how long, in milliseconds.
        for_ms: u64,
    },
    /// Nothing passes between two processes.
    Silence {
        /// From whom.
        from: Pid,
        /// To whom.
        to: Pid,
        /// Also the other way.
        both: bool,
        /// For how long, in milliseconds.
        for_ms: u64,
    },
    /// The disk of a worker has no room.
    Full {
        /// Which.
        pid: Pid,
        /// How little.
        full: Full,
        /// For how long, in milliseconds.
        for_ms: u64,
    },
    /// Some connection breaks.
    Break,
    /// A member leaves in order.
    Leave {
        /// Which process.
        pid: Pid,
    },
    /// A worker, or the coordinator, ends in good order and is started again.
    Restart {
        /// Which.
        pid: Pid,
        /// Started again after so many milliseconds.
        for_ms: u64,
    },
    /// Every queue moves away from a worker, or may come back.
    Drain {
        /// Its number.
        worker: u64,
        /// It may have queues again.
        undo: bool,
    },
    /// A group gets more queues.
    Grow {
        /// Which group.
        group: &'static str,
        /// How many queues in all.
        queues: u32,
    },
    /// Classes go to another group.
    Bind {
        /// Which classes.
        filter: &'static str,
        /// Which group.
        group: &'static str,
    },
    /// A group is made that takes its share of the class ring.
    RingGroup,
}

/// Puts the beginning, the faults and their end on the clock.
pub fn stage(ctx: &mut Ctx, cast: &Cast) {
    let mut until = ctx.dice.between(LAST.0, LAST.1);
    if ctx.faults == Faults::Rolling {
        until = restart_all(ctx, cast).max(until);
    }
    ctx.publish_until = until;
    ctx.clock.at(until, Event::Quiet);
    begin(ctx, cast, until);
    if matches!(ctx.faults, Faults::None | Faults::All) {
        change(ctx, until);
    }
    if ctx.faults == Faults::All {
        for _ in 0..ctx.dice.between(3, 9) {
            let at = ctx.dice.between(100, until - 1000);
            let left = until - at;
            for fault in draw(ctx, cast, left) {
                ctx.clock.at(at, Event::Fault(fault));
            }
        }
    }
    if matches!(ctx.faults, Faults::Churn | Faults::All) {
        churn(ctx, cast, until);
        drain(ctx, until);
    }
}

/// A rolling restart: all workers, all members and the coordinator, in any order, each soon after
/// the one before, sometimes while that one is still away. Returns when the last is back.
fn restart_all(ctx: &mut Ctx, cast: &Cast) -> u64 {
    let mut left: Vec<Pid> = vec![COORDINATOR];
    left.extend(cast.workers.iter().take(3));
    left.extend(cast.first.iter().chain(&cast.second).map(|[pid, _]| *pid));
    let dice = &mut ctx.dice;
    let mut at = ROLLING.0;
    let mut back = at;
    while !left.is_empty() {
        let pid = left.swap_remove(dice.below(left.len() as u64) as usize);
        at += dice.between(ROLLING.1, ROLLING.2);
        let for_ms = dice.between(20, 600);
        let is_member = cast.first.iter().chain(&cast.second).any(|seat| seat[0] == pid);
        if is_member {
            ctx.clock.at(at, Event::Fault(Fault::Leave { pid }));
            ctx.clock.at(at + for_ms, Event::Start(pid));
        } else {
            ctx.clock.at(at, Event::Fault(Fault::Restart { pid, for_ms }));
        }
        back = back.max(at + for_ms);
    }
    back + 500
}

/// A worker that is drained, perhaps for a while only, and perhaps another one next.
fn drain(ctx: &mut Ctx, until: u64) {
    // A bug in the moves of queues is looked for where there are many.
    let often = ctx.bug.is_some_and(Bug::is_about_moves);
    let mut at = ctx.dice.between(500, until / 2);
    for percent in if often { [100; 4] } else { [30, 50, 0, 0] } {
        if !ctx.dice.percent(percent) {
            return;
        }
        let worker = ctx.dice.between(1, 3);
        ctx.clock.at(at, Event::Fault(Fault::Drain { worker, undo: false }));
        let short = ctx.dice.percent(30);
        at += ctx.dice.between(0, if short { 100 } else { 2000 });
        if at < until && ctx.dice.percent(80) {
            ctx.clock.at(at, Event::Fault(Fault::Drain { worker, undo: true }));
        }
        at = (at + ctx.dice.between(0, 800)).min(until - 200);
    }
}

fn begin(ctx: &mut Ctx, cast: &Cast, until: u64) {
    let spread = if ctx.dice.percent(50) { 50 } else { 1500 };
    let mut start = |pid: Pid, longest: u64| {
        let at = ctx.dice.between(0, longest);
        ctx.clock.at(at, Event::Start(pid));
    };
    start(COORDINATOR, 20);
    for pid in cast.workers.iter().take(3) {
        start(*pid, spread);
    }
    for pid in &cast.producers {
        start(*pid, 1000);
    }
    for [pid, _] in &cast.first {
        start(*pid, 1500);
    }
    // The second subscription begins when there are messages already, perhaps most of them.
    let earliest = if ctx.dice.percent(30) { until / 2 } else { 0 };
    for [pid, _] in &cast.second {
        let at = earliest + ctx.dice.between(0, until / 2 - 200);
        ctx.clock.at(at, Event::Start(*pid));
    }
}

/// Groups that grow, and classes that change their group, perhaps there and back.
fn change(ctx: &mut Ctx, until: u64) {
    let dice = &mut ctx.dice;
    let mut changes = Vec::new();
    if dice.percent(50) {
        changes.push((Fault::Grow { group: "few", queues: 4 }, 70));
        changes.push((Fault::Grow { group: "few", queues: 7 }, 50));
    }
    if dice.percent(25) {
        changes.push((Fault::Grow { group: "default", queues: 19 }, 80));
    }
    if dice.percent(30) {
        changes.push((Fault::Bind { filter: "c.>", group: "few" }, 80));
        changes.push((Fault::Bind { filter: "c.>", group: "default" }, 60));
    }
    if dice.percent(15) {
        changes.push((Fault::Bind { filter: "b.>", group: "default" }, 70));
        changes.push((Fault::Bind { filter: "b.x", group: "few" }, 70));
    }
    if dice.percent(15) {
        changes.push((Fault::RingGroup, 80));
    }
    let mut at = dice.between(300, until / 2);
    for (change, percent) in changes {
        if dice.percent(percent) {
            ctx.clock.at(at, Event::Fault(change));
            let soon = dice.percent(40);
            at = (at + dice.between(0, if soon { 100 } else { 2500 })).min(until - 300);
        }
    }
}

/// Members that join and leave, and a worker that joins.
fn churn(ctx: &mut Ctx, cast: &Cast, until: u64) {
    if let Some(pid) = cast.workers.get(3)
        && ctx.dice.percent(50)
    {
        let at = ctx.dice.between(0, until - 500);
        ctx.clock.at(at, Event::Start(*pid));
    }
    let seats: Vec<[Pid; 2]> = cast.first.iter().chain(&cast.second).copied().collect();
    for _ in 0..ctx.dice.between(0, 3) {
        let Some([pid, other]) = ctx.dice.pick(&seats).copied() else { return };
        let at = ctx.dice.between(500, until - 500);
        match ctx.dice.below(3) {
            // Another process of the same member, while the first one still lives, or not.
            0 => ctx.clock.at(at, Event::Start(other)),
            1 => ctx.clock.at(at, Event::Fault(Fault::Leave { pid })),
            _ => {
                ctx.clock.at(at, Event::Fault(Fault::Leave { pid }));
                let back = ctx.dice.between(at, until - 100);
                ctx.clock.at(back, Event::Start(pid));
            }
        }
    }
}

fn draw(ctx: &mut Ctx, cast: &Cast, left: u64) -> Vec<Fault> {
    let members: Vec<Pid> = cast.first.iter().chain(&cast.second).flatten().copied().collect();
    let all: Vec<Pid> = std::iter::once(COORDINATOR)
        .chain(cast.workers.iter().copied())
        .chain(cast.producers.iter().copied())
        .chain(members.iter().copied())
        .collect();
    let dice = &mut ctx.dice;
    let short = dice.percent(50);
    let for_ms = dice.between(5, if short { 200 } else { 4000 }).min(left);
    let some = |dice: &mut super::clock::Dice, of: &[Pid]| dice.pick(of).copied().unwrap_or(0);
    let crash = |pid| Fault::Crash { pid, for_ms: Some(for_ms) };
    match dice.below(13) {
        0..=2 => vec![crash(some(dice, &cast.workers[..3]))],
        3 => cast.workers.iter().take(3).map(|pid| crash(*pid)).collect(),
        4 => vec![crash(COORDINATOR)],
        5 => vec![crash(some(dice, &members))],
        6 => vec![Fault::Crash { pid: some(dice, &members), for_ms: None }],
        7 => vec![crash(some(dice, &cast.producers))],
        8 => vec![Fault::Pause { pid: some(dice, &all), for_ms }],
        9 => {
            let (from, both) = (some(dice, &all), dice.percent(60));
            let to = some(dice, &all);
            vec![Fault::Silence { from, to, both, for_ms }]
        }
        // Cut off from everybody.
        10 => {
            let from = some(dice, &all);
            let both = dice.percent(60);
            let others = all.iter().filter(|to| **to != from);
            others.map(|to| Fault::Silence { from, to: *to, both, for_ms }).collect()
        }
        11 => {
            let pid = some(dice, &cast.workers);
            let full = if dice.percent(70) { Full::ForBatches } else { Full::ForAll };
            vec![Fault::Full { pid, full, for_ms }]
        }
        _ => vec![Fault::Break; dice.between(1, 4) as usize],
    }
}
