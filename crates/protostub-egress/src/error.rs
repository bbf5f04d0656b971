//! Why something could not be reached.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use protostub_types::SafeText;

use crate::{grants::Refused, limit_reached::LimitReached};

/// Why something could not be reached. Whose matter it is: [`Refused`](Self::Refused) the operator's, [`Invalid`](Self::Invalid) that of whoever
/// asked, [`Config`](Self::Config) that of whoever configured the host; the others are the network's or the other side's.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum EgressError {
    /// Policy refuses it.
    #[error(transparent)]
    Refused(#[from] Refused),

    /// A limit of the party, or of the process, is used up.
    #[error("failed to reach `{target}`: {limit}")]
    Limit {
        /// Host and port.
        target: String,
        /// The limit.
        limit: LimitReached,
    },

    /// What was asked for cannot be.
    #[error("`{what}` is invalid: {problem}")]
    Invalid {
        /// The host, URL or header.
        what: SafeText,
        /// What is wrong with it.
        problem: SafeText,
    },

    /// The configuration cannot be used.
    #[error("the egress configuration is invalid: {0}")]
    Config(String),

    /// There is no such name, or it has no address: the name service says so.
    #[error("there is no host `{host}`: {problem}")]
    NoSuchHost {
        /// The name.
        host: String,
        /// What the resolver said.
        problem: SafeText,
    },

    /// The name could not be resolved now: whether it exists is not known.
    #[error("failed to resolve `{host}`: {problem}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        problem: SafeText,
    },

    /// No address accepted a connection.
    #[error("failed to connect to `{target}`: {}", FailedAttempts(.attempts))]
    Connect {
        /// Host and port.
        target: String,
        /// Every address that was dialled, and how it failed.
        attempts: Vec<(SocketAddr, Arc<io::Error>)>,
    },

    /// It took too long.
    #[error("failed to reach `{target}` within {limit:?}: it was still {phase}")]
    TimedOut {
        /// Host and port.
        target: String,
        /// What was being done when the time was over.
        phase: Phase,
        /// The time that there was.
        limit: Duration,
    },

    /// TLS could not be established: an unknown authority, a certificate for another name, an expired one, no common version.
    #[error("failed to establish TLS with `{target}`: {problem}")]
    Tls {
        /// Host and port.
        target: String,
        /// What rustls said.
        problem: SafeText,
    },

    /// The proxy could not be reached, or did not open a tunnel.
    #[error("failed to reach `{target}` through the proxy {proxy}: {problem}")]
    Proxy {
        /// Host and port.
        target: String,
        /// The proxy, without its password.
        proxy: String,
        /// What happened.
        problem: SafeText,
    },

    /// A redirect was not followed.
    #[error("failed to follow the redirect from `{from}`: {problem}")]
    Redirect {
        /// The URL that redirected.
        from: SafeText,
        /// Why it was not followed.
        problem: SafeText,
    },

    /// An HTTP exchange failed.
    #[error("failed to exchange HTTP with `{url}`: {problem}")]
    Http {
        /// The URL, without its query.
        url: SafeText,
        /// What happened.
        problem: SafeText,
        /// Whether it was the time limit.
        timed_out: bool,
    },
}

/// What is being done to reach something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Finding its addresses.
    Resolving,
    /// Opening a TCP connection.
    Connecting,
    /// Asking the proxy for a tunnel.
    Tunnelling,
    /// Establishing TLS.
    Handshaking,
}

impl EgressError {
    /// Whether policy refuses it: a repetition is refused too.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Refused(_))
    }

    /// Whether a later attempt may succeed with nobody changing anything here.
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
