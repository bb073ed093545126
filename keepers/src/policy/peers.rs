//! Pools of one region that rent for the same models: which of them is filled first, so that two do not order for the same jobs.
//!
//! All put each other into one order: whoever has machines before whoever has none, then the cheaper slot, then the name. A pool
//! counts what those before it have and could still have as there for the work, and plans for the rest. The order is total, so
//! never do two pools wait for each other; and a pool that has machines keeps its work, so that no machine is let go for one that
//! is only promised.

use std::collections::BTreeSet;

use schemas::{Micros, ModelToken, PoolId, UsdNanos};
use serde::{Deserialize, Serialize};

use super::{
    bounded::bounded,
    rules::Policy,
    seen::{Seen, Wish},
    shop,
    staff::len,
    starts::Starts,
};

/// What other pools of the region may know of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Peer {
    /// The models that it serves.
    pub models: BTreeSet<ModelToken>,
    /// Slots of machines that work or will.
    pub slots: u32,
    /// Slots that it could still order now, within its caps.
    pub room: u32,
    /// What an hour of one slot costs; `None` while nobody has told a price.
    pub slot_usd_per_hour: Option<UsdNanos>,
}

impl Peer {
    /// What there is to know of the pool that is `seen`.
    pub fn of(seen: &Seen, policy: &Policy, models: &[ModelToken], starts: &Starts, now: Micros) -> Self {
        let serving = || seen.machines.iter().filter(|machine| machine.is_serving());
        let best = shop::best(seen, starts, now).into_iter().find(|offer| offer.available != Some(false));
        let offered = best.or_else(|| seen.offers.first()).map(|offer| (offer.usd_per_hour, offer.slots));
        let stands = || serving().map(|machine| (machine.usd_per_hour, machine.slots)).min();
        let (slots, room) = match seen.wish {
            // What stands there leaves.
            Wish::Stop | Wish::Drain => (0, 0),
            Wish::None | Wish::Start | Wish::Scale(_) => {
                let most = bounded(seen, policy, std::time::Duration::ZERO, u32::MAX, now);
                let capped = len(seen.machines.iter().filter(|machine| machine.is_capped()).count());
                let room = best.map_or(0, |offer| {
                    let money = policy.usd_per_hour_max.get().saturating_sub(shop::dollars(seen).get());
                    let paid = money.checked_div(offer.usd_per_hour.get()).unwrap_or(u64::MAX);
                    let more = most.saturating_sub(capped).min(u32::try_from(paid).unwrap_or(u32::MAX));
                    more.saturating_mul(offer.slots)
                });
                (serving().map(|machine| machine.slots).fold(0, u32::saturating_add), room)
            }
        };
        let slot = |(usd, slots): (UsdNanos, u32)| UsdNanos::new(usd.get() / u64::from(slots.max(1)));
        Self {
            models: models.iter().cloned().collect(),
            slots,
            room,
            slot_usd_per_hour: offered.or_else(stands).map(slot),
        }
    }

    /// Its place in the order, lowest first.
    fn rank<'a>(&self, pool: &'a PoolId) -> (bool, UsdNanos, &'a PoolId) {
        (self.slots == 0, self.slot_usd_per_hour.unwrap_or(UsdNanos::new(u64::MAX)), pool)
    }
}

/// Slots of other pools that are filled before those of `own`: of pools of its region that serve the very same models.
pub fn ahead<'a>(
    (own, peer): (&PoolId, &Peer),
    others: impl IntoIterator<Item = (&'a PoolId, &'a Peer)>,
) -> u32 {
    let rivals = others.into_iter().filter(|(pool, other)| {
        *pool != own && pool.region == own.region && !other.models.is_empty() && other.models == peer.models
    });
    let before = rivals.filter(|(pool, other)| other.rank(pool) < peer.rank(own));
    before.fold(0, |sum, (_, other)| sum.saturating_add(other.slots).saturating_add(other.room))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> PoolId {
        text.parse().unwrap()
    }

    fn peer(slots: u32, room: u32, slot_usd: &str) -> Peer {
        let models = [schemas::catalog::token_of("mistral-7b").unwrap()].into();
        Peer { models, slots, room, slot_usd_per_hour: Some(slot_usd.parse().unwrap()) }
    }

    fn each(a: &Peer, b: &Peer) -> (u32, u32) {
        let (one, two) = (id("fly@us-east"), id("lambda@us-east"));
        (ahead((&one, a), [(&one, a), (&two, b)]), ahead((&two, b), [(&one, a), (&two, b)]))
    }

    #[test]
    fn of_two_pools_without_machines_the_cheaper_orders_and_the_other_counts_on_it() {
        assert_eq!(each(&peer(0, 8, "0.30"), &peer(0, 16, "0.20")), (16, 0));
        assert_eq!(
            each(&peer(0, 8, "0.20"), &peer(0, 16, "0.20")),
            (0, 8),
            "the name decides between equals"
        );
    }

    #[test]
    fn a_pool_that_has_machines_goes_first_though_it_is_dearer() {
        assert_eq!(each(&peer(4, 4, "0.30"), &peer(0, 16, "0.20")), (0, 8));
        assert_eq!(
            each(&peer(4, 4, "0.30"), &peer(4, 12, "0.20")),
            (16, 0),
            "both have some: the cheaper grows"
        );
    }

    #[test]
    fn a_cheaper_pool_that_can_have_no_more_leaves_the_rest_to_the_other() {
        assert_eq!(each(&peer(0, 8, "0.30"), &peer(0, 0, "0.20")), (0, 0));
        assert_eq!(each(&peer(0, 8, "0.30"), &peer(4, 0, "0.20")), (4, 0));
    }

    #[test]
    fn pools_of_other_models_or_regions_and_those_without_a_price_do_not_come_first() {
        let (one, own) = (id("fly@us-east"), peer(0, 8, "0.30"));
        let other = Peer {
            models: [schemas::catalog::token_of("qwen-2.5-1.5b").unwrap()].into(),
            ..peer(4, 4, "0.1")
        };
        assert_eq!(ahead((&one, &own), [(&id("lambda@us-east"), &other)]), 0);
        assert_eq!(ahead((&one, &own), [(&id("lambda@eu-west"), &peer(4, 4, "0.1"))]), 0);
        let untold = Peer { slot_usd_per_hour: None, ..peer(0, 8, "0.1") };
        assert_eq!(ahead((&one, &own), [(&id("lambda@us-east"), &untold)]), 0);
    }

    #[test]
    fn never_do_two_pools_each_wait_for_the_other() {
        for (a, b) in [(0, 0), (0, 4), (4, 0), (4, 4)] {
            for price in ["0.10", "0.20", "0.30"] {
                let (first, second) = each(&peer(a, 8, "0.20"), &peer(b, 8, price));
                assert!(first == 0 || second == 0, "{a} {b} {price}");
                assert!(first > 0 || second > 0, "and never does each plan for all of it: {a} {b} {price}");
            }
        }
    }
}
