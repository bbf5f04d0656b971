use std::fmt;

/// A limit that refuses a connection. The text names the setting that raises the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitReached {
    pub(crate) kind: LimitKind,
    pub(crate) limit: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitKind {
    /// The party's sockets.
    Connections,
    /// The party's attempts per second.
    Attempts,
    /// The process's sockets.
    Sockets,
}

impl LimitKind {
    pub(crate) const ALL: [Self; 3] = [Self::Connections, Self::Attempts, Self::Sockets];

    pub(crate) fn setting(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Attempts => "connect_attempts_per_second",
            Self::Sockets => "max_sockets",
        }
    }
}

impl LimitReached {
    /// The setting of the limit: `connections` and `connect_attempts_per_second` belong to the
    /// party, `max_sockets` to the process.
    #[must_use]
    pub fn setting(self) -> &'static str {
        self.kind.setting()
    }
}

impl std::error::Error for LimitReached {}

impl fmt::Display for LimitReached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, limit } = self;
        match kind {
            LimitKind::Connections => {
                write!(f, "all {limit} sockets of the stub are open (`connections`); close one first")
            }
            LimitKind::Attempts => write!(
                f,
                "the stub has made its {limit} connection attempts per second (`connect-attempts-per-second`); try again later"
            ),
            LimitKind::Sockets => write!(
                f,
                "the stubs share {limit} sockets, and this stub has its share of them (`max-sockets`); close one or try again later"
            ),
        }
    }
}
