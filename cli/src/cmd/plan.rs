//! `ringway plan`: which queues move for balance, why, and what they wait for; what would move if
//! workers changed; and the plans that were made, listed or computed anew.

use ringway_client::proto::WallTime;
use ringway_client::proto::admin::{MoveInfo, PlanInfo, PlanSummary, ReplayInfo};

use super::Context;
use crate::args::PlanArgs;
use crate::exit::Failure;
use crate::output::{Column, counted, or_dash};

/// Shows the plan of queues as it stands, or what else was asked for.
///
/// # Errors
/// When plans compute to something else; when a worker that would leave is not known; exit code 3
/// when no coordinator answers.
pub async fn run(args: PlanArgs, context: &Context) -> Result<(), Failure> {
    let client = context.connect().await?;
    let admin = client.admin();
    if args.list {
        return list(&admin.plans(args.limit).await?, context);
    }
    if let Some(from) = args.replay {
        return replayed(&admin.plan_replay((from > 0).then_some(from)).await?, context);
    }
    if let Some(worker) = args.join {
        return show(&admin.plan_join(&worker, args.weight).await?, "would move", context);
    }
    if let Some(worker) = args.leave {
        return show(&admin.plan_leave(&worker).await?, "would move", context);
    }
    show(&admin.plan().await?, "moving", context)
}

/// A plan with its moves; `now` is what is said of a move that waits for nothing.
fn show(plan: &PlanInfo, now: &str, context: &Context) -> Result<(), Failure> {
    let fields = [
        ("plan", plan.number.to_string()),
        ("moves needed", plan.lower_bound.to_string()),
        ("moves", plan.moves.len().to_string()),
    ];
    let columns: &[Column<'_, MoveInfo>] = &[
        ("queue", &|m| m.queue.clone()),
        ("from", &|m| or_dash(m.from.as_ref())),
        ("to", &|m| m.to.to_string()),
        ("why", &|m| m.reason.clone()),
        ("", &|m| m.waits.as_ref().map_or(now.to_owned(), |w| format!("waits: {w}"))),
    ];
    let none = "nothing to move: the queues are balanced";
    let table = context.output.table(&plan.moves, columns, none);
    context.output.one(plan, &fields, &table)
}

fn list(plans: &[PlanSummary], context: &Context) -> Result<(), Failure> {
    let columns: &[Column<'_, PlanSummary>] = &[
        ("plan", &|p| p.number.to_string()),
        ("made at", &|p| WallTime(p.made_at_ms).to_string()),
        ("of", &|p| p.of.clone()),
        ("nodes", &|p| p.nodes.to_string()),
        ("items", &|p| p.items.to_string()),
        ("moves", &|p| p.moves.to_string()),
        ("at least", &|p| p.lower_bound.to_string()),
        ("planner", &|p| p.planner.to_string()),
    ];
    context.output.list(plans, columns, "no plan was made yet")
}

fn replayed(found: &ReplayInfo, context: &Context) -> Result<(), Failure> {
    let fields = [
        ("the same again", found.same.to_string()),
        ("different", numbers(&found.different)),
        ("of another planner", numbers(&found.other_version)),
    ];
    context.output.one(found, &fields, "")?;
    if found.different.is_empty() {
        return Ok(());
    }
    let plans = counted(found.different.len() as u64, "plan");
    Err(Failure::new("conflict", format!("{plans} came out otherwise than when they were made")))
}

/// How many, and which.
fn numbers(plans: &[u64]) -> String {
    match plans {
        [] => "0".to_owned(),
        [first, .., last] if plans.len() > 8 => {
            format!("{}: plans {first} to {last}", plans.len())
        }
        _ => {
            let listed: Vec<String> = plans.iter().map(u64::to_string).collect();
            format!("{}: {}", plans.len(), listed.join(", "))
        }
    }
}
