use std::{cell::OnceCell, time::Instant};

use protostub_bus::{Bus, Origin, PostError, Poster};
use protostub_types::{Address, AddressError};
use serde::Deserialize;
use wasmtime::{
    StoreContextMut,
    component::{Linker, WasmStr},
};

use super::rate::RateLimit;
use crate::{
    SandboxConfig,
    contract::{
        AddressCache, lift,
        types::{self, Error},
    },
    recorder::Entry,
    state::StubState,
};

/// State of an instance's posts, and of its pause.
pub(crate) struct Posting {
    poster: Poster,
    /// The runtime's own address. It has the stub's domain if that is the runtime's home domain.
    /// Parsed at its first use.
    runtime: OnceCell<Option<Address>>,
    rate: RateLimit,
    addresses: AddressCache,
    /// The last address that the stub sent as.
    sender: Option<Address>,
    paused: bool,
    /// `true` after the first forged sender was logged, so that the stub cannot fill the log.
    warned: bool,
}

impl Posting {
    pub(crate) fn new(config: &SandboxConfig, bus: &Bus) -> Self {
        Self {
            poster: bus.poster(Origin::Stub(config.url.clone())),
            runtime: OnceCell::new(),
            rate: RateLimit::new(config.limits.posts_per_second),
            addresses: AddressCache::default(),
            sender: None,
            paused: false,
            warned: false,
        }
    }

    /// Returns `true` if the stub paused its messages.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Rejects an address that the stub may not send as. Caches the last address.
    fn check_sender(&mut self, from: &Address, config: &SandboxConfig) -> Result<(), String> {
        if self.sender.as_ref() != Some(from) {
            self.may_send(from, config)?;
            self.sender = Some(from.clone());
        }
        Ok(())
    }

    /// Checks a sender. A stub may send as:
    ///
    /// * its URL and the addresses below, except for its status, which `presence` publishes
    /// * every address of exactly its domain, or of a domain that it relays for, except for other
    ///   stubs' URLs and the runtime's addresses
    fn may_send(&self, from: &Address, config: &SandboxConfig) -> Result<(), String> {
        let (text, url) = (from.as_str(), config.url.as_str());
        if from.is_within(&config.url) {
            return match text[url.len()..].split('/').nth(1) {
                Some("status") => Err(format!("`from` is `{from}`; publish the status with `presence.publish`")),
                _ => Ok(()),
            };
        }
        // The URLs of other stubs of the same domain share the part before the stub's own id.
        if url.rfind('/').is_some_and(|end| text.starts_with(&url[..=end])) {
            return Err(format!("`from` is `{from}`, a place for the URLs of other stubs; this stub's URL is `{url}`"));
        }
        if let Some(runtime) = self.runtime.get_or_init(|| runtime_url(&config.configuration))
            && from.is_within(runtime)
        {
            return Err(format!("`from` is `{from}`, an address of the runtime itself"));
        }
        if from.is_of(&config.domain) || config.relays.iter().any(|relayed| from.is_of(relayed)) {
            return Ok(());
        }
        Err(format!(
            "`from` is `{from}`, and this stub speaks for `{}` and for addresses of exactly `{}`",
            config.url, config.domain
        ))
    }
}

/// Returns the runtime's address, which the contract puts into every configuration.
fn runtime_url(configuration: &str) -> Option<Address> {
    #[derive(Deserialize)]
    struct Configuration {
        #[serde(rename = "runtimeURL")]
        runtime: Address,
    }
    serde_json::from_str(configuration).ok().map(|Configuration { runtime }| runtime)
}

/// Adds the interface `bus` to a linker. Its functions are those of `wit/0.1/bus.wit`; wasmtime
/// checks every component against them.
pub(crate) fn add_to_linker(linker: &mut Linker<StubState>) -> wasmtime::Result<()> {
    let mut bus = linker.instance("rethink:protostub/bus@0.1.0")?;
    bus.func_wrap("post", |mut store: StoreContextMut<'_, StubState>, (messages,): (Vec<Posted>,)| {
        let now = store.data().cpu.now();
        // Reuses the memory of the messages.
        let posted: Result<Vec<_>, _> = messages.into_iter().map(|message| post(&mut store, message, now)).collect();
        Ok((posted?,))
    })?;
    bus.func_wrap("pause", |mut store, ()| {
        store.data_mut().pause();
        Ok(())
    })?;
    bus.func_wrap("resume", |mut store, ()| {
        store.data_mut().resume();
        Ok(())
    })
}

/// A message that a guest posts.
type Posted = types::Message<WasmStr>;

/// Posts one of the messages of a guest's call. Returns the guest's result.
fn post(store: &mut StoreContextMut<'_, StubState>, message: Posted, now: Instant) -> wasmtime::Result<Result<(), Error>> {
    let from = read(store, &message.from)?;
    let to = read(store, &message.to)?;
    let state = store.data_mut();
    let bytes = message.body.as_ref().map_or(0, types::Body::len);
    let call = state.recorder.post(&message.kind, from.as_ref().ok(), to.as_ref().ok());
    let posted = state.post_one(message, (from, to), now);
    state.recorder.posted(now, call, bytes, &posted);
    Ok(posted)
}

/// Reads an address that a guest wrote.
fn read(store: &mut StoreContextMut<'_, StubState>, text: &WasmStr) -> wasmtime::Result<Result<Address, AddressError>> {
    let known = &store.data().posting.addresses;
    let text = text.to_str(&*store)?;
    if let Some(address) = known.get(&text) {
        return Ok(Ok(address.clone()));
    }
    let address = Address::parse(&text);
    if let Ok(address) = &address {
        store.data_mut().posting.addresses.insert(address.clone());
    }
    Ok(address)
}

impl StubState {
    fn post_one(
        &mut self,
        message: Posted,
        addresses: (Result<Address, AddressError>, Result<Address, AddressError>),
        now: Instant,
    ) -> Result<(), Error> {
        if !self.posting.rate.admit_at(now) {
            self.count_limit("posts_per_second");
            return Err(Error::Limit(self.posting.rate.exceeded("messages")));
        }
        if message.body.as_ref().is_some_and(|body| body.len() > self.config.limits.body_bytes) {
            self.count_limit("body_bytes");
        }
        let lifted = lift(message, addresses, self.config.limits.body_bytes, &self.posting.addresses);
        let message = lifted.map_err(|refused| Error::Invalid(refused.to_string()))?;
        // A stub answers a request at the requested address, even if that is not its domain's
        // (`global://registry`).
        if let Err(problem) = self.posting.check_sender(&message.from, &self.config)
            && !self.services.bus.answers(self.posting.poster.origin(), &message)
        {
            if !self.posting.warned {
                self.posting.warned = true;
                tracing::warn!(stub = %self.config.url, domain = %self.config.domain, problem, "the stub forged a sender; this is logged once");
            }
            return Err(Error::Denied(problem));
        }
        // The bus adds the stub's URL to `via`.
        self.posting.poster.post_at(message, || now).map_err(refused)
    }

    fn pause(&mut self) {
        self.posting.paused = true;
        self.record(&Entry::call("bus.pause"));
    }

    fn resume(&mut self) {
        self.posting.paused = false;
        self.record(&Entry::call("bus.resume"));
    }
}

/// Converts the codes that the bus documents. A failure that the stub did not cause is `io`: the
/// receiver does not exist, or not any more.
fn refused(error: PostError) -> Error {
    match error.code {
        400 | 409 => Error::Invalid(error.reason),
        403 | 508 => Error::Denied(error.reason),
        413 => Error::Limit(error.reason),
        429 => Error::Busy,
        _ => Error::Io(error.reason),
    }
}
