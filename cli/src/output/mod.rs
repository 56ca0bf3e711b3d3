//! How things look on standard output: tables for people, JSON and YAML for programs.
//!
//! Decides: layout, colours and what happens to control characters. Deliberately does not: know what is shown.

mod age;
pub(crate) mod pipeline;
mod style;
mod table;
mod yaml;

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::manifest::from_json;

pub(crate) use age::{age, clock};
pub(crate) use style::{Tone, clean, paint, paint_error};
pub(crate) use table::Table;
use yaml::to_yaml;

/// How to show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For people with wide windows.
    Wide,
    /// For programs.
    Json,
    /// For both.
    Yaml,
}

/// How a value is shown to programs; people get a table instead.
impl Format {
    /// Prints the value if this format is one for programs; says whether it did.
    pub(crate) fn print<T: Serialize>(self, value: &T) -> io::Result<Printed> {
        let mut out = io::stdout().lock();
        match self {
            Self::Json => {
                serde_json::to_writer_pretty(&mut out, value)?;
                writeln!(out)?;
            }
            Self::Yaml => out.write_all(yaml(value)?.as_bytes())?,
            Self::Table | Self::Wide => return Ok(Printed::No),
        }
        out.flush()?;
        Ok(Printed::Yes)
    }

    /// Prints one value of a series: a line of JSON, or a YAML document.
    pub(crate) fn print_next<T: Serialize>(self, value: &T) -> io::Result<Printed> {
        let mut out = io::stdout().lock();
        match self {
            Self::Json => {
                serde_json::to_writer(&mut out, value)?;
                writeln!(out)?;
            }
            Self::Yaml => {
                out.write_all(b"---\n")?;
                out.write_all(yaml(value)?.as_bytes())?;
            }
            Self::Table | Self::Wide => return Ok(Printed::No),
        }
        out.flush()?;
        Ok(Printed::Yes)
    }
}

/// A value as YAML.
pub(crate) fn yaml<T: Serialize>(value: &T) -> io::Result<String> {
    let text = serde_json::to_string(value)?;
    let node =
        from_json(&text).ok_or_else(|| io::Error::other("the answer is nested too deeply to be shown as YAML"))?;
    Ok(to_yaml(&node))
}

/// Was it printed already?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Printed {
    /// Yes.
    Yes,
    /// No: it is for people, show a table.
    No,
}

/// Everything that a list holds, as programs get it.
#[derive(Serialize)]
pub(crate) struct Items<'a, T> {
    /// In the order of the coordinator.
    pub items: &'a [T],
}

/// Writes a text to standard output.
pub(crate) fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes a line to standard error: what is not data. A closed standard error is not an error.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes a text to standard error as it is.
pub(crate) fn say_aside(text: &str) {
    let mut err = io::stderr().lock();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

/// Is a person there to be asked?
pub(crate) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}
