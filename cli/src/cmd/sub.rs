//! `ringway sub`: takes a seat in a subscription, prints what comes, and acknowledges it after it
//! was written. It promises that nothing is acknowledged that was not flushed, that `--count` is
//! exact, and that what was not printed is given back.

use std::io::{self, Write as _};
use std::pin::pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ringway_client::{
    Delivery, Event, Events, JoinError, LeaveError, Order, ReceiveError, Start, Subscription,
};
use ringway_proto::WallTime;
use ringway_proto::limits::DEFAULT_CREDIT_MESSAGES;
use tokio::time::Instant;

use super::Context;
use crate::args::{AckArg, FormatArg, FromArg, OrderArg, SubArgs};
use crate::cluster::noticed;
use crate::exit::Failure;
use crate::output::{Output, counted, stdout_failed};
use crate::shown;
use crate::signals::Stop;

/// The most messages that are written at once before they are acknowledged.
const BATCH: usize = 256;
/// How long the last events are waited for after the seat was left.
const LAST_EVENTS: Duration = Duration::from_secs(1);

/// Receives until a signal, `--count`, `--idle-exit` or a closed pipe ends it.
///
/// # Errors
/// When the seat cannot be taken, is taken over, or cannot be left in good order.
pub async fn run(args: SubArgs, context: &Context) -> Result<(), Failure> {
    if args.ack == AckArg::None && args.order == Some(OrderArg::Key) {
        return Err(Failure::usage(
            "--ack none cannot keep the order of keys: a key's next message comes only after an ack",
        )
        .help("leave out --order, or say --order none"));
    }
    let stop = Stop::on_signal()?;
    let client = context.connect().await?;
    let mut subscribe = client.subscribe(&args.filter).name(&args.name).weight(args.weight);
    if let Some(member) = &args.member {
        subscribe = subscribe.member(member);
    }
    if let Some(from) = args.from {
        subscribe = subscribe.from(match from {
            FromArg::Start => Start::Start,
            FromArg::Now => Start::Now,
        });
    }
    match (args.order, args.ack) {
        (Some(OrderArg::Key), _) => subscribe = subscribe.order(Order::Key),
        (Some(OrderArg::None), _) | (None, AckArg::None) => {
            subscribe = subscribe.order(Order::None)
        }
        (None, AckArg::Auto) => {}
    }
    let what = format!("the seat in subscription {}", args.name);
    let subscription = tokio::select! {
        joined = noticed(context.output, &what, subscribe.join()) => joined.map_err(|e| not_joined(e, &args))?,
        () = stop.asked() => return Ok(()),
    };
    if args.from.is_some() && !subscription.created() {
        eprintln!(
            "note: --from is not used: subscription {} exists and goes on where it was",
            args.name
        );
    }
    if args.ack == AckArg::None && args.count.is_some_and(|n| n > DEFAULT_CREDIT_MESSAGES.into()) {
        eprintln!(
            "note: --ack none receives at most {}, what a member may hold",
            counted(DEFAULT_CREDIT_MESSAGES.into(), "message")
        );
    }
    eprintln!("ready");
    let mut talk = tokio::spawn(tell(subscription.events()));
    let result = Reader::new(subscription, &args, context.output).run(&stop).await;
    if tokio::time::timeout(LAST_EVENTS, &mut talk).await.is_err() {
        talk.abort();
    }
    client.close().await;
    result
}

/// Says on stderr what happens to the seat, until it is over.
async fn tell(mut events: Events) {
    while let Some(event) = events.next().await {
        match event {
            Event::Granted { queue, epoch } => eprintln!("+ {queue} (epoch {epoch})"),
            Event::Released { queue, .. } => eprintln!("- {queue}"),
            Event::Lost { queue, .. } => {
                eprintln!("- {queue} (lost: what was under way goes to another member)")
            }
            Event::Reconnecting => eprintln!("connection lost; connecting again"),
            Event::Reconnected => eprintln!("connected again"),
            _ => {}
        }
    }
}

fn not_joined(e: JoinError, args: &SubArgs) -> Failure {
    let failure = Failure::from(e);
    if args.ack == AckArg::None && args.order.is_none() && failure.code == "conflict" {
        return failure
            .note("--ack none needs a subscription with order none: in order per key, a key's next message comes only after an ack")
            .help("look through a subscription of its own: give another name with --as");
    }
    failure
}

/// Why reading ended.
#[derive(Debug)]
enum End {
    /// A signal, `--count` or `--idle-exit`.
    Done,
    /// Nobody reads stdout any more.
    PipeClosed,
    /// The subscription can never yield again.
    Over(ReceiveError),
    /// Stdout cannot be written.
    Failed(io::Error),
}

/// The seat, and what was taken from it.
struct Reader {
    subscription: Subscription,
    output: Output,
    format: FormatArg,
    ack: AckArg,
    idle_exit: Option<Duration>,
    /// How many more messages may be taken.
    left: u64,
    /// Taken, and on their way to stdout.
    batch: Vec<Delivery>,
    /// Printed, and given back at the end: `--ack none`.
    kept: Vec<Delivery>,
    text: Vec<u8>,
}

impl Reader {
    fn new(subscription: Subscription, args: &SubArgs, output: Output) -> Self {
        Self {
            subscription,
            output,
            format: args.format,
            ack: args.ack,
            idle_exit: args.idle_exit,
            left: args.count.unwrap_or(u64::MAX),
            batch: Vec::with_capacity(BATCH),
            kept: Vec::new(),
            text: Vec::new(),
        }
    }

    async fn run(mut self, stop: &Stop) -> Result<(), Failure> {
        let end = self.read(stop).await;
        let Self { subscription, batch, kept, output, .. } = self;
        for delivery in batch.into_iter().chain(kept) {
            // Fails only where the seat is lost, and then it is given back already.
            let _ = delivery.give_back().await;
        }
        let held = subscription.counts().held;
        match end {
            End::Over(e) => Err(over(e, held)),
            End::Done | End::PipeClosed => leave(subscription, output).await,
            End::Failed(e) => leave(subscription, output).await.and(Err(stdout_failed(&e))),
        }
    }

    async fn read(&mut self, stop: &Stop) -> End {
        let mut stopped = pin!(stop.asked());
        let mut heard = Instant::now();
        while self.left > 0 {
            let idle = async {
                match self.idle_exit {
                    Some(limit) => tokio::time::sleep_until(heard + limit).await,
                    None => std::future::pending().await,
                }
            };
            // A message that is there goes before the end of a pause that is over.
            let next = tokio::select! {
                biased;
                () = &mut stopped => return End::Done,
                next = self.subscription.next() => next,
                () = idle => return End::Done,
            };
            match next {
                Ok(Some(delivery)) => self.take(delivery),
                Ok(None) => return End::Done,
                Err(e) => return End::Over(e),
            }
            let broken = self.take_more();
            match self.print().await {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return End::PipeClosed,
                Err(e) => return End::Failed(e),
            }
            if let Some(e) = broken {
                return End::Over(e);
            }
            heard = Instant::now();
        }
        End::Done
    }

    fn take(&mut self, delivery: Delivery) {
        self.left -= 1;
        self.batch.push(delivery);
    }

    /// Takes what is there already, up to a batch.
    fn take_more(&mut self) -> Option<ReceiveError> {
        while self.left > 0 && self.batch.len() < BATCH {
            match self.subscription.try_next() {
                Ok(Some(delivery)) => self.take(delivery),
                Ok(None) => return None,
                Err(e) => return Some(e),
            }
        }
        None
    }

    /// Writes and flushes the batch, and only then settles it.
    async fn print(&mut self) -> io::Result<()> {
        self.text.clear();
        for delivery in &self.batch {
            shown::write(&mut self.text, delivery.message(), self.format)?;
        }
        let mut stdout = io::stdout();
        stdout.write_all(&self.text)?;
        stdout.flush()?;
        match self.ack {
            AckArg::None => self.kept.append(&mut self.batch),
            AckArg::Auto => {
                for delivery in self.batch.drain(..) {
                    // A fenced ack is counted by the SDK; the message comes again elsewhere.
                    let _ = delivery.ack().await;
                }
            }
        }
        Ok(())
    }
}

/// Leaves the seat. Where nobody answers any more it is given up; what was acknowledged is what
/// counts then.
async fn leave(subscription: Subscription, output: Output) -> Result<(), Failure> {
    let what = "acks to be confirmed and rights to be given back";
    match noticed(output, what, subscription.leave()).await {
        Err(LeaveError::Incomplete { rights, unconfirmed_acks: 0 }) => {
            if !output.is_json() {
                eprintln!(
                    "note: every ack is confirmed; not given back in order: {}",
                    counted(rights, "right")
                );
            }
            Ok(())
        }
        left => Ok(left?),
    }
}

/// The end of a seat that nobody here asked for.
fn over(e: ReceiveError, held: u64) -> Failure {
    let ReceiveError::Superseded { name, member } = &e else { return e.into() };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = WallTime(u64::try_from(now.as_millis()).unwrap_or(u64::MAX)).to_string();
    let time = now.get(11..19).unwrap_or_default();
    let failure = Failure::new(
        e.code(),
        format!(
            "another process joined subscription {name:?} as member {member:?} at {time} UTC and \
             took over"
        ),
    )
    .help("give each process its own --member, or leave it out");
    match held {
        0 => failure,
        n => failure.note(format!("given back unread: {}", counted(n, "message"))),
    }
}
