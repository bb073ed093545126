//! Lines of jobs: OpenAI batch requests as they are, and a short form, one JSON object a line.
//!
//! ```text
//! {"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"llama-3.2-1b","messages":[…]}}
//! {"custom_id":"b","model":"llama-3.2-1b","prompt":"…","max_tokens":64,"region":"eu-west","lane":"low"}
//! ```
//!
//! Fields we do not know are refused: a `response_format` that is silently dropped would be a wrong answer.

use std::collections::HashSet;

use schemas::{
    Codec, JobId, Lane, ModelToken, Region,
    catalog::Catalog,
    job::{Job, JobBody, JobHeaders, LABEL_LENGTH_MAX, Message, Params},
    subjects::JobSubject,
    time::Clock as _,
};
use serde::Deserialize;
use serde_json::Value;
use transport::SystemClock;

use crate::request::JobRequest;

/// The label that carries a line's `custom_id` through to its result.
pub const CUSTOM_ID: &str = "custom_id";

/// One checked line.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// What stands before the body's keys in messages.
    at: &'static str,
    /// The line's own name, unique in its text.
    pub custom_id: String,
    /// Where it is to be published, if it says so.
    pub region: Option<Region>,
    /// How urgent, if it says so.
    pub lane: Option<Lane>,
    /// Which model.
    pub model: ModelToken,
    /// Whether it asks for a chat, and so is answered as one.
    pub chat: bool,
    /// The rest.
    pub body: JobBody,
}

/// What stands in a line that does not say it.
#[derive(Clone, Debug)]
pub struct Defaults<'a> {
    /// The models there are.
    pub catalog: &'a Catalog,
    /// The regions there are.
    pub regions: &'a [Region],
    /// The model of a short line without one.
    pub model: Option<ModelToken>,
}

/// Why a text is no batch: the line and the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{source_name} line {number}: {what}")]
pub struct BatchError {
    source_name: String,
    number: usize,
    what: String,
}

/// Either form; the other's fields are missing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLine {
    custom_id: Option<String>,
    method: Option<String>,
    url: Option<String>,
    body: Option<RawBody>,
    region: Option<String>,
    lane: Option<Lane>,
    model: Option<String>,
    messages: Option<Vec<RawMessage>>,
    prompt: Option<String>,
    max_tokens: Option<u32>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    stop: Option<Stop>,
    seed: Option<i64>,
    /// What `errors.jsonl` adds, so that its lines can be run again.
    #[serde(rename = "error")]
    _error: Option<Value>,
}

#[derive(Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct RawBody {
    model: Option<String>,
    messages: Option<Vec<RawMessage>>,
    prompt: Option<String>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    stop: Option<Stop>,
    seed: Option<i64>,
}

#[derive(Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct RawMessage {
    role: String,
    content: String,
}

#[derive(Deserialize, PartialEq)]
#[serde(untagged)]
enum Stop {
    One(String),
    Many(Vec<String>),
}

/// Reads a text of lines; blank lines are skipped. `source_name` stands in messages. The whole text is checked, so that a
/// mistake in line 9,999 does not leave half of it submitted.
pub fn read(text: &str, source_name: &str, catalog: &Catalog) -> Result<Vec<Line>, BatchError> {
    let defaults = Defaults { catalog, regions: &[], model: None };
    let mut seen = HashSet::new();
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let refuse = |what| BatchError { source_name: source_name.to_owned(), number: index + 1, what };
        let line = read_line(line, index as u64 + 1, &defaults).map_err(refuse)?;
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

/// Reads and checks line `number`; a line without a `custom_id` is called `line-<number>`. The error names field and rule.
pub fn read_line(line: &str, number: u64, defaults: &Defaults<'_>) -> Result<Line, String> {
    let line = parse_line(line, number, defaults)?;
    line.check()?;
    Ok(line)
}

/// The same without the rules of every job, which a submit checks again.
pub(crate) fn parse_line(line: &str, number: u64, defaults: &Defaults<'_>) -> Result<Line, String> {
    let mut json = serde_json::Deserializer::from_str(line);
    let raw: RawLine = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let (key, what) = (error.path().to_string(), error.inner().to_string());
        if key == "." { what } else { format!("{key}: {what}") }
    })?;
    json.end().map_err(|error| error.to_string())?;
    let custom_id = raw.custom_id.clone().unwrap_or_else(|| format!("line-{number}"));
    if custom_id.is_empty() || custom_id.len() > LABEL_LENGTH_MAX {
        return Err(format!("custom_id: must have 1 to {LABEL_LENGTH_MAX} bytes"));
    }
    if let Some(method) = raw.method.as_ref().filter(|m| *m != "POST") {
        return Err(format!("method: `{method}` must be POST"));
    }
    let urls = ["/v1/chat/completions", "/v1/completions"];
    if let Some(url) = raw.url.as_ref().filter(|u| !urls.contains(&u.as_str())) {
        return Err(format!("url: `{url}` must be /v1/chat/completions or /v1/completions"));
    }
    let region = raw.region.as_ref().map(|name| known_region(name, defaults.regions)).transpose()?;
    let lane = raw.lane;
    let (at, body) = one_body(raw)?;
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
    let key = format!("{at}model");
    let model = match (model, &defaults.model) {
        (Some(name), _) => {
            defaults.catalog.find(&name).ok_or_else(|| unknown_model(&name, defaults.catalog, &key))?.clone()
        }
        (None, Some(model)) => model.clone(),
        (None, None) => return Err(format!("{key}: missing")),
    };
    let chat = messages.is_some();
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
        at,
        custom_id,
        region,
        lane,
        model,
        chat,
        body: JobBody { messages, prompt, params, labels, ..JobBody::default() },
    })
}

/// The body of either form, and what stands before its keys in messages.
fn one_body(raw: RawLine) -> Result<(&'static str, RawBody), String> {
    let RawLine { body, model, messages, prompt, max_tokens, temperature, top_p, stop, seed, .. } = raw;
    let short = RawBody {
        model,
        messages,
        prompt,
        max_tokens,
        max_completion_tokens: None,
        temperature,
        top_p,
        stop,
        seed,
    };
    match body {
        None => Ok(("", short)),
        Some(_) if short != RawBody::default() => {
            Err("body: a line with a body must not have its fields outside, too".into())
        }
        Some(body) => Ok(("body.", body)),
    }
}

fn known_region(name: &str, regions: &[Region]) -> Result<Region, String> {
    let found = regions.iter().find(|region| region.as_str() == name);
    found.cloned().ok_or_else(|| {
        let known = regions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        format!("region: `{name}` is not one of {known}")
    })
}

/// What to say of a model that the catalog does not have.
pub fn unknown_model(model: &str, catalog: &Catalog, key: &str) -> String {
    let known = catalog.names().collect::<Vec<_>>().join(", ");
    format!("{key}: `{model}` is not in the catalog ({known})")
}

impl Line {
    /// The rules of every job, found here and not only when it is submitted.
    fn check(&self) -> Result<(), String> {
        let at = self.at;
        let subject = JobSubject {
            region: Region::try_from("anywhere").map_err(|error| error.to_string())?,
            model: self.model.clone(),
            lane: Lane::Normal,
            tenant: schemas::Tenant::default(),
        };
        let body = JobBody { id: Some(uuid::Uuid::nil().to_string()), ..self.body.clone() };
        Job::check(subject, Codec::Json, JobHeaders::default(), body, SystemClock.now()).map(drop).map_err(
            |error| match error {
                schemas::job::JobError::Field { field, rule } => {
                    format!("{at}{}: {rule}", field.trim_start_matches("params."))
                }
                other => other.to_string(),
            },
        )
    }

    /// The job of this line, with an id of its own.
    pub fn request(self, id: JobId, region: Region, lane: Lane) -> JobRequest {
        JobRequest {
            region: self.region.unwrap_or(region),
            model: self.model,
            lane: self.lane.unwrap_or(lane),
            codec: Codec::Json,
            traceparent: None,
            body: JobBody { id: Some(id.to_string()), ..self.body },
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

    fn short(line: &str) -> Result<Line, String> {
        let regions = ["us-east".parse().unwrap()];
        let model = catalog().find("mistral-7b").cloned();
        read_line(line, 7, &Defaults { catalog: &catalog(), regions: &regions, model })
    }

    #[test]
    fn a_short_line_needs_a_prompt_only_and_may_say_where_and_how_urgent() {
        let line = short(r#"{"prompt":"hi"}"#).unwrap();
        assert_eq!(
            (line.custom_id.as_str(), line.model.as_str(), line.chat),
            ("line-7", "mistral-7b", false)
        );
        let line = short(r#"{"messages":[{"role":"user","content":"hi"}],"region":"us-east","lane":"high"}"#)
            .unwrap();
        assert_eq!(
            (line.region.unwrap().as_str(), line.lane, line.chat),
            ("us-east", Some(Lane::High), true)
        );
    }

    #[test]
    fn what_would_be_refused_later_is_refused_here() {
        for (bad, part) in [
            (r#"{"prompt":"x","region":"mars"}"#, "region: `mars`"),
            (r#"{"prompt":"x","temperature":3}"#, "temperature: must be 0 to 2"),
            (r#"{"prompt":"x","body":{"prompt":"y"}}"#, "outside"),
            (r#"{"custom_id":"","prompt":"x"}"#, "custom_id"),
            ("{}", "messages"),
            (r#"{"prompt":"x"} {"prompt":"y"}"#, "trailing"),
        ] {
            let said = short(bad).unwrap_err();
            assert!(said.contains(part), "{bad} → {said}");
        }
    }

    #[test]
    fn a_line_of_an_errors_file_is_a_line_again() {
        let line =
            r#"{"custom_id":"a","body":{"model":"mistral-7b","prompt":"x"},"error":{"class":"timeout"}}"#;
        assert_eq!(short(line).unwrap().custom_id, "a");
    }
}
