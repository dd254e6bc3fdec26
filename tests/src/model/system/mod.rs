//! The whole system as a state that can be named: parts, what is on the way, connections and what
//! may still go wrong, all as small numbers. It owns what is known of the parts so far; which steps
//! a state has is in `acts`, where each leads in `apply`, what must hold in `checks`.

mod acts;
mod apply;
mod checks;
mod prompt;
mod steps;

use ringway_proto::control::CopyFrom;

use super::bugs::Bug;
use super::ghost::Ghost;
use super::intern::{Map, Printer, Table};
use super::parts::coordinator::{Coordinator, Wait};
use super::parts::member::Member;
use super::parts::worker::{View, Worker};
use super::parts::{Cast, Event, Link, Message};

/// The most peers of the coordinator.
const PEERS: usize = 5;

/// What may still go wrong, or be done by people.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Budget {
    /// Processes of members that start.
    pub starts: u8,
    /// Members that leave in order.
    pub leaves: u8,
    /// Processes of members that are killed.
    pub kills: u8,
    /// Sessions that lapse although their process runs.
    pub lapses: u8,
    /// Drains whose time is over although the member drains.
    pub overruns: u8,
    /// Repeats, and moves that are given up, although nothing is lost.
    pub hurries: u8,
    /// Workers that are killed.
    pub worker_crashes: u8,
    /// Kills of the coordinator.
    pub coordinator_crashes: u8,
    /// Connections that break.
    pub breaks: u8,
    /// Ends of connections behind which what was under way still arrives.
    pub lates: u8,
    /// Control messages that come twice.
    pub echoes: u8,
    /// Under prompt delivery: connections that break, links that are held and control messages
    /// that come twice, all together.
    pub disturbed: u8,
    /// Orders to empty a worker, and to take that back, in turns.
    pub drains: u8,
    /// Messages that are published to each queue.
    pub messages: u8,
}

impl Budget {
    /// What of it has this name.
    pub fn named(&mut self, name: &str) -> Option<&mut u8> {
        Some(match name {
            "starts" => &mut self.starts,
            "leaves" => &mut self.leaves,
            "kills" => &mut self.kills,
            "lapses" => &mut self.lapses,
            "overruns" => &mut self.overruns,
            "hurries" => &mut self.hurries,
            "worker_crashes" => &mut self.worker_crashes,
            "coordinator_crashes" => &mut self.coordinator_crashes,
            "breaks" => &mut self.breaks,
            "lates" => &mut self.lates,
            "echoes" => &mut self.echoes,
            "disturbed" => &mut self.disturbed,
            "drains" => &mut self.drains,
            "messages" => &mut self.messages,
            _ => return None,
        })
    }

    /// That something comes late costs nothing where it was held before.
    fn pay_late(&mut self, is_late: bool) {
        self.lates = self.lates.saturating_sub(u8::from(is_late));
    }

    fn pay_break(&mut self) {
        let kind = if self.breaks > 0 { &mut self.breaks } else { &mut self.disturbed };
        *kind -= 1;
    }

    fn pay_echo(&mut self) {
        let kind = if self.echoes > 0 { &mut self.echoes } else { &mut self.disturbed };
        *kind -= 1;
    }
}

/// A step of the system.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Act {
    /// The next message of a link arrives; with `true`, it is said once more for later too.
    Deliver(Link, bool),
    /// What a worker wrote is durable.
    Sync(u8),
    /// A copy asks its original.
    Ask(u8, u8),
    /// A peer connects to the coordinator.
    Connect(u8),
    /// An application takes a message.
    Take(u8),
    /// An application is done with a message.
    Settle(u8),
    /// A member opens again.
    Retry(u8),
    /// A worker starts, again or for the first time.
    StartWorker(u8),
    /// The coordinator starts.
    StartCoordinator,
    /// Time passes.
    Wait(Wait),
    /// What is under way on a link waits until it is released.
    Hold(Link),
    /// It goes on.
    Release(Link),
    /// Time passes although something is under way; a peer is not heard meanwhile.
    Hurry(Wait, Option<u8>),
    /// A member's process starts.
    Start(u8),
    /// A member leaves.
    Leave(u8),
    /// A member's process is killed; what it said may come late.
    Kill(u8, bool),
    /// A worker is killed; so many of its last writes are kept.
    CrashWorker(u8, u8, bool),
    /// The coordinator is killed; what it said may come late.
    CrashCoordinator(bool),
    /// A peer's connection to the coordinator breaks; what either side said may come late.
    Break(u8, bool, bool),
    /// A member's streams to a worker break; what it said may come late.
    BreakStreams(u8, u8, bool),
    /// A worker is to be emptied, or no longer.
    Drain(u8, bool),
    /// A producer sends a message to whom it takes for the primary.
    Publish(u8, u8),
}

impl Act {
    /// Whether it is neither a fault nor somebody's wish: it happens by itself sooner or later.
    #[must_use]
    pub fn is_free(&self) -> bool {
        match self {
            Self::Deliver(_, again) => !again,
            Self::Sync(_)
            | Self::Ask(..)
            | Self::Connect(_)
            | Self::Take(_)
            | Self::Settle(_)
            | Self::Retry(_)
            | Self::StartWorker(_)
            | Self::StartCoordinator
            | Self::Release(_)
            | Self::Wait(_) => true,
            _ => false,
        }
    }
}

/// A state of the system.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    coordinator: u32,
    workers: [u32; 2],
    members: [u32; 3],
    ghost: u32,
    /// The open connection of each peer to the coordinator, 0 for none, and the last one made.
    conns: [u8; PEERS],
    made: [u8; PEERS],
    /// The worker that is to be emptied, from 1; 0 for none.
    draining: u8,
    budget: Budget,
    /// What is on the way: sorted by link, in order on each.
    under_way: Vec<(u32, u32)>,
    /// The links on which it waits, sorted.
    held: Vec<u32>,
}

impl State {
    /// Something that two states share only if they are the same.
    #[must_use]
    pub fn print(&self) -> u128 {
        let mut words: Vec<u32> = Vec::with_capacity(20 + 2 * self.under_way.len());
        words.push(self.coordinator);
        words.extend(self.workers);
        words.extend(self.members);
        words.push(self.ghost);
        let b = &self.budget;
        let few = [
            b.starts,
            b.leaves,
            b.kills,
            b.lapses,
            b.overruns,
            b.hurries,
            b.worker_crashes,
            b.coordinator_crashes,
            b.breaks,
            b.lates,
            b.echoes,
            b.disturbed,
            b.drains,
            b.messages,
            self.draining,
        ];
        words.extend(self.conns.iter().chain(&self.made).chain(&few).map(|n| u32::from(*n)));
        words.extend(self.under_way.iter().flat_map(|(link, message)| [*link, *message]));
        words.extend(&self.held);
        let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        xxhash_rust::xxh3::xxh3_128(&bytes)
    }

    fn push(&mut self, link: u32, message: u32) {
        let at = self.under_way.partition_point(|(known, _)| *known <= link);
        self.under_way.insert(at, (link, message));
    }

    fn clear(&mut self, link: u32) {
        self.under_way.retain(|(known, _)| *known != link);
        self.held.retain(|known| *known != link);
    }

    fn hold(&mut self, link: u32) {
        if let Err(at) = self.held.binary_search(&link) {
            self.held.insert(at, link);
        }
    }
}

/// Which part a step is of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Part {
    Coordinator,
    Worker(u8),
    Member(u8),
}

/// What a step gave out, by numbers.
#[derive(Debug)]
struct Outcome {
    sends: Vec<(u32, u32)>,
    hang_ups: Vec<(u8, u8)>,
    events: Vec<Event>,
}

/// An input that is not a message: a code and an argument.
type Input = (u32, u32);

/// Everything that is known of the states so far, and the steps that were computed.
pub struct System {
    /// Who takes part.
    pub cast: Cast,
    printer: Printer,
    coordinators: Table<Coordinator>,
    workers: Table<Worker>,
    members: Table<Member>,
    ghosts: Table<Ghost>,
    links: Table<Link>,
    link_names: Map<Link, u32>,
    messages: Table<Message>,
    steps: Map<(Part, u32, Input), (u32, u32)>,
    outcomes: Vec<Outcome>,
    views: Map<u32, Vec<View>>,
    asks: Map<u32, Vec<Asked>>,
    /// What was found right about the coordinator, the workers and what happened; and whether all
    /// was well with them.
    checked: Map<(u32, [u32; 2], u32), bool>,
    /// Steps of the parts that were computed.
    pub computed: u64,
}

/// What a copy asks: which queue, under which number, whom, and what.
type Asked = (u8, u64, String, CopyFrom);

/// A step that breaks a promise, in words.
pub type Broken = String;

impl System {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(cast: Cast) -> Self {
        Self {
            cast,
            printer: Printer::default(),
            coordinators: Table::default(),
            workers: Table::default(),
            members: Table::default(),
            ghosts: Table::default(),
            links: Table::default(),
            link_names: Map::default(),
            messages: Table::default(),
            steps: Map::default(),
            outcomes: Vec::new(),
            views: Map::default(),
            asks: Map::default(),
            checked: Map::default(),
            computed: 0,
        }
    }

    /// Everything is down and nothing was ever stored.
    pub fn nothing(&mut self, budget: Budget) -> State {
        let coordinator = Coordinator::new(&self.cast);
        let coordinator = self.name_coordinator(coordinator);
        let workers = [0, 1].map(|index| self.name_worker(Worker::new(index)));
        let members = [0, 1, 2].map(|process| self.name_member(Member::new(process)));
        let ghost = self.name_ghost(Ghost::default());
        State {
            coordinator,
            workers,
            members,
            ghost,
            conns: [0; PEERS],
            made: [0; PEERS],
            draining: 0,
            budget,
            under_way: Vec::new(),
            held: Vec::new(),
        }
    }

    /// Plants a bug: from here on the parts have it.
    pub fn plant(&mut self, bug: Option<Bug>) {
        self.cast.bug = bug;
        self.steps.clear();
    }

    /// The same state with another budget.
    #[must_use]
    pub fn with_budget(state: &State, budget: Budget) -> State {
        State { budget, ..state.clone() }
    }

    /// What happened on the way to a state.
    #[must_use]
    pub fn ghost(&self, state: &State) -> &Ghost {
        self.ghosts.get(state.ghost)
    }

    fn name_coordinator(&mut self, part: Coordinator) -> u32 {
        let print = self.printer.print(part.now, &part);
        self.coordinators.name(print, part)
    }

    fn name_worker(&mut self, part: Worker) -> u32 {
        let print = self.printer.print(0, &part);
        self.workers.name(print, part)
    }

    fn name_member(&mut self, part: Member) -> u32 {
        let print = self.printer.print(part.now, &part);
        self.members.name(print, part)
    }

    fn name_ghost(&mut self, ghost: Ghost) -> u32 {
        let print = self.printer.print(0, &ghost);
        self.ghosts.name(print, ghost)
    }

    fn link(&mut self, link: Link) -> u32 {
        if let Some(known) = self.link_names.get(&link) {
            return *known;
        }
        // Numbered so that the order of the numbers does not depend on when they were seen.
        let name = self.links.name(self.links.len() as u128, link);
        self.link_names.insert(link, name);
        name
    }

    fn message(&mut self, message: Message) -> u32 {
        let print = self.printer.print(0, &message);
        self.messages.name(print, message)
    }

    fn closed(&mut self) -> u32 {
        self.message(Message::Closed)
    }

    fn coordinator(&self, state: &State) -> &Coordinator {
        self.coordinators.get(state.coordinator)
    }

    fn worker(&self, state: &State, index: u8) -> &Worker {
        self.workers.get(state.workers[usize::from(index)])
    }

    fn member(&self, state: &State, process: u8) -> &Member {
        self.members.get(state.members[usize::from(process)])
    }

    fn processes(&self) -> std::ops::Range<u8> {
        0..self.cast.processes.len() as u8
    }

    fn is_peer_up(&self, state: &State, peer: u8) -> bool {
        match self.cast.process_of(peer) {
            Some(process) => self.member(state, process).is_up(),
            None => self.worker(state, peer).is_up(),
        }
    }

    fn peer_conn(&self, state: &State, peer: u8) -> u8 {
        match self.cast.process_of(peer) {
            Some(process) => self.member(state, process).conn(),
            None => self.worker(state, peer).conn(),
        }
    }

    /// The links on which something is under way, each once.
    fn heads(&self, state: &State) -> Vec<(u32, u32)> {
        let mut heads: Vec<(u32, u32)> = Vec::new();
        for (link, message) in &state.under_way {
            if heads.last().is_none_or(|(last, _)| last != link) {
                heads.push((*link, *message));
            }
        }
        heads
    }

    /// A step in words.
    #[must_use]
    pub fn describe(&self, state: &State, act: Act) -> String {
        let Act::Deliver(link, again) = act else { return format!("{act:?}") };
        let known = self.link_names.get(&link);
        let head = state.under_way.iter().find(|(of, _)| Some(of) == known);
        let twice = if again { " (and once more later)" } else { "" };
        match head.map(|(_, message)| self.messages.get(*message)) {
            Some(Message::Frame(kind, _)) => format!("{link:?}{twice}: {kind:?}"),
            Some(message) => {
                let mut text = format!("{message:?}");
                text.truncate(300);
                format!("{link:?}{twice}: {text}")
            }
            None => format!("{link:?}: nothing"),
        }
    }
}

impl Outcome {
    fn is_empty(&self) -> bool {
        self.sends.is_empty() && self.hang_ups.is_empty() && self.events.is_empty()
    }
}
