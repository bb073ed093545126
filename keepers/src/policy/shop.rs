//! Which machines to order, within the caps: the cheapest useful slot first.

use std::cmp::Reverse;

use schemas::{MachineId, Micros, UsdNanos, machine::MachineState, money};

use super::{
    rules::Policy,
    seen::{Offer, Seen},
    starts::Starts,
};

/// A machine to order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purchase {
    /// Its type.
    pub sku: String,
    /// Where.
    pub place: String,
    /// Jobs it will run at a time.
    pub slots: u32,
    /// What an hour of it costs by its quote.
    pub usd_per_hour: UsdNanos,
    /// What an hour of it may cost.
    pub usd_per_hour_max: UsdNanos,
}

/// What kept machines from being ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hindrance {
    /// The cap on machines.
    Machines(u32),
    /// The cap on dollars: what is taken of it, and the cap.
    Dollars(UsdNanos, UsdNanos),
    /// Nothing is offered.
    NoOffer,
    /// All places failed lately; the first may be asked again then.
    Rest(Micros),
}

/// What is bought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Basket {
    pub(super) wake: Vec<MachineId>,
    pub(super) order: Vec<Purchase>,
    pub(super) hindrance: Option<Hindrance>,
}

/// The offers that may be taken now, the best first: those that can be had, the cheapest slot, the operator's order.
pub(super) fn best<'a>(seen: &'a Seen, starts: &Starts, now: Micros) -> Vec<&'a Offer> {
    let rests = |offer: &&Offer| starts.rests(&offer.sku, &offer.place, now).is_none();
    let mut offers: Vec<&Offer> = seen.offers.iter().filter(|offer| offer.slots > 0).filter(rests).collect();
    offers.sort_by_key(|offer| {
        let slot = u128::from(offer.usd_per_hour.get()) * 1_000 / u128::from(offer.slots);
        (offer.available == Some(false), slot)
    });
    offers
}

/// What all machines of the pool cost an hour, those that will be ordered included; parked ones cost their storage.
pub(super) fn dollars(seen: &Seen) -> UsdNanos {
    let prices = seen.machines.iter().map(|machine| {
        if machine.state == MachineState::Parked {
            machine.parked_usd_per_hour
        } else if machine.is_capped() {
            machine.usd_per_hour
        } else {
            UsdNanos::ZERO
        }
    });
    money::total(prices).unwrap_or(UsdNanos::new(u64::MAX))
}

/// Buys `count` machines, as far as the caps allow.
pub(super) fn shop(seen: &Seen, policy: &Policy, starts: &Starts, count: u32, now: Micros) -> Basket {
    let mut basket = Basket::default();
    let capped = seen.machines.iter().filter(|machine| machine.is_capped()).count();
    let mut room = policy.machines_max.saturating_sub(u32::try_from(capped).unwrap_or(u32::MAX));
    let (mut left, taken) = (count, dollars(seen));
    let mut money = policy.usd_per_hour_max.get().saturating_sub(taken.get());
    // A parked machine is there sooner than a new one.
    let mut parked: Vec<_> = seen
        .machines
        .iter()
        .filter(|m| m.state == MachineState::Parked && !m.replace && !m.unwanted)
        .collect();
    parked.sort_by_key(|machine| (machine.usd_per_hour, Reverse(machine.since)));
    let offers = best(seen, starts, now);
    while left > 0 {
        if room == 0 {
            basket.hindrance = Some(Hindrance::Machines(policy.machines_max));
            break;
        }
        let wake = parked.get(basket.wake.len());
        let price = match (wake, offers.first()) {
            // Its storage is paid already.
            (Some(wake), _) => wake.usd_per_hour.get().saturating_sub(wake.parked_usd_per_hour.get()),
            (None, Some(offer)) => offer.usd_per_hour.get(),
            (None, None) => {
                let rests = seen.offers.iter().filter_map(|o| starts.rests(&o.sku, &o.place, now)).min();
                basket.hindrance = Some(rests.map_or(Hindrance::NoOffer, Hindrance::Rest));
                break;
            }
        };
        if price > money {
            let taken =
                UsdNanos::new(policy.usd_per_hour_max.get() - money.min(policy.usd_per_hour_max.get()));
            basket.hindrance = Some(Hindrance::Dollars(taken, policy.usd_per_hour_max));
            break;
        }
        match (wake, offers.first()) {
            (Some(wake), _) => basket.wake.push(wake.machine.clone()),
            (None, Some(offer)) => basket.order.push(Purchase {
                sku: offer.sku.clone(),
                place: offer.place.clone(),
                slots: offer.slots,
                usd_per_hour: offer.usd_per_hour,
                usd_per_hour_max: offer.usd_per_hour,
            }),
            (None, None) => {}
        }
        (money, room, left) = (money - price, room - 1, left - 1);
    }
    // Prices move between a quote and an order. What is left of the cap may be spent on that.
    for purchase in &mut basket.order {
        let slack = u128::from(purchase.usd_per_hour.get()) * u128::from(policy.price_slack) / 1_000;
        let slack = u64::try_from(slack).unwrap_or(u64::MAX).min(money);
        money -= slack;
        purchase.usd_per_hour_max = UsdNanos::new(purchase.usd_per_hour.get() + slack);
    }
    basket
}
