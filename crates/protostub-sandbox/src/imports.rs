use std::{
    any::{Any, TypeId},
    collections::BTreeSet,
    fmt,
    sync::Arc,
};

use protostub_types::{Address, Domain, Sha256Digest, call_hook};
use wasmtime::component::Linker;

use crate::{EngineError, SandboxError, state::StubState};

/// An interface of the host program's own. Stubs may import it if it is granted to their domain.
///
/// The functions run in the stub's call, on a thread that other stubs use too, so they must not
/// block it. The time that an `async` function waits counts against
/// [`Limits::time_per_call`](crate::Limits::time_per_call).
///
/// [`Limits::hostcall_bytes`](crate::Limits::hostcall_bytes) bounds the arguments of a call. The
/// functions themselves have to bound the data that they keep. A function that returns wasmtime's
/// `Err` ends the stub as a trap does. A function that panics ends the stub, without a restart.
pub trait HostImport: Send + Sync + 'static {
    /// The interface as components import it, with its version: `acme:store/kv@1.0.0`.
    const INTERFACE: &'static str;

    /// The data of the functions. Each instance of a stub has its own.
    type Data: Send + 'static;

    /// Makes the data of a new instance of this stub. Called before any code of the instance runs.
    /// A panic fails the start of the instance.
    fn data(&self, stub: &StubInfo) -> Self::Data;

    /// Defines the interface's functions. `data` leads from the state of an instance to the result
    /// of [`Self::data`] for it. The `add_to_linker` that `bindgen!` generates takes `data` with
    /// `HasSelf<Self::Data>`. A panic counts as an error.
    ///
    /// # Errors
    /// wasmtime's, if one of the functions is defined already.
    fn add_to_linker(&self, linker: &mut Linker<StubState>, data: fn(&mut StubState) -> &mut Self::Data) -> wasmtime::Result<()>;
}

/// The stub whose instance a [`HostImport`] serves.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StubInfo {
    /// The stub's own address.
    pub url: Address,
    /// Its domain, to which the import is granted.
    pub domain: Domain,
    /// The digest of its component.
    pub component: Sha256Digest,
}

/// A [`HostImport`] of any type, for [`EngineConfig::imports`](crate::EngineConfig::imports).
#[derive(Clone)]
pub struct Import {
    interface: &'static str,
    key: TypeId,
    import: Arc<dyn AnyImport>,
}

impl Import {
    /// Wraps an import of any type.
    #[must_use]
    pub fn new<I: HostImport>(import: I) -> Self {
        Self { interface: I::INTERFACE, key: TypeId::of::<I>(), import: Arc::new(import) }
    }

    /// Returns the interface's name, with its version.
    #[must_use]
    pub fn interface(&self) -> &'static str {
        self.interface
    }

    fn add_to_linker(&self, linker: &mut Linker<StubState>) -> wasmtime::Result<()> {
        call_hook("HostImport::add_to_linker", || self.import.add_to_linker(linker))?
    }
}

impl fmt::Debug for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Import").field(&self.interface).finish()
    }
}

trait AnyImport: Send + Sync {
    fn add_to_linker(&self, linker: &mut Linker<StubState>) -> wasmtime::Result<()>;
    fn data(&self, stub: &StubInfo) -> Box<dyn Any + Send>;
}

impl<I: HostImport> AnyImport for I {
    fn add_to_linker(&self, linker: &mut Linker<StubState>) -> wasmtime::Result<()> {
        HostImport::add_to_linker(self, linker, |state| state.import_data.of::<I>())
    }

    fn data(&self, stub: &StubInfo) -> Box<dyn Any + Send> {
        Box::new(HostImport::data(self, stub))
    }
}

/// The data of all imports that one instance was granted.
pub(crate) struct ImportData(Vec<(TypeId, Box<dyn Any + Send>)>);

impl ImportData {
    /// Makes the data.
    ///
    /// # Errors
    /// If an import panics.
    pub(crate) fn new(imports: &[Import], stub: &StubInfo) -> Result<Self, SandboxError> {
        let data = imports.iter().map(|import| {
            let data = call_hook("HostImport::data", || import.import.data(stub));
            let data = data.map_err(|source| SandboxError::Import { interface: import.interface, source })?;
            Ok((import.key, data))
        });
        Ok(Self(data.collect::<Result<_, _>>()?))
    }

    /// Returns the data of an import. The instance's linker has the functions of exactly those
    /// imports whose data the instance has.
    fn of<I: HostImport>(&mut self) -> &mut I::Data {
        let key = TypeId::of::<I>();
        let data = self.0.iter_mut().find(|(other, _)| *other == key).and_then(|(_, data)| data.downcast_mut());
        data.expect("a function is linked only together with its data")
    }
}

/// All imports that stubs may have on one engine: the contract and WASI, and the host program's own
/// interfaces. Stubs get the latter only by a grant.
pub(crate) struct Imports {
    base: Linker<StubState>,
    own: Vec<Import>,
}

impl Imports {
    /// Collects the imports.
    ///
    /// # Errors
    /// If an interface occurs twice, or one of its functions cannot be defined.
    pub(crate) fn new(base: Linker<StubState>, own: Vec<Import>) -> Result<Self, EngineError> {
        let mut all = base.clone();
        for (index, import) in own.iter().enumerate() {
            let fail =
                |source: Box<dyn std::error::Error + Send + Sync>| EngineError::Import { interface: import.interface, source };
            if own[..index].iter().any(|other| other.interface == import.interface || other.key == import.key) {
                return Err(fail("this interface, or another one of the same Rust type, was added before".into()));
            }
            import.add_to_linker(&mut all).map_err(|error| fail(error.into()))?;
        }
        Ok(Self { base, own })
    }

    pub(crate) fn engine(&self) -> &wasmtime::Engine {
        self.base.engine()
    }

    /// Returns the imports of a stub to which these interfaces are granted.
    pub(crate) fn granted(&self, interfaces: &BTreeSet<String>) -> wasmtime::Result<Granted> {
        let (own, others) = self.own.iter().cloned().partition::<Vec<_>, _>(|import| interfaces.contains(import.interface));
        let mut linker = self.base.clone();
        for import in &own {
            import.add_to_linker(&mut linker)?;
        }
        Ok(Granted { linker, own, others })
    }
}

/// The imports that one component may have.
pub(crate) struct Granted {
    pub(crate) linker: Linker<StubState>,
    /// The host program's own interfaces that are granted, and in the linker.
    pub(crate) own: Vec<Import>,
    /// The host program's own interfaces that are not granted.
    pub(crate) others: Vec<Import>,
}
