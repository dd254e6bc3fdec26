//! What can go wrong, one small enum per operation. Each error says itself as one sentence, as a
//! code that programs match on, and as one thing to do; "unknown" is an answer of its own and
//! never a failure.

use std::time::Duration;

use ringway_proto::net::{DialError, TlsError};
use ringway_proto::refusal::{counted, grouped, spoken};
use ringway_proto::{Code, Refusal};

macro_rules! methods {
    ($name:ident) => {
        impl $name {
            /// What programs match on.
            #[must_use]
            pub fn code(&self) -> &'static str {
                self.facts().0
            }

            /// Whether the same call, unchanged, may succeed later without anyone changing
            /// anything.
            #[must_use]
            pub fn is_retryable(&self) -> bool {
                self.facts().1.code.is_retryable()
            }

            /// Whether it may have happened all the same.
            #[must_use]
            pub fn is_unknown(&self) -> bool {
                self.facts().0 == UNKNOWN
            }

            /// One thing to do; empty where nothing would help.
            #[must_use]
            pub fn hint(&self) -> String {
                self.facts().1.hint
            }

            /// The error as a refusal: code, sentence and hint.
            #[must_use]
            pub fn refusal(&self) -> Refusal {
                self.facts().1
            }
        }
    };
}

const UNKNOWN: &str = "unknown-outcome";
const CLOSED: &str = "closed";

fn facts_of(refusal: &Refusal) -> (&'static str, Refusal) {
    (refusal.code.name(), refusal.clone())
}

fn closed(text: String) -> (&'static str, Refusal) {
    (CLOSED, Refusal::new(Code::Conflict, text).hint("connect a new client"))
}

fn unknown(text: String, hint: &str) -> (&'static str, Refusal) {
    (UNKNOWN, Refusal::new(Code::Unavailable, text).hint(hint))
}

/// Why no client could be made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The connection string is none, or what it names cannot be used.
    #[error(transparent)]
    Url(Refusal),
    /// Nothing says which cluster.
    #[error("nothing says which cluster to use: RINGWAY_URL is not set and {file} cannot be read")]
    NoUrl {
        /// The file that was looked for.
        file: String,
    },
    /// Nobody answered in time.
    #[error("no coordinator answered at {} within {}: {cause}", tried.join(", "), spoken(Duration::from_millis(*within_ms)))]
    Unreachable {
        /// The addresses that were tried.
        tried: Vec<String>,
        /// How long, in milliseconds.
        within_ms: u64,
        /// What happened last.
        cause: String,
    },
    /// The server does not prove that it is of this cluster.
    #[error(transparent)]
    Untrusted(Refusal),
    /// The server does not let this client in.
    #[error(transparent)]
    Unauthorized(Refusal),
    /// The two do not speak the same version.
    #[error(transparent)]
    Version(Refusal),
    /// The SDK's thread could not be started.
    #[error(transparent)]
    Start(Refusal),
}

impl ConnectError {
    fn facts(&self) -> (&'static str, Refusal) {
        match self {
            Self::Url(r) | Self::Start(r) => facts_of(r),
            Self::Untrusted(r) => ("untrusted", r.clone()),
            Self::Unauthorized(r) => ("unauthorized", r.clone()),
            Self::Version(r) => ("version", r.clone()),
            Self::NoUrl { .. } => (
                "no-url",
                Refusal::new(Code::InvalidOption, self.to_string())
                    .hint("start a cluster here with `ringway up`, or set RINGWAY_URL"),
            ),
            Self::Unreachable { .. } => (
                "unreachable",
                Refusal::new(Code::Unavailable, self.to_string()).hint(
                    "start one here with `ringway up`, or point RINGWAY_URL at a running cluster",
                ),
            ),
        }
    }

    /// Nobody answered in time; `last` is what happened at the last dial.
    pub(crate) fn unreachable(
        tried: Vec<String>,
        within: Duration,
        last: Option<DialError>,
    ) -> Self {
        let cause = match last {
            None => "it lets the client in and says nothing".to_owned(),
            // The address is named already.
            Some(DialError::Unreachable { cause, .. }) if tried.len() == 1 => cause,
            Some(DialError::Refused { refusal, .. }) if tried.len() == 1 => refusal.text,
            Some(other) => other.to_string(),
        };
        Self::Unreachable { tried, within_ms: within.as_millis() as u64, cause }
    }

    /// A dialling error that more dialling does not mend.
    pub(crate) fn definite(e: &DialError) -> Option<Self> {
        match e {
            DialError::Untrusted { .. } => Some(Self::Untrusted(e.refusal())),
            DialError::Unauthorized(_) => Some(Self::Unauthorized(e.refusal())),
            DialError::Version { .. } => Some(Self::Version(e.refusal())),
            _ => None,
        }
    }
}

impl From<TlsError> for ConnectError {
    fn from(e: TlsError) -> Self {
        Self::Url(e.refusal())
    }
}

methods!(ConnectError);

/// What became of a publish that is not known to be stored.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The call itself is wrong; nothing was sent.
    #[error(transparent)]
    Invalid(Refusal),
    /// The cluster refused it, for good or every time until the deadline: it is not stored.
    #[error(transparent)]
    Refused(Refusal),
    /// The deadline passed and no byte of it had left: it is not stored.
    #[error("the message was not sent before its deadline and is not stored: {cause}")]
    NotSent {
        /// What was in the way last.
        cause: String,
    },
    /// It was sent and not confirmed: it may be stored.
    #[error("the message was not confirmed in time; it may be stored (last cause: {cause})")]
    Unknown {
        /// What was in the way last.
        cause: String,
    },
    /// The client is closed; nothing was sent.
    #[error("the client is closed")]
    Closed,
}

impl PublishError {
    fn facts(&self) -> (&'static str, Refusal) {
        match self {
            Self::Invalid(r) | Self::Refused(r) => facts_of(r),
            Self::NotSent { .. } => {
                let refusal = Refusal::new(Code::Unavailable, self.to_string());
                ("not-sent", refusal.hint("publish it again when the cluster answers"))
            }
            Self::Unknown { .. } => {
                unknown(self.to_string(), "publishing it again with the same id is safe")
            }
            Self::Closed => closed(self.to_string()),
        }
    }
}

methods!(PublishError);

/// Why a message was not taken for sending.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The call itself is wrong.
    #[error(transparent)]
    Invalid(Refusal),
    /// The bytes in flight are at their limit.
    #[error("there is no room for the message: at most {} bytes may be in flight", grouped(u64::from(*limit_bytes)))]
    NoRoom {
        /// The limit.
        limit_bytes: u32,
    },
    /// The client is closed.
    #[error("the client is closed")]
    Closed,
}

impl SendError {
    fn facts(&self) -> (&'static str, Refusal) {
        match self {
            Self::Invalid(r) => facts_of(r),
            Self::NoRoom { .. } => {
                let refusal = Refusal::new(Code::Busy, self.to_string());
                ("no-room", refusal.hint("send again when earlier messages are answered"))
            }
            Self::Closed => closed(self.to_string()),
        }
    }
}

methods!(SendError);

impl From<SendError> for PublishError {
    fn from(e: SendError) -> Self {
        match e {
            SendError::Invalid(r) => Self::Invalid(r),
            SendError::NoRoom { .. } => Self::NotSent { cause: e.to_string() },
            SendError::Closed => Self::Closed,
        }
    }
}

/// Failures that no [`crate::Pending`] reported.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "of the messages sent since the last flush {stored} are stored, {failed} are not and {unknown} \
     may be; the first of these: {first}"
)]
pub struct FlushError {
    /// Messages stored since the last flush.
    pub stored: u64,
    /// Messages that are not stored.
    pub failed: u64,
    /// Messages that may be stored.
    pub unknown: u64,
    /// The first failure.
    pub first: PublishError,
}

impl FlushError {
    fn facts(&self) -> (&'static str, Refusal) {
        let (code, refusal) = self.first.facts();
        let code = if self.unknown > 0 { UNKNOWN } else { code };
        (code, Refusal { text: self.to_string(), ..refusal })
    }
}

methods!(FlushError);

/// Why no seat was taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The call itself is wrong.
    #[error(transparent)]
    Invalid(Refusal),
    /// The coordinator refused.
    #[error(transparent)]
    Refused(Refusal),
    /// The seat was not there in time.
    #[error("the subscription was not ready within {}: {cause}", spoken(Duration::from_millis(*within_ms)))]
    NotReady {
        /// How long, in milliseconds.
        within_ms: u64,
        /// What was in the way last.
        cause: String,
    },
    /// The client is closed.
    #[error("the client is closed")]
    Closed,
}

impl JoinError {
    fn facts(&self) -> (&'static str, Refusal) {
        match self {
            Self::Invalid(r) | Self::Refused(r) => facts_of(r),
            Self::NotReady { .. } => {
                let refusal = Refusal::new(Code::Unavailable, self.to_string());
                ("not-ready", refusal.hint("look at `ringway cluster status`"))
            }
            Self::Closed => closed(self.to_string()),
        }
    }
}

methods!(JoinError);

/// Why a subscription can never yield again.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// Another process took the seat.
    #[error("another process joined subscription {name:?} as member {member:?} and took over")]
    Superseded {
        /// The subscription.
        name: String,
        /// The member.
        member: String,
    },
    /// The seat was refused after a reconnect.
    #[error(transparent)]
    Denied(Refusal),
    /// The subscription is gone.
    #[error(transparent)]
    Deleted(Refusal),
    /// The client is closed, or the seat was left.
    #[error("the client is closed")]
    Closed,
}

impl ReceiveError {
    fn facts(&self) -> (&'static str, Refusal) {
        match self {
            Self::Denied(r) | Self::Deleted(r) => facts_of(r),
            Self::Superseded { .. } => facts_of(
                &Refusal::new(Code::Superseded, self.to_string())
                    .hint("give each process its own --member, or leave it out"),
            ),
            Self::Closed => closed(self.to_string()),
        }
    }
}

methods!(ReceiveError);

/// Why a handler's subscription ended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumeError {
    /// No seat was taken.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The seat can never yield again.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
}

impl ConsumeError {
    fn facts(&self) -> (&'static str, Refusal) {
        match self {
            Self::Join(e) => e.facts(),
            Self::Receive(e) => e.facts(),
        }
    }
}

methods!(ConsumeError);

/// What became of an ack.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AckError {
    /// The right went to someone else before; the message comes again there.
    #[error("the right to the message's queue was lost; the message comes again")]
    Fenced,
    /// The message was settled before, or handed out again because its time had run out.
    #[error("the message was settled before or handed out again since")]
    Expired,
    /// The ack was sent and not confirmed.
    #[error("the ack was not confirmed; it may count")]
    Unknown,
    /// The client is closed.
    #[error("the client is closed")]
    Closed,
}

impl AckError {
    fn facts(&self) -> (&'static str, Refusal) {
        match self {
            Self::Fenced => facts_of(&Refusal::new(Code::Fenced, self.to_string())),
            Self::Expired => ("expired", Refusal::new(Code::Fenced, self.to_string())),
            Self::Unknown => unknown(self.to_string(), "be ready to see the message again"),
            Self::Closed => closed(self.to_string()),
        }
    }
}

methods!(AckError);

/// Why a seat was not left in order.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaveError {
    /// The time was over, or no coordinator answered any more. Others get the rights when the
    /// seat's session lapses.
    #[error("not given back in order: {}; not confirmed: {}", counted(*rights, "right"), counted(*unconfirmed_acks, "ack"))]
    Incomplete {
        /// Rights that were still held.
        rights: u64,
        /// Acks that may not count: these messages may come again.
        unconfirmed_acks: u64,
    },
    /// The client is closed.
    #[error("the client is closed")]
    Closed,
}

impl LeaveError {
    fn facts(&self) -> (&'static str, Refusal) {
        match self {
            Self::Incomplete { .. } => unknown(
                self.to_string(),
                "be ready to see messages again whose acks are not confirmed",
            ),
            Self::Closed => closed(self.to_string()),
        }
    }
}

methods!(LeaveError);

/// What became of an administrator's call.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// There is no such thing; the text names similar ones.
    #[error(transparent)]
    NotFound(Refusal),
    /// It exists otherwise, or is in use.
    #[error(transparent)]
    Conflict(Refusal),
    /// The call itself is wrong.
    #[error(transparent)]
    Invalid(Refusal),
    /// It was refused for another reason.
    #[error(transparent)]
    Refused(Refusal),
    /// It was sent and not answered: it may have been done.
    #[error("the coordinator did not answer; it may have been done (last cause: {cause})")]
    Unknown {
        /// What was in the way.
        cause: String,
    },
    /// It was not sent.
    #[error(transparent)]
    Unavailable(Refusal),
    /// The client is closed.
    #[error("the client is closed")]
    Closed,
}

impl AdminError {
    fn facts(&self) -> (&'static str, Refusal) {
        match self {
            Self::NotFound(r)
            | Self::Conflict(r)
            | Self::Invalid(r)
            | Self::Refused(r)
            | Self::Unavailable(r) => facts_of(r),
            Self::Unknown { .. } => unknown(self.to_string(), "look whether it was done"),
            Self::Closed => closed(self.to_string()),
        }
    }
}

impl From<Refusal> for AdminError {
    fn from(r: Refusal) -> Self {
        match r.code {
            Code::UnknownGroup | Code::UnknownSubscription => Self::NotFound(r),
            Code::Conflict | Code::InUse => Self::Conflict(r),
            code if code.is_retryable() => Self::Unavailable(r),
            _ => Self::Refused(r),
        }
    }
}

methods!(AdminError);

/// Why a handler could not handle a message. Any error becomes one with `?`.
#[derive(Clone, Debug)]
pub struct HandlerError {
    text: String,
}

impl HandlerError {
    /// An error in these words.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }

    /// What went wrong.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl<E: std::error::Error> From<E> for HandlerError {
    fn from(e: E) -> Self {
        Self { text: e.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreachable_cluster_is_said_once_and_in_seconds() {
        let dial = DialError::Unreachable {
            addr: "127.0.0.1:1".into(),
            expect: ringway_proto::net::Role::Coordinator,
            cause: "connection refused".into(),
        };
        let tried = vec!["127.0.0.1:1".to_owned()];
        let e = ConnectError::unreachable(tried, Duration::from_secs(5), Some(dial));
        assert_eq!(
            e.to_string(),
            "no coordinator answered at 127.0.0.1:1 within 5 s: connection refused"
        );
    }
}
