//! What a yagna daemon tells without anything being bought: whether it can pay, what is on offer, agreements in force.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use schemas::{
    UsdNanos,
    check::{Aspect, Finding, image},
    prices::Unit,
    quoted::{PriceNow, Quoted},
};

use super::{
    agreements,
    config::{GolemPlace, GolemPool},
    decimal::Decimal,
    offer::{Offer, Wanted},
    site::Site,
    wire::{Allocation, ListedAgreement},
    {market, payment, tariff},
};
use crate::{
    landlord::CallError,
    survey::{OfPool, Standing, Survey, Told, within},
};

/// Agreements that are looked at; a wallet with more of them is not one of ours.
const LOOKED_AT: usize = 50;

pub(super) async fn look_over(site: &Site) -> Survey {
    let control = format!("{}/version/get", site.config.url.trim_end_matches('/'));
    if let Err(error) = within(payment::check(site)).await {
        return Survey::failed(error, control);
    }
    let funds = within(funds(site)).await;
    let (mut pools, mut prices, mut failed) = (BTreeMap::new(), Vec::new(), None);
    for (id, pool) in &site.config.pools {
        let offers = within(market::scan(site, pool)).await;
        let cheapest = offers.as_ref().map(|offers| cheapest(site, pool, offers));
        match &cheapest {
            Ok(found) => prices.extend(found.iter().filter_map(|(_, usd)| *usd).min().map(|usd| PriceNow {
                sku: pool.sku.clone(),
                unit: Unit::Hour,
                usd,
            })),
            Err(error) => failed = Some(error.to_string()),
        }
        pools.insert(id.clone(), of(site, pool, cheapest.map_err(Clone::clone), &funds));
    }
    Survey {
        key: Ok("the daemon takes the app key and can pay".into()),
        places: Told::Untold("Golem tells no location: the list of nodes of a place is your own word"),
        prices: match failed {
            Some(why) if prices.is_empty() => Quoted::Failed(why),
            Some(_) | None => Quoted::Told(prices),
        },
        standing: within(standing(site)).await.into(),
        pools,
        control,
    }
}

/// The cheapest offer that a pool may take, at each of its places.
fn cheapest<'a>(
    site: &Site,
    pool: &'a GolemPool,
    offers: &[Offer],
) -> Vec<(&'a GolemPlace, Option<UsdNanos>)> {
    let avoided = std::collections::BTreeSet::new();
    let of = |place: &'a GolemPlace| {
        let wanted = Wanted {
            pool,
            providers: &place.providers,
            avoided: &avoided,
            usd_per_glm: site.config.usd_per_glm,
            usd_per_hour_max: UsdNanos::new(u64::MAX),
            accept_within: Duration::ZERO,
        };
        (place, offers.iter().filter_map(|offer| offer.judge(&wanted).ok()).min())
    };
    pool.places.iter().map(of).collect()
}

fn of(
    site: &Site,
    pool: &GolemPool,
    cheapest: Result<Vec<(&GolemPlace, Option<UsdNanos>)>, CallError>,
    funds: &Result<Decimal, CallError>,
) -> OfPool {
    let set_aside = funds.as_ref().map_or_else(
        |error| format!("what is set aside is not told: {error}"),
        |glm| format!("{glm} GLM are left in allocations"),
    );
    let most = tariff::usd_rounded_up(pool.glm_per_hour_max, site.config.usd_per_glm).unwrap_or_default();
    let quota = match &cheapest {
        Err(error) => {
            Finding::unknown(Aspect::Quota, format!("what is on offer is not told: {error}"), "check again")
        }
        Ok(found) => {
            let offered: Vec<&str> =
                found.iter().filter(|(_, usd)| usd.is_some()).map(|(place, _)| place.name.as_str()).collect();
            if offered.is_empty() {
                let found =
                    format!("nothing on offer fits at its nodes for ${most} an hour or less; {set_aside}");
                Finding::warning(Aspect::Quota, found, "name more nodes, or raise glm_per_hour_max")
            } else {
                let found = format!(
                    "on offer in {}; {set_aside}; the wallet's rest is told by no call",
                    offered.join(", ")
                );
                Finding::ok(Aspect::Quota, found)
            }
        }
    };
    OfPool {
        app: package(&pool.image),
        places: pool.places.iter().map(|place| place.name.clone()).collect(),
        quota,
        price: None,
    }
}

/// An image by its hash cannot change; one by a tag of the registry can.
fn package(reference: &str) -> Finding {
    let hash = reference.strip_prefix("hash:sha3:").and_then(|rest| rest.split(':').next());
    match hash {
        Some(hash) if !hash.is_empty() && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Finding::ok(Aspect::App, "image pinned by hash")
        }
        Some(_) => Finding::wrong(
            Aspect::App,
            "the image's hash is no hexadecimal number",
            "name it as hash:sha3:<hash>:<url>",
        ),
        None => {
            let mut finding = image(reference);
            finding.todo = finding.todo.map(|_| "name it as hash:sha3:<hash>:<url>".to_owned());
            finding
        }
    }
}

/// What is left in all allocations of our platform, GLM.
async fn funds(site: &Site) -> Result<Decimal, CallError> {
    let all: Vec<Allocation> = site.yagna.read("/payment-api/v1/allocations").await?;
    let left = all.iter().map(|one| one.remaining_amount.parse::<Decimal>());
    let range = || CallError::Unclear("golem: the allocations do not add up".into());
    left.into_iter().try_fold(Decimal::ZERO, |sum, glm| sum.checked_add(glm.ok()?)).ok_or_else(range)
}

/// All agreements in force, by whose mark they bear.
async fn standing(site: &Site) -> Result<Vec<Standing>, CallError> {
    let path = format!("{}?state=Approved", agreements::AGREEMENTS);
    let listed: Vec<ListedAgreement> = site.yagna.read(&path).await?;
    let looks = listed.iter().take(LOOKED_AT).map(|one| agreements::find(site, &one.id));
    let mut standing = Vec::new();
    for (one, found) in listed.iter().zip(join_all(looks).await) {
        let facts = found?.and_then(|found| found.facts);
        standing.push(Standing {
            id: one.id.clone(),
            what: "agreement in force".into(),
            usd_per_hour: facts.as_ref().and_then(|facts| facts.usd_per_hour()),
            marked: facts.is_some(),
            pool: facts.map(|facts| facts.marks.pool.clone()),
            // A machine is reached through the tunnel of the keeper that rents it.
            url: None,
        });
    }
    Ok(standing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::check::Voice;

    #[test]
    fn an_image_is_pinned_by_its_hash() {
        for (reference, voice) in [
            ("hash:sha3:0a1b:http://images/0", Voice::Ok),
            ("hash:sha3::http://images/0", Voice::Wrong),
            ("hash:sha3:xyz:http://images/0", Voice::Wrong),
            ("me/llama:v1", Voice::Warning),
        ] {
            assert_eq!(package(reference).voice, voice, "{reference}");
        }
    }
}
