//! Names and numbers of the things that Ringway moves around, each a type of its own.
//!
//! Names ([`GroupName`], [`WorkerId`], …) are checked once, where they enter, and then trusted. A
//! name never becomes part of a path: files are named by number. Numbers ([`QueueId`],
//! [`Epoch`], …) are given by the coordinator's store or by the worker that owns the log.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::MAX_NAME_LEN;
use crate::refusal::{Code, Refusal};

/// Checks a name of a group, subscription, worker or member: 1 to 120 characters of
/// `[A-Za-z0-9_.-]`, not starting with a dot.
fn check_name(kind: &str, s: &str) -> Result<(), Refusal> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if s.is_empty() || s.len() > MAX_NAME_LEN || s.starts_with('.') || !s.chars().all(legal) {
        return Err(Refusal::new(
            Code::InvalidName,
            format!("{:?} is no name for a {kind}", crate::refusal::shorten(s)),
        )
        .hint(
            "a name has 1 to 120 letters, digits, _, - and dots, and does not begin with a dot",
        ));
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `s` and takes it as a name.
            ///
            /// # Errors
            /// [`Code::InvalidName`] when `s` is not 1 to 120 characters of `[A-Za-z0-9_.-]`
            /// or begins with a dot.
            pub fn new(s: impl Into<String>) -> Result<Self, Refusal> {
                let s = s.into();
                check_name($kind, &s)?;
                Ok(Self(s))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = Refusal;
            fn from_str(s: &str) -> Result<Self, Refusal> {
                Self::new(s)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Refusal;
            fn try_from(s: String) -> Result<Self, Refusal> {
                Self::new(s)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

name_type!(
    /// The name of a queue group, `orders`. A group name may not hold a dot at its start only.
    GroupName, "queue group"
);
name_type!(
    /// The name of a subscription, `billing`.
    SubscriptionName, "subscription"
);
name_type!(
    /// The id of a worker, `w1`: chosen by the operator, the same over restarts.
    WorkerId, "worker"
);
name_type!(
    /// The id of a member of a subscription: chosen by the user or made by the SDK.
    MemberId, "member"
);

macro_rules! number_type {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $int);

        impl $name {
            /// The number after this one.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", stringify!($name), self.0)
            }
        }
    };
}

number_type!(
    /// The number of a move of slots or classes between queues: given once by the coordinator, in
    /// the order in which the moves take effect.
    MoveNumber(u64)
);
number_type!(
    /// The number of a queue group, given once by the coordinator and never reused.
    GroupId(u32)
);
number_type!(
    /// The number of a subscription, given once by the coordinator and never reused.
    SubscriptionId(u32)
);
number_type!(
    /// Grows each time the primary of a queue or the holder of a right changes. Whoever acts
    /// under an older one is fenced. 0 means "never given".
    Epoch(u64)
);
number_type!(
    /// The position of a message in its queue, from 0.
    Offset(u64)
);
number_type!(
    /// Grows with every change of groups, bindings, placement or addresses.
    RoutingVersion(u64)
);
number_type!(
    /// One process of a worker or member: a later start of the same id has a larger one.
    Incarnation(u64)
);
number_type!(
    /// One attempt to move a queue; giving an attempt up raises it.
    Attempt(u64)
);
number_type!(
    /// Grows with each open of one right by one holder.
    OpenNumber(u64)
);
number_type!(
    /// One of the 4,096 key ranges of a group.
    Slot(u16)
);
number_type!(
    /// Grows, per producer and queue, at every reconnect and after every refusal.
    Session(u32)
);
number_type!(
    /// Numbers the messages of one producer at one queue, from 0.
    Sequence(u64)
);

/// One queue: its group and its place in the group. Shown to users as `GROUP/N` with the group's
/// name; on the wire and on disk it is one number, `group << 32 | index`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
pub struct QueueId {
    /// The group that the queue belongs to.
    pub group: GroupId,
    /// The place in the group, from 0.
    pub index: u32,
}

impl QueueId {
    /// The queue with this index in this group.
    #[must_use]
    pub fn new(group: GroupId, index: u32) -> Self {
        Self { group, index }
    }
}

impl From<u64> for QueueId {
    fn from(n: u64) -> Self {
        Self { group: GroupId((n >> 32) as u32), index: n as u32 }
    }
}

impl From<QueueId> for u64 {
    fn from(q: QueueId) -> u64 {
        (u64::from(q.group.0) << 32) | u64::from(q.index)
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.group.0, self.index)
    }
}

impl fmt::Debug for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "queue {self}")
    }
}

/// A 128-bit number drawn at random: the identity of a queue's log, of a journal, of a producer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(from = "[u8; 16]", into = "[u8; 16]")]
pub struct Uuid(pub u128);

impl From<[u8; 16]> for Uuid {
    fn from(b: [u8; 16]) -> Self {
        Self(u128::from_le_bytes(b))
    }
}

impl From<Uuid> for [u8; 16] {
    fn from(u: Uuid) -> Self {
        u.0.to_le_bytes()
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A producer: one SDK process's publishing side.
pub type ProducerId = Uuid;

/// Lanes `start..end` of a queue, out of 4,096; the whole queue is `0..4096`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Lanes {
    /// The first lane.
    pub start: u16,
    /// The lane after the last.
    pub end: u16,
}

impl Lanes {
    /// All lanes of a queue.
    pub const ALL: Self = Self { start: 0, end: 4096 };

    /// Whether `lane` is one of these.
    #[must_use]
    pub fn contains(self, lane: u16) -> bool {
        (self.start..self.end).contains(&lane)
    }

    /// How many they are.
    #[must_use]
    pub fn count(self) -> u16 {
        self.end.saturating_sub(self.start)
    }

    /// Whether all of `other` are among these.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// Whether some lane is in both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// These lanes of the queue with this name, for people: `orders/7`, or
    /// `orders/7 lanes 0-2047` when they are not all of it.
    #[must_use]
    pub fn of(self, queue: &str) -> String {
        if self == Self::ALL {
            return queue.to_owned();
        }
        format!("{queue} lanes {}-{}", self.start, self.end.saturating_sub(1))
    }
}

/// The exclusive right to consume one queue, or some lanes of it, for one subscription.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct RightId {
    /// Whose right it is.
    pub subscription: SubscriptionId,
    /// The queue that it lets consume.
    pub queue: QueueId,
    /// The lanes of the queue that it covers.
    pub lanes: Lanes,
}

impl RightId {
    /// The right to the whole of `queue`.
    #[must_use]
    pub fn whole(subscription: SubscriptionId, queue: QueueId) -> Self {
        Self { subscription, queue, lanes: Lanes::ALL }
    }

    /// The right of the same subscription to these lanes of the same queue.
    #[must_use]
    pub fn with(self, lanes: Lanes) -> Self {
        Self { lanes, ..self }
    }

    /// The least right of a subscription to a queue in the order of rights: where a walk over all
    /// of them begins.
    #[must_use]
    pub fn first(subscription: SubscriptionId, queue: QueueId) -> Self {
        Self { subscription, queue, lanes: Lanes { start: 0, end: 0 } }
    }

    /// Whether both are rights of one subscription to one queue.
    #[must_use]
    pub fn is_beside(&self, other: &Self) -> bool {
        self.subscription == other.subscription && self.queue == other.queue
    }
}

/// Who holds a right: a member in one of its incarnations. A new incarnation is a new holder.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Holder {
    /// The member.
    pub member: MemberId,
    /// The process of that member.
    pub incarnation: Incarnation,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_id_is_one_number_on_the_wire() {
        let q = QueueId::new(GroupId(7), 3);
        assert_eq!(u64::from(q), 7 << 32 | 3);
        assert_eq!(QueueId::from(u64::from(q)), q);
    }

    #[test]
    fn lanes_are_named_where_they_are_not_all_of_a_queue() {
        let half = Lanes { start: 2048, end: 4096 };
        assert_eq!(Lanes::ALL.of("orders/7"), "orders/7");
        assert_eq!(half.of("orders/7"), "orders/7 lanes 2048-4095");
        assert!(Lanes::ALL.covers(half) && !half.covers(Lanes::ALL));
        assert!(!half.overlaps(Lanes { start: 0, end: 2048 }));
    }

    #[test]
    fn odd_names_are_refused() {
        for bad in ["", ".hidden", "../etc", "a b", "ä", "x\0", &"n".repeat(121)] {
            assert_eq!(GroupName::new(bad).unwrap_err().code, Code::InvalidName, "{bad:?}");
        }
        assert!(GroupName::new("orders-2.eu_west").is_ok());
    }
}
