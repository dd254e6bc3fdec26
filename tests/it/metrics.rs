//! `/metrics`: it parses, its names are the documented ones, its counts are what was published,
//! and a real Prometheus scrapes it. What needs a program that is not installed says so and is
//! left out.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Caller, Scratch, Up, free_ports, http_get};

const LIMIT: Duration = Duration::from_secs(180);

/// Names that the documentation promises, one for each part of the system.
const NAMES: [&str; 18] = [
    "ringway_workers",
    "ringway_groups",
    "ringway_queues",
    "ringway_members",
    "ringway_rights",
    "ringway_plan_version",
    "ringway_plans_total",
    "ringway_moves_total",
    "ringway_moves_excess_total",
    "ringway_routing_version",
    "ringway_messages_published_total",
    "ringway_published_bytes_total",
    "ringway_publish_seconds",
    "ringway_messages_delivered_total",
    "ringway_acks_total",
    "ringway_subscription_lag_messages",
    "ringway_queues_led",
    "ringway_journal_sync_seconds",
];

/// Publishes `n` messages and has half of them read, over a subscription that stays.
fn some_traffic(caller: &Caller<'_>, n: usize) -> crate::harness::Process {
    let lines: String = (0..n).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    caller.run(&["pub", "--class-field", "a.{n}", "--key-field", "n"]).stdin(lines).ok();
    let half = (n / 2).to_string();
    caller.run(&["sub", "a.>", "--as", "half", "--count", &half]).ok();
    caller.member("b.>", "stays", "m1", &[])
}

/// The sum of a counter's or gauge's samples over all labels.
fn sum(text: &str, name: &str) -> f64 {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            (series.split('{').next() == Some(name)).then(|| value.parse::<f64>().ok())?
        })
        .sum()
}

/// The types by name, as the exposition says; each name once, with a help text.
fn types(text: &str) -> BTreeMap<&str, &str> {
    let mut types = BTreeMap::new();
    let mut helped = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
            assert!(types.insert(name, kind).is_none(), "two TYPE lines for {name}");
        }
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            assert!(help.len() > 10, "a help text for {name}");
            assert!(helped.insert(name, help).is_none(), "two HELP lines for {name}");
        }
    }
    assert_eq!(types.keys().collect::<Vec<_>>(), helped.keys().collect::<Vec<_>>());
    types
}

#[test]
fn metrics_count_what_was_published_delivered_and_acked() {
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 2);
    let _member = some_traffic(&up.caller(), 120);
    // Gauges are refreshed once a second.
    let text = scratch.until("the lag in the metrics", || {
        let (status, text) = http_get(&up.http("/metrics"))?;
        let settled = sum(&text, "ringway_subscription_lag_messages") == 60.0;
        (status == 200 && settled).then_some(text)
    });
    let types = types(&text);
    for name in NAMES {
        assert!(types.contains_key(name), "{name} is missing");
    }
    for (name, kind) in &types {
        assert!(name.starts_with("ringway_"), "{name}");
        assert_eq!(*kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
    }
    assert_eq!(sum(&text, "ringway_messages_published_total"), 120.0);
    assert_eq!(sum(&text, "ringway_acks_total"), 60.0);
    assert!(sum(&text, "ringway_messages_delivered_total") >= 60.0);
    assert_eq!(sum(&text, "ringway_queues_led"), 16.0);
    assert_eq!(sum(&text, "ringway_moves_excess_total"), 0.0);
    for label in ["worker=\"w1\"", "worker=\"w2\"", "group=\"default\"", "subscription=\"half\""] {
        assert!(text.contains(label), "{label}");
    }
    assert!(!text.contains("a.1\""), "no class is a label");
}

/// Whether a program is installed.
fn has(scratch: &Scratch, program: &str) -> bool {
    let found = scratch.program("sh", ["-c", &format!("command -v {program}")]).output().code == 0;
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

#[test]
fn promtool_has_nothing_to_say() {
    let scratch = Scratch::new(LIMIT);
    if !has(&scratch, "promtool") {
        return;
    }
    let up = Up::start(&scratch, 2);
    let _member = some_traffic(&up.caller(), 20);
    let (_, text) = http_get(&up.http("/metrics")).expect("metrics");
    let output = scratch.program("promtool", ["check", "metrics"]).stdin(text).output().exits(0);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""));
}

#[test]
fn a_real_prometheus_scrapes_up_and_answers_a_query() {
    let scratch = Scratch::new(LIMIT);
    if !has(&scratch, "prometheus") {
        return;
    }
    let up = Up::start(&scratch, 2);
    let _member = some_traffic(&up.caller(), 120);
    let target = up.http("").replace("http://", "");
    let config = scratch.file(
        "prometheus.yml",
        format!(
            "global:\n  scrape_interval: 1s\nscrape_configs:\n  - job_name: ringway\n    \
             static_configs:\n      - targets: ['{target}']\n"
        ),
    );
    let address = format!("127.0.0.1:{}", free_ports(1));
    let args = [
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={}", scratch.path("tsdb").display()),
        format!("--web.listen-address={address}"),
    ];
    let _prometheus = scratch.program("prometheus", args).named("prometheus").spawn();
    let query =
        format!("http://{address}/api/v1/query?query=sum(ringway_messages_published_total)");
    scratch.until("Prometheus to answer 120", || {
        let (status, text) = http_get(&query)?;
        let answer: Value = serde_json::from_str(&text).ok()?;
        let value = answer["data"]["result"][0]["value"][1].as_str()?.to_owned();
        (status == 200 && value == "120").then_some(())
    });
}
