//! Whole-system tests: the `ringway` command as real processes on loopback, one module per
//! promise.

mod checker;
mod commands;
mod docs;
mod faults;
mod fences;
mod flights;
mod grow;
mod harness;
mod metrics;
mod more_members;
mod move_queues;
mod power_cut;
mod publish;
mod rebalance;
mod sdk;
mod subscribe;
mod sync;
mod up;
