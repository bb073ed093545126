//! `/net-api/v1`: networks, their nodes, and the WebSocket that carries a TCP connection into a machine.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{
        Path, State as Of,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use super::{
    shop::{Shop, refuse},
    state::Network,
};

pub(super) fn routes() -> Router<Arc<Shop>> {
    Router::new()
        .route("/net-api/v1/net", post(create).get(list))
        .route("/net-api/v1/net/{id}", get(show).delete(remove))
        .route("/net-api/v1/net/{id}/nodes", post(join).get(nodes))
        .route("/net-api/v1/net/{id}/tcp/{ip}/{port}", get(tunnel))
}

fn shown(id: &str) -> Value {
    json!({ "id": id, "ip": "192.168.0.0", "mask": "255.255.255.0", "gateway": "192.168.0.1" })
}

async fn create(Of(shop): Of<Arc<Shop>>, Json(body): Json<Value>) -> Response {
    if !body["ip"].is_string() {
        return refuse(StatusCode::BAD_REQUEST, "ip is missing");
    }
    let mut state = shop.state();
    let id = state.id(32);
    state.networks.insert(id.clone(), Network::default());
    Json(shown(&id)).into_response()
}

async fn list(Of(shop): Of<Arc<Shop>>) -> Response {
    Json(shop.state().networks.keys().map(|id| shown(id)).collect::<Vec<_>>()).into_response()
}

async fn show(Of(shop): Of<Arc<Shop>>, Path(id): Path<String>) -> Response {
    if shop.state().networks.contains_key(&id) {
        Json(shown(&id)).into_response()
    } else {
        refuse(StatusCode::NOT_FOUND, "Network not found")
    }
}

async fn remove(Of(shop): Of<Arc<Shop>>, Path(id): Path<String>) -> Response {
    match shop.state().networks.remove(&id) {
        Some(_) => StatusCode::OK.into_response(),
        None => refuse(StatusCode::NOT_FOUND, "Network not found"),
    }
}

async fn join(Of(shop): Of<Arc<Shop>>, Path(id): Path<String>, Json(body): Json<Value>) -> Response {
    let (Some(node), Some(ip)) = (body["id"].as_str(), body["ip"].as_str()) else {
        return refuse(StatusCode::BAD_REQUEST, "id or ip is missing");
    };
    let mut state = shop.state();
    let Some(network) = state.networks.get_mut(&id) else {
        return refuse(StatusCode::NOT_FOUND, "Network not found");
    };
    if network.nodes.contains_key(ip) {
        return refuse(StatusCode::CONFLICT, "IP address already taken");
    }
    network.nodes.insert(ip.to_owned(), node.to_owned());
    StatusCode::OK.into_response()
}

async fn nodes(Of(shop): Of<Arc<Shop>>, Path(id): Path<String>) -> Response {
    match shop.state().networks.get(&id) {
        Some(network) => {
            let node = |(ip, id): (&String, &String)| json!({ "id": id, "ip": ip });
            Json(network.nodes.iter().map(node).collect::<Vec<_>>()).into_response()
        }
        None => refuse(StatusCode::NOT_FOUND, "Network not found"),
    }
}

async fn tunnel(
    Of(shop): Of<Arc<Shop>>,
    Path((id, ip, port)): Path<(String, String, u16)>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let (server, stop) = {
        let state = shop.state();
        let Some(network) = state.networks.get(&id) else {
            return refuse(StatusCode::NOT_FOUND, "Network not found");
        };
        let ours = network.nodes.values().any(|node| *node == shop.config.identity);
        let node = network.nodes.get(&ip).filter(|_| ours && port == shop.config.port);
        let server = node.and_then(|node| state.server_of(&shop.config.nodes, node));
        (server, state.sockets.clone())
    };
    let Some(server) = server else {
        return refuse(StatusCode::BAD_REQUEST, "Connection refused");
    };
    let ping = shop.config.ping_every;
    upgrade.on_upgrade(move |socket| carry(socket, server, ping, stop))
}

/// Carries bytes both ways. Two pings without a pong end it.
async fn carry(socket: WebSocket, server: SocketAddr, ping_every: Duration, stop: CancellationToken) {
    let Ok(mut stream) = TcpStream::connect(server).await else { return };
    let (mut send, mut receive) = socket.split();
    let (mut read, mut write) = stream.split();
    let mut buffer = vec![0_u8; 16 * 1024];
    let mut heard = Instant::now();
    let mut ping = time::interval(ping_every);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ping.tick() => {
                if heard.elapsed() > ping_every * 2 || send.send(Message::Ping(Bytes::new())).await.is_err() {
                    return;
                }
            }
            count = read.read(&mut buffer) => match count {
                Ok(count) if count > 0 => {
                    let bytes = Bytes::copy_from_slice(&buffer[..count]);
                    if send.send(Message::Binary(bytes)).await.is_err() {
                        return;
                    }
                }
                _ => {
                    // The other side has gone already, if this fails.
                    let _ = send.close().await;
                    return;
                }
            },
            message = receive.next() => {
                heard = Instant::now();
                match message {
                    Some(Ok(Message::Binary(bytes))) => {
                        if write.write_all(&bytes).await.is_err() {
                            return;
                        }
                    }
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                    Some(Ok(_)) => {}
                }
            }
        }
    }
}
