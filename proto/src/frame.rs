//! The envelope of everything on a stream: a length, a kind, a payload.
//!
//! `u32` little-endian length of what follows, `u8` kind, payload. The length is checked against
//! the bound of the kind before anything is allocated. An unknown kind is refused, never skipped.

use crate::limits::{MAX_CONTROL_BYTES, MAX_FRAME_BYTES, MAX_HELLO_BYTES};
use crate::refusal::{Code, Refusal};

/// Bytes before the payload: the length and the kind.
pub const PREFIX_LEN: usize = 5;

/// What a frame is. The numbers are a wire promise and never reused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// First frame of the first stream of a connection, both ways (MessagePack, see [`crate::net`]).
    Hello = 1,
    /// A refusal ([`Refusal`], MessagePack) that ends the stream.
    Refused = 2,
    /// "Are you there": eight bytes that [`Kind::Pong`] sends back.
    Ping = 3,
    /// The answer to [`Kind::Ping`].
    Pong = 4,
    /// A control message (MessagePack); which enum it is follows from who talks to whom.
    Control = 5,
    /// One question of a request stream (MessagePack).
    Request = 6,
    /// The answer to [`Kind::Request`].
    Response = 7,
    /// Append a batch ([`crate::data::Append`]).
    Append = 16,
    /// The answer to an append ([`crate::data::AppendAnswer`]).
    Appended = 17,
    /// Open a right (MessagePack [`crate::control::OpenRight`]): first frame of a delivery stream.
    OpenRight = 32,
    /// The right is open; deliveries follow (MessagePack [`crate::control::RightOpened`]).
    RightOpened = 33,
    /// Messages for the holder ([`crate::data::Deliver`]).
    Deliver = 34,
    /// Offsets that the holder acks ([`crate::data::Ranges`]).
    Ack = 35,
    /// All acks up to a number are durable ([`crate::data::AckConfirmed`]).
    AckConfirmed = 36,
    /// Offsets handed to the application, or still being handled ([`crate::data::Ranges`]).
    HandedOut = 37,
    /// Offsets that come back unread ([`crate::data::Ranges`]).
    Return = 38,
    /// Offsets whose handling failed; they come again ([`crate::data::Ranges`]).
    Nack = 39,
    /// How much may be in flight ([`crate::data::Window`]).
    Window = 40,
    /// The window that deliveries after this one obey ([`crate::data::Window`], sent back).
    WindowSeen = 41,
    /// Send nothing more but of these lanes ([`crate::data::encode_lanes`]); acks go on.
    Narrow = 42,
    /// Copy a queue: first frame of a stream between workers (MessagePack
    /// [`crate::control::CopyFrom`]).
    CopyFrom = 48,
    /// How far the source is (MessagePack [`crate::control::CopyState`]).
    CopyState = 49,
    /// One batch of the copied queue ([`crate::data::CopyBatch`]).
    CopyBatch = 50,
    /// The copied queue is sealed and this is all that is known of it besides its batches
    /// (MessagePack [`crate::control::CopySealed`]).
    CopySealed = 51,
}

impl Kind {
    /// The kind with this number.
    ///
    /// # Errors
    /// [`Code::Unsupported`] for a number that no kind has.
    pub fn from_u8(n: u8) -> Result<Self, Refusal> {
        Ok(match n {
            1 => Self::Hello,
            2 => Self::Refused,
            3 => Self::Ping,
            4 => Self::Pong,
            5 => Self::Control,
            6 => Self::Request,
            7 => Self::Response,
            16 => Self::Append,
            17 => Self::Appended,
            32 => Self::OpenRight,
            33 => Self::RightOpened,
            34 => Self::Deliver,
            35 => Self::Ack,
            36 => Self::AckConfirmed,
            37 => Self::HandedOut,
            38 => Self::Return,
            39 => Self::Nack,
            40 => Self::Window,
            41 => Self::WindowSeen,
            42 => Self::Narrow,
            48 => Self::CopyFrom,
            49 => Self::CopyState,
            50 => Self::CopyBatch,
            51 => Self::CopySealed,
            other => {
                return Err(Refusal::new(
                    Code::Unsupported,
                    format!("frames of kind {other} are unknown here"),
                ));
            }
        })
    }

    /// The largest payload of this kind, in bytes.
    #[must_use]
    pub fn max_payload(self) -> usize {
        match self {
            Self::Hello => MAX_HELLO_BYTES,
            Self::Ping | Self::Pong => 8,
            Self::Narrow => 64,
            Self::Append | Self::Deliver | Self::CopyBatch => MAX_FRAME_BYTES,
            Self::Refused => 16 * 1024,
            Self::Appended | Self::AckConfirmed | Self::Window | Self::WindowSeen => 4096,
            Self::Ack | Self::HandedOut | Self::Return | Self::Nack => 128 * 1024,
            Self::Control
            | Self::Request
            | Self::Response
            | Self::OpenRight
            | Self::RightOpened
            | Self::CopyFrom
            | Self::CopyState
            | Self::CopySealed => MAX_CONTROL_BYTES,
        }
    }
}

/// The prefix of a frame with this payload length.
#[must_use]
pub fn prefix(kind: Kind, payload_len: usize) -> [u8; PREFIX_LEN] {
    let n = (payload_len as u32 + 1).to_le_bytes();
    [n[0], n[1], n[2], n[3], kind as u8]
}

/// Reads a prefix: the kind and the length of the payload that follows.
///
/// # Errors
/// [`Code::Unsupported`] for an unknown kind, [`Code::TooLarge`] for a length over the kind's
/// bound, [`Code::Protocol`] for a length of zero.
pub fn parse_prefix(p: [u8; PREFIX_LEN]) -> Result<(Kind, usize), Refusal> {
    let len = u32::from_le_bytes([p[0], p[1], p[2], p[3]]) as usize;
    let kind = Kind::from_u8(p[4])?;
    let Some(payload) = len.checked_sub(1) else {
        return Err(Refusal::new(Code::Protocol, "a frame of length 0"));
    };
    if payload > kind.max_payload() {
        return Err(Refusal::new(
            Code::TooLarge,
            format!(
                "a frame of kind {kind:?} announces {payload} bytes; at most {} are accepted",
                kind.max_payload()
            ),
        ));
    }
    Ok((kind, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lying_lengths_and_unknown_kinds_are_refused() {
        assert_eq!(parse_prefix(prefix(Kind::Append, 9)).unwrap(), (Kind::Append, 9));
        assert_eq!(parse_prefix([0, 0, 0, 0, 5]).unwrap_err().code, Code::Protocol);
        assert_eq!(parse_prefix([255, 255, 255, 255, 16]).unwrap_err().code, Code::TooLarge);
        assert_eq!(parse_prefix([0, 17, 0, 0, 1]).unwrap_err().code, Code::TooLarge);
        assert_eq!(parse_prefix([2, 0, 0, 0, 99]).unwrap_err().code, Code::Unsupported);
    }

    #[test]
    fn every_kind_has_the_number_it_is_written_with() {
        for n in 0..=255u8 {
            if let Ok(kind) = Kind::from_u8(n) {
                assert_eq!(kind as u8, n);
            }
        }
    }
}
