//! What a person may type.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args as ClapArgs, Parser, Subcommand};
use schemas::{Lane, Mailbox, PoolId, Region, Tenant, WorkerId};

use crate::config::span::Span;

/// A GPU inference job pipeline on NATS JetStream.
///
/// Exit codes: 0 all went well, 1 something failed, 2 wrong arguments or configuration, 130 Ctrl-C.
#[derive(Debug, Parser)]
#[command(name = "beacon", version, max_term_width = 110)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Common {
    /// Configuration file [default: ./beacon.toml if there is one, else what is built in]
    #[arg(long, global = true, env = "BEACON_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// NATS server to use, instead of the configuration's
    #[arg(long, global = true, env = "BEACON_NATS_URL", value_name = "URL")]
    pub(crate) nats_url: Option<String>,
    /// Data folder of the embedded NATS server [default: .beacon/data]
    #[arg(long, global = true, env = "BEACON_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Write JSON to standard output, for machines
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Log filter, for instance `debug` or `info,dispatcher=debug`; logs go to standard error
    #[arg(long, global = true, env = "BEACON_LOG", value_name = "FILTER")]
    pub(crate) log: Option<String>,
    /// Write log lines as JSON
    #[arg(long, global = true)]
    pub(crate) log_json: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the whole pipeline here: prompts through three regions, with faults, and a report at the end
    Demo(Demo),
    /// Run all roles of the configuration in this process, with an embedded NATS server if none is configured
    Up,
    /// Run a dispatcher
    Dispatcher(Dispatcher),
    /// Run the workers of one or more pools
    Worker(Worker),
    /// Run the simulated providers of the configuration
    Simulators,
    /// Submit a job, or a file of jobs
    Submit(Submit),
    /// Read the results of a mailbox
    Results(Results),
    /// Measure the pipeline against raw JetStream, in one run against one server
    Bench(Bench),
    /// Become a program that ends when its parent does.
    #[command(hide = true)]
    Guard(Guard),
}

/// `beacon demo`
#[derive(Debug, ClapArgs)]
pub(crate) struct Demo {
    /// Jobs as OpenAI batch lines [default: the 240 prompts of examples/prompts.jsonl]
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: Option<PathBuf>,
    /// How many jobs; the prompts are repeated until there are so many
    #[arg(long, default_value_t = 2_400, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) jobs: u32,
    /// Jobs submitted per second
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rate: u32,
    /// Leave out the real model, even where it is installed
    #[arg(long)]
    pub(crate) no_local: bool,
}

/// `beacon dispatcher`
#[derive(Debug, ClapArgs)]
pub(crate) struct Dispatcher {
    /// A region to dispatch for; may be repeated [default: all of the configuration]
    #[arg(long = "region", value_name = "REGION")]
    pub(crate) regions: Vec<Region>,
    /// Name of this process among dispatchers [default: host and process id]
    #[arg(long, value_name = "NAME")]
    pub(crate) id: Option<WorkerId>,
}

/// `beacon worker`
#[derive(Debug, ClapArgs)]
pub(crate) struct Worker {
    /// A pool of the configuration, for instance golem@us-east; may be repeated [default: all]
    #[arg(long = "pool", value_name = "PROVIDER@REGION")]
    pub(crate) pools: Vec<PoolId>,
    /// Name of this process among the workers of a pool [default: host and process id]
    #[arg(long, value_name = "NAME")]
    pub(crate) id: Option<WorkerId>,
}

/// `beacon submit`
#[derive(Debug, ClapArgs)]
pub(crate) struct Submit {
    /// Region to publish to [default: the first of the configuration]
    #[arg(long)]
    pub(crate) region: Option<Region>,
    /// Model, by name or token [default: the first of the configuration]
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// How urgent: high, normal or low
    #[arg(long, default_value_t = Lane::Normal)]
    pub(crate) lane: Lane,
    /// Who pays
    #[arg(long, default_value_t = Tenant::default())]
    pub(crate) tenant: Tenant,
    /// Where the result goes
    #[arg(long, default_value_t = Mailbox::default())]
    pub(crate) mailbox: Mailbox,
    /// Wait for the result and print it
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait for each result
    #[arg(long, default_value_t = Span::secs(120), value_name = "SPAN")]
    pub(crate) timeout: Span,
    /// Jobs as OpenAI batch lines; `-` reads standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "model"])]
    pub(crate) file: Option<PathBuf>,
    /// What the model reads
    #[arg(required_unless_present = "file")]
    pub(crate) prompt: Option<String>,
}

/// `beacon results`
#[derive(Debug, ClapArgs)]
pub(crate) struct Results {
    /// Whose
    #[arg(long, default_value_t = Tenant::default())]
    pub(crate) tenant: Tenant,
    /// Which mailbox
    #[arg(long, default_value_t = Mailbox::default())]
    pub(crate) mailbox: Mailbox,
    /// Only what came within this span, for instance 1h [default: all that is stored]
    #[arg(long, value_name = "SPAN")]
    pub(crate) since: Option<Span>,
    /// Go on with results as they come, until Ctrl-C
    #[arg(long)]
    pub(crate) follow: bool,
}

/// `beacon bench`
#[derive(Debug, ClapArgs)]
pub(crate) struct Bench {
    /// Jobs to run through the pipeline
    #[arg(long, default_value_t = 50_000)]
    pub(crate) jobs: u64,
    /// Jobs that wait in the stream while the dispatcher's memory is measured; 0 leaves it out
    #[arg(long, default_value_t = 0)]
    pub(crate) backlog: u64,
    /// Runs that one worker process holds at a simulated provider while it is measured, and nothing else; 0 leaves it out
    #[arg(long, default_value_t = 0)]
    pub(crate) runs: u64,
}

/// `beacon guard`
#[derive(Debug, ClapArgs)]
pub(crate) struct Guard {
    /// Process id of who started us.
    #[arg(long)]
    pub(crate) parent: u32,
    /// The program and its arguments.
    #[arg(required = true, last = true)]
    pub(crate) command: Vec<OsString>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_pool_is_named_by_provider_and_region() {
        let args =
            Args::try_parse_from(["beacon", "worker", "--pool", "golem@us-east", "--pool", "modal@eu-west"]);
        let Ok(Args { command: Command::Worker(worker), .. }) = args else {
            panic!("not a worker: {args:?}");
        };
        assert_eq!(worker.pools.len(), 2);
        assert!(Args::try_parse_from(["beacon", "worker", "--pool", "golem"]).is_err());
    }

    #[test]
    fn submit_takes_a_prompt_or_a_file_but_not_both() {
        for (line, good) in [
            (vec!["beacon", "submit", "hello"], true),
            (vec!["beacon", "submit", "--file", "-"], true),
            (vec!["beacon", "submit"], false),
            (vec!["beacon", "submit", "--file", "x", "hello"], false),
            (vec!["beacon", "submit", "--lane", "urgent", "hello"], false),
            (vec!["beacon", "submit", "--timeout", "5", "hello"], false),
        ] {
            assert_eq!(Args::try_parse_from(&line).is_ok(), good, "{line:?}");
        }
    }
}
