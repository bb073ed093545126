//! What a person may type.

mod measuring;
mod pools;
mod provider;

use std::{ffi::OsString, path::PathBuf};

use chrono::{DateTime, FixedOffset};
use clap::{Args as ClapArgs, Parser, Subcommand};
use producer::replay::Source;
use schemas::{
    JobId, Lane, Mailbox, PoolId, ProviderId, Region, Tenant, UsdNanos, WorkerId, recurring::Missed,
};

pub(crate) use self::measuring::{Bench, Simulate};
pub(crate) use self::pools::{Keeper, Pools, PoolsAsk, PoolsDrain, PoolsForget, PoolsScale, PoolsStatus};
pub(crate) use self::provider::{Prices, PricesCheck, Provider, ProviderCheck};
use crate::{
    config::span::Span,
    selecting::{Selecting, Which},
};

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
    #[arg(long, global = true, env = "BEACON_NATS_URL", hide_env_values = true, value_name = "URL")]
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
    /// Run a keeper: it rents, watches and ends the machines of pools that rent
    Keeper(Keeper),
    /// Look at rented machines, and ask for more, fewer or none
    #[command(subcommand)]
    Pools(Pools),
    /// Look at the providers of the configuration
    #[command(subcommand)]
    Provider(Provider),
    /// Look at the price book
    #[command(subcommand)]
    Prices(Prices),
    /// Run the simulated providers of the configuration
    Simulators,
    /// Submit a job, or a file of jobs
    Submit(Submit),
    /// Read the results of a mailbox
    Results(Results),
    /// Run a file of jobs to its end, whatever happens in between
    #[command(subcommand)]
    Backfill(Backfill),
    /// Run jobs of the past again, from the dead letters or from the log
    Replay(Box<ReplayArgs>),
    /// Look at the jobs that will not be tried again
    #[command(subcommand)]
    Dead(Dead),
    /// Jobs that come again and again, and all that waits for its time
    #[command(subcommand)]
    Schedule(Schedule),
    /// Take jobs back, by id or by what they have in common
    Cancel(Cancel),
    /// Say where a job is, and which gate keeps it from each pool
    Why(Why),
    /// Measure the pipeline against raw JetStream, in one run against one server
    Bench(Bench),
    /// Play scenarios in virtual time: our routing against what others do, on the same jobs and the same faults
    Simulate(Simulate),
    /// Print a completion script for a shell
    Completions(Completions),
    /// Write the manual pages
    Man(Man),
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

/// Where a job goes and whose it is.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Place {
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
    /// Where results go
    #[arg(long, default_value_t = Mailbox::default())]
    pub(crate) mailbox: Mailbox,
}

/// `beacon submit`
#[derive(Debug, ClapArgs)]
pub(crate) struct Submit {
    #[command(flatten)]
    pub(crate) place: Place,
    /// Run it after this span, for instance 90m; it waits in the server
    #[arg(long, value_name = "SPAN", conflicts_with = "at")]
    pub(crate) delay: Option<Span>,
    /// Run it at this time, RFC 3339, for instance 2026-12-24T18:00:00+01:00
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<DateTime<FixedOffset>>,
    /// Submit nothing if a job with this key was submitted within --unique-for; its id is printed instead
    #[arg(long, value_name = "KEY", requires = "prompt", conflicts_with = "wait")]
    pub(crate) unique_key: Option<String>,
    /// How long a key stands for its job
    #[arg(long, default_value_t = Span::secs(86_400), value_name = "SPAN")]
    pub(crate) unique_for: Span,
    /// Must have started by then, or it ends `expired`; a span from now or from --at
    #[arg(long, value_name = "SPAN")]
    pub(crate) deadline: Option<Span>,
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

/// `beacon backfill`
#[derive(Debug, Subcommand)]
pub(crate) enum Backfill {
    /// Run a file, or go on with it; Ctrl-C stops it, and running it again repeats nothing
    Run(Box<BackfillRun>),
    /// Submit no more for now; what is out ends
    Pause(BackfillOf),
    /// Go on after a pause
    Resume(BackfillOf),
    /// Submit no more, and take back what is out
    Cancel(BackfillOf),
    /// Show how far it is
    Status(BackfillOf),
}

/// `beacon backfill run`
#[derive(Debug, ClapArgs)]
pub(crate) struct BackfillRun {
    /// One job per line: an OpenAI batch request, or {"prompt": …} with custom_id, model, region, lane and parameters
    pub(crate) file: PathBuf,
    /// Folder for its state, results.jsonl and errors.jsonl [default: FILE.beacon]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Its name, which makes the ids of its jobs: another name runs the same lines again [default: the file's name]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Region of lines that name none [default: the first of the configuration]
    #[arg(long)]
    pub(crate) region: Option<Region>,
    /// Model of lines that name none, by name or token
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// Lane of lines that name none
    #[arg(long, default_value_t = Lane::Low)]
    pub(crate) lane: Lane,
    /// Who pays
    #[arg(long, default_value_t = Tenant::default())]
    pub(crate) tenant: Tenant,
    /// Jobs that are out at a time
    #[arg(long, default_value_t = 1_000, value_name = "JOBS", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) outstanding: u32,
    /// Submit no job that could take it past so many dollars
    #[arg(long, value_name = "USD")]
    pub(crate) max_cost: Option<UsdNanos>,
    /// Only say what it would be: jobs, dollars, hours
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// A backfill that was begun.
#[derive(Debug, ClapArgs)]
pub(crate) struct BackfillOf {
    /// Its file, or its folder
    #[arg(value_name = "FILE")]
    pub(crate) path: PathBuf,
}

/// `beacon replay`
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own on the command line")]
#[derive(Debug, ClapArgs)]
pub(crate) struct ReplayArgs {
    /// Only these jobs
    #[arg(value_name = "JOB")]
    pub(crate) jobs: Vec<JobId>,
    /// From the dead letters, or from the log of all jobs. Class and provider of the log's jobs come from their results,
    /// which are kept for three days
    #[arg(long, default_value = "dead", value_parser = source, value_name = "dead|jobs")]
    pub(crate) from: Source,
    #[command(flatten)]
    pub(crate) selecting: Selecting,
    /// Everything the log holds
    #[arg(long)]
    pub(crate) all: bool,
    /// Jobs of the log that have not ended, too
    #[arg(long)]
    pub(crate) unfinished: bool,
    /// Only at this provider
    #[arg(long, value_name = "PROVIDER")]
    pub(crate) to_provider: Option<ProviderId>,
    /// Published to this region
    #[arg(long, value_name = "REGION")]
    pub(crate) to_region: Option<Region>,
    /// For this model
    #[arg(long, value_name = "MODEL")]
    pub(crate) to_model: Option<String>,
    /// Replies go to this mailbox of each job's tenant [default: where they went]
    #[arg(long)]
    pub(crate) mailbox: Option<Mailbox>,
    /// Jobs a second
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rate: u32,
    /// The very same replay once more has another number; without one, what was replayed is not replayed again
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    pub(crate) again: u32,
    /// Only count and price
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// Wait for the new results and show how they differ from the old
    #[arg(long)]
    pub(crate) diff: bool,
    /// How long --diff waits for all results
    #[arg(long, default_value_t = Span::secs(600), value_name = "SPAN")]
    pub(crate) timeout: Span,
    /// Folder that keeps how far it is [default: .beacon/replays]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
}

fn source(text: &str) -> Result<Source, String> {
    match text {
        "dead" => Ok(Source::Dead),
        "jobs" => Ok(Source::Jobs),
        _ => Err("must be dead or jobs".into()),
    }
}

/// `beacon dead`
#[derive(Debug, Subcommand)]
pub(crate) enum Dead {
    /// Show dead letters, grouped by what went wrong
    List(DeadList),
    /// Show letters in full, attempt by attempt
    Show(DeadShow),
    /// Delete letters for good
    Purge(DeadPurge),
}

/// `beacon dead list`
#[derive(Debug, ClapArgs)]
pub(crate) struct DeadList {
    #[command(flatten)]
    pub(crate) selecting: Selecting,
    /// Each letter on a line of its own
    #[arg(long)]
    pub(crate) each: bool,
}

/// `beacon dead show`
#[derive(Debug, ClapArgs)]
pub(crate) struct DeadShow {
    /// A job, or a group as `beacon dead list` shows it
    #[arg(value_name = "JOB|GROUP")]
    pub(crate) what: String,
    /// The job's body, too: it may hold what a person wrote
    #[arg(long)]
    pub(crate) body: bool,
    /// So many letters of a group, the newest
    #[arg(long, default_value_t = 10)]
    pub(crate) most: u32,
}

/// `beacon dead purge`
#[derive(Debug, ClapArgs)]
pub(crate) struct DeadPurge {
    /// Only letters of these jobs
    #[arg(value_name = "JOB")]
    pub(crate) jobs: Vec<JobId>,
    #[command(flatten)]
    pub(crate) selecting: Selecting,
    /// All of them
    #[arg(long)]
    pub(crate) all: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

/// `beacon schedule`
#[derive(Debug, Subcommand)]
pub(crate) enum Schedule {
    /// Let a job come again and again
    Add(Box<ScheduleAdd>),
    /// Show recurring jobs with their next runs, and jobs that wait for their time
    List(ScheduleList),
    /// End a recurring job
    Remove(ScheduleRemove),
}

/// `beacon schedule add`
#[derive(Debug, ClapArgs)]
pub(crate) struct ScheduleAdd {
    /// Its name, unique in its tenant
    pub(crate) name: Mailbox,
    /// When, as cron writes it: minute, hour, day, month, weekday; or six fields with seconds in front
    #[arg(long, value_name = "EXPRESSION")]
    pub(crate) cron: String,
    /// The IANA time zone that is meant
    #[arg(long, default_value = "UTC", value_name = "ZONE")]
    pub(crate) zone: String,
    /// What becomes of runs whose time passed while no dispatcher ran: skip, last (only the newest) or all (up to 100)
    #[arg(long, default_value_t = Missed::Last)]
    pub(crate) missed: Missed,
    /// A run that has not started within this span ends `expired`
    #[arg(long, value_name = "SPAN")]
    pub(crate) start_within: Option<Span>,
    /// In place of one of the same name
    #[arg(long)]
    pub(crate) replace: bool,
    #[command(flatten)]
    pub(crate) place: Place,
    /// What the model reads each time
    pub(crate) prompt: String,
}

/// `beacon schedule list`
#[derive(Debug, ClapArgs)]
pub(crate) struct ScheduleList {
    /// Whose
    #[arg(long, default_value_t = Tenant::default())]
    pub(crate) tenant: Tenant,
    /// Only jobs that wait in this region
    #[arg(long)]
    pub(crate) region: Option<Region>,
}

/// `beacon schedule remove`
#[derive(Debug, ClapArgs)]
pub(crate) struct ScheduleRemove {
    /// Which
    pub(crate) name: Mailbox,
    /// Whose
    #[arg(long, default_value_t = Tenant::default())]
    pub(crate) tenant: Tenant,
}

/// `beacon cancel`
#[derive(Debug, ClapArgs)]
pub(crate) struct Cancel {
    /// Ids of jobs; without any, what the filters below have in common
    #[arg(value_name = "JOB")]
    pub(crate) jobs: Vec<JobId>,
    /// Whose [default: with ids, whoever has a job of that id; else the tenant `default`]
    #[arg(long)]
    pub(crate) tenant: Option<Tenant>,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Only jobs whose replies go here; also where --wait looks for results [default: default]
    #[arg(long)]
    pub(crate) mailbox: Option<Mailbox>,
    /// Every job of the tenant
    #[arg(long, conflicts_with_all = ["jobs", "region", "model", "lane", "labels"])]
    pub(crate) all: bool,
    /// Why; it stands in the results
    #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    pub(crate) reason: String,
    /// Wait until the named jobs have ended, and print how
    #[arg(long, requires = "jobs")]
    pub(crate) wait: bool,
    /// How long to wait for each
    #[arg(long, default_value_t = Span::secs(60), value_name = "SPAN")]
    pub(crate) timeout: Span,
}

/// `beacon why`
#[derive(Debug, ClapArgs)]
pub(crate) struct Why {
    /// Its id
    #[arg(value_name = "JOB")]
    pub(crate) job: JobId,
    /// Whose job it is; without it, whoever's it is, and an id that several tenants use is refused
    #[arg(long)]
    pub(crate) tenant: Option<Tenant>,
}

/// `beacon completions`
#[derive(Debug, ClapArgs)]
pub(crate) struct Completions {
    /// For instance: beacon completions bash > /etc/bash_completion.d/beacon
    pub(crate) shell: clap_complete::Shell,
}

/// `beacon man`
#[derive(Debug, ClapArgs)]
pub(crate) struct Man {
    /// Folder to write them to: beacon.1, beacon-submit.1 and so on
    pub(crate) folder: PathBuf,
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
