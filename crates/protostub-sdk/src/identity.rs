//! Credentials of the stub's own domain, from the host's Identity Module.

use futures_channel::oneshot;

use crate::{
    Credential, Error, Result,
    guest::{self, Handle},
    host,
};

/// Asks for a credential, with a scope as the domain understands it (RFC 6749 section 3.3; none: the default): a fresh access token, say. From a
/// minute before [`Credential::expires`] on (or, of a shorter life, from its middle on), it is another one than before.
///
/// # Errors
/// [`Error::Denied`]: the Identity Module has none, or refused; the text says why. [`Error::Limit`]: more than 8 requests at a time.
pub async fn request(scope: Option<&str>) -> Result<Credential> {
    let handle = Handle::new(host::identity_request(scope)?);
    let (sender, answer) = oneshot::channel();
    // The host keeps an answer until it is taken: a task of its own takes it even when nobody waits for it any more.
    guest::spawn(async move {
        let _ = sender.send(handle.ask(|handle| host::identity_take(handle).map(Some)).await);
    });
    answer.await.unwrap_or(Err(Error::Closed))
}
