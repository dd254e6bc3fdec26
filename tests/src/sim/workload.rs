//! What applications do in the simulation: producers that publish with and without keys, and
//! handlers that take their time and mostly succeed. It decides by the dice alone.

use std::collections::BTreeMap;

use bytes::Bytes;
use ringway_client::logic::lane::{Item, Ticket};
use ringway_client::logic::report::Settled;
use ringway_client::logic::right::{Hold, How};
use ringway_proto::message::Message;
use ringway_proto::{Class, Epoch, Offset, RightId};

use super::bugs::Bug;
use super::client::Client;
use super::ctx::{Ctx, Pid, Timer};
use super::history::{Value, What};

/// How long a publish is tried, in milliseconds.
const DEADLINE: u64 = 60_000;
/// What messages are about.
const CLASSES: [&str; 4] = ["a.x", "a.y", "b.x", "c.x"];

/// How one process publishes.
#[derive(Debug)]
pub struct Producing {
    producer: u32,
    number: u32,
    keys: u32,
    pause: u64,
}

impl Producing {
    /// A process of its own, whose keys no other has.
    #[must_use]
    pub fn new(ctx: &mut Ctx, pid: Pid) -> Self {
        let producer = (pid as u32) << 16 | ctx.standing[pid].life as u32;
        Self {
            producer,
            number: 0,
            keys: ctx.dice.between(1, 6) as u32,
            pause: ctx.dice.between(20, 120),
        }
    }
}

/// How one process handles messages.
#[derive(Debug)]
pub struct Serving {
    concurrency: usize,
    in_hand: usize,
    slow_percent: u64,
    serial: u64,
    /// Acks that wait for their confirmation.
    pub tokens: BTreeMap<u64, (RightId, Epoch, Offset)>,
}

impl Serving {
    /// Handlers of a process that has just started.
    #[must_use]
    pub fn new(ctx: &mut Ctx) -> Self {
        let concurrency = ctx.dice.between(2, 16) as usize;
        let may_be_slow = concurrency > 4 && ctx.dice.percent(40);
        Self {
            concurrency,
            in_hand: 0,
            slow_percent: if may_be_slow { 2 } else { 0 },
            serial: 0,
            tokens: BTreeMap::new(),
        }
    }

    /// Whether a handler is free.
    #[must_use]
    pub fn takes_more(&self) -> bool {
        self.in_hand < self.concurrency
    }

    /// A handler has a message now.
    pub fn begin(&mut self, ctx: &mut Ctx, pid: Pid, hold: Hold) {
        self.in_hand += 1;
        let slow = !ctx.quiet && ctx.dice.percent(self.slow_percent);
        let takes = ctx.dice.between(0, if slow { 2500 } else { 12 });
        let at = ctx.clock.now() + takes;
        ctx.timer(pid, at, Timer::Handled(hold));
    }
}

impl Client {
    /// Publishes a message, and some time later the next.
    pub(super) fn publish(&mut self, ctx: &mut Ctx) {
        let time = ctx.client_time(self.pid);
        let Some(live) = &mut self.live else { return };
        if ctx.clock.now() >= ctx.publish_until {
            return;
        }
        let mut pause = 20;
        if let Some(publisher) = &mut live.publisher {
            pause = live.producing.pause;
            let burst = if ctx.dice.percent(10) { 6 } else { 1 };
            for _ in 0..burst {
                let producing = &mut live.producing;
                producing.number += 1;
                let value = Value { producer: producing.producer, number: producing.number };
                let key = Some(ctx.dice.below(u64::from(producing.keys) + 1) as u32);
                let key = key.filter(|key| *key > 0);
                // The order of a key holds within its group, so a key stays with its class.
                let which = key.map_or_else(|| ctx.dice.roll(), u64::from);
                let class = CLASSES[(which % CLASSES.len() as u64) as usize];
                let Ok(checked) = Class::new(class) else { return };
                let mut message = Message::new(checked, value.body());
                message.key = key.map(|k| Bytes::from(format!("{}/{k}", producing.producer)));
                ctx.note(What::Attempt { value, key, class });
                let ticket = Ticket(u64::from(value.number));
                live.tickets.insert(ticket, value);
                let deadline = time + std::time::Duration::from_millis(DEADLINE);
                let item = Item { ticket, message, bytes: 64, deadline };
                if ctx.bug == Some(Bug::SentElsewhere) {
                    publisher.forget_places(&mut live.actions);
                }
                publisher.publish(item, &mut live.actions);
            }
        }
        let at = ctx.clock.now() + ctx.dice.between(1, 2 * pause);
        ctx.timer(self.pid, at, Timer::Publish);
    }

    /// A handler is done.
    pub(super) fn handled(&mut self, ctx: &mut Ctx, hold: &Hold) {
        let Some(live) = &mut self.live else { return };
        let Some(holder) = live.holder() else { return };
        let Some(seat) = &mut live.seat else { return };
        let serving = &mut live.serving;
        serving.in_hand = serving.in_hand.saturating_sub(1);
        let how = match ctx.dice.below(100) {
            0 if !ctx.quiet => How::Nack,
            1 if !ctx.quiet => How::GiveBack,
            _ => How::Ack,
        };
        serving.serial += 1;
        let token = (how == How::Ack).then_some(serving.serial);
        if seat.settle(hold, how, token) == Settled::Taken {
            let Hold { right, epoch, offset, .. } = *hold;
            if let Some(token) = token {
                serving.tokens.insert(token, (right, epoch, offset));
            }
            ctx.note(What::Settled { right, epoch, holder, offset, how });
        }
    }
}
