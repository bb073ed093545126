//! Replicate's wire format: the bodies of requests and answers. Pure.

use std::time::Duration;

use chrono::{DateTime, Utc};
use schemas::{
    failure::{Failure, FailureClass as C},
    job::{Input, MAX_TOKENS_DEFAULT, Message},
    prices::Used,
    reply::{Output, Usage},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::odd;
use crate::{
    adapters::{
        chat::{self, OUTPUT_MAX},
        http,
        json::{lax, lax_count, lax_or_default, span},
        openai::Billing,
        runs::{Asked, Over},
    },
    provider::{Call, Success, UsedItem},
};

/// An answer: the output and the input, and as much again for what JSON adds to them.
pub(super) const ANSWER_MAX: usize = 4 * OUTPUT_MAX;

/// A page of a hundred predictions.
pub(super) const PAGE_MAX: usize = 8 * OUTPUT_MAX;

/// How much of an error text is kept.
const ERROR_MAX: usize = 300;

/// A model's names for its inputs. Each model has its own. An empty name leaves the input out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InputKeys {
    /// The text to answer.
    pub prompt: String,
    /// The system prompt. Without a name it is put in front of the prompt.
    pub system: String,
    /// The limit on the answer.
    pub max_tokens: String,
    /// The temperature.
    pub temperature: String,
    /// Nucleus sampling.
    pub top_p: String,
    /// The seed.
    pub seed: String,
    /// The stop text. Only the first of the job's stop texts is sent.
    pub stop: String,
}

impl Default for InputKeys {
    /// The names of most language models on Replicate.
    fn default() -> Self {
        Self {
            prompt: "prompt".to_owned(),
            system: "system_prompt".to_owned(),
            max_tokens: "max_tokens".to_owned(),
            temperature: "temperature".to_owned(),
            top_p: "top_p".to_owned(),
            seed: "seed".to_owned(),
            stop: "stop_sequences".to_owned(),
        }
    }
}

/// A model's input. In a chat with several turns each turn is a line that begins with its role.
pub(super) fn input(call: &Call, keys: &InputKeys) -> Map<String, Value> {
    let (system, prompt) = match &call.input {
        Input::Prompt(text) => (String::new(), text.clone()),
        Input::Messages(messages) => texts(messages),
    };
    let (system, prompt) = if keys.system.is_empty() && !system.is_empty() {
        (String::new(), format!("{system}\n\n{prompt}"))
    } else {
        (system, prompt)
    };
    let params = &call.params;
    let all = [
        (&keys.prompt, Some(json!(prompt))),
        (&keys.system, Some(system).filter(|text| !text.is_empty()).map(|text| json!(text))),
        (&keys.max_tokens, Some(json!(params.max_tokens.unwrap_or(MAX_TOKENS_DEFAULT)))),
        (&keys.temperature, params.temperature.map(|t| json!(t))),
        (&keys.top_p, params.top_p.map(|p| json!(p))),
        (&keys.seed, params.seed.map(|seed| json!(seed))),
        (&keys.stop, params.stop.first().map(|stop| json!(stop))),
    ];
    let named = all.into_iter().filter(|(key, _)| !key.is_empty());
    named.filter_map(|(key, value)| Some((key.clone(), value?))).collect()
}

fn texts(messages: &[Message]) -> (String, String) {
    let (system, turns): (Vec<&Message>, Vec<&Message>) =
        messages.iter().partition(|message| message.role == "system");
    let system: Vec<&str> = system.iter().map(|message| message.content.as_str()).collect();
    let prompt = match turns.as_slice() {
        [one] => one.content.clone(),
        several => {
            let line = |message: &&Message| {
                let mut role = message.role.clone();
                if let Some(first) = role.get_mut(..1) {
                    first.make_ascii_uppercase();
                }
                format!("{role}: {}\n", message.content)
            };
            several.iter().map(line).collect::<String>() + "Assistant:"
        }
    };
    (system.join("\n"), prompt)
}

#[derive(Serialize)]
struct Submission<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    input: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook_events_filter: Option<[&'static str; 1]>,
}

/// The body of a create.
pub(super) fn submission(version: Option<&str>, input: Map<String, Value>, webhook: Option<&str>) -> Vec<u8> {
    let webhook_events_filter = webhook.map(|_| ["completed"]);
    let submission = Submission { version, input, webhook, webhook_events_filter };
    serde_json::to_vec(&submission).expect("texts and numbers always make JSON")
}

/// A prediction, as far as we read it. Only its id and its status must be what they should: a field of an odd type is missing.
#[derive(Debug, Deserialize)]
pub(super) struct Prediction {
    pub(super) id: String,
    status: String,
    #[serde(default, deserialize_with = "lax_or_default")]
    pub(super) model: String,
    #[serde(default, deserialize_with = "lax_or_default")]
    pub(super) input: Map<String, Value>,
    #[serde(default)]
    output: Value,
    #[serde(default)]
    error: Value,
    #[serde(default, deserialize_with = "lax_or_default")]
    data_removed: bool,
    #[serde(default, deserialize_with = "lax_or_default")]
    metrics: Metrics,
    #[serde(default, deserialize_with = "odd::time")]
    pub(super) created_at: Option<DateTime<Utc>>,
    #[serde(default, deserialize_with = "odd::time")]
    started_at: Option<DateTime<Utc>>,
    #[serde(default, deserialize_with = "odd::time")]
    completed_at: Option<DateTime<Utc>>,
    #[serde(default, deserialize_with = "lax_or_default")]
    pub(super) urls: Urls,
}

/// Where a prediction can be reached.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Urls {
    /// Its output as it is written; only where the model streams.
    #[serde(default, deserialize_with = "lax")]
    pub(super) stream: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct Metrics {
    #[serde(deserialize_with = "lax")]
    predict_time: Option<f64>,
    #[serde(deserialize_with = "lax_count")]
    input_token_count: Option<u64>,
    #[serde(deserialize_with = "lax_count")]
    output_token_count: Option<u64>,
    #[serde(deserialize_with = "lax")]
    time_to_first_token: Option<f64>,
}

/// One page of the account's predictions, newest first.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    #[serde(default)]
    pub(super) next: Option<String>,
    pub(super) results: Vec<Prediction>,
}

impl Prediction {
    /// The meaning of its status for the run.
    pub(super) fn asked(self, call: &Call, billing: Billing) -> Asked {
        match self.status.as_str() {
            "starting" => Asked::Queued,
            "succeeded" | "failed" | "canceled" | "cancelled" | "aborted" => {
                Asked::Over(self.over(call, billing))
            }
            _ => Asked::Going,
        }
    }

    /// The span from creation to one of its times; zero if the clock went backwards.
    fn after(&self, at: Option<DateTime<Utc>>) -> Option<Duration> {
        (at? - self.created_at?).to_std().ok()
    }

    fn over(self, call: &Call, billing: Billing) -> Over {
        let outcome = match self.status.as_str() {
            "succeeded" => self.success(call),
            "failed" => Err(self.failure()),
            "aborted" => Err(Failure::new(C::Timeout, "the prediction did not start before its deadline")),
            _ => Err(Failure::new(C::ProviderDown, "the prediction was canceled at the provider")),
        };
        let interrupted = matches!(&outcome, Err(failure) if failure.class == C::Preempted);
        Over {
            // A prediction that the platform broke off, or never began, is not billed.
            used: if interrupted || self.status == "aborted" {
                Some(Vec::new())
            } else {
                self.used(call, billing)
            },
            estimated: false,
            cold_start: self.after(self.started_at).unwrap_or_default(),
            took: self.after(self.completed_at),
            first_token: self.metrics.time_to_first_token.and_then(span).unwrap_or_default(),
            outcome,
        }
    }

    fn used(&self, call: &Call, billing: Billing) -> Option<Vec<UsedItem>> {
        let Metrics { predict_time, input_token_count, output_token_count, .. } = self.metrics;
        let used = match billing {
            Billing::PerSecond | Billing::PerInference => Used::Time(predict_time.and_then(span)?),
            Billing::PerToken if self.status == "failed" => return Some(Vec::new()),
            Billing::PerToken => match (input_token_count, output_token_count) {
                (Some(input), Some(output)) => Used::Tokens { input, output },
                // Canceled before anything was read.
                _ if self.started_at.is_none() => return Some(Vec::new()),
                _ => return None,
            },
        };
        let item = if matches!(used, Used::Time(_)) { "execution" } else { "tokens" };
        if used == Used::Time(Duration::ZERO) {
            return Some(Vec::new());
        }
        Some(vec![UsedItem { sku: call.sku.clone(), item, used, rate: None }])
    }

    fn success(&self, call: &Call) -> Result<Success, Failure> {
        if self.data_removed || self.output.is_null() {
            let message = "the prediction succeeded, but its output has been removed";
            return Err(Failure::new(C::ProviderDown, message));
        }
        let Some(text) = odd::text(&self.output) else {
            return Err(Failure::new(C::Misconfigured, "the model's output is no text"));
        };
        if text.len() > OUTPUT_MAX {
            return Err(http::too_long(OUTPUT_MAX));
        }
        let Metrics { input_token_count, output_token_count, .. } = self.metrics;
        let usage = Usage {
            prompt_tokens: input_token_count.unwrap_or_else(|| chat::tokens_of_input(&call.input)),
            completion_tokens: output_token_count.unwrap_or_else(|| chat::tokens_of(text.len())),
            cached_tokens: None,
            estimated: input_token_count.is_none() || output_token_count.is_none(),
        };
        // Replicate does not say why the model stopped. At the limit, the limit is the likely reason.
        let limit = u64::from(call.params.max_tokens.unwrap_or(MAX_TOKENS_DEFAULT));
        let cut = output_token_count.is_some_and(|count| count >= limit);
        let finish_reason = if cut { "length" } else { "stop" }.to_owned();
        Ok(Success { output: Output { text, finish_reason }, usage })
    }

    /// The failure, by its code if there is one, and by its words otherwise.
    fn failure(&self) -> Failure {
        let text = match &self.error {
            Value::String(text) => text.as_str(),
            _ => "the prediction failed without a word",
        };
        let has = |part: &str| text.contains(part);
        let class = if has("out of memory") || has("OutOfMemoryError") {
            C::OutOfMemory
        } else if has("Prediction interrupted") || has("(code: PA)") || has_code(text) {
            C::Preempted
        } else {
            C::ProviderDown
        };
        let text: String = text.chars().take(ERROR_MAX).collect();
        Failure::new(class, format!("the prediction failed: {text}"))
    }
}

/// True if a text holds a code of the platform: `E6716`.
fn has_code(text: &str) -> bool {
    let is_code = |word: &str| {
        word.strip_prefix('E')
            .is_some_and(|digits| digits.len() == 4 && digits.chars().all(|digit| digit.is_ascii_digit()))
    };
    text.split(|c: char| !c.is_ascii_alphanumeric()).any(is_code)
}

#[cfg(test)]
mod tests;
