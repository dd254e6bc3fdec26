//! The members of a cluster that is played by hand: the shipped seat, what carries out its
//! decisions, and an application that handles messages when the schedule says so.

use std::collections::BTreeMap;

use ringway_client::logic::credit::Credit;
use ringway_client::logic::report::{AckOutcome, Action, Settled};
use ringway_client::logic::right::{Hold, How, name_of};
use ringway_client::logic::seat::Seat;
use ringway_proto::batch::{parse_classes, parse_record};
use ringway_proto::control::{FromClient, Join, Joined, OpenRight, Order, Start, ToClient};
use ringway_proto::data::{AckConfirmed, Deliver, OffsetRange, Ranges, Window, decode_lanes};
use ringway_proto::frame::Kind;
use ringway_proto::hash::lane_of_message;
use ringway_proto::routing::Router;
use ringway_proto::{
    Epoch, Filter, Holder, Incarnation, Lanes, MemberId, Offset, OpenNumber, RightId,
    RoutingVersion, SubscriptionName, Time,
};
use ringway_tests::sim::history::{Value, What};
use ringway_worker::logic::StreamId;
use ringway_worker::logic::delivery::Frame;

use super::Repair;
use super::cluster::{C, Cluster, Letter, Mail, Name};

/// A delivery stream as its member knows it.
#[derive(Clone, Copy, Debug)]
struct Stream {
    right: RightId,
    worker: Name,
    open: OpenNumber,
    epoch: Epoch,
}

pub struct Member {
    seat: Seat,
    router: Option<Router>,
    /// Every stream that was ever opened.
    streams: BTreeMap<StreamId, Stream>,
    newest: BTreeMap<RightId, StreamId>,
    /// What it was told to give up, by the names of the rights: the right with all its lanes, and
    /// the lanes of it that stay.
    given_up: BTreeMap<(RightId, Epoch), (RightId, Option<Lanes>)>,
    tokens: BTreeMap<u64, Hold>,
    /// What the application has, and in which lanes.
    in_hand: Vec<(Hold, u16)>,
    serial: u64,
    /// The rights that it was granted, in order.
    pub granted: Vec<RightId>,
}

impl Member {
    pub fn holder(&self) -> Holder {
        let Join { member, incarnation, .. } = self.seat.join();
        Holder { member: member.clone(), incarnation: *incarnation }
    }

    /// Whether it was told to give this lane of a right up.
    fn gave_up(&self, name: RightId, epoch: Epoch, lane: u16) -> bool {
        let given_up = self.given_up.get(&(name, epoch));
        given_up.is_some_and(|(_, stays)| stays.is_none_or(|to| !to.contains(lane)))
    }

    /// Without its repair: what comes on an older stream of a right counts for the newest.
    fn take_for_newest(&self, mail: &mut Mail) {
        let (stream, open) = match mail {
            Mail::Opened(stream, opened) => (stream, &mut opened.open),
            Mail::Confirmed(stream, confirmed) => (stream, &mut confirmed.open),
            Mail::Deliver(stream, deliver) => (stream, &mut deliver.open),
            _ => return,
        };
        let right = self.streams[stream].right;
        let newest = self.streams.values().rev().find(|stream| stream.right == right);
        *open = newest.map_or(*open, |newest| newest.open);
    }
}

impl Cluster {
    /// A process of a member joins.
    pub fn join(&mut self, name: Name, member: &str, incarnation: u64) {
        self.join_as(name, "s", member, incarnation);
    }

    /// A process of a member joins this subscription.
    pub fn join_as(&mut self, name: Name, subscription: &str, member: &str, incarnation: u64) {
        self.sit(name, seat(subscription, ">", member, incarnation));
    }

    /// The only process of a member joins a subscription to what this filter matches.
    pub fn join_to(&mut self, name: Name, filter: &str) {
        self.sit(name, seat("s", filter, name, 1));
    }

    /// A member gives up what it has and leaves.
    pub fn leave(&mut self, name: Name) {
        let now = self.now;
        self.member(name).seat.leave(now);
        self.turn(name);
        self.run();
    }

    fn sit(&mut self, name: Name, join: Join) {
        let seat = Seat::new(join, Credit { messages: 1000, bytes: 1 << 20 });
        let member = Member {
            seat,
            router: None,
            streams: BTreeMap::new(),
            newest: BTreeMap::new(),
            given_up: BTreeMap::new(),
            tokens: BTreeMap::new(),
            in_hand: Vec::new(),
            serial: 0,
            granted: Vec::new(),
        };
        self.members.insert(name, member);
        self.connect(name);
        let watch = FromClient::Watch { have: RoutingVersion(0) };
        self.send(name, C, Mail::FromClient(watch));
        self.run();
    }

    fn member(&mut self, name: Name) -> &mut Member {
        self.members.get_mut(name).unwrap()
    }

    /// The coordinator says something to a member.
    pub fn told(&mut self, name: Name, message: ToClient) {
        let (now, holder) = (self.now, self.member(name).holder());
        if let ToClient::Routing(routing) = message {
            let router = Router::new(routing).unwrap();
            let is_first = self.member(name).router.replace(router).is_none();
            if is_first {
                self.member(name).seat.coordinator_up();
            }
            self.leave_old_primaries(name);
            return self.turn(name);
        }
        let blind = self.is_out(Repair::NewProcessIsNewHolder);
        let member = self.members.get_mut(name).unwrap();
        let mut granted = Vec::new();
        match message {
            ToClient::Routing(_) => {}
            ToClient::Joined(mut joined) => {
                if blind {
                    joined.incarnation = holder.incarnation;
                }
                granted.extend(joined.rights.iter().copied());
                self.joined(name, &joined);
            }
            ToClient::JoinRefused { refusal, .. } => member.seat.join_refused(now, refusal),
            ToClient::Granted { granted: right, .. } => {
                granted.push(right);
                member.seat.granted(now, right, member.router.as_ref().unwrap());
            }
            ToClient::Revoke { right, epoch, .. } => {
                member.given_up.insert((name_of(right), epoch), (right, None));
                member.seat.revoke(now, right, epoch);
            }
            ToClient::Narrow { right, epoch, to, .. } => {
                member.given_up.insert((name_of(right), epoch), (right, Some(to)));
                member.seat.narrow(now, right, epoch, to);
                self.note(What::Narrowing { right, epoch, to });
            }
            ToClient::Narrowed { right, epoch, .. } => member.seat.narrowed(right, epoch),
            ToClient::Lost { right, epoch, .. } => member.seat.lost(right, epoch),
            ToClient::Superseded { .. } => member.seat.superseded(),
            ToClient::Left { .. } => member.seat.left(),
        }
        for right in granted {
            self.member(name).granted.push(right.right);
            let (right, epoch, holder) = (right.right, right.epoch, holder.clone());
            self.note(What::Granted { right, epoch, holder });
        }
        self.turn(name);
    }

    fn joined(&mut self, name: Name, joined: &Joined) {
        let now = self.now;
        let member = self.member(name);
        member.seat.joined(now, joined, member.router.as_ref().unwrap());
        let join = member.seat.join();
        let what = What::Joined {
            subscription: joined.subscription,
            filter: join.filter.clone(),
            start: join.start,
            holder: member.holder(),
        };
        self.note(what);
    }

    /// Streams to workers that do not lead their queue any more end.
    fn leave_old_primaries(&mut self, name: Name) {
        let now = self.now;
        let member = self.member(name);
        for (right, stream) in member.newest.clone() {
            let Stream { worker, open, .. } = member.streams[&stream];
            let route = member.router.as_ref().and_then(|router| router.queue(right.queue));
            if route.and_then(|r| r.primary.as_ref()).is_some_and(|p| p.as_str() != worker) {
                member.newest.remove(&right);
                member.seat.closed(now, &right, open, Epoch(0), None);
            }
        }
    }

    /// Lets the seat decide and does what it says.
    pub fn turn(&mut self, name: Name) {
        for _ in 0..3 {
            let mut actions = Vec::new();
            let now = self.now;
            self.member(name).seat.turn(now, &mut actions);
            for action in actions {
                self.act(name, action);
            }
        }
    }

    fn act(&mut self, name: Name, action: Action) {
        match action {
            Action::Tell(message) => self.send(name, C, Mail::FromClient(message)),
            Action::Open(right, request) => self.request(name, right, request),
            Action::Send(right, frames) => {
                let Some(stream) = self.member(name).newest.get(&right).copied() else { return };
                let worker = self.member(name).streams[&stream].worker;
                for (kind, payload) in frames {
                    let frame = match kind {
                        Kind::Ack => Frame::Ack(Ranges::decode(payload).unwrap()),
                        Kind::HandedOut => Frame::HandedOut(Ranges::decode(payload).unwrap()),
                        Kind::Return => Frame::Return(Ranges::decode(payload).unwrap()),
                        Kind::Nack => Frame::Nack(Ranges::decode(payload).unwrap()),
                        Kind::Narrow => Frame::Narrow(decode_lanes(payload).unwrap()),
                        _ => Frame::Window(Window::decode(payload).unwrap()),
                    };
                    self.send(name, worker, Mail::Say(stream, frame));
                }
            }
            Action::Close(right) => drop(self.member(name).newest.remove(&right)),
            Action::Acked(outcome, tokens) => {
                for token in tokens {
                    let hold = self.member(name).tokens.remove(&token);
                    if let Some(Hold { right, epoch, offset, .. }) = hold
                        && outcome == AckOutcome::Durable
                    {
                        self.note(What::Confirmed { right, epoch, offset });
                    }
                }
            }
        }
    }

    fn request(&mut self, name: Name, right: RightId, mut request: OpenRight) {
        let OpenRight { open, epoch, .. } = request;
        if self.is_out(Repair::AcksAreRepeated) {
            request.acks.clear();
            request.ack_number = 0;
        }
        self.streams += 1;
        let (now, stream) = (self.now, self.streams);
        match self.primary(right.queue) {
            Some(worker) => {
                let member = self.member(name);
                member.streams.insert(stream, Stream { right, worker, open, epoch });
                member.newest.insert(right, stream);
                self.send(name, worker, Mail::Open(stream, request));
            }
            None => self.member(name).seat.closed(now, &right, open, epoch, None),
        }
    }

    /// Something arrives on a delivery stream.
    pub fn read(&mut self, name: Name, mut mail: Mail) {
        let (now, unnumbered) = (self.now, self.is_out(Repair::OpensAreNumbered));
        let leaks = self.is_out(Repair::NothingAfterTheRevoke);
        let member = self.members.get_mut(name).unwrap();
        if unnumbered {
            member.take_for_newest(&mut mail);
        }
        match mail {
            Mail::Opened(stream, opened) => {
                member.seat.opened(&member.streams[&stream].right, opened.open);
            }
            Mail::Window(stream, window) => {
                let Stream { right, open, .. } = member.streams[&stream];
                member.seat.window_seen(&right, open, window.number);
            }
            Mail::Confirmed(stream, confirmed) => {
                member.seat.confirmed(&member.streams[&stream].right, confirmed);
            }
            Mail::Closed(stream, code) => {
                let Stream { right, open, epoch, .. } = member.streams[&stream];
                if member.newest.get(&right) == Some(&stream) {
                    member.newest.remove(&right);
                }
                member.seat.closed(now, &right, open, epoch, code);
            }
            Mail::Deliver(stream, deliver) => {
                let Stream { right, .. } = member.streams[&stream];
                if leaks {
                    self.leak(name, stream, &deliver);
                }
                self.member(name).seat.delivered(&right, &deliver).unwrap();
            }
            _ => {}
        }
        self.turn(name);
    }

    /// Without its repair: what arrives of a right that is given up is handed out at once.
    fn leak(&mut self, name: Name, stream: StreamId, deliver: &Deliver) {
        let holder = self.member(name).holder();
        let Stream { right, worker, open, epoch } = self.member(name).streams[&stream];
        let classes = parse_classes(&deliver.class_table, usize::from(deliver.classes)).unwrap();
        for (entry, record) in deliver.entries.iter().zip(&deliver.records) {
            let offset = Offset(deliver.base_offset.0 + u64::from(entry.index));
            let message = parse_record(record, &classes).unwrap().0;
            let value = Value::of(&message.body);
            let lane = lane_of_message(message.key.as_deref(), offset);
            if !self.member(name).gave_up(right, epoch, lane) {
                continue;
            }
            let holder = holder.clone();
            self.note(What::HandedOut { right, epoch, holder, offset, lane, value });
            let ranges = vec![OffsetRange::one(offset)];
            let acks = Ranges { open, number: 1_000_000, ranges };
            self.send(name, worker, Mail::Say(stream, Frame::Ack(acks)));
        }
    }

    /// The application takes the next message, if there is one: its offset.
    pub fn take(&mut self, name: Name) -> Option<u64> {
        let now = self.now;
        let member = self.member(name);
        let (hold, message) = member.seat.take(now)?;
        let Hold { right, epoch, offset, .. } = hold;
        let lane = lane_of_message(message.key.as_deref(), offset);
        member.in_hand.push((hold, lane));
        let (holder, value) = (member.holder(), Value::of(&message.body));
        self.note(What::HandedOut { right, epoch, holder, offset, lane, value });
        self.turn(name);
        self.run();
        Some(offset.0)
    }

    /// The application is done with the message at this offset.
    pub fn settle(&mut self, name: Name, offset: u64, how: How) {
        let drains_early = self.is_out(Repair::DrainedAfterAcks);
        let member = self.member(name);
        let at = member.in_hand.iter().position(|(hold, _)| hold.offset.0 == offset).unwrap();
        let (hold, lane) = member.in_hand.remove(at);
        member.serial += 1;
        let token = (how == How::Ack).then_some(member.serial);
        let taken = member.seat.settle(&hold, how, token) == Settled::Taken;
        let Hold { right, epoch, offset, .. } = hold;
        if let Some(token) = token.filter(|_| taken) {
            member.tokens.insert(token, hold);
        }
        let holder = member.holder();
        let is_given_up = member.gave_up(right, epoch, lane);
        let given_up = member.given_up.get(&(right, epoch)).copied();
        if taken {
            self.note(What::Settled { right, epoch, holder: holder.clone(), offset, how });
        }
        self.turn(name);
        if let Some((right, stays)) = given_up.filter(|_| drains_early && is_given_up) {
            let member = holder.member;
            let message = match stays {
                Some(to) => FromClient::Narrowed { member, right, epoch, to },
                None => FromClient::Drained { member, right, epoch },
            };
            self.send(name, C, Mail::FromClient(message));
        }
        self.run();
    }

    pub fn ack(&mut self, name: Name, offset: u64) {
        self.settle(name, offset, How::Ack);
    }

    /// The application acks all that it has and all that it gets.
    pub fn settle_all(&mut self, name: Name) {
        loop {
            let in_hand = self.member(name).in_hand.first().map(|(hold, _)| hold.offset.0);
            match in_hand {
                Some(offset) => self.ack(name, offset),
                None if self.take(name).is_some() => {}
                None => return,
            }
        }
    }

    /// The connection between a member and a worker breaks. Returns what was on its way.
    pub fn cut(&mut self, name: Name, worker: Name) -> Vec<Letter> {
        let letters = self.intercept(name, worker);
        let (now, forgets) = (self.now, self.is_out(Repair::AcksAreRepeated));
        for (right, stream) in self.member(name).newest.clone() {
            let Stream { worker: at, open, epoch, .. } = self.member(name).streams[&stream];
            if at == worker {
                if let Some(host) = self.workers.get_mut(worker).and_then(|w| w.host.as_mut()) {
                    host.closed(stream, right);
                }
                let member = self.member(name);
                if forgets {
                    member.seat.confirmed(&right, AckConfirmed { open, number: u64::MAX });
                }
                member.newest.remove(&right);
                member.seat.closed(now, &right, open, epoch, None);
            }
        }
        letters
    }

    /// The coordinator, and every primary, answered a question of this process that was asked then.
    pub fn answered(&mut self, name: Name, asked: Time) {
        let at = if self.is_out(Repair::AnswersCountFromTheQuestion) { self.now } else { asked };
        self.coordinator_answered(name, at);
        let Some(member) = self.members.get_mut(name) else { return };
        for (right, stream) in &member.newest {
            let worker = member.streams[stream].worker;
            if self.workers.get(worker).is_some_and(|w| w.is_up()) {
                member.seat.primary_answered(right, at);
            }
        }
    }

    /// The coordinator answered a question of this process that was asked then.
    pub fn coordinator_answered(&mut self, name: Name, asked: Time) {
        if let Some(member) = self.members.get_mut(name) {
            member.seat.coordinator_answered(asked);
        }
    }

    /// The connection of a member to the coordinator breaks and is made again; the join is sent.
    pub fn reconnect(&mut self, name: Name) {
        self.connect(name);
        let believes = self.is_out(Repair::RefusalsAreNoAnswer);
        let (now, member) = (self.now, self.member(name));
        member.seat.coordinator_down();
        member.seat.coordinator_up();
        if believes {
            // Whoever takes the seat for confirmed counts every answer on the new connection.
            let rights = member.newest.iter().map(|(right, stream)| {
                let epoch = member.streams[stream].epoch;
                ringway_proto::control::GrantedRight { right: *right, epoch }
            });
            let joined = Joined {
                name: member.seat.join().name.clone(),
                subscription: member.seat.subscription().unwrap(),
                member: member.seat.join().member.clone(),
                incarnation: member.seat.join().incarnation,
                created: false,
                order: Order::Key,
                rights: rights.collect(),
            };
            member.seat.joined(now, &joined, member.router.as_ref().unwrap());
        }
        let watch = FromClient::Watch { have: RoutingVersion(0) };
        self.send(name, C, Mail::FromClient(watch));
        self.turn(name);
    }
}

/// How a process of a member joins.
fn seat(subscription: &str, filter: &str, member: &str, incarnation: u64) -> Join {
    Join {
        name: SubscriptionName::new(subscription).unwrap(),
        filter: Filter::new(filter).unwrap(),
        order: Some(Order::Key),
        start: Start::Start,
        member: MemberId::new(member).unwrap(),
        incarnation: Incarnation(incarnation),
        weight: 100,
        origin: String::new(),
    }
}
