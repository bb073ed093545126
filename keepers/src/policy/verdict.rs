//! Whether renting beats pools that take money only for work, in words.

use schemas::{Micros, UsdNanos};

use super::{reason::dollars, seen::Seen, shop, starts::Starts, weigh};
use crate::demand::Load;

/// One sentence without a full stop: from how many busy slots on a machine is cheaper than serverless pools, and whether it is now.
pub fn verdict(seen: &Seen, starts: &Starts, now: Micros) -> String {
    let offered = shop::best(seen, starts, now).first().copied().or_else(|| seen.offers.first());
    let offered = offered.map(|offer| (offer.usd_per_hour, offer.slots));
    let stands = || seen.machines.iter().map(|machine| (machine.usd_per_hour, machine.slots)).max();
    let Some((rent, slots)) = offered.or_else(stands) else {
        return "no price of a machine is known yet, so renting is not compared".into();
    };
    let Some(serverless) = seen.serverless else {
        return format!(
            "nothing to compare renting with: no serverless pool of the region serves these models now (a machine costs {} an \
             hour)",
            dollars(rent)
        );
    };
    let nothing = Load::default();
    let busy = weigh::busy(seen, seen.load.as_ref().unwrap_or(&nothing), now);
    let hour = u128::from(serverless.usd_per_second.get()) * 3_600;
    let full = hour * u128::from(slots);
    let usd = |nanos: u128| dollars(UsdNanos::new(u64::try_from(nanos).unwrap_or(u64::MAX)));
    let sums = format!(
        "a machine costs {} an hour, and its {slots} slots, always busy, cost {} there",
        dollars(rent),
        usd(full)
    );
    let rent = u128::from(rent.get());
    if full <= rent {
        return format!("renting never beats serverless pools: {sums}");
    }
    // Rounded up: at so much it is surely cheaper.
    let percent = (rent * 100).div_ceil(full.max(1));
    let first = u128::from(busy.min(u64::from(slots) * 1_000));
    let wins = hour * first / 1_000 > rent;
    let (jobs, say) = (busy / 1_000, if wins { "so it does now" } else { "so it does not now" });
    format!(
        "renting beats serverless pools when a machine is {percent} % busy ({sums}); {jobs} jobs run or wait, {say}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Offer, Serverless};

    const NOW: Micros = Micros::new(1_795_000_000_000_000);

    fn seen(second: Option<&str>, running: u64) -> Seen {
        let usd_per_second = second.map(|text| text.parse().unwrap());
        Seen {
            load: Some(Load { running, ..Load::default() }),
            offers: vec![Offer {
                sku: "a10".into(),
                place: "here".into(),
                slots: 4,
                usd_per_hour: "1.29".parse().unwrap(),
                available: None,
            }],
            serverless: usd_per_second.map(|usd_per_second| Serverless { usd_per_second, free_slots: 9 }),
            ..Seen::default()
        }
    }

    fn said(second: Option<&str>, running: u64) -> String {
        verdict(&seen(second, running), &Starts::default(), NOW)
    }

    #[test]
    fn the_table_of_break_evens_is_what_is_said() {
        // Lambda's A10 against Modal's at $0.000306 a second, four jobs at a time: 29.3 %.
        let text = said(Some("0.000306"), 0);
        assert!(text.contains("when a machine is 30 % busy") && text.contains("$1.29 an hour"), "{text}");
        assert!(
            text.contains("$4.41 there") && text.ends_with("0 jobs run or wait, so it does not now"),
            "{text}"
        );
        assert!(said(Some("0.000306"), 1).ends_with("so it does not now"));
        assert!(said(Some("0.000306"), 2).ends_with("2 jobs run or wait, so it does now"));
    }

    #[test]
    fn a_machine_that_is_dearer_than_all_its_work_elsewhere_never_wins() {
        assert!(said(Some("0.00008"), 4).starts_with("renting never beats serverless pools"));
    }

    #[test]
    fn without_anything_to_compare_it_says_so() {
        assert!(said(None, 3).starts_with("nothing to compare renting with"));
        let text = verdict(&Seen::default(), &Starts::default(), NOW);
        assert!(text.starts_with("no price of a machine is known yet"), "{text}");
    }
}
