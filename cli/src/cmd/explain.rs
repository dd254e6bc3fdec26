//! `ringway explain`: why a queue, or the right to read it, is where it is, and why it moved last.

use super::Context;
use crate::exit::Failure;
use crate::output::or_dash;

/// Explains a queue, or with a subscription its right to the queue.
///
/// # Errors
/// When there is no such queue or subscription; exit code 3 when no coordinator answers.
pub async fn run(
    queue: &str,
    subscription: Option<&str>,
    context: &Context,
) -> Result<(), Failure> {
    let client = context.connect().await?;
    let why = client.admin().explain(queue, subscription).await?;
    let last = why.last_move.as_ref().map(|last| {
        let (from, to) = (or_dash(last.from.as_ref()), &last.to);
        format!("{from} to {to} by plan {}: {}", last.plan, last.reason)
    });
    let kind = if why.subscription.is_some() { "member" } else { "worker" };
    let mut fields = vec![("queue", why.queue.clone())];
    fields.extend(why.subscription.as_ref().map(|name| ("subscription", name.to_string())));
    fields.extend([
        (kind, or_dash(why.owner.as_ref())),
        ("state", why.state.clone()),
        ("epoch", why.epoch.to_string()),
        ("preference", or_dash(why.preference)),
        ("share", format!("has {}, may have {}", why.held, why.quota)),
        ("because", why.because.clone()),
        ("last move", last.unwrap_or_else(|| "none in the plans that are kept".to_owned())),
    ]);
    context.output.one(&why, &fields, "")
}
