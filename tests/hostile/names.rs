//! A name service that an attacker runs.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use protostub_runtime::Resolver;

/// Below this name, answers change. Others do not exist: nobody's name service is asked.
pub(crate) const CHANGING: &str = "changing.example";

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
pub(crate) struct ChangingNames(Mutex<HashMap<String, usize>>);

#[async_trait]
impl Resolver for ChangingNames {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        if !name.ends_with(CHANGING) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "this name service knows no other names"));
        }
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = asked.entry(name.to_owned()).or_default();
        let elsewhere = ELSEWHERE[*before / 2 % ELSEWHERE.len()].parse().map_err(io::Error::other)?;
        let answer = if before.is_multiple_of(2) { vec![elsewhere, Ipv4Addr::LOCALHOST.into()] } else { vec![elsewhere] };
        *before += 1;
        Ok(answer)
    }
}
