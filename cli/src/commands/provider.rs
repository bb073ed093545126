//! `beacon provider check`: asks the live services about each pool, spends nothing, and says in two tables what it found and what is
//! still missing before a job is answered.
//!
//! Pools are asked side by side, each within a bound; accounts of machines once for all their pools.

mod ask;
mod shown;

use schemas::{PoolId, check::Voice};
use serde_json::json;

use self::{
    ask::{Asker, Looked},
    shown::{Counts, missing},
};
use crate::{
    args::{Provider, ProviderCheck},
    config::{Config, pools::Pool},
    exit::{Unsuccessful, Usage},
    output,
    session::Session,
};

/// Checks.
pub(crate) async fn run(args: Provider, session: Session) -> anyhow::Result<()> {
    let Provider::Check(args) = args;
    session.unless_interrupted(check(&args, &session)).await
}

async fn check(args: &ProviderCheck, session: &Session) -> anyhow::Result<()> {
    let pools = chosen(&session.config, args.name.as_deref())?;
    if pools.is_empty() {
        session.say("no pool is configured");
        return Ok(());
    }
    session.say(format!("asking {} pools; nothing is started and nothing is spent", pools.len()));
    let asker = Asker::open(&session.config, &pools, args.price_tolerance).await?;
    let looked = asker.ask().await;
    asker.close().await;
    let counts = Counts::of(&looked);
    if session.json {
        tell_machines(&looked, counts)?;
    } else {
        output::line(shown::findings(&looked).to_string())?;
        match shown::still_missing(&looked) {
            Some(table) => {
                output::line("Still missing, in the order to see to it:")?;
                output::line(table.to_string())?;
            }
            None => output::line(format!("Nothing is missing. {counts}"))?,
        }
    }
    if counts.of_voice(Voice::Wrong) > 0 {
        return Err(Unsuccessful(counts.to_string()).into());
    }
    Ok(())
}

fn tell_machines(looked: &[Looked], counts: Counts) -> anyhow::Result<()> {
    for Looked { pool, findings, .. } in looked {
        output::json(&json!({ "pool": pool, "findings": findings }))?;
    }
    let missing: Vec<_> = missing(looked)
        .into_iter()
        .map(|(pool, finding)| json!({ "pool": pool, "aspect": finding.aspect, "todo": finding.todo }))
        .collect();
    output::json(&json!({
        "ok": counts.of_voice(Voice::Ok), "warning": counts.of_voice(Voice::Warning),
        "unknown": counts.of_voice(Voice::Unknown), "wrong": counts.of_voice(Voice::Wrong), "missing": missing,
    }))
}

/// The pools that a name means: of a provider, of an account, or the one.
fn chosen<'a>(config: &'a Config, name: Option<&str>) -> Result<Vec<&'a Pool>, Usage> {
    let Some(name) = name else { return Ok(config.pools.iter().collect()) };
    let is_meant = |pool: &&Pool| {
        let of_account = pool.rent().is_some_and(|rent| rent.landlord() == name);
        pool.id.to_string() == name || pool.id.provider.as_str() == name || of_account
    };
    let chosen: Vec<&Pool> = config.pools.iter().filter(is_meant).collect();
    if !chosen.is_empty() {
        return Ok(chosen);
    }
    let known: Vec<String> = config.pools.iter().map(|pool: &Pool| PoolId::to_string(&pool.id)).collect();
    let known = if known.is_empty() { "there are none".to_owned() } else { known.join(", ") };
    Err(Usage(format!("`{name}` is no provider, pool or account of the configuration ({known})")))
}
