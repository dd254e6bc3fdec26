//! A group grows under load, while a worker and the coordinator are killed in the middle. Nothing
//! is lost, and the order of each key holds over all queues of the group, also for a subscription
//! that begins later.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use crate::checker::{Delivered, Printed, receipts, receipts_are_complete};
use crate::flights::{Flights, described};
use crate::harness::{Cluster, LineCounter, Scratch, heavy, read};

const LIMIT: Duration = Duration::from_secs(300);
const N: usize = 6000;

/// Asserts that one reader got every line, the lines of each key in their order over all queues.
fn holds(flights: &Flights, deliveries: &[Delivered]) {
    let line_of: BTreeMap<&str, usize> =
        flights.lines.iter().enumerate().map(|(n, line)| (line.as_str(), n)).collect();
    let mut newest: BTreeMap<String, usize> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for delivered in deliveries {
        let line = line_of[delivered.body.as_str()];
        if !seen.insert(line) {
            continue;
        }
        let key = described(&delivered.body).1.expect("flights have keys");
        let before = newest.insert(key.clone(), line);
        assert!(before.is_none_or(|before| before < line), "key {key}: {line} after {before:?}");
    }
    assert_eq!(seen.len(), flights.len(), "every line arrives");
    let queues: BTreeSet<&str> = deliveries.iter().map(|d| d.queue.as_str()).collect();
    assert_eq!(queues.len(), 8, "{queues:?}");
}

#[test]
fn a_group_grows_under_load_while_a_worker_and_the_coordinator_are_killed() {
    let _turn = heavy();
    let scratch = Scratch::new(LIMIT);
    let mut cluster = Cluster::start(&scratch, 2);
    let caller = cluster.caller();
    caller.run(&["group", "create", "flights", "--queues", "4"]).ok();
    caller.run(&["bind", "flights.>", "flights"]).ok();
    caller.wait_serving();

    let flights = Flights::first(&scratch, N);
    let member = caller.member("flights.>", "delays", "m1", &[]);
    let file = scratch.path("receipts");
    let mut publisher = caller.flights(&flights.file, &file, &["--rate", "600"]);
    let mut acked = LineCounter::new([&file]);
    let mut wait_acked = |n: usize| {
        scratch.until(&format!("{n} receipts"), || (acked.count() >= n).then_some(()));
    };

    wait_acked(N / 4);
    cluster.kill_worker(1);
    let mut grow = caller.run(&["group", "grow", "flights", "--queues", "8"]).named("grow").spawn();
    let growing = || caller.json(&["group", "describe", "flights"])["growing"].clone();
    scratch.until("the group to wait for its worker", || {
        growing()["waits"].as_str().is_some_and(|who| who.contains("w2")).then_some(())
    });
    cluster.kill_coordinator();
    cluster.start_coordinator();
    cluster.start_worker(1);
    scratch.until("the group to have grown", || {
        (!grow.is_running() && growing() == Value::Null).then_some(())
    });
    grow.finish().exits(0);
    let shrink = caller.run(&["group", "grow", "flights", "--queues", "2"]);
    shrink.output().refused(2, "invalid-option", &["cannot shrink to 2"]);

    scratch.until("the publisher's end", || (!publisher.is_running()).then_some(()));
    let summary = publisher.finish().exits(0).json_lines().remove(0);
    assert_eq!(summary["acked"], N, "{summary}");
    receipts_are_complete(&receipts(&read(&file)), N);
    let mut printed = LineCounter::new([member.stdout_path()]);
    scratch.until("everything to be printed", || (printed.count() >= N).then_some(()));
    holds(&flights, &Printed::new("m1", member.stop().json_lines()).deliveries);
    let later = caller.read_all("flights.>", "later");
    holds(&flights, &Printed::new("later", later).deliveries);
}
