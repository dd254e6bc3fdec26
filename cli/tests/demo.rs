//! What `ringway demo` leaves behind when it does not come to its end: nothing that runs.
#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// More than a busy machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A demo whose servers and members run.
fn demo(dir: &std::path::Path) -> Child {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_ringway"))
        .arg("demo")
        .env("TMPDIR", dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let told = BufReader::new(demo.stdout.take().unwrap());
    let publishing = told.lines().map_while(Result::ok).any(|line| line.contains("publishing"));
    assert!(publishing, "the demo ended before it published");
    demo
}

/// How many processes this demo has started that still run.
fn processes_of(demo: &Child) -> usize {
    let mark = format!("RINGWAY_DEMO_PARENT={}", demo.id());
    let is_its = |environment: &[u8]| environment.split(|b| *b == 0).any(|v| v == mark.as_bytes());
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter(|p| std::fs::read(p.path().join("environ")).is_ok_and(|e| is_its(&e))).count()
}

#[test]
fn a_demo_that_is_killed_or_stopped_takes_its_processes_with_it() {
    for signal in [Signal::KILL, Signal::INT] {
        let dir = tempfile::tempdir().unwrap();
        let mut demo = demo(dir.path());
        assert!(processes_of(&demo) >= 8, "{signal:?}");
        kill_process(Pid::from_child(&demo), signal).unwrap();
        let status = demo.wait().unwrap();
        assert_eq!(status.code(), (signal == Signal::INT).then_some(1));
        let began = Instant::now();
        while processes_of(&demo) > 0 {
            assert!(began.elapsed() < PATIENCE, "{} still run", processes_of(&demo));
            std::thread::yield_now();
        }
    }
}
