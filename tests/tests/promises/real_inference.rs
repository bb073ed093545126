//! Promise: real prompts get real answers from a real model, through everything, while its servers hang and die.

use std::{sync::Arc, time::Duration};

use nix::sys::signal::Signal;
use schemas::{prices::PriceBook, reply::Status};
use tests::{
    audit::Audit,
    llm::Llm,
    nats_server::NatsServer,
    process::root,
    roles::{self, Role},
};
use workers::adapters::{Billing, Dialect, OpenAi, OpenAiConfig};

const ACK_WAIT: Duration = Duration::from_secs(20);

fn pool(urls: &[String], name: &str, llm: &Llm) -> workers::PoolConfig {
    let config = OpenAiConfig {
        dialect: Dialect::LlamaCpp,
        billing: Billing::PerSecond,
        first_byte_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(5),
        ..OpenAiConfig::new(llm.url())
    };
    let provider = Arc::new(OpenAi::new(config).unwrap());
    let mut pool = roles::pool_config(urls, &format!("{name}@us-east"), name, 2, ACK_WAIT, provider);
    let text = std::fs::read_to_string(root().join("prices.toml")).unwrap();
    pool.prices = Arc::new(PriceBook::from_toml(&text).unwrap());
    pool.price_name = "local".parse().unwrap();
    pool.models[0].sku = "cpu".into();
    pool
}

#[tokio::test(flavor = "multi_thread")]
async fn real_inference_survives_a_hanging_and_a_killed_server() {
    let (Some(first), Some(second)) = (Llm::start(), Llm::start()) else {
        eprintln!("SKIPPED: no local model; `make setup` says why it could not be installed");
        return;
    };
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let one = Role::worker(pool(&urls, "local", &first)).await;
    let two = Role::worker(pool(&urls, "local-b", &second)).await;
    let mut producer = roles::producer(&urls).await;
    let mut capital = roles::job("What is the capital of France? Answer in one short sentence.");
    capital.body.params.max_tokens = Some(24);
    capital.body.params.temperature = Some(0.0);
    let result = producer.submit_and_wait(&capital, Duration::from_secs(60)).await.unwrap();
    let (output, usage) = (result.output.unwrap(), result.usage.unwrap());
    assert!(!output.text.trim().is_empty());
    assert!(usage.prompt_tokens > 0 && usage.completion_tokens > 0 && !usage.estimated);
    assert!(["stop", "length"].contains(&output.finish_reason.as_str()));
    assert!(result.timings.first_token_us > 0 && result.cost_usd > schemas::UsdNanos::ZERO);
    let mut jobs = vec![result.job];
    let tales = |n: u32| {
        let mut tale = roles::job(&format!("Tell a short story about {n} lighthouses."));
        tale.body.params.max_tokens = Some(32);
        tale
    };
    // One server hangs: it takes connections and never answers.
    first.signal(Signal::SIGSTOP);
    for n in 0..4 {
        jobs.push(producer.submit(&tales(n)).await.unwrap().job);
    }
    Audit::all_ended(&mut producer, &jobs).await;
    // It comes back, and the other one dies in the middle of its work.
    first.signal(Signal::SIGCONT);
    for n in 4..8 {
        jobs.push(producer.submit(&tales(n)).await.unwrap().job);
    }
    second.signal(Signal::SIGKILL);
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!(audit.count(Status::Succeeded), jobs.len());
    one.stop().await;
    two.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}
