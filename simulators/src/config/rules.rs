//! The checks of a configuration: each names the key at fault, and the rule that its value breaks.

/// A key, and the rule that its value breaks.
pub(super) type Broken = (&'static str, &'static str);

/// A year in milliseconds. Longer times are most likely a mistake of unit.
pub(super) const YEAR_MS: u64 = 365 * 86_400_000;
/// The rule of a time that is longer than [`YEAR_MS`].
pub(super) const AT_MOST_A_YEAR: &str = "at most 31536000000 (a year)";

/// The first of some checks that fails, each with its outcome, its key and its rule.
pub(super) fn first_broken(
    checks: impl IntoIterator<Item = (bool, &'static str, &'static str)>,
) -> Option<Broken> {
    checks.into_iter().find_map(|(fine, key, rule)| (!fine).then_some((key, rule)))
}
