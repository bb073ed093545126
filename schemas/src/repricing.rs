//! The dated change of a price book: a new text of the file, for a person to accept. Pure.
//!
//! The price in force is closed by `until`, and a new entry with `from` follows it. Comments, order and everything else stay as they
//! are, and so does what was booked before. The text is read by the book's own reader before it is given out.

use std::ops::Range;

use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use serde::Deserialize;
use toml::Spanned;

use crate::{
    Micros, ProviderId, UsdNanos,
    prices::{Price, PriceBook, PriceError, Unit},
};

/// One price that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whose.
    pub provider: ProviderId,
    /// For what.
    pub sku: String,
    /// Per what: the unit of the entry that is replaced, or that of a new one.
    pub unit: Unit,
    /// The new price, dollars.
    pub usd: UsdNanos,
}

/// What the new state of the book is called.
#[derive(Clone, Debug)]
pub struct Edition {
    /// From when on the new prices hold.
    pub from: DateTime<Utc>,
    /// Where they were read.
    pub source: String,
}

/// Why no change can be written.
#[derive(Debug, thiserror::Error)]
pub enum RepriceError {
    /// The book does not read, before or after.
    #[error(transparent)]
    Book(#[from] PriceError),
    /// The file is laid out so that nothing can be put between its lines.
    #[error("the price book cannot be changed by machine: {0}; change it by hand")]
    Layout(String),
}

#[derive(Deserialize)]
struct Places {
    version: Spanned<String>,
    as_of: Spanned<toml::Value>,
    source: Spanned<String>,
    price: Vec<PricePlaces>,
}

#[derive(Deserialize)]
struct PricePlaces {
    provider: Spanned<toml::Value>,
    sku: Spanned<toml::Value>,
    unit: Spanned<toml::Value>,
    usd: Spanned<toml::Value>,
    from: Option<Spanned<toml::Value>>,
    until: Option<Spanned<toml::Value>>,
}

impl PricePlaces {
    /// Where the last value of the entry ends.
    fn end(&self) -> usize {
        let always = [&self.provider, &self.sku, &self.unit, &self.usd];
        let all = always.into_iter().chain(&self.from).chain(&self.until);
        all.map(|value| value.span().end).max().unwrap_or_default()
    }
}

/// A text that takes the place of another.
struct Edit {
    at: Range<usize>,
    text: String,
}

/// The book with other prices from `edition.from` on. A change of what has no price in force is added at the end.
pub fn reprice(text: &str, changes: &[Change], edition: &Edition) -> Result<String, RepriceError> {
    let book = PriceBook::from_toml(text)?;
    let places: Places = toml::from_str(text).map_err(|error| layout(error.message()))?;
    if places.price.len() != book.prices.len() {
        return Err(layout("its entries are not where they read"));
    }
    let at = Micros::from(edition.from);
    let mut edits = vec![
        Edit {
            at: places.version.span(),
            text: quoted(&next_version(&book.version, edition.from.date_naive())),
        },
        Edit { at: places.as_of.span(), text: quoted(&edition.from.date_naive().to_string()) },
        Edit { at: places.source.span(), text: quoted(&edition.source) },
    ];
    let mut added = String::new();
    for change in changes {
        let is_meant = |price: &Price| {
            price.provider == change.provider
                && price.sku == change.sku
                && price.unit == change.unit
                && price.in_force(at)
        };
        match book.prices.iter().position(is_meant) {
            Some(index) => {
                edits.extend(replaced(text, &places.price[index], &book.prices[index], change, edition))
            }
            None => added.push_str(&entry(change, edition, None)),
        }
    }
    edits.sort_by_key(|edit| std::cmp::Reverse(edit.at.start));
    let mut new = text.trim_end().to_owned();
    for edit in edits {
        if edit.at.end > new.len() {
            return Err(layout("its end is not where it reads"));
        }
        new.replace_range(edit.at, &edit.text);
    }
    new.push('\n');
    new.push_str(&added);
    check(&new, &book, changes, at)?;
    Ok(new)
}

/// Closes an entry, and lets the new one follow.
fn replaced(text: &str, place: &PricePlaces, old: &Price, change: &Change, edition: &Edition) -> Vec<Edit> {
    let from = quoted(&written(edition.from));
    let line_end = |at: usize| text[at..].find('\n').map_or(text.trim_end().len(), |found| at + found);
    // What stands behind a value on its line, a comment, stays there.
    let end = line_end(place.end());
    let new = entry(change, edition, old.until);
    let new = new.trim_end();
    match &place.until {
        Some(until) => {
            vec![Edit { at: until.span(), text: from }, Edit { at: end..end, text: format!("\n{new}") }]
        }
        None => vec![Edit { at: end..end, text: format!("\nuntil = {from}\n{new}") }],
    }
}

fn entry(change: &Change, edition: &Edition, until: Option<DateTime<Utc>>) -> String {
    let Change { provider, sku, unit, usd } = change;
    let unit =
        toml::Value::try_from(unit).map_or_else(|_| quoted(&unit.to_string()), |unit| unit.to_string());
    let until = until.map_or_else(String::new, |until| format!("until = {}\n", quoted(&written(until))));
    format!(
        "\n[[price]]\nprovider = {}\nsku = {}\nunit = {unit}\nusd = {}\nfrom = {}\n{until}",
        quoted(provider.as_str()),
        quoted(sku),
        quoted(&usd.to_string()),
        quoted(&written(edition.from)),
    )
}

/// The new text must say what was meant, and leave every price before as it was.
fn check(new: &str, old: &PriceBook, changes: &[Change], at: Micros) -> Result<(), RepriceError> {
    let book = PriceBook::from_toml(new)?;
    let before = Micros::new(at.get().saturating_sub(1));
    for change in changes {
        let of = |book: &PriceBook, at| {
            book.of(&change.provider, &change.sku, at)
                .find(|price| price.unit == change.unit)
                .map(|price| price.usd)
        };
        if of(&book, at) != Some(change.usd) || of(&book, before) != of(old, before) {
            return Err(layout(&format!(
                "the price of {} {} does not come out as meant",
                change.provider, change.sku
            )));
        }
    }
    Ok(())
}

/// `2026-11-28.1`, or the next number of the same day.
fn next_version(old: &str, day: NaiveDate) -> String {
    let of_day = old.strip_prefix(&format!("{day}.")).and_then(|number| number.parse::<u32>().ok());
    format!("{day}.{}", of_day.map_or(1, |number| number.saturating_add(1)))
}

fn written(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// A text as TOML writes it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn layout(what: &str) -> RepriceError {
    RepriceError::Layout(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOK: &str = "# The book.\nversion = \"2026-11-24.1\" # its name\nas_of = \"2026-11-24\"\nsource = \"by hand\"\n\n\
        # Lambda.\n[[price]] # an A10\nprovider = \"lambda\"\nsku = \"gpu_1x_a10\"\nunit = \"hour\"\nusd = \"0.75\" # old\n\n\
        # Modal.\n[[price]]\nprovider = \"modal\"\nsku = \"T4\"\nunit = \"second\"\nusd = \"0.000164\"\n\
        until = \"2027-01-01T00:00:00Z\"\n\n[[price]]\nprovider = \"modal\"\nsku = \"T4\"\nunit = \"second\"\nusd = \"0.0002\"\n\
        from = \"2027-01-01T00:00:00Z\"\n";

    fn edition() -> Edition {
        let from = DateTime::parse_from_rfc3339("2026-11-28T12:00:00Z").unwrap().to_utc();
        Edition { from, source: "Lambda's \"API\" on 2026-11-28".into() }
    }

    fn change(provider: &str, sku: &str, unit: Unit, usd: &str) -> Change {
        Change { provider: provider.parse().unwrap(), sku: sku.into(), unit, usd: usd.parse().unwrap() }
    }

    #[test]
    fn the_old_price_is_closed_and_the_new_one_follows_while_comments_stay() {
        let new = reprice(BOOK, &[change("lambda", "gpu_1x_a10", Unit::Hour, "1.29")], &edition()).unwrap();
        let expected = "[[price]] # an A10\nprovider = \"lambda\"\nsku = \"gpu_1x_a10\"\nunit = \"hour\"\nusd = \"0.75\" # old\n\
             until = \"2026-11-28T12:00:00Z\"\n\n[[price]]\nprovider = \"lambda\"\nsku = \"gpu_1x_a10\"\nunit = \"hour\"\n\
             usd = \"1.29\"\nfrom = \"2026-11-28T12:00:00Z\"\n\n# Modal.\n";
        assert!(new.contains(expected), "{new}");
        assert!(
            new.starts_with("# The book.\nversion = \"2026-11-28.1\" # its name\nas_of = \"2026-11-28\"\n"),
            "{new}"
        );
        let book = PriceBook::from_toml(&new).unwrap();
        assert_eq!((book.source.as_str(), book.prices.len()), ("Lambda's \"API\" on 2026-11-28", 4));
    }

    #[test]
    fn a_price_that_ends_already_ends_earlier_and_what_was_announced_stays() {
        let new = reprice(BOOK, &[change("modal", "T4", Unit::Second, "0.00018")], &edition()).unwrap();
        let (book, modal) = (PriceBook::from_toml(&new).unwrap(), "modal".parse().unwrap());
        let at = |text: &str| Micros::from(DateTime::parse_from_rfc3339(text).unwrap().to_utc());
        let usd = |at| book.of(&modal, "T4", at).map(|price| price.usd.to_string()).collect::<Vec<_>>();
        assert_eq!(usd(at("2026-11-28T11:59:59Z")), ["0.000164"]);
        assert_eq!(usd(at("2026-11-28T12:00:00Z")), ["0.00018"]);
        assert_eq!(usd(at("2027-01-01T00:00:00Z")), ["0.0002"]);
    }

    #[test]
    fn what_has_no_price_yet_is_added_at_the_end_and_nothing_ends_with_the_file() {
        let changes =
            [change("lambda", "gpu_8x_h100", Unit::Hour, "31.92"), change("modal", "T4", Unit::Second, "1")];
        for text in [BOOK, BOOK.trim_end(), &BOOK.replace('\n', "\r\n")] {
            let new = reprice(text, &changes, &edition()).unwrap();
            assert_eq!(PriceBook::from_toml(&new).unwrap().prices.len(), 5, "{new}");
        }
    }

    #[test]
    fn the_shipped_book_takes_a_change_of_each_of_its_prices() {
        let text = include_str!("../../prices.toml");
        let book = PriceBook::from_toml(text).unwrap();
        let changes: Vec<Change> = book
            .prices
            .iter()
            .map(|price| change(price.provider.as_str(), &price.sku, price.unit, "7"))
            .collect();
        let new = reprice(text, &changes, &edition()).unwrap();
        let lines = |text: &str| {
            text.lines().filter(|line| line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(lines(&new), lines(text), "comments and their order stay");
        assert_eq!(PriceBook::from_toml(&new).unwrap().prices.len(), 2 * book.prices.len());
    }

    #[test]
    fn a_second_change_of_a_day_has_the_next_number() {
        let day = "2026-11-28".parse().unwrap();
        assert_eq!(next_version("2026-11-28.1", day), "2026-11-28.2");
        assert_eq!(next_version("2026-11-24.7", day), "2026-11-28.1");
        assert_eq!(next_version("odd", day), "2026-11-28.1");
    }

    #[test]
    fn a_book_on_one_line_is_left_to_a_person() {
        let text = "version = \"1\"\nas_of = \"2026-11-24\"\nsource = \"s\"\n\
             price = [{ provider = \"p\", sku = \"s\", unit = \"hour\", usd = \"1\" }]\n";
        assert!(reprice(text, &[change("p", "s", Unit::Hour, "2")], &edition()).is_err());
    }
}
