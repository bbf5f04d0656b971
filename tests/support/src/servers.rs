use protostub_runtime::Domain;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::domain;

/// Starts an HTTP server on loopback, and returns its domain. It answers each path with exactly these bytes, and then
/// closes the connection.
///
/// # Panics
/// If no port is free.
pub async fn serve(pages: Vec<(&'static str, Vec<u8>)>) -> Domain {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let domain = domain(&listener.local_addr().expect("an address").to_string());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let pages = pages.clone();
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => request.push(byte),
                        Err(_) => return,
                    }
                }
                let request = String::from_utf8_lossy(&request);
                let path = request.split(' ').nth(1).unwrap_or_default();
                let answer = pages.iter().find(|(page, _)| *page == path).map_or_else(not_found, |(_, answer)| answer.clone());
                let _ = stream.write_all(&answer).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    domain
}

/// Returns a response with code 404.
#[must_use]
pub fn not_found() -> Vec<u8> {
    answer("404 Not Found", "text/plain", b"no such page")
}

/// Returns a response with code 200.
#[must_use]
pub fn ok(media_type: &str, body: &[u8]) -> Vec<u8> {
    answer("200 OK", media_type, body)
}

/// Returns an HTTP response.
#[must_use]
pub fn answer(status: &str, media_type: &str, body: &[u8]) -> Vec<u8> {
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-type: {media_type}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}
