//! Errors of the egress.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use protostub_types::SafeText;

use crate::{grants::Refused, limit_reached::LimitReached};

/// The reason that a host could not be reached.
///
/// [`Refused`](Self::Refused) concerns the operator, [`Invalid`](Self::Invalid) the caller, and
/// [`Config`](Self::Config) the author of the host's configuration. The others are errors of the
/// network or of the other side.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum EgressError {
    /// The policy refuses the connection.
    #[error(transparent)]
    Refused(#[from] Refused),

    /// A limit of the party or of the process is reached.
    #[error("failed to reach `{target}`: {limit}")]
    Limit {
        /// Host and port.
        target: String,
        /// The limit.
        limit: LimitReached,
    },

    /// The host, URL or header is invalid.
    #[error("`{what}` is invalid: {problem}")]
    Invalid {
        /// The host, URL or header.
        what: SafeText,
        /// The fault.
        problem: SafeText,
    },

    /// The configuration is invalid.
    #[error("the egress configuration is invalid: {0}")]
    Config(String),

    /// The name service answered that the name does not exist or has no address.
    #[error("there is no host `{host}`: {problem}")]
    NoSuchHost {
        /// The name.
        host: String,
        /// The resolver's message.
        problem: SafeText,
    },

    /// The name could not be resolved now, so its existence is unknown.
    #[error("failed to resolve `{host}`: {problem}")]
    Resolve {
        /// The name.
        host: String,
        /// The resolver's message.
        problem: SafeText,
    },

    /// No address accepted a connection.
    #[error("failed to connect to `{target}`: {}", FailedAttempts(.attempts))]
    Connect {
        /// Host and port.
        target: String,
        /// Every dialled address and its error.
        attempts: Vec<(SocketAddr, Arc<io::Error>)>,
    },

    /// The time limit was reached.
    #[error("failed to reach `{target}` within {limit:?}: timed out while {phase}")]
    TimedOut {
        /// Host and port.
        target: String,
        /// The phase in which the time ran out.
        phase: Phase,
        /// The time limit.
        limit: Duration,
    },

    /// The TLS handshake failed: an unknown authority, a certificate for another name, an expired
    /// certificate, no common version.
    #[error("failed to establish TLS with `{target}`: {problem}")]
    Tls {
        /// Host and port.
        target: String,
        /// The message of rustls.
        problem: SafeText,
    },

    /// The proxy could not be reached, or did not open a tunnel.
    #[error("failed to reach `{target}` through the proxy {proxy}: {problem}")]
    Proxy {
        /// Host and port.
        target: String,
        /// The proxy, without its password.
        proxy: String,
        /// The failure.
        problem: SafeText,
    },

    /// A redirect was not followed.
    #[error("failed to follow the redirect from `{from}`: {problem}")]
    Redirect {
        /// The URL that redirected.
        from: SafeText,
        /// The reason.
        problem: SafeText,
    },

    /// An HTTP exchange failed.
    #[error("failed to exchange HTTP with `{url}`: {problem}")]
    Http {
        /// The URL, without its query.
        url: SafeText,
        /// The failure.
        problem: SafeText,
        /// The time limit was reached.
        timed_out: bool,
    },
}

/// A phase of reaching a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Resolving the name to addresses.
    Resolving,
    /// Opening a TCP connection.
    Connecting,
    /// Asking the proxy for a tunnel.
    Tunnelling,
    /// Establishing TLS.
    Handshaking,
}

impl EgressError {
    /// Returns `true` if policy refused the connection. A retry would be refused too.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Refused(_))
    }

    /// Returns `true` if a retry may succeed without any change on this side.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Invalid { .. } | Self::Config(_) | Self::NoSuchHost { .. } | Self::Redirect { .. } => false,
            Self::Resolve { .. } | Self::Connect { .. } | Self::TimedOut { .. } | Self::Tls { .. } => true,
            Self::Proxy { .. } | Self::Http { .. } | Self::Limit { .. } => true,
        }
    }

    pub(crate) fn invalid(what: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self::Invalid { what: SafeText::quote(&what.into()), problem: SafeText::display(problem) }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolving => "resolving the name",
            Self::Connecting => "connecting",
            Self::Tunnelling => "asking the proxy for a tunnel",
            Self::Handshaking => "establishing TLS",
        })
    }
}

struct FailedAttempts<'a>(&'a [(SocketAddr, Arc<io::Error>)]);

impl fmt::Display for FailedAttempts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("the name has no addresses");
        }
        for (n, (address, error)) in self.0.iter().enumerate() {
            write!(f, "{}{address}: {error}", if n == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}
