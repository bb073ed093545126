//! A local TCP proxy over yagna's WebSockets: one WebSocket for each connection, raw bytes both ways.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{self, Instant},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{self, Message, client::IntoClientRequest as _},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tracing::{debug, warn};

/// Connections to one machine at a time. A server has far fewer slots; more wait in the listener's queue.
const CONNECTIONS: usize = 256;
/// yagna closes after 10 s without a word of ours.
const PING_EVERY: Duration = Duration::from_secs(5);
/// yagna pings every 5 s; this long a silence is the loss of the daemon.
const SILENCE: Duration = Duration::from_secs(20);
/// How long the WebSocket may take to open.
const OPEN_WITHIN: Duration = Duration::from_secs(15);
/// Bytes of one frame.
const FRAME: usize = 64 * 1024;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Where a tunnel leads.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// The WebSocket's URL.
    pub(super) url: String,
    pub(super) key: HeaderValue,
}

/// An open tunnel. Dropping it closes it and its connections.
#[derive(Debug)]
pub(super) struct Tunnel {
    address: SocketAddr,
    _closes: DropGuard,
}

impl Tunnel {
    /// Listens, at `port` if that is free. Nothing is asked of the machine yet.
    pub(super) async fn open(
        target: Target,
        listen: IpAddr,
        port: Option<u16>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> io::Result<Self> {
        let again = match port {
            Some(port) => TcpListener::bind((listen, port)).await.ok(),
            None => None,
        };
        let listener = match again {
            Some(listener) => listener,
            None => TcpListener::bind((listen, 0)).await?,
        };
        let address = listener.local_addr()?;
        let stop = stop.child_token();
        tasks.spawn(accept(listener, target, tasks.clone(), stop.clone()));
        Ok(Self { address, _closes: stop.drop_guard() })
    }

    /// The URL of the server behind it.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its port, to be asked for again after a restart.
    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }
}

async fn accept(listener: TcpListener, target: Target, tasks: TaskTracker, stop: CancellationToken) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let one = async {
            let permit = Arc::clone(&free).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = stop.cancelled() => return,
            one = one => one,
        };
        match accepted {
            Ok((stream, _)) => {
                let (target, stop) = (target.clone(), stop.clone());
                tasks.spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        ended = carry(stream, &target) => {
                            if let Err(error) = ended {
                                debug!(%error, "a connection through the tunnel broke");
                            }
                        }
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: that passes.
                warn!(%error, "the tunnel cannot accept");
                time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Opens the WebSocket. yagna answers 400 when nothing listens there.
pub(super) async fn connect(target: &Target) -> Result<Socket, tungstenite::Error> {
    let mut request = target.url.as_str().into_client_request()?;
    request.headers_mut().insert(AUTHORIZATION, target.key.clone());
    match time::timeout(OPEN_WITHIN, connect_async(request)).await {
        Ok(opened) => opened.map(|(socket, _)| socket),
        Err(_) => Err(tungstenite::Error::Io(io::ErrorKind::TimedOut.into())),
    }
}

/// Carries bytes until either side closes. A caller that closes its sending half is taken to be done.
async fn carry(mut stream: TcpStream, target: &Target) -> Result<(), tungstenite::Error> {
    let (mut send, mut receive) = connect(target).await?.split();
    stream.set_nodelay(true).map_err(tungstenite::Error::Io)?;
    let (mut read, mut write) = stream.split();
    let outward = async {
        let mut buffer = vec![0_u8; FRAME];
        let mut ping_at = Instant::now() + PING_EVERY;
        loop {
            tokio::select! {
                count = read.read(&mut buffer) => {
                    let count = count.map_err(tungstenite::Error::Io)?;
                    if count == 0 {
                        return send.close().await;
                    }
                    send.send(Message::Binary(Bytes::copy_from_slice(&buffer[..count]))).await?;
                }
                () = time::sleep_until(ping_at) => {
                    ping_at = Instant::now() + PING_EVERY;
                    send.send(Message::Ping(Bytes::new())).await?;
                }
            }
        }
    };
    let inward = async {
        loop {
            let Ok(message) = time::timeout(SILENCE, receive.next()).await else {
                return Err(tungstenite::Error::Io(io::ErrorKind::TimedOut.into()));
            };
            match message {
                Some(Ok(Message::Binary(bytes))) => {
                    write.write_all(&bytes).await.map_err(tungstenite::Error::Io)?;
                }
                Some(Ok(Message::Close(_))) | None => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
            }
        }
    };
    // Whichever ends first ends both.
    tokio::select! {
        ended = outward => ended,
        ended = inward => ended,
    }
}
