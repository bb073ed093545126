//! `beacon results`: what a mailbox holds, and with `--follow` what comes.

use producer::Reply;
use schemas::{Micros, reply::JobResult, time::Clock as _};
use transport::SystemClock;

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
            Some(Ok(Reply::Result(result))) if session.json => output::json(&result),
            Some(Ok(Reply::Result(result))) => output::line(one_line(&result)),
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

fn one_line(result: &JobResult) -> String {
    let provider = result.provider.as_ref().map_or("-", |p| p.as_str());
    let region = result.region.as_ref().map_or("-", |r| r.as_str());
    let said = match (&result.output, &result.error) {
        (Some(output), _) => output.text.clone(),
        (None, Some(failure)) => format!("{}: {}", failure.class, failure.message),
        (None, None) => String::new(),
    };
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut snippet: String = said.chars().take(SNIPPET).collect();
    if snippet.len() < said.len() {
        snippet.push('…');
    }
    format!(
        "{}  {}  {:9}  {provider}@{region}  {} ms  ${}  {snippet}",
        result.finished_us,
        result.job,
        result.status.as_str(),
        result.timings.total_us / 1_000,
        result.cost_usd,
    )
}
