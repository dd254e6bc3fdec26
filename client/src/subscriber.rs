//! Subscribing: [`Subscribe`] takes a seat, [`Subscription`] hands its messages out one by one. It
//! owns what a caller waits on; which message may be handed out is the seat's.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use ringway_proto::control::{Join, Order, Start};
use ringway_proto::limits::{
    DEFAULT_CREDIT_BYTES, DEFAULT_CREDIT_MESSAGES, DEFAULT_WEIGHT, WEIGHT_RANGE,
};
use ringway_proto::{Code, Filter, MemberId, Refusal, SubscriptionName};

use crate::cell::SeatCell;
use crate::client::Inner;
use crate::delivery::{Delivery, Held};
use crate::engine::Command;
use crate::error::{JoinError, LeaveError, ReceiveError};
use crate::logic::credit::Credit;
use crate::logic::report::{Counts, End, Event};
use crate::logic::seat::Seat;
use crate::options::JOIN_TIMEOUT;

/// Messages that [`Subscribe::for_each`] handles at once without other wishes.
const CONCURRENCY: usize = 16;

type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A seat that is to be taken in a subscription.
#[must_use = "nothing happens until it joins"]
pub struct Subscribe {
    client: Arc<Inner>,
    filter: String,
    name: Option<String>,
    member: Option<String>,
    weight: u32,
    start: Start,
    order: Option<Order>,
    credit: u32,
    pub(crate) concurrency: usize,
    until: Option<Stop>,
}

impl Subscribe {
    pub(crate) fn new(client: &Arc<Inner>, filter: &str) -> Self {
        Self {
            client: client.clone(),
            filter: filter.to_owned(),
            name: None,
            member: None,
            weight: DEFAULT_WEIGHT,
            start: Start::Start,
            order: None,
            credit: DEFAULT_CREDIT_MESSAGES,
            concurrency: CONCURRENCY,
            until: None,
        }
    }

    /// The name of the subscription, which all its members share. Needed.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The name of this seat; a later process that joins under it takes it over. Without it every
    /// join has one of its own.
    pub fn member(mut self, member: impl Into<String>) -> Self {
        self.member = Some(member.into());
        self
    }

    /// The member's share of the queues in proportion to the others', 1 to 1,000; 100 without it.
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// Where a new subscription begins; one that exists keeps its own. The start without it.
    pub fn from(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Whether the order of each key is kept; that of the subscription, or by key, without it.
    pub fn order(mut self, order: Order) -> Self {
        self.order = Some(order);
        self
    }

    /// Messages that may be delivered here and unsettled at once; 1,000 without it.
    pub fn credit(mut self, messages: u32) -> Self {
        self.credit = messages.max(1);
        self
    }

    /// Messages that [`Subscribe::for_each`] handles at once; 16 without it.
    pub fn concurrency(mut self, messages: usize) -> Self {
        self.concurrency = messages.max(1);
        self
    }

    /// When to stop: from then on nothing more is handed out.
    pub fn until(mut self, stop: impl Future<Output = ()> + Send + 'static) -> Self {
        self.until = Some(Box::pin(stop));
        self
    }

    fn check(&self) -> Result<Join, Refusal> {
        let name = self.name.as_deref().ok_or_else(|| {
            Refusal::new(Code::InvalidName, "the subscription has no name")
                .hint("call .name() with one that all its members share")
        })?;
        if !WEIGHT_RANGE.contains(&self.weight) {
            let text = format!("the weight is {}; 1 to 1,000 are accepted", self.weight);
            return Err(Refusal::new(Code::InvalidOption, text));
        }
        let origin = format!("{} pid {}", host(), std::process::id());
        let member = match &self.member {
            Some(member) => MemberId::new(member.as_str())?,
            None => MemberId::new(format!(
                "{}-{}-{:08x}",
                host(),
                std::process::id(),
                rand::random::<u32>()
            ))?,
        };
        Ok(Join {
            name: SubscriptionName::new(name)?,
            filter: Filter::new(&self.filter)?,
            order: self.order,
            start: self.start,
            member,
            incarnation: self.client.next_incarnation(),
            weight: self.weight,
            origin,
        })
    }

    /// Takes the seat. Returns once every reachable queue knows where the subscription begins, so
    /// that nothing published from then on is missed.
    ///
    /// # Cancellation
    /// Safe: dropped before it is ready, the seat is left again.
    ///
    /// # Errors
    /// [`JoinError`].
    pub async fn join(self) -> Result<Subscription, JoinError> {
        let join = self.check().map_err(JoinError::Invalid)?;
        let name = join.name.to_string();
        let member = join.member.to_string();
        let credit = Credit { messages: self.credit, bytes: DEFAULT_CREDIT_BYTES };
        let join_by = self.client.clock.now() + JOIN_TIMEOUT;
        let seat = Seat::new(join, credit);
        let cell = Arc::new(SeatCell::new(self.client.next_seat(), join_by, seat));
        self.client.commands.send(Command::Join(cell.clone())).map_err(|_| JoinError::Closed)?;
        let seat = Held { client: self.client, cell };
        let mut subscription =
            Subscription { seat, name, member, until: self.until, stopped: false };
        subscription.joined().await?;
        Ok(subscription)
    }
}

/// This machine's name, as far as a member's name may hold it.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let legal = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
    let name: String = name.trim().chars().filter(legal).take(40).collect();
    if name.is_empty() { "member".into() } else { name }
}

/// How a seat is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Status {
    /// It holds rights.
    Serving,
    /// It holds no right: there are as many members as queues, or more.
    Idle,
    /// The coordinator, or the worker of every right, is not connected.
    Reconnecting,
    /// It is being left.
    Leaving,
    /// It yields nothing more.
    Over,
}

/// A seat in a subscription. Dropped, it is left in the background.
pub struct Subscription {
    pub(crate) seat: Held,
    name: String,
    member: String,
    until: Option<Stop>,
    stopped: bool,
}

impl Subscription {
    async fn joined(&mut self) -> Result<(), JoinError> {
        let superseded = self.superseded().refusal();
        let look = |seat: &mut Seat| {
            if seat.is_seated() {
                return Some(Ok(()));
            }
            seat.end().map(|end| {
                Err(match end {
                    End::Refused(refusal) => JoinError::Refused(refusal.clone()),
                    End::Late(why) => JoinError::NotReady {
                        within_ms: JOIN_TIMEOUT.as_millis() as u64,
                        cause: why.as_ref().map_or("no answer".into(), |r| r.text.clone()),
                    },
                    End::Superseded => JoinError::Refused(superseded.clone()),
                    End::Left | End::Unfinished { .. } | End::Closed => JoinError::Closed,
                })
            })
        };
        self.seat.wait_for(look).await
    }

    fn superseded(&self) -> ReceiveError {
        ReceiveError::Superseded { name: self.name.clone(), member: self.member.clone() }
    }

    fn ended(&self, end: &End) -> ReceiveError {
        match end {
            End::Superseded => self.superseded(),
            End::Refused(refusal) if refusal.code == Code::UnknownSubscription => {
                ReceiveError::Deleted(refusal.clone())
            }
            End::Refused(refusal) => ReceiveError::Denied(refusal.clone()),
            End::Left | End::Late(_) | End::Unfinished { .. } | End::Closed => ReceiveError::Closed,
        }
    }

    /// A message now, nothing now, or the end.
    fn look(&self, seat: &mut Seat) -> Option<Result<Delivery, ReceiveError>> {
        if let Some(end) = seat.end() {
            return Some(Err(self.ended(end)));
        }
        let (hold, message) = seat.take(self.seat.client.clock.now())?;
        Some(Ok(Delivery::new(self.seat.clone(), hold, message)))
    }

    /// The next message; none once `until` came true. Rebalances, reconnects and restarts are not
    /// errors: it waits.
    ///
    /// # Cancellation
    /// Safe: a message is taken only when it is returned.
    ///
    /// # Errors
    /// [`ReceiveError`] when nothing will ever come again, at every call.
    pub async fn next(&mut self) -> Result<Option<Delivery>, ReceiveError> {
        if self.stopped {
            return Ok(None);
        }
        let stop = self.until.take();
        let mut stop = Restore { until: &mut self.until, stop };
        let seat = &self.seat;
        let next = seat.wait_for(|s| match s.end() {
            Some(end) => Some(Err(end.clone())),
            None => s.take(seat.client.clock.now()).map(Ok),
        });
        let next = tokio::select! {
            biased;
            () = stop.wait() => None,
            next = next => Some(next),
        };
        drop(stop);
        match next {
            None => {
                self.stopped = true;
                self.until = None;
                Ok(None)
            }
            Some(Err(end)) => Err(self.ended(&end)),
            Some(Ok((hold, message))) => {
                self.seat.poke();
                Ok(Some(Delivery::new(self.seat.clone(), hold, message)))
            }
        }
    }

    /// A message if there is one now.
    ///
    /// # Errors
    /// As [`Subscription::next`].
    pub fn try_next(&mut self) -> Result<Option<Delivery>, ReceiveError> {
        if self.stopped {
            return Ok(None);
        }
        let looked = self.look(&mut self.seat.cell.seat());
        let delivery = looked.transpose()?;
        if delivery.is_some() {
            self.seat.poke();
        }
        Ok(delivery)
    }

    /// What happens to the seat, from its join on. There is one stream of events: two readers
    /// share it.
    #[must_use]
    pub fn events(&self) -> Events {
        Events { cell: self.seat.cell.clone() }
    }

    /// How the seat is doing.
    #[must_use]
    pub fn status(&self) -> Status {
        let seat = self.seat.cell.seat();
        match seat.rights() {
            _ if seat.end().is_some() => Status::Over,
            _ if seat.is_leaving() => Status::Leaving,
            _ if !seat.is_connected() => Status::Reconnecting,
            (0, _) => Status::Idle,
            (_, 0) => Status::Reconnecting,
            _ => Status::Serving,
        }
    }

    /// Whether this join made the subscription.
    #[must_use]
    pub fn created(&self) -> bool {
        self.seat.cell.seat().created()
    }

    /// The order that holds.
    #[must_use]
    pub fn order(&self) -> Order {
        self.seat.cell.seat().order()
    }

    /// The name of the subscription.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of this seat.
    #[must_use]
    pub fn member(&self) -> &str {
        &self.member
    }

    /// What the seat has done.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.seat.cell.seat().counts()
    }

    /// Gives back what is unread, waits until what is in hand is settled and confirmed, and leaves;
    /// within 10 s, or 4 s where no coordinator has answered for 3 s. Leaving a seat that is over already is fine.
    ///
    /// # Cancellation
    /// Decided at the call.
    ///
    /// # Errors
    /// [`LeaveError`].
    pub async fn leave(self) -> Result<(), LeaveError> {
        let _ = self.seat.client.commands.send(Command::Leave(self.seat.cell.id));
        let look = |seat: &mut Seat| {
            let unconfirmed_acks = seat.counts().unconfirmed;
            seat.end().map(|end| match end {
                End::Unfinished { rights } => {
                    Err(LeaveError::Incomplete { rights: *rights, unconfirmed_acks })
                }
                End::Closed => Err(LeaveError::Closed),
                End::Left | End::Late(_) | End::Superseded | End::Refused(_) => Ok(()),
            })
        };
        self.seat.wait_for(look).await
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let _ = self.seat.client.commands.send(Command::Leave(self.seat.cell.id));
    }
}

/// Puts the stop signal back when the wait for it ends, however it ends.
struct Restore<'a> {
    until: &'a mut Option<Stop>,
    stop: Option<Stop>,
}

impl Restore<'_> {
    async fn wait(&mut self) {
        match &mut self.stop {
            Some(stop) => stop.await,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        *self.until = self.stop.take();
    }
}

/// What happens to a seat.
pub struct Events {
    cell: Arc<SeatCell>,
}

impl Events {
    /// The next event; none when the seat is over and everything was read.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let changed = self.cell.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut seat = self.cell.seat();
                match seat.next_event() {
                    Some(event) => return Some(event),
                    None if seat.end().is_some() => return None,
                    None => {}
                }
            }
            changed.await;
        }
    }

    /// An event if there is one now.
    pub fn try_next(&mut self) -> Option<Event> {
        self.cell.seat().next_event()
    }
}
