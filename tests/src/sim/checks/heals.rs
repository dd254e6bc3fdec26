//! I13: ten seconds after the last fault every queue has a primary, every right a holder, every
//! publish an answer, and nothing is left to deliver. Nobody was sent away meanwhile.

use super::super::history::{History, What};

/// What is not well at the end, and who was sent away.
#[must_use]
pub fn check(history: &History) -> Vec<String> {
    let mut ill = Vec::new();
    for entry in &history.entries {
        match &entry.what {
            What::Unhealed(what) => ill.push(format!("at {}: {what}", entry.at)),
            What::Left { who, why } => ill.push(format!("{who} left at {}: {why}", entry.at)),
            _ => {}
        }
    }
    ill
}
