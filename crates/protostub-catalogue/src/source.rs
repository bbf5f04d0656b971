use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream, stream::BoxStream};
use protostub_types::Domain;
use url::Url;

use crate::{Fault, Subject};

/// Something that may have descriptors and components, by their URLs.
///
/// A source only opens; limits, time, retries, digests and the meaning of what comes are the [`Catalogue`](crate::Catalogue)'s.
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
    /// A descriptor or a component.
    pub subject: Subject,
    /// Who publishes it.
    pub domain: &'a Domain,
    /// Where: a well-known URL of the domain for a descriptor, and what that descriptor says for a component.
    pub url: &'a Url,
}

/// An opened document.
#[non_exhaustive]
pub struct Document {
    /// How long it says that it is, in bytes. Another length is a fault.
    pub length: Option<u64>,
    /// Where it came from in the end, if not from where it was asked for; what it says relative, is relative to this.
    pub url: Option<Url>,
    /// Its media type, for error messages.
    pub media_type: Option<String>,
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
        Self { length, url: None, media_type: None, body: body.boxed() }
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document").field("length", &self.length).field("media_type", &self.media_type).finish_non_exhaustive()
    }
}
