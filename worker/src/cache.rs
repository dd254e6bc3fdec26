//! Recent batches of a shard's queues, kept whole in memory up to a budget. The oldest go first.
//! It does not know who reads them, or where older ones are.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ringway_proto::batch::Batch;
use ringway_proto::{Offset, QueueId};

/// A bounded store of batches by queue and base offset.
pub(crate) struct Cache {
    budget_bytes: usize,
    bytes: usize,
    batches: BTreeMap<(QueueId, Offset), Arc<Batch>>,
    /// Keys in the order in which they came; one that was forgotten is passed over.
    order: VecDeque<(QueueId, Offset)>,
}

impl Cache {
    pub fn new(budget_bytes: usize) -> Self {
        Self { budget_bytes, bytes: 0, batches: BTreeMap::new(), order: VecDeque::new() }
    }

    pub fn insert(&mut self, queue: QueueId, base: Offset, batch: Arc<Batch>) {
        self.bytes += cost(&batch);
        self.order.push_back((queue, base));
        if let Some(old) = self.batches.insert((queue, base), batch) {
            self.bytes -= cost(&old);
        }
        while self.bytes > self.budget_bytes
            && let Some(key) = self.order.pop_front()
        {
            if let Some(old) = self.batches.remove(&key) {
                self.bytes -= cost(&old);
            }
        }
    }

    /// The batch that holds the message at `at`, with its base offset.
    pub fn find(&self, queue: QueueId, at: Offset) -> Option<(Offset, Arc<Batch>)> {
        let (&(_, base), batch) =
            self.batches.range((queue, Offset(0))..=(queue, at)).next_back()?;
        (at.0 - base.0 < batch.len() as u64).then(|| (base, Arc::clone(batch)))
    }

    pub fn forget(&mut self, queue: QueueId) {
        let gone: Vec<_> = self
            .batches
            .range((queue, Offset(0))..=(queue, Offset(u64::MAX)))
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            if let Some(old) = self.batches.remove(&key) {
                self.bytes -= cost(&old);
            }
        }
        self.order.retain(|(of, _)| *of != queue);
    }
}

/// The memory of a batch, with what [`Batch::parse`] keeps beside its bytes.
fn cost(batch: &Batch) -> usize {
    batch.bytes().len() + 4 * batch.len() + 200
}

#[cfg(test)]
mod tests {
    use ringway_proto::batch::BatchBuilder;
    use ringway_proto::message::Message;
    use ringway_proto::{Class, GroupId, WallTime};

    use super::*;

    #[test]
    fn the_oldest_batches_go_when_the_budget_is_used_up() {
        let queue = QueueId::new(GroupId(1), 0);
        let mut builder = BatchBuilder::new();
        let class = Class::new("a.b").unwrap();
        builder.push(&Message::new(class.clone(), vec![0; 800]));
        builder.push(&Message::new(class, vec![0; 800]));
        let batch = Arc::new(Batch::parse(builder.finish(WallTime(0))).unwrap());
        let mut cache = Cache::new(4 * cost(&batch));
        for n in 0..10 {
            cache.insert(queue, Offset(n * 2), batch.clone());
        }
        assert!(cache.find(queue, Offset(11)).is_none());
        assert_eq!(cache.find(queue, Offset(13)).unwrap().0, Offset(12));
        assert_eq!(cache.find(queue, Offset(19)).unwrap().0, Offset(18));
        assert!(cache.find(queue, Offset(20)).is_none());
        cache.forget(queue);
        assert!(cache.find(queue, Offset(19)).is_none() && cache.bytes == 0);
    }
}
