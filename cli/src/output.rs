//! Standard output: only the output that was asked for. When its reader goes away, the process ends quietly.

use std::io::{self, Write};

use serde::Serialize;

use crate::exit::Interrupted;

/// Prints a line.
pub(crate) fn line(text: impl AsRef<str>) -> anyhow::Result<()> {
    tolerate(writeln!(io::stdout().lock(), "{}", text.as_ref()))
}

/// Prints a value as one line of JSON.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string(value)?)
}

fn tolerate(written: io::Result<()>) -> anyhow::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Interrupted::Pipe.into()),
        other => Ok(other?),
    }
}
