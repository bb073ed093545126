//! The price book, entry by entry, against what providers say now. Pure.

use std::collections::BTreeMap;

use schemas::{
    Micros, ProviderId, UsdNanos,
    prices::{PriceBook, Unit},
    quoted::{Quoted, Share},
    repricing::Change,
};
use serde_json::{Value, json};

/// Where prices stand that no API tells, for providers that nothing here is configured for.
const PAGES: [(&str, &str); 5] = [
    ("modal", "https://modal.com/pricing"),
    ("replicate", "https://replicate.com/pricing"),
    ("fly", "https://fly.io/docs/about/pricing/"),
    ("railway", "https://railway.com/pricing"),
    ("render", "https://render.com/pricing"),
];

/// An entry of the book that is in force, or a SKU that a pool uses without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) provider: ProviderId,
    pub(super) sku: String,
    pub(super) unit: Unit,
    /// What the book says, dollars.
    pub(super) booked: Option<UsdNanos>,
    pub(super) verdict: Verdict,
}

/// What became of the comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The provider says the same.
    Same(UsdNanos),
    /// The provider says something else, dollars per the book's unit.
    Differs { now: UsdNanos, share: Option<Share> },
    /// The book has no price for what a pool uses.
    New(UsdNanos),
    /// The provider does not tell it; what a person does.
    Untold(String),
    /// The provider has an API for it, and did not answer.
    Failed(String),
}

impl Verdict {
    /// Whether the book changes.
    pub(super) fn changes(&self) -> bool {
        match self {
            Self::Differs { .. } | Self::New(_) => true,
            Self::Same(_) | Self::Untold(_) | Self::Failed(_) => false,
        }
    }

    /// Why it could not be asked for.
    pub(super) fn failed(&self) -> Option<&str> {
        match self {
            Self::Failed(why) => Some(why),
            Self::Same(_) | Self::Differs { .. } | Self::New(_) | Self::Untold(_) => None,
        }
    }
}

impl Row {
    /// For machines.
    pub(super) fn json(&self) -> Value {
        let Self { provider, sku, unit, booked, verdict } = self;
        let (word, now, share, note) = match verdict {
            Verdict::Same(now) => ("same", Some(now), None, None),
            Verdict::Differs { now, share } => {
                ("differs", Some(now), share.map(|share| share.to_string()), None)
            }
            Verdict::New(now) => ("new", Some(now), None, None),
            Verdict::Untold(note) => ("untold", None, None, Some(note)),
            Verdict::Failed(note) => ("failed", None, None, Some(note)),
        };
        json!({
            "provider": provider, "sku": sku, "unit": unit, "book_usd": booked, "now_usd": now, "share": share, "verdict": word,
            "note": note,
        })
    }
}

/// Every price in force, and what pools use that has none. `skus` is what pools use, by whose prices they are booked.
pub(super) fn rows(
    book: &PriceBook,
    quoted: &BTreeMap<ProviderId, Quoted>,
    skus: &[(ProviderId, String)],
    at: Micros,
) -> Vec<Row> {
    let in_force = book.prices.iter().filter(|price| price.in_force(at));
    let mut rows: Vec<Row> = in_force
        .map(|price| Row {
            provider: price.provider.clone(),
            sku: price.sku.clone(),
            unit: price.unit,
            booked: Some(price.usd),
            verdict: verdict(
                book,
                (&price.provider, &price.sku, price.unit),
                quoted.get(&price.provider),
                at,
            ),
        })
        .collect();
    for (provider, sku) in skus {
        let now = quoted.get(provider).and_then(|quoted| quoted.of(sku));
        let known = |row: &Row| row.provider == *provider && row.sku == *sku;
        if let Some(now) = now.filter(|_| !rows.iter().any(known)) {
            let (provider, sku) = (provider.clone(), sku.clone());
            rows.push(Row { provider, sku, unit: now.unit, booked: None, verdict: Verdict::New(now.usd) });
        }
    }
    rows
}

fn verdict(
    book: &PriceBook,
    (provider, sku, unit): (&ProviderId, &str, Unit),
    quoted: Option<&Quoted>,
    at: Micros,
) -> Verdict {
    let by_hand = |page: &str| format!("no price API: check by hand at {page}, last dated {}", book.as_of);
    match quoted {
        None => match PAGES.iter().find(|(name, _)| *name == provider.as_str()) {
            Some((_, page)) => Verdict::Untold(by_hand(page)),
            None => Verdict::Untold(format!("not asked: no pool or account of {provider} is configured")),
        },
        Some(Quoted::Untold { page }) => Verdict::Untold(by_hand(page)),
        Some(Quoted::Failed(why)) => Verdict::Failed(format!("{provider}: {why}")),
        Some(quoted @ Quoted::Told(_)) => {
            let Some(now) = quoted.of(sku) else {
                return Verdict::Untold(
                    "the provider names no price for it now: check that it still has it".into(),
                );
            };
            match book.compare(provider, now, at).filter(|compared| compared.booked.unit == unit) {
                Some(compared) if compared.is_same() => Verdict::Same(compared.now),
                Some(compared) => Verdict::Differs { now: compared.now, share: compared.share() },
                None => Verdict::Untold(format!("the provider tells it per {}: check by hand", now.unit)),
            }
        }
    }
}

/// What the book is to say from now on.
pub(super) fn changes(rows: &[Row]) -> Vec<Change> {
    let changed = rows.iter().filter_map(|row| {
        let usd = match row.verdict {
            Verdict::Differs { now, .. } | Verdict::New(now) => now,
            Verdict::Same(_) | Verdict::Untold(_) | Verdict::Failed(_) => return None,
        };
        Some(Change { provider: row.provider.clone(), sku: row.sku.clone(), unit: row.unit, usd })
    });
    changed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::quoted::PriceNow;

    const AT: Micros = Micros::new(1_796_126_400_000_000);

    fn book() -> PriceBook {
        let entries = [
            ("lambda", "gpu_1x_a10", "hour", "0.75"),
            ("runpod", "L4", "second", "0.00019"),
            ("runpod", "OLD", "second", "0.1"),
            ("modal", "T4", "second", "0.000164"),
            ("golem", "standard", "inference", "0.0001"),
            ("host", "text", "million_tokens", "1"),
        ];
        let entry = |(provider, sku, unit, usd): &(&str, &str, &str, &str)| {
            format!(
                "[[price]]\nprovider = \"{provider}\"\nsku = \"{sku}\"\nunit = \"{unit}\"\nusd = \"{usd}\"\n"
            )
        };
        let entries: String = entries.iter().map(entry).collect();
        PriceBook::from_toml(&format!("version = \"1\"\nas_of = \"2026-11-24\"\nsource = \"t\"\n{entries}"))
            .unwrap()
    }

    fn told(prices: &[(&str, &str)]) -> Quoted {
        let price = |(sku, usd): &(&str, &str)| PriceNow {
            sku: (*sku).into(),
            unit: Unit::Hour,
            usd: usd.parse().unwrap(),
        };
        Quoted::Told(prices.iter().map(price).collect())
    }

    fn compared(quoted: &[(&str, Quoted)]) -> Vec<Row> {
        let quoted = quoted.iter().map(|(name, quoted)| (name.parse().unwrap(), quoted.clone())).collect();
        let skus = [("lambda".parse().unwrap(), "gpu_8x_h100".to_owned())];
        rows(&book(), &quoted, &skus, AT)
    }

    fn of<'a>(rows: &'a [Row], sku: &str) -> &'a Verdict {
        &rows.iter().find(|row| row.sku == sku).unwrap().verdict
    }

    #[test]
    fn what_differs_has_both_numbers_and_the_share_and_changes_the_book() {
        let lambda = told(&[("gpu_1x_a10", "1.29"), ("gpu_8x_h100", "31.92"), ("gpu_nobody_uses", "1")]);
        let rows = compared(&[("lambda", lambda), ("runpod", told(&[("L4", "0.684")]))]);
        assert_eq!(*of(&rows, "L4"), Verdict::Same("0.00019".parse().unwrap()));
        let Verdict::Differs { now, share } = of(&rows, "gpu_1x_a10") else { panic!("{rows:?}") };
        assert_eq!((now.to_string(), share.unwrap().to_string()), ("1.29".into(), "+72.0 %".into()));
        let changed: Vec<String> = changes(&rows).into_iter().map(|change| change.sku).collect();
        assert_eq!(changed, ["gpu_1x_a10", "gpu_8x_h100"], "and what no pool uses stays out");
    }

    #[test]
    fn what_no_api_tells_names_its_page_and_the_books_date() {
        let rows = compared(&[
            ("modal", Quoted::Untold { page: "https://modal.com/pricing" }),
            ("golem", told(&[("standard", "0.3")])),
            ("runpod", told(&[("L4", "0.684")])),
        ]);
        for (sku, words) in [
            ("T4", ["https://modal.com/pricing", "2026-11-24"]),
            ("standard", ["per hour", "by hand"]),
            ("OLD", ["names no price", "still has it"]),
            ("text", ["not asked", "host"]),
        ] {
            let Verdict::Untold(note) = of(&rows, sku) else { panic!("{sku}: {rows:?}") };
            assert!(words.iter().all(|word| note.contains(word)), "{note}");
        }
        assert_eq!(changes(&rows), []);
    }

    #[test]
    fn an_api_that_does_not_answer_changes_nothing_and_is_said() {
        let rows = compared(&[("lambda", Quoted::Failed("status 503".into()))]);
        assert_eq!(of(&rows, "gpu_1x_a10").failed(), Some("lambda: status 503"));
        assert_eq!(changes(&rows), []);
        assert_eq!(rows[0].json()["verdict"], "failed");
    }
}
