//! A shard: the task that owns some of the worker's queues. It feeds the [`Host`] from its bounded
//! mailbox, the journal and the disk, and carries out what the host decides; it holds no rules of
//! its own. Waiting for room in the mailbox is the back-pressure on producers.

mod copies;
mod deliver;
mod rounds;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringway_proto::admin::QueueLag;
use ringway_proto::batch::Batch;
use ringway_proto::control::{FromWorker, HeldCopy, HeldQueue, OpenRight};
use ringway_proto::data::{Append, AppendAnswer, Deliver};
use ringway_proto::frame::Kind;
use ringway_proto::hash::hash;
use ringway_proto::net::Dialer;
use ringway_proto::routing::Router;
use ringway_proto::{
    Code, Epoch, Offset, QueueId, Refusal, RightId, SubscriptionId, Time, WallTime,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tracing::{error, warn};

use crate::copy::target::Fetcher;
use crate::journal::Journal;
use crate::logic::delivery::Frame;
use crate::logic::host::{Host, RightState};
use crate::logic::queue::Append as AppendHeader;
use crate::logic::slots::Routes;
use crate::logic::step::Step;
use crate::logic::{Action, StreamId, Token};
use crate::metrics::Metrics;
use crate::replay::Indexes;
use crate::worker::fail;

use copies::Copies;
pub(crate) use copies::{CopyAnswer, Fetched, FetchedWhat, NextAsked, Resume, Wants};
use deliver::Delivery;
use rounds::{Rounds, Then};

/// Inputs taken from the mailbox before deliveries get their turn.
const INPUTS_PER_TURN: usize = 512;

/// Bytes on their way out of a stream, as the stream's task writes them.
#[derive(Debug)]
pub(crate) enum Out {
    /// A control frame that was encoded already.
    Frame(Kind, bytes::Bytes),
    /// A delivery.
    Deliver(Box<Deliver>),
    /// The stream is over, with or without a reason for the holder.
    End(Option<Refusal>),
}

/// Where the frames of a delivery stream go. What waits in it is bounded by the window of the
/// right and by how much the stream's task reads.
pub(crate) type OutSender = mpsc::UnboundedSender<Out>;

/// A batch that was parsed and wants to be stored.
pub(crate) struct AppendInput {
    /// Its header; the batch in it is empty.
    pub header: Append,
    pub batch: Batch,
    pub largest_body_bytes: usize,
    pub answer: Answer,
}

/// Who waits for an append. The permit gives room on the stream back once the answer is written.
pub(crate) struct Answer {
    pub to: mpsc::UnboundedSender<Answered>,
    pub permit: OwnedSemaphorePermit,
    pub received: Instant,
}

/// An answer on its way to the stream's writer.
pub(crate) struct Answered {
    pub answer: AppendAnswer,
    pub received: Instant,
    /// Held until the answer is written.
    pub _permit: OwnedSemaphorePermit,
}

/// What a shard holds, as it is said at registration.
#[derive(Debug)]
pub(crate) struct Holdings {
    pub queues: Vec<HeldQueue>,
    pub copies: Vec<HeldCopy>,
}

/// What a shard is told.
pub(crate) enum Input {
    Append(Box<AppendInput>),
    Open {
        stream: StreamId,
        request: Box<OpenRight>,
        out: OutSender,
    },
    Frame {
        stream: StreamId,
        right: RightId,
        epoch: Epoch,
        frame: Frame,
    },
    Closed {
        stream: StreamId,
        right: RightId,
    },
    Step {
        queue: QueueId,
        step: Box<Step>,
    },
    Routing {
        router: Arc<Router>,
        ours: BTreeSet<QueueId>,
    },
    Held(oneshot::Sender<Holdings>),
    /// Something came from the original of a copy.
    Fetched(Box<Fetched>),
    /// What a copy is to be asked for.
    Resume(Resume),
    /// A copy elsewhere asks for what comes next.
    CopyNext(NextAsked),
    Lag {
        subscription: SubscriptionId,
        reply: oneshot::Sender<Vec<QueueLag>>,
    },
    States(oneshot::Sender<(usize, Vec<RightState>)>),
    /// Take nothing more; answer when everything that was taken is on disk.
    Stop(oneshot::Sender<()>),
}

/// The mailboxes of all shards.
#[derive(Clone)]
pub(crate) struct Shards(Arc<[mpsc::Sender<Input>]>);

/// Which of `shards` a queue belongs to.
pub(crate) fn shard_of(queue: QueueId, shards: usize) -> usize {
    (hash(&u64::from(queue).to_le_bytes()) % shards.max(1) as u64) as usize
}

fn gone() -> Refusal {
    Refusal::new(Code::Unavailable, "the worker is shutting down")
}

impl Shards {
    pub fn new(mailboxes: Vec<mpsc::Sender<Input>>) -> Self {
        Self(mailboxes.into())
    }

    /// The mailbox of the shard that owns `queue`.
    ///
    /// # Errors
    /// [`Code::Unavailable`] once the worker leaves.
    pub fn of(&self, queue: QueueId) -> Result<&mpsc::Sender<Input>, Refusal> {
        self.0.get(shard_of(queue, self.0.len())).ok_or_else(gone)
    }

    /// Sends to the shard that owns `queue`, waiting for room.
    ///
    /// # Errors
    /// [`Code::Unavailable`] once the worker leaves; the input was not taken then.
    pub async fn send(&self, queue: QueueId, input: Input) -> Result<(), Refusal> {
        self.of(queue)?.send(input).await.map_err(|_| gone())
    }

    /// Sends to every shard and gathers what those that live answer.
    pub async fn ask<T>(&self, make: impl Fn(oneshot::Sender<T>) -> Input) -> Vec<T> {
        let mut waiting = Vec::new();
        for mailbox in self.0.iter() {
            let (tx, rx) = oneshot::channel();
            if mailbox.send(make(tx)).await.is_ok() {
                waiting.push(rx);
            }
        }
        let mut answers = Vec::new();
        for rx in waiting {
            answers.extend(rx.await.ok());
        }
        answers
    }

    /// Sends to every shard and gathers what all of them answer.
    ///
    /// # Errors
    /// [`Code::Unavailable`] when one is gone.
    pub async fn ask_all<T>(
        &self,
        make: impl Fn(oneshot::Sender<T>) -> Input,
    ) -> Result<Vec<T>, Refusal> {
        let answers = self.ask(make).await;
        if answers.len() < self.0.len() { Err(gone()) } else { Ok(answers) }
    }

    /// Tells every shard.
    pub async fn tell(&self, make: impl Fn() -> Input) {
        for mailbox in self.0.iter() {
            // A shard that is gone needs to know nothing more.
            let _ = mailbox.send(make()).await;
        }
    }
}

/// A moment as the logic counts it.
#[derive(Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    fn now(self) -> Time {
        Time(u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn instant(self, at: Time) -> Instant {
        self.0 + Duration::from_millis(at.0)
    }
}

/// The calendar.
pub(crate) fn wall_now() -> WallTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    WallTime(since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
}

/// An append between its arrival and its answer.
struct Waiting {
    header: Append,
    batch: Arc<Batch>,
    answer: Answer,
    appended_at: WallTime,
}

/// What a shard needs to work.
pub(crate) struct Parts {
    pub inputs: mpsc::Receiver<Input>,
    pub host: Host,
    pub indexes: Indexes,
    pub journal: Journal,
    pub events: mpsc::UnboundedSender<FromWorker>,
    pub metrics: Arc<Metrics>,
    pub cache_bytes: usize,
    /// Its own mailbox, for what comes from the originals of copies.
    pub mailbox: mpsc::WeakSender<Input>,
    pub dialer: Dialer,
    /// Told why, when the shard cannot go on.
    pub failed: watch::Sender<Option<Refusal>>,
}

/// One shard.
pub(crate) struct Shard {
    inputs: mpsc::Receiver<Input>,
    host: Host,
    clock: Clock,
    events: mpsc::UnboundedSender<FromWorker>,
    metrics: Arc<Metrics>,
    rounds: Rounds,
    delivery: Delivery,
    waiting: HashMap<Token, Waiting>,
    next_token: Token,
    streams: HashMap<StreamId, OutSender>,
    timers: BTreeSet<(Time, RightId)>,
    timer_of: BTreeMap<RightId, Time>,
    copies: Copies,
    stopping: Option<oneshot::Sender<()>>,
    failed: watch::Sender<Option<Refusal>>,
}

impl Drop for Shard {
    /// A shard that panics leaves its queues without anybody: the worker must hear of it.
    fn drop(&mut self) {
        if std::thread::panicking() {
            fail(&self.failed, Refusal::new(Code::Internal, "a shard of the worker panicked"));
        }
    }
}

impl Shard {
    pub fn new(parts: Parts) -> Self {
        let Parts { inputs, host, indexes, journal, events, metrics, cache_bytes, .. } = parts;
        let Parts { mailbox, dialer, failed, .. } = parts;
        Self {
            inputs,
            host,
            clock: Clock::start(),
            events,
            metrics,
            rounds: Rounds::new(journal.clone()),
            delivery: Delivery::new(journal, indexes, cache_bytes),
            waiting: HashMap::new(),
            next_token: 0,
            streams: HashMap::new(),
            timers: BTreeSet::new(),
            timer_of: BTreeMap::new(),
            copies: Copies::new(Fetcher { dialer, mailbox }),
            stopping: None,
            failed,
        }
    }

    /// Works until told to stop, until the journal fails, or until nobody can reach it any more.
    pub async fn run(mut self) {
        loop {
            self.start_round().await;
            if self.stopping.is_some() && self.rounds.is_idle() {
                break;
            }
            let timer = self.next_timer();
            tokio::select! {
                biased;
                Some(done) = self.rounds.done.recv() => {
                    if !self.round_done(done) {
                        break;
                    }
                }
                Some(read) = self.delivery.reads.recv() => self.read_done(read),
                input = self.inputs.recv(), if self.stopping.is_none() => match input {
                    Some(input) => self.take(input),
                    None => break,
                },
                () = tokio::time::sleep_until(timer.unwrap_or_else(Instant::now).into()),
                    if timer.is_some() => {}
                // Lets others run between two turns of deliveries.
                () = tokio::task::yield_now(), if self.delivery.has_turns() => {}
            }
            self.wake();
            self.serve();
            self.serve_copies();
        }
        self.inputs.close();
        if let Some(stopped) = self.stopping.take() {
            // Whoever asked may have gone.
            let _ = stopped.send(());
        }
    }

    fn take(&mut self, first: Input) {
        self.input(first);
        for _ in 1..INPUTS_PER_TURN {
            match self.inputs.try_recv() {
                Ok(input) => self.input(input),
                Err(_) => break,
            }
        }
    }

    fn input(&mut self, input: Input) {
        let mut out = Vec::new();
        match input {
            Input::Append(append) => self.append(*append, &mut out),
            Input::Open { stream, request, out: to } => self.open(stream, &request, to, &mut out),
            Input::Frame { stream, right, epoch, frame } => {
                self.frame(stream, right, epoch, &frame, &mut out);
            }
            Input::Closed { stream, right } => {
                self.host.closed(stream, right);
                self.streams.remove(&stream);
                let right = self.host.queue(right.queue).and_then(|hosted| hosted.at(&right));
                if let Some(right) = right {
                    self.delivery.forget_right(&right);
                }
            }
            Input::Step { queue, step } => self.step(queue, *step, &mut out),
            Input::Routing { router, ours } => self.host.set_routing(router, ours, &mut out),
            Input::Held(reply) => {
                // What is said at a registration has to survive a crash, a seal above all.
                let (queues, copies) = (self.host.held(), self.host.held_copies());
                self.after_writes(Then::Held { reply, held: Holdings { queues, copies } });
            }
            Input::Fetched(fetched) => self.fetched(*fetched, &mut out),
            Input::Resume(Resume { queue, fetch, reply }) => {
                answer(reply, self.host.fetch_from(queue, fetch));
            }
            Input::CopyNext(asked) => self.copies.waiting.push(asked),
            Input::Lag { subscription, reply } => answer(reply, self.host.lag(subscription)),
            Input::States(reply) => {
                answer(reply, (self.host.queues().count(), self.host.states()));
            }
            Input::Stop(reply) => {
                self.host.write_floors();
                self.stopping = Some(reply);
            }
        }
        self.act(out);
    }

    fn append(&mut self, input: AppendInput, out: &mut Vec<Action>) {
        let AppendInput { header, batch, largest_body_bytes, answer } = input;
        self.next_token += 1;
        let token = self.next_token;
        let append = AppendHeader {
            token,
            epoch: header.epoch,
            routing: header.routing,
            producer: header.producer,
            session: header.session,
            base_sequence: header.base_sequence,
            count: header.count,
            largest_body_bytes,
            batch_bytes: batch.bytes().len(),
            routes: Routes::default(),
        };
        let queue = header.queue;
        let batch = Arc::new(batch);
        let appended_at = wall_now();
        let waiting = Waiting { header, batch: Arc::clone(&batch), answer, appended_at };
        self.waiting.insert(token, waiting);
        self.host.append(queue, append, &batch, out);
    }

    fn open(
        &mut self,
        stream: StreamId,
        request: &OpenRight,
        to: OutSender,
        out: &mut Vec<Action>,
    ) {
        self.streams.insert(stream, to);
        if let Err(refusal) = self.host.open_right(self.clock.now(), stream, request, out) {
            if refusal.code == Code::Fenced {
                self.metrics.fenced.with_label_values(&["open"]).inc();
            }
            out.push(Action::Close { stream, refusal: Some(refusal) });
        }
    }

    fn frame(
        &mut self,
        stream: StreamId,
        right: RightId,
        epoch: Epoch,
        frame: &Frame,
        out: &mut Vec<Action>,
    ) {
        let tally = self.host.frame(self.clock.now(), stream, right, epoch, frame, out);
        if tally.fenced {
            self.metrics.fenced.with_label_values(&["ack"]).inc();
        }
        if tally.acked > 0
            && let Some(subscription) = self.subscription_name(&right)
        {
            self.metrics.acks.with_label_values(&[subscription]).inc_by(tally.acked);
        }
    }

    fn subscription_name(&self, right: &RightId) -> Option<&str> {
        let setup = self.host.queue(right.queue)?.subscriptions.get(&right.subscription)?;
        Some(setup.name.as_str())
    }

    /// Carries out what the logic decided, in order.
    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Store { token, queue, at } => self.store(token, queue, at),
                Action::Write { queue, record } => {
                    let epoch = self.host.queue(queue).map_or(Epoch(0), |h| h.queue.epoch());
                    if let Err(refusal) = self.rounds.write(queue, epoch, &record) {
                        error!(%refusal, "a control record was not written");
                    }
                }
                Action::Repeat { token, at } => self.after_writes(Then::Repeat { token, at }),
                Action::Tell(event) => self.after_writes(Then::Tell(Box::new(event))),
                Action::Confirm { stream, confirmed } => {
                    self.after_writes(Then::Confirm { stream, confirmed });
                }
                Action::Refuse { token, refusal } => self.answer(token, Err(refusal)),
                Action::Opened { stream, opened } => match ringway_proto::codec::encode(&opened) {
                    Ok(bytes) => self.send(stream, Out::Frame(Kind::RightOpened, bytes)),
                    Err(refusal) => self.send(stream, Out::End(Some(refusal))),
                },
                Action::WindowSeen { stream, window } => {
                    self.send(stream, Out::Frame(Kind::WindowSeen, window.encode()));
                }
                Action::Close { stream, refusal } => {
                    self.send(stream, Out::End(refusal));
                    self.streams.remove(&stream);
                }
                Action::Look(right) => self.look(right),
                Action::Retire(right) => {
                    self.delivery.retire(&right);
                    self.set_timer(right);
                }
                Action::Late { queue, order, why } => {
                    self.metrics.late(order);
                    warn!(%queue, ?order, "an order came too late and was ignored: {why}");
                }
                Action::Forget(queue) => self.delivery.forget(queue),
                Action::Fetch { queue, fetch, from, again } => {
                    self.copies.fetch(queue, fetch, from, again);
                }
                Action::StopFetch(queue) => self.copies.stop(queue),
            }
        }
    }

    fn send(&self, stream: StreamId, out: Out) {
        if let Some(to) = self.streams.get(&stream) {
            // A stream that ended says so by `Closed`.
            let _ = to.send(out);
        }
    }

    fn answer(&mut self, token: Token, outcome: Result<Offset, Refusal>) {
        let Some(Waiting { header, answer, .. }) = self.waiting.remove(&token) else { return };
        if let Err(refusal) = &outcome {
            self.metrics.refused(refusal);
        }
        let message = AppendAnswer {
            queue: header.queue,
            session: header.session,
            base_sequence: header.base_sequence,
            outcome,
            routing: self.host.routing(),
        };
        let Answer { to, permit, received } = answer;
        // The producer may have gone; what was stored stays stored.
        let _ = to.send(Answered { answer: message, received, _permit: permit });
    }

    /// A right may have something to do now, and its next deadline may have changed.
    fn look(&mut self, right: RightId) {
        self.delivery.give_turn(right);
        self.set_timer(right);
    }

    fn set_timer(&mut self, right: RightId) {
        let next = self.host.right(&right).and_then(|r| r.next_wakeup());
        if let Some(old) = self.timer_of.remove(&right) {
            self.timers.remove(&(old, right));
        }
        if let Some(at) = next {
            self.timers.insert((at, right));
            self.timer_of.insert(right, at);
        }
    }

    fn next_timer(&self) -> Option<Instant> {
        let timer = self.timers.first().map(|(at, _)| self.clock.instant(*at));
        let copies = self.host.copies_wakeup().map(|at| self.clock.instant(at));
        [timer, copies, self.rounds.retry_at()].into_iter().flatten().min()
    }

    fn wake(&mut self) {
        let now = self.clock.now();
        while let Some(&(at, right)) = self.timers.first()
            && at <= now
        {
            let mut out = Vec::new();
            self.host.wake(now, &right, &mut out);
            self.act(out);
            self.set_timer(right);
        }
        let mut out = Vec::new();
        self.host.wake_copies(now, &mut out);
        self.act(out);
    }
}

pub(crate) fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    if reply.send(value).is_err() {
        warn!("nobody waits for a shard's answer any more");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_registration_waits_for_every_shard_or_is_not_made() {
        let (mailbox, mut inputs) = mpsc::channel(1);
        let (gone, _) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(Input::Held(reply)) = inputs.recv().await {
                answer(reply, Holdings { queues: Vec::new(), copies: Vec::new() });
            }
        });
        let live = Shards::new(vec![mailbox.clone()]).ask_all(Input::Held).await;
        assert!(live.is_ok_and(|answers| answers.len() == 1));
        let some = Shards::new(vec![mailbox, gone]).ask_all(Input::Held).await;
        assert_eq!(some.unwrap_err().code, Code::Unavailable);
    }
}
