//! One process: how it is started, what it has said, and how it ends. Its output goes to files,
//! so that nobody has to read along and nothing is lost when it is killed.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Instant;

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use serde_json::Value;

use super::{STEP, Scratch, read, until};

/// A process that is about to be started.
pub struct Run<'s> {
    scratch: &'s Scratch,
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    stdin: Input,
    name: Option<String>,
}

enum Input {
    Nothing,
    File(PathBuf),
    Pipe,
}

impl<'s> Run<'s> {
    pub(super) fn new<A: AsRef<str>>(
        scratch: &'s Scratch,
        program: &Path,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        let args = args.into_iter().map(|a| a.as_ref().to_owned()).collect();
        let (env, stdin, name) = (Vec::new(), Input::Nothing, None);
        Self { scratch, program: program.to_owned(), args, env, stdin, name }
    }

    /// One more argument.
    pub fn arg(mut self, arg: impl AsRef<str>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// A variable of its environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// What the files of its output are called; without it, by its first argument.
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Its stdin is this file.
    pub fn stdin_file(mut self, path: &Path) -> Self {
        self.stdin = Input::File(path.to_owned());
        self
    }

    /// Its stdin is this text, then the end.
    pub fn stdin(self, text: impl AsRef<[u8]>) -> Self {
        let name = format!("logs/stdin-{}", self.scratch.next_run());
        let path = self.scratch.file(&name, text);
        self.stdin_file(&path)
    }

    /// Its stdin is what [`Process::say`] gives it.
    pub fn stdin_pipe(mut self) -> Self {
        self.stdin = Input::Pipe;
        self
    }

    /// Starts it.
    pub fn spawn(self) -> Process {
        let what = self.name.or_else(|| self.args.first().cloned()).unwrap_or_default();
        let name = format!("{:03}-{what}", self.scratch.next_run());
        let stdout = self.scratch.path(&format!("logs/{name}.out"));
        let stderr = self.scratch.path(&format!("logs/{name}.err"));
        let mut command = Command::new(&self.program);
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("RINGWAY_") {
                command.env_remove(variable);
            }
        }
        let mut child = command
            .args(&self.args)
            .env("HOME", self.scratch.path("home"))
            .env("XDG_DATA_HOME", self.scratch.path("home"))
            .env("NO_COLOR", "1")
            .envs(self.env)
            .stdin(match &self.stdin {
                Input::Nothing => Stdio::null(),
                Input::Pipe => Stdio::piped(),
                Input::File(path) => File::open(path).expect("a file for stdin").into(),
            })
            .stdout(File::create(&stdout).expect("a file for stdout"))
            .stderr(File::create(&stderr).expect("a file for stderr"))
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {}: {e}", self.program.display()));
        let stdin = child.stdin.take();
        Process { name, child, stdin, stdout, stderr, deadline: self.scratch.deadline }
    }

    /// Runs it to its end.
    pub fn output(self) -> Output {
        self.spawn().finish()
    }

    /// Runs it to its end, which must be exit code 0, and gives its stdout.
    pub fn ok(self) -> String {
        self.output().exits(0).stdout
    }

    /// As [`Run::ok`] for a command that prints one JSON object per line.
    pub fn json_lines(self) -> Vec<Value> {
        self.output().exits(0).json_lines()
    }

    /// As [`Run::ok`] for a command that prints one JSON object.
    pub fn json(self) -> Value {
        let mut lines = self.json_lines();
        assert_eq!(lines.len(), 1, "one object is expected: {lines:?}");
        lines.remove(0)
    }
}

/// A process that runs, or has run. It is killed when this is dropped.
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: PathBuf,
    stderr: PathBuf,
    deadline: Instant,
}

impl Process {
    /// The file of its stdout.
    pub fn stdout_path(&self) -> &Path {
        &self.stdout
    }

    /// What it wrote to stdout so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// What it wrote to stderr so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// The JSON objects that it wrote to stdout so far. A last line without an end is left out:
    /// the process was killed, or is at it.
    pub fn json_lines(&self) -> Vec<Value> {
        parse_lines(&self.stdout())
    }

    /// Waits for a line on stdout.
    pub fn wait_stdout(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        let path = self.stdout.clone();
        self.wait_line(&path, wanted)
    }

    /// Waits for a line on stderr.
    pub fn wait_stderr(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        let path = self.stderr.clone();
        self.wait_line(&path, wanted)
    }

    fn wait_line(&mut self, path: &Path, wanted: impl Fn(&str) -> bool) -> String {
        let name = self.name.clone();
        until(&format!("a line of {name}"), self.step(), || {
            // Asked first, so that the last words of a process that left are not missed.
            let left = self.exit_code();
            let text = read(path);
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            if let Some(line) = whole.lines().find(|line| wanted(line)) {
                return Some(line.to_owned());
            }
            assert!(left.is_none(), "{name} left with {left:?} instead of saying what was awaited");
            None
        })
    }

    /// Gives it a line on stdin.
    pub fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("a process with a pipe");
        stdin.write_all(format!("{line}\n").as_bytes()).expect("a process that reads");
    }

    /// Ends its stdin.
    pub fn end_stdin(&mut self) {
        self.stdin = None;
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().expect("a process that can be killed");
        self.child.wait().expect("a process that ends");
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("a process of ours that was not awaited yet");
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.exit_code().is_none()
    }

    /// How it ended, if it has; -1 stands for a signal.
    fn exit_code(&mut self) -> Option<i32> {
        let status = self.child.try_wait().expect("a process of ours");
        status.map(|status| status.code().unwrap_or(-1))
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Output {
        self.stdin = None;
        let name = self.name.clone();
        let code = until(&format!("the end of {name}"), self.step(), || self.exit_code());
        Output { name, code, stdout: self.stdout(), stderr: self.stderr() }
    }

    /// SIGTERM, then waits for its end, which must be exit code 0.
    pub fn stop(self) -> Output {
        self.terminate();
        self.finish().exits(0)
    }

    fn step(&self) -> Instant {
        self.deadline.min(Instant::now() + STEP)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process said, and how it ended.
#[derive(Debug)]
pub struct Output {
    /// Which process.
    pub name: String,
    /// Its exit code; -1 stands for a signal.
    pub code: i32,
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
}

impl Output {
    /// Asserts how it ended.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{} ended so\n{}\n{}", self.name, self.stdout, self.stderr);
        self
    }

    /// Asserts a refusal: the exit code, `error[CODE]` on stderr as one sentence with something to
    /// do, and each of `words` in it.
    #[track_caller]
    pub fn refused(self, exit: i32, code: &str, words: &[&str]) -> Self {
        let me = self.exits(exit);
        let line = me
            .stderr
            .lines()
            .find(|line| line.starts_with(&format!("error[{code}]: ")))
            .unwrap_or_else(|| panic!("no error[{code}] in: {}", me.stderr));
        assert!(!line.ends_with('.'), "no full stop: {line}");
        assert!(me.stderr.contains("  help: "), "nothing to do in: {}", me.stderr);
        for word in words {
            assert!(me.stderr.contains(word), "no {word:?} in: {}", me.stderr);
        }
        me
    }

    /// Its stdout as one JSON object per line.
    pub fn json_lines(&self) -> Vec<Value> {
        parse_lines(&self.stdout)
    }
}

fn parse_lines(text: &str) -> Vec<Value> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in {line}")))
        .collect()
}
