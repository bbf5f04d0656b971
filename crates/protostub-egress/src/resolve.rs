//! From names to addresses.

use std::{fmt, io, net::IpAddr, sync::Arc};

use async_trait::async_trait;
use dns_lookup::LookupErrorKind;
use tokio::sync::Semaphore;

/// How many addresses of a name are looked at; the others are left out. A name with more is either a mistake or an attempt to keep
/// somebody busy.
pub(crate) const MAX_ADDRESSES: usize = 16;

/// How many lookups the system resolver does at a time. Each holds a thread until it is answered, even if nobody waits any more.
const MAX_LOOKUPS: usize = 32;

/// Finds the addresses of names. What it answers is judged afterwards, and what was judged is dialled.
#[async_trait]
pub trait Resolver: fmt::Debug + Send + Sync {
    /// The addresses of a name (in A-labels, without a trailing dot), best first. None: the name has no addresses.
    ///
    /// It is never asked for addresses, `localhost` or names below it, and need not limit its time.
    ///
    /// # Errors
    /// Of the kind [`io::ErrorKind::NotFound`], if the name service says that the name does not exist or has no address; of any other, if it
    /// could not be resolved now.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The operating system's resolver (`getaddrinfo`), on threads for blocking work.
#[derive(Debug, Clone)]
pub struct SystemResolver {
    lookups: Arc<Semaphore>,
}

impl SystemResolver {
    /// Does at most 32 lookups at a time; others wait.
    #[must_use]
    pub fn new() -> Self {
        Self { lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)) }
    }
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let name = name.to_owned();
        let permit = Arc::clone(&self.lookups).acquire_owned().await.map_err(io::Error::other)?;
        let lookup = move || {
            // The lookup cannot be cancelled: it keeps its permit until it is over, so that abandoned ones count.
            let _permit = permit;
            let addresses = dns_lookup::lookup_host(&name).map_err(|error| match error.kind() {
                LookupErrorKind::NoName | LookupErrorKind::NoData => io::Error::new(io::ErrorKind::NotFound, error),
                _ => error.into(),
            })?;
            Ok(addresses.take(MAX_ADDRESSES).collect())
        };
        tokio::task::spawn_blocking(lookup).await.map_err(io::Error::other)?
    }
}
