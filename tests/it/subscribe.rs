//! What `ringway sub` promises to programs: where it starts, when it stops, what it gives back,
//! and what two of the same do to each other.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Caller, LineCounter, Scratch, Up};

const LIMIT: Duration = Duration::from_secs(180);

/// Publishes bodies `m0`… of one class, spread over the queues.
fn publish(caller: &Caller<'_>, n: usize) {
    let lines: Vec<String> = (0..n).map(|i| format!(r#"{{"n":"m{i}"}}"#)).collect();
    let args = ["pub", "--class-field", "a.{n}", "--key-field", "n"];
    caller.run(&args).stdin(lines.join("\n") + "\n").ok();
}

fn bodies(lines: &[Value]) -> BTreeSet<&str> {
    lines.iter().map(|line| line["body"].as_str().expect("a body in UTF-8")).collect()
}

#[test]
fn count_is_exact_and_what_is_left_goes_to_the_next() {
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 1);
    let caller = up.caller();
    publish(&caller, 10);
    let first = caller.run(&["sub", "a.>", "--as", "s", "--count", "3"]).json_lines();
    let second = caller.run(&["sub", "a.>", "--as", "s", "--count", "7"]).json_lines();
    assert_eq!((first.len(), second.len()), (3, 7));
    assert!(bodies(&first).is_disjoint(&bodies(&second)), "an acked message came again");
    assert!(caller.read_all("a.>", "s").is_empty(), "nothing is left");
}

#[test]
fn from_now_sees_only_what_comes_after_and_from_is_ignored_for_what_exists() {
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 1);
    let caller = up.caller();
    caller.publish("a.b", "old");
    let now = caller.member("a.>", "s", "m1", &["--from", "now", "--count", "1"]);
    caller.publish("a.b", "new");
    assert_eq!(bodies(&now.finish().exits(0).json_lines()), BTreeSet::from(["new"]));

    let again = ["sub", "a.>", "--as", "s", "--from", "start", "--idle-exit", "1s"];
    let output = caller.run(&again).output().exits(0);
    assert!(output.stdout.is_empty(), "the cursor stays: {}", output.stdout);
    assert!(output.stderr.contains("--from"), "a notice that it is ignored: {}", output.stderr);
}

#[test]
fn ack_none_gives_everything_back_and_prints_at_most_the_credit() {
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 1);
    let caller = up.caller();
    publish(&caller, 1500);
    let look = ["sub", "a.>", "--as", "look", "--ack", "none", "--idle-exit", "2s"];
    let seen = caller.run(&look).json_lines();
    assert!((1..=1000).contains(&seen.len()), "{} printed", seen.len());
    assert_eq!(bodies(&seen).len(), seen.len(), "nothing twice");
    let all = caller.run(&["sub", "a.>", "--as", "look", "--count", "1500"]).json_lines();
    assert_eq!(bodies(&all).len(), 1500, "all of it is still there");

    caller.run(&["sub", "a.>", "--as", "keyed", "--count", "1"]).ok();
    let mut refused = look;
    refused[3] = "keyed";
    let output = caller.run(&refused).output().exits(1);
    assert!(output.stderr.starts_with("error["), "{}", output.stderr);
    assert!(output.stderr.contains("order"), "the reason: {}", output.stderr);
}

#[test]
fn the_newer_of_two_with_one_member_id_takes_over() {
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 1);
    let caller = up.caller();
    let older = caller.member("a.>", "s", "m1", &[]);
    let newer = caller.member("a.>", "s", "m1", &["--count", "20"]);
    let older = older.finish().refused(1, "superseded", &["m1"]);
    publish(&caller, 20);
    assert_eq!(bodies(&newer.finish().exits(0).json_lines()).len(), 20);
    assert!(older.stdout.is_empty());
}

#[test]
fn rights_move_to_who_joins_and_back_when_it_leaves() {
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 1);
    let caller = up.caller();
    let mut first = caller.member("a.>", "s", "m1", &[]);
    first.wait_stderr(|line| line.starts_with("+ default/15"));
    let mut second = caller.member("a.>", "s", "m2", &[]);
    second.wait_stderr(|line| line.starts_with("+ default/"));
    first.wait_stderr(|line| line.starts_with("- default/"));
    publish(&caller, 200);
    let mut printed = LineCounter::new([first.stdout_path(), second.stdout_path()]);
    scratch.until("200 lines of two members", || (printed.count() >= 200).then_some(()));
    let left = second.stop();
    assert!(!left.stdout.is_empty(), "the second member had a share");

    publish(&caller, 200);
    scratch.until("200 more lines", || (printed.count() >= 400).then_some(()));
    let stayed = first.stop();
    assert_eq!(stayed.json_lines().len() + left.json_lines().len(), 400, "nothing twice");
}

#[test]
fn a_subscription_keeps_its_filter() {
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 1);
    let caller = up.caller();
    caller.member("a.>", "s", "m1", &[]).stop();
    let other = ["sub", "b.>", "--as", "s", "--idle-exit", "1s"];
    caller.run(&other).output().refused(1, "conflict", &["a.>", "b.>"]);
}

#[test]
fn filters_take_one_token_or_all_that_follow() {
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 1);
    let caller = up.caller();
    for class in ["a.b", "a.b.c", "a.x.c", "z.b"] {
        caller.publish(class, class);
    }
    for (name, filter, wanted) in [
        ("one", "a.*.c", &["a.b.c", "a.x.c"][..]),
        ("rest", "a.>", &["a.b", "a.b.c", "a.x.c"]),
        ("all", ">", &["a.b", "a.b.c", "a.x.c", "z.b"]),
        ("exact", "z.b", &["z.b"]),
        ("none", "a", &[]),
    ] {
        let seen = caller.read_all(filter, name);
        assert_eq!(bodies(&seen), wanted.iter().copied().collect(), "{filter}");
    }
}

#[test]
fn raw_prints_the_bodies_and_text_a_line_each() {
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 1);
    let caller = up.caller();
    caller.run(&["pub", "a.b", "one", "--key", "k"]).ok();
    caller.run(&["pub", "a.b", "two", "--key", "k"]).ok();
    let printed = |name: &str, format: &str| {
        let args = ["sub", "a.>", "--as", name, "--count", "2", "--format", format];
        caller.run(&args).ok()
    };
    let raw = printed("raw", "raw");
    assert_eq!(raw.replace('\n', ""), "onetwo");
    let text = printed("text", "text");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].contains("a.b") && lines[0].contains("one"), "{text}");
}

#[test]
fn a_reader_that_closes_its_end_is_a_stop_and_loses_nothing() {
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 1);
    let caller = up.caller();
    publish(&caller, 50);
    let command = format!(
        "{{ '{}' sub 'a.>' --as s; echo code=$? >&2; }} | head -n 1",
        env!("CARGO_BIN_EXE_ringway-under-test")
    );
    let output = scratch
        .program("sh", ["-c", &command])
        .env("RINGWAY_URL", caller.url())
        .named("pipe")
        .spawn();
    // `sub` notices the closed pipe when it prints next.
    scratch.until("the end of the pipe", || {
        publish(&caller, 1);
        output.stderr().contains("code=").then_some(())
    });
    let output = output.finish();
    assert!(output.stderr.contains("code=0"), "{}", output.stderr);
}

#[test]
fn a_member_whose_cluster_is_gone_ends_soon_and_says_what_is_confirmed() {
    let scratch = Scratch::new(LIMIT);
    let mut up = Up::start(&scratch, 1);
    let caller = up.caller();
    publish(&caller, 3);
    let mut member = caller.member("a.>", "s", "m1", &[]);
    let mut printed = LineCounter::new([member.stdout_path()]);
    scratch.until("all messages", || (printed.count() == 3).then_some(()));
    scratch.until("the acks", || {
        let lag = caller.json_lines(&["subscription", "lag", "s"]);
        lag.iter().all(|queue| queue["lag_messages"] == 0).then_some(())
    });
    // Synced after the acks were, in the same journal.
    caller.publish("b.c", "x");
    up.kill();
    member.wait_stderr(|line| line.starts_with("connection lost"));
    let asked = Instant::now();
    let left = member.stop();
    assert!(left.stderr.contains("note: every ack is confirmed"), "{}", left.stderr);
    // Far below the 10 s of a leave that somebody answers.
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
}
