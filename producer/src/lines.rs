//! Lines of jobs: OpenAI batch requests as they are, and a short form, one JSON object a line.
//!
//! ```text
//! {"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"llama-3.2-1b","messages":[…]}}
//! {"custom_id":"b","model":"llama-3.2-1b","prompt":"…","max_tokens":64,"region":"eu-west","lane":"low"}
//! ```
//!
//! Fields we do not know are refused: a `response_format` that is silently dropped would be a wrong answer.

mod spare;

use std::collections::HashSet;

use schemas::{
    Codec, JobId, Lane, ModelToken, Region,
    catalog::Catalog,
    job::{Job, JobBody, JobHeaders, LABEL_LENGTH_MAX, Message, Params},
    subjects::JobSubject,
    time::Clock as _,
};
use serde::Deserialize;
use serde_json::{Value, json};
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
    // These change nothing with the values that they have anyway, and are refused with others.
    n: Option<Value>,
    stream: Option<Value>,
    store: Option<Value>,
    logprobs: Option<Value>,
    frequency_penalty: Option<Value>,
    presence_penalty: Option<Value>,
    parallel_tool_calls: Option<Value>,
    response_format: Option<Value>,
    /// For the provider's own records.
    #[serde(rename = "user")]
    _user: Option<String>,
}

#[derive(Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct RawMessage {
    role: String,
    #[serde(deserialize_with = "spare::content")]
    content: String,
    /// Of the speaker, whom no model is told of.
    #[serde(default, rename = "name")]
    _name: Option<String>,
}

impl RawBody {
    /// Refuses what would change the answer and cannot be asked for.
    fn check(&self, at: &str) -> Result<(), String> {
        for (name, value, usual) in [
            ("n", &self.n, json!(1)),
            ("stream", &self.stream, json!(false)),
            ("store", &self.store, json!(false)),
            ("logprobs", &self.logprobs, json!(false)),
            ("frequency_penalty", &self.frequency_penalty, json!(0)),
            ("presence_penalty", &self.presence_penalty, json!(0)),
            ("parallel_tool_calls", &self.parallel_tool_calls, json!(true)),
            ("response_format", &self.response_format, json!({ "type": "text" })),
        ] {
            spare::check(&format!("{at}{name}"), value.as_ref(), &usual)?;
        }
        Ok(())
    }
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
    // A byte order mark stands before the first line of files that were written by some editors.
    let mut json = serde_json::Deserializer::from_str(line.trim_start_matches('\u{feff}'));
    let raw: RawLine = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let (key, what) = (error.path().to_string(), error.inner().to_string());
        if key == "." { what } else { format!("{key}: {what}") }
    })?;
    json.end().map_err(|error| error.to_string())?;
    let custom_id = raw.custom_id.clone().unwrap_or_else(|| name_of(number));
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
    body.check(at)?;
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
        ..
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
        messages.into_iter().map(|RawMessage { role, content, .. }| Message { role, content }).collect()
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

/// What a line is called that has no `custom_id`.
pub(crate) fn name_of(number: u64) -> String {
    format!("line-{number}")
}

/// The body of either form, and what stands before its keys in messages.
fn one_body(raw: RawLine) -> Result<(&'static str, RawBody), String> {
    let RawLine { body, model, messages, prompt, max_tokens, temperature, top_p, stop, seed, .. } = raw;
    let short =
        RawBody { model, messages, prompt, max_tokens, temperature, top_p, stop, seed, ..RawBody::default() };
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
mod tests;
