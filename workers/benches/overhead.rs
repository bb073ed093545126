//! What an adapter adds to a call: the OpenAI adapter against a bare HTTP request to the same simulator, in turns.
//!
//! `cargo bench -p workers` prints the medians and their difference; nothing is asserted, since machines differ.

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use schemas::job::{Input, Params};
use simulators::{Kind, SimulatedModel, SimulatorConfig};
use tokio_util::sync::CancellationToken;
use workers::{
    adapters::{OpenAi, OpenAiConfig},
    provider::{Call, Progress, Provider as _},
};

const ROUNDS: usize = 3_000;
const WARM_UP: usize = 300;

struct Deaf;

impl Progress for Deaf {
    fn submitting(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn started<'a>(&'a self, _: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn token(&self, _: &str) {}
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = SimulatedModel { service_ms_p50: 0, ..SimulatedModel::new("m") };
    let stop = CancellationToken::new();
    let simulator =
        simulators::start(SimulatorConfig::new("bench", Kind::OpenAi, vec![model]), stop.clone()).await?;
    let mut config = OpenAiConfig::new(simulator.url());
    config.stream = false;
    let adapter = OpenAi::new(config)?;
    let client = reqwest::Client::builder().no_proxy().tcp_nodelay(true).build()?;
    let url = format!("{}/v1/completions", simulator.url());
    let call = Call {
        job: "0198c0de-0000-7000-8000-000000000001".parse()?,
        attempt: 1,
        key: schemas::AttemptKey::of("bench", 1),
        model: "m".to_owned(),
        sku: "standard".to_owned(),
        tenant: schemas::Tenant::default(),
        input: Input::Prompt("Why is the sky blue?".to_owned()),
        params: Params { max_tokens: Some(24), ..Params::default() },
        timeout: Duration::from_secs(10),
        traceparent: None,
        live: false,
    };
    let body = r#"{"model":"m","prompt":"Why is the sky blue?","max_tokens":24,"stream":false}"#;
    let (mut bare, mut adapted) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS + WARM_UP {
        let began = Instant::now();
        let request = client.post(&url).header("content-type", "application/json").body(body);
        let answer = request.send().await?.bytes().await?;
        let took = began.elapsed();
        assert!(answer.starts_with(b"{"), "the simulator answers");
        let began = Instant::now();
        let ended = adapter.run(&call, &Deaf).await;
        let longer = began.elapsed();
        assert!(ended.outcome.is_ok(), "{ended:?}");
        if round >= WARM_UP {
            bare.push(took);
            adapted.push(longer);
        }
    }
    let (bare, adapted) = (median(bare), median(adapted));
    println!("bare HTTP call     {:>8.1} us p50", bare * 1e6);
    println!("through the adapter{:>8.1} us p50", adapted * 1e6);
    println!("the adapter adds   {:>8.1} us", (adapted - bare) * 1e6);
    stop.cancel();
    simulator.stopped().await;
    Ok(())
}

/// Seconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}
