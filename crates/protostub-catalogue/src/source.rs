use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream, stream::BoxStream};
use protostub_types::Domain;
use url::Url;

use crate::{Fault, Subject, downloads::Downloading};

/// A source of descriptors, components and domains' keys, by their URLs.
///
/// A source only opens documents. The [`Catalogue`](crate::Catalogue) does the rest: limits,
/// timeouts, retries, digests, copies, and reading the content. A panic of the source is a fault
/// ([`Fault::Source`]).
#[async_trait]
pub trait Source: fmt::Debug + Send + Sync {
    /// Opens a document.
    ///
    /// # Errors
    /// [`Fault::NotFound`] if the source has no document at this URL: the next source is asked. Any
    /// other fault ends the search; [`Fault::Source`] takes any error.
    async fn open(&self, request: &Request<'_>) -> Result<Document, Fault>;
}

/// A request to a [`Source`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Request<'a> {
    /// The kind of document: a descriptor, a component, or keys.
    pub subject: Subject,
    /// The domain that publishes the document.
    pub domain: &'a Domain,
    /// The URL: a well-known URL of the domain for a descriptor or keys, and the descriptor's
    /// `sourcePackageURL` for a component.
    pub url: &'a Url,
    /// The part that the caller has already, and that need not be sent again. A source may ignore
    /// this, and send the whole document.
    pub held: Held<'a>,
}

/// The part of a document that the caller has already.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub enum Held<'a> {
    /// No part.
    #[default]
    Nothing,
    /// The whole document, in the version of these validators.
    Whole(&'a Validators),
    /// The first bytes, from a download that broke off.
    Beginning {
        /// Number of bytes, at least one.
        bytes: u64,
        /// The [`Document::resumption`] that came with them.
        resumption: &'a str,
    },
}

/// The values by which a server tells versions of a document apart (RFC 9110, section 8.8).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Validators {
    /// The `ETag`, verbatim.
    pub etag: Option<String>,
    /// The `Last-Modified`, verbatim.
    pub last_modified: Option<String>,
}

/// The part of the document that the body of a [`Document`] has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Extent {
    /// The whole document.
    Whole,
    /// The part after the [`Held::Beginning`].
    Rest,
    /// No bytes: the [`Held::Whole`] is current.
    Unchanged,
}

/// An opened document.
#[non_exhaustive]
pub struct Document {
    /// The stated length of [`Self::body`], in bytes. Another length is a fault.
    pub length: Option<u64>,
    /// The final URL, if it differs from the requested one. Relative URLs in the document are
    /// relative to this one.
    pub url: Option<Url>,
    /// The media type, for error messages.
    pub media_type: Option<String>,
    /// The part of the document in [`Self::body`].
    pub extent: Extent,
    /// The version of the document.
    pub validators: Validators,
    /// Time for which a copy of a descriptor may be used without asking again. `None` forbids a
    /// copy.
    pub keep: Option<Duration>,
    /// The value by which the download can be resumed, if that is possible.
    pub resumption: Option<String>,
    /// The bytes.
    pub body: BoxStream<'static, Result<Bytes, Fault>>,
    /// The download, if the document comes over the network.
    pub(crate) download: Option<Arc<Downloading>>,
}

impl Document {
    /// Returns a document whose bytes are in memory.
    #[must_use]
    pub fn from_bytes(bytes: Bytes) -> Self {
        Self::from_stream(u64::try_from(bytes.len()).ok(), stream::iter([Ok(bytes)]))
    }

    /// Returns a document that is streamed.
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
            download: None,
        }
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document").field("length", &self.length).field("extent", &self.extent).finish_non_exhaustive()
    }
}
