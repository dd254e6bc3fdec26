//! The worker of Ringway: it stores the messages of its queues in one journal and exchanges them
//! with clients over QUIC. It obeys the coordinator's epochs and plans nothing.
//!
//! [`Worker::start`] rebuilds everything from the journal and serves at once; a coordinator is
//! needed only for what changes. Decisions are in [`logic`], everything else carries them out.

mod access;
mod cache;
mod config;
mod control;
mod copy;
mod error;
pub mod journal;
pub mod logic;
mod metrics;
pub mod records;
pub mod replay;
mod server;
mod shard;
mod worker;

pub use config::{Config, Settings};
pub use error::StartError;
pub use worker::Worker;
