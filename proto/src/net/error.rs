//! What can go wrong between two processes, one enum per operation. Each error can say itself as
//! a [`Refusal`]: a code, a sentence, and one thing to do.

use std::net::SocketAddr;
use std::time::Duration;

use quinn::{ConnectionError, ReadError, WriteError};

use super::hello::Role;
use crate::refusal::{Code, Refusal, shorten, spoken};

/// Why a connection ended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Closed {
    /// The other side closed it: 0 is an orderly close, another code that of a refusal.
    #[error("the other side closed the connection: {reason}")]
    ByPeer {
        /// 0, or the number of a [`Code`].
        code: u32,
        /// What the other side gave as the reason.
        reason: String,
    },
    /// This side closed it.
    #[error("closed here: {reason}")]
    ByUs {
        /// The reason that was given.
        reason: String,
    },
    /// Nothing arrived for the whole idle time of QUIC.
    #[error("the connection timed out")]
    TimedOut,
    /// No question was answered for this long, although the connection stood.
    #[error("no answer for {}", spoken(*after))]
    Silent {
        /// How long it was waited.
        after: Duration,
    },
    /// The other process is a new one and does not know the connection.
    #[error("the other side was restarted")]
    Reset,
    /// The other side broke the rules of QUIC or TLS, or says that this one did.
    #[error("the connection broke: {0}")]
    Broken(String),
}

impl From<ConnectionError> for Closed {
    fn from(e: ConnectionError) -> Self {
        match e {
            ConnectionError::ApplicationClosed(close) => Self::ByPeer {
                code: u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX),
                reason: match close.reason.as_ref() {
                    b"" => "no reason given".into(),
                    reason => printable(reason),
                },
            },
            ConnectionError::LocallyClosed => {
                Self::ByUs { reason: "the connection was given up".into() }
            }
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::Reset => Self::Reset,
            other => Self::Broken(shorten(&other.to_string())),
        }
    }
}

/// A reason from the wire, fit for a log line or a terminal.
pub(super) fn printable(reason: &[u8]) -> String {
    let text = String::from_utf8_lossy(reason);
    shorten(&text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>())
}

/// What can go wrong on a socket, connection or stream.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NetError {
    /// Another process has the address.
    #[error("cannot listen on {addr}: another process has it")]
    AddressInUse {
        /// The address that was wanted.
        addr: SocketAddr,
    },
    /// The address cannot be had for another reason.
    #[error("cannot listen on {addr}: {cause}")]
    Bind {
        /// The address that was wanted.
        addr: SocketAddr,
        /// What the system said.
        cause: String,
    },
    /// The connection ended.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// The other side gave this one stream up.
    #[error("the other side gave the stream up (code {code})")]
    StreamReset {
        /// The code it gave.
        code: u64,
    },
    /// The other side refused and said why.
    #[error(transparent)]
    Refused(Refusal),
    /// The other side broke the protocol.
    #[error(transparent)]
    Protocol(Refusal),
    /// Something did not come in time.
    #[error("nothing came within {}", spoken(*after))]
    Timeout {
        /// How long it was waited.
        after: Duration,
    },
}

impl NetError {
    /// The error as a refusal.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::AddressInUse { .. } => Refusal::new(Code::InUse, self.to_string()).hint(
                "a Ringway may be running already (`ringway cluster status`); \
                 else choose another with --listen",
            ),
            Self::Bind { .. } => Refusal::new(Code::Unavailable, self.to_string())
                .hint("choose an address of this machine with --listen"),
            Self::Refused(refusal) | Self::Protocol(refusal) => refusal.clone(),
            _ => Refusal::new(Code::Unavailable, self.to_string()),
        }
    }

    /// A broken rule of the protocol.
    pub(super) fn protocol(text: impl Into<String>) -> Self {
        Self::Protocol(Refusal::new(Code::Protocol, text))
    }
}

impl From<ConnectionError> for NetError {
    fn from(e: ConnectionError) -> Self {
        Self::Closed(e.into())
    }
}

impl From<ReadError> for NetError {
    fn from(e: ReadError) -> Self {
        match e {
            ReadError::Reset(code) => Self::StreamReset { code: code.into_inner() },
            ReadError::ConnectionLost(e) => e.into(),
            other => Self::protocol(format!("a stream cannot be read: {other}")),
        }
    }
}

impl From<WriteError> for NetError {
    fn from(e: WriteError) -> Self {
        match e {
            WriteError::Stopped(code) => Self::StreamReset { code: code.into_inner() },
            WriteError::ConnectionLost(e) => e.into(),
            other => Self::protocol(format!("a stream cannot be written: {other}")),
        }
    }
}

/// What a question can end in other than its answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RpcError {
    /// The other side refused and said why: it was not done.
    #[error(transparent)]
    Refused(Refusal),
    /// The question never left: it was not done.
    #[error("the question was not sent: {0}")]
    NotSent(NetError),
    /// The connection ended before the answer: whether it was done is unknown.
    #[error("no answer: {0}")]
    Closed(Closed),
    /// The answer made no sense: whether it was done is unknown.
    #[error(transparent)]
    Protocol(Refusal),
    /// No answer within the deadline: whether it was done is unknown.
    #[error("no answer within {}", spoken(*.0))]
    Timeout(Duration),
}

impl RpcError {
    /// Whether the question may have taken effect all the same.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        !matches!(self, Self::Refused(_) | Self::NotSent(_))
    }

    /// The error as a refusal.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Refused(refusal) | Self::Protocol(refusal) => refusal.clone(),
            Self::NotSent(e) => e.refusal(),
            _ => Refusal::new(Code::Unavailable, self.to_string()),
        }
    }

    /// What became of a question that had left when `e` happened.
    pub(super) fn after_sending(e: NetError) -> Self {
        match e {
            NetError::Refused(refusal) => Self::Refused(refusal),
            NetError::Closed(closed) => Self::Closed(closed),
            other => Self::Protocol(other.refusal()),
        }
    }
}

/// Why a server could not be reached or did not let this process in.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DialError {
    /// The address is none, or its host name has no address.
    #[error("the address {addr:?} leads nowhere: {cause}")]
    Resolve {
        /// What was dialled.
        addr: String,
        /// What the resolver said.
        cause: String,
    },
    /// Nobody answered.
    #[error("no {expect} answered at {addr}: {cause}")]
    Unreachable {
        /// What was dialled.
        addr: String,
        /// Who should be there.
        expect: Role,
        /// What happened instead.
        cause: String,
    },
    /// The server does not prove that it is of the same cluster.
    #[error("the server at {addr} {cause}")]
    Untrusted {
        /// What was dialled.
        addr: String,
        /// What is wrong with its certificate.
        cause: String,
    },
    /// The server does not let this process in.
    #[error(transparent)]
    Unauthorized(Refusal),
    /// The two do not speak the same version.
    #[error("{} (at {addr})", refusal.text)]
    Version {
        /// What was dialled.
        addr: String,
        /// What the server said.
        refusal: Refusal,
    },
    /// The server is there and cannot take the connection now.
    #[error("{} (at {addr})", refusal.text)]
    Refused {
        /// What was dialled.
        addr: String,
        /// What the server said.
        refusal: Refusal,
    },
}

impl DialError {
    /// The name of the error that programs match on.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Resolve { .. } => "unresolvable",
            Self::Unreachable { .. } => "unreachable",
            Self::Untrusted { .. } => "untrusted",
            Self::Unauthorized(refusal) => refusal.code.name(),
            Self::Version { .. } => "version",
            Self::Refused { refusal, .. } => refusal.code.name(),
        }
    }

    /// One thing to do.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Resolve { .. } => {
                "write the address as HOST:PORT, with a host that exists".into()
            }
            Self::Unreachable { expect: Role::Worker, .. } => {
                "start the worker with `--advertise` and an address that clients can reach".into()
            }
            Self::Unreachable { .. } => "start one here with `ringway up`, or point RINGWAY_URL \
                                         at a running cluster"
                .into(),
            Self::Untrusted { .. } => {
                "use that cluster's connection string: `cat DATA/url` on the server".into()
            }
            Self::Unauthorized(refusal)
            | Self::Version { refusal, .. }
            | Self::Refused { refusal, .. } => refusal.hint.clone(),
        }
    }

    /// Whether the same dial may succeed later without anyone changing a setting.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Resolve { .. } | Self::Unreachable { .. } | Self::Refused { .. })
    }

    /// Whether somebody answered and one side did not trust the other, which does not pass as long
    /// as both keep their certificates.
    #[must_use]
    pub fn is_distrust(&self) -> bool {
        matches!(self, Self::Untrusted { .. } | Self::Unauthorized(_))
    }

    /// The error as a refusal.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        let code = match self {
            Self::Resolve { .. } => Code::InvalidOption,
            Self::Unreachable { .. } => Code::Unavailable,
            Self::Untrusted { .. } => Code::Untrusted,
            Self::Unauthorized(refusal) => return refusal.clone(),
            Self::Version { .. } => Code::Unsupported,
            Self::Refused { refusal, .. } => refusal.code,
        };
        Refusal::new(code, self.to_string()).hint(self.hint())
    }
}
