//! What a run promises, whatever the world; and the scenarios of the examples, shortened.

use super::*;

/// A scenario of the examples, so many times as long.
fn example(text: &str, scale: f64) -> Scenario {
    Scenario::parse(text).unwrap().scaled(scale)
}

fn line(outcome: &Outcome) -> String {
    let Outcome { keeping: g, .. } = outcome;
    format!(
        "{:14} {:>8} p50 {:>5} p95 {:>6} p99 {:>6} ok {:.3} usd {:>11} share {:?} failed$ {} hedge$ {} standing$ {} late {} failed {} expired {} jain {:.4} attempts {:.4} hedges {} refused {} flood {:.3}\n",
        outcome.policy.as_str(),
        g.jobs,
        g.p50_us / 1_000,
        g.p95_us / 1_000,
        g.p99_us / 1_000,
        g.in_time_ppm as f64 / 1e4,
        outcome.blended_usd,
        outcome.share_ppm.map(|p| p as f64 / 1e4),
        outcome.failed_usd,
        outcome.hedge_usd,
        outcome.standing_usd,
        g.late,
        g.failed,
        g.expired,
        outcome.jain_ppm as f64 / 1e6,
        outcome.attempts as f64 / (g.jobs + outcome.flooding.jobs).max(1) as f64,
        outcome.hedges,
        outcome.refused,
        outcome.flooding.in_time_ppm as f64 / 1e4,
    )
}

#[test]
#[ignore = "for looking"]
fn look() {
    let scenario = example(include_str!("../../../examples/scenarios/gray.toml"), 0.2);
    for policy in Policy::ALL {
        let begun = std::time::Instant::now();
        let outcome = run(&scenario, None, policy, 1);
        eprint!("{:?} {}", begun.elapsed(), line(&outcome));
    }
}
