//! What publishing many lines is made of: reading them, finding class and key, spreading them over
//! time, and writing what became of each. The command itself is in `cmd::publish`.

pub mod line;
pub mod pace;
pub mod progress;
pub mod receipts;
pub mod stdin;
