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
    /// The domain of the stub that the hyperty speaks through, and of the Registry that knows it.
    /// Default: that of its address.
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
    /// The schemes of data objects that it understands (`comm`, `connection`): `dataSchemes` of the
    /// registration.
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
    /// There is no answer yet; or the domain's stub is gone. The next deployment of the stub brings
    /// the registration back.
    Pending,
    /// The Registry has it.
    Registered,
    /// The Registry refused it, or could not be reached. It is tried again.
    Failed {
        /// In the Registry's words, or the host's.
        reason: SafeText,
    },
    /// It is over.
    Removed,
}

/// A registration that is kept up until this is dropped.
#[derive(Debug)]
pub(crate) struct RegistrationHandle {
    status: watch::Receiver<Registration>,
    over: CancellationToken,
}

impl RegistrationHandle {
    /// The handle of a registration whose status comes from `status`, and that ends with `over`.
    pub(super) fn new(status: watch::Receiver<Registration>, over: CancellationToken) -> Self {
        Self { status, over }
    }

    pub(crate) fn status(&self) -> Registration {
        self.status.borrow().clone()
    }

    /// It is no longer wanted.
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
