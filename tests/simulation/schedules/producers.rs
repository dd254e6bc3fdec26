//! The producers of a cluster that is played by hand: the shipped publisher, and connections to
//! workers that break when the schedule says so. Frames and answers of a connection that broke may
//! still arrive: what was on its way is in the hands of the schedule.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ringway_client::logic::lane::{Action, Item, Outcome, Ticket};
use ringway_client::logic::publisher::Publisher;
use ringway_proto::control::{FromClient, ToClient};
use ringway_proto::data::AppendAnswer;
use ringway_proto::limits::BATCH_TARGET_BYTES;
use ringway_proto::message::Message;
use ringway_proto::routing::Router;
use ringway_proto::{Class, QueueId, RoutingVersion, Sequence, Session, Uuid, WallTime, WorkerId};
use ringway_tests::sim::history::{Told, Value, What};

use super::Repair;
use super::cluster::{C, Cluster, Letter, Mail, Name};

/// The class of what producers publish.
const CLASS: &str = "g.x";

/// How large a message counts, which says when its batch is closed: one that comes while others
/// are unanswered waits until there is a whole batch.
#[derive(Clone, Copy)]
pub enum Size {
    /// As small as it is.
    Small,
    /// Half a batch: it waits for another.
    Half,
    /// A whole batch: it goes alone, and at once.
    Whole,
}

pub struct Producer {
    id: u32,
    /// None until the first routing.
    publisher: Option<Publisher>,
    version: RoutingVersion,
    links: BTreeSet<Name>,
    /// Workers that are down and that it wants to reach.
    wanted: BTreeSet<Name>,
    tickets: BTreeMap<Ticket, (Value, Item)>,
    /// For each queue the newest session, and what was sent in it and not answered.
    sent: BTreeMap<QueueId, (Session, BTreeSet<Sequence>)>,
}

impl Producer {
    /// Without its repair: everything that is not answered goes where the newest table sends it.
    fn begin_again(&mut self, router: Arc<Router>, actions: &mut Vec<Action>) {
        let id = Uuid(u128::from(self.id) << 64 | u128::from(self.version.0));
        let mut publisher = Publisher::new(router, id, 1);
        for worker in &self.links {
            publisher.connected(WorkerId::new(*worker).unwrap());
        }
        for (_, item) in self.tickets.values() {
            publisher.publish(item.clone(), actions);
        }
        self.sent.clear();
        self.publisher = Some(publisher);
    }

    /// What an answer is taken for when a repair is out.
    fn misread(&mut self, answer: &mut AppendAnswer, old_counts: bool, acts_at_once: bool) {
        let Some((session, open)) = self.sent.get_mut(&answer.queue) else { return };
        if old_counts {
            answer.session = *session;
        }
        if answer.session != *session {
            return;
        }
        if answer.outcome.is_ok() {
            open.remove(&answer.base_sequence);
        } else if acts_at_once && let Some(first) = open.first() {
            answer.base_sequence = *first;
        }
    }
}

impl Cluster {
    fn producer(&mut self, name: Name) -> &mut Producer {
        self.producers.get_mut(name).unwrap()
    }

    /// A producer starts.
    pub fn produce(&mut self, name: Name) {
        let producer = Producer {
            id: 1000 + self.producers.len() as u32,
            publisher: None,
            version: RoutingVersion(0),
            links: BTreeSet::new(),
            wanted: BTreeSet::new(),
            tickets: BTreeMap::new(),
            sent: BTreeMap::new(),
        };
        self.producers.insert(name, producer);
        self.connect(name);
        let watch = FromClient::Watch { have: RoutingVersion(0) };
        self.send(name, C, Mail::FromClient(watch));
        self.run();
    }

    /// The application publishes its message of this number, which grows.
    pub fn offer(&mut self, name: Name, key: u32, number: u32, size: Size) {
        let (now, forgets) = (self.now, self.is_out(Repair::SlotsWaitForAnswers));
        let producer = self.producer(name);
        let value = Value { producer: producer.id, number };
        let mut message = Message::new(Class::new(CLASS).unwrap(), Bytes::from(value.body()));
        message.key = Some(Bytes::from(key.to_string()));
        let bytes = match size {
            Size::Small => 64,
            Size::Half => BATCH_TARGET_BYTES / 2,
            Size::Whole => BATCH_TARGET_BYTES,
        };
        let ticket = Ticket(u64::from(number));
        let deadline = now + Duration::from_secs(60);
        let item = Item { ticket, message, bytes: bytes as u32, deadline };
        producer.tickets.insert(ticket, (value, item.clone()));
        let mut actions = Vec::new();
        let publisher = producer.publisher.as_mut().unwrap();
        if forgets {
            publisher.forget_places(&mut actions);
        }
        publisher.publish(item, &mut actions);
        self.note(What::Attempt { value, key: Some(key), class: CLASS });
        self.publish_on(name, actions);
        self.run();
    }

    /// The coordinator says something to a producer.
    pub fn producer_told(&mut self, name: Name, message: ToClient) {
        let ToClient::Routing(routing) = message else { return };
        let wanders = self.is_out(Repair::RetriesStay);
        let producer = self.producer(name);
        if routing.version <= producer.version {
            return;
        }
        producer.version = routing.version;
        let router = Arc::new(Router::new(routing).unwrap());
        let mut actions = Vec::new();
        match &mut producer.publisher {
            Some(_) if wanders => producer.begin_again(router, &mut actions),
            Some(publisher) => publisher.routing(router, &mut actions),
            none => *none = Some(Publisher::new(router, Uuid(u128::from(producer.id) << 64), 1)),
        }
        self.publish_on(name, actions);
    }

    /// A worker answers.
    pub fn appended(&mut self, name: Name, mut answer: AppendAnswer) {
        let now = self.now;
        let old_counts = self.is_out(Repair::OldAnswersAreIgnored);
        let acts_at_once = self.is_out(Repair::RefusalsWaitForTheirTurn);
        let producer = self.producer(name);
        producer.misread(&mut answer, old_counts, acts_at_once);
        let mut actions = Vec::new();
        if let Some(publisher) = &mut producer.publisher {
            publisher.answered(now, answer, &mut actions);
        }
        self.publish_on(name, actions);
    }

    /// Does what a publisher says, until it says nothing more.
    fn publish_on(&mut self, name: Name, mut actions: Vec<Action>) {
        loop {
            let now = self.now;
            let Some(publisher) = &mut self.producer(name).publisher else { return };
            publisher.pump(now, WallTime(1), &mut actions);
            if actions.is_empty() {
                return;
            }
            for action in std::mem::take(&mut actions) {
                self.produce_act(name, action);
            }
        }
    }

    fn produce_act(&mut self, name: Name, action: Action) {
        match action {
            Action::Send { worker, append } => {
                let to = self.name_of(&worker);
                let sent = &mut self.producer(name).sent;
                let of_queue =
                    sent.entry(append.queue).or_insert((append.session, BTreeSet::new()));
                if of_queue.0 != append.session {
                    *of_queue = (append.session, BTreeSet::new());
                }
                of_queue.1.insert(append.base_sequence);
                self.send(name, to, Mail::Append(append));
            }
            Action::Done { ticket, outcome } => {
                let Some((value, _)) = self.producer(name).tickets.remove(&ticket) else { return };
                let told = match outcome {
                    Outcome::Stored { queue, offset } => Told::Stored(queue, offset),
                    Outcome::Refused(refusal) => Told::Failed(refusal.text),
                    Outcome::NotSent(cause) => Told::Failed(cause),
                    Outcome::Unknown(_) => Told::Unknown,
                };
                self.note(What::Published { value, told });
            }
            Action::Room(_) => {}
            Action::Refresh => {
                let have = self.producer(name).version;
                self.send(name, C, Mail::FromClient(FromClient::Refresh { have }));
            }
            Action::Want(worker) => {
                let worker = self.name_of(&worker);
                self.reach(name, worker);
            }
        }
    }

    fn name_of(&self, worker: &WorkerId) -> Name {
        self.workers.keys().copied().find(|name| *name == worker.as_str()).unwrap()
    }

    /// A producer connects to a worker, as soon as that is up.
    fn reach(&mut self, name: Name, worker: Name) {
        let is_up = self.worker(worker).is_up();
        let id = self.worker(worker).id.clone();
        let producer = self.producer(name);
        if !is_up {
            producer.wanted.insert(worker);
        } else if producer.links.insert(worker)
            && let Some(publisher) = &mut producer.publisher
        {
            publisher.connected(id);
        }
    }

    /// A worker is up again.
    pub(super) fn reach_producers(&mut self, worker: Name) {
        for name in self.producers.keys().copied().collect::<Vec<_>>() {
            if self.producer(name).wanted.remove(worker) {
                self.reach(name, worker);
                self.publish_on(name, Vec::new());
            }
        }
        self.run();
    }

    /// A worker is gone: its connections break, and nothing of them will arrive.
    pub(super) fn leave_producers(&mut self, worker: Name) {
        for name in self.producers.keys().copied().collect::<Vec<_>>() {
            self.break_link(name, worker);
        }
    }

    /// The connection between a producer and a worker breaks, and is made again at once if the
    /// worker is up. Returns what was on its way, frames and answers.
    pub fn break_link(&mut self, name: Name, worker: Name) -> Vec<Letter> {
        let letters = self.intercept(name, worker);
        let id = self.worker(worker).id.clone();
        let producer = self.producer(name);
        if producer.links.remove(worker)
            && let Some(publisher) = &mut producer.publisher
        {
            publisher.disconnected(&id, "the connection is lost");
            self.reach(name, worker);
            self.publish_on(name, Vec::new());
        }
        letters
    }

    /// What producers try again after a while is tried.
    pub fn wake_producers(&mut self) {
        let now = self.now;
        for name in self.producers.keys().copied().collect::<Vec<_>>() {
            let publisher = self.producer(name).publisher.as_ref();
            if publisher.and_then(Publisher::next_wakeup).is_some_and(|at| at <= now) {
                self.publish_on(name, Vec::new());
            }
        }
    }

    /// Writes down what was never answered. A producer that still waits has had the time it needs.
    pub(super) fn note_unanswered(&mut self) {
        for name in self.workers.keys().copied().collect::<Vec<_>>() {
            for (_, waiting) in std::mem::take(&mut self.worker(name).waiting) {
                self.never_answered(&waiting);
            }
        }
        for name in self.producers.keys().copied().collect::<Vec<_>>() {
            for (value, _) in std::mem::take(&mut self.producer(name).tickets).into_values() {
                self.note(What::Published { value, told: Told::Unknown });
                self.note(What::Unhealed(format!("{name} still waits for an answer: {value:?}")));
            }
        }
    }
}
