//! The tokens of an answer, by the server's count. Pure.

use crate::adapters::json::{count, fields};

/// What a server counted. A field that is no count is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) prompt: Option<u64>,
    pub(super) completion: Option<u64>,
}

impl Counts {
    /// Reads `usage`. Some services have other names for its fields.
    pub(super) fn of_usage(usage: &str) -> Option<Self> {
        let names = ["prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"];
        let [prompt, completion, input, output] = fields(usage, &names).ok()?;
        let either = |first: Option<&str>, second: Option<&str>| first.or(second).and_then(count);
        Self { prompt: either(prompt, input), completion: either(completion, output) }.known()
    }

    /// Reads llama.cpp's `timings`, which come where its `usage` was not asked for. What was cached was read before.
    pub(super) fn of_timings(timings: &str) -> Option<Self> {
        let found = fields(timings, &["prompt_n", "cache_n", "predicted_n"]).ok()?;
        let [prompt, cached, completion] = found.map(|number| number.and_then(count));
        Self { prompt: prompt.map(|n| n + cached.unwrap_or(0)), completion }.known()
    }

    /// Zeros are no counts: Ollama sends them on the way.
    fn known(self) -> Option<Self> {
        let some = |tokens: Option<u64>| tokens.is_some_and(|n| n > 0);
        (some(self.prompt) || some(self.completion)).then_some(self)
    }
}

/// The tokens of the prompt that the server had in its cache: of `usage`, as OpenAI and Moonshot write them, else of llama.cpp's
/// `timings`. `None` where it does not say, which is not 0.
pub(super) fn cached(usage: Option<&str>, timings: Option<&str>) -> Option<u64> {
    let of_usage = |usage| {
        let names = ["prompt_tokens_details", "input_tokens_details", "cached_tokens"];
        let [prompt, input, plain] = fields(usage, &names).ok()?;
        let details = prompt.or(input).and_then(|details| fields(details, &["cached_tokens"]).ok()?[0]);
        details.or(plain).and_then(count)
    };
    let of_timings = |timings| fields(timings, &["cache_n"]).ok()?[0].and_then(count);
    usage.and_then(of_usage).or_else(|| timings.and_then(of_timings))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(usage: &str, prompt: Option<u64>, completion: Option<u64>) {
        assert_eq!(Counts::of_usage(usage), Some(Counts { prompt, completion }), "{usage}");
    }

    #[test]
    fn a_count_that_is_none_is_missing_and_spoils_nothing() {
        check(r#"{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8}"#, Some(5), Some(3));
        check(r#"{"prompt_tokens":5.0,"completion_tokens":3.0}"#, Some(5), Some(3));
        check(r#"{"input_tokens":5,"output_tokens":3}"#, Some(5), Some(3));
        check(r#"{"prompt_tokens":5,"completion_tokens":0}"#, Some(5), Some(0));
        for odd in [
            "-35",
            "37.25",
            "\"3\"",
            "1e30",
            "18446744073709551615",
            "null",
            "[3]",
            "{\"n\":3}",
            "true",
            "\"NaN\"",
        ] {
            check(&format!(r#"{{"prompt_tokens":5,"completion_tokens":{odd}}}"#), Some(5), None);
        }
        for none in [
            "{}",
            "[]",
            "[{}]",
            "\"7\"",
            "7",
            r#"{"prompt_tokens":0,"completion_tokens":0}"#,
            r#"{"prompt_tokens":"5"}"#,
        ] {
            assert_eq!(Counts::of_usage(none), None, "{none}");
        }
    }

    #[test]
    fn timings_count_what_was_cached_as_read() {
        let timings = r#"{"cache_n":20,"prompt_n":4,"prompt_ms":3.1,"predicted_n":7}"#;
        assert_eq!(Counts::of_timings(timings), Some(Counts { prompt: Some(24), completion: Some(7) }));
    }
}
