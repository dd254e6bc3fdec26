pub mod bugs;
pub mod explore;
pub mod ghost;
pub mod intern;
pub mod parts;
pub mod runs;
pub mod system;
