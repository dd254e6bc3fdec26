//! What the whole-system tests of Ringway share with longer runs: the simulation of a cluster
//! under a virtual clock, network and disk, and the exhaustive model of the logic. The tests over
//! real processes are not in here.

pub mod model;
pub mod sim;
