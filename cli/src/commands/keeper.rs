//! `beacon keeper`: one keeper of rented machines, until a signal ends it.

use schemas::PoolId;

use crate::{
    args::Keeper,
    config::pools::Pool,
    environment,
    exit::Usage,
    metrics, output,
    roles::{self, Roles, names},
    session::Session,
};

/// Runs until a signal, then ends in order. Machines stand on.
pub(crate) async fn run(args: Keeper, session: Session) -> anyhow::Result<()> {
    let Keeper { pools, id } = args;
    let config = &session.config;
    let rented: Vec<&Pool> = config.pools.iter().filter(|pool| pool.rent().is_some()).collect();
    let find = |id: &PoolId| {
        rented.iter().find(|pool| pool.id == *id).copied().ok_or_else(|| {
            let known = names(rented.iter().map(|pool| &pool.id));
            Usage(format!("--pool `{id}` has no [pools.rent] (those that have: {known})"))
        })
    };
    let chosen =
        if pools.is_empty() { rented.clone() } else { pools.iter().map(find).collect::<Result<_, _>>()? };
    if chosen.is_empty() && config.landlords.is_empty() {
        return Err(Usage(
            "nothing to keep: no pool has a [pools.rent], and there are no [[landlords]]".into(),
        )
        .into());
    }
    let link = session.link()?;
    let keeper = id.map_or_else(environment::host_name, |id| id.to_string());
    let keeping = roles::keeper_config(config, link.clone(), &keeper, &chosen, &|_| None)?;
    metrics::serve(config.metrics)?;
    let mut roles = Roles::default();
    roles.keeper(keeping).await?;
    if session.json {
        let ids: Vec<String> = chosen.iter().map(|pool| pool.id.to_string()).collect();
        output::json(
            &serde_json::json!({ "ready": "keeper", "id": keeper, "pools": ids, "nats": link.urls }),
        )?;
    }
    roles.serve(&session.signals).await
}
