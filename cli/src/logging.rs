//! Log lines on standard error, and progress bars that they do not tear apart.

use std::io::{self, Write};

use indicatif::MultiProgress;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::exit::Usage;

/// Standard error, shared by progress bars and log lines: the lines are written above the bars.
#[derive(Clone, Debug, Default)]
pub(crate) struct Screen {
    pub(crate) bars: MultiProgress,
}

/// One log line on its way.
#[derive(Debug)]
pub(crate) struct Line(Screen);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.bars.suspend(|| io::stderr().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for Screen {
    type Writer = Line;
    fn make_writer(&'a self) -> Line {
        Line(self.clone())
    }
}

/// Begins to log what `filter` lets through.
pub(crate) fn start(filter: &str, json: bool, screen: &Screen) -> Result<(), Usage> {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        Usage(format!("log filter `{filter}`: {error}; write for instance info,dispatcher=debug"))
    })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(screen.clone());
    let started = if json {
        tracing::subscriber::set_global_default(lines.json().finish())
    } else {
        let colours = io::IsTerminal::is_terminal(&io::stderr());
        tracing::subscriber::set_global_default(lines.with_ansi(colours).finish())
    };
    started.map_err(|error| Usage(error.to_string()))
}
