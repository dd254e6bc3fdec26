//! A cluster of simulated processes: it is cast and set up, started, killed and paused here, and
//! looked at once the faults are over: is everything well? What a process does with what it is
//! given is its own business.

use std::collections::BTreeMap;

use ringway_proto::control::{Join, Order, Start};
use ringway_proto::{Filter, Incarnation, MemberId, SubscriptionName, Uuid, WorkerId};

use super::client::{Client, Purpose};
use super::clock::{Clock, Dice};
use super::coordinator::Coordinator;
use super::ctx::{COORDINATOR, Ctx, Event, Options, Pid, Role, Standing};
use super::faults::{self, Cast, Fault, Faults};
use super::history::{History, What};
use super::net::{End, Net, SILENCE};
use super::worker::Worker;

/// How long everything may take to be well again, in milliseconds.
const HEAL: u64 = 10_000;

/// A process of any kind.
#[derive(Debug)]
pub(super) enum Process {
    Coordinator(Box<Coordinator>),
    Worker(Box<Worker>),
    Client(Box<Client>),
}

/// The cluster.
#[derive(Debug)]
pub struct World {
    pub(super) ctx: Ctx,
    pub(super) processes: Vec<Process>,
    cast: Cast,
}

impl World {
    /// A cluster that is about to start.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        let mut dice = Dice::new(options.seed);
        let faults = options.faults == Faults::All;
        let rough = faults && dice.percent(30);
        let mut net = Net::default();
        net.delay = dice.between(0, 3);
        net.rare_delay = if rough { 200 } else { 30 };
        net.loss_percent = if faults { dice.below(6) } else { 0 };
        let echo_percent = if faults && dice.percent(40) { 5 } else { 0 };
        let drain = if faults && dice.percent(30) { 300 } else { 5000 };
        // With a member of little weight shares are parts of a queue, as with many members.
        let light = if dice.percent(40) { dice.between(4, 12) as u32 } else { 100 };
        let ctx = Ctx {
            clock: Clock::default(),
            net,
            dice,
            history: History::default(),
            bug: options.bug,
            faults: options.faults,
            tempted: 0,
            newest: None,
            echo_percent,
            standing: Vec::new(),
            publish_until: 0,
            quiet: false,
            exits: Vec::new(),
            trace: options.trace,
            drain,
            workers: BTreeMap::new(),
        };
        let mut world = Self { ctx, processes: Vec::new(), cast: Cast::default() };
        world.add("coordinator".into(), Role::Coordinator, |pid| {
            Process::Coordinator(Box::new(Coordinator::new(pid)))
        });
        for n in 1..=4 {
            world.add_worker(n);
        }
        for n in 1..=3 {
            let pid = world.add(format!("producer {n}"), Role::Client, |pid| {
                Process::Client(Box::new(Client::new(pid, Purpose::Produce)))
            });
            world.cast.producers.push(pid);
        }
        let late = if world.ctx.dice.percent(50) { Start::Now } else { Start::Start };
        // Of the second subscription there are more members than queues now and then.
        let some = if world.ctx.dice.percent(25) { "b.>" } else { "a.>" };
        for (name, filter, order, start) in
            [("all", ">", Order::Key, Start::Start), ("some", some, Order::Key, late)]
        {
            for n in 1..=3 {
                let weight = if n == 3 { light } else { 100 };
                world.add_member(name, filter, order, start, n, weight);
            }
        }
        if options.faults.is_calm() {
            world.ctx.note(What::Calm);
        }
        faults::stage(&mut world.ctx, &world.cast);
        world
    }

    fn add(&mut self, name: String, role: Role, make: impl FnOnce(Pid) -> Process) -> Pid {
        let pid = self.processes.len();
        self.processes.push(make(pid));
        self.ctx.standing.push(Standing {
            name,
            role,
            up: false,
            life: 0,
            started: 0,
            rate: self.ctx.dice.between(990, 1010),
            paused_until: 0,
        });
        pid
    }

    fn add_worker(&mut self, n: u32) {
        let Ok(id) = WorkerId::new(format!("w{n}")) else { return };
        let journal = Uuid(u128::from(self.ctx.dice.roll()));
        let named = id.clone();
        let pid = self.add(id.to_string(), Role::Worker, |pid| {
            Process::Worker(Box::new(Worker::new(named, pid, journal)))
        });
        self.ctx.workers.insert(id, pid);
        self.cast.workers.push(pid);
    }

    /// A member has two processes, of which the second may take over from the first.
    fn add_member(
        &mut self,
        name: &str,
        filter: &str,
        order: Order,
        start: Start,
        n: u32,
        weight: u32,
    ) {
        let parsed = (
            SubscriptionName::new(name),
            Filter::new(filter),
            MemberId::new(format!("{name}-{n}")),
        );
        let (Ok(name), Ok(filter), Ok(member)) = parsed else { return };
        let join = Join {
            name,
            filter,
            order: Some(order),
            start,
            member,
            incarnation: Incarnation(0),
            weight,
            origin: String::new(),
        };
        let pids = ["", "'"].map(|mark| {
            let join = join.clone();
            self.add(format!("{}{mark}", join.member), Role::Client, |pid| {
                Process::Client(Box::new(Client::new(pid, Purpose::Serve(join))))
            })
        });
        let seats = if name_is_first(&join) { &mut self.cast.first } else { &mut self.cast.second };
        seats.push(pids);
    }

    /// Runs until everything is well, or has to be.
    #[must_use]
    pub fn run(mut self, steps: u64) -> History {
        let mut limit = u64::MAX;
        for _ in 0..steps {
            let Some(event) = self.ctx.clock.next(limit) else { break };
            match event {
                Event::Quiet => limit = self.quiet(),
                Event::Check => {
                    if self.trouble().is_none() {
                        self.ctx.note(What::Healed);
                        break;
                    }
                    self.ctx.clock.after(100, Event::Check);
                }
                event => self.dispatch(event),
            }
            self.copy_queues();
            while let Some(pid) = self.ctx.exits.pop() {
                self.down(pid, false);
            }
        }
        if let Some(trouble) = self.trouble() {
            self.ctx.note(What::Unhealed(trouble));
        }
        for process in &self.processes {
            match process {
                Process::Coordinator(coordinator) => coordinator.report(&mut self.ctx),
                Process::Worker(worker) => worker.report(&mut self.ctx),
                Process::Client(_) => {}
            }
        }
        self.ctx.history
    }

    pub(super) fn up(&mut self, pid: Pid) {
        let now = self.ctx.clock.now();
        let standing = &mut self.ctx.standing[pid];
        if standing.up {
            return;
        }
        standing.up = true;
        standing.life += 1;
        standing.started = now;
        standing.paused_until = now;
        let text = format!("{} starts", standing.name);
        self.ctx.note(What::Fault(text));
        let ctx = &mut self.ctx;
        match &mut self.processes[pid] {
            Process::Coordinator(coordinator) => coordinator.start(ctx),
            Process::Worker(worker) => worker.start(ctx),
            Process::Client(client) => client.start(ctx),
        }
    }

    fn down(&mut self, pid: Pid, killed: bool) {
        if !std::mem::replace(&mut self.ctx.standing[pid].up, false) {
            return;
        }
        let name = &self.ctx.standing[pid].name;
        let text = format!("{name} {}", if killed { "is killed" } else { "ends" });
        self.ctx.note(What::Fault(text));
        let ctx = &mut self.ctx;
        match &mut self.processes[pid] {
            Process::Coordinator(coordinator) => coordinator.crash(ctx),
            Process::Worker(worker) => worker.crash(ctx),
            Process::Client(client) => client.crash(ctx),
        }
        for (conn, end) in ctx.net.of(pid) {
            // A killed process says nothing; its peers learn it by a reset, or by the silence.
            let quick = !killed || ctx.dice.percent(60);
            let notice = ctx.dice.between(0, if quick { 40 } else { SILENCE });
            ctx.net.close(&mut ctx.clock, conn, end, notice);
        }
    }

    pub(super) fn fault(&mut self, fault: &Fault) {
        let now = self.ctx.clock.now();
        match *fault {
            Fault::Crash { pid, for_ms } => {
                self.down(pid, true);
                if let Some(ms) = for_ms {
                    self.ctx.clock.after(ms, Event::Start(pid));
                }
            }
            Fault::Pause { pid, for_ms } => {
                let standing = &mut self.ctx.standing[pid];
                standing.paused_until = standing.paused_until.max(now + for_ms);
                let text = format!("{} stands still for {for_ms} ms", standing.name);
                self.ctx.note(What::Fault(text));
            }
            Fault::Silence { from, to, both, for_ms } => {
                self.ctx.net.silence(from, to, now + for_ms);
                if both {
                    self.ctx.net.silence(to, from, now + for_ms);
                }
                let names = [from, to].map(|pid| self.ctx.standing[pid].name.clone());
                let ways = if both { "and back" } else { "one way" };
                let [from, to] = names;
                self.ctx.note(What::Fault(format!("{from} to {to} {ways}: silent {for_ms} ms")));
            }
            Fault::Full { pid, full, for_ms } => {
                let until = now + for_ms;
                if let Process::Worker(worker) = &mut self.processes[pid] {
                    worker.disk.full = Some((until, full));
                    let worker = worker.id.clone();
                    self.ctx.note(What::Full { worker, full, until });
                }
            }
            Fault::Break => {
                let open = self.ctx.net.open_conns();
                if let Some(conn) = self.ctx.dice.pick(&open).copied() {
                    self.ctx.note(What::Fault(format!("connection {conn} breaks")));
                    for end in [End::Dialler, End::Acceptor] {
                        let notice = self.ctx.dice.between(0, 60);
                        self.ctx.clock.after(notice, Event::Closed { conn, end });
                    }
                }
            }
            Fault::Restart { pid, for_ms } => {
                if let Process::Worker(worker) = &mut self.processes[pid] {
                    worker.flush(&mut self.ctx);
                }
                self.down(pid, false);
                self.ctx.clock.after(for_ms, Event::Start(pid));
            }
            Fault::Grow { .. } | Fault::Bind { .. } | Fault::RingGroup | Fault::Drain { .. } => {
                let asked = match &mut self.processes[COORDINATOR] {
                    Process::Coordinator(coordinator) => coordinator.ask(&mut self.ctx, fault),
                    _ => false,
                };
                if asked {
                    self.ctx.note(What::Fault(format!("{fault:?}")));
                } else {
                    self.ctx.clock.after(200, Event::Fault(*fault));
                }
            }
            Fault::Leave { pid } => {
                let text = format!("{} leaves", self.ctx.standing[pid].name);
                self.ctx.note(What::Fault(text));
                if let Process::Client(client) = &mut self.processes[pid] {
                    client.leave(&mut self.ctx);
                }
            }
        }
    }

    /// Everything that ran runs again, and everybody reaches everybody. Returns when all has to
    /// be well.
    fn quiet(&mut self) -> u64 {
        self.ctx.note(What::Quiet);
        self.ctx.quiet = true;
        self.ctx.net.reach_all();
        for standing in &mut self.ctx.standing {
            standing.paused_until = 0;
        }
        self.up(COORDINATOR);
        for process in &mut self.processes {
            if let Process::Worker(worker) = process {
                worker.disk.full = None;
            }
        }
        for pid in self.cast.workers.clone() {
            if self.ctx.standing[pid].life > 0 {
                self.up(pid);
            }
        }
        for seats in [self.cast.first.clone(), self.cast.second.clone()] {
            let stays = |pid: Pid| match &self.processes[pid] {
                Process::Client(client) => client.stays(),
                _ => false,
            };
            if !seats.iter().flatten().any(|pid| stays(*pid))
                && let Some(pid) = seats.iter().flatten().find(|pid| !self.ctx.standing[**pid].up)
            {
                self.up(*pid);
            }
        }
        self.ctx.clock.after(100, Event::Check);
        self.ctx.clock.now() + HEAL
    }

    /// What is not as it should be, if anything is not.
    fn trouble(&self) -> Option<String> {
        let mut members = BTreeMap::new();
        let mut workers = 0;
        for (process, standing) in self.processes.iter().zip(&self.ctx.standing) {
            match process {
                Process::Worker(_) if standing.life > 0 => workers += 1,
                Process::Client(client) if standing.up => {
                    if let Purpose::Serve(join) = &client.purpose {
                        *members.entry(join.name.to_string()).or_default() += 1;
                    }
                }
                _ => {}
            }
        }
        self.processes.iter().zip(&self.ctx.standing).find_map(|(process, standing)| {
            let trouble = match process {
                Process::Coordinator(coordinator) => coordinator.trouble(workers, &members),
                Process::Worker(worker) if standing.life > 0 => worker.trouble(),
                Process::Worker(_) => None,
                Process::Client(client) => client.trouble(),
            };
            trouble.map(|trouble| format!("{}: {trouble}", standing.name))
        })
    }
}

fn name_is_first(join: &Join) -> bool {
    join.name.as_str() == "all"
}
