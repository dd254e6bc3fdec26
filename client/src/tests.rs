//! The handles without an engine: what a caller may drop, and when.

use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ringway_proto::batch::{Batch, BatchBuilder};
use ringway_proto::control::{GrantedRight, Joined, Order};
use ringway_proto::data::{Deliver, DeliverEntry};
use ringway_proto::message::Message as Published;
use ringway_proto::routing::{Router, Routing};
use ringway_proto::{
    Class, Epoch, GroupId, Lanes, Offset, OpenNumber, QueueId, RightId, SubscriptionId, WallTime,
};
use tokio::sync::mpsc;

use crate::cell::SeatCell;
use crate::client::{Client, Inner};
use crate::clock::Clock;
use crate::engine::Command;
use crate::error::{AckError, JoinError, PublishError, ReceiveError, SendError};
use crate::logic::report::{Action, End};
use crate::options::Options;
use crate::routes::Routes;

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// A client whose commands nobody but the test reads.
fn client(options: Options) -> (Client, mpsc::UnboundedReceiver<Command>, tokio::runtime::Runtime) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (commands, rx) = mpsc::unbounded_channel();
    let routes = Routes::new(Arc::new(Router::new(Routing::default()).unwrap()));
    let inner = Inner::new(commands, Arc::new(routes), options, runtime.handle().clone());
    (Client { inner: Arc::new(inner) }, rx, runtime)
}

const RIGHT: RightId = RightId {
    subscription: SubscriptionId(1),
    queue: QueueId { group: GroupId(1), index: 0 },
    lanes: Lanes::ALL,
};

/// Plays the engine: takes the join and gives the seat one right.
fn seated(rx: &mut mpsc::UnboundedReceiver<Command>, clock: Clock) -> (Arc<SeatCell>, OpenNumber) {
    let Ok(Command::Join(cell)) = rx.try_recv() else { panic!("no join") };
    let now = clock.now();
    let mut seat = cell.seat();
    let joined = Joined {
        name: seat.join().name.clone(),
        subscription: SubscriptionId(1),
        member: seat.join().member.clone(),
        incarnation: seat.join().incarnation,
        created: true,
        order: Order::Key,
        rights: vec![GrantedRight { right: RIGHT, epoch: Epoch(1) }],
    };
    seat.joined(now, &joined, &Router::new(Routing::default()).unwrap());
    let mut actions = Vec::new();
    seat.turn(now, &mut actions);
    let Some(Action::Open(_, open)) = actions.first() else { panic!("{actions:?}") };
    let open = open.open;
    drop(seat);
    cell.changed.notify_waiters();
    (cell, open)
}

/// Plays the primary: delivers messages 0 up to `count`.
fn deliver(cell: &SeatCell, open: OpenNumber, count: u32) {
    let mut builder = BatchBuilder::new();
    for n in 0..count {
        builder.push(&Published::new(Class::new("a.b").unwrap(), vec![n as u8]));
    }
    let batch = Batch::parse(builder.finish(WallTime(1))).unwrap();
    let deliver = Deliver {
        open,
        base_offset: Offset(0),
        published_at: WallTime(1),
        classes: 1,
        entries: (0..count).map(|index| DeliverEntry { index, delivery: 1 }).collect(),
        class_table: batch.class_table(),
        records: vec![batch.records(0, count as usize)],
    };
    cell.seat().delivered(&RIGHT, &deliver).unwrap();
    cell.changed.notify_waiters();
}

#[test]
fn next_that_is_dropped_takes_nothing() {
    let (client, mut rx, _runtime) = client(Options::default());
    let mut join = pin!(client.subscribe(">").name("s").join());
    assert!(poll_once(join.as_mut()).is_pending());
    let (cell, open) = seated(&mut rx, client.inner.clock);
    let Poll::Ready(Ok(mut subscription)) = poll_once(join.as_mut()) else { panic!("not joined") };
    {
        let mut next = pin!(subscription.next());
        assert!(poll_once(next.as_mut()).is_pending());
        // It is woken and dropped before it is polled again.
        deliver(&cell, open, 1);
    }
    assert_eq!(cell.seat().counts().handed_out, 0);
    {
        let mut next = pin!(subscription.next());
        assert!(matches!(poll_once(next.as_mut()), Poll::Ready(Ok(Some(_)))));
    }
    cell.seat().finish(End::Superseded);
    for _ in 0..2 {
        let mut next = pin!(subscription.next());
        let ended = poll_once(next.as_mut());
        assert!(matches!(ended, Poll::Ready(Err(ReceiveError::Superseded { .. }))), "{ended:?}");
    }
}

#[test]
fn a_message_is_taken_exactly_when_next_returns_it_and_a_dropped_delivery_is_nacked() {
    let (client, mut rx, _runtime) = client(Options::default());
    let mut join = pin!(client.subscribe(">").name("s").join());
    assert!(poll_once(join.as_mut()).is_pending());
    let (cell, open) = seated(&mut rx, client.inner.clock);
    deliver(&cell, open, 3);
    let Poll::Ready(Ok(mut subscription)) = poll_once(join.as_mut()) else { panic!("not joined") };
    // A future that was made and never polled takes nothing, although messages are there.
    drop(subscription.next());
    assert_eq!(cell.seat().counts().handed_out, 0);
    for offset in 0..3 {
        let delivery = {
            let mut next = pin!(subscription.next());
            let Poll::Ready(Ok(Some(delivery))) = poll_once(next.as_mut()) else { panic!() };
            delivery
        };
        assert_eq!(delivery.offset, offset);
        match offset {
            0 => drop(delivery),
            1 => {
                delivery.ack();
            }
            _ => {
                delivery.give_back();
            }
        }
    }
    let counts = cell.seat().counts();
    assert_eq!((counts.handed_out, counts.acked, counts.nacked, counts.given_back), (3, 1, 1, 1));
}

#[test]
fn until_ends_the_messages_and_survives_a_dropped_next() {
    let (client, mut rx, _runtime) = client(Options::default());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let until = async {
        stopped.await.ok();
    };
    let mut join = pin!(client.subscribe(">").name("s").until(until).join());
    assert!(poll_once(join.as_mut()).is_pending());
    seated(&mut rx, client.inner.clock);
    let Poll::Ready(Ok(mut subscription)) = poll_once(join.as_mut()) else { panic!("not joined") };
    {
        let mut next = pin!(subscription.next());
        assert!(poll_once(next.as_mut()).is_pending());
    }
    stop.send(()).unwrap();
    for _ in 0..2 {
        let mut next = pin!(subscription.next());
        assert!(matches!(poll_once(next.as_mut()), Poll::Ready(Ok(None))));
    }
}

#[test]
fn a_wrong_call_is_an_error_before_anything_is_sent() {
    let (client, mut rx, runtime) = client(Options::default());
    runtime.block_on(async {
        let e = client.publish("orders..new", "x").await.unwrap_err();
        assert!(matches!(e, PublishError::Invalid(_)));
        assert_eq!(e.code(), "invalid-class");
        let e = client.subscribe("a.>.b").name("s").join().await.err().unwrap();
        assert!(matches!(e, JoinError::Invalid(_)));
        let e = client.subscribe(">").join().await.err().unwrap();
        assert_eq!(e.code(), "invalid-name");
    });
    assert!(rx.try_recv().is_err());
}

#[test]
fn a_send_waits_for_room_and_now_says_that_there_is_none() {
    let (client, mut rx, _runtime) =
        client(Options { max_in_flight_bytes: 100, ..Options::default() });
    let producer = client.producer().build();
    let first = producer.send("a.b", vec![0; 60]).now().unwrap();
    let full = producer.send("a.b", vec![0; 60]).now().err();
    assert_eq!(full, Some(SendError::NoRoom { limit_bytes: 100 }));
    {
        let mut waiting = pin!(producer.send("a.b", vec![0; 60]).into_future());
        assert!(poll_once(waiting.as_mut()).is_pending());
        let Ok(Command::Publish { bytes, completion, .. }) = rx.try_recv() else { panic!() };
        completion.complete(Err(PublishError::Unknown { cause: "lost".into() }));
        client.inner.room.add_permits(bytes as usize);
        assert!(matches!(poll_once(waiting.as_mut()), Poll::Ready(Ok(_))));
    }
    // A flush waits for the second, and reports the failure that nobody looked at.
    let mut flush = pin!(producer.flush());
    assert!(poll_once(flush.as_mut()).is_pending());
    drop(first);
    let Ok(Command::Publish { completion, .. }) = rx.try_recv() else { panic!() };
    completion.complete(Ok(crate::Receipt { queue: "default/0".into(), offset: 0 }));
    let Poll::Ready(Err(e)) = poll_once(flush.as_mut()) else { panic!("not flushed") };
    assert_eq!((e.stored, e.failed, e.unknown), (1, 0, 1));
    assert!(e.is_unknown());
}

#[test]
fn a_send_waits_for_room_no_longer_than_its_deadline() {
    let (client, _rx, runtime) = client(Options { max_in_flight_bytes: 10, ..Options::default() });
    let producer = client.producer().build();
    let _first = producer.send("a.b", "x").now().unwrap();
    let late = client.publish("a.b", "y").deadline(Duration::ZERO);
    let e = runtime.block_on(late.into_future()).unwrap_err();
    assert!(matches!(e, PublishError::NotSent { .. }), "{e}");
    assert!(e.to_string().contains("at most 10 bytes"), "{e}");
}

#[test]
fn a_flush_ends_when_the_engine_is_gone_without_an_answer() {
    let (client, rx, runtime) = client(Options::default());
    let producer = client.producer().build();
    let pending = producer.send("a.b", "x").now().unwrap();
    drop(rx);
    assert!(runtime.block_on(pending).unwrap_err().is_unknown());
    assert_eq!(producer.send("a.b", "x").now().err(), Some(SendError::Closed));
    let flushed = runtime.block_on(producer.flush());
    assert_eq!(flushed.unwrap().stored, 0, "the failure was reported by its pending");
}

#[test]
fn an_ack_is_decided_at_the_call_and_fails_only_on_a_closed_client() {
    let (client, mut rx, runtime) = client(Options::default());
    let mut join = pin!(client.subscribe(">").name("s").join());
    assert!(poll_once(join.as_mut()).is_pending());
    let (cell, open) = seated(&mut rx, client.inner.clock);
    deliver(&cell, open, 4);
    let Poll::Ready(Ok(mut subscription)) = poll_once(join.as_mut()) else { panic!("not joined") };
    let mut take = || subscription.try_next().unwrap().unwrap();
    drop(take().ack_confirmed());
    assert_eq!(cell.seat().counts().acked, 1, "an ack that nobody awaits counts all the same");
    let (fenced, closed) = (take(), take());
    cell.seat().lost(RIGHT, Epoch(1));
    assert_eq!(runtime.block_on(fenced.ack()), Ok(()));
    assert_eq!(cell.seat().counts().fenced, 1);
    drop(rx);
    assert_eq!(runtime.block_on(closed.ack()), Err(AckError::Closed));
}

#[test]
fn handles_and_futures_go_to_any_thread() {
    fn sent<T: Send>(_: &T) {}
    fn shared<T: Clone + Send + Sync + 'static>(_: &T) {}
    let (client, _rx, _runtime) = client(Options::default());
    shared(&client);
    sent(&client.subscribe(">").name("s").join());
    sent(&client.subscribe(">").name("s").for_each(|_| async { Ok(()) }));
    sent(&client.close());
    sent(&client.admin().status());
    sent(&client.admin().lag("s"));
    let producer = client.producer().build();
    shared(&producer);
    sent(&producer.flush());
}
