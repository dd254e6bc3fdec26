//! Control messages as bytes: MessagePack with field names, so that either side can add optional
//! fields. It promises that what a peer sends can neither exhaust the stack nor the memory; it
//! does not know which message is meant where.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::refusal::{Code, Refusal, shorten};

/// How deeply maps and arrays of a control message may be nested.
pub const MAX_DEPTH: usize = 16;

/// `value` as MessagePack.
///
/// # Errors
/// [`Code::Internal`] for a value that MessagePack cannot hold, which no control message is.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes, Refusal> {
    match rmp_serde::to_vec_named(value) {
        Ok(bytes) => Ok(bytes.into()),
        Err(e) => Err(Refusal::new(Code::Internal, format!("a message cannot be encoded: {e}"))),
    }
}

/// The value in `bytes`, which may come from anyone.
///
/// # Errors
/// [`Code::Protocol`] for what is no such value, is nested deeper than [`MAX_DEPTH`], or has
/// bytes behind it.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    // A `&[u8]` as the reader: a length that lies allocates no more than the bytes that exist.
    let mut from = rmp_serde::Deserializer::new(bytes);
    // The crate counts down and refuses at zero.
    from.set_max_depth(MAX_DEPTH + 1);
    let value = T::deserialize(&mut from).map_err(|e| malformed(&e.to_string()))?;
    match from.into_inner().len() {
        0 => Ok(value),
        n => Err(malformed(&format!("{n} bytes follow it"))),
    }
}

fn malformed(why: &str) -> Refusal {
    Refusal::new(Code::Protocol, format!("a control message is malformed: {}", shorten(why)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;
    use serde::de::IgnoredAny;

    use super::*;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Old {
        id: u64,
    }

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct New {
        id: u64,
        #[serde(default)]
        note: Option<String>,
        #[serde(default)]
        list: Vec<u32>,
    }

    #[test]
    fn either_side_may_add_optional_fields() {
        let new = New { id: 7, note: Some("x".into()), list: vec![1, 2] };
        assert_eq!(decode::<New>(&encode(&new).unwrap()).unwrap(), new);
        assert_eq!(decode::<Old>(&encode(&new).unwrap()).unwrap(), Old { id: 7 });
        let upgraded = decode::<New>(&encode(&Old { id: 7 }).unwrap()).unwrap();
        assert_eq!(upgraded, New { id: 7, note: None, list: vec![] });
    }

    fn is_well_formed(bytes: &[u8]) -> bool {
        decode::<IgnoredAny>(bytes).is_ok()
    }

    #[test]
    fn nesting_is_bounded() {
        // 0x91 is an array of one; 0x01 is the number in the innermost.
        let nested = |depth: usize| [vec![0x91; depth], vec![0x01]].concat();
        assert!(is_well_formed(&nested(MAX_DEPTH)));
        assert!(!is_well_formed(&nested(MAX_DEPTH + 1)));
        assert!(!is_well_formed(&nested(1 << 20)));
    }

    #[test]
    fn lying_lengths_and_trailing_bytes_are_refused() {
        // An array and a string of four billion, with nothing behind.
        assert!(decode::<Vec<u32>>(&[0xdd, 255, 255, 255, 255]).is_err());
        assert!(decode::<String>(&[0xdb, 255, 255, 255, 255, b'a']).is_err());
        let mut bytes = encode(&Old { id: 1 }).unwrap().to_vec();
        bytes.push(0);
        assert_eq!(decode::<Old>(&bytes).unwrap_err().code, Code::Protocol);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<New>(&bytes);
            let _ = decode::<IgnoredAny>(&bytes);
        }
    }
}
