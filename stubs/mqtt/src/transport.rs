use protostub_sdk::{
    Result,
    tcp::{self, TcpStream},
    websocket::{self, Frame, WebSocket},
};

use crate::config::Url;

/// Size of a WebSocket frame. A packet may begin and end anywhere in the frames, so a large packet
/// need not wait for a large piece of room.
const FRAME_BYTES: usize = 256 * 1024;

/// A stream of bytes to the broker.
pub(crate) enum Transport {
    WebSocket(WebSocket),
    Tcp(TcpStream),
}

impl Transport {
    pub(crate) async fn open(url: &Url) -> Result<Self> {
        Ok(match url {
            Url::WebSocket(url) => Self::WebSocket(websocket::Connect::new(url).protocol("mqtt").open().await?),
            Url::Tcp { host, port, tls: true } => Self::Tcp(tcp::connect(host, *port).await?),
            Url::Tcp { host, port, tls: false } => Self::Tcp(tcp::connect_plain(host, *port).await?),
        })
    }

    /// Returns the bytes that arrived, or `None` if the broker has closed the connection. The
    /// future loses nothing when it is dropped.
    pub(crate) async fn read(&self) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Tcp(stream) => stream.read().await,
            Self::WebSocket(socket) => Ok(Some(match socket.next().await? {
                Frame::Binary(bytes) => bytes,
                Frame::Text(text) => text.into_bytes(),
            })),
        }
    }

    pub(crate) async fn write(&self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes).await,
            Self::WebSocket(socket) => socket.send_all(bytes.chunks(FRAME_BYTES).map(|part| Frame::Binary(part.to_vec()))).await,
        }
    }
}
