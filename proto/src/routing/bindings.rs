//! Bindings in a form that answers for a class in one pass: which group the most specific binding
//! that matches leads to. It does not know what a group is beyond a number.

use std::collections::BTreeMap;

use crate::class::{Filter, Wanted, split_token};
use crate::hash::hash;

/// A tree of tokens, the root at place 0.
#[derive(Clone, Debug)]
pub(super) struct BindingTree {
    places: Vec<Place>,
    /// The literal tokens of all places in one table with linear probing, at most half full, so
    /// that a probe ends. It is only ever asked, so its order cannot show.
    edges: Vec<Option<Edge>>,
}

/// What may follow the tokens that led here, apart from literal ones.
#[derive(Clone, Default, Debug)]
struct Place {
    /// The place behind `*`.
    any: Option<usize>,
    /// The group of the filter that ends here.
    end: Option<usize>,
    /// The group of the filter that ends here with `>`.
    rest: Option<usize>,
}

/// From a place by a literal token to another.
#[derive(Clone, Debug)]
struct Edge {
    from: usize,
    token: Box<str>,
    to: usize,
}

impl BindingTree {
    /// The tree of these filters, each with its group.
    pub(super) fn new(rules: &[(&Filter, usize)]) -> Self {
        let mut places = vec![Place::default()];
        let mut edges: BTreeMap<(usize, &str), usize> = BTreeMap::new();
        for (filter, group) in rules {
            let mut at = 0;
            let mut rest = false;
            for wanted in filter.tokens() {
                let new = places.len();
                match wanted {
                    Wanted::Rest => rest = true,
                    Wanted::Any => at = *places[at].any.get_or_insert(new),
                    Wanted::Literal(token) => at = *edges.entry((at, token)).or_insert(new),
                }
                if at == new {
                    places.push(Place::default());
                }
            }
            let place = &mut places[at];
            *(if rest { &mut place.rest } else { &mut place.end }) = Some(*group);
        }
        Self { places, edges: table(edges) }
    }

    /// The group of the most specific filter that matches `class`.
    pub(super) fn find(&self, class: &str) -> Option<usize> {
        self.find_from(0, Some(class))
    }

    /// At each token the literal branch is tried before `*` and that before `>`, so the first find
    /// is the most specific. No place is visited twice, and the depth is that of a filter.
    fn find_from(&self, place: usize, rest: Option<&str>) -> Option<usize> {
        let at = self.places.get(place)?;
        let Some(rest) = rest else { return at.end };
        let (token, after) = split_token(rest);
        self.literal(place, token)
            .and_then(|next| self.find_from(next, after))
            .or_else(|| self.find_from(at.any?, after))
            .or(at.rest)
    }

    fn literal(&self, from: usize, token: &str) -> Option<usize> {
        let mask = self.edges.len() - 1;
        let mut at = edge_hash(from, token) & mask;
        while let Some(edge) = &self.edges[at] {
            if edge.from == from && *edge.token == *token {
                return Some(edge.to);
            }
            at = (at + 1) & mask;
        }
        None
    }
}

fn table(edges: BTreeMap<(usize, &str), usize>) -> Vec<Option<Edge>> {
    let mut table = vec![None; (edges.len() * 2).next_power_of_two()];
    let mask = table.len() - 1;
    for ((from, token), to) in edges {
        let mut at = edge_hash(from, token) & mask;
        while table[at].is_some() {
            at = (at + 1) & mask;
        }
        table[at] = Some(Edge { from, token: token.into(), to });
    }
    table
}

/// Where to look for an edge. The factor (2^64 by the golden ratio, D. Knuth's multiplicative
/// hashing) keeps equal tokens of different places apart.
fn edge_hash(from: usize, token: &str) -> usize {
    (hash(token.as_bytes()) ^ (from as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)) as usize
}
