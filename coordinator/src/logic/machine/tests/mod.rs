//! The machine against workers and members that are faked by their protocol: tables of single
//! steps, whole hand-overs, and a long random walk.

mod handover;
mod lanes;
mod moves;
mod registration;
mod slots;
mod walk;
mod world;
