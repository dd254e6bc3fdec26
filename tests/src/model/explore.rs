//! The search: every state that a beginning leads to, breadth first, so that what breaks a promise
//! is found by a shortest way. Behind a complete search it looks for states from which no
//! fault-free steps lead to where everything is well. It does not know what a state is made of.

use std::collections::VecDeque;
use std::fmt;

use super::intern::Map;
use super::system::{Act, State, System};

/// Where a search ends if it is not complete before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// No state further away than this is looked at.
    pub depth: u32,
    /// No more states than these are visited.
    pub states: usize,
}

/// How many of the steps behind a stuck state are shown.
const FURTHER: usize = 25;

/// No step is followed by so many others without a choice.
const ENDLESS: usize = 10_000;

/// A way to a state that must not be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trace {
    /// What is broken there.
    pub why: String,
    /// The steps to it.
    pub steps: Vec<String>,
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.why)?;
        for (n, step) in self.steps.iter().enumerate() {
            writeln!(f, "{:>4}. {step}", n + 1)?;
        }
        Ok(())
    }
}

/// What a search found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// States visited.
    pub states: usize,
    /// Steps between them.
    pub steps: u64,
    /// The largest distance from the beginning.
    pub depth: u32,
    /// Whether there are no others.
    pub is_complete: bool,
    /// Everything nearer than this was visited, where the search was cut.
    pub cut_at: Option<u32>,
    /// States in which everything is well.
    pub settled: usize,
    /// Steps of single parts that were computed.
    pub computed: u64,
    /// The first broken promise.
    pub broken: Option<Trace>,
    /// A state from which nothing good can come any more. Looked for in complete searches only.
    pub stuck: Option<Trace>,
}

/// What is known of the states, by their numbers.
#[derive(Default)]
struct Graph {
    known: Map<u128, u32>,
    /// The state from which each was reached first, and by which of its steps.
    parents: Vec<(u32, u16)>,
    /// Where the steps of each state that are free lead, one after the other.
    free: Vec<u32>,
    /// Where those of each state begin in `free`.
    from: Vec<usize>,
    settled: Vec<bool>,
}

/// Searches everything behind a state.
pub fn search(system: &mut System, beginning: &State, bounds: Bounds) -> Found {
    let (mut graph, mut found) = (Graph::default(), Found::default());
    let mut waiting = VecDeque::from([(beginning.clone(), 0u32)]);
    if let Err(why) = system.check(beginning) {
        return Found { broken: Some(Trace { why, steps: Vec::new() }), ..found };
    }
    graph.known.insert(beginning.print(), 0);
    graph.parents.push((0, 0));
    found.is_complete = true;
    let mut number = 0;
    while let Some((state, depth)) = waiting.pop_front() {
        found.depth = found.depth.max(depth);
        graph.from.push(graph.free.len());
        let is_settled = system.is_settled(&state);
        graph.settled.push(is_settled);
        found.settled += usize::from(is_settled);
        if depth >= bounds.depth || graph.parents.len() >= bounds.states {
            found.is_complete = false;
            found.cut_at.get_or_insert(depth);
            number += 1;
            continue;
        }
        for (index, act) in system.acts(&state).into_iter().enumerate() {
            found.steps += 1;
            let next = follow(system, &state, act, None).and_then(|next| {
                let print = next.print();
                match graph.known.get(&print) {
                    Some(known) => Ok((*known, None)),
                    None => system.check(&next).map(|()| {
                        let new = graph.parents.len() as u32;
                        graph.known.insert(print, new);
                        graph.parents.push((number, index as u16));
                        (new, Some(next))
                    }),
                }
            });
            match next {
                Err(why) => {
                    let mut steps = way_to(system, beginning, &graph, number);
                    // It says the same once more.
                    follow(system, &state, act, Some(&mut steps)).ok();
                    found.broken = Some(Trace { why, steps });
                    found.is_complete = false;
                    found.states = graph.parents.len();
                    found.computed = system.computed;
                    return found;
                }
                Ok((to, new)) => {
                    if act.is_free() {
                        graph.free.push(to);
                    }
                    waiting.extend(new.map(|next| (next, depth + 1)));
                }
            }
        }
        number += 1;
    }
    graph.from.push(graph.free.len());
    found.states = graph.parents.len();
    found.computed = system.computed;
    if found.is_complete
        && let Some(stuck) = graph.first_stuck()
    {
        let mut steps = way_to(system, beginning, &graph, stuck);
        steps.push("from here on, without faults:".to_owned());
        let mut state = beginning.clone();
        for act in picks_to(system, beginning, &graph, stuck) {
            state = follow(system, &state, act, None).unwrap_or(state);
        }
        for _ in 0..FURTHER {
            let Some(act) = system.acts(&state).into_iter().find(Act::is_free) else { break };
            steps.push(system.describe(&state, act));
            state = system.apply(&state, act).unwrap_or(state);
        }
        let why = "stuck: no steps without a fault lead to where all is well".to_owned();
        found.stuck = Some(Trace { why, steps });
    }
    found
}

impl Graph {
    /// The first state from which no settled one is reached by free steps: what is not found by
    /// going back from the settled ones.
    fn first_stuck(&self) -> Option<u32> {
        let states = self.parents.len();
        let mut starts = vec![0u32; states + 1];
        for to in &self.free {
            starts[*to as usize + 1] += 1;
        }
        for i in 0..states {
            starts[i + 1] += starts[i];
        }
        let mut fill = starts.clone();
        let mut back = vec![0u32; self.free.len()];
        for state in 0..states {
            for to in &self.free[self.from[state]..self.from[state + 1]] {
                let at = &mut fill[*to as usize];
                back[*at as usize] = state as u32;
                *at += 1;
            }
        }
        let mut good = self.settled.clone();
        let mut waiting: Vec<u32> =
            (0..states as u32).filter(|state| good[*state as usize]).collect();
        while let Some(state) = waiting.pop() {
            let (from, to) = (starts[state as usize], starts[state as usize + 1]);
            for before in &back[from as usize..to as usize] {
                if !std::mem::replace(&mut good[*before as usize], true) {
                    waiting.push(*before);
                }
            }
        }
        good.iter().position(|good| !good).map(|state| state as u32)
    }
}

/// The steps from the beginning to a state.
fn picks_to(system: &mut System, beginning: &State, graph: &Graph, to: u32) -> Vec<Act> {
    let mut picks = Vec::new();
    let mut at = to;
    while at != 0 {
        let (parent, pick) = graph.parents[at as usize];
        picks.push(pick);
        at = parent;
    }
    let (mut state, mut acts) = (beginning.clone(), Vec::new());
    for pick in picks.into_iter().rev() {
        let Some(act) = system.acts(&state).get(usize::from(pick)).copied() else { break };
        state = follow(system, &state, act, None).unwrap_or(state);
        acts.push(act);
    }
    acts
}

/// Where a step leads, and what then has to happen without a choice. All but the last of these
/// states are checked and not kept. Writes the steps down where that is wanted.
fn follow(
    system: &mut System,
    state: &State,
    act: Act,
    mut words: Option<&mut Vec<String>>,
) -> Result<State, String> {
    let mut write = |system: &System, state: &State, act| {
        if let Some(words) = &mut words {
            words.push(system.describe(state, act));
        }
    };
    write(system, state, act);
    let mut state = system.apply(state, act)?;
    for _ in 0..ENDLESS {
        let Some(act) = system.forced(&state) else { return Ok(state) };
        system.check(&state)?;
        write(system, &state, act);
        state = system.apply(&state, act)?;
    }
    Err("what follows from a step has no end".to_owned())
}

/// The same in words.
fn way_to(system: &mut System, beginning: &State, graph: &Graph, to: u32) -> Vec<String> {
    let (mut state, mut steps) = (beginning.clone(), Vec::new());
    for act in picks_to(system, beginning, graph, to) {
        state = follow(system, &state, act, Some(&mut steps)).unwrap_or(state);
    }
    steps
}
