/// Rule for users who could replace a folder: another user than this one and the superuser.
#[expect(clippy::exhaustive_enums, reason = "callers state one of two rules")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OtherWriters {
    /// The path may have no folder that such a user owns or can write to, unless it is sticky.
    #[default]
    Refused,
    /// Such users may own, or write to, the folders on the path. For volumes that the process
    /// cannot close, as those of Kubernetes.
    ///
    /// Such a user can remove the checked folder, or put an earlier state of it in its place. The
    /// user can also read a key that the volume's group was given access to.
    Allowed,
}

impl OtherWriters {
    /// Returns the rule of an operator who allows other writers, or does not.
    #[must_use]
    pub fn allowed(are_allowed: bool) -> Self {
        match are_allowed {
            true => Self::Allowed,
            false => Self::Refused,
        }
    }
}
