//! The interface `types`, by hand: the same records and variants as in `wit/0.1/types.wit`, in the
//! same order, with shared text and bytes. wasmtime checks every component against these shapes
//! when it is linked.

use std::sync::Arc;

use wasmtime::component::{ComponentType, HasData, Lift, Linker, Lower};

pub type Address = Arc<str>;
pub type Json = Arc<str>;
/// `bindgen!` looks for the type by its name in WIT.
pub use self::WitCredential as Credential;

#[derive(Debug, Clone, ComponentType, Lift, Lower)]
#[component(variant)]
pub enum MessageType {
    #[component(name = "create")]
    Create,
    #[component(name = "read")]
    Read,
    #[component(name = "update")]
    Update,
    #[component(name = "delete")]
    Delete,
    #[component(name = "subscribe")]
    Subscribe,
    #[component(name = "unsubscribe")]
    Unsubscribe,
    #[component(name = "response")]
    Response,
    #[component(name = "forward")]
    Forward,
    #[component(name = "execute")]
    Execute,
    #[component(name = "other")]
    Other(Arc<str>),
}

impl MessageType {
    /// Returns the type's name, or `other` for a name of its own.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Read => "read",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Subscribe => "subscribe",
            Self::Unsubscribe => "unsubscribe",
            Self::Response => "response",
            Self::Forward => "forward",
            Self::Execute => "execute",
            Self::Other(_) => "other",
        }
    }
}

#[derive(Debug, Clone, ComponentType, Lift, Lower)]
#[component(variant)]
pub enum MessageId {
    #[component(name = "number")]
    Number(u64),
    #[component(name = "text")]
    Text(Arc<str>),
}

#[derive(Clone, ComponentType, Lift, Lower)]
#[component(variant)]
pub enum Body {
    #[component(name = "json")]
    Json(Json),
    #[component(name = "bytes")]
    Bytes(Arc<[u8]>),
}

impl Body {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Json(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }
}

/// A message. `A` is the form of `from` and `to`: an own text, or, in a guest's post, a place in
/// the guest's memory.
#[derive(Clone, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Message<A = Address> {
    pub id: MessageId,
    #[component(name = "type")]
    pub kind: MessageType,
    pub from: A,
    pub to: A,
    pub via: Vec<Address>,
    pub headers: Vec<(String, String)>,
    pub body: Option<Body>,
}

/// The contract's `credential-kind`. The host has [`CredentialKind`](crate::CredentialKind).
#[derive(Clone, ComponentType, Lift, Lower)]
#[component(variant)]
pub enum WitCredentialKind {
    #[component(name = "bearer")]
    Bearer,
    #[component(name = "basic")]
    Basic,
    #[component(name = "assertion")]
    Assertion,
    #[component(name = "other")]
    Other(String),
}

/// The contract's `credential`. The host has [`Credential`](crate::Credential).
#[derive(Clone, ComponentType, Lift, Lower)]
#[component(record)]
pub struct WitCredential {
    pub kind: WitCredentialKind,
    pub value: String,
    pub expires: Option<u64>,
}

/// The contract's `disconnect-reason`. The host has [`DisconnectReason`](crate::DisconnectReason).
#[derive(Debug, Clone, Copy, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
pub enum WitDisconnectReason {
    #[component(name = "request")]
    Request,
    #[component(name = "update")]
    Update,
    #[component(name = "idle")]
    Idle,
    #[component(name = "shutdown")]
    Shutdown,
}

#[derive(Clone, ComponentType, Lift, Lower)]
#[component(variant)]
pub enum Event {
    #[component(name = "connect")]
    Connect(Option<WitCredential>),
    #[component(name = "disconnect")]
    Disconnect(WitDisconnectReason),
    #[component(name = "message")]
    Message(Message),
    #[component(name = "timer")]
    Timer(u32),
    #[component(name = "ready")]
    Ready(u32),
}

#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(variant)]
pub enum Error {
    #[component(name = "denied")]
    Denied(String),
    #[component(name = "invalid")]
    Invalid(String),
    #[component(name = "busy")]
    Busy,
    #[component(name = "closed")]
    Closed,
    #[component(name = "limit")]
    Limit(String),
    #[component(name = "io")]
    Io(String),
}

/// The functions that the generated code of a world expects of each of its interfaces. This
/// interface has no functions.
pub trait Host {}

impl<H: Host + ?Sized> Host for &mut H {}

/// Like [`Host`], for functions that use the store.
pub trait HostWithStore<T>: HasData {}

impl<H: HasData + ?Sized, T> HostWithStore<T> for H {}

/// Names the interface in a linker.
pub fn add_to_linker<T, D>(linker: &mut Linker<T>, _: fn(&mut T) -> D::Data<'_>) -> wasmtime::Result<()>
where
    D: HostWithStore<T>,
    for<'a> D::Data<'a>: Host,
    T: 'static,
{
    linker.instance("rethink:protostub/types@0.1.0").map(drop)
}
