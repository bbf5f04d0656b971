// Parsers of texts: addresses, messages, descriptors and their signatures, policies, responses of
// HTTP servers. This file does not depend on wasmtime.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    str,
    sync::LazyLock,
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use protostub_bus::{Hop, Origin, Policy as _, Receiver};
use protostub_catalogue::trust::{MAX_LIFETIME, PublicKey, SigningKey, Statement, TrustPolicy, sign};
use protostub_egress::{
    Egress, EgressConfig, Grants, Http1, HttpLimits, HttpRequest, HttpTarget, Rule,
    reqwest::{Method, header::HeaderMap},
};
use protostub_policy::CedarPolicy;
use protostub_types::{
    Address, Descriptor, Domain, MAX_ADDRESS_BYTES, Message, MessageType, SourcePackage, StubKey, StubStatus, Version,
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};
use url::Url;

static HOME: LazyLock<Domain> = LazyLock::new(|| Domain::parse("home.example").expect("a domain"));

/// Reads an address and all other one-line texts: domains, egress rules, versions, URLs of
/// catalogues, statuses, message types.
pub fn address(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(address) = Address::parse(text) {
        assert!(address.as_str().len() <= MAX_ADDRESS_BYTES, "{address}");
        let again = Address::parse(address.as_str()).expect("a parsed address is read again");
        assert_eq!((again.as_str(), again.host()), (address.as_str(), address.host()));
        assert_eq!((again.scheme(), again.path()), (address.scheme(), address.path()), "{address}");
        assert!(address.is_within(&address));
        assert_eq!(address.domain().is_some(), !address.host().is_empty(), "{address}");
        if let Some(key) = StubKey::of(&address, &HOME) {
            let _ = (key.descriptor_name(), key.to_string(), address.is_of(key.domain()));
        }
        if let Ok(below) = address.join("status") {
            assert!(below.as_str().ends_with("/status"), "{below}");
        }
    }
    if let Ok(domain) = Domain::parse(text) {
        assert_eq!(Domain::parse(domain.as_str()).as_ref(), Ok(&domain));
        assert!(domain.is_within(&domain));
        let _ = (domain.ip(), domain.port(), domain.is_public_suffix(), domain.is_within(&HOME));
    }
    if let Some(key) = StubKey::of_catalogue_url(text) {
        let _ = (key.descriptor_name(), key.to_string());
    }
    if let Ok(rule) = text.parse::<Rule>() {
        assert_eq!(rule.to_string().parse::<Rule>().as_ref(), Ok(&rule));
    }
    if let Ok(version) = Version::parse(text) {
        let again = Version::parse(version.as_str()).expect("a parsed version is read again");
        assert_eq!(again.cmp(&version), std::cmp::Ordering::Equal, "{version:?}");
    }
    let _ = (text.parse::<StubStatus>(), text.parse::<MessageType>());
}

/// Reads a message as JSON, as it comes from stubs with text wires, message nodes and the control
/// socket.
pub fn message(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Ok(messages) = Message::from_json(text) else { return };
    assert!(!messages.is_empty());
    for message in messages {
        message.check_limits().expect("a parsed message keeps the limits");
        let _ = (message.size(), message.code(), message.is_provisional(), message.expects_response(), message.id.canonical());
        let json = message.to_json().expect("a parsed message is written");
        let again = Message::from_json(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
        let [again] = again.as_slice() else { panic!("{json}") };
        assert_eq!(again.to_json().ok().as_deref(), Some(json.as_str()));
        let phase1 = message.to_phase1_json().expect("a parsed message is written");
        Message::from_json(&phase1).unwrap_or_else(|error| panic!("{error}: {phase1}"));
        message.response(200, None).check_limits().expect("a response keeps the limits");
        message.error_response(500, text).to_json().expect("an error is written");
    }
}

/// Reads a descriptor from a catalogue, with the package that it may contain.
pub fn descriptor(data: &[u8]) {
    if let Ok(descriptor) = Descriptor::parse(data) {
        let _ = (descriptor.check_deployable(), descriptor.digest(), descriptor.size());
        let base = Url::parse("https://sp1.example/.well-known/protostub/default").expect("a URL");
        let _ = descriptor.source_location(&base);
        if let Some(package) = &descriptor.source_package {
            decode(package, data.len());
        }
        let json = descriptor.to_json();
        let again = Descriptor::parse(json.as_bytes()).unwrap_or_else(|error| panic!("{error}: {json}"));
        assert_eq!(again, descriptor);
    }
    if let Ok(package) = SourcePackage::parse(data) {
        decode(&package, data.len());
    }
}

fn decode(package: &SourcePackage, bytes: usize) {
    if let Ok(code) = package.decode() {
        assert!(code.len() <= bytes, "{} bytes of code in {bytes}", code.len());
    }
}

/// A signed descriptor with trusted keys.
struct Signed {
    key: SigningKey,
    /// Another key, which claims the same id.
    stranger: SigningKey,
    statement: Statement,
    /// The signed content.
    content: Descriptor,
    /// The signed content with its signature.
    json: String,
    signature: String,
}

static SIGNED: LazyLock<Signed> = LazyLock::new(|| {
    // Test keys: only this code trusts them.
    let key = |secret: &str| {
        let pem = format!("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEI{secret}\n-----END PRIVATE KEY-----\n");
        SigningKey::from_pem(pem.as_bytes(), Some("2026".to_owned())).expect("a key")
    };
    let mut content = Descriptor::new("default", Version::parse("1.0").expect("a version"));
    content.refer("component.wasm", b"\0asm");
    content.ports = vec![9000];
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let issued = UNIX_EPOCH + Duration::from_secs(now - 1);
    let statement = Statement {
        domain: HOME.clone(),
        names: vec!["default".to_owned()],
        contract: Some("0.1".to_owned()),
        issued,
        expires: issued + MAX_LIFETIME,
    };
    let key = [key("HA7SKVirAD/jQ70oHBIhYRPQdFZciytORQC/zdblx4p"), key("AABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f")];
    let [key, stranger] = key;
    let mut signed = content.clone();
    sign(&mut signed, &statement, &key).expect("a signature");
    let (json, signature) = (signed.to_json(), signed.signatures.remove(0));
    let stage = Signed { key, stranger, statement, content, json, signature };
    stage.believes(stage.json.as_bytes(), &HOME, "default").expect("a good signature");
    stage
});

/// Reads signatures of descriptors, and the keys that verify them. Only signed content is accepted:
/// even a small change makes it invalid.
pub fn jws(data: &[u8]) {
    for key in PublicKey::read_set(data).unwrap_or_default() {
        let again = PublicKey::read_set(key.to_jwk().to_string().as_bytes()).expect("a parsed key is read again");
        assert_eq!(again, [key]);
    }
    let stage = &*SIGNED;
    // Judges a descriptor, an edited signed descriptor, and the signed descriptor with its
    // signature, or one part of the signature, replaced.
    stage.judge(data);
    stage.judge(&edited(stage.json.as_bytes(), data));
    let parts: Vec<&str> = stage.signature.split('.').collect();
    let encoded = URL_SAFE_NO_PAD.encode(data);
    let replaced = |part: usize| {
        let mut parts = parts.clone();
        parts[part] = &encoded;
        parts.join(".")
    };
    let edited = String::from_utf8_lossy(&edited(stage.signature.as_bytes(), data)).into_owned();
    for signature in [String::from_utf8_lossy(data).into_owned(), edited, replaced(0), replaced(1), replaced(2)] {
        let mut descriptor = stage.content.clone();
        descriptor.signatures.push(signature);
        if stage.believes(descriptor.to_json().as_bytes(), &HOME, "default").is_some() {
            assert_eq!(descriptor.signatures, [stage.signature.as_str()]);
        }
    }
    stage.signs(data);
    stage.judges_times(data);
}

impl Signed {
    /// Returns the descriptor if its signature is accepted.
    fn believes(&self, json: &[u8], domain: &Domain, name: &str) -> Option<Descriptor> {
        let mut trust = TrustPolicy::default();
        trust.keys.push(self.key.public().clone());
        let (signed, descriptor) = trust.verify(json, domain, Some(name), &[]).ok()?;
        assert_eq!((&signed.key, &signed.statement), (self.key.public(), &self.statement));
        Some(descriptor)
    }

    /// Checks that accepted content is the signed content.
    fn judge(&self, json: &[u8]) {
        let Some(mut descriptor) = self.believes(json, &HOME, "default") else { return };
        let published: Value =
            serde_json::from_slice(json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json)).expect("the descriptor is JSON");
        assert_eq!(signed_part(published), signed_part(serde_json::from_str(&self.json).expect("the signed descriptor is JSON")));
        if let Some(package) = &mut descriptor.source_package {
            package.source_code = None;
        }
        assert_eq!(descriptor, self.content);
    }

    /// Signs with any two times, `iat` and `exp`. An accepted signature keeps the limits.
    fn judges_times(&self, data: &[u8]) {
        let seconds = |bytes: &[u8]| bytes.try_into().map(u64::from_be_bytes).ok();
        let Some((issued, expires)) =
            data.split_at_checked(8).and_then(|(iat, exp)| Some((seconds(iat)?, seconds(exp.get(..8)?)?)))
        else {
            return;
        };
        let time = |seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        let (Some(issued), Some(expires)) = (time(issued), time(expires)) else { return };
        let mut descriptor = self.content.clone();
        let statement = Statement { issued, expires, ..self.statement.clone() };
        sign(&mut descriptor, &statement, &self.key).expect("a signature");
        let mut trust = TrustPolicy::default();
        trust.keys.push(self.key.public().clone());
        match trust.verify(descriptor.to_json().as_bytes(), &HOME, Some("default"), &[]) {
            Err(error) => assert!(!error.to_string().is_empty()),
            Ok((signed, _)) => {
                assert_eq!(signed.statement, statement);
                let lifetime = expires.duration_since(issued).expect("the signature has not expired");
                assert!(lifetime <= MAX_LIFETIME && expires > UNIX_EPOCH, "{lifetime:?}");
            }
        }
    }

    /// Checks that any descriptor can be signed, and is accepted only for this domain, name and
    /// key.
    fn signs(&self, data: &[u8]) {
        let Ok(mut descriptor) = Descriptor::parse(data) else { return };
        descriptor.signatures.clear();
        let mut other = descriptor.clone();
        if sign(&mut descriptor, &self.statement, &self.key).is_err() {
            return;
        }
        let json = descriptor.to_json();
        assert!(self.believes(json.as_bytes(), &HOME, "default").is_some(), "{json}");
        assert!(self.believes(json.as_bytes(), &HOME, "other").is_none(), "{json}");
        let elsewhere = Domain::parse("sp1.example").expect("a domain");
        assert!(self.believes(json.as_bytes(), &elsewhere, "default").is_none(), "{json}");
        sign(&mut other, &self.statement, &self.stranger).expect("the other one was signed");
        let json = other.to_json();
        assert!(self.believes(json.as_bytes(), &HOME, "default").is_none(), "{json}");
    }
}

/// Returns the content that a signature must cover: all but the signatures and the code, which its
/// digest represents. It is written independently of the code that it checks.
fn signed_part(mut descriptor: Value) -> Value {
    if let Some(members) = descriptor.as_object_mut() {
        members.remove("signatures");
        if let Some(package) = members.get_mut("sourcePackage").and_then(Value::as_object_mut) {
            package.remove("sourceCode");
        }
    }
    descriptor
}

/// Changes some bytes. Of each four bytes, two are the position, one the kind of the change, and
/// one the new byte.
fn edited(text: &[u8], edits: &[u8]) -> Vec<u8> {
    let mut text = text.to_vec();
    for edit in edits.chunks_exact(4) {
        let at = usize::from(u16::from_be_bytes([edit[0], edit[1]])) % text.len().max(1);
        match edit[2] % 3 {
            0 if at < text.len() => text[at] = edit[3],
            1 if at < text.len() => drop(text.remove(at)),
            _ => text.insert(at, edit[3]),
        }
    }
    text
}

/// Reads an operator's rules, and applies them to a message.
pub fn policy(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    match CedarPolicy::parse("operator.cedar", text) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(policy) => {
            let message = Message::read("hyperty://sp1.example/alice".parse().unwrap()).with_body("hello".into());
            let hop = Hop::new(&Origin::Host, &message, Receiver::Listener, &HOME);
            let _ = (policy.decide(&hop), policy.warnings().len());
        }
    }
}

/// Time for reading the answers of a server that never waits.
const PATIENCE: Duration = Duration::from_secs(20);
/// Maximum number of requests over one connection.
const REQUESTS: usize = 3;

/// Reads responses of an HTTP server, as exchanges of stubs do. The first byte selects the method
/// and the size of the pieces in which they come.
pub fn http(data: &[u8]) {
    let Some((first, answers)) = data.split_first() else { return };
    let method = if first % 2 == 0 { Method::GET } else { Method::HEAD };
    let server = Server { answers: answers.to_vec(), sent: 0, piece: usize::from(*first / 2) + 1 };
    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let exchanges = async { timeout(PATIENCE, exchanges(server, &method)).await.expect("every exchange has an outcome") };
    tokio.block_on(exchanges);
}

async fn exchanges(server: Server, method: &Method) {
    let (limits, bytes) = (HttpLimits::default(), server.answers.len());
    let mut connection = Some(Http1::new(server, limits).await.expect("a connection"));
    for _ in 0..REQUESTS {
        let Some(http) = connection.take() else { return };
        match http.exchange(http_request(method)).await {
            Ok((head, mut body)) => {
                let size: usize = head.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
                assert!(size <= limits.head_bytes && head.headers().len() <= limits.fields, "{head:?}");
                let mut received = 0;
                while let Some(piece) = poll_fn(|cx| body.poll_data(cx)).await {
                    match piece {
                        Ok(piece) => received += piece.len(),
                        Err(error) => assert!(!error.to_string().is_empty()),
                    }
                }
                assert!(received <= bytes, "{received} bytes of {bytes}");
                connection = body.into_idle();
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

fn http_request(method: &Method) -> HttpRequest {
    static WAY: LazyLock<(Egress, HttpTarget)> = LazyLock::new(|| {
        let egress = Egress::new(EgressConfig::default().without_webpki_roots()).expect("an egress");
        let url = Url::parse("https://sp1.example/").expect("a URL");
        let grants = Grants::same_domain(&Domain::parse("sp1.example").expect("a domain"), &[]);
        (egress, HttpTarget::new(&grants, &url).expect("a granted URL"))
    });
    let (egress, target) = &*WAY;
    egress.http_request(target, method.clone(), HeaderMap::new(), "".into()).expect("a request")
}

/// A server in memory that sends its answers without reading requests, and then ends the
/// connection.
struct Server {
    answers: Vec<u8>,
    sent: usize,
    piece: usize,
}

impl AsyncRead for Server {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let rest = &self.answers[self.sent..];
        let size = rest.len().min(self.piece).min(buffer.remaining());
        buffer.put_slice(&rest[..size]);
        self.sent += size;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Server {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
