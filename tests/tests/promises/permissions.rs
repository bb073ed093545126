//! Promise: who connects is said in the address and shown nowhere; what the server does not permit is said at once, with the subject
//! and the permission.

use std::time::Duration;

use producer::{Producer, ProducerConfig, SubmitError, WaitError};
use serde_json::Value;
use tests::{
    nats_server::NatsServer,
    process,
    roles::{self, Role},
};
use tokio::time::Instant;
use transport::{
    Link, LinkConfig, PublishError,
    api::{self, ApiError},
    denied::Denied,
};

const ACK_WAIT: Duration = Duration::from_secs(4);
/// Far less than the 30 s that a producer is patient for, and far more than an answer takes.
const AT_ONCE: Duration = Duration::from_secs(15);

const USERS: &str = r#"authorization { users: [
    { user: admin, password: "p@ss/w0rd" }
    { user: reader, password: hunter2, permissions: {
        publish: ["$JS.API.>", "_INBOX_producer-acme.>"]
        subscribe: ["_INBOX_producer-acme.>", "beacon.reply.acme.>"] } }
    { user: mute, password: hunter2, permissions: {
        publish: ["beacon.jobs.>", "$JS.API.>"]
        subscribe: ["beacon.reply.acme.>"] } }
    { user: deaf, password: hunter2, permissions: {
        publish: ["beacon.jobs.>", "$JS.API.>"]
        subscribe: ["_INBOX_producer-acme.>"] } }
    { user: dumb, password: hunter2, permissions: {
        publish: ["beacon.jobs.>"]
        subscribe: ["_INBOX_producer-acme.>"] } }
] }"#;
const ADMIN: &str = "admin:p%40ss%2Fw0rd";
const READER: &str = "reader:hunter2";

async fn server() -> (NatsServer, Role) {
    let server = NatsServer::configured(USERS, ADMIN).await;
    let dispatcher = Role::usual_dispatcher(&server.url(), "d1", ACK_WAIT).await;
    (server, dispatcher)
}

async fn producer(server: &NatsServer, login: &str) -> Producer {
    Producer::connect(ProducerConfig::new(&server.url_as(login), "acme", "inbox").unwrap()).await.unwrap()
}

fn check_hidden(said: &str) {
    for secret in ["hunter2", "w0rd", "t0ken"] {
        assert!(!said.contains(secret), "`{said}` shows a secret");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_that_an_address_names_connects_and_no_other() {
    let server = NatsServer::configured(USERS, ADMIN).await;
    let link = LinkConfig::to(server.url());
    assert!(Link::connect(&link, "test").await.is_ok());
    check_hidden(&format!("{link:?}"));
    for wrong in ["", "admin:wrong-w0rd", "t0ken"] {
        let link = LinkConfig::to(server.url_as(wrong));
        let error = Link::connect(&link, "test").await.unwrap_err();
        let said = format!("{error} {error:?} {link:?}");
        check_hidden(&said);
        assert!(said.contains(&server.address()), "{said}");
    }
    let two = LinkConfig {
        urls: vec![server.url().into(), server.url_as(READER).into()],
        credentials: None,
        root_certificates: None,
    };
    assert!(Link::connect(&two, "test").await.unwrap_err().to_string().contains("different users"));
    // One address names the user, the other only the way.
    let one = LinkConfig { urls: vec![server.url_as("").into(), server.url().into()], ..two };
    assert!(Link::connect(&one, "test").await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_an_address_connects() {
    let server = NatsServer::configured("authorization { token: \"t0ken\" }", "t0ken").await;
    assert!(Link::connect(&LinkConfig::to(server.url()), "test").await.is_ok());
    assert!(Link::connect(&LinkConfig::to(server.url_as("")), "test").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_shows_no_login() {
    let server = NatsServer::configured(USERS, ADMIN).await;
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let output = tokio::task::block_in_place(|| process::run(args));
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        check_hidden(&said.concat());
        (output.status.code(), said.concat())
    };
    for login in ["admin:wrong-w0rd", "reader:hunter2", "t0ken"] {
        let url = server.url_as(login);
        let config = process::config(folder.path(), &url);
        run(&["results", "--config", &config, "--log", "trace"]);
        run(&["results", "--nats-url", &url]);
        // The same where a list belongs, and where the address does not read.
        std::fs::write(&config, format!("[nats]\nurls = \"{url}\"\n")).unwrap();
        let (code, said) = run(&["results", "--config", &config]);
        assert_eq!((code, said.lines().count()), (Some(2), 1), "{said}");
        assert_eq!(run(&["results", "--nats-url", &url.replace("nats:", "http:")]).0, Some(2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_is_not_permitted_fails_at_once_and_names_subject_and_permission() {
    let (server, dispatcher) = server().await;
    let producer = producer(&server, READER).await;
    let began = Instant::now();
    let jobs: Vec<_> = (0..20).map(|n| roles::job(&format!("{n}"))).collect();
    let submits = jobs.iter().map(|job| producer.submit(job));
    for refused in futures_util::future::join_all(submits).await {
        let refused = refused.unwrap_err();
        let said = refused.to_string();
        assert!(
            matches!(refused, SubmitError::Publish(PublishError::NotPermitted(Denied::Publish { .. }))),
            "{said}"
        );
        assert!(
            said.contains("beacon.jobs.us-east.llama-3-2-1b.normal.acme") && said.contains("publish"),
            "{said}"
        );
    }
    let refused = producer.submit_and_wait(&roles::job("x"), Duration::from_secs(60)).await.unwrap_err();
    assert!(matches!(refused, WaitError::Submit(_)), "{refused}");
    let config = process::config(tempfile::tempdir().unwrap().path(), &server.url_as(READER));
    drop(config);
    assert!(began.elapsed() < AT_ONCE);
    producer.close().await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_says_in_one_line_what_is_not_permitted() {
    let (server, dispatcher) = server().await;
    let args = ["submit", "--tenant", "acme", "--nats-url", &server.url_as(READER), "x"];
    let output = tokio::task::block_in_place(|| process::run(&args));
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert!(
        said.contains("beacon.jobs.") && said.contains("permit") && !said.contains("may be stored"),
        "{said}"
    );
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_may_not_hear_acknowledgements_or_results_says_so_at_once() {
    let (server, dispatcher) = server().await;
    let began = Instant::now();
    let mute = producer(&server, "mute:hunter2").await;
    let refused = mute.submit(&roles::job("x")).await.unwrap_err().to_string();
    assert!(refused.contains("subscribe to `_INBOX_producer-acme."), "{refused}");
    let deaf = producer(&server, "deaf:hunter2").await;
    let refused = deaf.submit_and_wait(&roles::job("x"), Duration::from_secs(60)).await.unwrap_err();
    assert!(refused.to_string().contains("subscribe to `beacon.reply.acme.inbox.result`"), "{refused}");
    assert!(began.elapsed() < AT_ONCE);
    mute.close().await;
    deaf.close().await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_to_jetstream_that_is_not_permitted_fails_at_once_and_for_its_own_connection_only() {
    let (server, dispatcher) = server().await;
    let link =
        async |login| Link::connect(&LinkConfig::to(server.url_as(login)), "producer-acme").await.unwrap();
    let (dumb, admin) = (link("dumb:hunter2").await, link(ADMIN).await);
    let info = async |link: &Link| api::ask(&link.client, "STREAM.INFO.REPLIES", &Value::Null).await;
    let questions = async { tokio::join!(info(&dumb), info(&admin), info(&dumb), info(&admin)) };
    let (refused, answered, again, too) = questions.await;
    assert!(answered.is_ok() && too.is_ok());
    for refused in [refused, again] {
        let refused = refused.unwrap_err();
        let said = refused.to_string();
        assert!(matches!(refused, ApiError::Denied(Denied::Publish { .. })), "{said}");
        assert!(said.contains("publish to `$JS.API.STREAM.INFO.REPLIES`"), "{said}");
    }
    let refused = api::read_all(&dumb.client, "REPLIES", "beacon.reply.>").await.unwrap_err();
    assert!(matches!(refused, ApiError::Denied(_)), "{refused}");
    let refused = api::at(&dumb.client, "REPLIES", 1).await.unwrap_err();
    assert!(matches!(refused, ApiError::Denied(_)), "{refused}");
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_whose_answer_may_not_be_heard_fails_at_once_each_time_it_is_asked() {
    let (server, dispatcher) = server().await;
    let link = Link::connect(&LinkConfig::to(server.url_as(READER)), "somebody").await.unwrap();
    let began = Instant::now();
    for _ in 0..3 {
        let refused = [
            api::ask(&link.client, "STREAM.INFO.REPLIES", &Value::Null).await.unwrap_err(),
            api::read_all(&link.client, "REPLIES", "beacon.reply.>").await.unwrap_err(),
            api::at(&link.client, "REPLIES", 1).await.unwrap_err(),
        ];
        for refused in refused {
            let said = refused.to_string();
            assert!(matches!(refused, ApiError::Denied(Denied::Subscribe { .. })), "{said}");
            assert!(said.contains("subscribe to `_INBOX_somebody."), "{said}");
        }
    }
    let output =
        tokio::task::block_in_place(|| process::run(&["results", "--nats-url", &server.url_as(READER)]));
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let last = said.lines().last().unwrap_or_default();
    assert!(last.contains("permit") && last.contains("subscribe to `_INBOX_producer-default."), "{said}");
    assert!(began.elapsed() < AT_ONCE);
    dispatcher.stop().await;
}
