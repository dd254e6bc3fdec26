//! Prompt delivery: whatever is under way arrives before anything else happens, in one order, but
//! for what the budget disturbs. It bounds how far a history is from that order instead of
//! allowing every order (delay-bounded scheduling: Emmi, Qadeer, Rakamaric, POPL 2011). It owns
//! which steps such a state has, and changes none.

use super::super::parts::Link;
use super::super::parts::coordinator::Wait;
use super::{Act, Budget, Part, State, System};

impl System {
    /// The steps that a state has under prompt delivery, in a fixed order.
    pub(super) fn prompt_acts(&mut self, state: &State) -> Vec<Act> {
        let next = self.next_prompt(state);
        let mut acts = match next {
            Some(next) => vec![next],
            None => self.own_acts(state),
        };
        // What is held is no message that would arrive by itself.
        acts.retain(|act| !matches!(act, Act::Deliver(link, _) if self.is_held(state, *link)));
        acts.extend(self.interrupts(state, next));
        if acts.iter().all(|act| !act.is_free()) && self.coordinator(state).is_up() {
            acts.extend(Wait::ALL.map(Act::Wait));
        }
        acts
    }

    /// The step that this state has to make, if there is no choice.
    pub fn forced(&mut self, state: &State) -> Option<Act> {
        if !self.cast.is_prompt {
            return None;
        }
        let next = self.next_prompt(state)?;
        self.interrupts(state, Some(next)).is_empty().then_some(next)
    }

    /// What happens next if nothing comes in between: peers connect, then messages arrive, by the
    /// order of their links, then disks sync. None where only applications, copies, restarts and
    /// time have something to do, in whatever order.
    fn next_prompt(&mut self, state: &State) -> Option<Act> {
        let up = self.coordinator(state).is_up();
        let connects = |peer: &u8| {
            let is_free = self.is_peer_up(state, *peer) && self.peer_conn(state, *peer) == 0;
            up && is_free && state.conns[usize::from(*peer)] == 0
        };
        if let Some(peer) = (0..self.cast.peers()).find(connects) {
            return Some(Act::Connect(peer));
        }
        let free = state.under_way.iter().filter(|(link, _)| !state.held.contains(link));
        if let Some(link) = free.map(|(link, _)| *self.links.get(*link)).min() {
            return Some(Act::Deliver(link, false));
        }
        let syncs = |index: &u8| self.worker(state, *index).unsynced().is_some();
        if let Some(index) = (0..self.cast.workers).find(syncs) {
            return Some(Act::Sync(index));
        }
        // What is left is copying, taking, opening again and starting, in the order of `Act`. Only
        // how long an application has a message in hand is its own choice.
        let is_choice = |act: &Act| matches!(act, Act::Deliver(..) | Act::Settle(_));
        self.own_acts(state).into_iter().filter(|act| !is_choice(act)).min()
    }

    fn is_held(&self, state: &State, link: Link) -> bool {
        state.held.iter().any(|held| *self.links.get(*held) == link)
    }

    /// What may come in between, before this next step or, without one, where everything rests.
    /// Who takes no part in the next step is not disturbed before it: the same can happen to them
    /// behind it.
    fn interrupts(&mut self, state: &State, next: Option<Act>) -> Vec<Act> {
        let mut acts = Vec::new();
        for held in &state.held {
            let link = *self.links.get(*held);
            if self.is_release_of_use(link, next) {
                acts.push(Act::Release(link));
            }
        }
        if let Some(Act::Deliver(link, false)) = next
            && state.budget.disturbed > 0
        {
            acts.push(Act::Hold(link));
        }
        let paid = State { budget: prompt_budget(state), ..state.clone() };
        let mut others = Vec::new();
        self.faults(&paid, &mut others);
        self.wishes(&paid, &mut others);
        others.retain(|act| self.is_timely(*act, next) && self.is_late_paid(state, *act));
        acts.extend(others);
        acts
    }

    /// Whether a held link that goes on now arrives before the next step, at the same part: what it
    /// does elsewhere, or behind that step, it may do later as well.
    fn is_release_of_use(&self, link: Link, next: Option<Act>) -> bool {
        match next {
            None => true,
            Some(Act::Deliver(other, _)) => {
                link < other && self.receiver(link) == self.receiver(other)
            }
            Some(_) => false,
        }
    }

    /// Whether a fault or a wish concerns who takes part in the next step.
    fn is_timely(&self, act: Act, next: Option<Act>) -> bool {
        let Some(next) = next else { return true };
        if self.cast.wishes_at_rest && matches!(act, Act::Start(_) | Act::Leave(_) | Act::Drain(..))
        {
            return false;
        }
        let [one, other] = self.partners(next);
        let concerns = |part: Part| one == part || other == part;
        let link = match next {
            Act::Deliver(link, _) => Some(link),
            _ => None,
        };
        match act {
            Act::Deliver(link, true) => next == Act::Deliver(link, false),
            Act::CrashWorker(index, ..) => concerns(Part::Worker(index)),
            Act::Kill(process, _) => concerns(Part::Member(process)),
            Act::Leave(process) => concerns(Part::Member(process)) || concerns(Part::Coordinator),
            Act::Break(peer, ..) => match link {
                Some(Link::ToCoordinator { peer: of, .. })
                | Some(Link::FromCoordinator { peer: of, .. }) => of == peer,
                _ => false,
            },
            Act::BreakStreams(process, worker, _) => match link {
                Some(Link::Up(stream) | Link::Down(stream)) => {
                    stream.process == process && stream.worker == worker
                }
                _ => false,
            },
            Act::CrashCoordinator(_) | Act::Start(_) | Act::Drain(..) | Act::Hurry(..) => {
                concerns(Part::Coordinator)
            }
            _ => false,
        }
    }

    /// What arrives although its connection ended was held before: that is what was paid for.
    fn is_late_paid(&self, state: &State, act: Act) -> bool {
        let held = |of: &dyn Fn(Link) -> bool| state.held.iter().any(|at| of(*self.links.get(*at)));
        let to =
            |of: u8| held(&|link| matches!(link, Link::ToCoordinator { peer, .. } if peer == of));
        match act {
            Act::CrashCoordinator(true) => {
                held(&|link| matches!(link, Link::FromCoordinator { .. }))
            }
            Act::CrashWorker(index, _, true) => to(index),
            Act::Kill(process, true) => {
                let up = |link| matches!(link, Link::Up(stream) if stream.process == process);
                to(self.cast.peer(process)) || held(&up)
            }
            Act::Break(peer, true, _) => to(peer),
            Act::Break(of, _, true) => {
                held(&|link| matches!(link, Link::FromCoordinator { peer, .. } if peer == of))
            }
            Act::BreakStreams(process, worker, true) => held(
                &|link| matches!(link, Link::Up(s) if s.process == process && s.worker == worker),
            ),
            _ => true,
        }
    }

    /// Who sends and who receives in a step; twice the same where there is one only.
    fn partners(&self, act: Act) -> [Part; 2] {
        match act {
            Act::Deliver(link, _) => match link {
                Link::ToCoordinator { peer, .. }
                | Link::FromCoordinator { peer, .. }
                | Link::Again { peer, .. } => [Part::Coordinator, self.part_of(peer)],
                Link::Up(stream) | Link::Down(stream) => {
                    [Part::Worker(stream.worker), Part::Member(stream.process)]
                }
                Link::Copy { worker, .. } => [Part::Worker(worker); 2],
            },
            Act::Connect(peer) => [Part::Coordinator, self.part_of(peer)],
            Act::Sync(index) | Act::Ask(index, _) | Act::StartWorker(index) => {
                [Part::Worker(index); 2]
            }
            Act::Take(process) | Act::Retry(process) => [Part::Member(process); 2],
            _ => [Part::Coordinator; 2],
        }
    }

    pub(super) fn receiver(&self, link: Link) -> Part {
        match link {
            Link::ToCoordinator { .. } | Link::Again { up: true, .. } => Part::Coordinator,
            Link::FromCoordinator { peer, .. } | Link::Again { peer, .. } => self.part_of(peer),
            Link::Up(stream) => Part::Worker(stream.worker),
            Link::Down(stream) => Part::Member(stream.process),
            Link::Copy { worker, .. } => Part::Worker(worker),
        }
    }
}

/// What may be disturbed is one number here, whatever the kind. That something comes late is paid
/// for when it is held.
fn prompt_budget(state: &State) -> Budget {
    let of = state.budget;
    Budget {
        breaks: of.breaks.max(of.disturbed),
        echoes: of.echoes.max(of.disturbed),
        lates: u8::from(!state.held.is_empty()),
        ..of
    }
}
