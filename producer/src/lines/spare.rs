//! What frameworks write into every request and what changes nothing: OpenAI's defaults spelled out, a text in parts.

use serde::{Deserialize, Deserializer, de::Error};
use serde_json::Value;

/// Refuses a value that would change the answer, by the field's name: only the usual one says nothing.
pub(super) fn check(name: &str, value: Option<&Value>, usual: &Value) -> Result<(), String> {
    let Some(value) = value else { return Ok(()) };
    let same_number = usual.as_f64().is_some_and(|usual| value.as_f64() == Some(usual));
    if value == usual || same_number { Ok(()) } else { Err(format!("{name}: must be {usual} or left out")) }
}

/// A message's content: a text, or text parts, which are one text.
pub(super) fn content<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let refuse = || D::Error::custom("must be a text or a list of text parts");
    match Value::deserialize(deserializer)? {
        Value::String(text) => Ok(text),
        Value::Array(parts) if !parts.is_empty() => {
            let text_of = |part: &Value| match part.get("type")?.as_str()? {
                "text" => part.get("text")?.as_str().map(str::to_owned),
                _ => None,
            };
            parts.iter().map(text_of).collect::<Option<String>>().ok_or_else(refuse)
        }
        Value::Array(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => Err(refuse()),
    }
}
