//! Webhooks go out through here: a POST written by hand over a plain connection, so that the simulators need no HTTP
//! client. The real platforms send over HTTPS; these send over HTTP only. Redirects are not followed.

use std::io;

use axum::http::Uri;
use bytes::Bytes;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

/// Posts a JSON body; `headers` are whole lines. Gives the status of the answer.
pub(crate) async fn post(url: &Uri, headers: &str, body: &Bytes) -> io::Result<u16> {
    let Some(host) = url.host().filter(|_| url.scheme_str() == Some("http")) else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {authority}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         {headers}connection: close\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect((host, url.port_u16().unwrap_or(80))).await?;
    stream.write_all(&[head.as_bytes(), body].concat()).await?;
    let mut line = String::new();
    // A status line is short; whoever sends more is no HTTP server.
    BufReader::new(stream).take(1_024).read_line(&mut line).await?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| io::ErrorKind::InvalidData.into())
}
