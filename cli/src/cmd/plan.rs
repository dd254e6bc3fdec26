//! `ringway plan`: which queues would move for balance, why, and what they wait for.

use ringway_client::proto::admin::MoveInfo;

use super::Context;
use crate::exit::Failure;
use crate::output::{Column, or_dash};

/// Shows the plan of queues as it stands.
///
/// # Errors
/// Exit code 3 when no coordinator answers.
pub async fn run(context: &Context) -> Result<(), Failure> {
    let client = context.connect().await?;
    let plan = client.admin().plan().await?;
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
        ("", &|m| m.waits.as_ref().map_or("moving".to_owned(), |w| format!("waits: {w}"))),
    ];
    let table =
        context.output.table(&plan.moves, columns, "nothing to move: the queues are balanced");
    context.output.one(&plan, &fields, &table)
}
