//! What the servers really write, byte by byte: streams cut anywhere, odd endings, and each dialect's errors.

use std::time::Duration;

use proptest::prelude::*;
use schemas::{failure::FailureClass as C, job::Input, prices::Used};
use workers::{
    adapters::{Billing, Dialect, OpenAi, OpenAiConfig, Secret},
    provider::{Ended, Health, Provider as _},
};

use crate::{
    bed::{Recorder, call, failure, success},
    raw::{RawServer, Reply},
};

const AIR: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Air é✓ \"},\"finish_reason\":null}]}\n\n";
const STOP: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":24,\"completion_tokens\":7}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

async fn ask(reply: Reply, change: impl FnOnce(&mut OpenAiConfig)) -> (Ended, Recorder, RawServer) {
    let server = RawServer::start(vec![reply]).await;
    let mut config = OpenAiConfig::new(server.url() + "/v1/");
    change(&mut config);
    let recorder = Recorder::default();
    let ended = OpenAi::new(config).unwrap().run(&call(0), &recorder).await;
    (ended, recorder, server)
}

async fn check(stream: &str, class: C) {
    let (ended, ..) = ask(Reply::stream([stream.as_bytes()]), |_| ()).await;
    assert_eq!(failure(&ended).class, class, "{stream}");
}

async fn check_status(dialect: Dialect, status: &str, body: &str, class: C) {
    let (ended, ..) = ask(Reply::json(status, body), |config| config.dialect = dialect).await;
    assert_eq!(failure(&ended).class, class, "{dialect:?} {status} {body}");
    assert!(ended.used.is_empty());
}

proptest! {
    // Each case is a real connection.
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_stream_cut_anywhere_reads_the_same(cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12), crlf: bool) {
        let stream = format!(": ping\n\n{AIR}\n{AIR}: ping\n{STOP}{USAGE}{DONE}");
        let stream = if crlf { stream.replace('\n', "\r\n") } else { stream };
        let bytes = stream.as_bytes();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let reply = Reply::stream(cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (ended, recorder, _server) = ask(reply, |_| ()).await;
            assert_eq!(success(&ended).output.text, "Air é✓ Air é✓ ");
            assert_eq!(recorder.text(), "Air é✓ Air é✓ ");
            assert_eq!(success(&ended).usage.completion_tokens, 7);
        });
    }
}

#[tokio::test]
async fn a_request_carries_its_id_its_trace_and_its_key() {
    let reply = Reply::stream([AIR, STOP, DONE].map(str::as_bytes));
    let server = RawServer::start(vec![reply]).await;
    let mut config = OpenAiConfig::new(server.url());
    config.api_key = Some(Secret::new("sk-1"));
    let mut call = call(7);
    call.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
    call.input = Input::Prompt("Once".to_owned());
    call.attempt = 3;
    success(&OpenAi::new(config).unwrap().run(&call, &Recorder::default()).await);
    let request = server.requests().remove(0);
    assert!(request.head.starts_with("POST /v1/completions HTTP/1.1"), "{}", request.head);
    let id = format!("x-request-id: 0198c0de-0000-7000-8000-000000000007-3-{}", call.key);
    for line in [
        id.as_str(),
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "authorization: Bearer sk-1",
        "content-type: application/json",
    ] {
        assert!(request.head.lines().any(|l| l == line), "{line} in {}", request.head);
    }
    assert_eq!(request.body["prompt"], "Once");
    assert_eq!(request.body["max_tokens"], 24);
}

#[tokio::test]
async fn one_connection_serves_call_after_call() {
    let reply = || Reply::stream([AIR, STOP, USAGE, DONE].map(str::as_bytes));
    let server = RawServer::start(vec![reply(), reply(), reply()]).await;
    let provider = OpenAi::new(OpenAiConfig::new(server.url())).unwrap();
    for number in 0..3 {
        success(&provider.run(&call(number), &Recorder::default()).await);
    }
    assert!(server.requests().iter().all(|request| request.connection == 0));
}

#[tokio::test]
async fn llama_cpp_gets_a_connection_for_each_stream_because_it_closes_them_unannounced() {
    let reply = || Reply::stream([AIR, STOP, USAGE, DONE].map(str::as_bytes));
    let server = RawServer::start(vec![reply(), reply()]).await;
    let mut config = OpenAiConfig::new(server.url());
    config.dialect = Dialect::LlamaCpp;
    let provider = OpenAi::new(config).unwrap();
    for number in 0..2 {
        success(&provider.run(&call(number), &Recorder::default()).await);
    }
    let connections: Vec<_> = server.requests().iter().map(|request| request.connection).collect();
    assert_eq!(connections, [0, 1]);
    assert!(server.requests()[0].head.lines().any(|line| line == "connection: close"));
}

#[tokio::test]
async fn a_finish_reason_is_enough_whatever_the_end_looks_like() {
    for reply in [
        Reply::stream([AIR, STOP].map(str::as_bytes)),
        Reply::stream([AIR.as_bytes(), STOP.trim_end().as_bytes()]),
        Reply::stream([AIR, STOP].map(str::as_bytes)).then_close(true),
    ] {
        let (ended, ..) = ask(reply, |_| ()).await;
        let success = success(&ended);
        assert_eq!(success.output.text, "Air é✓ ");
        assert!(success.usage.estimated && success.usage.completion_tokens == 1);
    }
}

#[tokio::test]
async fn an_end_without_a_finish_reason_is_a_connection_lost() {
    check("", C::Connection).await;
    check(DONE, C::Connection).await;
    check(&format!("{AIR}{DONE}"), C::Connection).await;
    let (ended, ..) = ask(Reply::stream([AIR.as_bytes()]).then_close(true), |_| ()).await;
    assert_eq!(failure(&ended).class, C::Connection);
}

#[tokio::test]
async fn error_frames_in_a_good_answer_are_failures() {
    for (frame, class) in [
        (r#"data: {"error":{"message":"x","type":"InternalServerError","code":500}}"#, C::ProviderDown),
        (r#"error: {"code":400,"message":"x","type":"invalid_request_error"}"#, C::InvalidRequest),
        (r#"data: {"error":{"message":"x","http_status_code":422}}"#, C::ProviderDown),
        (r#"data: {"error":"x","error_type":"overloaded"}"#, C::Capacity),
    ] {
        check(&format!("{AIR}{frame}\n\n{DONE}"), class).await;
    }
    check(&STOP.replace("stop", "content_filter"), C::Refused).await;
    check(&STOP.replace("stop", "abort"), C::ProviderDown).await;
}

#[tokio::test]
async fn each_server_refuses_in_its_own_words() {
    use Dialect::{LlamaCpp, Ollama, OpenAi, SgLang, Tgi, Vllm};
    check_status(Vllm, "401 Unauthorized", r#"{"error":"Unauthorized"}"#, C::Authentication).await;
    check_status(Tgi, "401 Unauthorized", "", C::Authentication).await;
    check_status(
        Tgi,
        "429 Busy",
        r#"{"error":"Model is overloaded","error_type":"overloaded"}"#,
        C::Capacity,
    )
    .await;
    check_status(OpenAi, "429 Slow", r#"{"error":{"code":"rate_limit_exceeded"}}"#, C::RateLimited).await;
    check_status(Ollama, "503 Busy", r#"{"error":{"message":"server busy"}}"#, C::Capacity).await;
    let loading = r#"{"error":{"message":"Loading model","type":"unavailable_error","code":503}}"#;
    check_status(LlamaCpp, "503 Loading", loading, C::Capacity).await;
    let flat = r#"{"object":"error","message":"too long","type":"BadRequestError","code":400}"#;
    check_status(SgLang, "400 Bad Request", flat, C::InvalidRequest).await;
    let full = r#"{"error":{"message":"CUDA out of memory","type":"api_error"}}"#;
    check_status(Ollama, "500 Error", full, C::OutOfMemory).await;
    check_status(Vllm, "502 Bad Gateway", "<html><h1>Bad Gateway</h1></html>", C::ProviderDown).await;
    check_status(Vllm, "302 Found", "", C::Misconfigured).await;
}

#[tokio::test]
async fn a_wait_given_as_a_date_is_counted_from_the_answers_own() {
    let reply = Reply::text(
        "HTTP/1.1 429 Too Many Requests\r\ndate: Wed, 21 Oct 2015 07:28:00 GMT\r\n\
         retry-after: Wed, 21 Oct 2015 07:28:07 GMT\r\ncontent-length: 0\r\n\r\n",
    );
    let (ended, ..) = ask(reply, |_| ()).await;
    assert_eq!(failure(&ended).retry_after_us, Some(7_000_000));
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_takes_no_key_along() {
    let other = RawServer::start(vec![]).await;
    let location = format!("HTTP/1.1 307 Moved\r\nlocation: {}/\r\ncontent-length: 0\r\n\r\n", other.url());
    let (ended, ..) = ask(Reply::text(&location), |c| c.api_key = Some(Secret::new("sk-1"))).await;
    assert_eq!(failure(&ended).class, C::Misconfigured);
    assert!(other.requests().is_empty());
}

#[tokio::test]
async fn a_key_that_the_server_repeats_goes_no_further() {
    let body = r#"{"error":{"message":"Incorrect API key provided: sk-abcdef"}}"#;
    let key = |config: &mut OpenAiConfig| config.api_key = Some(Secret::new("sk-abcdef"));
    let (ended, ..) = ask(Reply::json("401 Unauthorized", body), key).await;
    assert_eq!(failure(&ended).message, "status 401: Incorrect API key provided: ***");
}

#[tokio::test]
async fn an_answer_in_one_piece_is_read_though_a_stream_was_asked_for() {
    let body = r#"{"choices":[{"message":{"content":"Air"},"finish_reason":"stop"}]}"#;
    let (ended, recorder, _server) = ask(Reply::json("200 OK", body), |_| ()).await;
    assert_eq!((success(&ended).output.text.as_str(), recorder.text().as_str()), ("Air", "Air"));
}

#[tokio::test]
async fn tokens_are_billed_as_the_server_counts_them_or_as_an_estimate() {
    let per_token = |config: &mut OpenAiConfig| config.billing = Billing::PerToken;
    let (ended, ..) = ask(Reply::stream([AIR, STOP, USAGE, DONE].map(str::as_bytes)), per_token).await;
    assert_eq!(ended.used[0].used, Used::Tokens { input: 24, output: 7 });
    assert!(!ended.estimated);
    let broken = Reply::stream([AIR, AIR].map(str::as_bytes));
    let (ended, ..) = ask(broken, per_token).await;
    assert!(matches!(ended.used[0].used, Used::Tokens { output: 2, .. }), "{ended:?}");
    assert!(ended.estimated);
}

#[tokio::test]
async fn comments_keep_a_silent_stream_alive_and_an_endless_tail_does_not() {
    let pings = ": ping\n\n".repeat(50);
    let idle = |config: &mut OpenAiConfig| config.idle_timeout = Duration::from_secs(30);
    let (ended, ..) = ask(Reply::stream([pings.as_bytes(), AIR.as_bytes(), STOP.as_bytes()]), idle).await;
    success(&ended);
    // The server has said all and keeps the connection open; the call ends all the same.
    let open =
        Reply::text(&format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{AIR}{STOP}{DONE}"));
    let (ended, ..) = ask(open, |_| ()).await;
    success(&ended);
}

#[tokio::test]
async fn nobody_listening_is_a_connection_failed() {
    let gone = RawServer::start(vec![]).await.url();
    let provider = OpenAi::new(OpenAiConfig::new(gone)).unwrap();
    let ended = provider.run(&call(0), &Recorder::default()).await;
    assert_eq!(failure(&ended).class, C::Connection);
    assert!(matches!(provider.health().await, Health::Down(_)));
}

#[tokio::test]
async fn health_is_asked_at_each_servers_own_route() {
    for (dialect, path, line) in [
        (Dialect::OpenAi, None, "GET /v1/models HTTP/1.1"),
        (Dialect::Ollama, None, "GET /api/version HTTP/1.1"),
        (Dialect::LlamaCpp, None, "GET /health HTTP/1.1"),
        (Dialect::LlamaCpp, Some("/v1/models"), "GET /v1/models HTTP/1.1"),
    ] {
        let server = RawServer::start(vec![Reply::json("200 OK", "{}")]).await;
        let mut config = OpenAiConfig::new(server.url());
        config.dialect = dialect;
        config.health_path = path.map(str::to_owned);
        assert_eq!(OpenAi::new(config).unwrap().health().await, Health::Up);
        assert!(server.requests()[0].head.starts_with(line), "{line}");
    }
}
