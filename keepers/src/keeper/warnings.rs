//! What is wrong with a pool and what to do, one line each, for the log and `beacon pools status`. Pure.

use schemas::Micros;

use crate::{
    config::PoolSettings,
    landlord::Quote,
    machine::is_stuck,
    row::{Life, Row},
};

/// All lines. `closed` is why nothing is ordered until a person acts; `orphaned` whether the pool left the configuration.
pub(super) fn lines(
    settings: &PoolSettings,
    orphaned: bool,
    closed: Option<&str>,
    quotes: &[Quote],
    rows: &[&Row],
    now: Micros,
) -> Vec<String> {
    let (pool, account) = (&settings.pool, &settings.account);
    let mut lines = Vec::new();
    let stand = rows.iter().filter(|row| row.life != Life::Gone).count();
    if orphaned && stand > 0 {
        lines.push(format!(
            "pool {pool} is in no configuration any more: what it has at {account} is ended (machines: {stand}); put the pool back \
             to keep it"
        ));
    }
    lines.extend(closed.map(|closed| format!("nothing is ordered for {pool}: {closed}")));
    for quote in quotes {
        let Quote { place, sku, usd_per_hour: price, .. } = quote;
        let max = settings.usd_per_hour_max;
        if let Some(differs) = settings.policy.book_price.differs(*price, now) {
            let (booked, percent) = (differs.booked, differs.tolerance / 10);
            lines.push(format!(
                "nothing is ordered for {pool} at {place}: {account} asks ${price} an hour for {sku} and the price book says \
                 ${booked}, more than {percent} % apart; correct the price book, or raise price_tolerance"
            ));
        } else if *price > max {
            lines.push(format!(
                "nothing is ordered for {pool} at {place}: a machine costs ${price} an hour there, more than usd_per_hour_max \
                 (${max}); raise it, or wait for a lower price"
            ));
        }
    }
    for row in rows.iter().filter(|row| is_stuck(&row.life)) {
        let (machine, id) = (&row.specs.machine, row.id.as_deref().unwrap_or("unknown"));
        let (price, why) = (row.specs.usd_per_hour, row.because.as_deref().unwrap_or("nobody knows why"));
        lines.push(format!(
            "machine {machine} of {pool} goes on costing ${price} an hour and {why}; it is tried again: end {id} at {account} by \
             hand, then run `beacon pools forget {machine}`"
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use schemas::{UsdNanos, prices::PriceBook};

    use super::*;
    use crate::{policy::Policy, price::BookPrice, row::Specs};

    const NOW: Micros = Micros::new(1_795_000_000_000_000);

    fn settings() -> PoolSettings {
        let book = "version = \"1\"\nas_of = \"2026-11-24\"\nsource = \"t\"\n[[price]]\nprovider = \"lambda\"\nsku = \"a10\"\n\
                    unit = \"hour\"\nusd = \"1\"";
        let book = PriceBook::from_toml(book).unwrap();
        let book_price = BookPrice::of(&book, &"lambda".parse().unwrap(), "a10", 200);
        PoolSettings {
            pool: "lambda@us-east".parse().unwrap(),
            account: "lambda".into(),
            sku: "a10".into(),
            places: vec!["us-east-1".into()],
            slots: 4,
            usd_per_hour_max: "1.1".parse().unwrap(),
            job_usd_per_hour: None,
            models: Vec::new(),
            model: "m".into(),
            health_path: "/health".into(),
            secret: None,
            policy: Policy { book_price, ..Policy::default() },
        }
    }

    fn quote(usd: &str) -> Quote {
        Quote {
            place: "us-east-1".into(),
            sku: "a10".into(),
            usd_per_hour: usd.parse().unwrap(),
            parked_usd_per_hour: UsdNanos::ZERO,
            available: None,
        }
    }

    fn row(life: Life) -> Row {
        let specs = Specs {
            machine: "m-1".parse().unwrap(),
            pool: "lambda@us-east".parse().unwrap(),
            landlord: "lambda".into(),
            sku: "a10".into(),
            place: "us-east-1".into(),
            slots: 4,
            usd_per_hour: "1".parse().unwrap(),
            usd_per_hour_max: "1.1".parse().unwrap(),
            parked_usd_per_hour: UsdNanos::ZERO,
            job_usd_per_hour: None,
        };
        let why = "cannot be ended: no clear answer: 500".to_owned();
        Row { life, ..Row::wanted(specs, std::time::Duration::ZERO, why, NOW) }
    }

    fn one(closed: Option<&str>, quotes: &[Quote], rows: &[&Row], orphaned: bool, words: &[&str]) {
        let lines = lines(&settings(), orphaned, closed, quotes, rows, NOW);
        let [line] = &lines[..] else { panic!("one line: {lines:?}") };
        assert!(!line.contains('\n') && line.contains("lambda@us-east"), "{line}");
        for word in words {
            assert!(line.contains(word), "`{word}` is not in: {line}");
        }
    }

    #[test]
    fn a_price_far_from_the_book_is_one_line_with_both_and_what_to_do() {
        one(
            None,
            &[quote("1.21")],
            &[],
            false,
            &["$1.21", "the price book says $1,", "20 %", "raise price_tolerance"],
        );
        one(None, &[quote("0.7")], &[], false, &["$0.7", "more than 20 % apart"]);
        one(None, &[quote("1.15")], &[], false, &["$1.15", "usd_per_hour_max ($1.1)"]);
        assert!(lines(&settings(), false, None, &[quote("1.05")], &[], NOW).is_empty());
    }

    #[test]
    fn what_a_person_must_do_is_said_and_so_is_a_machine_that_cannot_be_ended() {
        one(
            Some("not authorised: key; restart"),
            &[],
            &[],
            false,
            &["nothing is ordered", "not authorised: key"],
        );
        let absent = crate::row::Absence::default();
        let life =
            |failed| Life::Stopping { park: false, failed, not_before_us: NOW, accepted: false, absent };
        one(None, &[], &[&row(life(3))], false, &["m-1", "$1 an hour", "500", "beacon pools forget m-1"]);
        assert!(lines(&settings(), false, None, &[], &[&row(life(1))], NOW).is_empty());
    }

    #[test]
    fn machines_of_a_pool_that_left_the_configuration_are_told_of() {
        let starting = Life::Starting { ready_by_us: NOW, absent: crate::row::Absence::default() };
        one(None, &[], &[&row(starting)], true, &["in no configuration", "machines: 1", "put the pool back"]);
    }
}
