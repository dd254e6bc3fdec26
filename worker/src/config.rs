//! How a worker is set up: plain values with named defaults. Nothing here is read from files or
//! the environment; the command line does that.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ringway_proto::WorkerId;
use ringway_proto::limits::DEFAULT_WEIGHT;

use crate::journal::Disk;

/// How to start a worker.
#[derive(Clone)]
pub struct Config {
    /// Its id, the same over restarts.
    pub id: WorkerId,
    /// Where it listens.
    pub listen: SocketAddr,
    /// HOST:PORT that others are told; none is the address that it is bound to.
    pub advertise: Option<String>,
    /// HOST:PORT of its metrics and health, told to the coordinator; none when there are none.
    pub http: Option<String>,
    /// Its data directory.
    pub data: PathBuf,
    /// HOST:PORT of the coordinators, any of which will do.
    pub coordinators: Vec<String>,
    /// Its share of the queues in proportion to the others', 1 to 1,000.
    pub weight: u32,
    /// Where it stands.
    pub zone: Option<String>,
    /// The directory with its certificates.
    pub tls_dir: PathBuf,
    /// Bounds and sizes.
    pub settings: Settings,
    /// What the journal writes to; none is the file system. A test counts, blocks or fails
    /// writes and syncs here.
    pub disk: Option<Arc<dyn Disk>>,
}

impl Config {
    /// A worker with the usual settings.
    #[must_use]
    pub fn new(
        id: WorkerId,
        listen: SocketAddr,
        data: impl Into<PathBuf>,
        coordinators: Vec<String>,
        tls_dir: impl Into<PathBuf>,
    ) -> Self {
        Self {
            id,
            listen,
            advertise: None,
            http: None,
            data: data.into(),
            coordinators,
            weight: DEFAULT_WEIGHT,
            zone: None,
            tls_dir: tls_dir.into(),
            settings: Settings::default(),
            disk: None,
        }
    }
}

/// Bounds and sizes of a worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Tasks that share the queues among them.
    pub shards: usize,
    /// Inputs that may wait at one shard; at the bound the streams are not read.
    pub mailbox: usize,
    /// Recent batches kept in memory by all shards together, in bytes.
    pub cache_bytes: usize,
    /// Unanswered appends of one publish stream.
    pub stream_appends: usize,
    /// Unanswered appends of one publish stream, in bytes.
    pub stream_bytes: usize,
    /// A message that was handed out and is neither acked nor extended comes again after this.
    pub ack_timeout: Duration,
    /// What all copies of queues to other workers may send together, in bytes per second. What is
    /// left when a queue is sealed goes without a limit.
    pub copy_bytes_per_second: u64,
    /// How long a shutdown waits for what was taken to be on disk.
    pub shutdown_wait: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            shards: cores.max(2),
            mailbox: 1024,
            cache_bytes: 64 << 20,
            stream_appends: 1024,
            stream_bytes: 32 << 20,
            ack_timeout: Duration::from_secs(30),
            copy_bytes_per_second: 64 << 20,
            shutdown_wait: Duration::from_secs(5),
        }
    }
}
