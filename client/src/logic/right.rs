//! One consume right in its holder's hands: its stream, what is to be said on it, and how it is
//! given up. It promises no hand-out once it drains, and "drained" only when every ack is
//! confirmed. It does not know other rights.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ringway_proto::batch::{parse_classes, parse_record};
use ringway_proto::control::{OpenRight, Order};
use ringway_proto::data::{AckConfirmed, Deliver, OffsetRange, Ranges, encode_lanes};
use ringway_proto::frame::Kind;
use ringway_proto::hash::lane_of_message;
use ringway_proto::limits::MAX_RANGES;
use ringway_proto::{Epoch, Holder, Lanes, Offset, OpenNumber, Refusal, RightId, Time};

use super::acks::{Acks, Waiting};
use super::credit::{Claim, Credit, Promise};
use super::holding::Holding;
use super::lane::back_off;
use super::report::Frame;
use crate::message::Message;

/// How often a draining right with messages in hand asks for more time.
pub const STILL_DRAINING_EVERY: Duration = Duration::from_secs(1);
/// How long a draining right asks for more time at most.
pub const DRAIN_MAX: Duration = Duration::from_secs(60);

/// How a message in hand is settled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// It is done.
    Ack,
    /// It could not be handled and comes again, counted.
    Nack,
    /// It was not looked at and comes again, not counted.
    GiveBack,
}

/// What a right is called in its holder's hands: it may lose lanes while it is held, and no two
/// rights that one member has begin with the same lane.
#[must_use]
pub fn name_of(id: RightId) -> RightId {
    id.with(Lanes { start: id.lanes.start, ..Lanes::ALL })
}

/// A delivery in hand: which right, under which epoch, which message, which hand-out of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hold {
    /// The right, as [`name_of`] calls it.
    pub right: RightId,
    /// Its epoch.
    pub epoch: Epoch,
    /// The message.
    pub offset: Offset,
    /// The hand-out; a later one of the same message has a larger one.
    pub serial: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stream {
    Closed { retry_at: Time },
    Opening,
    Open,
}

#[derive(Clone, Debug)]
struct Drain {
    /// The coordinator asked for it and waits for the report.
    revoked: bool,
    since: Time,
    told: Time,
    /// The queue was told to send nothing more.
    closed: bool,
}

/// Lanes that are being given up while the others go on.
#[derive(Clone, Debug)]
struct Narrowing {
    /// What stays.
    to: Lanes,
    since: Time,
    told: Time,
    /// The queue was told, on this stream, to send nothing more of them.
    said: bool,
}

/// One right under one epoch.
#[derive(Clone, Debug)]
pub struct Right {
    id: RightId,
    epoch: Epoch,
    /// The queue, `GROUP/N`.
    pub queue: Arc<str>,
    open: OpenNumber,
    stream: Stream,
    failures: u32,
    drain: Option<Drain>,
    narrowing: Option<Narrowing>,
    holding: Holding,
    handed: BTreeSet<Offset>,
    returned: BTreeSet<Offset>,
    nacked: BTreeSet<Offset>,
    acks: Acks,
    promise: Promise,
    /// When the question was sent that its primary answered last.
    pub answered: Time,
}

impl Right {
    /// A right that was granted just now and is not open yet.
    #[must_use]
    pub fn new(now: Time, id: RightId, epoch: Epoch, queue: Arc<str>, order: Order) -> Self {
        Self {
            id,
            epoch,
            queue,
            open: OpenNumber(0),
            stream: Stream::Closed { retry_at: now },
            failures: 0,
            drain: None,
            narrowing: None,
            holding: Holding::new(order),
            handed: BTreeSet::new(),
            returned: BTreeSet::new(),
            nacked: BTreeSet::new(),
            acks: Acks::default(),
            promise: Promise::default(),
            answered: now,
        }
    }

    /// Which right it is, with the lanes that it has now.
    #[must_use]
    pub fn id(&self) -> RightId {
        self.id
    }

    /// Its epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether it is being given up.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    /// Whether its stream is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.stream == Stream::Open
    }

    /// Whether something may be handed out.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        self.holding.has_ready()
    }

    /// What it has of the member's credit.
    #[must_use]
    pub fn claim(&self) -> Claim {
        let (latest, most, held) = (self.promise.latest(), self.promise.most(), self.in_use());
        Claim {
            latest: Credit { messages: latest.messages, bytes: latest.bytes },
            used: Credit {
                messages: most.messages.max(held.messages),
                bytes: most.bytes.max(held.bytes),
            },
        }
    }

    /// What is unread or in hand, as credit.
    #[must_use]
    pub fn in_use(&self) -> Credit {
        self.holding.in_use()
    }

    /// Whether it is to be opened now.
    #[must_use]
    pub fn wants_open(&self, now: Time) -> bool {
        self.retry_at().is_some_and(|at| at <= now)
    }

    /// When it is to be opened. A right that drains is opened again only for its acks.
    #[must_use]
    pub fn retry_at(&self) -> Option<Time> {
        match self.stream {
            Stream::Closed { retry_at } if self.drain.is_none() || !self.acks.is_empty() => {
                Some(retry_at)
            }
            _ => None,
        }
    }

    /// The open, which lists what is held and repeats every ack that was not confirmed. What was
    /// to be said under the older open is void: what is not listed comes again.
    pub fn open(&mut self, open: OpenNumber, holder: Holder, window: Credit) -> OpenRight {
        self.open = open;
        self.stream = Stream::Opening;
        self.handed.clear();
        self.returned.clear();
        self.nacked.clear();
        if let Some(narrowing) = &mut self.narrowing {
            narrowing.said = false;
        }
        self.promise.void();
        let window = self.promise.send(window.messages, window.bytes);
        let (acks, ack_number) = self.acks.repeat();
        OpenRight {
            right: self.id,
            epoch: self.epoch,
            holder,
            open,
            held: self.holding.kept(),
            held_lanes: self.holding.kept_lanes(),
            handed_out: self.holding.handed_out(),
            acks,
            ack_number,
            window,
        }
    }

    /// The primary has opened it.
    pub fn opened(&mut self, open: OpenNumber) {
        if open == self.open && self.stream == Stream::Opening {
            self.stream = Stream::Open;
            self.failures = 0;
        }
    }

    /// The stream of this open is gone; the right is opened again after a wait.
    pub fn closed(&mut self, now: Time, open: OpenNumber) {
        if open == self.open && !matches!(self.stream, Stream::Closed { .. }) {
            self.stream = Stream::Closed { retry_at: now + back_off(self.failures) };
            self.failures = self.failures.saturating_add(1);
            self.promise.void();
        }
    }

    /// Messages from the primary. Those of an older open are dropped.
    ///
    /// # Errors
    /// What is wrong with the frame, which ends the stream.
    pub fn delivered(&mut self, deliver: &Deliver) -> Result<(), Refusal> {
        if deliver.open != self.open {
            return Ok(());
        }
        let classes = parse_classes(&deliver.class_table, usize::from(deliver.classes))?;
        let mut records = deliver.records.iter().cloned();
        let mut rest = records.next().unwrap_or_default();
        for entry in &deliver.entries {
            if rest.is_empty() {
                rest = records.next().unwrap_or_default();
            }
            let (m, len) = parse_record(&rest, &classes)?;
            rest = rest.slice(len..);
            let offset = Offset(deliver.base_offset.0 + u64::from(entry.index));
            let message = Message {
                class: m.class,
                key: m.key,
                id: m.id,
                headers: m.headers,
                body: m.body,
                queue: self.queue.clone(),
                offset: offset.0,
                epoch: self.epoch.0,
                delivery: u32::from(entry.delivery),
                published_at: deliver.published_at,
            };
            self.arrived(offset, entry.delivery, len as u64, message);
        }
        Ok(())
    }

    fn arrived(&mut self, offset: Offset, delivery: u16, bytes: u64, message: Message) {
        if self.acks.contains(offset) {
            return;
        }
        let lane = lane_of_message(message.key.as_deref(), offset);
        if self.drain.is_none() && self.lanes().contains(lane) {
            self.holding.arrived(offset, delivery, bytes, message);
        } else if !self.holding.is_in_hand(offset) {
            self.returned.insert(offset);
        }
    }

    /// Hands out the oldest message that may go.
    pub fn take(&mut self, now: Time, serial: u64) -> Option<(Hold, Message)> {
        let (offset, message) = self.holding.take(now, serial)?;
        self.handed.insert(offset);
        Some((Hold { right: name_of(self.id), epoch: self.epoch, offset, serial }, message))
    }

    /// The application is done with a message. False when that changed nothing: it was settled
    /// before, or (for nacks and returns) handed out again since. `token` waits for the ack's
    /// confirmation; it is kept only when this is true.
    pub fn settle(&mut self, hold: &Hold, how: How, token: Option<u64>) -> bool {
        let offset = hold.offset;
        if how == How::Ack {
            // Whoever has handled it, late or not, has handled it.
            let Some(lane) = self.holding.lane(offset) else { return false };
            self.holding.done(offset);
            for said in [&mut self.handed, &mut self.nacked, &mut self.returned] {
                said.remove(&offset);
            }
            self.acks.add(offset, lane, token);
            return true;
        }
        if !self.holding.is_current(offset, hold.serial) {
            return false;
        }
        let list = if how == How::Nack { &mut self.nacked } else { &mut self.returned };
        list.insert(offset);
        let lane = self.holding.lane(offset);
        if self.is_draining() || lane.is_some_and(|lane| !self.lanes().contains(lane)) {
            self.holding.done(offset);
        } else {
            self.holding.put_back(offset);
        }
        true
    }

    /// From now on nothing more is handed out, and what is unread goes back. True when it began
    /// to drain just now.
    pub fn begin_drain(&mut self, now: Time, revoked: bool) -> bool {
        if let Some(drain) = &mut self.drain {
            drain.revoked |= revoked;
            return false;
        }
        self.drain = Some(Drain { revoked, since: now, told: now, closed: false });
        self.returned.extend(self.holding.drop_all_but_in_hand(None));
        true
    }

    /// The lanes of which messages are taken.
    fn lanes(&self) -> Lanes {
        self.narrowing.as_ref().map_or(self.id.lanes, |narrowing| narrowing.to)
    }

    /// From now on nothing more of other lanes than these is handed out, and what is unread of
    /// them goes back.
    pub fn begin_narrow(&mut self, now: Time, to: Lanes) {
        if self.narrowing.is_none() && self.id.lanes.covers(to) && self.id.lanes != to {
            self.narrowing = Some(Narrowing { to, since: now, told: now, said: false });
            self.returned.extend(self.holding.drop_all_but_in_hand(Some(to)));
        }
    }

    /// The lanes that it has left, once nothing of the others is in hand and every ack of them is
    /// confirmed: from then on it has only these.
    pub fn end_narrow(&mut self, out: &mut Vec<Frame>) -> Option<Lanes> {
        let to = self.narrowing.as_ref()?.to;
        if self.holding.is_any_in_hand_beside(to) || self.acks.any_beside(to) {
            return None;
        }
        // The queue hears of it first, here or by the next open.
        self.flush(out);
        self.narrowing = None;
        self.id.lanes = to;
        Some(to)
    }

    /// Other lanes than these were lost: what is held of them is dropped. Returns who waited for
    /// acks of them.
    pub fn cut_to(&mut self, lanes: Lanes) -> Waiting {
        if self.narrowing.as_ref().is_some_and(|narrowing| lanes.covers(narrowing.to)) {
            self.narrowing = None;
        }
        self.id.lanes = lanes;
        self.holding.drop_beside(lanes);
        let here = |at: &Offset| self.holding.lane(*at).is_some();
        for said in [&mut self.handed, &mut self.nacked] {
            said.retain(here);
        }
        self.acks.keep_only(lanes)
    }

    /// Whether nothing is in hand and every ack is confirmed.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !self.holding.is_any_in_hand() && self.acks.is_empty()
    }

    /// Acks that are not confirmed.
    #[must_use]
    pub fn unconfirmed(&self) -> u64 {
        self.acks.count()
    }

    /// Whether `Drained` may be said.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.drain.as_ref().is_some_and(|d| d.revoked) && self.is_settled()
    }

    /// Whether to ask for more time, because a handler has a message of it.
    pub fn asks_for_time(&mut self, now: Time) -> bool {
        match &mut self.drain {
            Some(drain)
                if drain.revoked
                    && self.holding.is_any_in_hand()
                    && now.since(drain.told) >= STILL_DRAINING_EVERY
                    && now.since(drain.since) <= DRAIN_MAX =>
            {
                drain.told = now;
                true
            }
            _ => self.narrowing_asks_for_time(now),
        }
    }

    fn narrowing_asks_for_time(&mut self, now: Time) -> bool {
        match &mut self.narrowing {
            Some(narrowing)
                if self.holding.is_any_in_hand_beside(narrowing.to)
                    && now.since(narrowing.told) >= STILL_DRAINING_EVERY
                    && now.since(narrowing.since) <= DRAIN_MAX =>
            {
                narrowing.told = now;
                true
            }
            _ => false,
        }
    }

    /// All acks up to this one are durable; returns the tokens that waited for them.
    pub fn confirmed(&mut self, confirmed: AckConfirmed) -> Vec<u64> {
        if confirmed.open == self.open { self.acks.confirmed(confirmed.number) } else { Vec::new() }
    }

    /// The worker obeys this window from now on.
    pub fn window_seen(&mut self, open: OpenNumber, number: u64) {
        if open == self.open {
            self.promise.seen(number);
        }
    }

    /// Changes the window.
    pub fn set_window(&mut self, window: Credit, out: &mut Vec<Frame>) {
        let window = self.promise.send(window.messages, window.bytes);
        out.push((Kind::Window, window.encode()));
    }

    /// Extends what is in hand.
    pub fn tick(&mut self, now: Time) {
        self.handed.extend(self.holding.due_extensions(now));
    }

    /// The frames that are due. Acks are gathered while several frames of them are unconfirmed.
    pub fn flush(&mut self, out: &mut Vec<Frame>) {
        if matches!(self.stream, Stream::Closed { .. }) {
            return;
        }
        // Before what is returned: the queue may not know yet that the right is revoked, and would
        // send all of that again.
        if self.drain.as_mut().is_some_and(|drain| !std::mem::replace(&mut drain.closed, true)) {
            self.set_window(Credit { messages: 0, bytes: 0 }, out);
        }
        // The same for some of its lanes.
        if let Some(narrowing) = self.narrowing.as_mut().filter(|narrowing| !narrowing.said) {
            narrowing.said = true;
            out.push((Kind::Narrow, encode_lanes(narrowing.to)));
        }
        for (kind, offsets) in [
            (Kind::HandedOut, &mut self.handed),
            (Kind::Nack, &mut self.nacked),
            (Kind::Return, &mut self.returned),
        ] {
            let ranges = OffsetRange::collect(std::mem::take(offsets));
            for ranges in ranges.chunks(MAX_RANGES) {
                let ranges = Ranges { open: self.open, number: 0, ranges: ranges.to_vec() };
                out.push((kind, ranges.encode()));
            }
        }
        self.acks.flush(self.open, out);
    }

    /// Who still waits for a confirmation, of a right that is lost.
    #[must_use]
    pub fn into_waiting(self) -> Waiting {
        self.acks.into_waiting()
    }
}
