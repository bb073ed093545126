//! Words of servers: what they mean in whatever letters they are written. Pure.

/// A word in one way of writing: `maxTokens`, `MAX_TOKENS` and `Max Tokens` are `max_tokens`.
pub(super) fn plain(word: &str) -> String {
    let (mut plain, mut after_small) = (String::with_capacity(word.len()), false);
    for c in word.trim().chars() {
        let parts = c.is_ascii_uppercase() && after_small || !c.is_ascii_alphanumeric();
        if parts && !plain.is_empty() && !plain.ends_with('_') {
            plain.push('_');
        }
        if c.is_ascii_alphanumeric() {
            plain.push(c.to_ascii_lowercase());
        }
        after_small = c.is_ascii_lowercase() || c.is_ascii_digit();
    }
    plain.truncate(plain.trim_end_matches('_').len());
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_the_same_in_all_letters() {
        for word in
            ["max_tokens", "MAX_TOKENS", "maxTokens", "Max Tokens", " max-tokens ", "MaxTokens", "max.tokens"]
        {
            assert_eq!(plain(word), "max_tokens", "{word}");
        }
        assert_eq!(plain("EOS"), "eos");
        assert_eq!(plain("BadRequestError"), "bad_request_error");
        assert_eq!(plain("</s>"), "s");
        assert_eq!(plain(""), "");
    }
}
