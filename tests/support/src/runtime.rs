use std::{path::PathBuf, time::Duration};

use protostub_artifacts::component;
use protostub_runtime::{Hyperty, Message, Runtime, RuntimeBuilder};
use serde_json::Value;

use crate::source;

/// A runtime of the domain `home.example`, and one hyperty on its bus.
#[derive(Debug)]
pub struct TestRuntime {
    /// The runtime.
    pub runtime: Runtime,
    /// The hyperty `hyperty://home.example/app`.
    pub app: Hyperty,
}

impl TestRuntime {
    /// Starts a runtime, and registers the hyperty.
    ///
    /// # Panics
    /// If the runtime does not start.
    pub async fn start(builder: RuntimeBuilder) -> Self {
        let runtime = builder.build().await.expect("a runtime");
        let app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
        Self { runtime, app }
    }

    /// Starts a runtime for which the actor is the stub of these domains, with this configuration.
    ///
    /// # Panics
    /// If the runtime does not start.
    pub async fn of_actors(builder: RuntimeBuilder, domains: &[&str], configuration: &Value) -> Self {
        Self::start(builder.source(source(domains, &component("actor"), configuration))).await
    }

    /// Returns the runtime and the hyperty, for a test that uses them apart.
    #[must_use]
    pub fn into_parts(self) -> (Runtime, Hyperty) {
        (self.runtime, self.app)
    }
}

/// Returns a builder of runtimes that may reach loopback and share compiled code.
///
/// A first request also waits for the compiler, which all tests of the process share. So the time limit of a request
/// is a minute.
pub fn builder() -> RuntimeBuilder {
    let builder = Runtime::builder().home_domain("home.example").allow_loopback(true).code_dir(code_dir());
    builder.request_timeout(Duration::from_secs(60))
}

/// Returns the folder of compiled code, which all tests of a user share.
///
/// Most tests deploy the same few components. No group can write to the folder: the runtime would refuse such a folder.
#[must_use]
pub fn code_dir() -> PathBuf {
    let user = std::env::var("USER").unwrap_or_default();
    std::env::temp_dir().join(format!("protostub-tests-{user}")).join("code")
}

/// Returns a request for an actor, which follows the order.
#[must_use]
pub fn order(to: &str, order: Value) -> Message {
    Message::read(to).with_body(order)
}

/// Has the actor at an address follow an order.
///
/// # Errors
/// The value of the response, if its code is not 200.
///
/// # Panics
/// If no response comes from the actor.
pub async fn follow(app: &Hyperty, to: &str, what: Value) -> Result<Value, Value> {
    let response = app.request(order(to, what)).await.expect("a response");
    let value = body(&response)["value"].clone();
    if response.code() == Some(200) { Ok(value) } else { Err(value) }
}

/// Parses the body of a message.
///
/// # Panics
/// If the message has no body, or its body is not JSON.
#[must_use]
pub fn body(message: &Message) -> Value {
    message.body.as_ref().expect("a body").parse().expect("JSON")
}
