//! Lines of stdin as they come. A thread of its own reads them, so that a read that never ends
//! holds up neither a signal nor the end of the process. It promises the exact bytes of each line
//! without its newline, and a bound on what is read ahead and on a line.

use std::io::{self, BufRead};

use bytes::Bytes;
use tokio::sync::mpsc;

/// How many reads are kept ahead of the publisher.
const READ_AHEAD: usize = 4;
/// How much one read takes, in bytes.
const READ_BYTES: usize = 64 * 1024;
/// The longest line, in bytes. No group accepts bodies near it.
const MAX_LINE_BYTES: usize = 16 << 20;

/// What a line is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Line {
    /// Its bytes.
    Bytes(Bytes),
    /// It is longer than the bound; so many bytes were passed over.
    TooLong(u64),
}

/// Lines that came in one read, or why nothing comes any more.
pub type Chunk = io::Result<Vec<Line>>;

/// Starts to read stdin; the channel ends with its end.
#[must_use]
pub fn lines() -> mpsc::Receiver<Chunk> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    std::thread::spawn(move || {
        let reader = io::BufReader::with_capacity(READ_BYTES, io::stdin());
        read(reader, MAX_LINE_BYTES, |chunk| sender.blocking_send(chunk).is_ok());
    });
    receiver
}

/// Reads to the end or until `give` wants no more.
fn read(mut reader: impl BufRead, max_line: usize, mut give: impl FnMut(Chunk) -> bool) {
    let mut open = OpenLine { bytes: Vec::new(), passed: 0, max: max_line };
    loop {
        let buffer = match reader.fill_buf() {
            Ok(buffer) => buffer,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => {
                give(Err(e));
                return;
            }
        };
        let taken = buffer.len();
        if taken == 0 {
            // A last line without a newline counts; nothing at all behind a newline does not.
            if let Some(line) = open.end() {
                give(Ok(vec![line]));
            }
            return;
        }
        let lines = open.take(buffer);
        reader.consume(taken);
        if !lines.is_empty() && !give(Ok(lines)) {
            return;
        }
    }
}

/// The line whose end was not seen yet.
struct OpenLine {
    bytes: Vec<u8>,
    /// How long a line is that is passed over; 0 while it is kept.
    passed: u64,
    max: usize,
}

impl OpenLine {
    /// Takes what was read and returns the lines that it ended.
    fn take(&mut self, mut buffer: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        while let Some(at) = buffer.iter().position(|byte| *byte == b'\n') {
            let (rest, behind) = buffer.split_at(at);
            buffer = behind.get(1..).unwrap_or_default();
            if self.bytes.is_empty() && self.passed == 0 && rest.len() <= self.max {
                lines.push(Line::Bytes(Bytes::copy_from_slice(rest)));
                continue;
            }
            self.add(rest);
            lines.extend(self.end().or(Some(Line::Bytes(Bytes::new()))));
        }
        self.add(buffer);
        lines
    }

    fn add(&mut self, part: &[u8]) {
        if self.passed > 0 {
            self.passed += part.len() as u64;
        } else if self.bytes.len() + part.len() > self.max {
            self.passed = (self.bytes.len() + part.len()) as u64;
            self.bytes = Vec::new();
        } else {
            self.bytes.extend_from_slice(part);
        }
    }

    fn end(&mut self) -> Option<Line> {
        match (std::mem::take(&mut self.passed), std::mem::take(&mut self.bytes)) {
            (0, bytes) if bytes.is_empty() => None,
            (0, bytes) => Some(Line::Bytes(bytes.into())),
            (passed, _) => Some(Line::TooLong(passed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `text` in pieces of `piece` bytes with lines of at most 8.
    fn all(text: &[u8], piece: usize) -> Vec<Line> {
        let mut lines = Vec::new();
        read(io::BufReader::with_capacity(piece, text), 8, |chunk| {
            lines.extend(chunk.unwrap());
            true
        });
        lines
    }

    fn line(text: &'static str) -> Line {
        Line::Bytes(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn every_line_comes_exactly_as_it_is_however_it_was_read() {
        for piece in 1..20 {
            assert_eq!(
                all(b"a\r\n\nbc\nlast", piece),
                [line("a\r"), line(""), line("bc"), line("last")]
            );
            assert_eq!(all(b"a\n", piece), [line("a")]);
            assert_eq!(all(b"\n", piece), [line("")]);
            assert_eq!(all(b"", piece), []);
        }
    }

    #[test]
    fn a_line_over_the_bound_is_passed_over_and_the_next_is_whole() {
        for piece in 1..20 {
            let lines = all(b"12345678\n123456789\nok\n0123456789", piece);
            assert_eq!(lines, [line("12345678"), Line::TooLong(9), line("ok"), Line::TooLong(10)]);
        }
    }
}
