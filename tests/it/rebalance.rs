//! Members and a worker come, go and are killed while flights are published: nothing is lost,
//! each tail number's flights come in order, and no more moves than must.

use std::time::Duration;

use serde_json::Value;

use crate::checker::{Printed, check, receipts, receipts_are_complete};
use crate::flights::{Flights, described};
use crate::harness::{Caller, Cluster, LineCounter, Process, Scratch, heavy, read};

/// The most that a member may hold unacked, in messages.
const CREDIT: usize = 1000;
/// Publishing is spread over at least this many seconds, so that the events fall inside it.
const SPREAD_SECONDS: usize = 12;

/// The moves so far, once `members` share the rights of `delays` evenly, all are granted, and the
/// moves are as few as they can be.
fn settled(scratch: &Scratch, caller: &Caller<'_>, members: usize) -> u64 {
    scratch.until("moves to equal their lower bound", || {
        let described = caller.json(&["subscription", "describe", "delays"]);
        let rights = described["rights"].as_array()?;
        let calm = rights.iter().all(|right| right["state"] == "granted");
        let held: Vec<u64> =
            described["members"].as_array()?.iter().filter_map(|m| m["rights"].as_u64()).collect();
        let fair = held.len() == members && held.iter().max()? - held.iter().min()? <= 1;
        let status = caller.json(&["cluster", "status"]);
        let equal = status["moves"] == status["lower_bound"];
        (calm && fair && equal).then(|| status["moves"].as_u64()).flatten()
    })
}

fn rights_of(caller: &Caller<'_>, member: &str) -> u64 {
    let described = caller.json(&["subscription", "describe", "delays"]);
    let rights = described["rights"].as_array().expect("rights");
    rights.iter().filter(|right| right["member"] == member).count() as u64
}

#[test]
fn nothing_is_lost_or_reordered_while_members_and_a_worker_come_and_go() {
    let _turn = heavy();
    let scratch = Scratch::new(Duration::from_secs(900));
    let flights = Flights::all(&scratch);
    let n = flights.len();
    let mut cluster = Cluster::start(&scratch, 3);
    let caller = cluster.caller();
    let join = |member: &str| caller.member("flights.>", "delays", member, &[]);
    let mut members: Vec<(String, Process)> =
        ["m1", "m2", "m3", "m4"].map(|m| (m.to_owned(), join(m))).into();
    let before_join = settled(&scratch, &caller, 4);

    let receipts_file = scratch.path("receipts");
    let rate = (n / SPREAD_SECONDS).clamp(1, 10_000).to_string();
    let publisher = caller.flights(&flights.file, &receipts_file, &["--rate", &rate]);
    let mut acked = LineCounter::new([&receipts_file]);
    let mut wait_acked = |n: usize| {
        scratch.until(&format!("{n} receipts"), || (acked.count() >= n).then_some(()));
    };

    wait_acked(n / 3);
    members.push(("m5".to_owned(), join("m5")));
    let after_join = settled(&scratch, &caller, 5);
    // 16 rights at four members of 4 each: the fifth gets 3, one from each of three.
    assert_eq!(after_join - before_join, 3, "rights that moved to the member that joined");

    wait_acked(n / 2);
    let held = rights_of(&caller, "m2");
    members[1].1.kill();
    let after_kill = settled(&scratch, &caller, 4);
    assert_eq!(after_kill - after_join, held, "only the killed member's rights moved");

    wait_acked(n * 2 / 3);
    cluster.kill_worker(1);
    cluster.start_worker(1);

    let summary = publisher.finish().exits(0).json_lines().remove(0);
    assert_eq!(summary["acked"], n, "{summary}");
    let receipts = receipts(&read(&receipts_file));
    receipts_are_complete(&receipts, n);

    let mut printed_lines = LineCounter::new(members.iter().map(|(_, p)| p.stdout_path()));
    scratch.until("all members to have printed as many", || {
        (printed_lines.count() >= n).then_some(())
    });
    // With redeliveries among them that number is reached early; the lag tells the end.
    scratch.until("the lag to be gone", || (lag(&caller, "delays") == 0).then_some(()));
    assert_eq!(settled(&scratch, &caller, 4), after_kill, "the worker's kill moved nothing");

    let printed: Vec<Printed> = members
        .into_iter()
        .map(|(member, process)| {
            let lines =
                if member == "m2" { process.json_lines() } else { process.stop().json_lines() };
            Printed::new(&member, lines)
        })
        .collect();
    let verdict = check(&flights.lines, described, &receipts, &printed);
    verdict.holds();
    assert_eq!((verdict.acked, verdict.delivered), (n, n));
    let from_member = verdict.again_after("m2");
    assert!(from_member <= CREDIT, "{from_member} redeliveries after the member's kill");
    assert_eq!(
        verdict.again.len(),
        from_member,
        "redeliveries that no member's kill explains: {:?}",
        verdict.again.iter().filter(|a| a.before != "m2").take(5).collect::<Vec<_>>()
    );

    sees_all_exactly_once(&caller, &flights, "later");
}

/// A subscription that starts now from the start.
fn sees_all_exactly_once(caller: &Caller<'_>, flights: &Flights, name: &str) {
    let lines: Vec<Value> = caller.read_all("flights.>", name);
    assert_eq!(lines.len(), flights.len(), "each line once");
    let mut bodies: Vec<&str> = lines.iter().filter_map(|line| line["body"].as_str()).collect();
    bodies.sort_unstable();
    let mut published: Vec<&str> = flights.lines.iter().map(String::as_str).collect();
    published.sort_unstable();
    assert!(bodies == published, "the lines that were published, as they were");
}

fn lag(caller: &Caller<'_>, name: &str) -> u64 {
    let lines = caller.json_lines(&["subscription", "lag", name]);
    lines.iter().filter_map(|line| line["lag_messages"].as_u64()).sum()
}
