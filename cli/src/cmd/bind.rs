//! `ringway bind`: sends classes to a group, and shows which go where by a binding.

use ringway_client::proto::admin::BindingInfo;
use serde_json::json;

use super::Context;
use crate::args::BindArgs;
use crate::exit::Failure;
use crate::output::Column;

/// Binds, or lists the bindings.
///
/// # Errors
/// What the coordinator refuses; exit code 3 when none answers.
pub async fn run(args: BindArgs, context: &Context) -> Result<(), Failure> {
    let client = context.connect().await?;
    let admin = client.admin();
    let (Some(filter), Some(group)) = (args.filter, args.group) else {
        let bindings = admin.bindings().await?;
        let columns: &[Column<'_, BindingInfo>] =
            &[("filter", &|b| b.filter.to_string()), ("group", &|b| b.group.to_string())];
        return context.output.list(
            &bindings,
            columns,
            "no bindings: every class goes by the class ring",
        );
    };
    let (binding, replaced) = admin.bind(&filter, &group).await?;
    let BindingInfo { filter, group } = &binding;
    let said = match &replaced {
        Some(before) if before == group => format!("nothing to do: '{filter}' is bound to {group}"),
        Some(before) => format!(
            "bound '{filter}' to {group}, before to {before} · next: messages in {before} are \
             still delivered from there"
        ),
        None => format!("bound '{filter}' to {group} · next: later messages go there"),
    };
    context.output.said(&json!({"binding": binding, "replaced": replaced}), &said)
}
