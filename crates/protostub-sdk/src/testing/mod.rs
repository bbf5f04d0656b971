//! A fake host for unit tests. The code that becomes a component runs natively, in `cargo test`, on
//! one thread and without any network.
//!
//! The test plays the host and the servers: it causes events, and looks at what the stub did. The
//! stub gets each event at once, and has done all that it can when the call returns. Time stands
//! still until [`Host::advance`]. No call waits, and no result is random.
//!
//! ```
//! use protostub_sdk::{Message, MessageType, Result, Stub, testing::Host, websocket};
//! use serde::Deserialize;
//! use serde_json::json;
//!
//! #[derive(Deserialize)]
//! struct Config {
//!     url: String,
//! }
//!
//! async fn run(stub: Stub, config: Config) -> Result<()> {
//!     let socket = websocket::connect(&config.url).await?;
//!     stub.live();
//!     loop {
//!         socket.send_text(stub.next_message().await?.to_json()?).await?;
//!     }
//! }
//!
//! let host = Host::new();
//! host.start(run, json!({ "url": "wss://sp1.example/ws" })).unwrap();
//! host.connect();
//! let server = host.websocket();
//! assert_eq!(server.url(), "wss://sp1.example/ws");
//! server.accept();
//! assert_eq!(host.statuses(), ["created", "in-progress", "live"]);
//!
//! let update = Message::new(MessageType::Update, "hyperty://sp1.example/bob");
//! host.deliver(update.with_from("hyperty://home.example/alice").with_id(1));
//! assert_eq!(server.received_json()[0]["to"], "hyperty://sp1.example/bob");
//! ```

mod http;
mod identity;
pub(crate) mod imports;
mod tcp;
mod websocket;
mod world;

use std::{future::Future, marker::PhantomData, time::Duration};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    Credential, DisconnectReason, Error, Event, Message, Result, Status, Stub, export,
    guest::{self, HostEvent},
};

pub use http::Exchange;
pub use identity::IdentityRequest;
pub use tcp::ServerConnection;
pub use websocket::ServerSocket;

use world::{WORLD, World, with};

/// Maximum number of events in one call of the stub.
const BATCH: usize = 64;
/// Number of calls after which the test fails, because the stub never becomes idle.
const MANY_CALLS: usize = 100_000;

/// The fake host of one stub. A test has one at a time on its thread.
#[derive(Debug)]
pub struct Host {
    /// A host belongs to its thread: it cannot move to another one.
    thread: PhantomData<*const ()>,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// The domain of the stub under test.
    pub const DOMAIN: &str = "sp1.example";
    /// The URL of the stub under test.
    pub const STUB_URL: &str = "hyperty-runtime://sp1.example/protostub/1";
    /// The URL of the runtime, which is the `runtimeURL` of the configuration.
    pub const RUNTIME_URL: &str = "hyperty-runtime://home.example/runtime";

    /// Makes a host without a stub. Its time begins at 0.
    #[must_use]
    pub fn new() -> Self {
        fastrand::seed(0);
        guest::end();
        WORLD.set(World::default());
        Self { thread: PhantomData }
    }

    /// Starts a stub that is made with `export!(run)`. `configuration` is an object; the host adds
    /// `runtimeURL`. A stub that was started before ends first, as if it had crashed; the session
    /// stays.
    ///
    /// # Errors
    /// The reason why the stub refused its configuration.
    pub fn start<C, F, Fut>(&self, run: F, configuration: Value) -> Result<(), String>
    where
        C: DeserializeOwned + 'static,
        F: Fn(Stub, C) -> Fut + 'static,
        Fut: Future<Output = Result<()>> + 'static,
    {
        self.begin(configuration, |url| export::start_run(url, run))
    }

    /// Starts a stub that is made with `export!(main: main)`; otherwise as [`Self::start`].
    ///
    /// # Errors
    /// The reason why the stub refused its configuration.
    pub fn start_main<C, F, Fut>(&self, main: F, configuration: Value) -> Result<(), String>
    where
        C: DeserializeOwned + 'static,
        F: FnOnce(Stub, C) -> Fut + 'static,
        Fut: Future<Output = Result<()>> + 'static,
    {
        self.begin(configuration, |url| export::start_main(url, main))
    }

    fn begin(&self, mut configuration: Value, start: impl FnOnce(String) -> Result<(), String>) -> Result<(), String> {
        guest::end();
        if let Some(object) = configuration.as_object_mut() {
            object.entry("runtimeURL").or_insert_with(|| json!(Self::RUNTIME_URL));
        }
        with(|world| world.begin(configuration.to_string()));
        start(Self::STUB_URL.to_owned())?;
        with(|world| world.statuses.push((Status::Created, None)));
        Ok(())
    }

    /// Asks the stub to connect, without a credential.
    pub fn connect(&self) {
        self.tell([Event::Connect(None)]);
    }

    /// Has the credential used by reference only from now on, in requests to these origins, as the
    /// operator's `credential-origins` does. An origin has no slash at the end:
    /// `https://sp1.example`. The stub then sends the reference in the header `authorization`, and
    /// the test sees the reference unchanged.
    pub fn credential_goes_to<'a>(&self, origins: impl IntoIterator<Item = &'a str>) {
        with(|world| world.credential_origins = origins.into_iter().map(str::to_owned).collect());
    }

    /// Asks the stub to connect, with this credential.
    pub fn connect_with(&self, credential: Credential) {
        self.tell([Event::Connect(Some(credential))]);
    }

    /// Asks the stub to disconnect.
    pub fn disconnect(&self, reason: DisconnectReason) {
        self.tell([Event::Disconnect(reason)]);
    }

    /// Delivers a message to the stub. The host queues the message unless the stub is live and
    /// takes messages.
    pub fn deliver(&self, message: Message) {
        self.deliver_all([message]);
    }

    /// Delivers messages to the stub, in as few calls as possible.
    pub fn deliver_all(&self, messages: impl IntoIterator<Item = Message>) {
        with(|world| world.inbox.extend(messages));
        run();
    }

    /// Sends the stub these events in one call, in any status.
    pub fn tell(&self, events: impl IntoIterator<Item = Event>) {
        with(|world| world.events.extend(events.into_iter().map(HostEvent::Stub)));
        run();
    }

    /// Lets time pass. Timers that expire meanwhile do so one after the other.
    pub fn advance(&self, duration: Duration) {
        let until = with(|world| world.now) + duration;
        while with(|world| world.next_timer(until)) {
            run();
        }
        with(|world| world.now = until);
    }

    /// Returns the number of messages that wait for the stub, because it is not live or has paused
    /// the bus.
    #[must_use]
    pub fn queued(&self) -> usize {
        with(|world| world.inbox.len())
    }

    /// Returns the stub's status.
    #[must_use]
    pub fn status(&self) -> Status {
        with(|world| world.status())
    }

    /// Takes the statuses that were published since the last call, such as `live` or
    /// `disconnected: the reason`.
    #[must_use]
    pub fn statuses(&self) -> Vec<String> {
        let write = |(status, reason): (Status, Option<String>)| match reason {
            Some(reason) => format!("{status}: {reason}"),
            None => status.to_string(),
        };
        with(|world| world.take_statuses()).into_iter().map(write).collect()
    }

    /// Takes the messages that the stub posted since the last call.
    #[must_use]
    pub fn posted(&self) -> Vec<Message> {
        with(|world| std::mem::take(&mut world.posted))
    }

    /// Refuses the next messages that the stub posts, with these errors, one after the other.
    pub fn refuse_posts(&self, errors: impl IntoIterator<Item = Error>) {
        with(|world| world.refusals.extend(errors));
    }

    /// Returns the bytes that the stub saved in its session.
    #[must_use]
    pub fn session(&self) -> Option<Vec<u8>> {
        with(|world| world.session.clone())
    }

    /// Sets the bytes that an earlier instance saved.
    pub fn set_session(&self, bytes: Option<Vec<u8>>) {
        with(|world| world.session = bytes);
    }

    /// Takes the stub's log lines since the last call, such as `WARN no echo`.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        with(|world| std::mem::take(&mut world.log))
    }

    /// Returns the number of running timers.
    #[must_use]
    pub fn timers(&self) -> usize {
        with(|world| world.timers.len())
    }

    /// Returns the number of connections that the stub holds, over all kinds.
    #[must_use]
    pub fn connections(&self) -> usize {
        with(|world| world.connections())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        guest::end();
    }
}

/// Calls the stub with all waiting events, until the stub has nothing more to do.
fn run() {
    for _ in 0..MANY_CALLS {
        let batch = with(|world| world.next_batch(BATCH));
        if batch.is_empty() {
            return;
        }
        guest::handle(batch);
    }
    assert!(with(|world| world.next_batch(BATCH).is_empty()), "the stub did not become idle within {MANY_CALLS} calls");
}
