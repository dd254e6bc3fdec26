//! No ack before its sync. A worker runs in this process on a disk whose syncs the test holds
//! back and counts; the coordinator is a process beside it.

use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use ringway_client::Client;
use ringway_proto::WorkerId;
use ringway_worker::journal::{Disk, SystemDisk};
use ringway_worker::{Config, Worker};

use crate::harness::{Cluster, STEP, Scratch, free_ports};

/// The real disk, whose syncs wait while the gate is closed.
#[derive(Default)]
struct GatedDisk {
    closed: Mutex<bool>,
    opened: Condvar,
    /// Syncs that have begun, and those that have ended.
    begun: AtomicU64,
    ended: AtomicU64,
}

impl GatedDisk {
    fn close(&self) {
        *self.closed.lock().expect("no holder panics") = true;
    }

    fn open(&self) {
        *self.closed.lock().expect("no holder panics") = false;
        self.opened.notify_all();
    }

    fn ended(&self) -> u64 {
        self.ended.load(Ordering::SeqCst)
    }

    /// Whether a sync is held back now.
    fn holds_one_back(&self) -> bool {
        self.begun.load(Ordering::SeqCst) > self.ended()
    }
}

impl Disk for GatedDisk {
    fn write(&self, file: &File, position: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        SystemDisk.write(file, position, parts)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let closed = self.closed.lock().expect("no holder panics");
        drop(self.opened.wait_while(closed, |closed| *closed).expect("no holder panics"));
        SystemDisk.sync(file)?;
        self.ended.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn truncate(&self, file: &File, len: u64) -> io::Result<()> {
        SystemDisk.truncate(file, len)
    }
}

#[test]
fn no_ack_precedes_its_sync() {
    let scratch = Scratch::new(Duration::from_secs(120));
    let mut cluster = Cluster::prepare(&scratch, 0);
    cluster.start_coordinator();
    let disk = Arc::new(GatedDisk::default());
    let listen = format!("127.0.0.1:{}", free_ports(1)).parse().expect("an address");
    let id = WorkerId::new("w1").expect("a name");
    let coordinators = vec![cluster.address(0)];
    let mut config = Config::new(id, listen, scratch.path("w1"), coordinators, cluster.tls());
    config.disk = Some(Arc::clone(&disk) as Arc<dyn Disk>);

    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let url = cluster.caller().url().to_owned();
    let worker = runtime.block_on(Worker::start(config)).expect("a worker that serves");
    cluster.wait_workers(1);
    cluster.caller().wait_serving();
    let client = runtime.block_on(Client::connect(&url)).expect("a cluster that answers");

    // Acks count up with syncs: each lone publish waits for one of its own.
    for n in 0..20_u32 {
        let before = disk.ended();
        runtime.block_on(async { client.publish("a.b", n.to_string()).await }).expect("stored");
        assert!(disk.ended() > before, "publish {n} was acked without a sync");
    }

    // A reader that has all of these.
    let mut subscription =
        runtime.block_on(client.subscribe("a.>").name("s").join()).expect("a seat");
    for _ in 0..20 {
        let next =
            runtime.block_on(async { tokio::time::timeout(STEP, subscription.next()).await });
        let message = next.expect("a message in time").expect("a seat that lasts");
        let confirmed = runtime.block_on(message.expect("a message").ack_confirmed());
        confirmed.expect("a confirmed ack");
    }

    // While the disk syncs nothing, nothing is acked, and nobody sees what may be lost.
    disk.close();
    let publishes: Vec<_> = (0..50)
        .map(|n| {
            let client = client.clone();
            runtime
                .spawn(async move { client.publish("a.b", n.to_string()).key(n.to_string()).await })
        })
        .collect();
    scratch.until("a sync that is held back", || disk.holds_one_back().then_some(()));
    // The worker answers other questions meanwhile: an ack that did not wait would be here.
    for _ in 0..20 {
        let lag = runtime.block_on(client.admin().lag("s")).expect("a worker that answers");
        let seen: u64 = lag.queues.iter().map(|queue| queue.end.0).sum();
        assert_eq!(seen, 20, "a message is seen before its sync");
    }
    assert!(publishes.iter().all(|publish| !publish.is_finished()), "acked before the sync");
    assert!(subscription.try_next().expect("a seat that lasts").is_none());
    assert!(disk.holds_one_back());

    let syncs = disk.ended();
    disk.open();
    runtime.block_on(async {
        for publish in publishes {
            let publish = tokio::time::timeout(STEP, publish).await.expect("an answer in time");
            publish.expect("no panic").expect("stored");
        }
        for _ in 0..50 {
            let next = tokio::time::timeout(STEP, subscription.next()).await;
            let message = next.expect("a message in time").expect("a seat that lasts");
            message.expect("a message").ack().await.expect("an open client");
        }
        client.close().await;
        assert!(disk.ended() > syncs, "and then they are acked by a sync");
        worker.shutdown().await;
    });
}
