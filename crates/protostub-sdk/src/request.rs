use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{Credential, CredentialKind};

/// A request over HTTP before the stub sends it: its URL, its headers, and the parts that its kind
/// adds.
///
/// There are two kinds: [`http::Request`](crate::http::Request) and
/// [`websocket::Connect`](crate::websocket::Connect), the opening handshake of a WebSocket.
/// Headers, credentials and authorisation are the same for both.
#[derive(Debug, Clone)]
pub struct RequestBuilder<Kind> {
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) kind: Kind,
}

impl<Kind> RequestBuilder<Kind> {
    pub(crate) fn of_kind(url: impl AsRef<str>, kind: Kind) -> Self {
        Self { url: url.as_ref().to_owned(), headers: Vec::new(), kind }
    }

    /// Adds a header. The host sets the connection's own headers itself and refuses them from a
    /// stub: `host`, `content-length`, `connection`, `upgrade`, `sec-websocket-*` and the like.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Puts this credential into the header `authorization`, as RFC 6750 or RFC 7617 say. An
    /// assertion goes as a bearer token.
    #[must_use]
    pub fn credential(self, credential: &Credential) -> Self {
        let value = match &credential.kind {
            CredentialKind::Basic => format!("Basic {}", STANDARD.encode(&credential.value)),
            CredentialKind::Bearer | CredentialKind::Assertion => format!("Bearer {}", credential.value),
            CredentialKind::Other(kind) => format!("{kind} {}", credential.value),
        };
        self.header("authorization", value)
    }

    /// Has the host put the credential of the stub's domain into the header `authorization`. The
    /// stub does not see the credential. A stub uses this if `connect` came without a credential.
    ///
    /// The operator allows the reference for exactly one scheme, host and port. Elsewhere the
    /// request fails with [`Error::Denied`](crate::Error::Denied).
    #[must_use]
    pub fn authorized(self) -> Self {
        self.header("authorization", "{credential}")
    }

    /// Does the same as [`Self::authorized`] with a scope as the domain understands it (RFC 6749
    /// section 3.3).
    #[must_use]
    pub fn authorized_for(self, scope: &str) -> Self {
        self.header("authorization", format!("{{credential {scope}}}"))
    }
}
