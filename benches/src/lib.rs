//! Micro-benchmarks of Ringway, one file of `benches/` per figure that the design promises.
