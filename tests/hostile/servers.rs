//! Malicious servers on loopback.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, LazyLock},
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, DnValue, IsCa, KeyPair,
    PKCS_ECDSA_P384_SHA384, string::PrintableString,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer},
    },
};

/// Behaviour of a server on a connection.
pub type Behaviour = fn(TcpStream) -> Served;

/// A connection until its end.
pub type Served = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// Pause of a dribbling server before each byte.
const DRIBBLE: Duration = Duration::from_millis(200);

/// A server on loopback. `Drop` ends it.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Starts a server on a free port.
    ///
    /// # Errors
    /// If there is no free port.
    pub async fn start(behaviour: Behaviour) -> io::Result<Self> {
        let elsewhere = elsewhere()?;
        let listener = elsewhere.spawn(TcpListener::bind("127.0.0.1:0")).await??;
        let address = listener.local_addr()?;
        let task = elsewhere.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                connections.spawn(behaviour(stream));
            }
        });
        Ok(Self { address, task })
    }

    /// Returns the server's domain, for example `127.0.0.1:8080`.
    #[must_use]
    pub fn domain(&self) -> String {
        self.address.to_string()
    }

    /// Returns the server's port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns a runtime with its own thread. Hostile servers must reach their victims over the network
/// only, and not by load on the victims' threads.
fn elsewhere() -> io::Result<&'static Runtime> {
    static THREAD: LazyLock<io::Result<Runtime>> =
        LazyLock::new(|| Builder::new_multi_thread().worker_threads(1).thread_name("hostile-servers").enable_all().build());
    THREAD.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))
}

async fn request(stream: &mut TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(())
}

/// Writes the same bytes again and again while the client reads.
async fn again_and_again(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    loop {
        stream.write_all(bytes).await?;
    }
}

async fn dribble(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    loop {
        for byte in bytes {
            tokio::time::sleep(DRIBBLE).await;
            stream.write_u8(*byte).await?;
        }
    }
}

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n";

/// Accepts, and sends nothing.
pub(crate) fn says_nothing(mut stream: TcpStream) -> Served {
    Box::pin(async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.map(drop) })
}

/// Sends a descriptor, or a response to a stub, that never ends.
pub(crate) fn endless_body(mut stream: TcpStream) -> Served {
    Box::pin(async move {
        request(&mut stream).await?;
        stream.write_all(HEAD).await?;
        again_and_again(&mut stream, &[b' '; 1 << 16]).await
    })
}

/// Sends a descriptor one byte after the other.
pub(crate) fn dribbles_body(mut stream: TcpStream) -> Served {
    Box::pin(async move {
        request(&mut stream).await?;
        stream.write_all(HEAD).await?;
        dribble(&mut stream, b" ").await
    })
}

/// Sends the head of a response one byte after the other.
pub(crate) fn dribbles_head(mut stream: TcpStream) -> Served {
    Box::pin(async move {
        request(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
        dribble(&mut stream, b"x-more: and more\r\n").await
    })
}

/// Sends an endless head, as fast as the client reads.
pub(crate) fn endless_head(mut stream: TcpStream) -> Served {
    Box::pin(async move {
        request(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nx-more: ").await?;
        again_and_again(&mut stream, &[b'x'; 1 << 16]).await
    })
}

/// Sends endless informational responses.
pub(crate) fn endless_informational(mut stream: TcpStream) -> Served {
    Box::pin(async move {
        request(&mut stream).await?;
        again_and_again(&mut stream, &b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(2_400)).await
    })
}

/// Answers each request, and keeps the connection for the next one.
pub(crate) fn keeps_connections(mut stream: TcpStream) -> Served {
    Box::pin(async move {
        loop {
            request(&mut stream).await?;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
        }
    })
}

/// Sends 200 KiB that unpack to 32 MB.
pub(crate) fn gzip_bomb(mut stream: TcpStream) -> Served {
    Box::pin(async move {
        request(&mut stream).await?;
        let bomb = bomb(200 << 10);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", bomb.len());
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&bomb).await
    })
}

/// Issues tokens as many authorization servers do: for the scope of the request, or for all of the
/// client's scopes if the request has none.
pub(crate) fn issues_tokens(mut stream: TcpStream) -> Served {
    Box::pin(async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        let mut body = vec![0; length.unwrap_or_default()];
        stream.read_exact(&mut body).await?;
        let body = String::from_utf8_lossy(&body);
        let scope = body.split('&').find_map(|parameter| parameter.strip_prefix("scope=")).unwrap_or("everything");
        let answer = format!(r#"{{"access_token": "token-for-{scope}", "token_type": "bearer", "expires_in": 3600}}"#);
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n";
        stream.write_all(format!("{head}content-length: {}\r\n\r\n{answer}", answer.len()).as_bytes()).await
    })
}

/// Returns gzip of spaces: one literal, followed by many copies of 258 bytes from a distance of one
/// byte. The encoding has fixed codes, from the low bit on (RFC 1951).
///
/// A length and a distance together have 13 bits, so the same 13 bytes repeat, and the computation
/// is cheap. The server's time must not count as the victim's.
fn bomb(bytes: usize) -> Vec<u8> {
    let mut bits = vec![true, true, false];
    let mut push = |code: u16, length: u32| bits.extend((0..length).rev().map(|bit| (code >> bit) & 1 == 1));
    push(0x30 + u16::from(b' '), 8);
    for _ in 0..16 {
        push(0b1100_0101, 8);
        push(0, 5);
    }
    push(0, 7);
    let packed: Vec<u8> =
        bits.chunks(8).map(|bits| bits.iter().rev().fold(0, |byte, bit| (byte << 1) | u8::from(*bit))).collect();
    // 11 bits come before the first copy.
    let (begin, end) = packed.split_at(2);
    [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255], begin, &end[..13].repeat(bytes / 13), end].concat()
}

/// Sends a descriptor of 10⁶ nested arrays.
pub(crate) fn nested_arrays(mut stream: TcpStream) -> Served {
    Box::pin(async move {
        request(&mut stream).await?;
        stream.write_all(HEAD).await?;
        stream.write_all(br#"{"objectName": "default", "configuration": "#).await?;
        stream.write_all(&[b'['; 1_000_000]).await
    })
}

/// Redirects every URL to itself.
pub(crate) fn redirects_in_circle(stream: TcpStream) -> Served {
    redirect(stream, "/.well-known/protostub/default")
}

/// Redirects to a cloud's metadata service.
pub(crate) fn redirects_to_metadata(stream: TcpStream) -> Served {
    redirect(stream, "http://169.254.169.254/latest/meta-data/")
}

fn redirect(mut stream: TcpStream, to: &'static str) -> Served {
    Box::pin(async move {
        request(&mut stream).await?;
        let head = format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await
    })
}

/// Does a WebSocket handshake without extensions or protocols.
async fn upgrade(mut stream: TcpStream) -> io::Result<TcpStream> {
    let accepted = tokio_tungstenite::accept_async(&mut stream).await.map_err(io::Error::other);
    accepted.map(drop)?;
    Ok(stream)
}

/// Sends a frame that declares 2⁶² bytes.
pub(crate) fn endless_frame(stream: TcpStream) -> Served {
    Box::pin(async move {
        let mut stream = upgrade(stream).await?;
        stream.write_all(&[0x82, 127, 0x40, 0, 0, 0, 0, 0, 0, 0]).await?;
        again_and_again(&mut stream, &[0; 1 << 16]).await
    })
}

/// Sends a message in fragments, without a last one.
pub(crate) fn endless_fragments(stream: TcpStream) -> Served {
    Box::pin(async move {
        let mut stream = upgrade(stream).await?;
        stream.write_all(&[0x02, 0]).await?;
        let fragment = [&[0x00, 126, 0xff, 0xff][..], &[0; 0xffff]].concat();
        again_and_again(&mut stream, &fragment).await
    })
}

/// Sends as many pings as the client reads.
pub(crate) fn floods_pings(stream: TcpStream) -> Served {
    Box::pin(async move {
        let stream = upgrade(stream).await?;
        let (mut read, mut write) = stream.into_split();
        let pings = [&[0x89, 125][..], &[b'p'; 125]].concat().repeat(512);
        let pongs = tokio::spawn(async move { tokio::io::copy(&mut read, &mut tokio::io::sink()).await });
        let result = loop {
            if let Err(error) = write.write_all(&pings).await {
                break Err(error);
            }
        };
        pongs.abort();
        result
    })
}

/// Does the handshake, and reads all frames.
pub(crate) fn swallows_frames(stream: TcpStream) -> Served {
    Box::pin(async move {
        let mut stream = upgrade(stream).await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.map(drop)
    })
}

/// Sends a hundred intermediates that all claim a root of the web as their issuer.
pub(crate) fn long_chain(stream: TcpStream) -> Served {
    static CHAIN: LazyLock<io::Result<TlsAcceptor>> = LazyLock::new(|| {
        let root = authority("ISRG Root X2", None)?;
        chained((0..100).map(|_| authority("m", Some(&root))).collect::<io::Result<_>>()?, &authority("m", Some(&root))?)
    });
    chain(stream, &CHAIN)
}

/// Sends ten intermediates, each of which is a possible issuer of each other.
pub(crate) fn winding_chain(stream: TcpStream) -> Served {
    static CHAIN: LazyLock<io::Result<TlsAcceptor>> = LazyLock::new(|| {
        let issuer = authority("m", None)?;
        chained((0..9).map(|_| authority("m", Some(&issuer))).collect::<io::Result<_>>()?, &issuer)
    });
    chain(stream, &CHAIN)
}

fn chain(stream: TcpStream, acceptor: &'static io::Result<TlsAcceptor>) -> Served {
    Box::pin(async move {
        let acceptor = acceptor.as_ref().map_err(|error| io::Error::other(error.to_string()))?;
        acceptor.accept(stream).await?.read_u8().await.map(drop)
    })
}

/// Returns an authority of this name, with a P-384 key, which is slow to verify.
fn authority(name: &str, issuer: Option<&Authority>) -> io::Result<Authority> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).map_err(io::Error::other)?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = DistinguishedName::new();
    if name.contains(' ') {
        // The exact name of the real root.
        let text = |text: &str| PrintableString::try_from(text).map(DnValue::PrintableString).map_err(io::Error::other);
        params.distinguished_name.push(DnType::CountryName, text("US")?);
        params.distinguished_name.push(DnType::OrganizationName, text("Internet Security Research Group")?);
        params.distinguished_name.push(DnType::CommonName, text(name)?);
    } else {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    let certified = match issuer {
        Some(issuer) => CertifiedIssuer::signed_by(params, key, issuer),
        None => CertifiedIssuer::self_signed(params, key),
    };
    certified.map_err(io::Error::other)
}

type Authority = CertifiedIssuer<'static, KeyPair>;

/// Returns an acceptor with a certificate of this issuer, followed by the intermediates.
fn chained(intermediates: Vec<Authority>, issuer: &Authority) -> io::Result<TlsAcceptor> {
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).map_err(io::Error::other)?;
    let leaf = params.signed_by(&key, issuer).map_err(io::Error::other)?;
    let chain = [leaf.der().clone()].into_iter().chain(intermediates.iter().map(|authority| authority.der().clone()));
    let chain = chain.chain([issuer.der().clone()]).collect();
    serving(chain, &key)
}

fn serving(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> io::Result<TlsAcceptor> {
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(io::Error::other)?;
    let config = ServerConfig::builder_with_provider(Arc::new(tokio_rustls::rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
        .map_err(io::Error::other)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Presents a self-signed certificate for another name.
pub(crate) fn wrong_certificate(stream: TcpStream) -> Served {
    Box::pin(async move {
        let certified = rcgen::generate_simple_self_signed(["bank.example".to_owned()]).map_err(io::Error::other)?;
        let acceptor = serving(vec![certified.cert.der().clone()], &certified.signing_key)?;
        let mut stream = acceptor.accept(stream).await?;
        stream.read_u8().await.map(drop)
    })
}
