//! What a worker counts, as a Prometheus registry. It owns names, help texts and labels; labels
//! come only from bounded sets (group, subscription, code, role), never from classes, keys or
//! members. It does not know when something happens: whoever does it counts it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Counter, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry,
};
use ringway_proto::net::Role;
use ringway_proto::{Refusal, WallTime, WorkerId};

use crate::journal::{Journal, JournalStats};
use crate::logic::LateOrder;
use crate::logic::host::RightState;

/// Kinds of orders that come under an older epoch.
const OPEN_QUEUE: &str = "open_queue";
const TOMBSTONE: &str = "tombstone";
const COPY_QUEUE: &str = "copy_queue";

/// Every metric of a worker.
pub(crate) struct Metrics {
    registry: Registry,
    pub messages_published: IntCounterVec,
    pub published_bytes: IntCounterVec,
    pub publish_seconds: Histogram,
    pub publish_refused: IntCounterVec,
    pub duplicates: IntCounter,
    pub messages_delivered: IntCounterVec,
    pub redeliveries: IntCounterVec,
    pub acks: IntCounterVec,
    pub fenced: IntCounterVec,
    pub backpressure_seconds: Counter,
    pub connections: IntGaugeVec,
    pub coordinator_connected: IntGauge,
    pub copy_bytes: IntCounterVec,
    pub publish_pause_seconds: Histogram,
    pub journal_sync_seconds: Histogram,
    pub journal_cut_bytes: IntCounter,
    journal_bytes: IntCounter,
    journal_rounds: IntCounter,
    lag_messages: IntGaugeVec,
    oldest_unacked_seconds: GaugeVec,
    in_flight_messages: IntGaugeVec,
    queues_led: IntGauge,
    shown: Mutex<Shown>,
}

/// The label values that gauges were set for, so that what went away is removed.
#[derive(Default)]
struct Shown {
    lags: BTreeSet<(String, String)>,
    subscriptions: BTreeSet<String>,
}

/// From a tenth of a millisecond to ten seconds.
fn buckets() -> Vec<f64> {
    vec![
        0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
        2.5, 5.0, 10.0,
    ]
}

/// Makes metrics and registers them.
struct Maker(Registry);

impl Maker {
    fn add<C: Collector + Clone + 'static>(&self, made: C) -> Result<C, prometheus::Error> {
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.add(IntCounter::new(name, help)?)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, prometheus::Error> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn histogram(&self, name: &str, help: &str) -> Result<Histogram, prometheus::Error> {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets()))?)
    }
}

impl Metrics {
    /// All metrics at zero, under the constant label `worker`.
    pub fn new(worker: &WorkerId) -> Result<Self, prometheus::Error> {
        let labels = std::iter::once(("worker".to_owned(), worker.to_string())).collect();
        let registry = Registry::new_custom(None, Some(labels))?;
        let make = Maker(registry.clone());
        let made = Self {
            messages_published: make.counters(
                "ringway_messages_published_total",
                "Messages that were stored and acked to their producers.",
                &["group"],
            )?,
            published_bytes: make.counters(
                "ringway_published_bytes_total",
                "Bytes of the batches that were stored and acked to their producers.",
                &["group"],
            )?,
            publish_seconds: make.histogram(
                "ringway_publish_seconds",
                "Time from receiving a batch to answering it.",
            )?,
            publish_refused: make.counters(
                "ringway_publish_refused_total",
                "Batches that were refused, by the code of the refusal.",
                &["code"],
            )?,
            duplicates: make.counter(
                "ringway_duplicates_total",
                "Batches that had been taken before and got their old offset.",
            )?,
            messages_delivered: make.counters(
                "ringway_messages_delivered_total",
                "Messages sent to members, each time they were sent.",
                &["subscription", "group"],
            )?,
            redeliveries: make.counters(
                "ringway_redeliveries_total",
                "Messages sent again after they had been handed out.",
                &["subscription"],
            )?,
            acks: make.counters(
                "ringway_acks_total",
                "Messages that members acked.",
                &["subscription"],
            )?,
            fenced: make.counters(
                "ringway_fenced_total",
                "Requests and orders that came under an older epoch and changed nothing.",
                &["kind"],
            )?,
            backpressure_seconds: make.add(Counter::new(
                "ringway_backpressure_seconds_total",
                "Time that publish streams waited because too much was unanswered.",
            )?)?,
            connections: make.gauges(
                "ringway_connections",
                "Open connections, by the role of the other side.",
                &["role"],
            )?,
            coordinator_connected: make.add(IntGauge::new(
                "ringway_coordinator_connected",
                "Whether the worker is registered with a coordinator (1) or not (0).",
            )?)?,
            copy_bytes: make.counters(
                "ringway_copy_bytes_total",
                "Bytes of batches copied between workers: `in` when they are on disk, `out` when sent.",
                &["direction"],
            )?,
            publish_pause_seconds: make.histogram(
                "ringway_publish_pause_seconds",
                "Time that a queue was sealed here, until it was served elsewhere or again here.",
            )?,
            journal_sync_seconds: make
                .histogram("ringway_journal_sync_seconds", "Duration of a sync of the journal.")?,
            journal_cut_bytes: make.counter(
                "ringway_journal_cut_bytes_total",
                "Bytes of a torn tail that were cut off when the journal was opened.",
            )?,
            journal_bytes: make
                .counter("ringway_journal_bytes_total", "Bytes written to the journal.")?,
            journal_rounds: make.counter(
                "ringway_journal_rounds_total",
                "Rounds of the journal; one sync makes a whole round durable.",
            )?,
            lag_messages: make.gauges(
                "ringway_subscription_lag_messages",
                "Matching messages that a subscription has not acked; an upper bound beyond its read position.",
                &["subscription", "group"],
            )?,
            oldest_unacked_seconds: make.add(GaugeVec::new(
                Opts::new(
                    "ringway_subscription_oldest_unacked_seconds",
                    "About how long the oldest message has waited that a subscription has not acked.",
                ),
                &["subscription"],
            )?)?,
            in_flight_messages: make.gauges(
                "ringway_in_flight_messages",
                "Messages delivered to members and not acked.",
                &["subscription"],
            )?,
            queues_led: make.add(IntGauge::new(
                "ringway_queues_led",
                "Queues that this worker is the primary of.",
            )?)?,
            shown: Mutex::default(),
            registry,
        };
        for role in ["client", "worker", "coordinator"] {
            made.connections.with_label_values(&[role]).set(0);
        }
        for direction in ["in", "out"] {
            made.copy_bytes.with_label_values(&[direction]).inc_by(0);
        }
        for kind in ["open", "ack", OPEN_QUEUE, TOMBSTONE, COPY_QUEUE] {
            made.fenced.with_label_values(&[kind]).inc_by(0);
        }
        Ok(made)
    }

    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    pub fn refused(&self, refusal: &Refusal) {
        self.publish_refused.with_label_values(&[refusal.code.name()]).inc();
    }

    /// An order of the coordinator that was ignored.
    pub fn late(&self, order: LateOrder) {
        let kind = match order {
            LateOrder::OpenQueue => OPEN_QUEUE,
            LateOrder::Tombstone => TOMBSTONE,
            LateOrder::CopyQueue => COPY_QUEUE,
        };
        self.fenced.with_label_values(&[kind]).inc();
    }

    pub fn connection(&self, role: Role, change: i64) {
        self.connections.with_label_values(&[role_label(role)]).add(change);
    }

    pub fn waited(&self, time: Duration) {
        self.backpressure_seconds.inc_by(time.as_secs_f64());
    }

    /// Sets what is read from state rather than counted.
    pub fn refresh(&self, queues: usize, rights: &[RightState], now: WallTime, journal: &Journal) {
        self.queues_led.set(queues as i64);
        self.refresh_journal(journal.stats());

        let mut lags: BTreeMap<(String, String), u64> = BTreeMap::new();
        let mut by_subscription: BTreeMap<String, (u64, f64)> = BTreeMap::new();
        for state in rights {
            let group = group_of(&state.queue).to_owned();
            *lags.entry((state.subscription.clone(), group)).or_default() += state.lag.lag_messages;
            let age = state.oldest.map_or(0.0, |at| now.0.saturating_sub(at.0) as f64 / 1000.0);
            let entry = by_subscription.entry(state.subscription.clone()).or_default();
            entry.0 += state.lag.in_flight_messages;
            entry.1 = entry.1.max(age);
        }
        for ((subscription, group), lag) in &lags {
            self.lag_messages.with_label_values(&[subscription, group]).set(*lag as i64);
        }
        for (subscription, (in_flight, age)) in &by_subscription {
            self.in_flight_messages.with_label_values(&[subscription]).set(*in_flight as i64);
            self.oldest_unacked_seconds.with_label_values(&[subscription]).set(*age);
        }
        self.forget_gone(Shown {
            lags: lags.into_keys().collect(),
            subscriptions: by_subscription.into_keys().collect(),
        });
    }

    fn refresh_journal(&self, stats: &JournalStats) {
        use std::sync::atomic::Ordering::Relaxed;
        let catch_up = |counter: &IntCounter, now: u64| {
            counter.inc_by(now.saturating_sub(counter.get()));
        };
        catch_up(&self.journal_bytes, stats.bytes_written.load(Relaxed));
        catch_up(&self.journal_rounds, stats.rounds.load(Relaxed));
    }

    fn forget_gone(&self, now: Shown) {
        let Ok(mut shown) = self.shown.lock() else { return };
        // Removing a series that is not there is an error that means nothing here.
        for (subscription, group) in shown.lags.difference(&now.lags) {
            let _ = self.lag_messages.remove_label_values(&[subscription, group]);
        }
        for subscription in shown.subscriptions.difference(&now.subscriptions) {
            let _ = self.in_flight_messages.remove_label_values(&[subscription]);
            let _ = self.oldest_unacked_seconds.remove_label_values(&[subscription]);
        }
        *shown = now;
    }
}

/// The group of a queue's name.
pub(crate) fn group_of(queue: &str) -> &str {
    queue.rsplit_once('/').map_or(queue, |(group, _)| group)
}

fn role_label(role: Role) -> &'static str {
    match role {
        Role::Client => "client",
        Role::Worker => "worker",
        Role::Coordinator => "coordinator",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_named_and_described_as_prometheus_wants() {
        let metrics = Metrics::new(&WorkerId::new("w1").unwrap()).unwrap();
        metrics.messages_published.with_label_values(&["orders"]).inc();
        metrics.refused(&Refusal::new(ringway_proto::Code::Busy, "busy"));
        metrics.lag_messages.with_label_values(&["s", "orders"]).set(3);
        metrics.oldest_unacked_seconds.with_label_values(&["s"]).set(0.5);
        let families = metrics.registry().gather();
        for family in &families {
            let (name, help) = (family.name(), family.help());
            assert!(name.starts_with("ringway_") && help.ends_with('.'), "{name}: {help}");
            let counts = family.get_field_type() == prometheus::proto::MetricType::COUNTER;
            assert_eq!(counts, name.ends_with("_total"), "{name}");
            for metric in family.get_metric() {
                assert!(metric.get_label().iter().any(|l| l.name() == "worker"), "{name}");
            }
        }
    }
}
