//! `ringway group`: makes, shows, grows and removes queue groups.

use std::time::{Duration, Instant};

use ringway_client::proto::admin::{GroupInfo, GrowInfo, QueueInfo};
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

/// How often a group that grows is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// For how long nobody may answer meanwhile: the growth goes on when the coordinator is back.
const PATIENCE: Duration = Duration::from_secs(60);

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
            let (growing, fences) = client.admin().group_growing(&name).await?;
            let fields = [
                ("group", group.name.to_string()),
                ("queues", group.queues.to_string()),
                ("ring weight", or_dash(group.ring_weight)),
                ("max body bytes", group.max_body_bytes.to_string()),
                ("bindings", group.bindings.to_string()),
                ("growing", growing.as_ref().map_or("no".to_owned(), progress)),
                ("fences", fences_text(fences)),
            ];
            let table = context.output.table(&queues, QUEUES, "");
            let all =
                json!({"group": group, "queues": queues, "growing": growing, "fences": fences});
            context.output.one(&all, &fields, &table)
        }
        GroupCmd::Grow { name, queues } => grow(&name, queues, context).await,
        GroupCmd::Delete { name, yes, dry_run } => {
            delete(&name, yes.as_deref(), dry_run, context).await
        }
    }
}

/// Asks for more queues and waits until all of them take their share, saying on the standard
/// error how far that is.
async fn grow(name: &str, queues: u32, context: &Context) -> Result<(), Failure> {
    let client = context.connect().await?;
    let admin = client.admin();
    let (group, mut growing) = admin.group_grow(name, queues).await?;
    let mut said = String::new();
    while let Some(now) = growing {
        let text = progress(&now);
        if text != said {
            eprintln!("{name}: {text}");
            said = text;
        }
        tokio::time::sleep(LOOK).await;
        let silent = Instant::now();
        growing = loop {
            match admin.group_growing(name).await {
                Ok((growing, _)) => break growing,
                Err(_) if silent.elapsed() < PATIENCE => tokio::time::sleep(LOOK).await,
                Err(e) => return Err(e.into()),
            }
        };
    }
    let queues = counted(group.queues.into(), "queue");
    let text = format!("group {name} has {queues} · next: ringway group describe {name}");
    context.output.said(&json!({"group": group, "growing": growing}), &text)
}

fn progress(growing: &GrowInfo) -> String {
    let GrowInfo { queues, sealed, of, waits, .. } = growing;
    let waits = waits.as_ref().map(|who| format!(", waits for {who}")).unwrap_or_default();
    format!("to {queues} queues: {sealed} of {of} sealed{waits}")
}

fn fences_text(fences: u32) -> String {
    match fences {
        0 => "none".to_owned(),
        n => format!("{n} that subscriptions have not passed"),
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
