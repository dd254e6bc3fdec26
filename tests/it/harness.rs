//! Real `ringway` processes for the tests: a scratch directory, processes with their output in
//! files, whole clusters on loopback. Every wait polls and has a deadline, every process dies with
//! its handle, and where a test fails the end of every process's stderr is shown. It knows the
//! command line and nothing of what is behind it.

mod cluster;
mod ports;
mod process;

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub use cluster::{Caller, Cluster, Up, http_get};
pub use ports::free_ports;
pub use process::{Output, Process, Run, Signal};

/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(20);
/// How long one step of a system may take on a busy machine before the test calls it stuck.
pub const STEP: Duration = Duration::from_secs(40);
/// Lines of each process's stderr that a failing test shows.
const SHOWN_LINES: usize = 40;

/// Tests that load the whole machine take turns.
pub fn heavy() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed while it had the turn does not spoil the others.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory of one test, with the time until which that test has to be done. Make it before
/// anything that runs in it: what is made later is dropped earlier.
pub struct Scratch {
    dir: TempDir,
    deadline: Instant,
    runs: AtomicU32,
}

impl Scratch {
    /// An empty directory for a test that takes at most `limit` once its processes run.
    pub fn new(limit: Duration) -> Self {
        let dir = tempfile::Builder::new().prefix("ringway-test-").tempdir().expect("a directory");
        fs::create_dir(dir.path().join("logs")).expect("a directory for output");
        fs::create_dir(dir.path().join("home")).expect("a home directory");
        Self { dir, deadline: Instant::now() + limit, runs: AtomicU32::new(0) }
    }

    /// A path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file with this content.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("a file of the test");
        path
    }

    /// `ringway` with these arguments, in an environment of its own.
    pub fn ringway<A: AsRef<str>>(&self, args: impl IntoIterator<Item = A>) -> Run<'_> {
        Run::new(self, Path::new(env!("CARGO_BIN_EXE_ringway-under-test")), args)
    }

    /// Another program with these arguments, in the same environment.
    pub fn program<A: AsRef<str>>(
        &self,
        program: &str,
        args: impl IntoIterator<Item = A>,
    ) -> Run<'_> {
        Run::new(self, Path::new(program), args)
    }

    /// Polls until `probe` finds something.
    pub fn until<T>(&self, what: &str, probe: impl FnMut() -> Option<T>) -> T {
        until(what, self.step(), probe)
    }

    /// The deadline of a step that begins now.
    fn step(&self) -> Instant {
        self.deadline.min(Instant::now() + STEP)
    }

    fn next_run(&self) -> u32 {
        self.runs.fetch_add(1, Ordering::Relaxed)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            show_logs(&self.dir.path().join("logs"));
        }
    }
}

fn show_logs(logs: &Path) {
    let mut files: Vec<PathBuf> = fs::read_dir(logs)
        .map(|entries| entries.filter_map(|e| Some(e.ok()?.path())).collect())
        .unwrap_or_default();
    files.retain(|path| path.extension().is_some_and(|e| e == "err"));
    files.sort();
    for path in files {
        let text = read(&path);
        let lines: Vec<&str> = text.lines().collect();
        if !lines.is_empty() {
            eprintln!("--- {}", path.file_name().unwrap_or_default().display());
            lines[lines.len().saturating_sub(SHOWN_LINES)..].iter().for_each(|l| eprintln!("{l}"));
        }
    }
}

/// Polls until `probe` finds something, or panics at `deadline` saying `what` did not happen.
pub fn until<T>(what: &str, deadline: Instant, mut probe: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(POLL);
    }
}

/// What is in a file so far, empty where there is none yet.
pub fn read(path: &Path) -> String {
    fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
}

/// Counts the complete lines of files that grow, reading each byte once.
pub struct LineCounter {
    files: Vec<(PathBuf, u64)>,
    lines: usize,
}

impl LineCounter {
    /// Counts in all of `files`, which need not exist yet.
    pub fn new<P: Into<PathBuf>>(files: impl IntoIterator<Item = P>) -> Self {
        Self { files: files.into_iter().map(|f| (f.into(), 0)).collect(), lines: 0 }
    }

    /// How many lines there are now.
    pub fn count(&mut self) -> usize {
        for (path, read_to) in &mut self.files {
            let Ok(mut file) = File::open(path) else { continue };
            let mut fresh = Vec::new();
            file.seek(SeekFrom::Start(*read_to)).expect("a file that can be read");
            file.read_to_end(&mut fresh).expect("a file that can be read");
            *read_to += fresh.len() as u64;
            self.lines += fresh.iter().filter(|b| **b == b'\n').count();
        }
        self.lines
    }
}
