//! RunPod's list prices: REST v2, `GET /v2/catalog/gpus`, dollars an hour of one GPU by pool. Amounts are read by their digits.

use schemas::{
    UsdNanos,
    prices::Unit,
    quoted::{PriceNow, Quoted},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::billing::dollars;

/// The price book's names, and RunPod's own of the same pool.
const POOLS: [(&str, &str); 8] = [
    ("A4000", "AMPERE_16"),
    ("L4", "AMPERE_24"),
    ("RTX4090", "ADA_24"),
    ("A6000", "AMPERE_48"),
    ("L40S", "ADA_48_PRO"),
    ("A100", "AMPERE_80"),
    ("H100", "ADA_80_PRO"),
    ("H200", "HOPPER_141"),
];

/// RunPod's name of the pool that a SKU of the book means; a SKU may be that name itself.
pub(super) fn pool_of(sku: &str) -> &str {
    POOLS.iter().find(|(ours, _)| *ours == sku).map_or(sku, |(_, pool)| pool)
}

#[derive(Deserialize)]
pub(super) struct Catalog<'a> {
    #[serde(borrow)]
    gpus: Vec<Gpu<'a>>,
}

#[derive(Deserialize)]
struct Gpu<'a> {
    id: &'a str,
    pool: Option<&'a str>,
    #[serde(borrow)]
    price: Price<'a>,
}

#[derive(Deserialize)]
struct Price<'a> {
    /// Absent for a GPU that is in no serverless pool.
    #[serde(borrow)]
    serverless: Option<&'a RawValue>,
}

impl Gpu<'_> {
    fn hour(&self) -> Option<UsdNanos> {
        self.price.serverless.and_then(|price| dollars(price.get()))
    }
}

impl<'a> Catalog<'a> {
    pub(super) fn read(body: &'a [u8]) -> Result<Self, String> {
        serde_json::from_slice(body)
            .map_err(|error| format!("the catalogue does not read (column {})", error.column()))
    }

    /// What an hour of one GPU of this type costs, dollars.
    pub(super) fn gpu(&self, id: &str) -> Option<UsdNanos> {
        self.gpus.iter().find(|gpu| gpu.id == id)?.hour()
    }

    /// The prices of all pools, by the book's names and by RunPod's. GPUs of one pool have one price; of several the dearest counts.
    pub(super) fn quoted(&self) -> Quoted {
        let mut prices: Vec<PriceNow> = Vec::new();
        for gpu in &self.gpus {
            let Some((pool, usd)) = gpu.pool.zip(gpu.hour()) else { continue };
            let ours = POOLS.iter().find(|(_, theirs)| *theirs == pool).map(|(ours, _)| *ours);
            for sku in [Some(pool), ours].into_iter().flatten() {
                match prices.iter_mut().find(|price| price.sku == sku) {
                    Some(price) => price.usd = price.usd.max(usd),
                    None => prices.push(PriceNow { sku: sku.to_owned(), unit: Unit::Hour, usd }),
                }
            }
        }
        Quoted::Told(prices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_by_pool_and_exact_and_a_gpu_without_one_is_left_out() {
        let body = br#"{"gpus":[
            {"id":"NVIDIA L4","name":"L4","pool":"AMPERE_24","price":{"secure":0.43,"community":0.2,"serverless":0.684}},
            {"id":"NVIDIA A5000","name":"A5000","pool":"AMPERE_24","price":{"secure":0.2,"community":0.1,"serverless":0.6840}},
            {"id":"X","name":"X","pool":null,"price":{"secure":1,"community":1}},
            {"id":"Y","name":"Y","pool":"NEW_96","price":{"secure":1,"community":1,"serverless":"free"}}]}"#;
        let catalog = Catalog::read(body).unwrap();
        let quoted = catalog.quoted();
        let price = |sku: &str| quoted.of(sku).map(|price| price.usd.to_string());
        assert_eq!(price("L4").as_deref(), Some("0.684"));
        assert_eq!((price("AMPERE_24"), price("X"), price("NEW_96")), (price("L4"), None, None));
        assert_eq!(catalog.gpu("NVIDIA L4"), Some("0.684".parse().unwrap()));
        assert!(Catalog::read(b"<html>").is_err() && Catalog::read(b"{}").is_err());
        assert_eq!((pool_of("H100"), pool_of("ADA_24")), ("ADA_80_PRO", "ADA_24"));
    }
}
