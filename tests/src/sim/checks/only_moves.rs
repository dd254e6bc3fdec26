//! I14: queues and rights move as often as they must, and never more often.

use super::super::history::{History, What};

/// Moves beyond what was needed.
#[must_use]
pub fn check(history: &History) -> Vec<String> {
    let healed = history.entries.iter().any(|entry| entry.what == What::Healed);
    let moves = history.entries.iter().filter_map(|entry| match &entry.what {
        What::Moves { done, least } if healed && done != least => Some((done, least)),
        _ => None,
    });
    moves.map(|(done, least)| format!("{done} moves, where {least} were needed")).collect()
}
