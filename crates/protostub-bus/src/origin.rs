use protostub_types::Address;

/// The sender of a message as the host knows it, independent of the message's `from`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a policy decides on each kind of sender")]
pub enum Origin {
    /// The runtime itself.
    Host,
    /// A part of the host program, by its address.
    Hyperty(Address),
    /// A stub, by its URL. The messages that it posts carry this URL in `via` from then on.
    Stub(Address),
}
