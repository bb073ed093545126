use super::*;
use crate::Mailbox;
use proptest::prelude::*;

const ID: &str = "0198c0de-0000-7000-8000-000000000001";

fn subject() -> JobSubject {
    "beacon.jobs.us-east.llama-3-2-1b.normal.acme".parse().unwrap()
}

fn read(json: &str) -> Result<Job, JobError> {
    Job::read(subject(), JobHeaders::default(), json.as_bytes(), Micros::new(1_795_000_000_000_000))
}

fn head(json: &str) -> Result<Head, JobError> {
    Head::read(subject(), JobHeaders::default(), json.as_bytes(), Micros::new(1_795_000_000_000_000))
}

/// Whoever reads only the head refuses what a full reader refuses.
fn check_refused(json: &str, words: &[&str]) {
    for text in [read(json).unwrap_err().to_string(), head(json).unwrap_err().to_string()] {
        for word in words {
            assert!(text.contains(word), "`{text}` should name `{word}`");
        }
    }
}

#[test]
fn the_smallest_job_is_an_id_and_a_prompt() {
    let job = read(&format!(r#"{{"id":"{ID}","prompt":"hi"}}"#)).unwrap();
    assert_eq!(job.input, JobInput::Here(Input::Prompt("hi".into())));
    assert_eq!(job.mailbox, Mailbox::default());
    assert_eq!(job.max_attempts, ATTEMPTS_DEFAULT);
}

#[test]
fn unknown_fields_are_tolerated() {
    assert!(read(&format!(r#"{{"id":"{ID}","prompt":"hi","from_the_future":1}}"#)).is_ok());
}

#[test]
fn a_refusal_names_the_field_and_the_rule() {
    check_refused("{", &["field"]);
    check_refused(r#"{"prompt":"x"}"#, &["id", "missing"]);
    check_refused(&format!(r#"{{"id":"{ID}"}}"#), &["messages", "missing"]);
    check_refused(&format!(r#"{{"id":"{ID}","prompt":"x","messages":[]}}"#), &["only one"]);
    check_refused(&format!(r#"{{"id":"{ID}","prompt":7}}"#), &["prompt", "string"]);
    check_refused(
        &format!(r#"{{"id":"{ID}","prompt":"x","params":{{"max_tokens":"many"}}}}"#),
        &["params.max_tokens"],
    );
    check_refused(
        &format!(r#"{{"id":"{ID}","prompt":"x","params":{{"temperature":3}}}}"#),
        &["params.temperature", "0 to 2"],
    );
    check_refused(&format!(r#"{{"id":"{ID}","prompt":"x","mailbox":"other.box"}}"#), &["mailbox", "acme"]);
    check_refused(&format!(r#"{{"id":"{ID}","prompt":"x","mailbox":">"}}"#), &["mailbox"]);
    check_refused(&format!(r#"{{"id":"{ID}","prompt":"x","max_cost_usd":"-1"}}"#), &["max_cost_usd"]);
    check_refused(&format!(r#"{{"id":"{ID}","prompt":"x","deadline":"soon"}}"#), &["deadline"]);
    check_refused(&format!(r#"{{"id":"{ID}","prompt":"x","max_attempts":0}}"#), &["max_attempts"]);
    check_refused(
        &format!(r#"{{"id":"{ID}","prompt":"x","run_at":"2199-01-01T00:00:00Z"}}"#),
        &["run_at", "beacon.delayed"],
    );
    // There, too: the server would publish it at once.
    for year in ["2262-04-12", "2999-01-01"] {
        check_refused(
            &format!(r#"{{"id":"{ID}","prompt":"x","run_at":"{year}T00:00:00Z"}}"#),
            &["run_at", "2262-04-11"],
        );
    }
}

#[test]
fn a_list_is_no_job() {
    check_refused(&format!(r#" ["{ID}",null,"hi"]"#), &["body", "map"]);
    let list = (ID, (), "hi");
    let packed = rmp_serde::to_vec(&list).unwrap();
    let headers = JobHeaders { content_type: Some("application/msgpack"), ..JobHeaders::default() };
    let refused = Job::read(subject(), headers, &packed, Micros::default()).unwrap_err().to_string();
    assert!(refused.contains("body"), "{refused}");
}

#[test]
fn null_means_the_same_as_nothing() {
    let nulls = ["params", "routing", "labels", "live", "mailbox", "deadline", "messages"]
        .map(|f| format!(r#","{f}":null"#));
    let body = format!(r#"{{"id":"{ID}","prompt":"hi"{}}}"#, nulls.concat());
    assert_eq!(read(&body).unwrap(), read(&format!(r#"{{"id":"{ID}","prompt":"hi"}}"#)).unwrap());
    assert_eq!(head(&body).unwrap(), read(&body).unwrap().head);
}

#[test]
fn header_and_body_must_name_the_same_job() {
    let headers =
        JobHeaders { message_id: Some("0198c0de-0000-7000-8000-000000000002"), ..JobHeaders::default() };
    let body = format!(r#"{{"id":"{ID}","prompt":"hi"}}"#);
    let error = Job::read(subject(), headers, body.as_bytes(), Micros::default()).unwrap_err();
    assert!(error.to_string().contains("Nats-Msg-Id"));
}

#[test]
fn an_id_in_the_header_may_name_its_tenant_and_no_other() {
    let body = br#"{"prompt":"hi"}"#;
    let read = |id: &str| {
        let headers = JobHeaders { message_id: Some(id), ..JobHeaders::default() };
        Head::read(subject(), headers, body, Micros::default())
    };
    assert_eq!(read(ID).unwrap().id, read(&format!("{ID}:acme")).unwrap().id);
    let refused = read(&format!("{ID}:other")).unwrap_err().to_string();
    assert!(refused.contains("acme") && refused.contains("Nats-Msg-Id"), "{refused}");
}

#[test]
fn a_job_that_another_tenant_delayed_is_refused_and_nobody_is_told() {
    let body = format!(r#"{{"id":"{ID}","prompt":"x"}}"#);
    for (tenant, own) in [("acme", true), ("other", false)] {
        let place = format!("beacon.delayed.us-east.{tenant}.{ID}");
        let headers = JobHeaders { scheduler: Some(&place), ..JobHeaders::default() };
        let read = Head::read(subject(), headers, body.as_bytes(), Micros::default());
        assert_eq!(read.is_ok(), own, "{read:?}");
        assert_eq!(salvage(Some(&subject()), headers, body.as_bytes()).mailbox.is_some(), own);
    }
    let old = format!("beacon.delayed.us-east.{ID}");
    let headers = JobHeaders { scheduler: Some(&old), ..JobHeaders::default() };
    assert!(Head::read(subject(), headers, body.as_bytes(), Micros::default()).is_ok());
}

#[test]
fn a_mailbox_may_be_written_with_its_own_tenant() {
    let job = read(&format!(r#"{{"id":"{ID}","prompt":"x","mailbox":"acme.inbox"}}"#)).unwrap();
    assert_eq!(job.mailbox.as_str(), "inbox");
}

#[test]
fn a_broken_job_still_says_where_to_complain() {
    let body = format!(r#"{{"id":"{ID}","prompt":7,"mailbox":"inbox"}}"#);
    let left = salvage(Some(&subject()), JobHeaders::default(), body.as_bytes());
    assert_eq!(left.id, Some(ID.parse().unwrap()));
    assert_eq!(left.mailbox, Some("inbox".parse().unwrap()));
    let nothing = salvage(Some(&subject()), JobHeaders::default(), b"\xff\xff");
    assert_eq!(nothing, Salvage::default());
}

fn any_body() -> impl Strategy<Value = JobBody> {
    (
        any::<[u8; 16]>(),
        prop_oneof![
            ".{1,40}".prop_map(|p| (None, Some(p))),
            proptest::collection::vec((".{1,8}", ".{0,40}"), 1..4).prop_map(|ms| {
                (Some(ms.into_iter().map(|(role, content)| Message { role, content }).collect()), None)
            })
        ],
        (proptest::option::of(1..9_999u32), proptest::option::of(0.0..2.0f64), any::<Option<i64>>()),
        proptest::option::of(0..2_000_000_000i64),
        any::<Option<u64>>(),
        proptest::option::of(1..=ATTEMPTS_MAX),
        proptest::collection::btree_map(".{0,10}", ".{0,10}", 0..3),
        proptest::option::of("[a-z0-9_-]{1,64}"),
    )
        .prop_map(
            |(
                id,
                (messages, prompt),
                (max_tokens, temperature, seed),
                deadline,
                cost,
                max_attempts,
                labels,
                mailbox,
            )| {
                JobBody {
                    id: Some(uuid::Uuid::from_bytes(id).to_string()),
                    messages,
                    prompt,
                    input_ref: None,
                    params: Params { max_tokens, temperature, seed, ..Params::default() },
                    deadline: deadline.and_then(|s| DateTime::from_timestamp(s, 0)),
                    max_cost_usd: cost.map(UsdNanos::new),
                    max_attempts,
                    routing: Routing { deny_providers: vec!["modal".parse().unwrap()], ..Routing::default() },
                    mailbox,
                    live: labels.len() == 1,
                    labels,
                    run_at: None,
                    replay_of: None,
                }
            },
        )
}

proptest! {
    #[test]
    fn a_job_survives_both_codecs(body in any_body()) {
        for codec in [Codec::Json, Codec::MsgPack] {
            let bytes = codec.encode(&body).unwrap();
            prop_assert_eq!(codec.decode::<JobBody>(&bytes).unwrap(), body.clone());
            let headers = JobHeaders { content_type: Some(codec.content_type()), ..JobHeaders::default() };
            let job = Job::read(subject(), headers, &bytes, Micros::default()).unwrap();
            prop_assert_eq!(Head::read(subject(), headers, &bytes, Micros::default()).unwrap(), job.head);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused_without_a_panic(bytes: Vec<u8>, msgpack: bool) {
        let codec = if msgpack { Codec::MsgPack } else { Codec::Json };
        let headers = JobHeaders { content_type: Some(codec.content_type()), ..JobHeaders::default() };
        let job = Job::read(subject(), headers, &bytes, Micros::default());
        let head = Head::read(subject(), headers, &bytes, Micros::default());
        prop_assert_eq!(job.is_ok(), head.is_ok());
        let _ = salvage(Some(&subject()), headers, &bytes);
    }
}
