//! What the benches over real processes share, one file a noun: a cluster of `ringway` processes, the
//! load on it, what was handed out under it, and how figures are printed. The micro-benchmarks in
//! `benches/` need nothing of it.

pub mod args;
pub mod cluster;
pub mod handed;
pub mod load;
pub mod report;
pub mod scene;

/// What a bench ends with. Its text is for a person at a terminal.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;
