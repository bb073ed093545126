//! Amounts of GLM in units of 10⁻¹⁸, with arithmetic of their own.

/// Parts of a GLM.
const PARTS: u128 = 1_000_000_000_000_000_000;

/// A decimal text in parts; `None` if it is none, or has more than 18 decimals.
pub(super) fn parts(text: &str) -> Option<u128> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if part.len() > 18 || whole.is_empty() {
        return None;
    }
    let part: u128 = format!("{part:0<18}").parse().ok()?;
    whole.parse::<u128>().ok()?.checked_mul(PARTS)?.checked_add(part)
}

/// Parts as a decimal text.
pub(super) fn text(parts: u128) -> String {
    let (whole, part) = (parts / PARTS, parts % PARTS);
    let text = format!("{whole}.{part:018}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// What an activity costs: the start, and each price times its counter in microseconds, rounded down to a part.
pub(super) fn due(prices: &[u128], start: u128, used_us: &[u64]) -> u128 {
    let each = prices.iter().zip(used_us).map(|(price, used)| price * u128::from(*used) / 1_000_000);
    start + each.sum::<u128>()
}

/// Nano-dollars at a rate in nano-dollars for one GLM, rounded up.
pub(super) fn usd_nanos(parts: u128, rate_nanos: u64) -> u64 {
    let nanos = (parts * u128::from(rate_nanos)).div_ceil(PARTS);
    u64::try_from(nanos).expect("a simulated bill fits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_survive_their_text() {
        for sample in ["0", "0.0421", "12", "0.000000000000000001"] {
            assert_eq!(text(parts(sample).unwrap()), sample);
        }
        assert_eq!(parts("0.0000000000000000001"), None);
        assert_eq!(parts("x"), None);
    }

    #[test]
    fn prices_go_with_their_counters() {
        let (one, two) = (parts("0.001").unwrap(), parts("0.0002").unwrap());
        assert_eq!(text(due(&[one, two], parts("0.5").unwrap(), &[100_000_000, 10_000_000])), "0.602");
        assert_eq!(usd_nanos(parts("0.0421").unwrap(), 234_500_000), 9_872_450);
    }
}
