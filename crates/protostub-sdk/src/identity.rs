//! Credentials of the stub's own domain, from the host's Identity Module.

use futures_channel::oneshot;

use crate::{
    Credential, Error, Result,
    guest::{self, Handle},
    host,
};

/// Asks for a credential, such as a fresh access token. `scope` is a scope as the domain
/// understands it (RFC 6749 section 3.3); `None` is the default scope. From a minute before
/// [`Credential::expires`] on, the answer is a new credential. If the lifetime is under two
/// minutes, this holds from its middle on.
///
/// # Errors
/// [`Error::Denied`]: the Identity Module has no credential, or refused it; the text says why.
/// [`Error::Limit`]: more than 8 requests at a time.
pub async fn request(scope: Option<&str>) -> Result<Credential> {
    let handle = Handle::new(host::identity_request(scope)?);
    let (sender, answer) = oneshot::channel();
    // The host keeps an answer until the stub takes it. A task of its own takes the answer even if
    // the caller has stopped waiting.
    guest::spawn(async move {
        let _ = sender.send(handle.ask(|handle| host::identity_take(handle).map(Some)).await);
    });
    answer.await.unwrap_or(Err(Error::Closed))
}
