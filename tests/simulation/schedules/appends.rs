//! What is published to the workers of a cluster that is played by hand. It owns the appends that
//! wait for their answers, answers them when the worker's host decides, and refuses some of them
//! too early when a repair is taken out. It does not know how a producer chooses a queue.

use bytes::Bytes;
use ringway_proto::batch::{Batch, BatchBuilder};
use ringway_proto::data::{Append as AppendFrame, AppendAnswer};
use ringway_proto::message::Message;
use ringway_proto::{
    Class, Code, Epoch, Offset, QueueId, Refusal, RoutingVersion, Sequence, Session, Uuid, WallTime,
};
use ringway_tests::sim::history::{Told, Value, What};
use ringway_worker::logic::Token;
use ringway_worker::logic::queue::Append;
use ringway_worker::logic::slots::{Routes, Verdict};

use super::Repair;
use super::cluster::{Cluster, Mail, Name};

/// A batch that waits for its answer.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    queue: QueueId,
    pub batch: Batch,
    pub append: Append,
    /// Who sent it in which session; none where nobody but the history is told.
    from: Option<(Name, Session)>,
}

/// What the messages of a batch say.
pub(super) fn values_of(batch: &Batch) -> Vec<Option<Value>> {
    let value = |i| batch.message(i).ok().and_then(|m| Value::of(&m.body));
    (0..batch.len()).map(value).collect()
}

impl Cluster {
    /// A producer that knows this primary publishes a message with a key.
    pub fn publish(&mut self, name: Name, queue: QueueId, key: u32, number: u32) {
        let value = Value { producer: key, number };
        self.note(What::Attempt { value, key: Some(key), class: "a.x" });
        let mut message = Message::new(Class::new("a.x").unwrap(), Bytes::from(value.body()));
        message.key = Some(Bytes::from(key.to_string()));
        let mut builder = BatchBuilder::new();
        builder.push(&message);
        let batch = Batch::parse(builder.finish(WallTime(1))).unwrap();
        let hosted = self.worker(name).host().queue(queue);
        let append = Append {
            token: 0,
            epoch: hosted.map_or(Epoch(0), |hosted| hosted.queue.epoch()),
            routing: RoutingVersion(0),
            // A new producer for each message: nothing depends on what was published before.
            producer: Uuid(u128::from(key) << 32 | u128::from(number)),
            session: Session(1),
            base_sequence: Sequence(0),
            count: 1,
            largest_body_bytes: 8,
            batch_bytes: batch.bytes().len(),
            routes: Routes::of(&batch),
        };
        self.decide(name, Waiting { queue, batch, append, from: None });
        self.run();
    }

    /// An append of a producer arrives.
    pub(super) fn take_append(&mut self, from: Name, name: Name, frame: AppendFrame) {
        if !self.worker(name).is_up() {
            return;
        }
        let unnumbered = self.is_out(Repair::SessionsGoUp);
        let batch = Batch::parse(frame.batch).unwrap();
        let append = Append {
            token: 0,
            epoch: frame.epoch,
            routing: frame.routing,
            producer: frame.producer,
            session: if unnumbered { Session(1) } else { frame.session },
            base_sequence: frame.base_sequence,
            count: frame.count,
            largest_body_bytes: 8,
            batch_bytes: batch.bytes().len(),
            routes: Routes::default(),
        };
        let from = Some((from, frame.session));
        self.decide(name, Waiting { queue: frame.queue, batch, append, from });
    }

    fn decide(&mut self, name: Name, mut waiting: Waiting) {
        let worker = self.worker(name);
        worker.tokens += 1;
        let token = worker.tokens;
        waiting.append.token = token;
        worker.waiting.insert(token, waiting.clone());
        let Waiting { queue, batch, append, .. } = waiting;
        if let Some(refusal) = self.refused_early(name, queue, &append, &batch) {
            return self.answer(name, token, Err(refusal));
        }
        let mut out = Vec::new();
        self.worker(name).host().append(queue, append, &batch, &mut out);
        self.carry(name, out);
    }

    /// Without a repair: why a batch is refused before its turn, and the host never sees it.
    fn refused_early(
        &self,
        name: Name,
        queue: QueueId,
        append: &Append,
        batch: &Batch,
    ) -> Option<Refusal> {
        let worker = &self.workers[name];
        let host = worker.host.as_ref()?;
        let (routes, router) = (Routes::of(batch), worker.router.as_deref());
        let verdict = host.queue(queue)?.queue.slots.judge(queue, &routes, router);
        let would_do = || {
            let mut out = Vec::new();
            host.clone().append(queue, append.clone(), batch, &mut out);
            out
        };
        let is_repeat = || {
            let repeats = |a: &_| matches!(a, ringway_worker::logic::Action::Repeat { .. });
            would_do().iter().any(repeats)
        };
        let slots_first = self.is_out(Repair::SlotsComeLast);
        let code = match verdict {
            Verdict::Take => return None,
            Verdict::Elsewhere(_) if self.is_out(Repair::RepeatsComeFirst) => Code::StaleRouting,
            Verdict::Elsewhere(_) if slots_first && !is_repeat() => Code::StaleRouting,
            Verdict::Wait(_) if append.routing > host.routing() => {
                (slots_first && !is_repeat()).then_some(Code::NotYet)?
            }
            Verdict::Wait(_) if self.is_out(Repair::SealedSlotsWait) && would_do().is_empty() => {
                Code::StaleRouting
            }
            _ => return None,
        };
        Some(Refusal::new(code, "something in the batch moves"))
    }

    /// A batch is stored at this offset, or refused.
    pub(super) fn answer(&mut self, name: Name, token: Token, mut said: Result<Offset, Refusal>) {
        if let Err(refusal) = &mut said
            && refusal.code == Code::NotYet
            && self.is_out(Repair::NotYetFreesNothing)
        {
            refusal.code = Code::StaleRouting;
        }
        let worker = self.worker(name);
        let Some(waiting) = worker.waiting.remove(&token) else { return };
        let Waiting { queue, append, from: Some((producer, session)), .. } = waiting else {
            return self.note_outcome(&waiting, &said);
        };
        let answer = AppendAnswer {
            queue,
            session,
            base_sequence: append.base_sequence,
            outcome: said,
            routing: worker.host().routing(),
        };
        self.send(name, producer, Mail::Appended(answer));
    }

    fn note_outcome(&mut self, waiting: &Waiting, said: &Result<Offset, Refusal>) {
        for value in values_of(&waiting.batch).into_iter().flatten() {
            let told = match said {
                Ok(at) => Told::Stored(waiting.queue, *at),
                Err(refusal) => Told::Failed(refusal.text.clone()),
            };
            self.note(What::Published { value, told });
        }
    }

    /// Its worker is gone, or the schedule ends: a producer that can ask again does so.
    pub(super) fn never_answered(&mut self, waiting: &Waiting) {
        for value in values_of(&waiting.batch).into_iter().flatten() {
            if waiting.from.is_none() {
                self.note(What::Published { value, told: Told::Unknown });
            }
        }
    }
}
