//! The flights that the heavy tests replay: the excerpt that is kept with the `ringway` command,
//! or the file that `RINGWAY_FLIGHTS` names, gzipped or not. It knows the file and how its lines
//! are published, nothing of what becomes of them.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde::Deserialize;

use crate::harness::Scratch;

#[derive(Deserialize)]
struct Flight {
    tail: String,
    origin: String,
    carrier: String,
}

/// The class and the key that [`crate::harness::Caller::flights`] publishes a line with.
pub fn described(line: &str) -> (String, Option<String>) {
    let flight: Flight = serde_json::from_str(line).expect("a flight");
    (format!("flights.{}.{}", flight.origin, flight.carrier), Some(flight.tail))
}

/// The lines, and a file that holds them as they are.
pub struct Flights {
    /// Without their newlines.
    pub lines: Vec<String>,
    /// All of them, not compressed.
    pub file: PathBuf,
}

impl Flights {
    /// All lines.
    pub fn all(scratch: &Scratch) -> Self {
        Self::first(scratch, usize::MAX)
    }

    /// At most the first `n` lines.
    pub fn first(scratch: &Scratch, n: usize) -> Self {
        let text = match std::env::var_os("RINGWAY_FLIGHTS") {
            Some(path) => text_of(Path::new(&path)),
            None => text_of(
                &Path::new(env!("CARGO_MANIFEST_DIR")).join("../cli/data/flights.ndjson.gz"),
            ),
        };
        let lines: Vec<String> = text.lines().take(n).map(str::to_owned).collect();
        assert!(!lines.is_empty(), "a file of flights has lines");
        let file = scratch.file("flights.ndjson", lines.join("\n") + "\n");
        Self { lines, file }
    }

    /// How many lines there are.
    pub fn len(&self) -> usize {
        self.lines.len()
    }
}

fn text_of(path: &Path) -> String {
    let open = || File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    if path.extension().is_some_and(|e| e == "gz") {
        let mut text = String::new();
        MultiGzDecoder::new(open()).read_to_string(&mut text).expect("a gzipped file of text");
        return text;
    }
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn the_excerpt_is_what_the_documentation_says() {
    if std::env::var_os("RINGWAY_FLIGHTS").is_some() {
        return;
    }
    let scratch = Scratch::new(crate::harness::STEP);
    let flights = Flights::all(&scratch);
    assert_eq!(flights.len(), 33_677);
    let hot = flights.lines.iter().filter(|line| described(line).1.as_deref() == Some("NA"));
    assert!(hot.count() > 1, "a key that is no tail number");
}
