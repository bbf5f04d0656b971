use std::{fmt, path::PathBuf};

use async_trait::async_trait;
use protostub_runtime::{Address, Hyperty, Message, Protostub, Runtime, Updated};
use tokio::sync::Mutex;

use super::Catalogue;

/// A runtime, as a host program has it. Two hyperties are registered: `hyperty://home.example/sender`, which posts and asks, and
/// `hyperty://home.example/app`, which subscribes and listens.
#[async_trait]
pub trait RuntimeSubject: Send + Sync {
    /// The runtime's own address.
    fn url(&self) -> String;

    /// Loads the stub of a domain or an address (`loadStub`).
    ///
    /// # Errors
    /// If the stub cannot be deployed, or does not become live.
    async fn load_stub(&self, target: &str, goal: LoadGoal) -> Result<LoadedStub, Refusal>;

    /// The stub of a domain, if there is one.
    fn stub(&self, domain: &str) -> Option<LoadedStub>;

    /// Waits until the stub of a domain has this status.
    async fn wait_for_status(&self, domain: &str, status: &str);

    /// Tells the stub of a domain to disconnect.
    async fn disconnect(&self, domain: &str);

    /// Undeploys the stub of a domain.
    async fn undeploy(&self, domain: &str);

    /// Brings the stub of a domain up to what the domain publishes now: the version that runs then.
    ///
    /// # Errors
    /// If there is no stub, or what is published cannot be had or does not run.
    async fn update(&self, domain: &str) -> Result<String, Refusal>;

    /// Posts a message.
    ///
    /// # Errors
    /// If it was refused.
    fn post(&self, message: Message) -> Result<(), Refusal>;

    /// Posts a request, and waits for the response.
    ///
    /// # Errors
    /// If the runtime answers in the receiver's place.
    async fn request(&self, message: Message) -> Result<Message, Refusal>;

    /// Subscribes the listener to an address.
    async fn subscribe(&self, address: &str);

    /// The next message that the listener gets.
    async fn next(&self) -> Option<Message>;

    /// Returns the scheme, the host and the path of an address, or `None` if the text is no address.
    fn parse_address(&self, address: &str) -> Option<(String, String, String)>;
}

/// What makes runtimes.
#[async_trait]
pub trait Runtimes: Send + Sync {
    /// A runtime of the domain `home.example` that finds all stubs in this catalogue.
    ///
    /// # Errors
    /// If it cannot be started, in its own words.
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

/// A stub that is deployed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "whoever adapts another runtime makes it")]
pub struct LoadedStub {
    /// Its address.
    pub url: String,
    /// Its sandbox's address.
    pub sandbox: String,
    /// Its status, in lower case.
    pub status: String,
    /// Whose stub it is.
    pub domain: String,
}

/// Why something was not done: as a response would say it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "whoever adapts another runtime makes it")]
pub struct Refusal {
    /// As in RFC 9110; 0 where there is none.
    pub code: u16,
    /// For people.
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
    /// Where compiled code is kept ([`RuntimeBuilder::code_dir`](protostub_runtime::RuntimeBuilder::code_dir)): each case has a runtime of its own, and all
    /// of them deploy the same component. None: each compiles it.
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
            // If it is gone, the case sees that.
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
