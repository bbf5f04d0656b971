/// What a message node does wrong, on purpose: for tests of its clients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// `open` and `re-open` stay without an answer.
    pub ignore_open: bool,
    /// `open` and `re-open` are answered with code 500 and this text.
    pub refuse_open: Option<String>,
}
