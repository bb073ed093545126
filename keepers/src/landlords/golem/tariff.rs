//! The model `linear`: what an activity costs in GLM, and what that is in dollars.

use std::time::Duration;

use schemas::UsdNanos;

use super::decimal::Decimal;

/// One part in a million, and a billionth of a GLM: providers compute in doubles.
const MARGIN: (u64, u64) = (1, 1_000_000);

/// What a price is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counter {
    /// Seconds since the activity was made.
    Duration,
    /// Seconds of CPU, all threads together.
    Cpu,
    /// Seconds in which the GPU worked.
    Gpu,
    /// A counter that we know no bound of.
    Other,
}

/// An offer's prices, by counter, in the offer's own order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tariff {
    prices: Vec<(Counter, Decimal)>,
    start: Decimal,
    threads: u64,
}

/// Why prices cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TariffError {
    /// There is a price more than there are counters: the last one is the price of the start.
    #[error("{0} counters have {1} prices; there must be one more, for the start")]
    Length(usize, usize),
    /// Such an activity could cost anything.
    #[error("it asks a price for `{0}`, of which we know no bound")]
    Counter(String),
    /// Numbers too large to compute with.
    #[error("its prices are out of range")]
    Range,
}

impl Tariff {
    /// Reads `golem.com.usage.vector` and `golem.com.pricing.model.linear.coeffs`. `threads` bounds the seconds of CPU.
    pub(super) fn new(vector: &[String], coeffs: &[Decimal], threads: u64) -> Result<Self, TariffError> {
        let Some((start, prices)) = coeffs.split_last().filter(|(_, prices)| prices.len() == vector.len())
        else {
            return Err(TariffError::Length(vector.len(), coeffs.len()));
        };
        let mut read = Vec::with_capacity(prices.len());
        for (name, price) in vector.iter().zip(prices) {
            let counter = match name.as_str() {
                "golem.usage.duration_sec" => Counter::Duration,
                "golem.usage.cpu_sec" => Counter::Cpu,
                "golem.usage.gpu-sec" => Counter::Gpu,
                _ if price.is_zero() => Counter::Other,
                _ => return Err(TariffError::Counter(name.clone())),
            };
            read.push((counter, *price));
        }
        let tariff = Self { prices: read, start: *start, threads };
        // A hundred years must not overflow, so that nothing later does.
        tariff.most(Duration::from_secs(3_000_000_000)).ok_or(TariffError::Range)?;
        Ok(tariff)
    }

    /// What is asked for the start alone.
    pub(super) fn start(&self) -> Decimal {
        self.start
    }

    /// The most that an hour costs, with all threads busy; GLM, without the start.
    pub(super) fn hour(&self) -> Decimal {
        self.running(Decimal::whole(3_600)).unwrap_or_default()
    }

    /// The most that one activity can cost that lasted for `span`.
    pub(super) fn most(&self, span: Duration) -> Option<Decimal> {
        let seconds = Decimal::nanos(u64::try_from(span.as_nanos()).ok()?);
        self.running(seconds)?.checked_add(self.start)
    }

    fn running(&self, seconds: Decimal) -> Option<Decimal> {
        self.prices.iter().try_fold(Decimal::ZERO, |sum, (counter, price)| {
            let used = match counter {
                Counter::Duration | Counter::Gpu => seconds,
                Counter::Cpu => seconds.checked_mul(Decimal::whole(self.threads))?,
                Counter::Other => return Some(sum),
            };
            sum.checked_add(price.checked_mul(used)?)
        })
    }

    /// What an activity with these counters costs; `None` if they do not fit the prices.
    pub(super) fn due(&self, usage: &[Decimal]) -> Option<Decimal> {
        if usage.len() != self.prices.len() {
            return None;
        }
        self.prices
            .iter()
            .zip(usage)
            .try_fold(self.start, |sum, ((_, price), used)| sum.checked_add(price.checked_mul(*used)?))
    }
}

/// Whether `asked` is no more than `owed`, within the margin of a provider that computes in doubles.
pub(super) fn is_at_most(asked: Decimal, owed: Decimal) -> bool {
    let (part, of) = MARGIN;
    let one_more = Decimal::whole(of + part);
    let (asked, owed) = (asked.checked_mul(Decimal::whole(of)), owed.checked_mul(one_more));
    let slack = Decimal::nanos(1).checked_mul(Decimal::whole(of));
    match (asked, owed.zip(slack).and_then(|(owed, slack)| owed.checked_add(slack))) {
        (Some(asked), Some(owed)) => asked <= owed,
        (None, _) | (_, None) => false,
    }
}

/// GLM in dollars at a rate, rounded up to the nano-dollar, once; `None` if out of range.
pub(super) fn usd_rounded_up(glm: Decimal, usd_per_glm: Decimal) -> Option<UsdNanos> {
    let nanos = glm.checked_mul(usd_per_glm)?.rounded_up(9)?;
    u64::try_from(nanos).ok().map(UsdNanos::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimals(texts: &[&str]) -> Vec<Decimal> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| format!("golem.usage.{name}")).collect()
    }

    #[test]
    fn prices_go_with_their_counters_whatever_the_order() {
        let one =
            Tariff::new(&names(&["duration_sec", "cpu_sec"]), &decimals(&["0.001", "0.0002", "0.5"]), 4);
        let two =
            Tariff::new(&names(&["cpu_sec", "duration_sec"]), &decimals(&["0.0002", "0.001", "0.5"]), 4);
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_eq!(one.hour(), "6.48".parse().unwrap());
        assert_eq!(one.hour(), two.hour());
        assert_eq!(one.due(&decimals(&["100", "10"])), two.due(&decimals(&["10", "100"])));
        assert_eq!(one.due(&decimals(&["100", "10"])).unwrap().to_string(), "0.602");
        assert_eq!(one.due(&decimals(&["100"])), None);
    }

    #[test]
    fn a_counter_without_a_bound_may_be_listed_but_not_priced() {
        let vector = names(&["duration_sec", "gib_moved"]);
        assert!(Tariff::new(&vector, &decimals(&["1", "0", "0"]), 1).is_ok());
        let priced = Tariff::new(&vector, &decimals(&["1", "0.1", "0"]), 1);
        assert_eq!(priced, Err(TariffError::Counter("golem.usage.gib_moved".into())));
        assert_eq!(Tariff::new(&vector, &decimals(&["1", "0"]), 1), Err(TariffError::Length(2, 2)));
    }

    #[test]
    fn what_doubles_round_away_is_not_held_against_a_provider() {
        let owed = "0.250361111111111095088".parse().unwrap();
        assert!(is_at_most("0.2503611111111112".parse().unwrap(), owed));
        assert!(!is_at_most("0.2504".parse().unwrap(), owed));
    }

    #[test]
    fn dollars_are_rounded_up_once() {
        let usd = usd_rounded_up("0.0421".parse().unwrap(), "0.2345".parse().unwrap()).unwrap();
        assert_eq!(usd, UsdNanos::new(9_872_450));
        assert_eq!(usd_rounded_up("1e-18".parse().unwrap(), Decimal::whole(1)), Some(UsdNanos::new(1)));
    }
}
