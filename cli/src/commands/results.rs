//! `beacon results`: what a mailbox holds, and with `--follow` what comes.

use producer::{Producer, Reply, nats};
use schemas::{Micros, reply::JobResult, time::Clock as _};
use tracing::warn;
use transport::{SystemClock, payloads::PayloadError};

use crate::{args::Results, output, session::Session};

/// As much of an answer as fits a line.
const SNIPPET: usize = 60;

/// Prints results, oldest first.
pub(crate) async fn run(args: Results, session: Session) -> anyhow::Result<()> {
    let mut producer = session.producer(&args.tenant, &args.mailbox).await?;
    let since: Option<Micros> = args.since.map(|span| SystemClock.now() - span.get());
    let mut replies = producer.replies(since, args.follow);
    let shutdown = session.signals.shutdown().clone();
    let outcome = loop {
        let reply = tokio::select! {
            biased;
            () = shutdown.cancelled() => break Err(session.signals.interrupted()),
            reply = replies.recv() => reply,
        };
        let printed = match reply {
            None => break Ok(()),
            Some(Ok(Reply::Result(result))) => print(&producer, *result, session.json).await,
            Some(Ok(Reply::Cost(_))) => Ok(()),
            Some(Err(error)) => Err(error.into()),
        };
        if printed.is_err() {
            break printed;
        }
    };
    producer.close().await;
    outcome
}

/// Prints a result with its output, which may lie in the object store. One whose output is gone says where it was.
async fn print(producer: &Producer, result: JobResult, json: bool) -> anyhow::Result<()> {
    let (result, lost) = match nats::with_output(producer.client(), result).await {
        Ok(result) => (result, None),
        Err(lost) => (lost.result, Some(lost.source)),
    };
    if let Some(error) = lost.as_ref().filter(|_| json) {
        // The result itself names the place, in `output_ref`.
        warn!(job = %result.job, %error, "the output cannot be fetched");
    }
    if json { output::json(&result) } else { output::line(one_line(&result, lost.as_ref())) }
}

fn one_line(result: &JobResult, lost: Option<&PayloadError>) -> String {
    let provider = result.provider.as_ref().map_or("-", |p| p.as_str());
    let region = result.region.as_ref().map_or("-", |r| r.as_str());
    let snippet = match (&result.output, &result.error, lost) {
        (Some(output), ..) => snippet(&output.text),
        (None, Some(failure), _) => snippet(&format!("{}: {}", failure.class, failure.message)),
        (None, None, Some(error)) => format!("[no output: {error}]"),
        (None, None, None) => String::new(),
    };
    format!(
        "{}  {}  {:9}  {provider}@{region}  {} ms  ${}  {snippet}",
        result.finished_us,
        result.job,
        result.status.as_str(),
        result.timings.total_us / 1_000,
        result.cost_usd,
    )
}

/// The beginning of a text, on one line.
fn snippet(text: &str) -> String {
    let mut words = String::new();
    for word in text.split_whitespace() {
        if words.len() > 4 * SNIPPET {
            break;
        }
        words.extend([if words.is_empty() { "" } else { " " }, word]);
    }
    let mut snippet: String = words.chars().take(SNIPPET).collect();
    if snippet.len() < words.len() {
        snippet.push('…');
    }
    snippet
}
