//! What Railway measured, and what it costs: price list times use, exact to the nano-dollar.
//!
//! Measured numbers come as JSON numbers. They are read digit by digit and multiplied as integers, so that nothing is lost here.

use std::collections::BTreeMap;

use schemas::UsdNanos;
use serde::Deserialize;
use serde_json::Number;

use crate::landlords::railway::config::{RailwayPrices, UsageUnit};

/// A measured sum.
#[derive(Debug, Deserialize)]
pub(crate) struct Used {
    measurement: String,
    tags: Tags,
    value: Number,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tags {
    #[serde(default)]
    service_id: Option<String>,
}

/// What each service cost so far. A service with a number that does not read is left out.
pub(crate) fn charges(used: &[Used], prices: &RailwayPrices, unit: UsageUnit) -> BTreeMap<String, UsdNanos> {
    // All sums have one denominator, a month's units times 10⁹, so that each is rounded once.
    let month = u128::from(unit.per_month());
    let mut sums: BTreeMap<&str, Option<u128>> = BTreeMap::new();
    for used in used {
        let Some(service) = used.tags.service_id.as_deref() else { continue };
        let (price, scale) = match used.measurement.as_str() {
            "CPU_USAGE" => (prices.vcpu_month, 1),
            "MEMORY_USAGE_GB" => (prices.gb_month, 1),
            "NETWORK_TX_GB" => (prices.egress_gb, month),
            _ => continue,
        };
        let cost = billionths(&used.value.to_string())
            .and_then(|value| value.checked_mul(u128::from(price.get()))?.checked_mul(scale));
        let sum = sums.entry(service).or_insert(Some(0));
        *sum = sum.zip(cost).and_then(|(sum, cost)| sum.checked_add(cost));
    }
    let whole = |sum: u128| u64::try_from(sum.div_ceil(month * 1_000_000_000)).ok().map(UsdNanos::new);
    sums.into_iter().filter_map(|(service, sum)| Some((service.to_owned(), whole(sum?)?))).collect()
}

/// A JSON number in billionths, cut off there. `None` for negative or absurd ones.
fn billionths(text: &str) -> Option<u128> {
    let (digits, exponent) = match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() || !whole.bytes().chain(part.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u128 = format!("{whole}{part}").parse().ok()?;
    let shift = exponent.checked_add(9)?.checked_sub(i32::try_from(part.len()).ok()?)?;
    let power = 10_u128.checked_pow(shift.unsigned_abs());
    let value =
        if shift < 0 { power.map_or(0, |power| number / power) } else { number.checked_mul(power?)? };
    // A million million units: no machine of ours in no unit.
    (value <= 10_u128.pow(21)).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prices() -> RailwayPrices {
        RailwayPrices {
            vcpu_month: "20".parse().unwrap(),
            gb_month: "10".parse().unwrap(),
            egress_gb: "0.05".parse().unwrap(),
        }
    }

    #[test]
    fn numbers_are_read_without_a_float() {
        for (text, value) in [
            ("0", Some(0)),
            ("12", Some(12_000_000_000)),
            ("0.1", Some(100_000_000)),
            ("1.5e-3", Some(1_500_000)),
            ("2E2", Some(200_000_000_000)),
            ("0.1234567891234", Some(123_456_789)),
            ("1e-40", Some(0)),
            ("-1", None),
            ("1e30", None),
            ("1e999999999999", None),
        ] {
            assert_eq!(billionths(text), value, "{text}");
        }
    }

    #[test]
    fn use_times_price_is_rounded_up_once_per_service() {
        let used = r#"[
            {"measurement":"CPU_USAGE","tags":{"serviceId":"a"},"value":24.0},
            {"measurement":"MEMORY_USAGE_GB","tags":{"serviceId":"a"},"value":18},
            {"measurement":"NETWORK_TX_GB","tags":{"serviceId":"a"},"value":0.001},
            {"measurement":"CPU_USAGE","tags":{"serviceId":"b"},"value":1},
            {"measurement":"CPU_USAGE","tags":{"serviceId":null},"value":1000},
            {"measurement":"DISK_USAGE_GB","tags":{"serviceId":"b"},"value":1000}
        ]"#;
        let used: Vec<Used> = serde_json::from_str(used).unwrap();
        let costs = charges(&used, &prices(), UsageUnit::Minute);
        // 24 × 20 / 43200 + 18 × 10 / 43200 + 0.001 × 0.05
        assert_eq!(costs["a"], "0.015327778".parse().unwrap());
        assert_eq!(costs["b"], "0.000462963".parse().unwrap());
        let seconds = charges(&used, &prices(), UsageUnit::Second);
        assert_eq!(seconds["b"], "0.000007717".parse().unwrap());
    }
}
