//! What a worker of the model writes, and what follows when it is durable: its answers to
//! producers, to the coordinator and to members. A crash keeps any prefix of what is not.

use bytes::Bytes;
use ringway_proto::batch::{Batch, BatchBuilder};
use ringway_proto::class::Class;
use ringway_proto::control::{FromWorker, HeldCopy, HeldQueue};
use ringway_proto::data::AckConfirmed;
use ringway_proto::frame::Kind;
use ringway_proto::{
    Epoch, Offset, QueueId, RoutingVersion, Sequence, Session, Uuid, WallTime, codec,
};
use ringway_worker::logic::queue::{Append, StoredBatch};
use ringway_worker::logic::slots::Routes;
use ringway_worker::logic::{Action, StreamId, Token};
use ringway_worker::records::ControlRecord;

use super::super::super::bugs::Bug;
use super::super::{Cast, Event, Out, name, queue};
use super::{NOW, WALL, Worker};

/// A write that is not durable, and what follows when it is.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) record: Option<Write>,
    pub(super) then: Then,
}

#[derive(Clone, Debug)]
pub(super) enum Write {
    Batch(StoredBatch, Bytes),
    Control(QueueId, ControlRecord),
}

#[derive(Clone, Debug)]
pub(super) enum Then {
    Nothing,
    Stored { token: Token, queue: QueueId, at: Offset },
    Repeat { token: Token, queue: QueueId, at: Offset },
    Tell(FromWorker),
    Held { conn: u8, held: Vec<HeldQueue>, copies: Vec<HeldCopy> },
    Copied { born: u64, batch: StoredBatch, body: Bytes },
    Confirm { stream: StreamId, confirmed: AckConfirmed },
}

impl Worker {
    pub(super) fn publish(
        &mut self,
        cast: &Cast,
        of: u8,
        number: u64,
        actions: &mut Vec<Action>,
        out: &mut Out,
    ) {
        let Some(live) = &mut self.live else { return };
        let id = queue(of);
        let Some(hosted) = live.host.queue(id) else { return };
        let epoch = hosted.queue.epoch();
        let token = u64::from(of) << 8 | number;
        // An epoch of 0 is that of a copy which was being opened when its worker died: no routing
        // names it. What waits already is not sent again on the same connection.
        if epoch == Epoch(0) || !live.waiting.insert(token) {
            return;
        }
        let batch = name(Batch::parse(body(cast, number)));
        let append = Append {
            token,
            epoch,
            routing: RoutingVersion(0),
            producer: Uuid(u128::from(of) + 1000),
            session: Session(1),
            base_sequence: Sequence(number),
            count: 1,
            largest_body_bytes: 1,
            batch_bytes: 64,
            routes: Routes::of(&batch),
        };
        let before = hosted.queue.end();
        live.host.append(id, append, &batch, actions);
        if live.host.queue(id).is_some_and(|hosted| hosted.queue.end() > before) {
            out.events.push(Event::Accepted { queue: id, epoch });
        }
    }

    pub(super) fn act(&mut self, cast: &Cast, actions: Vec<Action>, out: &mut Out) {
        for action in actions {
            let Some(live) = &mut self.live else { return };
            match action {
                Action::Store { token, queue, at } => self.store(cast, token & 0xff, queue, at),
                Action::Write { queue, record } => {
                    let forgotten = matches!(
                        (cast.bug, &record),
                        (Some(Bug::RaiseNotJournaled), ControlRecord::Raised { .. })
                            | (Some(Bug::SealNotJournaled), ControlRecord::Sealed { .. })
                    );
                    if !forgotten {
                        let record = Some(Write::Control(queue, record));
                        live.pending.push(Pending { record, then: Then::Nothing });
                    }
                }
                Action::Repeat { token, at } => {
                    let (token, queue) = (token & 0xff, queue((token >> 8) as u8));
                    self.after_writes(cast, Then::Repeat { token, queue, at }, out);
                }
                Action::Tell(word) => self.after_writes(cast, Then::Tell(word), out),
                Action::Confirm { stream, confirmed } => {
                    let then = Then::Confirm { stream, confirmed };
                    if cast.bug == Some(Bug::UnsyncedConfirmed) {
                        self.follow(cast, then, out);
                    } else {
                        self.after_writes(cast, then, out);
                    }
                }
                // The producer tries again.
                Action::Refuse { token, .. } => drop(live.waiting.remove(&token)),
                Action::Late { .. } => {}
                Action::Opened { stream, opened } => {
                    let bytes = codec::encode(&opened).unwrap_or_default();
                    live.send(stream, Kind::RightOpened, bytes, out);
                }
                Action::WindowSeen { stream, window } => {
                    live.send(stream, Kind::WindowSeen, window.encode(), out);
                }
                Action::Close { stream, refusal } => live.end(stream, refusal.as_ref(), out),
                Action::Look(right) => drop(live.turns.insert(right)),
                Action::Retire(right) => drop(live.turns.remove(&right)),
                Action::Forget(queue) => drop(live.batches.remove(&queue)),
                Action::Fetch { queue, fetch, from, .. } => {
                    live.fetches.insert(queue, (fetch, from));
                }
                Action::StopFetch(queue) => drop(live.fetches.remove(&queue)),
            }
        }
    }

    pub(super) fn store(&mut self, cast: &Cast, token: Token, id: QueueId, at: Offset) {
        let body = body(cast, token);
        let batch = StoredBatch {
            queue: id,
            at,
            count: 1,
            producer: Uuid(u128::from(id.index) + 1000),
            session: Session(1),
            base_sequence: Sequence(token),
            // Tells what was taken twice, before a crash and after it, apart.
            appended_at: WallTime(u64::from(self.starts)),
            bytes: body.len() as u32,
        };
        let Some(live) = &mut self.live else { return };
        let then = Then::Stored { token, queue: id, at };
        live.pending.push(Pending { record: Some(Write::Batch(batch, body)), then });
    }

    /// Does `then` once everything that was written before is durable.
    pub(super) fn after_writes(&mut self, cast: &Cast, then: Then, out: &mut Out) {
        let Some(live) = &mut self.live else { return };
        if live.pending.is_empty() {
            self.follow(cast, then, out);
        } else {
            live.pending.push(Pending { record: None, then });
        }
    }

    pub(super) fn synced(&mut self, cast: &Cast, out: &mut Out) {
        let Some(live) = &mut self.live else { return };
        let round = std::mem::take(&mut live.pending);
        for pending in &round {
            if let Some(write) = pending.record.clone() {
                self.write_down(cast, write);
            }
        }
        for pending in round {
            self.follow(cast, pending.then, out);
        }
    }

    pub(super) fn follow(&mut self, cast: &Cast, then: Then, out: &mut Out) {
        let Some(live) = &mut self.live else { return };
        let mut actions = Vec::new();
        match then {
            Then::Nothing => {}
            Then::Stored { token, queue, at } => {
                live.waiting.remove(&(u64::from(queue.index) << 8 | token));
                live.batches.entry(queue).or_default().insert(at, body(cast, token));
                let end = at.next();
                if !live.host.stored(queue, at, end, WALL, &mut actions) {
                    live.batches.remove(&queue);
                }
                out.events.push(Event::Published { queue, number: token, offset: at });
            }
            Then::Repeat { token, queue, at } => {
                live.waiting.remove(&(u64::from(queue.index) << 8 | token));
                out.events.push(Event::Published { queue, number: token, offset: at });
            }
            Then::Tell(word) => self.tell(cast, word, out),
            Then::Held { conn, held, copies } => self.register(cast, conn, held, copies, out),
            Then::Copied { born, batch, body } => {
                if live.host.copy_stored(NOW, born, &batch, &mut actions) {
                    live.batches.entry(batch.queue).or_default().insert(batch.at, body);
                }
            }
            Then::Confirm { stream, confirmed } => {
                live.send(stream, Kind::AckConfirmed, confirmed.encode(), out);
            }
        }
        self.act(cast, actions, out);
    }

    /// What the shard does between two inputs: serves whose turn it is, writes acks down, and
    /// where the disk is at once, syncs.
    pub(super) fn turn(&mut self, cast: &Cast, out: &mut Out) {
        loop {
            let Some(live) = &mut self.live else { return };
            while let Some(right) = live.turns.pop_first() {
                live.serve(right, out);
            }
            if live.host.has_unwritten() {
                let mut actions = Vec::new();
                live.host.write_acks(&mut actions);
                self.act(cast, actions, out);
                continue;
            }
            let may_sync =
                cast.sync_at_once || live.pending.iter().all(|pending| pending.record.is_none());
            if live.pending.is_empty() || !may_sync {
                return;
            }
            self.synced(cast, out);
        }
    }
}

/// A batch of one message. The keys come in turns.
fn body(cast: &Cast, number: u64) -> Bytes {
    let class = name(Class::new("a"));
    let mut message = ringway_proto::message::Message::new(class, Bytes::from(format!("{number}")));
    message.key = Some(cast.keys[number as usize % cast.keys.len()].clone());
    let mut builder = BatchBuilder::new();
    builder.push(&message);
    builder.finish(WALL)
}
