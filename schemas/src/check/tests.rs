use super::*;
use crate::quoted::PriceNow;

const AT: Micros = Micros::new(1_796_126_400_000_000);

const BOOK: &str = r#"
    version = "1"
    as_of = "2026-11-24"
    source = "test"
    [[price]]
    provider = "lambda"
    sku = "gpu_1x_a10"
    unit = "hour"
    usd = "0.75"
"#;

fn judge(sku: &str, needed: bool, quoted: &Quoted) -> Finding {
    let (book, provider) = (PriceBook::from_toml(BOOK).unwrap(), "lambda".parse().unwrap());
    price(Priced { book: &book, provider: &provider, sku, tolerance: 200, needed }, quoted, AT)
}

fn told(sku: &str, unit: Unit, usd: &str) -> Quoted {
    Quoted::Told(vec![PriceNow { sku: sku.into(), unit, usd: usd.parse().unwrap() }])
}

use crate::prices::Unit;

#[test]
fn a_price_beyond_the_tolerance_is_a_warning_with_both_numbers() {
    for (usd, voice) in [
        ("0.75", Voice::Ok),
        ("0.9", Voice::Ok),
        ("0.6", Voice::Ok),
        ("1.29", Voice::Warning),
        ("0.59", Voice::Warning),
    ] {
        let finding = judge("gpu_1x_a10", true, &told("gpu_1x_a10", Unit::Hour, usd));
        assert_eq!(finding.voice, voice, "{finding:?}");
        assert!(finding.line().contains(usd), "{}", finding.line());
    }
    let line = judge("gpu_1x_a10", true, &told("gpu_1x_a10", Unit::Hour, "1.29")).line();
    for part in ["$0.75", "$1.29", "+72.0 %", "beacon prices check"] {
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn a_sku_that_the_book_needs_and_has_not_is_wrong_and_of_a_rented_machine_it_is_told() {
    let quoted = told("gpu_8x_h100", Unit::Hour, "31.92");
    assert_eq!(judge("gpu_8x_h100", true, &quoted).voice, Voice::Wrong);
    let rented = judge("gpu_8x_h100", false, &quoted);
    assert!(rented.voice == Voice::Ok && rented.found.contains("$31.92 per hour"), "{rented:?}");
}

#[test]
fn what_nobody_tells_is_unknown_and_says_where_to_look() {
    let by_hand = judge("gpu_1x_a10", true, &Quoted::Untold { page: "https://example.com/pricing" });
    assert_eq!(by_hand.voice, Voice::Unknown);
    for part in ["$0.75 per hour", "2026-11-24", "no price API", "https://example.com/pricing"] {
        assert!(by_hand.line().contains(part), "{}", by_hand.line());
    }
    assert_eq!(judge("gpu_1x_a10", true, &Quoted::Failed("status 500".into())).voice, Voice::Unknown);
    assert_eq!(judge("gpu_1x_a10", true, &Quoted::Told(vec![])).voice, Voice::Warning);
}

#[test]
fn an_image_is_pinned_named_by_a_tag_or_nothing() {
    let digest = "a".repeat(64);
    for (reference, voice) in [
        (format!("ghcr.io/x/y@sha256:{digest}"), Voice::Ok),
        (format!("ghcr.io/x/y:v1@sha256:{digest}"), Voice::Ok),
        ("ghcr.io/x/y@sha256:0".into(), Voice::Wrong),
        (format!("@sha256:{digest}"), Voice::Wrong),
        ("registry:5000/x/y".into(), Voice::Warning),
        ("vllm/vllm-openai:v0.11".into(), Voice::Warning),
        ("vllm/vllm-openai:latest".into(), Voice::Warning),
        ("two words".into(), Voice::Wrong),
        (String::new(), Voice::Wrong),
    ] {
        let finding = image(&reference);
        assert_eq!(finding.voice, voice, "{reference}: {finding:?}");
    }
}

#[test]
fn what_is_not_ours_is_named_and_added_up_as_far_as_prices_are_told() {
    assert_eq!(foreign(vec![]).voice, Voice::Ok);
    let one = |id: usize, usd: Option<&str>| Foreign {
        id: format!("i-{id}"),
        what: "instance gpu_1x_a10".into(),
        usd_per_hour: usd.map(|usd| usd.parse().unwrap()),
    };
    let found = foreign(vec![one(1, Some("1.29")), one(2, None), one(3, Some("0.01"))]);
    assert_eq!((found.voice, found.foreign.len()), (Voice::Warning, 3));
    for part in ["3 not ours", "i-1", "$1.29 an hour", "price not told", "$1.3 an hour together"] {
        assert!(found.found.contains(part), "{}", found.found);
    }
    let many = foreign((0..9).map(|id| one(id, None)).collect());
    assert!(many.found.contains("and 4 more") && !many.found.contains("i-5"), "{}", many.found);
}

#[test]
fn a_round_trip_is_a_median_against_the_reports_limit() {
    let millis = |all: &[u64]| all.iter().copied().map(Duration::from_millis).collect::<Vec<_>>();
    assert_eq!(round_trip(millis(&[9, 500, 20, 21, 30]), "h").found, "21.0 ms to h (median of 5)");
    assert_eq!(round_trip(millis(&[100]), "h").voice, Voice::Ok);
    assert_eq!(round_trip(millis(&[101, 101]), "h").voice, Voice::Warning);
    assert_eq!(round_trip(vec![], "h").voice, Voice::Unknown);
}

#[test]
fn a_finding_is_one_line_whatever_a_provider_said() {
    let line = Finding::wrong(Aspect::Key, "<html>\n  no\n</html>", "give a key").line();
    assert_eq!(line, "<html> no </html>; give a key");
    let names: Vec<&str> = [Aspect::Secret, Aspect::Key, Aspect::RoundTrip].map(Aspect::name).into();
    assert_eq!(names, ["secret", "key", "round trip"]);
    assert!(Voice::Warning < Voice::Wrong && Aspect::Key < Aspect::App && Aspect::Quota < Aspect::Price);
}
