//! The metrics endpoint, only where the configuration asks for one.

use std::net::SocketAddr;

use anyhow::Context as _;
use metrics_exporter_prometheus::PrometheusBuilder;

/// Begins to count and serves the counts at `http://<listen>/metrics`. Call it before the roles start.
pub(crate) fn serve(listen: Option<SocketAddr>) -> anyhow::Result<()> {
    let Some(listen) = listen else { return Ok(()) };
    PrometheusBuilder::new()
        .with_http_listener(listen)
        .install()
        .with_context(|| format!("metrics.listen {listen}: cannot serve metrics there"))
}
