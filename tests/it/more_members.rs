//! More members than queues: four queues feed thirty-two members evenly, each key has one holder,
//! a member that stalls stops nobody else, and when most of them leave the rest take over what
//! they had, with nothing lost and nothing twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringway_client::{Client, HandlerError, Message, Start};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::harness::{STEP, Scratch, Up};

const LIMIT: Duration = Duration::from_secs(300);
const MEMBERS: usize = 32;
const QUEUES: u32 = 4;
const KEYS: usize = 320;
const PER_KEY: usize = 5;
const KEYLESS: usize = 3200;

/// A message as a member handled it.
#[derive(Clone, Debug)]
struct Handled {
    member: usize,
    key: Option<String>,
    body: String,
}

type Log = Arc<Mutex<Vec<Handled>>>;

struct Member {
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

/// A member that handles what it gets once `may_work` is true.
fn join(client: &Client, n: usize, log: &Log, may_work: &watch::Receiver<bool>) -> Member {
    let (stop, mut stopped) = watch::channel(false);
    let until = async move { drop(stopped.wait_for(|stop| *stop).await) };
    let subscribe = client.subscribe("few.>").name("s").member(format!("m{n}"));
    let subscribe = subscribe.from(Start::Start).until(until);
    let (log, may_work) = (Arc::clone(log), may_work.clone());
    let handler = move |message: Message| {
        let (log, mut may_work) = (Arc::clone(&log), may_work.clone());
        async move {
            may_work.wait_for(|may| *may).await.map_err(|e| HandlerError::new(e.to_string()))?;
            let key = message.key.as_deref().map(|k| String::from_utf8_lossy(k).into_owned());
            let body = message.text()?.to_owned();
            log.lock().expect("no handler panics").push(Handled { member: n, key, body });
            Ok(())
        }
    };
    let task = tokio::spawn(async move {
        subscribe.for_each(handler).await.expect("a seat that lasts");
    });
    Member { stop, task }
}

async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !is().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(timeout(STEP, wait).await.is_ok(), "waited in vain for {what}");
}

/// Whether the rights to the four queues are so many, and all are held, by so many members.
async fn are_held(client: &Client, count: usize, members: usize) -> bool {
    let Ok((_, _, rights)) = client.admin().subscription("s").await else { return false };
    let few: Vec<_> = rights.iter().filter(|right| right.queue.starts_with("few/")).collect();
    let holders: BTreeSet<_> = few.iter().filter_map(|right| right.member.as_ref()).collect();
    let granted = few.iter().all(|right| right.state == "granted");
    granted && (few.len(), holders.len()) == (count, members)
}

async fn publish(client: &Client, round: usize) {
    let producer = client.producer().build();
    for n in 0..PER_KEY {
        for key in 0..KEYS {
            let body = format!("{round}/{key}/{n}");
            producer.send("few.keyed", body).key(format!("k{key}")).await.expect("room");
        }
    }
    producer.flush().await.expect("all stored");
    // Each batch goes to some queue: many batches go to all of them alike.
    for n in 0..KEYLESS {
        producer.send("few.keyless", format!("{round}/-/{n}")).await.expect("room");
        if n % 16 == 15 {
            producer.flush().await.expect("all stored");
        }
    }
}

/// Each message once, and the messages of a key in their order.
fn whole_and_in_order(log: &[Handled], rounds: usize) {
    let bodies: BTreeSet<&str> = log.iter().map(|h| h.body.as_str()).collect();
    assert_eq!((log.len(), bodies.len()), (rounds * (KEYS * PER_KEY + KEYLESS), log.len()));
    let mut last: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for handled in log {
        let Some(key) = &handled.key else { continue };
        let mut parts = handled.body.split('/').map(|part| part.parse::<usize>().ok());
        let (round, n) = (parts.next().flatten().unwrap(), parts.nth(1).flatten().unwrap());
        let before = last.insert(key, (round, n));
        assert!(before < Some((round, n)), "{key}: {before:?} before {:?}", (round, n));
    }
}

#[test]
fn four_queues_feed_thirty_two_members_and_a_stalled_one_stops_nobody() {
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 2);
    let url = up.url();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let client = Client::connect(&url).await.expect("a cluster that answers");
        timeout(LIMIT, play(client)).await.expect("a test that ends");
    });
}

async fn play(client: Client) {
    client.admin().group_create("few", QUEUES, None, None).await.expect("a group");
    client.admin().bind("few.>", "few").await.expect("a binding");
    let log = Log::default();
    let (work, may_work) = watch::channel(true);
    let (wake, may_wake) = watch::channel(false);
    // The first of them stalls: it takes messages and is not done with them.
    let mut members: Vec<Member> = Vec::new();
    for n in 0..MEMBERS {
        let gate = if n == 0 { &may_wake } else { &may_work };
        members.push(join(&client, n, &log, gate));
    }
    until("a range of lanes for each member", async || are_held(&client, MEMBERS, MEMBERS).await)
        .await;

    publish(&client, 0).await;
    let all = KEYS * PER_KEY + KEYLESS;
    // What the stalled one has is known once it is done; the others finish without it.
    let lag = async || client.admin().lag("s").await.map_or(u64::MAX, |lag| lag.lag_messages());
    let handled = || log.lock().expect("no handler panics").len();
    until("everybody but the stalled member to be done", async || {
        lag().await + handled() as u64 == all as u64 && handled() > all * 9 / 10
    })
    .await;
    let by_others = handled();
    assert!(by_others < all, "the stalled member has its share");
    wake.send(true).expect("a member that waits");
    until("the stalled member's share", async || handled() == all && lag().await == 0).await;

    let first: Vec<Handled> = log.lock().expect("no handler panics").clone();
    whole_and_in_order(&first, 1);
    let mut holders: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    let (mut keyed, mut keyless) = (vec![0; MEMBERS], vec![0; MEMBERS]);
    for handled in &first {
        match &handled.key {
            Some(key) => {
                holders.entry(key).or_default().insert(handled.member);
                keyed[handled.member] += 1;
            }
            None => keyless[handled.member] += 1,
        }
    }
    assert!(holders.values().all(|by| by.len() == 1), "a key with two holders: {holders:?}");
    // 100 on average, by chance: of 200 batches to four queues, and of the offsets of each.
    assert!(keyless.iter().all(|n| (40..=180).contains(n)), "keyless: {keyless:?}");
    assert!(keyed.iter().filter(|n| **n > 0).count() > MEMBERS * 9 / 10, "keyed: {keyed:?}");

    // Most of them leave while messages come, and the rest take over what they had.
    let going = members.split_off(2);
    let (published, _) = tokio::join!(publish(&client, 1), async {
        for member in &going {
            member.stop.send(true).expect("a member that runs");
        }
    });
    let () = published;
    for member in going {
        timeout(STEP, member.task).await.expect("a leave in time").expect("an orderly leave");
    }
    until("whole queues for the two that are left", async || {
        are_held(&client, QUEUES as usize, 2).await
    })
    .await;
    publish(&client, 2).await;
    until("all of it to be handled", async || lag().await == 0 && handled() >= 3 * all).await;
    for member in members {
        member.stop.send(true).expect("a member that runs");
        timeout(STEP, member.task).await.expect("a leave in time").expect("an orderly leave");
    }
    drop(work);
    whole_and_in_order(&log.lock().expect("no handler panics"), 3);
    assert!(client.close().await.is_empty());
}
