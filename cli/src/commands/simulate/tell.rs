//! The outcomes, for people and for machines. Every figure is rounded in one way: the same seed gives the same bytes.

use routing_lab::{Against, Group, Outcome, Policy, Scenario, Spending, Standing, TargetsMet};
use schemas::UsdNanos;
use serde::Serialize;

use super::case::Case;
use crate::{args::Simulate, output, table::table};

/// A scenario under all policies.
#[derive(Debug, Serialize)]
pub(super) struct Told<'a> {
    scenario: &'a str,
    about: &'a str,
    /// The stand-in for a file of arrivals that was not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    stand_in: Option<&'a str>,
    outcomes: &'a [Outcome],
    /// Ours against the targets; missing when we did not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    targets: Option<TargetsMet>,
    /// Ours against each other.
    against: Vec<Against>,
    #[serde(skip)]
    spec: &'a Scenario,
}

impl<'a> Told<'a> {
    pub(super) fn new(case: &'a Case, outcomes: &'a [Outcome], args: &Simulate) -> Self {
        let ours = outcomes.iter().find(|outcome| outcome.policy == Policy::Beacon);
        let others = outcomes.iter().filter(|outcome| outcome.policy != Policy::Beacon);
        let file = match &case.scenario.arrivals {
            routing_lab::Arrivals::Trace { file, .. } => Some(file.as_str()),
            routing_lab::Arrivals::Drawn { .. } => None,
        };
        Self {
            scenario: &case.scenario.name,
            about: &case.scenario.about,
            stand_in: file.filter(|_| args.traces.is_none()),
            outcomes,
            targets: ours.map(|ours| routing_lab::targets_met(&case.scenario, ours)),
            against: others
                .filter_map(|other| Some(routing_lab::versus(&case.scenario, ours?, other)))
                .collect(),
            spec: &case.scenario,
        }
    }

    /// Whether ours misses a target.
    pub(super) fn missed(&self) -> bool {
        self.targets.is_some_and(|met| !met.all())
    }

    pub(super) fn name(&self) -> &str {
        self.scenario
    }
}

/// A table for each scenario, and one for all.
pub(super) fn tell(runs: &[Told<'_>]) -> anyhow::Result<()> {
    for run in runs {
        output::line(format!("{}: {}", run.scenario, run.about))?;
        if let Some(file) = run.stand_in {
            output::line(format!(
                "{file} is not there (--traces or BEACON_TRACES names its folder): arrivals like it are drawn instead"
            ))?;
        }
        output::line(each(run).to_string())?;
        if run.outcomes.iter().any(|outcome| outcome.apart.jobs > 0) {
            output::line(
                "The tenants that flood or have a budget of their own, apart; above are the others:",
            )?;
            output::line(apart(run).to_string())?;
        }
        for outcome in run.outcomes.iter().filter(|outcome| outcome.policy == Policy::Beacon) {
            for spending in &outcome.budgets {
                output::line(spent(spending))?;
            }
        }
    }
    if runs.iter().any(|run| run.targets.is_some()) {
        output::line("Beacon against the targets and the others:")?;
        output::line(all(runs).to_string())?;
        for run in runs {
            for against in &run.against {
                if let Some(line) = said(against) {
                    output::line(format!("{}: {line}", run.scenario))?;
                }
            }
        }
    }
    Ok(())
}

/// `budget $1 per hour for tenant acme: $0.9998 spent; from 1600 s on jobs wait: needs ...`.
fn spent(spending: &Spending) -> String {
    let Spending { rule, limit_usd: _, most_usd, held_from_s, says } = spending;
    let waits = match (held_from_s, says) {
        (Some(from), Some(says)) => format!("; from {from} s on its jobs wait, the last one as it {says}"),
        (None, _) | (_, None) => String::new(),
    };
    format!("budget {rule}: ${most_usd} spent at most{waits}")
}

/// The lines that a reader must see: where another policy beats ours, also a policy that misses a target.
fn said(against: &Against) -> Option<String> {
    let what = against.beaten_in.join(", ");
    match against.standing {
        Standing::Better => None,
        Standing::Beaten => Some(format!("{} beats beacon: {what}", against.policy)),
        Standing::Unfit if what.is_empty() => None,
        Standing::Unfit => Some(format!("{} is better in {what}", named(against))),
    }
}

/// `static (misses p95)`.
fn named(against: &Against) -> String {
    if against.misses.is_empty() {
        return against.policy.to_string();
    }
    format!("{} (misses {})", against.policy, against.misses.join(", "))
}

fn each(run: &Told<'_>) -> comfy_table::Table {
    let header = [
        "policy",
        "jobs",
        "p50 s",
        "p95 s",
        "p99 s",
        "in time %",
        "$/job",
        "share %",
        "$ wasted",
        "$ idle",
        "late",
        "failed",
        "expired",
        "Jain",
        "attempts/job",
    ];
    let name = |policy: Policy| {
        run.against.iter().find(|against| against.policy == policy).map_or(policy.to_string(), named)
    };
    let rows: Vec<[String; 15]> =
        run.outcomes.iter().map(|outcome| row(name(outcome.policy), outcome)).collect();
    table(header, &(1..15).collect::<Vec<_>>(), &rows)
}

fn row(name: String, outcome: &Outcome) -> [String; 15] {
    let group = &outcome.keeping;
    let jobs = group.jobs + outcome.apart.jobs;
    [
        name,
        group.jobs.to_string(),
        seconds(group.p50_us),
        seconds(group.p95_us),
        seconds(group.p99_us),
        percent(group.in_time_ppm, 3),
        dollars(outcome.blended_usd, 7),
        outcome.share_ppm.map_or("-".into(), |ppm| percent(ppm, 1)),
        dollars(outcome.failed_usd.checked_add(outcome.hedge_usd).unwrap_or_default(), 2),
        dollars(outcome.standing_usd, 2),
        group.late.to_string(),
        group.failed.to_string(),
        group.expired.to_string(),
        thousandths(outcome.jain_ppm),
        thousandths((outcome.attempts * 1_000_000).checked_div(jobs).unwrap_or(0)),
    ]
}

fn apart(run: &Told<'_>) -> comfy_table::Table {
    let header = ["policy", "jobs", "p50 s", "p95 s", "p99 s", "in time %", "late", "failed", "expired"];
    let rows: Vec<[String; 9]> = run
        .outcomes
        .iter()
        .map(|outcome| {
            let Group { jobs, succeeded: _, late, failed, expired, p50_us, p95_us, p99_us, in_time_ppm } =
                outcome.apart;
            [
                outcome.policy.to_string(),
                jobs.to_string(),
                seconds(p50_us),
                seconds(p95_us),
                seconds(p99_us),
                percent(in_time_ppm, 3),
                late.to_string(),
                failed.to_string(),
                expired.to_string(),
            ]
        })
        .collect();
    table(header, &(1..9).collect::<Vec<_>>(), &rows)
}

fn all(runs: &[Told<'_>]) -> comfy_table::Table {
    let header = ["scenario", "p95", "in time", "cost", "share", "better than", "beaten by", "miss targets"];
    let rows: Vec<[String; 8]> = runs
        .iter()
        .filter_map(|run| {
            let targets = run.targets?;
            let ours = run.outcomes.iter().find(|outcome| outcome.policy == Policy::Beacon)?;
            let met = |met: bool, what: String| if met { what } else { format!("{what} missed") };
            let those = |standing| run.against.iter().filter(move |against| against.standing == standing);
            let beaten: Vec<&str> = those(Standing::Beaten).map(|against| against.policy.as_str()).collect();
            let share = ours.share_ppm.map_or("-".into(), |ppm| {
                met(targets.share != Some(false), format!("{} %", percent(ppm, 1)))
            });
            Some([
                run.spec.name.clone(),
                met(targets.p95, format!("{} s", seconds(ours.keeping.p95_us))),
                met(targets.availability, format!("{} %", percent(ours.keeping.in_time_ppm, 3))),
                met(targets.cost, format!("${}", dollars(ours.blended_usd, 7))),
                share,
                format!("{} of {}", those(Standing::Better).count(), run.against.len()),
                if beaten.is_empty() { "-".into() } else { beaten.join(", ") },
                format!("{} of {}", those(Standing::Unfit).count(), run.against.len()),
            ])
        })
        .collect();
    table(header, &[1, 2, 3, 4, 5, 7], &rows)
}

/// With three decimals, rounded down as everything here.
fn seconds(us: u64) -> String {
    format!("{}.{:03}", us / 1_000_000, us / 1_000 % 1_000)
}

fn percent(ppm: u64, decimals: usize) -> String {
    let part = format!("{:04}", ppm % 10_000);
    format!("{}.{}", ppm / 10_000, &part[..decimals])
}

fn thousandths(ppm: u64) -> String {
    format!("{}.{:03}", ppm / 1_000_000, ppm / 1_000 % 1_000)
}

fn dollars(usd: UsdNanos, decimals: usize) -> String {
    let part = format!("{:09}", usd.get() % 1_000_000_000);
    format!("{}.{}", usd.get() / 1_000_000_000, &part[..decimals])
}
