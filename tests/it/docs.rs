//! What the documentation lists is what there is: files, links, metrics with types and labels, and
//! the alert rules that use them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use ringway_client::Client;
use ringway_proto::data::Append;
use ringway_proto::frame::Kind;
use ringway_proto::net::{ClientTls, Dialer, Role};
use ringway_proto::url::UrlAuth;
use ringway_proto::{Epoch, GroupId, QueueId, RoutingVersion, Sequence, Session, Uuid};

use crate::harness::{STEP, Scratch, Up, http_get, read};

const LIMIT: Duration = Duration::from_secs(120);

/// A metric's type and the names of its labels.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Described {
    kind: String,
    labels: BTreeSet<String>,
}

fn in_repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// What stands between two marks, all over a text.
fn between<'t>(text: &'t str, from: &'t str, to: &'t str) -> impl Iterator<Item = &'t str> {
    text.split(from).skip(1).filter_map(move |rest| rest.split_once(to)).map(|(inner, _)| inner)
}

#[test]
fn files_and_links_that_the_documentation_names_exist() {
    let mut pages =
        vec!["README.md".to_owned(), "ARCHITECTURE.md".into(), "CONTRIBUTING.md".into()];
    for entry in std::fs::read_dir(in_repository("docs")).expect("docs") {
        pages.push(format!("docs/{}", entry.expect("an entry").file_name().to_string_lossy()));
    }
    let mut seen = 0;
    for page in pages.iter().filter(|page| page.ends_with(".md")) {
        let text = read(&in_repository(page));
        let folder = page.rsplit_once('/').map_or("", |(folder, _)| folder);
        for link in between(&text, "](", ")").filter(|link| !link.contains("://")) {
            let path = link.split('#').next().unwrap_or_default();
            assert!(in_repository(folder).join(path).exists(), "{page} links to {link}");
            seen += 1;
        }
        for name in text.split('`').filter(|name| name.ends_with(".rs") && name.contains("/src/")) {
            let is_one = !name.contains(['{', ' ', '\n']);
            assert!(!is_one || in_repository(name).exists(), "{page} names {name}");
            seen += usize::from(is_one);
        }
    }
    assert!(seen > 40, "only {seen} files and links were found");
}

/// The tables of docs/metrics.md: name, type, labels, meaning.
fn documented() -> BTreeMap<String, Described> {
    let text = read(&in_repository("docs/metrics.md"));
    let mut metrics = BTreeMap::new();
    for row in text.lines().filter(|line| line.starts_with("| `ringway_")) {
        let cells: Vec<String> = row.split('|').map(|cell| cell.trim().replace('`', "")).collect();
        let [_, name, kind, labels, meaning, ..] = &cells[..] else { panic!("a short row: {row}") };
        assert!(meaning.len() > 10, "no meaning: {row}");
        let labels = labels.split(',').map(|label| label.trim().to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        let described = Described { kind: kind.clone(), labels };
        assert!(metrics.insert(name.clone(), described).is_none(), "{name} stands twice");
    }
    metrics
}

/// The metrics of an exposition.
fn served(text: &str) -> BTreeMap<String, Described> {
    let mut metrics = BTreeMap::new();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    for (name, kind) in types {
        let labels = BTreeSet::new();
        metrics.insert(name.to_owned(), Described { kind: kind.to_owned(), labels });
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').expect("a sample with a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| {
            let name = name.strip_suffix(end)?;
            metrics.contains_key(name).then_some(name)
        });
        let metric = metrics.get_mut(of_histogram.unwrap_or(name)).expect("a type for each sample");
        // No value of a label here has a comma.
        let names = labels.trim_end_matches('}').split(',').filter_map(|l| l.split_once('='));
        let names = names.map(|(name, _)| name.to_owned()).filter(|name| name != "le");
        metric.labels.extend(names);
    }
    metrics
}

/// Sends a worker a batch that is none, which it counts as refused.
async fn publish_garbage(up: &Up<'_>) {
    let append = Append {
        queue: QueueId::new(GroupId(1), 0),
        epoch: Epoch(1),
        routing: RoutingVersion(1),
        producer: Uuid(1),
        session: Session(1),
        base_sequence: Sequence(0),
        count: 1,
        batch: b"no batch".to_vec().into(),
    };
    let tls = ClientTls::from_url(&UrlAuth::Dir(up.data().join("tls"))).expect("certificates");
    let address = format!("127.0.0.1:{}", up.port() + 1);
    let peer = Dialer::new(tls, "docs").dial(&address, Role::Worker, STEP).await.expect("a worker");
    let (mut to, mut from) = peer.open().await.expect("a stream");
    to.write(Kind::Append, &[append.header(), append.batch]).await.expect("a write");
    from.expect(Kind::Appended).await.expect("an answer");
}

/// One message that comes a second time, and one batch that is refused: what some metrics need to
/// be there at all.
async fn some_traffic(up: &Up<'_>) {
    let client = Client::connect(&up.url()).await.expect("a client");
    client.publish("a.b", "x").await.expect("stored");
    let mut seat = client.subscribe("a.>").name("s").join().await.expect("a seat");
    let first = seat.next().await.expect("a message").expect("a message");
    first.nack().await.expect("an open client");
    let again = seat.next().await.expect("a message").expect("a message");
    assert_eq!(again.delivery, 2);
    again.ack_confirmed().await.expect("an ack");
    publish_garbage(up).await;
}

#[test]
fn every_metric_is_documented_and_every_documented_one_is_served() {
    let scratch = Scratch::new(LIMIT);
    let up = Up::start(&scratch, 1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async {
        tokio::time::timeout(STEP, some_traffic(&up)).await.expect("traffic in time");
    });

    let documented = documented();
    let text = || http_get(&up.http("/metrics")).map(|(_, text)| text);
    for name in documented.keys() {
        // Gauges are refreshed once a second.
        scratch.until(&format!("{name} at /metrics"), || {
            text()?.contains(&format!("# TYPE {name} ")).then_some(())
        });
    }
    let served = served(&text().expect("metrics"));
    for (name, described) in &served {
        assert_eq!(documented.get(name), Some(described), "{name} in docs/metrics.md");
    }
}

#[test]
fn alert_rules_speak_of_metrics_that_exist() {
    let scratch = Scratch::new(LIMIT);
    let rules = in_repository("deploy/prometheus/ringway.rules.yml");
    let text = read(&rules);
    let documented = documented();
    let expressions: Vec<&str> =
        text.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    assert!(expressions.len() >= 3, "{expressions:?}");
    for expression in expressions {
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let mut names = words.filter(|word| word.starts_with("ringway_")).peekable();
        assert!(names.peek().is_some(), "{expression}");
        names.for_each(|name| assert!(documented.contains_key(name), "{name} in {expression}"));
    }
    if scratch.program("sh", ["-c", "command -v promtool"]).output().code != 0 {
        eprintln!("skipped: promtool is not installed");
        return;
    }
    let rules = rules.to_string_lossy();
    scratch.program("promtool", ["check", "rules", &rules]).output().exits(0);
}
