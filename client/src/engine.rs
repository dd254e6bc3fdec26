//! The SDK's one task, on a thread of its own: it feeds the logic from handles and streams and
//! does what the logic says. It holds no rules about messages or rights.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ringway_proto::control::{FromClient, Joined, ToClient};
use ringway_proto::message::Message;
use ringway_proto::net::{Dialer, Link, Peer};
use ringway_proto::routing::{Router, Routing};
use ringway_proto::{Epoch, Time, WorkerId};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::cell::SeatCell;
use crate::clock::{Clock, wall};
use crate::connections::{Connections, last_answer};
use crate::error::{AckError, PublishError};
use crate::logic::lane::{Action, Item, Outcome, Ticket};
use crate::logic::publisher::Publisher;
use crate::logic::report::{AckOutcome, Action as SeatAction, End};
use crate::logic::seat::Seat;
use crate::message::Receipt;
use crate::options::{CLOSE_TIMEOUT, DROP_TIMEOUT};
use crate::producer::Completion;
use crate::routes::Routes;
use crate::streams::{self, Event, StreamId};

/// How often clocks, extensions and deadlines are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Inputs that are taken before the logic decides.
const INPUTS: usize = 4096;

/// What the handles ask of the engine.
pub(crate) enum Command {
    Publish {
        message: Message,
        bytes: u32,
        deadline: Duration,
        completion: Completion,
    },
    Join(Arc<SeatCell>),
    /// The application did something with this seat.
    Poke(u64),
    Leave(u64),
    /// The connection to a worker, for a question.
    Worker(WorkerId, oneshot::Sender<watch::Receiver<Option<Peer>>>),
    Close(oneshot::Sender<Leftover>),
}

/// What was left when a client closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Leftover {
    /// Publishes that were not answered.
    pub publishes: u64,
    /// Seats that were not left in order.
    pub seats: u64,
}

impl Leftover {
    /// Whether everything was settled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl std::fmt::Display for Leftover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} publishes unanswered, {} seats not left", self.publishes, self.seats)
    }
}

struct SeatEntry {
    cell: Arc<SeatCell>,
    leave_by: Option<Time>,
}

struct Closing {
    by: Time,
    replies: Vec<oneshot::Sender<Leftover>>,
}

/// What an engine is made of.
pub(crate) struct Parts {
    pub clock: Clock,
    pub commands: mpsc::UnboundedReceiver<Command>,
    pub dialer: Dialer,
    pub coordinator: Arc<Link>,
    pub routes: Arc<Routes>,
    pub publisher: Publisher,
    pub room: Arc<Semaphore>,
}

pub(crate) struct Engine {
    parts: Parts,
    events: mpsc::UnboundedReceiver<Event>,
    connections: Connections,
    session: Option<(Peer, mpsc::UnboundedSender<FromClient>)>,
    completions: HashMap<Ticket, Completion>,
    tickets: u64,
    seats: BTreeMap<u64, SeatEntry>,
    /// Seats whose logic has something to decide.
    turned: BTreeSet<u64>,
    actions: Vec<Action>,
    closing: Option<Closing>,
    orphaned: bool,
}

impl Engine {
    pub fn new(parts: Parts) -> Self {
        let (events_tx, events) = mpsc::unbounded_channel();
        let routes = parts.routes.clone();
        let first = move || FromClient::Watch { have: routes.current().version() };
        tokio::spawn(streams::session(parts.coordinator.peer(), events_tx.clone(), first));
        let connections = Connections::new(parts.dialer.clone(), events_tx);
        Self {
            parts,
            events,
            connections,
            session: None,
            completions: HashMap::new(),
            tickets: 0,
            seats: BTreeMap::new(),
            turned: BTreeSet::new(),
            actions: Vec::new(),
            closing: None,
            orphaned: false,
        }
    }

    fn now(&self) -> Time {
        self.parts.clock.now()
    }

    /// Works until the client is closed or its last handle is gone.
    pub async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let wake = self.parts.clock.instant(self.next_wakeup());
            tokio::select! {
                event = self.events.recv() => if let Some(event) = event { self.event(event) },
                command = self.parts.commands.recv(), if !self.orphaned => match command {
                    Some(command) => self.command(command),
                    None => self.orphan(),
                },
                _ = tick.tick() => self.tick(),
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            for _ in 0..INPUTS {
                let Ok(event) = self.events.try_recv() else { break };
                self.event(event);
            }
            for _ in 0..INPUTS {
                let Ok(command) = self.parts.commands.try_recv() else { break };
                self.command(command);
            }
            self.turn();
            if self.is_over() {
                break;
            }
        }
        self.finish().await;
    }

    fn next_wakeup(&self) -> Time {
        let seats = self.seats.values().filter_map(|s| s.cell.seat().next_wakeup());
        let publisher = self.parts.publisher.next_wakeup();
        // Nothing is due more often than the clock shows, so that a late wake never spins.
        let soonest = self.now() + Duration::from_millis(1);
        seats.chain(publisher).min().unwrap_or(soonest + TICK).max(soonest)
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Publish { bytes, completion, .. } if self.closing.is_some() => {
                self.parts.room.add_permits(bytes as usize);
                completion.complete(Err(PublishError::Closed));
            }
            Command::Publish { message, bytes, deadline, completion } => {
                self.tickets += 1;
                let ticket = Ticket(self.tickets);
                self.completions.insert(ticket, completion);
                let deadline = self.now() + deadline;
                let item = Item { ticket, message, bytes, deadline };
                self.parts.publisher.publish(item, &mut self.actions);
            }
            Command::Join(cell) if self.closing.is_some() => end(&cell, End::Closed),
            Command::Join(cell) => {
                if self.session.is_some() {
                    cell.seat().coordinator_up();
                }
                self.turned.insert(cell.id);
                self.seats.insert(cell.id, SeatEntry { cell, leave_by: None });
            }
            Command::Poke(seat) => {
                self.turned.insert(seat);
            }
            Command::Leave(seat) => self.leave(seat, CLOSE_TIMEOUT),
            Command::Worker(worker, reply) => {
                let router = self.parts.routes.current();
                if let Some(peers) = self.connections.worker(&router, &worker) {
                    let _ = reply.send(peers);
                }
            }
            Command::Close(reply) => {
                self.begin_close(CLOSE_TIMEOUT);
                if let Some(closing) = &mut self.closing {
                    closing.replies.push(reply);
                }
            }
        }
    }

    fn leave(&mut self, seat: u64, within: Duration) {
        let now = self.now();
        if let Some(entry) = self.seats.get_mut(&seat) {
            entry.leave_by.get_or_insert(now + within);
            entry.cell.seat().leave(now);
            self.turned.insert(seat);
        }
    }

    fn begin_close(&mut self, within: Duration) {
        if self.closing.is_some() {
            return;
        }
        self.closing = Some(Closing { by: self.now() + within, replies: Vec::new() });
        let seats: Vec<u64> = self.seats.keys().copied().collect();
        for seat in seats {
            self.leave(seat, within);
        }
    }

    /// The last handle is gone without a close.
    fn orphan(&mut self) {
        self.orphaned = true;
        let in_hand: u64 = self.seats.values().map(|s| s.cell.seat().counts().held).sum();
        if !self.completions.is_empty() || in_hand > 0 {
            tracing::warn!(
                publishes = self.completions.len(),
                messages = in_hand,
                "the last client was dropped with unsettled work: call close().await"
            );
        }
        self.begin_close(DROP_TIMEOUT);
    }

    fn is_over(&self) -> bool {
        let settled = self.completions.is_empty() && self.seats.is_empty();
        self.closing.as_ref().is_some_and(|c| settled || c.by <= self.now())
    }

    fn event(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::SessionUp { peer, tx } => {
                self.session = Some((peer, tx));
                self.each_seat(|seat| seat.coordinator_up());
            }
            Event::SessionDown => {
                self.session = None;
                self.each_seat(|seat| seat.coordinator_down());
            }
            Event::Session(message) => self.told(now, message),
            Event::PublishUp { worker, generation, tx } => {
                if self.connections.set_publish(&worker, generation, Some(tx)) {
                    self.parts.publisher.connected(worker);
                }
            }
            Event::PublishDown { worker, generation, cause } => {
                if self.connections.set_publish(&worker, generation, None) {
                    self.parts.publisher.disconnected(&worker, &cause);
                }
            }
            Event::Appended(answer) => {
                self.parts.publisher.answered(now, answer, &mut self.actions);
            }
            Event::Opened(id, peer) => {
                self.connections.opened(id, peer);
                self.on_stream(id, |seat| seat.opened(&id.right, id.open));
            }
            Event::Delivered(id, deliver) => {
                let mut broken = None;
                self.on_stream(id, |seat| broken = seat.delivered(&id.right, &deliver).err());
                if let Some(refusal) = broken {
                    tracing::warn!(queue = %id.right.queue, %refusal, "a delivery was refused");
                    self.lose_stream(now, id);
                }
            }
            Event::Confirmed(id, confirmed) => {
                self.on_stream(id, |seat| seat.confirmed(&id.right, confirmed));
            }
            Event::WindowSeen(id, window) => {
                self.on_stream(id, |seat| seat.window_seen(&id.right, id.open, window.number));
            }
            Event::Closed(id, code) => {
                let Some(epoch) = self.connections.ended(id) else { return };
                if let Some(entry) = self.seats.get(&id.seat) {
                    entry.cell.seat().closed(now, &id.right, id.open, epoch, code);
                    self.turned.insert(id.seat);
                }
            }
        }
    }

    fn each_seat(&mut self, mut f: impl FnMut(&mut Seat)) {
        for (id, entry) in &self.seats {
            f(&mut entry.cell.seat());
            self.turned.insert(*id);
        }
    }

    fn on_stream(&mut self, id: StreamId, f: impl FnOnce(&mut Seat)) {
        let current = self.connections.is_current(id);
        if let Some(entry) = self.seats.get(&id.seat).filter(|_| current) {
            f(&mut entry.cell.seat());
            self.turned.insert(id.seat);
        }
    }

    /// The coordinator says something.
    fn told(&mut self, now: Time, message: ToClient) {
        let router = self.parts.routes.current();
        match message {
            ToClient::Routing(routing) => self.routing(now, routing),
            ToClient::Joined(joined) => self.joined(now, joined, &router),
            ToClient::JoinRefused { name, member, refusal } => self.each_seat(|seat| {
                if seat.join().name == name && seat.join().member == member {
                    seat.join_refused(now, refusal.clone());
                }
            }),
            ToClient::Granted { member, granted } => self.each_seat(|seat| {
                if seat.join().member == member
                    && seat.subscription() == Some(granted.right.subscription)
                {
                    seat.granted(now, granted, &router);
                }
            }),
            ToClient::Revoke { member, right, epoch, .. } => self.each_seat(|seat| {
                if seat.join().member == member && seat.subscription() == Some(right.subscription) {
                    seat.revoke(now, right, epoch);
                }
            }),
            ToClient::Narrow { member, right, epoch, to, .. } => self.each_seat(|seat| {
                if seat.join().member == member && seat.subscription() == Some(right.subscription) {
                    seat.narrow(now, right, epoch, to);
                }
            }),
            ToClient::Narrowed { member, right, epoch } => self.each_seat(|seat| {
                if seat.join().member == member && seat.subscription() == Some(right.subscription) {
                    seat.narrowed(right, epoch);
                }
            }),
            ToClient::Lost { member, right, epoch } => self.each_seat(|seat| {
                if seat.join().member == member && seat.subscription() == Some(right.subscription) {
                    seat.lost(right, epoch);
                }
            }),
            ToClient::Superseded { member, incarnation, .. } => self.each_seat(|seat| {
                if seat.join().member == member && seat.join().incarnation == incarnation {
                    seat.superseded();
                }
            }),
            ToClient::Left { member, incarnation, .. } => self.each_seat(|seat| {
                if seat.join().member == member && seat.join().incarnation == incarnation {
                    seat.left();
                }
            }),
        }
    }

    fn joined(&mut self, now: Time, joined: Joined, router: &Router) {
        let mut is_awaited = false;
        self.each_seat(|seat| {
            let join = seat.join();
            if (&join.name, &join.member, join.incarnation)
                == (&joined.name, &joined.member, joined.incarnation)
            {
                is_awaited = true;
                seat.joined(now, &joined, router);
            }
        });
        if !is_awaited {
            // The join was given up before it was answered: nobody would serve its rights.
            let Joined { subscription, member, incarnation, .. } = joined;
            self.tell(FromClient::Leave { subscription, member, incarnation });
        }
    }

    fn routing(&mut self, now: Time, routing: Routing) {
        let router = match Router::new(routing) {
            Ok(router) => Arc::new(router),
            Err(refusal) => {
                tracing::warn!(%refusal, "the coordinator sent a routing that is inconsistent");
                return;
            }
        };
        if !self.parts.routes.set(router.clone()) {
            return;
        }
        for worker in self.connections.follow(&router) {
            self.parts.publisher.disconnected(&worker, "the worker has left");
        }
        self.parts.publisher.routing(router.clone(), &mut self.actions);
        for id in self.connections.astray(&router) {
            self.lose_stream(now, id);
        }
    }

    /// A stream that leads nowhere: the right is opened again.
    fn lose_stream(&mut self, now: Time, id: StreamId) {
        self.connections.abort(id.seat, &id.right);
        if let Some(entry) = self.seats.get(&id.seat) {
            entry.cell.seat().closed(now, &id.right, id.open, Epoch(0), None);
            self.turned.insert(id.seat);
        }
    }

    fn tick(&mut self) {
        let now = self.now();
        let clock = self.parts.clock;
        if let Some(at) = self.session.as_ref().and_then(|(peer, _)| last_answer(peer, clock)) {
            self.each_seat(|seat| seat.coordinator_answered(at));
        }
        for (id, at) in self.connections.answers(clock) {
            if let Some(entry) = self.seats.get(&id.seat) {
                entry.cell.seat().primary_answered(&id.right, at);
            }
        }
        for (id, entry) in &self.seats {
            let mut seat = entry.cell.seat();
            if !seat.is_seated() && seat.end().is_none() && entry.cell.join_by <= now {
                seat.give_up();
            }
            if entry.leave_by.is_some_and(|by| by <= now) {
                let rights = seat.rights().0 as u64;
                seat.finish(End::Unfinished { rights });
            }
            self.turned.insert(*id);
        }
    }

    /// Lets the logic decide and does what it says.
    fn turn(&mut self) {
        let now = self.now();
        self.parts.publisher.pump(now, wall(), &mut self.actions);
        for action in std::mem::take(&mut self.actions) {
            self.act(action);
        }
        while let Some(id) = self.turned.pop_first() {
            let Some(entry) = self.seats.get(&id) else { continue };
            let cell = entry.cell.clone();
            cell.looked_at();
            let mut actions = Vec::new();
            let over = {
                let mut seat = cell.seat();
                seat.turn(now, &mut actions);
                seat.end().is_some()
            };
            for action in actions {
                self.seat_act(now, &cell, action);
            }
            if over {
                self.seats.remove(&id);
                cell.forget_waiters();
            }
            cell.changed.notify_waiters();
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send { worker, append } => self.connections.append(&worker, append),
            Action::Done { ticket, outcome } => self.done(ticket, outcome),
            Action::Room(bytes) => self.parts.room.add_permits(bytes as usize),
            Action::Refresh => {
                let have = self.parts.routes.current().version();
                self.tell(FromClient::Refresh { have });
            }
            Action::Want(worker) => {
                let router = self.parts.routes.current();
                self.connections.worker(&router, &worker);
            }
        }
    }

    fn done(&mut self, ticket: Ticket, outcome: Outcome) {
        let Some(completion) = self.completions.remove(&ticket) else { return };
        completion.complete(match outcome {
            Outcome::Stored { queue, offset } => {
                let queue = self.parts.routes.current().queue_name(queue);
                Ok(Receipt { queue, offset: offset.0 })
            }
            Outcome::Refused(refusal) => Err(PublishError::Refused(refusal)),
            Outcome::NotSent(cause) => Err(PublishError::NotSent { cause }),
            Outcome::Unknown(cause) => Err(PublishError::Unknown { cause }),
        });
    }

    fn tell(&self, message: FromClient) {
        if let Some((_, tx)) = &self.session {
            let _ = tx.send(message);
        }
    }

    fn seat_act(&mut self, now: Time, cell: &SeatCell, action: SeatAction) {
        match action {
            SeatAction::Tell(message) => self.tell(message),
            SeatAction::Open(right, open) => {
                let (number, epoch) = (open.open, open.epoch);
                let router = self.parts.routes.current();
                if !self.connections.open(&router, cell.id, right, open) {
                    // No primary is known yet: tried again after a wait.
                    cell.seat().closed(now, &right, number, epoch, None);
                }
            }
            SeatAction::Send(right, frames) => self.connections.send(cell.id, right, frames),
            SeatAction::Close(right) => self.connections.close(cell.id, right),
            SeatAction::Acked(outcome, tokens) => {
                for token in tokens {
                    cell.confirm(
                        token,
                        match outcome {
                            AckOutcome::Durable => Ok(()),
                            AckOutcome::Fenced => Err(AckError::Fenced),
                            AckOutcome::Unknown => Err(AckError::Unknown),
                        },
                    );
                }
            }
        }
    }

    /// Ends everything; what is unanswered is told as what it is.
    async fn finish(mut self) {
        let leftover =
            Leftover { publishes: self.completions.len() as u64, seats: self.seats.len() as u64 };
        self.parts.publisher.expire(Time(u64::MAX), &mut self.actions);
        for action in std::mem::take(&mut self.actions) {
            if let Action::Done { ticket, outcome } = action {
                self.done(ticket, outcome);
            }
        }
        self.parts.room.close();
        self.parts.commands.close();
        while let Ok(command) = self.parts.commands.try_recv() {
            match command {
                Command::Join(cell) => end(&cell, End::Closed),
                // It never reached the logic, so it is not stored.
                Command::Publish { completion, .. } => {
                    completion.complete(Err(PublishError::Closed))
                }
                Command::Close(reply) => {
                    if let Some(closing) = &mut self.closing {
                        closing.replies.push(reply);
                    }
                }
                Command::Poke(_) | Command::Leave(_) | Command::Worker(..) => {}
            }
        }
        for entry in std::mem::take(&mut self.seats).into_values() {
            end(&entry.cell, End::Closed);
        }
        let replies = self.closing.take().map(|c| c.replies).unwrap_or_default();
        drop(self);
        // The links close their connections when they are dropped; this lets the news leave.
        tokio::time::sleep(Duration::from_millis(20)).await;
        for reply in replies {
            let _ = reply.send(leftover);
        }
    }
}

/// Ends a seat and wakes whoever waits for something of it.
fn end(cell: &SeatCell, end: End) {
    cell.seat().finish(end);
    cell.forget_waiters();
    cell.changed.notify_waiters();
}
