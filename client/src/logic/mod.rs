//! What the SDK decides, without a clock, a channel or a socket: which batch goes where and when
//! ([`publisher`], [`lane`]), and what a member may hand out, ack and give back ([`seat`]).
//!
//! Everything here takes an input and the time, and says what to do.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod acks;
pub mod credit;
pub mod holding;
pub mod lane;
pub mod publisher;
pub mod report;
pub mod right;
pub mod seat;

#[cfg(test)]
mod publisher_tests;
#[cfg(test)]
mod seat_tests;
