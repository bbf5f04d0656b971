use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::serve::ListenerExt as _;
use protostub_types::Domain;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::Mutex,
    time::{MissedTickBehavior, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Limits, MessageNode,
    catalogue::{Catalogue, Place, StubProblem},
    http::{self, Served, Site},
    origin::WebOrigin,
};

/// Interval of the search for expired sessions and registrations.
const SWEEP: Duration = Duration::from_secs(1);
/// Time that [`DomainServer::stop`] waits for clients to close their connections.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// Maximum number of connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// A domain: its catalogue of protocol stubs over HTTP, and its message node over WebSocket, on one
/// port.
///
/// | path | content |
/// | --- | --- |
/// | `/.well-known/protostub/<name>` | the descriptor of a stub; `default` for the default one |
/// | `/.well-known/protostub/<name>/<field>` | one of its members, such as `version` |
/// | `/.well-known/protostub` | the names of the stubs |
/// | `/.well-known/protocolstub/…` | the same, in another spelling |
/// | `/.well-known/sourcepackage/<name>` | the component |
/// | `/ws` | the message node, in the Vert.x flavour |
/// | `/stub/connect?runtimeURL=<url>` | the message node, in the NoMatrix flavour |
///
/// Dropping the server stops it without waiting for its clients; [`Self::shutdown`] waits.
///
/// ```no_run
/// # async fn example() -> Result<(), protostub_domain::DomainServerError> {
/// use protostub_domain::DomainServer;
///
/// let builder = DomainServer::builder().folder("stubs").default_stub("message-node");
/// let server = builder.start().await?;
/// println!("http://{}/.well-known/protostub/default", server.authority());
/// server.shutdown(std::time::Duration::from_secs(5)).await;
/// # Ok(())
/// # }
/// ```
pub struct DomainServer {
    address: SocketAddr,
    authority: Arc<str>,
    names: Arc<[Domain]>,
    catalogue: Option<Arc<Catalogue>>,
    node: MessageNode,
    limits: Limits,
    /// The origins of other sites whose pages may connect to the message node.
    origins: Arc<[WebOrigin]>,
    served: Arc<Served>,
    serving: Mutex<Serving>,
    sweeper: tokio_util::task::AbortOnDropHandle<()>,
}

/// Serving state of a server.
enum Serving {
    Yes {
        stop: CancellationToken,
        tasks: TaskTracker,
    },
    /// Stopped. The socket keeps the port, and refuses connections.
    No {
        socket: TcpSocket,
    },
    /// Stopped. The port is lost.
    Never,
}

/// State of the message node with which [`DomainServer::start_again`] starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a server starts with its state or without it")]
pub enum Memory {
    /// Sessions, addresses, subscriptions and registrations are kept: clients can re-open their
    /// sessions.
    Kept,
    /// The message node has lost all of its state.
    Lost,
}

/// Outcome of stopping a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stopped {
    /// Number of clients that were connected to the message node.
    pub clients: usize,
    /// Number of connections, of any kind, that were still open at the end of the time limit.
    pub unfinished: usize,
}

/// Number of answers that the catalogue has given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CatalogueCounts {
    /// Descriptors, and single fields of them.
    pub descriptors: u64,
    /// Components, whole or in part.
    pub components: u64,
}

/// Failure to start a server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DomainServerError {
    /// The server cannot listen on the address.
    #[error("failed to listen on {address}: is the port in use, or below 1024?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The folder of stubs cannot be read.
    #[error("failed to read the folder of stubs {}; check that the folder exists and is readable", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The folder has no stub with the name of the default one.
    #[error("failed to find the default stub `{name}` in {}; the folder has: {}", folder.display(), names.join(", "))]
    Default {
        /// The name of the missing stub.
        name: String,
        /// The folder of stubs.
        folder: PathBuf,
        /// The names of the stubs in the folder.
        names: Vec<String>,
    },
}

/// Settings of a [`DomainServer`]. The default is a message node on a free port of 127.0.0.1.
#[derive(Debug, Clone)]
#[must_use]
pub struct DomainServerBuilder {
    bind: SocketAddr,
    domain: Option<Domain>,
    folder: Option<PathBuf>,
    default_stub: Option<String>,
    limits: Limits,
    origins: Vec<WebOrigin>,
}

impl DomainServerBuilder {
    /// Sets the address to listen on. Port 0 is any free port.
    pub fn bind(mut self, address: SocketAddr) -> Self {
        self.bind = address;
        self
    }

    /// Sets the domain of the server's addresses (`hyperty://<domain>/…`). The default is the
    /// address that the server is bound to. On loopback, `localhost` with the same port is then the
    /// same domain.
    pub fn domain(mut self, domain: Domain) -> Self {
        self.domain = Some(domain);
        self
    }

    /// Sets the folder of the stubs. It has a folder for each stub, with `descriptor.json` and
    /// `component.wasm`. Without it there is no catalogue.
    ///
    /// Missing members of the descriptor are filled in: `objectName`, `language`,
    /// `sourcePackageURL` and `sourcePackage.sha256`. The texts of its `configuration` may have
    /// these placeholders, so one template serves any address:
    ///
    /// | placeholder | value, for a server that was asked as `127.0.0.1:8080` |
    /// | --- | --- |
    /// | `${authority}` | `127.0.0.1:8080` |
    /// | `${domain}` | the domain of the message node's addresses |
    /// | `${http-url}` | `http://127.0.0.1:8080` |
    /// | `${ws-url}` | `ws://127.0.0.1:8080/ws` |
    /// | `${nomatrix-url}` | `ws://127.0.0.1:8080/stub/connect` |
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Sets the name of the stub that `default` stands for. Without it, that is the stub with the
    /// name `default`, or the only stub.
    pub fn default_stub(mut self, name: impl Into<String>) -> Self {
        self.default_stub = Some(name.into());
        self
    }

    /// Sets the limits of the server.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Allows the web pages of this origin to connect to the message node. Without it, only pages
    /// of the domain itself may do that: a browser opens WebSockets for every page, also for those
    /// of strangers. Clients that send no `Origin` are not browsers, and may always connect.
    pub fn allow_origin(mut self, origin: WebOrigin) -> Self {
        self.origins.push(origin);
        self
    }

    /// Starts to listen, and serves until [`DomainServer::shutdown`].
    ///
    /// # Errors
    /// If the folder cannot be read, has no stub with the default's name, or the server cannot
    /// listen on the address.
    pub async fn start(self) -> Result<DomainServer, DomainServerError> {
        let catalogue = match self.folder {
            Some(folder) => Some(Arc::new(open_catalogue(folder, self.default_stub).await?)),
            None => None,
        };
        let listen = |source| DomainServerError::Listen { address: self.bind, source };
        let listener = TcpListener::bind(self.bind).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let (names, authority) = names(address, self.domain);
        let node = MessageNode::new(names.to_vec(), self.limits.clone());
        let server = DomainServer {
            address,
            authority,
            names,
            catalogue,
            sweeper: tokio_util::task::AbortOnDropHandle::new(tokio::spawn(sweep(node.clone()))),
            node,
            limits: self.limits,
            origins: self.origins.into(),
            served: Arc::default(),
            serving: Mutex::new(Serving::Never),
        };
        let serving = server.serve(listener);
        *server.serving.lock().await = serving;
        tracing::info!(domain = %server.domain(), %address, "serving");
        Ok(server)
    }
}

async fn open_catalogue(folder: PathBuf, default: Option<String>) -> Result<Catalogue, DomainServerError> {
    let catalogue = Catalogue::new(folder, default.clone());
    let fail = |source| DomainServerError::Folder { folder: catalogue.folder().to_owned(), source };
    let names = catalogue.names().await.map_err(fail)?;
    match default {
        Some(name) if !names.contains(&name) => {
            Err(DomainServerError::Default { name, folder: catalogue.folder().to_owned(), names })
        }
        _ => Ok(catalogue),
    }
}

/// Returns the server's domains, its own one first, and the authority under which it can be
/// reached.
fn names(address: SocketAddr, domain: Option<Domain>) -> (Arc<[Domain]>, Arc<str>) {
    let own = Domain::parse(&address.to_string()).ok();
    let port = address.port();
    let local = || Domain::parse(&format!("localhost:{port}")).ok();
    let reachable = if address.ip().is_unspecified() { local() } else { own };
    match domain {
        Some(domain) => {
            let authority = match domain.port() {
                Some(_) => domain.to_string(),
                None => format!("{domain}:{port}"),
            };
            ([domain].into(), authority.into())
        }
        None => {
            let authority = reachable.as_ref().map_or_else(|| address.to_string(), |domain| format!("{}:{port}", domain.host()));
            let is_loopback = address.ip().is_loopback() || address.ip().is_unspecified();
            let mut names = Vec::from_iter(reachable);
            for other in [local(), Domain::parse(&format!("127.0.0.1:{port}")).ok(), Domain::parse(&format!("[::1]:{port}")).ok()]
            {
                names.extend(other.filter(|other| is_loopback && !names.contains(other)));
            }
            (names.into(), authority.into())
        }
    }
}

async fn sweep(node: MessageNode) {
    let mut ticks = tokio::time::interval(SWEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        node.expire();
    }
}

impl DomainServer {
    /// Returns a builder with default settings.
    pub fn builder() -> DomainServerBuilder {
        DomainServerBuilder {
            bind: SocketAddr::new(IpAddr::from([127, 0, 0, 1]), 0),
            domain: None,
            folder: None,
            default_stub: None,
            limits: Limits::default(),
            origins: Vec::new(),
        }
    }

    /// Returns the address that the server listens on.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the domain of the server's addresses.
    #[must_use]
    pub fn domain(&self) -> &Domain {
        &self.names[0]
    }

    /// Returns the host and port of the server. `${authority}` stands for them, unless the client
    /// used another name of the server.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Returns the folder of the stubs.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.catalogue.as_deref().map(Catalogue::folder)
    }

    /// Returns the current names of the stubs in the folder, sorted.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub async fn stubs(&self) -> io::Result<Vec<String>> {
        match &self.catalogue {
            Some(catalogue) => catalogue.names().await,
            None => Ok(Vec::new()),
        }
    }

    /// Returns the name of the default stub, if there is one.
    pub async fn default_stub(&self) -> Option<String> {
        self.catalogue.as_ref()?.default_name().await.ok()
    }

    /// Returns the stubs in the folder that a runtime could not deploy, judged by their descriptors
    /// and digests.
    pub async fn problems(&self) -> Vec<StubProblem> {
        match &self.catalogue {
            Some(catalogue) => {
                let place = Place { authority: self.authority.to_string(), domain: self.domain().clone() };
                catalogue.problems(&place).await
            }
            None => Vec::new(),
        }
    }

    /// Returns the message node.
    #[must_use]
    pub const fn node(&self) -> &MessageNode {
        &self.node
    }

    /// Returns the number of answers that the catalogue has given since the server was created.
    #[must_use]
    pub fn catalogue_counts(&self) -> CatalogueCounts {
        CatalogueCounts {
            descriptors: self.served.descriptors.load(Ordering::Relaxed),
            components: self.served.components.load(Ordering::Relaxed),
        }
    }

    fn serve(&self, listener: TcpListener) -> Serving {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let site = Site {
            catalogue: self.catalogue.clone(),
            node: self.node.clone(),
            names: Arc::clone(&self.names),
            authority: Arc::clone(&self.authority),
            origins: Arc::clone(&self.origins),
            max_message_bytes: self.limits.max_message_bytes,
            served: Arc::clone(&self.served),
            stop: stop.clone(),
            clients: tasks.clone(),
        };
        let listener = listener.tap_io(|connection| {
            // Messages are small, so Nagle's algorithm would only delay them.
            let _ = connection.set_nodelay(true);
        });
        let serving = axum::serve(listener, http::router(site)).with_graceful_shutdown(stop.clone().cancelled_owned());
        tasks.spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!("failed to serve connections: {error}");
            }
        });
        Serving::Yes { stop, tasks }
    }

    /// Stops like a server that is restarted: clients get close code 1001, and new connections are
    /// refused. The port is kept for [`Self::start_again`].
    ///
    /// # Errors
    /// If another program has taken the port.
    pub async fn stop(&self) -> Result<Stopped, DomainServerError> {
        let mut serving = self.serving.lock().await;
        let stopped = end(&self.node, &mut serving, STOP_LIMIT).await;
        if !matches!(*serving, Serving::No { .. }) {
            let socket = self.keep_port().map_err(|source| DomainServerError::Listen { address: self.address, source })?;
            *serving = Serving::No { socket };
        }
        Ok(stopped)
    }

    fn keep_port(&self) -> io::Result<TcpSocket> {
        let socket = if self.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // Connections of the stopped server may still be closing.
        socket.set_reuseaddr(true)?;
        socket.bind(self.address)?;
        Ok(socket)
    }

    /// Serves again, on the same port. Does nothing if the server is running.
    ///
    /// # Errors
    /// If the server cannot listen on the address.
    pub async fn start_again(&self, memory: Memory) -> Result<(), DomainServerError> {
        let mut serving = self.serving.lock().await;
        if matches!(*serving, Serving::Yes { .. }) {
            return Ok(());
        }
        let fail = |source| DomainServerError::Listen { address: self.address, source };
        if memory == Memory::Lost {
            self.node.forget();
        }
        let socket = match std::mem::replace(&mut *serving, Serving::Never) {
            Serving::No { socket } => socket,
            _ => self.keep_port().map_err(fail)?,
        };
        let listener = socket.listen(BACKLOG).map_err(fail)?;
        *serving = self.serve(listener);
        Ok(())
    }

    /// Stops for good. New connections are refused, requests in progress are answered, and clients
    /// of the message node get close code 1001.
    pub async fn shutdown(self, within: Duration) -> Stopped {
        let stopped = end(&self.node, &mut *self.serving.lock().await, within).await;
        tracing::info!(domain = %self.domain(), clients = stopped.clients, unfinished = stopped.unfinished, "stopped");
        stopped
    }
}

/// Stops serving, if the server is running, and waits for the connections to end.
async fn end(node: &MessageNode, serving: &mut Serving, within: Duration) -> Stopped {
    let clients = node.counts().borrow().connections;
    let Serving::Yes { stop, tasks } = serving else { return Stopped { clients: 0, unfinished: 0 } };
    stop.cancel();
    tasks.close();
    let finished = timeout(within, tasks.wait()).await.is_ok();
    let unfinished = if finished { 0 } else { tasks.len() };
    *serving = Serving::Never;
    Stopped { clients, unfinished }
}

impl Drop for DomainServer {
    fn drop(&mut self) {
        self.sweeper.abort();
        if let Serving::Yes { stop, .. } = self.serving.get_mut() {
            stop.cancel();
        }
    }
}

impl fmt::Debug for DomainServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DomainServer").field("domain", self.domain()).field("address", &self.address).finish_non_exhaustive()
    }
}
