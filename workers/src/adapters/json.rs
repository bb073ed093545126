//! Reads the JSON of providers: answers without repeating the model's words in an error, and spans in seconds.

use std::time::Duration;

use schemas::failure::{Failure, FailureClass};
use serde::de::DeserializeOwned;

/// Reads an answer; `whose` names it in the error. The error says where the answer is unreadable and repeats none of it,
/// because serde's own message may hold the model's words.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8], whose: &str) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| {
        let message = format!("unreadable JSON in {whose} at column {}", error.column());
        Failure::new(FailureClass::ProviderDown, message)
    })
}

/// Seconds as whole microseconds, rounded to the nearest; `None` for a number that is no span below three years.
pub(super) fn span(seconds: f64) -> Option<Duration> {
    let micros = (seconds * 1e6).round();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range is checked before"
    )]
    (0.0..1e14).contains(&micros).then(|| Duration::from_micros(micros as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreadable_answer_is_not_repeated() {
        let failure = read::<u64>(br#""the model's words""#, "the answer").unwrap_err();
        assert_eq!(failure.message, "unreadable JSON in the answer at column 19");
    }

    #[test]
    fn a_span_is_rounded_to_the_microsecond_and_a_senseless_one_is_none() {
        assert_eq!(span(0.834_512_4), Some(Duration::from_micros(834_512)));
        assert_eq!(span(0.0), Some(Duration::ZERO));
        for odd in [-1.0, f64::NAN, f64::INFINITY, 1e9] {
            assert_eq!(span(odd), None, "{odd}");
        }
    }
}
