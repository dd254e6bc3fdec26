//! How queues are copied between the workers of a cluster that is played by hand: whenever nothing
//! else happens, every copy asks its original once and is answered at once.

use ringway_proto::QueueId;
use ringway_worker::logic::hosted::CopyNext;

use super::Repair;
use super::cluster::{Cluster, Name};
use super::workers::Written;

impl Cluster {
    /// Every copy takes one step, if it can. False when none can.
    pub fn copy_queues(&mut self) -> bool {
        let mut moved = false;
        for name in self.workers.keys().copied().collect::<Vec<_>>() {
            let queues: Vec<QueueId> = self.worker(name).fetches.keys().copied().collect();
            for queue in queues {
                moved |= self.copy_step(name, queue);
            }
        }
        moved
    }

    fn copy_step(&mut self, name: Name, queue: QueueId) -> bool {
        let (now, unsynced) = (self.now, self.is_out(Repair::OnlySyncedIsCopied));
        let (fetch, from, said) = self.worker(name).fetches[&queue].clone();
        let Some(asked) = self.worker(name).host().fetch_from(queue, fetch) else { return false };
        let source = self.workers.values().find(|w| format!("{}:7400", w.id) == from);
        let Some((source, host)) = source.and_then(|w| Some((w, w.host.as_ref()?))) else {
            return false;
        };
        let Some(hosted) = host.queue(queue) else { return false };
        let state = hosted.copy_state(10);
        let next = host.copy_next(&asked);
        let batch = match next {
            CopyNext::Batches { .. } => source.batch_at(queue, asked.from),
            CopyNext::Wait if unsynced => source.unsynced_at(queue, asked.from),
            _ => None,
        };
        let mut out = Vec::new();
        let moved = match (next, batch) {
            (_, Some((stored, batch))) => {
                let host = self.worker(name).host();
                let born = host.copy_batch(fetch, &stored, &mut out).unwrap().unwrap();
                self.worker(name).journal.push(Written::Batch(stored, batch));
                self.worker(name).host().copy_stored(now, born, &stored, &mut out)
            }
            (CopyNext::Sealed(snapshot), _) => {
                self.worker(name).host().copy_sealed(queue, fetch, *snapshot, &mut out).is_ok()
            }
            (CopyNext::Wait, _) if said != Some(state) => {
                self.worker(name).host().copy_heard(now, queue, fetch, state, &mut out);
                if let Some(fetch) = self.worker(name).fetches.get_mut(&queue) {
                    fetch.2 = Some(state);
                }
                true
            }
            _ => false,
        };
        self.carry(name, out);
        moved
    }
}
