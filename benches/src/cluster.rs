//! A cluster of real processes on loopback: `ringway coordinator` and `ringway worker`, as built beside
//! the bench, with certificates and directories of their own. It promises that every process dies with
//! its handle and that a worker comes back at its old address; it knows nothing of what is published.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use ringway_client::Client;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use crate::Outcome;

/// How long one step of the cluster may take before the bench gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often a state that has no event is looked at.
pub const LOOK: Duration = Duration::from_millis(20);

/// The unit in which Linux counts processor time.
const TICK: Duration = Duration::from_millis(10);

/// A line that a process said.
#[derive(Clone, Debug)]
pub struct Line {
    /// When it was read.
    pub at: Instant,
    /// Without its end.
    pub text: String,
}

/// A process that runs; it is killed when this is dropped.
pub struct Process {
    name: String,
    child: Child,
    lines: mpsc::UnboundedReceiver<Line>,
}

/// Which of a process's two outputs is read. The other is kept in a file, or thrown away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Read {
    /// What a server says: its ready line.
    Stdout,
    /// What a member says beside its messages, which are thrown away.
    Stderr,
}

impl Process {
    fn start(binary: &Path, args: &[String], name: &str, logs: &Path, read: Read) -> Outcome<Self> {
        let mut command = Command::new(binary);
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("RINGWAY_") && variable != "RINGWAY_LOG" {
                command.env_remove(variable);
            }
        }
        command.args(args).env("NO_COLOR", "1").stdin(Stdio::null()).kill_on_drop(true);
        match read {
            Read::Stdout => {
                let log = File::options().create(true).append(true).open(logs.join(name))?;
                command.stdout(Stdio::piped()).stderr(log)
            }
            Read::Stderr => command.stdout(Stdio::null()).stderr(Stdio::piped()),
        };
        let mut child = command.spawn()?;
        let (said, lines) = mpsc::unbounded_channel();
        match read {
            Read::Stdout => drop(child.stdout.take().map(|out| tokio::spawn(listen(out, said)))),
            Read::Stderr => drop(child.stderr.take().map(|err| tokio::spawn(listen(err, said)))),
        }
        Ok(Self { name: name.to_owned(), child, lines })
    }

    /// The next line that begins so; those before it are dropped.
    ///
    /// # Errors
    /// When the process ends first, or takes longer than [`PATIENCE`].
    pub async fn line(&mut self, begins: &str) -> Outcome<Line> {
        let found = tokio::time::timeout(PATIENCE, async {
            while let Some(line) = self.lines.recv().await {
                if line.text.starts_with(begins) {
                    return Some(line);
                }
            }
            None
        });
        let found = found.await.map_err(|_| format!("{} does not say {begins:?}", self.name))?;
        Ok(found.ok_or_else(|| format!("{} ended instead of saying {begins:?}", self.name))?)
    }

    /// SIGTERM.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn terminate(&self) -> Outcome<()> {
        self.signal(Signal::TERM)
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn kill(&self) -> Outcome<()> {
        self.signal(Signal::KILL)
    }

    fn signal(&self, signal: Signal) -> Outcome<()> {
        let id = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Ok(kill_process(id.ok_or_else(|| format!("{} has ended", self.name))?, signal)?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it takes longer than [`PATIENCE`].
    pub async fn ended(&mut self) -> Outcome<ExitStatus> {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        Ok(ended.map_err(|_| format!("{} does not end", self.name))??)
    }

    /// The processor time that it has used; zero when it has ended.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        let stat = self.child.id().map(|id| std::fs::read_to_string(format!("/proc/{id}/stat")));
        let stat = stat.and_then(Result::ok).unwrap_or_default();
        // The name may hold blanks; user and system time are the 12th and 13th word behind it.
        let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
        let ticks =
            behind.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u32>().ok());
        TICK * ticks.sum::<u32>()
    }

    /// The memory that it has in RAM, in bytes; 0 when it has ended.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let status =
            self.child.id().map(|id| std::fs::read_to_string(format!("/proc/{id}/status")));
        let status = status.and_then(Result::ok).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|l| l.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    }
}

async fn listen(from: impl tokio::io::AsyncRead + Unpin, to: mpsc::UnboundedSender<Line>) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(text)) = lines.next_line().await {
        // Read on where nobody listens any more, so that the process never waits for us.
        let _ = to.send(Line { at: Instant::now(), text });
    }
}

/// A worker's place: what stays the same when its process is another.
struct Place {
    process: Option<Process>,
    /// Where it listens; port 0 before its first start.
    listen: String,
    http: String,
}

/// A coordinator and workers.
pub struct Cluster {
    coordinator: Process,
    workers: Vec<Place>,
    binary: PathBuf,
    address: String,
    http: String,
    copy_bytes_per_second: Option<u64>,
    // Dropped last: the processes write into it.
    dir: TempDir,
}

impl Cluster {
    /// Starts a coordinator and `workers` workers in a directory below `dir`, and waits until the
    /// queues of the first group are served, if there are workers.
    ///
    /// # Errors
    /// When `ringway` was not built, or a process does not come up.
    pub async fn start(dir: Option<&Path>, workers: usize) -> Outcome<Self> {
        let binary = std::env::current_exe()?.with_file_name("ringway");
        if !binary.exists() {
            return Err("build the command first: cargo build --release -p ringway-cli".into());
        }
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("ringway-bench-");
        let dir = match dir {
            Some(dir) => builder.tempdir_in(dir)?,
            None => builder.tempdir()?,
        };
        let tls = dir.path().join("tls").display().to_string();
        let made = Command::new(&binary).args(["tls", "init", &tls]).stdout(Stdio::null()).status();
        if !made.await?.success() {
            return Err("ringway tls init failed".into());
        }
        let data = dir.path().join("c1").display().to_string();
        let any = any_port();
        let args = ["coordinator", "--id", "c1", "--listen", &any, "--http", &any, "--data", &data];
        let args = with_tls(&args, &tls);
        let mut coordinator = Process::start(&binary, &args, "c1.log", dir.path(), Read::Stdout)?;
        let ready = coordinator.line("ready ").await?;
        let (address, http) = addresses(&ready)?;
        let mut cluster = Self {
            coordinator,
            workers: Vec::new(),
            binary,
            address,
            http,
            copy_bytes_per_second: None,
            dir,
        };
        for _ in 0..workers {
            cluster.add_worker().await?;
        }
        if workers > 0 {
            let client = Client::connect(&cluster.url()).await?;
            cluster.settled(&client, workers).await?;
            client.close().await;
        }
        Ok(cluster)
    }

    /// Workers that start from now on send copies of queues at this many bytes per second.
    pub fn set_copy_rate(&mut self, bytes_per_second: u64) {
        self.copy_bytes_per_second = Some(bytes_per_second);
    }

    /// One more worker; returns its ready line.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn add_worker(&mut self) -> Outcome<Line> {
        self.workers.push(Place { process: None, listen: any_port(), http: String::new() });
        self.start_worker(self.workers.len() - 1).await
    }

    /// Starts a worker that does not run; returns its ready line.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_worker(&mut self, index: usize) -> Outcome<Line> {
        let id = worker_id(index);
        let data = self.dir.path().join(&id).display().to_string();
        let listen = self.workers[index].listen.clone();
        let args = [
            "worker",
            "--id",
            &id,
            "--listen",
            &listen,
            "--data",
            &data,
            "--coordinator",
            &self.address,
        ];
        let mut args = with_tls(&args, &self.dir.path().join("tls").display().to_string());
        if let Some(rate) = self.copy_bytes_per_second {
            args.extend(["--copy-bytes-per-second".into(), rate.to_string()]);
        }
        let log = format!("{id}.log");
        let mut process = Process::start(&self.binary, &args, &log, self.dir.path(), Read::Stdout)?;
        let ready = process.line("ready ").await?;
        let (listen, http) = addresses(&ready)?;
        self.workers[index] = Place { process: Some(process), listen, http };
        Ok(ready)
    }

    /// SIGTERM to a worker, and waits for its end.
    ///
    /// # Errors
    /// When it does not run, does not end, or ends with another exit code than 0.
    pub async fn stop_worker(&mut self, index: usize) -> Outcome<()> {
        let mut process = self.workers[index].process.take().ok_or("the worker does not run")?;
        process.terminate()?;
        let status = process.ended().await?;
        if !status.success() {
            return Err(format!("{} ended with {status}", process.name).into());
        }
        Ok(())
    }

    /// `ringway sub`: a member in a process of its own, whose messages go nowhere. Returns once it
    /// is ready.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn member(&self, filter: &str, name: &str, member: &str) -> Outcome<Process> {
        let url = self.url();
        let args =
            ["sub", filter, "--as", name, "--member", member, "--format", "raw", "--url", &url];
        let args = args.map(String::from);
        let mut process =
            Process::start(&self.binary, &args, member, self.dir.path(), Read::Stderr)?;
        process.line("ready").await?;
        Ok(process)
    }

    /// Waits until `workers` workers are up, all queues are served, none is on its way, and no worker
    /// has two more than another.
    ///
    /// # Errors
    /// When that takes longer than ten times [`PATIENCE`].
    pub async fn settled(&self, client: &Client, workers: usize) -> Outcome<()> {
        let settle = async {
            loop {
                let status = client.admin().status().await?;
                let each = client.admin().workers().await?;
                let queues = || each.iter().filter(|w| w.state == "up").map(|w| w.queues);
                let spread = queues().max().unwrap_or(0) - queues().min().unwrap_or(0);
                if status.workers_up as usize == workers
                    && status.queues_serving == status.queues
                    && status.moving.is_empty()
                    && spread <= 1
                {
                    return Ok(());
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        match tokio::time::timeout(PATIENCE * 10, settle).await {
            Ok(settled) => settled,
            Err(_) => Err("the queues do not settle".into()),
        }
    }

    /// The connection string.
    #[must_use]
    pub fn url(&self) -> String {
        format!("ringway://{}?tls={}", self.address, self.dir.path().join("tls").display())
    }

    /// The directory of the cluster, on the disk that it writes to.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The coordinator's process.
    #[must_use]
    pub fn coordinator(&self) -> &Process {
        &self.coordinator
    }

    /// A worker's process, if it runs.
    #[must_use]
    pub fn worker(&self, index: usize) -> Option<&Process> {
        self.workers[index].process.as_ref()
    }

    /// The processor time that the processes which run now have used.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        let workers = self.workers.iter().filter_map(|place| place.process.as_ref());
        workers.chain([&self.coordinator]).map(Process::cpu_time).sum()
    }

    /// The sum of a metric of the coordinator over all series whose labels contain `label`.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn coordinator_metric(&self, name: &str, label: &str) -> Outcome<f64> {
        metric(&self.http, name, label).await
    }

    /// The same of a worker.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn worker_metric(&self, index: usize, name: &str, label: &str) -> Outcome<f64> {
        metric(&self.workers[index].http, name, label).await
    }
}

/// What a worker is called: `w1` is the first.
#[must_use]
pub fn worker_id(index: usize) -> String {
    format!("w{}", index + 1)
}

fn any_port() -> String {
    format!("{}:0", Ipv4Addr::LOCALHOST)
}

fn with_tls(args: &[&str], tls: &str) -> Vec<String> {
    args.iter().chain(&["--tls-dir", tls]).map(|a| (*a).to_owned()).collect()
}

/// Where a server listens and serves its metrics, by its ready line: `… at ADDRESS http ADDRESS`.
fn addresses(ready: &Line) -> Outcome<(String, String)> {
    let word = |after: &str| {
        let mut words = ready.text.split(' ').skip_while(|word| *word != after);
        words.nth(1).map(str::to_owned).ok_or(format!("no {after} in {:?}", ready.text))
    };
    Ok((word("at")?, word("http")?))
}

async fn metric(address: &str, name: &str, label: &str) -> Outcome<f64> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let series = text.lines().filter_map(|line| {
        let (labels, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
        let whole = labels.is_empty() || labels.starts_with('{');
        (whole && labels.contains(label)).then(|| value.trim().parse::<f64>().ok())?
    });
    Ok(series.sum())
}
