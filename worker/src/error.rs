//! Why a worker does not start.

use ringway_proto::net::{NetError, TlsError};
use ringway_proto::{Code, Refusal};

use crate::journal::JournalError;

/// Why a worker does not start. Nothing was changed on disk beyond what the journal's recovery
/// does.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StartError {
    /// Its certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// It cannot listen.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Its journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The journal can be read, and what it says does not fit together.
    #[error(transparent)]
    State(Refusal),
    /// A setting is out of its bounds.
    #[error(transparent)]
    Config(Refusal),
    /// Something broke inside; a bug.
    #[error("the worker cannot start: {0}")]
    Internal(String),
}

impl StartError {
    /// The same as a refusal, with its code and one thing to do.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Tls(e) => e.refusal(),
            Self::Net(e) => e.refusal(),
            Self::Journal(e) => e.refusal(),
            Self::State(refusal) | Self::Config(refusal) => refusal.clone(),
            Self::Internal(_) => Refusal::new(Code::Internal, self.to_string()),
        }
    }
}
