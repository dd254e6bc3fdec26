//! The load of a run over the public SDK: a publisher that keeps every queue busy at an even rate, and
//! members that note what they get and acknowledge it at once. What they saw is in the [`Log`] and in
//! [`Published`]; neither knows what is measured.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ringway_client::{Client, Event, Events, Pending, Start};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::Outcome;
use crate::handed::{Log, body};

/// How many keys there are for each queue.
pub const KEYS_PER_QUEUE: usize = 4;
/// How many keys are tried for each one that is wanted: queues are hit at random.
const TRIES: usize = 1000;

/// One answer to the publisher. Times count from the start of the run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answered {
    /// When the message was given to the producer.
    pub sent: Duration,
    /// When its receipt came.
    pub at: Duration,
    /// The number of its queue in the group.
    pub queue: u32,
}

/// What became of what was published.
#[derive(Default)]
pub struct Published {
    /// Receipts.
    pub answers: Vec<Answered>,
    /// Messages that were not stored, or nobody knows: the reasons.
    pub errors: Vec<String>,
}

/// A publisher that runs until it is stopped.
pub struct Publisher {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Outcome<()>>,
    published: Arc<Mutex<Published>>,
}

/// For each queue of a group, [`KEYS_PER_QUEUE`] keys that go there.
///
/// # Errors
/// When the client does not know the group, or no key was found that goes to one of its queues.
pub fn keys(client: &Client, group: &str) -> Outcome<Vec<Vec<String>>> {
    let router = client.router();
    let group = router.group_by_name(group).ok_or(format!("no group {group} is known"))?;
    let mut keys = vec![Vec::new(); group.queue_count() as usize];
    let mut missing = keys.len() * KEYS_PER_QUEUE;
    for n in 0..missing * TRIES {
        let key = format!("k{n}");
        let of_queue = &mut keys[group.queue_of(key.as_bytes()).index as usize];
        if of_queue.len() < KEYS_PER_QUEUE {
            of_queue.push(key);
            missing -= 1;
        }
        if missing == 0 {
            return Ok(keys);
        }
    }
    Err("a queue has no key".into())
}

impl Publisher {
    /// Publishes `rate` messages per second to `class`, which goes to `group`: to each queue in turn,
    /// and there to each of its keys in turn.
    ///
    /// # Errors
    /// When the client does not know the group.
    pub fn start(
        client: Client,
        log: Arc<Log>,
        group: &str,
        class: &'static str,
        rate: u64,
    ) -> Outcome<Self> {
        let keys = keys(&client, group)?;
        let (stop, stopped) = oneshot::channel();
        let published = Arc::<Mutex<Published>>::default();
        let work = publish(client, log, keys, class, rate, stopped, published.clone());
        Ok(Self { stop, task: tokio::spawn(work), published })
    }

    /// What is known by now.
    pub fn published(&self) -> MutexGuard<'_, Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops, waits for every answer, and says what became of all messages.
    ///
    /// # Errors
    /// When a message could not even be given to the SDK.
    pub async fn stop(self) -> Outcome<Published> {
        drop(self.stop);
        self.task.await??;
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut *published))
    }
}

async fn publish(
    client: Client,
    log: Arc<Log>,
    keys: Vec<Vec<String>>,
    class: &'static str,
    rate: u64,
    mut stopped: oneshot::Receiver<()>,
    published: Arc<Mutex<Published>>,
) -> Outcome<()> {
    let producer = client.producer().build();
    // Answers of a queue come in its order, so one task a queue sees each when it comes.
    let mut waiters = Vec::new();
    let mut waiting = Vec::new();
    for queue in 0..keys.len() as u32 {
        let (sent, pending) = mpsc::unbounded_channel();
        waiting.push(sent);
        waiters.push(tokio::spawn(wait(queue, pending, log.clone(), published.clone())));
    }
    let began = log.now();
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    let mut number = 0u64;
    while !matches!(stopped.try_recv(), Ok(()) | Err(oneshot::error::TryRecvError::Closed)) {
        tick.tick().await;
        let due = ((log.now() - began).as_secs_f64() * rate as f64) as u64;
        while number < due {
            let queue = (number % keys.len() as u64) as usize;
            let turn = (number / keys.len() as u64) as usize % KEYS_PER_QUEUE;
            let (key, sent) = (&keys[queue][turn], log.now());
            let text = body(number, (queue * KEYS_PER_QUEUE + turn) as u32, sent);
            let pending = producer.send(class, text).key(key).await?;
            // The receiver lives until this side is dropped.
            let _ = waiting[queue].send((sent, pending));
            number += 1;
        }
    }
    drop(waiting);
    for waiter in waiters {
        waiter.await?;
    }
    client.close().await;
    Ok(())
}

async fn wait(
    queue: u32,
    mut pending: mpsc::UnboundedReceiver<(Duration, Pending)>,
    log: Arc<Log>,
    published: Arc<Mutex<Published>>,
) {
    while let Some((sent, answer)) = pending.recv().await {
        let answer = answer.await;
        let at = log.now();
        let mut published = published.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(_) => published.answers.push(Answered { sent, at, queue }),
            Err(e) => published.errors.push(e.to_string()),
        }
    }
}

/// A member that acknowledges what it gets.
pub struct Member {
    /// When the join was asked for, and when it was answered.
    pub joined: (Duration, Duration),
    stop: oneshot::Sender<()>,
    task: JoinHandle<Outcome<()>>,
}

impl Member {
    /// Joins as number `index` with a client, and so a thread and connections, of its own.
    ///
    /// # Errors
    /// When the join is refused.
    pub async fn join(
        url: &str,
        log: &Arc<Log>,
        filter: &str,
        name: &str,
        index: u32,
    ) -> Outcome<Self> {
        let client = Client::connect(url).await?;
        let mut member = Self::join_with(&client, log, filter, name, index).await?;
        let task = member.task;
        member.task = tokio::spawn(async move {
            let ended = task.await?;
            client.close().await;
            ended
        });
        Ok(member)
    }

    /// Joins as number `index` with this client; the subscription begins with what is published from
    /// then on.
    ///
    /// # Errors
    /// When the join is refused.
    pub async fn join_with(
        client: &Client,
        log: &Arc<Log>,
        filter: &str,
        name: &str,
        index: u32,
    ) -> Outcome<Self> {
        let (stop, stopped) = oneshot::channel::<()>();
        let asked = log.now();
        let subscribe = client.subscribe(filter).name(name).member(format!("m{index}"));
        let stopped = async { drop(stopped.await) };
        let mut seat = subscribe.from(Start::Now).until(stopped).join().await?;
        let joined = (asked, log.now());
        tokio::spawn(note_rights(seat.events(), log.clone()));
        let log = log.clone();
        let task = tokio::spawn(async move {
            while let Some(message) = seat.next().await? {
                log.note(index, &message.queue, message.text().unwrap_or_default());
                message.ack().await?;
            }
            Ok(seat.leave().await?)
        });
        Ok(Self { joined, stop, task })
    }

    /// Leaves, and waits until everything is handed over.
    ///
    /// # Errors
    /// When the member ended before, or could not hand over in time.
    pub async fn leave(self) -> Outcome<()> {
        drop(self.stop);
        self.task.await?
    }
}

async fn note_rights(mut events: Events, log: Arc<Log>) {
    while let Some(event) = events.next().await {
        if matches!(event, Event::Granted { .. } | Event::Released { .. } | Event::Lost { .. }) {
            log.note_right();
        }
    }
}
