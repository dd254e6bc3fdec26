//! The virtual network: connections with streams, delay, loss of connections, silence between two
//! processes. A stream is ordered, as QUIC's are; streams overtake each other. What is on its way
//! when a connection ends is lost from some point on. It does not know what a frame means.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use ringway_proto::frame::{self, Kind};

use super::clock::{Clock, Dice};
use super::ctx::{Event, Pid};

/// Names a connection; never reused.
pub type ConnId = u64;
/// Names a stream of a connection.
pub type StreamNo = u32;

/// How often the side that dialled asks "are you there", in milliseconds.
pub const PING_EVERY: u64 = 300;
/// Unanswered for so long, the side that dialled takes the connection for lost, in milliseconds.
pub const SILENCE: u64 = 1560;
/// After so long the side that was dialled takes silence for the end, in milliseconds.
const IDLE: u64 = 5000;

/// A side of a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum End {
    /// The one that dialled.
    Dialler,
    /// The one that was dialled.
    Acceptor,
}

impl End {
    /// The other side.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Dialler => Self::Acceptor,
            Self::Acceptor => Self::Dialler,
        }
    }
}

/// What arrives on a stream.
#[derive(Clone, Debug)]
pub enum Item {
    /// A frame.
    Frame(Kind, Bytes),
    /// Nothing more comes.
    Finish,
}

#[derive(Debug, Default)]
struct Pipe {
    items: VecDeque<Item>,
    last: u64,
}

/// One connection.
#[derive(Debug)]
pub struct Conn {
    /// Who dialled.
    pub dialler: Pid,
    /// Who was dialled.
    pub acceptor: Pid,
    open: [bool; 2],
    pipes: BTreeMap<(StreamNo, End), Pipe>,
    streams: StreamNo,
    /// When the dialler sent the question that was answered last.
    pub answered: u64,
    /// When the last answer came.
    pub ponged: u64,
    /// When the acceptor heard the last question.
    pub heard: u64,
    /// When the dialler meant to ask next.
    pub next_ping: u64,
}

impl Conn {
    /// Who is at this side.
    #[must_use]
    pub fn at(&self, end: End) -> Pid {
        match end {
            End::Dialler => self.dialler,
            End::Acceptor => self.acceptor,
        }
    }

    /// Whether this side still has it.
    #[must_use]
    pub fn is_open(&self, end: End) -> bool {
        self.open[end as usize]
    }
}

/// All connections, and who does not reach whom.
#[derive(Debug, Default)]
pub struct Net {
    conns: BTreeMap<ConnId, Conn>,
    made: ConnId,
    /// From whom to whom nothing passes, until when.
    silent: BTreeMap<(Pid, Pid), u64>,
    /// The longest usual delay of a frame, in milliseconds.
    pub delay: u64,
    /// The longest rare delay of a frame, in milliseconds.
    pub rare_delay: u64,
    /// How many heartbeats in a hundred are lost.
    pub loss_percent: u64,
}

impl Net {
    /// A connection that somebody still has.
    #[must_use]
    pub fn conn(&self, id: ConnId) -> Option<&Conn> {
        self.conns.get(&id)
    }

    /// The same, to change what it has heard.
    pub fn conn_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.conns.get_mut(&id)
    }

    /// Every connection that is open at both sides.
    #[must_use]
    pub fn open_conns(&self) -> Vec<ConnId> {
        self.conns.iter().filter(|(_, c)| c.open == [true; 2]).map(|(id, _)| *id).collect()
    }

    /// The connections that this process has, and which side of each it is.
    #[must_use]
    pub fn of(&self, pid: Pid) -> Vec<(ConnId, End)> {
        let mut all = Vec::new();
        for (id, conn) in &self.conns {
            for end in [End::Dialler, End::Acceptor] {
                if conn.at(end) == pid && conn.is_open(end) {
                    all.push((*id, end));
                }
            }
        }
        all
    }

    /// A connection is made.
    pub fn connect(&mut self, clock: &mut Clock, dialler: Pid, acceptor: Pid) -> ConnId {
        self.made += 1;
        let now = clock.now();
        let conn = Conn {
            dialler,
            acceptor,
            open: [true; 2],
            pipes: BTreeMap::new(),
            streams: 0,
            answered: now,
            ponged: now,
            heard: now,
            next_ping: now + PING_EVERY,
        };
        self.conns.insert(self.made, conn);
        clock.after(PING_EVERY, Event::Ping { conn: self.made });
        self.made
    }

    /// The dialler opens a stream.
    pub fn open_stream(&mut self, id: ConnId) -> StreamNo {
        let Some(conn) = self.conns.get_mut(&id) else { return 0 };
        conn.streams += 1;
        conn.streams
    }

    /// Nothing passes from `from` to `to` until then.
    pub fn silence(&mut self, from: Pid, to: Pid, until: u64) {
        let known = self.silent.entry((from, to)).or_default();
        *known = until.max(*known);
    }

    /// Everybody reaches everybody from now on.
    pub fn reach_all(&mut self) {
        self.silent.clear();
    }

    /// Until when nothing passes from `from` to `to`, if so.
    #[must_use]
    pub fn silent_until(&self, now: u64, from: Pid, to: Pid) -> Option<u64> {
        self.silent.get(&(from, to)).copied().filter(|until| *until > now)
    }

    /// How long a frame takes now from `from` to `to`.
    pub fn delay(&self, clock: &Clock, dice: &mut Dice, from: Pid, to: Pid) -> u64 {
        let longest = if dice.percent(4) { self.rare_delay } else { self.delay };
        let delay = dice.between(0, longest);
        match self.silent_until(clock.now(), from, to) {
            // What was lost is sent again, at the latest a while after it passes again.
            Some(until) => until - clock.now() + delay + dice.between(0, 150),
            None => delay,
        }
    }

    /// Sends a frame, or the end of the stream. A closed side sends nothing.
    ///
    /// # Panics
    /// For a frame that the shipped envelope would not let through.
    pub fn send(
        &mut self,
        clock: &mut Clock,
        dice: &mut Dice,
        id: ConnId,
        from: End,
        stream: StreamNo,
        item: Item,
    ) {
        let Some(conn) = self.conns.get(&id).filter(|c| c.is_open(from)) else { return };
        if let Item::Frame(kind, payload) = &item {
            let parsed = frame::parse_prefix(frame::prefix(*kind, payload.len()));
            assert_eq!(parsed, Ok((*kind, payload.len())), "a frame that its receiver refuses");
        }
        let delay = self.delay(clock, dice, conn.at(from), conn.at(from.other()));
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let pipe = conn.pipes.entry((stream, from)).or_default();
        pipe.last = pipe.last.max(clock.now() + delay);
        pipe.items.push_back(item);
        clock.at(pipe.last, Event::Arrive { conn: id, stream, to: from.other() });
    }

    /// The next item of a stream has arrived. None when its receiver has left.
    pub fn arrive(&mut self, id: ConnId, stream: StreamNo, to: End) -> Option<Item> {
        let conn = self.conns.get_mut(&id)?;
        let item = conn.pipes.get_mut(&(stream, to.other()))?.items.pop_front();
        item.filter(|_| conn.is_open(to))
    }

    /// A side lets go of a connection; the other one notices `notice` milliseconds later, or when
    /// it passes again, or by the silence.
    pub fn close(&mut self, clock: &mut Clock, id: ConnId, end: End, notice: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.open[end as usize] = false;
        if !conn.is_open(end.other()) {
            self.conns.remove(&id);
            return;
        }
        let (from, to) = (conn.at(end), conn.at(end.other()));
        let silent = self.silent_until(clock.now(), from, to).map_or(0, |u| u - clock.now());
        let longest = if end == End::Dialler { IDLE } else { SILENCE };
        clock.after((silent + notice).min(longest), Event::Closed { conn: id, end: end.other() });
    }

    /// This side has noticed that the other one is gone. False if it knew.
    pub fn noticed(&mut self, id: ConnId, end: End) -> bool {
        let Some(conn) = self.conns.get_mut(&id).filter(|c| c.is_open(end)) else { return false };
        conn.open[end as usize] = false;
        if !conn.is_open(end.other()) {
            self.conns.remove(&id);
        }
        true
    }
}

/// Parts of a payload as one.
#[must_use]
pub fn joined(parts: &[Bytes]) -> Bytes {
    if let [one] = parts {
        return one.clone();
    }
    let mut all = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    for part in parts {
        all.extend_from_slice(part);
    }
    all.freeze()
}
