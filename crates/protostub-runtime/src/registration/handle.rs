use std::time::Duration;

use protostub_types::{Address, Domain, SafeText};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use url::Url;

/// What a hyperty says of itself when it is registered: [`Runtime::register_hyperty_with`](crate::Runtime::register_hyperty_with).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HypertyDescriptor {
    /// The domain whose stub the hyperty speaks through, and whose Registry it is registered at. Default: that of its address.
    pub domain: Option<Domain>,
    /// Whether the domain's Registry is told where the hyperty is, for as long as it is there. Default: yes.
    pub register: bool,
    /// How long a registration holds that is not refreshed. It is, when half of that is over. Default: one hour.
    pub expires: Duration,
    /// Where the hyperty is described: `descriptor` of the registration.
    pub descriptor_url: Option<Url>,
    /// Whose it is: `user` of the registration.
    pub user: Option<Address>,
    /// What it can be used for (`chat`, `voice`): `resources` of the registration.
    pub resources: Vec<String>,
    /// The schemes of the data objects that it understands (`comm`, `connection`): `dataSchemes` of the registration.
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

/// What has become of a registration at a domain's Registry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Registration {
    /// It was not answered yet; or the domain's stub is gone, and whoever deploys it next brings it back.
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

    /// What came of it, once there was an answer.
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
