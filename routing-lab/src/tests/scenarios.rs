//! What routing promises in every scenario that is shipped: p95, availability and cost within their targets, and the baseline's
//! share in steady minutes. Faults and bursts last as long as in the scenario; the quiet times before and after are shorter.

use std::{fmt::Write as _, time::Duration};

use super::super::*;

/// The quiet time before the first fault or burst, enough for routing to know its pools.
const LEAD: Duration = Duration::from_secs(3 * 60);
/// The quiet time after the last, in which routing has to recover.
const TAIL: Duration = Duration::from_secs(4 * 60);
/// Scenarios up to this length are played as they are.
const SHORT: Duration = Duration::from_secs(20 * 60);
/// How much of an hour of real arrivals is played.
const ARRIVALS: Duration = Duration::from_secs(15 * 60);
/// The part of a two-hour day that is played.
const DAY: f64 = 0.25;
const SEED: u64 = 1;

/// Shortens a scenario to what goes wrong in it, with a quiet time before and after.
fn brief(text: &str) -> Scenario {
    let mut scenario = Scenario::parse(text).unwrap();
    if scenario.duration <= SHORT || !scenario.budgets.as_slice().is_empty() {
        // Budgets have periods of the calendar, so their scenarios cannot be shortened.
        return scenario;
    }
    let begins = scenario.faults.iter().map(|f| f.from).chain(scenario.bursts.iter().map(|b| b.from)).min();
    let ends = scenario.faults.iter().map(|f| f.until).chain(scenario.bursts.iter().map(|b| b.until)).max();
    let Some((begins, ends)) = begins.zip(ends) else {
        match &scenario.arrivals {
            Arrivals::Drawn { .. } => return scenario.scaled(DAY),
            Arrivals::Trace { .. } => scenario.duration = scenario.duration.min(ARRIVALS),
        }
        return scenario;
    };
    let earlier = begins.saturating_sub(LEAD);
    let sooner = |span: Duration| span.saturating_sub(earlier);
    scenario.duration = sooner(scenario.duration.min(ends + TAIL));
    for fault in &mut scenario.faults {
        (fault.from, fault.until) = (sooner(fault.from), sooner(fault.until));
    }
    for burst in &mut scenario.bursts {
        (burst.from, burst.until) = (sooner(burst.from), sooner(burst.until));
    }
    scenario
}

/// Plays a scenario and compares it with its targets. A failure shows what every policy made of it.
fn check(text: &str) -> Outcome {
    let scenario = brief(text);
    let trace = match &scenario.arrivals {
        Arrivals::Drawn { .. } => None,
        Arrivals::Trace { file, .. } => Some(Trace::stand_in(file, SEED).unwrap()),
    };
    let under = |policy| play(&scenario, trace.as_ref(), policy, SEED);
    let ours = under(Policy::Beacon);
    if !targets_met(&scenario, &ours).all() {
        let others = Policy::ALL.into_iter().skip(1).map(under);
        panic!("{}", table(&scenario, &[vec![ours], others.collect()].concat()));
    }
    ours
}

fn table(scenario: &Scenario, outcomes: &[Outcome]) -> String {
    let mut text = format!("{} misses a target: {:?}\n", scenario.name, targets_met(scenario, &outcomes[0]));
    text += "policy             jobs    p50 s    p95 s    p99 s  in time %      $/job  share %  failed  expired  late";
    for outcome in outcomes {
        let Group { jobs, failed, expired, late, .. } = outcome.keeping;
        let seconds = |us: u64| us as f64 / 1e6;
        let Group { p50_us, p95_us, p99_us, in_time_ppm, .. } = outcome.keeping;
        write!(
            text,
            "\n{:13} {jobs:>9} {:>8.3} {:>8.3} {:>8.3} {:>10.3} {:>10.7} {:>8} {failed:>7} {expired:>8} {late:>5}",
            outcome.policy.as_str(),
            seconds(p50_us),
            seconds(p95_us),
            seconds(p99_us),
            in_time_ppm as f64 / 1e4,
            outcome.blended_usd.get() as f64 / 1e9,
            outcome.share_ppm.map_or("-".into(), |ppm| format!("{:.1}", ppm as f64 / 1e4)),
        )
        .unwrap();
    }
    text
}

/// A test for each file, so that they run beside each other.
macro_rules! scenarios {
    ($($name:ident: $file:literal,)*) => {
        $(
            #[test]
            fn $name() {
                check(include_str!(concat!("../../../examples/scenarios/", $file)));
            }
        )*

        #[test]
        fn every_scenario_that_is_shipped_is_played() {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/scenarios");
            for file in std::fs::read_dir(folder).unwrap() {
                let name = file.unwrap().file_name().into_string().unwrap();
                let played = [$($file,)* "budget.toml"];
                assert!(!name.ends_with(".toml") || played.contains(&&*name), "{name} has no test here");
            }
        }
    };
}

scenarios! {
    a_steady_day: "diurnal.toml",
    ten_times_the_load_for_a_minute: "burst.toml",
    the_baseline_is_down_in_one_region: "golem-down.toml",
    the_baseline_is_five_times_slower: "gray.toml",
    all_jobs_come_back_at_once_and_nothing_is_warm: "cold-storm.toml",
    a_price_rises_at_noon: "price-rise.toml",
    a_region_is_cut_off: "cut-off.toml",
    the_baseline_has_no_time_for_four_of_five: "rate-limits.toml",
    a_tenant_floods: "flood.toml",
    an_hour_of_code_completion: "azure-code.toml",
    an_hour_of_chat: "azure-conv.toml",
}

#[test]
fn a_budget_holds_its_tenant_to_its_limit_and_nobody_else() {
    let text = include_str!("../../../examples/scenarios/budget.toml");
    let (with, without) = (check(text), check(text.split("[[budgets]]").next().unwrap()));
    let [spending] = &*with.budgets else { panic!("{:?}", with.budgets) };
    let limit = spending.limit_usd.get();
    // A chunk is a hundredth of what remains; each region has a dispatcher.
    assert!(spending.most_usd.get() <= limit + 3 * limit / 100, "{spending:?}");
    assert!(spending.most_usd.get() >= limit - limit / 100, "{spending:?}");
    assert!(spending.held_from_s.is_some_and(|from| (1_200..2_400).contains(&from)), "{spending:?}");
    assert!(spending.says.as_ref().is_some_and(|says| says.contains("waits for the next period")));
    // The tenant's jobs were held for a third of the hour, and went on in the next.
    assert!((400_000..800_000).contains(&with.apart.in_time_ppm), "{:?}", with.apart);
    assert_eq!(without.apart.jobs, 0);
    // The others have 60 of 100 of the same jobs.
    assert!(with.keeping.p95_us <= without.keeping.p95_us + 20_000, "{:?}", with.keeping);
    assert_eq!(with.keeping.in_time_ppm, 1_000_000);
}
