//! A cluster of simulated processes: it dispatches what the clock brings, starts, kills and pauses
//! processes, and looks whether everything is well once the faults are over. What a process does
//! with what it is given is its own business.

use std::collections::BTreeMap;

use bytes::Bytes;
use ringway_client::logic::right::Hold;
use ringway_proto::control::{Join, Order, Start};
use ringway_proto::frame::Kind;
use ringway_proto::{
    Filter, Incarnation, MemberId, Refusal, SubscriptionName, Time, Uuid, WallTime, WorkerId,
};

use super::bugs::Bug;
use super::client::{Client, Purpose};
use super::clock::{Clock, Dice};
use super::coordinator::Coordinator;
use super::faults::{self, Cast, Fault};
use super::history::{Entry, History, What};
use super::net::{ConnId, End, Item, Net, PING_EVERY, SILENCE, StreamNo};
use super::worker::Worker;

/// A process, by its number.
pub type Pid = usize;
/// The coordinator.
pub const COORDINATOR: Pid = 0;
/// What lies before the start of a client's clock, in milliseconds.
const CLIENT_CLOCK: u64 = 1_000_000;
/// Crashes at moments that are worth a try, in one run.
const MOST_TEMPTED: u32 = 3;
/// How long everything may take to be well again, in milliseconds.
const HEAL: u64 = 10_000;

/// What a process is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It decides.
    Coordinator,
    /// It stores.
    Worker,
    /// It publishes or takes a seat.
    Client,
}

/// What a process asked to be told, and when.
#[derive(Clone, Debug)]
pub enum Timer {
    /// The coordinator takes what waits.
    Step,
    /// The coordinator's changes are stored.
    Committed,
    /// The coordinator looks at the clocks.
    Look,
    /// A worker's round is durable.
    Synced,
    /// A right of a worker has a deadline.
    Wake,
    /// Dial that process again.
    Redial(Pid),
    /// A client looks at its clocks.
    Tick,
    /// Something of a client is due.
    Due,
    /// A producer publishes.
    Publish,
    /// A handler is done.
    Handled(Hold),
}

/// What happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// The next item of a stream arrives at this side.
    Arrive {
        /// The connection.
        conn: ConnId,
        /// The stream.
        stream: StreamNo,
        /// The side.
        to: End,
    },
    /// This side notices that the connection is gone.
    Closed {
        /// The connection.
        conn: ConnId,
        /// The side.
        end: End,
    },
    /// An attempt to connect ends.
    Dialled {
        /// Who.
        from: Pid,
        /// Which process of it.
        life: u64,
        /// To whom.
        to: Pid,
    },
    /// Nobody was reached.
    DialFailed {
        /// Who dialled.
        from: Pid,
        /// Which process of it.
        life: u64,
        /// Whom.
        to: Pid,
    },
    /// The dialler asks "are you there".
    Ping {
        /// The connection.
        conn: ConnId,
    },
    /// The question arrives.
    PingArrives {
        /// The connection.
        conn: ConnId,
        /// When it was sent.
        sent: u64,
    },
    /// The answer arrives.
    PongArrives {
        /// The connection.
        conn: ConnId,
        /// When the question was sent.
        sent: u64,
    },
    /// A timer of a process.
    Timer {
        /// Whose.
        pid: Pid,
        /// Which process of it.
        life: u64,
        /// Which.
        timer: Timer,
    },
    /// A control message is said once more, on the stream that it was said on.
    Echo {
        /// The connection.
        conn: ConnId,
        /// The side that says it.
        from: End,
        /// The stream.
        stream: StreamNo,
        /// The message.
        payload: Bytes,
    },
    /// A process starts unless it runs.
    Start(Pid),
    /// Something goes wrong, or somebody comes or goes.
    Fault(Fault),
    /// The faults are over.
    Quiet,
    /// Is everything well?
    Check,
}

/// How a process stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// For people.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Whether it runs.
    pub up: bool,
    /// How many times it was started.
    pub life: u64,
    /// When it was started last.
    pub started: u64,
    paused_until: u64,
}

/// What processes share: time, network, dice, and the record of what happens.
#[derive(Debug)]
pub struct Ctx {
    /// The time.
    pub clock: Clock,
    /// The network.
    pub net: Net,
    /// The dice.
    pub dice: Dice,
    /// The record.
    pub history: History,
    /// The planted bug.
    pub bug: Option<Bug>,
    /// Every process.
    pub standing: Vec<Standing>,
    /// Whether anything goes wrong.
    pub faults: bool,
    /// Producers stop then.
    pub publish_until: u64,
    /// The faults are over.
    pub quiet: bool,
    /// Processes that have ended by themselves.
    pub exits: Vec<Pid>,
    trace: bool,
    tempted: u32,
    echo_percent: u64,
    workers: BTreeMap<WorkerId, Pid>,
}

impl Ctx {
    /// A moment at which a crash is worth a try: this often in a hundred the process is killed
    /// now or very soon, and for a while may not reach the coordinator when it is back.
    pub fn tempt(&mut self, pid: Pid, percent: u64) {
        let over = self.clock.now() + 1500 > self.publish_until;
        if !self.faults || over || self.tempted >= MOST_TEMPTED || !self.dice.percent(percent) {
            return;
        }
        self.tempted += 1;
        let at = self.clock.now() + self.dice.between(0, 12);
        let down = self.dice.between(1, 60);
        self.clock.at(at, Event::Fault(Fault::Crash { pid, for_ms: Some(down) }));
        if self.dice.percent(50) {
            let (both, for_ms) = (self.dice.percent(50), self.dice.between(50, 1000));
            let (from, to) = (pid, COORDINATOR);
            self.clock.after(0, Event::Fault(Fault::Silence { from, to, both, for_ms }));
        }
    }

    /// The clock of a server process: it begins with it.
    #[must_use]
    pub fn local(&self, pid: Pid) -> Time {
        Time(self.clock.now() - self.standing[pid].started)
    }

    /// The clock of a client process.
    #[must_use]
    pub fn client_time(&self, pid: Pid) -> Time {
        self.client_time_at(pid, self.clock.now())
    }

    /// A moment as a client's clock shows it.
    #[must_use]
    pub fn client_time_at(&self, pid: Pid, at: u64) -> Time {
        Time((CLIENT_CLOCK + at).saturating_sub(self.standing[pid].started))
    }

    /// The moment at which a client's clock shows this.
    #[must_use]
    pub fn client_moment(&self, pid: Pid, time: Time) -> u64 {
        (time.0 + self.standing[pid].started).saturating_sub(CLIENT_CLOCK)
    }

    /// The calendar.
    #[must_use]
    pub fn wall(&self) -> WallTime {
        WallTime(1_700_000_000_000 + self.clock.now())
    }

    /// Tells this process of it at `at`, if it still lives then.
    pub fn timer(&mut self, pid: Pid, at: u64, timer: Timer) {
        let life = self.standing[pid].life;
        self.clock.at(at, Event::Timer { pid, life, timer });
    }

    /// Sends a frame.
    pub fn send(&mut self, conn: ConnId, from: End, stream: StreamNo, kind: Kind, payload: Bytes) {
        let item = Item::Frame(kind, payload);
        self.net.send(&mut self.clock, &mut self.dice, conn, from, stream, item);
    }

    /// Says a control message, and where it `may_come_twice` perhaps once more, much later.
    pub fn say(
        &mut self,
        conn: ConnId,
        from: End,
        stream: StreamNo,
        payload: Bytes,
        may_come_twice: bool,
    ) {
        if may_come_twice && self.dice.percent(self.echo_percent) {
            let later = self.dice.between(0, 2000);
            let payload = payload.clone();
            self.clock.after(later, Event::Echo { conn, from, stream, payload });
        }
        self.send(conn, from, stream, Kind::Control, payload);
    }

    /// Ends a stream.
    pub fn finish(&mut self, conn: ConnId, from: End, stream: StreamNo) {
        self.net.send(&mut self.clock, &mut self.dice, conn, from, stream, Item::Finish);
    }

    /// Ends a connection; this side knows at once.
    pub fn close(&mut self, conn: ConnId, end: End) {
        self.clock.after(0, Event::Closed { conn, end });
        let notice = self.dice.between(0, 40);
        let open = self.net.conn(conn).is_some_and(|c| c.is_open(end.other()));
        if open {
            self.clock.after(notice, Event::Closed { conn, end: end.other() });
        }
    }

    /// Begins to connect.
    pub fn dial(&mut self, from: Pid, to: Pid) {
        let life = self.standing[from].life;
        let takes = self.net.delay(&self.clock, &mut self.dice, from, to).min(2000);
        self.clock.after(takes, Event::Dialled { from, life, to });
    }

    /// The wait after so many failures in a row, in milliseconds.
    pub fn back_off(&mut self, failures: u32) -> u64 {
        let wait = (50u64 << failures.min(4)).min(500);
        wait + self.dice.below(wait)
    }

    /// Writes down what happened.
    pub fn note(&mut self, what: What) {
        if self.trace {
            eprintln!("{:>6} {what:?}", self.clock.now());
        }
        self.history.entries.push(Entry { at: self.clock.now(), what });
    }

    /// Writes down a refusal that should not be.
    pub fn left(&mut self, who: &str, refusal: &Refusal) {
        self.note(What::Left { who: who.to_owned(), why: refusal.text.clone() });
    }

    /// The process of a worker.
    #[must_use]
    pub fn pid_of(&self, worker: &WorkerId) -> Option<Pid> {
        self.workers.get(worker).copied()
    }

    /// The worker that this process is.
    #[must_use]
    pub fn worker_at(&self, pid: Pid) -> Option<WorkerId> {
        self.workers.iter().find(|(_, p)| **p == pid).map(|(id, _)| id.clone())
    }

    pub fn is_paused(&self, pid: Pid) -> bool {
        self.standing[pid].paused_until > self.clock.now()
    }
}

#[derive(Debug)]
pub(super) enum Process {
    Coordinator(Coordinator),
    Worker(Worker),
    Client(Client),
}

/// How a run is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Everything follows from it.
    pub seed: u64,
    /// Whether anything goes wrong.
    pub faults: bool,
    /// What is wrong with the drivers.
    pub bug: Option<Bug>,
    /// Whether to print what happens as it does.
    pub trace: bool,
    /// After so many events the run is cut.
    pub steps: u64,
}

impl Options {
    /// A run with faults and without a planted bug.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, faults: true, bug: None, trace: false, steps: u64::MAX }
    }
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
        let rough = options.faults && dice.percent(30);
        let mut net = Net::default();
        net.delay = dice.between(0, 3);
        net.rare_delay = if rough { 200 } else { 30 };
        net.loss_percent = if options.faults { dice.below(6) } else { 0 };
        let echo_percent = if options.faults && dice.percent(40) { 5 } else { 0 };
        let ctx = Ctx {
            clock: Clock::default(),
            net,
            dice,
            history: History::default(),
            bug: options.bug,
            faults: options.faults,
            tempted: 0,
            echo_percent,
            standing: Vec::new(),
            publish_until: 0,
            quiet: false,
            exits: Vec::new(),
            trace: options.trace,
            workers: BTreeMap::new(),
        };
        let mut world = Self { ctx, processes: Vec::new(), cast: Cast::default() };
        world.add("coordinator".into(), Role::Coordinator, |pid| {
            Process::Coordinator(Coordinator::new(pid))
        });
        for n in 1..=4 {
            world.add_worker(n);
        }
        for n in 1..=3 {
            let pid = world.add(format!("producer {n}"), Role::Client, |pid| {
                Process::Client(Client::new(pid, Purpose::Produce))
            });
            world.cast.producers.push(pid);
        }
        let late = if world.ctx.dice.percent(50) { Start::Now } else { Start::Start };
        for (name, filter, order, start) in
            [("all", ">", Order::Key, Start::Start), ("some", "a.>", Order::Key, late)]
        {
            for n in 1..=3 {
                world.add_member(name, filter, order, start, n);
            }
        }
        faults::stage(&mut world.ctx, &world.cast, options.faults);
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
            paused_until: 0,
        });
        pid
    }

    fn add_worker(&mut self, n: u32) {
        let Ok(id) = WorkerId::new(format!("w{n}")) else { return };
        let journal = Uuid(u128::from(self.ctx.dice.roll()));
        let named = id.clone();
        let pid = self.add(id.to_string(), Role::Worker, |pid| {
            Process::Worker(Worker::new(named, pid, journal))
        });
        self.ctx.workers.insert(id, pid);
        self.cast.workers.push(pid);
    }

    /// A member has two processes, of which the second may take over from the first.
    fn add_member(&mut self, name: &str, filter: &str, order: Order, start: Start, n: u32) {
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
            weight: 100,
            origin: String::new(),
        };
        let pids = ["", "'"].map(|mark| {
            let join = join.clone();
            self.add(format!("{}{mark}", join.member), Role::Client, |pid| {
                Process::Client(Client::new(pid, Purpose::Serve(join)))
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

    fn dispatch(&mut self, event: Event) {
        let pid = match &event {
            Event::Arrive { conn, to, .. } => self.ctx.net.conn(*conn).map(|c| c.at(*to)),
            Event::Closed { conn, end } => self.ctx.net.conn(*conn).map(|c| c.at(*end)),
            Event::Dialled { from, .. } | Event::DialFailed { from, .. } => Some(*from),
            Event::Ping { conn } | Event::PongArrives { conn, .. } => {
                self.ctx.net.conn(*conn).map(|c| c.dialler)
            }
            Event::PingArrives { conn, .. } => self.ctx.net.conn(*conn).map(|c| c.acceptor),
            Event::Timer { pid, .. } => Some(*pid),
            Event::Echo { conn, from, .. } => self.ctx.net.conn(*conn).map(|c| c.at(*from)),
            Event::Start(_) | Event::Fault(_) | Event::Quiet | Event::Check => Some(COORDINATOR),
        };
        let Some(pid) = pid else { return };
        let outside = matches!(event, Event::Start(_) | Event::Fault(_));
        if self.ctx.is_paused(pid) && !outside {
            let resumes = self.ctx.standing[pid].paused_until;
            self.ctx.clock.at(resumes, event);
            return;
        }
        match event {
            Event::Arrive { conn, stream, to } => self.arrive(pid, conn, stream, to),
            Event::Closed { conn, end } => self.closed(pid, conn, end),
            Event::Dialled { from, life, to } => self.dialled(from, life, to),
            Event::DialFailed { from, life, to } => {
                if self.lives(from, life) {
                    let ctx = &mut self.ctx;
                    match &mut self.processes[from] {
                        Process::Worker(worker) => worker.dial_failed(ctx),
                        Process::Client(client) => client.dial_failed(ctx, to),
                        Process::Coordinator(_) => {}
                    }
                }
            }
            Event::Ping { conn } => self.ping(conn),
            Event::PingArrives { conn, sent } => self.ping_arrives(conn, sent),
            Event::PongArrives { conn, sent } => {
                let now = self.ctx.clock.now();
                if let Some(conn) = self.ctx.net.conn_mut(conn) {
                    conn.answered = conn.answered.max(sent);
                    conn.ponged = now;
                }
            }
            Event::Timer { pid, life, timer } => {
                if self.lives(pid, life) {
                    let ctx = &mut self.ctx;
                    match &mut self.processes[pid] {
                        Process::Coordinator(coordinator) => coordinator.timer(ctx, &timer),
                        Process::Worker(worker) => worker.timer(ctx, &timer),
                        Process::Client(client) => client.timer(ctx, &timer),
                    }
                }
            }
            Event::Echo { conn, from, stream, payload } => {
                self.ctx.send(conn, from, stream, Kind::Control, payload);
            }
            Event::Start(pid) => self.up(pid),
            Event::Fault(fault) => self.fault(&fault),
            Event::Quiet | Event::Check => {}
        }
    }

    fn lives(&self, pid: Pid, life: u64) -> bool {
        let standing = &self.ctx.standing[pid];
        standing.up && standing.life == life
    }

    fn arrive(&mut self, pid: Pid, conn: ConnId, stream: StreamNo, to: End) {
        let Some(item) = self.ctx.net.arrive(conn, stream, to) else { return };
        let ctx = &mut self.ctx;
        match &mut self.processes[pid] {
            Process::Coordinator(coordinator) => coordinator.arrived(ctx, conn, stream, item),
            Process::Worker(worker) if to == End::Dialler => worker.ordered(ctx, conn, item),
            Process::Worker(worker) => worker.arrived(ctx, conn, stream, item),
            Process::Client(client) => client.arrived(ctx, conn, stream, item),
        }
    }

    fn closed(&mut self, pid: Pid, conn: ConnId, end: End) {
        let other = self.ctx.net.conn(conn).map(|c| c.at(end.other()));
        if !self.ctx.net.noticed(conn, end) {
            return;
        }
        let ctx = &mut self.ctx;
        match &mut self.processes[pid] {
            Process::Coordinator(coordinator) => coordinator.disconnected(ctx, conn),
            Process::Worker(worker) if end == End::Dialler => worker.coordinator_gone(ctx),
            Process::Worker(worker) => worker.client_gone(ctx, conn),
            Process::Client(client) => client.disconnected(ctx, conn, other.unwrap_or_default()),
        }
    }

    fn dialled(&mut self, from: Pid, life: u64, to: Pid) {
        if !self.lives(from, life) {
            return;
        }
        let now = self.ctx.clock.now();
        let silent = |a, b| self.ctx.net.silent_until(now, a, b).is_some();
        let reached = self.ctx.standing[to].up && !self.ctx.is_paused(to);
        if !reached || silent(from, to) || silent(to, from) {
            let takes = self.ctx.dice.between(5, 200);
            self.ctx.clock.after(takes, Event::DialFailed { from, life, to });
            return;
        }
        let ctx = &mut self.ctx;
        let conn = ctx.net.connect(&mut ctx.clock, from, to);
        match &mut self.processes[from] {
            Process::Worker(worker) => worker.connected(ctx, conn),
            Process::Client(client) => client.connected(ctx, conn, to),
            Process::Coordinator(_) => {}
        }
    }

    fn ping(&mut self, id: ConnId) {
        let ctx = &mut self.ctx;
        let now = ctx.clock.now();
        let Some(conn) = ctx.net.conn_mut(id).filter(|c| c.is_open(End::Dialler)) else { return };
        if now > conn.next_ping + SILENCE / 2 {
            // It stood still itself, so what it has not heard is its own fault.
            conn.ponged = now;
        }
        conn.next_ping = now + PING_EVERY;
        let (from, to, silent_for) = (conn.dialler, conn.acceptor, now - conn.ponged);
        if silent_for > SILENCE {
            ctx.net.close(&mut ctx.clock, id, End::Dialler, 1);
            // Closed for good once the process itself knows.
            self.lost(id, from, to);
            return;
        }
        ctx.clock.after(PING_EVERY, Event::Ping { conn: id });
        if ctx.net.silent_until(now, from, to).is_none() && !ctx.dice.percent(ctx.net.loss_percent)
        {
            let takes = ctx.net.delay(&ctx.clock, &mut ctx.dice, from, to);
            ctx.clock.after(takes, Event::PingArrives { conn: id, sent: now });
        }
    }

    fn lost(&mut self, conn: ConnId, pid: Pid, to: Pid) {
        match &mut self.processes[pid] {
            Process::Worker(worker) => worker.coordinator_gone(&mut self.ctx),
            Process::Client(client) => client.disconnected(&mut self.ctx, conn, to),
            Process::Coordinator(_) => {}
        }
    }

    fn ping_arrives(&mut self, id: ConnId, sent: u64) {
        let ctx = &mut self.ctx;
        let now = ctx.clock.now();
        let Some(conn) = ctx.net.conn_mut(id).filter(|c| c.is_open(End::Acceptor)) else { return };
        conn.heard = now;
        let (from, to) = (conn.acceptor, conn.dialler);
        if ctx.net.silent_until(now, from, to).is_none() && !ctx.dice.percent(ctx.net.loss_percent)
        {
            let takes = ctx.net.delay(&ctx.clock, &mut ctx.dice, from, to);
            ctx.clock.after(takes, Event::PongArrives { conn: id, sent });
        }
    }

    fn up(&mut self, pid: Pid) {
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

    fn fault(&mut self, fault: &Fault) {
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
