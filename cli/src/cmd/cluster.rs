//! `ringway cluster`: the cluster as a whole, and its workers.

use ringway_client::proto::admin::WorkerInfo;

use super::Context;
use crate::args::ClusterCmd;
use crate::exit::Failure;
use crate::output::{Column, or_dash};

/// Runs one of the cluster commands.
///
/// # Errors
/// Exit code 3 when no coordinator answers.
pub async fn run(command: ClusterCmd, context: &Context) -> Result<(), Failure> {
    let client = context.connect().await?;
    let admin = client.admin();
    match command {
        ClusterCmd::Status => {
            let status = admin.status().await?;
            let fields = [
                ("coordinator", format!("{} ({})", status.coordinator, status.version)),
                ("workers up", format!("{}/{}", status.workers_up, status.workers)),
                ("groups", status.groups.to_string()),
                ("queues serving", format!("{}/{}", status.queues_serving, status.queues)),
                ("subscriptions", status.subscriptions.to_string()),
                ("members", status.members.to_string()),
                ("routing version", status.routing.to_string()),
                ("last plan", status.plan.to_string()),
                ("moves", format!("{} (at least {})", status.moves, status.lower_bound)),
            ];
            context.output.one(&status, &fields, "")
        }
        ClusterCmd::Workers => {
            let workers = admin.workers().await?;
            let columns: &[Column<'_, WorkerInfo>] = &[
                ("worker", &|w| w.worker.to_string()),
                ("state", &|w| w.state.clone()),
                ("queues", &|w| w.queues.to_string()),
                ("weight", &|w| w.weight.to_string()),
                ("address", &|w| w.address.clone()),
                ("metrics", &|w| or_dash(w.http.as_ref())),
            ];
            context.output.list(&workers, columns, "no workers: start one with `ringway worker`")
        }
    }
}
