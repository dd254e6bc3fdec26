//! The promises, one file each: every check reads a history and says what broke. They know
//! nothing of how the run was made, so that other layers of testing can use them too.

use std::fmt;

use super::history::History;

pub mod acked_survives;
pub mod confirmed_acks;
pub mod cursor_monotonic;
pub mod heals;
pub mod key_order;
pub mod no_pause;
pub mod nothing_invented;
pub mod one_holder;
pub mod one_primary;
pub mod one_value;
pub mod only_moves;
pub mod published_once;
pub mod redeliveries;
#[cfg(test)]
mod tests;

/// A broken promise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which check found it.
    pub check: &'static str,
    /// What happened.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.check, self.text)
    }
}

type Check = fn(&History) -> Vec<String>;

/// Every check by its name.
pub const CHECKS: [(&str, Check); 13] = [
    ("acked_survives", acked_survives::check),
    ("confirmed_acks", confirmed_acks::check),
    ("cursor_monotonic", cursor_monotonic::check),
    ("heals", heals::check),
    ("key_order", key_order::check),
    ("no_pause", no_pause::check),
    ("nothing_invented", nothing_invented::check),
    ("one_holder", one_holder::check),
    ("one_primary", one_primary::check),
    ("one_value", one_value::check),
    ("only_moves", only_moves::check),
    ("published_once", published_once::check),
    ("redeliveries", redeliveries::check),
];

/// Everything that the checks find.
#[must_use]
pub fn all(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (name, check) in CHECKS {
        let found = check(history).into_iter().take(5);
        violations.extend(found.map(|text| Violation { check: name, text }));
    }
    violations
}
