//! `ringway pub`: publishes one message, or one per line of stdin. It promises bounded memory, a
//! receipt per line in the order of the lines, and that a line which cannot be published is named.
//! How lines are read, understood and accounted for is in [`crate::publish`].

use std::future::IntoFuture as _;
use std::io::{self, IsTerminal, Read as _};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use ringway_client::{Pending, Producer, SendError};
use ringway_proto::Class;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Context;
use crate::args::PubArgs;
use crate::cluster::{connect_with, noticed};
use crate::exit::Failure;
use crate::output::{Output, cause, counted, grouped};
use crate::publish::line::{LineError, Recipe};
use crate::publish::pace::Pace;
use crate::publish::progress::Progress;
use crate::publish::receipts::{Entry, FirstProblem, Outcome, Problem, Receipts, Tally, settle};
use crate::publish::stdin::{self, Line};
use crate::signals::Stop;

/// Lines that may wait for their receipts. What they hold is bounded by the SDK, in bytes.
const UNSETTLED_LINES: usize = 65_536;
/// How long a stopped publisher waits for what is under way.
const LAST_CALL: Duration = Duration::from_secs(10);
/// The longest body that is read from stdin, in bytes. No group accepts as much.
const MAX_STDIN_BODY: u64 = 64 << 20;

/// Publishes what the arguments say.
///
/// # Errors
/// When anything was refused or is not known to be stored.
pub async fn run(args: PubArgs, context: &Context) -> Result<(), Failure> {
    let stop = Stop::on_signal()?;
    let key = args.key.clone().map(Bytes::from);
    match (&args.class, &args.class_field) {
        (Some(class), _) if args.body.is_some() => {
            let class = Class::new(class)?;
            one(class, key, &args, &stop, context).await
        }
        (Some(class), _) => {
            let recipe = Recipe::fixed(Class::new(class)?, args.key_field.as_deref(), key);
            many(recipe, args, &stop, context).await
        }
        (None, template) => {
            let template = template.as_deref().unwrap_or_default();
            let recipe = Recipe::template(template, args.key_field.as_deref(), key)?;
            many(recipe, args, &stop, context).await
        }
    }
}

async fn one(
    class: Class,
    key: Option<Bytes>,
    args: &PubArgs,
    stop: &Stop,
    context: &Context,
) -> Result<(), Failure> {
    let body = match args.body.as_deref() {
        Some("-") => whole_stdin(stop).await?,
        body => Bytes::from(body.unwrap_or_default().to_owned()),
    };
    let client =
        connect_with(context.url.as_deref(), context.output, |b| b.publish_deadline(args.timeout))
            .await?;
    let mut publish = client.publish(&class, body);
    if let Some(key) = key {
        publish = publish.key(key);
    }
    for (name, value) in &args.header {
        publish = publish.header(name, value);
    }
    let what = format!("the message of class {class} to be stored");
    let cut = async {
        stop.asked().await;
        tokio::time::sleep(LAST_CALL).await;
    };
    let receipt = tokio::select! {
        result = noticed(context.output, &what, publish.into_future()) => result?,
        () = cut => {
            return Err(Failure::new(
                "unknown-outcome",
                "no answer came before this command was stopped; the message may be stored",
            ));
        }
    };
    let value = json!({"status": "ok", "queue": receipt.queue, "offset": receipt.offset});
    context.output.said(&value, &format!("{} @ {}", receipt.queue, receipt.offset))?;
    client.close().await;
    Ok(())
}

/// Everything on stdin, as one body.
async fn whole_stdin(stop: &Stop) -> Result<Bytes, Failure> {
    if io::stdin().is_terminal() {
        eprintln!("reading the body from the terminal; Ctrl-D ends it");
    }
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut body = Vec::new();
        let read = io::stdin().lock().take(MAX_STDIN_BODY + 1).read_to_end(&mut body);
        let _ = sender.send(read.map(|_| body));
    });
    let body = tokio::select! {
        body = receiver => body,
        () = stop.asked() => {
            return Err(Failure::new("stopped", "stopped before the body was read to its end")
                .note("nothing was published"));
        }
    };
    let body = body.unwrap_or_else(|_| Err(io::ErrorKind::UnexpectedEof.into())).map_err(|e| {
        Failure::new("io", format!("cannot read the body from stdin: {}", cause(&e)))
    })?;
    if body.len() as u64 > MAX_STDIN_BODY {
        return Err(Failure::new(
            "too-large",
            format!("the body has more than {} bytes", grouped(MAX_STDIN_BODY)),
        )
        .help("store large content elsewhere and send a reference"));
    }
    Ok(body.into())
}

/// How reading ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// Stdin is at its end.
    Read,
    /// A signal came, or the receipts cannot be written.
    Stopped,
    /// A line is no message, and `--strict` stops there.
    Strict,
}

async fn many(
    recipe: Recipe,
    args: PubArgs,
    stop: &Stop,
    context: &Context,
) -> Result<(), Failure> {
    let receipts = Receipts::open(args.receipts.as_deref(), context.output)?;
    let client =
        connect_with(context.url.as_deref(), context.output, |b| b.publish_deadline(args.timeout))
            .await?;
    if io::stdin().is_terminal() {
        let what = if recipe.reads_json() { "JSON objects" } else { "messages" };
        eprintln!("reading {what} from the terminal, one per line; Ctrl-D ends it");
    }
    let (started, tally) = (Instant::now(), Arc::new(Tally::default()));
    let progress = args.progress.then(|| Progress::start(tally.clone()));
    let (entries, queue) = mpsc::channel(UNSETTLED_LINES);
    let settling = tokio::spawn({
        let (tally, stop) = (tally.clone(), stop.clone());
        async move {
            let cut = async {
                stop.asked().await;
                tokio::time::sleep(LAST_CALL).await;
            };
            settle(queue, receipts, &tally, cut).await
        }
    });
    let publisher = Publisher {
        producer: client.producer().build(),
        recipe,
        pace: args.rate.map(|rate| Pace::new(rate, Instant::now())),
        headers: args.header,
        strict: args.strict,
        tally: tally.clone(),
        entries,
    };
    let read = publisher.run(stop).await;
    let settled = settling
        .await
        .map_err(|e| Failure::new("internal", format!("the receipts were given up: {e}")))?;
    drop(progress);
    let summary = Summary::of(&tally, started.elapsed());
    summary.print(context.output)?;
    let first = settled?;
    let end = read?;
    if summary.unknown == 0 {
        // With answers missing the SDK would wait for them once more; the outcome is told already.
        noticed(context.output, "the connection to close", client.close()).await;
    }
    match first {
        None => Ok(()),
        Some(first) => Err(summary.failure(first, end)),
    }
}

/// Reads lines and hands them to the SDK.
struct Publisher {
    producer: Producer,
    recipe: Recipe,
    pace: Option<Pace>,
    headers: Vec<(String, String)>,
    strict: bool,
    tally: Arc<Tally>,
    entries: mpsc::Sender<Entry<Pending>>,
}

impl Publisher {
    /// Goes on to the end of stdin, a signal, or a line that must not be.
    async fn run(mut self, stop: &Stop) -> Result<End, Failure> {
        let mut lines = stdin::lines();
        let mut stopped = pin!(stop.asked());
        let mut number = 0;
        loop {
            let chunk = tokio::select! {
                biased;
                () = &mut stopped => return Ok(End::Stopped),
                chunk = lines.recv() => chunk,
            };
            let Some(chunk) = chunk else { return Ok(End::Read) };
            let chunk = chunk.map_err(|e| {
                Failure::new("io", format!("cannot read stdin: {}", cause(&e)))
                    .note(format!("{} were read before", counted(number, "line")))
            })?;
            for line in chunk {
                // What was read and not handed over has no receipt: it was not begun.
                let outcome = tokio::select! {
                    biased;
                    () = &mut stopped => return Ok(End::Stopped),
                    outcome = self.publish(line) => outcome?,
                };
                number += 1;
                let bad = !matches!(outcome, Outcome::Waiting(_));
                if self.entries.send(Entry { line: number, outcome }).await.is_err() {
                    return Ok(End::Stopped);
                }
                if bad && self.strict {
                    return Ok(End::Strict);
                }
            }
        }
    }

    /// Hands one line to the SDK, as soon as it is due and there is room.
    async fn publish(&mut self, line: Line) -> Result<Outcome<Pending>, Failure> {
        let body = match line {
            Line::Bytes(body) => body,
            Line::TooLong(bytes) => {
                let text = format!("has {} bytes, which no group accepts", grouped(bytes));
                return Ok(Outcome::Malformed(LineError { code: "too-large", text }));
            }
        };
        let (class, key) = match self.recipe.read(&body) {
            Ok(found) => found,
            Err(error) => return Ok(Outcome::Malformed(error)),
        };
        if let Some(due) = self.pace.as_mut().and_then(|pace| pace.next(Instant::now())) {
            tokio::time::sleep_until(due).await;
        }
        let bytes = body.len() as u64;
        let mut outgoing = self.producer.send(&class, body);
        if let Some(key) = key {
            outgoing = outgoing.key(key);
        }
        for (name, value) in &self.headers {
            outgoing = outgoing.header(name, value);
        }
        match outgoing.await {
            Ok(pending) => {
                self.tally.published.fetch_add(1, Relaxed);
                self.tally.bytes.fetch_add(bytes, Relaxed);
                Ok(Outcome::Waiting(pending))
            }
            Err(SendError::Closed) => Err(SendError::Closed.into()),
            Err(e) => Ok(Outcome::Refused(Problem {
                code: e.code().to_owned(),
                text: e.to_string(),
                hint: e.hint(),
                retryable: e.is_retryable(),
            })),
        }
    }
}

/// What became of all lines.
#[derive(Clone, Copy, Debug)]
struct Summary {
    published: u64,
    acked: u64,
    failed: u64,
    unknown: u64,
    seconds: f64,
    bytes: u64,
}

impl Summary {
    fn of(tally: &Tally, elapsed: Duration) -> Self {
        Self {
            published: tally.published.load(Relaxed),
            acked: tally.acked.load(Relaxed),
            failed: tally.failed.load(Relaxed),
            unknown: tally.unknown.load(Relaxed),
            seconds: (elapsed.as_secs_f64() * 1000.0).round() / 1000.0,
            bytes: tally.bytes.load(Relaxed),
        }
    }

    /// On stderr for people, since stdout is for data; one object on stdout for programs.
    fn print(&self, output: Output) -> Result<(), Failure> {
        let Self { published, acked, failed, unknown, seconds, bytes } = *self;
        if output.is_json() {
            let summary = json!({
                "published": published, "acked": acked, "failed": failed, "unknown": unknown,
                "seconds": seconds, "bytes": bytes,
            });
            return output.said(&summary, "");
        }
        let rate = (acked as f64 / seconds.max(0.001)) as u64;
        eprintln!(
            "published {} · stored {} · failed {} · unknown {} · {} bytes in {seconds:.3} s, {}/s",
            grouped(published),
            grouped(acked),
            grouped(failed),
            grouped(unknown),
            grouped(bytes),
            grouped(rate)
        );
        Ok(())
    }

    fn failure(&self, first: FirstProblem, end: End) -> Failure {
        let FirstProblem { line, problem } = first;
        let name = format!("line {}", grouped(line));
        let text = match problem.text.starts_with(&name) {
            true => problem.text,
            false => format!("{name}: {}", problem.text),
        };
        let hint = match problem.hint.is_empty() {
            true => {
                "mend the line; `--receipts FILE` says of every line what became of it".to_owned()
            }
            false => problem.hint,
        };
        let mut failure = Failure::new(&problem.code, text)
            .help(hint)
            .retryable(problem.retryable)
            .note(format!(
                "{}: {} stored, {} failed, {} unknown",
                counted(self.acked + self.failed + self.unknown, "line"),
                grouped(self.acked),
                grouped(self.failed),
                grouped(self.unknown)
            ));
        if end == End::Strict {
            failure = failure.note("reading stopped there (--strict)");
        }
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_failed_is_named_once() {
        let summary =
            Summary { published: 9, acked: 7, failed: 1, unknown: 2, seconds: 1.0, bytes: 9 };
        let problem = |text: &str| Problem {
            code: "invalid-line".into(),
            text: text.into(),
            hint: String::new(),
            retryable: false,
        };
        let failure = summary.failure(
            FirstProblem { line: 4117, problem: problem("line 4,117 is no JSON") },
            End::Strict,
        );
        assert_eq!(failure.text, "line 4,117 is no JSON");
        assert_eq!(failure.notes[0], "10 lines: 7 stored, 1 failed, 2 unknown");
        assert_eq!(failure.notes.len(), 2);
        let failure = summary
            .failure(FirstProblem { line: 2, problem: problem("the body is large") }, End::Read);
        assert_eq!(failure.text, "line 2: the body is large");
    }
}
