//! The wire format of Beacon's app on Modal: the bodies of requests and answers. Pure.

use std::time::Duration;

use schemas::{
    failure::{Failure, FailureClass},
    job::{Input, MAX_TOKENS_DEFAULT, Message, Params},
    prices::Used,
    reply::{Output, Usage},
};
use serde::{Deserialize, Serialize};

use crate::{
    adapters::{
        chat::{OUTPUT_MAX, tokens_of},
        json::{self, lax, lax_count, lax_or_default, span},
    },
    provider::{Call, Success, UsedItem},
};

/// The version of the contract between this adapter and the app, which `GET /health` of the app names as `contract`. An app that names
/// none is older.
pub const CONTRACT: u32 = 1;

/// An answer of the app: the output, and as much again for its JSON.
pub(super) const ANSWER_MAX: usize = 2 * OUTPUT_MAX;

#[derive(Serialize)]
struct Job<'a> {
    id: String,
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<&'a [Message]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a str>,
    params: Params,
    timeout_s: f64,
}

/// The body of `POST /v1/jobs` and `POST /v1/run`. The app stops the run by itself after `limit`.
pub(super) fn job(call: &Call, limit: Duration) -> Vec<u8> {
    let (messages, prompt) = match &call.input {
        Input::Messages(messages) => (Some(messages.as_slice()), None),
        Input::Prompt(prompt) => (None, Some(prompt.as_str())),
    };
    let max_tokens = Some(call.params.max_tokens.unwrap_or(MAX_TOKENS_DEFAULT));
    let params = Params { max_tokens, ..call.params.clone() };
    let job = Job {
        id: call.request_id(),
        model: &call.model,
        messages,
        prompt,
        params,
        timeout_s: limit.as_secs_f64().max(0.001),
    };
    serde_json::to_vec(&job).expect("texts and numbers always make JSON")
}

/// The answer to `POST /v1/jobs`.
#[derive(Deserialize)]
pub(super) struct Submitted {
    pub(super) call_id: String,
}

/// The app's measurements of a run, from inside its container.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Billing {
    gpu: String,
    execution_s: f64,
    /// Only the first run of a container has one.
    #[serde(default)]
    cold_start_s: Option<f64>,
}

impl Billing {
    /// Reads the object; `None` when it is not one, or holds no time.
    pub(super) fn parse(json: &str) -> Option<Self> {
        serde_json::from_str::<Self>(json).ok().filter(Self::is_sound)
    }

    fn is_sound(&self) -> bool {
        !self.gpu.is_empty()
            && span(self.execution_s).is_some()
            && self.cold_start_s.is_none_or(|s| span(s).is_some())
    }

    pub(super) fn cold_start(&self) -> Duration {
        self.cold_start_s.and_then(span).unwrap_or_default()
    }

    /// Execution and cold start apart, as Modal charges them; a part that took no time is left out.
    pub(super) fn used(&self) -> Vec<UsedItem> {
        let parts =
            [("execution", span(self.execution_s).unwrap_or_default()), ("cold_start", self.cold_start())];
        let parts = parts.into_iter().filter(|(_, span)| !span.is_zero());
        parts
            .map(|(item, span)| UsedItem { sku: self.gpu.clone(), item, used: Used::Time(span), rate: None })
            .collect()
    }
}

/// The answer of `GET /v1/jobs/{id}` and `/v1/run` about a run.
#[derive(Debug, PartialEq)]
pub(super) enum Report {
    /// It goes on.
    Pending,
    /// It is over.
    Over(Finished),
}

/// A run that is over.
#[derive(Debug, PartialEq)]
pub(super) struct Finished {
    pub(super) outcome: Result<Success, Failure>,
    pub(super) billing: Option<Billing>,
}

#[derive(Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
enum Wire {
    Pending,
    Succeeded {
        output: WireOutput,
        #[serde(default, deserialize_with = "lax")]
        finish_reason: Option<String>,
        #[serde(default, deserialize_with = "lax_or_default")]
        usage: WireUsage,
        #[serde(default, deserialize_with = "lax")]
        billing: Option<Billing>,
    },
    Failed {
        error: WireError,
        #[serde(default, deserialize_with = "lax")]
        billing: Option<Billing>,
    },
    Cancelled {
        #[serde(default, deserialize_with = "lax")]
        billing: Option<Billing>,
    },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WireOutput {
    Text(String),
    Object { text: String },
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireUsage {
    #[serde(deserialize_with = "lax_count")]
    prompt_tokens: Option<u64>,
    #[serde(deserialize_with = "lax_count")]
    completion_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct WireError {
    class: String,
    #[serde(default)]
    message: String,
}

/// Reads a report.
pub(super) fn report(bytes: &[u8]) -> Result<Report, Failure> {
    let (outcome, billing) = match json::read::<Wire>(bytes, "the app's answer")? {
        Wire::Pending => return Ok(Report::Pending),
        Wire::Succeeded { output, finish_reason, usage, billing } => {
            (succeeded(output, finish_reason, &usage), billing)
        }
        Wire::Failed { error, billing } => {
            (Err(Failure::new(class(&error.class), format!("the run failed: {}", error.message))), billing)
        }
        Wire::Cancelled { billing } => {
            (Err(Failure::new(FailureClass::ProviderDown, "the run was cancelled at the provider")), billing)
        }
    };
    Ok(Report::Over(Finished { outcome, billing: billing.filter(Billing::is_sound) }))
}

fn succeeded(
    output: WireOutput,
    finish_reason: Option<String>,
    usage: &WireUsage,
) -> Result<Success, Failure> {
    let (WireOutput::Text(text) | WireOutput::Object { text }) = output;
    if text.len() > OUTPUT_MAX {
        return Err(crate::adapters::http::too_long(OUTPUT_MAX));
    }
    let usage = Usage {
        prompt_tokens: usage.prompt_tokens.unwrap_or_default(),
        completion_tokens: usage.completion_tokens.unwrap_or_else(|| tokens_of(text.len())),
        cached_tokens: None,
        estimated: usage.prompt_tokens.is_none() || usage.completion_tokens.is_none(),
    };
    let finish_reason = finish_reason.unwrap_or_else(|| "stop".to_owned());
    Ok(Success { output: Output { text, finish_reason }, usage })
}

/// The app uses Beacon's failure classes. A class that only Beacon itself may use, and an unknown class, count as the
/// app's own failure.
fn class(word: &str) -> FailureClass {
    use FailureClass as C;
    let ours = [C::RateLimited, C::Capacity, C::Connection, C::Timeout, C::OutOfMemory];
    let ours = ours.into_iter().chain([C::Preempted, C::InvalidRequest, C::Refused, C::Misconfigured]);
    ours.into_iter().find(|class| class.as_str() == word).unwrap_or(C::ProviderDown)
}

#[derive(Serialize)]
struct Order<'a> {
    model: &'a str,
    containers: u32,
}

/// The body of `PUT /v1/warm`.
pub(super) fn order(model: &str, containers: u32) -> Vec<u8> {
    serde_json::to_vec(&Order { model, containers }).expect("texts and numbers always make JSON")
}

/// True if a refusal of `PUT /v1/warm` comes from an app without that route: it is the app's own JSON, and names no model.
pub(super) fn knows_no_warmth(status: u16, body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Refusal {
        detail: Option<serde_json::Value>,
        model: Option<serde_json::Value>,
    }
    matches!(status, 404 | 405)
        && serde_json::from_slice::<Refusal>(body).is_ok_and(|r| r.detail.is_some() && r.model.is_none())
}

#[derive(Deserialize)]
struct Totals {
    items: Vec<Total>,
}

#[derive(Deserialize)]
struct Total {
    gpu: String,
    idle_us: u64,
    /// Missing in the answer of an app that keeps no containers warm.
    #[serde(default)]
    warm_start_us: u64,
}

/// The use of each GPU that belongs to no run, in an answer of `GET /billing`: idle time, and starts ahead of any run. A run's
/// execution, and the start that it waited for, are on its own bill.
pub(super) fn standing(json: &[u8]) -> Result<Vec<UsedItem>, Failure> {
    let unreadable = |_| Failure::new(FailureClass::ProviderDown, "unreadable answer for the standing cost");
    let totals: Totals = serde_json::from_slice(json).map_err(unreadable)?;
    let items = totals.items.into_iter().flat_map(|Total { gpu, idle_us, warm_start_us }| {
        let parts = [("idle", idle_us), ("warm_start", warm_start_us)];
        let parts = parts.into_iter().filter(|(_, micros)| *micros > 0);
        parts.map(move |(item, micros)| UsedItem {
            sku: gpu.clone(),
            item,
            used: Used::Time(Duration::from_micros(micros)),
            rate: None,
        })
    });
    Ok(items.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn over(json: &str) -> Finished {
        match report(json.as_bytes()).unwrap() {
            Report::Over(finished) => finished,
            Report::Pending => panic!("pending"),
        }
    }

    #[test]
    fn a_success_carries_its_text_its_tokens_and_its_bill() {
        let finished = over(
            r#"{"status":"succeeded","output":"Air","finish_reason":"length",
                "usage":{"prompt_tokens":24,"completion_tokens":7,"total_tokens":31},
                "billing":{"gpu":"T4","execution_s":0.83,"cold_start_s":4.2,"container_id":"ta-1"}}"#,
        );
        let success = finished.outcome.unwrap();
        assert_eq!((success.output.text.as_str(), success.usage.completion_tokens), ("Air", 7));
        let item = |item, micros| UsedItem {
            sku: "T4".to_owned(),
            item,
            used: Used::Time(Duration::from_micros(micros)),
            rate: None,
        };
        let billing = finished.billing.unwrap();
        assert_eq!(billing.used(), [item("execution", 830_000), item("cold_start", 4_200_000)]);
        assert_eq!(billing.cold_start(), Duration::from_millis(4_200));
    }

    #[test]
    fn an_output_may_be_an_object_and_counts_may_be_missing() {
        let success = over(r#"{"status":"succeeded","output":{"text":"Air"}}"#).outcome.unwrap();
        assert_eq!((success.output.text.as_str(), success.output.finish_reason.as_str()), ("Air", "stop"));
        assert!(success.usage.estimated);
        for odd in [
            r#""usage":{"prompt_tokens":"24","completion_tokens":-7}"#,
            r#""usage":[],"finish_reason":7"#,
            r#""billing":{"gpu":7}"#,
            r#""usage":null,"billing":null,"finish_reason":null"#,
        ] {
            let finished = over(&format!(r#"{{"status":"succeeded","output":"Air",{odd}}}"#));
            assert!(finished.outcome.unwrap().usage.estimated && finished.billing.is_none(), "{odd}");
        }
    }

    #[test]
    fn a_failure_keeps_its_class_unless_that_is_not_the_apps_to_say() {
        for (word, class) in [
            ("out_of_memory", FailureClass::OutOfMemory),
            ("timeout", FailureClass::Timeout),
            ("invalid_request", FailureClass::InvalidRequest),
            ("poison", FailureClass::ProviderDown),
            ("authentication", FailureClass::ProviderDown),
            ("bad day", FailureClass::ProviderDown),
        ] {
            let json = format!(r#"{{"status":"failed","error":{{"class":"{word}","message":"x"}}}}"#);
            assert_eq!(over(&json).outcome.unwrap_err().class, class, "{word}");
        }
        assert_eq!(over(r#"{"status":"cancelled"}"#).outcome.unwrap_err().class, FailureClass::ProviderDown);
        assert!(report(b"{\"status\":\"odd\"}").is_err());
        assert_eq!(report(b"{\"status\":\"pending\"}").unwrap(), Report::Pending);
    }

    #[test]
    fn a_bill_that_makes_no_sense_is_none() {
        for bad in [
            r#"{"gpu":"","execution_s":1}"#,
            r#"{"gpu":"T4","execution_s":-1}"#,
            r#"{"gpu":"T4","execution_s":1e20}"#,
            r#"{"gpu":"T4","execution_s":1,"cold_start_s":-1}"#,
            r#"{"gpu":"T4"}"#,
            "no",
        ] {
            assert_eq!(Billing::parse(bad), None, "{bad}");
        }
        let nothing = Billing::parse(r#"{"gpu":"T4","execution_s":0.0}"#).unwrap();
        assert_eq!(nothing.used(), []);
    }

    #[test]
    fn idle_time_and_starts_ahead_are_an_item_each_for_each_gpu() {
        let item = |item, micros| UsedItem {
            sku: "T4".to_owned(),
            item,
            used: Used::Time(Duration::from_micros(micros)),
            rate: None,
        };
        let json = br#"{"items":[{"gpu":"T4","startup_us":1,"execution_us":2,"idle_us":3,"idle_spans":4}]}"#;
        assert_eq!(standing(json).unwrap(), [item("idle", 3)]);
        let json = br#"{"items":[{"gpu":"T4","idle_us":3,"warm_start_us":5}]}"#;
        assert_eq!(standing(json).unwrap(), [item("idle", 3), item("warm_start", 5)]);
    }

    #[test]
    fn only_the_app_itself_can_say_that_it_keeps_nothing_warm() {
        for (status, body, old) in [
            (404, r#"{"detail":"Not Found"}"#, true),
            (405, r#"{"detail":"Method Not Allowed"}"#, true),
            (404, r#"{"detail":"model x does not exist","model":"x"}"#, false),
            (404, "modal-http: invalid function call", false),
            (422, r#"{"detail":[]}"#, false),
            (404, "{}", false),
        ] {
            assert_eq!(knows_no_warmth(status, body.as_bytes()), old, "{status} {body}");
        }
    }

    proptest! {
        #[test]
        fn six_decimals_give_back_each_microsecond(micros in 0..100_000_000_000_000_u64) {
            let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
            prop_assert_eq!(span(text.parse().unwrap()), Some(Duration::from_micros(micros)));
        }
    }
}
