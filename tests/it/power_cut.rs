//! Everything is killed at once while a publisher is at it, and comes back on the same
//! directories: what was acked is there, nothing is there twice, and the publisher rides it out.

use std::time::Duration;

use crate::checker::{Printed, check, receipts, receipts_are_complete};
use crate::flights::{Flights, described};
use crate::harness::{Cluster, LineCounter, Scratch, heavy, read};

#[test]
fn what_was_acked_survives_the_kill_of_everything_and_nothing_is_there_twice() {
    let _turn = heavy();
    let scratch = Scratch::new(Duration::from_secs(600));
    let flights = Flights::all(&scratch);
    let n = flights.len();
    let mut cluster = Cluster::start(&scratch, 3);
    let caller = cluster.caller();

    let file = scratch.path("receipts");
    let rate = (n / 8).clamp(1, 15_000).to_string();
    let publisher = caller.flights(&flights.file, &file, &["--rate", &rate]);
    let mut acked = LineCounter::new([&file]);
    for part in [n / 4, n / 2] {
        scratch.until("receipts before the cut", || (acked.count() >= part).then_some(()));
        cluster.kill_all();
        cluster.start_all();
    }
    let summary = publisher.finish().exits(0).json_lines().remove(0);
    assert_eq!((&summary["acked"], &summary["unknown"]), (&n.into(), &0.into()), "{summary}");

    let receipts = receipts(&read(&file));
    receipts_are_complete(&receipts, n);
    let seen = Printed::new("reader", caller.read_all("flights.>", "after"));
    let verdict = check(&flights.lines, described, &receipts, &[seen]);
    verdict.holds();
    assert_eq!((verdict.acked, verdict.delivered, verdict.again.len()), (n, n, 0));
}
