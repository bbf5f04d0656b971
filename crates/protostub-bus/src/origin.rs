use protostub_types::Address;

/// Who posts a message: what the host knows, whatever the message's `from` says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a policy decides on each kind of sender")]
pub enum Origin {
    /// The runtime itself.
    Host,
    /// A part of the host program, by its address.
    Hyperty(Address),
    /// A stub, by its URL. What it posts carries this URL in `via` from then on.
    Stub(Address),
}
