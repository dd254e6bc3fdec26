//! Every bound of the wire and of what users name, in one place.

use std::time::Duration;

/// The longest name of a group, subscription, worker or member, in characters.
pub const MAX_NAME_LEN: usize = 120;
/// The most tokens of a class or filter.
pub const MAX_TOKENS: usize = 32;
/// The longest token of a class or filter, in characters.
pub const MAX_TOKEN_LEN: usize = 64;
/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 4096;
/// The most headers of one message.
pub const MAX_HEADERS: usize = 64;
/// The longest name of a header, in bytes.
pub const MAX_HEADER_NAME_BYTES: usize = 128;
/// The longest value of a header, in bytes.
pub const MAX_HEADER_VALUE_BYTES: usize = 16 * 1024;
/// The largest body unless a group says otherwise, in bytes.
pub const DEFAULT_MAX_BODY_BYTES: u32 = 1 << 20;
/// The largest frame of any kind, in bytes, without its length prefix.
pub const MAX_FRAME_BYTES: usize = 8 << 20;
/// How long a frame may take from its first byte to its last, beside the time that its length
/// needs at [`MIN_FRAME_RATE`]. Only time counts in which the receiver waits for it.
pub const FRAME_PATIENCE: Duration = Duration::from_secs(10);
/// The slowest rate at which a frame may arrive, in bytes per second: a slow link can carry the
/// largest frame, and a sender that gives a byte a second holds nothing for long.
pub const MIN_FRAME_RATE: u32 = 64 * 1024;
/// The largest control frame (MessagePack), in bytes. A routing snapshot is the largest of them.
pub const MAX_CONTROL_BYTES: usize = 4 << 20;
/// The largest first frame of a connection, in bytes: it comes from someone not yet known.
pub const MAX_HELLO_BYTES: usize = 4096;
/// The most messages of one batch.
pub const MAX_BATCH_MESSAGES: usize = 65_535;
/// The size at which the SDK closes a batch, in bytes. One message may be larger.
pub const BATCH_TARGET_BYTES: usize = 64 * 1024;
/// The most classes of one batch.
pub const MAX_BATCH_CLASSES: usize = 1024;
/// The most ranges in one frame of acks, returns or hand-outs.
pub const MAX_RANGES: usize = 4096;
/// Slots of a group, and lanes of a queue.
pub const SLOTS: u16 = 4096;
/// The most queues of one group.
pub const MAX_QUEUES_PER_GROUP: u32 = 4096;
/// Bounds of a weight of a worker, member or ring group; 100 is usual.
pub const WEIGHT_RANGE: std::ops::RangeInclusive<u32> = 1..=1000;
/// The weight of what did not say one.
pub const DEFAULT_WEIGHT: u32 = 100;
/// What a member may have delivered and unacked at once, in messages.
pub const DEFAULT_CREDIT_MESSAGES: u32 = 1000;
/// What a member may have delivered and unacked at once, in bytes.
pub const DEFAULT_CREDIT_BYTES: u64 = 4 << 20;
/// Appends of one producer that may be unanswered at one queue. The worker remembers this many
/// batches of each producer, so that every repeat finds its old offset.
pub const MAX_IN_FLIGHT_BATCHES: usize = 16;
/// The most queue groups of a cluster.
pub const MAX_GROUPS: usize = 1024;
/// The most bindings of a cluster.
pub const MAX_BINDINGS: usize = 16_384;
/// The most workers of a cluster.
pub const MAX_WORKERS: usize = 4096;
