//! The processes of the demo: this same binary, started as a user would start it, each with its
//! own data directory, and killed when the demo ends, however it ends.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use crate::exit::Exit;

/// How long any one thing may take, such as a process to be ready: enough for a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Names the demo's process to those that it starts.
const PARENT: &str = "RINGWAY_DEMO_PARENT";
/// How often they look whether it is still there.
const LOOK: Duration = Duration::from_millis(100);

/// In a process that a demo started: ends it when the demo is gone, however that ended. A killed
/// demo can end nobody, so its processes look for themselves.
pub fn end_with_demo() {
    let Some(demo) = std::env::var(PARENT).ok().and_then(|id| id.parse::<u32>().ok()) else {
        return;
    };
    std::thread::spawn(move || {
        while std::os::unix::process::parent_id() == demo {
            std::thread::sleep(LOOK);
        }
        std::process::exit(Exit::Failed as i32);
    });
}

/// One running process of the demo. Dropping it kills it.
pub struct Process {
    name: String,
    child: Child,
    /// What it printed to stdout, line by line, unless a reader took it over.
    lines: Arc<Mutex<Vec<String>>>,
    log: PathBuf,
}

/// Starts processes of this binary under one directory.
pub struct Spawner {
    binary: PathBuf,
    dir: PathBuf,
}

impl Spawner {
    /// Processes will keep their files under `dir`.
    pub fn new(dir: &Path) -> Result<Self> {
        let binary = std::env::current_exe().context("cannot find this program's own file")?;
        Ok(Self { binary, dir: dir.to_owned() })
    }

    /// Starts `ringway ARGS`; `name` names its log file.
    pub fn start(
        &self,
        name: &str,
        args: &[&str],
        stdin: bool,
    ) -> Result<(Process, Option<ChildStdin>)> {
        let log = self.dir.join(format!("{name}.log"));
        let stderr = std::fs::File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new(&self.binary);
        command
            .args(args)
            .stdin(if stdin { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(stderr)
            .kill_on_drop(true);
        // The demo's processes take their settings from their flags alone.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RINGWAY_") {
                command.env_remove(name);
            }
        }
        command.env(PARENT, std::process::id().to_string());
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let input = child.stdin.take();
        let lines = Arc::new(Mutex::new(Vec::new()));
        if let Some(stdout) = child.stdout.take() {
            let lines = lines.clone();
            tokio::spawn(async move {
                let mut reader = BufReader::new(stdout).lines();
                while let Ok(Some(line)) = reader.next_line().await {
                    if let Ok(mut lines) = lines.lock() {
                        lines.push(line);
                    }
                }
            });
        }
        Ok((Process { name: name.to_owned(), child, lines, log }, input))
    }
}

impl Process {
    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// How many lines it has printed to stdout.
    pub fn printed(&self) -> usize {
        self.lines.lock().map(|l| l.len()).unwrap_or(0)
    }

    /// What it printed to stdout.
    pub fn take_lines(&self) -> Vec<String> {
        self.lines.lock().map(|mut l| std::mem::take(&mut *l)).unwrap_or_default()
    }

    /// Waits until `found` gets something out of a line of its stdout.
    pub async fn wait_for<T>(&mut self, found: impl Fn(&str) -> Option<T>) -> Result<T> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(t) = self.lines.lock().ok().and_then(|l| l.iter().find_map(|l| found(l))) {
                return Ok(t);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}: {}", self.name, self.last_words());
            }
            if tokio::time::Instant::now() > deadline {
                bail!("{} did not become ready: {}", self.name, self.last_words());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Whether its log on stderr has a line that begins so.
    pub fn said(&self, beginning: &str) -> bool {
        std::fs::read_to_string(&self.log)
            .is_ok_and(|log| log.lines().any(|line| line.starts_with(beginning)))
    }

    /// Ends it as a power cut would (SIGKILL).
    pub async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.with_context(|| format!("cannot kill {}", self.name))
    }

    /// Asks it to end (SIGTERM) and waits for it. An exit code other than 0 is an error.
    pub async fn stop(self) -> Result<Vec<String>> {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id as i32));
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM)
                .with_context(|| format!("cannot stop {}", self.name))?;
        }
        self.finish(PATIENCE).await
    }

    /// Waits for it to end by itself, within `limit`.
    pub async fn finish(mut self, limit: Duration) -> Result<Vec<String>> {
        let status = timeout(limit, self.child.wait())
            .await
            .map_err(|_| anyhow!("{} does not end: {}", self.name, self.last_words()))??;
        if !status.success() {
            bail!("{} ended with {status}: {}", self.name, self.last_words());
        }
        // The reader of its stdout ends soon after the process; its last lines count too.
        for _ in 0..200 {
            if Arc::strong_count(&self.lines) == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(self.take_lines())
    }

    /// The last line of its log, for an error text.
    fn last_words(&self) -> String {
        std::fs::read_to_string(&self.log)
            .ok()
            .and_then(|log| log.lines().rev().find(|l| !l.trim().is_empty()).map(str::to_owned))
            .unwrap_or_else(|| "it said nothing".to_owned())
    }
}
