//! What each status and each shape of error means.

use super::*;
use schemas::job::Message;

fn check(status: u16, body: &str, class: C) {
    for dialect in [Dialect::OpenAi, Dialect::Vllm, Dialect::LlamaCpp, Dialect::Tgi, Dialect::SgLang] {
        assert_eq!(refused(status, body.as_bytes(), None, dialect).class, class, "{status} {body}");
    }
}

#[test]
fn the_table_of_statuses_holds_whatever_the_body_is() {
    for (status, class) in [
        (400, C::InvalidRequest),
        (401, C::Authentication),
        (402, C::Authentication),
        (403, C::Authentication),
        (404, C::Misconfigured),
        (405, C::Misconfigured),
        (408, C::Timeout),
        (413, C::InvalidRequest),
        (422, C::InvalidRequest),
        (424, C::ProviderDown),
        (429, C::RateLimited),
        (500, C::ProviderDown),
        (501, C::Misconfigured),
        (502, C::ProviderDown),
        (503, C::ProviderDown),
        (504, C::ProviderDown),
        (302, C::Misconfigured),
    ] {
        for body in ["", "{}", "[]", "null", "<html>502</html>", r#"{"error":"x"}"#, "\u{0}"] {
            check(status, body, class);
        }
    }
}

#[test]
fn a_type_refines_what_the_status_says() {
    check(429, r#"{"error":"Model is overloaded","error_type":"overloaded"}"#, C::Capacity);
    check(429, r#"{"error":{"message":"pay","code":"insufficient_quota"}}"#, C::Authentication);
    let loading = r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#;
    check(503, loading, C::Capacity);
    check(503, r#"{"error":"unhealthy","error_type":"healthcheck"}"#, C::ProviderDown);
    check(500, r#"{"error":{"message":"CUDA out of memory. Tried"}}"#, C::OutOfMemory);
    check(400, r#"{"error":{"message":"no","code":"content_filter"}}"#, C::Refused);
    check(400, r#"{"error":{"message":"out of memory of my own"}}"#, C::InvalidRequest);
    check(404, "modal-http: invalid function call", C::Misconfigured);
    check(400, "modal-http: bad request", C::Misconfigured);
    let busy = r#"{"error":{"message":"server busy, please try again.","type":"api_error"}}"#;
    assert_eq!(refused(503, busy.as_bytes(), None, Dialect::Ollama).class, C::Capacity);
}

#[test]
fn a_wait_is_kept_where_waiting_helps() {
    let wait = Some(Duration::from_secs(2));
    let check = |status, class, us| {
        let failure = refused(status, b"", wait, Dialect::Vllm);
        assert_eq!((failure.class, failure.retry_after_us), (class, us));
    };
    check(429, C::RateLimited, Some(2_000_000));
    check(503, C::RateLimited, Some(2_000_000));
    check(500, C::ProviderDown, None);
}

#[test]
fn an_error_inside_an_answer_is_told_by_its_code_then_by_its_type() {
    for (error, class) in [
        (r#"{"message":"x","type":"InternalServerError","param":null,"code":500}"#, C::ProviderDown),
        (r#"{"code":400,"message":"x","type":"exceed_context_size_error"}"#, C::InvalidRequest),
        (r#"{"message":"x","http_status_code":422}"#, C::ProviderDown),
        (r#"{"error":"x","error_type":"overloaded"}"#, C::Capacity),
        (r#"{"object":"error","message":"x","type":"BadRequestError","code":400}"#, C::InvalidRequest),
        (r#"{"message":"x","code":"rate_limit_exceeded"}"#, C::RateLimited),
        (r#"{"message":"CUDA out of memory","code":500}"#, C::OutOfMemory),
        (r#"{"error":{"message":"x","code":"429"}}"#, C::RateLimited),
        (r#"{"error":{"message":"x","type":"tokens","param":null,"code":null}}"#, C::RateLimited),
        (r#"{"error":{"error":{"message":"x","code":429}}}"#, C::RateLimited),
        (r#"{"error":"{\"message\":\"x\",\"code\":429}"}"#, C::RateLimited),
        (r#"{"error":"x","status":429}"#, C::RateLimited),
        (r#"{"error":"x","code":"RATE_LIMIT_EXCEEDED"}"#, C::RateLimited),
        (r#"{"errors":[{"message":"x","code":429}]}"#, C::RateLimited),
        (r#"{"errors":["x"],"status_code":429}"#, C::RateLimited),
        (r#"{"detail":{"message":"x","code":"rate_limit_exceeded"}}"#, C::RateLimited),
        (
            r#"{"type":"https://h/limits","title":"Too Many Requests","status":429,"detail":"x"}"#,
            C::RateLimited,
        ),
        (r#"{"title":"Too Many Requests","detail":"x"}"#, C::RateLimited),
        (r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"x"}}"#, C::RateLimited),
        (r#"{"type":"error","error":{"type":"overloaded_error","message":"x"}}"#, C::Capacity),
        (r#"{"error":{"message":"x","type":"insufficient_quota","code":429}}"#, C::Authentication),
        (r#"{"error":{"message":"x","code":401}}"#, C::Authentication),
        (r#"{"detail":"x"}"#, C::ProviderDown),
        (r#"{"detail":[{"msg":"x","type":"value_error"}],"status":422}"#, C::InvalidRequest),
        (r#"{"error":["x"]}"#, C::ProviderDown),
        (r#"{"error":{"message":null,"code":{}}}"#, C::ProviderDown),
        (r#""text""#, C::ProviderDown),
        ("{}", C::ProviderDown),
    ] {
        assert_eq!(inside(&serde_json::from_str(error).unwrap(), Dialect::Vllm).class, class, "{error}");
    }
}

#[test]
fn messages_are_found_in_every_shape() {
    for body in [
        r#"{"error":{"message":"it broke"}}"#,
        r#"{"error":"it broke"}"#,
        r#"{"object":"error","message":"it broke","code":500}"#,
        r#"{"detail":"it broke"}"#,
        r#"{"detail":[{"loc":["body"],"msg":"it broke","input":"my secret"}]}"#,
        r#"{"detail":{"error":"it broke"}}"#,
        r#"{"error":{"error":{"message":"it broke"}}}"#,
        r#"{"error":"{\"message\":\"it broke\"}"}"#,
        r#"{"errors":["it broke"]}"#,
        r#"[{"error":{"message":"it broke"}}]"#,
        " it\n\tbroke ",
    ] {
        let failure = refused(500, body.as_bytes(), None, Dialect::Vllm);
        assert_eq!(failure.message, "status 500: it broke", "{body}");
    }
}

#[test]
fn the_input_never_travels_in_a_message() {
    let content = "my account number\nis 1234".to_owned();
    let input = Input::Messages(vec![Message { role: "user".to_owned(), content }]);
    let body = r#"{"error":{"message":"bad input: my account number\nis 1234, sorry"}}"#;
    let failure = without_input(refused(400, body.as_bytes(), None, Dialect::Vllm), &input);
    assert_eq!(failure.message, "status 400: bad input: …, sorry");
}

#[test]
fn a_limit_inside_an_answer_keeps_its_wait() {
    for (error, us) in [
        (r#"{"error":{"message":"x","code":429,"retry_after":2}}"#, Some(2_000_000)),
        (r#"{"error":{"message":"x","code":429},"retry_after_ms":"1500"}"#, Some(1_500_000)),
        (r#"{"error":{"message":"Your rate limit resets in ~30s.","code":429}}"#, Some(30_000_000)),
        (r#"{"error":{"message":"x","code":429,"retry_after":-1}}"#, None),
        (r#"{"error":{"message":"x","code":429,"retry_after":1e30}}"#, Some(3_600_000_000)),
        (r#"{"error":{"message":"x","code":500,"retry_after":2}}"#, None),
    ] {
        assert_eq!(
            inside(&serde_json::from_str(error).unwrap(), Dialect::Vllm).retry_after_us,
            us,
            "{error}"
        );
    }
}

#[test]
fn a_status_that_may_pass_opens_no_breaker_for_good_and_a_key_is_not_the_jobs_fault() {
    for status in [409, 423, 425, 499, 529] {
        check(status, "", C::ProviderDown);
    }
    check(529, r#"{"type":"error","error":{"type":"overloaded_error"}}"#, C::Capacity);
    check(400, r#"{"error":{"code":400,"message":"x","status":"API_KEY_INVALID"}}"#, C::Authentication);
    check(400, r#"{"error":{"message":"x","code":"model_not_found"}}"#, C::Misconfigured);
    check(403, r#"{"error":{"message":"x","code":"content_policy_violation"}}"#, C::Refused);
    check(403, "", C::Authentication);
}

#[test]
fn the_wait_stands_in_the_sentence() {
    let sentence = "Request was throttled. Your rate limit resets in ~30s.";
    assert_eq!(resets_in(sentence), Some(Duration::from_secs(30)));
    assert_eq!(resets_in("Request was throttled."), None);
}
