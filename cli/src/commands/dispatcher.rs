//! `beacon dispatcher`: one dispatcher, until a signal ends it.

use crate::{
    args::Dispatcher,
    environment,
    exit::Usage,
    metrics, output,
    roles::{self, Roles},
    session::Session,
};

/// Runs until a signal, then ends in order.
pub(crate) async fn run(args: Dispatcher, session: Session) -> anyhow::Result<()> {
    let Dispatcher { regions, id } = args;
    let known = &session.config.topology.regions;
    if let Some(unknown) = regions.iter().find(|region| !known.contains(region)) {
        let known = known.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Err(Usage(format!("--region `{unknown}` is not in beacon.regions ({known})")).into());
    }
    let regions = if regions.is_empty() { known.clone() } else { regions };
    let link = session.link()?;
    metrics::serve(session.config.metrics)?;
    let id = id.unwrap_or_else(environment::process_name);
    let mut roles = Roles::default();
    let config = roles::dispatcher_config(&session.config, link.clone(), id.clone(), regions.clone());
    roles.dispatcher(config).await?;
    if session.json {
        output::json(
            &serde_json::json!({ "ready": "dispatcher", "id": id, "regions": regions, "nats": link.urls }),
        )?;
    }
    roles.serve(&session.signals).await
}
