//! `ringway up` and processes apart: what is printed can be pasted, a second start finds
//! everything, and workers and the coordinator come and go in any order.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Caller, Cluster, LineCounter, Scratch, Signal, Up, http_get};

const LIMIT: Duration = Duration::from_secs(180);

#[test]
fn the_lines_that_up_prints_work_as_they_are() {
    let scratch = Scratch::new(LIMIT);
    let mut up = Up::start(&scratch, 2);
    let ready = up.process().wait_stdout(|line| line.starts_with("ready "));
    assert!(ready.contains(&up.url()), "{ready}");
    assert!(ready.contains(&up.http("")), "{ready}");
    let tls = up.url().split_once("?tls=").map(|(_, dir)| dir.to_owned()).expect("a directory");
    assert!(tls.starts_with('/') && !up.url().contains("token"), "{}", up.url());

    let binary = env!("CARGO_BIN_EXE_ringway-under-test");
    let is_command =
        |line: &str| line.contains(" pub ") || line.contains(" sub ") || line.contains("curl ");
    up.process().wait_stdout(|line| line.contains("/metrics") && is_command(line));
    let printed = up.process().stdout();
    // People may find a word before each line; what is pasted begins with the program.
    let commands: Vec<&str> = printed
        .lines()
        .filter(|line| is_command(line))
        .filter_map(|line| line.find(binary).or_else(|| line.find("curl ")).map(|at| &line[at..]))
        .collect();
    assert_eq!(commands.len(), 3, "publish, subscribe, scrape: {printed}");
    let (publish, rest) = commands.split_first().expect("three lines");
    assert!(publish.starts_with(binary) && rest[0].starts_with(binary), "{printed}");
    scratch.program("sh", ["-c", publish]).named("pasted-pub").ok();
    // In place of the shell, so that it ends with its handle.
    let subscribe = format!("exec {}", rest[0]);
    let member = scratch.program("sh", ["-c", &subscribe]).named("pasted-sub").spawn();
    scratch.until("the published message", || (!member.stdout().is_empty()).then_some(()));
    if scratch.program("sh", ["-c", "command -v curl"]).output().code == 0 {
        let metrics = scratch.program("sh", ["-c", rest[1]]).named("pasted-curl").ok();
        assert!(metrics.contains("ringway_messages_published_total"), "{metrics}");
    }
    assert_eq!(http_get(&up.http("/healthz")).expect("an answer").0, 200);
    assert_eq!(http_get(&up.http("/readyz")).expect("an answer").0, 200);
}

#[test]
fn without_a_url_the_commands_find_up() {
    let scratch = Scratch::new(LIMIT);
    let listen = format!("127.0.0.1:{}", crate::harness::free_ports(2));
    let mut up = scratch.ringway(["up", "--listen", &listen, "--http", "127.0.0.1:0"]).spawn();
    up.wait_stdout(|line| line.starts_with("ready "));
    scratch.ringway(["pub", "a.b", "x"]).ok();
    let seen = scratch.ringway(["sub", "a.>", "--as", "s", "--count", "1"]).json_lines();
    assert_eq!(seen[0]["body"], "x");
    up.stop();
}

#[test]
fn a_second_start_finds_everything() {
    let scratch = Scratch::new(LIMIT);
    let mut up = Up::start(&scratch, 2);
    let url = up.url();
    let caller = up.caller();
    caller.run(&["group", "create", "orders", "--queues", "4"]).ok();
    caller.run(&["bind", "orders.>", "orders"]).ok();
    for n in 0..10 {
        caller.run(&["pub", "orders.new", &n.to_string(), "--key", &n.to_string()]).ok();
    }
    caller.run(&["sub", "orders.>", "--as", "s", "--count", "4"]).ok();
    for kill in [false, true] {
        if kill {
            up.kill()
        } else {
            up.stop()
        }
        up.restart();
        assert_eq!(up.url(), url);
        assert_eq!(caller.json_lines(&["bind", "--list"]).len(), 1);
        assert_eq!(caller.json_lines(&["group", "list"]).len(), 2);
        let name = if kill { "after-kill" } else { "after-stop" };
        assert_eq!(caller.read_all("orders.>", name).len(), 10, "the messages");
    }
    assert_eq!(caller.read_all("orders.>", "s").len(), 6, "the cursor");
}

#[test]
fn a_signal_ends_it_cleanly_while_members_and_publishers_are_connected() {
    let scratch = Scratch::new(LIMIT);
    let mut up = Up::start(&scratch, 1);
    let caller = up.caller();
    let mut member = caller.member("a.>", "s", "m1", &[]);
    caller.publish("a.b", "x");
    member.wait_stdout(|line| line.contains("\"x\""));
    up.stop();
    // The member is no part of it: it waits, and goes on when the cluster is back.
    assert!(member.is_running());
    up.restart();
    caller.publish("a.b", "y");
    member.wait_stdout(|line| line.contains("\"y\""));
    let bodies = member.stop().json_lines();
    assert_eq!(bodies.len(), 2, "{bodies:?}");

    up.process().signal(Signal::INT);
    scratch.until("its end", || (!up.process().is_running()).then_some(()));
}

#[test]
fn workers_may_start_before_the_coordinator() {
    let scratch = Scratch::new(LIMIT);
    let mut cluster = Cluster::prepare(&scratch, 2);
    cluster.start_worker(0);
    cluster.start_worker(1);
    let readyz = format!("http://{}/readyz", cluster.address(1));
    assert_eq!(http_get(&readyz).expect("an answer").0, 503, "not registered yet");
    cluster.start_coordinator();
    cluster.wait_workers(2);
    cluster.caller().wait_serving();
    scratch.until("the worker to be ready", || (http_get(&readyz)?.0 == 200).then_some(()));
    cluster.caller().publish("a.b", "x");
    cluster.stop_all();
}

#[test]
fn a_lost_coordinator_stops_no_message() {
    let scratch = Scratch::new(LIMIT);
    let mut cluster = Cluster::start(&scratch, 2);
    let caller = cluster.caller();
    let mut members = ["m1", "m2"].map(|m| caller.member("a.>", "s", m, &[]));
    scratch.until("a fair share for both", || {
        let described = caller.json(&["subscription", "describe", "s"]);
        let fair = described["members"].as_array()?.iter().all(|member| member["rights"] == 8);
        let rights = described["rights"].as_array()?;
        (fair && rights.iter().all(|right| right["state"] == "granted")).then_some(())
    });
    let args = ["pub", "--class-field", "a.{n}", "--key-field", "n"];
    let mut publisher = caller.run(&args).stdin_pipe().spawn();
    let mut printed = LineCounter::new(members.iter().map(|m| m.stdout_path()));
    let mut said = 0;
    let mut say_and_see = |n: usize| {
        for _ in 0..n {
            publisher.say(&format!("{{\"n\":{said}}}"));
            said += 1;
        }
        scratch.until("what was said to be delivered", || (printed.count() >= said).then_some(()));
        said
    };
    say_and_see(40);
    let epochs = epochs_of(&caller);
    cluster.kill_coordinator();
    say_and_see(40);
    cluster.start_coordinator();
    cluster.wait_workers(2);
    let said = say_and_see(40);
    assert_eq!(epochs_of(&caller), epochs, "nobody lost a right over it");
    publisher.finish().exits(0);
    let third = caller.member("a.>", "s", "m3", &[]);
    members[0].kill();
    let [first, second] = members;
    let mut all = first.json_lines();
    all.extend(second.stop().json_lines());
    all.extend(third.stop().json_lines());
    let offsets: std::collections::BTreeSet<String> =
        all.iter().map(|m| format!("{}@{}", m["queue"], m["offset"])).collect();
    assert_eq!(offsets.len(), said);
}

fn epochs_of(caller: &Caller<'_>) -> BTreeMap<String, Value> {
    let described = caller.json(&["subscription", "describe", "s"]);
    let rights = described["rights"].as_array().expect("rights");
    rights.iter().map(|r| (r["queue"].to_string(), r["epoch"].clone())).collect()
}

#[test]
fn queues_move_to_workers_that_come_later_empty_or_with_messages() {
    let scratch = Scratch::new(LIMIT);
    let mut cluster = Cluster::prepare(&scratch, 4);
    let caller = cluster.caller();
    cluster.start_coordinator();
    for worker in 0..3 {
        cluster.start_worker(worker);
        cluster.wait_workers(worker + 1);
    }
    scratch.until("16 queues on three workers", || {
        let mut queues: Vec<u64> = caller.queues_by_worker().into_values().collect();
        queues.sort_unstable();
        (queues == [5, 5, 6]).then_some(())
    });
    caller.wait_serving();
    let status = caller.json(&["cluster", "status"]);
    assert_eq!(status["moves"], status["lower_bound"], "{status}");

    // A message in every queue.
    let lines: String = (0..400).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    caller.run(&["pub", "--class-field", "a.{n}", "--key-field", "n"]).stdin(lines).ok();
    scratch.until("every queue to have data", || {
        let described = caller.json(&["group", "describe", "default"]);
        let queues = described["queues"].as_array()?;
        queues.iter().all(|queue| queue["has_data"] == true).then_some(())
    });
    cluster.start_worker(3);
    cluster.wait_workers(4);
    scratch.until("16 queues on four workers", || {
        let queues: Vec<u64> = caller.queues_by_worker().into_values().collect();
        (queues == [4; 4]).then_some(())
    });
    let status = caller.json(&["cluster", "status"]);
    assert_eq!(status["moves"], status["lower_bound"], "{status}");
    assert_eq!(caller.read_all("a.>", "reader").len(), 400);
}

#[test]
fn a_killed_workers_queues_wait_until_it_is_back_with_all_that_was_acked() {
    let scratch = Scratch::new(LIMIT);
    let mut cluster = Cluster::start(&scratch, 2);
    let caller = cluster.caller();
    let lines: String = (0..200).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    caller.run(&["pub", "--class-field", "a.{n}", "--key-field", "n"]).stdin(lines).ok();
    let before = caller.queues_by_worker();
    cluster.kill_worker(1);
    cluster.wait_workers(1);
    assert_eq!(caller.queues_by_worker(), before, "its queues stay its own");
    let (here, there) = scratch.until("its queues to be said to wait", || {
        let described = caller.json(&["group", "describe", "default"]);
        let queues = described["queues"].as_array()?;
        let those = |state: &str| queues.iter().filter(|q| q["state"] == state).count();
        (those("waiting for w2") > 0).then(|| (those("serving"), those("waiting for w2")))
    });
    assert_eq!((here, there), (8, 8));

    let mut member = caller.member("a.>", "s", "m1", &["--count", "200"]);
    let mut printed = LineCounter::new([member.stdout_path()]);
    scratch.until("what the other worker has", || (printed.count() > 0).then_some(()));
    assert!(member.is_running() && printed.count() < 200);
    cluster.start_worker(1);
    let seen = member.finish().exits(0).json_lines();
    let bodies: std::collections::BTreeSet<String> =
        seen.iter().map(|m| m["body"].to_string()).collect();
    assert_eq!(bodies.len(), 200);
}
