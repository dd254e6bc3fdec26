//! Every check finds the shortest history that breaks its promise, and nothing in a history that
//! keeps all of them.

use ringway_client::logic::right::How;
use ringway_proto::control::Start;
use ringway_proto::{
    Epoch, Filter, GroupId, Holder, Incarnation, Lanes, MemberId, Offset, QueueId, RightId,
    SubscriptionId, WorkerId,
};

use super::super::history::{Entry, History, Told, Value, What};
use super::all;

const QUEUE: QueueId = QueueId { group: GroupId(0), index: 3 };
const SUBSCRIPTION: SubscriptionId = SubscriptionId(1);

fn right() -> RightId {
    RightId::whole(SUBSCRIPTION, QUEUE)
}

fn holder(name: &str) -> Holder {
    Holder { member: MemberId::new(name).unwrap(), incarnation: Incarnation(1) }
}

fn worker(name: &str) -> WorkerId {
    WorkerId::new(name).unwrap()
}

fn value(number: u32) -> Value {
    Value { producer: 7, number }
}

fn attempt(number: u32) -> What {
    What::Attempt { value: value(number), key: Some(1), class: "a.x" }
}

fn ok(number: u32, offset: u64) -> What {
    What::Published { value: value(number), told: Told::Stored(QUEUE, Offset(offset)) }
}

fn in_log(number: u32, offset: u64) -> What {
    What::InLog { queue: QUEUE, offset: Offset(offset), value: Some(value(number)) }
}

fn raised(epoch: u64) -> What {
    What::Raised { right: right(), copy: Epoch(1), epoch: Epoch(epoch) }
}

fn granted(name: &str, epoch: u64) -> What {
    What::Granted { right: right(), epoch: Epoch(epoch), holder: holder(name) }
}

fn handed(name: &str, epoch: u64, number: u32, offset: u64) -> What {
    let (epoch, offset) = (Epoch(epoch), Offset(offset));
    let value = Some(value(number));
    What::HandedOut { right: right(), epoch, holder: holder(name), offset, lane: 0, value }
}

fn confirmed(epoch: u64, offset: u64) -> What {
    What::Confirmed { right: right(), epoch: Epoch(epoch), offset: Offset(offset) }
}

fn cursor(floor: u64) -> What {
    What::Cursor { right: right(), copy: Epoch(1), floor: Offset(floor) }
}

fn opened(name: &str, epoch: u64) -> What {
    What::Opened { right: right(), copy: Epoch(1), epoch: Epoch(epoch), holder: holder(name) }
}

fn stored(number: u32, offset: u64) -> What {
    What::Stored { queue: QUEUE, offset: Offset(offset), value: Some(value(number)), lane: 7 }
}

fn narrowing(to: Lanes) -> What {
    What::Narrowing { right: right(), epoch: Epoch(1), to }
}

fn accepted(name: &str, epoch: u64) -> What {
    What::Accepted { queue: QUEUE, epoch: Epoch(epoch), worker: worker(name) }
}

fn joined(start: Start) -> What {
    let filter = Filter::new("a.>").unwrap();
    What::Joined { subscription: SUBSCRIPTION, filter, start, holder: holder("m") }
}

fn drained(name: &str, epoch: u64) -> What {
    What::Drained { right: right(), epoch: Epoch(epoch), holder: holder(name) }
}

/// The checks that find something, each once; a step takes a second.
fn broken(steps: &[What]) -> Vec<&'static str> {
    let timed = steps.iter().zip(0..).map(|(what, n)| Entry { at: n * 1000, what: what.clone() });
    let mut found: Vec<_> =
        all(&History { entries: timed.collect() }).into_iter().map(|v| v.check).collect();
    found.dedup();
    found
}

#[test]
fn a_good_run_breaks_nothing() {
    let nack = What::Settled {
        right: right(),
        epoch: Epoch(1),
        holder: holder("m"),
        offset: Offset(0),
        how: How::Nack,
    };
    let run = [
        joined(Start::Start),
        accepted("w1", 1),
        attempt(1),
        attempt(2),
        ok(1, 0),
        ok(2, 1),
        raised(1),
        granted("m", 1),
        handed("m", 1, 1, 0),
        nack,
        handed("m", 1, 1, 0),
        confirmed(1, 0),
        cursor(1),
        drained("m", 1),
        raised(2),
        granted("n", 2),
        handed("n", 2, 2, 1),
        in_log(1, 0),
        in_log(2, 1),
        What::Moves { done: 1, least: 1 },
        What::Healed,
    ];
    assert_eq!(broken(&run), Vec::<&str>::new());
}

#[test]
fn a_right_that_is_to_be_given_up_may_pause_and_so_may_any_where_something_breaks() {
    let revoked = What::Revoked { right: right(), epoch: Epoch(1) };
    let [begin, open, end] = [joined(Start::Start), opened("m", 1), What::Quiet];
    let run = [What::Calm, begin, attempt(1), open, revoked, stored(1, 0), end];
    assert_eq!(broken(&run), Vec::<&str>::new());
    let [_, begin, tried, open, _, stored, end] = run;
    assert_eq!(broken(&[begin, tried, open, stored, end]), Vec::<&str>::new());
}

#[test]
fn lanes_that_are_to_be_given_up_may_pause_and_stay_so_when_the_right_is_opened_again() {
    let upper = narrowing(Lanes { start: 0, end: 4 });
    let run = [
        What::Calm,
        joined(Start::Start),
        attempt(1),
        opened("m", 1),
        upper,
        opened("m", 1),
        stored(1, 0),
        What::Quiet,
    ];
    assert_eq!(broken(&run), Vec::<&str>::new());
}

#[test]
fn every_check_finds_what_breaks_its_promise() {
    let halves = What::Raised {
        right: right().with(Lanes { start: 2048, end: 4096 }),
        copy: Epoch(1),
        epoch: Epoch(2),
    };
    let narrowed = What::Narrowed {
        right: right(),
        epoch: Epoch(1),
        to: Lanes { start: 2048, end: 4096 },
        holder: holder("m"),
    };
    let table: [(&[What], &[&str]); 20] = [
        // Acked and gone; acked, there, and never delivered.
        (&[attempt(1), ok(1, 0)], &["acked_survives"]),
        (&[joined(Start::Start), attempt(1), ok(1, 0), in_log(1, 0)], &["acked_survives"]),
        // Confirmed and handed out again after an orderly hand-over.
        (
            &[
                attempt(1),
                raised(1),
                handed("m", 1, 1, 0),
                confirmed(1, 0),
                drained("m", 1),
                raised(2),
                handed("n", 2, 1, 0),
            ],
            &["confirmed_acks", "redeliveries"],
        ),
        (&[cursor(3), cursor(2)], &["cursor_monotonic"]),
        (&[What::Unhealed("a queue".into())], &["heals"]),
        (&[What::Left { who: "w1".into(), why: "conflict".into() }], &["heals"]),
        // The second message of a key first; and back under one epoch.
        (&[attempt(1), attempt(2), handed("m", 1, 2, 1), handed("m", 1, 1, 0)], &["key_order"]),
        // Durable and not sent a second later.
        (
            &[
                What::Calm,
                joined(Start::Start),
                attempt(1),
                opened("m", 1),
                stored(1, 0),
                What::Quiet,
            ],
            &["no_pause"],
        ),
        // The half that stays pauses.
        (
            &[
                What::Calm,
                joined(Start::Start),
                attempt(1),
                opened("m", 1),
                narrowing(Lanes { start: 0, end: 2048 }),
                stored(1, 0),
                What::Quiet,
            ],
            &["no_pause"],
        ),
        (&[handed("m", 1, 9, 0)], &["nothing_invented"]),
        (
            &[
                attempt(1),
                What::Published { value: value(1), told: Told::Failed("no".into()) },
                in_log(1, 0),
            ],
            &["nothing_invented"],
        ),
        // Granted before it was raised; granted twice; handed out long after it was lost.
        (&[granted("m", 1)], &["one_holder"]),
        (&[raised(1), granted("m", 1), granted("n", 1)], &["one_holder"]),
        (&[attempt(1), raised(1), raised(2), cursor(0), handed("m", 1, 1, 0)], &["one_holder"]),
        // The lower half was given up in order, and then handed out again; the upper half went to
        // somebody else, and the holder of all of it acks.
        (
            &[
                attempt(1),
                raised(1),
                handed("m", 1, 1, 0),
                narrowed,
                raised(2),
                handed("n", 2, 1, 0),
            ],
            &["redeliveries"],
        ),
        (
            &[
                raised(1),
                halves,
                What::Acked {
                    right: right().with(Lanes { start: 0, end: 2048 }),
                    epoch: Epoch(1),
                    holder: holder("m"),
                    lanes: vec![3000],
                },
            ],
            &["one_holder"],
        ),
        (&[accepted("w1", 2), accepted("w2", 2)], &["one_primary"]),
        (&[accepted("w1", 2), accepted("w1", 1)], &["one_primary"]),
        // An offset with two values, of which one is lost; a value at two offsets.
        (&[attempt(1), attempt(2), in_log(1, 0), ok(2, 0)], &["acked_survives", "one_value"]),
        (&[attempt(1), in_log(1, 0), in_log(1, 1)], &["published_once"]),
    ];
    for (steps, expected) in table {
        assert_eq!(broken(steps), expected, "{steps:?}");
    }
    let moved = [What::Moves { done: 3, least: 2 }, What::Healed];
    assert_eq!(broken(&moved), ["only_moves"]);
}
