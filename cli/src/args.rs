//! The command line: every command, option and help text. It checks the form of what is given
//! (numbers, addresses, durations) and leaves names, classes and filters to those who refuse them
//! with a reason. Each option is also an environment variable, `--idle-exit` as
//! `RINGWAY_IDLE_EXIT`; that is done here once for all of them.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{
    ArgAction, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum,
};

/// Options that must be typed each time: what destroys is not to be left in an environment.
const NEVER_FROM_ENVIRONMENT: [&str; 4] = ["yes", "url", "help", "version"];

const TEMPLATE: &str = "\
{about-with-newline}
{before-help}{usage-heading} {usage}

{all-args}{after-help}";

/// A durable, distributed message queue.
#[derive(Parser, Debug)]
#[command(
    name = "ringway",
    version,
    disable_help_subcommand = false,
    subcommand_required = true,
    arg_required_else_help = true,
    before_help = "\
Examples:
  ringway up                                     a cluster on this machine
  ringway pub orders.new '{\"cents\":990}' --key 17
  ringway sub 'orders.>' --as billing            receive and acknowledge

",
    after_help = "\
Every option is an environment variable too: --idle-exit is RINGWAY_IDLE_EXIT.
`ringway COMMAND -h` has examples; `ringway --help` adds exit codes and how a cluster is found.",
    after_long_help = "\
Every option is an environment variable too: --idle-exit is RINGWAY_IDLE_EXIT.
`ringway COMMAND -h` has examples of each command.

Which cluster
  --url, else RINGWAY_URL, else the file `url` that `ringway up` keeps in its data directory.
  ringway://HOST:PORT[,HOST:PORT]?tls=DIR        a directory that `ringway tls init` made
  ringway://HOST:PORT?ca=PATH&cert=PATH&key=PATH
  ringway://HOST:PORT?ca=PATH&token=TOKEN

Exit codes
  0  done; also a clean stop by a signal
  1  refused or failed, wholly or in part; the reason is on stderr
  2  the command line cannot be understood
  3  the cluster does not answer, or is not the one that is trusted

Output
  stdout is data, stderr is talk. Tables on a terminal, tab-separated lines in a pipe, one JSON
  object per line with --json; an error is then {\"error\":{code,text,hint,retryable}} on stderr.
  RINGWAY_LOG=debug says more on stderr; NO_COLOR switches colours off."
)]
pub struct Cli {
    /// Which cluster [default: RINGWAY_URL, else the one that `ringway up` runs here]
    #[arg(long, global = true, value_name = "URL", display_order = 900)]
    pub url: Option<String>,
    /// Print one JSON object per line
    #[arg(long, global = true, display_order = 901)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Cmd,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Cmd {
    /// Watch the main job in half a minute: publish, rebalance, kill, check
    #[command(before_help = "\
Examples:
  ringway demo
  ringway demo --json
  ringway demo --flights flights2013.ndjson.gz --rate 8000

")]
    Demo(DemoArgs),
    /// Run a whole cluster in this process: a coordinator and workers
    #[command(before_help = "\
Examples:
  ringway up                         one worker, data in ~/.local/share/ringway
  ringway up --workers 3 --data /srv/ringway
  ringway up --listen 127.0.0.1:0 --http 127.0.0.1:0   any free ports

")]
    Up(UpArgs),
    /// Run a coordinator
    #[command(before_help = "\
Examples:
  ringway tls init tls
  ringway coordinator --data c1 --tls-dir tls
  ringway coordinator --listen 0.0.0.0:7400 --advertise 10.0.0.5:7400 --data c1 --tls-dir tls

")]
    Coordinator(CoordinatorArgs),
    /// Run a worker
    #[command(before_help = "\
Examples:
  ringway worker --id w1 --listen 127.0.0.1:7401 --data w1 --coordinator 127.0.0.1:7400 --tls-dir tls
  ringway worker --id w2 --listen 0.0.0.0:7401 --advertise 10.0.0.6:7401 --weight 200 \\
      --data w2 --coordinator 10.0.0.5:7400 --tls-dir tls

")]
    Worker(WorkerArgs),
    /// Publish one message, or one per line of stdin
    #[command(
        name = "pub",
        before_help = "\
Examples:
  ringway pub orders.new '{\"cents\":990}' --key 17
  ringway pub images.raw - < photo.jpg
  ringway pub --class-field 'flights.{origin}.{carrier}' --key-field tail \\
      --receipts receipts.ndjson --progress < flights.ndjson

"
    )]
    Pub(PubArgs),
    /// Receive messages and acknowledge them
    #[command(before_help = "\
Examples:
  ringway sub 'orders.>' --as billing              until Ctrl-C; start twice to share the work
  ringway sub 'flights.*.UA' --as delays --idle-exit 5s --format text
  ringway sub '>' --as look --ack none --count 10  look, and give everything back

")]
    Sub(SubArgs),
    /// Create, list, describe and delete queue groups
    #[command(
        subcommand,
        before_help = "\
Examples:
  ringway group create orders --queues 16
  ringway group list
  ringway group delete orders --dry-run

"
    )]
    Group(GroupCmd),
    /// Send the classes that match a filter to a group
    #[command(before_help = "\
Examples:
  ringway bind 'orders.>' orders
  ringway bind --list

")]
    Bind(BindArgs),
    /// List and describe subscriptions, and see how far they are
    #[command(
        subcommand,
        before_help = "\
Examples:
  ringway subscription list
  ringway subscription lag billing

"
    )]
    Subscription(SubscriptionCmd),
    /// Look at the cluster
    #[command(
        subcommand,
        before_help = "\
Examples:
  ringway cluster status
  ringway cluster workers --json
  ringway cluster drain w2

"
    )]
    Cluster(ClusterCmd),
    /// Show which queues move, why, and what they wait for; or what would move
    #[command(before_help = "\
Examples:
  ringway plan                              what moves now
  ringway plan --join w4 --weight 200       what would move if w4 came; nothing is changed
  ringway plan --leave w2
  ringway plan --list                       the plans that were made
  ringway plan --replay                     compute them anew and compare

")]
    Plan(PlanArgs),
    /// Show why a queue, or the right to read it, is where it is
    #[command(before_help = "\
Examples:
  ringway explain orders/7                  its worker
  ringway explain orders/7 --as billing     the member that reads it

")]
    Explain {
        /// The queue, GROUP/NUMBER
        queue: String,
        /// The subscription whose right to it is meant
        #[arg(long = "as", value_name = "NAME")]
        subscription: Option<String>,
    },
    /// Show which group a class goes to, and why
    #[command(before_help = "\
Examples:
  ringway route orders.new

")]
    Route {
        /// The class, such as orders.new
        class: String,
    },
    /// Make the certificates of a cluster
    #[command(
        subcommand,
        before_help = "\
Examples:
  ringway tls init tls
  ringway coordinator --data c1 --tls-dir tls
  ringway cluster status --url 'ringway://127.0.0.1:7400?tls=tls'

"
    )]
    Tls(TlsCmd),
}

/// Options of `ringway demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// How many flights to publish per second
    #[arg(long, default_value_t = 1600, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: u32,
    /// A file of flights (NDJSON, gzipped or not) instead of the excerpt in this binary
    #[arg(long, value_name = "FILE")]
    pub flights: Option<PathBuf>,
}

/// `ringway up`.
#[derive(Args, Debug)]
pub struct UpArgs {
    /// How many workers
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub workers: u16,
    /// Where everything is kept [default: $XDG_DATA_HOME/ringway, else ~/.local/share/ringway]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where the coordinator listens; workers take the ports after it, port 0 any free ones
    #[arg(long, default_value = "127.0.0.1:7400", value_name = "ADDR", value_parser = address)]
    pub listen: SocketAddr,
    /// Where metrics and health are served
    #[arg(long, default_value = "127.0.0.1:7480", value_name = "ADDR", value_parser = address)]
    pub http: SocketAddr,
    /// The weight of each worker
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = weight())]
    pub weight: u32,
}

/// `ringway coordinator`.
#[derive(Args, Debug)]
pub struct CoordinatorArgs {
    /// Its id
    #[arg(long, default_value = "c1", value_name = "ID")]
    pub id: String,
    /// Where it listens
    #[arg(long, default_value = "127.0.0.1:7400", value_name = "ADDR", value_parser = address)]
    pub listen: SocketAddr,
    /// The address that others are told [default: where it listens]
    #[arg(long, value_name = "HOST:PORT", value_parser = advertised)]
    pub advertise: Option<String>,
    /// Where metrics and health are served
    #[arg(long, default_value = "127.0.0.1:7480", value_name = "ADDR", value_parser = address)]
    pub http: SocketAddr,
    /// Where its store is kept
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// The certificates that `ringway tls init` made [default: DATA/tls]
    #[arg(long, value_name = "DIR")]
    pub tls_dir: Option<PathBuf>,
}

/// `ringway worker`.
#[derive(Args, Debug)]
pub struct WorkerArgs {
    /// Its id, the same after each restart
    #[arg(long, value_name = "ID")]
    pub id: String,
    /// Where it listens
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub listen: SocketAddr,
    /// The address that others are told [default: where it listens]
    #[arg(long, value_name = "HOST:PORT", value_parser = advertised)]
    pub advertise: Option<String>,
    /// Where metrics and health are served; port 0 is any free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR", value_parser = address)]
    pub http: SocketAddr,
    /// Where its journal is kept
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// The coordinators, separated by commas
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', required = true)]
    pub coordinator: Vec<String>,
    /// Its share of the queues; 100 is usual
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = weight())]
    pub weight: u32,
    /// How fast it sends copies of its queues to other workers, in bytes per second of all together
    #[arg(long, default_value_t = 64 << 20, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1024..))]
    pub copy_bytes_per_second: u64,
    /// The zone that it stands in
    #[arg(long, value_name = "ZONE")]
    pub zone: Option<String>,
    /// The certificates that `ringway tls init` made [default: DATA/tls]
    #[arg(long, value_name = "DIR")]
    pub tls_dir: Option<PathBuf>,
}

/// `ringway pub`.
#[derive(Args, Debug)]
pub struct PubArgs {
    /// The class; without a body, each line of stdin is a message of it
    #[arg(required_unless_present = "class_field", conflicts_with = "class_field")]
    pub class: Option<String>,
    /// The body of one message; `-` takes all of stdin
    pub body: Option<String>,
    /// The class of each line, made from its JSON fields: 'flights.{origin}.{carrier}'
    #[arg(long, value_name = "TEMPLATE")]
    pub class_field: Option<String>,
    /// The JSON field that holds the key of each line; null is no key
    #[arg(long, value_name = "FIELD", conflicts_with = "key")]
    pub key_field: Option<String>,
    /// The key: messages with the same key stay in order
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// A header that travels with each message; may stand several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    pub header: Vec<(String, String)>,
    /// At most so many messages per second, evenly spread
    #[arg(long, value_name = "N", value_parser = rate)]
    pub rate: Option<f64>,
    /// Append one JSON line per line of stdin: where it is stored, or why not
    #[arg(long, value_name = "FILE")]
    pub receipts: Option<PathBuf>,
    /// Say on stderr how far it is
    #[arg(long)]
    pub progress: bool,
    /// Stop at the first line that is no message
    #[arg(long)]
    pub strict: bool,
    /// How long a message is tried before its outcome is unknown
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = duration)]
    pub timeout: Duration,
}

/// `ringway sub`.
#[derive(Args, Debug)]
pub struct SubArgs {
    /// Which classes, such as 'orders.>' or 'flights.*.UA'
    pub filter: String,
    /// The subscription; all who give the same name share its messages
    #[arg(long = "as", value_name = "NAME")]
    pub name: String,
    /// This process's seat in it [default: HOST-PID-RANDOM]
    #[arg(long, value_name = "ID")]
    pub member: Option<String>,
    /// Its share of the work; 100 is usual
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = weight())]
    pub weight: u32,
    /// Whether messages of a key are handed out one after the other
    #[arg(long, value_enum, value_name = "ORDER")]
    pub order: Option<OrderArg>,
    /// Stop after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Stop when nothing came for so long
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub idle_exit: Option<Duration>,
    /// Where a new subscription begins
    #[arg(long, value_enum, value_name = "WHERE")]
    pub from: Option<FromArg>,
    /// How messages are printed: a JSON object, the class and body, or the body alone
    #[arg(long, value_enum, default_value_t = FormatArg::Json, value_name = "FORMAT")]
    pub format: FormatArg,
    /// Whether what was printed is acknowledged; `none` gives it all back at the end
    #[arg(long, value_enum, default_value_t = AckArg::Auto, value_name = "ACK")]
    pub ack: AckArg,
}

/// `--order`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum OrderArg {
    /// In order per key
    Key,
    /// As they come
    None,
}

/// `--from`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum FromArg {
    /// With the oldest message
    Start,
    /// With what is published from now on
    Now,
}

/// `--format`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum FormatArg {
    /// One JSON object per line
    Json,
    /// Class, key and body on a line
    Text,
    /// The bodies as they are, one after the other
    Raw,
}

/// `--ack`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum AckArg {
    /// After it was printed
    Auto,
    /// Never
    None,
}

/// `ringway plan`.
#[derive(Args, Debug)]
pub struct PlanArgs {
    /// What if this worker joined, or had another weight
    #[arg(long, value_name = "ID", conflicts_with_all = ["leave", "list", "replay"])]
    pub join: Option<String>,
    /// Its weight, with --join
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = weight())]
    pub weight: u32,
    /// What if this worker left
    #[arg(long, value_name = "ID", conflicts_with_all = ["list", "replay"])]
    pub leave: Option<String>,
    /// List the plans that are kept, newest first
    #[arg(long, conflicts_with = "replay")]
    pub list: bool,
    /// At most so many, with --list
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
    /// Compute kept plans anew, from this number on, and compare [without a number: all]
    #[arg(long, value_name = "NUMBER", num_args = 0..=1, default_missing_value = "0")]
    pub replay: Option<u64>,
}

/// `ringway group`.
#[derive(Subcommand, Debug)]
pub enum GroupCmd {
    /// Make a group; one that exists alike is success
    #[command(before_help = "\
Examples:
  ringway group create orders --queues 16
  ringway group create east --queues 32 --ring-weight 100    takes a share of the families

")]
    Create {
        /// Its name
        name: String,
        /// How many queues
        #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
        queues: u32,
        /// Its share of the class ring; without it only bindings lead to the group
        #[arg(long, value_name = "N", value_parser = weight())]
        ring_weight: Option<u32>,
        /// The largest body, in bytes [default: 1048576]
        #[arg(long, value_name = "BYTES")]
        max_body_bytes: Option<u32>,
    },
    /// All groups
    #[command(before_help = "Examples:\n  ringway group list --json\n\n")]
    List,
    /// One group with its queues
    #[command(before_help = "Examples:\n  ringway group describe orders\n\n")]
    Describe {
        /// Its name
        name: String,
    },
    /// Give a group more queues; publishing and delivering go on meanwhile
    #[command(before_help = "\
Examples:
  ringway group grow orders --queues 32

")]
    Grow {
        /// Its name
        name: String,
        /// How many queues in all
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
        queues: u32,
    },
    /// Remove a group, its queues and their messages
    #[command(before_help = "\
Examples:
  ringway group delete orders --dry-run
  ringway group delete orders --yes orders

")]
    Delete {
        /// Its name
        name: String,
        /// The name once more: messages are lost
        #[arg(long, value_name = "NAME")]
        yes: Option<String>,
        /// Only show what would go
        #[arg(long)]
        dry_run: bool,
    },
}

/// `ringway bind`.
#[derive(Args, Debug)]
pub struct BindArgs {
    /// Which classes, such as 'orders.>'
    #[arg(required_unless_present = "list", requires = "group")]
    pub filter: Option<String>,
    /// Where they go
    pub group: Option<String>,
    /// Show all bindings, the most specific first
    #[arg(long, conflicts_with_all = ["filter", "group"])]
    pub list: bool,
}

/// `ringway subscription`.
#[derive(Subcommand, Debug)]
pub enum SubscriptionCmd {
    /// All subscriptions
    #[command(before_help = "Examples:\n  ringway subscription list --json\n\n")]
    List,
    /// One subscription with its members and rights
    #[command(before_help = "Examples:\n  ringway subscription describe billing\n\n")]
    Describe {
        /// Its name
        name: String,
    },
    /// What a subscription has not acknowledged yet, queue by queue
    #[command(before_help = "Examples:\n  ringway subscription lag billing\n\n")]
    Lag {
        /// Its name
        name: String,
    },
}

/// `ringway cluster`.
#[derive(Subcommand, Debug)]
pub enum ClusterCmd {
    /// The cluster as a whole
    #[command(before_help = "Examples:\n  ringway cluster status --json\n\n")]
    Status,
    /// All workers
    #[command(before_help = "Examples:\n  ringway cluster workers --json\n\n")]
    Workers,
    /// Move every queue away from a worker, so that it can be stopped for good
    #[command(before_help = "\
Examples:
  ringway cluster drain w2
  ringway cluster workers             says `drained: safe to stop` in the end
  ringway cluster drain w2 --undo     give it queues again

")]
    Drain {
        /// Its id
        worker: String,
        /// Give it queues again
        #[arg(long)]
        undo: bool,
    },
}

/// `ringway tls`.
#[derive(Subcommand, Debug)]
pub enum TlsCmd {
    /// Make a CA, a certificate per role and a client token; what is there stays
    #[command(before_help = "Examples:\n  ringway tls init tls\n\n")]
    Init {
        /// Where they go
        dir: PathBuf,
    },
}

/// The whole command line, with examples first in each help and a variable for each option.
#[must_use]
pub fn command() -> Command {
    dress(Cli::command())
}

/// Reads the command line of this process.
///
/// # Errors
/// Clap's, which also stand for `--help` and `--version`.
pub fn parse() -> Result<Cli, clap::Error> {
    Cli::from_arg_matches(&command().try_get_matches()?)
}

fn dress(command: Command) -> Command {
    command
        .help_template(TEMPLATE)
        .mut_args(|arg| {
            let Some(long) = arg.get_long().map(str::to_owned) else { return arg };
            if NEVER_FROM_ENVIRONMENT.contains(&long.as_str()) {
                return arg;
            }
            let switch = matches!(arg.get_action(), ArgAction::SetTrue);
            let arg = arg.env(variable(&long)).hide_env(true);
            // A switch is on for 1, true or yes; clap alone would take only true and false.
            if switch { arg.value_parser(FalseyValueParser::new()) } else { arg }
        })
        .mut_subcommands(dress)
}

/// The variable of an option. It lives as long as the process: there is one per option.
fn variable(long: &str) -> &'static str {
    let name = format!("RINGWAY_{}", long.to_ascii_uppercase().replace('-', "_"));
    Box::leak(name.into_boxed_str())
}

fn weight() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1000)
}

fn address(s: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = s.parse() {
        return Ok(address);
    }
    let mut found =
        s.to_socket_addrs().map_err(|_| "expected HOST:PORT, such as 127.0.0.1:7400".to_owned())?;
    found.next().ok_or_else(|| format!("{s} has no address"))
}

/// An address as others are to use it: its host may be known only to them.
fn advertised(s: &str) -> Result<String, String> {
    let port = s.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
    match port.and_then(|port| port.parse::<u16>().ok()) {
        Some(1..) => Ok(s.to_owned()),
        _ => Err("expected HOST:PORT, such as 10.0.0.5:7400".to_owned()),
    }
}

fn duration(s: &str) -> Result<Duration, String> {
    let duration =
        humantime::parse_duration(s).map_err(|_| "expected a time, such as 500ms, 5s or 2m")?;
    if duration.is_zero() { Err("must be more than nothing".to_owned()) } else { Ok(duration) }
}

fn rate(s: &str) -> Result<f64, String> {
    match s.parse::<f64>() {
        Ok(rate) if rate.is_finite() && (0.001..=1e9).contains(&rate) => Ok(rate),
        _ => Err("expected messages per second, such as 500".to_owned()),
    }
}

fn header(s: &str) -> Result<(String, String), String> {
    match s.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Result<Cli, clap::Error> {
        let line = std::iter::once("ringway").chain(line.iter().copied());
        Cli::from_arg_matches(&command().try_get_matches_from(line)?)
    }

    #[test]
    fn every_command_exists_and_its_help_leads_with_an_example() {
        command().debug_assert();
        let whole = command();
        for path in [
            "up",
            "coordinator",
            "worker",
            "pub",
            "sub",
            "group",
            "group create",
            "group list",
            "group describe",
            "group delete",
            "bind",
            "subscription",
            "subscription list",
            "subscription describe",
            "subscription lag",
            "cluster",
            "cluster status",
            "cluster workers",
            "cluster drain",
            "plan",
            "explain",
            "route",
            "tls",
            "tls init",
        ] {
            let mut found = &whole;
            for name in path.split(' ') {
                found = found.find_subcommand(name).unwrap_or_else(|| panic!("no command {path}"));
            }
            let help = found.clone().render_help().to_string();
            let example = help.find(&format!("  ringway {path}")).or(help.find("  ringway "));
            let (example, usage) = (example.expect(path), help.find("Usage:").expect(path));
            assert!(example < usage, "{path}: {help}");
            assert!(help.lines().count() <= 50, "{path} has {} lines", help.lines().count());
        }
    }

    #[test]
    fn every_option_has_a_variable_but_what_destroys() {
        fn walk(command: &Command) {
            for arg in command.get_arguments().filter(|arg| arg.get_long().is_some()) {
                let long = arg.get_long().unwrap();
                let variable = arg.get_env().and_then(|name| name.to_str());
                match NEVER_FROM_ENVIRONMENT.contains(&long) {
                    true => assert_eq!(variable, None),
                    false => assert_eq!(variable, Some(super::variable(long))),
                }
            }
            command.get_subcommands().for_each(walk);
        }
        walk(&command());
        assert_eq!(variable("idle-exit"), "RINGWAY_IDLE_EXIT");
    }

    #[test]
    fn a_line_that_cannot_be_meant_is_refused() {
        for line in [
            &["pub"][..],
            &["pub", "a.b", "x", "--class-field", "a.{b}"],
            &["pub", "a.b", "--key", "k", "--key-field", "f"],
            &["pub", "a.b", "x", "--rate", "0"],
            &["sub", "a.>"],
            &["sub", "a.>", "--as", "x", "--count", "0"],
            &["sub", "a.>", "--as", "x", "--idle-exit", "soon"],
            &["bind", "a.>"],
            &["plan", "--join", "w4", "--leave", "w2"],
            &["plan", "--join", "w4", "--weight", "0"],
            &["plan", "--list", "--replay"],
            &["plan", "--replay", "soon"],
            &["explain"],
            &["cluster", "drain"],
            &["bind", "--list", "a.>", "g"],
            &["up", "--workers", "0"],
            &["up", "--weight", "1001"],
            &["group", "create", "g", "--queues", "4097"],
            &["worker", "--id", "w1"],
            &["coordinator", "--data", "d", "--advertise", "host"],
            &["coordinator", "--data", "d", "--advertise", "host:0"],
        ] {
            assert!(parse(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn replay_takes_a_number_or_none() {
        for (line, from) in [(&["plan", "--replay"][..], 0), (&["plan", "--replay", "7"], 7)] {
            let Cmd::Plan(args) = parse(line).unwrap().command else { panic!("{line:?}") };
            assert_eq!(args.replay, Some(from));
        }
    }

    #[test]
    fn json_and_url_may_stand_anywhere() {
        for line in [
            &["--json", "group", "list", "--url", "u"][..],
            &["group", "list", "--json", "--url", "u"],
        ] {
            let cli = parse(line).unwrap();
            assert!(cli.json);
            assert_eq!(cli.url.as_deref(), Some("u"));
        }
    }
}
