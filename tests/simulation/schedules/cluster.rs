//! A cluster that is played by hand: the shipped logic of all roles, and letters between them that
//! arrive when the schedule says so. It owns the time, the letters, the coordinator and the record
//! of what happens; `workers`, `members` and `producers` carry out what the logic of those roles
//! decides.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ringway_coordinator::Timing;
use ringway_coordinator::logic::machine::{Action, Effects, Input, Machine, ReplyTo, Setup};
use ringway_proto::admin::AdminRequest;
use ringway_proto::control::{FromClient, FromWorker, OpenRight, RightOpened, ToClient, ToWorker};
use ringway_proto::data::{AckConfirmed, Append, AppendAnswer, Deliver, Window};
use ringway_proto::routing::Routing;
use ringway_proto::{Code, Epoch, Filter, GroupName, Holder, Incarnation, QueueId, RightId, Time};
use ringway_tests::sim::history::{Entry, History, What};
use ringway_worker::logic::StreamId;
use ringway_worker::logic::delivery::Frame;

use super::Repair;
use super::members::Member;
use super::producers::Producer;
use super::workers::Worker;

/// A process, by its name.
pub type Name = &'static str;
/// The coordinator.
pub const C: Name = "c";

/// What a letter says.
#[derive(Clone, Debug)]
pub enum Mail {
    ToWorker(ToWorker),
    FromWorker(FromWorker),
    ToClient(ToClient),
    FromClient(FromClient),
    Open(StreamId, OpenRight),
    Say(StreamId, Frame),
    Opened(StreamId, RightOpened),
    Window(StreamId, Window),
    Deliver(StreamId, Deliver),
    Confirmed(StreamId, AckConfirmed),
    Closed(StreamId, Option<Code>),
    Append(Append),
    Appended(AppendAnswer),
}

/// A letter on its way.
#[derive(Clone, Debug)]
pub struct Letter {
    pub from: Name,
    pub to: Name,
    /// The connection to the coordinator that it is on; 0 between the others.
    conn: u64,
    pub mail: Mail,
}

pub struct Cluster {
    pub now: Time,
    without: Vec<Repair>,
    pub workers: BTreeMap<Name, Worker>,
    pub members: BTreeMap<Name, Member>,
    pub producers: BTreeMap<Name, Producer>,
    pub streams: StreamId,
    machine: Machine,
    conns: BTreeMap<Name, u64>,
    made: u64,
    post: VecDeque<Letter>,
    held: BTreeSet<(Name, Name)>,
    withheld: fn(&Mail) -> bool,
    paused: BTreeSet<Name>,
    /// Who does not hear the answers to its questions.
    pub deaf: BTreeSet<Name>,
    history: History,
    pub(super) routing: Option<Arc<Routing>>,
    /// Every letter that arrived.
    seen: Vec<Letter>,
}

impl Cluster {
    /// A cluster in which every right is a whole one.
    pub fn new(without: impl IntoIterator<Item = Repair>) -> Self {
        Self::with_ranges(without, 1)
    }

    /// A cluster in which the rights to a queue are split into so many at most.
    pub fn with_ranges(without: impl IntoIterator<Item = Repair>, ranges_per_queue: u32) -> Self {
        let setup = Setup {
            id: "c1".to_owned(),
            timing: Timing::default(),
            epoch_ms: 0,
            seed: 7,
            ranges_per_queue,
        };
        Self {
            now: Time(0),
            without: without.into_iter().collect(),
            workers: BTreeMap::new(),
            members: BTreeMap::new(),
            producers: BTreeMap::new(),
            streams: 0,
            machine: Machine::new(setup, Vec::new(), Time(0)).unwrap(),
            conns: BTreeMap::new(),
            made: 0,
            post: VecDeque::new(),
            held: BTreeSet::new(),
            withheld: |_| false,
            paused: BTreeSet::new(),
            deaf: BTreeSet::new(),
            history: History::default(),
            routing: None,
            seen: Vec::new(),
        }
    }

    pub fn is_out(&self, repair: Repair) -> bool {
        self.without.contains(&repair)
    }

    pub fn note(&mut self, what: What) {
        self.history.entries.push(Entry { at: self.now.0, what });
    }

    /// A new connection to the coordinator; the older one is gone.
    pub fn connect(&mut self, name: Name) {
        self.made += 1;
        if let Some(conn) = self.conns.insert(name, self.made) {
            self.coordinate(Input::Disconnected { conn });
        }
    }

    pub fn send(&mut self, from: Name, to: Name, mail: Mail) {
        let other = if from == C { to } else { from };
        let with_coordinator = from == C || to == C;
        let conn = if with_coordinator { self.conns.get(other).copied().unwrap_or(0) } else { 0 };
        self.post.push_back(Letter { from, to, conn, mail });
    }

    /// From now on letters from `from` to `to` wait.
    pub fn hold(&mut self, from: Name, to: Name) {
        self.held.insert((from, to));
    }

    /// They wait no longer.
    pub fn release(&mut self, from: Name, to: Name) {
        self.held.remove(&(from, to));
        self.run();
    }

    /// From now on letters of this kind wait, and those of other kinds do not.
    pub fn withhold(&mut self, kind: fn(&Mail) -> bool) {
        self.withheld = kind;
        self.run();
    }

    /// The process stands still; what is sent to it waits.
    pub fn pause(&mut self, name: Name) {
        self.paused.insert(name);
    }

    pub fn resume(&mut self, name: Name) {
        self.paused.remove(name);
        self.run();
    }

    /// Takes what is on its way between these two, in both directions.
    pub fn intercept(&mut self, a: Name, b: Name) -> Vec<Letter> {
        let between = |l: &Letter| (l.from, l.to) == (a, b) || (l.from, l.to) == (b, a);
        let (taken, rest) = std::mem::take(&mut self.post).into_iter().partition(between);
        self.post = rest;
        Vec::from(taken)
    }

    /// Lets these arrive now, whatever waits.
    pub fn deliver(&mut self, letters: Vec<Letter>) {
        for letter in letters {
            self.arrive(letter);
        }
        self.run();
    }

    /// The last order of this kind about a queue that arrived at `to`.
    pub fn arrived(&self, to: Name, is: fn(&Mail) -> bool, queue: QueueId) -> Mail {
        let about = |mail: &Mail| match mail {
            Mail::ToWorker(ToWorker::OpenQueue(open)) => open.queue == queue,
            Mail::ToWorker(ToWorker::Tombstone { queue: of, .. }) => *of == queue,
            _ => true,
        };
        let found = |l: &&Letter| l.to == to && is(&l.mail) && about(&l.mail);
        self.seen.iter().rev().find(found).unwrap().mail.clone()
    }

    /// An order arrives a second time.
    pub fn arrive_again(&mut self, to: Name, order: Mail) {
        self.send(C, to, order);
        self.run();
    }

    /// Everything that may arrive arrives, and everything that follows from it.
    pub fn run(&mut self) {
        for _ in 0..10_000 {
            let waits = |l: &Letter| {
                self.held.contains(&(l.from, l.to))
                    || self.paused.contains(l.to)
                    || (self.withheld)(&l.mail)
            };
            if let Some(at) = self.post.iter().position(|l| !waits(l)) {
                let letter = self.post.remove(at).unwrap();
                self.seen.push(letter.clone());
                self.arrive(letter);
            } else if !self.copy_queues() {
                return;
            }
        }
        panic!("it never ends");
    }

    /// Time passes: questions and answers go to and fro, timers go off.
    pub fn pass(&mut self, ms: u64) {
        let until = self.now + Duration::from_millis(ms);
        while self.now < until {
            self.now = (self.now + Duration::from_millis(20)).min(until);
            let (now, conns) = (self.now, self.conns.clone());
            for (name, conn) in conns {
                if !self.paused.contains(name) && !self.deaf.contains(name) && self.lives(name) {
                    self.coordinate(Input::Heard { conn, at: now });
                    self.answered(name, now);
                }
            }
            self.wake_workers();
            self.wake_producers();
            if self.machine.next_wakeup().is_some_and(|at| at <= now) {
                let mut out = Effects::default();
                self.machine.wake(now, &mut out);
                self.carry_out(out);
            }
            for name in self.members.keys().copied().collect::<Vec<_>>() {
                if !self.paused.contains(name) {
                    self.turn(name);
                }
            }
            self.run();
        }
    }

    fn lives(&self, name: Name) -> bool {
        self.members.contains_key(name)
            || self.producers.contains_key(name)
            || self.workers.get(name).is_some_and(|w| w.is_up())
    }

    /// A group `g` of one queue, for these classes.
    pub fn make_group(&mut self, filter: &str) {
        let name = GroupName::new("g").unwrap();
        self.administer(AdminRequest::GroupCreate {
            name: name.clone(),
            queues: 1,
            ring_weight: None,
            max_body_bytes: None,
        });
        self.administer(AdminRequest::Bind { filter: Filter::new(filter).unwrap(), group: name });
    }

    pub fn administer(&mut self, request: AdminRequest) {
        self.coordinate(Input::Admin { reply: ReplyTo(0), request });
        self.run();
    }

    fn coordinate(&mut self, input: Input) {
        let (now, mut out) = (self.now, Effects::default());
        self.machine.handle(now, input, &mut out);
        self.carry_out(out);
    }

    fn carry_out(&mut self, mut out: Effects) {
        self.machine.finish(self.now, &mut out);
        for action in out.actions {
            match action {
                Action::ToWorker { conn, message } => self.post_to(conn, Mail::ToWorker(message)),
                Action::ToClient { conn, message } => self.post_to(conn, Mail::ToClient(message)),
                Action::Route { workers, clients, routing } => {
                    for conn in workers {
                        self.post_to(conn, Mail::ToWorker(ToWorker::Routing((*routing).clone())));
                    }
                    for conn in clients {
                        self.post_to(conn, Mail::ToClient(ToClient::Routing((*routing).clone())));
                    }
                    self.routing = Some(routing);
                }
                Action::Reply { answer, .. } => drop(answer.unwrap()),
                Action::Replay { .. } | Action::Close { .. } => {}
            }
        }
    }

    fn post_to(&mut self, conn: u64, mail: Mail) {
        let to = self.conns.iter().find(|(_, known)| **known == conn).map(|(name, _)| *name);
        if let Some(to) = to {
            self.post.push_back(Letter { from: C, to, conn, mail });
        }
    }

    fn arrive(&mut self, letter: Letter) {
        let Letter { from, to, conn, mail } = letter;
        if from == C && self.conns.get(to) != Some(&conn) {
            return;
        }
        match mail {
            Mail::FromWorker(message) => {
                let message = self.as_heard(from, message);
                self.coordinate(Input::FromWorker { conn, message });
            }
            Mail::FromClient(mut message) => {
                if let FromClient::Join(join) = &mut message
                    && self.is_out(Repair::NewProcessIsNewHolder)
                {
                    join.incarnation = Incarnation(1);
                }
                if let FromClient::Drained { right, epoch, .. } = &message {
                    let (right, epoch, holder) = (*right, *epoch, self.members[from].holder());
                    self.note(What::Drained { right, epoch, holder });
                }
                if let FromClient::Narrowed { right, epoch, to, .. } = &message {
                    let (right, epoch, to) = (*right, *epoch, *to);
                    let holder = self.members[from].holder();
                    self.note(What::Narrowed { right, epoch, to, holder });
                }
                self.coordinate(Input::FromClient { conn, message });
            }
            Mail::ToWorker(order) => self.order(to, order),
            Mail::ToClient(message) if self.producers.contains_key(to) => {
                self.producer_told(to, message);
            }
            Mail::ToClient(message) => self.told(to, message),
            Mail::Append(append) => self.take_append(from, to, append),
            Mail::Appended(answer) => self.appended(to, answer),
            Mail::Open(stream, request) => self.open(from, to, stream, &request),
            Mail::Say(stream, frame) => self.say(to, stream, frame),
            mail => self.read(to, mail),
        }
    }

    /// What the coordinator hears of a worker, and does too early without a repair.
    fn as_heard(&mut self, from: Name, mut message: FromWorker) -> FromWorker {
        match &mut message {
            FromWorker::Sealed { queue, attempt, .. } if self.is_out(Repair::GiveUpIsStored) => {
                let (queue, attempt) = (*queue, *attempt);
                self.send(C, from, Mail::ToWorker(ToWorker::Unseal { queue, attempt }));
            }
            FromWorker::CopySynced { queue, attempt, .. }
                if self.is_out(Repair::MovesNameTheAttempt) =>
            {
                let ordered = |letter: &Letter| match &letter.mail {
                    Mail::ToWorker(ToWorker::CopyQueue(copy)) if copy.queue == *queue => {
                        Some(copy.attempt)
                    }
                    _ => None,
                };
                let newest = self.post.iter().chain(&self.seen).filter_map(ordered).max();
                *attempt = newest.unwrap_or(*attempt);
            }
            _ => {}
        }
        message
    }

    /// Without its repair: a worker that has nothing in flight says that the holder has drained.
    pub fn drain_for(&mut self, right: RightId, epoch: Epoch, holder: &Holder) {
        let holds = |m: &Member| m.holder() == *holder;
        let Some(name) = self.members.iter().find(|(_, m)| holds(m)).map(|(name, _)| *name) else {
            return;
        };
        let member = holder.member.clone();
        self.send(name, C, Mail::FromClient(FromClient::Drained { member, right, epoch }));
    }

    /// Nothing waits any more, everything is handled, and this is what happened.
    pub fn finish(mut self) -> History {
        self.held.clear();
        self.withheld = |_| false;
        self.paused.clear();
        self.deaf.clear();
        for _ in 0..40 {
            self.pass(200);
            for name in self.members.keys().copied().collect::<Vec<_>>() {
                self.settle_all(name);
            }
        }
        for what in self.logs() {
            self.note(what);
        }
        for what in self.unread() {
            self.note(what);
        }
        self.note_unanswered();
        let moves = self.machine.open_slot_moves();
        if moves > 0 {
            self.note(What::Unhealed(format!("{moves} moves of slots are not done")));
        }
        self.history
    }

    /// The primary of a queue as the coordinator has it.
    pub fn primary(&self, queue: QueueId) -> Option<Name> {
        let routing = self.routing.as_ref()?;
        let group = routing.groups.iter().find(|group| group.id == queue.group)?;
        let primary = group.queues.get(queue.index as usize)?.primary.as_ref()?;
        self.workers.keys().copied().find(|name| *name == primary.as_str())
    }
}
