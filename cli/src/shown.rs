//! How a received message is printed: as a JSON object that loses nothing, as a line of text for
//! people, or as its bare body. It knows nothing of when it is printed or acknowledged.

use std::io::{self, Write};

use ringway_client::Message;
use serde::Serialize;
use serde::ser::SerializeMap;

use crate::args::FormatArg;
use crate::exit::escape;

/// Appends `message` to `out` in `format`.
///
/// # Errors
/// Those of `out`.
pub fn write(out: &mut impl Write, message: &Message, format: FormatArg) -> io::Result<()> {
    match format {
        FormatArg::Json => {
            serde_json::to_writer(&mut *out, &Shown(message))?;
            out.write_all(b"\n")
        }
        FormatArg::Text => {
            let key = message.key.as_deref().map_or("-".into(), String::from_utf8_lossy);
            let body = String::from_utf8_lossy(&message.body);
            writeln!(out, "{}\t{}\t{}", message.class, escape(&key), escape(&body))
        }
        FormatArg::Raw => out.write_all(&message.body),
    }
}

/// A message as one JSON object. Bytes that are no UTF-8 stand under a key with `_b64` instead.
struct Shown<'a>(&'a Message);

impl Serialize for Shown<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let message = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("class", &message.class)?;
        match &message.key {
            Some(key) => entry(&mut map, "key", key)?,
            None => map.serialize_entry("key", &())?,
        }
        map.serialize_entry("queue", &*message.queue)?;
        map.serialize_entry("offset", &message.offset)?;
        map.serialize_entry("epoch", &message.epoch)?;
        map.serialize_entry("delivery", &message.delivery)?;
        map.serialize_entry("published_at", &message.published_at.to_string())?;
        map.serialize_entry("headers", &Headers(message))?;
        entry(&mut map, "body", &message.body)?;
        map.end()
    }
}

/// The headers as one object: a name that stands several times has its last value, as a reader
/// of the object would take it.
struct Headers<'a>(&'a Message);

impl Serialize for Headers<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let headers = &self.0.headers;
        let mut map = serializer.serialize_map(None)?;
        for (at, header) in headers.iter().enumerate() {
            let again = headers.iter().skip(at + 1).any(|later| later.name == header.name);
            if !again {
                entry(&mut map, &header.name, &header.value)?;
            }
        }
        map.end()
    }
}

fn entry<M: SerializeMap>(map: &mut M, name: &str, bytes: &[u8]) -> Result<(), M::Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => map.serialize_entry(name, text),
        Err(_) => map.serialize_entry(&format!("{name}_b64"), &base64(bytes)),
    }
}

/// Base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            // A group of n bytes has n + 1 digits; the rest is padding.
            let digit = (bits >> (18 - 6 * place)) as usize & 63;
            out.push(if place <= group.len() { char::from(ALPHABET[digit]) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ringway_proto::message::Header;
    use ringway_proto::{Class, WallTime};

    use super::*;

    fn message(key: Option<&'static [u8]>, body: &'static [u8]) -> Message {
        let header = |name: &str, value: &'static [u8]| Header {
            name: name.to_owned(),
            value: Bytes::from_static(value),
        };
        Message {
            class: Class::new("a.b").unwrap(),
            key: key.map(Bytes::from_static),
            id: None,
            headers: vec![header("k", b"1"), header("k", b"2"), header("bin", b"\xff")],
            body: Bytes::from_static(body),
            queue: "default/3".into(),
            offset: 17,
            epoch: 2,
            delivery: 1,
            published_at: WallTime(0),
        }
    }

    fn shown(message: &Message, format: FormatArg) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, message, format).unwrap();
        out
    }

    #[test]
    fn an_object_has_every_part_in_its_place() {
        let line = shown(&message(Some(b"k\n"), b"{\"x\":1}"), FormatArg::Json);
        assert_eq!(
            String::from_utf8(line).unwrap(),
            "{\"class\":\"a.b\",\"key\":\"k\\n\",\"queue\":\"default/3\",\"offset\":17,\"epoch\":2,\
             \"delivery\":1,\"published_at\":\"1970-01-01T00:00:00.000Z\",\
             \"headers\":{\"k\":\"2\",\"bin_b64\":\"/w==\"},\"body\":\"{\\\"x\\\":1}\"}\n"
        );
    }

    #[test]
    fn no_key_is_null_and_bytes_that_are_no_text_are_base64() {
        let line = shown(&message(None, b"\x00\xffab"), FormatArg::Json);
        let object: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!((&object["key"], &object["body_b64"]), (&().into(), &"AP9hYg==".into()));
        assert!(object.get("body").is_none());
        let line = shown(&message(Some(b""), b""), FormatArg::Json);
        let object: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!((&object["key"], &object["body"]), (&"".into(), &"".into()));
        let line = shown(&message(Some(b"\xfe"), b""), FormatArg::Json);
        let object: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(object["key_b64"], "/g==");
    }

    #[test]
    fn text_cannot_steer_a_terminal_and_raw_is_exact() {
        let odd = message(None, b"a\x1b[2Jb\nc");
        assert_eq!(shown(&odd, FormatArg::Text), b"a.b\t-\ta\\u{1b}[2Jb\\nc\n");
        assert_eq!(shown(&odd, FormatArg::Raw), b"a\x1b[2Jb\nc");
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
