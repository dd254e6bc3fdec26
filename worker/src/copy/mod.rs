//! Queues on their way between workers: [`source`] sends what a queue's primary has, [`target`]
//! asks for it. Neither decides anything; each asks its shard.

pub(crate) mod source;
pub(crate) mod target;
