//! Requests for an inference, checked the way vLLM checks them. Nothing here awaits.

use serde::Deserialize;

use crate::text::{self, Prompt};

/// Which of the two OpenAI routes a request came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    Chat,
    Completion,
}

/// A request that can be answered, once its model is known.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Inference {
    pub(crate) api: Api,
    pub(crate) model: String,
    pub(crate) prompt: Prompt,
    /// The caller's limit, if any.
    pub(crate) max_tokens: Option<u32>,
    pub(crate) stop: Vec<String>,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
}

/// A job for Beacon's app on Modal, as `POST /v1/jobs` and `POST /v1/run` take it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Job {
    /// The caller's id: the same one means the same job.
    pub(crate) id: String,
    pub(crate) inference: Inference,
    pub(crate) timeout_s: Option<f64>,
}

/// Why a request is turned away, in words for its caller.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadRequest(pub(crate) String);

#[derive(Deserialize)]
struct Body {
    model: Option<String>,
    messages: Option<Vec<Message>>,
    prompt: Option<OneOrMany>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    #[serde(flatten)]
    params: Params,
}

#[derive(Deserialize)]
struct JobBody {
    id: String,
    model: Option<String>,
    messages: Option<Vec<Message>>,
    prompt: Option<OneOrMany>,
    #[serde(default)]
    params: Params,
    timeout_s: Option<f64>,
}

#[derive(Default, Deserialize)]
struct Params {
    max_tokens: Option<i64>,
    max_completion_tokens: Option<i64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    n: Option<i64>,
    stop: Option<OneOrMany>,
    /// Checked for its type; the simulator's own seed decides the text.
    #[serde(rename = "seed")]
    _seed: Option<i64>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: Option<Content>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    text: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

impl Inference {
    /// Decodes a body of one of the OpenAI routes.
    pub(crate) fn decode(api: Api, body: &[u8]) -> Result<Self, BadRequest> {
        let body: Body = read(body)?;
        let stream = body.stream.unwrap_or(false);
        if body.stream_options.is_some() && !stream {
            return Err(BadRequest("Stream options can only be defined when `stream=True`.".to_owned()));
        }
        let include_usage = body.stream_options.is_some_and(|options| options.include_usage);
        let (messages, prompt) = match api {
            Api::Chat => (Some(body.messages.ok_or_else(|| missing("messages"))?), None),
            Api::Completion => (None, Some(body.prompt.ok_or_else(|| missing("prompt"))?)),
        };
        let model = body.model.ok_or_else(|| missing("model"))?;
        let mut inference = Self::new(api, model, messages, prompt, body.params)?;
        inference.stream = stream;
        inference.include_usage = include_usage;
        Ok(inference)
    }

    fn new(
        api: Api,
        model: String,
        messages: Option<Vec<Message>>,
        plain: Option<OneOrMany>,
        params: Params,
    ) -> Result<Self, BadRequest> {
        let mut prompt = Prompt::default();
        for message in messages.into_iter().flatten() {
            prompt.message(&message.role, &message.content.map_or_else(String::new, Content::into_text));
        }
        for text in plain.map_or_else(Vec::new, OneOrMany::into_vec) {
            prompt.plain(&text);
        }
        if prompt.text.is_empty() {
            return Err(BadRequest("The prompt is empty.".to_owned()));
        }
        let max_tokens = params.check()?;
        let stop = params.stop.map_or_else(Vec::new, OneOrMany::into_vec);
        Ok(Self { api, model, prompt, max_tokens, stop, stream: false, include_usage: false })
    }

    /// The limit that holds for the answer, or why prompt and answer do not fit into the context.
    pub(crate) fn fit(&self, context: u32) -> Result<u32, BadRequest> {
        let read = self.prompt.tokens;
        let asked = self.max_tokens.or(match self.api {
            Api::Chat => None,
            Api::Completion => Some(16),
        });
        text::limit(context, read, asked).ok_or_else(|| {
            BadRequest(format!(
                "This model's maximum context length is {context} tokens. However, you requested {} tokens ({read} in \
                 the messages, {} in the completion). Please reduce the length of the messages or completion.",
                u64::from(read) + u64::from(asked.unwrap_or(0)),
                asked.unwrap_or(0),
            ))
        })
    }
}

impl Job {
    /// Decodes a body of `POST /v1/jobs` or `POST /v1/run`.
    pub(crate) fn decode(body: &[u8]) -> Result<Self, BadRequest> {
        let body: JobBody = read(body)?;
        if body.messages.is_some() == body.prompt.is_some() {
            return Err(BadRequest("exactly one of messages and prompt is needed".to_owned()));
        }
        if body.timeout_s.is_some_and(|timeout| !(timeout > 0.0 && timeout <= 86_400.0)) {
            return Err(BadRequest("timeout_s must be above 0 and at most 86400".to_owned()));
        }
        let model = body.model.ok_or_else(|| missing("model"))?;
        let inference = Inference::new(Api::Chat, model, body.messages, body.prompt, body.params)?;
        Ok(Self { id: body.id, inference, timeout_s: body.timeout_s })
    }
}

impl Params {
    /// The limit on the answer, if all parameters are in range.
    fn check(&self) -> Result<Option<u32>, BadRequest> {
        let range = |fine: bool, text: String| if fine { Ok(()) } else { Err(BadRequest(text)) };
        let asked = self.max_completion_tokens.or(self.max_tokens);
        let max_tokens =
            asked.map(|asked| u32::try_from(asked).unwrap_or(if asked > 0 { u32::MAX } else { 0 }));
        if let Some(asked) = asked {
            range(asked >= 1, format!("max_tokens must be at least 1, got {asked}."))?;
        }
        if let Some(temperature) = self.temperature {
            range(temperature >= 0.0, format!("temperature must be non-negative, got {temperature}."))?;
        }
        if let Some(top_p) = self.top_p {
            range(top_p > 0.0 && top_p <= 1.0, format!("top_p must be in (0, 1], got {top_p}."))?;
        }
        range(self.n.unwrap_or(1) == 1, "the simulator generates one choice: n must be 1".to_owned())?;
        Ok(max_tokens)
    }
}

impl Content {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Parts(parts) => parts.into_iter().map(|part| part.text).collect::<Vec<_>>().join("\n"),
        }
    }
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, BadRequest> {
    serde_json::from_slice(body).map_err(|error| BadRequest(error.to_string()))
}

fn missing(field: &str) -> BadRequest {
    BadRequest(format!("missing field `{field}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usual_request_is_understood() {
        let body = br#"{"model":"m","messages":[{"role":"user","content":"hi there"}],"max_tokens":9,
            "temperature":0.2,"stop":"x","seed":7,"stream":true,"stream_options":{"include_usage":true},"odd":1}"#;
        let got = Inference::decode(Api::Chat, body).unwrap();
        assert_eq!((got.model.as_str(), got.max_tokens, got.prompt.tokens), ("m", Some(9), 6));
        assert!(got.stream && got.include_usage);
        assert_eq!(got.stop, ["x"]);
    }

    #[test]
    fn what_cannot_be_answered_is_refused() {
        let message = r#""model":"m","messages":[{"role":"user","content":"hi"}]"#;
        for body in [
            "no json".to_owned(),
            r#"{"model":"m"}"#.to_owned(),
            r#"{"model":"m","messages":[]}"#.to_owned(),
            r#"{"messages":[{"role":"user","content":"hi"}]}"#.to_owned(),
            format!(r#"{{{message},"max_tokens":"many"}}"#),
            format!(r#"{{{message},"max_tokens":0}}"#),
            format!(r#"{{{message},"temperature":-1}}"#),
            format!(r#"{{{message},"stream_options":{{"include_usage":true}}}}"#),
        ] {
            assert!(Inference::decode(Api::Chat, body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn prompt_and_answer_must_fit_the_context() {
        let body = br#"{"model":"m","prompt":"one two three","max_tokens":7}"#;
        let inference = Inference::decode(Api::Completion, body).unwrap();
        assert_eq!(inference.fit(10), Ok(7));
        assert!(inference.fit(9).is_err());
        assert!(inference.fit(3).is_err());
    }

    #[test]
    fn a_job_names_itself_and_its_parameters() {
        let body = br#"{"id":"j:1","model":"m","messages":[{"role":"user","content":"hi"}],
            "params":{"max_tokens":5},"timeout_s":600}"#;
        let job = Job::decode(body).unwrap();
        assert_eq!((job.id.as_str(), job.inference.max_tokens, job.timeout_s), ("j:1", Some(5), Some(600.0)));
        assert!(Job::decode(br#"{"id":"j:1","model":"m"}"#).is_err());
    }
}
