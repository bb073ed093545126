//! What each server's stream adds up to.

mod odd;

use std::time::Duration;

use schemas::job::{MAX_TOKENS_DEFAULT, Message, Params};

use super::*;
use crate::{adapters::sse::Reader, provider::Call};

fn call(input: Input) -> Call {
    Call {
        job: "0198c0de-0000-7000-8000-000000000001".parse().unwrap(),
        attempt: 1,
        key: schemas::AttemptKey::of("test", 1),
        model: "m".to_owned(),
        sku: "standard".to_owned(),
        tenant: schemas::Tenant::default(),
        input,
        params: Params::default(),
        timeout: Duration::from_secs(1),
        traceparent: None,
        live: false,
    }
}

fn chat() -> Input {
    Input::Messages(vec![Message { role: "user".to_owned(), content: "12345678".to_owned() }])
}

fn read(stream: &str) -> (Transcript, String) {
    let (mut reader, mut events) = (Reader::new(10_000), Vec::new());
    reader.push(stream.as_bytes(), &mut events).unwrap();
    reader.finish(&mut events);
    let (mut transcript, mut told) = (Transcript::new(Dialect::Vllm), String::new());
    for event in events {
        told.extend(transcript.event(event));
    }
    (transcript, told)
}

fn check(stream: &str, text: &str, finish: &str, usage: (u64, u64, bool)) {
    let (transcript, told) = read(stream);
    let success = transcript.outcome(&chat()).unwrap();
    assert_eq!((success.output.text.as_str(), told.as_str()), (text, text));
    assert_eq!(success.output.finish_reason, finish);
    let got = (success.usage.prompt_tokens, success.usage.completion_tokens, success.usage.estimated);
    assert_eq!(got, usage);
}

fn check_fails(stream: &str, class: FailureClass) {
    assert_eq!(read(stream).0.outcome(&chat()).unwrap_err().class, class, "{stream}");
}

/// A frame of one choice.
fn frame(choice: &str) -> String {
    format!("data: {{\"choices\":[{choice}]}}\n\n")
}

fn whole(evidence: Evidence, json: &str) -> Transcript {
    let mut transcript = Transcript::with(Dialect::Vllm, evidence);
    transcript.chunk(json.as_bytes());
    transcript.is_in_one_piece();
    transcript
}

const AIR: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Air\"},\"finish_reason\":null}]}\n\n";
const STOP: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":24,\"completion_tokens\":7}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

#[test]
fn a_usual_stream_gives_text_reason_and_usage() {
    let role =
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":null}}],\"usage\":null}\n\n";
    check(&format!("{role}{AIR}{AIR}{STOP}{USAGE}{DONE}"), "AirAir", "stop", (24, 7, false));
    check(&format!("{AIR}{STOP}"), "Air", "stop", (2, 1, true));
}

/// What the server had in its cache, by its own word.
fn cached(stream: &str) -> Option<u64> {
    read(stream).0.outcome(&chat()).unwrap().usage.cached_tokens
}

#[test]
fn cached_tokens_are_read_where_each_server_says_them_and_unknown_where_it_does_not() {
    let usage = |more: &str| USAGE.replace("}}", &format!(",{more}}}}}"));
    let timings = |value: &str| STOP.replace("}]}", &format!("}}],\"timings\":{value}}}"));
    let details = usage(r#""prompt_tokens_details":{"cached_tokens":16}"#);
    assert_eq!(cached(&format!("{AIR}{STOP}{details}{DONE}")), Some(16));
    let llama = timings(r#"{"cache_n":0,"prompt_n":24}"#);
    assert_eq!(cached(&format!("{AIR}{llama}{USAGE}{DONE}")), Some(0), "0 is a count");
    let both = timings(r#"{"cache_n":8}"#);
    assert_eq!(cached(&format!("{AIR}{both}{details}")), Some(16));
    let impossible = usage(r#""prompt_tokens_details":{"cached_tokens":99}"#);
    assert_eq!(cached(&format!("{AIR}{STOP}{impossible}")), Some(24), "never more than the prompt");
    let silent = usage(r#""prompt_tokens_details":null"#);
    for odd in [silent, usage(r#""prompt_tokens_details":{}"#), usage(r#""prompt_tokens_details":[-1]"#)] {
        assert_eq!(cached(&format!("{AIR}{STOP}{odd}")), None, "{odd}");
    }
    assert_eq!(cached(&format!("{AIR}{}{USAGE}", timings(r#""soon""#))), None);
}

#[test]
fn zeros_on_the_way_are_no_counts_and_running_totals_end_with_the_last() {
    let with = |usage: &str| AIR.replace("]}\n", &format!("],\"usage\":{usage}}}\n"));
    let zero = with(r#"{"prompt_tokens":0,"completion_tokens":0}"#);
    let (one, two) = (
        with(r#"{"prompt_tokens":5,"completion_tokens":1}"#),
        with(r#"{"prompt_tokens":5,"completion_tokens":2}"#),
    );
    check(&format!("{zero}{zero}{STOP}{DONE}"), "AirAir", "stop", (2, 2, true));
    check(&format!("{one}{two}{STOP}{DONE}"), "AirAir", "stop", (5, 2, false));
    check(&format!("{one}{STOP}{USAGE}{zero}"), "AirAir", "stop", (24, 7, false));
}

#[test]
fn thoughts_are_no_output_but_they_were_generated() {
    for name in ["reasoning", "reasoning_content"] {
        let thought = AIR.replace("content", name);
        check(&format!("{thought}{AIR}{STOP}"), "Air", "stop", (2, 2, true));
    }
}

#[test]
fn a_completion_and_a_whole_answer_are_read_by_the_same_rules() {
    let text = "data: {\"choices\":[{\"text\":\"Air\",\"finish_reason\":\"length\"}]}\n\n";
    check(text, "Air", "length", (2, 1, true));
    let mut whole = Transcript::new(Dialect::LlamaCpp);
    whole.chunk(
        br#"{"choices":[{"finish_reason":"stop","index":0,"message":{"role":"assistant","content":"Hi"}}],
             "usage":{"completion_tokens":8,"prompt_tokens":43,"total_tokens":51},"timings":{}}"#,
    );
    let success = whole.outcome(&chat()).unwrap();
    assert_eq!((success.output.text.as_str(), success.usage.completion_tokens), ("Hi", 8));
}

#[test]
fn only_a_finish_reason_is_success() {
    for (stream, class) in [
        (String::new(), FailureClass::Connection),
        (DONE.to_owned(), FailureClass::Connection),
        (format!("{AIR}{DONE}"), FailureClass::Connection),
        (STOP.replace("stop", "abort"), FailureClass::ProviderDown),
        (STOP.replace("stop", "content_filter"), FailureClass::Refused),
        (format!("{AIR}data: {{\"cho\n\n{STOP}{DONE}"), FailureClass::ProviderDown),
    ] {
        check_fails(&stream, class);
    }
}

#[test]
fn an_error_frame_of_any_server_is_a_failure_whatever_follows() {
    for (frame, class) in [
        (
            r#"data: {"error":{"message":"x","type":"InternalServerError","code":500}}"#,
            FailureClass::ProviderDown,
        ),
        (
            r#"data: {"error":{"code":400,"message":"x","type":"invalid_request_error"}}"#,
            FailureClass::InvalidRequest,
        ),
        (r#"error: {"code":400,"message":"x","type":"invalid_request_error"}"#, FailureClass::InvalidRequest),
        (r#"data: {"error":{"message":"x","http_status_code":422}}"#, FailureClass::ProviderDown),
        (r#"data: {"error":"x","error_type":"generation"}"#, FailureClass::ProviderDown),
        (r#"data: {"object":"error","message":"x","type":"y","code":500}"#, FailureClass::ProviderDown),
        ("error: no json", FailureClass::ProviderDown),
    ] {
        check_fails(&format!("{AIR}{frame}\n\n{DONE}"), class);
    }
}

#[test]
fn the_bill_in_a_comment_is_kept_as_it_is() {
    let (transcript, _) =
        read(&format!(": ping\n\n{AIR}{STOP}: beacon-billing {{\"gpu\":\"T4\"}}\n\n{DONE}"));
    assert_eq!(transcript.billing(), Some("{\"gpu\":\"T4\"}"));
    assert!(transcript.is_decided() && transcript.is_done());
}

#[test]
fn an_output_without_end_is_a_failure() {
    let mut transcript = Transcript::new(Dialect::Vllm);
    let piece = format!(r#"{{"choices":[{{"text":"{}"}}]}}"#, "x".repeat(OUTPUT_MAX / 2));
    assert!(transcript.chunk(piece.as_bytes()).is_some());
    assert!(transcript.chunk(piece.as_bytes()).is_some());
    assert_eq!(transcript.chunk(piece.as_bytes()), None);
    assert!(transcript.is_decided());
}

fn asked(input: Input, dialect: Dialect, stream: bool) -> Value {
    serde_json::from_slice(&request(&call(input), dialect, stream)).unwrap()
}

#[test]
fn the_token_limit_is_always_sent_under_the_name_that_the_server_knows() {
    let limit = u64::from(MAX_TOKENS_DEFAULT);
    assert_eq!(asked(chat(), Dialect::Ollama, true)["max_tokens"], limit);
    assert_eq!(asked(chat(), Dialect::OpenAi, true)["max_completion_tokens"], limit);
    assert_eq!(asked(Input::Prompt("p".to_owned()), Dialect::OpenAi, true)["max_tokens"], limit);
}

#[test]
fn usage_is_asked_for_only_in_a_stream_and_nothing_empty_is_sent() {
    let expected = serde_json::json!({
        "model": "m", "messages": [{"role": "user", "content": "12345678"}], "max_tokens": 256,
        "stream": true, "stream_options": {"include_usage": true},
    });
    assert_eq!(asked(chat(), Dialect::Vllm, true), expected);
    let expected = serde_json::json!({"model": "m", "prompt": "p", "max_tokens": 256, "stream": false});
    assert_eq!(asked(Input::Prompt("p".to_owned()), Dialect::Vllm, false), expected);
}
