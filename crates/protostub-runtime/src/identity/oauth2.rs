//! OAuth 2.0 (RFC 6749): access tokens for client credentials (section 4.4) and for a refresh token
//! (section 6).

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    fmt,
    future::Future,
    io::Write as _,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use oauth2::{
    AsyncHttpClient, AuthType, ClientId, ClientSecret, HttpRequest, HttpResponse, RefreshToken, RequestTokenError, Scope,
    TokenResponse as _, TokenUrl,
    basic::{BasicClient, BasicErrorResponse, BasicErrorResponseType, BasicTokenResponse, BasicTokenType},
};
use protostub_egress::{EgressError, HttpClient, response_error};
use protostub_sandbox::Secrets;
use protostub_types::{Domain, OAuthScope, SafeText, UniqueMap, deadline};
use tokio::{sync::Semaphore, time::timeout};
use url::Url;

use super::{Credential, CredentialError, CredentialKind, CredentialProvider, CredentialRequest, Network, Secret};
use crate::error::SHUTTING_DOWN;

/// Timeout of a token request, from resolving the server's name to the end of its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Maximum size of a token endpoint's answer, in bytes: tokens have to fit into headers.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Time before its expiry at which a token is renewed. A token with a shorter life is renewed after
/// half of it.
const RENEW_BEFORE: Duration = Duration::from_secs(60);

/// Time for which a token with an unknown life is kept.
const UNKNOWN_LIFE: Duration = Duration::from_secs(60);

/// Time for which the first failure is remembered and the server gets no request. Each further
/// failure doubles it, up to the longest.
const FIRST_MEMORY: Duration = Duration::from_millis(500);
const LONGEST_MEMORY: Duration = Duration::from_secs(30);

/// Maximum number of tokens of different scopes that are kept for a domain.
const MAX_TOKENS: usize = 32;

/// The parameters that each token request has (RFC 6749). Section 3.2 forbids repeating them, and a
/// second `scope` would be one that no stub has asked for.
const OWN_PARAMETERS: [&str; 5] = ["grant_type", "scope", "client_id", "client_secret", "refresh_token"];

/// Access tokens from OAuth 2.0 token endpoints.
///
/// There is one token request at a time for a domain, regardless of the number of callers. A token
/// is renewed a minute before it expires, or after half of its life if that is shorter. While the
/// renewal fails, the old token is handed out until it expires.
///
/// Requests use the runtime's egress, with its roots and its proxy, and reach only the endpoint.
/// They use TLS unless the endpoint is this machine.
#[derive(Debug, Default)]
pub struct OAuth2Credentials {
    by_domain: UniqueMap<Domain, Arc<Account>>,
}

impl OAuth2Credentials {
    /// Returns a provider without clients.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a client. Its tokens are the credential of exactly this domain. Building a runtime
    /// fails for a domain that was given twice, and for a text that is not a scope token.
    #[must_use]
    pub fn with(mut self, domain: Domain, client: OAuth2Client) -> Self {
        let account = Account { domain: domain.clone(), client, turn: Semaphore::new(1), state: Mutex::default() };
        self.by_domain.add(domain, Arc::new(account));
        self
    }
}

/// The host program as a client of a domain's authorization server. `Debug` shows no secret.
#[derive(Debug, Clone)]
#[must_use]
pub struct OAuth2Client {
    token_endpoint: Url,
    client_id: String,
    client_secret: Option<Secret>,
    refresh_token: Option<Secret>,
    scopes: BTreeSet<String>,
    parameters: Vec<(String, String)>,
    secret_in_body: bool,
    allow_private: bool,
}

impl OAuth2Client {
    /// Returns a client that gets tokens for itself: the grant `client_credentials`.
    pub fn client_credentials(token_endpoint: Url, client_id: impl Into<String>, client_secret: Secret) -> Self {
        Self {
            token_endpoint,
            client_id: client_id.into(),
            client_secret: Some(client_secret),
            refresh_token: None,
            scopes: BTreeSet::new(),
            parameters: Vec::new(),
            secret_in_body: false,
            allow_private: false,
        }
    }

    /// Returns a client that gets tokens for a user who allowed it once: the grant `refresh_token`.
    /// A new refresh token from the server replaces this one. If this one is in a file, the file is
    /// replaced.
    pub fn refresh_token(token_endpoint: Url, client_id: impl Into<String>, refresh_token: Secret) -> Self {
        let client = Self::client_credentials(token_endpoint, client_id, Secret::text(""));
        Self { client_secret: None, refresh_token: Some(refresh_token), ..client }
    }

    /// Sets the client's own secret, for a client with a refresh token that has a secret too.
    pub fn client_secret(self, secret: Secret) -> Self {
        Self { client_secret: Some(secret), ..self }
    }

    /// Sets the scopes that tokens may have, each a scope token (RFC 6749 section 3.3). A stub that
    /// names no scope gets a token for all of these. A request for another scope is refused, and so
    /// is a token that has one. Default: the request names no scope, and the server decides.
    pub fn scopes<S: Into<String>>(self, scopes: impl IntoIterator<Item = S>) -> Self {
        Self { scopes: scopes.into_iter().map(Into::into).collect(), ..self }
    }

    /// Adds a parameter to every token request: `audience`, or `resource` (RFC 8707). A parameter
    /// must not be a secret.
    pub fn parameter(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.parameters.push((name.into(), value.into()));
        self
    }

    /// Sends the client's secret in the body instead of a header, for servers that require it.
    /// Default: in the header.
    pub fn secret_in_body(self, secret_in_body: bool) -> Self {
        Self { secret_in_body, ..self }
    }

    /// Lets the token endpoint be in a private network. Default: no.
    pub fn allow_private(self, allow_private: bool) -> Self {
        Self { allow_private, ..self }
    }
}

#[async_trait]
impl CredentialProvider for OAuth2Credentials {
    async fn credential(&self, request: &CredentialRequest<'_>) -> Result<Option<Credential>, CredentialError> {
        let Some(account) = self.by_domain.get(request.domain) else { return Ok(None) };
        let scopes = account.scopes(request.scope)?;
        if let Some(answer) = account.kept(&scopes) {
            return answer.map(Some);
        }
        let (account, network) = (Arc::clone(account), request.network.clone());
        // This is a task of its own, because the caller may drop its future. A new refresh token
        // must not be lost with that.
        let asking = tokio::spawn(async move { account.obtain(scopes, &network).await });
        let gone = |_| Err(CredentialError::Temporary(SHUTTING_DOWN.into()));
        asking.await.unwrap_or_else(gone).map(Some)
    }

    fn check(&self) -> Result<(), CredentialError> {
        self.by_domain.check().map_err(|repeated| CredentialError::Failed(SafeText::display(repeated)))?;
        for (domain, account) in self.by_domain.iter() {
            if let Some(scope) = account.client.scopes.iter().find(|scope| !OAuthScope::is_token(scope)) {
                let scope = SafeText::quote(scope);
                let problem =
                    format!("`{scope}`, a scope of {domain}, is not a scope token; write each scope as a text of its own");
                return Err(CredentialError::Failed(problem.into()));
            }
            let given = |name: &&str| account.client.parameters.iter().any(|(given, _)| given == name);
            if let Some(name) = OWN_PARAMETERS.iter().find(|name| given(name)) {
                let problem =
                    format!("`{name}` cannot be a further parameter of a token request for {domain}; use the setting for it");
                return Err(CredentialError::Failed(problem.into()));
            }
        }
        Ok(())
    }

    fn forget(&self, domain: &Domain) {
        if let Some(account) = self.by_domain.get(domain) {
            account.state().kept.values_mut().for_each(|kept| kept.token = None);
        }
    }
}

type Scopes = BTreeSet<String>;

/// The client and the tokens of a domain.
struct Account {
    domain: Domain,
    client: OAuth2Client,
    /// Allows one token request at a time: a refresh token may be valid for only one.
    turn: Semaphore,
    state: Mutex<TokenState>,
}

#[derive(Default)]
struct TokenState {
    kept: HashMap<Scopes, CachedToken>,
    /// The refresh token that replaced the one of the settings.
    rotated: Option<Rotated>,
}

#[derive(Default)]
struct CachedToken {
    token: Option<Token>,
    failure: Option<TokenFailure>,
}

struct Token {
    credential: Credential,
    renew_at: SystemTime,
}

struct TokenFailure {
    error: CredentialError,
    times: u32,
    until: Instant,
}

struct Rotated {
    from: String,
    to: String,
}

impl Account {
    /// Returns the scopes to ask for: those of the stub, if the operator lists them, or all of the
    /// operator's. The set is empty only if the stub names none and the operator lists none.
    fn scopes(&self, asked: Option<&str>) -> Result<Scopes, CredentialError> {
        let Some(asked) = asked else { return Ok(self.client.scopes.clone()) };
        let asked = OAuthScope::parse(asked).map_err(|error| CredentialError::Refused(SafeText::display(error)))?.into_tokens();
        match asked.difference(&self.client.scopes).next() {
            Some(_) => Err(CredentialError::Refused(SafeText::display(format_args!(
                "the runtime's settings do not grant the requested scope to {}",
                self.domain
            )))),
            None => Ok(asked),
        }
    }

    /// Returns an answer that needs no request: a token that is still valid, or a recent failure.
    fn kept(&self, scopes: &Scopes) -> Option<Result<Credential, CredentialError>> {
        let state = self.state();
        let CachedToken { token, failure } = state.kept.get(scopes)?;
        let token = token.as_ref().filter(|token| !token.credential.is_expired());
        let failure = failure.as_ref().filter(|failure| Instant::now() < failure.until);
        match (token, failure) {
            (Some(token), _) if SystemTime::now() < token.renew_at => Some(Ok(token.credential.clone())),
            // The renewal has just failed.
            (Some(token), Some(_)) => Some(Ok(token.credential.clone())),
            (None, Some(failure)) => Some(Err(failure.error.clone())),
            (_, None) => None,
        }
    }

    async fn obtain(&self, scopes: Scopes, network: &Network) -> Result<Credential, CredentialError> {
        let Ok(_turn) = self.turn.acquire().await else {
            return Err(CredentialError::Temporary(SHUTTING_DOWN.into()));
        };
        // The previous caller may have got the token.
        if let Some(answer) = self.kept(&scopes) {
            return answer;
        }
        let asked_at = SystemTime::now();
        let answer = timeout(REQUEST_TIMEOUT, self.request(&scopes, network)).await;
        let answer = answer.unwrap_or_else(|_| {
            let reason = format!("the server did not answer within {} s", REQUEST_TIMEOUT.as_secs());
            Err(CredentialError::Temporary(self.in_words(&reason)))
        });
        let token = answer.and_then(|answer| self.token(&answer, asked_at));
        self.keep(scopes, token)
    }

    /// Returns the token of an answer. The token's life is counted from the request on.
    fn token(&self, answer: &BasicTokenResponse, asked_at: SystemTime) -> Result<Token, CredentialError> {
        self.check_answered(answer)?;
        let kind = match answer.token_type() {
            BasicTokenType::Bearer => CredentialKind::Bearer,
            other => CredentialKind::Other(other.as_ref().to_owned()),
        };
        let life = answer.expires_in();
        let expires = life.and_then(|life| asked_at.checked_add(life));
        let fresh = life.map_or(UNKNOWN_LIFE, |life| life - RENEW_BEFORE.min(life / 2));
        let credential = Credential { kind, value: answer.access_token().secret().clone(), expires };
        if credential.is_expired() {
            return Err(CredentialError::Failed(self.in_words("the token in the answer had already expired")));
        }
        let renew_at = asked_at.checked_add(fresh).or(asked_at.checked_add(UNKNOWN_LIFE)).unwrap_or(asked_at);
        tracing::debug!(target: "protostub", domain = %self.domain, expires_in = ?life, "the token endpoint has issued a token");
        Ok(Token { credential, renew_at })
    }

    /// Refuses a token that has a scope which the operator does not list. An answer without `scope`
    /// is for the requested scopes (RFC 6749 section 5.1).
    fn check_answered(&self, answer: &BasicTokenResponse) -> Result<(), CredentialError> {
        let granted = &self.client.scopes;
        let mut answered = answer.scopes().into_iter().flatten().map(|scope| scope.as_str());
        match answered.find(|scope| !scope.is_empty() && !granted.contains(*scope)) {
            Some(scope) if !granted.is_empty() => {
                let scope = SafeText::quote(scope);
                Err(CredentialError::Failed(self.in_words(&format!(
                    "the token has the scope `{scope}`, which the runtime's settings do not grant; grant it, or let the server issue fewer scopes"
                ))))
            }
            _ => Ok(()),
        }
    }

    fn keep(&self, scopes: Scopes, answer: Result<Token, CredentialError>) -> Result<Credential, CredentialError> {
        let mut state = self.state();
        if state.kept.len() >= MAX_TOKENS && !state.kept.contains_key(&scopes) {
            state.kept.clear();
        }
        let kept = state.kept.entry(scopes).or_default();
        match answer {
            Ok(token) => {
                let credential = token.credential.clone();
                *kept = CachedToken { token: Some(token), failure: None };
                Ok(credential)
            }
            Err(error) => {
                let times = kept.failure.as_ref().map_or(0, |failure| failure.times + 1);
                let memory = FIRST_MEMORY.saturating_mul(1 << times.min(8)).min(LONGEST_MEMORY);
                kept.failure = Some(TokenFailure { error: error.clone(), times, until: deadline(Instant::now(), memory) });
                match kept.token.as_ref().filter(|token| !token.credential.is_expired()) {
                    Some(token) => {
                        tracing::warn!(target: "protostub", domain = %self.domain, %error, "failed to renew a token; the old one is still used");
                        Ok(token.credential.clone())
                    }
                    None => Err(error),
                }
            }
        }
    }

    /// Sends one token request.
    async fn request(&self, scopes: &Scopes, network: &Network) -> Result<BasicTokenResponse, CredentialError> {
        let OAuth2Client { token_endpoint, client_id, parameters, .. } = &self.client;
        let secret = match &self.client.client_secret {
            Some(secret) => Some(secret.read().await?),
            None => None,
        };
        let refresh_token = match &self.client.refresh_token {
            Some(secret) => Some(self.current(secret.read().await?)),
            None => None,
        };
        // A server's answer may repeat the secrets of the request.
        let secrets = Secrets::new();
        secret.iter().chain(&refresh_token).for_each(|secret| secrets.hold_text(secret));

        let http =
            network.http(&self.domain, token_endpoint, self.client.allow_private).map_err(|error| self.unreachable(&error))?;
        let client = BasicClient::new(ClientId::new(client_id.clone()))
            .set_token_uri(TokenUrl::from_url(token_endpoint.clone()))
            .set_auth_type(if self.client.secret_in_body { AuthType::RequestBody } else { AuthType::BasicAuth });
        let client = match secret {
            Some(secret) => client.set_client_secret(ClientSecret::new(secret)),
            None => client,
        };
        let scopes = scopes.iter().cloned().map(Scope::new);
        let parameters = parameters.iter().map(|(name, value)| (Cow::from(name.as_str()), Cow::from(value.as_str())));
        let http = TokenEndpoint(http);
        let answer = match &refresh_token {
            None => {
                let request = client.exchange_client_credentials().add_scopes(scopes);
                let request = parameters.fold(request, |request, (name, value)| request.add_extra_param(name, value));
                request.request_async(&http).await
            }
            Some(token) => {
                let token = RefreshToken::new(token.clone());
                let request = client.exchange_refresh_token(&token).add_scopes(scopes);
                let request = parameters.fold(request, |request, (name, value)| request.add_extra_param(name, value));
                request.request_async(&http).await
            }
        };
        let answer = answer.map_err(|error| self.refused(error, &secrets))?;
        if let (Some(from), Some(to)) = (refresh_token, answer.refresh_token()) {
            self.rotate(from, to.secret().clone()).await;
        }
        Ok(answer)
    }

    /// Returns the refresh token that is valid now, for the one in the settings.
    fn current(&self, settings: String) -> String {
        match &self.state().rotated {
            Some(rotated) if rotated.from == settings => rotated.to.clone(),
            _ => settings,
        }
    }

    /// Stores the new refresh token that the server sent instead of `used`.
    async fn rotate(&self, used: String, to: String) {
        if used == to {
            return;
        }
        let path = self.client.refresh_token.as_ref().and_then(Secret::path);
        if let Some(path) = path {
            match replace_file(path, &to).await {
                Ok(()) => {
                    self.state().rotated = None;
                    return;
                }
                Err(error) => tracing::warn!(
                    target: "protostub",
                    domain = %self.domain,
                    file = %path.display(),
                    %error,
                    "failed to write the new refresh token, which is lost when the runtime ends; let the runtime write to the folder"
                ),
            }
        }
        let mut state = self.state();
        let from = state.rotated.take().filter(|rotated| rotated.to == used).map_or(used, |rotated| rotated.from);
        state.rotated = Some(Rotated { from, to });
    }

    fn refused(&self, error: RequestTokenError<ExchangeError, BasicErrorResponse>, secrets: &Secrets) -> CredentialError {
        match error {
            RequestTokenError::Request(ExchangeError::Egress(error)) => self.unreachable(&error),
            RequestTokenError::Request(ExchangeError::Unavailable(problem)) => {
                CredentialError::Temporary(self.in_words(&problem))
            }
            RequestTokenError::Request(ExchangeError::TooLarge) => {
                CredentialError::Failed(self.in_words(&format!("the answer has more than {MAX_ANSWER_BYTES} bytes")))
            }
            RequestTokenError::ServerResponse(response) => {
                let description = response.error_description().map_or("", String::as_str);
                let description = SafeText::quote(&secrets.redact(description));
                let code = SafeText::quote(&secrets.redact(response.error().as_ref()));
                let advice = match response.error() {
                    BasicErrorResponseType::InvalidClient => "; check the client's secret",
                    BasicErrorResponseType::InvalidGrant => "; get a new refresh token",
                    _ => "",
                };
                let colon = if description.is_empty() { "" } else { ": " };
                CredentialError::Failed(
                    self.in_words(&format!("the server refused the request: {code}{colon}{description}{advice}")),
                )
            }
            // The text of this error may quote the token.
            RequestTokenError::Parse(error, _) => {
                CredentialError::Failed(self.in_words(&format!("the answer cannot be read, at `{}`", error.path())))
            }
            RequestTokenError::Other(_) => CredentialError::Failed(self.in_words("the answer is not JSON, or is empty")),
        }
    }

    fn unreachable(&self, error: &EgressError) -> CredentialError {
        let reason = self.in_words(&error.to_string());
        match error {
            EgressError::Refused(_) | EgressError::Invalid { .. } | EgressError::Config(_) => CredentialError::Failed(reason),
            _ => CredentialError::Temporary(reason),
        }
    }

    /// Returns the text of an error, with the domain and the token endpoint.
    fn in_words(&self, problem: &str) -> SafeText {
        let Self { domain, client: OAuth2Client { token_endpoint, .. }, .. } = self;
        let server = &token_endpoint[url::Position::BeforeHost..url::Position::AfterPath];
        SafeText::display(format_args!("failed to get a token for {domain} from the token endpoint {server}: {problem}"))
    }

    fn state(&self) -> MutexGuard<'_, TokenState> {
        // A poisoned state is usable: it is plain data, and valid after every statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.client.fmt(f)
    }
}

/// The error of an exchange with a token endpoint.
#[derive(Debug, thiserror::Error)]
enum ExchangeError {
    #[error(transparent)]
    Egress(#[from] EgressError),
    #[error("{0}")]
    Unavailable(String),
    #[error("the answer is too large")]
    TooLarge,
}

/// The HTTP client of a token request. It reaches only the token endpoint.
struct TokenEndpoint(HttpClient);

impl<'c> AsyncHttpClient<'c> for TokenEndpoint {
    type Error = ExchangeError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, ExchangeError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(exchange(&self.0, request))
    }
}

/// Sends a token request, and receives an answer of limited size.
async fn exchange(http: &HttpClient, request: HttpRequest) -> Result<HttpResponse, ExchangeError> {
    let (head, body) = request.into_parts();
    let url = Url::parse(&head.uri.to_string()).map_err(|error| ExchangeError::Unavailable(error.to_string()))?;
    let mut response = http.send(head.method, &url, head.headers, body).await?;
    let status = response.status();
    if status.is_server_error() || status.as_u16() == 429 {
        return Err(ExchangeError::Unavailable(format!("the server answers {status}")));
    }
    let mut answer = HttpResponse::new(Vec::new());
    *answer.status_mut() = status;
    *answer.headers_mut() = std::mem::take(response.headers_mut());
    while let Some(piece) = response.chunk().await.map_err(response_error)? {
        if answer.body().len() + piece.len() > MAX_ANSWER_BYTES {
            return Err(ExchangeError::TooLarge);
        }
        answer.body_mut().extend_from_slice(&piece);
    }
    Ok(answer)
}

/// Replaces the content of a file by a secret, entirely or not at all. No other user can read the
/// file.
async fn replace_file(path: &Path, secret: &str) -> std::io::Result<()> {
    let (path, text) = (path.to_owned(), format!("{secret}\n"));
    let write = move || {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        Ok(())
    };
    tokio::task::spawn_blocking(write).await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}
