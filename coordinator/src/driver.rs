//! The one task that owns the machine: it takes everything that is waiting, lets the machine
//! decide, stores the changes in one transaction, and only then does the actions. It holds no
//! rules of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};

use ringway_proto::admin::{AdminRequest, AdminResponse};
use ringway_proto::control::{FromClient, FromWorker, ToClient, ToWorker};
use ringway_proto::net::Role;
use ringway_proto::routing::Routing;
use ringway_proto::{Code, Refusal, Time, codec};

use crate::logic::machine::{Action, Effects, Input, Machine, ReplyTo};
use crate::logic::plans::replay;
use crate::logic::rows::Change;
use crate::logic::sessions::Conn;
use crate::metrics::Metrics;
use crate::push::Push;
use crate::store::{Store, StoreError};

/// How many messages of peers may wait for the driver; then their readers wait.
pub const INBOX: usize = 4096;
/// How many of them are taken in one step.
const STEP: usize = 1024;
/// How often the clocks are looked at when nothing happens.
const TICK: Duration = Duration::from_millis(50);
/// A tick that is this late means that the process stood still, and that pings wait unread.
const PAUSE: Duration = Duration::from_millis(500);
/// How often the metrics are filled, if anything changed.
const SHOW: Duration = Duration::from_millis(250);
/// Filling them may take this part of the time: a large cluster's are filled less often.
const SHOW_SHARE: u32 = 50;

/// What peers' tasks tell the driver.
pub enum Message {
    /// A session stream was opened.
    Opened(Push),
    /// A worker said something.
    FromWorker(Conn, FromWorker),
    /// A client said something.
    FromClient(Conn, FromClient),
    /// A session stream or its connection is gone.
    Closed(Conn),
    /// An administrator asks.
    Ask(AdminRequest, oneshot::Sender<Result<AdminResponse, Refusal>>),
}

/// What the driver shares with the outside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// It serves.
    Serving,
    /// The store failed; the process has to leave.
    Failed(Refusal),
}

/// The task and everything it owns.
pub struct Driver {
    /// What decides.
    pub machine: Machine,
    /// Where changes go. Away while it commits.
    pub store: Option<Box<dyn Store>>,
    /// What is counted.
    pub metrics: Metrics,
    /// What comes in.
    pub inbox: mpsc::Receiver<Message>,
    /// How it goes.
    pub state: watch::Sender<State>,
    /// Whether the queues are where they belong.
    pub settled: Arc<AtomicBool>,
    /// Time 0.
    pub start: Instant,
}

/// What lives only while the driver runs.
#[derive(Default)]
struct Running {
    sessions: BTreeMap<Conn, Push>,
    questions: BTreeMap<ReplyTo, oneshot::Sender<Result<AdminResponse, Refusal>>>,
    asked: u64,
}

impl Running {
    fn connections(&self) -> [(Role, u32); 2] {
        [Role::Worker, Role::Client].map(|role| {
            let of_role = self.sessions.values().filter(|push| push.peer().role() == role);
            (role, u32::try_from(of_role.count()).unwrap_or(u32::MAX))
        })
    }
}

impl Driver {
    /// Runs until the last sender of the inbox is gone, or the store fails.
    pub async fn run(mut self) {
        let mut running = Running::default();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ticked = Instant::now();
        let (mut show_at, mut changed) = (ticked, true);
        if let Err(e) = self.step(&mut running, Effects::default(), Instant::now()).await {
            self.fail(&e);
            return;
        }
        loop {
            let mut first = None;
            tokio::select! {
                message = self.inbox.recv() => match message {
                    Some(message) => first = Some(message),
                    None => return,
                },
                _ = tick.tick() => {}
            }
            let began = Instant::now();
            let mut effects = Effects::default();
            if began.duration_since(ticked) > PAUSE {
                self.machine.handle(self.now(), Input::Paused, &mut effects);
            }
            ticked = began;
            changed |= first.is_some() || !self.inbox.is_empty();
            self.take(&mut running, first, &mut effects);
            self.wake(&running, &mut effects);
            match self.step(&mut running, effects, began).await {
                Ok(acted) => changed |= acted,
                Err(e) => {
                    self.fail(&e);
                    return;
                }
            }
            if changed && show_at <= Instant::now() {
                let began = Instant::now();
                self.metrics.show(&self.machine.snapshot(), &running.connections());
                changed = false;
                show_at = Instant::now() + SHOW.max(began.elapsed() * SHOW_SHARE);
            }
        }
    }

    fn now(&self) -> Time {
        Time(self.start.elapsed().as_millis() as u64)
    }

    fn fail(&self, e: &StoreError) {
        tracing::error!("{e}");
        self.state.send_replace(State::Failed(e.refusal()));
    }

    /// Takes everything that is waiting.
    fn take(&mut self, running: &mut Running, first: Option<Message>, effects: &mut Effects) {
        let mut next = first.or_else(|| self.inbox.try_recv().ok());
        let mut taken = 0;
        while let Some(message) = next {
            self.take_one(running, message, effects);
            taken += 1;
            next = if taken < STEP { self.inbox.try_recv().ok() } else { None };
        }
    }

    fn take_one(&mut self, running: &mut Running, message: Message, effects: &mut Effects) {
        let input = match message {
            Message::Opened(push) => {
                running.sessions.insert(push.peer().id(), push);
                return;
            }
            Message::FromWorker(conn, message) => Input::FromWorker { conn, message },
            Message::FromClient(conn, message) => Input::FromClient { conn, message },
            Message::Closed(conn) => {
                // Its last ping counts: a broken connection is no silence.
                if let Some(push) = running.sessions.remove(&conn) {
                    let heard = self.heard(&push);
                    self.machine.handle(self.now(), heard, effects);
                }
                Input::Disconnected { conn }
            }
            Message::Ask(request, answer) => {
                let reply = ReplyTo(running.asked);
                running.asked += 1;
                running.questions.insert(reply, answer);
                Input::Admin { reply, request }
            }
        };
        self.machine.handle(self.now(), input, effects);
    }

    /// Looks at the clocks, if it is time. What was heard is told first, so that nobody lapses
    /// who pinged.
    fn wake(&mut self, running: &Running, effects: &mut Effects) {
        let now = self.now();
        if self.machine.next_wakeup().is_none_or(|at| at > now) {
            return;
        }
        for push in running.sessions.values() {
            self.machine.handle(now, self.heard(push), effects);
        }
        self.machine.wake(now, effects);
    }

    /// When a connection was heard last, as an input.
    fn heard(&self, push: &Push) -> Input {
        let heard = push.peer().last_heard().saturating_duration_since(self.start);
        Input::Heard { conn: push.peer().id(), at: Time(heard.as_millis() as u64) }
    }

    /// Ends a step: stores, then acts. Returns whether there was anything to do.
    async fn step(
        &mut self,
        running: &mut Running,
        mut effects: Effects,
        began: Instant,
    ) -> Result<bool, StoreError> {
        self.machine.finish(self.now(), &mut effects);
        let acted = effects != Effects::default();
        let took = began.elapsed();
        if !effects.changes.is_empty() {
            self.commit(effects.changes).await?;
            // Before a worker hears that it is registered, so that nobody finds the queues
            // settled between that and the plan that it leads to.
            self.settled.store(self.machine.queues_are_settled(), Relaxed);
        }
        self.metrics.count(&effects.events, took);
        for event in &effects.events {
            tracing::debug!(?event);
        }
        for action in effects.actions {
            act(running, action);
        }
        Ok(acted)
    }

    /// Commits off the runtime's threads, since it waits for the disk.
    async fn commit(&mut self, changes: Vec<Change>) -> Result<(), StoreError> {
        let gone = || StoreError::Failed { cause: "its thread is gone".to_owned() };
        let mut store = self.store.take().ok_or_else(gone)?;
        let commit = tokio::task::spawn_blocking(move || {
            let result = store.commit(&changes);
            (store, result)
        });
        let (store, result) = commit.await.map_err(|_| gone())?;
        self.store = Some(store);
        result
    }
}

fn act(running: &mut Running, action: Action) {
    match action {
        Action::ToWorker { conn, message } => tell(running, conn, &message),
        Action::ToClient { conn, message } => tell(running, conn, &message),
        Action::Route { workers, clients, routing } => {
            // Encoded once for all; the routing is the largest message there is.
            let whole = Routing::clone(&routing);
            tell_all(running, &clients, &ToClient::Routing(whole.for_clients()));
            tell_all(running, &workers, &ToWorker::Routing(whole));
        }
        Action::Reply { reply, answer } => {
            if let Some(question) = running.questions.remove(&reply) {
                // Whoever does not wait for the answer any more does not need it.
                question.send(answer).ok();
            }
        }
        Action::Replay { reply, plans } => {
            if let Some(question) = running.questions.remove(&reply) {
                let answer =
                    move || question.send(Ok(AdminResponse::Replayed(replay(&plans)))).ok();
                tokio::task::spawn_blocking(answer);
            }
        }
        Action::Close { conn, reason } => {
            if let Some(push) = running.sessions.get(&conn) {
                push.close(Code::Unavailable, reason);
            }
        }
    }
}

fn tell<T: Serialize>(running: &Running, conn: Conn, message: &T) {
    tell_all(running, &[conn], message);
}

fn tell_all<T: Serialize>(running: &Running, conns: &[Conn], message: &T) {
    if conns.is_empty() {
        return;
    }
    let bytes: Bytes = match codec::encode(message) {
        Ok(bytes) => bytes,
        Err(refusal) => {
            tracing::error!("{refusal}");
            return;
        }
    };
    for push in conns.iter().filter_map(|conn| running.sessions.get(conn)) {
        push.send(bytes.clone());
    }
}
