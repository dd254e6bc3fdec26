//! The SDK against a cluster in a process of its own: publishing, handing out, settling, and the
//! order of each key under concurrency.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringway_client::{Client, Delivery, HandlerError, Message, Order, Start, Subscription};
use tokio::time::timeout;

use crate::harness::{STEP, Scratch, Up};

const LIMIT: Duration = Duration::from_secs(120);

/// Runs `test` with a client of a cluster of two workers.
fn with_client<F>(test: impl FnOnce(Client) -> F)
where
    F: Future<Output = ()>,
{
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 2);
    let url = up.url();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let client = Client::connect(&url).await.expect("a cluster that answers");
        timeout(LIMIT, test(client)).await.expect("a test that ends");
    });
}

async fn next(subscription: &mut Subscription) -> Delivery {
    let next = timeout(STEP, subscription.next()).await.expect("a message in time");
    next.expect("a seat that lasts").expect("a message")
}

/// Asserts that nothing more comes, by a message that is published after everything else under
/// every key that could hold something back.
async fn nothing_before_the_mark(client: &Client, subscription: &mut Subscription, key: &str) {
    client.publish("a.mark", "mark").key(key).await.expect("stored");
    let message = next(subscription).await;
    assert_eq!(message.text().expect("UTF-8"), "mark");
    message.ack().await.expect("an open client");
}

#[test]
fn what_is_published_is_received_with_everything_it_had() {
    with_client(|client| async move {
        let receipt = client
            .publish("a.b", vec![0xff, 0x00])
            .key(b"\xfe")
            .header("source", "dot")
            .header("source", vec![0x80])
            .await
            .expect("stored");
        assert_eq!(receipt.offset, 0);
        let subscribe = client.subscribe("a.>").name("s").from(Start::Start);
        let mut subscription = subscribe.join().await.expect("a seat");
        assert!(subscription.created());
        let message = next(&mut subscription).await;
        assert_eq!(message.class.as_str(), "a.b");
        assert_eq!(message.body.as_ref(), [0xff, 0x00]);
        assert_eq!(message.key.as_deref(), Some(&b"\xfe"[..]));
        let headers: Vec<(&str, &[u8])> =
            message.headers.iter().map(|h| (h.name.as_str(), h.value.as_ref())).collect();
        assert_eq!(headers, [("source", &b"dot"[..]), ("source", &[0x80])]);
        assert_eq!((&*message.queue, message.offset), (receipt.queue.as_str(), receipt.offset));
        assert_eq!(message.delivery, 1);
        message.ack_confirmed().await.expect("a confirmed ack");
        subscription.leave().await.expect("an orderly leave");
        assert!(client.close().await.is_empty());
    });
}

#[test]
fn an_illegal_call_is_refused_before_anything_is_sent() {
    with_client(|client| async move {
        let class = client.publish("a..b", "x").await.expect_err("no class");
        assert_eq!((class.code(), class.is_retryable()), ("invalid-class", false));
        let large = client.publish("a.b", vec![0; (1 << 20) + 1]).await.expect_err("too large");
        assert_eq!(large.code(), "too-large");
        let filter = client.subscribe("a.>.b").name("s").join().await.err().expect("no filter");
        assert_eq!(filter.code(), "invalid-filter");
        let closed = client.clone();
        client.close().await;
        let after = closed.publish("a.b", "x").await.expect_err("a closed client");
        assert!(!after.is_retryable() && !after.is_unknown());
    });
}

#[test]
fn a_nack_comes_again_before_the_next_of_its_key_and_holds_back_no_other() {
    with_client(|client| async move {
        for (key, body) in [("k", "1"), ("k", "2"), ("other", "x")] {
            client.publish("a.b", body).key(key).await.expect("stored");
        }
        let mut subscription = client.subscribe("a.>").name("s").join().await.expect("a seat");
        let (mut of_key, mut of_other) = (Vec::new(), 0);
        while of_key.len() < 3 || of_other < 1 {
            let message = next(&mut subscription).await;
            if message.key.as_deref() == Some(b"other") {
                of_other += 1;
                message.ack().await.expect("an open client");
                continue;
            }
            of_key.push((message.text().expect("UTF-8").to_owned(), message.delivery));
            let again = of_key.len() == 1;
            let settled = if again { message.nack() } else { message.ack() };
            settled.await.expect("an open client");
        }
        let wanted = [("1", 1), ("1", 2), ("2", 1)].map(|(body, n)| (body.to_owned(), n));
        assert_eq!(of_key, wanted);
        nothing_before_the_mark(&client, &mut subscription, "k").await;
    });
}

#[test]
fn nacks_in_a_small_window_keep_the_order_of_a_key_and_block_nothing() {
    with_client(|client| async move {
        for n in 0..40 {
            client.publish("a.b", n.to_string()).key("k").await.expect("stored");
        }
        let subscribe = client.subscribe("a.>").name("s").credit(4);
        let mut subscription = subscribe.join().await.expect("a seat");
        let mut seen = Vec::new();
        while seen.last() != Some(&(39, 1)) {
            let message = next(&mut subscription).await;
            let n: u32 = message.text().expect("UTF-8").parse().expect("a number");
            seen.push((n, message.delivery));
            let fails = n % 13 == 5 && message.delivery <= 3;
            let settled = if fails { message.nack() } else { message.ack() };
            settled.await.expect("an open client");
        }
        let tries = |n: u32| if n % 13 == 5 { 4 } else { 1 };
        let wanted: Vec<(u32, u32)> =
            (0..40).flat_map(|n| (1..=tries(n)).map(move |delivery| (n, delivery))).collect();
        assert_eq!(seen, wanted);
        nothing_before_the_mark(&client, &mut subscription, "k").await;
    });
}

#[test]
fn what_is_dropped_unsettled_or_given_back_comes_again() {
    with_client(|client| async move {
        client.publish("a.b", "dropped").key("k").await.expect("stored");
        client.publish("a.b", "given back").key("l").await.expect("stored");
        let mut subscription = client.subscribe("a.>").name("s").join().await.expect("a seat");
        let mut seen: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        while seen.values().map(Vec::len).sum::<usize>() < 4 {
            let message = next(&mut subscription).await;
            let deliveries = seen.entry(message.text().expect("UTF-8").to_owned()).or_default();
            deliveries.push(message.delivery);
            match (deliveries.len(), message.text().expect("UTF-8")) {
                (1, "dropped") => drop(message),
                (1, _) => message.give_back().await.expect("an open client"),
                _ => message.ack().await.expect("an open client"),
            }
        }
        assert_eq!(seen["dropped"], [1, 2]);
        assert_eq!(seen["given back"], [1, 1], "it was not handled, so it is not counted");
    });
}

#[test]
fn one_message_of_a_key_is_handed_out_until_it_is_acked() {
    with_client(|client| async move {
        for body in ["1", "2"] {
            client.publish("a.b", body).key("k").await.expect("stored");
        }
        client.publish("a.b", "x").key("other").await.expect("stored");
        let mut keyed = client.subscribe("a.>").name("keyed").join().await.expect("a seat");
        let held = [next(&mut keyed).await, next(&mut keyed).await];
        let bodies: Vec<&str> = held.iter().map(|m| m.text().expect("UTF-8")).collect();
        assert!(bodies.contains(&"1") && bodies.contains(&"x"), "{bodies:?}");
        assert!(keyed.try_next().expect("a seat that lasts").is_none());
        for message in held {
            message.ack().await.expect("an open client");
        }
        let second = next(&mut keyed).await;
        assert_eq!(second.text().expect("UTF-8"), "2");

        let subscribe = client.subscribe("a.>").name("loose").order(Order::None);
        let mut loose = subscribe.join().await.expect("a seat");
        let all = [next(&mut loose).await, next(&mut loose).await, next(&mut loose).await];
        assert_eq!(all.len(), 3, "without order all of them at once");
    });
}

#[test]
fn handlers_run_in_order_per_key_and_side_by_side_across_keys() {
    const KEYS: usize = 8;
    const PER_KEY: usize = 40;
    with_client(|client| async move {
        let producer = client.producer().build();
        for n in 0..PER_KEY {
            for key in 0..KEYS {
                let sent = producer.send("a.b", n.to_string()).key(format!("k{key}")).await;
                sent.expect("room");
            }
        }
        let settled = producer.flush().await.expect("all stored");
        assert_eq!(settled.stored, (KEYS * PER_KEY) as u64);

        let seen: Arc<Mutex<BTreeMap<Vec<u8>, Vec<usize>>>> = Arc::default();
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (done, all_done) = tokio::sync::oneshot::channel::<()>();
        let done = Arc::new(Mutex::new(Some(done)));
        let handler = {
            let (seen, most) = (Arc::clone(&seen), Arc::clone(&most));
            move |message: Message| {
                let (seen, running, most, done) =
                    (Arc::clone(&seen), Arc::clone(&running), Arc::clone(&most), Arc::clone(&done));
                async move {
                    let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(now, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    let number: usize = message.text()?.parse()?;
                    // The first try of one message fails; its key waits for it.
                    let fails = number == 3 && message.delivery == 1;
                    running.fetch_sub(1, Ordering::SeqCst);
                    if fails {
                        return Err(HandlerError::new("not yet"));
                    }
                    let mut seen = seen.lock().expect("no handler panics");
                    let key = message.key.as_deref().unwrap_or_default().to_vec();
                    seen.entry(key).or_default().push(number);
                    if seen.values().map(Vec::len).sum::<usize>() == KEYS * PER_KEY
                        && let Some(done) = done.lock().expect("no handler panics").take()
                    {
                        let _ = done.send(());
                    }
                    Ok(())
                }
            }
        };
        let until = async { drop(all_done.await) };
        let subscribe = client.subscribe("a.>").name("s").concurrency(16).until(until);
        let summary = subscribe.for_each(handler).await.expect("a seat that lasts");
        assert_eq!(summary.handled, (KEYS * PER_KEY) as u64, "{summary}");
        assert_eq!(summary.retried, KEYS as u64, "{summary}");
        let seen = seen.lock().expect("no handler panics");
        for (key, numbers) in &*seen {
            assert_eq!(*numbers, (0..PER_KEY).collect::<Vec<_>>(), "{key:?}");
        }
        assert!(most.load(Ordering::SeqCst) > 1, "keys waited for each other");
    });
}

#[test]
fn a_confirmed_ack_is_never_delivered_again() {
    with_client(|client| async move {
        for n in 0..20 {
            client.publish("a.b", n.to_string()).key(n.to_string()).await.expect("stored");
        }
        let join = || client.subscribe("a.>").name("s").member("m").join();
        let mut first = join().await.expect("a seat");
        let mut confirmed = std::collections::BTreeSet::new();
        for _ in 0..10 {
            let message = next(&mut first).await;
            confirmed.insert(message.text().expect("UTF-8").to_owned());
            message.ack_confirmed().await.expect("a confirmed ack");
        }
        first.leave().await.expect("an orderly leave");
        let mut second = join().await.expect("a seat");
        assert!(!second.created());
        for _ in 0..10 {
            let message = next(&mut second).await;
            assert!(!confirmed.contains(message.text().expect("UTF-8")));
            message.ack().await.expect("an open client");
        }
    });
}
