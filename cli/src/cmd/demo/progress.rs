//! How far the demo is: a line a second while messages flow, and the waits between its events. It
//! counts receipts and printed lines; whether they are right is judged at the end.

use std::io::{self, Read as _, Seek as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use ringway_client::Client;

use super::Teller;
use super::children::{PATIENCE, Process};
use super::servers::Publisher;
use crate::output::grouped;

/// A line a second while messages flow.
pub struct Progress {
    total: usize,
    receipts: ReceiptCount,
    last: (Instant, usize),
    held: String,
}

impl Progress {
    /// Nothing of `total` flights is published yet.
    pub fn new(total: usize) -> Self {
        Self {
            total,
            receipts: ReceiptCount::default(),
            last: (Instant::now(), 0),
            held: String::new(),
        }
    }

    /// Waits until this share of the flights is published and acked.
    pub async fn until(
        &mut self,
        share: f64,
        client: &Client,
        publisher: &Publisher,
        counter: &Process,
        board: &[Process],
        teller: &Teller,
    ) -> Result<()> {
        let goal = (self.total as f64 * share) as usize;
        let mut stalled_since = Instant::now();
        let mut seen = 0;
        loop {
            let acked = self.receipts.update(&publisher.receipts);
            if acked >= goal {
                return Ok(());
            }
            if acked > seen {
                (seen, stalled_since) = (acked, Instant::now());
            }
            if stalled_since.elapsed() > PATIENCE {
                bail!("publishing stands still at {acked} of {} flights", self.total);
            }
            self.tick(client, publisher, counter, board, teller).await?;
        }
    }

    /// Waits a moment, and prints the line of this second if it is due.
    pub async fn tick(
        &mut self,
        client: &Client,
        publisher: &Publisher,
        counter: &Process,
        board: &[Process],
        teller: &Teller,
    ) -> Result<()> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if self.last.0.elapsed() >= Duration::from_secs(1) {
            let acked = self.receipts.update(&publisher.receipts);
            self.print(acked, client, counter, board, teller).await?;
        }
        Ok(())
    }

    async fn print(
        &mut self,
        acked: usize,
        client: &Client,
        counter: &Process,
        board: &[Process],
        teller: &Teller,
    ) -> Result<()> {
        let rate = (acked - self.last.1) as f64 / self.last.0.elapsed().as_secs_f64();
        self.last = (Instant::now(), acked);
        let seen: usize = board.iter().map(|m| m.printed()).sum();
        teller.event(&format!(
            "published {:>7}  {:>6}/s   delays {:>7} (lag {})   board {:>7} (lag {})",
            grouped_count(acked),
            grouped(rate as u64),
            grouped_count(counter.printed()),
            grouped_count(acked.saturating_sub(counter.printed())),
            grouped_count(seen),
            grouped_count(acked.saturating_sub(seen)),
        ));
        let held = holders(client).await?;
        if held != self.held {
            teller.line(&format!("board: {held}"));
            self.held = held;
        }
        Ok(())
    }

    /// Waits until both subscriptions have nothing left.
    pub async fn drain(
        &mut self,
        client: &Client,
        acked: usize,
        counter: &Process,
        board: &[Process],
        teller: &Teller,
    ) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut left = 0;
            for subscription in ["delays", "board"] {
                let lag = client.admin().lag(subscription).await?;
                left += lag.lag_messages() + lag.unanswered.len() as u64;
            }
            if left == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{left} messages are still not acked long after the last publish");
            }
            if self.last.0.elapsed() >= Duration::from_secs(1) {
                self.print(acked, client, counter, board, teller).await?;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Who holds how many of the queues of `board`: `board-1 11 queues, board-2 11, …`.
async fn holders(client: &Client) -> Result<String> {
    let (_, members, rights) = client.admin().subscription("board").await?;
    let mut text: Vec<String> =
        members.iter().map(|m| format!("{} holds {} queues", m.member, m.rights)).collect();
    let moving = rights.iter().filter(|r| r.state != "granted").count();
    if moving > 0 {
        text.push(format!("{moving} in hand-over"));
    }
    Ok(text.join(", "))
}

/// How many receipts there are. The file is only counted further, never read again.
#[derive(Default)]
struct ReceiptCount {
    at: u64,
    count: usize,
}

impl ReceiptCount {
    fn update(&mut self, file: &Path) -> usize {
        let read = || -> io::Result<Vec<u8>> {
            let mut f = std::fs::File::open(file)?;
            f.seek(io::SeekFrom::Start(self.at))?;
            let mut bytes = Vec::new();
            f.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        if let Ok(bytes) = read() {
            self.at += bytes.len() as u64;
            self.count += bytes.iter().filter(|b| **b == b'\n').count();
        }
        self.count
    }
}

fn grouped_count(n: usize) -> String {
    grouped(n as u64)
}
