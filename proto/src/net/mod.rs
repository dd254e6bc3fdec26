//! The one place that knows QUIC and TLS: certificates, endpoints, authenticated connections,
//! and frames on streams. Written once for coordinator, worker and client.
//!
//! A server binds a [`Listener`], whoever calls it uses a [`Dialer`], or a [`Link`] where the
//! connection is to be kept. All of them give out [`Peer`]s: connections whose other side has
//! proved its [`Role`]. What is said on their streams is none of this module's business.

mod ca;
mod dial;
mod endpoint;
mod error;
mod frames;
mod hello;
mod link;
mod listen;
mod patience;
mod peer;
#[cfg(test)]
mod tests;
mod tls;
mod verify;

pub use ca::{Created, init_dir};
pub use dial::Dialer;
pub use endpoint::PathProfile;
pub use error::{Closed, DialError, NetError, RpcError};
pub use frames::{FrameReader, FrameWriter};
pub use hello::{PROTOCOL, Role};
pub use link::Link;
pub use listen::{Limits, Listener};
pub use peer::{Peer, Timing};
pub use tls::{ClientTls, ServerTls, TlsError};
