use super::{Host, run, world::with};
use crate::{Credential, Error, Result};

/// A request of the stub for a credential.
#[derive(Debug)]
pub struct IdentityRequest {
    handle: u32,
    scope: Option<String>,
}

#[derive(Debug)]
pub(super) struct FakeIdentity {
    pub(super) scope: Option<String>,
    pub(super) answer: Option<Result<Credential>>,
}

impl Host {
    /// Returns the next request of the stub for a credential.
    ///
    /// # Panics
    /// If the stub has made no further request.
    #[must_use]
    #[expect(clippy::expect_used, reason = "documented, for tests")]
    pub fn identity_request(&self) -> IdentityRequest {
        with(|world| {
            let index = world.fresh.iter().position(|handle| world.identities.contains_key(handle));
            let handle = index.and_then(|index| world.fresh.remove(index)).expect("the stub has asked for no credential");
            IdentityRequest { handle, scope: world.identities.get(&handle).and_then(|request| request.scope.clone()) }
        })
    }
}

impl IdentityRequest {
    /// Returns the scope that the stub asked for.
    #[must_use]
    pub fn scope(&self) -> Option<&str> {
        self.scope.as_deref()
    }

    /// Answers with a credential of the Identity Module.
    pub fn grant(self, credential: Credential) {
        self.answer(Ok(credential));
    }

    /// Answers that the Identity Module has no credential, or refuses it.
    pub fn deny(self, why: &str) {
        self.answer(Err(Error::Denied(why.to_owned())));
    }

    fn answer(self, answer: Result<Credential>) {
        with(|world| {
            if let Some(request) = world.identities.get_mut(&self.handle) {
                request.answer = Some(answer);
                world.news(self.handle);
            }
        });
        run();
    }
}
