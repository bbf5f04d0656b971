/// Deliberate faults of a message node, for tests of its clients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Faults {
    /// Leaves `open` and `re-open` without an answer.
    pub ignore_open: bool,
    /// Answers `open` and `re-open` with code 500 and this text.
    pub refuse_open: Option<String>,
}

impl Faults {
    /// Returns the fault of leaving `open` and `re-open` without an answer.
    #[must_use]
    pub fn ignoring_open() -> Self {
        Self { ignore_open: true, ..Self::default() }
    }

    /// Returns the fault of answering `open` and `re-open` with code 500 and this text.
    #[must_use]
    pub fn refusing_open(reason: impl Into<String>) -> Self {
        Self { refuse_open: Some(reason.into()), ..Self::default() }
    }
}
