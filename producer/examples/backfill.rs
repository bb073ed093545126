//! Runs a file of jobs to its end: `cargo run -p producer --example backfill -- nats://127.0.0.1:4222 prompts.jsonl`.

use std::{error::Error, time::Duration};

use producer::{
    Producer, ProducerConfig,
    backfill::{Backfill, Options},
};
use schemas::{Lane, catalog::Catalog};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let url = args.next().unwrap_or_else(|| "nats://127.0.0.1:4222".into());
    let file = args.next().unwrap_or_else(|| "prompts.jsonl".into());
    let options = Options {
        folder: format!("{file}.beacon").into(),
        name: file.clone(),
        file: file.into(),
        tenant: "acme".parse()?,
        region: "us-east".parse()?,
        model: None,
        lane: Lane::Low,
        catalog: Catalog::new(vec!["llama-3.2-1b".into()])?,
        regions: vec!["us-east".parse()?],
        outstanding: 1_000,
        max_cost: Some("5".parse()?),
        listen: Duration::from_millis(1_500),
    };
    let producer = Producer::connect(ProducerConfig::new(&url, "acme", "inbox")?).await?;
    let mut backfill = Backfill::open(options)?;
    let ending = backfill
        .run(&producer, &CancellationToken::new(), &mut |so_far| println!("{} succeeded", so_far.succeeded))
        .await?;
    println!("{ending:?}: {:?}", backfill.snapshot());
    producer.close().await;
    Ok(())
}
