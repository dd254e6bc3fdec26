//! The coordinator's metrics: gauges are set from a snapshot of the state, counters from what the
//! logic reports. It serves nothing; whoever has the registry does.

use std::time::Duration;

use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use ringway_proto::net::Role;

use crate::logic::machine::{Balance, Event, Snapshot};
use crate::logic::rows::MoveReason;

/// Every metric of the coordinator.
pub struct Metrics {
    registry: Registry,
    workers: IntGaugeVec,
    groups: IntGauge,
    queues: IntGaugeVec,
    queue_moves: IntGaugeVec,
    queue_move_seconds: Histogram,
    members: IntGaugeVec,
    rights: IntGaugeVec,
    useful_members: IntGaugeVec,
    right_changes: IntCounterVec,
    plan_version: IntGauge,
    plans: IntCounter,
    plan_seconds: Histogram,
    moves: IntCounterVec,
    lower_bound: IntCounter,
    excess: IntCounter,
    imbalance: GaugeVec,
    handover: HistogramVec,
    routing_version: IntGauge,
    superseded: IntCounterVec,
    lapses: IntCounterVec,
    connections: IntGaugeVec,
    /// What the counters of moves were last raised to.
    seen_bound: u64,
    seen_excess: u64,
}

impl Metrics {
    /// Registers everything. `moves` is how many moves the cluster had made before this process.
    ///
    /// # Errors
    /// None in fact: no two metrics have one name.
    pub fn new(moves: u64) -> Result<Self, prometheus::Error> {
        let new = Build { registry: Registry::new() };
        let metrics = Self {
            workers: new.gauges(
                "ringway_workers",
                "Workers by state: up, or down since their session lapsed.",
                &["state"],
            )?,
            groups: new.gauge("ringway_groups", "Queue groups.")?,
            queues: new.gauges(
                "ringway_queues",
                "Queues by state: serving, moving, waiting for their worker, unassigned.",
                &["state"],
            )?,
            queue_moves: new.gauges(
                "ringway_queue_moves",
                "Queues on their way to another worker by phase: waiting for their turn, copying, \
                 sealed, opening.",
                &["phase"],
            )?,
            queue_move_seconds: new.histogram(
                "ringway_queue_move_seconds",
                "How long queues took to another worker, from the plan to the change of primary.",
                prometheus::exponential_buckets(0.001, 4.0, 12)?,
            )?,
            members: new.gauges(
                "ringway_members",
                "Members of each subscription.",
                &["subscription"],
            )?,
            rights: new.gauges(
                "ringway_rights",
                "Consume rights of each subscription by state: free, raising, granted, revoking.",
                &["subscription", "state"],
            )?,
            useful_members: new.gauges(
                "ringway_useful_members",
                "How many members of each subscription could have a share of its queues: more \
                 than these get nothing to do.",
                &["subscription"],
            )?,
            right_changes: new.counters(
                "ringway_right_changes_total",
                "Consume rights that were split by lanes, and those that were merged again.",
                &["kind"],
            )?,
            plan_version: new.gauge("ringway_plan_version", "The number of the last plan.")?,
            plans: new.counter("ringway_plans_total", "Plans made since this process started.")?,
            plan_seconds: new.histogram(
                "ringway_plan_seconds",
                "How long the step took in which a plan was made.",
                prometheus::exponential_buckets(0.000_1, 4.0, 8)?,
            )?,
            moves: new.counters(
                "ringway_moves_total",
                "Queues and rights that changed hands, by the reason of their plan.",
                &["kind", "reason"],
            )?,
            lower_bound: new.counter(
                "ringway_moves_lower_bound_total",
                "The least moves that the changes of members and workers needed.",
            )?,
            excess: new.counter(
                "ringway_moves_excess_total",
                "Moves beyond the least that was needed; stays 0.",
            )?,
            imbalance: new.register(GaugeVec::new(
                Opts::new(
                    "ringway_imbalance_ratio",
                    "The largest load over the mean, in proportion to weight: of queues on \
                     workers, or of the rights of a subscription on its members. 1 is even.",
                ),
                &["kind", "subscription"],
            )?)?,
            handover: new.register(HistogramVec::new(
                HistogramOpts::new(
                    "ringway_handover_seconds",
                    "How long the hand-over of a right took: drain (until the old holder gave it \
                     up), raise (until its primary confirmed the new epoch), total.",
                )
                .buckets(prometheus::exponential_buckets(0.001, 4.0, 9)?),
                &["phase"],
            )?)?,
            routing_version: new.gauge("ringway_routing_version", "The routing version.")?,
            superseded: new.counters(
                "ringway_superseded_total",
                "Processes whose place a newer one took: workers and members.",
                &["kind"],
            )?,
            lapses: new.counters(
                "ringway_lapses_total",
                "Sessions that lapsed because nothing was heard: of workers and members.",
                &["kind"],
            )?,
            connections: new.gauges(
                "ringway_connections",
                "Connections by the role of the other side.",
                &["role"],
            )?,
            registry: new.registry,
            seen_bound: moves,
            seen_excess: 0,
        };
        for reason in MoveReason::ALL {
            for kind in ["right", "queue"] {
                metrics.moves.with_label_values(&[kind, reason.label()]);
            }
        }
        for kind in ["split", "merge"] {
            metrics.right_changes.with_label_values(&[kind]);
        }
        for kind in ["worker", "member"] {
            metrics.superseded.with_label_values(&[kind]);
            metrics.lapses.with_label_values(&[kind]);
        }
        Ok(metrics)
    }

    /// Where everything is registered.
    #[must_use]
    pub fn registry(&self) -> Registry {
        self.registry.clone()
    }

    /// Sets the gauges.
    pub fn show(&mut self, state: &Snapshot, connections: &[(Role, u32)]) {
        let gauge = |vec: &IntGaugeVec, labels: &[&str], value: u32| {
            vec.with_label_values(labels).set(i64::from(value));
        };
        gauge(&self.workers, &["up"], state.workers_up);
        gauge(&self.workers, &["down"], state.workers_down);
        self.groups.set(i64::from(state.groups));
        for (name, count) in &state.queues {
            gauge(&self.queues, &[name], *count);
        }
        for (phase, count) in &state.queue_moves {
            gauge(&self.queue_moves, &[phase], *count);
        }
        self.show_imbalance(&["queues", ""], state.balance);
        for subscription in &state.subscriptions {
            let name = subscription.name.as_str();
            gauge(&self.members, &[name], subscription.members);
            for (state, count) in &subscription.rights {
                gauge(&self.rights, &[name, state], *count);
            }
            gauge(&self.useful_members, &[name], subscription.useful_members);
            self.show_imbalance(&["rights", name], subscription.balance);
        }
        self.plan_version.set(state.plan as i64);
        self.routing_version.set(state.routing as i64);
        for (role, count) in connections {
            gauge(&self.connections, &[role.name()], *count);
        }
        self.lower_bound.inc_by(state.lower_bound.saturating_sub(self.seen_bound));
        self.seen_bound = self.seen_bound.max(state.lower_bound);
        let excess = state.moves.saturating_sub(state.lower_bound);
        self.excess.inc_by(excess.saturating_sub(self.seen_excess));
        self.seen_excess = self.seen_excess.max(excess);
    }

    fn show_imbalance(&self, labels: &[&str], balance: Balance) {
        self.imbalance.with_label_values(labels).set(balance.per_mille as f64 / 1000.0);
    }

    /// Counts what happened in a step that took `took`.
    pub fn count(&self, events: &[Event], took: Duration) {
        let handover = |phase: &str, took: &Duration| {
            self.handover.with_label_values(&[phase]).observe(took.as_secs_f64());
        };
        let moved = |kind: &str, reason: &MoveReason| {
            self.moves.with_label_values(&[kind, reason.label()]).inc();
        };
        for event in events {
            match event {
                Event::Planned => {
                    self.plans.inc();
                    self.plan_seconds.observe(took.as_secs_f64());
                }
                Event::QueueMoved(reason) => moved("queue", reason),
                Event::QueueMoveTook(took) => self.queue_move_seconds.observe(took.as_secs_f64()),
                Event::RightMoved(reason) => moved("right", reason),
                Event::Drained(took) => handover("drain", took),
                Event::Raised(took) => handover("raise", took),
                Event::HandedOver(took) => handover("total", took),
                Event::RightSplit => self.right_changes.with_label_values(&["split"]).inc(),
                Event::RightsMerged => self.right_changes.with_label_values(&["merge"]).inc(),
                Event::WorkerSuperseded => self.superseded.with_label_values(&["worker"]).inc(),
                Event::MemberSuperseded => self.superseded.with_label_values(&["member"]).inc(),
                Event::WorkerLapsed => self.lapses.with_label_values(&["worker"]).inc(),
                Event::MemberLapsed => self.lapses.with_label_values(&["member"]).inc(),
            }
        }
    }
}

/// Makes a metric and registers it.
struct Build {
    registry: Registry,
}

impl Build {
    fn register<M>(&self, metric: M) -> Result<M, prometheus::Error>
    where
        M: prometheus::core::Collector + Clone + 'static,
    {
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.register(IntGauge::new(name, help)?)
    }

    fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, prometheus::Error> {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.register(IntCounter::new(name, help)?)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        self.register(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn histogram(
        &self,
        name: &str,
        help: &str,
        buckets: Vec<f64>,
    ) -> Result<Histogram, prometheus::Error> {
        self.register(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::machine::{Machine, Setup};
    use crate::logic::timing::Timing;
    use ringway_proto::Time;

    #[test]
    fn every_metric_has_a_help_text_and_a_name_of_its_own() {
        let setup = Setup {
            id: "c1".into(),
            timing: Timing::default(),
            epoch_ms: 0,
            seed: 1,
            ranges_per_queue: 64,
        };
        let machine = Machine::new(setup, Vec::new(), Time(0)).unwrap();
        let mut metrics = Metrics::new(0).unwrap();
        metrics.show(&machine.snapshot(), &[(Role::Client, 3)]);
        metrics.count(&[Event::QueueMoved(MoveReason::Joined)], Duration::ZERO);
        let mut text = String::new();
        prometheus::TextEncoder::new()
            .encode_utf8(&metrics.registry().gather(), &mut text)
            .unwrap();
        assert!(text.contains("ringway_queues{state=\"unassigned\"} 16"), "{text}");
        assert!(text.contains("ringway_moves_total{kind=\"queue\",reason=\"joined\"} 1"), "{text}");
        assert!(text.contains("ringway_moves_excess_total 0"), "{text}");
        for line in text.lines().filter(|line| line.starts_with("# HELP")) {
            let words: Vec<&str> = line.split(' ').collect();
            assert!(words[2].starts_with("ringway_") && words.len() > 4, "{line}");
        }
    }
}
