//! Resolves names to addresses.

use std::{
    fmt, fs, io,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use futures_util::future::join;
use hickory_resolver::{
    Hosts, TokioResolver,
    config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    lookup::Lookup,
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::Query,
        rr::{Name, RecordType},
    },
    system_conf::read_system_conf,
};

/// Maximum number of addresses that are used of a name. The others are ignored. A name with more
/// addresses is either a mistake or an attempt to overload the host.
pub(crate) const MAX_ADDRESSES: usize = 16;

/// Maximum age of the system's configuration before it is checked for changes.
const CONFIGURATION_AGE: Duration = Duration::from_secs(5);
/// The files of the system's configuration. A change of either file requires a reload.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];
/// The port of a connected UDP socket that sends no data.
const DISCARD_PORT: u16 = 9;

/// Resolves names to addresses. The egress judges the answers, and dials the judged addresses.
#[async_trait]
pub trait Resolver: fmt::Debug + Send + Sync {
    /// Resolves a name (in A-labels, without a trailing dot), best address first. Returns an empty
    /// list if the name has no addresses.
    ///
    /// The egress never asks for addresses, `localhost` or names below it. The resolver needs no
    /// timeout.
    ///
    /// [`QuotaLimits::lookups`](crate::QuotaLimits::lookups) limits the concurrent look-ups of each
    /// party. To abandon a look-up, the egress drops its future, which must end the look-up. A
    /// panic fails the look-up.
    ///
    /// # Errors
    /// * Kind [`io::ErrorKind::NotFound`] if the name service answered that the name does not exist
    ///   or has no address.
    /// * Any other kind if the name could not be resolved now.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// Asks the name servers of the system's configuration: `/etc/hosts` first, then the servers of
/// `/etc/resolv.conf` or its equivalent. Changes of both files take effect within seconds. Answers
/// are not cached.
///
/// Dropping a look-up ends it, which `getaddrinfo` cannot do. In return, the resolver does not find
/// names that only other sources of the system know (`nsswitch.conf`: mDNS, NIS, LDAP). An embedder
/// that needs those must supply its own [`Resolver`].
#[derive(Debug, Default)]
pub struct SystemResolver {
    /// `None` before the first look-up.
    known: Mutex<Option<Known>>,
}

/// The system's configuration, with the time of its last check.
#[derive(Debug)]
struct Known {
    sources: Arc<Sources>,
    checked_at: Instant,
    /// Modification time of each of [`FILES`].
    changed: [Option<SystemTime>; 2],
}

struct Sources {
    hosts: Hosts,
    servers: TokioResolver,
}

impl SystemResolver {
    /// Creates a resolver. Reads no files yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the current configuration. If a changed configuration is unusable, the previous one
    /// stays in use.
    fn sources(&self) -> io::Result<Arc<Sources>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.as_ref().filter(|known| known.checked_at.elapsed() < CONFIGURATION_AGE) {
            return Ok(Arc::clone(&known.sources));
        }
        let changed = FILES.map(|file| fs::metadata(file).and_then(|file| file.modified()).ok());
        let before = known.as_ref().map(|known| (Arc::clone(&known.sources), known.changed == changed));
        let sources = match before {
            Some((sources, true)) => sources,
            before => match (Sources::read(), before) {
                (Ok(sources), _) => Arc::new(sources),
                (Err(error), Some((before, _))) => {
                    tracing::warn!(%error, "failed to use the changed configuration of name servers; using the previous one");
                    before
                }
                (Err(error), None) => return Err(error),
            },
        };
        *known = Some(Known { sources: Arc::clone(&sources), checked_at: Instant::now(), changed });
        Ok(sources)
    }
}

impl Sources {
    fn read() -> io::Result<Self> {
        // Without a configuration, the default is a name server on this host (resolv.conf(5)).
        let (config, options) = read_system_conf().unwrap_or_else(|error| {
            tracing::debug!(%error, "failed to read the configuration of name servers; using a name server on this host");
            let here = NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into());
            (ResolverConfig::from_parts(None, Vec::new(), vec![here]), ResolverOpts::default())
        });
        Ok(Self { hosts: Hosts::from_system().unwrap_or_default(), servers: servers(config, options)? })
    }

    /// Returns the addresses of a name in the hosts file. If there are any, no name server is
    /// asked.
    fn in_hosts(&self, name: &Name) -> Vec<IpAddr> {
        let of_type = |record| self.hosts.lookup_static_host(&Query::query(name.clone(), record));
        [RecordType::AAAA, RecordType::A].into_iter().filter_map(of_type).flat_map(|found| addresses(&found)).collect()
    }
}

/// Creates a client of name servers, without a cache and without the hosts file.
fn servers(config: ResolverConfig, mut options: ResolverOpts) -> io::Result<TokioResolver> {
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = 0;
    // One server at a time, as the quota charges the sockets of a look-up.
    options.num_concurrent_reqs = 1;
    // No limit here: the quotas limit look-ups, and do so fairly.
    options.max_active_requests = usize::MAX >> 1;
    let provider = TokioRuntimeProvider::default();
    TokioResolver::builder_with_config(config, provider).with_options(options).build().map_err(io::Error::other)
}

async fn ask(servers: &TokioResolver, name: Name) -> io::Result<Vec<IpAddr>> {
    let (v6, v4) = join(servers.ipv6_lookup(name.clone()), servers.ipv4_lookup(name)).await;
    let found: Vec<IpAddr> = [&v6, &v4].into_iter().flatten().flat_map(addresses).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    // A failure takes precedence over an answer without addresses, because a failure proves nothing
    // about the name.
    let error = [v6, v4].into_iter().filter_map(Result::err).reduce(|one, other| if is_answer(&one) { other } else { one });
    match error {
        Some(error) if !is_answer(&error) => Err(io::Error::other(error)),
        _ => Err(io::Error::new(io::ErrorKind::NotFound, "the name does not exist or has no address")),
    }
}

/// Returns `true` if the name service answered that there is no address.
fn is_answer(error: &NetError) -> bool {
    error.is_no_records_found()
}

fn addresses(lookup: &Lookup) -> Vec<IpAddr> {
    lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect()
}

/// Sorts IPv6 addresses first if this host has a route to them, and IPv4 addresses first otherwise
/// (RFC 6724, rule 1).
fn sorted(mut found: Vec<IpAddr>) -> Vec<IpAddr> {
    let v6_is_reached = found.iter().find(|address| address.is_ipv6()).is_some_and(|address| has_route(*address));
    found.sort_by_key(|address| address.is_ipv6() != v6_is_reached);
    found
}

fn has_route(address: IpAddr) -> bool {
    let from: IpAddr = if address.is_ipv6() { [0; 16].into() } else { [0; 4].into() };
    UdpSocket::bind((from, 0)).and_then(|socket| socket.connect((address, DISCARD_PORT))).is_ok()
}

#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let no_name = |error| io::Error::new(io::ErrorKind::NotFound, format!("`{name}` is not a name: {error}"));
        let parsed = Name::from_utf8(name).map_err(|error| no_name(error.to_string()))?;
        if name.contains(char::is_whitespace) {
            return Err(no_name("a name cannot contain spaces".to_owned()));
        }
        let sources = self.sources()?;
        let mut found = sources.in_hosts(&parsed);
        if found.is_empty() {
            found = ask(&sources.servers, parsed).await?;
        }
        found.truncate(MAX_ADDRESSES);
        Ok(sorted(found))
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use futures_util::{StreamExt as _, stream::FuturesUnordered};
    use hickory_resolver::config::ConnectionConfig;
    use tokio::net;

    use super::*;
    use crate::{Egress, EgressConfig, Grants, Protection, QuotaLimits};

    /// Creates a client of one name server on loopback.
    fn client(port: u16) -> TokioResolver {
        let mut udp = ConnectionConfig::udp();
        udp.port = port;
        let server = NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![udp]);
        servers(ResolverConfig::from_parts(None, Vec::new(), vec![server]), ResolverOpts::default()).unwrap()
    }

    /// Builds the answer to a question: one address of the requested type, or this error code.
    fn answer(question: &[u8], code: u8) -> Vec<u8> {
        let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
        let is_v4 = question[end - 3] == 1;
        let has_answer = code == 0 && is_v4;
        let mut message = question[..2].to_vec();
        message.extend([0x81, 0x80 | code, 0, 1, 0, u8::from(has_answer), 0, 0, 0, 0]);
        message.extend(&question[12..end]);
        if has_answer {
            message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
        }
        message
    }

    async fn serve(code: u8) -> u16 {
        let socket = net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        tokio::spawn(async move {
            let mut question = [0; 512];
            while let Ok((size, from)) = socket.recv_from(&mut question).await {
                socket.send_to(&answer(&question[..size], code), from).await.unwrap();
            }
        });
        port
    }

    #[tokio::test]
    async fn name_server_answers_are_distinguished() {
        let name = || Name::from_utf8("sp1.example.").unwrap();
        let found = ask(&client(serve(0).await), name()).await;
        assert_eq!(found.unwrap(), ["192.0.2.7".parse::<IpAddr>().unwrap()]);
        let nothing = ask(&client(serve(3).await), name()).await.unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::NotFound, "{nothing}");
        let failure = ask(&client(serve(2).await), name()).await.unwrap_err();
        assert_ne!(failure.kind(), io::ErrorKind::NotFound, "{failure}");
    }

    /// A hundred abandoned look-ups at a silent server leave no socket behind.
    #[tokio::test]
    async fn dropped_lookup_ends_at_once() {
        let silent = net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let client = client(silent.local_addr().unwrap().port());
        let mut question = [0; 512];
        for n in 0..100 {
            let name = Name::from_utf8(format!("n{n}.example.")).unwrap();
            tokio::select! {
                answer = ask(&client, name) => panic!("{answer:?}"),
                asked = silent.recv_from(&mut question) => drop(asked.unwrap()),
            }
        }
        let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        assert!(open < 100, "{open} descriptors are open");
    }

    #[test]
    fn hosts_file_answers_before_name_servers() {
        let mut hosts = Hosts::default();
        hosts.read_hosts_conf(&b"10.0.0.7 pinned.example other.example"[..]).unwrap();
        let sources = Sources { hosts, servers: client(1) };
        let of = |name: &str| sources.in_hosts(&Name::from_utf8(name).unwrap());
        assert_eq!(of("pinned.example"), ["10.0.0.7".parse::<IpAddr>().unwrap()]);
        assert_eq!(of("sp1.example"), Vec::<IpAddr>::new());
    }

    /// Serves names below `good.example` only, and records all names that clients ask for.
    async fn serve_good() -> (u16, Arc<Mutex<HashSet<Vec<u8>>>>) {
        let socket = net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(HashSet::new()));
        let names = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut question = [0; 512];
            while let Ok((size, from)) = socket.recv_from(&mut question).await {
                let name = question[12..size].split(|byte| *byte == 0).next().unwrap().to_vec();
                if name.ends_with(b"\x04good\x07example") {
                    socket.send_to(&answer(&question[..size], 0), from).await.unwrap();
                }
                names.lock().unwrap().insert(name);
            }
        });
        (port, asked)
    }

    /// The name server is silent for one stub's names. That stub waits with eight look-ups, while
    /// another stub and the host get answers.
    #[tokio::test]
    async fn silent_names_of_one_stub_do_not_delay_others() {
        let (port, asked) = serve_good().await;
        let sources = Arc::new(Sources { hosts: Hosts::default(), servers: client(port) });
        let resolver =
            SystemResolver { known: Mutex::new(Some(Known { sources, checked_at: Instant::now(), changed: [None; 2] })) };
        let config = EgressConfig { resolver: Some(Arc::new(resolver)), ..EgressConfig::default() };
        let egress = Egress::new(config).unwrap();
        let (evil, good) = (egress.quota(QuotaLimits::default()), egress.quota(QuotaLimits::default()));
        let evil_grants = Grants::none().allow_host("*.evil.example", 443, Protection::Tls).unwrap();
        let good_grants = Grants::none().allow_host("good.example", 443, Protection::Tls).unwrap();
        let names: Vec<_> = (0..32).map(|n| format!("n{n}.evil.example")).collect();
        let connect = |name| egress.connect(&evil_grants, &evil, name, 443, Protection::Tls, &[]);
        let mut hanging: FuturesUnordered<_> = names.iter().map(|name| connect(name)).collect();
        let others = async {
            while asked.lock().unwrap().len() < 8 {
                tokio::task::yield_now().await;
            }
            let started = Instant::now();
            // The documentation address is found, judged and refused.
            let refused = egress.connect(&good_grants, &good, "good.example", 443, Protection::Tls, &[]).await.unwrap_err();
            let explained = egress.explain(&good_grants, "good.example", 443, Protection::Tls).await;
            (refused.to_string(), explained.addresses().count(), started.elapsed())
        };
        let (refused, explained, took) = tokio::select! {
            others = others => others,
            failed = hanging.next() => panic!("{failed:?}"),
        };
        assert!(refused.contains("192.0.2.7 is for documentation"), "{refused}");
        assert_eq!(explained, 1);
        assert!(took < Duration::from_secs(2), "{took:?}");
        let evil_names = asked.lock().unwrap().iter().filter(|name| name.ends_with(b"\x04evil\x07example")).count();
        assert_eq!(evil_names, 8, "one stub's share");
    }
}
