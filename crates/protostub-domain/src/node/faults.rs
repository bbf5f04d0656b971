/// What a message node does wrong, on purpose: for tests of its clients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Faults {
    /// `open` and `re-open` stay without an answer.
    pub ignore_open: bool,
    /// `open` and `re-open` are answered with code 500 and this text.
    pub refuse_open: Option<String>,
}

impl Faults {
    /// The fault of leaving `open` and `re-open` without an answer.
    #[must_use]
    pub fn ignoring_open() -> Self {
        Self { ignore_open: true, ..Self::default() }
    }

    /// The fault of answering `open` and `re-open` with code 500 and this text.
    #[must_use]
    pub fn refusing_open(reason: impl Into<String>) -> Self {
        Self { refuse_open: Some(reason.into()), ..Self::default() }
    }
}
