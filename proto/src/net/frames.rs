//! Frames on a stream. It owns the cutting of bytes into frames and back, and promises that a
//! dropped `read` or `write` neither loses nor tears a frame, that no length is believed before it
//! is checked, and that a frame that was begun is soon whole or given up. What is in a frame it
//! does not know.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use quinn::{RecvStream, SendStream, VarInt};
use serde::Serialize;

use super::error::NetError;
use super::patience::Patience;
use crate::codec;
use crate::frame::{self, Kind, PREFIX_LEN};
use crate::refusal::{Code, Refusal, grouped, spoken};

/// Chunks taken from the stream at once: one lock for all of them.
const CHUNKS_PER_READ: usize = 16;
/// What is reserved for a payload before any of it has arrived, in bytes: enough for a usual
/// batch, little enough that announcing large frames costs nobody memory.
const FIRST_RESERVE: usize = 128 * 1024;
/// Frames up to this size, in bytes, are written as one piece rather than as prefix and payload.
const COPY_BELOW: usize = 2048;
/// The code of a stream that ends without meaning: half a frame was dropped.
const TORN: VarInt = VarInt::from_u32(1);

/// Cuts arriving chunks into frames. Pure, so that every way of cutting can be tried.
#[derive(Default)]
struct Assembler {
    chunks: VecDeque<Bytes>,
    prefix: [u8; PREFIX_LEN],
    prefix_filled: usize,
    /// The frame whose prefix is complete: kind, payload length, and what is here of it.
    body: Option<(Kind, usize, BytesMut)>,
}

impl Assembler {
    fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.chunks.push_back(chunk);
        }
    }

    /// The next whole frame, if it is here. A payload is copied once, into memory of its own: a
    /// slice of a chunk would hold the chunk's whole receive buffer for as long as it lives.
    fn next(&mut self) -> Result<Option<(Kind, Bytes)>, Refusal> {
        loop {
            if let Some((_, len, body)) = &mut self.body
                && body.len() == *len
            {
                let Some((kind, _, body)) = self.body.take() else { return Ok(None) };
                return Ok(Some((kind, body.freeze())));
            }
            let Some(chunk) = self.chunks.front_mut() else { return Ok(None) };
            match &mut self.body {
                Some((_, len, body)) => {
                    let n = chunk.len().min(*len - body.len());
                    body.extend_from_slice(chunk.get(..n).unwrap_or_default());
                    chunk.advance(n);
                }
                None => {
                    let open = self.prefix.get_mut(self.prefix_filled..).unwrap_or_default();
                    let n = chunk.len().min(open.len());
                    for slot in open.iter_mut().take(n) {
                        *slot = chunk.get_u8();
                    }
                    self.prefix_filled += n;
                    if self.prefix_filled == PREFIX_LEN {
                        let (kind, len) = frame::parse_prefix(self.prefix)?;
                        self.prefix_filled = 0;
                        let reserve = len.min(FIRST_RESERVE);
                        self.body = Some((kind, len, BytesMut::with_capacity(reserve)));
                    }
                }
            }
            if self.chunks.front().is_some_and(Bytes::is_empty) {
                self.chunks.pop_front();
            }
        }
    }

    fn is_between_frames(&self) -> bool {
        self.chunks.is_empty() && self.prefix_filled == 0 && self.body.is_none()
    }

    /// How many bytes the frame under way has, its prefix included, as far as is known, and how
    /// many of them are here; none between two frames.
    fn under_way(&self) -> Option<(usize, usize)> {
        match &self.body {
            Some((_, len, body)) => Some((PREFIX_LEN + len, PREFIX_LEN + body.len())),
            None if self.prefix_filled > 0 => Some((PREFIX_LEN, self.prefix_filled)),
            None => None,
        }
    }
}

/// Reads frames from one direction of a stream.
pub struct FrameReader {
    stream: RecvStream,
    assembler: Assembler,
    patience: Patience,
    /// A frame could not be read: what follows it cannot be told apart any more.
    broken: Option<Refusal>,
}

impl FrameReader {
    pub(super) fn new(stream: RecvStream) -> Self {
        Self {
            stream,
            assembler: Assembler::default(),
            patience: Patience::default(),
            broken: None,
        }
    }

    /// The same with other patience, for tests that cannot wait so long.
    #[cfg(test)]
    pub(super) fn with_patience(mut self, base: Duration) -> Self {
        self.patience = Patience::new(base);
        self
    }

    /// The next frame; none where the stream ended between two frames. Between two frames it waits
    /// without limit; within one as long as [`FRAME_PATIENCE`] and [`MIN_FRAME_RATE`] say, over
    /// all calls together. Time in which nobody reads does not count.
    ///
    /// [`FRAME_PATIENCE`]: crate::limits::FRAME_PATIENCE
    /// [`MIN_FRAME_RATE`]: crate::limits::MIN_FRAME_RATE
    ///
    /// # Cancellation
    /// Safe: what has arrived stays in the reader.
    ///
    /// # Errors
    /// [`NetError::Protocol`] for a frame that is too large, unknown, too slow or cut off, and from
    /// then on at every call; else that of the stream or connection.
    pub async fn read(&mut self) -> Result<Option<(Kind, Bytes)>, NetError> {
        if let Some(refusal) = &self.broken {
            return Err(NetError::Protocol(refusal.clone()));
        }
        loop {
            match self.assembler.next() {
                Ok(Some(frame)) => {
                    self.patience.renew();
                    return Ok(Some(frame));
                }
                Ok(None) => {}
                Err(refusal) => return Err(self.give_up(refusal)),
            }
            let mut chunks: [Bytes; CHUNKS_PER_READ] = Default::default();
            let arriving = self.stream.read_chunks(&mut chunks);
            let arrived = match self.assembler.under_way() {
                None => arriving.await?,
                Some((len, here)) => match self.patience.wait(len, arriving).await {
                    Some(arrived) => arrived?,
                    None => {
                        let slow = too_slow(len, here, self.patience.with(len));
                        return Err(self.give_up(slow));
                    }
                },
            };
            match arrived {
                Some(n) => chunks.into_iter().take(n).for_each(|chunk| self.assembler.push(chunk)),
                None if self.assembler.is_between_frames() => return Ok(None),
                None => {
                    let cut = Refusal::new(Code::Protocol, "a stream ended inside a frame");
                    return Err(self.give_up(cut));
                }
            }
        }
    }

    /// The next frame, which must be of `kind`.
    ///
    /// # Cancellation
    /// Safe, as [`FrameReader::read`].
    ///
    /// # Errors
    /// [`NetError::Refused`] where the other side refused instead; [`NetError::Protocol`] for
    /// another kind or the end; else as [`FrameReader::read`].
    pub async fn expect(&mut self, kind: Kind) -> Result<Bytes, NetError> {
        match self.read().await? {
            Some((got, bytes)) if got == kind => Ok(bytes),
            Some((Kind::Refused, bytes)) => {
                Err(codec::decode(&bytes).map_or_else(NetError::Protocol, NetError::Refused))
            }
            Some((got, _)) => {
                Err(NetError::protocol(format!("expected a frame of kind {kind:?}, got {got:?}")))
            }
            None => Err(NetError::protocol(format!("the stream ended before {kind:?}"))),
        }
    }

    /// Tells the sender that nothing more is wanted on this stream.
    pub fn stop(mut self) {
        // Fails only where the stream has ended already.
        let _ = self.stream.stop(VarInt::from_u32(0));
    }

    /// After a broken frame nothing on the stream can be trusted; the sender is told.
    fn give_up(&mut self, refusal: Refusal) -> NetError {
        let _ = self.stream.stop(TORN);
        self.assembler = Assembler::default();
        self.broken = Some(refusal.clone());
        NetError::Protocol(refusal)
    }
}

/// The refusal of a frame that did not come to its end.
fn too_slow(len: usize, here: usize, waited: Duration) -> Refusal {
    // The length is in the prefix.
    let least = if len == PREFIX_LEN { "at least " } else { "" };
    Refusal::new(
        Code::Protocol,
        format!(
            "a frame stopped at {} of {least}{} bytes, after {} of waiting for it",
            grouped(here as u64),
            grouped(len as u64),
            spoken(waited)
        ),
    )
}

/// Writes frames to one direction of a stream. Dropping it finishes the stream; where half a
/// frame would be left, the stream is reset instead.
pub struct FrameWriter {
    stream: SendStream,
    /// What is accepted and not yet in QUIC's hands.
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
}

impl FrameWriter {
    pub(super) fn new(stream: SendStream) -> Self {
        Self { stream, queue: VecDeque::new(), queued_bytes: 0 }
    }

    /// Sends a frame whose payload is `parts` in a row; large parts are not copied. Waits while
    /// the other side takes no more.
    ///
    /// # Cancellation
    /// Decided at the call: the frame is queued whole, and what is left of it goes out with the
    /// next `write` or [`FrameWriter::flush`].
    ///
    /// # Errors
    /// [`Code::TooLarge`] as [`NetError::Protocol`] for more than the kind may hold, in which case
    /// nothing is sent; else that of the stream or connection.
    pub async fn write(&mut self, kind: Kind, parts: &[Bytes]) -> Result<(), NetError> {
        self.push(kind, parts)?;
        self.flush().await
    }

    /// Sends `value` as MessagePack in a frame of `kind`.
    ///
    /// # Cancellation
    /// Decided at the call, as [`FrameWriter::write`].
    ///
    /// # Errors
    /// As [`FrameWriter::write`].
    pub async fn write_control<T: Serialize + ?Sized>(
        &mut self,
        kind: Kind,
        value: &T,
    ) -> Result<(), NetError> {
        self.push_control(kind, value)?;
        self.flush().await
    }

    /// Answers a request with `value` and finishes the stream.
    ///
    /// # Errors
    /// As [`FrameWriter::write`].
    pub async fn respond<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NetError> {
        self.write_control(Kind::Response, value).await?;
        self.finish()
    }

    /// Refuses what was asked on this stream and finishes it.
    ///
    /// # Errors
    /// As [`FrameWriter::write`].
    pub async fn refuse(&mut self, refusal: &Refusal) -> Result<(), NetError> {
        self.write_control(Kind::Refused, refusal).await?;
        self.finish()
    }

    /// Queues a frame without sending it; [`FrameWriter::flush`] sends. The queue has no bound of
    /// its own: look at [`FrameWriter::queued_bytes`] before taking on more.
    ///
    /// # Errors
    /// [`Code::TooLarge`] as [`NetError::Protocol`] for more than the kind may hold.
    pub fn push(&mut self, kind: Kind, parts: &[Bytes]) -> Result<(), NetError> {
        let len = parts.iter().map(Bytes::len).sum();
        if len > kind.max_payload() {
            return Err(NetError::Protocol(Refusal::new(
                Code::TooLarge,
                format!(
                    "a frame of kind {kind:?} would have {len} bytes; at most {} are accepted",
                    kind.max_payload()
                ),
            )));
        }
        let prefix = frame::prefix(kind, len);
        self.queued_bytes += PREFIX_LEN + len;
        if len <= COPY_BELOW {
            let mut whole = BytesMut::with_capacity(PREFIX_LEN + len);
            whole.extend_from_slice(&prefix);
            parts.iter().for_each(|part| whole.extend_from_slice(part));
            self.queue.push_back(whole.freeze());
        } else {
            self.queue.push_back(Bytes::copy_from_slice(&prefix));
            self.queue.extend(parts.iter().filter(|part| !part.is_empty()).cloned());
        }
        Ok(())
    }

    /// Queues `value` as MessagePack in a frame of `kind` without sending it.
    ///
    /// # Errors
    /// As [`FrameWriter::push`].
    pub fn push_control<T: Serialize + ?Sized>(
        &mut self,
        kind: Kind,
        value: &T,
    ) -> Result<(), NetError> {
        let bytes = codec::encode(value).map_err(NetError::Protocol)?;
        self.push(kind, &[bytes])
    }

    /// Sends all that is queued. Returns at once when nothing is.
    ///
    /// # Cancellation
    /// Safe: what was not sent stays queued.
    ///
    /// # Errors
    /// That of the stream or connection.
    pub async fn flush(&mut self) -> Result<(), NetError> {
        while !self.queue.is_empty() {
            let written = self.stream.write_chunks(self.queue.make_contiguous()).await?;
            self.queue.drain(..written.chunks);
            self.queued_bytes = self.queued_bytes.saturating_sub(written.bytes);
        }
        Ok(())
    }

    /// How many bytes are queued and not yet sent.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Tells the other side that no more frames come.
    ///
    /// # Errors
    /// [`NetError::Protocol`] while frames are still queued, or when it was finished before.
    pub fn finish(&mut self) -> Result<(), NetError> {
        if !self.queue.is_empty() {
            return Err(NetError::protocol("a stream cannot be finished before it is flushed"));
        }
        self.stream.finish().map_err(|e| NetError::protocol(e.to_string()))
    }

    /// Gives the stream up: what is not delivered yet may be lost.
    pub fn reset(&mut self, code: u32) {
        self.queue.clear();
        self.queued_bytes = 0;
        // Fails only where the stream has ended already.
        let _ = self.stream.reset(VarInt::from_u32(code));
    }

    /// Which stream of a connection goes first: a higher one does. 0 unless set.
    pub fn set_priority(&self, priority: i32) {
        // Fails only where the stream has ended already.
        let _ = self.stream.set_priority(priority);
    }

    /// The stream itself, for tests that break the rules.
    #[cfg(test)]
    pub(super) fn raw(&mut self) -> &mut SendStream {
        &mut self.stream
    }

    /// Waits until the other side has all of a finished stream, at most for a second.
    pub(super) async fn delivered(&mut self) {
        let _ = tokio::time::timeout(Duration::from_secs(1), self.stream.stopped()).await;
    }
}

impl Drop for FrameWriter {
    fn drop(&mut self) {
        if !self.queue.is_empty() {
            let _ = self.stream.reset(TORN);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::MAX_FRAME_BYTES;

    fn wire(frames: &[(Kind, Vec<u8>)]) -> Vec<u8> {
        frames
            .iter()
            .flat_map(|(kind, body)| [frame::prefix(*kind, body.len()).to_vec(), body.clone()])
            .flatten()
            .collect()
    }

    fn drain(assembler: &mut Assembler) -> Result<Vec<(Kind, Vec<u8>)>, Refusal> {
        let mut out = Vec::new();
        while let Some((kind, body)) = assembler.next()? {
            out.push((kind, body.to_vec()));
        }
        Ok(out)
    }

    #[test]
    fn a_length_is_refused_before_anything_is_reserved() {
        let mut assembler = Assembler::default();
        assembler.push(Bytes::from_static(&[255, 255, 255, 255, Kind::Append as u8]));
        assert_eq!(assembler.next().unwrap_err().code, Code::TooLarge);

        let mut assembler = Assembler::default();
        assembler.push(Bytes::copy_from_slice(&frame::prefix(Kind::Append, MAX_FRAME_BYTES)));
        assert!(assembler.next().unwrap().is_none());
        let (_, _, body) = assembler.body.unwrap();
        assert!(body.capacity() <= FIRST_RESERVE);
    }

    proptest! {
        #[test]
        fn any_cut_of_the_bytes_gives_the_same_frames(
            sizes in prop::collection::vec(0usize..3000, 1..6),
            cuts in prop::collection::vec(1usize..4000, 1..12),
        ) {
            let frames: Vec<(Kind, Vec<u8>)> = sizes
                .iter()
                .enumerate()
                .map(|(i, size)| (Kind::Deliver, vec![i as u8; *size]))
                .collect();
            let bytes = wire(&frames);
            let (mut assembler, mut out) = (Assembler::default(), Vec::new());
            let (mut at, mut cuts) = (0, cuts.iter().cycle());
            while at < bytes.len() {
                let end = bytes.len().min(at + cuts.next().unwrap());
                assembler.push(Bytes::copy_from_slice(&bytes[at..end]));
                out.extend(drain(&mut assembler).unwrap());
                prop_assert_eq!(assembler.is_between_frames(), wire(&out).len() == end);
                at = end;
            }
            prop_assert_eq!(out, frames);
        }

        #[test]
        fn garbage_never_panics(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8)) {
            let mut assembler = Assembler::default();
            for chunk in chunks {
                assembler.push(chunk.into());
                if drain(&mut assembler).is_err() {
                    break;
                }
            }
        }
    }
}
