use std::time::Duration;

use protostub_types::{Address, Domain, SafeText};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use url::Url;

/// A hyperty's description of itself, for
/// [`Runtime::register_hyperty_with`](crate::Runtime::register_hyperty_with).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HypertyDescriptor {
    /// The domain of the stub that the hyperty speaks through, and of the Registry that it
    /// registers at. Default: the domain of its address.
    pub domain: Option<Domain>,
    /// Registers the hyperty at the domain's Registry for as long as it lives. Default: yes.
    pub register: bool,
    /// Lifetime of a registration. The runtime refreshes it after half of this time. Default: one
    /// hour.
    pub expires: Duration,
    /// The URL of the hyperty's descriptor: `descriptor` of the registration.
    pub descriptor_url: Option<Url>,
    /// The hyperty's user: `user` of the registration.
    pub user: Option<Address>,
    /// Uses of the hyperty (`chat`, `voice`): `resources` of the registration.
    pub resources: Vec<String>,
    /// Schemes of the data objects that the hyperty understands (`comm`, `connection`):
    /// `dataSchemes` of the registration.
    pub data_schemes: Vec<String>,
}

impl Default for HypertyDescriptor {
    fn default() -> Self {
        Self {
            domain: None,
            register: true,
            expires: Duration::from_secs(3600),
            descriptor_url: None,
            user: None,
            resources: Vec::new(),
            data_schemes: Vec::new(),
        }
    }
}

/// The state of a registration at a domain's Registry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Registration {
    /// The Registry has not answered yet, or the domain's stub is gone. The next deployment of the
    /// stub restores the registration.
    Pending,
    /// The Registry has accepted the registration.
    Registered,
    /// The Registry refused the registration, or could not be reached. The runtime retries.
    Failed {
        /// The reason, as the Registry or the host states it.
        reason: SafeText,
    },
    /// The registration has ended.
    Removed,
}

/// A registration that is kept up until this handle is dropped.
#[derive(Debug)]
pub(crate) struct RegistrationHandle {
    status: watch::Receiver<Registration>,
    over: CancellationToken,
}

impl RegistrationHandle {
    /// Returns the handle of a registration whose status comes from `status`, and that ends with
    /// `over`.
    pub(super) fn new(status: watch::Receiver<Registration>, over: CancellationToken) -> Self {
        Self { status, over }
    }

    pub(crate) fn status(&self) -> Registration {
        self.status.borrow().clone()
    }

    /// Ends the registration.
    pub(crate) fn end(&self) {
        self.over.cancel();
    }

    /// Waits for the first answer, and returns the state then.
    pub(crate) async fn settled(&self) -> Registration {
        let mut status = self.status.clone();
        match status.wait_for(|status| *status != Registration::Pending).await {
            Ok(status) => status.clone(),
            Err(_) => Registration::Removed,
        }
    }
}

impl Drop for RegistrationHandle {
    fn drop(&mut self) {
        self.end();
    }
}
