//! What `ringway pub` promises to programs: a receipt per line in input order, keys and classes
//! from fields, bodies as they are, and exit codes.

use std::time::Duration;

use serde_json::{Value, json};

use crate::checker::{Receipt, receipts, receipts_are_complete};
use crate::harness::{Caller, LineCounter, Scratch, Up, read};

const LIMIT: Duration = Duration::from_secs(180);

/// Publishes `input` as flights with a receipts file and gives its exit, stderr and receipts.
fn publish(
    scratch: &Scratch,
    caller: &Caller<'_>,
    input: &str,
    more: &[&str],
) -> (crate::harness::Output, Vec<Receipt>) {
    let file = scratch.path("receipts");
    let _ = std::fs::remove_file(&file);
    let input = scratch.file("input", input);
    let output = caller.flights(&input, &file, more).finish();
    (output, receipts(&read(&file)))
}

#[test]
fn each_line_has_its_receipt_in_order_and_a_bad_line_harms_no_other() {
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 1);
    let caller = up.caller();
    // The line, and its key where it is a message.
    let lines: [(&str, Option<Value>); 15] = [
        (r#"{"origin":"EWR","carrier":"UA","tail":"N1"}"#, Some(json!("N1"))),
        ("no JSON", None),
        (r#"{"origin":"EWR","carrier":"UA"}"#, None),
        (r#"{"origin":"E W","carrier":"UA","tail":"N1"}"#, None),
        (r#"{"origin":"EWR","carrier":"UA","tail":null}"#, Some(Value::Null)),
        (r#"{"origin":"EWR","carrier":"UA","tail":""}"#, Some(json!(""))),
        (r#"{"origin":"EWR","carrier":"UA","tail":12.50}"#, Some(json!("12.50"))),
        ("", None),
        (r#"{"carrier":"UA","tail":"N1"}"#, None),
        (r#"{"origin":"EWR","carrier":"UA","tail":{"a":1}}"#, None),
        (r#"{"origin":"","carrier":"UA","tail":"N1"}"#, None),
        (r#"{"origin":1,"carrier":true,"tail":"N2"}"#, Some(json!("N2"))),
        (r#"["EWR","UA","N1"]"#, None),
        (r#"  {"tail" : "ñ\n" , "carrier":"UA","origin":"EWR"}  "#, Some(json!("ñ\n"))),
        ("{\"origin\":\"EWR\",\"carrier\":\"UA\",\"tail\":\"N1\"}\r", Some(json!("N1"))),
    ];
    // The last line has no newline, and counts all the same.
    let input = lines.each_ref().map(|(line, _)| *line).join("\n");
    let (output, receipts) = publish(&scratch, &caller, &input, &[]);
    let output = output.exits(1);
    assert!(output.stderr.contains("line 2"), "the first bad line is named: {}", output.stderr);
    receipts_are_complete(&receipts, lines.len());
    for (receipt, (line, key)) in receipts.iter().zip(&lines) {
        let stored = receipt.queue.is_some() && receipt.offset.is_some() && receipt.error.is_none();
        match key {
            Some(_) => assert!(receipt.status == "ok" && stored, "{line}: {receipt:?}"),
            None => {
                assert!(
                    receipt.status == "failed" && receipt.error.is_some(),
                    "{line}: {receipt:?}"
                );
                assert!(receipt.queue.is_none() && receipt.offset.is_none(), "{line}: {receipt:?}");
            }
        }
    }
    let summary = output.json_lines().remove(0);
    let counts = ["acked", "failed", "unknown"].map(|k| summary[k].as_u64());
    assert_eq!(counts, [Some(7), Some(8), Some(0)], "{summary}");
    assert!(summary["published"].is_u64() && summary["seconds"].is_number(), "{summary}");
    let bytes: usize = lines.iter().filter(|(_, k)| k.is_some()).map(|(l, _)| l.len()).sum();
    assert_eq!(summary["bytes"], bytes, "the bodies' bytes: {summary}");

    let mut seen: Vec<(String, Value)> = caller
        .read_all("flights.>", "reader")
        .into_iter()
        .map(|m| (m["body"].as_str().expect("UTF-8").to_owned(), m["key"].clone()))
        .collect();
    let mut wanted: Vec<(String, Value)> =
        lines.iter().filter_map(|(line, key)| Some(((*line).to_owned(), key.clone()?))).collect();
    seen.sort_by_key(|(body, _)| body.clone());
    wanted.sort_by_key(|(body, _)| body.clone());
    assert_eq!(seen, wanted, "bodies and keys as they were given");
}

#[test]
fn strict_stops_at_the_first_bad_line() {
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 1);
    let good = r#"{"origin":"EWR","carrier":"UA","tail":"N1"}"#;
    let input = format!("{good}\nno JSON\n{good}\n");
    let (output, receipts) = publish(&scratch, &up.caller(), &input, &["--strict"]);
    assert!(output.exits(1).stderr.contains("line 2"));
    receipts_are_complete(&receipts, 2);
    assert_eq!(up.caller().read_all("flights.>", "reader").len(), 1);
}

#[test]
fn a_receipt_is_written_as_soon_as_its_line_is_stored() {
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 1);
    let file = scratch.path("receipts");
    let args = ["pub", "--class-field", "a.{n}", "--receipts", file.to_str().unwrap()];
    let mut publisher = up.caller().run(&args).stdin_pipe().spawn();
    let mut receipts = LineCounter::new([&file]);
    for n in 1..=3 {
        publisher.say(&format!("{{\"n\":{n}}}"));
        scratch.until("its receipt", || (receipts.count() == n).then_some(()));
    }
    // A stop by signal waits for what is in flight and is no failure.
    publisher.stop();

    let mut second = up.caller().run(&args).stdin_pipe().spawn();
    second.say(r#"{"n":4}"#);
    second.end_stdin();
    second.finish().exits(0);
    assert_eq!(receipts.count(), 4, "receipts are appended");
}

#[test]
fn one_message_has_the_body_key_and_headers_that_it_was_given() {
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 1);
    let caller = up.caller();
    let receipt = caller.run(&["pub", "a.text", "hello", "--key", "k", "--json"]).json();
    assert!(receipt["queue"].as_str().is_some_and(|q| q.starts_with("default/")), "{receipt}");
    assert_eq!(receipt["offset"], 0);
    let for_people = caller.run(&["pub", "a.text", "again", "--key", "k"]).ok();
    let queue = receipt["queue"].as_str().unwrap();
    assert_eq!(for_people.trim(), format!("{queue} @ 1"));
    caller.run(&["pub", "a.head", "x", "--header", "source=dot", "--header", "a=b=c"]).ok();
    caller.run(&["pub", "a.bin", "-"]).stdin([0xff, 0x00, b'\n']).ok();
    caller.run(&["pub", "a.empty", ""]).ok();

    let all = caller.read_all("a.>", "reader");
    let of = |class: &str| -> Vec<&Value> { all.iter().filter(|m| m["class"] == class).collect() };
    assert_eq!(of("a.text").len(), 2);
    assert_eq!((&of("a.text")[0]["body"], &of("a.text")[0]["key"]), (&json!("hello"), &json!("k")));
    assert_eq!(of("a.text")[0]["delivery"], 1);
    assert!(of("a.text")[0]["epoch"].as_u64().is_some_and(|e| e > 0));
    let headers = of("a.head")[0]["headers"].to_string();
    assert!(headers.contains("source") && headers.contains("dot"), "{headers}");
    assert!(headers.contains("b=c"), "{headers}");
    assert_eq!(of("a.bin")[0]["body_b64"], "/wAK");
    assert!(of("a.bin")[0].get("body").is_none_or(Value::is_null));
    assert_eq!((&of("a.empty")[0]["body"], &of("a.empty")[0]["key"]), (&json!(""), &Value::Null));
}

#[test]
fn messages_without_a_key_reach_several_queues_and_each_once() {
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 2);
    let lines: Vec<String> = (0..500)
        .map(|n| format!(r#"{{"n":{n},"origin":"EWR","carrier":"UA","tail":null}}"#))
        .collect();
    let (output, receipts) =
        publish(&scratch, &up.caller(), &(lines.join("\n") + "\n"), &["--rate", "400"]);
    output.exits(0);
    receipts_are_complete(&receipts, lines.len());
    let queues: std::collections::BTreeSet<_> = receipts.iter().map(|r| r.queue.clone()).collect();
    assert!(queues.len() > 1, "one queue took all messages without a key");
    let seen = crate::checker::Printed::new("reader", up.caller().read_all("flights.>", "reader"));
    let described = |_: &str| ("flights.EWR.UA".to_owned(), None);
    let verdict = crate::checker::check(&lines, described, &receipts, &[seen]);
    verdict.holds();
    assert_eq!((verdict.delivered, verdict.again.len()), (500, 0));
}
