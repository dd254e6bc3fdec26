//! What the parts of a modelled system share: who takes part, what is on the way between them,
//! and what a step of one of them gives out. A part is a process with its disk; its step is a
//! function of its state and an input, and nothing else.

pub mod coordinator;
pub mod member;
pub mod worker;

use std::fmt;

use bytes::Bytes;
use ringway_proto::control::{FromClient, FromWorker, ToClient, ToWorker};
use ringway_proto::frame::Kind;
use ringway_proto::hash::lane_of;
use ringway_proto::{
    Epoch, GroupId, Holder, Incarnation, Lanes, MemberId, Offset, QueueId, RightId, SubscriptionId,
    WorkerId,
};

use self::worker::Answer;
use super::bugs::Bug;

/// Who takes part.
#[derive(Clone, Debug)]
pub struct Cast {
    /// How many workers.
    pub workers: u8,
    /// How many queues.
    pub queues: u8,
    /// The processes of members: the member, and which of its processes. Both from 1.
    pub processes: Vec<(u8, u8)>,
    /// A worker's writes are durable at once: nothing depends on it while no worker crashes.
    pub sync_at_once: bool,
    /// What is under way arrives before anything else happens.
    pub is_prompt: bool,
    /// Then members come and go, and workers are to be emptied, only where everything rests.
    pub wishes_at_rest: bool,
    /// The keys of the messages, which come in turns: several where rights are split.
    pub keys: Vec<Bytes>,
    /// The planted bug.
    pub bug: Option<Bug>,
}

/// What a right is held for: the messages of one key in one queue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Share {
    /// Which queue.
    pub queue: QueueId,
    /// Which of the keys.
    pub key: u8,
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {} of {}", self.key, self.queue)
    }
}

/// The lanes that one part of a right has when it is cut as finely as here.
const WIDTH: u16 = 1024;

/// One key, or two of them in the first two lanes of four.
#[must_use]
pub fn keys(are_split: bool) -> Vec<Bytes> {
    if !are_split {
        return vec![Bytes::from_static(b"k")];
    }
    let in_range = |start: u16| {
        let mut all = (0u32..).map(|n| Bytes::from(format!("k{n}")));
        all.find(|key| (start..start + WIDTH).contains(&lane_of(key)))
    };
    [0, WIDTH].into_iter().filter_map(in_range).collect()
}

impl Cast {
    /// Whether rights are split.
    #[must_use]
    pub fn are_split(&self) -> bool {
        self.keys.len() > 1
    }

    /// The lane of a key.
    #[must_use]
    pub fn lane(&self, key: u8) -> u16 {
        lane_of(&self.keys[usize::from(key)])
    }

    /// What is held with these lanes of a queue.
    pub fn shares(&self, queue: QueueId, lanes: Lanes) -> impl Iterator<Item = Share> + '_ {
        let keys = (0..self.keys.len() as u8).filter(move |key| lanes.contains(self.lane(*key)));
        keys.map(move |key| Share { queue, key })
    }

    /// What the message there is a part of. Each is stored once, in the order of their numbers.
    #[must_use]
    pub fn share_at(&self, queue: QueueId, at: Offset) -> Share {
        Share { queue, key: (at.0 % self.keys.len() as u64) as u8 }
    }

    /// The weight of a process' member: where rights are split, so different that they are cut
    /// into four for two members, and merged again for the first alone.
    #[must_use]
    pub fn weight(&self, process: u8) -> u32 {
        if self.are_split() && process > 0 { 300 } else { 100 }
    }

    /// The name of a worker.
    #[must_use]
    pub fn worker(&self, index: u8) -> WorkerId {
        name(WorkerId::new(format!("w{}", index + 1)))
    }

    /// Which worker this is.
    #[must_use]
    pub fn worker_index(&self, id: &WorkerId) -> Option<u8> {
        (0..self.workers).find(|index| self.worker(*index) == *id)
    }

    /// Which worker is reached there.
    #[must_use]
    pub fn worker_at(&self, address: &str) -> Option<u8> {
        (0..self.workers).find(|index| self.address(*index) == address)
    }

    /// Where a worker is reached.
    #[must_use]
    pub fn address(&self, index: u8) -> String {
        format!("w{}:7400", index + 1)
    }

    /// The holder that a process is.
    #[must_use]
    pub fn holder(&self, process: u8) -> Holder {
        let (member, incarnation) = self.processes[usize::from(process)];
        Holder {
            member: name(MemberId::new(format!("m{member}"))),
            incarnation: Incarnation(u64::from(incarnation)),
        }
    }

    /// The process that a holder is.
    #[must_use]
    pub fn process(&self, holder: &Holder) -> Option<u8> {
        (0..self.processes.len() as u8).find(|process| self.holder(*process) == *holder)
    }

    /// Every peer of the coordinator: the workers, then the processes of members.
    #[must_use]
    pub fn peers(&self) -> u8 {
        self.workers + self.processes.len() as u8
    }

    /// The peer that a process is.
    #[must_use]
    pub fn peer(&self, process: u8) -> u8 {
        self.workers + process
    }

    /// The process that a peer is, if it is one.
    #[must_use]
    pub fn process_of(&self, peer: u8) -> Option<u8> {
        peer.checked_sub(self.workers)
    }
}

fn name<T, E: std::fmt::Debug>(made: Result<T, E>) -> T {
    made.unwrap_or_else(|e| panic!("a name of the model: {e:?}"))
}

/// A queue by its number.
#[must_use]
pub fn queue(index: u8) -> QueueId {
    QueueId::new(GroupId(0), u32::from(index))
}

/// The right to a queue.
#[must_use]
pub fn right(queue: QueueId) -> RightId {
    RightId::whole(SubscriptionId(0), queue)
}

/// One direction of a stream: everything on it arrives in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Link {
    /// From a peer to the coordinator, on its nth connection.
    ToCoordinator {
        /// Which peer.
        peer: u8,
        /// Which connection.
        conn: u8,
    },
    /// The other way.
    FromCoordinator {
        /// Which peer.
        peer: u8,
        /// Which connection.
        conn: u8,
    },
    /// What is said once more to a peer or, with `up`, by it, however much later.
    Again {
        /// Which peer.
        peer: u8,
        /// Which connection.
        conn: u8,
        /// By the peer.
        up: bool,
    },
    /// From a member's process to a worker: one open of a right.
    Up(Stream),
    /// The other way.
    Down(Stream),
    /// What a copy is answered.
    Copy {
        /// The worker that copies.
        worker: u8,
        /// Which queue.
        queue: u8,
    },
}

/// A delivery stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Stream {
    /// Which process opened it.
    pub process: u8,
    /// At which worker.
    pub worker: u8,
    /// Of which queue.
    pub queue: u8,
    /// The first lane of the right.
    pub lane: u16,
    /// With which open.
    pub open: u16,
}

/// What arrives.
#[derive(Clone, PartialEq, Debug)]
pub enum Message {
    /// An order.
    ToWorker(ToWorker),
    /// A worker's word.
    FromWorker(FromWorker),
    /// What a client is told.
    ToClient(ToClient),
    /// A client's word.
    FromClient(FromClient),
    /// A frame of a delivery stream.
    Frame(Kind, Bytes),
    /// An answer of an original, under the number that it was asked under.
    Copied(u64, Answer),
    /// Nothing more comes.
    Closed,
}

/// What a step gives out.
#[derive(Debug, Default)]
pub struct Out {
    /// What is sent, in order.
    pub sends: Vec<(Link, Message)>,
    /// Connections of peers to the coordinator that are ended by it.
    pub hang_ups: Vec<(u8, u8)>,
    /// What happened, for the checks.
    pub events: Vec<Event>,
}

/// What happened. There is one subscription.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The store has this epoch of a right. `forced` says that a holder had the one before and
    /// did not give it up in order.
    Right {
        /// Of what.
        share: Share,
        /// The epoch.
        epoch: Epoch,
        /// Whether its holder lost it.
        forced: bool,
    },
    /// A process is told that it holds a right.
    Granted {
        /// Of what.
        share: Share,
        /// Under which epoch.
        epoch: Epoch,
        /// Who.
        process: u8,
    },
    /// A worker says that a right's epoch is durable.
    Raised {
        /// Of what.
        share: Share,
        /// The epoch.
        epoch: Epoch,
        /// That of the queue's copy.
        copy: Epoch,
    },
    /// A worker let a process open a right, or applied its acks.
    Acted {
        /// Of what.
        share: Share,
        /// Under which epoch.
        epoch: Epoch,
        /// That of the queue's copy.
        copy: Epoch,
        /// Who.
        process: u8,
        /// Whether acks were applied.
        acked: bool,
    },
    /// A worker says that it has a queue open.
    QueueOpened {
        /// Which.
        queue: QueueId,
        /// Under which epoch.
        epoch: Epoch,
        /// Who.
        worker: u8,
    },
    /// A worker takes a message.
    Accepted {
        /// Into which queue.
        queue: QueueId,
        /// Under which epoch of it.
        epoch: Epoch,
    },
    /// A publish is acked.
    Published {
        /// Into which queue.
        queue: QueueId,
        /// Which of its messages.
        number: u64,
        /// Where it is.
        offset: Offset,
    },
    /// A message is handed to an application.
    HandedOut {
        /// Of what.
        share: Share,
        /// Under which epoch.
        epoch: Epoch,
        /// Which.
        offset: Offset,
        /// How many of its key come before it.
        before: u64,
    },
    /// An application is done with it.
    Settled {
        /// Of what.
        share: Share,
        /// Under which epoch.
        epoch: Epoch,
        /// Which.
        offset: Offset,
    },
    /// The process knows that its ack is durable.
    Confirmed {
        /// Of what.
        share: Share,
        /// Under which epoch.
        epoch: Epoch,
        /// Which.
        offset: Offset,
    },
    /// Something that must not be.
    Wrong(String),
}
