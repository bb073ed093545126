//! Reads a scenario file: lays it over the assumptions, then checks it (`check`). An error names the key and the rule.

mod check;

use std::{collections::BTreeMap, time::Duration};

use schemas::{ModelToken, ProviderId, Region, Tenant, UsdNanos};
use serde::{Deserialize, Deserializer, de};

use super::scenario::Scenario;
use routing::budget::{Mode, Period};

/// The values of everything that a scenario leaves out.
const ASSUMED: &str = include_str!("assumed.toml");

/// Why a scenario is refused, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScenarioError {
    /// The text is not TOML.
    #[error("line {line}: {what}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// What is wrong in it.
        what: String,
    },
    /// A key breaks its rule.
    #[error("{key}: {rule}")]
    Rule {
        /// The key, with dots.
        key: String,
        /// The rule, with the value if that helps.
        rule: String,
    },
}

fn refuse<T>(key: impl Into<String>, rule: impl Into<String>) -> Result<T, ScenarioError> {
    Err(ScenarioError::Rule { key: key.into(), rule: rule.into() })
}

impl Scenario {
    /// Reads and checks a text.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let table = |text: &str| {
            text.parse::<toml::Table>().map_err(|error| ScenarioError::Syntax {
                line: error
                    .span()
                    .map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count()),
                what: one_line(error.message()),
            })
        };
        let mut all = table(ASSUMED)?;
        lay_over(&mut all, table(text)?);
        let raw: Raw = serde_path_to_error::deserialize(toml::Value::Table(all)).map_err(|error| {
            ScenarioError::Rule { key: error.path().to_string(), rule: one_line(error.inner().message()) }
        })?;
        raw.check()
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Lays one table over another: tables are merged, everything else is replaced.
fn lay_over(below: &mut toml::Table, above: toml::Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => lay_over(below, above),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

/// A duration as a person writes it, for instance `250ms`.
#[derive(Clone, Copy, Debug)]
struct Span(Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const UNITS: [(&str, u64); 5] =
            [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
        let text = String::deserialize(deserializer)?;
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
        let millis = number.parse::<u64>().ok().zip(factor).and_then(|(n, factor)| n.checked_mul(factor));
        millis
            .filter(|millis| Duration::from_millis(*millis) <= 365 * Duration::from_secs(86_400))
            .map_or_else(
                || {
                    Err(de::Error::custom(format!(
                        "`{}` must be a whole number and one of ms, s, m, h and d, for instance 60s",
                        text.chars().take(40).collect::<String>()
                    )))
                },
                |millis| Ok(Self(Duration::from_millis(millis))),
            )
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: String,
    about: String,
    duration: Span,
    arrivals: RawArrivals,
    regions: BTreeMap<Region, RawRegion>,
    delays: RawDelays,
    models: BTreeMap<ModelToken, RawModel>,
    lanes: RawLanes,
    tenants: BTreeMap<Tenant, RawTenant>,
    providers: BTreeMap<ProviderId, RawProvider>,
    baseline: RawBaseline,
    calls: RawCalls,
    targets: RawTargets,
    #[serde(default)]
    budgets: Vec<RawBudget>,
    #[serde(default)]
    bursts: Vec<RawBurst>,
    #[serde(default)]
    faults: Vec<RawFault>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawArrivals {
    rate: f64,
    shape: Shape,
    period: Span,
    swing: f64,
    trace: String,
    copies: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Shape {
    Steady,
    Diurnal,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRegion {
    share: f64,
    #[serde(default)]
    phase: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDelays {
    local: Span,
    between: BTreeMap<String, Span>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawModel {
    share: f64,
    service: [Span; 2],
    prefill: f64,
    decode: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLanes {
    high: RawLane,
    normal: RawLane,
    low: RawLane,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLane {
    share: f64,
    deadline: Span,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTenant {
    share: f64,
    #[serde(default = "one")]
    weight: u32,
}

const fn one() -> u32 {
    1
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProvider {
    slots: BTreeMap<Region, u32>,
    #[serde(default = "speed_one")]
    speed: f64,
    #[serde(default)]
    per_inference: BTreeMap<ModelToken, UsdNanos>,
    #[serde(default)]
    per_second: BTreeMap<ModelToken, UsdNanos>,
    health_every: Option<Span>,
    cold_start: Option<[Span; 2]>,
    idle_timeout: Option<Span>,
    #[serde(default)]
    bills_idle: bool,
    #[serde(default)]
    warmable: bool,
}

const fn speed_one() -> f64 {
    1.0
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBaseline {
    providers: Vec<ProviderId>,
    share: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCalls {
    timeout: Span,
    lease: Span,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTargets {
    p95: Span,
    availability: f64,
    cost: UsdNanos,
    share_within: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBudget {
    tenant: Option<Tenant>,
    provider: Option<ProviderId>,
    period: Period,
    limit: UsdNanos,
    #[serde(default)]
    mode: Mode,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBurst {
    tenant: Option<Tenant>,
    region: Option<Region>,
    from: Span,
    r#for: Span,
    factor: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFault {
    kind: RawKind,
    provider: Option<ProviderId>,
    region: Option<Region>,
    from: Span,
    r#for: Span,
    factor: Option<f64>,
    part: Option<f64>,
    retry_after: Option<Span>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum RawKind {
    Down,
    Slow,
    Hang,
    RateLimit,
    CutOff,
    Price,
    ColdStarts,
    Garbage,
    Capacity,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_enough() {
        let scenario = Scenario::parse(r#"name = "x""#).unwrap();
        assert_eq!((scenario.pools.len(), scenario.tenants.len(), scenario.models.len()), (9, 4, 3));
    }

    #[test]
    fn a_refusal_names_the_key_and_the_rule() {
        for (text, says) in [
            ("", "name: `` must be"),
            ("name = ", "line 1: "),
            ("nonsense = 1", "nonsense: unknown field `nonsense`"),
            ("[arrivals]\nrate = -1.0", "arrivals.rate: `-1` must be more than 0"),
            ("[lanes.high]\nshare = 0.3", "lanes: shares add up to 1.1 and must add up to 1"),
            ("[regions.us-east]\nshare = 0.5", "regions: shares add up to 1.1"),
            ("[models.mistral-7b]\nshare = -0.3", "models.mistral-7b.share: `-0.3` must be 0 to 1"),
            (
                "[providers.golem.per_inference]\nmistral-7b = \"-0.1\"",
                "providers.golem.per_inference.mistral-7b: amount `-0.1` must be dollars",
            ),
            ("[providers.golem]\nspeed = 0.0", "providers.golem.speed: `0` must be 0.01 to 100"),
            (
                "[providers.golem]\nwarmable = true",
                "providers.golem.warmable: is for providers with a cold_start",
            ),
            ("duration = \"10\"", "duration: `10` must be a whole number and one of ms"),
            ("[[faults]]\nkind = \"down\"\nfrom = \"40m\"\nfor = \"1m\"", "faults[0].from: ends"),
            ("[[faults]]\nkind = \"down\"\nfrom = \"29m\"\nfor = \"2m\"", "faults[0].for: ends"),
            ("[[faults]]\nkind = \"slow\"\nfrom = \"1m\"\nfor = \"2m\"", "faults[0].factor: is missing"),
            (
                "[[faults]]\nkind = \"down\"\nfactor = 2.0\nfrom = \"1m\"\nfor = \"2m\"",
                "faults[0].factor: does not belong to this kind",
            ),
            (
                "[[faults]]\nkind = \"down\"\nprovider = \"x\"\nfrom = \"1m\"\nfor = \"2m\"",
                "faults[0].provider: has no pool",
            ),
            (
                "[[faults]]\nkind = \"price\"\nfactor = 2.0\nfrom = \"1m\"\nfor = \"9m\"\n[[faults]]\nkind = \"price\"\n\
                 factor = 3.0\nprovider = \"modal\"\nfrom = \"5m\"\nfor = \"2m\"",
                "faults[1].from: `price` at modal@asia-pacific overlaps with faults[0]",
            ),
            (
                "[[budgets]]\ntenant = \"nobody\"\nperiod = \"day\"\nlimit = \"1\"",
                "budgets[0].tenant: `nobody` is no tenant",
            ),
            (
                "[[budgets]]\nperiod = \"day\"\nlimit = \"1\"\n[[budgets]]\nperiod = \"day\"\nlimit = \"2\"",
                "budgets[1]: there is already a budget",
            ),
            (
                "[[bursts]]\ntenant = \"nobody\"\nfrom = \"1m\"\nfor = \"1m\"\nfactor = 2.0",
                "bursts[0].tenant: `nobody`",
            ),
        ] {
            let text = if text.starts_with("name") || text.is_empty() {
                text.to_owned()
            } else {
                format!("name = \"x\"\n{text}")
            };
            let error = Scenario::parse(&text).unwrap_err().to_string();
            assert!(error.starts_with(says), "{text}\n{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
