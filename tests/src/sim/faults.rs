//! What goes wrong in a run, and who comes and goes: drawn once, before it begins, so that a seed
//! is a schedule. It does not know what a fault does.

use super::ctx::{COORDINATOR, Ctx, Event, Pid};
use super::disk::Full;

/// When the faults are over at the earliest, in milliseconds.
const LAST: (u64, u64) = (4000, 8000);

/// Which faults a run has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Faults {
    /// None, and nobody leaves.
    None,
    /// None, but members and a worker come and go in order.
    Churn,
    /// Everything that there is.
    All,
}

impl Faults {
    /// Every choice by its name on the command line.
    pub const NAMES: [(&str, Self); 3] =
        [("none", Self::None), ("churn", Self::Churn), ("all", Self::All)];

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
    let until = ctx.dice.between(LAST.0, LAST.1);
    ctx.publish_until = until;
    ctx.clock.at(until, Event::Quiet);
    begin(ctx, cast, until);
    if ctx.faults != Faults::Churn {
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
    if ctx.faults != Faults::None {
        churn(ctx, cast, until);
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
