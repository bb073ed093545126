//! Railway's edge: an address for each service. It passes connections on to a deployment that runs, and answers 502 while there
//! is none, as a page. The first request to a sleeping one wakes it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

use super::{deployments::Route, shop::Shop};

const PAGE: &str = "<html><body><h1>Application failed to respond</h1></body></html>";

/// Opens the address of the service in this place; answers until the simulator stops.
pub(super) fn open(shop: &Arc<Shop>, place: usize) -> SocketAddr {
    let [_, _, high, low] = u32::try_from(place + 1).unwrap_or(u32::MAX).to_be_bytes();
    let address = SocketAddr::from((Ipv4Addr::new(127, 78, high, low), shop.account.port()));
    let shop = Arc::clone(shop);
    let tasks = shop.account.tasks.clone();
    tasks.spawn(async move {
        let shutdown = shop.account.shutdown.clone();
        let Ok(listener) = TcpListener::bind(address).await else { return };
        let tasks = shop.account.tasks.clone();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => return,
            };
            let Ok((client, _)) = accepted else { continue };
            let (shop, shutdown) = (Arc::clone(&shop), shutdown.clone());
            tasks.spawn(async move {
                tokio::select! {
                    () = pass(&shop, place, client) => {}
                    () = shutdown.cancelled() => {}
                }
            });
        }
    });
    address
}

async fn pass(shop: &Arc<Shop>, place: usize, mut client: TcpStream) {
    match shop.route(place) {
        Route::To(server) => {
            if let Ok(mut upstream) = TcpStream::connect(server).await {
                // Either side may break; the other then sees its end.
                let _ = copy_bidirectional(&mut client, &mut upstream).await;
                shop.traffic(place);
                return;
            }
        }
        Route::Asleep(deployment) => {
            shop.account.wake(&deployment, "request");
        }
        Route::Nowhere => {}
    }
    let mut head = Vec::new();
    let mut part = [0; 4096];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < 65_536 {
        match client.read(&mut part).await {
            Ok(0) | Err(_) => return,
            Ok(length) => head.extend_from_slice(&part[..length]),
        }
    }
    let answer = format!(
        "HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\nx-railway-edge: railway/simulated\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{PAGE}",
        PAGE.len()
    );
    // A client that has left needs no answer.
    let _ = client.write_all(answer.as_bytes()).await;
}
