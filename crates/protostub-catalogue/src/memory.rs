use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, RwLock},
};

use async_trait::async_trait;
use bytes::Bytes;
use protostub_types::{Descriptor, Domain, SourceLocation};
use url::Url;

use crate::{Document, Fault, Request, Source, Subject, well_known};

/// Stubs that the embedding program provides. Clones share the stubs, which may change while a
/// runtime uses them, for example in an update.
///
/// ```
/// use protostub_catalogue::MemorySource;
/// use protostub_types::{Descriptor, Domain, Version};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let component = b"\0asm...";
/// let mut descriptor = Descriptor::new("echo", Version::parse("1.0")?);
/// descriptor.refer("echo.wasm", component);
/// let source = MemorySource::new();
/// let domain = Domain::parse("sp1.example")?;
/// source.insert(&domain, "default", descriptor.to_json(), component.as_slice());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct MemorySource {
    stubs: Arc<RwLock<BTreeMap<(Domain, String), Stub>>>,
}

struct Stub {
    descriptor: Bytes,
    component: Bytes,
}

impl MemorySource {
    /// Returns a source without stubs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a stub, or replaces it. `name` is mostly `default`. The descriptor is served as it is
    /// given, and the component at any URL that the descriptor states. A component for an inline
    /// descriptor is not needed. As with any source, the catalogue checks that descriptor and
    /// component match.
    pub fn insert(&self, domain: &Domain, name: &str, descriptor: impl Into<Bytes>, component: impl Into<Bytes>) {
        let stub = Stub { descriptor: descriptor.into(), component: component.into() };
        self.stubs.write().unwrap_or_else(|error| error.into_inner()).insert((domain.clone(), name.to_owned()), stub);
    }

    /// Removes a stub.
    pub fn remove(&self, domain: &Domain, name: &str) {
        self.stubs.write().unwrap_or_else(|error| error.into_inner()).remove(&(domain.clone(), name.to_owned()));
    }

    fn find(&self, request: &Request<'_>) -> Option<Bytes> {
        let stubs = self.stubs.read().unwrap_or_else(|error| error.into_inner());
        let of_domain = || stubs.iter().filter(|((domain, _), _)| domain == request.domain);
        match request.subject {
            Subject::Descriptor => {
                of_domain().find(|((_, name), _)| is_at(request, name)).map(|(_, stub)| stub.descriptor.clone())
            }
            Subject::Component => of_domain()
                .find(|((_, name), stub)| states(request, name, &stub.descriptor))
                .map(|(_, stub)| stub.component.clone()),
            Subject::Keys => None,
        }
    }
}

/// Returns `true` if the URL is the well-known one of this stub, in either spelling.
fn is_at(request: &Request<'_>, name: &str) -> bool {
    let scheme = request.url.scheme();
    well_known::SPELLINGS
        .iter()
        .any(|spelling| well_known::url(scheme, request.domain, spelling, name).as_ref() == Some(request.url))
}

/// Returns `true` if this descriptor states that its code is at the URL.
fn states(request: &Request<'_>, name: &str, descriptor: &[u8]) -> bool {
    let Ok(descriptor) = Descriptor::parse(descriptor) else { return false };
    let scheme = request.url.scheme();
    let location = |base: Url| descriptor.source_location(&base).ok();
    well_known::SPELLINGS
        .iter()
        .filter_map(|spelling| well_known::url(scheme, request.domain, spelling, name).and_then(location))
        .any(|location| matches!(location, SourceLocation::Url(url) if url == *request.url))
}

#[async_trait]
impl Source for MemorySource {
    async fn open(&self, request: &Request<'_>) -> Result<Document, Fault> {
        self.find(request)
            .map(Document::from_bytes)
            .ok_or_else(|| Fault::NotFound { answer: "not among the program's own stubs".into() })
    }
}

impl fmt::Debug for MemorySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stubs = self.stubs.read().unwrap_or_else(|error| error.into_inner());
        f.debug_set().entries(stubs.keys().map(|(domain, name)| format!("{domain}/{name}"))).finish()
    }
}
