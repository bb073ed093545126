//! `beacon worker`: workers of one or more pools, until a signal ends them.

use crate::{
    args::Worker,
    config::{
        pools::Pool,
        process::{Place, Shared},
    },
    environment,
    exit::Usage,
    metrics, output,
    roles::{Roles, names},
    session::Session,
};

/// Runs until a signal, then ends in order.
pub(crate) async fn run(args: Worker, session: Session) -> anyhow::Result<()> {
    let Worker { pools, id } = args;
    let config = &session.config;
    let chosen: Vec<&Pool> = if pools.is_empty() {
        config.pools.iter().collect()
    } else {
        let find = |id| {
            config.pool(id).ok_or_else(|| {
                let known = names(config.pools.iter().map(|pool| &pool.id));
                Usage(format!("--pool `{id}` has no [[pools]] entry (there are: {known})"))
            })
        };
        pools.iter().map(find).collect::<Result<_, _>>()?
    };
    if chosen.is_empty() {
        return Err(Usage("no pool to work for: the configuration has no [[pools]]".into()).into());
    }
    let link = session.link()?;
    let worker = id.unwrap_or_else(environment::process_name);
    // All of them before the first connects: a missing secret is found at once.
    let shared = Shared::new(&config.workers);
    let place = Place { link: link.clone(), worker: worker.clone(), simulated: &|_| None, shared: &shared };
    let ready = chosen.iter().map(|pool| config.build(pool, &place)).collect::<Result<Vec<_>, _>>()?;
    metrics::serve(config.metrics)?;
    let mut roles = Roles::default();
    roles.webhooks(config, &shared).await?;
    for pool in ready {
        roles.pool(pool).await?;
    }
    if session.json {
        let ids: Vec<String> = chosen.iter().map(|pool| pool.id.to_string()).collect();
        output::json(
            &serde_json::json!({ "ready": "worker", "id": worker, "pools": ids, "nats": link.urls }),
        )?;
    }
    roles.serve(&session.signals).await
}
