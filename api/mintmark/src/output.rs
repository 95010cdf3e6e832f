//! Results on standard output: a table for people, JSON for programs.

use std::io::{self, Write};
use std::ops::ControlFlow;

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::cli::Output;
use crate::exit::Failure;

/// Where results go, and in which form.
pub struct Screen<'a> {
    out: &'a mut dyn Write,
    form: Output,
}

/// The lines of a table of two columns: what, and its value. A value of several lines keeps them.
pub type Rows = Vec<(&'static str, String)>;

impl<'a> Screen<'a> {
    /// Shows results on `out`.
    pub fn new(out: &'a mut dyn Write, form: Output) -> Self {
        Self { out, form }
    }

    /// Shows one result: the rows to people, the value to programs.
    pub fn show(&mut self, value: &impl Serialize, rows: Rows) -> Result<(), Failure> {
        match self.form {
            Output::Table => self.text(&format!("{}\n", two_columns(rows))),
            Output::Json => self.json(value),
        }
    }

    /// The form that was asked for.
    #[must_use]
    pub fn form(&self) -> Output {
        self.form
    }

    /// Prints a JSON value and ends the line.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        // It may hold a key or a token that was asked for.
        let mut text =
            Zeroizing::new(serde_json::to_string_pretty(value).map_err(Failure::failed)?);
        text.push('\n');
        self.text(&text)
    }

    /// Prints a part of a long result; breaks when the reader has seen enough.
    pub fn part(&mut self, text: &str) -> Result<ControlFlow<()>, Failure> {
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
            Err(error) => Err(Failure::failed(error)),
            Ok(()) => Ok(ControlFlow::Continue(())),
        }
    }

    /// Prints a text as it is. A reader that has seen enough (`| head`) is no failure.
    pub fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.part(text).map(|_| ())
    }
}

/// A table without lines.
fn two_columns(rows: Rows) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    for (name, value) in rows {
        table.add_row([name.to_owned(), value]);
    }
    if let Some(column) = table.column_mut(0) {
        column.set_padding((0, 2));
    }
    trimmed(&table)
}

/// A table with headings.
#[must_use]
pub fn columns<const N: usize>(headings: [&str; N], rows: Vec<[String; N]>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    trimmed(&table)
}

/// The table's lines without the blanks that fill the last column.
fn trimmed(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}
