//! One chunk of a stream, or a whole answer: its choices, its counts, or its error. They differ in the place of the text. Pure.

use serde_json::Value;

use super::{
    counts::{Counts, cached},
    said::{Said, text},
};
use crate::adapters::{
    json::{count, elements, fields},
    words::plain,
};

/// What a JSON object of an answer says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Chunk {
    /// Something went wrong.
    Error(Value),
    /// A part of the answer; or only counts, or nothing.
    Part(Part),
}

/// A part of the answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) choices: Vec<Choice>,
    pub(super) counts: Option<Counts>,
    /// Tokens of the prompt that the server had in its cache.
    pub(super) cached: Option<u64>,
    /// False for `chat.completion.chunk`, whose texts are pieces under whatever name.
    pub(super) may_be_whole: bool,
}

/// One choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// Missing counts as 0: every request asks for one choice.
    pub(super) index: u64,
    pub(super) delta: Option<Said>,
    pub(super) message: Option<Said>,
    pub(super) text: Option<Said>,
    /// As it came; never empty.
    pub(super) finish: Option<String>,
}

impl Chunk {
    /// Reads a JSON object.
    pub(super) fn read(json: &str) -> Result<Self, serde_json::Error> {
        let names = ["choices", "usage", "error", "object", "type", "timings", "x_groq"];
        let [choices, usage, error, object, kind, timings, groq] = fields(json, &names)?;
        let word = |json: Option<&str>| json.map(text).unwrap_or_default();
        let (object, kind) = (word(object), word(kind));
        let choices = choices.map(choices_of).unwrap_or_default();
        let is_error = error.is_some_and(says_something) || object == b"error" || kind == b"error";
        if is_error || choices.is_empty() && is_bare_error(json) {
            return Ok(Self::Error(serde_json::from_str(json).unwrap_or_default()));
        }
        let groq = groq.and_then(|groq| fields(groq, &["usage"]).ok()?[0]);
        // Moonshot counts in the choice, Groq in a corner of its own.
        let own = choices.iter().find_map(|(_, counts)| *counts);
        let counts = usage
            .or(groq)
            .and_then(Counts::of_usage)
            .or(own)
            .or_else(|| timings.and_then(Counts::of_timings));
        Ok(Self::Part(Part {
            choices: choices.into_iter().map(|(choice, _)| choice).collect(),
            counts,
            cached: cached(usage.or(groq), timings),
            may_be_whole: object != b"chat.completion.chunk",
        }))
    }
}

/// A list of choices; some servers write the only one without a list.
fn choices_of(json: &str) -> Vec<(Choice, Option<Counts>)> {
    if json.starts_with('{') {
        return choice_of(json).into_iter().collect();
    }
    elements(json).into_iter().filter_map(choice_of).collect()
}

fn choice_of(json: &str) -> Option<(Choice, Option<Counts>)> {
    let names = ["index", "delta", "message", "text", "finish_reason", "finishReason", "usage"];
    let [index, delta, message, text, finish, other_finish, usage] = fields(json, &names).ok()?;
    let choice = Choice {
        index: index.and_then(count).unwrap_or(0),
        delta: delta.map(Said::of),
        message: message.map(Said::of),
        text: text.map(Said::of_content),
        finish: finish.or(other_finish).and_then(|reason| word_of(reason, 2)),
    };
    Some((choice, usage.and_then(Counts::of_usage)))
}

/// A reason as a word: a text, SGLang's `{"type": "length", "length": 16}`, or whatever else stands there. `None` for what says that
/// nothing has ended.
fn word_of(json: &str, depth: u8) -> Option<String> {
    let depth = depth.checked_sub(1)?;
    let word = match json.as_bytes().first()? {
        b'"' => String::from_utf8_lossy(&text(json)).trim().to_owned(),
        b'{' => {
            let found = fields(json, &["type", "reason", "finish_reason", "name"]).ok()?;
            return word_of(found.into_iter().flatten().next()?, depth);
        }
        b'[' => return word_of(elements(json).first()?, depth),
        b'f' | b'n' => return None,
        _ => json.to_owned(),
    };
    (!word.is_empty()).then_some(word)
}

/// Whether a value under `error` tells of an error: some servers always write the field.
fn says_something(json: &str) -> bool {
    match json.as_bytes().first() {
        Some(b'{') => {
            let Ok(Value::Object(error)) = serde_json::from_str(json) else { return true };
            let is_nothing = |value: &Value| match value {
                Value::Null | Value::Bool(false) => true,
                Value::String(text) => text.is_empty(),
                Value::Number(number) => number.as_f64() == Some(0.0),
                Value::Array(list) => list.is_empty(),
                Value::Object(fields) => fields.is_empty(),
                Value::Bool(true) => false,
            };
            !error.values().all(is_nothing)
        }
        Some(b'[') => !elements(json).is_empty(),
        Some(b'"') => !text(json).is_empty(),
        Some(b'f' | b'n' | b'0') | None => false,
        Some(_) => true,
    }
}

/// Whether an object without choices is an error without a field `error`: FastAPI's `detail`, a list of `errors`, a problem
/// (RFC 9457), a status or a code beside a message.
fn is_bare_error(json: &str) -> bool {
    let names = [
        "detail",
        "errors",
        "error_message",
        "error_msg",
        "error_code",
        "error_type",
        "success",
        "status",
        "code",
        "status_code",
        "statusCode",
        "message",
        "msg",
        "title",
    ];
    let Ok(found) = fields(json, &names) else { return false };
    let [detail, errors, message, short_message, code_of_error, type_of_error, success, ..] = found;
    let [.., status, code, status_code, other_status, text, short_text, title] = found;
    let told = [detail, errors, message, short_message, type_of_error, code_of_error];
    let is_status = |json: &str| {
        let number = json.trim_matches('"').parse::<u16>();
        number.is_ok_and(|number| (400..600).contains(&number))
    };
    let has_words = text.or(short_text).or(title).is_some_and(says_something);
    // A number that is no status, in quotes, is no error by itself; nor is a word for success.
    let is_word = |json: &str| {
        let word = json.trim_matches('"');
        json.starts_with('"')
            && word.parse::<f64>().is_err()
            && !["", "ok", "success"].contains(&plain(word).as_str())
    };
    told.into_iter().flatten().any(says_something)
        || success == Some("false")
        || [status, code, status_code, other_status].into_iter().flatten().any(is_status)
        || has_words && code.is_some_and(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(json: &str) -> Part {
        match Chunk::read(json).unwrap() {
            Chunk::Part(part) => part,
            Chunk::Error(error) => panic!("{error}: {json}"),
        }
    }

    #[test]
    fn an_error_is_found_in_every_shape() {
        for json in [
            r#"{"error":{"message":"x","code":429}}"#,
            r#"{"error":"x"}"#,
            r#"{"error":"x","choices":[{"delta":{"content":"Hi"}}]}"#,
            r#"{"choices":[],"error":{"code":502,"message":"x"}}"#,
            r#"{"error":{"error":{"message":"x"}}}"#,
            r#"{"error":true}"#,
            r#"{"object":"error","message":"x","code":500}"#,
            r#"{"type":"error","error":{"type":"overloaded_error"}}"#,
            r#"{"errors":[{"message":"x"}]}"#,
            r#"{"detail":"x"}"#,
            r#"{"detail":[{"msg":"x"}]}"#,
            r#"{"status":429,"title":"Too Many Requests"}"#,
            r#"{"status_code":"503"}"#,
            r#"{"code":"rate_limit_exceeded","message":"x"}"#,
            r#"{"success":false}"#,
            r#"{"choices":null,"code":429,"msg":"x"}"#,
        ] {
            assert!(matches!(Chunk::read(json), Ok(Chunk::Error(_))), "{json}");
        }
    }

    #[test]
    fn fields_that_are_always_there_are_no_error() {
        for json in [
            "{}",
            r#"{"error":null}"#,
            r#"{"error":""}"#,
            r#"{"error":{}}"#,
            r#"{"error":{"code":0,"message":""}}"#,
            r#"{"error":false,"errors":[]}"#,
            r#"{"choices":[{"delta":{}}],"code":429,"detail":"x"}"#,
            r#"{"code":0,"message":"ok"}"#,
            r#"{"status":"success","code":200,"message":"ok"}"#,
            r#"{"type":"ping"}"#,
            r#"{"code":"0","message":"success"}"#,
            r#"{"code":"OK","message":"done"}"#,
            r#"{"choices":[],"prompt_filter_results":[]}"#,
        ] {
            assert!(matches!(Chunk::read(json), Ok(Chunk::Part(_))), "{json}");
        }
        for garbage in ["[]", "5", "{\"cho", ""] {
            assert!(Chunk::read(garbage).is_err(), "{garbage}");
        }
    }

    #[test]
    fn a_reason_may_be_anything() {
        let reason = |json: &str| {
            part(&format!(r#"{{"choices":[{{"finish_reason":{json}}}]}}"#)).choices[0].finish.clone()
        };
        for (json, word) in [
            (r#""stop""#, "stop"),
            (r#"" EOS ""#, "EOS"),
            (r#"{"type":"length","length":16}"#, "length"),
            (r#"["stop"]"#, "stop"),
            ("1", "1"),
            ("true", "true"),
        ] {
            assert_eq!(reason(json).as_deref(), Some(word), "{json}");
        }
        for json in ["null", "\"\"", "\" \"", "false", "{}", "[]"] {
            assert_eq!(reason(json), None, "{json}");
        }
        assert_eq!(
            part(r#"{"choices":[{"finishReason":"STOP"}]}"#).choices[0].finish.as_deref(),
            Some("STOP")
        );
    }

    #[test]
    fn counts_are_found_where_services_put_them() {
        let counts = Some(Counts { prompt: Some(5), completion: Some(3) });
        for json in [
            r#"{"usage":{"prompt_tokens":5,"completion_tokens":3}}"#,
            r#"{"usage":null,"choices":[{"usage":{"prompt_tokens":5,"completion_tokens":3}}]}"#,
            r#"{"x_groq":{"id":"r","usage":{"prompt_tokens":5,"completion_tokens":3}}}"#,
            r#"{"timings":{"prompt_n":5,"predicted_n":3}}"#,
        ] {
            assert_eq!(part(json).counts, counts, "{json}");
        }
    }

    #[test]
    fn choices_may_be_missing_null_alone_or_odd() {
        for none in [
            "{}",
            r#"{"choices":null}"#,
            r#"{"choices":[]}"#,
            r#"{"choices":[null,5]}"#,
            r#"{"choices":"x"}"#,
        ] {
            assert!(part(none).choices.is_empty(), "{none}");
        }
        assert_eq!(part(r#"{"choices":{"index":2,"text":"x"}}"#).choices[0].index, 2);
        let odd = part(
            r#"{"choices":[{"index":null,"delta":{"content":"Hi"},"message":null,"logprobs":{"content":[{"top":[1]}]}}]}"#,
        );
        assert_eq!(
            (odd.choices[0].index, odd.choices[0].delta.as_ref().unwrap().text.as_slice()),
            (0, &b"Hi"[..])
        );
        assert_eq!(odd.choices[0].message, None);
    }
}
