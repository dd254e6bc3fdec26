//! Queues move with their messages, under load: a worker joins, one is drained and stopped, and
//! whoever takes part is killed in the middle. Nothing is lost, delivered again or turned round.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::checker::{Printed, check, receipts, receipts_are_complete};
use crate::flights::{Flights, described};
use crate::harness::{Caller, Cluster, LineCounter, Process, Scratch, heavy, read};

const LIMIT: Duration = Duration::from_secs(600);

/// Flights on their way through a cluster to three members.
struct Load<'s> {
    scratch: &'s Scratch,
    caller: Caller<'s>,
    flights: Flights,
    members: Vec<(&'static str, Process)>,
    publisher: Process,
    acked: LineCounter,
}

impl<'s> Load<'s> {
    /// Begins to publish `n` flights within at least `seconds`.
    fn start(scratch: &'s Scratch, caller: &Caller<'s>, n: usize, seconds: usize) -> Self {
        let flights = Flights::first(scratch, n);
        let join = |member| (member, caller.member("flights.>", "delays", member, &[]));
        let members = ["m1", "m2", "m3"].map(join).into();
        let receipts = scratch.path("receipts");
        let rate = (flights.len() / seconds).max(1).to_string();
        let publisher = caller.flights(&flights.file, &receipts, &["--rate", &rate]);
        let acked = LineCounter::new([&receipts]);
        Self { scratch, caller: caller.clone(), flights, members, publisher, acked }
    }

    /// Waits until this many thousandths of it are acked.
    fn wait_acked(&mut self, per_mille: usize) {
        let n = self.flights.len() * per_mille / 1000;
        self.scratch.until(&format!("{n} receipts"), || (self.acked.count() >= n).then_some(()));
    }

    /// The rest of it: everything is acked and delivered once, in order.
    fn finish(mut self) {
        let n = self.flights.len();
        self.scratch.until("the publisher's end", || (!self.publisher.is_running()).then_some(()));
        let summary = self.publisher.finish().exits(0).json_lines().remove(0);
        assert_eq!(summary["acked"], n, "{summary}");
        let receipts = receipts(&read(&self.scratch.path("receipts")));
        receipts_are_complete(&receipts, n);
        let mut printed = LineCounter::new(self.members.iter().map(|(_, p)| p.stdout_path()));
        self.scratch.until("everything to be printed", || (printed.count() >= n).then_some(()));
        self.scratch.until("the lag to be gone", || {
            let lines = self.caller.json_lines(&["subscription", "lag", "delays"]);
            let lag: u64 = lines.iter().filter_map(|line| line["lag_messages"].as_u64()).sum();
            (lag == 0).then_some(())
        });
        let printed: Vec<Printed> = self
            .members
            .drain(..)
            .map(|(member, process)| Printed::new(member, process.stop().json_lines()))
            .collect();
        let verdict = check(&self.flights.lines, described, &receipts, &printed);
        verdict.holds();
        assert_eq!((verdict.acked, verdict.delivered), (n, n));
        assert_eq!(verdict.again.len(), 0, "came again: {:?}", verdict.again.first());
        let again = self.caller.read_all("flights.>", "later");
        assert_eq!(again.len(), n, "whoever comes later sees each line once");
    }
}

fn wait_spread(scratch: &Scratch, caller: &Caller<'_>, wanted: &[(&str, u64)]) {
    let wanted: BTreeMap<String, u64> = wanted.iter().map(|(w, n)| ((*w).to_owned(), *n)).collect();
    scratch.until(&format!("the queues to be spread like {wanted:?}"), || {
        (caller.queues_by_worker() == wanted).then_some(())
    });
}

fn moving(caller: &Caller<'_>) -> Vec<Value> {
    caller.json(&["cluster", "status"])["moving"].as_array().expect("a list").clone()
}

#[test]
fn a_worker_that_joins_gets_its_share_and_a_drained_one_can_be_stopped_under_load() {
    let _turn = heavy();
    let scratch = Scratch::new(LIMIT);
    let mut cluster = Cluster::prepare(&scratch, 4);
    cluster.start_first(3);
    let caller = cluster.caller();
    let mut load = Load::start(&scratch, &caller, 20_000, 16);
    load.wait_acked(250);

    let would = caller.json(&["plan", "--join", "w4"]);
    assert_eq!(
        (&would["lower_bound"], would["moves"].as_array().map(Vec::len)),
        (&4.into(), Some(4))
    );
    cluster.start_worker(3);
    wait_spread(&scratch, &caller, &[("w1", 4), ("w2", 4), ("w3", 4), ("w4", 4)]);
    scratch.until("nothing to be on its way", || moving(&caller).is_empty().then_some(()));
    let moved = would["moves"][0]["queue"].as_str().expect("a queue");
    let why = caller.json(&["explain", moved]);
    assert_eq!((&why["owner"], &why["last_move"]["reason"]), (&"w4".into(), &"joined w4".into()));
    let text = caller.run(&["explain", moved, "--as", "delays"]).ok();
    assert!(text.contains("delays") && text.contains("because"), "{text}");

    load.wait_acked(500);
    assert_eq!(caller.json(&["cluster", "drain", "w2"])["worker"], "w2");
    scratch.until("w2 to be drained", || {
        let workers = caller.json_lines(&["cluster", "workers"]);
        workers.iter().any(|w| w["worker"] == "w2" && w["state"] == "drained").then_some(())
    });
    assert!(caller.run(&["cluster", "workers"]).ok().contains("drained: safe to stop"));
    cluster.stop_worker(1);
    let spread = caller.queues_by_worker();
    assert_eq!(spread["w2"], 0);
    assert!(
        spread.iter().filter(|(w, _)| *w != "w2").all(|(_, n)| [5, 6].contains(n)),
        "{spread:?}"
    );

    load.finish();
    let status = caller.json(&["cluster", "status"]);
    assert_eq!(status["moves"], status["lower_bound"], "{status}");
    let replayed = caller.json(&["plan", "--replay"]);
    let plans = caller.json_lines(&["plan", "--list", "--limit", "1000"]);
    assert_eq!(
        (replayed["same"].as_u64(), plans.len() as u64),
        (status["plan"].as_u64(), status["plan"].as_u64().unwrap_or(0))
    );
    caller.run(&["cluster", "drain", "w9"]).output().refused(2, "invalid-option", &["w9"]);
    caller.run(&["explain", "default/99"]).output().refused(2, "invalid-option", &["99"]);
}

#[test]
fn whoever_is_killed_in_the_middle_of_a_copy_it_goes_on_and_nothing_is_lost() {
    let _turn = heavy();
    let scratch = Scratch::new(LIMIT);
    let mut cluster = Cluster::prepare(&scratch, 4);
    // So slow, with about a mebibyte in each queue, that every kill falls into a copy.
    cluster.set_copy_rate(96 << 10);
    cluster.start_first(3);
    let caller = cluster.caller();
    let pad = "x".repeat(2000);
    let bulk: String = (0..8000).map(|n| format!("{{\"n\":{n},\"pad\":\"{pad}\"}}\n")).collect();
    caller.run(&["pub", "bulk.all", "--key-field", "n"]).stdin(bulk).ok();
    let mut load = Load::start(&scratch, &caller, 20_000, 20);
    load.wait_acked(400);
    cluster.start_worker(3);

    let copied = |what: &str| -> u64 {
        scratch.until(what, || {
            let moving = moving(&caller);
            let copying: Vec<&Value> =
                moving.iter().filter(|m| m["phase"] == "copying" && m["to"] == "w4").collect();
            let bytes: u64 = copying.iter().filter_map(|m| m["copied_bytes"].as_u64()).sum();
            (!copying.is_empty() && bytes > 0).then_some(bytes)
        })
    };
    let first = copied("a copy to be under way");
    cluster.kill_worker(3);
    cluster.start_worker(3);
    let second = copied("the copy to go on after its target was killed");
    assert!(second >= first, "{second} bytes after {first}: a copy goes on where it was");
    let source = moving(&caller)
        .iter()
        .find(|m| m["phase"] == "copying")
        .and_then(|m| m["from"].as_str()?.strip_prefix('w')?.parse::<usize>().ok())
        .expect("a source");
    cluster.kill_worker(source - 1);
    cluster.start_worker(source - 1);
    copied("the copy to go on after its source was killed");
    cluster.kill_coordinator();
    cluster.start_coordinator();
    copied("the copy to go on after the coordinator was killed");

    wait_spread(&scratch, &caller, &[("w1", 4), ("w2", 4), ("w3", 4), ("w4", 4)]);
    load.finish();
    let status = caller.json(&["cluster", "status"]);
    assert_eq!(status["moves"], status["lower_bound"], "{status}");
}
