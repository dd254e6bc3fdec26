//! The worker's side of the wire: connections that others open, and their streams. It decodes and
//! bounds what comes in, hands it to the shard that owns the queue, and writes what comes back; it
//! decides nothing about queues.

mod deliver;
mod publish;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ringway_proto::admin::{WorkerRequest, WorkerResponse};
use ringway_proto::net::{FrameReader, FrameWriter, Listener, NetError, Peer};
use ringway_proto::{Code, Refusal, codec};
use tokio::sync::watch;
use tracing::debug;

use crate::access::{Purpose, purpose};
use crate::config::Settings;
use crate::copy::source::Source;
use crate::metrics::Metrics;
use crate::shard::{Input, Shards};

/// What every stream needs.
pub(crate) struct Shared {
    pub shards: Shards,
    pub metrics: Arc<Metrics>,
    pub settings: Settings,
    /// The routing version that is known, for answers that no shard gives.
    pub routing: Arc<AtomicU64>,
    pub next_stream: AtomicU64,
    /// For those who copy queues from here.
    pub source: Source,
}

/// Accepts connections until the listener is shut down or `alive` ends.
pub(crate) async fn serve(
    listener: Arc<Listener>,
    shared: Arc<Shared>,
    alive: watch::Receiver<()>,
) {
    while let Some(peer) = listener.accept().await {
        tokio::spawn(connection(peer, Arc::clone(&shared), alive.clone()));
    }
}

async fn connection(peer: Peer, shared: Arc<Shared>, mut alive: watch::Receiver<()>) {
    shared.metrics.connection(peer.role(), 1);
    loop {
        tokio::select! {
            stream = peer.accept() => match stream {
                Ok((writer, reader)) => {
                    tokio::spawn(stream_of(peer.clone(), writer, reader, Arc::clone(&shared)));
                }
                Err(ended) => {
                    debug!(peer = peer.name(), %ended, "connection ended");
                    break;
                }
            },
            // The worker itself is gone.
            _ = alive.changed() => {
                peer.close(u32::from(Code::Unavailable.number()), "the worker has left");
                break;
            }
        }
    }
    shared.metrics.connection(peer.role(), -1);
}

async fn stream_of(
    peer: Peer,
    mut writer: FrameWriter,
    mut reader: FrameReader,
    shared: Arc<Shared>,
) {
    let begun = match reader.read().await {
        Ok(Some((kind, payload))) => purpose(peer.role(), kind).map(|what| (what, payload)),
        Ok(None) => return,
        Err(e) => Err(e.refusal()),
    };
    let ended = match begun {
        Err(refusal) => writer.refuse(&refusal).await,
        Ok((Purpose::Publish, first)) => publish::run(writer, reader, first, &shared).await,
        Ok((Purpose::Deliver, first)) => deliver::run(writer, reader, &first, &shared).await,
        Ok((Purpose::Copy, first)) => shared.source.run(writer, reader, &first).await,
        Ok((Purpose::Question, question)) => answer(writer, &question, &shared).await,
    };
    if let Err(e) = ended {
        debug!(peer = peer.name(), error = %e, "stream ended");
    }
}

async fn answer(mut writer: FrameWriter, question: &[u8], shared: &Shared) -> Result<(), NetError> {
    match codec::decode(question) {
        Ok(WorkerRequest::Lag { subscription }) => {
            let ask = |reply| Input::Lag { subscription, reply };
            let mut lags = shared.shards.ask(ask).await.concat();
            lags.sort_by(|a, b| a.queue.cmp(&b.queue));
            writer.respond(&WorkerResponse::Lag(lags)).await
        }
        Err(refusal) => writer.refuse(&refusal).await,
    }
}

impl Shared {
    fn stream_id(&self) -> u64 {
        self.next_stream.fetch_add(1, Ordering::Relaxed)
    }
}

/// A frame that has no place on this stream.
fn misplaced(kind: ringway_proto::frame::Kind) -> Refusal {
    Refusal::new(Code::Protocol, format!("a frame of kind {kind:?} has no place on this stream"))
}
