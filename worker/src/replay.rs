//! Rebuilding the queues from the journal when a worker starts. It promises the state that was
//! durable when the journal ended; it does not read files, the journal hands it each frame.

use std::collections::BTreeMap;

use ringway_proto::{Code, QueueId, Refusal};

use crate::journal::{FrameHeader, Kind, Location, QueueIndex};
use crate::logic::Rules;
use crate::logic::host::Host;
use crate::logic::queue::StoredBatch;
use crate::records::ControlRecord;

/// Where the batches of each queue are.
pub type Indexes = BTreeMap<QueueId, QueueIndex>;

/// The state so far.
pub struct Replay {
    host: Host,
    indexes: Indexes,
    failure: Option<Refusal>,
}

impl Replay {
    /// Nothing yet.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self { host: Host::new(rules), indexes: Indexes::new(), failure: None }
    }

    /// Takes the next frame. After the first failure the rest is passed over.
    pub fn visit(&mut self, header: &FrameHeader, at: Location, body: &[u8]) {
        if self.failure.is_none()
            && let Err(refusal) = self.take(header, at, body)
        {
            self.failure = Some(refusal);
        }
    }

    fn take(&mut self, header: &FrameHeader, at: Location, body: &[u8]) -> Result<(), Refusal> {
        match header.kind {
            Kind::Batch => {
                let batch = StoredBatch {
                    queue: header.queue,
                    at: header.base_offset,
                    count: header.count,
                    producer: header.producer,
                    session: header.session,
                    base_sequence: header.sequence,
                    appended_at: header.appended_at,
                    bytes: header.body_len,
                };
                self.host.replay_batch(&batch)?;
                let index = self.indexes.entry(header.queue).or_default();
                index
                    .push(header.base_offset, header.count, at)
                    .map_err(|e| Refusal::new(Code::Damaged, e.to_string()))
            }
            Kind::Control => {
                if self.host.replay_record(header.queue, ControlRecord::decode(body)?)? {
                    self.indexes.remove(&header.queue);
                }
                Ok(())
            }
            Kind::Sync | Kind::Close => Ok(()),
        }
    }

    /// The state at the end of the journal.
    ///
    /// # Errors
    /// The first frame that does not fit what came before, [`Code::Damaged`].
    pub fn finish(self) -> Result<(Host, Indexes), Refusal> {
        match self.failure {
            Some(refusal) => Err(refusal),
            None => Ok((self.host, self.indexes)),
        }
    }
}
