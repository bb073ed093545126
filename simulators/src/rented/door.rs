//! The listener of a control API: requests and answers are recorded, and faults strike, before any provider's file sees them.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{ConnectInfo, DefaultBodyLimit, Request, State},
    http::{Method, Uri},
    middleware::{self, Next},
    response::Response,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{account::Account, meter::Tariff};
use crate::{
    connection::{Connection, Door},
    edge, tape,
};

/// Larger than any control request.
const BODY_MAX: usize = 16 * 1024 * 1024;

/// The name of a call, by which faults are set.
pub(super) type Namer = fn(&Method, &Uri, &[u8]) -> String;

/// An account whose control API has a port and does not answer yet.
pub(super) async fn open(
    tariff: Tariff,
    shutdown: CancellationToken,
) -> io::Result<(Arc<Account>, TcpListener)> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
    let account = Account::new(listener.local_addr()?, tariff, shutdown);
    Ok((account, listener))
}

/// Answers calls until the account's shutdown.
pub(super) fn serve(account: &Arc<Account>, listener: TcpListener, routes: Router, namer: Namer) {
    let app = routes
        .layer(middleware::from_fn_with_state((Arc::clone(account), namer), strike))
        .layer(middleware::from_fn_with_state(Arc::clone(&account.tape), tape::record))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .into_make_service_with_connect_info::<Connection>();
    let door = Door { listener, shutdown: account.shutdown.clone() };
    let server = axum::serve(door, app).with_graceful_shutdown(account.shutdown.clone().cancelled_owned());
    account.tasks.spawn(async move {
        if let Err(error) = server.await {
            warn!(%error, "control API stopped serving");
        }
    });
    account.tasks.close();
}

async fn strike(
    State((account, namer)): State<(Arc<Account>, Namer)>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    request: Request,
    next: Next,
) -> Response {
    let (head, body) = request.into_parts();
    let body: Bytes = to_bytes(body, BODY_MAX).await.unwrap_or_default();
    let fault = account.faults.draw(&namer(&head.method, &head.uri, &body));
    let request = Request::from_parts(head, Body::from(body));
    match fault {
        None => next.run(request).await,
        Some(fault) => edge::faulty(fault, &connection, next.run(request)).await,
    }
}
