//! A message as a producer gives it: class, optional key and id, headers, body.
//!
//! The bounds of its parts are checked here once, before it enters a batch. The bound of the body
//! is the group's, so it comes from outside.

use bytes::Bytes;

use crate::class::Class;
use crate::limits::{MAX_HEADER_NAME_BYTES, MAX_HEADER_VALUE_BYTES, MAX_HEADERS, MAX_KEY_BYTES};
use crate::refusal::{Code, Refusal, grouped};

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
                    "the body has {} bytes; group {group:?} accepts at most {}",
                    grouped(self.body.len() as u64),
                    grouped(max_body_bytes.into())
                ),
            )
            .hint("store large content elsewhere and send a reference"));
        }
        for (what, bytes) in [("key", &self.key), ("id", &self.id)] {
            if let Some(bytes) = bytes
                && bytes.len() > MAX_KEY_BYTES
            {
                return invalid(format!(
                    "the {what} has {} bytes; at most {} are accepted",
                    grouped(bytes.len() as u64),
                    grouped(MAX_KEY_BYTES as u64)
                ));
            }
        }
        if self.headers.len() > MAX_HEADERS {
            return invalid(format!(
                "the message has {} headers; at most {MAX_HEADERS} are accepted",
                grouped(self.headers.len() as u64)
            ));
        }
        for header in &self.headers {
            if header.name.is_empty() || header.name.len() > MAX_HEADER_NAME_BYTES {
                return invalid(format!(
                    "a header name has {} bytes; 1 to {MAX_HEADER_NAME_BYTES} are accepted",
                    grouped(header.name.len() as u64)
                ));
            }
            if header.value.len() > MAX_HEADER_VALUE_BYTES {
                return invalid(format!(
                    "header {:?} has {} bytes; at most {} are accepted",
                    header.name,
                    grouped(header.value.len() as u64),
                    grouped(MAX_HEADER_VALUE_BYTES as u64)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn text(message: &Message) -> String {
        message.check("orders", 1 << 20).unwrap_err().to_string()
    }

    #[test]
    fn what_is_too_large_is_refused_with_both_numbers() {
        let class = Class::new("orders.new").unwrap();
        let message = Message::new(class.clone(), vec![0; 1_310_720]);
        let wanted = "the body has 1,310,720 bytes; group \"orders\" accepts at most 1,048,576";
        assert_eq!(text(&message), wanted);
        let keyed = Message { key: Some(vec![0; 5000].into()), ..Message::new(class.clone(), "") };
        assert_eq!(text(&keyed), "the key has 5,000 bytes; at most 4,096 are accepted");
        let header = Header { name: "h".into(), value: vec![0; 20_000].into() };
        let headed = Message { headers: vec![header], ..Message::new(class.clone(), "") };
        assert_eq!(text(&headed), "header \"h\" has 20,000 bytes; at most 16,384 are accepted");
        assert!(Message::new(class, vec![0; 1 << 20]).check("orders", 1 << 20).is_ok());
    }
}
