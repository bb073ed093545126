//! A key of the file, the rule that its value breaks, and the rules that several sections share.

use std::time::Duration;

use super::span::Span;

/// A key, and the rule that its value breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {text}")]
pub(crate) struct Rule {
    pub(crate) key: String,
    pub(crate) text: String,
}

impl Rule {
    pub(crate) fn new(key: impl Into<String>, text: impl Into<String>) -> Self {
        Self { key: key.into(), text: text.into() }
    }
}

/// At least `min`; `why` continues the sentence.
pub(super) fn at_least(key: &str, value: Span, min: Span, why: &str) -> Result<Duration, Rule> {
    if value < min {
        return Err(Rule::new(key, format!("`{value}` must be at least {min}{why}")));
    }
    Ok(value.get())
}

/// `long` must be longer than `short`; both with their keys.
pub(super) fn longer(long: (&str, Span), short: (&str, Span)) -> Result<Duration, Rule> {
    if long.1 <= short.1 {
        return Err(Rule::new(
            long.0,
            format!("`{}` must be longer than {} (`{}`)", long.1, short.0, short.1),
        ));
    }
    Ok(long.1.get())
}

/// More than nothing.
pub(super) fn positive<T: PartialEq + From<u8>>(key: &str, value: T) -> Result<T, Rule> {
    if value == T::from(0) {
        return Err(Rule::new(key, "`0` must be at least 1"));
    }
    Ok(value)
}

/// A share: 0 to 1.
pub(super) fn part(key: &str, value: f64) -> Result<f64, Rule> {
    if (0.0..=1.0).contains(&value) {
        Ok(value)
    } else {
        Err(Rule::new(key, format!("`{value}` must be 0 to 1")))
    }
}
