//! What Replicate's answers mean, odd ones included.

use super::*;

fn call(messages: &[(&str, &str)]) -> Call {
    let message =
        |&(role, content): &(&str, &str)| Message { role: role.to_owned(), content: content.to_owned() };
    Call {
        job: "0198c0de-0000-7000-8000-000000000001".parse().unwrap(),
        attempt: 1,
        key: schemas::AttemptKey::of("test", 1),
        model: "meta/m".to_owned(),
        sku: "gpu-t4".to_owned(),
        tenant: schemas::Tenant::default(),
        input: Input::Messages(messages.iter().map(message).collect()),
        params: schemas::job::Params { max_tokens: Some(8), ..Default::default() },
        timeout: Duration::from_secs(100),
        traceparent: None,
        live: false,
    }
}

fn over(json: &str, billing: Billing) -> Over {
    let prediction: Prediction = serde_json::from_str(json).unwrap();
    match prediction.asked(&call(&[("user", "hi")]), billing) {
        Asked::Over(over) => over,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_chat_becomes_a_prompt_under_the_models_own_names() {
    let one = input(&call(&[("system", "be brief"), ("user", "why?")]), &InputKeys::default());
    assert_eq!(Value::from(one), json!({ "prompt": "why?", "system_prompt": "be brief", "max_tokens": 8 }));
    let keys =
        InputKeys { system: String::new(), max_tokens: "max_new_tokens".into(), ..InputKeys::default() };
    let turns = [("system", "be brief"), ("user", "a"), ("assistant", "b"), ("user", "c")];
    let several = Value::from(input(&call(&turns), &keys));
    let prompt = "be brief\n\nUser: a\nAssistant: b\nUser: c\nAssistant:";
    assert_eq!(several, json!({ "prompt": prompt, "max_new_tokens": 8 }));
}

#[test]
fn a_success_carries_its_text_its_tokens_and_its_time() {
    let json = r#"{"id":"x","status":"succeeded","output":["Hel","lo"],"error":null,"data_removed":false,
        "created_at":"2026-01-01T00:00:00Z","started_at":"2026-01-01T00:00:02Z",
        "completed_at":"2026-01-01T00:00:03.5Z",
        "metrics":{"predict_time":1.270001,"input_token_count":5,"output_token_count":2}}"#;
    let seconds = over(json, Billing::PerSecond);
    assert_eq!(seconds.used.unwrap()[0].used, Used::Time(Duration::from_micros(1_270_001)));
    assert_eq!(
        (seconds.cold_start, seconds.took.unwrap()),
        (Duration::from_secs(2), Duration::from_millis(3_500))
    );
    let success = seconds.outcome.unwrap();
    assert_eq!((success.output.text.as_str(), success.usage.completion_tokens), ("Hello", 2));
    let tokens = over(json, Billing::PerToken);
    assert_eq!(tokens.used.unwrap()[0].used, Used::Tokens { input: 5, output: 2 });
}

#[test]
fn fields_that_are_null_missing_or_odd_spoil_no_answer() {
    for fields in [
        r#""metrics":null,"urls":null,"model":null,"input":null,"created_at":"2026-11-27T12:00:00.000000""#,
        r#""metrics":{"predict_time":null,"output_token_count":"2","input_token_count":-1},"urls":{"stream":null}"#,
        r#""metrics":{"predict_time":"1.27","output_token_count":2.5},"urls":[],"error":"""#,
        r#""metrics":[],"data_removed":null,"created_at":"","started_at":null,"completed_at":7,"logs":null"#,
        r#""created_at":"2026-11-27T12:00:00+02:00","started_at":"2026-11-27 10:00:01","input":"x","model":{}"#,
    ] {
        let over = over(
            &format!(r#"{{"id":"x","status":"succeeded","output":["hel","lo"],{fields}}}"#),
            Billing::PerSecond,
        );
        let success = over.outcome.unwrap();
        assert_eq!((success.output.text.as_str(), success.usage.estimated), ("hello", true), "{fields}");
        assert_eq!(over.used, None, "no time was told: {fields}");
    }
}

#[test]
fn a_removed_output_is_a_failure_and_missing_numbers_are_estimated() {
    let removed = r#"{"id":"x","status":"succeeded","output":null,"data_removed":true,
        "metrics":{"predict_time":1}}"#;
    let removed = over(removed, Billing::PerSecond);
    assert_eq!(removed.outcome.unwrap_err().class, C::ProviderDown);
    assert_eq!(removed.used.unwrap().len(), 1, "it ran, so it is billed");
    let bare = over(r#"{"id":"x","status":"succeeded","output":"Hello"}"#, Billing::PerSecond);
    assert!(bare.outcome.unwrap().usage.estimated && bare.used.is_none());
}

#[test]
fn a_failure_is_told_by_its_code_and_the_platforms_own_costs_nothing() {
    for (error, class, billed) in [
        ("CUDA out of memory. Tried to allocate", C::OutOfMemory, true),
        ("Prediction interrupted; please retry (code: PA)", C::Preempted, false),
        ("Something went wrong (E6716)", C::Preempted, false),
        ("ValueError: EX", C::ProviderDown, true),
    ] {
        let json = format!(
            r#"{{"id":"x","status":"failed","error":"{error}","output":null,"metrics":{{"predict_time":1}}}}"#
        );
        let over = over(&json, Billing::PerSecond);
        assert_eq!(
            (over.outcome.unwrap_err().class, over.used.unwrap().len() == 1),
            (class, billed),
            "{error}"
        );
    }
    let aborted = over(r#"{"id":"x","status":"aborted"}"#, Billing::PerSecond);
    assert_eq!((aborted.outcome.unwrap_err().class, aborted.used), (C::Timeout, Some(Vec::new())));
}
