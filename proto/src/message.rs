//! A message as a producer gives it: class, optional key and id, headers, body.
//!
//! The bounds of its parts are checked here once, before it enters a batch. The bound of the body
//! is the group's, so it comes from outside.

use bytes::Bytes;

use crate::class::Class;
use crate::limits::{MAX_HEADER_NAME_BYTES, MAX_HEADER_VALUE_BYTES, MAX_HEADERS, MAX_KEY_BYTES};
use crate::refusal::{Code, Refusal};

/// A message that is to be published.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// What it is about.
    pub class: Class,
    /// What it is ordered by; `None` is no key, an empty key is a key.
    pub key: Option<Bytes>,
    /// Names the message for deduplication, and routes it where there is no key.
    pub id: Option<Bytes>,
    /// Names and values that travel with it.
    pub headers: Vec<Header>,
    /// The content; Ringway never looks into it.
    pub body: Bytes,
}

/// One header of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// 1 to 128 bytes of UTF-8.
    pub name: String,
    /// At most 16 KiB of anything.
    pub value: Bytes,
}

impl Message {
    /// A message with a class and a body and nothing else.
    #[must_use]
    pub fn new(class: Class, body: impl Into<Bytes>) -> Self {
        Self { class, key: None, id: None, headers: Vec::new(), body: body.into() }
    }

    /// Checks every bound; `max_body_bytes` and `group` are those of the group it goes to.
    ///
    /// # Errors
    /// [`Code::TooLarge`] for the body, [`Code::InvalidMessage`] for key, id and headers.
    pub fn check(&self, group: &str, max_body_bytes: u32) -> Result<(), Refusal> {
        let invalid = |text: String| Err(Refusal::new(Code::InvalidMessage, text));
        if self.body.len() > max_body_bytes as usize {
            return Err(Refusal::new(
                Code::TooLarge,
                format!(
                    "the body has {} bytes; group {group:?} accepts at most {max_body_bytes}",
                    self.body.len()
                ),
            )
            .hint("store large content elsewhere and send a reference"));
        }
        for (what, bytes) in [("key", &self.key), ("id", &self.id)] {
            if let Some(bytes) = bytes
                && bytes.len() > MAX_KEY_BYTES
            {
                return invalid(format!(
                    "the {what} has {} bytes; at most {MAX_KEY_BYTES} are accepted",
                    bytes.len()
                ));
            }
        }
        if self.headers.len() > MAX_HEADERS {
            return invalid(format!(
                "the message has {} headers; at most {MAX_HEADERS} are accepted",
                self.headers.len()
            ));
        }
        for header in &self.headers {
            if header.name.is_empty() || header.name.len() > MAX_HEADER_NAME_BYTES {
                return invalid(format!(
                    "a header name has {} bytes; 1 to {MAX_HEADER_NAME_BYTES} are accepted",
                    header.name.len()
                ));
            }
            if header.value.len() > MAX_HEADER_VALUE_BYTES {
                return invalid(format!(
                    "header {:?} has {} bytes; at most {MAX_HEADER_VALUE_BYTES} are accepted",
                    header.name,
                    header.value.len()
                ));
            }
        }
        Ok(())
    }

    /// What the message is routed by inside its group: the key, else the id.
    #[must_use]
    pub fn routing_key(&self) -> Option<&Bytes> {
        self.key.as_ref().or(self.id.as_ref())
    }
}
