//! Which dead letters are alike: same class, same provider, and a message that differs only in numbers and names. Pure.

use std::collections::BTreeMap;

use schemas::{Micros, ProviderId, dead::Obituary, failure::FailureClass};
use serde::Serialize;
use uuid::Uuid;

use crate::log::Entry;

/// Eight hex digits that letters of one cause share, today and tomorrow.
pub fn fingerprint(letter: &Obituary) -> String {
    let provider = last_provider(letter).map_or("-", |p| p.as_str());
    let text = format!("{}\0{provider}\0{}", letter.failure.class, pattern(&letter.failure.message));
    Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).simple().to_string()[..8].to_owned()
}

/// Where the last attempt was.
pub fn last_provider(letter: &Obituary) -> Option<&ProviderId> {
    letter.journal.entries.last().map(|entry| &entry.pool.provider)
}

/// A message with everything that names one case replaced: what stands in quotes, and every word with a digit in it.
pub fn pattern(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(at) = rest.find(['`', '"', '\'']) {
        let quote = &rest[at..=at];
        match rest[at + 1..].find(quote) {
            Some(end) => {
                words(&rest[..at], &mut out);
                out.push('…');
                rest = &rest[at + 1 + end + 1..];
            }
            None => break,
        }
    }
    words(rest, &mut out);
    out
}

fn words(text: &str, out: &mut String) {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let word = &rest[..end];
        out.push_str(if word.contains(|c: char| c.is_ascii_digit()) { "#" } else { word });
        let next = rest[end..].find(is_word).map_or(rest.len(), |at| end + at);
        out.push_str(&rest[end..next]);
        rest = &rest[next..];
    }
}

/// Letters that are alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// What they share.
    pub fingerprint: String,
    /// Their class.
    pub class: FailureClass,
    /// Where their last attempts were.
    pub provider: Option<ProviderId>,
    /// What the newest says.
    pub message: String,
    /// How many.
    pub count: u64,
    /// When the first was given up.
    pub first_us: Micros,
    /// When the last was.
    pub last_us: Micros,
}

/// Groups, the largest first.
pub fn group<'a>(letters: impl IntoIterator<Item = &'a Entry>) -> Vec<Group> {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for letter in letters.into_iter().filter_map(|entry| entry.obituary.as_ref()) {
        let key = fingerprint(letter);
        let group = groups.entry(key.clone()).or_insert_with(|| Group {
            fingerprint: key,
            class: letter.failure.class,
            provider: last_provider(letter).cloned(),
            message: String::new(),
            count: 0,
            first_us: letter.at_us,
            last_us: letter.at_us,
        });
        group.count += 1;
        group.first_us = group.first_us.min(letter.at_us);
        if letter.at_us >= group.last_us {
            group.last_us = letter.at_us;
            group.message.clone_from(&letter.failure.message);
        }
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    groups.sort_by(|a, b| b.count.cmp(&a.count).then(b.last_us.cmp(&a.last_us)));
    groups
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_names_one_case_is_left_out() {
        assert_eq!(
            pattern("run 0198c0de-0000 of `llama-3.2-1b` took 12.5s, status 503"),
            "run # of … took #, status #"
        );
        assert_eq!(pattern("it's down"), "it's down");
        assert_eq!(pattern("é `x` é1"), "é … #");
    }

    proptest! {
        #[test]
        fn numbers_and_ids_do_not_make_a_difference(a: u64, b: u64, id: [u8; 16]) {
            let text = |n: u64, id: Uuid| format!("job {id} failed after {n} ms at \"{n}\"");
            let (one, two) = (text(a, Uuid::from_bytes(id)), text(b, Uuid::nil()));
            // An id without a digit is a word like any other.
            prop_assume!(Uuid::from_bytes(id).to_string().contains(|c: char| c.is_ascii_digit()));
            prop_assert_eq!(pattern(&one), pattern(&two));
        }

        #[test]
        fn any_text_has_a_pattern(text in ".{0,80}") {
            let _ = pattern(&text);
        }
    }
}
