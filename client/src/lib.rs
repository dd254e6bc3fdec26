//! The client SDK of Ringway: publish, subscribe, administer.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let ringway = ringway_client::Client::from_env().await?;
//! let receipt = ringway.publish("flights.EWR.UA", "{}").key("N14228").await?;
//! println!("{} @ {}", receipt.queue, receipt.offset);
//!
//! let mut flights = ringway.subscribe("flights.EWR.>").name("delays").join().await?;
//! while let Some(message) = flights.next().await? {
//!     println!("{}", message.text()?);
//!     message.ack().await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! All work is done by one thread of the SDK, so that a handler that blocks, or a runtime with a
//! single thread, costs no rights. Handles talk to it by channels and work on any runtime.

mod admin;
mod cell;
mod client;
mod clock;
mod connections;
mod consume;
mod delivery;
mod engine;
mod error;
pub mod logic;
mod message;
mod options;
mod producer;
mod routes;
mod streams;
mod subscriber;
#[cfg(test)]
mod tests;

pub use admin::{Admin, Lag};
pub use client::{Client, ClientBuilder};
pub use consume::Summary;
pub use delivery::{Delivery, Settle};
pub use engine::Leftover;
pub use error::{
    AckError, AdminError, ConnectError, ConsumeError, FlushError, HandlerError, JoinError,
    LeaveError, PublishError, ReceiveError, SendError,
};
pub use logic::report::{Counts, Event};
pub use message::{Body, Key, Message, Receipt};
pub use options::default_url_file;
pub use producer::{Outgoing, Pending, Producer, ProducerBuilder, Publish, Settled};
pub use ringway_proto as proto;
pub use ringway_proto::control::{Order, Start};
pub use ringway_proto::message::Header;
pub use ringway_proto::{Class, Code, Filter, Refusal, WallTime};
pub use subscriber::{Events, Status, Subscribe, Subscription};
