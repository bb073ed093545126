//! OpenAI batch lines: one request per line, as a file or on standard input.
//!
//! The whole text is checked before anything is sent, so that a mistake in line 9,999 does not leave half a batch
//! behind. Fields we do not know are refused: a `response_format` that is silently dropped would be a wrong answer.

use std::collections::HashSet;

use producer::JobRequest;
use schemas::{
    Codec, JobId, Lane, ModelToken, Region,
    catalog::Catalog,
    job::{JobBody, Message, Params},
};
use serde::Deserialize;

/// The label that carries a line's `custom_id` through to its result.
pub(crate) const CUSTOM_ID: &str = "custom_id";

/// One checked line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Line {
    /// The line's own name, unique in its text.
    pub(crate) custom_id: String,
    /// Which model.
    pub(crate) model: ModelToken,
    /// The rest.
    pub(crate) body: JobBody,
}

/// Why a text is no batch: the line and the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{source_name} line {number}: {what}")]
pub(crate) struct BatchError {
    source_name: String,
    number: usize,
    what: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLine {
    custom_id: String,
    method: Option<String>,
    url: Option<String>,
    body: RawBody,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBody {
    model: String,
    messages: Option<Vec<RawMessage>>,
    prompt: Option<String>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    stop: Option<Stop>,
    seed: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMessage {
    role: String,
    content: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Many(Vec<String>),
}

/// Reads a text of batch lines; blank lines are skipped. `source_name` stands in messages.
pub(crate) fn read(text: &str, source_name: &str, catalog: &Catalog) -> Result<Vec<Line>, BatchError> {
    let mut seen = HashSet::new();
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let refuse = |what| BatchError { source_name: source_name.to_owned(), number: index + 1, what };
        let line = read_line(line, catalog).map_err(refuse)?;
        if !seen.insert(line.custom_id.clone()) {
            return Err(refuse(format!("custom_id: `{}` stands in an earlier line, too", line.custom_id)));
        }
        lines.push(line);
    }
    if lines.is_empty() {
        return Err(BatchError {
            source_name: source_name.to_owned(),
            number: 1,
            what: "there is no line".into(),
        });
    }
    Ok(lines)
}

fn read_line(line: &str, catalog: &Catalog) -> Result<Line, String> {
    let mut json = serde_json::Deserializer::from_str(line);
    let raw: RawLine = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let (key, what) = (error.path().to_string(), error.inner().to_string());
        if key == "." { what } else { format!("{key}: {what}") }
    })?;
    let RawLine { custom_id, method, url, body } = raw;
    if let Some(method) = method.filter(|m| m != "POST") {
        return Err(format!("method: `{method}` must be POST"));
    }
    if let Some(url) = url.filter(|u| !["/v1/chat/completions", "/v1/completions"].contains(&u.as_str())) {
        return Err(format!("url: `{url}` must be /v1/chat/completions or /v1/completions"));
    }
    let RawBody {
        model,
        messages,
        prompt,
        max_tokens,
        max_completion_tokens,
        temperature,
        top_p,
        stop,
        seed,
    } = body;
    let token = catalog.find(&model).ok_or_else(|| unknown_model(&model, catalog, "body.model"))?.clone();
    let messages = messages.map(|messages| {
        messages.into_iter().map(|RawMessage { role, content }| Message { role, content }).collect()
    });
    let stop = match stop {
        None => Vec::new(),
        Some(Stop::One(text)) => vec![text],
        Some(Stop::Many(texts)) => texts,
    };
    let params = Params { max_tokens: max_completion_tokens.or(max_tokens), temperature, top_p, stop, seed };
    let labels = [(CUSTOM_ID.to_owned(), custom_id.clone())].into();
    Ok(Line {
        custom_id,
        model: token,
        body: JobBody { messages, prompt, params, labels, ..JobBody::default() },
    })
}

/// What to say of a model that the catalog does not have.
pub(crate) fn unknown_model(model: &str, catalog: &Catalog, key: &str) -> String {
    let known = catalog.names().collect::<Vec<_>>().join(", ");
    format!("{key}: `{model}` is not in the catalog ({known})")
}

impl Line {
    /// The job of this line, with an id of its own.
    pub(crate) fn request(&self, id: JobId, region: Region, lane: Lane) -> JobRequest {
        JobRequest {
            region,
            model: self.model.clone(),
            lane,
            codec: Codec::Json,
            traceparent: None,
            body: JobBody { id: Some(id.to_string()), ..self.body.clone() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> Catalog {
        Catalog::new(vec!["llama-3.2-1b".into(), "mistral-7b".into(), "qwen-2.5-1.5b".into()]).unwrap()
    }

    fn refusal(text: &str) -> String {
        read(text, "jobs.jsonl", &catalog()).unwrap_err().to_string()
    }

    #[test]
    fn the_prompts_of_the_examples_are_read() {
        let lines = read(include_str!("../../examples/prompts.jsonl"), "prompts.jsonl", &catalog()).unwrap();
        assert!(lines.len() >= 200);
        assert!(
            lines.iter().all(|line| line.body.messages.is_some() && line.body.params.max_tokens.is_some())
        );
    }

    #[test]
    fn a_refusal_names_the_line_the_field_and_the_rule() {
        let good = r#"{"custom_id":"a","body":{"model":"llama-3.2-1b","prompt":"hi","stop":"x"}}"#;
        assert_eq!(read(good, "f", &catalog()).unwrap()[0].body.params.stop, ["x"]);
        for (bad, parts) in [
            (
                r#"{"custom_id":"a","body":{"model":"gpt","prompt":"hi"}}"#,
                vec!["line 1", "body.model", "`gpt`", "mistral-7b"],
            ),
            (
                r#"{"custom_id":"a","body":{"model":"mistral-7b","prompt":"hi","max_tokens":"many"}}"#,
                vec!["body.max_tokens", "many"],
            ),
            (
                r#"{"custom_id":"a","body":{"model":"mistral-7b","prompt":"hi","n":2}}"#,
                vec!["unknown field `n`"],
            ),
            (
                r#"{"custom_id":"a","method":"GET","body":{"model":"mistral-7b","prompt":"hi"}}"#,
                vec!["method", "POST"],
            ),
            (
                r#"{"custom_id":"a","url":"/v1/embeddings","body":{"model":"mistral-7b"}}"#,
                vec!["url", "/v1/chat/completions"],
            ),
            ("not json", vec!["line 1"]),
            ("", vec!["no line"]),
        ] {
            let said = refusal(bad);
            assert!(parts.iter().all(|part| said.contains(part)), "{bad} → {said}");
        }
        let twice = refusal(&format!("{good}\n\n{good}"));
        assert!(twice.contains("line 3") && twice.contains("`a`"), "{twice}");
    }
}
