//! What worker-vllm gave as a job's output, whatever its age. Pure.

use schemas::{
    failure::{Failure, FailureClass as C},
    job::Input,
    reply::{Output, Usage},
};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::{
    adapters::{
        chat::{self, OUTPUT_MAX, Transcript},
        dialect::Dialect,
        http,
        json::{lax, lax_count},
        sse::Reader,
    },
    provider::Success,
};

/// An answer of a worker older than the OpenAI routes.
#[derive(Deserialize)]
struct Old {
    #[serde(default)]
    choices: Vec<OldChoice>,
    #[serde(default, deserialize_with = "lax")]
    usage: Option<OldUsage>,
}

#[derive(Deserialize)]
struct OldChoice {
    tokens: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OldUsage {
    #[serde(deserialize_with = "lax_count")]
    input: Option<u64>,
    #[serde(deserialize_with = "lax_count")]
    output: Option<u64>,
}

/// An answer of the oldest workers.
#[derive(Deserialize)]
struct Oldest {
    text: Value,
    #[serde(default, deserialize_with = "lax_count")]
    input_tokens: Option<u64>,
    #[serde(default, deserialize_with = "lax_count")]
    output_tokens: Option<u64>,
}

/// Reads a list of one OpenAI answer, the chunks or the text of a streamed one, or what older workers gave.
pub(super) fn read(json: &str, input: &Input) -> Result<Success, Failure> {
    let parts: Vec<&RawValue> = match serde_json::from_str(json) {
        Ok(parts) => parts,
        Err(_) => serde_json::from_str::<&RawValue>(json).into_iter().collect(),
    };
    let texts: Vec<String> = parts.iter().filter_map(|part| serde_json::from_str(part.get()).ok()).collect();
    if texts.len() == parts.len() && !texts.is_empty() {
        return read_text(texts.concat(), input);
    }
    let old: Vec<Old> = parts.iter().filter_map(|part| serde_json::from_str(part.get()).ok()).collect();
    if old.len() == parts.len() && old.iter().any(|part| !part.choices.is_empty()) {
        let text = old.iter().flat_map(|part| &part.choices).map(|choice| strings(&choice.tokens)).collect();
        let usage = old.into_iter().rev().find_map(|part| part.usage).unwrap_or_default();
        return success(text, &usage, input);
    }
    if let [one] = parts.as_slice()
        && let Ok(Oldest { text, input_tokens, output_tokens }) = serde_json::from_str(one.get())
        && (text.is_array() || text.is_string())
    {
        return success(strings(&text), &OldUsage { input: input_tokens, output: output_tokens }, input);
    }
    let mut transcript = Transcript::new(Dialect::Vllm);
    for part in &parts {
        transcript.chunk(part.get().as_bytes());
    }
    outcome(transcript, input)
}

/// Reads a stream that was kept as text, an answer that was made a text, or a text that is the answer itself: the job's status says
/// that it is whole.
fn read_text(text: String, input: &Input) -> Result<Success, Failure> {
    let begin = text.trim_start();
    let mut transcript = Transcript::new(Dialect::Vllm);
    if begin.starts_with("data:") || begin.starts_with(':') {
        let (mut reader, mut events) = (Reader::new(OUTPUT_MAX), Vec::new());
        if let Err(error) = reader.push(text.as_bytes(), &mut events) {
            return Err(Failure::new(C::ProviderDown, error.to_string()));
        }
        reader.finish(&mut events);
        for event in events {
            transcript.event(event);
        }
    } else if begin.starts_with('{') {
        transcript.chunk(text.as_bytes());
    } else if begin.is_empty() {
        return Err(Failure::new(C::ProviderDown, "completed without a text; the work is billed"));
    } else {
        return success(text, &OldUsage::default(), input);
    }
    outcome(transcript, input)
}

/// No connection was lost here: what is not whole was not made whole.
fn outcome(transcript: Transcript, input: &Input) -> Result<Success, Failure> {
    transcript.outcome(input).map_err(|failure| match failure.class {
        C::Connection => Failure { class: C::ProviderDown, ..failure },
        _ => failure,
    })
}

/// All texts in a text or a list.
fn strings(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(strings).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => String::new(),
    }
}

fn success(text: String, usage: &OldUsage, input: &Input) -> Result<Success, Failure> {
    if text.len() > OUTPUT_MAX {
        return Err(http::too_long(OUTPUT_MAX));
    }
    let usage = Usage {
        prompt_tokens: usage.input.unwrap_or_else(|| chat::tokens_of_input(input)),
        completion_tokens: usage.output.unwrap_or_else(|| chat::tokens_of(text.len())),
        cached_tokens: None,
        estimated: usage.input.is_none() || usage.output.is_none(),
    };
    Ok(Success { output: Output { text, finish_reason: "stop".to_owned() }, usage })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(output: &str) -> Result<Success, Failure> {
        read(output, &Input::Prompt("hi".to_owned()))
    }

    #[test]
    fn an_output_is_read_whatever_the_age_of_the_worker() {
        for output in [
            r#"[{"object":"chat.completion","choices":[{"message":{"content":"Air"},"finish_reason":"stop"}],
                "usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}]"#,
            r#"{"choices":[{"message":{"content":"Air"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#,
            r#"[{"choices":[{"text":"Air","finish_reason":"stop"}],
                "usage":{"prompt_tokens":3,"completion_tokens":1}}]"#,
            r#"[{"choices":[{"delta":{"content":"A"}}]},{"choices":[{"delta":{"content":"ir"},"finish_reason":"stop"}],
                "usage":{"prompt_tokens":3,"completion_tokens":1}}]"#,
            r#"["data: {\"choices\":[{\"delta\":{\"content\":\"Air\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\n","data: [DONE]\n\n"]"#,
            r#""{\"choices\":[{\"text\":\"Air\",\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}""#,
            r#"[{"choices":[{"tokens":["A","ir"]}],"usage":{"input":3,"output":1}}]"#,
            r#"[{"choices":[{"tokens":["A"]}]},{"choices":[{"tokens":["ir"]}],"usage":{"input":3,"output":1}}]"#,
            r#"[{"choices":[{"tokens":"Air"}],"usage":{"input":3,"output":1}}]"#,
            r#"{"text":["Air"],"input_tokens":3,"output_tokens":1}"#,
            r#"[{"text":"Air","input_tokens":3,"output_tokens":1}]"#,
        ] {
            let success = ask(output).unwrap_or_else(|failure| panic!("{failure:?}: {output}"));
            assert_eq!((success.output.text.as_str(), success.usage.prompt_tokens), ("Air", 3), "{output}");
            assert!(!success.usage.estimated, "{output}");
        }
    }

    #[test]
    fn counts_that_are_none_are_estimated() {
        for output in [
            r#"[{"choices":[{"tokens":["Air"]}],"usage":{"input":3.5,"output":"1"}}]"#,
            r#"[{"choices":[{"tokens":["Air"]}],"usage":null}]"#,
            r#"{"text":["Air"],"input_tokens":-3}"#,
            r#""Air""#,
            r#"["A","ir"]"#,
        ] {
            let success = ask(output).unwrap_or_else(|failure| panic!("{failure:?}: {output}"));
            assert_eq!(success.output.text, "Air", "{output}");
            assert_eq!((success.usage.completion_tokens, success.usage.estimated), (1, true), "{output}");
        }
    }

    #[test]
    fn what_is_no_answer_is_the_providers_failure() {
        for output in [
            "null",
            "[]",
            "5",
            "\"\"",
            r#"[{"object":"error","message":"no"}]"#,
            r#"["data: {}"]"#,
            "[{},{}]",
            r#"{"error":"no"}"#,
            r#"["data: {\"choices\":[{\"delta\":{\"content\":\"Air\"}}]}\n\n"]"#,
            r#"[{"choices":[{"message":{"content":"Air"}}]}]"#,
        ] {
            assert_eq!(ask(output).unwrap_err().class, C::ProviderDown, "{output}");
        }
    }
}
