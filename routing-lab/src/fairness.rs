//! How fairly tenants were served while not all could be.

use crate::scenario::Scenario;

/// Jain's index (Jain, Chiu and Hawe, 1984) of what tenants got over what was fair, in parts of a million. `cohorts` has, by
/// minute of arrival and tenant, the jobs that arrived and those served in time. Only minutes count in which not all jobs were
/// served in time, weighted by their jobs. Fair is the weighted max-min share of what was served.
pub(crate) fn fairness(scenario: &Scenario, cohorts: &[Vec<(u64, u64)>]) -> u64 {
    let weights: Vec<f64> = scenario.tenants.iter().map(|tenant| f64::from(tenant.weight)).collect();
    let (mut sum, mut heavy) = (0.0, 0.0);
    // A tenant without money is not served for another reason than a lack of slots.
    let broke: Vec<bool> = (0..weights.len()).map(|tenant| scenario.may_run_out(tenant)).collect();
    for cohort in cohorts {
        let cohort: Vec<(u64, u64)> =
            cohort.iter().zip(&broke).map(|(all, broke)| if *broke { (0, 0) } else { *all }).collect();
        let (asked, served) = cohort.iter().fold((0, 0), |(a, s), (asked, served)| (a + asked, s + served));
        // A few jobs that failed do not mean a lack of slots.
        if asked == 0 || served * 50 >= asked * 49 {
            continue;
        }
        let fair = max_min(served as f64, cohort.iter().map(|(asked, _)| *asked as f64), &weights);
        let parts = cohort.iter().zip(&fair).filter(|(_, fair)| **fair > 0.0);
        let (mut count, mut first, mut second) = (0.0, 0.0, 0.0);
        for ((_, served), fair) in parts {
            let x = *served as f64 / fair;
            (count, first, second) = (count + 1.0, first + x, second + x * x);
        }
        if second > 0.0 {
            sum += asked as f64 * first * first / (count * second);
            heavy += asked as f64;
        }
    }
    if heavy > 0.0 { ppm(sum / heavy) } else { 1_000_000 }
}

/// Shares `all` by weight, with no share larger than what was asked for.
fn max_min(all: f64, asked: impl Iterator<Item = f64>, weights: &[f64]) -> Vec<f64> {
    let asked: Vec<f64> = asked.collect();
    let mut fair = vec![0.0; asked.len()];
    let mut open: Vec<usize> = (0..asked.len()).collect();
    let mut left = all;
    while !open.is_empty() && left > 1e-9 {
        let weight: f64 = open.iter().map(|i| weights[*i]).sum();
        let level = left / weight;
        let (full, rest): (Vec<usize>, Vec<usize>) =
            open.iter().partition(|i| asked[**i] <= level * weights[**i]);
        for &i in if full.is_empty() { &rest } else { &full } {
            fair[i] = if full.is_empty() { level * weights[i] } else { asked[i] };
        }
        if full.is_empty() {
            break;
        }
        left -= full.iter().map(|i| asked[*i]).sum::<f64>();
        open = rest;
    }
    fair
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a whole")]
fn ppm(part: f64) -> u64 {
    (part * 1e6).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_tenant_gets_more_than_it_asked_for_and_the_rest_is_shared_by_weight() {
        let fair = max_min(100.0, [10.0, 500.0, 500.0].into_iter(), &[1.0, 1.0, 2.0]);
        assert_eq!(fair, vec![10.0, 30.0, 60.0]);
        assert_eq!(max_min(100.0, [10.0, 20.0].into_iter(), &[1.0, 1.0]), vec![10.0, 20.0]);
    }
}
