//! How a command ends: its exit code, and the sentence on stderr when it did not do what was
//! asked. It promises one shape for every error, for people and with `--json`, and that nothing
//! in it can steer a terminal. It does not know which command it speaks for.

use std::fmt::Write as _;
use std::process::ExitCode;

use ringway_proto::{Code, Refusal};
use serde_json::json;

/// The exit codes, in one place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// Done; also a clean stop by a signal, and `--help`.
    Done = 0,
    /// Refused or failed, wholly or in part.
    Failed = 1,
    /// The command line does not say something that can be done.
    Usage = 2,
    /// The cluster does not answer, or is not the one that is trusted.
    Unreachable = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Why a command did not do what was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// What programs match on, `unknown-group`.
    pub code: String,
    /// One sentence with the actual values, lower case, no full stop.
    pub text: String,
    /// What narrows it down, a sentence each.
    pub notes: Vec<String>,
    /// One thing to do; empty where nothing would help.
    pub hint: String,
    /// Whether the same call may succeed later without anyone changing anything.
    pub retryable: bool,
    /// How the process ends.
    pub exit: Exit,
}

impl Failure {
    /// A failure with exit code 1.
    #[must_use]
    pub fn new(code: &str, text: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            text: text.into(),
            notes: Vec::new(),
            hint: String::new(),
            retryable: false,
            exit: Exit::Failed,
        }
    }

    /// The command line asks for something that cannot be meant: exit code 2.
    #[must_use]
    pub fn usage(text: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, ..Self::new("usage", text) }
    }

    /// The same with a further sentence.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// The same with one thing to do.
    #[must_use]
    pub fn help(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// The same with another exit code.
    #[must_use]
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// The same, marked as one that may pass by itself.
    #[must_use]
    pub fn retryable(mut self, retryable: bool) -> Self {
        self.retryable = retryable;
        self
    }

    /// The failure as it goes to stderr, with its last newline.
    #[must_use]
    pub fn render(&self, json: bool) -> String {
        if json {
            let error = json!({"error": {
                "code": self.code,
                "text": std::iter::once(&self.text).chain(&self.notes).map(String::as_str)
                    .collect::<Vec<_>>().join("; "),
                "hint": self.hint,
                "retryable": self.retryable,
            }});
            return format!("{error}\n");
        }
        let mut out = format!("error[{}]: {}\n", escape(&self.code), escape(&self.text));
        for note in &self.notes {
            let _ = writeln!(out, "  note: {}", escape(note));
        }
        if !self.hint.is_empty() {
            let _ = writeln!(out, "  help: {}", escape(&self.hint));
        }
        out
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let Refusal { code, text, hint } = refusal;
        let exit = match code {
            // An option is the caller's own.
            Code::InvalidOption => Exit::Usage,
            Code::Untrusted => Exit::Unreachable,
            // Everything else was asked properly and refused.
            _ => Exit::Failed,
        };
        Self { hint, exit, ..Self::new(code.name(), text).retryable(code.is_retryable()) }
    }
}

/// `text` with control characters written out, so that what a peer or a file says cannot move the
/// cursor, change colours or forge a line.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Control characters, and those that turn the direction of what follows.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown_group() -> Failure {
        Failure::new("unknown-group", "there is no group \"order\" to bind 'orders.>' to")
            .note("groups with similar names: orders")
            .help("create it with `ringway group create order --queues 16`, or bind to orders")
    }

    #[test]
    fn people_read_a_sentence_a_note_and_what_to_do() {
        assert_eq!(
            unknown_group().render(false),
            "error[unknown-group]: there is no group \"order\" to bind 'orders.>' to\n  \
             note: groups with similar names: orders\n  \
             help: create it with `ringway group create order --queues 16`, or bind to orders\n"
        );
    }

    #[test]
    fn programs_read_one_object_on_one_line() {
        let line = unknown_group().retryable(true).render(true);
        assert_eq!(line.matches('\n').count(), 1);
        let error: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(error["error"]["code"], "unknown-group");
        assert_eq!(error["error"]["retryable"], true);
        assert!(error["error"]["text"].as_str().unwrap().contains("similar names: orders"));
        assert!(error["error"]["hint"].as_str().unwrap().starts_with("create it"));
    }

    #[test]
    fn what_a_peer_says_cannot_steer_the_terminal() {
        let failure = Failure::new("conflict", "a\u{1b}[2Jb\r\nerror[x]: forged\u{202e}c");
        assert_eq!(
            failure.render(false),
            "error[conflict]: a\\u{1b}[2Jb\\r\\nerror[x]: forged\\u{202e}c\n"
        );
    }

    #[test]
    fn a_refusal_keeps_its_code_and_its_hint() {
        let failure = Failure::from(Refusal::new(Code::Busy, "too much").hint("wait"));
        assert_eq!((failure.code.as_str(), failure.hint.as_str()), ("busy", "wait"));
        assert!(failure.retryable);
        assert_eq!(failure.exit, Exit::Failed);
        assert_eq!(Failure::from(Refusal::new(Code::InvalidOption, "x")).exit, Exit::Usage);
        assert_eq!(Failure::from(Refusal::new(Code::Untrusted, "x")).exit, Exit::Unreachable);
    }
}
