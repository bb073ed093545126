//! `beacon bench` and `beacon simulate`.

use std::path::PathBuf;

use clap::Args as ClapArgs;

/// `beacon bench`
#[derive(Debug, ClapArgs)]
pub(crate) struct Bench {
    /// Jobs to run through the pipeline
    #[arg(long, default_value_t = 50_000)]
    pub(crate) jobs: u64,
    /// Jobs that wait in the stream while the dispatcher's memory is measured; 0 leaves it out
    #[arg(long, default_value_t = 0)]
    pub(crate) backlog: u64,
    /// Lines of a backfill that is run after the pipeline's own measurement, and of the log that jobs are then chosen from; 0
    /// leaves it out
    #[arg(long, default_value_t = 0)]
    pub(crate) lines: u64,
    /// Runs that one worker process holds at a simulated provider while it is measured, and nothing else; 0 leaves it out
    #[arg(long, default_value_t = 0)]
    pub(crate) runs: u64,
    /// Machines at a simulated Lambda that one keeper process keeps while it is measured, and nothing else; 0 leaves it out
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=10_000))]
    pub(crate) machines: u32,
    /// Machines over which jobs with common beginnings are spread, with and without affinity, and nothing else: llama.cpp's servers
    /// where `make setup` installed them; 0 leaves it out
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=32))]
    pub(crate) affinity: u32,
    /// With --affinity: simulated servers in any case
    #[arg(long, requires = "affinity")]
    pub(crate) simulated: bool,
}

/// `beacon simulate`
#[derive(Debug, ClapArgs)]
pub(crate) struct Simulate {
    /// Scenarios, for instance those of examples/scenarios; what one leaves out is assumed
    #[arg(required = true, value_name = "SCENARIO.toml")]
    pub(crate) scenarios: Vec<PathBuf>,
    /// Only this policy; may be repeated [default: all]
    #[arg(long = "policy", value_name = "NAME")]
    pub(crate) policies: Vec<String>,
    /// Another seed is another day: other arrivals, other luck
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// So many times as long; faults and bursts shrink with it
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR", value_parser = scale)]
    pub(crate) scale: f64,
    /// Folder for a plot of each scenario, as SVG
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Folder with the Azure traces of 2023; without it, arrivals like theirs are drawn
    #[arg(long, env = "BEACON_TRACES", value_name = "DIR")]
    pub(crate) traces: Option<PathBuf>,
    /// Runs at a time [default: one for each core]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: Option<u16>,
}

fn scale(text: &str) -> Result<f64, String> {
    let factor = text.parse::<f64>().ok().filter(|factor| (0.001..=1_000.0).contains(factor));
    factor.ok_or_else(|| "must be a number from 0.001 to 1000".into())
}
