use std::{
    any::{Any, TypeId},
    collections::BTreeSet,
    fmt,
    sync::Arc,
};

use protostub_types::{Address, Domain, Sha256Digest};
use wasmtime::component::Linker;

use crate::{EngineError, state::StubState};

/// An interface of the host program's own, which stubs may import if that is granted to their domain.
///
/// Its functions run in the stub's call, on a thread that other stubs use too: they must not block it. What an `async` one waits for counts
/// against [`Limits::time_per_call`](crate::Limits::time_per_call). What a guest passes to them is bounded by
/// [`Limits::hostcall_bytes`](crate::Limits::hostcall_bytes); what they keep of it is theirs to bound. A function that returns wasmtime's `Err`
/// ends the stub as a trap does.
pub trait HostImport: Send + Sync + 'static {
    /// The interface as components import it, with its version: `acme:store/kv@1.0.0`.
    const INTERFACE: &'static str;

    /// What the functions work with. Each instance of a stub has its own.
    type Data: Send + 'static;

    /// The data of a new instance of this stub. Called before anything of it runs.
    fn data(&self, stub: &StubInfo) -> Self::Data;

    /// Defines the interface's functions. `data` leads from the state of an instance to what [`Self::data`] made for it: what the `add_to_linker`
    /// that `bindgen!` generates asks for, with `HasSelf<Self::Data>`.
    ///
    /// # Errors
    /// wasmtime's, if one of them is defined already.
    fn add_to_linker(&self, linker: &mut Linker<StubState>, data: fn(&mut StubState) -> &mut Self::Data) -> wasmtime::Result<()>;
}

/// Whose instance a [`HostImport`] is to serve.
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
    /// Makes one of any.
    #[must_use]
    pub fn new<I: HostImport>(import: I) -> Self {
        Self { interface: I::INTERFACE, key: TypeId::of::<I>(), import: Arc::new(import) }
    }

    /// The interface's name, with its version.
    #[must_use]
    pub fn interface(&self) -> &'static str {
        self.interface
    }

    fn add_to_linker(&self, linker: &mut Linker<StubState>) -> wasmtime::Result<()> {
        self.import.add_to_linker(linker)
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
    pub(crate) fn new(imports: &[Import], stub: &StubInfo) -> Self {
        Self(imports.iter().map(|import| (import.key, import.import.data(stub))).collect())
    }

    /// The linker that an instance was made with has the functions of exactly those imports whose data the instance has.
    fn of<I: HostImport>(&mut self) -> &mut I::Data {
        let key = TypeId::of::<I>();
        let data = self.0.iter_mut().find(|(other, _)| *other == key).and_then(|(_, data)| data.downcast_mut());
        data.expect("a function is linked only together with its data")
    }
}

/// Everything that stubs may import on one engine: the contract and WASI, and the host program's own interfaces for those to whom they are granted.
pub(crate) struct Imports {
    base: Linker<StubState>,
    own: Vec<Import>,
}

impl Imports {
    /// # Errors
    /// If an interface is there twice, or one of its functions cannot be defined.
    pub(crate) fn new(base: Linker<StubState>, own: Vec<Import>) -> Result<Self, EngineError> {
        let mut all = base.clone();
        for (index, import) in own.iter().enumerate() {
            let fail =
                |source: Box<dyn std::error::Error + Send + Sync>| EngineError::Import { interface: import.interface, source };
            if own[..index].iter().any(|other| other.interface == import.interface || other.key == import.key) {
                return Err(fail("it, or another interface of the same Rust type, was added before".into()));
            }
            import.add_to_linker(&mut all).map_err(|error| fail(error.into()))?;
        }
        Ok(Self { base, own })
    }

    pub(crate) fn engine(&self) -> &wasmtime::Engine {
        self.base.engine()
    }

    /// What somebody may import to whom these interfaces are granted.
    pub(crate) fn granted(&self, interfaces: &BTreeSet<String>) -> wasmtime::Result<Granted> {
        let (own, others) = self.own.iter().cloned().partition::<Vec<_>, _>(|import| interfaces.contains(import.interface));
        let mut linker = self.base.clone();
        for import in &own {
            import.add_to_linker(&mut linker)?;
        }
        Ok(Granted { linker, own, others })
    }
}

/// What one component may import.
pub(crate) struct Granted {
    pub(crate) linker: Linker<StubState>,
    /// The host program's own that are granted, and in the linker.
    pub(crate) own: Vec<Import>,
    /// Those that are not.
    pub(crate) others: Vec<Import>,
}
