//! The options of a bench: numbers with defaults, `--json`, and the directory to work in. An option
//! that the bench does not have is refused, with those that it has.

use std::path::PathBuf;

use crate::Outcome;

/// What a bench was told.
pub struct Args {
    numbers: Vec<(&'static str, u64)>,
    /// Whether each figure is printed as a JSON object as well.
    pub json: bool,
    /// Where the cluster's directory is made: the disk that is measured. None means the system's
    /// directory for temporary files.
    pub dir: Option<PathBuf>,
}

impl Args {
    /// Reads the command line of a bench whose options are `numbers`, by name with their defaults.
    ///
    /// # Errors
    /// When an option is not among them, or its value is no number.
    pub fn read(numbers: &[(&'static str, u64)]) -> Outcome<Self> {
        let mut read = Self { numbers: numbers.to_vec(), json: false, dir: None };
        let mut given = std::env::args().skip(1);
        while let Some(option) = given.next() {
            if option == "--json" {
                read.json = true;
                continue;
            }
            let mut value = || given.next().ok_or(format!("{option} has no value"));
            if option == "--dir" {
                read.dir = Some(value()?.into());
                continue;
            }
            let known = read.numbers.iter_mut().find(|n| option == format!("--{}", n.0));
            let (_, number) =
                known.ok_or_else(|| format!("no option {option}; {}", usage(numbers)))?;
            *number = value()?.parse().map_err(|e| format!("{option}: {e}"))?;
        }
        Ok(read)
    }

    /// The value of an option of [`Args::read`]; 0 for one that was not named there.
    #[must_use]
    pub fn number(&self, name: &str) -> u64 {
        self.numbers.iter().find(|n| n.0 == name).map_or(0, |n| n.1)
    }
}

fn usage(numbers: &[(&'static str, u64)]) -> String {
    let numbers = numbers.iter().map(|(name, default)| format!("[--{name} N={default}]"));
    numbers.chain(["[--dir DIR] [--json]".into()]).collect::<Vec<_>>().join(" ")
}
