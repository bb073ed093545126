//! Answers whose content type says one thing and whose bytes another: the bytes decide.

use schemas::failure::FailureClass as C;
use workers::{
    adapters::{Evidence, OpenAi, OpenAiConfig},
    provider::{Ended, Provider as _},
};

use crate::{
    bed::{Recorder, call, failure, success},
    raw::{RawServer, Reply},
};

const STREAM: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Air é✓\"},\"finish_reason\":null}]}\n\n\
    data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
const WHOLE: &str = "{\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"Air é✓\"},\"finish_reason\":\"stop\"}]}";
const LINES: &str = "{\"choices\":[{\"delta\":{\"content\":\"Air \"}}]}\n{\"choices\":[{\"delta\":{\"content\":\"é✓\"},\"finish_reason\":\"stop\"}]}\n";

const LABELS: [Option<&str>; 8] = [
    None,
    Some("text/event-stream; charset=utf-8"),
    Some("application/json"),
    Some("application/json; charset=utf-8"),
    Some("application/x-ndjson"),
    Some("text/plain"),
    Some("application/octet-stream"),
    Some("text/html"),
];

async fn ask(reply: Reply, change: impl FnOnce(&mut OpenAiConfig)) -> (Ended, Recorder) {
    let server = RawServer::start(vec![reply]).await;
    let mut config = OpenAiConfig::new(server.url());
    change(&mut config);
    let recorder = Recorder::default();
    let ended = OpenAi::new(config).unwrap().run(&call(0), &recorder).await;
    (ended, recorder)
}

async fn check(body: &str, class: C) {
    for stream in [true, false] {
        for label in LABELS {
            let (ended, _) =
                ask(Reply::body(label, body.as_bytes(), 7), |config| config.stream = stream).await;
            assert_eq!(failure(&ended).class, class, "{label:?} {stream} {body}");
        }
    }
}

#[tokio::test]
async fn an_answer_is_read_by_what_it_is_and_not_by_its_label() {
    let pretty = WHOLE.replace(',', ",\n  ");
    for body in [STREAM, WHOLE, LINES, &pretty] {
        for label in LABELS {
            for before in ["", "\n\n", "\u{feff}", " \r\n"] {
                for (stream, piece) in [(true, 1), (true, 1_000), (false, 1_000)] {
                    let bytes = format!("{before}{body}");
                    let (ended, recorder) =
                        ask(Reply::body(label, bytes.as_bytes(), piece), |config| config.stream = stream)
                            .await;
                    assert_eq!(success(&ended).output.text, "Air é✓", "{label:?} {bytes}");
                    assert_eq!(recorder.text(), "Air é✓", "{label:?} {bytes}");
                }
            }
        }
    }
}

#[tokio::test]
async fn an_error_keeps_its_class_under_any_label() {
    check(
        r#"{"error":{"message":"engine queue full","type":"rate_limit_error","code":429}}"#,
        C::RateLimited,
    )
    .await;
    check(r#"{"object":"error","message":"too long","code":400}"#, C::InvalidRequest).await;
    check("data: {\"error\":{\"message\":\"x\",\"code\":\"429\"}}\n\ndata: [DONE]\n\n", C::RateLimited).await;
    check(": ping\n\n{\"error\":{\"message\":\"x\",\"code\":429}}\n", C::RateLimited).await;
}

#[tokio::test]
async fn what_was_cut_is_a_connection_lost_and_a_page_is_no_answer() {
    for body in [&STREAM[..40], &LINES[..60], "", "\n\n"] {
        check(body, C::Connection).await;
    }
    for body in [&WHOLE[..60], "{"] {
        check(body, C::ProviderDown).await;
    }
    // In the middle of a character.
    let cut = &STREAM.as_bytes()[..=STREAM.find('é').unwrap()];
    let (ended, _) = ask(Reply::body(LABELS[1], cut, 1_000), |_| ()).await;
    assert_eq!(failure(&ended).class, C::Connection);
    check("<html><h1>Starting</h1></html>", C::ProviderDown).await;
    check("Internal Server Error", C::ProviderDown).await;
}

#[tokio::test]
async fn text_after_a_finish_reason_is_still_the_answer() {
    let late = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    let body = format!("{late}{STREAM}");
    let (ended, _) = ask(Reply::body(LABELS[1], body.as_bytes(), 1), |_| ()).await;
    assert_eq!(success(&ended).output.text, "Air é✓");
}

#[tokio::test]
async fn a_pool_may_trust_a_proper_end_without_a_reason() {
    let trust =
        |config: &mut OpenAiConfig| config.evidence = Evidence { trust_done: true, ..Evidence::default() };
    let silent = STREAM.replace("\"stop\"", "null");
    let (ended, _) = ask(Reply::body(LABELS[1], silent.as_bytes(), 50), trust).await;
    assert_eq!(
        (success(&ended).output.text.as_str(), success(&ended).output.finish_reason.as_str()),
        ("Air é✓", "stop")
    );
    let (ended, _) =
        ask(Reply::body(LABELS[2], WHOLE.replace("\"stop\"", "null").as_bytes(), 50), trust).await;
    success(&ended);
    // The server keeps the connection open after its end.
    let open = format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{silent}");
    let (ended, _) = ask(Reply::text(&open), trust).await;
    success(&ended);
    for cut in [&silent.replace("data: [DONE]\n\n", ""), &WHOLE[..60]] {
        let (ended, _) = ask(Reply::body(LABELS[1], cut.as_bytes(), 50), trust).await;
        assert!(ended.outcome.is_err(), "{cut}");
    }
}

#[tokio::test]
async fn a_gateway_may_say_created() {
    let reply = |status: &str| Reply::json(status, WHOLE);
    let (ended, _) = ask(reply("201 Created"), |_| ()).await;
    assert_eq!(success(&ended).output.text, "Air é✓");
    let (ended, _) = ask(reply("202 Accepted"), |_| ()).await;
    assert_eq!(failure(&ended).class, C::Misconfigured);
}
