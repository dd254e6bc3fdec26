//! Names that someone may have meant. A refusal of an unknown name lists them.

/// `what` and the names that are alike, as the end of a sentence; nothing if there are none.
#[must_use]
pub fn note(what: &str, similar: &[&str]) -> String {
    match similar {
        [] => String::new(),
        names => format!(";{what} with similar names: {}", names.join(", ")),
    }
}

/// The names that are at most two edits away from `name` or begin alike, nearest first.
#[must_use]
pub fn similar<'a>(name: &str, all: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut near: Vec<(usize, &str)> = all
        .map(|other| (edits(name, other), other))
        .filter(|(edits, other)| *edits <= 2 || other.starts_with(name) || name.starts_with(other))
        .collect();
    near.sort();
    near.into_iter().take(3).map(|(_, name)| name).collect()
}

/// How many characters have to be put in, taken out or replaced (V. Levenshtein's distance, by
/// the two-row method of R. Wagner and M. Fischer, 1974).
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.bytes().enumerate() {
            let least = (row[j] + 1).min(row[j + 1] + 1).min(diagonal + usize::from(from != to));
            diagonal = std::mem::replace(&mut row[j + 1], least);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_count_characters() {
        let cases = [("", "", 0), ("order", "orders", 1), ("kitten", "sitting", 3), ("a", "", 1)];
        for (a, b, want) in cases {
            assert_eq!(edits(a, b), want, "{a} {b}");
        }
    }
}
