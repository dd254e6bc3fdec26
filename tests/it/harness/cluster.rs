//! Whole systems: `ringway up`, or a coordinator and workers apart. Each has its addresses chosen
//! once, so that what is killed comes back where it was.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::{Process, Run, Scratch, free_ports, read};

/// Commands against one system.
#[derive(Clone)]
pub struct Caller<'s> {
    scratch: &'s Scratch,
    url: String,
}

impl<'s> Caller<'s> {
    /// Commands against the system with this connection string.
    pub fn new(scratch: &'s Scratch, url: impl Into<String>) -> Self {
        Self { scratch, url: url.into() }
    }

    /// The connection string.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// `ringway` with these arguments against the system.
    pub fn run(&self, args: &[&str]) -> Run<'s> {
        self.scratch.ringway(args).env("RINGWAY_URL", &self.url)
    }

    /// A read command's one object.
    pub fn json(&self, args: &[&str]) -> Value {
        self.run(args).arg("--json").json()
    }

    /// A read command's objects.
    pub fn json_lines(&self, args: &[&str]) -> Vec<Value> {
        self.run(args).arg("--json").json_lines()
    }

    /// One message, stored.
    pub fn publish(&self, class: &str, body: &str) {
        self.run(&["pub", class, body]).ok();
    }

    /// A member that prints JSON, once it is ready.
    pub fn member(&self, filter: &str, name: &str, member: &str, more: &[&str]) -> Process {
        let args = ["sub", filter, "--as", name, "--member", member, "--format", "json"];
        let mut process =
            self.run(&[&args[..], more].concat()).named(&format!("sub-{name}-{member}")).spawn();
        process.wait_stderr(|line| line.starts_with("ready"));
        process
    }

    /// A publisher of a file of flights, one message a line.
    pub fn flights(&self, input: &Path, receipts: &Path, more: &[&str]) -> Process {
        let receipts = receipts.to_str().expect("a path in UTF-8");
        let args = ["pub", "--class-field", "flights.{origin}.{carrier}", "--key-field", "tail"];
        let args = [&args[..], &["--receipts", receipts, "--json"], more].concat();
        self.run(&args).stdin_file(input).spawn()
    }

    /// Everything that `filter` matches from the start, as a subscription of this name sees it:
    /// until nothing has come for two seconds.
    pub fn read_all(&self, filter: &str, name: &str) -> Vec<Value> {
        let args = ["sub", filter, "--as", name, "--from", "start", "--format", "json"];
        self.run(&[&args[..], &["--idle-exit", "2s"]].concat()).json_lines()
    }

    /// How many queues each worker leads.
    pub fn queues_by_worker(&self) -> BTreeMap<String, u64> {
        let workers = self.json_lines(&["cluster", "workers"]);
        let row = |w: &Value| Some((w["worker"].as_str()?.to_owned(), w["queues"].as_u64()?));
        workers.iter().filter_map(row).collect()
    }

    /// Waits until all queues of the system are served.
    pub fn wait_serving(&self) {
        self.scratch.until("all queues to be served", || {
            let status = self.json(&["cluster", "status"]);
            let (queues, serving) = (number(&status, "queues"), number(&status, "queues_serving"));
            (queues > 0 && queues == serving).then_some(())
        });
    }
}

fn number(object: &Value, key: &str) -> u64 {
    object[key].as_u64().unwrap_or_else(|| panic!("no number {key} in {object}"))
}

/// `ringway up` in one process.
pub struct Up<'s> {
    scratch: &'s Scratch,
    workers: usize,
    data: PathBuf,
    port: u16,
    http: u16,
    process: Option<Process>,
}

impl<'s> Up<'s> {
    /// Starts one and waits until it is ready.
    pub fn start(scratch: &'s Scratch, workers: usize) -> Self {
        let port = free_ports(workers as u16 + 2);
        let data = scratch.path(&format!("up-{port}"));
        let http = port + workers as u16 + 1;
        let mut up = Self { scratch, workers, data, port, http, process: None };
        up.restart();
        up
    }

    /// Starts it (again) on the same directory and addresses, and waits until it is ready.
    pub fn restart(&mut self) {
        let mut process = self.command().spawn();
        process.wait_stdout(|line| line.starts_with("ready "));
        self.process = Some(process);
    }

    /// The command that starts it.
    pub fn command(&self) -> Run<'s> {
        let (workers, data) = (self.workers.to_string(), self.data.to_string_lossy());
        let (listen, http) =
            (format!("127.0.0.1:{}", self.port), format!("127.0.0.1:{}", self.http));
        let args = ["up", "--workers", &workers, "--data", &data];
        self.scratch.ringway([&args[..], &["--listen", &listen, "--http", &http]].concat())
    }

    /// The running process.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("a system that was started")
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process().kill();
    }

    /// SIGTERM; it must end with exit code 0.
    pub fn stop(&mut self) {
        self.process.take().expect("a system that was started").stop();
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The port of its coordinator; those of its workers follow.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its connection string, as it wrote it down.
    pub fn url(&self) -> String {
        read(&self.data.join("url")).trim().to_owned()
    }

    /// An address of its HTTP server.
    pub fn http(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.http)
    }

    /// Commands against it.
    pub fn caller(&self) -> Caller<'s> {
        Caller::new(self.scratch, self.url())
    }
}

/// A coordinator and workers, each a process of its own, with certificates of `tls init`.
pub struct Cluster<'s> {
    scratch: &'s Scratch,
    tls: PathBuf,
    first_port: u16,
    copy_rate: Option<String>,
    coordinator: Option<Process>,
    workers: Vec<Option<Process>>,
}

impl<'s> Cluster<'s> {
    /// Certificates and addresses for `workers` workers; nothing runs yet.
    pub fn prepare(scratch: &'s Scratch, workers: usize) -> Self {
        let first_port = free_ports(workers as u16 + 1);
        let tls = scratch.path(&format!("tls-{first_port}"));
        scratch.ringway(["tls", "init", &tls.to_string_lossy()]).ok();
        let workers = (0..workers).map(|_| None).collect();
        Self { scratch, tls, first_port, copy_rate: None, coordinator: None, workers }
    }

    /// Workers that start from now on send copies of queues at this many bytes per second.
    pub fn set_copy_rate(&mut self, bytes: u32) {
        self.copy_rate = Some(bytes.to_string());
    }

    /// All of it, with the queues served and spread evenly.
    pub fn start(scratch: &'s Scratch, workers: usize) -> Self {
        let mut cluster = Self::prepare(scratch, workers);
        cluster.start_first(workers);
        cluster
    }

    /// The coordinator and the first `n` workers, with the queues served and spread evenly.
    pub fn start_first(&mut self, n: usize) {
        self.start_coordinator();
        (0..n).for_each(|worker| self.start_worker(worker));
        self.wait_workers(n);
        let caller = self.caller();
        self.scratch.until("the queues to be spread", || {
            let counts: Vec<u64> = caller.queues_by_worker().into_values().collect();
            (counts.iter().max()? - counts.iter().min()? <= 1).then_some(())
        });
        caller.wait_serving();
    }

    /// Starts every process that does not run.
    pub fn start_all(&mut self) {
        self.start_coordinator();
        (0..self.workers.len()).for_each(|worker| self.start_worker(worker));
    }

    /// Starts the coordinator and waits until it listens.
    pub fn start_coordinator(&mut self) {
        let (tls, data) = (self.tls.to_string_lossy(), self.scratch.path("coordinator"));
        let (listen, data) = (self.address(0), data.to_string_lossy().into_owned());
        let args = ["coordinator", "--id", "c1", "--listen", &listen, "--http", &listen];
        let args = [&args[..], &["--data", &data, "--tls-dir", &tls]].concat();
        let mut process = self.scratch.ringway(args).spawn();
        process.wait_stdout(|line| line.starts_with("ready coordinator"));
        self.coordinator = Some(process);
    }

    /// Starts worker `w{index + 1}` and waits until it listens.
    pub fn start_worker(&mut self, index: usize) {
        let mut process = self.worker_command(index).spawn();
        process.wait_stdout(|line| line.starts_with("ready worker"));
        self.workers[index] = Some(process);
    }

    /// The command that starts a worker.
    pub fn worker_command(&self, index: usize) -> Run<'s> {
        let id = format!("w{}", index + 1);
        let (tls, data) = (self.tls.to_string_lossy(), self.scratch.path(&id));
        let (listen, data) = (self.address(index + 1), data.to_string_lossy().into_owned());
        let args = ["worker", "--id", &id, "--listen", &listen, "--http", &listen, "--data", &data];
        let more = ["--coordinator", &self.address(0), "--tls-dir", &tls];
        let run = self.scratch.ringway([&args[..], &more].concat()).named(&id);
        match &self.copy_rate {
            Some(rate) => run.env("RINGWAY_COPY_BYTES_PER_SECOND", rate),
            None => run,
        }
    }

    /// SIGKILL to the coordinator.
    pub fn kill_coordinator(&mut self) {
        self.coordinator.take().expect("a coordinator that runs").kill();
    }

    /// SIGKILL to a worker.
    pub fn kill_worker(&mut self, index: usize) {
        self.workers[index].take().expect("a worker that runs").kill();
    }

    /// SIGTERM to a worker; it must end with exit code 0.
    pub fn stop_worker(&mut self, index: usize) {
        self.workers[index].take().expect("a worker that runs").stop();
    }

    /// SIGKILL to everything.
    pub fn kill_all(&mut self) {
        self.kill_coordinator();
        (0..self.workers.len()).for_each(|worker| self.kill_worker(worker));
    }

    /// SIGTERM to everything; each must end with exit code 0.
    pub fn stop_all(&mut self) {
        let all = self.workers.iter_mut().chain([&mut self.coordinator]);
        all.filter_map(Option::take).for_each(|process| drop(process.stop()));
    }

    /// The process of a worker.
    pub fn worker(&mut self, index: usize) -> &mut Process {
        self.workers[index].as_mut().expect("a worker that runs")
    }

    /// Waits until the coordinator counts `n` workers as connected.
    pub fn wait_workers(&self, n: usize) {
        let caller = self.caller();
        self.scratch.until("workers to register", || {
            let status = caller.json(&["cluster", "status"]);
            (status["workers_up"] == n).then_some(())
        });
    }

    /// Where a process listens: 0 is the coordinator, then the workers. QUIC and HTTP have the
    /// same number.
    pub fn address(&self, index: usize) -> String {
        format!("127.0.0.1:{}", self.first_port + index as u16)
    }

    /// The directory of its certificates.
    pub fn tls(&self) -> &Path {
        &self.tls
    }

    /// Commands against it.
    pub fn caller(&self) -> Caller<'s> {
        let url = format!("ringway://{}?tls={}", self.address(0), self.tls.display());
        Caller::new(self.scratch, url)
    }
}

/// Asks an HTTP server: status and text, or none where nobody answers.
pub fn http_get(url: &str) -> Option<(u16, String)> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(5)))
        .build()
        .into();
    let mut answer = agent.get(url).call().ok()?;
    let status = answer.status().as_u16();
    Some((status, answer.body_mut().read_to_string().ok()?))
}
