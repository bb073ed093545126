//! A scenario as `beacon simulate` plays it: read from a file, scaled, and with its arrivals.

use std::path::{Path, PathBuf};

use routing_lab::{Arrivals, Scenario, Trace};

use crate::{args::Simulate, exit::Usage};

/// A scenario and its arrivals.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) scenario: Scenario,
    /// The content of its file of arrivals, or a stand-in for that file.
    pub(super) trace: Option<Trace>,
}

impl Case {
    /// Reads a scenario, and the arrivals that it names.
    pub(super) fn read(path: &Path, args: &Simulate) -> Result<Self, Usage> {
        let refuse = |what: String| Usage(format!("{}: {what}", path.display()));
        let text =
            std::fs::read_to_string(path).map_err(|error| refuse(format!("cannot be read: {error}")))?;
        let scenario = Scenario::parse(&text).map_err(|error| refuse(error.to_string()))?;
        let trace = match &scenario.arrivals {
            Arrivals::Drawn { .. } => None,
            Arrivals::Trace { file, .. } => Some(trace(file, args, path)?),
        };
        Ok(Self { scenario: scenario.scaled(args.scale), trace })
    }
}

/// The named file, or arrivals like it where no folder of traces is given.
fn trace(file: &str, args: &Simulate, scenario: &Path) -> Result<Trace, Usage> {
    let Some(folder) = &args.traces else {
        let refuse = |error| Usage(format!("{}: arrivals.trace: {error}", scenario.display()));
        return Trace::stand_in(file, args.seed).map_err(refuse);
    };
    let path: PathBuf = folder.join(file);
    let refuse = |what: String| Usage(format!("{}: {what}", path.display()));
    let text = std::fs::read_to_string(&path).map_err(|error| refuse(format!("cannot be read: {error}")))?;
    Trace::read(&text).map_err(|error| refuse(error.to_string()))
}
