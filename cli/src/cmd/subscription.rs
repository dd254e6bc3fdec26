//! `ringway subscription`: which subscriptions there are, who serves them, and how far they are.

use ringway_client::proto::admin::{MemberInfo, QueueLag, RightInfo, SubscriptionInfo};
use ringway_client::proto::control::{Order, Start};
use serde_json::json;

use super::Context;
use crate::args::SubscriptionCmd;
use crate::exit::Failure;
use crate::output::{Column, grouped, or_dash};

const MEMBERS: &[Column<'_, MemberInfo>] = &[
    ("member", &|m| m.member.to_string()),
    ("state", &|m| m.state.clone()),
    ("weight", &|m| m.weight.to_string()),
    ("rights", &|m| m.rights.to_string()),
    ("runs at", &|m| m.origin.clone()),
];

const RIGHTS: &[Column<'_, RightInfo>] = &[
    ("queue", &|r| r.queue.clone()),
    ("state", &|r| r.state.clone()),
    ("epoch", &|r| r.epoch.to_string()),
    ("member", &|r| or_dash(r.member.as_ref())),
];

const LAG: &[Column<'_, QueueLag>] = &[
    ("queue", &|q| q.queue.clone()),
    ("lag", &|q| q.lag_messages.to_string()),
    ("in flight", &|q| q.in_flight_messages.to_string()),
    ("fenced", &|q| q.fenced_messages.to_string()),
    ("floor", &|q| q.floor.to_string()),
    ("end", &|q| q.end.to_string()),
    ("member", &|q| or_dash(q.member.as_ref())),
];

/// Runs one of the subscription commands.
///
/// # Errors
/// What the coordinator refuses; exit code 3 when none answers; exit code 1 when the lag of some
/// worker is not known.
pub async fn run(command: SubscriptionCmd, context: &Context) -> Result<(), Failure> {
    let output = context.output;
    let client = context.connect().await?;
    let admin = client.admin();
    match command {
        SubscriptionCmd::List => {
            let subscriptions = admin.subscriptions().await?;
            let columns: &[Column<'_, SubscriptionInfo>] = &[
                ("subscription", &|s| s.name.to_string()),
                ("filter", &|s| s.filter.to_string()),
                ("order", &|s| order(s.order).to_owned()),
                ("members", &|s| s.members.to_string()),
                ("rights held", &|s| format!("{}/{}", s.granted, s.rights)),
            ];
            output.list(&subscriptions, columns, "no subscriptions: `ringway sub` makes one")
        }
        SubscriptionCmd::Describe { name } => {
            let (subscription, members, rights) = admin.subscription(&name).await?;
            let fields = [
                ("subscription", subscription.name.to_string()),
                ("filter", subscription.filter.to_string()),
                ("order", order(subscription.order).to_owned()),
                ("from", start(subscription.start).to_owned()),
                ("members", subscription.members.to_string()),
                ("rights held", format!("{}/{}", subscription.granted, subscription.rights)),
            ];
            let gap = if output.is_terminal() { "\n" } else { "" };
            let tables = output.table(&members, MEMBERS, "no members")
                + gap
                + &output.table(&rights, RIGHTS, "no rights");
            let all = json!({"subscription": subscription, "members": members, "rights": rights});
            output.one(&all, &fields, &tables)
        }
        SubscriptionCmd::Lag { name } => {
            let lag = admin.lag(&name).await?;
            output.list(&lag.queues, LAG, "no queues")?;
            if output.is_terminal() {
                output.line(&format!("lag in all: {} messages", grouped(lag.lag_messages())))?;
            }
            if lag.unanswered.is_empty() {
                return Ok(());
            }
            let workers: Vec<&str> = lag.unanswered.iter().map(|w| w.as_str()).collect();
            Err(Failure::new(
                "worker-unreachable",
                format!(
                    "the lag at worker {} is not known: it does not answer",
                    workers.join(", ")
                ),
            )
            .help("`ringway cluster workers` shows which workers are down")
            .retryable(true))
        }
    }
}

fn order(order: Order) -> &'static str {
    match order {
        Order::Key => "key",
        Order::None => "none",
    }
}

fn start(start: Start) -> &'static str {
    match start {
        Start::Start => "start",
        Start::Now => "now",
    }
}
