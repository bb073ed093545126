//! What routing promises in every scenario that is shipped: p95, availability and cost within their targets, and the baseline's
//! share in steady minutes. Faults and bursts last as long as they do there; what is quiet before and after is shorter.

use std::{fmt::Write as _, time::Duration};

use super::super::*;

/// Quiet minutes before the first fault or burst, enough for routing to know its pools.
const LEAD: Duration = Duration::from_secs(3 * 60);
/// Quiet minutes after the last: it has to find back.
const TAIL: Duration = Duration::from_secs(4 * 60);
/// As much of an hour of real arrivals is played.
const ARRIVALS: Duration = Duration::from_secs(15 * 60);
/// A day of two hours, for this part of it.
const DAY: f64 = 0.25;
const SEED: u64 = 1;

/// The scenario with as little as it takes around what goes wrong in it.
fn brief(text: &str) -> Scenario {
    let mut scenario = Scenario::parse(text).unwrap();
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

/// Plays a scenario and holds it against its targets; a failure shows what every policy made of it.
fn check(text: &str) {
    let scenario = brief(text);
    let trace = match &scenario.arrivals {
        Arrivals::Drawn { .. } => None,
        Arrivals::Trace { file, .. } => Some(Trace::stand_in(file, SEED).unwrap()),
    };
    let play = |policy| run(&scenario, trace.as_ref(), policy, SEED);
    let ours = play(Policy::Beacon);
    if !judge(&scenario, &ours).all() {
        let others = Policy::ALL.into_iter().skip(1).map(play);
        panic!("{}", table(&scenario, &[vec![ours], others.collect()].concat()));
    }
}

fn table(scenario: &Scenario, outcomes: &[Outcome]) -> String {
    let mut text = format!("{} misses a target: {:?}\n", scenario.name, judge(scenario, &outcomes[0]));
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
                check(include_str!(concat!("../../../../examples/scenarios/", $file)));
            }
        )*

        #[test]
        fn every_scenario_that_is_shipped_is_played() {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/scenarios");
            for file in std::fs::read_dir(folder).unwrap() {
                let name = file.unwrap().file_name().into_string().unwrap();
                assert!(!name.ends_with(".toml") || [$($file),*].contains(&&*name), "{name} has no test here");
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
