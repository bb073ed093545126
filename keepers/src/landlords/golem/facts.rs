//! What an agreement itself says for ever: whose it is, with whom, at what prices, until when. The marks that we put into our
//! side of it make it readable without a row.

use schemas::{MachineId, Micros, PoolId, UsdNanos, time::micros};
use serde_json::{Map, Value};

use super::{
    decimal::Decimal,
    offer::Offer,
    tariff::{self, Tariff},
    wire::{self, Agreement},
};

/// The properties of our demands that are ours.
const MACHINE: &str = "beacon.machine";
const POOL: &str = "beacon.pool";
const ALLOCATION: &str = "beacon.allocation";
const ORDERED: &str = "beacon.ordered-us";
const RATE: &str = "beacon.usd-per-glm";

/// What we write into a demand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) machine: MachineId,
    pub(super) pool: PoolId,
    /// Out of which its notes are paid.
    pub(super) allocation: String,
    pub(super) ordered_at: Micros,
    /// The rate of its order.
    pub(super) usd_per_glm: Decimal,
}

/// An agreement of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) agreement: String,
    pub(super) marks: Marks,
    pub(super) provider: String,
    pub(super) tariff: Tariff,
    /// When it was made, by yagna's clock, as yagna wrote it.
    pub(super) made: String,
    pub(super) made_at: Micros,
    pub(super) expires_at: Micros,
}

impl Marks {
    /// Adds them to a demand's properties.
    pub(super) fn write(&self, properties: &mut Map<String, Value>) {
        for (key, value) in [
            (MACHINE, self.machine.to_string()),
            (POOL, self.pool.to_string()),
            (ALLOCATION, self.allocation.clone()),
            (ORDERED, self.ordered_at.get().to_string()),
            (RATE, self.usd_per_glm.to_string()),
        ] {
            properties.insert(key.into(), Value::String(value));
        }
    }

    fn read(properties: &wire::Properties) -> Option<Self> {
        let text = |key| wire::text(properties, key);
        Some(Self {
            machine: text(MACHINE)?.parse().ok()?,
            pool: text(POOL)?.parse().ok()?,
            allocation: text(ALLOCATION)?,
            ordered_at: Micros::new(text(ORDERED)?.parse().ok()?),
            usd_per_glm: text(RATE)?.parse().ok()?,
        })
    }
}

impl Facts {
    /// Reads an agreement; `None` if it does not bear our marks or has no prices that we understand.
    pub(super) fn read(agreement: &Agreement) -> Option<Self> {
        let marks = Marks::read(&agreement.demand.properties)?;
        let offer = Offer::read(&agreement.offer.provider_id, &agreement.offer.properties).ok()?;
        let expiration = agreement.demand.properties.get("golem.srv.comp.expiration");
        let expiration: Option<u64> = expiration.and_then(|raw| raw.get().parse().ok());
        let valid_to = time(&agreement.valid_to)?;
        let made_at = time(&agreement.timestamp)?;
        Some(Self {
            agreement: agreement.agreement_id.clone(),
            marks,
            provider: offer.provider,
            tariff: offer.tariff,
            made: agreement.timestamp.clone(),
            made_at,
            expires_at: expiration.map_or(valid_to, |ms| Micros::new(ms.saturating_mul(1_000)).min(valid_to)),
        })
    }

    /// The most that an hour costs, in dollars at the rate of the order, rounded up.
    pub(super) fn usd_per_hour(&self) -> Option<UsdNanos> {
        tariff::usd_rounded_up(self.tariff.hour(), self.marks.usd_per_glm)
    }
}

/// RFC 3339 to a time.
pub(super) fn time(text: &str) -> Option<Micros> {
    // Some of yagna's times have no zone; they are UTC.
    let parsed = chrono::DateTime::parse_from_rfc3339(text)
        .or_else(|_| chrono::DateTime::parse_from_rfc3339(&format!("{text}Z")))
        .ok()?;
    Some(parsed.to_utc().into())
}

/// A time to RFC 3339, to the microsecond.
pub(super) fn written(at: Micros) -> String {
    at.to_datetime().to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

/// A time to Unix milliseconds.
pub(super) fn millis(at: Micros) -> u64 {
    micros(at.since(Micros::default())) / 1_000
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::landlords::golem::wire::Properties;

    pub(crate) fn marks() -> Marks {
        Marks {
            machine: "0192f3a4".parse().unwrap(),
            pool: "golem@us-east".parse().unwrap(),
            allocation: "al-1".into(),
            ordered_at: Micros::new(1_795_424_400_000_000),
            usd_per_glm: "0.25".parse().unwrap(),
        }
    }

    pub(crate) fn facts() -> Facts {
        let mut demand = Map::new();
        marks().write(&mut demand);
        demand.insert("golem.srv.comp.expiration".into(), 1_795_428_000_000_u64.into());
        let offer = r#"{"golem.com.pricing.model":"linear","golem.com.pricing.model.linear.coeffs":[0.001,0.0],
            "golem.com.usage.vector":["golem.usage.duration_sec"],"golem.inf.cpu.threads":4}"#;
        let text = format!(
            r#"{{"agreementId":"ag-1","demand":{{"properties":{}}},"offer":{{"providerId":"0xa1","properties":{offer}}},
            "validTo":"2026-11-24T09:00:00Z","state":"Approved","timestamp":"2026-11-23T09:00:00.5Z"}}"#,
            Value::Object(demand)
        );
        Facts::read(&serde_json::from_str(&text).unwrap()).unwrap()
    }

    #[test]
    fn an_agreement_tells_whose_it_is_without_a_row() {
        let facts = facts();
        assert_eq!(facts.marks, marks());
        assert_eq!((facts.provider.as_str(), facts.agreement.as_str()), ("0xa1", "ag-1"));
        assert_eq!(facts.usd_per_hour(), Some("0.9".parse().unwrap()));
        // The earlier one of `validTo` and the expiration that was agreed.
        assert_eq!(facts.expires_at, Micros::new(1_795_428_000_000_000));
    }

    #[test]
    fn an_agreement_of_somebody_else_is_not_ours() {
        assert_eq!(Marks::read(&Properties::new()), None);
    }

    #[test]
    fn times_read_with_and_without_a_zone() {
        let at = time("2026-11-23T09:00:00.123456").unwrap();
        assert_eq!(written(at), "2026-11-23T09:00:00.123456Z");
        assert_eq!(time("2026-11-23T10:00:00.123456+01:00"), Some(at));
        assert_eq!(millis(at) % 1_000, 123);
    }
}
