//! Fetching a queue from its primary: it dials, asks from where the copy is, looks at each batch and
//! hands it to the shard. It tries again until the shard wants nothing more; what is taken and when
//! the copy is whole is decided there.

use std::sync::Arc;
use std::time::Duration;

use ringway_proto::batch::Batch;
use ringway_proto::data::CopyBatch;
use ringway_proto::frame::Kind;
use ringway_proto::net::{Dialer, FrameReader, Role};
use ringway_proto::{Code, QueueId, Refusal, codec};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use crate::shard::{Fetched, FetchedWhat, Input, Resume};

/// How long one attempt to connect may take.
const DIAL: Duration = Duration::from_secs(5);
/// Waits between attempts: the first, and the longest.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// What may be on its way from the network to the disk for one copy, in units; one batch may be
/// larger. It shares rounds of the journal with what is published here, which is answered only
/// when all of a round is on disk.
const ROOM_UNITS: usize = 1024;
const UNIT_BYTES: usize = 1024;

/// What every fetch of a shard needs.
pub(crate) struct Fetcher {
    pub dialer: Dialer,
    /// The shard's own mailbox.
    pub mailbox: mpsc::WeakSender<Input>,
}

/// A fetch under way; it ends when this is dropped.
pub(crate) struct Fetch(JoinHandle<()>);

impl Drop for Fetch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Fetcher {
    /// Begins to fetch; `again` lets a moment pass first.
    pub fn start(&self, queue: QueueId, fetch: u64, from: String, again: bool) -> Fetch {
        let task = Task {
            queue,
            fetch,
            from,
            dialer: self.dialer.clone(),
            mailbox: self.mailbox.clone(),
            room: Arc::new(Semaphore::new(ROOM_UNITS)),
        };
        Fetch(tokio::spawn(task.run(again)))
    }
}

struct Task {
    queue: QueueId,
    fetch: u64,
    from: String,
    dialer: Dialer,
    mailbox: mpsc::WeakSender<Input>,
    room: Arc<Semaphore>,
}

impl Task {
    async fn run(self, again: bool) {
        let mut wait = if again { RETRY } else { Duration::ZERO };
        let mut said = None;
        loop {
            tokio::time::sleep(wait).await;
            let mut moved = false;
            let Err(why) = self.fetch(&mut moved).await else { return };
            wait = if moved { RETRY } else { (wait * 2).clamp(RETRY, RETRY_MAX) };
            if said.as_ref() != Some(&why) {
                warn!(queue = %self.queue, from = %self.from, "a copy waits: {why}");
                said = Some(why);
            }
        }
    }

    /// One attempt; `moved` becomes true when something came. Ends without an error when nothing
    /// more is wanted.
    async fn fetch(&self, moved: &mut bool) -> Result<(), Refusal> {
        let (reply, asked) = oneshot::channel();
        let resume = Input::Resume(Resume { queue: self.queue, fetch: self.fetch, reply });
        if !self.send(resume).await {
            return Ok(());
        }
        let Ok(Some(ask)) = asked.await else { return Ok(()) };
        let peer = self
            .dialer
            .dial(&self.from, Role::Worker, DIAL)
            .await
            .map_err(|e| Refusal::new(Code::Unavailable, e.to_string()))?;
        debug!(queue = %self.queue, from = %self.from, at = %ask.from, "copying");
        let (mut writer, reader) = peer.open().await.map_err(|e| e.refusal())?;
        writer.write_control(Kind::CopyFrom, &ask).await.map_err(|e| e.refusal())?;
        let read = self.read(reader, moved).await;
        peer.close(0, "the copy has ended");
        read
    }

    /// Reads until everything was said.
    async fn read(&self, mut reader: FrameReader, moved: &mut bool) -> Result<(), Refusal> {
        loop {
            let frame = reader.read().await.map_err(|e| e.refusal())?;
            let Some((kind, payload)) = frame else {
                return Err(Refusal::new(Code::Unavailable, "the primary ended the copy"));
            };
            let what = match kind {
                Kind::CopyState => FetchedWhat::State(codec::decode(&payload)?),
                Kind::CopyBatch => {
                    let batch = CopyBatch::decode(payload)?;
                    check(&batch)?;
                    let room = self.room_for(batch.batch.len()).await?;
                    FetchedWhat::Batch(batch, room)
                }
                Kind::CopySealed => FetchedWhat::Sealed(codec::decode(&payload)?),
                Kind::Refused => return Err(codec::decode::<Refusal>(&payload)?),
                other => {
                    let text = format!("a frame of kind {other:?} has no place on a copy stream");
                    return Err(Refusal::new(Code::Protocol, text));
                }
            };
            *moved = true;
            let is_last = matches!(what, FetchedWhat::Sealed(_));
            let fetched = Fetched { queue: self.queue, fetch: self.fetch, what };
            if !self.send(Input::Fetched(Box::new(fetched))).await || is_last {
                return Ok(());
            }
        }
    }

    /// False when the shard is gone.
    async fn send(&self, input: Input) -> bool {
        let Some(mailbox) = self.mailbox.upgrade() else { return false };
        mailbox.send(input).await.is_ok()
    }

    async fn room_for(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let units = (bytes / UNIT_BYTES).clamp(1, ROOM_UNITS) as u32;
        let room = Arc::clone(&self.room).acquire_many_owned(units).await;
        room.map_err(|_| Refusal::new(Code::Unavailable, "the worker is shutting down"))
    }
}

/// What is stored here is served from here: it has to be whole.
fn check(copied: &CopyBatch) -> Result<(), Refusal> {
    let batch = Batch::parse(copied.batch.clone())?;
    if batch.len() != copied.count as usize {
        return Err(Refusal::new(
            Code::Protocol,
            format!("a copied batch of {} messages is said to have {}", batch.len(), copied.count),
        ));
    }
    Ok(())
}
