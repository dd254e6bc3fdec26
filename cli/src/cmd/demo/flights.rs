//! The flights that the demo replays: the excerpt in this binary, or a file. It promises that every
//! line is a flight before anything is started, and says which one is not.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use flate2::read::MultiGzDecoder;
use serde::Deserialize;

use crate::exit::Failure;
use crate::output::{cause, grouped};

/// The first 33,677 flights of 2013 from New York (US Department of Transportation, public domain).
const EXCERPT: &[u8] = include_bytes!("../../../data/flights.ndjson.gz");
/// How a gzipped file begins (RFC 1952).
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// Flights that left this many minutes late count as delayed.
pub const LATE_MINUTES: i64 = 15;

/// What the demo itself reads of a flight.
#[derive(Deserialize, Debug)]
pub struct Flight {
    /// Who flew, the family of its class.
    pub carrier: String,
    /// How late it left, in minutes; none where it did not.
    dep_delay: Option<i64>,
}

/// Flights in the order in which they are published, a line of JSON each.
#[derive(Debug)]
pub struct Flights {
    lines: Vec<String>,
}

impl Flights {
    /// Reads `file`, gzipped or not; without one, the excerpt.
    ///
    /// # Errors
    /// When it cannot be read, or holds anything but flights.
    pub fn read(file: Option<&Path>) -> Result<Self, Failure> {
        let name = file.map_or_else(|| "the excerpt".into(), |path| path.display().to_string());
        let unreadable = |e: std::io::Error| {
            Failure::new("io", format!("cannot read {name}: {}", cause(&e)))
                .help("name a file of flights, NDJSON or gzipped NDJSON, with --flights")
        };
        let bytes = file.map_or_else(|| Ok(EXCERPT.to_vec()), std::fs::read).map_err(unreadable)?;
        let text = text(bytes).map_err(unreadable)?;
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        if lines.is_empty() {
            return Err(Failure::new("invalid-line", format!("{name} holds no flights")));
        }
        for (at, line) in lines.iter().enumerate() {
            if let Err(e) = serde_json::from_str::<Flight>(line) {
                let said = e.to_string();
                let why = said.split(" at line ").next().unwrap_or(&said);
                let number = grouped(at as u64 + 1);
                return Err(Failure::new(
                    "invalid-line",
                    format!("line {number} of {name} is no flight: {why}"),
                )
                .help("a flight is an object with carrier, origin, tail and dep_delay"));
            }
        }
        Ok(Self { lines })
    }

    /// The lines, from line 1 on.
    pub fn lines(&self) -> Vec<&str> {
        self.lines.iter().map(String::as_str).collect()
    }

    /// Every carrier, once.
    pub fn carriers(&self) -> Vec<String> {
        let flights = self.lines.iter().filter_map(|l| serde_json::from_str::<Flight>(l).ok());
        let carriers: std::collections::BTreeSet<String> = flights.map(|f| f.carrier).collect();
        carriers.into_iter().collect()
    }
}

/// What is in a file that may be gzipped, in any number of parts.
fn text(bytes: Vec<u8>) -> std::io::Result<String> {
    if bytes.starts_with(&GZIP) {
        let mut text = String::new();
        MultiGzDecoder::new(&bytes[..]).read_to_string(&mut text)?;
        return Ok(text);
    }
    String::from_utf8(bytes).map_err(|_| std::io::Error::other("it is neither UTF-8 nor gzipped"))
}

/// How many flights of each carrier left late.
///
/// # Errors
/// When a line is no flight.
pub fn delays<'a>(
    flights: impl Iterator<Item = &'a str>,
) -> Result<BTreeMap<String, u64>, serde_json::Error> {
    let mut late = BTreeMap::new();
    for text in flights {
        let flight: Flight = serde_json::from_str(text)?;
        if flight.dep_delay.is_some_and(|minutes| minutes >= LATE_MINUTES) {
            *late.entry(flight.carrier).or_default() += 1;
        }
    }
    Ok(late)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const FLIGHT: &str = r#"{"carrier":"UA","origin":"EWR","tail":"N1","dep_delay":20}"#;

    fn read(bytes: &[u8]) -> Result<Flights, Failure> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        Flights::read(Some(file.path()))
    }

    fn gzipped(text: &str) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(text.as_bytes()).unwrap();
        out.finish().unwrap()
    }

    #[test]
    fn a_file_may_be_plain_or_gzipped_in_several_parts() {
        let line = format!("{FLIGHT}\n");
        assert_eq!(read(line.as_bytes()).unwrap().lines(), [FLIGHT]);
        let parts = [gzipped(&line), gzipped(&line)].concat();
        assert_eq!(read(&parts).unwrap().lines(), [FLIGHT, FLIGHT]);
    }

    #[test]
    fn what_is_no_flight_is_named_before_anything_starts() {
        let bad = read(format!("{FLIGHT}\n{{\"carrier\":7}}\n").as_bytes()).unwrap_err();
        assert!(bad.text.starts_with("line 2 of "), "{}", bad.text);
        for (bytes, code) in [(&b""[..], "invalid-line"), (b"\xff\xff", "io"), (b"\x1f\x8b!", "io")]
        {
            assert_eq!(read(bytes).unwrap_err().code, code, "{bytes:?}");
        }
        assert_eq!(Flights::read(Some(Path::new("/nowhere/f"))).unwrap_err().code, "io");
    }
}
