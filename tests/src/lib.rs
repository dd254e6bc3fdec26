//! What the whole-system tests of Ringway share with longer runs: the simulation of a cluster
//! under a virtual clock, network and disk. The tests over real processes are not in here.

pub mod sim;
