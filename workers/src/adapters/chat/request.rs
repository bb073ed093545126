//! The body of a request of the OpenAI API, by the dialect of the server. Pure.

use schemas::job::{Input, MAX_TOKENS_DEFAULT, Message};
use serde::Serialize;

use crate::{adapters::dialect::Dialect, provider::Call};

#[derive(Serialize)]
struct Request<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<&'a [Message]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<i64>,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

/// The route for an input.
pub(in crate::adapters) fn path(input: &Input) -> &'static str {
    match input {
        Input::Messages(_) => "/v1/chat/completions",
        Input::Prompt(_) => "/v1/completions",
    }
}

/// The body of the request. It always names the limit on tokens, because the servers' own is 16 or none at all.
pub(in crate::adapters) fn request(call: &Call, dialect: Dialect, stream: bool) -> Vec<u8> {
    let (messages, prompt) = match &call.input {
        Input::Messages(messages) => (Some(messages.as_slice()), None),
        Input::Prompt(prompt) => (None, Some(prompt.as_str())),
    };
    let limit = call.params.max_tokens.unwrap_or(MAX_TOKENS_DEFAULT);
    // OpenAI's newer models refuse the older name; every other server knows only the older name.
    let newer = dialect == Dialect::OpenAi && messages.is_some();
    let request = Request {
        model: &call.model,
        messages,
        prompt,
        max_tokens: (!newer).then_some(limit),
        max_completion_tokens: newer.then_some(limit),
        temperature: call.params.temperature,
        top_p: call.params.top_p.filter(|share| dialect != Dialect::Tgi || *share < TGI_TOP_P),
        stop: &call.params.stop,
        seed: call.params.seed.filter(|seed| dialect != Dialect::Tgi || *seed >= 0),
        stream,
        // vLLM refuses it without streaming.
        stream_options: stream.then_some(StreamOptions { include_usage: true }),
    };
    serde_json::to_vec(&request).expect("texts and numbers always make JSON")
}

/// TGI refuses this and more, which means the same there as nothing: all tokens. Its seeds have no sign.
const TGI_TOP_P: f64 = 1.0;
