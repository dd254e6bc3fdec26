//! A TCP listener for the few who scrape: so many connections at once and no more, and each is
//! closed when nothing was read from it for a while. So a peer that connects and says nothing
//! costs one of the places, for a bounded time. It knows nothing of HTTP.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// Connections at once. The next waits in the system's backlog.
const MAX_CONNECTIONS: usize = 64;
/// How long a connection may be silent: longer than scrapers pause between two scrapes.
const SILENCE: Duration = Duration::from_secs(120);

/// A listener with bounds.
#[derive(Debug)]
pub struct Guarded {
    listener: TcpListener,
    places: Arc<Semaphore>,
    silence: Duration,
}

impl Guarded {
    /// Puts the bounds around `listener`.
    #[must_use]
    pub fn new(listener: TcpListener) -> Self {
        Self::with(listener, MAX_CONNECTIONS, SILENCE)
    }

    fn with(listener: TcpListener, places: usize, silence: Duration) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(places)), silence }
    }
}

impl axum::serve::Listener for Guarded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let place = self.places.clone().acquire_owned().await.ok();
        // axum's own accept waits out what passes by itself, such as too many open files.
        let (stream, address) = axum::serve::Listener::accept(&mut self.listener).await;
        let silence = self.silence;
        let asleep = Box::pin(sleep(silence));
        (Connection { stream, silence, asleep, _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One connection in its place.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    silence: Duration,
    /// Wakes when it was silent for too long.
    asleep: Pin<Box<Sleep>>,
    /// None only when the listener is gone.
    _place: Option<OwnedSemaphorePermit>,
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(&mut this.stream).poll_read(context, buffer) {
            Poll::Ready(result) => {
                this.asleep.as_mut().reset(Instant::now() + this.silence);
                Poll::Ready(result)
            }
            Poll::Pending => {
                std::task::ready!(this.asleep.as_mut().poll(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(context, bytes) {
            Poll::Ready(result) => Poll::Ready(result),
            // Who asks and does not take the answer is silent too.
            Poll::Pending => {
                std::task::ready!(self.asleep.as_mut().poll(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use axum::serve::Listener as _;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn who_says_nothing_gives_its_place_to_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut guarded = Guarded::with(listener, 1, Duration::from_millis(50));
        let address = guarded.local_addr().unwrap();
        let _silent = TcpStream::connect(address).await.unwrap();
        let _next = TcpStream::connect(address).await.unwrap();
        let (mut first, _) = guarded.accept().await;
        let read = tokio::spawn(async move { first.read_u8().await.map_err(|e| e.kind()) });
        // Ends only when the one place is free again.
        let (_second, _) = guarded.accept().await;
        assert_eq!(read.await.unwrap(), Err(io::ErrorKind::TimedOut));
    }
}
