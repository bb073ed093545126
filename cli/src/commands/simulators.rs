//! `beacon simulators`: the simulated providers of the configuration, until a signal ends them.

use serde_json::json;

use crate::{exit::Usage, output, session::Session, simulated::Simulated};

/// Runs until a signal.
pub(crate) async fn run(session: Session) -> anyhow::Result<()> {
    if session.config.simulators.is_empty() {
        return Err(Usage("nothing to simulate: the configuration has no [[simulators]]".into()).into());
    }
    let simulated = Simulated::start(&session.config).await?;
    let list: Vec<_> = simulated.all().iter().map(|s| json!({ "name": s.name(), "url": s.url() })).collect();
    if session.json {
        output::json(&json!({ "ready": "simulators", "simulators": list }))?;
    }
    session.signals.shutdown().cancelled().await;
    simulated.stop().await;
    session.signals.conclude_role()
}
