//! The whole system as a state that can be named: parts, what is on the way, connections and what
//! may still go wrong, all as small numbers. It knows which steps a state has and where each leads;
//! the rules are those of the parts.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;

use ringway_coordinator::logic::rows::{Phase, QueueRow};
use ringway_proto::control::CopyFrom;
use ringway_proto::{Epoch, Holder, Offset};

use super::bugs::Bug;
use super::ghost::Ghost;
use super::intern::{Map, Printer, Table};
use super::parts::coordinator::{self, Coordinator, Wait};
use super::parts::member::{self, Member};
use super::parts::worker::{self, Kept, View, Worker};
use super::parts::{Cast, Event, Link, Message, Out, Stream};

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
    /// Orders to empty a worker, and to take that back, in turns.
    pub drains: u8,
    /// Messages that are published to each queue.
    pub messages: u8,
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
            b.drains,
            b.messages,
            self.draining,
        ];
        words.extend(self.conns.iter().chain(&self.made).chain(&few).map(|n| u32::from(*n)));
        words.extend(self.under_way.iter().flat_map(|(link, message)| [*link, *message]));
        let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        xxhash_rust::xxh3::xxh3_128(&bytes)
    }

    fn push(&mut self, link: u32, message: u32) {
        let at = self.under_way.partition_point(|(known, _)| *known <= link);
        self.under_way.insert(at, (link, message));
    }

    fn clear(&mut self, link: u32) {
        self.under_way.retain(|(known, _)| *known != link);
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

    /// The steps that a state has, in a fixed order.
    pub fn acts(&mut self, state: &State) -> Vec<Act> {
        let mut acts = self.own_acts(state);
        if acts.is_empty() {
            acts.extend(Wait::ALL.map(Act::Wait));
            if !self.coordinator(state).is_up() {
                acts.clear();
            }
        }
        self.faults(state, &mut acts);
        self.wishes(state, &mut acts);
        acts
    }

    /// What happens by itself, but for the time that passes.
    fn own_acts(&mut self, state: &State) -> Vec<Act> {
        let mut acts = Vec::new();
        let heads = self.heads(state);
        acts.extend(heads.iter().map(|(link, _)| Act::Deliver(*self.links.get(*link), false)));
        let up = self.coordinator(state).is_up();
        if !up {
            acts.push(Act::StartCoordinator);
        }
        for index in 0..self.cast.workers {
            let worker = self.workers.get(state.workers[usize::from(index)]);
            if !worker.is_up() && worker.has_run() {
                acts.push(Act::StartWorker(index));
            }
            if worker.unsynced().is_some() {
                acts.push(Act::Sync(index));
            }
            let name = state.workers[usize::from(index)];
            let asks = self.asks.entry(name).or_insert_with(|| worker.asks());
            acts.extend(asks.iter().map(|(queue, ..)| Act::Ask(index, *queue)));
        }
        acts.retain(|act| match act {
            Act::Ask(worker, queue) => self.is_asking_of_use(state, *worker, *queue),
            _ => true,
        });
        for peer in 0..self.cast.peers() {
            let is_free = self.is_peer_up(state, peer) && self.peer_conn(state, peer) == 0;
            if up && is_free && state.conns[usize::from(peer)] == 0 {
                acts.push(Act::Connect(peer));
            }
        }
        for process in self.processes() {
            let member = self.member(state, process);
            if !member.hand().is_empty() {
                acts.push(Act::Settle(process));
            }
            if self.changes(state, Act::Take(process)) {
                acts.push(Act::Take(process));
            }
            if self.may_retry(state, process) {
                acts.push(Act::Retry(process));
            }
        }
        acts
    }

    /// Whether the answer would bring anything.
    fn is_asking_of_use(&mut self, state: &State, worker: u8, queue: u8) -> bool {
        let link = self.link(Link::Copy { worker, queue });
        if state.under_way.iter().any(|(known, _)| *known == link) {
            return false;
        }
        let Some(message) = self.answer(state, worker, queue) else { return false };
        let arrival = (link, message);
        let (next, outcome) = self.step(Part::Worker(worker), state, arrival);
        next != state.workers[usize::from(worker)] || !self.outcomes[outcome as usize].is_empty()
    }

    fn answer(&mut self, state: &State, worker: u8, queue: u8) -> Option<u32> {
        let asks = self.worker(state, worker).asks();
        let (_, fetch, from, asked) = asks.into_iter().find(|(of, ..)| *of == queue)?;
        let source = self.cast.worker_at(&from)?;
        let answer = self.worker(state, source).answer(&self.cast, &asked)?;
        Some(self.message(Message::Copied(fetch, answer)))
    }

    /// Whether a step of a part alone changes it.
    fn changes(&mut self, state: &State, act: Act) -> bool {
        let Act::Take(process) = act else { return true };
        if !self.member(state, process).is_seated() {
            return false;
        }
        let (next, _) = self.step(Part::Member(process), state, (TAKE, 0));
        next != state.members[usize::from(process)]
    }

    /// Whether every open that a member waits for would be decided at once: the others would be
    /// put off without a trace.
    fn may_retry(&mut self, state: &State, process: u8) -> bool {
        let Some(waits) = self.member(state, process).waits(&self.cast) else { return false };
        let told: Vec<Epoch> = (0..self.cast.queues).map(|q| self.told(state, q)).collect();
        !waits.is_empty()
            && waits.iter().all(|(queue, worker)| {
                let view = &self.view(state, *worker)[usize::from(*queue)];
                let known = view.open.and_then(|open| open.right);
                known.is_some_and(|known| known >= told[usize::from(*queue)])
            })
    }

    /// The newest epoch of a right that somebody may have been told of.
    fn told(&self, state: &State, queue: u8) -> Epoch {
        let of = super::parts::queue(queue);
        let right = self.coordinator(state).rights().find(|row| row.id.queue == of);
        right.map_or(Epoch(0), |row| match row.phase {
            Phase::Granted(_) | Phase::Revoking(_) => row.epoch,
            Phase::Free | Phase::Raising { .. } => Epoch(row.epoch.0.saturating_sub(1)),
        })
    }

    fn faults(&mut self, state: &State, acts: &mut Vec<Act>) {
        let budget = state.budget;
        let late = |late: bool| !late || budget.lates > 0;
        let lates = |what: &[bool]| what.iter().copied().filter(|l| late(*l)).collect::<Vec<_>>();
        if budget.echoes > 0 {
            for (link, message) in self.heads(state) {
                let (link, message) = (*self.links.get(link), self.messages.get(message));
                if may_come_twice(message) && !matches!(link, Link::Again { .. }) {
                    acts.push(Act::Deliver(link, true));
                }
            }
        }
        let up = self.coordinator(state).is_up();
        if budget.coordinator_crashes > 0 && up {
            acts.extend(lates(&[false, true]).into_iter().map(Act::CrashCoordinator));
        }
        for index in 0..self.cast.workers {
            let worker = self.worker(state, index);
            if budget.worker_crashes > 0 && worker.is_up() {
                for kept in 0..=worker.unsynced().unwrap_or(0) as u8 {
                    let late = lates(&[false, true]);
                    acts.extend(late.into_iter().map(|l| Act::CrashWorker(index, kept, l)));
                }
            }
        }
        if budget.breaks > 0 && up {
            for peer in 0..self.cast.peers() {
                if state.conns[usize::from(peer)] > 0 {
                    acts.push(Act::Break(peer, false, false));
                    if budget.lates > 0 {
                        acts.push(Act::Break(peer, true, false));
                        acts.push(Act::Break(peer, false, true));
                    }
                }
            }
        }
        for process in self.processes() {
            let member = self.member(state, process);
            if !member.is_up() {
                continue;
            }
            if budget.kills > 0 {
                acts.extend(lates(&[false, true]).into_iter().map(|l| Act::Kill(process, l)));
            }
            if budget.breaks > 0 {
                let workers: BTreeSet<u8> = member.streams().map(|stream| stream.worker).collect();
                for worker in workers {
                    let late = lates(&[false, true]);
                    acts.extend(late.into_iter().map(|l| Act::BreakStreams(process, worker, l)));
                }
            }
            let peer = self.cast.peer(process);
            if budget.lapses > 0 && up && state.conns[usize::from(peer)] > 0 && member.is_seated() {
                acts.push(Act::Hurry(Wait::Lapse, Some(peer)));
            }
        }
        if up && budget.overruns > 0 {
            acts.push(Act::Hurry(Wait::Drain, None));
        }
        if up && budget.hurries > 0 {
            acts.extend([Wait::Repeat, Wait::Patience].map(|wait| Act::Hurry(wait, None)));
        }
        acts.retain(|act| match act {
            Act::Hurry(wait, peer) => {
                let input = self.waited(state, *wait, *peer);
                let (next, outcome) = self.step(Part::Coordinator, state, input);
                next != state.coordinator || !self.outcomes[outcome as usize].is_empty()
            }
            _ => true,
        });
    }

    fn wishes(&mut self, state: &State, acts: &mut Vec<Act>) {
        let budget = state.budget;
        for process in self.processes() {
            let member = self.member(state, process);
            // Members are alike but for their names, so they come in the order of these.
            let is_next = process == 0 || self.member(state, process - 1).has_run();
            if budget.starts > 0 && !member.has_run() && is_next {
                acts.push(Act::Start(process));
            }
            if budget.leaves > 0 && member.is_seated() && member.stays() {
                acts.push(Act::Leave(process));
            }
        }
        let up = self.coordinator(state).is_up();
        if budget.drains > 0 && up && self.cast.workers > 1 {
            match state.draining {
                0 => acts.extend((0..self.cast.workers).map(|worker| Act::Drain(worker, false))),
                worker => acts.push(Act::Drain(worker - 1, true)),
            }
        }
        for queue in 0..self.cast.queues {
            let past = self.ghost(state).queues.get(&queue);
            let acked = past.map_or(0, |past| past.acked.len() as u8);
            for worker in 0..self.cast.workers {
                let is_open = self.view(state, worker)[usize::from(queue)].open.is_some();
                if acked < budget.messages && is_open {
                    acts.push(Act::Publish(worker, queue));
                }
            }
        }
    }

    fn view(&mut self, state: &State, worker: u8) -> &[View] {
        let name = state.workers[usize::from(worker)];
        let (workers, queues) = (&self.workers, self.cast.queues);
        let of = |queue| workers.get(name).view(queue);
        self.views.entry(name).or_insert_with(|| (0..queues).map(of).collect())
    }

    /// The input of a wait, by the connections that are heard.
    fn waited(&mut self, state: &State, wait: Wait, deaf: Option<u8>) -> Input {
        let mut heard = 0u32;
        for peer in 0..self.cast.peers() {
            let conn = u32::from(state.conns[usize::from(peer)]) & 0xf;
            heard |= if deaf == Some(peer) { 0 } else { conn << (4 * peer) };
        }
        (WAIT + wait as u32, heard)
    }

    /// Where a step leads.
    ///
    /// # Errors
    /// The promise that it breaks.
    pub fn apply(&mut self, state: &State, act: Act) -> Result<State, Broken> {
        let mut next = state.clone();
        match act {
            Act::Deliver(link, again) => self.deliver(&mut next, link, again)?,
            Act::Sync(worker) => self.run(&mut next, Part::Worker(worker), (SYNC, 0))?,
            Act::Ask(worker, queue) => {
                let link = self.link(Link::Copy { worker, queue });
                if let Some(message) = self.answer(state, worker, queue) {
                    next.push(link, message);
                }
            }
            Act::Connect(peer) => {
                let at = usize::from(peer);
                next.made[at] += 1;
                next.conns[at] = next.made[at];
                let input = (CONNECT, u32::from(next.made[at]));
                self.run(&mut next, self.part_of(peer), input)?;
            }
            Act::Take(process) => self.run(&mut next, Part::Member(process), (TAKE, 0))?,
            Act::Settle(process) => self.run(&mut next, Part::Member(process), (SETTLE, 0))?,
            Act::Retry(process) => self.run(&mut next, Part::Member(process), (RETRY, 0))?,
            Act::StartWorker(worker) => self.run(&mut next, Part::Worker(worker), (START, 0))?,
            Act::StartCoordinator => self.run(&mut next, Part::Coordinator, (START, 0))?,
            Act::Wait(wait) => {
                let input = self.waited(state, wait, None);
                self.run(&mut next, Part::Coordinator, input)?;
            }
            Act::Hurry(wait, peer) => {
                match wait {
                    Wait::Lapse => next.budget.lapses -= 1,
                    Wait::Drain => next.budget.overruns -= 1,
                    Wait::Repeat | Wait::Patience => next.budget.hurries -= 1,
                }
                let input = self.waited(state, wait, peer);
                self.run(&mut next, Part::Coordinator, input)?;
            }
            Act::Start(process) => {
                next.budget.starts -= 1;
                self.run(&mut next, Part::Member(process), (START, 0))?;
            }
            Act::Leave(process) => {
                next.budget.leaves -= 1;
                self.run(&mut next, Part::Member(process), (LEAVE, 0))?;
            }
            Act::Kill(process, late) => {
                next.budget.kills -= 1;
                next.budget.lates -= u8::from(late);
                self.kill(&mut next, process, late)?;
            }
            Act::CrashWorker(worker, kept, late) => {
                next.budget.worker_crashes -= 1;
                next.budget.lates -= u8::from(late);
                self.crash_worker(&mut next, worker, kept, late)?;
            }
            Act::CrashCoordinator(late) => {
                next.budget.coordinator_crashes -= 1;
                next.budget.lates -= u8::from(late);
                self.run(&mut next, Part::Coordinator, (CRASH, 0))?;
                for peer in 0..self.cast.peers() {
                    self.cut(&mut next, peer, false, late);
                }
                for (link, _) in self.heads(&next) {
                    if matches!(self.links.get(link), Link::ToCoordinator { .. }) {
                        next.clear(link);
                    }
                }
            }
            Act::Break(peer, up, down) => {
                next.budget.breaks -= 1;
                next.budget.lates -= u8::from(up || down);
                self.cut(&mut next, peer, up, down);
            }
            Act::BreakStreams(process, worker, late) => {
                next.budget.breaks -= 1;
                next.budget.lates -= u8::from(late);
                let streams: Vec<Stream> = self.member(state, process).streams().collect();
                for stream in streams.into_iter().filter(|stream| stream.worker == worker) {
                    self.end_up(&mut next, stream, late);
                    self.end_down(&mut next, stream);
                }
            }
            Act::Drain(worker, undo) => {
                next.budget.drains -= 1;
                next.draining = if undo { 0 } else { worker + 1 };
                let input = (DRAIN, u32::from(worker) << 1 | u32::from(undo));
                self.run(&mut next, Part::Coordinator, input)?;
            }
            Act::Publish(worker, queue) => {
                let past = self.ghost(state).queues.get(&queue);
                let number = past.map_or(0, |past| past.acked.len() as u32);
                let input = (PUBLISH, u32::from(queue) << 8 | number);
                self.run(&mut next, Part::Worker(worker), input)?;
            }
        }
        Ok(next)
    }

    fn part_of(&self, peer: u8) -> Part {
        self.cast.process_of(peer).map_or(Part::Worker(peer), Part::Member)
    }

    fn deliver(&mut self, next: &mut State, link: Link, again: bool) -> Result<(), Broken> {
        let name = self.link(link);
        let Some(at) = next.under_way.iter().position(|(known, _)| *known == name) else {
            return Ok(());
        };
        let (_, message) = next.under_way.remove(at);
        let said_on = match link {
            Link::Again { peer, conn, up: true } => Link::ToCoordinator { peer, conn },
            Link::Again { peer, conn, up: false } => Link::FromCoordinator { peer, conn },
            link => link,
        };
        if again {
            next.budget.echoes -= 1;
            let echo = match link {
                Link::ToCoordinator { peer, conn } => Link::Again { peer, conn, up: true },
                Link::FromCoordinator { peer, conn } => Link::Again { peer, conn, up: false },
                link => link,
            };
            let echo = self.link(echo);
            next.push(echo, message);
        }
        let name = self.link(said_on);
        let part = match said_on {
            Link::ToCoordinator { .. } => Part::Coordinator,
            Link::FromCoordinator { peer, .. } => self.part_of(peer),
            Link::Up(stream) => Part::Worker(stream.worker),
            Link::Down(stream) => Part::Member(stream.process),
            Link::Copy { worker, .. } => Part::Worker(worker),
            Link::Again { .. } => return Ok(()),
        };
        self.run(next, part, (name, message))
    }

    fn kill(&mut self, next: &mut State, process: u8, late: bool) -> Result<(), Broken> {
        let streams: Vec<Stream> = self.member(next, process).streams().collect();
        self.run(next, Part::Member(process), (KILL, 0))?;
        for stream in streams {
            self.end_up(next, stream, late);
        }
        self.forget_down(next, process);
        self.cut(next, self.cast.peer(process), late, false);
        Ok(())
    }

    fn forget_down(&mut self, next: &mut State, process: u8) {
        for (link, _) in self.heads(next) {
            if matches!(self.links.get(link), Link::Down(stream) if stream.process == process) {
                next.clear(link);
            }
        }
    }

    fn crash_worker(
        &mut self,
        next: &mut State,
        worker: u8,
        kept: u8,
        late: bool,
    ) -> Result<(), Broken> {
        self.run(next, Part::Worker(worker), (CRASH, u32::from(kept)))?;
        for (link, _) in self.heads(next) {
            match *self.links.get(link) {
                Link::Up(stream) if stream.worker == worker => next.clear(link),
                Link::Copy { worker: of, .. } if of == worker => next.clear(link),
                _ => {}
            }
        }
        for process in self.processes() {
            let streams: Vec<Stream> = self.member(next, process).streams().collect();
            for stream in streams.into_iter().filter(|stream| stream.worker == worker) {
                self.end_down(next, stream);
            }
        }
        self.cut(next, worker, late, false);
        Ok(())
    }

    /// The member's side of a stream is gone.
    fn end_up(&mut self, next: &mut State, stream: Stream, late: bool) {
        let (link, closed) = (self.link(Link::Up(stream)), self.closed());
        if !late {
            next.clear(link);
        }
        if self.worker(next, stream.worker).is_up() {
            next.push(link, closed);
        }
    }

    /// The worker's side of a stream is gone.
    fn end_down(&mut self, next: &mut State, stream: Stream) {
        let (link, closed) = (self.link(Link::Down(stream)), self.closed());
        next.clear(link);
        if self.member(next, stream.process).is_up() {
            next.push(link, closed);
        }
    }

    /// A connection to the coordinator ends: what is under way is lost unless it is late, and each
    /// side that is there learns of it behind that.
    fn cut(&mut self, next: &mut State, peer: u8, up: bool, down: bool) {
        let conn = std::mem::take(&mut next.conns[usize::from(peer)]);
        if conn == 0 {
            return;
        }
        let closed = self.closed();
        let to = self.link(Link::ToCoordinator { peer, conn });
        let from = self.link(Link::FromCoordinator { peer, conn });
        for up in [true, false] {
            let again = self.link(Link::Again { peer, conn, up });
            next.clear(again);
        }
        if !up {
            next.clear(to);
        }
        if self.coordinator(next).is_up() {
            next.push(to, closed);
        }
        let is_up = self.is_peer_up(next, peer);
        if !down || !is_up {
            next.clear(from);
        }
        if is_up {
            next.push(from, closed);
        }
    }

    /// Makes a part's step in a state.
    fn run(&mut self, next: &mut State, part: Part, input: Input) -> Result<(), Broken> {
        let (name, outcome) = self.step(part, next, input);
        match part {
            Part::Coordinator => next.coordinator = name,
            Part::Worker(index) => next.workers[usize::from(index)] = name,
            Part::Member(process) => next.members[usize::from(process)] = name,
        }
        let Outcome { sends, hang_ups, events } = &self.outcomes[outcome as usize];
        let (sends, hang_ups, has_events) = (sends.clone(), hang_ups.clone(), !events.is_empty());
        for (link, message) in sends {
            self.send(next, link, message);
        }
        for (peer, conn) in hang_ups {
            if next.conns[usize::from(peer)] == conn {
                // Who hangs up reads no more; what it said before still arrives.
                let by_peer = part != Part::Coordinator;
                self.cut(next, peer, by_peer, !by_peer);
            }
        }
        if has_events {
            let mut ghost = self.ghosts.get(next.ghost).clone();
            let events = &self.outcomes[outcome as usize].events;
            let taken = ghost.take(events);
            next.ghost = self.name_ghost(ghost);
            taken?;
        }
        Ok(())
    }

    /// Puts a message on its way, if the way is there.
    fn send(&mut self, next: &mut State, link: u32, message: u32) {
        match *self.links.get(link) {
            Link::ToCoordinator { peer, conn } | Link::FromCoordinator { peer, conn } => {
                if next.conns[usize::from(peer)] == conn {
                    next.push(link, message);
                }
            }
            Link::Up(stream) => {
                let is_end = *self.messages.get(message) == Message::Closed;
                if is_end {
                    // Nobody reads what still comes on it.
                    let down = self.link(Link::Down(stream));
                    next.clear(down);
                }
                if self.worker(next, stream.worker).is_up() {
                    next.push(link, message);
                } else if !is_end {
                    self.end_down(next, stream);
                }
            }
            Link::Down(stream) => {
                if self.member(next, stream.process).streams().any(|known| known == stream) {
                    next.push(link, message);
                }
            }
            Link::Copy { .. } | Link::Again { .. } => next.push(link, message),
        }
    }

    /// A step of a part alone: computed once, looked up afterwards.
    fn step(&mut self, part: Part, state: &State, input: Input) -> (u32, u32) {
        let from = match part {
            Part::Coordinator => state.coordinator,
            Part::Worker(index) => state.workers[usize::from(index)],
            Part::Member(process) => state.members[usize::from(process)],
        };
        let key = (part, from, input);
        if let Some(known) = self.steps.get(&key) {
            return *known;
        }
        self.computed += 1;
        let mut out = Out::default();
        let name = match part {
            Part::Coordinator => {
                let mut next = self.coordinators.get(from).clone();
                let arrival = self.to_coordinator(input);
                let cast = &self.cast;
                guarded(&mut out, |out| next.step(cast, &arrival, out));
                self.name_coordinator(next)
            }
            Part::Worker(_) => {
                let mut next = self.workers.get(from).clone();
                let arrival = self.to_worker(input);
                let cast = &self.cast;
                guarded(&mut out, |out| next.step(cast, &arrival, out));
                self.name_worker(next)
            }
            Part::Member(_) => {
                let mut next = self.members.get(from).clone();
                let arrival = self.to_member(input);
                let cast = &self.cast;
                guarded(&mut out, |out| next.step(cast, &arrival, out));
                self.name_member(next)
            }
        };
        let Out { sends, hang_ups, events } = out;
        let sends =
            sends.into_iter().map(|(link, message)| (self.link(link), self.message(message)));
        let sends = sends.collect();
        self.outcomes.push(Outcome { sends, hang_ups, events });
        let known = (name, self.outcomes.len() as u32 - 1);
        self.steps.insert(key, known);
        known
    }

    fn to_coordinator(&self, (code, argument): Input) -> coordinator::Arrival {
        use coordinator::Arrival;
        match code {
            START => Arrival::Start,
            CRASH => Arrival::Crash,
            DRAIN => Arrival::Drain((argument >> 1) as u8, argument & 1 == 1),
            WAIT.. => {
                let wait = Wait::ALL[(code - WAIT) as usize];
                let conn = |peer: u8| (argument >> (4 * peer) & 0xf) as u8;
                let heard = (0..self.cast.peers()).map(|peer| (peer, conn(peer)));
                Arrival::Waited(wait, heard.filter(|(_, conn)| *conn > 0).collect())
            }
            link => match *self.links.get(link) {
                Link::ToCoordinator { peer, conn } => {
                    Arrival::Said(peer, conn, self.messages.get(argument).clone())
                }
                other => panic!("{other:?} does not lead to the coordinator"),
            },
        }
    }

    fn to_worker(&self, (code, argument): Input) -> worker::Arrival {
        use worker::Arrival;
        match code {
            START => Arrival::Start,
            CRASH => Arrival::Crash(argument as usize),
            CONNECT => Arrival::Connected(argument as u8),
            SYNC => Arrival::Synced,
            PUBLISH => Arrival::Publish((argument >> 8) as u8, u64::from(argument & 0xff)),
            link => match (*self.links.get(link), self.messages.get(argument).clone()) {
                (Link::FromCoordinator { .. }, Message::ToWorker(order)) => Arrival::Ordered(order),
                (Link::FromCoordinator { .. }, _) => Arrival::Disconnected,
                (Link::Up(stream), message) => Arrival::Streamed(stream, message),
                (Link::Copy { queue, .. }, Message::Copied(fetch, answer)) => {
                    Arrival::Copied(queue, fetch, answer)
                }
                (other, _) => panic!("{other:?} does not lead to a worker"),
            },
        }
    }

    fn to_member(&self, (code, argument): Input) -> member::Arrival {
        use member::Arrival;
        match code {
            START => Arrival::Start,
            KILL => Arrival::Kill,
            CONNECT => Arrival::Connected(argument as u8),
            TAKE => Arrival::Take,
            SETTLE => Arrival::Settle,
            LEAVE => Arrival::Leave,
            RETRY => Arrival::Retry,
            link => match (*self.links.get(link), self.messages.get(argument).clone()) {
                (Link::FromCoordinator { .. }, message) => Arrival::Told(message),
                (Link::Down(stream), message) => Arrival::Streamed(stream, message),
                (other, _) => panic!("{other:?} does not lead to a member"),
            },
        }
    }

    /// What must hold in every state.
    ///
    /// # Errors
    /// The promise that it breaks.
    pub fn check(&mut self, state: &State) -> Result<(), Broken> {
        let key = (state.coordinator, state.workers, state.ghost);
        if !self.checked.contains_key(&key) {
            for queue in 0..self.cast.queues {
                self.check_queue(state, queue)?;
            }
            let is_well = self.coordinator(state).is_up() && self.are_queues_well(state);
            self.checked.insert(key, is_well);
        }
        self.check_hands(state)
    }

    fn check_queue(&mut self, state: &State, queue: u8) -> Result<(), Broken> {
        let id = super::parts::queue(queue);
        let primary = self.leader(state, queue);
        let stored = self.coordinator(state).rights().find(|row| row.id.queue == id);
        let stored = stored.map_or(Epoch(0), |row| row.epoch);
        let past = self.ghost(state).queues.get(&queue).cloned().unwrap_or_default();
        let views: Vec<View> = (0..self.cast.workers)
            .map(|worker| self.view(state, worker)[usize::from(queue)].clone())
            .collect();
        if let Some(primary) = primary {
            let view = &views[usize::from(primary)];
            for (number, offset) in (0..).zip(&past.acked) {
                let is_it = |kept: &Kept| kept.offset == *offset && kept.number == number;
                if !view.log.iter().any(is_it) {
                    return Err(format!(
                        "I1: message {number} of {queue} was acked at {offset}; its primary {primary} \
                         has {:?}",
                        view.log
                    ));
                }
            }
            if !past.acked.is_empty() && !view.is_whole {
                return Err(format!("I9: primary {primary} of queue {queue} has a part of it"));
            }
            let acked = |at: &Offset| view.acked.iter().any(|(from, to)| from <= at && at < to);
            if let Some(at) = past.confirmed.keys().find(|at| !acked(at)) {
                return Err(format!(
                    "I8: the ack of {at} of queue {queue} was confirmed and is lost"
                ));
            }
        }
        for view in &views {
            let numbers: BTreeSet<u64> = view.log.iter().map(|kept| kept.number).collect();
            if numbers.len() < view.log.len() {
                return Err(format!("I6: queue {queue} has a message twice: {:?}", view.log));
            }
            if view.open.and_then(|open| open.right).is_some_and(|epoch| epoch > stored) {
                return Err(format!(
                    "I5: a worker knows an epoch of {queue} that the store has not"
                ));
            }
        }
        let logs = views.iter().flat_map(|view| &view.log);
        let acked = |kept: &&Kept| past.acked.contains(&kept.offset);
        for one in logs.clone().filter(acked) {
            if let Some(other) = logs.clone().find(|kept| kept.offset == one.offset && *kept != one)
            {
                return Err(format!("I3: queue {queue} has {one:?} and {other:?}"));
            }
        }
        let open: Vec<_> = views.iter().filter_map(|view| view.open).collect();
        if let [a, b] = open[..] {
            let (old, new) = if a.epoch < b.epoch { (a, b) } else { (b, a) };
            if old.epoch == new.epoch || old.sealed.is_none() {
                return Err(format!("I9: two workers lead queue {queue}: {old:?}, {new:?}"));
            }
        }
        Ok(())
    }

    /// No two applications have messages of one key in hand, unless one of them lost the right.
    fn check_hands(&self, state: &State) -> Result<(), Broken> {
        let hands = self.processes().flat_map(|process| {
            self.member(state, process).hand().iter().map(move |hold| (process, hold))
        });
        let hands: Vec<_> = hands.collect();
        for (process, hold) in &hands {
            for (other, later) in &hands {
                let same = process == other || hold.right != later.right;
                if same || hold.epoch > later.epoch {
                    continue;
                }
                let queue = hold.right.queue.index as u8;
                let past = self.ghost(state).queues.get(&queue);
                if !past.is_some_and(|past| past.was_forced(hold.epoch, later.epoch)) {
                    return Err(format!(
                        "I5: processes {process} and {other} have messages of queue {queue} in \
                         hand, under {} and {}",
                        hold.epoch, later.epoch
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether everything is as it should be in the end: each queue is open at its primary and does
    /// not move, and where a member stays, all that was published was handed out and is acked.
    pub fn is_settled(&mut self, state: &State) -> bool {
        let key = (state.coordinator, state.workers, state.ghost);
        let is_well = self.checked.get(&key).copied().unwrap_or_default();
        is_well && !self.is_unread(state)
    }

    fn are_queues_well(&mut self, state: &State) -> bool {
        (0..self.cast.queues).all(|queue| {
            let row = self.queue_row(state, queue).cloned();
            row.zip(self.leader(state, queue)).is_some_and(|(row, leader)| {
                let open = self.view(state, leader)[usize::from(queue)].open;
                let is_open =
                    open.is_some_and(|open| open.epoch == row.epoch && open.sealed.is_none());
                is_open && row.moving.is_none()
            })
        })
    }

    /// Whether somebody is there to read and something is not read.
    fn is_unread(&mut self, state: &State) -> bool {
        self.processes().any(|process| self.member(state, process).stays())
            && (0..self.cast.queues).any(|queue| {
                let Some(leader) = self.leader(state, queue) else { return true };
                let acked = self.view(state, leader)[usize::from(queue)].acked.clone();
                let is_acked = |at: &Offset| acked.iter().any(|(from, to)| from <= at && at < to);
                self.ghost(state).queues.get(&queue).is_some_and(|past| {
                    past.acked.iter().any(|at| !is_acked(at) || at.0 >= past.handed)
                })
            })
    }

    fn queue_row(&self, state: &State, queue: u8) -> Option<&QueueRow> {
        let id = super::parts::queue(queue);
        self.coordinator(state).queues().find(|row| row.id == id)
    }

    /// The worker that leads a queue, as the store says.
    fn leader(&self, state: &State, queue: u8) -> Option<u8> {
        let primary = self.queue_row(state, queue)?.primary.as_ref()?;
        self.cast.worker_index(primary)
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

    /// How many states of each kind of part there are.
    #[must_use]
    pub fn sizes(&self) -> [usize; 5] {
        [
            self.coordinators.len(),
            self.workers.len(),
            self.members.len(),
            self.ghosts.len(),
            self.messages.len(),
        ]
    }

    /// The holder that a process is, for those who print.
    #[must_use]
    pub fn holder(&self, process: u8) -> Holder {
        self.cast.holder(process)
    }
}

impl Outcome {
    fn is_empty(&self) -> bool {
        self.sends.is_empty() && self.hang_ups.is_empty() && self.events.is_empty()
    }
}

const START: u32 = 1 << 20;
const CRASH: u32 = START + 1;
const KILL: u32 = START + 2;
const CONNECT: u32 = START + 3;
const SYNC: u32 = START + 4;
const TAKE: u32 = START + 5;
const SETTLE: u32 = START + 6;
const RETRY: u32 = START + 7;
const LEAVE: u32 = START + 8;
const PUBLISH: u32 = START + 9;
const DRAIN: u32 = START + 10;
const WAIT: u32 = START + 11;

/// A seat takes what the answer to its join says for all that it has, and a registration is made
/// once on each connection.
fn may_come_twice(message: &Message) -> bool {
    use ringway_proto::control::{FromClient, FromWorker, ToClient, ToWorker};
    match message {
        Message::ToWorker(message) => {
            !matches!(message, ToWorker::Registered | ToWorker::RegisterRefused(_))
        }
        Message::FromWorker(message) => !matches!(message, FromWorker::Register(_)),
        Message::ToClient(message) => {
            !matches!(message, ToClient::Joined(_) | ToClient::JoinRefused { .. })
        }
        Message::FromClient(message) => !matches!(message, FromClient::Join(_)),
        Message::Frame(..) | Message::Copied(..) | Message::Closed => false,
    }
}

/// A part that gives up is a broken promise like any other.
fn guarded(out: &mut Out, step: impl FnOnce(&mut Out)) {
    let ended = std::panic::catch_unwind(AssertUnwindSafe(|| step(out)));
    if let Err(panic) = ended {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        out.events.push(Event::Wrong(text.unwrap_or_else(|| "a part gave up".to_owned())));
    }
}
