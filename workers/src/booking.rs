//! Turns what was used into money. Pure.

use std::time::Duration;

use schemas::{
    Micros, ProviderId, UsdNanos,
    cost::CostLine,
    money,
    prices::{PriceBook, PriceError, Unit, Used},
};

use crate::provider::UsedItem;

/// The bill for `used` by the prices in force at `at`, and its sum. Time on a slot of a rented machine has its own price.
pub fn bill(
    prices: &PriceBook,
    provider: &ProviderId,
    used: &[UsedItem],
    at: Micros,
) -> Result<(Vec<CostLine>, UsdNanos), PriceError> {
    let mut lines = Vec::with_capacity(used.len());
    for item in used {
        match (&item.rate, item.used) {
            (Some(rate), Used::Time(span)) => {
                let line = CostLine::of_slot(rate.machine.clone(), &item.sku, item.item, rate.hour_usd, span);
                lines.push(line.ok_or_else(|| PriceError::Range(provider.clone(), item.sku.clone()))?);
            }
            (Some(_), Used::Inferences(_) | Used::Tokens { .. }) | (None, _) => {
                lines.extend(prices.bill(provider, &item.sku, item.item, item.used, at)?);
            }
        }
    }
    let sum = money::total(lines.iter().map(|l| l.amount_usd));
    let range =
        || PriceError::Range(provider.clone(), used.first().map_or_else(String::new, |u| u.sku.clone()));
    Ok((lines, sum.ok_or_else(range)?))
}

/// What an attempt used by our own reckoning, when nobody can say: one inference, or the time it took.
pub fn reckon(
    prices: &PriceBook,
    provider: &ProviderId,
    sku: &str,
    took: Duration,
    at: Micros,
) -> Vec<UsedItem> {
    prices
        .of(provider, sku, at)
        .filter_map(|price| {
            let (item, used) = match price.unit {
                Unit::Second | Unit::Hour => ("execution", Used::Time(took)),
                Unit::Inference => ("inference", Used::Inferences(1)),
                Unit::MillionTokens | Unit::MillionInputTokens | Unit::MillionOutputTokens => return None,
            };
            Some(UsedItem { sku: sku.to_owned(), item, used, rate: None })
        })
        .collect()
}

/// What an attempt is expected to use that takes as long as usual; tokens as many as a usual answer has.
pub fn expect(
    prices: &PriceBook,
    provider: &ProviderId,
    sku: &str,
    usual: Duration,
    at: Micros,
) -> Vec<UsedItem> {
    let mut used = reckon(prices, provider, sku, usual, at);
    let tokens =
        |unit| matches!(unit, Unit::MillionTokens | Unit::MillionInputTokens | Unit::MillionOutputTokens);
    if prices.of(provider, sku, at).any(|price| tokens(price.unit)) {
        used.push(UsedItem { sku: sku.to_owned(), item: "tokens", used: usual_tokens(), rate: None });
    }
    used
}

fn usual_tokens() -> Used {
    Used::Tokens { input: 256, output: u64::from(schemas::job::MAX_TOKENS_DEFAULT) / 2 }
}

/// What one job that starts at `at` is expected to cost; tokens as many as a usual answer has. Where no price is in force, more
/// than anybody will pay: a zero would draw all jobs here.
pub fn expected_cost(
    prices: &PriceBook,
    provider: &ProviderId,
    sku: &str,
    p50: Duration,
    at: Micros,
) -> UsdNanos {
    if prices.require(provider, sku, at).is_err() {
        return UsdNanos::new(u64::MAX);
    }
    let each = |used| {
        prices.bill(provider, sku, "", used, at).map_or(UsdNanos::ZERO, |lines| {
            money::total(lines.iter().map(|l| l.amount_usd)).unwrap_or(UsdNanos::new(u64::MAX))
        })
    };
    let parts = [each(Used::Time(p50)), each(Used::Inferences(1)), each(usual_tokens())];
    money::total(parts).unwrap_or(UsdNanos::new(u64::MAX))
}

/// What a second of the machine costs; zero where time is not what is billed.
pub fn second(prices: &PriceBook, provider: &ProviderId, sku: &str, at: Micros) -> UsdNanos {
    prices.bill(provider, sku, "", Used::Time(Duration::from_secs(1)), at).map_or(UsdNanos::ZERO, |lines| {
        money::total(lines.iter().map(|l| l.amount_usd)).unwrap_or(UsdNanos::new(u64::MAX))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Micros = Micros::new(1_795_000_000_000_000);

    fn book() -> PriceBook {
        PriceBook::from_toml(
            r#"
            version = "t"
            as_of = "2025-09-05"
            source = "test"
            [[price]]
            provider = "modal"
            sku = "T4"
            unit = "second"
            usd = "0.000164"
            "#,
        )
        .unwrap()
    }

    #[test]
    fn cold_start_and_execution_are_lines_of_one_bill() {
        let modal = "modal".parse().unwrap();
        let item = |item, ms| UsedItem {
            sku: "T4".into(),
            item,
            used: Used::Time(Duration::from_millis(ms)),
            rate: None,
        };
        let (lines, sum) =
            bill(&book(), &modal, &[item("cold_start", 800), item("execution", 1_200)], NOW).unwrap();
        assert_eq!((lines.len(), sum.to_string().as_str()), (2, "0.000328"));
    }

    #[test]
    fn an_attempt_nobody_reports_on_is_reckoned_in_the_unit_of_its_price() {
        let modal = "modal".parse().unwrap();
        let used = reckon(&book(), &modal, "T4", Duration::from_secs(2), NOW);
        assert_eq!(used[0].used, Used::Time(Duration::from_secs(2)));
        assert_eq!(expected_cost(&book(), &modal, "T4", Duration::from_secs(2), NOW).to_string(), "0.000328");
    }

    #[test]
    fn where_no_price_is_in_force_nobody_expects_a_bargain() {
        let mut book = book();
        book.prices[0].until = Some(NOW.to_datetime());
        let modal = "modal".parse().unwrap();
        assert_eq!(expected_cost(&book, &modal, "T4", Duration::from_secs(2), NOW), UsdNanos::new(u64::MAX));
    }
}
