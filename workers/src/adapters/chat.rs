//! The OpenAI API: the body of a request, and the sum of a streamed answer. Pure.

use schemas::{
    failure::{Failure, FailureClass},
    job::{Input, MAX_TOKENS_DEFAULT, Message},
    reply::{Output, Usage},
};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::Value;

use super::{dialect::Dialect, http, json, refusal, sse::Event};
use crate::provider::{Call, Success};

/// The longest output taken, in bytes: about forty times the longest usual answer. The limit bounds a worker's memory. The
/// server's limit on a message, 1 MiB by default, is another matter.
pub(super) const OUTPUT_MAX: usize = 4 * 1024 * 1024;

/// Begins the last comment of a stream of Modal's app, which holds the run's bill.
const BILLING: &str = "beacon-billing ";

/// Bytes of English text in a token (OpenAI's rule of thumb), for prompts whose tokens the server does not count.
const BYTES_PER_TOKEN: usize = 4;

/// An estimate of the tokens of an input.
pub(super) fn tokens_of_input(input: &Input) -> u64 {
    tokens_of(match input {
        Input::Prompt(text) => text.len(),
        Input::Messages(messages) => messages.iter().map(|message| message.content.len()).sum(),
    })
}

/// An estimate of the tokens of so many bytes of text.
pub(super) fn tokens_of(bytes: usize) -> u64 {
    bytes.div_ceil(BYTES_PER_TOKEN) as u64
}

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
pub(super) fn path(input: &Input) -> &'static str {
    match input {
        Input::Messages(_) => "/v1/chat/completions",
        Input::Prompt(_) => "/v1/completions",
    }
}

/// The body of the request. It always names the limit on tokens, because the servers' own is 16 or none at all.
pub(super) fn request(call: &Call, dialect: Dialect, stream: bool) -> Vec<u8> {
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
        top_p: call.params.top_p,
        stop: &call.params.stop,
        seed: call.params.seed,
        stream,
        // vLLM refuses it without streaming.
        stream_options: stream.then_some(StreamOptions { include_usage: true }),
    };
    serde_json::to_vec(&request).expect("texts and numbers always make JSON")
}

/// A chunk of a stream, or a whole answer. They differ in the place of the text.
#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Option<Vec<Choice>>,
    #[serde(default)]
    usage: Option<Counts>,
    /// llama.cpp's own counts; older builds say only here what they had in their cache.
    #[serde(default)]
    timings: Option<Lenient<Timings>>,
    #[serde(default)]
    error: Option<IgnoredAny>,
    /// `error` where SGLang's error object stands alone.
    #[serde(default)]
    object: Option<String>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default, alias = "message")]
    delta: Option<Delta>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    #[serde(default)]
    content: Option<String>,
    /// The model's thoughts before its answer. They are no output, but they were generated. Two servers have two names.
    #[serde(default)]
    reasoning_content: Option<String>,
    #[serde(default)]
    reasoning: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct Counts {
    #[serde(default)]
    prompt_tokens: Option<u64>,
    #[serde(default)]
    completion_tokens: Option<u64>,
    #[serde(default)]
    prompt_tokens_details: Option<Lenient<Details>>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct Details {
    #[serde(default)]
    cached_tokens: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct Timings {
    #[serde(default)]
    cache_n: Option<u64>,
}

/// What is good to know, and spoils no answer where it does not read.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
enum Lenient<T> {
    Read(T),
    Other(IgnoredAny),
}

impl<T> Lenient<T> {
    fn read(self) -> Option<T> {
        match self {
            Self::Read(value) => Some(value),
            Self::Other(_) => None,
        }
    }
}

/// The answer so far.
#[derive(Debug)]
pub(super) struct Transcript {
    dialect: Dialect,
    text: String,
    finish: Option<String>,
    usage: Option<Counts>,
    /// Tokens of the prompt that the server had in its cache, as it said last; `None` while it has not.
    cached: Option<u64>,
    /// Pieces that carried text or thoughts: at least as many tokens were generated.
    pieces: u64,
    failure: Option<Failure>,
    done: bool,
    billing: Option<String>,
}

impl Transcript {
    pub(super) fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            text: String::new(),
            finish: None,
            usage: None,
            cached: None,
            pieces: 0,
            failure: None,
            done: false,
            billing: None,
        }
    }

    /// Takes an event of a stream and gives the piece of output that it adds, if any.
    pub(super) fn event(&mut self, event: Event) -> Option<&str> {
        match event {
            Event::Comment(text) => {
                if let Some(billing) = text.strip_prefix(BILLING) {
                    self.billing = Some(billing.to_owned());
                }
                None
            }
            Event::Named(_) => None,
            Event::Error(text) => {
                let error = serde_json::from_str(&text).unwrap_or(Value::String(text));
                self.fail(refusal::inside(&error, self.dialect));
                None
            }
            Event::Data(text) if text.trim() == "[DONE]" => {
                self.done = true;
                None
            }
            Event::Data(text) => self.chunk(text.as_bytes()),
        }
    }

    /// Takes a chunk, or a whole answer, and gives the piece of output that it adds, if any.
    pub(super) fn chunk(&mut self, bytes: &[u8]) -> Option<&str> {
        let chunk: Chunk = match json::read(bytes, "the answer") {
            Ok(chunk) => chunk,
            Err(failure) => {
                self.broke(failure);
                return None;
            }
        };
        if chunk.error.is_some() || chunk.object.as_deref() == Some("error") {
            let error = serde_json::from_slice(bytes).unwrap_or_default();
            self.fail(refusal::inside(&error, self.dialect));
            return None;
        }
        let choices = chunk.choices.unwrap_or_default();
        self.count(chunk.usage, choices.is_empty());
        self.count_cached(chunk.usage, chunk.timings);
        // Every request asks for one choice.
        let choice = choices.into_iter().next()?;
        if let Some(reason) = choice.finish_reason.filter(|reason| !reason.is_empty()) {
            self.finish = Some(reason);
        }
        let (piece, thought) = match choice.delta {
            Some(delta) => {
                let thought = delta.reasoning_content.or(delta.reasoning).is_some_and(|t| !t.is_empty());
                (delta.content, thought)
            }
            None => (choice.text, false),
        };
        let piece = piece.unwrap_or_default();
        if thought || !piece.is_empty() {
            self.pieces += 1;
        }
        if piece.is_empty() || self.failure.is_some() {
            return None;
        }
        if self.text.len() + piece.len() > OUTPUT_MAX {
            self.fail(http::too_long(OUTPUT_MAX));
            return None;
        }
        let begin = self.text.len();
        self.text.push_str(&piece);
        Some(&self.text[begin..])
    }

    /// A chunk without choices carries the final counts; without such a chunk the last ones that are not zero hold
    /// (Ollama sends zeros all the way, vLLM may send running totals).
    fn count(&mut self, usage: Option<Counts>, is_last: bool) {
        let Some(usage) = usage else { return };
        let some = |tokens: Option<u64>| tokens.is_some_and(|n| n > 0);
        if is_last || some(usage.prompt_tokens) || some(usage.completion_tokens) {
            self.usage = Some(usage);
        }
    }

    /// vLLM and SGLang say it in `usage` where they are told to, llama.cpp in `timings`, others nowhere.
    fn count_cached(&mut self, usage: Option<Counts>, timings: Option<Lenient<Timings>>) {
        let details = usage.and_then(|usage| usage.prompt_tokens_details).and_then(Lenient::read);
        let timings = timings.and_then(Lenient::read);
        let said = details.and_then(|it| it.cached_tokens).or(timings.and_then(|it| it.cache_n));
        self.cached = said.or(self.cached);
    }

    /// Only the first failure counts: later failures follow from it.
    pub(super) fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }

    /// The stream broke, or no longer makes sense. After a finish reason this does not spoil the answer.
    pub(super) fn broke(&mut self, failure: Failure) {
        if self.finish.is_none() {
            self.fail(failure);
        }
    }

    /// True once the outcome is known: only counts and a bill may follow.
    pub(super) fn is_decided(&self) -> bool {
        self.finish.is_some() || self.failure.is_some()
    }

    /// True once the server said that nothing follows.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    pub(super) fn billing(&self) -> Option<&str> {
        self.billing.as_deref()
    }

    /// The tokens, by the provider's count or our estimate; `None` when nothing was generated and no count came.
    pub(super) fn usage(&self, input: &Input) -> Option<Usage> {
        match self.usage {
            Some(Counts {
                prompt_tokens: Some(prompt_tokens),
                completion_tokens: Some(completion_tokens),
                ..
            }) => Some(Usage {
                prompt_tokens,
                completion_tokens,
                cached_tokens: self.cached.map(|cached| cached.min(prompt_tokens)),
                estimated: false,
            }),
            None if self.pieces == 0 && self.finish.is_none() => None,
            counts => Some(Usage {
                prompt_tokens: counts.and_then(|c| c.prompt_tokens).unwrap_or_else(|| tokens_of_input(input)),
                completion_tokens: counts.and_then(|c| c.completion_tokens).unwrap_or(self.pieces),
                cached_tokens: self.cached,
                estimated: true,
            }),
        }
    }

    /// The outcome of the whole answer.
    pub(super) fn outcome(self, input: &Input) -> Result<Success, Failure> {
        let usage = self.usage(input).unwrap_or_default();
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let Some(finish_reason) = self.finish else {
            let message = "the answer ended without a finish_reason";
            return Err(Failure::new(FailureClass::Connection, message));
        };
        match finish_reason.as_str() {
            "content_filter" => Err(Failure::new(FailureClass::Refused, "finish_reason content_filter")),
            "stop" | "stop_sequence" | "eos_token" | "length" | "tool_calls" | "function_call" => {
                Ok(Success { output: Output { text: self.text, finish_reason }, usage })
            }
            // `abort` of vLLM and SGLang, `load` and `unload` of Ollama.
            other => {
                let other: String = other.chars().take(40).collect();
                Err(Failure::new(FailureClass::ProviderDown, format!("finish_reason {other}")))
            }
        }
    }
}

#[cfg(test)]
mod tests;
