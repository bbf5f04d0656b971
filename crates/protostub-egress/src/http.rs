//! HTTP within grants.

use std::{error::Error, io, net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Position, Url};

use crate::{
    egress::{Egress, Shared},
    error::{EgressError, chain},
    grants::{Grants, Protection, Refused},
    host::Host,
    quota::Quota,
    tls,
};

/// How many connections to one host may wait for the next request, and for how long: a party that may reach many hosts leaves few behind.
const MAX_IDLE_CONNECTIONS: usize = 2;
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Who we are to HTTP servers.
const USER_AGENT: &str = concat!("protostub/", env!("CARGO_PKG_VERSION"));

/// Headers that belong to the connection, to its framing or to the proxy (RFC 9110 section 7.6.1), and that only the host sets.
static HOST_HEADERS: [HeaderName; 13] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::EXPECT,
    header::FORWARDED,
    header::VIA,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("x-real-ip"),
];

/// What the names of further such headers begin with: those for the proxy, and those by which a proxy says where a request came from.
const HOST_PREFIXES: [&str; 2] = ["proxy-", "x-forwarded-"];

/// An HTTP/1.1 client that goes only where its [`Grants`] say. Clones share their connections.
///
/// It follows no redirects by itself, knows no cookies and no proxy of the environment. The addresses that it dials are those that were
/// judged.
#[derive(Debug, Clone)]
pub struct HttpClient {
    grants: Arc<Grants>,
    client: reqwest::Client,
}

impl Egress {
    /// A client within grants, with connections of its own. Its look-ups are charged to the quota,
    /// its sockets are not.
    ///
    /// # Errors
    /// [`EgressError::Config`], if the client cannot be set up.
    pub fn http(&self, grants: &Grants, quota: &Quota) -> Result<HttpClient, EgressError> {
        let grants = Arc::new(grants.clone());
        let mut tls = rustls::ClientConfig::clone(&self.0.tls);
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .dns_resolver(CheckedResolver { shared: Arc::clone(&self.0), grants: Arc::clone(&grants), quota: quota.clone() })
            .connect_timeout(self.0.connect_timeout)
            .read_timeout(self.0.read_timeout)
            .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .user_agent(USER_AGENT)
            .no_proxy();
        if let Some(proxy) = &self.0.proxy {
            let url = proxy.url.clone();
            let past_loopback = move |target: &Url| {
                let host = Host::parse(target.host_str()?).ok()?;
                (!host.is_loopback()).then(|| url.clone())
            };
            let mut through = reqwest::Proxy::custom(past_loopback);
            if let Some(value) = &proxy.authorization {
                through = through.custom_http_auth(value.clone());
            }
            builder = builder.proxy(through);
        }
        let client = builder.build().map_err(|error| EgressError::Config(chain(&error)))?;
        Ok(HttpClient { grants, client })
    }
}

impl HttpClient {
    /// Begins a request to an `https` URL, or an `http` one where the grants allow to do without TLS.
    ///
    /// What sending it fails with becomes an [`EgressError`] by `from`, also where it was refused for what the name resolves to.
    ///
    /// # Errors
    /// [`Refused`](EgressError::Refused) by the grants, for the host and port; [`Invalid`](EgressError::Invalid), if the URL is not of these
    /// schemes, or has a user or password (which would end up in logs: send an `authorization` header).
    pub fn request(&self, method: Method, url: &Url) -> Result<reqwest::RequestBuilder, EgressError> {
        let invalid = |problem: &str| EgressError::invalid(shown(url), problem);
        let protection = match url.scheme() {
            "https" => Protection::Tls,
            "http" => Protection::Plain,
            _ => return Err(invalid("it is neither https nor http")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("a user or password in a URL is not sent; use a header"));
        }
        let host = url.host_str().ok_or_else(|| invalid("it has no host"))?;
        let host = Host::parse(host).map_err(|problem| invalid(&problem))?;
        let port = url.port_or_known_default().ok_or_else(|| invalid("it has no port"))?;
        self.grants.check_host(&host, port, protection)?;
        Ok(self.client.request(method, url.clone()))
    }

    /// Gets a URL, following at most so many redirects. Every hop is checked as the first was; none leads from `https` to `http`. The
    /// response's own `url()` is where it came from in the end. Its body is not limited: take it piece by piece.
    ///
    /// # Errors
    /// As [`request`](Self::request); [`Redirect`](EgressError::Redirect), if there are too many or one leads nowhere; otherwise what failed.
    pub async fn get(&self, url: &Url, max_redirects: usize) -> Result<reqwest::Response, EgressError> {
        self.get_with(url, HeaderMap::new(), max_redirects).await
    }

    /// The same, sending these headers with every request: conditions and ranges. They are no place for secrets, since redirects get them too.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn get_with(&self, url: &Url, headers: HeaderMap, max_redirects: usize) -> Result<reqwest::Response, EgressError> {
        let mut url = url.clone();
        let mut followed = 0;
        loop {
            let response = self.request(Method::GET, &url)?.headers(headers.clone()).send().await?;
            if !is_redirect(response.status()) {
                return Ok(response);
            }
            let fail = |problem: String| EgressError::Redirect { from: shown(&url), problem };
            let Some(location) = response.headers().get(header::LOCATION) else { return Ok(response) };
            if followed == max_redirects {
                return Err(fail(format!("{max_redirects} redirects were followed already")));
            }
            let next = location.to_str().ok().and_then(|location| url.join(location).ok());
            let next = next.ok_or_else(|| fail("its location is no URL".into()))?;
            if url.scheme() == "https" && next.scheme() != "https" {
                return Err(fail(format!("it leads from https to `{}`", shown(&next))));
            }
            tracing::debug!(from = %shown(&url), to = %shown(&next), "following a redirect");
            followed += 1;
            url = next;
        }
    }
}

/// Reads headers of a request that somebody else asks for.
///
/// # Errors
/// [`EgressError::Invalid`], if a name or value cannot be one, or belongs to the connection and is the host's: `host`, `content-length`,
/// `connection`, `via`, `proxy-…`, `x-forwarded-…` and the like.
pub fn request_headers(headers: &[(String, String)]) -> Result<HeaderMap, EgressError> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let invalid = |problem: &str| EgressError::invalid(name.as_str(), problem);
        let name = HeaderName::try_from(name).map_err(|_| invalid("it cannot be the name of a header"))?;
        if HOST_HEADERS.contains(&name) || HOST_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix)) {
            return Err(invalid("this header is set by the host alone"));
        }
        let value = HeaderValue::try_from(value).map_err(|_| invalid("the value of this header has characters that none has"))?;
        map.try_append(name, value).map_err(|_| invalid("it is one header too many"))?;
    }
    Ok(map)
}

impl Refused {
    /// Says which URL it was about: a resolver is asked for names only.
    fn about(self, url: &Url) -> Self {
        let protection = if url.scheme() == "https" { Protection::Tls } else { Protection::Plain };
        self.on(url.port_or_known_default().unwrap_or_default(), protection)
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// A URL as errors and logs show it: without user, password, query and fragment, which may be secrets.
fn shown(url: &Url) -> String {
    format!("{}{}", &url[..Position::BeforeUsername], &url[Position::BeforeHost..Position::AfterPath])
}

impl From<reqwest::Error> for EgressError {
    fn from(error: reqwest::Error) -> Self {
        // What failed within the client comes out of it in boxes.
        let mut next: Option<&(dyn Error + 'static)> = Some(&error);
        while let Some(cause) = next {
            if let Some(ours) = cause.downcast_ref::<Self>() {
                return match (ours, error.url()) {
                    (Self::Refused(refused), Some(url)) => Self::Refused(refused.clone().about(url)),
                    _ => ours.clone(),
                };
            }
            if let Some(tls) = cause.downcast_ref::<io::Error>().filter(|cause| tls::is_tls(cause)) {
                let authority = |url: &Url| url[Position::BeforeHost..Position::AfterPort].to_owned();
                return Self::Tls { target: error.url().map_or_else(String::new, authority), problem: tls::problem(tls) };
            }
            next = cause.source();
        }
        let url = error.url().map_or_else(String::new, shown);
        let timed_out = error.is_timeout();
        Self::Http { url, problem: chain(&error.without_url()), timed_out }
    }
}

/// Finds addresses for the client, and lets through only those that may be dialled.
#[derive(Debug)]
struct CheckedResolver {
    shared: Arc<Shared>,
    grants: Arc<Grants>,
    quota: Quota,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (shared, grants, quota) = (Arc::clone(&self.shared), Arc::clone(&self.grants), self.quota.clone());
        Box::pin(async move {
            let host = Host::parse(name.as_str()).map_err(|problem| EgressError::invalid(name.as_str(), problem))?;
            // The proxy's address is the operator's choice. Whoever asks for the proxy's name as a server gets there through the proxy; and if
            // that name is `localhost`, it was judged before the request began.
            let is_proxy = shared.proxy.as_ref().is_some_and(|proxy| proxy.host == host);
            quota.attempt().map_err(|limit| EgressError::Limit { target: host.to_string(), limit })?;
            let addresses = shared.resolve(&quota, &host).await?;
            let admitted = match is_proxy {
                true => addresses,
                false => grants.admit(&host, 0, Protection::Tls, addresses).map_err(EgressError::from)?,
            };
            Ok(Box::new(admitted.into_iter().map(|address| SocketAddr::new(address, 0))) as Addrs)
        })
    }
}
