//! A name service that an attacker runs.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use protostub_runtime::Resolver;

/// Below this name, answers change. Others do not exist: nobody's name service is asked.
pub(crate) const CHANGING: &str = "changing.example";

/// Below this name, look-ups stay without an answer, except for names that begin with `last`.
pub(crate) const SILENT: &str = "silent.example";
/// A party's share of concurrent look-ups: the default of `QuotaLimits::lookups`.
const SHARE: usize = 8;

/// What else than its server an attacker would like to have dialled.
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

/// For each name below [`CHANGING`], in turn: somewhere else and the attacker's server on loopback, and that same elsewhere alone. Whoever asks once more
/// for what was judged already dials something that nobody has judged.
#[derive(Debug, Default)]
pub(crate) struct AttackersNames {
    /// Number of questions for each name whose answers change.
    changing: Mutex<HashMap<String, usize>>,
    /// Number of pending look-ups without an answer, by their parent domain.
    silent: Arc<Mutex<HashMap<String, usize>>>,
}

/// A pending look-up without an answer. Dropped when the stub abandons it.
struct Silence(Arc<Mutex<HashMap<String, usize>>>, String);

impl Drop for Silence {
    fn drop(&mut self) {
        if let Some(pending) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&self.1) {
            // One too many stays one too many.
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
            return Err(io::Error::other("this name service was asked for too many names at a time"));
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
        if name.ends_with(SILENT) {
            return self.silent(name).await;
        }
        if !name.ends_with(CHANGING) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "this name service knows no other names"));
        }
        let mut asked = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = asked.entry(name.to_owned()).or_default();
        let elsewhere = ELSEWHERE[*before / 2 % ELSEWHERE.len()].parse().map_err(io::Error::other)?;
        let answer = if before.is_multiple_of(2) { vec![elsewhere, Ipv4Addr::LOCALHOST.into()] } else { vec![elsewhere] };
        *before += 1;
        Ok(answer)
    }
}
