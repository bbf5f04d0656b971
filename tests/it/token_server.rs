//! A token endpoint that follows RFC 6749: client credentials (section 4.4), refresh tokens
//! (section 6) with rotation, and errors (section 5.2).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Json, Router,
    extract::State as Extracted,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::post,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Semaphore};
use url::{Url, form_urlencoded};

/// Maximum number of concurrent answers.
const PLACES: u32 = 64;

pub(crate) struct TokenServer {
    pub(crate) endpoint: Url,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Permits of concurrent answers.
    gate: Semaphore,
}

/// State of the server, which a test may change at any time.
pub(crate) struct State {
    /// Secret of the client `runtime`.
    pub(crate) secret: String,
    /// Refresh token, valid once.
    pub(crate) refresh_token: String,
    /// Prefix of the tokens.
    pub(crate) prefix: String,
    pub(crate) expires_in: Option<u64>,
    /// The scope in answers. `None` for answers without a scope.
    pub(crate) scope: Option<String>,
    /// Answers that replace the next ones.
    pub(crate) failures: VecDeque<(u16, Value)>,
    /// Parameters of all requests.
    pub(crate) requests: Vec<BTreeMap<String, String>>,
    issued: u64,
}

impl TokenServer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = State {
            secret: "open sesame".to_owned(),
            refresh_token: "refresh-0".to_owned(),
            prefix: "token".to_owned(),
            expires_in: Some(3600),
            scope: None,
            failures: VecDeque::new(),
            requests: Vec::new(),
            issued: 0,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), gate: Semaphore::new(PLACES as usize) });
        let app = Router::new().route("/token", post(token)).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { endpoint: format!("http://{address}/token").parse().expect("a URL"), shared }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    /// Makes later requests wait until the guard is dropped.
    pub(crate) async fn close(&self) -> impl Drop {
        self.shared.gate.acquire_many(PLACES).await.expect("open")
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn token(Extracted(shared): Extracted<Arc<Shared>>, headers: HeaderMap, body: String) -> Response {
    let form: BTreeMap<String, String> = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    shared.state().requests.push(form.clone());
    let _open = shared.gate.acquire().await;
    let mut state = shared.state();
    if let Some((status, body)) = state.failures.pop_front() {
        return answer(status, body);
    }
    let is_form = headers.get(header::CONTENT_TYPE).is_some_and(|value| value == "application/x-www-form-urlencoded");
    if !is_form {
        return answer(400, json!({ "error": "invalid_request" }));
    }
    let in_header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Basic "));
    let client = match in_header {
        Some(basic) => basic_client(basic),
        None => form.get("client_id").cloned().zip(form.get("client_secret").cloned()),
    };
    let is_public = form.get("client_id").is_some_and(|client| client == "public");
    if !is_public && client != Some(("runtime".to_owned(), state.secret.clone())) {
        let refused = json!({ "error": "invalid_client", "error_description": format!("no client has the secret {client:?}") });
        return answer(401, refused);
    }
    let refresh_token = match form.get("grant_type").map(String::as_str) {
        Some("client_credentials") if !is_public => None,
        Some("refresh_token") if form.get("refresh_token") == Some(&state.refresh_token) => {
            state.refresh_token = format!("{}+", state.refresh_token);
            Some(state.refresh_token.clone())
        }
        Some("refresh_token") => {
            let description = format!("{:?} is not good", form.get("refresh_token"));
            return answer(400, json!({ "error": "invalid_grant", "error_description": description }));
        }
        _ => return answer(400, json!({ "error": "unsupported_grant_type" })),
    };
    state.issued += 1;
    let mut token = json!({ "access_token": format!("{}-{}", state.prefix, state.issued), "token_type": "Bearer" });
    if let Some(seconds) = state.expires_in {
        token["expires_in"] = json!(seconds);
    }
    if let Some(scope) = &state.scope {
        token["scope"] = json!(scope);
    }
    if let Some(refresh_token) = refresh_token {
        token["refresh_token"] = json!(refresh_token);
    }
    answer(200, token)
}

/// Decodes the form-encoded id and secret (section 2.3.1).
fn basic_client(basic: &str) -> Option<(String, String)> {
    let text = String::from_utf8(BASE64_STANDARD.decode(basic).ok()?).ok()?;
    let decoded = |text: &str| form_urlencoded::parse(text.as_bytes()).next().map(|(text, _)| text.into_owned());
    let (id, secret) = text.split_once(':')?;
    Some((decoded(id)?, decoded(secret)?))
}

fn answer(status: u16, body: Value) -> Response {
    let status = StatusCode::from_u16(status).expect("a status");
    (status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}
