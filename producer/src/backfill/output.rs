//! The lines of the output, in OpenAI's batch format. Pure.

use schemas::{
    JobId, ModelToken, ProviderId, UsdNanos,
    failure::Failure,
    reply::{JobResult, OutputRef, Status},
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::lines::{CUSTOM_ID, name_of};

/// A line of `results.jsonl` for a job that succeeded; `chat` says in which of the two shapes it was asked.
pub fn result(result: &JobResult, chat: bool) -> String {
    let (text, finish_reason) =
        result.output.as_ref().map_or(("", ""), |o| (o.text.as_str(), o.finish_reason.as_str()));
    let usage = result.usage.unwrap_or_default();
    let choice = Choice {
        index: 0,
        message: chat.then_some(Said { role: "assistant", content: text }),
        text: (!chat).then_some(text),
        finish_reason,
    };
    let body = Body {
        id: result.job,
        object: if chat { "chat.completion" } else { "text_completion" },
        created: result.finished_us.get() / 1_000_000,
        model: result.model.as_ref(),
        choices: [choice],
        usage: Counts {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            // A worker of an older version passes on what a server counted, whatever that was.
            total_tokens: usage.prompt_tokens.saturating_add(usage.completion_tokens),
            prompt_tokens_details: usage.cached_tokens.map(|cached_tokens| Details { cached_tokens }),
        },
    };
    let line = Answered {
        id: format!("batch_req_{}", result.job),
        custom_id: result.labels.get(CUSTOM_ID).map(String::as_str),
        response: Response { status_code: 200, request_id: result.job, body },
        error: None,
        cost_usd: result.cost_usd,
        provider: result.provider.as_ref(),
    };
    serde_json::to_string(&line).expect("a line has only string keys and no failing parts")
}

/// The shapes of OpenAI's batch output, and beside them what a job cost and where it ran.
#[derive(Serialize)]
struct Answered<'a> {
    id: String,
    custom_id: Option<&'a str>,
    response: Response<'a>,
    error: Option<&'a str>,
    cost_usd: UsdNanos,
    provider: Option<&'a ProviderId>,
}

#[derive(Serialize)]
struct Response<'a> {
    status_code: u16,
    request_id: JobId,
    body: Body<'a>,
}

#[derive(Serialize)]
struct Body<'a> {
    id: JobId,
    object: &'static str,
    created: u64,
    model: Option<&'a ModelToken>,
    choices: [Choice<'a>; 1],
    usage: Counts,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Said<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    finish_reason: &'a str,
}

#[derive(Serialize)]
struct Said<'a> {
    role: &'static str,
    content: &'a str,
}

#[derive(Serialize)]
struct Counts {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_tokens_details: Option<Details>,
}

#[derive(Serialize)]
struct Details {
    cached_tokens: u64,
}

/// A line of `errors.jsonl`: line `number` of the input with what went wrong beside it, so that it is valid input again, and keeps
/// its name when it is run again. A line that is not even an object stands in `raw`.
pub fn error(line: &str, number: u64, error: &Value) -> String {
    match serde_json::from_str::<Map<String, Value>>(line.trim_start_matches('\u{feff}')) {
        Ok(mut object) => {
            if object.get(CUSTOM_ID).is_none_or(Value::is_null) {
                object.insert(CUSTOM_ID.into(), name_of(number).into());
            }
            object.insert("error".into(), error.clone());
            Value::Object(object).to_string()
        }
        Err(_) => json!({ "raw": line, "error": error }).to_string(),
    }
}

/// What went wrong with a line that is no job.
pub fn bad_line(file: &str, number: u64, rule: &str) -> Value {
    json!({ "class": "bad_line", "message": format!("{file} line {number}: {rule}") })
}

/// What went wrong with a job.
pub fn bad_job(result: &JobResult) -> Value {
    let (class, message) = match &result.error {
        Some(Failure { class, message, .. }) => (class.as_str(), message.as_str()),
        None => (result.status.as_str(), ""),
    };
    json!({
        "class": class, "message": message, "status": result.status, "job": result.job,
        "attempts": result.attempts, "cost_usd": result.cost_usd,
    })
}

/// What went wrong with a job that succeeded and whose output is not in the object store any more.
pub fn lost_output(result: &JobResult, gone: &OutputRef) -> Value {
    json!({
        "class": "output_lost", "job": result.job, "cost_usd": result.cost_usd, "attempts": result.attempts,
        "message": format!("its output `{}` is not in the object store; outputs are kept for a week", gone.object),
    })
}

/// Whether a result goes to `results.jsonl`.
pub fn is_good(result: &JobResult) -> bool {
    result.status == Status::Succeeded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::{Defaults, read_line};
    use schemas::{catalog::Catalog, reply::Timings};

    #[test]
    fn a_line_of_the_errors_is_a_job_again_and_keeps_what_it_said() {
        let line =
            r#"{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"model":"m","prompt":"x"}}"#;
        let catalog = Catalog::new(vec!["m".into()]).unwrap();
        let defaults = Defaults { catalog: &catalog, regions: &[], model: None };
        let first = read_line(line, 1, &defaults).unwrap();
        let failed = error(line, 1, &json!({ "class": "timeout", "message": "too long" }));
        assert_eq!(read_line(&failed, 1, &defaults).unwrap(), first);
        assert!(failed.contains("too long"));
        // And once more.
        assert_eq!(read_line(&error(&failed, 1, &json!({})), 1, &defaults).unwrap(), first);
    }

    #[test]
    fn a_line_without_a_name_keeps_its_number_however_often_it_is_run() {
        let failed = error("\u{feff}{\"prompt\":\"x\"}", 7, &json!({}));
        assert!(failed.contains(r#""custom_id":"line-7""#), "{failed}");
        assert_eq!(error(&failed, 1, &json!({})), failed);
    }

    #[test]
    fn what_is_no_object_stands_in_raw() {
        assert!(error("not json", 3, &bad_line("f", 3, "x")).contains(r#""raw":"not json""#));
    }

    #[test]
    fn counts_that_cannot_be_stop_no_backfill() {
        let json = json!({
            "job": "0198c0de-0000-7000-8000-000000000001", "status": "succeeded", "attempts": 1, "cost_usd": "0",
            "output": { "text": "hello", "finish_reason": "stop" }, "timings": Timings::default(), "finished_us": 1,
            "usage": { "prompt_tokens": u64::MAX, "completion_tokens": u64::MAX },
        });
        let line = result(&serde_json::from_value(json).unwrap(), true);
        assert!(line.contains(&format!("\"total_tokens\":{}", u64::MAX)), "{line}");
    }
}
