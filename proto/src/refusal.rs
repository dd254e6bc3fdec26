//! What a peer says when it does not do what was asked: a code that programs match on, a
//! sentence with the actual values, and one thing to do.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal, retryable: $retry:literal;)*) => {
        /// Why something was refused. Numbers and names are stable; a retired one is never reused.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Code {
            $($(#[$doc])* $variant,)*
            /// A code of a newer peer that this build does not know.
            Other(u16),
        }

        impl Code {
            /// Every code that this build knows.
            pub const ALL: &[Code] = &[$(Code::$variant,)*];

            /// The number on the wire.
            #[must_use]
            pub fn number(self) -> u16 {
                match self { $(Self::$variant => $number,)* Self::Other(n) => n }
            }

            /// The code with this number.
            #[must_use]
            pub fn from_number(n: u16) -> Self {
                match n { $($number => Self::$variant,)* n => Self::Other(n) }
            }

            /// The name shown to people and in `--json` output.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* Self::Other(_) => "other" }
            }

            /// Whether the same call may succeed later without anyone changing anything.
            #[must_use]
            pub fn is_retryable(self) -> bool {
                match self { $(Self::$variant => $retry,)* Self::Other(_) => false }
            }
        }
    };
}

codes! {
    /// The peer broke the protocol.
    Protocol = 1, "protocol", retryable: false;
    /// A kind, version or option that this build does not know.
    Unsupported = 2, "unsupported", retryable: false;
    /// Something is larger than its bound.
    TooLarge = 3, "too-large", retryable: false;
    /// Not a legal name.
    InvalidName = 4, "invalid-name", retryable: false;
    /// Not a legal class.
    InvalidClass = 5, "invalid-class", retryable: false;
    /// Not a legal filter.
    InvalidFilter = 6, "invalid-filter", retryable: false;
    /// Not a legal value of an option.
    InvalidOption = 7, "invalid-option", retryable: false;
    /// Not a legal message (key or headers too long).
    InvalidMessage = 8, "invalid-message", retryable: false;
    /// The caller did not prove who it is.
    Unauthorized = 10, "unauthorized", retryable: false;
    /// The caller may not do that.
    Forbidden = 11, "forbidden", retryable: false;
    /// The server did not prove that it is of the same cluster. Said by who called it.
    Untrusted = 12, "untrusted", retryable: false;
    /// There is no such group.
    UnknownGroup = 20, "unknown-group", retryable: false;
    /// There is no such subscription.
    UnknownSubscription = 21, "unknown-subscription", retryable: false;
    /// It exists with other settings.
    Conflict = 22, "conflict", retryable: false;
    /// It exists and is in use.
    InUse = 23, "in-use", retryable: false;
    /// The routing that the caller used is older than what holds.
    StaleRouting = 30, "stale-routing", retryable: true;
    /// Asked under a newer version or epoch than known here; ask again shortly.
    NotYet = 31, "not-yet", retryable: true;
    /// Acted under an epoch that is no longer the current one.
    Fenced = 32, "fenced", retryable: false;
    /// A newer process has taken this one's place.
    Superseded = 33, "superseded", retryable: false;
    /// A sequence above 0 from a producer that the queue does not know.
    UnknownProducer = 34, "unknown-producer", retryable: false;
    /// A sequence that is not the next one.
    SequenceGap = 35, "sequence-gap", retryable: true;
    /// A session lower than the highest seen.
    OldSession = 36, "old-session", retryable: false;
    /// The other side is going away or cannot serve now.
    Unavailable = 40, "unavailable", retryable: true;
    /// Too much at once; ask again later.
    Busy = 41, "busy", retryable: true;
    /// No room on disk.
    DiskFull = 42, "disk-full", retryable: true;
    /// The disk refused to write, sync or read.
    DiskFailed = 43, "disk-failed", retryable: false;
    /// Data on disk is damaged.
    Damaged = 44, "damaged", retryable: false;
    /// Data that should be there is not.
    DataMissing = 45, "data-missing", retryable: false;
    /// The data was written by a newer version.
    DataNewer = 46, "data-newer", retryable: false;
    /// Something else broke inside; a bug.
    Internal = 50, "internal", retryable: false;
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u16(self.number())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        u16::deserialize(d).map(Self::from_number)
    }
}

/// A refusal: why, in words and as a code, and what would help.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// What programs match on.
    pub code: Code,
    /// One sentence with the actual values, lower case, no full stop.
    pub text: String,
    /// One thing to do, as a statement or a command; empty where nothing would help.
    #[serde(default)]
    pub hint: String,
}

impl Refusal {
    /// A refusal without a hint.
    #[must_use]
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), hint: String::new() }
    }

    /// The same with one thing to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refusal {}

/// `s` for an error text: at most 80 characters.
#[must_use]
pub fn shorten(s: &str) -> String {
    match s.char_indices().nth(80) {
        Some((at, _)) => format!("{}…", &s[..at]),
        None => s.to_owned(),
    }
}

/// A number for an error text, in groups of three digits: `1,048,576`.
#[must_use]
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// So many of something: `1 queue`, `1,024 queues`.
#[must_use]
pub fn counted(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(n), if n == 1 { "" } else { "s" })
}

/// A duration for an error text, seconds to a tenth: `100 ms`, `1.5 s`, `60 s`.
#[must_use]
pub fn spoken(d: Duration) -> String {
    let ms = d.as_millis();
    let tenths = (ms + 50) / 100;
    match (ms, tenths % 10) {
        (0..1000, _) => format!("{ms} ms"),
        (_, 0) => format!("{} s", tenths / 10),
        (_, tenth) => format!("{}.{tenth} s", tenths / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_durations_are_said_as_people_say_them() {
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_048_576, "1,048,576")] {
            assert_eq!(grouped(n), text);
        }
        assert_eq!(
            [0, 1, 1024].map(|n| counted(n, "queue")),
            ["0 queues", "1 queue", "1,024 queues"]
        );
        let ms = |n| spoken(Duration::from_millis(n));
        assert_eq!([100, 1500, 1999, 60_000].map(ms), ["100 ms", "1.5 s", "2 s", "60 s"]);
    }

    #[test]
    fn every_code_has_its_own_number_and_name() {
        for (i, a) in Code::ALL.iter().enumerate() {
            assert_eq!(Code::from_number(a.number()), *a);
            for b in &Code::ALL[i + 1..] {
                assert_ne!(a.number(), b.number());
                assert_ne!(a.name(), b.name());
            }
        }
        assert_eq!(Code::from_number(9999), Code::Other(9999));
    }
}
