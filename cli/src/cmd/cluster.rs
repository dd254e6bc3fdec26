//! `ringway cluster`: the cluster as a whole, its workers, and what empties one of them.

use ringway_client::proto::admin::{MovingInfo, WorkerInfo};

use super::Context;
use crate::args::ClusterCmd;
use crate::exit::Failure;
use crate::output::{Column, counted, or_dash};

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
            let table = context.output.table(&status.moving, MOVING, "no queue is on its way");
            context.output.one(&status, &fields, &table)
        }
        ClusterCmd::Workers => {
            let workers = admin.workers().await?;
            let columns: &[Column<'_, WorkerInfo>] = &[
                ("worker", &|w| w.worker.to_string()),
                ("state", &state),
                ("queues", &|w| w.queues.to_string()),
                ("weight", &|w| w.weight.to_string()),
                ("address", &|w| w.address.clone()),
                ("metrics", &|w| or_dash(w.http.as_ref())),
            ];
            context.output.list(&workers, columns, "no workers: start one with `ringway worker`")
        }
        ClusterCmd::Drain { worker, undo } => {
            let info = admin.drain(&worker, undo).await?;
            context.output.said(&info, &drained(&info, undo))
        }
    }
}

/// The queues that are on their way.
const MOVING: &[Column<'_, MovingInfo>] = &[
    ("queue", &|m| m.queue.clone()),
    ("from", &|m| or_dash(m.from.as_ref())),
    ("to", &|m| m.to.to_string()),
    ("phase", &|m| m.phase.clone()),
    ("copied", &|m| match m.total_bytes {
        0 => "-".to_owned(),
        total => format!("{} of {} MiB", mebibytes(m.copied_bytes), mebibytes(total)),
    }),
    ("left", &|m| or_dash(m.eta_seconds.map(|s| format!("about {s} s")))),
];

fn mebibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

/// The state of a worker for people.
fn state(worker: &WorkerInfo) -> String {
    match worker.state.as_str() {
        "draining" => format!("draining: {} left", counted(worker.queues.into(), "queue")),
        "drained" => "drained: safe to stop".to_owned(),
        other => other.to_owned(),
    }
}

fn drained(info: &WorkerInfo, undo: bool) -> String {
    let WorkerInfo { worker, queues, .. } = info;
    match (undo, info.state.as_str()) {
        (true, _) => format!("{worker} gets queues again · next: ringway plan"),
        (false, "drained") => format!("{worker} is drained: safe to stop"),
        (false, "down") => {
            let queues = counted((*queues).into(), "queue");
            format!("{worker} is down: its {queues} move when it is back · next: start {worker}")
        }
        (false, _) => {
            let queues = counted((*queues).into(), "queue");
            format!("draining {worker}: {queues} to move · next: ringway cluster workers")
        }
    }
}
