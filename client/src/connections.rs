//! The connections to the workers and the streams on them: one publish stream for each worker, one
//! delivery stream for each open right. It owns which of them is the current one; what is said on
//! them, and when, it does not know.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use ringway_proto::control::OpenRight;
use ringway_proto::data::Append;
use ringway_proto::frame::Kind;
use ringway_proto::net::{Dialer, Link, Peer, Role};
use ringway_proto::routing::Router;
use ringway_proto::{Epoch, RightId, Time, WorkerId};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::clock::Clock;
use crate::logic::report::Frame;
use crate::streams::{self, StreamId};

struct Worker {
    link: Link,
    addresses: watch::Sender<Vec<String>>,
    generation: u64,
    publish: Option<mpsc::UnboundedSender<Append>>,
    task: AbortHandle,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Delivery {
    id: StreamId,
    epoch: Epoch,
    worker: WorkerId,
    /// The connection that it was opened on.
    peer: Option<Peer>,
    tx: mpsc::UnboundedSender<(Kind, Bytes)>,
    task: AbortHandle,
}

/// All connections to workers.
pub(crate) struct Connections {
    dialer: Dialer,
    events: streams::Events,
    workers: BTreeMap<WorkerId, Worker>,
    generations: u64,
    deliveries: HashMap<(u64, RightId), Delivery>,
}

impl Connections {
    /// None yet; what their streams say goes to `events`.
    pub fn new(dialer: Dialer, events: streams::Events) -> Self {
        Self {
            dialer,
            events,
            workers: BTreeMap::new(),
            generations: 0,
            deliveries: HashMap::new(),
        }
    }

    /// The connection to a worker, made when it is needed first.
    pub fn worker(
        &mut self,
        router: &Router,
        id: &WorkerId,
    ) -> Option<watch::Receiver<Option<Peer>>> {
        if !self.workers.contains_key(id) {
            let address = router.worker_address(id)?.to_owned();
            let (addresses, rx) = watch::channel(vec![address]);
            let link = Link::spawn(self.dialer.clone(), rx, Role::Worker);
            self.generations += 1;
            let generation = self.generations;
            let events = self.events.clone();
            let publish = streams::publish(link.peer(), events, id.clone(), generation);
            let task = tokio::spawn(publish).abort_handle();
            let worker = Worker { link, addresses, generation, publish: None, task };
            self.workers.insert(id.clone(), worker);
        }
        self.workers.get(id).map(|w| w.link.peer())
    }

    /// Takes the publish stream of a worker, or that it is gone. False when that is about a
    /// connection which was given up.
    pub fn set_publish(
        &mut self,
        id: &WorkerId,
        generation: u64,
        publish: Option<mpsc::UnboundedSender<Append>>,
    ) -> bool {
        match self.workers.get_mut(id).filter(|w| w.generation == generation) {
            Some(worker) => {
                worker.publish = publish;
                true
            }
            None => false,
        }
    }

    /// Sends an append. A stream that broke meanwhile says so, and then all is sent again.
    pub fn append(&self, worker: &WorkerId, append: Append) {
        if let Some(tx) = self.workers.get(worker).and_then(|w| w.publish.as_ref()) {
            let _ = tx.send(append);
        }
    }

    /// Follows a routing; returns the workers that are gone.
    pub fn follow(&mut self, router: &Router) -> Vec<WorkerId> {
        let gone: Vec<WorkerId> =
            self.workers.keys().filter(|w| router.worker(w).is_none()).cloned().collect();
        for worker in &gone {
            self.workers.remove(worker);
        }
        for (id, worker) in &self.workers {
            let address: Vec<String> =
                router.worker_address(id).map(Into::into).into_iter().collect();
            worker.addresses.send_if_modified(|old| {
                *old != address && {
                    *old = address;
                    true
                }
            });
        }
        gone
    }

    /// The delivery streams that are not at their queue's primary.
    pub fn astray(&self, router: &Router) -> Vec<StreamId> {
        let is_astray = |d: &&Delivery| {
            let primary = router.queue(d.id.right.queue).and_then(|q| q.primary.as_ref());
            primary != Some(&d.worker)
        };
        self.deliveries.values().filter(is_astray).map(|d| d.id).collect()
    }

    /// Opens a right at its primary, in place of an older open. False when none is known.
    /// `right` is what the seat calls it.
    pub fn open(&mut self, router: &Router, seat: u64, right: RightId, open: OpenRight) -> bool {
        let id = StreamId { seat, right, open: open.open };
        let epoch = open.epoch;
        self.abort(seat, &id.right);
        let primary = router.queue(id.right.queue).and_then(|q| q.primary.clone());
        let Some(worker) = primary else { return false };
        let Some(peers) = self.worker(router, &worker) else { return false };
        let (tx, rx) = mpsc::unbounded_channel();
        let events = self.events.clone();
        let task = tokio::spawn(streams::deliveries(peers, events, id, open, rx)).abort_handle();
        let delivery = Delivery { id, epoch, worker, peer: None, tx, task };
        self.deliveries.insert((seat, id.right), delivery);
        true
    }

    /// Whether this is the right's current stream.
    pub fn is_current(&self, id: StreamId) -> bool {
        self.deliveries.get(&(id.seat, id.right)).is_some_and(|d| d.id == id)
    }

    /// The primary has opened the right on this connection.
    pub fn opened(&mut self, id: StreamId, peer: Peer) {
        if let Some(stream) = self.deliveries.get_mut(&(id.seat, id.right)).filter(|d| d.id == id) {
            stream.peer = Some(peer);
        }
    }

    /// Sends frames on a right's stream.
    pub fn send(&self, seat: u64, right: RightId, frames: Vec<Frame>) {
        if let Some(stream) = self.deliveries.get(&(seat, right)) {
            for frame in frames {
                let _ = stream.tx.send(frame);
            }
        }
    }

    /// Lets go of a right's stream. One that is open ends by itself when what was sent is out.
    pub fn close(&mut self, seat: u64, right: RightId) {
        if let Some(stream) = self.deliveries.remove(&(seat, right))
            && stream.peer.is_none()
        {
            stream.task.abort();
        }
    }

    /// Ends a right's stream at once.
    pub fn abort(&mut self, seat: u64, right: &RightId) {
        if let Some(stream) = self.deliveries.remove(&(seat, *right)) {
            stream.task.abort();
        }
    }

    /// A stream has ended; returns the epoch that it was opened under, if it was the current one.
    pub fn ended(&mut self, id: StreamId) -> Option<Epoch> {
        let key = (id.seat, id.right);
        let epoch = self.deliveries.get(&key).filter(|d| d.id == id)?.epoch;
        self.deliveries.remove(&key);
        Some(epoch)
    }

    /// For each open right, when the question was sent that its primary answered last, on the
    /// connection of its stream.
    pub fn answers(&self, clock: Clock) -> Vec<(StreamId, Time)> {
        let at = |d: &Delivery| Some((d.id, last_answer(d.peer.as_ref()?, clock)?));
        self.deliveries.values().filter_map(at).collect()
    }
}

/// When the question was sent that was answered last on a connection that stands.
pub(crate) fn last_answer(peer: &Peer, clock: Clock) -> Option<Time> {
    peer.last_answer().filter(|_| !peer.is_closed()).map(|at| clock.at(at))
}
