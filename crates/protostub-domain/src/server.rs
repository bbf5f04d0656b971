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
};

/// How often expired sessions and registrations are looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// How long [`DomainServer::stop`] waits for clients to say goodbye.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

/// A domain: its catalogue of protocol stubs over HTTP, and its message node over WebSocket, on one port.
///
/// | path | what is there |
/// | --- | --- |
/// | `/.well-known/protostub/<name>` | the descriptor of a stub; `default` is the default one. `protocolstub` is another spelling |
/// | `/.well-known/protostub/<name>/<field>` | one of its members, such as `version` |
/// | `/.well-known/protostub` | the names of the stubs |
/// | `/.well-known/sourcepackage/<name>` | the component |
/// | `/ws` | the message node, in the Vert.x flavour |
/// | `/stub/connect?runtimeURL=<url>` | the message node, in the NoMatrix flavour |
///
/// Dropping it stops it too, without waiting for its clients to have gone; [`Self::shutdown`] does wait.
///
/// ```no_run
/// # async fn example() -> Result<(), protostub_domain::DomainServerError> {
/// use protostub_domain::DomainServer;
///
/// let server = DomainServer::builder().folder("stubs").default_stub("message-node").start().await?;
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
    served: Arc<Served>,
    serving: Mutex<Serving>,
    sweeper: tokio_util::task::AbortOnDropHandle<()>,
}

/// Whether clients are served.
enum Serving {
    Yes {
        stop: CancellationToken,
        tasks: TaskTracker,
    },
    /// The socket keeps the port, and refuses connections.
    No {
        socket: TcpSocket,
    },
    /// The port is lost.
    Never,
}

/// What [`DomainServer::start_again`] starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a server starts with its state or without it")]
pub enum Memory {
    /// Sessions, addresses, subscriptions and registrations are as they were: clients can re-open their sessions.
    Kept,
    /// The message node knows nobody.
    Lost,
}

/// How a server stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stopped {
    /// How many clients were connected to the message node.
    pub clients: usize,
    /// How many connections, of any kind, had not ended when the time was up.
    pub unfinished: usize,
}

/// How many answers the catalogue has given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CatalogueCounts {
    /// Descriptors, and single fields of them.
    pub descriptors: u64,
    /// Components, whole or in part.
    pub components: u64,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DomainServerError {
    /// The address cannot be listened on.
    #[error("failed to listen on {address}: is the port in use, or below 1024?")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The folder of stubs cannot be read.
    #[error("failed to read the folder of stubs, {}", folder.display())]
    Folder {
        /// Which one.
        folder: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// There is no stub to be the default one.
    #[error("failed to find the default stub `{name}` in {}; there are: {}", folder.display(), names.join(", "))]
    Default {
        /// Which one is missing.
        name: String,
        /// Where.
        folder: PathBuf,
        /// What is there.
        names: Vec<String>,
    },
}

/// Settings of a [`DomainServer`]. Without any it is a message node on a free port of 127.0.0.1.
#[derive(Debug, Clone)]
#[must_use]
pub struct DomainServerBuilder {
    bind: SocketAddr,
    domain: Option<Domain>,
    folder: Option<PathBuf>,
    default_stub: Option<String>,
    limits: Limits,
}

impl DomainServerBuilder {
    /// Where to listen; port 0 is any free one.
    pub fn bind(mut self, address: SocketAddr) -> Self {
        self.bind = address;
        self
    }

    /// The domain of the server's addresses (`hyperty://<domain>/…`). Without it, it is the address that the server is bound to; on loopback,
    /// `localhost` with the same port is then the same domain.
    pub fn domain(mut self, domain: Domain) -> Self {
        self.domain = Some(domain);
        self
    }

    /// Where the stubs are: a folder for each, with `descriptor.json` and `component.wasm`. Without it there is no catalogue.
    ///
    /// In the descriptor `objectName`, `language`, `sourcePackageURL` and `sourcePackage.sha256` are filled in if they are missing, and in the texts of its
    /// `configuration` these placeholders, so that one template serves any address:
    ///
    /// | placeholder | becomes, for a server that was asked as `127.0.0.1:8080` |
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

    /// Which stub `default` is. Without it, the one with that name, or the only one.
    pub fn default_stub(mut self, name: impl Into<String>) -> Self {
        self.default_stub = Some(name.into());
        self
    }

    /// What the server bears.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Listens, and serves until [`DomainServer::shutdown`].
    ///
    /// # Errors
    /// If the folder cannot be read, has no stub of the default's name, or the address cannot be listened on.
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

/// What the server is called, its own name first, and the authority that it can be reached by.
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
            let authority = reachable.as_ref().map_or_else(|| address.to_string(), Domain::to_string);
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
    /// A server with default settings.
    pub fn builder() -> DomainServerBuilder {
        DomainServerBuilder {
            bind: SocketAddr::new(IpAddr::from([127, 0, 0, 1]), 0),
            domain: None,
            folder: None,
            default_stub: None,
            limits: Limits::default(),
        }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The domain of its addresses.
    #[must_use]
    pub fn domain(&self) -> &Domain {
        &self.names[0]
    }

    /// Host and port that it can be reached by: what `${authority}` stands for, if the one who asks uses no other name of it.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The folder of the stubs.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.catalogue.as_deref().map(Catalogue::folder)
    }

    /// The names of the stubs in the folder, sorted, as they are now.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub async fn stubs(&self) -> io::Result<Vec<String>> {
        match &self.catalogue {
            Some(catalogue) => catalogue.names().await,
            None => Ok(Vec::new()),
        }
    }

    /// Which stub `default` is, if there is one.
    pub async fn default_stub(&self) -> Option<String> {
        self.catalogue.as_ref()?.default_name().await.ok()
    }

    /// The stubs in the folder that no runtime could deploy, as far as their descriptors and digests tell.
    pub async fn problems(&self) -> Vec<StubProblem> {
        match &self.catalogue {
            Some(catalogue) => {
                let place = Place { authority: self.authority.to_string(), domain: self.domain().clone() };
                catalogue.problems(&place).await
            }
            None => Vec::new(),
        }
    }

    /// The message node.
    #[must_use]
    pub const fn node(&self) -> &MessageNode {
        &self.node
    }

    /// How many answers the catalogue has given since the server was made.
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
            max_message_bytes: self.limits.max_message_bytes,
            served: Arc::clone(&self.served),
            stop: stop.clone(),
            clients: tasks.clone(),
        };
        let listener = listener.tap_io(|connection| {
            // Messages are small, and wait for nothing.
            let _ = connection.set_nodelay(true);
        });
        let serving = axum::serve(listener, http::router(site)).with_graceful_shutdown(stop.clone().cancelled_owned());
        tasks.spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!("serving: {error}");
            }
        });
        Serving::Yes { stop, tasks }
    }

    /// Stops as a server that is restarted: clients see close code 1001, new connections are refused. The port is kept for
    /// [`Self::start_again`].
    ///
    /// # Errors
    /// If the port cannot be kept, since somebody else took it.
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
        // Connections of the server that has stopped may still be on their way out.
        socket.set_reuseaddr(true)?;
        socket.bind(self.address)?;
        Ok(socket)
    }

    /// Serves again, on the same port. Does nothing to a server that has not stopped.
    ///
    /// # Errors
    /// If the address cannot be listened on.
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

    /// Stops for good: no new connections, requests in progress are answered, clients of the message node see close code 1001.
    pub async fn shutdown(self, within: Duration) -> Stopped {
        let stopped = end(&self.node, &mut *self.serving.lock().await, within).await;
        tracing::info!(domain = %self.domain(), clients = stopped.clients, unfinished = stopped.unfinished, "stopped");
        stopped
    }
}

/// Stops serving, if that is what it does, and waits for the connections to end.
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
