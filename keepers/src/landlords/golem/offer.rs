//! An offer, and whether a pool may take it: place, hardware, prices, terms. Pure.

use std::{collections::BTreeSet, time::Duration};

use schemas::UsdNanos;

use super::{
    config::GolemPool,
    decimal::Decimal,
    tariff::{self, Tariff},
    wire::{self, Properties},
};

/// What a provider offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    /// The provider's node id.
    pub(super) provider: String,
    pub(super) tariff: Tariff,
    gpu: Option<String>,
    /// Within which debit notes are to be accepted; `None` when it says nothing.
    accept_within: Option<Duration>,
}

/// What a pool wants, at one place, at one moment.
#[derive(Clone, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) pool: &'a GolemPool,
    /// The nodes of the place.
    pub(super) providers: &'a [String],
    /// Nodes that let us down lately, or that have a machine of ours already.
    pub(super) avoided: &'a BTreeSet<String>,
    pub(super) usd_per_glm: Decimal,
    pub(super) usd_per_hour_max: UsdNanos,
    /// The least time to accept a debit note in.
    pub(super) accept_within: Duration,
}

/// Why an offer is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the node is not on the list of this place")]
    Elsewhere,
    #[error("the node is avoided for now")]
    Avoided,
    #[error("the offer does not read: {0}")]
    Unread(String),
    #[error("it is not the GPU that is wanted")]
    Hardware,
    #[error("debit notes are to be accepted within {0:?}, which is too soon")]
    Terms(Duration),
    /// Dollars an hour.
    #[error("the price is too high")]
    Price(UsdNanos),
}

impl Offer {
    /// Reads an offer's properties.
    pub(super) fn read(provider: &str, properties: &Properties) -> Result<Self, Refusal> {
        let unread = |what: &str| Refusal::Unread(what.to_owned());
        if wire::text(properties, "golem.com.pricing.model").as_deref() != Some("linear") {
            return Err(unread("the pricing model is not linear"));
        }
        let vector = properties.get("golem.com.usage.vector");
        let vector: Vec<String> = vector
            .and_then(|raw| serde_json::from_str(raw.get()).ok())
            .ok_or_else(|| unread("golem.com.usage.vector"))?;
        let coeffs = properties.get("golem.com.pricing.model.linear.coeffs");
        let coeffs = coeffs
            .and_then(|raw| wire::numbers(raw))
            .ok_or_else(|| unread("golem.com.pricing.model.linear.coeffs"))?;
        let number = |key: &str| properties.get(key).and_then(|raw| raw.get().parse::<u64>().ok());
        // Without a word about threads a provider has more than any that exists.
        let threads =
            number("golem.inf.cpu.threads").or_else(|| number("golem.inf.cpu.cores")).unwrap_or(1_024);
        let tariff = Tariff::new(&vector, &coeffs, threads).map_err(|error| unread(&error.to_string()))?;
        let gpu = wire::text(properties, "golem.!exp.gap-35.v1.inf.gpu.model");
        let accept_within = number("golem.com.payment.debit-notes.accept-timeout?").map(Duration::from_secs);
        Ok(Self { provider: provider.to_owned(), tariff, gpu, accept_within })
    }

    /// The most that an hour costs, in dollars, rounded up; `None` if out of range.
    pub(super) fn usd_per_hour(&self, usd_per_glm: Decimal) -> Option<UsdNanos> {
        tariff::usd_rounded_up(self.tariff.hour(), usd_per_glm)
    }

    /// Whether it may be taken, and the most that an hour of it costs.
    pub(super) fn judge(&self, wanted: &Wanted<'_>) -> Result<UsdNanos, Refusal> {
        if !wanted.providers.iter().any(|node| node.eq_ignore_ascii_case(&self.provider)) {
            return Err(Refusal::Elsewhere);
        }
        if wanted.avoided.contains(&self.provider) {
            return Err(Refusal::Avoided);
        }
        if wanted.pool.gpu.is_some() && wanted.pool.gpu != self.gpu {
            return Err(Refusal::Hardware);
        }
        if let Some(within) = self.accept_within.filter(|within| *within < wanted.accept_within) {
            return Err(Refusal::Terms(within));
        }
        let usd = self.usd_per_hour(wanted.usd_per_glm).unwrap_or(UsdNanos::new(u64::MAX));
        let too_dear = self.tariff.hour() > wanted.pool.glm_per_hour_max
            || self.tariff.start() > wanted.pool.glm_start_max
            || usd > wanted.usd_per_hour_max;
        if too_dear { Err(Refusal::Price(usd)) } else { Ok(usd) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::landlords::golem::config::GolemPlace;

    pub(crate) fn pool() -> GolemPool {
        GolemPool {
            sku: "gpu".into(),
            runtime: "vm-nvidia".into(),
            capabilities: vec!["!exp:gpu".into()],
            gpu: None,
            mem_gib: 8,
            storage_gib: 20,
            image: "hash:sha3:0:http://images/0".into(),
            serve: "serve".into(),
            port: 8_000,
            server_secret: None,
            rent_for: Duration::from_secs(3_600),
            glm_per_hour_max: Decimal::whole(2),
            glm_start_max: Decimal::whole(1),
            places: vec![GolemPlace { name: "us-east".into(), providers: vec!["0xA1".into()] }],
        }
    }

    fn offer(coeffs: &str, more: &str) -> Result<Offer, Refusal> {
        let text = format!(
            r#"{{"golem.com.pricing.model":"linear","golem.com.pricing.model.linear.coeffs":{coeffs},
            "golem.com.usage.vector":["golem.usage.cpu_sec","golem.usage.duration_sec"],
            "golem.inf.cpu.threads":4{more}}}"#
        );
        Offer::read("0xa1", &serde_json::from_str(&text).unwrap())
    }

    fn judge(offer: &Offer, change: impl FnOnce(&mut Wanted<'_>)) -> Result<UsdNanos, Refusal> {
        let (pool, avoided) = (pool(), BTreeSet::new());
        let mut wanted = Wanted {
            pool: &pool,
            providers: &pool.places[0].providers,
            avoided: &avoided,
            usd_per_glm: "0.25".parse().unwrap(),
            usd_per_hour_max: "1".parse().unwrap(),
            accept_within: Duration::from_secs(60),
        };
        change(&mut wanted);
        offer.judge(&wanted)
    }

    #[test]
    fn an_offer_is_priced_by_the_names_of_its_counters() {
        let offer = offer("[0.00005, 0.0001, 0.1]", "").unwrap();
        assert_eq!(judge(&offer, |_| {}), Ok("0.27".parse().unwrap()));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let good = offer("[0.00005, 0.0001, 0.1]", "").unwrap();
        let usd = "0.27".parse().unwrap();
        assert_eq!(judge(&good, |wanted| wanted.providers = &[]), Err(Refusal::Elsewhere));
        let avoided = BTreeSet::from(["0xa1".to_owned()]);
        assert_eq!(
            good.judge(&Wanted {
                pool: &pool(),
                providers: &["0xa1".into()],
                avoided: &avoided,
                usd_per_glm: Decimal::whole(1),
                usd_per_hour_max: usd,
                accept_within: Duration::ZERO,
            }),
            Err(Refusal::Avoided)
        );
        assert_eq!(judge(&good, |w| w.usd_per_hour_max = "0.26".parse().unwrap()), Err(Refusal::Price(usd)));
        let dear_start = offer("[0, 0.0001, 1.1]", "").unwrap();
        assert!(matches!(judge(&dear_start, |_| {}), Err(Refusal::Price(_))));
        let hasty =
            offer("[0, 0.0001, 0]", r#","golem.com.payment.debit-notes.accept-timeout?":30"#).unwrap();
        assert_eq!(judge(&hasty, |_| {}), Err(Refusal::Terms(Duration::from_secs(30))));
        let other = offer("[0, 0.0001, 0]", r#","golem.!exp.gap-35.v1.inf.gpu.model":"A""#).unwrap();
        let wanted = GolemPool { gpu: Some("B".into()), ..pool() };
        assert_eq!(judge(&other, |w| w.pool = Box::leak(Box::new(wanted))), Err(Refusal::Hardware));
        assert!(matches!(offer("[0.1, 0.1]", ""), Err(Refusal::Unread(_))));
    }
}
