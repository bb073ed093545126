//! Promise: bad input gets a dead letter or a refusal that names field and rule, and disturbs nobody else.

use std::time::Duration;

use async_nats::HeaderMap;
use schemas::{
    failure::FailureClass,
    headers,
    reply::{JobResult, Status},
};
use serde_json::json;
use tests::{
    nats_server::NatsServer,
    roles::{self, Role},
    scripted::{Script, Scripted},
    wait,
};
use transport::api;

const ACK_WAIT: Duration = Duration::from_secs(4);
const SUBJECT: &str = "beacon.jobs.us-east.llama-3-2-1b.normal.acme";

struct Case {
    id: String,
    content_type: &'static str,
    schema: &'static str,
    body: Vec<u8>,
    /// Words of the dead letter's message.
    words: &'static [&'static str],
    /// Whether the sender can be told.
    told: bool,
}

fn case(body: serde_json::Value, words: &'static [&'static str]) -> Case {
    let id = producer::request::new_job_id().to_string();
    let mut body = body;
    body["id"] = json!(id);
    let body = serde_json::to_vec(&body).unwrap();
    Case { id, content_type: "application/json", schema: "job.v1", body, words, told: true }
}

fn cases() -> Vec<Case> {
    let fine = || json!({ "prompt": "x", "mailbox": "inbox" });
    let with = |key: &str, value: serde_json::Value| {
        let mut body = fine();
        body[key] = value;
        body
    };
    let bytes = Case { body: vec![0xff, 0xfe, 0x00], told: false, ..case(fine(), &["field"]) };
    let newer = Case { schema: "job.v2", ..case(fine(), &["Beacon-Schema", "job.v2", "job.v1"]) };
    let odd = Case { content_type: "text/html", ..case(fine(), &["text/html", "application/json"]) };
    let packed = Case { content_type: "application/msgpack", ..case(fine(), &["field"]) };
    // Bodies that do not read as a whole: id and mailbox are found all the same.
    let broken = |change: fn(String) -> Vec<u8>| {
        let whole = case(with("prompt", json!("PROMPT")), &["field"]);
        Case { body: change(String::from_utf8(whole.body).unwrap()), ..whole }
    };
    let surrogate = broken(|text| text.replace("PROMPT", r"half a pair: \ud83d").into_bytes());
    let truncated = broken(|text| text[..text.len() - 3].into());
    let unescaped = broken(|text| text.replace("PROMPT", r#"he said "hi" to me"#).into_bytes());
    let list = Case {
        told: false,
        ..broken(|text| {
            let fields: serde_json::Value = serde_json::from_str(&text).unwrap();
            json!([fields["id"], null, "hi"]).to_string().into_bytes()
        })
    };
    let extension = Case {
        content_type: "application/msgpack",
        ..broken(|text| {
            let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
            let mut packed = vec![0x84, 0xa4, b'w', b'h', b'e', b'n', 0xd6, 0xff, 0x69, 0, 0, 0];
            for (key, value) in fields {
                packed.extend(schemas::Codec::MsgPack.encode(&key).unwrap());
                packed.extend(schemas::Codec::MsgPack.encode(&value).unwrap());
            }
            // A time where a text belongs.
            packed.truncate(packed.len() - 7);
            packed.extend([0xd6, 0xff, 0x69, 0, 0, 0]);
            packed
        })
    };
    vec![
        bytes,
        newer,
        odd,
        packed,
        surrogate,
        truncated,
        extension,
        case(with("prompt", json!(7)), &["prompt", "string"]),
        case(with("params", json!({ "max_tokens": "many" })), &["params.max_tokens"]),
        case(with("params", json!({ "temperature": 9 })), &["params.temperature", "0 to 2"]),
        case(with("messages", json!([])), &["only one"]),
        unescaped,
        list,
        case(with("max_cost_usd", json!("-1")), &["max_cost_usd"]),
        Case { told: false, ..case(with("mailbox", json!("other.inbox")), &["mailbox", "acme"]) },
        case(with("run_at", json!("2199-01-01T00:00:00Z")), &["run_at", "beacon.delayed"]),
        case(with("run_at", json!("2999-01-01T00:00:00Z")), &["run_at", "2262-04-11"]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_job_becomes_a_dead_letter_and_the_others_go_on() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let worker = Role::worker(roles::pool_config(
        &urls,
        "golem@us-east",
        "w1",
        8,
        ACK_WAIT,
        Scripted::new(Script::Succeed),
    ))
    .await;
    let producer = roles::producer(&urls).await;
    let client = producer.client().clone();
    let cases = cases();
    for case in &cases {
        let mut map = HeaderMap::new();
        map.insert(headers::MESSAGE_ID, case.id.as_str());
        map.insert(headers::CONTENT_TYPE, case.content_type);
        map.insert(headers::SCHEMA, case.schema);
        let ack = client.request_with_headers(SUBJECT, map, case.body.clone().into()).await.unwrap();
        assert!(!String::from_utf8_lossy(&ack.payload).contains("error"));
        let good =
            producer.submit_and_wait(&roles::job("undisturbed"), Duration::from_secs(30)).await.unwrap();
        assert_eq!(good.status, Status::Succeeded);
    }
    let dead = wait::until("all dead letters", || async {
        let info = api::ask(&client, "STREAM.INFO.DEAD", &json!(null)).await.ok()?;
        (api::number(&info, "state/messages")? == cases.len() as u64).then_some(())
    });
    dead.await;
    for (index, case) in cases.iter().enumerate() {
        let letter = client.request("$JS.API.DIRECT.GET.DEAD", format!(r#"{{"seq":{}}}"#, index + 1).into());
        let letter = letter.await.unwrap();
        let map = letter.headers.unwrap();
        let obituary: schemas::dead::Obituary =
            serde_json::from_str(map.get(headers::OBITUARY).unwrap().as_str()).unwrap();
        assert_eq!(obituary.failure.class, FailureClass::Undecodable);
        for word in case.words {
            let text = &obituary.failure.message;
            assert!(text.contains(word), "`{text}` should name `{word}`");
        }
        assert_eq!(letter.payload.as_ref(), case.body.as_slice(), "a dead letter holds the very bytes");
        if case.told {
            let result = stored_result(&client, &case.id).await;
            assert_eq!(
                (result.status, result.error.unwrap().message),
                (Status::Failed, obituary.failure.message)
            );
        }
    }
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}

async fn stored_result(client: &async_nats::Client, id: &str) -> JobResult {
    wait::until("a failed result", || async {
        let body = r#"{"batch":500,"seq":1,"next_by_subj":"beacon.reply.acme.inbox.result"}"#;
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.ok()?;
        client.publish_with_reply("$JS.API.DIRECT.GET.REPLIES", inbox, body.into()).await.ok()?;
        while let Some(answer) = futures_util::StreamExt::next(&mut answers).await {
            if answer.status.is_some() {
                return None;
            }
            let codec = answer.headers.as_ref().and_then(|h| h.get(headers::CONTENT_TYPE));
            let codec =
                schemas::Codec::from_content_type(codec.map(async_nats::HeaderValue::as_str)).unwrap();
            let result: JobResult = codec.decode(&answer.payload).unwrap();
            if result.job.to_string() == id {
                return Some(result);
            }
        }
        None
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_model_region_or_lane_is_refused_at_once() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let producer = roles::producer(&urls).await;
    let client = producer.client();
    for subject in [
        "beacon.jobs.us-east.gpt-9.normal.acme",
        "beacon.jobs.mars.llama-3-2-1b.normal.acme",
        "beacon.jobs.us-east.llama-3-2-1b.urgent.acme",
    ] {
        let error = client.request(subject, "{}".into()).await.unwrap_err();
        assert_eq!(error.kind(), async_nats::client::RequestErrorKind::NoResponders, "{subject}");
    }
    let unknown = producer::JobRequest::prompt("us-east", "gpt-9", "x").unwrap();
    let refusal = producer.submit(&unknown).await.unwrap_err().to_string();
    assert!(refusal.contains("gpt-9") && refusal.contains("unknown"), "{refusal}");
    let mut wrong = roles::job("x");
    wrong.body.params.temperature = Some(9.0);
    let refusal = producer.submit(&wrong).await.unwrap_err().to_string();
    assert!(refusal.contains("params.temperature"), "{refusal}");
    let mut never = roles::job("x");
    never.body.run_at = Some("2262-04-12T00:00:00Z".parse().unwrap());
    let refusal = producer.submit(&never).await.unwrap_err().to_string();
    assert!(refusal.contains("run_at") && refusal.contains("2262-04-11"), "{refusal}");
    dispatcher.stop().await;
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_in_the_past_ends_expired_without_cost() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let provider = Scripted::new(Script::Succeed);
    let worker =
        Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 8, ACK_WAIT, provider.clone())).await;
    let producer = roles::producer(&urls).await;
    let mut late = roles::job("too late");
    late.body.deadline = Some("2020-01-01T00:00:00Z".parse().unwrap());
    let result = producer.submit_and_wait(&late, Duration::from_secs(30)).await.unwrap();
    assert_eq!(
        (result.status, result.cost_usd, provider.begun()),
        (Status::Expired, schemas::UsdNanos::ZERO, 0)
    );
    assert!(result.error.unwrap().message.contains("deadline"));
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}
