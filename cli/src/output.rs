//! What commands print on stdout: tables for people, one tab-separated line per item when it goes
//! into a pipe, one JSON object per line with `--json`. It promises that nothing is cut and that a
//! closed pipe is no error. It does not know what it prints.

use std::io::{self, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

pub use ringway_proto::refusal::{counted, grouped};

use crate::exit::{Failure, escape};

/// Where results go, and in which shape.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
    terminal: bool,
}

/// One column: its title, and how an item fills it.
pub type Column<'a, T> = (&'a str, &'a dyn Fn(&T) -> String);

impl Output {
    /// Output to this process's stdout.
    #[must_use]
    pub fn new(json: bool) -> Self {
        Self { json, terminal: io::stdout().is_terminal() }
    }

    /// Whether programs read it.
    #[must_use]
    pub fn is_json(self) -> bool {
        self.json
    }

    /// Whether a person reads it as it comes.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        self.terminal && !self.json
    }

    /// A list: a table, lines or objects. `none` is what people are told when it is empty.
    ///
    /// # Errors
    /// When stdout cannot be written; a closed pipe is none.
    pub fn list<T: Serialize>(
        self,
        items: &[T],
        columns: &[Column<'_, T>],
        none: &str,
    ) -> Result<(), Failure> {
        let text = if self.json { objects(items)? } else { self.table(items, columns, none) };
        print(&text)
    }

    /// One thing in detail: `value` as an object, or its fields and then what `rest` adds.
    ///
    /// # Errors
    /// When stdout cannot be written; a closed pipe is none.
    pub fn one<T: Serialize>(
        self,
        value: &T,
        fields: &[(&str, String)],
        rest: &str,
    ) -> Result<(), Failure> {
        if self.json {
            return print(&objects(std::slice::from_ref(value))?);
        }
        let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for (name, value) in fields {
            let value = escape(value);
            match self.terminal {
                true => text.push_str(&format!("{name:width$}  {value}\n")),
                false => text.push_str(&format!("{name}\t{value}\n")),
            }
        }
        if self.terminal && !rest.is_empty() {
            text.push('\n');
        }
        print(&(text + rest))
    }

    /// What a change did: `value` as an object, or a sentence.
    ///
    /// # Errors
    /// When stdout cannot be written; a closed pipe is none.
    pub fn said(self, value: &impl Serialize, sentence: &str) -> Result<(), Failure> {
        if self.json {
            return print(&objects(std::slice::from_ref(value))?);
        }
        print(&format!("{}\n", escape(sentence)))
    }

    /// One line of text.
    ///
    /// # Errors
    /// When stdout cannot be written; a closed pipe is none.
    pub fn line(self, text: &str) -> Result<(), Failure> {
        print(&format!("{}\n", escape(text)))
    }

    /// A list as people or pipes read it, for what follows the fields of [`Output::one`].
    #[must_use]
    pub fn table<T>(self, items: &[T], columns: &[Column<'_, T>], none: &str) -> String {
        let cells =
            |item: &T| columns.iter().map(|(_, cell)| escape(&cell(item))).collect::<Vec<_>>();
        if !self.terminal {
            return items.iter().map(|item| cells(item).join("\t") + "\n").collect();
        }
        if items.is_empty() {
            return if none.is_empty() { String::new() } else { format!("{none}\n") };
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(columns.iter().map(|(title, _)| *title));
        for item in items {
            table.add_row(cells(item));
        }
        table.trim_fmt() + "\n"
    }
}

/// One object per line.
fn objects<T: Serialize>(items: &[T]) -> Result<String, Failure> {
    let mut text = String::new();
    for item in items {
        let line = serde_json::to_string(item)
            .map_err(|e| Failure::new("internal", format!("a result is no JSON: {e}")))?;
        text.push_str(&line);
        text.push('\n');
    }
    Ok(text)
}

/// Writes `text` to stdout in one go. Whoever closed the pipe has read enough.
///
/// # Errors
/// When stdout cannot be written for another reason than a closed pipe.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(stdout_failed(&e)),
        _ => Ok(()),
    }
}

/// The failure of a write to stdout.
#[must_use]
pub fn stdout_failed(e: &io::Error) -> Failure {
    Failure::new("io", format!("cannot write to stdout: {}", cause(e)))
}

/// An error of the operating system in its words, without the number and a capital letter.
#[must_use]
pub fn cause(e: &io::Error) -> String {
    let text = e.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => "unknown error".to_owned(),
    }
}

/// A value that may be absent.
#[must_use]
pub fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column<'_, (u32, String)>] =
        &[("id", &|item| item.0.to_string()), ("name", &|item| item.1.clone())];

    #[test]
    fn a_pipe_gets_one_uncut_line_per_item_and_no_title() {
        let piped = Output { json: false, terminal: false };
        let items = [(1, "n".repeat(200)), (2, "a\tb".to_owned())];
        let text = piped.table(&items, COLUMNS, "nothing here");
        assert_eq!(text, format!("1\t{}\n2\ta\\tb\n", "n".repeat(200)));
        assert_eq!(piped.table::<(u32, String)>(&[], COLUMNS, "nothing here"), "");
    }

    #[test]
    fn a_terminal_gets_titles_or_a_word_about_nothing() {
        let terminal = Output { json: false, terminal: true };
        let text = terminal.table(&[(1, "orders".to_owned())], COLUMNS, "");
        assert!(text.contains("id") && text.contains("name") && text.contains("orders"), "{text}");
        assert_eq!(terminal.table::<(u32, String)>(&[], COLUMNS, "nothing here"), "nothing here\n");
    }
}
