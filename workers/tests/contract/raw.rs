//! A server that answers byte by byte as a test says, for what no well-behaved server does.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// One answer, in the pieces it is written in.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pieces: Vec<Vec<u8>>,
    close: bool,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Counted from 0.
    pub(crate) connection: usize,
    /// Request line and headers.
    pub(crate) head: String,
    pub(crate) body: serde_json::Value,
}

/// Gives its replies in order, over as many connections as it takes, and then nothing more.
pub(crate) struct RawServer {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    _tasks: JoinSet<()>,
}

impl Reply {
    /// Exactly this, in one piece.
    pub(crate) fn text(text: &str) -> Self {
        Self { pieces: vec![text.as_bytes().to_vec()], close: false }
    }

    pub(crate) fn json(status: &str, body: &str) -> Self {
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}");
        Self::text(&format!("{head}\r\n\r\n{body}"))
    }

    /// A body with status 200 under any content type, or none, in pieces of so many bytes.
    pub(crate) fn body(content_type: Option<&str>, body: &[u8], piece: usize) -> Self {
        let label = content_type.map(|label| format!("content-type: {label}\r\n")).unwrap_or_default();
        let head = format!("HTTP/1.1 200 OK\r\n{label}content-length: {}\r\n\r\n", body.len());
        let pieces = std::iter::once(head.into_bytes()).chain(body.chunks(piece).map(<[u8]>::to_vec));
        Self { pieces: pieces.collect(), close: false }
    }

    /// A chunked stream of events; each piece of the body is a chunk and a write of its own.
    pub(crate) fn stream<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let chunk = |piece: &[u8]| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
        let mut all = vec![head.as_bytes().to_vec()];
        all.extend(pieces.into_iter().filter(|piece| !piece.is_empty()).map(chunk));
        all.push(b"0\r\n\r\n".to_vec());
        Self { pieces: all, close: false }
    }

    /// The same, and the connection is closed when it is written; without its end if that is cut off.
    pub(crate) fn then_close(mut self, without_end: bool) -> Self {
        if without_end {
            self.pieces.pop();
        }
        self.close = true;
        self
    }
}

impl RawServer {
    pub(crate) async fn start(replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, replies, Arc::clone(&requests)));
        Self { address, requests, _tasks: tasks }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

async fn serve(listener: TcpListener, replies: Vec<Reply>, requests: Arc<Mutex<Vec<Request>>>) {
    let mut replies = replies.into_iter();
    let mut next = replies.next();
    for connection in 0.. {
        let Ok((mut stream, _)) = listener.accept().await else { return };
        let _ = stream.set_nodelay(true);
        while let Some((head, body)) = read(&mut stream).await {
            requests.lock().unwrap().push(Request { connection, head, body });
            let Some(reply) = next.take() else { return };
            next = replies.next();
            for piece in &reply.pieces {
                if stream.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            if reply.close {
                break;
            }
        }
    }
}

/// One request; `None` when the client has closed.
async fn read(stream: &mut TcpStream) -> Option<(String, serde_json::Value)> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    while bytes.len() < end + length.unwrap_or(0) {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    Some((head, serde_json::from_slice(&bytes[end..]).unwrap_or_default()))
}
