//! `ringway route`: which group a class goes to, and why.

use super::Context;
use crate::exit::Failure;

/// Shows where `class` goes.
///
/// # Errors
/// When it is no class; exit code 3 when no coordinator answers.
pub async fn run(class: &str, context: &Context) -> Result<(), Failure> {
    let client = context.connect().await?;
    let route = client.admin().route(class).await?;
    let why = match &route.binding {
        Some(filter) => format!("binding {filter}"),
        None => {
            let family = route.class.as_str().split('.').next().unwrap_or_default();
            format!("class ring (family {family})")
        }
    };
    let fields =
        [("class", route.class.to_string()), ("group", route.group.to_string()), ("why", why)];
    context.output.one(&route, &fields, "")
}
