//! Where a step leads: the step of a part, and what becomes of connections and of what is under
//! way on them. It does not know which steps a state has.

use super::super::parts::coordinator::Wait;
use super::super::parts::{Link, Message, Stream};
use super::steps::*;
use super::{Act, Broken, Input, Outcome, Part, State, System};

impl System {
    /// Where a step leads.
    ///
    /// # Errors
    /// The promise that it breaks.
    pub fn apply(&mut self, state: &State, act: Act) -> Result<State, Broken> {
        let mut next = state.clone();
        match act {
            Act::Deliver(link, again) => self.deliver(&mut next, link, again)?,
            Act::Hold(link) => {
                next.budget.disturbed -= 1;
                let link = self.link(link);
                next.hold(link);
            }
            Act::Release(link) => {
                let link = self.link(link);
                next.held.retain(|held| *held != link);
            }
            Act::Sync(worker) => self.run(&mut next, Part::Worker(worker), (SYNC, 0))?,
            Act::Ask(worker, queue) => {
                let link = self.link(Link::Copy { worker, queue });
                if let Some(message) = self.answer(state, worker, queue) {
                    next.push(link, message);
                }
            }
            Act::Connect(peer) => {
                let conn = self.next_conn(&mut next, peer);
                next.conns[usize::from(peer)] = conn;
                let input = (CONNECT, u32::from(conn));
                self.run(&mut next, self.part_of(peer), input)?;
            }
            Act::Take(process) => self.run(&mut next, Part::Member(process), (TAKE, 0))?,
            Act::Settle(process) => self.run(&mut next, Part::Member(process), (SETTLE, 0))?,
            Act::Retry(process) => self.run(&mut next, Part::Member(process), (RETRY, 0))?,
            Act::StartWorker(worker) => self.run(&mut next, Part::Worker(worker), (START, 0))?,
            Act::StartCoordinator => self.run(&mut next, Part::Coordinator, (START, 0))?,
            Act::Wait(wait) => {
                let input = self.waited(state, wait, None);
                self.run(&mut next, Part::Coordinator, input)?;
            }
            Act::Hurry(wait, peer) => {
                match wait {
                    Wait::Lapse => next.budget.lapses -= 1,
                    Wait::Drain => next.budget.overruns -= 1,
                    Wait::Repeat | Wait::Patience => next.budget.hurries -= 1,
                }
                let input = self.waited(state, wait, peer);
                self.run(&mut next, Part::Coordinator, input)?;
            }
            Act::Start(process) => {
                next.budget.starts -= 1;
                self.run(&mut next, Part::Member(process), (START, 0))?;
            }
            Act::Leave(process) => {
                next.budget.leaves -= 1;
                self.run(&mut next, Part::Member(process), (LEAVE, 0))?;
            }
            Act::Kill(process, late) => {
                next.budget.kills -= 1;
                next.budget.pay_late(late);
                self.kill(&mut next, process, late)?;
            }
            Act::CrashWorker(worker, kept, late) => {
                next.budget.worker_crashes -= 1;
                next.budget.pay_late(late);
                self.crash_worker(&mut next, worker, kept, late)?;
            }
            Act::CrashCoordinator(late) => {
                next.budget.coordinator_crashes -= 1;
                next.budget.pay_late(late);
                self.run(&mut next, Part::Coordinator, (CRASH, 0))?;
                for peer in 0..self.cast.peers() {
                    self.cut(&mut next, peer, false, late);
                }
                for (link, _) in self.heads(&next) {
                    if matches!(self.links.get(link), Link::ToCoordinator { .. }) {
                        next.clear(link);
                    }
                }
            }
            Act::Break(peer, up, down) => {
                next.budget.pay_break();
                next.budget.pay_late(up || down);
                self.cut(&mut next, peer, up, down);
            }
            Act::BreakStreams(process, worker, late) => {
                next.budget.pay_break();
                next.budget.pay_late(late);
                let streams: Vec<Stream> = self.member(state, process).streams().collect();
                for stream in streams.into_iter().filter(|stream| stream.worker == worker) {
                    self.end_up(&mut next, stream, late);
                    self.end_down(&mut next, stream);
                }
            }
            Act::Drain(worker, undo) => {
                next.budget.drains -= 1;
                next.draining = if undo { 0 } else { worker + 1 };
                let input = (DRAIN, u32::from(worker) << 1 | u32::from(undo));
                self.run(&mut next, Part::Coordinator, input)?;
            }
            Act::Publish(worker, queue) => {
                let past = self.ghost(state).queues.get(&queue);
                let number = past.map_or(0, |past| past.acked.len() as u32);
                let input = (PUBLISH, u32::from(queue) << 8 | number);
                self.run(&mut next, Part::Worker(worker), input)?;
            }
        }
        next.held.retain(|held| next.under_way.iter().any(|(link, _)| link == held));
        Ok(next)
    }

    /// The number of a new connection, larger than those that are known still. Under prompt delivery
    /// those that nobody knows any more do not count, so that what is over leaves no trace.
    fn next_conn(&mut self, next: &mut State, peer: u8) -> u8 {
        let made = &mut next.made[usize::from(peer)];
        if !self.cast.is_prompt {
            *made += 1;
            return *made;
        }
        let used = next.under_way.iter().filter_map(|(link, _)| match self.links.get(*link) {
            Link::ToCoordinator { peer: of, conn }
            | Link::FromCoordinator { peer: of, conn }
            | Link::Again { peer: of, conn, .. } => (*of == peer).then_some(*conn),
            _ => None,
        });
        used.max().unwrap_or(0) + 1
    }

    pub(super) fn part_of(&self, peer: u8) -> Part {
        self.cast.process_of(peer).map_or(Part::Worker(peer), Part::Member)
    }

    pub(super) fn deliver(
        &mut self,
        next: &mut State,
        link: Link,
        again: bool,
    ) -> Result<(), Broken> {
        let name = self.link(link);
        let Some(at) = next.under_way.iter().position(|(known, _)| *known == name) else {
            return Ok(());
        };
        let (_, message) = next.under_way.remove(at);
        let said_on = match link {
            Link::Again { peer, conn, up: true } => Link::ToCoordinator { peer, conn },
            Link::Again { peer, conn, up: false } => Link::FromCoordinator { peer, conn },
            link => link,
        };
        if again {
            next.budget.pay_echo();
            let echo = match link {
                Link::ToCoordinator { peer, conn } => Link::Again { peer, conn, up: true },
                Link::FromCoordinator { peer, conn } => Link::Again { peer, conn, up: false },
                link => link,
            };
            let echo = self.link(echo);
            next.push(echo, message);
            if self.cast.is_prompt {
                next.hold(echo);
            }
        }
        let name = self.link(said_on);
        let part = match said_on {
            Link::ToCoordinator { .. } => Part::Coordinator,
            Link::FromCoordinator { peer, .. } => self.part_of(peer),
            Link::Up(stream) => Part::Worker(stream.worker),
            Link::Down(stream) => Part::Member(stream.process),
            Link::Copy { worker, .. } => Part::Worker(worker),
            Link::Again { .. } => return Ok(()),
        };
        self.run(next, part, (name, message))
    }

    pub(super) fn kill(&mut self, next: &mut State, process: u8, late: bool) -> Result<(), Broken> {
        let streams: Vec<Stream> = self.member(next, process).streams().collect();
        self.run(next, Part::Member(process), (KILL, 0))?;
        for stream in streams {
            self.end_up(next, stream, late);
        }
        self.forget_down(next, process);
        self.cut(next, self.cast.peer(process), late, false);
        Ok(())
    }

    pub(super) fn forget_down(&mut self, next: &mut State, process: u8) {
        for (link, _) in self.heads(next) {
            if matches!(self.links.get(link), Link::Down(stream) if stream.process == process) {
                next.clear(link);
            }
        }
    }

    pub(super) fn crash_worker(
        &mut self,
        next: &mut State,
        worker: u8,
        kept: u8,
        late: bool,
    ) -> Result<(), Broken> {
        self.run(next, Part::Worker(worker), (CRASH, u32::from(kept)))?;
        for (link, _) in self.heads(next) {
            match *self.links.get(link) {
                Link::Up(stream) if stream.worker == worker => next.clear(link),
                Link::Copy { worker: of, .. } if of == worker => next.clear(link),
                // What an earlier connection still had for it was for the process that is gone.
                Link::FromCoordinator { peer, .. } if peer == worker => next.clear(link),
                _ => {}
            }
        }
        for process in self.processes() {
            let streams: Vec<Stream> = self.member(next, process).streams().collect();
            for stream in streams.into_iter().filter(|stream| stream.worker == worker) {
                self.end_down(next, stream);
            }
        }
        self.cut(next, worker, late, false);
        Ok(())
    }

    /// The member's side of a stream is gone.
    pub(super) fn end_up(&mut self, next: &mut State, stream: Stream, late: bool) {
        let (link, closed) = (self.link(Link::Up(stream)), self.closed());
        if !late {
            next.clear(link);
        }
        if self.worker(next, stream.worker).is_up() {
            next.push(link, closed);
        }
    }

    /// The worker's side of a stream is gone.
    pub(super) fn end_down(&mut self, next: &mut State, stream: Stream) {
        let (link, closed) = (self.link(Link::Down(stream)), self.closed());
        next.clear(link);
        if self.member(next, stream.process).is_up() {
            next.push(link, closed);
        }
    }

    /// A connection to the coordinator ends: what is under way is lost unless it is late, and each
    /// side that is there learns of it behind that.
    pub(super) fn cut(&mut self, next: &mut State, peer: u8, up: bool, down: bool) {
        let conn = std::mem::take(&mut next.conns[usize::from(peer)]);
        if conn == 0 {
            return;
        }
        let closed = self.closed();
        let to = self.link(Link::ToCoordinator { peer, conn });
        let from = self.link(Link::FromCoordinator { peer, conn });
        for up in [true, false] {
            let again = self.link(Link::Again { peer, conn, up });
            next.clear(again);
        }
        if !up {
            next.clear(to);
        }
        if self.coordinator(next).is_up() {
            next.push(to, closed);
        }
        let is_up = self.is_peer_up(next, peer);
        if !down || !is_up {
            next.clear(from);
        }
        if is_up {
            next.push(from, closed);
        }
    }

    /// Makes a part's step in a state.
    pub(super) fn run(&mut self, next: &mut State, part: Part, input: Input) -> Result<(), Broken> {
        let (name, outcome) = self.step(part, next, input);
        match part {
            Part::Coordinator => next.coordinator = name,
            Part::Worker(index) => next.workers[usize::from(index)] = name,
            Part::Member(process) => next.members[usize::from(process)] = name,
        }
        let Outcome { sends, hang_ups, events } = &self.outcomes[outcome as usize];
        let (sends, hang_ups, has_events) = (sends.clone(), hang_ups.clone(), !events.is_empty());
        for (link, message) in sends {
            self.send(next, link, message);
        }
        for (peer, conn) in hang_ups {
            if next.conns[usize::from(peer)] == conn {
                // Who hangs up reads no more; what it said before still arrives.
                let by_peer = part != Part::Coordinator;
                self.cut(next, peer, by_peer, !by_peer);
            }
        }
        if has_events {
            let mut ghost = self.ghosts.get(next.ghost).clone();
            let events = &self.outcomes[outcome as usize].events;
            let taken = ghost.take(events);
            next.ghost = self.name_ghost(ghost);
            taken?;
        }
        Ok(())
    }

    /// Puts a message on its way, if the way is there.
    pub(super) fn send(&mut self, next: &mut State, link: u32, message: u32) {
        match *self.links.get(link) {
            Link::ToCoordinator { peer, conn } | Link::FromCoordinator { peer, conn } => {
                if next.conns[usize::from(peer)] == conn {
                    next.push(link, message);
                }
            }
            Link::Up(stream) => {
                let is_end = *self.messages.get(message) == Message::Closed;
                if is_end {
                    // Nobody reads what still comes on it.
                    let down = self.link(Link::Down(stream));
                    next.clear(down);
                }
                if self.worker(next, stream.worker).is_up() {
                    next.push(link, message);
                } else if !is_end {
                    self.end_down(next, stream);
                }
            }
            Link::Down(stream) => {
                if self.member(next, stream.process).streams().any(|known| known == stream) {
                    next.push(link, message);
                }
            }
            Link::Copy { .. } | Link::Again { .. } => next.push(link, message),
        }
    }
}
