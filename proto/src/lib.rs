//! What every part of Ringway agrees on: the words (ids, classes, messages), the wire (frames,
//! control messages, refusals), the routing from a class to a queue, and [`net`], the one place
//! that knows QUIC and TLS.
//!
//! Nothing here knows who sends a frame or why; that is the business of the coordinator, the
//! worker and the client. Everything outside [`net`] is pure: no clock, no socket, no randomness.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod admin;
pub mod batch;
pub mod class;
pub mod codec;
pub mod control;
pub mod data;
pub mod frame;
pub mod hash;
pub mod ids;
pub mod limits;
pub mod message;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod net;
pub mod refusal;
pub mod ring;
pub mod routing;
pub mod time;
pub mod url;

pub use class::{Class, Filter};
pub use ids::*;
pub use refusal::{Code, Refusal};
pub use time::{Time, WallTime};
