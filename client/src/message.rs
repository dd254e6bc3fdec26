//! What travels through the SDK: a [`Message`] as it was delivered, and the few types that let a
//! caller write keys, ids and bodies as what he has. Plain data, which knows nothing of links.

use std::str::Utf8Error;
use std::sync::Arc;

use bytes::Bytes;
use ringway_proto::message::Header;
use ringway_proto::{Class, WallTime};
use serde::de::DeserializeOwned;

/// A message that was delivered.
#[derive(Clone, PartialEq, Debug)]
pub struct Message {
    /// What it is about.
    pub class: Class,
    /// What it is ordered by; `None` is no key, an empty key is a key.
    pub key: Option<Bytes>,
    /// The name that the producer gave it for deduplication.
    pub id: Option<Bytes>,
    /// Names and values that travel with it.
    pub headers: Vec<Header>,
    /// The content.
    pub body: Bytes,
    /// The queue that it came from, `GROUP/N`.
    pub queue: Arc<str>,
    /// Its position in that queue.
    pub offset: u64,
    /// The epoch of the consume right under which it was delivered.
    pub epoch: u64,
    /// The how manieth delivery this is, from 1.
    pub delivery: u32,
    /// When the producer made its batch, by the producer's calendar.
    pub published_at: WallTime,
}

impl Message {
    /// The body as text.
    ///
    /// # Errors
    /// When it is no UTF-8.
    pub fn text(&self) -> Result<&str, Utf8Error> {
        std::str::from_utf8(&self.body)
    }

    /// The body read as JSON.
    ///
    /// # Errors
    /// When it is no JSON, or not of this type.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }

    /// The value of the first header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|h| h.name == name).map(|h| &h.value[..])
    }
}

/// Where a published message is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// The queue, `GROUP/N`.
    pub queue: String,
    /// Its position there.
    pub offset: u64,
}

macro_rules! bytes_like {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Debug, Default)]
        pub struct $name(pub Bytes);

        impl From<Bytes> for $name {
            fn from(b: Bytes) -> Self {
                Self(b)
            }
        }

        impl From<Vec<u8>> for $name {
            fn from(b: Vec<u8>) -> Self {
                Self(b.into())
            }
        }

        impl From<String> for $name {
            fn from(s: String) -> Self {
                Self(s.into())
            }
        }

        impl From<&String> for $name {
            fn from(s: &String) -> Self {
                Self(Bytes::copy_from_slice(s.as_bytes()))
            }
        }

        impl From<&str> for $name {
            fn from(s: &str) -> Self {
                Self(Bytes::copy_from_slice(s.as_bytes()))
            }
        }

        impl From<&[u8]> for $name {
            fn from(b: &[u8]) -> Self {
                Self(Bytes::copy_from_slice(b))
            }
        }

        impl<const N: usize> From<&[u8; N]> for $name {
            fn from(b: &[u8; N]) -> Self {
                Self(Bytes::copy_from_slice(b))
            }
        }
    };
}

bytes_like!(
    /// The content of a message, or the value of a header.
    Body
);
bytes_like!(
    /// What a message is ordered by, or the id that names it. Empty is a key; no key is not
    /// calling `.key()`.
    Key
);
