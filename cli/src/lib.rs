//! The `ringway` command. It reads the command line, runs one command and ends with its exit code;
//! what a command does is in [`cmd`], how errors and results look in [`exit`] and [`output`].

pub mod args;
pub mod cluster;
pub mod cmd;
pub mod exit;
pub mod guarded;
pub mod http;
pub mod logs;
pub mod output;
pub mod publish;
pub mod server;
pub mod shown;
pub mod signals;

use std::io::Write as _;
use std::process::ExitCode;

use clap::error::ErrorKind;

use args::Cli;
use exit::{Exit, Failure};
use logs::Voice;
use output::Output;

/// Runs the command line of this process to its end.
#[must_use]
pub fn run() -> ExitCode {
    match args::parse() {
        Ok(cli) => execute(cli).into(),
        Err(e) => misread(&e).into(),
    }
}

fn execute(cli: Cli) -> Exit {
    cmd::demo::end_with_demo();
    let voice = cmd::voice(&cli.command);
    logs::start(voice);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if voice == Voice::Command {
        // The SDK has a thread of its own; what is left to do is reading, printing and waiting.
        builder.worker_threads(2);
    }
    let result = match builder.enable_all().build() {
        Ok(runtime) => {
            let context = cmd::Context { url: cli.url, output: Output::new(cli.json) };
            let result = runtime.block_on(cmd::run(cli.command, &context));
            // Whatever still waits for stdin or a resolver must not hold up the end.
            runtime.shutdown_background();
            result
        }
        Err(e) => Err(Failure::new("internal", format!("cannot start: {}", output::cause(&e)))),
    };
    match result {
        Ok(()) => Exit::Done,
        Err(failure) => {
            complain(&failure, cli.json);
            failure.exit
        }
    }
}

/// Help and version, which clap hands over as errors, and command lines that cannot be understood.
fn misread(e: &clap::Error) -> Exit {
    if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _ = e.print();
        return Exit::Done;
    }
    // The options were not read, so whether --json is among them can only be seen by looking.
    if std::env::args_os().any(|arg| arg == "--json") {
        let text = e.to_string();
        let said = text.lines().take_while(|line| !line.starts_with("Usage:")).map(str::trim);
        let said: Vec<&str> = said.filter(|line| !line.is_empty()).collect();
        let sentence = said.join(" ");
        complain(
            &Failure::usage(sentence.trim_start_matches("error: "))
                .help("`ringway COMMAND --help` shows how"),
            true,
        );
    } else {
        let _ = e.print();
    }
    Exit::Usage
}

fn complain(failure: &Failure, json: bool) {
    let _ = std::io::stderr().lock().write_all(failure.render(json).as_bytes());
}
