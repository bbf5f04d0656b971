//! Credentials that a stub refers to in a header, and does not see: `{credential}` replaces the
//! value of `authorization`.

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::HeaderValue;
use protostub_transport::Authorization;
use protostub_types::OAuthScope;
use url::Url;

use super::identity::MAX_SCOPE_BYTES;
use crate::{Credential, CredentialKind, contract::types::Error, state::StubState};

/// The header of a credential (RFC 9110 section 11.6.2). No other value of it can begin with a
/// brace.
const HEADER: &str = "authorization";
const REFERENCE: &str = "{credential";

/// The way in which a stub uses its domain's credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CredentialUse {
    /// The stub gets the value.
    ByValue,
    /// The stub refers to the credential in a header. The host puts the value there.
    ByReference,
}

/// Parses a reference to a credential, and returns its scope. `{credential}` has no scope,
/// `{credential chat.read}` has one. Returns `None` if the value is not a reference.
fn reference(value: &str) -> Option<Result<Option<&str>, Error>> {
    let rest = value.trim().strip_prefix('{')?;
    let scope = || {
        let inner = rest.strip_suffix('}')?;
        match inner.strip_prefix(&REFERENCE[1..])? {
            "" => Some(None),
            scope => scope.strip_prefix(' ').map(str::trim).filter(|scope| !scope.is_empty()).map(Some),
        }
    };
    Some(
        scope().ok_or_else(|| {
            Error::Invalid("a reference to the credential is `{credential}`, or `{credential <scope>}`".to_owned())
        }),
    )
}

impl StubState {
    /// Returns how the stub uses its domain's credential.
    pub(crate) fn credential_use(&self) -> CredentialUse {
        if self.config.credential_origins.is_empty() { CredentialUse::ByValue } else { CredentialUse::ByReference }
    }

    /// Takes the reference to a credential out of a request's headers, and prepares its
    /// replacement. Returns `None` without a reference. The credential is looked up only when the
    /// request is sent.
    pub(crate) fn authorize(&mut self, url: &str, headers: &mut Vec<(String, String)>) -> Result<Option<Authorization>, Error> {
        let is_header = |(name, _): &(String, String)| name.eq_ignore_ascii_case(HEADER);
        let Some(place) = headers.iter().position(|header| is_header(header) && reference(&header.1).is_some()) else {
            return Ok(None);
        };
        if headers.iter().filter(|header| is_header(header)).count() > 1 {
            return Err(Error::Invalid(format!("`{HEADER}` occurs twice; a reference must be the only one")));
        }
        let (_, value) = headers.remove(place);
        let scope = reference(&value).transpose()?.flatten().map(str::to_owned);
        if let Some(bytes) = scope.as_ref().map(String::len).filter(|bytes| *bytes > MAX_SCOPE_BYTES) {
            return Err(Error::Limit(format!("the scope has {bytes} bytes, and the limit is {MAX_SCOPE_BYTES}")));
        }
        if let Some(Err(error)) = scope.as_deref().map(OAuthScope::parse) {
            return Err(Error::Denied(error.to_string()));
        }
        let origins = &self.config.credential_origins;
        let target = Url::parse(url).map_err(|error| Error::Invalid(format!("the URL cannot be read: {error}")))?;
        if !origins.iter().any(|origin| origin.is_of(&target)) {
            return Err(Error::Denied(format!(
                "the credential of {} may not go to {}; the operator lists the permitted origins in `credential-origins`",
                self.config.domain,
                target.origin().ascii_serialization(),
            )));
        }
        let (source, domain, secrets) =
            (Arc::clone(&self.services.credentials), self.config.domain.clone(), Arc::clone(&self.secrets));
        Ok(Some(Box::pin(async move {
            let credential = source.credential(&domain, scope.as_deref()).await.map_err(|error| error.to_string())?;
            let credential = credential.filter(|credential| !credential.is_expired());
            let credential = credential.ok_or_else(|| format!("the Identity Module has no credential for {domain}"))?;
            // The server may send the value back, and the stub may repeat it.
            secrets.hold(&credential);
            value_of(&credential)
        })))
    }
}

/// Makes the value of `authorization`, which hides itself in `Debug`.
fn value_of(credential: &Credential) -> Result<HeaderValue, String> {
    let text = match &credential.kind {
        CredentialKind::Bearer => format!("Bearer {}", credential.value),
        CredentialKind::Basic => format!("Basic {}", BASE64_STANDARD.encode(&credential.value)),
        CredentialKind::Assertion | CredentialKind::Other(_) => {
            return Err("only a bearer token, or a user and password, can be used by reference".to_owned());
        }
    };
    // The error must not quote the invalid value.
    let mut value =
        HeaderValue::try_from(text).map_err(|_| "the credential has characters that a header cannot have".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_distinguished_from_values() {
        let check = |value: &str, expected: Option<Option<Option<&str>>>| {
            let read = reference(value).map(Result::ok);
            assert_eq!(read, expected, "{value}");
        };
        check("{credential}", Some(Some(None)));
        check(" {credential} ", Some(Some(None)));
        check("{credential chat.read  chat.write }", Some(Some(Some("chat.read  chat.write"))));
        check("Bearer {credential}", None);
        check("Bearer abc", None);
        check("", None);
        for wrong in ["{credential", "{credentials}", "{ credential}", "{credential }", "{}", "{\"a\": 1}"] {
            check(wrong, Some(None));
        }
    }

    #[test]
    fn credential_value_is_hidden() {
        let credential = |kind, value: &str| Credential { kind, value: value.to_owned(), expires: None };
        let value = value_of(&credential(CredentialKind::Basic, "alice:open sesame")).unwrap();
        assert_eq!((value.to_str().unwrap(), format!("{value:?}").as_str()), ("Basic YWxpY2U6b3BlbiBzZXNhbWU=", "Sensitive"));
        assert_eq!(value_of(&credential(CredentialKind::Bearer, "abc")).unwrap(), "Bearer abc");
        for (kind, secret) in [(CredentialKind::Bearer, "hunter2\r\nx: y"), (CredentialKind::Assertion, "hunter2")] {
            assert!(!value_of(&credential(kind, secret)).unwrap_err().contains("hunter2"));
        }
    }
}
