//! The exhaustive model: every state that the shipped logic of coordinator, workers and members can
//! reach within a budget of changes and faults, each checked, and from each a way found to where
//! all is well. `runs` says which searches there are, `docs/model.md` what they show and what not.
//!
//! A state of the whole system is a short list of numbers: one for each process with its disk, one
//! for each message on its way. What a process makes of an input is computed once for each of its
//! own states, however many states of the whole it is part of.
#![deny(clippy::disallowed_methods)]

pub mod bugs;
pub mod explore;
pub mod ghost;
pub mod intern;
pub mod parts;
pub mod runs;
pub mod system;
