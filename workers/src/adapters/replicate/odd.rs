//! What Replicate's models write that no description knows: times without a zone, outputs in many shapes. Pure.

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Lists in lists, objects in lists; deeper than this nothing is text.
const DEPTH_MAX: u8 = 4;

/// Where models that answer an object put their text.
const TEXTS: [&str; 6] = ["text", "output", "content", "response", "generated_text", "completion"];

/// A time; missing where it does not read. Without a zone it is UTC, as all times of Replicate are.
pub(super) fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    Ok(Value::deserialize(deserializer)?.as_str().and_then(read_time))
}

fn read_time(text: &str) -> Option<DateTime<Utc>> {
    let text = text.trim().replacen(' ', "T", 1);
    let zoned = DateTime::parse_from_rfc3339(&text)
        .or_else(|_| DateTime::parse_from_str(&text, "%Y-%m-%dT%H:%M:%S%.f%z"));
    let zoned = zoned.map(|time| time.with_timezone(&Utc));
    zoned
        .or_else(|_| NaiveDateTime::parse_from_str(&text, "%Y-%m-%dT%H:%M:%S%.f").map(|time| time.and_utc()))
        .ok()
}

/// The text of an output; `None` where there is none in it.
pub(super) fn text(output: &Value) -> Option<String> {
    let mut text = String::new();
    add(output, &mut text, DEPTH_MAX).then_some(text)
}

fn add(output: &Value, text: &mut String, depth: u8) -> bool {
    let Some(depth) = depth.checked_sub(1) else { return false };
    match output {
        Value::Null => false,
        Value::String(piece) => {
            text.push_str(piece);
            true
        }
        Value::Number(_) | Value::Bool(_) => {
            text.push_str(&output.to_string());
            true
        }
        // An empty list is an empty answer.
        Value::Array(pieces) => {
            pieces.iter().fold(pieces.is_empty(), |any, piece| add(piece, text, depth) || any)
        }
        Value::Object(fields) => {
            TEXTS.iter().find_map(|key| fields.get(*key)).is_some_and(|inner| add(inner, text, depth))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_with_and_without_a_zone() {
        let noon = read_time("2026-11-27T12:00:00Z");
        for text in [
            "2026-11-27T12:00:00.000000",
            "2026-11-27T12:00:00",
            "2026-11-27 12:00:00",
            "2026-11-27T14:00:00+02:00",
            "2026-11-27T14:00:00+0200",
            " 2026-11-27T12:00:00.000Z ",
        ] {
            assert_eq!(read_time(text), noon, "{text}");
        }
        for odd in ["", "yesterday", "2026-11-27", "1795420800", "2026-13-01T00:00:00Z"] {
            assert_eq!(read_time(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_text_is_found_in_every_shape_of_output() {
        for (json, expected) in [
            (r#""hello""#, Some("hello")),
            (r#"["hel","lo"]"#, Some("hello")),
            (r#"[["hel"],["lo"]]"#, Some("hello")),
            (r#"["hel",null,"lo",{}]"#, Some("hello")),
            (r#"{"text":"hello"}"#, Some("hello")),
            (r#"[{"text":"hel"},{"text":"lo"}]"#, Some("hello")),
            (r#"{"output":["hel","lo"],"tokens":2}"#, Some("hello")),
            ("42", Some("42")),
            ("[]", Some("")),
            (r#""""#, Some("")),
            ("null", None),
            ("{}", None),
            ("[null]", None),
            (r#"{"embedding":[0.5]}"#, None),
        ] {
            assert_eq!(text(&serde_json::from_str(json).unwrap()).as_deref(), expected, "{json}");
        }
    }
}
