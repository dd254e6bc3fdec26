//! Names for values: equal values get the same small number, so that a state of the whole system
//! is a short list of numbers and a step that was computed once is looked up afterwards. Values
//! are equal when they print the same, moments taken relative to their own clock. It does not know
//! what the values are.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::hash::{BuildHasherDefault, Hasher};

/// 128 bits of a value: two values that differ share them with a chance of about n² / 2¹²⁹.
pub type Print = u128;

/// A hasher for keys that are numbers already (the multiplication of FxHash in rustc).
#[derive(Clone, Copy, Default, Debug)]
pub struct Quick(u64);

impl Hasher for Quick {
    fn finish(&self) -> u64 {
        // The best bits of a product are its highest, and the table looks at the lowest too.
        self.0.rotate_left(26)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(5) ^ n).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_u128(&mut self, n: u128) {
        self.write_u64(n as u64);
        self.write_u64((n >> 64) as u64);
    }
}

/// A map from numbers.
pub type Map<K, V> = HashMap<K, V, BuildHasherDefault<Quick>>;

/// Values by their numbers.
#[derive(Debug)]
pub struct Table<T> {
    known: Map<Print, u32>,
    values: Vec<T>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { known: Map::default(), values: Vec::new() }
    }
}

impl<T> Table<T> {
    /// The number of a value that prints like this.
    pub fn name(&mut self, print: Print, value: T) -> u32 {
        *self.known.entry(print).or_insert_with(|| {
            self.values.push(value);
            self.values.len() as u32 - 1
        })
    }

    /// The value of this number.
    #[must_use]
    pub fn get(&self, name: u32) -> &T {
        &self.values[name as usize]
    }

    /// How many values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

/// Where in the text of a moment the writer is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Elsewhere,
    Name,
    Number,
}

/// Gathers the text of a value, with every [`ringway_proto::Time`] in it as the span to `now`.
struct Writer<'a> {
    text: &'a mut String,
    now: u64,
    at: At,
}

impl Write for Writer<'_> {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        match (self.at, piece) {
            (At::Number, digits) if digits.as_bytes().first().is_some_and(u8::is_ascii_digit) => {
                self.text.push(span(digits.parse().map_err(|_| fmt::Error)?, self.now));
                self.at = At::Elsewhere;
                return Ok(());
            }
            (At::Name, "(") => self.at = At::Number,
            (_, "Time") => self.at = At::Name,
            _ => self.at = At::Elsewhere,
        }
        self.text.push_str(piece);
        Ok(())
    }
}

/// How a moment stands to now. The model's waits are so far apart (see `parts::coordinator`) that
/// only the largest one that is not over matters.
fn span(at: u64, now: u64) -> char {
    match at.checked_sub(now) {
        None => '<',
        Some(0) => '=',
        Some(1..=5_000) => 'l',
        Some(5_001..=200_000) => 'r',
        Some(200_001..=20_000_000) => 'd',
        Some(_) => 'p',
    }
}

/// Prints values.
#[derive(Debug, Default)]
pub struct Printer {
    text: String,
}

impl Printer {
    /// What a value prints as, at this moment of its clock.
    pub fn print(&mut self, now: u64, value: &dyn fmt::Debug) -> Print {
        self.text.clear();
        let mut writer = Writer { text: &mut self.text, now, at: At::Elsewhere };
        // Writing into a string does not fail.
        let _ = write!(writer, "{value:?}");
        xxhash_rust::xxh3::xxh3_128(self.text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use ringway_proto::Time;

    use super::*;

    #[test]
    fn moments_count_only_by_how_they_stand_to_now() {
        let mut printer = Printer::default();
        let mut print = |now, at: u64| printer.print(now, &(Some(Time(at)), "x"));
        assert_eq!(print(10, 10), print(99, 99));
        assert_eq!(print(10, 3), print(99, 7), "what is past is past");
        assert_eq!(print(0, 1_000_000), print(500, 1_000_000));
        assert_ne!(print(10, 10), print(10, 11));
        assert_ne!(print(10, 2_000), print(10, 20_000));
    }
}
