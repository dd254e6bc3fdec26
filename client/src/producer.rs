//! Publishing: one message with [`Publish`], or a stream of them with [`Producer`], which waits
//! for room only and lets `flush` say what became of them. It owns what a caller waits on; how a
//! message reaches its queue is the engine's.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use ringway_proto::message::{Header, Message};
use ringway_proto::{Class, Refusal};
use tokio::sync::{Notify, TryAcquireError, oneshot};

use crate::client::Inner;
use crate::engine::Command;
use crate::error::{FlushError, PublishError, SendError};
use crate::message::{Body, Key, Receipt};

/// What a record takes beside its parts, roughly.
const RECORD_OVERHEAD: usize = 16;

type Answer = Result<Receipt, PublishError>;

/// Who is told what became of a message. Dropped, it says that nobody knows.
pub(crate) struct Completion {
    reply: Option<oneshot::Sender<Answer>>,
    tally: Option<Arc<Tally>>,
}

impl Completion {
    fn new(reply: oneshot::Sender<Answer>, tally: Option<Arc<Tally>>) -> Self {
        Self { reply: Some(reply), tally }
    }

    pub fn complete(mut self, answer: Answer) {
        self.tell(answer);
    }

    /// Nothing was taken, and the caller is told so in another way.
    fn forget(mut self) {
        self.reply = None;
        if let Some(tally) = self.tally.take() {
            tally.finished(false, None);
        }
    }

    fn tell(&mut self, answer: Answer) {
        let Some(reply) = self.reply.take() else { return };
        let stored = answer.is_ok();
        let unread = reply.send(answer).err().and_then(Result::err);
        if let Some(tally) = self.tally.take() {
            tally.finished(stored, unread);
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        self.tell(Err(PublishError::Unknown { cause: "the client's thread ended".into() }));
    }
}

/// What a producer has sent and not yet flushed.
#[derive(Default)]
pub(crate) struct Tally {
    state: Mutex<Counts>,
    quiet: Notify,
}

#[derive(Default)]
struct Counts {
    open: u64,
    stored: u64,
    failed: u64,
    unknown: u64,
    first: Option<PublishError>,
}

impl Counts {
    fn fail(&mut self, e: PublishError) {
        match e.is_unknown() {
            true => self.unknown += 1,
            false => self.failed += 1,
        }
        self.first.get_or_insert(e);
    }
}

impl Tally {
    /// What was counted since the last flush, once nothing is unanswered.
    fn settled(&self) -> Option<Result<Settled, FlushError>> {
        let mut counts = self.counts();
        if counts.open > 0 {
            return None;
        }
        let Counts { stored, failed, unknown, first, .. } = std::mem::take(&mut *counts);
        Some(match first {
            None => Ok(Settled { stored }),
            Some(first) => Err(FlushError { stored, failed, unknown, first }),
        })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finished(&self, stored: bool, unread: Option<PublishError>) {
        let mut counts = self.counts();
        counts.open -= 1;
        counts.stored += u64::from(stored);
        if let Some(e) = unread {
            counts.fail(e);
        }
        if counts.open == 0 {
            self.quiet.notify_waiters();
        }
    }
}

/// A message on its way into the SDK.
struct Draft {
    client: Arc<Inner>,
    class: Result<Class, Refusal>,
    key: Option<Key>,
    id: Option<Key>,
    headers: Vec<Header>,
    body: Body,
    deadline: Duration,
    tally: Option<Arc<Tally>>,
}

impl Draft {
    fn new(client: &Arc<Inner>, class: &str, body: Body, tally: Option<Arc<Tally>>) -> Self {
        Self {
            client: client.clone(),
            class: Class::new(class),
            key: None,
            id: None,
            headers: Vec::new(),
            body,
            deadline: client.options.publish_deadline,
            tally,
        }
    }

    /// The message, and what it counts against the bytes in flight.
    fn check(&mut self) -> Result<(Message, u32), SendError> {
        let class = self.class.clone().map_err(SendError::Invalid)?;
        let message = Message {
            class,
            key: self.key.take().map(|k| k.0),
            id: self.id.take().map(|k| k.0),
            headers: std::mem::take(&mut self.headers),
            body: std::mem::take(&mut self.body).0,
        };
        let router = self.client.routes.current();
        let (group, most) = match router.group_of(message.class.as_str()) {
            Some(group) => (group.name().as_str(), group.max_body_bytes()),
            // No group takes it now: the engine refuses it, or a newer routing knows better.
            None => ("", u32::MAX),
        };
        message.check(group, most).map_err(SendError::Invalid)?;
        let headers: usize = message.headers.iter().map(|h| h.name.len() + h.value.len() + 3).sum();
        let parts = [message.key.as_ref(), message.id.as_ref(), Some(&message.body)];
        let bytes: usize = parts.into_iter().flatten().map(|b| b.len() + 2).sum();
        let bytes = bytes + headers + RECORD_OVERHEAD + message.class.as_str().len();
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Ok((message, bytes.min(self.client.options.max_in_flight_bytes)))
    }

    /// Hands the message to the engine; there is room for it.
    fn hand_over(self, message: Message, bytes: u32) -> Result<Pending, SendError> {
        let (reply, answer) = oneshot::channel();
        let tally = self.tally.clone();
        if let Some(tally) = &tally {
            tally.counts().open += 1;
        }
        let completion = Completion::new(reply, tally.clone());
        let command = Command::Publish { message, bytes, deadline: self.deadline, completion };
        if let Err(unsent) = self.client.commands.send(command) {
            if let Command::Publish { completion, .. } = unsent.0 {
                completion.forget();
            }
            return Err(SendError::Closed);
        }
        Ok(Pending { answer, tally, told: false, _client: self.client })
    }

    async fn send(mut self) -> Result<Pending, SendError> {
        let (message, bytes) = self.check()?;
        self.wait_for_room(bytes).await?;
        self.hand_over(message, bytes)
    }

    fn no_room(&self) -> SendError {
        SendError::NoRoom { limit_bytes: self.client.options.max_in_flight_bytes }
    }

    async fn wait_for_room(&self, bytes: u32) -> Result<(), SendError> {
        if self.take_room(bytes)? {
            return Ok(());
        }
        // The clock is the SDK's, so that the caller's runtime needs none.
        let late = {
            let _sdk = self.client.runtime.enter();
            tokio::time::sleep(self.deadline)
        };
        tokio::select! {
            biased;
            permit = self.client.room.acquire_many(bytes) => {
                permit.map_err(|_| SendError::Closed)?.forget();
                Ok(())
            }
            () = late => Err(self.no_room()),
        }
    }

    /// Takes room if there is some.
    fn take_room(&self, bytes: u32) -> Result<bool, SendError> {
        match self.client.room.try_acquire_many(bytes) {
            Ok(permit) => permit.forget(),
            Err(TryAcquireError::Closed) => return Err(SendError::Closed),
            Err(TryAcquireError::NoPermits) => return Ok(false),
        }
        Ok(true)
    }

    fn send_now(mut self) -> Result<Pending, SendError> {
        let (message, bytes) = self.check()?;
        if self.take_room(bytes)? { self.hand_over(message, bytes) } else { Err(self.no_room()) }
    }
}

macro_rules! draft_options {
    ($name:ident) => {
        impl $name {
            /// What the message is ordered by. An empty key is a key.
            pub fn key(mut self, key: impl Into<Key>) -> Self {
                self.draft.key = Some(key.into());
                self
            }

            /// A name and a value that travel with it.
            pub fn header(mut self, name: impl Into<String>, value: impl Into<Body>) -> Self {
                self.draft.headers.push(Header { name: name.into(), value: value.into().0 });
                self
            }

            /// Names the message, and routes it where there is no key.
            pub fn id(mut self, id: impl Into<Key>) -> Self {
                self.draft.id = Some(id.into());
                self
            }

            /// How long it waits for room, and how long it is tried from when it is taken.
            pub fn deadline(mut self, deadline: Duration) -> Self {
                self.draft.deadline = deadline;
                self
            }
        }
    };
}

/// One message that is to be published; await it for the receipt.
///
/// # Cancellation
/// Unknown if dropped.
#[must_use = "nothing is published until it is awaited"]
pub struct Publish {
    draft: Draft,
}

draft_options!(Publish);

impl Publish {
    pub(crate) fn new(client: &Arc<Inner>, class: &str, body: Body) -> Self {
        Self { draft: Draft::new(client, class, body, None) }
    }
}

impl IntoFuture for Publish {
    type Output = Answer;
    type IntoFuture = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.draft.send().await?.await })
    }
}

/// One message of a producer; await it until there is room.
///
/// # Cancellation
/// Safe: dropped before it is ready, nothing was taken.
#[must_use = "nothing is sent until it is awaited"]
pub struct Outgoing {
    draft: Draft,
}

draft_options!(Outgoing);

impl Outgoing {
    /// Sends without waiting.
    ///
    /// # Errors
    /// [`SendError::NoRoom`] at the limit of what may be in flight; else as awaiting it.
    pub fn now(self) -> Result<Pending, SendError> {
        self.draft.send_now()
    }
}

impl IntoFuture for Outgoing {
    type Output = Result<Pending, SendError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.draft.send())
    }
}

/// A message that was taken; await it for the receipt. Dropping it takes nothing back.
pub struct Pending {
    answer: oneshot::Receiver<Answer>,
    tally: Option<Arc<Tally>>,
    told: bool,
    _client: Arc<Inner>,
}

impl Future for Pending {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let answer = std::task::ready!(Pin::new(&mut self.answer).poll(cx));
        self.told = true;
        // A completion always answers, also when it is dropped.
        Poll::Ready(answer.unwrap_or(Err(PublishError::Closed)))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.told {
            return;
        }
        self.answer.close();
        if let (Ok(Err(e)), Some(tally)) = (self.answer.try_recv(), &self.tally) {
            tally.counts().fail(e);
        }
    }
}

/// How a producer is made; nothing is sent by it.
#[must_use]
pub struct ProducerBuilder {
    client: Arc<Inner>,
}

impl ProducerBuilder {
    pub(crate) fn new(client: &Arc<Inner>) -> Self {
        Self { client: client.clone() }
    }

    /// The producer.
    #[must_use]
    pub fn build(self) -> Producer {
        Producer { client: self.client, tally: Arc::default() }
    }
}

/// Publishes many messages, in order for each key, without waiting for each.
#[derive(Clone)]
pub struct Producer {
    client: Arc<Inner>,
    tally: Arc<Tally>,
}

/// What a flush found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Settled {
    /// Messages stored since the last flush.
    pub stored: u64,
}

impl Producer {
    /// A message that is to be sent; await it until there is room for it.
    pub fn send(&self, class: impl AsRef<str>, body: impl Into<Body>) -> Outgoing {
        let tally = Some(self.tally.clone());
        Outgoing { draft: Draft::new(&self.client, class.as_ref(), body.into(), tally) }
    }

    /// Waits until nothing that was sent by this producer is unanswered.
    ///
    /// # Cancellation
    /// Safe.
    ///
    /// # Errors
    /// [`FlushError`] with the failures that no [`Pending`] reported since the last flush.
    pub async fn flush(&self) -> Result<Settled, FlushError> {
        loop {
            let quiet = self.tally.quiet.notified();
            tokio::pin!(quiet);
            quiet.as_mut().enable();
            if let Some(settled) = self.tally.settled() {
                return settled;
            }
            quiet.await;
        }
    }
}
