use std::{error::Error, fmt, time::Duration};

use protostub_types::{DescriptorError, Domain, SafeText, Sha256Digest};

use crate::{TrustStateError, trust::SignatureError};

/// The kind of document in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Subject {
    /// A descriptor: steps 4 and 5.
    Descriptor,
    /// A component: steps 6 and 7.
    Component,
    /// The keys that verify a domain's signatures: a JSON Web Key Set.
    Keys,
}

/// One URL without success.
#[derive(Debug)]
#[non_exhaustive]
pub struct Attempt {
    /// The URL.
    pub url: SafeText,
    /// The fault there.
    pub fault: Fault,
}

/// Failure to get a stub's descriptor or component. The text is complete: all URLs that were asked,
/// the faults there, and what to do.
#[derive(Debug)]
pub struct CatalogueError {
    subject: Subject,
    domain: Domain,
    /// The earlier attempts, in the order asked. `last` decides.
    attempts: Vec<Attempt>,
    last: Attempt,
}

/// A class of [`CatalogueError`]s and of [`Fault`]s, for callers that branch on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CatalogueErrorKind {
    /// The domain does not exist, or has no such document.
    NotFound,
    /// The server could not be reached, or did not deliver. A later attempt may succeed.
    Unavailable,
    /// A rule or a limit of the operator does not allow it.
    Refused,
    /// The domain publishes a document that cannot be used. The domain has to correct it.
    Invalid,
    /// The document is not the one that the domain, or its signer, vouches for.
    Untrusted,
    /// The trust state of this machine cannot be used. The domain is not at fault.
    TrustState,
    /// A [`Source`](crate::Source) of the host program failed.
    Source,
}

/// A limit of downloads from the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DownloadLimit {
    /// The downloads of a registrable domain in an hour.
    Number,
    /// The bytes of a registrable domain in an hour.
    Bytes,
    /// The downloads of all domains in an hour.
    TotalNumber,
    /// The bytes of all domains in an hour.
    TotalBytes,
    /// The downloads at a time.
    Concurrent,
    /// The bytes in memory.
    Memory,
}

impl DownloadLimit {
    /// Returns the key of the limit in a settings file, in kebab-case.
    #[must_use]
    pub fn key(self) -> &'static str {
        self.names().0
    }

    /// Returns the field of the limit in the settings of a runtime.
    #[must_use]
    pub fn setting(self) -> &'static str {
        self.names().1
    }

    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Number => ("downloads-per-hour", "downloads_per_hour"),
            Self::Bytes => ("download-bytes-per-hour", "download_bytes_per_hour"),
            Self::TotalNumber => ("max-downloads-per-hour", "max_downloads_per_hour"),
            Self::TotalBytes => ("max-download-bytes-per-hour", "max_download_bytes_per_hour"),
            Self::Concurrent => ("max-concurrent-downloads", "max_concurrent_downloads"),
            Self::Memory => ("max-download-memory-bytes", "max_download_memory_bytes"),
        }
    }
}

/// A fault that came in place of the document.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The name service knows no such host.
    #[error("there is no host `{host}`")]
    NoSuchHost {
        /// The host as written in the URL.
        host: SafeText,
    },
    /// The other side reports that the document does not exist.
    #[error("not found ({answer})")]
    NotFound {
        /// The words of the other side.
        answer: SafeText,
    },
    /// The server answered with a status that is neither success nor "not found".
    #[error("the server answered {status}{}; see its log", Quoted(": ", .beginning))]
    Status {
        /// The status code (RFC 9110, section 15).
        status: u16,
        /// The first characters of the server's explanation. May be empty.
        beginning: SafeText,
        /// The `Retry-After` of the server, if it is in seconds.
        retry_after: Option<Duration>,
    },
    /// The server answered with a redirect that is not followed.
    #[error("the server redirects, and the redirect is not followed: {reason}; publish the document at this URL itself")]
    Redirect {
        /// The target, and the rule against it.
        reason: SafeText,
    },
    /// The operator's policy, or the default one, forbids this request.
    #[error("not allowed: {reason}")]
    Refused {
        /// The rule, and who can change it.
        reason: SafeText,
    },
    /// The connection failed.
    #[error("no connection: {reason}")]
    Unreachable {
        /// The network's error.
        reason: SafeText,
    },
    /// The server could not prove its identity, or does not speak TLS.
    #[error("no secure connection: {reason}; the server's certificate has to be valid for this host")]
    Tls {
        /// The error of the TLS connection.
        reason: SafeText,
    },
    /// The request timed out.
    #[error("timed out after {limit:?} {phase}; the server is overloaded or the connection slow")]
    TimedOut {
        /// The limit that was exceeded.
        limit: Duration,
        /// The phase, such as "waiting for an answer".
        phase: &'static str,
    },
    /// The document is larger than the operator allows.
    #[error("larger than the limit of {limit} bytes{}; raise `{setting}` if that is intended", Stated(.stated))]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
        /// The size that the server, or the descriptor, states.
        stated: Option<u64>,
        /// The key of the limit in a settings file.
        setting: &'static str,
    },
    /// The domain, or all domains together, have used their downloads.
    #[error("{reason}; try again later, or raise `{}`", .limit.key())]
    Downloads {
        /// The number of the limit, and the domain that has reached it.
        reason: SafeText,
        /// The limit.
        limit: DownloadLimit,
    },
    /// The connection ended before the whole document was received.
    #[error("the connection ended after {received}{} bytes: {reason}", Of(.stated))]
    Truncated {
        /// Number of bytes received.
        received: u64,
        /// Number of bytes stated.
        stated: Option<u64>,
        /// The network's error.
        reason: SafeText,
    },
    /// The server compressed a document that it must not compress.
    #[error("the server sent the document encoded as `{encoding}` without being asked to; turn that off for this URL")]
    Encoded {
        /// The value of `content-encoding`.
        encoding: SafeText,
    },
    /// The answer is not JSON. Mostly it is a web page.
    #[error(
        "{what} came instead of JSON{}; the server has to answer with the descriptor, or with 404",
        Quoted(", beginning with ", .beginning)
    )]
    NotJson {
        /// A description such as `a web page (text/html)`.
        what: SafeText,
        /// The first characters of the answer. May be empty.
        beginning: SafeText,
    },
    /// The answer is JSON, but not a descriptor, or one that cannot be deployed.
    #[error("the descriptor is faulty: {0}")]
    Descriptor(#[from] DescriptorError),
    /// The descriptor states no digest, and needs one.
    #[error("the descriptor states no digest ($.sourcePackage.sha256): {reason}")]
    NoDigest {
        /// Why the digest is needed, and who can waive it.
        reason: SafeText,
    },
    /// The descriptor, or the component, was not released by a trusted signer.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The trust state of the domain on this machine cannot be used.
    #[error(transparent)]
    TrustState(#[from] TrustStateError),
    /// The digest of the code differs from the one in the descriptor.
    #[error(
        "the descriptor promises the digest {expected}, and {received} bytes with the digest {actual} came{}; \
         publish descriptor and code together",
        Quoted(", beginning with ", .beginning)
    )]
    WrongDigest {
        /// The digest in the descriptor.
        expected: Sha256Digest,
        /// The digest of the code.
        actual: Sha256Digest,
        /// Number of bytes received.
        received: u64,
        /// The first characters if the code is a text, such as a web page; otherwise empty.
        beginning: SafeText,
    },
    /// The size of the code differs from the one in the descriptor.
    #[error(
        "the descriptor promises {expected} bytes ($.sourcePackage.size), and {received} came; publish descriptor and code together"
    )]
    WrongSize {
        /// The size in the descriptor, in bytes.
        expected: u64,
        /// The size of the code, in bytes.
        received: u64,
    },
    /// A source of the embedder failed.
    #[error("the source failed: {}", SafeText::display(.0))]
    Source(Box<dyn Error + Send + Sync>),
}

impl Fault {
    /// Returns the class of the fault.
    #[must_use]
    pub fn kind(&self) -> CatalogueErrorKind {
        use CatalogueErrorKind as Kind;
        match self {
            Self::NoSuchHost { .. } | Self::NotFound { .. } => Kind::NotFound,
            Self::Status { .. } | Self::Unreachable { .. } | Self::Tls { .. } => Kind::Unavailable,
            Self::TimedOut { .. } | Self::Truncated { .. } => Kind::Unavailable,
            Self::Refused { .. } | Self::TooLarge { .. } | Self::Downloads { .. } => Kind::Refused,
            Self::Redirect { .. } | Self::Encoded { .. } | Self::NotJson { .. } | Self::Descriptor(_) => Kind::Invalid,
            Self::NoDigest { .. } | Self::Signature(_) | Self::WrongDigest { .. } | Self::WrongSize { .. } => Kind::Untrusted,
            Self::TrustState(_) => Kind::TrustState,
            Self::Source(_) => Kind::Source,
        }
    }

    /// Returns `true` if the document certainly does not exist: the domain does not exist, or
    /// reports that it has no such document.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NoSuchHost { .. } | Self::NotFound { .. })
    }

    /// Returns `true` if the server could not be reached, or was not able to answer. A name that
    /// does not exist counts: some systems report that when they are offline.
    pub(crate) fn is_unreachable(&self) -> bool {
        match self {
            Self::Status { status, .. } => *status >= 500 || self.is_retryable(),
            // The operator's limit says nothing about the server.
            Self::Downloads { .. } => false,
            _ => self.is_retryable() || matches!(self, Self::NoSuchHost { .. }),
        }
    }

    /// Returns `true` if the same request may succeed later without any change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Truncated { .. } => true,
            Self::Downloads { limit, .. } => *limit == DownloadLimit::Concurrent,
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500 | 502..=504),
            _ => false,
        }
    }
}

impl CatalogueError {
    pub(crate) fn new(subject: Subject, domain: Domain, attempts: Vec<Attempt>, last: Attempt) -> Self {
        Self { subject, domain, attempts, last }
    }

    /// Returns the kind of document.
    #[must_use]
    pub fn subject(&self) -> Subject {
        self.subject
    }

    /// Returns the domain of the stub.
    #[must_use]
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Returns the class of the fault at [`Self::url`].
    #[must_use]
    pub fn kind(&self) -> CatalogueErrorKind {
        self.fault().kind()
    }

    /// Returns the URL at which the search ended.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.last.url
    }

    /// Returns the fault at [`Self::url`].
    #[must_use]
    pub fn fault(&self) -> &Fault {
        &self.last.fault
    }

    /// Returns the attempts before [`Self::url`], in order.
    #[must_use]
    pub fn earlier(&self) -> &[Attempt] {
        &self.attempts
    }

    /// Returns `true` if certainly no domain publishes such a stub. Returns `false` for a component
    /// that is missing at the URL in its descriptor.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.subject == Subject::Descriptor && self.fault().is_not_found()
    }

    /// Returns `true` if the same request may succeed later without any change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.fault().is_retryable()
    }
}

impl fmt::Display for CatalogueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed to get the {} of {}'s stub: ", self.subject, self.domain)?;
        for Attempt { url, fault } in &self.attempts {
            write!(f, "{url}: {fault}; then ")?;
        }
        write!(f, "{}: {}", self.last.url, self.last.fault)?;
        match self.subject {
            Subject::Descriptor if self.is_not_found() => {
                f.write_str("; check the spelling of the domain, or have it publish a stub")
            }
            Subject::Component if self.fault().is_not_found() => {
                f.write_str("; publish the code there, or correct the descriptor's sourcePackageURL")
            }
            _ => Ok(()),
        }
    }
}

impl Error for CatalogueError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.last.fault {
            Fault::Source(error) => error.source(),
            _ => None,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Descriptor => "descriptor",
            Self::Component => "component",
            Self::Keys => "keys",
        })
    }
}

/// A text in back-ticks after an introduction. Writes nothing if the text is empty.
struct Quoted<'a>(&'static str, &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.1.is_empty() { Ok(()) } else { write!(f, "{}`{}`", self.0, self.1) }
    }
}

/// A stated size, if known.
struct Stated<'a>(&'a Option<u64>);

impl fmt::Display for Stated<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |bytes| write!(f, " ({bytes} bytes are stated)"))
    }
}

/// The stated number of bytes after the received one, if known.
struct Of<'a>(&'a Option<u64>);

impl fmt::Display for Of<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |bytes| write!(f, " of {bytes}"))
    }
}

/// Returns the first characters of an answer, at most 80 bytes. White space becomes one space.
pub(crate) fn beginning(bytes: &[u8]) -> SafeText {
    const SHOWN_BYTES: usize = 80;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * SHOWN_BYTES)]);
    let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
    SafeText::cut(&words.join(" "), SHOWN_BYTES)
}
