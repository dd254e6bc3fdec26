//! What the processes of a simulation share: the time, the network, the dice, the record of what
//! happens, and how every process stands. It does what it is asked to and decides nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use ringway_client::logic::right::Hold;
use ringway_proto::frame::Kind;
use ringway_proto::routing::{Router, Routing};
use ringway_proto::{Refusal, Time, WallTime, WorkerId};

use super::bugs::Bug;
use super::clock::{Clock, Dice};
use super::faults::{Fault, Faults};
use super::history::{Entry, History, What};
use super::net::{ConnId, End, Item, Net, StreamNo};

/// A process, by its number.
pub type Pid = usize;
/// The coordinator.
pub const COORDINATOR: Pid = 0;
/// What lies before the start of a client's clock, in milliseconds.
const CLIENT_CLOCK: u64 = 1_000_000;
/// Crashes at moments that are worth a try, in one run.
const MOST_TEMPTED: u32 = 3;

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
    /// A worker tries its full disk again.
    Retry,
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
    /// How fast its clock runs, in thousandths: no two clocks agree.
    pub rate: u64,
    pub(super) paused_until: u64,
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
    /// What goes wrong.
    pub faults: Faults,
    /// Producers stop then.
    pub publish_until: u64,
    /// The faults are over.
    pub quiet: bool,
    /// Processes that have ended by themselves.
    pub exits: Vec<Pid>,
    /// Whether to print what happens as it does.
    pub trace: bool,
    /// How many control messages in a hundred are said once more.
    pub echo_percent: u64,
    /// How long a member may take to give something up, in milliseconds.
    pub drain: u64,
    /// Which process each worker is.
    pub workers: BTreeMap<WorkerId, Pid>,
    pub(super) tempted: u32,
    /// What the newest routing came to: every client makes the same of it.
    pub(super) newest: Option<(Routing, Arc<Router>)>,
}

impl Ctx {
    /// A moment at which a crash is worth a try: this often in a hundred the process is killed
    /// now or very soon, and for a while may not reach the coordinator when it is back.
    pub fn tempt(&mut self, pid: Pid, percent: u64) {
        let over = self.clock.now() + 1500 > self.publish_until;
        if self.faults != Faults::All
            || over
            || self.tempted >= MOST_TEMPTED
            || !self.dice.percent(percent)
        {
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

    /// What a client makes of a routing.
    ///
    /// # Errors
    /// As [`Router::new`].
    pub fn router(&mut self, routing: Routing) -> Result<Arc<Router>, Refusal> {
        if let Some((known, router)) = &self.newest
            && *known == routing
        {
            return Ok(Arc::clone(router));
        }
        let router = Arc::new(Router::new(routing.clone())?);
        self.newest = Some((routing, Arc::clone(&router)));
        Ok(router)
    }

    /// The clock of a server process: it begins with it.
    #[must_use]
    pub fn local(&self, pid: Pid) -> Time {
        self.local_at(pid, self.clock.now())
    }

    /// A moment as the clock of a server process shows it; 0 for one before its start.
    #[must_use]
    pub fn local_at(&self, pid: Pid, at: u64) -> Time {
        let Standing { started, rate, .. } = self.standing[pid];
        Time(at.saturating_sub(started) * rate / 1000)
    }

    /// The moment at which the clock of a server process shows this.
    #[must_use]
    pub fn moment(&self, pid: Pid, time: Time) -> u64 {
        let Standing { started, rate, .. } = self.standing[pid];
        started + (time.0 * 1000).div_ceil(rate)
    }

    /// The clock of a client process.
    #[must_use]
    pub fn client_time(&self, pid: Pid) -> Time {
        self.client_time_at(pid, self.clock.now())
    }

    /// A moment as a client's clock shows it.
    #[must_use]
    pub fn client_time_at(&self, pid: Pid, at: u64) -> Time {
        let before = self.standing[pid].started.saturating_sub(at);
        Time(CLIENT_CLOCK + self.local_at(pid, at).0 - before)
    }

    /// The moment at which a client's clock shows this.
    #[must_use]
    pub fn client_moment(&self, pid: Pid, time: Time) -> u64 {
        self.moment(pid, Time(time.0.saturating_sub(CLIENT_CLOCK)))
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

    /// Whether the process stands still.
    #[must_use]
    pub fn is_paused(&self, pid: Pid) -> bool {
        self.standing[pid].paused_until > self.clock.now()
    }
}

/// How a run is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Everything follows from it.
    pub seed: u64,
    /// What goes wrong.
    pub faults: Faults,
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
        Self { seed, faults: Faults::All, bug: None, trace: false, steps: u64::MAX }
    }
}
