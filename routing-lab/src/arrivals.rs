//! The jobs that arrive. They depend on scenario and seed alone, so every policy gets the same jobs.

use schemas::Lane;

use super::{
    chance::{About, Chance},
    scenario::{Arrivals as Plan, Scenario},
    trace::{Request, Trace},
};

/// The length of a step, within which rates are constant. A second is short compared with any burst.
const STEP_US: u64 = 1_000_000;

/// A job that arrives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Arrival {
    /// Microseconds after the start.
    pub(super) at_us: u64,
    /// Counts from 0, in the order of arrival.
    pub(super) number: u64,
    pub(super) region: usize,
    pub(super) model: usize,
    pub(super) tenant: usize,
    pub(super) lane: Lane,
    /// Tokens of its prompt and its answer, if a trace gives them.
    pub(super) tokens: Option<(u32, u32)>,
}

/// The jobs of a scenario, in the order of arrival.
pub(super) struct Arrivals<'a> {
    scenario: &'a Scenario,
    seed: u64,
    number: u64,
    end_us: u64,
    source: Source,
}

enum Source {
    Drawn {
        chance: Chance,
        at_us: f64,
        /// The step to which `rates` belong.
        step: u64,
        /// Jobs a second, by region and tenant.
        rates: Vec<f64>,
        total: f64,
    },
    Trace {
        requests: std::vec::IntoIter<Request>,
    },
}

impl<'a> Arrivals<'a> {
    /// Starts at the first job. `trace` is what the scenario's file holds, if it names one.
    pub(super) fn new(scenario: &'a Scenario, trace: Option<&Trace>, seed: u64) -> Self {
        let end_us = schemas::time::micros(scenario.duration);
        let source = match (&scenario.arrivals, trace) {
            (Plan::Trace { copies, .. }, Some(trace)) => {
                Source::Trace { requests: trace.overlaid(*copies, end_us, seed).into_iter() }
            }
            (Plan::Trace { .. }, None) => Source::Trace { requests: Vec::new().into_iter() },
            (Plan::Drawn { .. }, _) => Source::Drawn {
                chance: Chance::of(seed, About::Arrivals, 0, 0),
                at_us: 0.0,
                step: u64::MAX,
                rates: vec![0.0; scenario.regions.len() * scenario.tenants.len()],
                total: 0.0,
            },
        };
        Self { scenario, seed, number: 0, end_us, source }
    }
}

/// Jobs a second of a region and a tenant in a step.
fn rate(scenario: &Scenario, rate: f64, region: usize, tenant: usize, step: u64) -> f64 {
    let at = (step * STEP_US) as f64 / 1e6;
    let spec = &scenario.regions[region];
    let day = match &scenario.arrivals {
        Plan::Drawn { day: Some(day), .. } => {
            // The mean over a period is 1, and the peak is `swing` times the trough.
            let depth = (day.swing - 1.0) / (day.swing + 1.0);
            let turn = at / day.period.as_secs_f64() - spec.phase;
            1.0 - depth * (std::f64::consts::TAU * turn).cos()
        }
        Plan::Drawn { day: None, .. } | Plan::Trace { .. } => 1.0,
    };
    let mut factor = 1.0;
    for burst in &scenario.bursts {
        let strikes = burst.tenant.is_none_or(|t| t == tenant) && burst.region.is_none_or(|r| r == region);
        if strikes && burst.from.as_secs_f64() <= at && at < burst.until.as_secs_f64() {
            factor *= burst.factor;
        }
    }
    rate * spec.share * scenario.tenants[tenant].share * day * factor
}

impl Iterator for Arrivals<'_> {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        let scenario = self.scenario;
        let number = self.number;
        let mut own = Chance::of(self.seed, About::Job, number, 0);
        let (at_us, region, tenant, tokens) = match &mut self.source {
            Source::Trace { requests } => {
                let request = requests.next()?;
                let region = own.index(scenario.regions.iter().map(|region| region.share));
                let tenant = own.index(scenario.tenants.iter().map(|tenant| tenant.share));
                (request.at_us, region, tenant, Some((request.prompt, request.output)))
            }
            Source::Drawn { chance, at_us, step, rates, total } => {
                let Plan::Drawn { rate: mean, .. } = scenario.arrivals else { return None };
                loop {
                    if *at_us >= self.end_us as f64 {
                        return None;
                    }
                    let now = whole(*at_us) / STEP_US;
                    if now != *step {
                        *step = now;
                        *total = 0.0;
                        let tenants = scenario.tenants.len();
                        for (index, slot) in rates.iter_mut().enumerate() {
                            *slot = rate(scenario, mean, index / tenants, index % tenants, now);
                            *total += *slot;
                        }
                    }
                    // A gap that reaches into the next step is drawn anew from its start: exponential gaps have no memory.
                    let next = *at_us + chance.gap() * 1e6 / total.max(1e-9);
                    let border = ((now + 1) * STEP_US) as f64;
                    if next < border {
                        *at_us = next;
                        break;
                    }
                    *at_us = border;
                }
                if *at_us >= self.end_us as f64 {
                    return None;
                }
                let stream = own.index(rates.iter().map(|rate| rate / *total));
                (whole(*at_us), stream / scenario.tenants.len(), stream % scenario.tenants.len(), None)
            }
        };
        self.number += 1;
        let model = own.index(scenario.models.iter().map(|model| model.share));
        let lane = Lane::ALL[own.index(scenario.lanes.iter().map(|lane| lane.share))];
        Some(Arrival { at_us, number, region, model, tenant, lane, tokens })
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time of the scenario")]
fn whole(us: f64) -> u64 {
    us as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_a_day_bring_as_many_jobs_as_they_say() {
        let text = "name = \"x\"\nduration = \"10m\"\n[arrivals]\nrate = 50.0\nshape = \"diurnal\"\nperiod = \"10m\"\n\
            [[bursts]]\ntenant = \"hooli\"\nfrom = \"5m\"\nfor = \"1m\"\nfactor = 10.0";
        let scenario = Scenario::parse(text).unwrap();
        let jobs: Vec<Arrival> = Arrivals::new(&scenario, None, 5).collect();
        let hooli = scenario.tenants.iter().position(|t| t.name.as_str() == "hooli").unwrap();
        let (first, sixth) = (0..60_000_000, 300_000_000..360_000_000);
        let count = |range: &std::ops::Range<u64>, who: bool| {
            jobs.iter().filter(|j| range.contains(&j.at_us) && (j.tenant == hooli) == who).count() as f64
        };
        // Trough and peak of the day: 0.5 and 1.5 times the mean.
        assert!((count(&sixth, false) / (60.0 * 50.0 * 1.49 * 0.9) - 1.0).abs() < 0.06);
        assert!((count(&sixth, true) / (60.0 * 50.0 * 1.49 * 0.1 * 10.0) - 1.0).abs() < 0.06);
        assert!((count(&first, false) / (60.0 * 50.0 * 0.52 * 0.9) - 1.0).abs() < 0.08);
        assert!(jobs.windows(2).all(|pair| pair[0].at_us <= pair[1].at_us));
        assert_eq!(jobs, Arrivals::new(&scenario, None, 5).collect::<Vec<_>>());
    }
}
