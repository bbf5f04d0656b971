//! Opens connections to granted hosts and ports.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use protostub_types::{SafeText, await_hook};
use rustls::ClientConfig;
use url::Url;

use crate::{
    connect::{Connection, Deadline, Stream},
    error::{EgressError, Phase},
    grants::{Explanation, Grants},
    handshakes::Handshakes,
    host::Host,
    protection::Protection,
    proxy::Proxy,
    quota::{Budget, Quota, QuotaLimits, max_sockets},
    resolve::{MAX_ADDRESSES, Resolver, SystemResolver},
    tls,
};

/// Configuration of an [`Egress`]. The environment is not read.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EgressConfig {
    /// Additional certificate authorities. Each text has at least one certificate in PEM.
    pub extra_roots_pem: Vec<Vec<u8>>,
    /// Trust in the certificate authorities of the web (Mozilla's list). Default: yes.
    pub webpki_roots: bool,
    /// An HTTP proxy for everything except loopback: `http://` or `https://`, with a user and
    /// password if the proxy requires them. The proxy resolves the names, so the egress cannot
    /// judge their addresses. The proxy itself must refuse private addresses.
    pub proxy: Option<Url>,
    /// Timeout from resolving a name to the end of the TLS handshake. Default: 15 s.
    pub connect_timeout: Duration,
    /// Maximum silence of an HTTP server, before the head of a response or within its body.
    /// Default: 60 s.
    pub read_timeout: Duration,
    /// Replaces the operating system's resolver.
    pub resolver: Option<Arc<dyn Resolver>>,
    /// Maximum number of sockets of all parties together, at least 8. An eighth of them (at most
    /// 128) is reserved for the host itself. Default: the process's soft limit on descriptors, less
    /// a quarter (64 to 1024) for files, the control socket and the host program.
    pub max_sockets: Option<usize>,
}

impl EgressConfig {
    /// Trusts additional certificate authorities. Each text has at least one certificate in PEM.
    #[must_use]
    pub fn with_extra_roots_pem(mut self, roots: impl IntoIterator<Item = Vec<u8>>) -> Self {
        self.extra_roots_pem.extend(roots);
        self
    }

    /// Distrusts all certificate authorities of the web.
    #[must_use]
    pub fn without_webpki_roots(mut self) -> Self {
        self.webpki_roots = false;
        self
    }

    /// Sets [`Self::proxy`].
    #[must_use]
    pub fn with_proxy(mut self, proxy: Url) -> Self {
        self.proxy = Some(proxy);
        self
    }

    /// Sets [`Self::connect_timeout`].
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets [`Self::resolver`].
    #[must_use]
    pub fn with_resolver(mut self, resolver: Arc<dyn Resolver>) -> Self {
        self.resolver = Some(resolver);
        self
    }

    /// Sets [`Self::max_sockets`].
    #[must_use]
    pub fn with_max_sockets(mut self, sockets: usize) -> Self {
        self.max_sockets = Some(sockets);
        self
    }

    /// Checks [`Self::proxy`].
    ///
    /// # Errors
    /// [`EgressError::Config`] if the URL is not that of an HTTP proxy.
    pub fn check_proxy(&self) -> Result<(), EgressError> {
        self.proxy.as_ref().map(Proxy::new).transpose().map(drop)
    }

    /// Checks [`Self::max_sockets`].
    ///
    /// # Errors
    /// [`EgressError::Config`] if a stub needs more sockets, or the process has fewer descriptors.
    pub fn check_max_sockets(&self) -> Result<(), EgressError> {
        max_sockets(self.max_sockets).map(drop)
    }
}

impl Default for EgressConfig {
    fn default() -> Self {
        Self {
            extra_roots_pem: Vec::new(),
            webpki_roots: true,
            proxy: None,
            connect_timeout: Duration::from_secs(15),
            read_timeout: Duration::from_secs(60),
            resolver: None,
            max_sockets: None,
        }
    }
}

/// The only way out of a runtime. Clones share one egress.
///
/// ```no_run
/// use protostub_egress::{Egress, EgressConfig, Grants, Protection, QuotaLimits};
/// use protostub_types::Domain;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let egress = Egress::new(EgressConfig::default())?;
/// let grants = Grants::same_domain(&Domain::parse("sp1.example")?, &[]);
/// let quota = egress.quota(QuotaLimits::default());
/// let (host, port) = ("mqtt.sp1.example", 8883);
/// let connection =
///     egress.connect(&grants, &quota, host, port, Protection::Tls, &[b"mqtt"]).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Egress(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    /// Configuration without ALPN.
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) proxy: Option<Proxy>,
    pub(crate) connect_timeout: Duration,
    pub(crate) read_timeout: Duration,
    resolver: Arc<dyn Resolver>,
    handshakes: Handshakes,
    budget: Arc<Budget>,
    pub(crate) own: Quota,
}

impl Egress {
    /// Creates an egress. Does no I/O.
    ///
    /// # Errors
    /// [`EgressError::Config`] if a root is not a certificate, the proxy's URL is invalid, or
    /// `max_sockets` exceeds the descriptors of the process.
    pub fn new(config: EgressConfig) -> Result<Self, EgressError> {
        let budget = Budget::new(max_sockets(config.max_sockets)?);
        Ok(Self(Arc::new(Shared {
            own: Quota::own(&budget),
            budget,
            handshakes: Handshakes::new(),
            tls: Arc::new(tls::client_config(config.webpki_roots, &config.extra_roots_pem)?),
            proxy: config.proxy.as_ref().map(Proxy::new).transpose()?,
            connect_timeout: config.connect_timeout,
            read_timeout: config.read_timeout,
            resolver: config.resolver.unwrap_or_else(|| Arc::new(SystemResolver::new())),
        })))
    }

    /// Opens an account for one party, for example a stub. Its sockets count towards
    /// [`EgressConfig::max_sockets`], of which a party never gets all: it may hold as many as are
    /// left.
    #[must_use]
    pub fn quota(&self, limits: QuotaLimits) -> Quota {
        Quota::new(&self.0.budget, limits)
    }

    /// The host's own account, for the catalogue and token endpoints. It has a reserve of sockets
    /// and look-ups that stubs cannot use.
    #[must_use]
    pub fn own(&self) -> &Quota {
        &self.0.own
    }

    /// Opens a connection to a host (a name, or an address with or without brackets).
    ///
    /// Checks the grants, charges the quota, resolves the name, judges every address, and dials
    /// those that the grants admit. With [`Protection::Tls`], does the TLS handshake and offers the
    /// protocols of `alpn`. The socket is charged to the quota until it is closed.
    ///
    /// # Errors
    /// * [`Refused`](EgressError::Refused) by the grants, for the name or its addresses.
    /// * [`Limit`](EgressError::Limit) by the quota or the budget.
    /// * [`Invalid`](EgressError::Invalid) if the host cannot be parsed.
    /// * Otherwise the failure.
    pub async fn connect(
        &self,
        grants: &Grants,
        quota: &Quota,
        host: &str,
        port: u16,
        protection: Protection,
        alpn: &[&[u8]],
    ) -> Result<Connection, EgressError> {
        let host = Host::parse(host).map_err(|problem| EgressError::invalid(host, problem))?;
        grants.check_host(&host, port, protection)?;
        let deadline = Deadline::new(host.with_port(port), self.0.connect_timeout);
        deadline.attempt(quota)?;
        let stream = match self.0.proxy_for(&host) {
            Some(proxy) => self.0.tunnel(proxy, quota, &deadline).await?,
            None => {
                let resolve = self.0.addresses(grants, quota, &host, port, protection);
                let addresses = deadline.within(Phase::Resolving, resolve).await?;
                deadline.dial(quota, addresses).await?
            }
        };
        let connection = Connection { stream, host: host.clone(), port, tls: false };
        match protection {
            Protection::Tls => self.handshake(&deadline, quota, connection, host, alpn).await,
            Protection::Plain => Ok(connection),
        }
    }

    /// Begins TLS on a plain connection (`STARTTLS`). The quota charges it as an attempt. The
    /// server's certificate must be for `server_name`, which must be granted on the connection's
    /// port.
    ///
    /// Unread bytes that the server sent in the clear are taken as part of its handshake, which
    /// then fails. The caller must discard all bytes that were read in the clear.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect). Also [`Invalid`](EgressError::Invalid) if the connection
    /// already has TLS.
    pub async fn start_tls(
        &self,
        grants: &Grants,
        quota: &Quota,
        connection: Connection,
        server_name: &str,
    ) -> Result<Connection, EgressError> {
        let host = Host::parse(server_name).map_err(|problem| EgressError::invalid(server_name, problem))?;
        if connection.is_tls() {
            return Err(EgressError::invalid(connection.host(), "the connection has TLS already"));
        }
        grants.check_host(&host, connection.port, Protection::Tls)?;
        let deadline = Deadline::new(host.with_port(connection.port), self.0.connect_timeout);
        deadline.attempt(quota)?;
        self.handshake(&deadline, quota, connection, host, &[]).await
    }

    /// Explains why [`connect`](Self::connect) would be allowed or refused, rule by rule and
    /// address by address. Resolves the name if a rule allows it and no proxy resolves names. Never
    /// connects.
    pub async fn explain(&self, grants: &Grants, host: &str, port: u16, protection: Protection) -> Explanation {
        let explanation = grants.explain(host, port, protection);
        let Ok(host) = Host::parse(host) else { return explanation };
        if explanation.verdict().is_err() {
            return explanation;
        }
        if let Some(proxy) = self.0.proxy_for(&host) {
            return explanation.with_remark(format!("the proxy {proxy} resolves the name, and has to judge its addresses"));
        }
        let deadline = Deadline::new(host.with_port(port), self.0.connect_timeout);
        match deadline.within(Phase::Resolving, self.0.resolve(&self.0.own, &host)).await {
            Ok(addresses) => explanation.with_addresses(grants, &host, addresses),
            Err(error) => explanation.with_remark(error.to_string()),
        }
    }

    async fn handshake(
        &self,
        deadline: &Deadline,
        quota: &Quota,
        from: Connection,
        host: Host,
        alpn: &[&[u8]],
    ) -> Result<Connection, EgressError> {
        let handshake = tls::handshake(&self.0.handshakes, quota, &self.0.tls, alpn, &host, &deadline.target, from.stream);
        let stream = Stream::Tls(deadline.within(Phase::Handshaking, handshake).await?);
        Ok(Connection { stream, host, port: from.port, tls: true })
    }
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Omits the TLS configuration, which contains every root.
impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tls: _, proxy, connect_timeout, read_timeout, resolver, budget, handshakes: _, own: _ } = self;
        f.debug_struct("Egress")
            .field("proxy", proxy)
            .field("connect_timeout", connect_timeout)
            .field("read_timeout", read_timeout)
            .field("resolver", resolver)
            .field("max_sockets", &budget.total())
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// The proxy through which a host is reached. `None` if the host is reached directly.
    pub(crate) fn proxy_for(&self, host: &Host) -> Option<&Proxy> {
        self.proxy.as_ref().filter(|_| !host.is_loopback())
    }

    /// Returns the addresses of a granted host that may be dialled: at least one.
    pub(crate) async fn addresses(
        &self,
        grants: &Grants,
        quota: &Quota,
        host: &Host,
        port: u16,
        protection: Protection,
    ) -> Result<Vec<SocketAddr>, EgressError> {
        let addresses = self.resolve(quota, host).await?;
        let admitted = grants.admit(host, port, protection, addresses)?;
        Ok(admitted.into_iter().map(|address| (address, port).into()).collect())
    }

    /// Returns at least one address of a host, not yet judged. Waits for the party's turn.
    pub(crate) async fn resolve(&self, quota: &Quota, host: &Host) -> Result<Vec<IpAddr>, EgressError> {
        if let Some(known) = host.known_addresses() {
            return Ok(known);
        }
        let no_such_host = |problem: String| EgressError::NoSuchHost { host: host.to_string(), problem: problem.into() };
        let fail = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => no_such_host(error.to_string()),
            _ => EgressError::Resolve { host: host.to_string(), problem: SafeText::display(error) },
        };
        let turn = quota.lookup().await.map_err(|limit| EgressError::Limit { target: host.to_string(), limit })?;
        let name = host.bare();
        let resolved = await_hook("Resolver::resolve", || self.resolver.resolve(&name)).await;
        let mut addresses = resolved.map_err(io::Error::other).flatten().map_err(fail)?;
        drop(turn);
        addresses.truncate(MAX_ADDRESSES);
        // An address that is judged as IPv4 must also be dialled as IPv4.
        addresses.iter_mut().for_each(|address| *address = address.to_canonical());
        if addresses.is_empty() { Err(no_such_host("the name has no addresses".into())) } else { Ok(addresses) }
    }

    /// Connects to the proxy itself, for the deadline's target. The proxy's own address is the
    /// operator's choice and is not judged.
    pub(crate) async fn reach_proxy(&self, proxy: &Proxy, quota: &Quota, deadline: &Deadline) -> Result<Stream, EgressError> {
        let to_proxy = Deadline::new(proxy.host.with_port(proxy.port), self.connect_timeout);
        let connect = async {
            let addresses = self.resolve(quota, &proxy.host).await?;
            let addresses = addresses.into_iter().map(|address| (address, proxy.port).into()).collect();
            let stream = to_proxy.dial(quota, addresses).await?;
            match proxy.tls {
                true => tls::handshake(&self.handshakes, quota, &self.tls, &[], &proxy.host, &to_proxy.target, stream)
                    .await
                    .map(Stream::Tls),
                false => Ok(stream),
            }
        };
        connect.await.map_err(|error: EgressError| match error {
            EgressError::Limit { limit, .. } => EgressError::Limit { target: deadline.target.clone(), limit },
            error => proxy.error(&deadline.target, error.to_string()),
        })
    }

    /// Opens a tunnel through the proxy.
    async fn tunnel(&self, proxy: &Proxy, quota: &Quota, deadline: &Deadline) -> Result<Stream, EgressError> {
        let tunnel = async {
            let mut stream = self.reach_proxy(proxy, quota, deadline).await?;
            proxy.tunnel(&deadline.target, &mut stream).await?;
            Ok(stream)
        };
        deadline.within(Phase::Tunnelling, tunnel).await
    }
}
