//! One file per command. Each takes its arguments and a [`Context`] and ends done or with a
//! [`Failure`]; none of them decides how errors look or which exit code they have.

pub mod bind;
pub mod cluster;
pub mod coordinator;
pub mod demo;
pub mod explain;
pub mod group;
pub mod plan;
pub mod publish;
pub mod route;
pub mod sub;
pub mod subscription;
pub mod tls;
pub mod up;
pub mod worker;

use ringway_client::Client;

use crate::args::Cmd;
use crate::exit::Failure;
use crate::logs::Voice;
use crate::output::Output;

/// What every command is given besides its own arguments.
#[derive(Clone, Debug)]
pub struct Context {
    /// The connection string of `--url`.
    pub url: Option<String>,
    /// Where results go.
    pub output: Output,
}

impl Context {
    /// Connects to the cluster that is meant.
    ///
    /// # Errors
    /// Exit code 3 when it does not answer.
    pub async fn connect(&self) -> Result<Client, Failure> {
        crate::cluster::connect(self.url.as_deref(), self.output).await
    }
}

/// How loud a command's log is.
#[must_use]
pub fn voice(command: &Cmd) -> Voice {
    match command {
        Cmd::Up(_) | Cmd::Coordinator(_) | Cmd::Worker(_) => Voice::Server,
        _ => Voice::Command,
    }
}

/// Runs a command to its end.
///
/// # Errors
/// Whatever the command could not do.
pub async fn run(command: Cmd, context: &Context) -> Result<(), Failure> {
    match command {
        Cmd::Demo(args) => demo::run(args, context).await,
        Cmd::Up(args) => up::run(args, context).await,
        Cmd::Coordinator(args) => coordinator::run(args, context).await,
        Cmd::Worker(args) => worker::run(args, context).await,
        Cmd::Pub(args) => publish::run(args, context).await,
        Cmd::Sub(args) => sub::run(args, context).await,
        Cmd::Group(command) => group::run(command, context).await,
        Cmd::Bind(args) => bind::run(args, context).await,
        Cmd::Subscription(command) => subscription::run(command, context).await,
        Cmd::Cluster(command) => cluster::run(command, context).await,
        Cmd::Plan(args) => plan::run(args, context).await,
        Cmd::Explain { queue, subscription } => {
            explain::run(&queue, subscription.as_deref(), context).await
        }
        Cmd::Route { class } => route::run(&class, context).await,
        Cmd::Tls(command) => tls::run(&command, context),
    }
}
