//! The steps of single parts, each computed once and looked up afterwards.

use std::panic::AssertUnwindSafe;

use super::super::parts::coordinator::{self, Wait};
use super::super::parts::{Event, Link, Message, Out, member, worker};
use super::{Input, Outcome, Part, State, System};

// Inputs that are no messages; a message has the number of its link in their place.
pub(super) const START: u32 = 1 << 20;
pub(super) const CRASH: u32 = START + 1;
pub(super) const KILL: u32 = START + 2;
pub(super) const CONNECT: u32 = START + 3;
pub(super) const SYNC: u32 = START + 4;
pub(super) const TAKE: u32 = START + 5;
pub(super) const SETTLE: u32 = START + 6;
pub(super) const RETRY: u32 = START + 7;
pub(super) const LEAVE: u32 = START + 8;
pub(super) const PUBLISH: u32 = START + 9;
pub(super) const DRAIN: u32 = START + 10;
pub(super) const WAIT: u32 = START + 11;

impl System {
    /// A step of a part alone: computed once, looked up afterwards.
    pub(super) fn step(&mut self, part: Part, state: &State, input: Input) -> (u32, u32) {
        let from = match part {
            Part::Coordinator => state.coordinator,
            Part::Worker(index) => state.workers[usize::from(index)],
            Part::Member(process) => state.members[usize::from(process)],
        };
        let key = (part, from, input);
        if let Some(known) = self.steps.get(&key) {
            return *known;
        }
        self.computed += 1;
        let mut out = Out::default();
        let name = match part {
            Part::Coordinator => {
                let mut next = self.coordinators.get(from).clone();
                let arrival = self.to_coordinator(input);
                let cast = &self.cast;
                guarded(&mut out, |out| next.step(cast, &arrival, out));
                self.name_coordinator(next)
            }
            Part::Worker(_) => {
                let mut next = self.workers.get(from).clone();
                let arrival = self.to_worker(input);
                let cast = &self.cast;
                guarded(&mut out, |out| next.step(cast, &arrival, out));
                self.name_worker(next)
            }
            Part::Member(_) => {
                let mut next = self.members.get(from).clone();
                let arrival = self.to_member(input);
                let cast = &self.cast;
                guarded(&mut out, |out| next.step(cast, &arrival, out));
                self.name_member(next)
            }
        };
        let Out { sends, hang_ups, events } = out;
        let sends =
            sends.into_iter().map(|(link, message)| (self.link(link), self.message(message)));
        let sends = sends.collect();
        self.outcomes.push(Outcome { sends, hang_ups, events });
        let known = (name, self.outcomes.len() as u32 - 1);
        self.steps.insert(key, known);
        known
    }

    pub(super) fn to_coordinator(&self, (code, argument): Input) -> coordinator::Arrival {
        use coordinator::Arrival;
        match code {
            START => Arrival::Start,
            CRASH => Arrival::Crash,
            DRAIN => Arrival::Drain((argument >> 1) as u8, argument & 1 == 1),
            WAIT.. => {
                let wait = Wait::ALL[(code - WAIT) as usize];
                let conn = |peer: u8| (argument >> (4 * peer) & 0xf) as u8;
                let heard = (0..self.cast.peers()).map(|peer| (peer, conn(peer)));
                Arrival::Waited(wait, heard.filter(|(_, conn)| *conn > 0).collect())
            }
            link => match *self.links.get(link) {
                Link::ToCoordinator { peer, conn } => {
                    Arrival::Said(peer, conn, self.messages.get(argument).clone())
                }
                other => panic!("{other:?} does not lead to the coordinator"),
            },
        }
    }

    pub(super) fn to_worker(&self, (code, argument): Input) -> worker::Arrival {
        use worker::Arrival;
        match code {
            START => Arrival::Start,
            CRASH => Arrival::Crash(argument as usize),
            CONNECT => Arrival::Connected(argument as u8),
            SYNC => Arrival::Synced,
            PUBLISH => Arrival::Publish((argument >> 8) as u8, u64::from(argument & 0xff)),
            link => match (*self.links.get(link), self.messages.get(argument).clone()) {
                (Link::FromCoordinator { .. }, Message::ToWorker(order)) => Arrival::Ordered(order),
                (Link::FromCoordinator { .. }, _) => Arrival::Disconnected,
                (Link::Up(stream), message) => Arrival::Streamed(stream, message),
                (Link::Copy { queue, .. }, Message::Copied(fetch, answer)) => {
                    Arrival::Copied(queue, fetch, answer)
                }
                (other, _) => panic!("{other:?} does not lead to a worker"),
            },
        }
    }

    pub(super) fn to_member(&self, (code, argument): Input) -> member::Arrival {
        use member::Arrival;
        match code {
            START => Arrival::Start,
            KILL => Arrival::Kill,
            CONNECT => Arrival::Connected(argument as u8),
            TAKE => Arrival::Take,
            SETTLE => Arrival::Settle,
            LEAVE => Arrival::Leave,
            RETRY => Arrival::Retry,
            link => match (*self.links.get(link), self.messages.get(argument).clone()) {
                (Link::FromCoordinator { .. }, message) => Arrival::Told(message),
                (Link::Down(stream), message) => Arrival::Streamed(stream, message),
                (other, _) => panic!("{other:?} does not lead to a member"),
            },
        }
    }
}

/// A part that gives up is a broken promise like any other.
fn guarded(out: &mut Out, step: impl FnOnce(&mut Out)) {
    let ended = std::panic::catch_unwind(AssertUnwindSafe(|| step(out)));
    if let Err(panic) = ended {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        out.events.push(Event::Wrong(text.unwrap_or_else(|| "a part gave up".to_owned())));
    }
}
