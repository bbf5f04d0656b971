use std::{error::Error, fmt, time::Duration};

use protostub_types::{DescriptorError, Domain, SafeText, Sha256Digest};

use crate::{TrustStateError, trust::SignatureError};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Subject {
    /// Steps 4 and 5.
    Descriptor,
    /// Steps 6 and 7.
    Component,
    /// The keys that a domain's signatures are verified by: a JSON Web Key Set.
    Keys,
}

/// One URL that was asked in vain.
#[derive(Debug)]
#[non_exhaustive]
pub struct Attempt {
    /// What was asked.
    pub url: SafeText,
    /// What came.
    pub fault: Fault,
}

/// Why a stub's descriptor or component could not be had. The text is complete: all that was asked, what came, and what to do.
#[derive(Debug)]
pub struct CatalogueError {
    subject: Subject,
    domain: Domain,
    /// In the order asked, never empty; the last one decides.
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

/// What came instead of what was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The name service knows no such host.
    #[error("there is no host `{host}`")]
    NoSuchHost {
        /// As it stands in the URL.
        host: SafeText,
    },
    /// There is nothing there, and the other side says so.
    #[error("not found ({answer})")]
    NotFound {
        /// The other side's words.
        answer: SafeText,
    },
    /// The server answered with a status that is neither success nor "not found".
    #[error("the server answered {status}{}; see its log", Quoted(": ", .beginning))]
    Status {
        /// RFC 9110, section 15.
        status: u16,
        /// The first characters of its explanation; may be empty.
        beginning: SafeText,
        /// For how long it wants to be left alone, if it says so in seconds (`Retry-After`).
        retry_after: Option<Duration>,
    },
    /// The server wants to be asked elsewhere, and that is not done.
    #[error("the server redirects, and that is not followed: {reason}; publish it at this URL itself")]
    Redirect {
        /// Where to, and the rule against it.
        reason: SafeText,
    },
    /// The operator's policy, or the default one, forbids to ask there.
    #[error("not allowed: {reason}")]
    Refused {
        /// The rule, and who can change it.
        reason: SafeText,
    },
    /// No connection came about.
    #[error("no connection: {reason}")]
    Unreachable {
        /// What the network says.
        reason: SafeText,
    },
    /// The server could not prove who it is, or does not speak TLS.
    #[error("no secure connection: {reason}; the server's certificate has to be valid for this host")]
    Tls {
        /// What is wrong with it.
        reason: SafeText,
    },
    /// It took too long.
    #[error("timed out after {limit:?} {phase}; the server is overloaded or the connection slow")]
    TimedOut {
        /// The limit that was exceeded.
        limit: Duration,
        /// "waiting for an answer", say.
        phase: &'static str,
    },
    /// It is larger than the operator allows.
    #[error("larger than the limit of {limit} bytes{}; raise `{setting}` if that is intended", Stated(.stated))]
    TooLarge {
        /// In bytes.
        limit: usize,
        /// What the server, or the descriptor, says how large it is.
        stated: Option<u64>,
        /// Key of the limit in a settings file.
        setting: &'static str,
    },
    /// The connection broke before everything had come.
    #[error("the connection ended after {received}{} bytes: {reason}", Of(.stated))]
    Truncated {
        /// How many bytes came.
        received: u64,
        /// How many were promised.
        stated: Option<u64>,
        /// What the network says.
        reason: SafeText,
    },
    /// The server compressed what was not to be compressed.
    #[error("the server sent it encoded as `{encoding}` without being asked to; turn that off for this URL")]
    Encoded {
        /// The `content-encoding`.
        encoding: SafeText,
    },
    /// Something else than JSON, a web page mostly.
    #[error(
        "{what} came instead of JSON{}; the server has to answer with the descriptor, or with 404",
        Quoted(", beginning with ", .beginning)
    )]
    NotJson {
        /// `a web page (text/html)`, say.
        what: SafeText,
        /// The first characters; may be empty.
        beginning: SafeText,
    },
    /// JSON, but no descriptor, or none that can be deployed.
    #[error("the descriptor is faulty: {0}")]
    Descriptor(#[from] DescriptorError),
    /// The descriptor does not state a digest, but has to.
    #[error("the descriptor states no digest ($.sourcePackage.sha256): {reason}")]
    NoDigest {
        /// Why it has to, and who can waive it.
        reason: SafeText,
    },
    /// The descriptor, or the component, is not released by whom it should be.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// This machine's trust state of the domain cannot be used.
    #[error(transparent)]
    TrustState(#[from] TrustStateError),
    /// The code is not the one that the descriptor names.
    #[error(
        "the descriptor promises the digest {expected}, and {received} bytes with the digest {actual} came{}; \
         publish descriptor and code together",
        Quoted(", beginning with ", .beginning)
    )]
    WrongDigest {
        /// What the descriptor says.
        expected: Sha256Digest,
        /// What was calculated.
        actual: Sha256Digest,
        /// How many bytes came.
        received: u64,
        /// The first characters if it is a text, a web page say; else empty.
        beginning: SafeText,
    },
    /// The code is not as long as the descriptor says.
    #[error(
        "the descriptor promises {expected} bytes ($.sourcePackage.size), and {received} came; publish descriptor and code together"
    )]
    WrongSize {
        /// What the descriptor says, in bytes.
        expected: u64,
        /// What came, in bytes.
        received: u64,
    },
    /// A source of the embedder failed.
    #[error("the source failed: {}", SafeText::display(.0))]
    Source(Box<dyn Error + Send + Sync>),
}

impl Fault {
    /// Its class.
    #[must_use]
    pub fn kind(&self) -> CatalogueErrorKind {
        use CatalogueErrorKind as Kind;
        match self {
            Self::NoSuchHost { .. } | Self::NotFound { .. } => Kind::NotFound,
            Self::Status { .. } | Self::Unreachable { .. } | Self::Tls { .. } => Kind::Unavailable,
            Self::TimedOut { .. } | Self::Truncated { .. } => Kind::Unavailable,
            Self::Refused { .. } | Self::TooLarge { .. } => Kind::Refused,
            Self::Redirect { .. } | Self::Encoded { .. } | Self::NotJson { .. } | Self::Descriptor(_) => Kind::Invalid,
            Self::NoDigest { .. } | Self::Signature(_) | Self::WrongDigest { .. } | Self::WrongSize { .. } => Kind::Untrusted,
            Self::TrustState(_) => Kind::TrustState,
            Self::Source(_) => Kind::Source,
        }
    }

    /// Whether there is nothing there, for certain: the domain does not exist, or says that it has no such thing.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NoSuchHost { .. } | Self::NotFound { .. })
    }

    /// Whether nobody could be asked, or nobody was able to answer. A name that does not exist counts: some systems say so when they are offline.
    pub(crate) fn is_unreachable(&self) -> bool {
        match self {
            Self::Status { status, .. } => *status >= 500 || self.is_retryable(),
            _ => self.is_retryable() || matches!(self, Self::NoSuchHost { .. }),
        }
    }

    /// Whether the same may succeed in a while, with nothing changed by anybody.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Truncated { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500 | 502..=504),
            _ => false,
        }
    }
}

impl CatalogueError {
    pub(crate) fn new(subject: Subject, domain: Domain, attempts: Vec<Attempt>, last: Attempt) -> Self {
        Self { subject, domain, attempts, last }
    }

    /// What was wanted.
    #[must_use]
    pub fn subject(&self) -> Subject {
        self.subject
    }

    /// Whose stub it is.
    #[must_use]
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Returns the class of the fault at [`Self::url`].
    #[must_use]
    pub fn kind(&self) -> CatalogueErrorKind {
        self.fault().kind()
    }

    /// The URL at which the search ended.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.last.url
    }

    /// What came from [`Self::url`].
    #[must_use]
    pub fn fault(&self) -> &Fault {
        &self.last.fault
    }

    /// What was asked before [`Self::url`], in this order.
    #[must_use]
    pub fn earlier(&self) -> &[Attempt] {
        &self.attempts
    }

    /// Whether nobody publishes such a stub, for certain. A component that is not where its descriptor says is another matter.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.subject == Subject::Descriptor && self.fault().is_not_found()
    }

    /// Whether a later try may succeed with nothing changed by anybody.
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

/// A text in back-ticks with something before it; nothing if it is empty.
struct Quoted<'a>(&'static str, &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.1.is_empty() { Ok(()) } else { write!(f, "{}`{}`", self.0, self.1) }
    }
}

/// A stated size, if there is one.
struct Stated<'a>(&'a Option<u64>);

impl fmt::Display for Stated<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |bytes| write!(f, " ({bytes} bytes are stated)"))
    }
}

/// How many it should have been, if that is known.
struct Of<'a>(&'a Option<u64>);

impl fmt::Display for Of<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |bytes| write!(f, " of {bytes}"))
    }
}

/// Returns the first characters of what came: at most 80 bytes. White space becomes one space.
pub(crate) fn beginning(bytes: &[u8]) -> SafeText {
    const SHOWN_BYTES: usize = 80;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * SHOWN_BYTES)]);
    let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
    SafeText::cut(&words.join(" "), SHOWN_BYTES)
}
