//! A name service that an attacker runs.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use protostub_runtime::Resolver;

/// Name below which answers change. The operator lets domains there connect to this machine.
pub(crate) const CHANGING: &str = "changing.example";
/// Name below which every name is this machine. The operator has no settings for domains there.
pub(crate) const HERE: &str = "here.example";
/// Name below which domains have a credential by OAuth 2.0, with one scope, and no address.
pub(crate) const GRANTED: &str = "granted.example";
/// Name below which lookups stay without an answer, except for names that begin with `last`.
pub(crate) const SILENT: &str = "silent.example";

/// The names below which domains have operator settings, and the number of such domains below each.
/// The number bounds the concurrent attackers.
pub(crate) const WITH_SETTINGS: [&str; 3] = [CHANGING, GRANTED, SILENT];
const DOMAINS: usize = 32;

/// Returns the domains below one of [`WITH_SETTINGS`].
pub(crate) fn below(name: &str) -> impl Iterator<Item = String> {
    (0..DOMAINS).map(move |n| format!("a{n}.{name}"))
}

/// A party's share of concurrent lookups: the default of `QuotaLimits::lookups`.
const SHARE: usize = 8;

/// Addresses that an attacker would like the host to connect to.
const ELSEWHERE: [&str; 8] = [
    "169.254.169.254",
    "10.0.0.1",
    "192.168.0.1",
    "100.100.100.200",
    "0.0.0.0",
    "fd00:ec2::254",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
];

/// The name service. The answers for a name below [`CHANGING`] alternate. One answer is an address
/// of [`ELSEWHERE`] together with the attacker's server on loopback. The other is that same address
/// alone. A host that looks up a judged name again would connect to an address that was never
/// judged.
///
/// Names below [`HERE`] stay the same. Other names do not exist, and no other name service is
/// asked.
#[derive(Debug, Default)]
pub(crate) struct AttackersNames {
    /// Number of questions for each name whose answers change.
    changing: Mutex<HashMap<String, usize>>,
    /// Number of pending lookups without an answer, by their parent domain.
    silent: Arc<Mutex<HashMap<String, usize>>>,
}

/// A pending lookup without an answer. It is dropped when the stub abandons it.
struct Silence(Arc<Mutex<HashMap<String, usize>>>, String);

impl Drop for Silence {
    fn drop(&mut self) {
        if let Some(pending) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&self.1) {
            // A count above the share stays above it.
            *pending -= usize::from(*pending <= SHARE);
        }
    }
}

impl AttackersNames {
    async fn silent(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let (host, domain) = name.split_once('.').unwrap_or_default();
        let pending = {
            let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
            let pending = silent.entry(domain.to_owned()).or_default();
            *pending += usize::from(host != "last");
            *pending
        };
        if pending > SHARE {
            return Err(io::Error::other("the name service got too many concurrent lookups"));
        }
        if host == "last" {
            return Ok(vec![Ipv4Addr::LOCALHOST.into()]);
        }
        let _silence = Silence(Arc::clone(&self.silent), domain.to_owned());
        std::future::pending().await
    }
}

#[async_trait]
impl Resolver for AttackersNames {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        if name.ends_with(HERE) {
            return Ok(vec![Ipv4Addr::LOCALHOST.into()]);
        }
        if name.ends_with(SILENT) {
            return self.silent(name).await;
        }
        if !name.ends_with(CHANGING) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name service has no such name"));
        }
        let mut asked = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = asked.entry(name.to_owned()).or_default();
        let elsewhere = ELSEWHERE[*before / 2 % ELSEWHERE.len()].parse().map_err(io::Error::other)?;
        let answer = if before.is_multiple_of(2) { vec![elsewhere, Ipv4Addr::LOCALHOST.into()] } else { vec![elsewhere] };
        *before += 1;
        Ok(answer)
    }
}
