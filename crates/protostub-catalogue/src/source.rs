use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream, stream::BoxStream};
use protostub_types::Domain;
use url::Url;

use crate::{Fault, Subject};

/// Something that may have descriptors, components and domains' keys, by their URLs.
///
/// A source only opens; limits, time, retries, digests, copies and the meaning of what comes are the [`Catalogue`](crate::Catalogue)'s.
#[async_trait]
pub trait Source: fmt::Debug + Send + Sync {
    /// Opens a document.
    ///
    /// # Errors
    /// [`Fault::NotFound`] if it has none at this URL: the next source is asked. Any other fault ends the search; [`Fault::Source`] takes
    /// any error.
    async fn open(&self, request: &Request<'_>) -> Result<Document, Fault>;
}

/// What a [`Source`] is asked for.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Request<'a> {
    /// A descriptor, a component, or keys.
    pub subject: Subject,
    /// Who publishes it.
    pub domain: &'a Domain,
    /// Where: a well-known URL of the domain for a descriptor or keys, and what that descriptor says for a component.
    pub url: &'a Url,
    /// What is there already, and need not be sent again. A source may ignore it, and send the document whole.
    pub held: Held<'a>,
}

/// How much of a document whoever asks has already.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub enum Held<'a> {
    /// Nothing.
    #[default]
    Nothing,
    /// All of it, as it was when it had these validators.
    Whole(&'a Validators),
    /// Its first bytes, from a download that broke off.
    Beginning {
        /// How many, at least one.
        bytes: u64,
        /// The [`Document::resumption`] that came with them.
        resumption: &'a str,
    },
}

/// How a server tells versions of a document apart (RFC 9110, section 8.8).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Validators {
    /// The `ETag`, as it was written.
    pub etag: Option<String>,
    /// The `Last-Modified`, as it was written.
    pub last_modified: Option<String>,
}

/// How much of the document the body of a [`Document`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Extent {
    /// All of it.
    Whole,
    /// What follows after the [`Held::Beginning`].
    Rest,
    /// Nothing: the [`Held::Whole`] is what would be sent.
    Unchanged,
}

/// An opened document.
#[non_exhaustive]
pub struct Document {
    /// How long [`Self::body`] is said to be, in bytes. Another length is a fault.
    pub length: Option<u64>,
    /// Where it came from in the end, if not from where it was asked for; what it says relative, is relative to this.
    pub url: Option<Url>,
    /// Its media type, for error messages.
    pub media_type: Option<String>,
    /// How much of the document [`Self::body`] is.
    pub extent: Extent,
    /// Which version of it this is.
    pub validators: Validators,
    /// For how long a copy of a descriptor may be used without asking again. None: no copy is to be made.
    pub keep: Option<Duration>,
    /// With what the download can be continued if it breaks off, if it can.
    pub resumption: Option<String>,
    /// Its bytes.
    pub body: BoxStream<'static, Result<Bytes, Fault>>,
}

impl Document {
    /// A document that is there already.
    #[must_use]
    pub fn from_bytes(bytes: Bytes) -> Self {
        Self::from_stream(u64::try_from(bytes.len()).ok(), stream::iter([Ok(bytes)]))
    }

    /// A document that comes bit by bit.
    pub fn from_stream(length: Option<u64>, body: impl Stream<Item = Result<Bytes, Fault>> + Send + 'static) -> Self {
        Self {
            length,
            url: None,
            media_type: None,
            extent: Extent::Whole,
            validators: Validators::default(),
            keep: None,
            resumption: None,
            body: body.boxed(),
        }
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document").field("length", &self.length).field("extent", &self.extent).finish_non_exhaustive()
    }
}
