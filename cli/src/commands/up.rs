//! `beacon up`: all roles of the configuration in this process, until a signal ends them.

use serde_json::json;
use tracing::info;

use crate::{
    metrics, output,
    roles::{Roles, names},
    session::{Running, Session},
    simulated::Simulated,
};

/// Runs until a signal or until something fails, then ends in order: dispatcher, pools, simulators, server.
pub(crate) async fn run(session: Session) -> anyhow::Result<()> {
    let config = &session.config;
    config.check_secrets()?;
    metrics::serve(config.metrics)?;
    let mut nats = session.nats().await?;
    let outcome = with_server(&session, &mut nats).await;
    nats.stop().await;
    outcome?;
    session.signals.conclude_role()
}

async fn with_server(session: &Session, nats: &mut Running) -> anyhow::Result<()> {
    let simulated = Simulated::start(&session.config).await?;
    let outcome = with_simulators(session, nats, &simulated).await;
    simulated.stop().await;
    outcome
}

async fn with_simulators(session: &Session, nats: &mut Running, simulated: &Simulated) -> anyhow::Result<()> {
    let mut roles = Roles::default();
    let work = async {
        roles.everything(&session.config, &nats.link, simulated).await?;
        ready(session, nats)?;
        tokio::select! {
            error = roles.ended() => Err(error),
            error = nats.died() => Err(error),
        }
    };
    let outcome = tokio::select! {
        biased;
        () = session.signals.shutdown().cancelled() => Ok(()),
        outcome = work => outcome,
    };
    outcome.and(roles.stop().await)
}

fn ready(session: &Session, nats: &Running) -> anyhow::Result<()> {
    let config = &session.config;
    let url = nats.link.shown();
    let pools: Vec<String> = config.pools.iter().map(|pool| pool.id.to_string()).collect();
    if session.json {
        let version = nats.server.as_ref().map(|server| server.version().to_owned());
        let regions = &config.topology.regions;
        output::json(
            &json!({ "ready": "up", "nats": url, "nats_server": version, "regions": regions, "pools": pools }),
        )?;
    } else {
        let models = config.topology.catalog.names().collect::<Vec<_>>().join(", ");
        output::line(format!("beacon is up at {url}; Ctrl-C ends it"))?;
        output::line(format!("  models: {models}"))?;
        output::line(format!("  pools:  {}", names(config.pools.iter().map(|pool| &pool.id))))?;
        output::line("  try:    beacon submit --wait \"Why is the sky blue?\"")?;
    }
    info!(url, pools = pools.len(), "up");
    Ok(())
}
