//! Everything that the coordinator decides, as plain structs and functions: they take inputs and
//! the time and say what should happen. No async, clock, randomness, channel or file is in here;
//! the driver around it does the acting.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod catalog;
pub mod history;
pub mod machine;
pub mod placement;
pub mod plan;
pub mod plans;
pub mod rights;
pub mod rows;
pub mod sessions;
pub mod similar;
pub mod slots;
pub mod split;
pub mod timing;
