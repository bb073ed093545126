//! What a check of a provider finds: one finding per question, with a voice and, where something is to be done, what. Pure.
//!
//! Adapters and landlords ask their providers and judge what only they understand. What all of them share is judged here: prices,
//! images, machines of others, round trips.

use std::{fmt::Write as _, time::Duration};

use serde::Serialize;

use crate::{
    Micros, ProviderId, UsdNanos,
    prices::{Price, PriceBook},
    quoted::Quoted,
};

/// What is asked, in the order in which a person sees to it: from an account to a paid answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Aspect {
    /// Whether the secrets that the configuration names are there.
    Secret,
    /// Whether the provider takes the key.
    Key,
    /// Whether the app or image is reachable, and no older than Beacon.
    App,
    /// Whether the model is served under its configured name.
    Model,
    /// Whether the region is served.
    Region,
    /// Whether the account may have what the pool needs.
    Quota,
    /// Whether SKU and price are as in the price book.
    Price,
    /// What runs in the account and is not ours.
    Foreign,
    /// How long a small request takes from here to the runner.
    RoundTrip,
}

impl Aspect {
    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Key => "key",
            Self::App => "app or image",
            Self::Model => "model",
            Self::Region => "region",
            Self::Quota => "quota",
            Self::Price => "sku and price",
            Self::Foreign => "not ours",
            Self::RoundTrip => "round trip",
        }
    }
}

/// How a finding is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Voice {
    /// As it should be.
    Ok,
    /// Jobs can run; a person should look.
    Warning,
    /// The provider does not say. Never a made-up value.
    Unknown,
    /// Jobs cannot run like this.
    Wrong,
}

impl Voice {
    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Unknown => "unknown",
            Self::Wrong => "wrong",
        }
    }
}

/// Something that stands in the account and bears no mark of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Foreign {
    /// The provider's id.
    pub id: String,
    /// What it is, for a person: `instance gpu_1x_a10 in us-east-1`.
    pub what: String,
    /// What an hour of it costs, where that is told; dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usd_per_hour: Option<UsdNanos>,
}

/// The answer to one question about one pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The question.
    pub aspect: Aspect,
    /// How the answer is meant.
    pub voice: Voice,
    /// The answer, for a person.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub todo: Option<String>,
    /// What stands in the account and is not ours.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub foreign: Vec<Foreign>,
}

/// What one check of a provider came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// One finding per question, without the price.
    pub findings: Vec<Finding>,
    /// What the provider says of its prices.
    pub prices: Quoted,
}

/// The report's limit between a region and its runner.
pub const ROUND_TRIP_MAX: Duration = Duration::from_millis(100);

/// Things of others that a line names; the rest is counted.
const NAMED: usize = 5;

impl Finding {
    fn new(aspect: Aspect, voice: Voice, found: impl Into<String>, todo: Option<String>) -> Self {
        Self { aspect, voice, found: found.into(), todo, foreign: Vec::new() }
    }

    /// All is well.
    pub fn ok(aspect: Aspect, found: impl Into<String>) -> Self {
        Self::new(aspect, Voice::Ok, found, None)
    }

    /// Jobs can run; a person should look.
    pub fn warning(aspect: Aspect, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::new(aspect, Voice::Warning, found, Some(todo.into()))
    }

    /// Nobody knows.
    pub fn unknown(aspect: Aspect, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::new(aspect, Voice::Unknown, found, Some(todo.into()))
    }

    /// Jobs cannot run.
    pub fn wrong(aspect: Aspect, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::new(aspect, Voice::Wrong, found, Some(todo.into()))
    }

    /// The finding and what to do, on one line.
    pub fn line(&self) -> String {
        let line = match &self.todo {
            Some(todo) => format!("{}; {todo}", self.found),
            None => self.found.clone(),
        };
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// Whether an image is named so that it cannot change under a pool. No API says whether it can be pulled.
pub fn image(reference: &str) -> Finding {
    let shown: String = reference.chars().take(80).collect();
    let pin = "name the image by its digest (…@sha256:<64 hexadecimal digits>)";
    if let Some((name, digest)) = reference.split_once("@sha256:") {
        let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        return if is_digest && !name.is_empty() {
            Finding::ok(Aspect::App, format!("image pinned by digest: {name}"))
        } else {
            Finding::wrong(
                Aspect::App,
                format!("`{shown}` is no image: a digest has 64 hexadecimal digits"),
                pin,
            )
        };
    }
    // A colon before the last slash belongs to a port.
    let last = reference.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        _ if last.is_empty() || reference.contains(char::is_whitespace) => {
            Finding::wrong(Aspect::App, format!("`{shown}` is no image"), pin)
        }
        Some((_, tag)) if !tag.is_empty() && tag != "latest" => {
            Finding::warning(Aspect::App, format!("image by a tag, which can change: {shown}"), pin)
        }
        Some(_) | None => {
            Finding::warning(Aspect::App, format!("image without a version, so it changes: {shown}"), pin)
        }
    }
}

/// What stands in the account and is not ours.
pub fn foreign(found: Vec<Foreign>) -> Finding {
    if found.is_empty() {
        return Finding::ok(Aspect::Foreign, "nothing stands there that is not ours");
    }
    let mut line = format!("{} not ours: ", found.len());
    for (index, one) in found.iter().take(NAMED).enumerate() {
        let price =
            one.usd_per_hour.map_or_else(|| ", price not told".to_owned(), |usd| format!(", ${usd} an hour"));
        // Writing to a string cannot fail.
        let _ = write!(line, "{}{} ({}{price})", if index == 0 { "" } else { ", " }, one.id, one.what);
    }
    if found.len() > NAMED {
        let _ = write!(line, " and {} more", found.len() - NAMED);
    }
    let known = crate::money::total(found.iter().filter_map(|one| one.usd_per_hour)).unwrap_or_default();
    if known > UsdNanos::ZERO {
        let _ = write!(line, "; ${known} an hour together");
    }
    let todo = "see whether somebody needs it: Beacon leaves it alone, and it is on your bill";
    Finding { foreign: found, ..Finding::warning(Aspect::Foreign, line, todo) }
}

/// How long a small request takes from here: the median of several on an open connection to `host`. `None`: none was answered.
pub fn round_trip(samples: Vec<Duration>, host: &str) -> Finding {
    let count = samples.len();
    let Some(median) = median(samples) else {
        return Finding::unknown(
            Aspect::RoundTrip,
            format!("{host} answers no request from here"),
            "look at the network between here and there",
        );
    };
    let most = ROUND_TRIP_MAX.as_millis();
    let found = format!("{:.1} ms to {host} (median of {count})", median.as_secs_f64() * 1e3);
    if median <= ROUND_TRIP_MAX {
        Finding::ok(Aspect::RoundTrip, found)
    } else {
        let todo = "run this region's workers nearer to it, or take another region there";
        Finding::warning(Aspect::RoundTrip, format!("{found}, above the report's {most} ms"), todo)
    }
}

/// The middle one; the lower of two.
pub fn median(mut samples: Vec<Duration>) -> Option<Duration> {
    samples.sort_unstable();
    samples.get(samples.len().saturating_sub(1) / 2).copied()
}

/// The SKU of a pool, as the price book and the provider have it.
#[derive(Clone, Copy, Debug)]
pub struct Priced<'a> {
    /// The book.
    pub book: &'a PriceBook,
    /// Whose prices.
    pub provider: &'a ProviderId,
    /// For what.
    pub sku: &'a str,
    /// How far the provider's price may be from the book's, thousandths.
    pub tolerance: u32,
    /// Whether the pool's jobs are booked by the book. What a rented machine costs is known when it is ordered.
    pub needed: bool,
}

/// Whether the price of a SKU is as in the book.
pub fn price(of: Priced<'_>, quoted: &Quoted, at: Micros) -> Finding {
    let Priced { book, provider, sku, tolerance: _, needed } = of;
    let booked: Vec<&Price> = book.of(provider, sku, at).collect();
    if booked.is_empty() && needed {
        let found = format!("{sku}: the price book has no price in force for {provider}");
        return Finding::wrong(Aspect::Price, found, "add a [[price]] entry with today's price");
    }
    let says = || match booked.as_slice() {
        [] => format!("{sku}: the book has no price"),
        prices => {
            let prices: Vec<String> =
                prices.iter().map(|price| format!("${} per {}", price.usd, price.unit)).collect();
            format!("{sku}: the book says {} as of {}", prices.join(" and "), book.as_of)
        }
    };
    match quoted {
        Quoted::Untold { page } => Finding::unknown(
            Aspect::Price,
            format!("{}, and there is no price API", says()),
            format!("check by hand at {page}"),
        ),
        Quoted::Failed(why) => Finding::unknown(
            Aspect::Price,
            format!("{}, and the prices now are not told: {why}", says()),
            "try again",
        ),
        Quoted::Told(_) => told(of, quoted, at, &says()),
    }
}

fn told(of: Priced<'_>, quoted: &Quoted, at: Micros, says: &str) -> Finding {
    let Priced { book, provider, sku, tolerance, needed: _ } = of;
    let Some(now) = quoted.of(sku) else {
        let found = format!("{says}, and the provider names no price for it now");
        return Finding::warning(
            Aspect::Price,
            found,
            "check the SKU's name, and that the provider still has it",
        );
    };
    let Some(compared) = book.compare(provider, now, at) else {
        let found = format!("{says}; the provider says ${} per {}", now.usd, now.unit);
        return Finding::ok(Aspect::Price, found);
    };
    let unit = compared.booked.unit;
    let both =
        format!("{sku}: the book says ${}, the provider ${} per {unit}", compared.booked.usd, compared.now);
    if compared.is_same() {
        return Finding::ok(Aspect::Price, format!("{sku}: ${} per {unit}, as in the book", compared.now));
    }
    let both = compared.share().map_or_else(|| both.clone(), |share| format!("{both} ({share})"));
    if compared.is_beyond(tolerance) {
        Finding::warning(Aspect::Price, both, "run `beacon prices check`, and accept what it writes")
    } else {
        Finding::ok(Aspect::Price, both)
    }
}

#[cfg(test)]
mod tests;
