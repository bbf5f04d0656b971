use std::{fmt, path::PathBuf};

use async_trait::async_trait;
use protostub_runtime::{Address, Hyperty, Message, Protostub, Runtime, Updated};
use tokio::sync::Mutex;

use super::Catalogue;

/// A runtime, as a host program uses it. It has two hyperties: `hyperty://home.example/sender`,
/// which posts and requests, and `hyperty://home.example/app`, which subscribes and listens.
#[async_trait]
pub trait RuntimeSubject: Send + Sync {
    /// Returns the runtime's own address.
    fn url(&self) -> String;

    /// Loads the stub of a domain or an address (`loadStub`).
    ///
    /// # Errors
    /// If the stub cannot be deployed, or does not become live.
    async fn load_stub(&self, target: &str, goal: LoadGoal) -> Result<LoadedStub, Refusal>;

    /// Returns the stub of a domain, or `None` if none is deployed.
    fn stub(&self, domain: &str) -> Option<LoadedStub>;

    /// Waits until the stub of a domain has this status.
    async fn wait_for_status(&self, domain: &str, status: &str);

    /// Tells the stub of a domain to disconnect.
    async fn disconnect(&self, domain: &str);

    /// Undeploys the stub of a domain.
    async fn undeploy(&self, domain: &str);

    /// Updates the stub of a domain to the published version. Returns the version that runs then.
    ///
    /// # Errors
    /// If no stub is deployed, or the published version cannot be fetched or does not run.
    async fn update(&self, domain: &str) -> Result<String, Refusal>;

    /// Posts a message.
    ///
    /// # Errors
    /// If the bus refuses the message.
    fn post(&self, message: Message) -> Result<(), Refusal>;

    /// Posts a request, and waits for the response.
    ///
    /// # Errors
    /// If the runtime answers instead of the receiver.
    async fn request(&self, message: Message) -> Result<Message, Refusal>;

    /// Subscribes the listener to an address.
    async fn subscribe(&self, address: &str);

    /// Waits for the next message of the listener.
    async fn next(&self) -> Option<Message>;

    /// Returns the scheme, the host and the path of an address, or `None` if the text is not one.
    fn parse_address(&self, address: &str) -> Option<(String, String, String)>;
}

/// Factory of runtimes.
#[async_trait]
pub trait Runtimes: Send + Sync {
    /// Starts a runtime of the domain `home.example` that finds all stubs in this catalogue.
    ///
    /// # Errors
    /// The runtime's own error text if it cannot start.
    async fn start(&self, catalogue: Catalogue) -> Result<Box<dyn RuntimeSubject>, String>;
}

/// State in which `load_stub` returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "adapters of other runtimes match on both")]
pub enum LoadGoal {
    /// The stub runs.
    Deployed,
    /// The stub is connected.
    Live,
}

/// A deployed stub.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "adapters of other runtimes construct it")]
pub struct LoadedStub {
    /// The address.
    pub url: String,
    /// The address of the sandbox.
    pub sandbox: String,
    /// The status, in lower case.
    pub status: String,
    /// The domain of the stub.
    pub domain: String,
}

/// A refusal, with the members of an error response.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "adapters of other runtimes construct it")]
pub struct Refusal {
    /// The code, as in RFC 9110, or 0 without a code.
    pub code: u16,
    /// The reason, for people.
    pub reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.reason)
    }
}

/// The runtime of this project: `protostub_runtime`.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ThisRuntime {
    /// Folder of compiled code
    /// ([`RuntimeBuilder::code_dir`](protostub_runtime::RuntimeBuilder::code_dir)). Each case has a
    /// runtime of its own, and all of them deploy the same component. With `None`, each runtime
    /// compiles it.
    pub code_dir: Option<PathBuf>,
    /// Executable that compiles components in a process with limits. See
    /// [`RuntimeBuilder::compile_worker`](protostub_runtime::RuntimeBuilder::compile_worker).
    /// Without one, this process compiles them.
    pub compile_worker: Option<PathBuf>,
}

struct Embedded {
    runtime: Runtime,
    sender: Hyperty,
    app: Mutex<Hyperty>,
}

#[async_trait]
impl Runtimes for ThisRuntime {
    async fn start(&self, catalogue: Catalogue) -> Result<Box<dyn RuntimeSubject>, String> {
        let mut builder = Runtime::builder().home_domain("home.example").source(catalogue);
        if let Some(dir) = &self.code_dir {
            builder = builder.code_dir(dir);
        }
        if let Some(program) = &self.compile_worker {
            builder = builder.compile_worker(program);
        }
        let runtime = builder.build().await.map_err(|error| error.to_string())?;
        let hyperty = async |name: &str| {
            let registered = runtime.register_hyperty(format!("hyperty://home.example/{name}")).await;
            registered.map_err(|error| error.to_string())
        };
        let (sender, app) = (hyperty("sender").await?, Mutex::new(hyperty("app").await?));
        Ok(Box::new(Embedded { runtime, sender, app }))
    }
}

impl Embedded {
    fn protostub(&self, domain: &str) -> Option<Protostub> {
        self.runtime.protostub(&self.runtime.stub_key(domain).ok()?)
    }
}

fn loaded(stub: &Protostub) -> LoadedStub {
    let text = |address: Option<&Address>| address.map(ToString::to_string).unwrap_or_default();
    LoadedStub {
        url: text(stub.url()),
        sandbox: text(stub.sandbox_url()),
        status: stub.status().status.to_string(),
        domain: stub.domain().to_string(),
    }
}

#[async_trait]
impl RuntimeSubject for Embedded {
    fn url(&self) -> String {
        self.runtime.url().to_string()
    }

    async fn load_stub(&self, target: &str, goal: LoadGoal) -> Result<LoadedStub, Refusal> {
        let stub = match goal {
            LoadGoal::Deployed => self.runtime.load_stub(target).await,
            LoadGoal::Live => self.runtime.deploy_protostub(target).await,
        };
        stub.map(|stub| loaded(&stub)).map_err(|error| Refusal { code: 0, reason: format!("{error}: {}", error.kind) })
    }

    fn stub(&self, domain: &str) -> Option<LoadedStub> {
        self.protostub(domain).map(|stub| loaded(&stub))
    }

    async fn wait_for_status(&self, domain: &str, status: &str) {
        if let Some(stub) = self.protostub(domain) {
            stub.watch().until(|report| report.status.as_str() == status).await;
        }
    }

    async fn disconnect(&self, domain: &str) {
        if let Some(stub) = self.protostub(domain) {
            // If the stub is gone, the case notices that.
            let _ = stub.disconnect().await;
        }
    }

    async fn undeploy(&self, domain: &str) {
        if let Some(stub) = self.protostub(domain) {
            let _ = stub.undeploy().await;
        }
    }

    async fn update(&self, domain: &str) -> Result<String, Refusal> {
        let refusal = |reason: String| Refusal { code: 0, reason };
        let stub = self.protostub(domain).ok_or_else(|| refusal(format!("{domain} has no stub")))?;
        match stub.update().await {
            Ok(Updated::UpToDate { version } | Updated::Updated { to: version, .. }) => Ok(version.to_string()),
            Ok(other) => Err(refusal(format!("{other:?}"))),
            Err(error) => Err(refusal(format!("{error}: {}", error.kind))),
        }
    }

    fn post(&self, message: Message) -> Result<(), Refusal> {
        self.sender.post(message).map_err(|error| Refusal { code: error.code, reason: error.reason })
    }

    async fn request(&self, message: Message) -> Result<Message, Refusal> {
        self.sender.request(message).await.map_err(|error| Refusal { code: error.code, reason: error.reason })
    }

    async fn subscribe(&self, address: &str) {
        if let Ok(address) = Address::parse(address) {
            let _ = self.app.lock().await.subscribe(address).await;
        }
    }

    async fn next(&self) -> Option<Message> {
        self.app.lock().await.recv().await
    }

    fn parse_address(&self, address: &str) -> Option<(String, String, String)> {
        let address = Address::parse(address).ok()?;
        Some((address.scheme().to_owned(), address.host().to_owned(), address.path().to_owned()))
    }
}
