//! `ringway tls`: makes the certificates that the processes of a cluster share.

use ringway_proto::net::{Created, init_dir};
use serde_json::json;

use super::Context;
use crate::args::TlsCmd;
use crate::exit::{Exit, Failure};

/// Runs one of the tls commands.
///
/// # Errors
/// When the directory cannot be written or holds something else.
pub fn run(command: &TlsCmd, context: &Context) -> Result<(), Failure> {
    let TlsCmd::Init { dir } = command;
    let created = init_dir(dir).map_err(|e| Failure::from(e.refusal()).exit(Exit::Failed))?;
    let shown = dir.display();
    let new = matches!(created, Created::New);
    let said = match new {
        true => format!(
            "created a CA, a certificate for each role and a client token in {shown} · next: \
             ringway coordinator --data c1 --tls-dir {shown}"
        ),
        false => format!("nothing to do: {shown} holds the certificates of a cluster already"),
    };
    context.output.said(&json!({"dir": dir, "created": new}), &said)
}
