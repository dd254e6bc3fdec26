//! What became of each line: it waits for the answers in the order of the lines, writes a receipt
//! for each, and counts. It promises that a receipt is written at once when those before it are
//! there, and that an answer that did not come is called unknown, never failed.

use std::fs::{File, OpenOptions};
use std::future::{Future, poll_fn};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use ringway_client::{PublishError, Receipt};
use serde::Serialize;
use tokio::sync::mpsc;

use super::line::LineError;
use crate::exit::Failure;
use crate::output::{Output, cause, grouped};

/// How long an answer may be missing before a word is said about it.
const NOTICE: Duration = Duration::from_secs(2);

/// A line and what is known of it.
#[derive(Debug)]
pub struct Entry<F> {
    /// Its number, from 1.
    pub line: u64,
    /// What became of it, or what will tell.
    pub outcome: Outcome<F>,
}

/// What is known of a line.
#[derive(Debug)]
pub enum Outcome<F> {
    /// It is no message.
    Malformed(LineError),
    /// It was not taken.
    Refused(Problem),
    /// It is under way.
    Waiting(F),
}

/// Why a line was not stored, or is not known to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// What programs match on.
    pub code: String,
    /// One sentence.
    pub text: String,
    /// One thing to do, or nothing.
    pub hint: String,
    /// Whether the same may succeed later.
    pub retryable: bool,
}

/// What everybody may look at while it goes on.
#[derive(Debug, Default)]
pub struct Tally {
    /// Messages handed to the cluster.
    pub published: AtomicU64,
    /// Bytes of their bodies.
    pub bytes: AtomicU64,
    /// Lines that are stored.
    pub acked: AtomicU64,
    /// Lines that are not.
    pub failed: AtomicU64,
    /// Lines of which it is not known.
    pub unknown: AtomicU64,
}

/// The first line that is not stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FirstProblem {
    /// Its number, from 1.
    pub line: u64,
    /// Why.
    pub problem: Problem,
}

/// One line of the receipts file.
#[derive(Serialize)]
struct Row<'a> {
    line: u64,
    status: &'a str,
    queue: Option<&'a str>,
    offset: Option<u64>,
    error: Option<&'a str>,
}

/// The receipts file, if one is wanted.
pub struct Receipts {
    to: Option<Box<dyn Write + Send>>,
    /// Whether nothing is said while an answer is missing: programs read stderr.
    quiet: bool,
}

impl Receipts {
    /// Opens `path` for appending; none writes nothing.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: Option<&Path>, output: Output) -> Result<Self, Failure> {
        let quiet = output.is_json();
        let Some(path) = path else { return Ok(Self { to: None, quiet }) };
        let file: File = OpenOptions::new().create(true).append(true).open(path).map_err(|e| {
            Failure::new(
                "io",
                format!("cannot write receipts to {}: {}", path.display(), cause(&e)),
            )
            .help("name a file in a directory that can be written")
        })?;
        Ok(Self { to: Some(Box::new(BufWriter::new(file))), quiet })
    }

    fn write(&mut self, row: &Row<'_>) -> Result<(), Failure> {
        let Some(to) = &mut self.to else { return Ok(()) };
        serde_json::to_writer(&mut *to, row)
            .map_err(std::io::Error::from)
            .and_then(|()| to.write_all(b"\n"))
            .map_err(|e| write_failed(&e))
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.to.as_mut().map_or(Ok(()), |to| to.flush()).map_err(|e| write_failed(&e))
    }
}

fn write_failed(e: &std::io::Error) -> Failure {
    Failure::new("io", format!("cannot write receipts: {}", cause(e)))
        .note("reading stopped there; what was read before may be published")
}

/// Takes the entries in the order of their lines until there are no more. When `cut` comes true,
/// what has not been answered is unknown.
///
/// # Errors
/// When the receipts cannot be written.
pub async fn settle<F>(
    mut entries: mpsc::Receiver<Entry<F>>,
    mut receipts: Receipts,
    tally: &Tally,
    cut: impl Future<Output = ()>,
) -> Result<Option<FirstProblem>, Failure>
where
    F: Future<Output = Result<Receipt, PublishError>> + Unpin,
{
    let mut cut = pin!(cut);
    let mut is_cut = false;
    let mut first = None;
    loop {
        let entry = match entries.try_recv() {
            Ok(entry) => entry,
            Err(_) => {
                receipts.flush()?;
                match entries.recv().await {
                    Some(entry) => entry,
                    None => return Ok(first),
                }
            }
        };
        let line = entry.line;
        let answer = match entry.outcome {
            Outcome::Malformed(error) => Answer::Failed(malformed(line, &error)),
            Outcome::Refused(problem) => Answer::Failed(problem),
            Outcome::Waiting(mut pending) => match poll_once(&mut pending).await {
                Some(result) => Answer::from(result),
                None if is_cut => Answer::stopped(),
                None => {
                    receipts.flush()?;
                    tokio::select! {
                        biased;
                        result = patiently(line, &mut pending, receipts.quiet) => Answer::from(result),
                        () = &mut cut => {
                            is_cut = true;
                            Answer::stopped()
                        }
                    }
                }
            },
        };
        let problem = record(line, answer, &mut receipts, tally)?;
        if first.is_none() {
            first = problem.map(|problem| FirstProblem { line, problem });
        }
    }
}

/// What the cluster said to a line.
enum Answer {
    Stored(Receipt),
    Failed(Problem),
    Unknown(Problem),
}

impl Answer {
    fn stopped() -> Self {
        Self::Unknown(Problem {
            code: "unknown-outcome".to_owned(),
            text: "no answer came before this command was stopped; it may be stored".to_owned(),
            hint: String::new(),
            retryable: false,
        })
    }
}

impl From<Result<Receipt, PublishError>> for Answer {
    fn from(result: Result<Receipt, PublishError>) -> Self {
        match result {
            Ok(receipt) => Self::Stored(receipt),
            Err(e) => {
                let problem = Problem {
                    code: e.code().to_owned(),
                    text: e.to_string(),
                    hint: e.hint(),
                    retryable: e.is_retryable(),
                };
                if e.is_unknown() { Self::Unknown(problem) } else { Self::Failed(problem) }
            }
        }
    }
}

fn malformed(line: u64, error: &LineError) -> Problem {
    Problem {
        code: error.code.to_owned(),
        text: format!("line {} {}", grouped(line), error.text),
        hint: String::new(),
        retryable: false,
    }
}

fn record(
    line: u64,
    answer: Answer,
    receipts: &mut Receipts,
    tally: &Tally,
) -> Result<Option<Problem>, Failure> {
    let (status, counter, problem) = match answer {
        Answer::Stored(receipt) => {
            tally.acked.fetch_add(1, Relaxed);
            let (queue, offset) = (Some(receipt.queue.as_str()), Some(receipt.offset));
            receipts.write(&Row { line, status: "ok", queue, offset, error: None })?;
            return Ok(None);
        }
        Answer::Failed(problem) => ("failed", &tally.failed, problem),
        Answer::Unknown(problem) => ("unknown", &tally.unknown, problem),
    };
    counter.fetch_add(1, Relaxed);
    let error = Some(problem.text.as_str());
    receipts.write(&Row { line, status, queue: None, offset: None, error })?;
    Ok(Some(problem))
}

/// Waits for an answer, and after a while says so, once.
async fn patiently<F: Future + Unpin>(line: u64, pending: &mut F, quiet: bool) -> F::Output {
    match tokio::time::timeout(NOTICE, &mut *pending).await {
        Ok(output) => output,
        Err(_) => {
            if !quiet {
                eprintln!("waiting for line {} to be stored", grouped(line));
            }
            pending.await
        }
    }
}

/// Looks once whether the answer is there.
async fn poll_once<F: Future + Unpin>(pending: &mut F) -> Option<F::Output> {
    poll_fn(|context| match Pin::new(&mut *pending).poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::sync::{Arc, Mutex};

    use tokio::sync::oneshot;

    use super::*;

    type Result1 = Result<Receipt, PublishError>;
    type Future1 = Pin<Box<dyn Future<Output = Result1> + Send>>;

    /// A file that can be read while it is written.
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Shared {
        fn lines(&self) -> Vec<serde_json::Value> {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        }
        fn receipts(&self) -> Receipts {
            Receipts { to: Some(Box::new(BufWriter::new(self.clone()))), quiet: true }
        }
    }

    fn stored(offset: u64) -> Result1 {
        Ok(Receipt { queue: "default/3".to_owned(), offset })
    }

    fn later() -> (oneshot::Sender<Result1>, Future1) {
        let (sender, answer) = oneshot::channel();
        (sender, Box::pin(async { answer.await.unwrap() }))
    }

    fn waiting(line: u64, future: Future1) -> Entry<Future1> {
        Entry { line, outcome: Outcome::Waiting(future) }
    }

    fn bad(line: u64) -> Entry<Future1> {
        let error = LineError { code: "invalid-line", text: "is no JSON: it is empty".to_owned() };
        Entry { line, outcome: Outcome::Malformed(error) }
    }

    #[tokio::test]
    async fn receipts_keep_the_order_of_the_lines_and_none_is_held_back() {
        let (file, tally) = (Shared::default(), Arc::new(Tally::default()));
        let (entries, queue) = mpsc::channel(16);
        let (receipts, shared) = (file.receipts(), tally.clone());
        let task = tokio::spawn(async move { settle(queue, receipts, &shared, pending()).await });
        let (second, second_answer) = later();
        let (third, third_answer) = later();
        entries.send(waiting(1, Box::pin(ready(stored(7))))).await.unwrap();
        entries.send(waiting(2, second_answer)).await.unwrap();
        entries.send(waiting(3, third_answer)).await.unwrap();
        entries.send(bad(4)).await.unwrap();
        third.send(stored(9)).unwrap();
        while file.lines().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(file.lines().len(), 1, "the third waits for the second");
        second.send(stored(8)).unwrap();
        drop(entries);
        let first = task.await.unwrap().unwrap().unwrap();
        assert_eq!(first.line, 4);
        assert_eq!(first.problem.text, "line 4 is no JSON: it is empty");
        let lines = file.lines();
        assert_eq!(
            lines[1].to_string(),
            serde_json::json!({"line": 2, "status": "ok", "queue": "default/3", "offset": 8, "error": null})
                .to_string()
        );
        assert_eq!(lines[2]["offset"], 9);
        assert_eq!((&lines[3]["status"], &lines[3]["line"]), (&"failed".into(), &4.into()));
        assert_eq!((tally.acked.load(Relaxed), tally.failed.load(Relaxed)), (3, 1));
    }

    #[tokio::test]
    async fn what_is_not_answered_at_the_end_is_unknown_and_what_is_answered_counts() {
        let (file, tally) = (Shared::default(), Tally::default());
        let (entries, queue) = mpsc::channel(16);
        entries.send(waiting(1, Box::pin(pending()))).await.unwrap();
        entries.send(waiting(2, Box::pin(ready(stored(1))))).await.unwrap();
        entries.send(waiting(3, Box::pin(pending()))).await.unwrap();
        drop(entries);
        let first = settle(queue, file.receipts(), &tally, ready(())).await.unwrap().unwrap();
        assert_eq!((first.line, first.problem.code.as_str()), (1, "unknown-outcome"));
        let status: Vec<_> = file.lines().iter().map(|line| line["status"].clone()).collect();
        assert_eq!(status, ["unknown", "ok", "unknown"]);
    }
}
