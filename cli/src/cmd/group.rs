//! `ringway group`: makes, shows and removes queue groups.

use ringway_client::proto::admin::{GroupInfo, QueueInfo};
use serde_json::json;

use super::Context;
use crate::args::GroupCmd;
use crate::exit::Failure;
use crate::output::{Column, counted, grouped, or_dash};

const QUEUES: &[Column<'_, QueueInfo>] = &[
    ("queue", &|q| q.queue.clone()),
    ("primary", &|q| or_dash(q.primary.as_ref())),
    ("epoch", &|q| q.epoch.to_string()),
    ("state", &|q| q.state.clone()),
    ("data", &|q| if q.has_data { "has data" } else { "empty" }.to_owned()),
];

/// Runs one of the group commands.
///
/// # Errors
/// What the coordinator refuses; exit code 3 when none answers.
pub async fn run(command: GroupCmd, context: &Context) -> Result<(), Failure> {
    match command {
        GroupCmd::Create { name, queues, ring_weight, max_body_bytes } => {
            let client = context.connect().await?;
            let admin = client.admin();
            let (group, created) =
                admin.group_create(&name, queues, ring_weight, max_body_bytes).await?;
            context
                .output
                .said(&json!({"group": group, "created": created}), &made(&group, created))
        }
        GroupCmd::List => {
            let client = context.connect().await?;
            let groups = client.admin().groups().await?;
            let columns: &[Column<'_, GroupInfo>] = &[
                ("group", &|g| g.name.to_string()),
                ("queues", &|g| g.queues.to_string()),
                ("ring weight", &|g| or_dash(g.ring_weight)),
                ("max body bytes", &|g| g.max_body_bytes.to_string()),
                ("bindings", &|g| g.bindings.to_string()),
            ];
            context.output.list(&groups, columns, "no groups")
        }
        GroupCmd::Describe { name } => {
            let client = context.connect().await?;
            let (group, queues) = client.admin().group(&name).await?;
            let fields = [
                ("group", group.name.to_string()),
                ("queues", group.queues.to_string()),
                ("ring weight", or_dash(group.ring_weight)),
                ("max body bytes", group.max_body_bytes.to_string()),
                ("bindings", group.bindings.to_string()),
            ];
            let table = context.output.table(&queues, QUEUES, "");
            context.output.one(&json!({"group": group, "queues": queues}), &fields, &table)
        }
        GroupCmd::Delete { name, yes, dry_run } => {
            delete(&name, yes.as_deref(), dry_run, context).await
        }
    }
}

async fn delete(
    name: &str,
    yes: Option<&str>,
    dry_run: bool,
    context: &Context,
) -> Result<(), Failure> {
    let client = context.connect().await?;
    let admin = client.admin();
    if dry_run {
        // What would go is shown also where a binding is in the way.
        let (group, _) = admin.group(name).await?;
        if let Err(e) = admin.group_delete(name, true).await {
            let refused = Failure::from(e);
            return Err(match group.bindings {
                0 => refused,
                _ => refused.note(format!(
                    "without that, {} and their messages would be deleted",
                    what(&group)
                )),
            });
        }
        let said =
            format!("would delete {} and their messages · nothing was changed", what(&group));
        return context.output.said(&json!({"group": group, "dry_run": true}), &said);
    }
    if yes != Some(name) {
        let group = admin.group_delete(name, true).await?;
        return Err(Failure::usage(format!(
            "deleting {} and their messages cannot be undone and needs its name once more",
            what(&group)
        ))
        .note("nothing was changed")
        .help(format!("`ringway group delete {name} --yes {name}`")));
    }
    let group = admin.group_delete(name, false).await?;
    let said = format!(
        "deleted {} and their messages · next: classes that went there go by the class ring",
        what(&group)
    );
    context.output.said(&json!({"group": group, "dry_run": false}), &said)
}

fn what(group: &GroupInfo) -> String {
    format!("group {} with its {}", group.name, counted(group.queues.into(), "queue"))
}

fn made(group: &GroupInfo, created: bool) -> String {
    let verb = if created { "created group" } else { "nothing to do: there is already group" };
    let name = &group.name;
    let queues = counted(group.queues.into(), "queue");
    match group.ring_weight {
        None => format!("{verb} {name}: {queues} · next: ringway bind '{name}.>' {name}"),
        Some(weight) => format!(
            "{verb} {name}: {queues}, weight {} on the class ring · next: ringway route CLASS",
            grouped(weight.into())
        ),
    }
}
