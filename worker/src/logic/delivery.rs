//! One right at its queue's primary: who may open it, what may be sent, what comes again. It owns
//! epoch, cursor and window; it promises that an older holder changes nothing, that what is in
//! flight stays inside the window, and that nothing that was acked is sent again. It does not know
//! where messages are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ringway_proto::batch::Batch;
use ringway_proto::control::{CopiedRight, OpenRight, RightEpoch, RightOpened};
use ringway_proto::data::{AckConfirmed, DeliverEntry, OffsetRange, Ranges, Window, check_ranges};
use ringway_proto::hash::lane_of_message;
use ringway_proto::{Code, Epoch, Holder, Lanes, Offset, OpenNumber, Refusal, RightId, Slot, Time};

use super::cursor::Cursor;
use super::fences::Gate;
use super::flight::{Flight, State, Unsettled};
use super::layers::Layers;
use super::{Action, Rules, Selection, StreamId};
use crate::records::ControlRecord;

/// What the holder of a right says on its delivery stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// These are done.
    Ack(Ranges),
    /// These are in the application's hands, or still are.
    HandedOut(Ranges),
    /// These come back unread.
    Return(Ranges),
    /// Handling these failed.
    Nack(Ranges),
    /// This much may be in flight.
    Window(Window),
    /// Only these lanes are to be sent from now on.
    Narrow(Lanes),
}

impl Frame {
    /// What it takes to keep it: itself, and each range that it names.
    #[must_use]
    pub fn weight(&self) -> usize {
        1 + match self {
            Self::Ack(r) | Self::HandedOut(r) | Self::Return(r) | Self::Nack(r) => r.ranges.len(),
            Self::Window(_) | Self::Narrow(_) => 0,
        }
    }
}

/// What became of a frame, for those who count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Messages newly acked.
    pub acked: u64,
    /// Frames or opens that were fenced.
    pub fenced: bool,
}

/// One right.
#[derive(Clone, Debug)]
pub struct Right {
    pub(super) id: RightId,
    pub(super) epoch: Epoch,
    pub(super) holder: Option<Holder>,
    /// The newest open of this holder.
    last_open: OpenNumber,
    stream: Option<Stream>,
    /// Nothing more is sent under this epoch.
    revoked: bool,
    pub(super) cursor: Cursor,
    /// What is done besides, lane by lane, for a while after a merge.
    pub(super) layers: Layers,
    /// Delivered or due to come again, and not acked.
    pub(super) flight: Flight,
    /// Everything below was looked at: it is done, unsettled or fenced, or in a lane that is not
    /// to be sent.
    read: Offset,
    /// What waits for a fence at another queue, and the slots of it: what comes later of these
    /// waits too, whatever its class, for the order of their keys.
    fenced: BTreeSet<Offset>,
    fenced_slots: BTreeSet<Slot>,
    /// What the holder had of lanes that went to others: it may still ack that, and must not.
    pub(super) foreign: BTreeSet<Offset>,
    /// Acks that no record holds yet, and the ack to confirm once one does.
    unwritten: Cursor,
    confirm: Option<(StreamId, AckConfirmed)>,
    /// Acks that came while the queue was sealed: not applied, and not confirmed.
    held: Held,
    /// The floor that a restart finds. What was only passed over since is looked at again.
    pub(super) written_floor: Offset,
}

/// Acks that wait for a seal to be lifted. No more than what is unsettled.
#[derive(Clone, Debug, Default)]
struct Held {
    acks: Cursor,
    confirm: Option<(StreamId, AckConfirmed)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stream {
    id: StreamId,
    open: OpenNumber,
    window: Window,
}

impl Right {
    /// A right that begins at `floor` and that nobody holds.
    #[must_use]
    pub fn new(id: RightId, floor: Offset) -> Self {
        let mut flight = Flight::default();
        flight.set_sendable(id.lanes);
        Self {
            id,
            epoch: Epoch(0),
            holder: None,
            last_open: OpenNumber(0),
            stream: None,
            revoked: false,
            cursor: Cursor::new(floor),
            layers: Layers::default(),
            flight,
            read: floor,
            fenced: BTreeSet::new(),
            fenced_slots: BTreeSet::new(),
            foreign: BTreeSet::new(),
            unwritten: Cursor::default(),
            confirm: None,
            held: Held::default(),
            written_floor: floor,
        }
    }

    /// A right as it came with its queue from another worker.
    #[must_use]
    pub fn from_copy(copied: &CopiedRight) -> Self {
        let mut right = Self::new(copied.right.right, copied.floor);
        right.layers = Layers::from_copy(&copied.layers);
        right.raise(&copied.right, &mut Vec::new());
        right.replay_acked(copied.floor, &copied.acked);
        right
    }

    /// The right as it goes with its queue to another worker.
    #[must_use]
    pub fn to_copy(&self) -> CopiedRight {
        let holder = self.holder.clone();
        CopiedRight {
            right: RightEpoch { right: self.id, epoch: self.epoch, holder },
            floor: self.cursor.floor(),
            acked: self.cursor.ranges().collect(),
            layers: self.layers.to_copy(),
        }
    }

    /// How many ranges [`Right::to_copy`] has.
    #[must_use]
    pub fn acked_ranges(&self) -> usize {
        self.cursor.ranges().count() + self.layers.ranges()
    }

    /// Which right it is.
    #[must_use]
    pub fn id(&self) -> RightId {
        self.id
    }

    /// Its epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Who holds it.
    #[must_use]
    pub fn holder(&self) -> Option<&Holder> {
        self.holder.as_ref()
    }

    /// Everything below is acked or does not match.
    #[must_use]
    pub fn floor(&self) -> Offset {
        self.cursor.floor()
    }

    /// Messages delivered and not acked, those that wait after a nack included.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flight.places()
    }

    /// Messages that were looked at and are not done.
    #[must_use]
    pub fn unsettled(&self) -> u64 {
        let looked_at = self.looked_at();
        self.flight.count_below(looked_at) + self.fenced.range(..looked_at).count() as u64
    }

    /// Everything below is done, unsettled or fenced. While lanes are given up, what is left out of
    /// them is neither.
    fn looked_at(&self) -> Offset {
        let all = self.flight.sendable() == self.id.lanes;
        if all { self.read } else { self.cursor.floor() }
    }

    /// Messages below `end` that were not looked at, whatever their lanes.
    #[must_use]
    pub fn unread(&self, end: Offset) -> u64 {
        let unread = OffsetRange { first: self.looked_at().min(end), end };
        (unread.end.0 - unread.first.0).saturating_sub(self.cursor.count_in(unread))
    }

    /// Messages that wait for a fence.
    #[must_use]
    pub fn fenced_messages(&self) -> usize {
        self.fenced.len()
    }

    /// Whether everything below `at` is done, and a restart finds it so.
    #[must_use]
    pub fn is_past(&self, at: Offset) -> bool {
        self.cursor.floor() >= at && self.unwritten == Cursor::default()
    }

    /// Looks again at what waits for fences, in its order. False when nothing does.
    pub fn look_behind_fences(&mut self) -> bool {
        let Some(first) = self.fenced.first().copied() else { return false };
        self.look_again(first);
        true
    }

    /// Looks at everything from `from` on again, below which nothing is fenced: what is unsettled
    /// or done stays so, and what is fenced is found to be so again, or is not any more.
    pub(super) fn look_again(&mut self, from: Offset) {
        self.read = self.read.min(from);
        self.fenced.clear();
        self.fenced_slots.clear();
    }

    /// Messages that are unsettled or fenced: bounded.
    fn open_messages(&self) -> usize {
        self.flight.count() + self.fenced.len()
    }

    /// Whether an unread message may be looked at. While lanes are given up what is of them stays
    /// behind unread, so that what is done falls into pieces: they are bounded too, but what lies
    /// between them may be read.
    fn has_room(&self, at: Offset, rules: &Rules) -> bool {
        let is_between = at < self.cursor.end();
        self.open_messages() < rules.max_unsettled
            && (is_between || self.cursor.pieces() <= rules.max_unsettled)
    }

    /// The next moment at which [`Right::wake`] has something to do.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Time> {
        self.flight.next_timer()
    }

    /// Times out what was handed out too long ago and ends waits.
    pub fn wake(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.flight.expire(now) {
            out.push(Action::Look(self.id));
        }
    }

    /// Gives the right a later epoch and holder: fences the older one at once and lets what was in
    /// flight go to the new one first, in order. True when this was news.
    pub fn raise(&mut self, to: &RightEpoch, out: &mut Vec<Action>) -> bool {
        if to.epoch <= self.epoch {
            return false;
        }
        self.epoch = to.epoch;
        self.holder.clone_from(&to.holder);
        if let Some(stream) = self.stream.take() {
            let refusal = Some(self.fenced("the right went to someone else"));
            out.push(Action::Close { stream: stream.id, refusal });
        }
        self.last_open = OpenNumber(0);
        self.revoked = false;
        self.confirm = None;
        self.held = Held::default();
        self.foreign.clear();
        self.set_sendable(self.id.lanes);
        self.flight.recall_all();
        true
    }

    /// Sends only these lanes from now on. What was left out before is looked at again.
    fn set_sendable(&mut self, lanes: Lanes) {
        if !self.flight.sendable().covers(lanes) {
            self.look_again(self.cursor.floor());
        }
        if self.flight.sendable() != lanes {
            self.flight.set_sendable(lanes);
        }
    }

    /// Sends nothing more under this epoch.
    pub fn revoke(&mut self, epoch: Epoch) {
        self.revoked |= epoch == self.epoch;
    }

    /// Ends the stream because the queue goes away.
    pub fn close(&mut self, refusal: &Refusal, out: &mut Vec<Action>) {
        if let Some(stream) = self.stream.take() {
            out.push(Action::Close { stream: stream.id, refusal: Some(refusal.clone()) });
        }
    }

    /// A stream has ended. What is in flight stays so until the holder opens again or loses the
    /// right.
    pub fn closed(&mut self, stream: StreamId) {
        if self.stream.is_some_and(|s| s.id == stream) {
            self.stream = None;
        }
    }

    fn fenced(&self, why: &str) -> Refusal {
        Refusal::new(Code::Fenced, format!("{why}: it is at epoch {} now", self.epoch))
    }

    /// Opens the right on a stream, `end` being the end of the durable messages. Acks that were
    /// not confirmed are applied, what the holder still has stays in flight, and what else was in
    /// flight was lost with the older stream and goes first.
    ///
    /// # Errors
    /// As [`Right::may_open`].
    pub fn open(
        &mut self,
        now: Time,
        stream: StreamId,
        request: &OpenRight,
        end: Offset,
        rules: &Rules,
        out: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        self.may_open(request, rules)?;
        if let Some(older) = self.stream.take() {
            out.push(Action::Close { stream: older.id, refusal: None });
        }
        self.last_open = request.open;
        self.set_sendable(request.right.lanes);
        let OpenRight { open, window, .. } = *request;
        self.stream = Some(Stream { id: stream, open, window: bounded(window, rules) });

        for range in &request.acks {
            let range = OffsetRange { first: range.first, end: range.end.min(end) };
            if range.first < range.end {
                self.settle(range);
                self.done(range);
            }
        }
        if request.ack_number > 0 {
            self.confirm = Some((stream, AckConfirmed { open, number: request.ack_number }));
        }

        let listed = |ranges: &[OffsetRange], at: Offset| {
            let after = ranges.partition_point(|r| r.first <= at);
            after.checked_sub(1).and_then(|i| ranges.get(i)).is_some_and(|r| at < r.end)
        };
        let handed_out = |at| listed(&request.handed_out, at);
        self.flight.recall(|at| listed(&request.held, at) || handed_out(at));
        // The size of what was delivered by an earlier process is not known any more.
        let fair_share = window.bytes / u64::from(window.messages.max(1));
        let both = request.held.iter().chain(&request.handed_out);
        let durable = both.map(|r| OffsetRange { first: r.first, end: r.end.min(end) });
        let lanes = listed_lanes(request);
        for at in durable.flat_map(OffsetRange::offsets) {
            if self.cursor.contains(at) {
                continue;
            }
            let lane = lanes.get(&at).copied();
            let known = self.flight.get(at).unwrap_or(Unsettled {
                bytes: fair_share,
                lane,
                handed: 0,
                state: State::Delivered,
            });
            let known = Unsettled { lane: known.lane.or(lane), ..known };
            let state = match known.state {
                _ if handed_out(at) => State::HandedOut(now + rules.ack_timeout),
                State::HandedOut(deadline) => State::HandedOut(deadline),
                _ => State::Delivered,
            };
            self.flight.put(at, Unsettled { state, ..known });
        }
        out.push(Action::Opened { stream, opened: RightOpened { open, end } });
        out.push(Action::Look(self.id));
        Ok(())
    }

    /// Whether [`Right::open`] would open it.
    ///
    /// # Errors
    /// [`Code::Fenced`] for an older epoch or another holder, [`Code::NotYet`] for a newer epoch,
    /// [`Code::Protocol`] for an open that is not newer or lists too much.
    pub fn may_open(&self, request: &OpenRight, rules: &Rules) -> Result<(), Refusal> {
        if request.epoch < self.epoch {
            return Err(
                self.fenced(&format!("the right was asked for under epoch {}", request.epoch))
            );
        }
        if request.epoch > self.epoch {
            return Err(Refusal::new(
                Code::NotYet,
                format!("epoch {} of the right is not known here yet", request.epoch),
            ));
        }
        if self.holder.as_ref() != Some(&request.holder) {
            let who = &request.holder;
            return Err(self.fenced(&format!(
                "member {} in incarnation {} does not hold the right",
                who.member, who.incarnation
            )));
        }
        let (asked, has) = (request.right.lanes, self.id.lanes);
        if asked.start != has.start || asked.end <= asked.start || !has.covers(asked) {
            return Err(Refusal::new(
                Code::NotYet,
                format!(
                    "lanes {}-{} were asked for, and the right has lanes {}-{} now",
                    asked.start,
                    asked.end.saturating_sub(1),
                    has.start,
                    has.end - 1
                ),
            ));
        }
        if request.open <= self.last_open {
            return Err(Refusal::new(
                Code::Protocol,
                format!("open {} of a right whose open {} was seen", request.open, self.last_open),
            ));
        }
        for ranges in [&request.held, &request.handed_out, &request.acks] {
            check_ranges(ranges)?;
            let listed: u64 = ranges.iter().fold(0, |n, r| n.saturating_add(r.end.0 - r.first.0));
            if listed > rules.max_unsettled as u64 {
                return Err(Refusal::new(
                    Code::Protocol,
                    format!(
                        "an open lists {listed} messages; at most {} can be",
                        rules.max_unsettled
                    ),
                ));
            }
        }
        Ok(())
    }

    /// What the holder said under `epoch` on `stream`.
    pub fn frame(
        &mut self,
        now: Time,
        stream: StreamId,
        epoch: Epoch,
        frame: &Frame,
        rules: &Rules,
        out: &mut Vec<Action>,
    ) -> Tally {
        if epoch != self.epoch {
            let refusal = self.fenced(&format!("a stream of epoch {epoch}"));
            out.push(Action::Close { stream, refusal: Some(refusal) });
            return Tally { fenced: true, ..Tally::default() };
        }
        if let Frame::Ack(acks) = frame {
            return self.ack(stream, acks, out);
        }
        // The rest is about deliveries of one open, so an older open has no say in it.
        let Some(current) = self.stream.filter(|s| s.id == stream) else {
            return Tally::default();
        };
        match frame {
            Frame::Window(window) => self.set_window(*window, rules, out),
            Frame::Narrow(lanes) if self.flight.sendable().covers(*lanes) => {
                self.set_sendable(*lanes);
            }
            Frame::HandedOut(r) if r.open == current.open => self.handed_out(now, r, rules),
            Frame::Return(r) if r.open == current.open => self.give_back(r),
            Frame::Nack(r) if r.open == current.open => self.nack(now, r, rules),
            _ => return Tally::default(),
        }
        out.push(Action::Look(self.id));
        Tally::default()
    }

    /// What the holder may not ack is no reason to take the rest from it: the stream ends, and it
    /// opens another one as soon as it knows which lanes it has.
    fn refuse_foreign(
        &self,
        stream: StreamId,
        acks: &Ranges,
        out: &mut Vec<Action>,
    ) -> Option<Tally> {
        let named = |r: &OffsetRange| self.foreign.range(r.first..r.end).next();
        let at = acks.ranges.iter().find_map(named)?;
        let text = format!(
            "offset {at} is in a lane that went to someone else: the right has lanes {}-{} now",
            self.id.lanes.start,
            self.id.lanes.end.saturating_sub(1)
        );
        out.push(Action::Close { stream, refusal: Some(Refusal::new(Code::NotYet, text)) });
        Some(Tally { fenced: true, ..Tally::default() })
    }

    fn ack(&mut self, stream: StreamId, acks: &Ranges, out: &mut Vec<Action>) -> Tally {
        if let Some(refused) = self.refuse_foreign(stream, acks, out) {
            self.closed(stream);
            return refused;
        }
        let mut acked = 0;
        for range in &acks.ranges {
            let settled = self.settle(*range);
            acked += settled.len() as u64;
            for range in OffsetRange::collect(settled) {
                self.done(range);
            }
        }
        // Nobody hears a confirmation on an older stream, and it must not displace the one that
        // the current stream waits for.
        if self.stream.is_some_and(|s| s.id == stream) {
            self.confirm = Some((stream, AckConfirmed { open: acks.open, number: acks.number }));
        }
        out.push(Action::Look(self.id));
        Tally { acked, fenced: false }
    }

    /// Keeps acks while the queue is sealed. They are neither applied nor confirmed, for the
    /// snapshot may be at the next primary already; the member repeats them there. What they name
    /// is not sent again meanwhile.
    pub fn hold_ack(
        &mut self,
        stream: StreamId,
        epoch: Epoch,
        acks: &Ranges,
        out: &mut Vec<Action>,
    ) -> Tally {
        if epoch != self.epoch {
            let refusal = self.fenced(&format!("a stream of epoch {epoch}"));
            out.push(Action::Close { stream, refusal: Some(refusal) });
            return Tally { fenced: true, ..Tally::default() };
        }
        if let Some(refused) = self.refuse_foreign(stream, acks, out) {
            self.closed(stream);
            return refused;
        }
        let named = self.flight.named(&acks.ranges);
        for (at, known) in &named {
            self.flight.put(*at, Unsettled { state: State::Delivered, ..*known });
        }
        for range in OffsetRange::collect(named.into_iter().map(|(at, _)| at)) {
            self.held.acks.insert(range);
        }
        // As for acks that are applied at once: an older stream displaces nothing.
        if self.held.confirm.is_none() || self.stream.is_some_and(|s| s.id == stream) {
            let confirmed = AckConfirmed { open: acks.open, number: acks.number };
            self.held.confirm = Some((stream, confirmed));
        }
        Tally::default()
    }

    /// The seal is lifted: applies the acks that waited.
    pub fn release_acks(&mut self, out: &mut Vec<Action>) {
        let Held { acks, confirm } = std::mem::take(&mut self.held);
        if let Some((stream, AckConfirmed { open, number })) = confirm {
            self.ack(stream, &Ranges { open, number, ranges: acks.done() }, out);
        }
    }

    fn set_window(&mut self, window: Window, rules: &Rules, out: &mut Vec<Action>) {
        let Some(stream) = &mut self.stream else { return };
        if window.number > stream.window.number {
            stream.window = bounded(window, rules);
            out.push(Action::WindowSeen { stream: stream.id, window });
        }
    }

    fn handed_out(&mut self, now: Time, ranges: &Ranges, rules: &Rules) {
        for (at, known) in self.flight.named(&ranges.ranges) {
            let state = State::HandedOut(now + rules.ack_timeout);
            self.flight.put(at, Unsettled { state, ..known });
        }
    }

    fn give_back(&mut self, ranges: &Ranges) {
        for (at, known) in self.sent(ranges) {
            self.flight.put(at, Unsettled { state: State::Ready, ..known });
        }
    }

    fn nack(&mut self, now: Time, ranges: &Ranges, rules: &Rules) {
        for (at, known) in self.sent(ranges) {
            let handed = known.handed.saturating_add(1);
            let state = match back_off(handed, rules) {
                Duration::ZERO => State::Ready,
                wait => State::Waiting(now + wait),
            };
            self.flight.put(at, Unsettled { handed, state, ..known });
        }
    }

    fn sent(&self, ranges: &Ranges) -> impl Iterator<Item = (Offset, Unsettled)> + use<> {
        self.flight.named(&ranges.ranges).into_iter().filter(|(_, known)| known.is_sent())
    }

    /// Removes what is unsettled in `range` and says what it was.
    fn settle(&mut self, range: OffsetRange) -> Vec<Offset> {
        let settled: Vec<Offset> =
            self.flight.named(&[range]).into_iter().map(|(at, _)| at).collect();
        for at in &settled {
            self.flight.remove(*at);
        }
        settled
    }

    fn done(&mut self, range: OffsetRange) {
        self.cursor.insert(range);
        self.unwritten.insert(range);
    }

    /// Whether the floor is ahead of what a restart finds by at least `offsets`.
    #[must_use]
    pub fn floor_is_ahead_by(&self, offsets: u64) -> bool {
        self.cursor.floor().0.saturating_sub(self.written_floor.0) >= offsets
    }

    /// The record of the acks and the floor that no record holds yet, and what to confirm when it
    /// is durable.
    pub fn take_unwritten(&mut self) -> (Option<ControlRecord>, Option<(StreamId, AckConfirmed)>) {
        let unwritten = std::mem::take(&mut self.unwritten);
        let ranges = unwritten.done();
        let is_news = !ranges.is_empty() || self.floor_is_ahead_by(1);
        self.written_floor = self.cursor.floor();
        let floor = self.written_floor;
        let record = is_news.then_some(ControlRecord::Acked { right: self.id, floor, ranges });
        (record, self.confirm.take())
    }

    /// Takes acks from the journal at a start.
    pub fn replay_acked(&mut self, floor: Offset, ranges: &[OffsetRange]) {
        self.cursor.insert(OffsetRange { first: Offset(0), end: floor });
        for range in ranges.iter().filter(|r| r.first < r.end) {
            self.cursor.insert(*range);
        }
        self.read = self.cursor.floor();
        self.written_floor = self.read;
    }

    /// The offset of the next message that may be sent or has to be looked at, `end` being the
    /// end of the durable messages. The driver answers with [`Right::select`] on its batch.
    #[must_use]
    pub fn wants(&self, end: Offset, rules: &Rules) -> Option<Offset> {
        let stream = self.stream.filter(|_| !self.revoked)?;
        let again = self.flight.next_ready(Offset(0));
        let read = self.cursor.next_open(self.read);
        let unread = (read < end && self.has_room(read, rules)).then_some(read);
        let next = match (again, unread) {
            (Some(a), Some(b)) => a.min(b),
            (a, b) => a.or(b)?,
        };
        self.flight.admits(next, stream.window).then_some(next)
    }

    /// Picks what may be sent of `batch`, whose first message has the offset `base`; `matching`
    /// says for each class of the batch whether the subscription wants it, and `gate` which
    /// messages have to wait for others elsewhere.
    pub fn select(
        &mut self,
        base: Offset,
        batch: &Batch,
        matching: &[bool],
        gate: Option<Gate<'_>>,
        end: Offset,
        rules: &Rules,
    ) -> Option<Selection> {
        let first = self.wants(end, rules)?;
        let stream = self.stream?;
        let mut picked = Picked::default();
        let mut at = first.max(base);
        let batch_end = Offset(base.0 + batch.len() as u64);
        while at < batch_end
            && self.flight.admits(at, stream.window)
            && picked.bytes < rules.delivery_bytes
        {
            let index = (at.0 - base.0) as usize;
            let known = self.flight.get(at);
            let wanted = matching.get(batch.class_of(index)).copied().unwrap_or(false);
            let handed = match known.map(|u| (u.state, u.handed)) {
                Some((State::Ready, handed)) => Some(handed),
                Some(_) => None,
                None if at < self.read || self.cursor.contains(at) => None,
                None if wanted => Some(0),
                None => {
                    self.cursor.insert(OffsetRange::one(at));
                    None
                }
            };
            let sendable = handed.map(|handed| (handed, lane_of_message(batch.key(index), at)));
            if let Some((handed, lane)) = sendable.filter(|(_, lane)| self.may_send(at, *lane)) {
                // Before the fences are asked: what cannot be kept has not been seen waiting.
                if known.is_none() && !self.has_room(at, rules) {
                    break;
                }
                if known.is_none() && self.is_fenced(gate, at, batch, index) {
                    self.fenced.insert(at);
                } else {
                    let bytes = batch.record_len(index) as u64;
                    if !self.flight.fits(at, bytes, stream.window) {
                        break;
                    }
                    let lane = Some(lane);
                    self.flight.put(at, Unsettled { bytes, lane, handed, state: State::Delivered });
                    picked.push(index, handed.saturating_add(1), bytes);
                }
            }
            self.read = self.read.max(at.next());
            at = self.next_of_interest(at.next());
        }
        self.layers.trim(self.cursor.floor());
        (!picked.entries.is_empty()).then_some(Selection {
            stream: stream.id,
            open: stream.open,
            entries: picked.entries,
            runs: picked.runs,
        })
    }

    /// Whether the message is this right's to send. One of a lane that is someone else's is passed
    /// over; one that is done in its lane too; one of a lane that is being given up stays.
    fn may_send(&mut self, at: Offset, lane: u16) -> bool {
        if !self.id.lanes.contains(lane) || self.layers.has(lane, at) {
            self.flight.remove(at);
            self.cursor.insert(OffsetRange::one(at));
            return false;
        }
        if self.flight.sendable().contains(lane) {
            return true;
        }
        if let Some(known) = self.flight.get(at) {
            self.flight.put(at, Unsettled { lane: Some(lane), ..known });
        }
        false
    }

    /// Whether the message, which is this right's to send, has to wait for a fence.
    fn is_fenced(
        &mut self,
        gate: Option<Gate<'_>>,
        at: Offset,
        batch: &Batch,
        index: usize,
    ) -> bool {
        let Some(gate) = gate else { return false };
        if let Some(slot) = gate.closed_for(at, batch, index) {
            self.fenced_slots.insert(slot);
            return true;
        }
        !self.fenced_slots.is_empty()
            && batch.slot(index).is_some_and(|slot| self.fenced_slots.contains(&slot))
    }

    /// From `at` on, the first offset that may have to be sent or passed over.
    fn next_of_interest(&self, at: Offset) -> Offset {
        let unread = self.cursor.next_open(at.max(self.read));
        self.flight.next_ready(at).map_or(unread, |ready| unread.min(ready))
    }

    /// Messages below `end` that are not done, where this is the only right to the queue.
    #[cfg(test)]
    pub fn lag(&self, end: Offset) -> u64 {
        self.unsettled() + self.unread(end)
    }

    /// What a restart must find again. Messages that were passed over may be looked at anew.
    #[cfg(test)]
    pub fn durable_view(&self) -> (Epoch, Option<Holder>, Cursor) {
        (self.epoch, self.holder.clone(), self.cursor.clone())
    }
}

/// The lanes of what an open lists, if it says them. One that is not of the right is not believed:
/// nobody could be sent what is of it.
fn listed_lanes(request: &OpenRight) -> BTreeMap<Offset, u16> {
    let held = request.held.iter().map(|r| r.end.0 - r.first.0).sum::<u64>();
    if held != request.held_lanes.len() as u64 {
        return BTreeMap::new();
    }
    let offsets = request.held.iter().copied().flat_map(OffsetRange::offsets);
    let listed = offsets.zip(request.held_lanes.iter().copied());
    listed.filter(|(_, lane)| request.right.lanes.contains(*lane)).collect()
}

/// What a member asks for, as far as one member may have it.
fn bounded(window: Window, rules: &Rules) -> Window {
    Window { bytes: window.bytes.min(rules.max_window_bytes), ..window }
}

/// How long a message waits that was handed out this often: not at all after the first time, then
/// twice as long each time.
fn back_off(handed: u16, rules: &Rules) -> Duration {
    match handed {
        0 | 1 => Duration::ZERO,
        n => {
            let factor = 1u32.checked_shl(u32::from(n) - 2).unwrap_or(u32::MAX);
            rules.nack_backoff.saturating_mul(factor).min(rules.nack_backoff_max)
        }
    }
}

#[derive(Default)]
struct Picked {
    entries: Vec<DeliverEntry>,
    runs: Vec<(usize, usize)>,
    bytes: u64,
}

impl Picked {
    fn push(&mut self, index: usize, delivery: u16, bytes: u64) {
        self.entries.push(DeliverEntry { index: index as u32, delivery });
        self.bytes += bytes;
        match self.runs.last_mut() {
            Some((_, to)) if *to == index => *to = index + 1,
            _ => self.runs.push((index, index + 1)),
        }
    }
}

#[cfg(test)]
#[path = "delivery_tests.rs"]
mod tests;
