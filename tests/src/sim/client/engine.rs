//! What a simulated client does between its streams and its logic: an imitation of the SDK's engine
//! and of the tasks of its streams.

use std::sync::Arc;

use bytes::Bytes;
use ringway_client::logic::lane::{Action, Outcome};
use ringway_client::logic::publisher::Publisher;
use ringway_client::logic::report::{AckOutcome, Action as SeatAction};
use ringway_client::logic::right::Hold;
use ringway_proto::control::{FromClient, OpenRight, Order, RightOpened, ToClient};
use ringway_proto::data::{AckConfirmed, Deliver, Window};
use ringway_proto::frame::Kind;
use ringway_proto::hash::lane_of_message;
use ringway_proto::routing::Routing;
use ringway_proto::{
    Code, Epoch, Holder, OpenNumber, Refusal, RightId, RoutingVersion, Time, Uuid, WorkerId, codec,
};

use super::super::bugs::Bug;
use super::super::ctx::{Ctx, Pid};
use super::super::history::{Told, Value, What};
use super::super::net::{ConnId, End, joined};
use super::{Delivery, Live, WorkerLink};

impl Live {
    pub(super) fn tell(&self, ctx: &mut Ctx, message: &FromClient) {
        if let Some((conn, stream)) = self.session {
            let bytes = codec::encode(message).unwrap_or_else(|e| panic!("{message:?}: {e}"));
            let twice = !matches!(message, FromClient::Join(_));
            ctx.say(conn, End::Dialler, stream, bytes, twice);
        }
    }

    pub(in super::super) fn holder(&self) -> Option<Holder> {
        let join = self.seat.as_ref()?.join();
        Some(Holder { member: join.member.clone(), incarnation: join.incarnation })
    }

    /// The link to a worker, made when it is needed first.
    fn want(&mut self, ctx: &mut Ctx, pid: Pid, worker: &WorkerId) {
        if !self.workers.contains_key(worker)
            && let Some(to) = ctx.pid_of(worker)
        {
            self.workers.insert(worker.clone(), WorkerLink::default());
            ctx.dial(pid, to);
        }
    }

    /// A worker is connected: the publish stream, and what waited to be opened there.
    pub(super) fn reach(&mut self, ctx: &mut Ctx, conn: ConnId, id: WorkerId) {
        let link = self.workers.entry(id.clone()).or_default();
        link.conn = Some(conn);
        if let Some(publisher) = &mut self.publisher {
            link.publish = Some(ctx.net.open_stream(conn));
            publisher.connected(id.clone());
        }
        for (right, delivery) in &mut self.deliveries {
            if delivery.worker == id && delivery.at.is_none() {
                let stream = ctx.net.open_stream(conn);
                delivery.at = Some((conn, stream));
                self.streams.insert((conn, stream), (*right, delivery.open));
                self.every_stream.insert((conn, stream), *right);
                for (kind, payload) in std::mem::take(&mut delivery.waiting) {
                    ctx.send(conn, End::Dialler, stream, kind, payload);
                }
            }
        }
    }

    pub(super) fn stream_ended(
        &mut self,
        time: Time,
        right: RightId,
        open: OpenNumber,
        code: Option<Code>,
    ) {
        let Some(delivery) = self.deliveries.get(&right).filter(|d| d.open == open) else { return };
        let epoch = delivery.epoch;
        self.deliveries.remove(&right);
        if let Some(seat) = &mut self.seat {
            seat.closed(time, &right, open, epoch, code);
        }
    }

    pub(super) fn read(
        &mut self,
        right: RightId,
        open: OpenNumber,
        kind: Kind,
        payload: Bytes,
    ) -> Result<(), Refusal> {
        let Some(seat) = &mut self.seat else { return Ok(()) };
        match kind {
            Kind::RightOpened => {
                let _: RightOpened = codec::decode(&payload)?;
                seat.opened(&right, open);
            }
            Kind::Deliver => seat.delivered(&right, &Deliver::decode(payload)?)?,
            Kind::AckConfirmed => seat.confirmed(&right, AckConfirmed::decode(payload)?),
            Kind::WindowSeen => seat.window_seen(&right, open, Window::decode(payload)?.number),
            other => {
                return Err(Refusal::new(Code::Protocol, format!("a frame of kind {other:?}")));
            }
        }
        Ok(())
    }

    /// For the bug that ignores open numbers: a delivery counts for the newest open of its right.
    pub(super) fn read_late(&mut self, right: RightId, payload: Bytes) -> Result<(), Refusal> {
        let Some(delivery) = self.deliveries.get(&right) else { return Ok(()) };
        let Some(seat) = &mut self.seat else { return Ok(()) };
        let deliver = Deliver { open: delivery.open, ..Deliver::decode(payload)? };
        seat.delivered(&right, &deliver)
    }

    /// The coordinator says something.
    pub(super) fn told(&mut self, ctx: &mut Ctx, time: Time, message: ToClient) {
        if let ToClient::Routing(routing) = message {
            self.routed(ctx, time, routing);
            return;
        }
        let holder = self.holder();
        let (Some(seat), Some(holder)) = (&mut self.seat, holder) else { return };
        let Some(router) = self.router.clone() else { return };
        match message {
            ToClient::Routing(_) => {}
            ToClient::Joined(mut joined) => {
                if joined.incarnation != holder.incarnation {
                    return;
                }
                if ctx.bug == Some(Bug::OrderLost) {
                    joined.order = Order::None;
                }
                for granted in &joined.rights {
                    let (right, epoch) = (granted.right, granted.epoch);
                    ctx.note(What::Granted { right, epoch, holder: holder.clone() });
                }
                let join = seat.join();
                let (filter, start) = (join.filter.clone(), join.start);
                let subscription = joined.subscription;
                ctx.note(What::Joined { subscription, filter, start, holder });
                seat.joined(time, &joined, &router);
            }
            ToClient::JoinRefused { refusal, .. } => seat.join_refused(time, refusal),
            ToClient::Granted { granted, .. } => {
                if seat.subscription() != Some(granted.right.subscription) {
                    return;
                }
                let (right, epoch) = (granted.right, granted.epoch);
                ctx.note(What::Granted { right, epoch, holder });
                seat.granted(time, granted, &router);
            }
            ToClient::Revoke { right, epoch, member, .. } => {
                seat.revoke(time, right, epoch);
                if ctx.bug == Some(Bug::DrainedBeforeAcks) {
                    ctx.note(What::Drained { right, epoch, holder });
                    self.tell(ctx, &FromClient::Drained { member, right, epoch });
                }
            }
            ToClient::Narrow { right, epoch, mut to, .. } => {
                ctx.note(What::Narrowing { right, epoch, to });
                if ctx.bug == Some(Bug::SplitOverlaps) {
                    self.to_keep.insert((right, epoch), to);
                    to.end = (to.end + to.count()).min(right.lanes.end - 1);
                }
                seat.narrow(time, right, epoch, to);
            }
            // Such a word comes late now and then, and that is what this bug is about.
            ToClient::Narrowed { .. } if ctx.bug == Some(Bug::ForeignAckTaken) => {}
            ToClient::Narrowed { right, epoch, .. } => seat.narrowed(right, epoch),
            ToClient::Lost { right, epoch, .. } => seat.lost(right, epoch),
            ToClient::Superseded { incarnation, .. } => {
                if incarnation == holder.incarnation {
                    seat.superseded();
                }
            }
            ToClient::Left { incarnation, .. } => {
                if incarnation == holder.incarnation {
                    seat.left();
                }
            }
        }
    }

    fn routed(&mut self, ctx: &mut Ctx, time: Time, routing: Routing) {
        if self.router.as_ref().is_some_and(|known| known.version() >= routing.version) {
            return;
        }
        let router = match ctx.router(routing) {
            Ok(router) => router,
            Err(refusal) => return ctx.left("the router", &refusal),
        };
        let is_first = self.router.replace(Arc::clone(&router)).is_none();
        if let Some(seat) = self.seat.as_mut().filter(|_| is_first) {
            seat.coordinator_up();
        }
        if let Some(publisher) = &mut self.publisher {
            publisher.routing(Arc::clone(&router), &mut self.actions);
            if ctx.bug == Some(Bug::SentElsewhere) {
                publisher.forget_places(&mut self.actions);
            }
        } else if self.seat.is_none() {
            let producer = Uuid(u128::from(ctx.dice.roll()) << 64 | u128::from(ctx.dice.roll()));
            self.publisher = Some(Publisher::new(Arc::clone(&router), producer, ctx.dice.roll()));
        }
        let moved: Vec<(RightId, OpenNumber)> = self
            .deliveries
            .iter()
            .filter(|(right, d)| {
                router.queue(right.queue).and_then(|q| q.primary.as_ref()) != Some(&d.worker)
            })
            .map(|(right, d)| (*right, d.open))
            .collect();
        for (right, open) in moved {
            self.drop_stream(ctx, &right);
            if let Some(seat) = &mut self.seat {
                seat.closed(time, &right, open, Epoch(0), None);
            }
        }
    }

    fn drop_stream(&mut self, ctx: &mut Ctx, right: &RightId) {
        if let Some(delivery) = self.deliveries.remove(right)
            && let Some((conn, stream)) = delivery.at
        {
            self.streams.remove(&(conn, stream));
            ctx.finish(conn, End::Dialler, stream);
        }
    }

    pub(super) fn act(&mut self, ctx: &mut Ctx, pid: Pid, action: Action) {
        match action {
            Action::Send { worker, append } => {
                let link = self.workers.get(&worker);
                if let Some((conn, stream)) = link.and_then(|l| l.conn.zip(l.publish)) {
                    let payload = joined(&[append.header(), append.batch]);
                    ctx.send(conn, End::Dialler, stream, Kind::Append, payload);
                }
            }
            Action::Done { ticket, outcome } => {
                let Some(value) = self.tickets.remove(&ticket) else { return };
                let told = match outcome {
                    Outcome::Stored { queue, offset } => Told::Stored(queue, offset),
                    Outcome::Refused(refusal) => Told::Failed(refusal.text),
                    Outcome::NotSent(cause) => Told::Failed(cause),
                    Outcome::Unknown(_) => Told::Unknown,
                };
                ctx.note(What::Published { value, told });
            }
            Action::Room(_) => {}
            Action::Refresh => {
                let have = self.router.as_ref().map_or(RoutingVersion(0), |r| r.version());
                self.tell(ctx, &FromClient::Refresh { have });
            }
            Action::Want(worker) => self.want(ctx, pid, &worker),
        }
    }

    pub(super) fn seat_act(&mut self, ctx: &mut Ctx, pid: Pid, time: Time, action: SeatAction) {
        match action {
            SeatAction::Tell(mut message) => {
                if let FromClient::Narrowed { right, epoch, to, .. } = &mut message
                    && let Some(told) = self.to_keep.get(&(*right, *epoch))
                {
                    *to = *told;
                }
                self.note_given_up(ctx, &message);
                self.tell(ctx, &message);
            }
            SeatAction::Open(right, open) => self.open(ctx, pid, time, right, open),
            SeatAction::Send(right, frames) => {
                if let Some(delivery) = self.deliveries.get_mut(&right) {
                    match delivery.at {
                        None => delivery.waiting.extend(frames),
                        Some((conn, stream)) => {
                            for (kind, payload) in frames {
                                ctx.send(conn, End::Dialler, stream, kind, payload);
                            }
                        }
                    }
                }
            }
            SeatAction::Close(right) => self.drop_stream(ctx, &right),
            SeatAction::Acked(outcome, tokens) => {
                for token in tokens {
                    if let Some((right, epoch, offset)) = self.serving.tokens.remove(&token)
                        && outcome == AckOutcome::Durable
                    {
                        ctx.note(What::Confirmed { right, epoch, offset });
                    }
                }
            }
        }
    }

    fn note_given_up(&self, ctx: &mut Ctx, message: &FromClient) {
        let Some(holder) = self.holder() else { return };
        match message {
            FromClient::Drained { right, epoch, .. } => {
                ctx.note(What::Drained { right: *right, epoch: *epoch, holder });
            }
            FromClient::Narrowed { right, epoch, to, .. } => {
                let (right, epoch, to) = (*right, *epoch, *to);
                ctx.note(What::Narrowed { right, epoch, to, holder });
            }
            _ => {}
        }
    }

    fn open(
        &mut self,
        ctx: &mut Ctx,
        pid: Pid,
        time: Time,
        right: RightId,
        mut request: OpenRight,
    ) {
        let (open, epoch) = (request.open, request.epoch);
        self.drop_stream(ctx, &right);
        let route = self.router.as_ref().and_then(|router| router.queue(right.queue));
        let Some(worker) = route.and_then(|queue| queue.primary.clone()) else {
            if let Some(seat) = &mut self.seat {
                seat.closed(time, &right, open, epoch, None);
            }
            return;
        };
        if ctx.bug == Some(Bug::HeldNotListed) {
            request.held.clear();
            request.handed_out.clear();
        }
        if ctx.bug == Some(Bug::AcksNotRepeated) {
            request.acks.clear();
            request.ack_number = 0;
        }
        self.want(ctx, pid, &worker);
        let bytes = codec::encode(&request).unwrap_or_else(|e| panic!("{request:?}: {e}"));
        let conn = self.workers.get(&worker).and_then(|link| link.conn);
        let mut delivery = Delivery { open, epoch, worker, at: None, waiting: Vec::new() };
        match conn {
            Some(conn) => {
                let stream = ctx.net.open_stream(conn);
                delivery.at = Some((conn, stream));
                self.streams.insert((conn, stream), (right, open));
                self.every_stream.insert((conn, stream), right);
                ctx.send(conn, End::Dialler, stream, Kind::OpenRight, bytes);
            }
            None => delivery.waiting.push((Kind::OpenRight, bytes)),
        }
        self.deliveries.insert(right, delivery);
    }

    /// Hands messages to the application, as long as it takes some.
    pub(super) fn take(&mut self, ctx: &mut Ctx, pid: Pid, time: Time) {
        let Some(holder) = self.holder() else { return };
        let Some(seat) = &mut self.seat else { return };
        while self.serving.takes_more()
            && let Some((hold, message)) = seat.take(time)
        {
            let Hold { right, epoch, offset, .. } = hold;
            let value = Value::of(&message.body);
            let holder = holder.clone();
            let lane = lane_of_message(message.key.as_deref(), offset);
            ctx.note(What::HandedOut { right, epoch, holder, offset, lane, value });
            self.serving.begin(ctx, pid, hold);
        }
    }
}
