//! Every command: its exit codes, tables against `--json`, and what groups, bindings and the
//! class ring do to where messages go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Caller, Output, Process, Scratch, Up};

const LIMIT: Duration = Duration::from_secs(240);

/// Every command, as it is asked of a cluster that has group `orders` and subscription `s`.
const COMMANDS: [&[&str]; 14] = [
    &["pub", "a.b", "body"],
    &["sub", "a.>", "--as", "s", "--idle-exit", "1s"],
    &["group", "list"],
    &["group", "describe", "orders"],
    &["group", "create", "orders", "--queues", "4"],
    &["group", "delete", "orders", "--dry-run"],
    &["bind", "a.>", "default"],
    &["bind", "--list"],
    &["subscription", "list"],
    &["subscription", "describe", "s"],
    &["subscription", "lag", "s"],
    &["cluster", "status"],
    &["cluster", "workers"],
    &["plan"],
];

fn field<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_else(|| panic!("no text {key} in {value}"))
}

/// The group in which a message of this class is stored now.
fn stored_in(caller: &Caller<'_>, class: &str) -> String {
    let receipt = caller.run(&["pub", class, class, "--json"]).json();
    field(&receipt, "queue").split('/').next().unwrap_or_default().to_owned()
}

#[test]
fn every_command_ends_with_0_when_it_is_done_and_speaks_json() {
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 2);
    let caller = up.caller();
    caller.run(&["group", "create", "orders", "--queues", "4"]).ok();
    caller.run(&["sub", "a.>", "--as", "s", "--idle-exit", "1s"]).ok();
    for command in COMMANDS {
        caller.run(command).output().exits(0);
        // Panics where a line is no JSON.
        caller.run(command).arg("--json").output().exits(0).json_lines();
    }
    scratch.ringway(["tls", "init", scratch.path("ca").to_str().unwrap()]).ok();
    scratch.ringway(["tls", "init", scratch.path("ca").to_str().unwrap()]).ok();
}

#[test]
fn a_line_in_a_pipe_for_each_object_of_json() {
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 2);
    let caller = up.caller();
    caller.run(&["group", "create", "orders", "--queues", "4"]).ok();
    caller.run(&["bind", "orders.>", "orders"]).ok();
    for name in ["s", "t"] {
        caller.run(&["sub", "a.>", "--as", name, "--idle-exit", "1s"]).ok();
    }
    let lists: [(&[&str], &str, &[&str]); 4] = [
        (&["group", "list"], "name", &["default", "orders"]),
        (&["bind", "--list"], "filter", &["orders.>"]),
        (&["subscription", "list"], "name", &["s", "t"]),
        (&["cluster", "workers"], "worker", &["w1", "w2"]),
    ];
    for (command, key, wanted) in lists {
        let objects = caller.json_lines(command);
        let names: BTreeSet<&str> = objects.iter().map(|o| field(o, key)).collect();
        assert_eq!(names, wanted.iter().copied().collect(), "{command:?}");
        let table = caller.run(command).ok();
        assert_eq!(table.lines().count(), wanted.len(), "{table}");
        for name in wanted {
            let cells = |line: &str| line.split('\t').any(|cell| cell == *name);
            assert!(table.lines().any(cells), "{name} in {table}");
        }
    }
}

#[test]
fn what_cannot_be_meant_is_2_and_what_is_refused_is_1() {
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 1);
    let caller = up.caller();
    for usage in [
        &[][..],
        &["nonsense"],
        &["pub"],
        &["sub", "a.>"],
        &["group", "create"],
        &["bind", "a.>"],
        &["cluster"],
        &["worker"],
        &["sub", "a.>", "--as", "s", "--idle-exit", "soon"],
    ] {
        caller.run(usage).output().exits(2);
    }
    for help in [&["--help"][..], &["-h"], &["--version"], &["pub", "--help"], &["group", "-h"]] {
        assert!(!caller.run(help).ok().is_empty());
    }
    caller.run(&["group", "describe", "order"]).output().refused(1, "unknown-group", &["order"]);
    caller.run(&["group", "create", "../x"]).output().refused(1, "invalid-name", &["../x"]);
    let unknown = caller.run(&["subscription", "lag", "nobody"]).output();
    unknown.refused(1, "unknown-subscription", &["nobody"]);
    caller.run(&["subscription", "describe", "nobody"]).output().exits(1);
    let json = caller.run(&["group", "describe", "order", "--json"]).output().exits(1);
    let error: Value = serde_json::from_str(json.stderr.trim()).expect("one object");
    assert_eq!(error["error"]["code"], "unknown-group");
    assert!(!field(&error["error"], "hint").is_empty());
}

#[test]
fn a_binding_overrides_the_ring_for_what_comes_later() {
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 2);
    let caller = up.caller();
    let said = caller.run(&["group", "create", "orders", "--queues", "4"]).ok();
    assert!(said.contains("orders") && said.contains('4'), "what changed: {said}");
    assert!(said.contains("ringway bind"), "what comes next: {said}");
    caller.run(&["group", "create", "orders", "--queues", "4"]).ok();
    let unlike = caller.run(&["group", "create", "orders", "--queues", "5"]).output();
    unlike.refused(1, "conflict", &["4", "5"]);

    assert_eq!(stored_in(&caller, "orders.new"), "default");
    let member = caller.member("orders.>", "billing", "m1", &["--count", "3"]);
    caller.run(&["bind", "orders.>", "orders"]).ok();
    assert_eq!(stored_in(&caller, "orders.paid"), "orders");
    assert_eq!(stored_in(&caller, "others.paid"), "default");
    // The more specific of two bindings wins.
    caller.run(&["bind", "orders.new.*", "default"]).ok();
    assert_eq!(stored_in(&caller, "orders.new.x"), "default");
    let route = caller.json(&["route", "orders.new.x"]);
    assert_eq!((field(&route, "group"), field(&route, "binding")), ("default", "orders.new.*"));

    // What was stored before the binding is still delivered, beside what came after it, both to
    // a member that was there and to a subscription that starts now.
    let wanted = BTreeSet::from(["orders.new", "orders.paid", "orders.new.x"].map(str::to_owned));
    let bodies = |lines: Vec<Value>| -> BTreeSet<String> {
        lines.iter().map(|line| field(line, "body").to_owned()).collect()
    };
    assert_eq!(bodies(member.finish().exits(0).json_lines()), wanted);
    assert_eq!(bodies(caller.read_all("orders.>", "later")), wanted);

    let unknown = caller.run(&["bind", "x.>", "order"]).output();
    unknown.refused(1, "unknown-group", &["orders"]);
}

#[test]
fn a_new_ring_group_takes_its_share_of_the_families_and_nothing_else_moves() {
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 2);
    let caller = up.caller();
    let classes: Vec<String> = (0..24).map(|n| format!("family{n}.x")).collect();
    let groups = |caller: &Caller<'_>| -> BTreeMap<String, String> {
        let group = |class: &String| field(&caller.json(&["route", class]), "group").to_owned();
        classes.iter().map(|class| (class.clone(), group(class))).collect()
    };
    let taken_by = |groups: &BTreeMap<String, String>, name: &str| -> BTreeSet<String> {
        groups.iter().filter(|(_, g)| *g == name).map(|(c, _)| c.clone()).collect()
    };
    caller.publish(&classes[0], "before");
    for (name, weight) in [("east", "100"), ("west", "100")] {
        let before = groups(&caller);
        let create = ["group", "create", name, "--queues", "4", "--ring-weight", weight];
        caller.run(&create).ok();
        let after = groups(&caller);
        let taken = taken_by(&after, name);
        assert!(!taken.is_empty() && taken.len() < classes.len(), "{name} took {}", taken.len());
        for (class, group) in &after {
            assert!(group == name || before[class] == *group, "{class} moved to {group}");
        }
    }
    // What is told is what is done.
    for (class, group) in groups(&caller).iter().take(8) {
        assert_eq!(stored_in(&caller, class), *group, "{class}");
    }
    let family = [&classes[0].replace(".x", ".>"), "reader"];
    let seen = caller.read_all(family[0], family[1]);
    assert!(seen.iter().any(|m| m["body"] == "before"), "delivered from the old group");
}

#[test]
fn a_group_goes_only_when_its_name_is_said_and_nothing_is_bound_to_it() {
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 1);
    let caller = up.caller();
    caller.run(&["group", "create", "orders", "--queues", "4"]).ok();
    caller.run(&["bind", "orders.>", "orders"]).ok();
    caller.publish("orders.new", "x");
    let delete = |more: &[&str]| -> Output {
        caller.run(&[&["group", "delete", "orders"], more].concat()).output()
    };
    // What would be refused is refused in a rehearsal too.
    for more in [&["--dry-run"][..], &["--yes", "orders"]] {
        delete(more).refused(1, "in-use", &["orders.>"]);
    }
    caller.run(&["bind", "orders.>", "default"]).ok();
    delete(&["--dry-run"]).exits(0);
    delete(&[]).refused(2, "usage", &["orders"]);
    delete(&["--yes", "order"]).exits(2);
    caller.run(&["group", "describe", "orders"]).ok();
    delete(&["--yes", "orders"]).exits(0);
    caller.run(&["group", "describe", "orders"]).output().refused(1, "unknown-group", &[]);
    let default = caller.run(&["group", "delete", "default", "--yes", "default"]).output();
    assert_eq!(default.code, 1, "{default:?}");
    assert_eq!(stored_in(&caller, "orders.new"), "default");
}

#[test]
fn lag_counts_what_is_not_acked() {
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 2);
    let caller = up.caller();
    caller.member("a.>", "s", "m1", &[]).stop();
    let lines: String = (0..40).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    caller.run(&["pub", "--class-field", "a.{n}", "--key-field", "n"]).stdin(lines).ok();
    caller.publish("b.x", "not for s");
    let lag = |caller: &Caller<'_>| -> u64 {
        let lines = caller.json_lines(&["subscription", "lag", "s"]);
        lines.iter().filter_map(|line| line["lag_messages"].as_u64()).sum()
    };
    // Beyond the read position it is an upper bound.
    assert!((40..=41).contains(&lag(&caller)), "{}", lag(&caller));
    caller.run(&["sub", "a.>", "--as", "s", "--count", "15"]).ok();
    assert!((25..=26).contains(&lag(&caller)), "{}", lag(&caller));
    caller.run(&["sub", "a.>", "--as", "s", "--count", "25"]).ok();
    assert!(lag(&caller) <= 1, "{}", lag(&caller));
}

#[test]
fn an_unreachable_cluster_is_3_for_every_command() {
    let scratch = Scratch::new(LIMIT);
    scratch.ringway(["tls", "init", scratch.path("ca").to_str().unwrap()]).ok();
    let port = crate::harness::free_ports(1);
    let url = format!("ringway://127.0.0.1:{port}?tls={}", scratch.path("ca").display());
    let caller = Caller::new(&scratch, &url);
    let started: Vec<Process> =
        COMMANDS.iter().map(|command| caller.run(command).spawn()).collect();
    for process in started {
        let address = format!("127.0.0.1:{port}");
        process.finish().refused(3, "unreachable", &[&address, "RINGWAY_URL"]);
    }
    // Without a URL and without `up`, there is nothing to reach.
    scratch.ringway(["cluster", "status"]).output().exits(3);
    caller.run(&["cluster", "status", "--url", "nonsense"]).output().exits(2);
}
