//! Which steps a state has: what happens by itself, what may go wrong, and what people may want.
//! It changes no state.

use std::collections::BTreeSet;

use ringway_coordinator::logic::rows::Phase;
use ringway_proto::frame::Kind;
use ringway_proto::{Code, Epoch, Refusal, codec};

use super::super::parts::coordinator::Wait;
use super::super::parts::worker::View;
use super::super::parts::{Link, Message, Stream, queue as numbered};
use super::steps::{RETRY, TAKE, WAIT};
use super::{Act, Input, Part, State, System};

impl System {
    /// The steps that a state has, in a fixed order.
    pub fn acts(&mut self, state: &State) -> Vec<Act> {
        if self.cast.is_prompt {
            return self.prompt_acts(state);
        }
        let mut acts = self.own_acts(state);
        if acts.is_empty() {
            acts.extend(Wait::ALL.map(Act::Wait));
            if !self.coordinator(state).is_up() {
                acts.clear();
            }
        }
        self.faults(state, &mut acts);
        self.wishes(state, &mut acts);
        acts
    }

    /// What happens by itself, but for the time that passes.
    pub(super) fn own_acts(&mut self, state: &State) -> Vec<Act> {
        let mut acts = Vec::new();
        let heads = self.heads(state);
        acts.extend(heads.iter().map(|(link, _)| Act::Deliver(*self.links.get(*link), false)));
        let up = self.coordinator(state).is_up();
        if !up {
            acts.push(Act::StartCoordinator);
        }
        for index in 0..self.cast.workers {
            let worker = self.workers.get(state.workers[usize::from(index)]);
            if !worker.is_up() && worker.has_run() {
                acts.push(Act::StartWorker(index));
            }
            if worker.unsynced().is_some() {
                acts.push(Act::Sync(index));
            }
            let name = state.workers[usize::from(index)];
            let asks = self.asks.entry(name).or_insert_with(|| worker.asks());
            acts.extend(asks.iter().map(|(queue, ..)| Act::Ask(index, *queue)));
        }
        acts.retain(|act| match act {
            Act::Ask(worker, queue) => self.is_asking_of_use(state, *worker, *queue),
            _ => true,
        });
        for peer in 0..self.cast.peers() {
            let is_free = self.is_peer_up(state, peer) && self.peer_conn(state, peer) == 0;
            if up && is_free && state.conns[usize::from(peer)] == 0 {
                acts.push(Act::Connect(peer));
            }
        }
        for process in self.processes() {
            let member = self.member(state, process);
            if !member.hand().is_empty() {
                acts.push(Act::Settle(process));
            }
            if self.changes(state, Act::Take(process)) {
                acts.push(Act::Take(process));
            }
            if self.may_retry(state, process) {
                acts.push(Act::Retry(process));
            }
        }
        acts
    }

    /// Whether the answer would bring anything.
    pub(super) fn is_asking_of_use(&mut self, state: &State, worker: u8, queue: u8) -> bool {
        let link = self.link(Link::Copy { worker, queue });
        if state.under_way.iter().any(|(known, _)| *known == link) {
            return false;
        }
        let Some(message) = self.answer(state, worker, queue) else { return false };
        let arrival = (link, message);
        let (next, outcome) = self.step(Part::Worker(worker), state, arrival);
        next != state.workers[usize::from(worker)] || !self.outcomes[outcome as usize].is_empty()
    }

    pub(super) fn answer(&mut self, state: &State, worker: u8, queue: u8) -> Option<u32> {
        let asks = self.worker(state, worker).asks();
        let (_, fetch, from, asked) = asks.into_iter().find(|(of, ..)| *of == queue)?;
        let source = self.cast.worker_at(&from)?;
        let answer = self.worker(state, source).answer(&self.cast, &asked)?;
        Some(self.message(Message::Copied(fetch, answer)))
    }

    /// Whether a step of a part alone changes it.
    pub(super) fn changes(&mut self, state: &State, act: Act) -> bool {
        let Act::Take(process) = act else { return true };
        if !self.member(state, process).is_seated() {
            return false;
        }
        let (next, _) = self.step(Part::Member(process), state, (TAKE, 0));
        next != state.members[usize::from(process)]
    }

    /// Whether every open that a member waits for would be decided at once: the others would be
    /// put off without a trace.
    pub(super) fn may_retry(&mut self, state: &State, process: u8) -> bool {
        let Some(waits) = self.member(state, process).waits(&self.cast) else { return false };
        let keys = 0..self.cast.keys.len() as u8;
        let told = |queue: u8| keys.clone().map(move |key| (queue, key));
        let told: Vec<Epoch> = (0..self.cast.queues)
            .flat_map(told)
            .map(|(queue, key)| self.told(state, queue, key))
            .collect();
        let known = waits.iter().all(|(queue, worker)| {
            let view = &self.view(state, *worker)[usize::from(*queue)];
            let is_open = view.open.is_some();
            let told = &told[usize::from(*queue) * keys.len()..];
            let known = |(known, told): (&Option<Epoch>, &Epoch)| known.is_some_and(|k| k >= *told);
            is_open && view.rights.iter().zip(told).all(known)
        });
        known && !waits.is_empty() && !(self.cast.are_split() && self.is_put_off(state, process))
    }

    /// Whether one of the opens that a member would try again is put off once more: for lanes that
    /// its right has not any more.
    fn is_put_off(&mut self, state: &State, process: u8) -> bool {
        let (_, outcome) = self.step(Part::Member(process), state, (RETRY, 0));
        let sends = self.outcomes[outcome as usize].sends.clone();
        sends.into_iter().any(|(link, message)| {
            let Link::Up(Stream { worker, .. }) = *self.links.get(link) else { return false };
            if !matches!(self.messages.get(message), Message::Frame(Kind::OpenRight, _)) {
                return false;
            }
            let (_, outcome) = self.step(Part::Worker(worker), state, (link, message));
            let answers = &self.outcomes[outcome as usize].sends;
            answers.iter().any(|(_, answer)| is_not_yet(self.messages.get(*answer)))
        })
    }

    /// The newest epoch of a right that somebody may have been told of.
    pub(super) fn told(&self, state: &State, queue: u8, key: u8) -> Epoch {
        let right = self.coordinator(state).right(numbered(queue), self.cast.lane(key));
        right.map_or(Epoch(0), |row| match row.phase {
            Phase::Granted(_) | Phase::Revoking(_) => row.epoch,
            Phase::Free | Phase::Raising { .. } => Epoch(row.epoch.0.saturating_sub(1)),
        })
    }

    pub(super) fn faults(&mut self, state: &State, acts: &mut Vec<Act>) {
        let budget = state.budget;
        let late = |late: bool| !late || budget.lates > 0;
        let lates = |what: &[bool]| what.iter().copied().filter(|l| late(*l)).collect::<Vec<_>>();
        if budget.echoes > 0 {
            for (link, message) in self.heads(state) {
                let (link, message) = (*self.links.get(link), self.messages.get(message));
                if may_come_twice(message) && !matches!(link, Link::Again { .. }) {
                    acts.push(Act::Deliver(link, true));
                }
            }
        }
        let up = self.coordinator(state).is_up();
        if budget.coordinator_crashes > 0 && up {
            acts.extend(lates(&[false, true]).into_iter().map(Act::CrashCoordinator));
        }
        for index in 0..self.cast.workers {
            let worker = self.worker(state, index);
            if budget.worker_crashes > 0 && worker.is_up() {
                for kept in 0..=worker.unsynced().unwrap_or(0) as u8 {
                    let late = lates(&[false, true]);
                    acts.extend(late.into_iter().map(|l| Act::CrashWorker(index, kept, l)));
                }
            }
        }
        if budget.breaks > 0 && up {
            for peer in 0..self.cast.peers() {
                if state.conns[usize::from(peer)] > 0 {
                    acts.push(Act::Break(peer, false, false));
                    if budget.lates > 0 {
                        acts.push(Act::Break(peer, true, false));
                        acts.push(Act::Break(peer, false, true));
                    }
                }
            }
        }
        for process in self.processes() {
            let member = self.member(state, process);
            if !member.is_up() {
                continue;
            }
            if budget.kills > 0 {
                acts.extend(lates(&[false, true]).into_iter().map(|l| Act::Kill(process, l)));
            }
            if budget.breaks > 0 {
                let workers: BTreeSet<u8> = member.streams().map(|stream| stream.worker).collect();
                for worker in workers {
                    let late = lates(&[false, true]);
                    acts.extend(late.into_iter().map(|l| Act::BreakStreams(process, worker, l)));
                }
            }
            let peer = self.cast.peer(process);
            if budget.lapses > 0 && up && state.conns[usize::from(peer)] > 0 && member.is_seated() {
                acts.push(Act::Hurry(Wait::Lapse, Some(peer)));
            }
        }
        if up && budget.overruns > 0 {
            acts.push(Act::Hurry(Wait::Drain, None));
        }
        if up && budget.hurries > 0 {
            acts.extend([Wait::Repeat, Wait::Patience].map(|wait| Act::Hurry(wait, None)));
        }
        acts.retain(|act| match act {
            Act::Hurry(wait, peer) => {
                let input = self.waited(state, *wait, *peer);
                let (next, outcome) = self.step(Part::Coordinator, state, input);
                next != state.coordinator || !self.outcomes[outcome as usize].is_empty()
            }
            _ => true,
        });
    }

    pub(super) fn wishes(&mut self, state: &State, acts: &mut Vec<Act>) {
        let budget = state.budget;
        for process in self.processes() {
            let member = self.member(state, process);
            // Members are alike but for their names, so they come in the order of these.
            let is_next = process == 0 || self.member(state, process - 1).has_run();
            if budget.starts > 0 && !member.has_run() && is_next {
                acts.push(Act::Start(process));
            }
            if budget.leaves > 0 && member.is_seated() && member.stays() {
                acts.push(Act::Leave(process));
            }
        }
        let up = self.coordinator(state).is_up();
        if budget.drains > 0 && up && self.cast.workers > 1 {
            match state.draining {
                0 => acts.extend((0..self.cast.workers).map(|worker| Act::Drain(worker, false))),
                worker => acts.push(Act::Drain(worker - 1, true)),
            }
        }
        for queue in 0..self.cast.queues {
            let log = self.ghost(state).queues.get(&queue);
            let acked = log.map_or(0, |log| log.acked.len() as u8);
            for worker in 0..self.cast.workers {
                let is_open = self.view(state, worker)[usize::from(queue)].open.is_some();
                if acked < budget.messages && is_open {
                    acts.push(Act::Publish(worker, queue));
                }
            }
        }
    }

    pub(super) fn view(&mut self, state: &State, worker: u8) -> &[View] {
        let name = state.workers[usize::from(worker)];
        let (workers, cast) = (&self.workers, &self.cast);
        let of = |queue| workers.get(name).view(cast, queue);
        self.views.entry(name).or_insert_with(|| (0..cast.queues).map(of).collect())
    }

    /// The input of a wait, by the connections that are heard.
    pub(super) fn waited(&mut self, state: &State, wait: Wait, deaf: Option<u8>) -> Input {
        let mut heard = 0u32;
        for peer in 0..self.cast.peers() {
            let conn = u32::from(state.conns[usize::from(peer)]) & 0xf;
            heard |= if deaf == Some(peer) { 0 } else { conn << (4 * peer) };
        }
        (WAIT + wait as u32, heard)
    }
}

fn is_not_yet(message: &Message) -> bool {
    let Message::Frame(Kind::Refused, payload) = message else { return false };
    codec::decode::<Refusal>(payload).is_ok_and(|refusal| refusal.code == Code::NotYet)
}

/// A seat takes what the answer to its join says for all that it has, and a registration is made
/// once on each connection.
fn may_come_twice(message: &Message) -> bool {
    use ringway_proto::control::{FromClient, FromWorker, ToClient, ToWorker};
    match message {
        Message::ToWorker(message) => {
            !matches!(message, ToWorker::Registered | ToWorker::RegisterRefused(_))
        }
        Message::FromWorker(message) => !matches!(message, FromWorker::Register(_)),
        Message::ToClient(message) => {
            !matches!(message, ToClient::Joined(_) | ToClient::JoinRefused { .. })
        }
        Message::FromClient(message) => !matches!(message, FromClient::Join(_)),
        Message::Frame(..) | Message::Copied(..) | Message::Closed => false,
    }
}
