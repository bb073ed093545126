//! Reads the JSON of providers as they really write it: answers without repeating the model's words in an error, counts and
//! fields of odd types without losing what stands beside them, and spans in seconds.

use std::{fmt, time::Duration};

use schemas::failure::{Failure, FailureClass};
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

/// No answer has more tokens: a count beyond it is a mistake, and sums of such counts would not fit.
const COUNT_MAX: f64 = 1e9;

/// Reads an answer; `whose` names it in the error. The error says where the answer is unreadable and repeats none of it,
/// because serde's own message may hold the model's words.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8], whose: &str) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| unreadable(&error, whose))
}

/// What JSON that does not read means.
pub(super) fn unreadable(error: &serde_json::Error, whose: &str) -> Failure {
    let message = format!("unreadable JSON in {whose} at column {}", error.column());
    Failure::new(FailureClass::ProviderDown, message)
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

/// A count, from the text of a JSON number: whole, not negative, and no more than [`COUNT_MAX`]. `3.0` and `1e2` are whole;
/// `37.25`, `-35` and a number in quotes are no counts.
pub(super) fn count(number: &str) -> Option<u64> {
    let float = number
        .trim()
        .parse::<f64>()
        .ok()
        .filter(|f| number.trim_start().starts_with(|c: char| c.is_ascii_digit()) && f.fract() == 0.0)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole, and the range is checked before"
    )]
    (0.0..=COUNT_MAX).contains(&float).then_some(float as u64)
}

/// A field that is a count where it reads as one, and else is missing: an odd count must not spoil what stands beside it.
pub(super) fn lax_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(value.as_number().and_then(|number| count(&number.to_string())))
}

/// A field that is missing where it does not read as what it should be. Servers write null, texts and objects in places where
/// their descriptions know only one type.
pub(super) fn lax<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).ok())
}

/// The same with the type's default in place of what is missing.
pub(super) fn lax_or_default<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    lax(deserializer).map(Option::unwrap_or_default)
}

/// A span in milliseconds, whole or not; missing where it is none.
pub(super) fn lax_millis<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    Ok(lax::<D, f64>(deserializer)?.and_then(|millis| span(millis / 1e3)))
}

/// The named fields of a JSON object, each as the text of its value; `None` for one that is absent or null. A name that comes
/// twice keeps its last value that is not null.
pub(super) fn fields<'a, const N: usize>(
    object: &'a str,
    names: &[&str; N],
) -> Result<[Option<&'a str>; N], serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(object);
    let found = reader.deserialize_map(Fields(names))?;
    reader.end().map(|()| found)
}

/// The elements of a JSON list, each as the text of its value; empty for anything else.
pub(super) fn elements(list: &str) -> Vec<&str> {
    let elements = serde_json::from_str::<Vec<&RawValue>>(list).unwrap_or_default();
    elements.into_iter().map(RawValue::get).collect()
}

struct Fields<'n, const N: usize>(&'n [&'n str; N]);

impl<'de, const N: usize> Visitor<'de> for Fields<'_, N> {
    type Value = [Option<&'de str>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [None; N];
        while let Some(place) = map.next_key_seed(Name(self.0))? {
            match place {
                Some(place) => {
                    let value = map.next_value::<&'de RawValue>()?.get();
                    if value != "null" {
                        found[place] = Some(value);
                    }
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

/// The place of a key among names.
struct Name<'n>(&'n [&'n str]);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        // As bytes, since half a surrogate pair is no text.
        deserializer.deserialize_bytes(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_bytes<E: de::Error>(self, key: &[u8]) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|name| name.as_bytes() == key))
    }
}

/// The same JSON with null in place of `NaN`, `Infinity` and `-Infinity`, which Python's servers write beside good text and JSON
/// does not know; `None` when there is none of them.
pub(super) fn without_nan(text: &str) -> Option<String> {
    const ODD: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
    let (mut mended, mut rest, mut quoted, mut escaped) = (String::new(), text, false, false);
    let mut found = false;
    while let Some(c) = rest.chars().next() {
        if let Some(odd) = ODD.iter().find(|odd| !quoted && rest.starts_with(**odd)) {
            mended.push_str("null");
            rest = &rest[odd.len()..];
            found = true;
            continue;
        }
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        mended.push(c);
        rest = &rest[c.len_utf8()..];
    }
    found.then_some(mended)
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

    #[test]
    fn a_count_is_a_whole_number_that_an_answer_could_have() {
        for (text, expected) in [
            ("0", Some(0)),
            ("3", Some(3)),
            ("3.0", Some(3)),
            ("1e2", Some(100)),
            ("1000000000", Some(1_000_000_000)),
        ] {
            assert_eq!(count(text), expected, "{text}");
        }
        for odd in
            ["-1", "37.25", "\"3\"", "18446744073709551615", "1e30", "NaN", "null", "[]", "inf", "+3", ""]
        {
            assert_eq!(count(odd), None, "{odd}");
        }
    }

    #[test]
    fn fields_are_found_whatever_their_types_and_however_often() {
        let found =
            fields(r#"{"a":[1,{"b":2}],"\ud83d":1,"c":"x","c":null,"d":null}"#, &["c", "a", "d", "e"]);
        assert_eq!(found.unwrap(), [Some("\"x\""), Some("[1,{\"b\":2}]"), None, None]);
        for odd in ["[]", "1", "{", "{}x", ""] {
            assert!(fields(odd, &["a"]).is_err(), "{odd}");
        }
        assert_eq!(elements("[1, {}]"), ["1", "{}"]);
        assert!(elements("{}").is_empty());
    }

    #[test]
    fn an_odd_field_is_missing_and_spoils_nothing() {
        #[derive(Debug, Default, PartialEq, Deserialize)]
        #[serde(default)]
        struct Odd {
            #[serde(deserialize_with = "lax_count")]
            count: Option<u64>,
            #[serde(deserialize_with = "lax_millis")]
            took: Option<Duration>,
            #[serde(deserialize_with = "lax_or_default")]
            name: String,
        }
        let odd = |json: &str| serde_json::from_str::<Odd>(json).unwrap();
        let good = Odd { count: Some(3), took: Some(Duration::from_micros(1_437_500)), name: "x".to_owned() };
        assert_eq!(odd(r#"{"count":3.0,"took":1437.5,"name":"x"}"#), good);
        for json in [
            "{}",
            r#"{"count":null,"took":null,"name":null}"#,
            r#"{"count":"3","took":"5","name":7}"#,
            r#"{"count":-1,"took":-1,"name":[]}"#,
        ] {
            assert_eq!(odd(json), Odd::default(), "{json}");
        }
    }

    #[test]
    fn numbers_that_are_none_become_null_and_texts_stay() {
        let text = r#"{"a":NaN,"b":[-Infinity,Infinity],"c":"NaN \" Infinity"}"#;
        let mended = r#"{"a":null,"b":[null,null],"c":"NaN \" Infinity"}"#;
        assert_eq!(without_nan(text).as_deref(), Some(mended));
        assert_eq!(without_nan(mended), None);
    }
}
