//! What a check of a pool's provider is asked, and where a provider's place lies. Pure.

use schemas::{
    Region,
    check::{Aspect, Checked, Finding},
    quoted::Quoted,
};

/// What a pool wants of its provider.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Where its jobs belong.
    pub region: Region,
    /// Jobs that one worker of it runs at a time.
    pub slots: u32,
    /// What it serves.
    pub models: Vec<AskedModel>,
    /// Endpoints and deployments of any pool of the configuration, by the provider's names: these are ours.
    pub ours: Vec<String>,
}

/// A model of a pool.
#[derive(Clone, Debug)]
pub struct AskedModel {
    /// Its name at the provider.
    pub served_as: String,
    /// The machine it runs on, by the price book's name.
    pub sku: String,
}

/// The check of a provider that nobody can be asked about.
pub(crate) fn nothing_to_ask() -> Checked {
    let found = "this kind of pool has no provider to ask";
    let findings = vec![Finding::unknown(Aspect::Key, found, "nothing is to be done")];
    Checked { findings, prices: Quoted::Failed("there is nobody to ask".into()) }
}

/// The parts of the world that names of places tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    America,
    Europe,
    AsiaPacific,
}

fn part(name: &str) -> Option<Part> {
    let name = name.to_ascii_lowercase();
    let first = name.split(['-', '_']).next().unwrap_or_default();
    match first {
        "us" | "ca" | "na" | "america" | "northamerica" => Some(Part::America),
        "eu" | "eur" | "europe" | "uk" => Some(Part::Europe),
        "ap" | "asia" | "apac" | "oc" | "australia" => Some(Part::AsiaPacific),
        _ => None,
    }
}

fn side(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    ["east", "west"].into_iter().find(|side| name.split(['-', '_']).any(|word| word.starts_with(side)))
}

/// Whether a provider's place lies in a region of ours, as far as both names tell; `None` where they do not.
pub(crate) fn lies_in(region: &Region, place: &str) -> Option<bool> {
    let (ours, theirs) = (part(region.as_str())?, part(place)?);
    let sides = side(region.as_str()).zip(side(place));
    // Two coasts of one country are apart; `eu-west` and a place in Europe without a side are not.
    Some(ours == theirs && sides.is_none_or(|(ours, theirs)| ours == theirs))
}

/// The finding about a place that a provider names.
pub(crate) fn region(asked: &Asked, place: &str) -> Finding {
    let region = &asked.region;
    match lies_in(region, place) {
        Some(true) => Finding::ok(Aspect::Region, format!("it runs in {place}")),
        Some(false) => Finding::wrong(
            Aspect::Region,
            format!("it runs in {place}, which is not in {region}"),
            format!("deploy one in {region}, or put the pool into the region where this one is"),
        ),
        None => Finding::unknown(
            Aspect::Region,
            format!("it runs in {place}; its name does not tell whether that is in {region}"),
            "see whether it is",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_lies_in_a_region_as_far_as_both_names_tell() {
        for (region, place, expected) in [
            ("us-east", "us-east-1", Some(true)),
            ("us-east", "us", Some(true)),
            ("us-east", "us-west", Some(false)),
            ("us-east", "US-NC-1", Some(true)),
            ("us-east", "eu", Some(false)),
            ("eu-west", "EUR-IS-1", Some(true)),
            ("eu-west", "eu-west", Some(true)),
            ("asia-pacific", "ap-southeast", Some(true)),
            ("asia-pacific", "OC-AU-1", Some(true)),
            ("asia-pacific", "CA-MTL-1", Some(false)),
            ("moon", "us-east", None),
            ("us-east", "somewhere", None),
        ] {
            assert_eq!(lies_in(&region.parse().unwrap(), place), expected, "{region} {place}");
        }
    }
}
