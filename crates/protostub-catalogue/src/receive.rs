use std::{future::Future, mem, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;
use protostub_types::{Backoff, HookPanicked, SafeText, Sha256Digest, await_hook, deadline};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::Semaphore,
    task::yield_now,
    time::{Instant, sleep, timeout_at},
};
use tracing::debug;
use url::Url;

use crate::{
    CatalogueConfig, Document, Download, Extent, Fault, Held, Request, Source, Subject, Validators,
    component::length,
    downloads::DownloadMemory,
    error::beginning,
    pieces::{Pieces, TURN_BYTES},
};

/// Maximum time between two attempts, without the random extension. A server that asks for a longer
/// pause is not asked again.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(2);
/// Number of bytes that an attempt must add for the retry count to restart. It lets a large
/// component come over a bad line, and keeps a server from causing endless retries.
const MIN_PROGRESS_BYTES: usize = 64 * 1024;

/// A complete document, or the answer to [`Held::Whole`] that the held one is unchanged.
pub(crate) struct Received {
    /// Empty for an unchanged document.
    pub(crate) bytes: Bytes,
    pub(crate) digest: Sha256Digest,
    pub(crate) unchanged: bool,
    pub(crate) url: Option<Url>,
    pub(crate) media_type: Option<String>,
    pub(crate) validators: Validators,
    pub(crate) keep: Option<Duration>,
    /// The memory of the bytes, if they came over the network.
    pub(crate) memory: Option<DownloadMemory>,
}

/// Receiver of a document's progress.
pub(crate) type Tell<'a> = dyn Fn(Download) + Sync + 'a;

/// Limits on a document.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) bytes: usize,
    pub(crate) setting: &'static str,
    pub(crate) total: Duration,
}

impl Limits {
    pub(crate) fn check(&self, stated: Option<u64>) -> Result<(), Fault> {
        match stated {
            Some(bytes) if usize::try_from(bytes).map_or(true, |bytes| bytes > self.bytes) => self.exceeded(stated),
            _ => Ok(()),
        }
    }

    fn exceeded<T>(&self, stated: Option<u64>) -> Result<T, Fault> {
        Err(Fault::TooLarge { limit: self.bytes, stated, setting: self.setting })
    }
}

/// Reads a whole document, within limits of size and time, and retries after transient faults. A
/// component is resumed if the server can tell that it is still the same one.
pub(crate) async fn receive(
    source: &dyn Source,
    request: Request<'_>,
    config: &CatalogueConfig,
    limits: Limits,
    tell: &Tell<'_>,
) -> Result<Received, Fault> {
    let new_delays = || Backoff::new(config.retry_delay, MAX_RETRY_DELAY).take(config.retries);
    let patience = Patience { idle: config.idle_timeout, total: limits.total, end: after(limits.total) };
    let mut transfer = Transfer::default();
    let mut delays = new_delays();
    loop {
        let before = transfer.resumable_bytes();
        let fault = match transfer.attempt(source, request, limits, &patience, tell).await {
            Err(fault) if fault.is_retryable() && !patience.is_over() => fault,
            outcome => return outcome,
        };
        if transfer.resumable_bytes() >= before.saturating_add(MIN_PROGRESS_BYTES) {
            delays = new_delays();
        }
        let Some(delay) = delays.next() else { return Err(fault) };
        let wanted = match &fault {
            Fault::Status { retry_after: Some(wanted), .. } => *wanted,
            _ => Duration::ZERO,
        };
        if wanted > MAX_RETRY_DELAY {
            return Err(fault);
        }
        let delay = delay.max(wanted);
        debug!(url = %request.url, %fault, ?delay, "trying again");
        timeout_at(patience.end, sleep(delay)).await.map_err(|_| patience.at_its_end())?;
    }
}

/// Timeouts of a document: for a part, and for the whole. Both share one timer, since setting a
/// timer wakes a thread.
struct Patience {
    idle: Duration,
    total: Duration,
    end: Instant,
}

impl Patience {
    /// Waits for a part.
    async fn wait<T>(&self, part: impl Future<Output = T>, phase: &'static str) -> Result<T, Fault> {
        let idle = after(self.idle);
        timeout_at(idle.min(self.end), part).await.map_err(|_| match idle < self.end {
            true => Fault::TimedOut { limit: self.idle, phase },
            false => self.at_its_end(),
        })
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    fn at_its_end(&self) -> Fault {
        Fault::TimedOut { limit: self.total, phase: "in all, including retries" }
    }
}

fn after(duration: Duration) -> Instant {
    deadline(Instant::now(), duration)
}

/// The part of a document received so far, over all attempts.
#[derive(Default)]
struct Transfer {
    bytes: Pieces,
    hash: Sha256,
    /// The value by which the download can be resumed.
    resumption: Option<String>,
    /// The memory of a document that comes over the network, from its head on.
    memory: Option<DownloadMemory>,
}

impl Transfer {
    /// Returns the number of bytes that need not come again.
    fn resumable_bytes(&self) -> usize {
        if self.resumption.is_some() { self.bytes.len() } else { 0 }
    }

    /// Opens the document and reads it to the end. Calculates the digest meanwhile.
    async fn attempt(
        &mut self,
        source: &dyn Source,
        request: Request<'_>,
        limits: Limits,
        patience: &Patience,
        tell: &Tell<'_>,
    ) -> Result<Received, Fault> {
        let resumption = self.resumption.take();
        let held = match &resumption {
            Some(resumption) if !self.bytes.is_empty() => Held::Beginning { bytes: length(self.bytes.len()), resumption },
            _ => request.held,
        };
        let request = Request { held, ..request };
        let opening = await_hook("Source::open", || source.open(&request));
        let opened = patience.wait(opening, "waiting for an answer").await.and_then(|opened| opened.map_err(panicked)?);
        if opened.is_err() {
            self.resumption.clone_from(&resumption);
        }
        let document = opened?;
        let Document { length: stated, url, media_type, extent, validators, keep, mut body, download, .. } = document;
        let before = match (extent, held) {
            (Extent::Whole, _) => {
                *self = Self::default();
                // Descriptors are small, so only components are resumed.
                self.resumption = document.resumption.filter(|_| request.subject == Subject::Component);
                0
            }
            (Extent::Rest, Held::Beginning { bytes, .. }) => {
                self.resumption = resumption;
                bytes
            }
            (Extent::Unchanged, Held::Whole(_)) => {
                let digest = Sha256Digest::of(&[]);
                return Ok(Received {
                    bytes: Bytes::new(),
                    digest,
                    unchanged: true,
                    url,
                    media_type,
                    validators,
                    keep,
                    memory: None,
                });
            }
            _ => return Err(Fault::Source("the source sent a part of a document whose rest is missing".into())),
        };
        let total = stated.map(|stated| stated.saturating_add(before));
        limits.check(total)?;
        if let (Some(download), None) = (&download, &self.memory) {
            // A document of unknown length may be as long as its limit.
            let bytes = total.unwrap_or_else(|| length(limits.bytes));
            self.memory = Some(download.reserve(bytes, patience.end).await?);
        }
        tell(Download::Receiving { bytes: before, total });
        loop {
            let receiving = await_hook("Document::body", || body.next());
            let received = patience.wait(receiving, "waiting for more of the answer").await?;
            let Some(chunk) = received.map_err(panicked)? else { break };
            let chunk = chunk.map_err(|fault| behind(before, fault))?;
            if self.bytes.len() + chunk.len() > limits.bytes {
                return limits.exceeded(total);
            }
            hash(&mut self.hash, &chunk).await;
            self.bytes.push(chunk);
            tell(Download::Receiving { bytes: length(self.bytes.len()), total });
        }
        let received = length(self.bytes.len());
        if let Some(total) = total.filter(|total| *total != received) {
            // A document that is too long cannot be completed, so the download is not resumed.
            self.resumption = self.resumption.take().filter(|_| received < total);
            return Err(Fault::Truncated {
                received,
                stated: Some(total),
                reason: "the length differs from the stated one".into(),
            });
        }
        let Self { bytes, hash, memory, .. } = mem::take(self);
        let digest = Sha256Digest::from_bytes(hash.finalize().into());
        Ok(Received { bytes: bytes.join().await, digest, unchanged: false, url, media_type, validators, keep, memory })
    }
}

/// Hashes a chunk. A large one, such as a whole component, is hashed in turns and on one processor
/// at a time, which leaves room for other tasks.
async fn hash(hash: &mut Sha256, chunk: &[u8]) {
    /// The permit of the whole process, because all tasks share its processors.
    static LARGE_CHUNKS: Semaphore = Semaphore::const_new(1);

    if chunk.len() <= TURN_BYTES {
        return hash.update(chunk);
    }
    for part in chunk.chunks(TURN_BYTES) {
        let turn = LARGE_CHUNKS.acquire().await;
        hash.update(part);
        drop(turn);
        yield_now().await;
    }
}

fn panicked(panicked: HookPanicked) -> Fault {
    Fault::Source(Box::new(panicked))
}

/// Converts a fault of a part to one with the lengths of the whole.
fn behind(before: u64, fault: Fault) -> Fault {
    match fault {
        Fault::Truncated { received, stated, reason } => {
            Fault::Truncated { received: received + before, stated: stated.map(|stated| stated.saturating_add(before)), reason }
        }
        other => other,
    }
}

impl Received {
    /// Returns a description of the answer.
    pub(crate) fn what(&self) -> SafeText {
        let start: Vec<u8> = self.bytes.trim_ascii_start().iter().take(16).map(u8::to_ascii_lowercase).collect();
        let is_html = |media_type: &String| media_type.to_ascii_lowercase().starts_with("text/html");
        let what = if start.is_empty() {
            "an empty answer"
        } else if start.starts_with(b"<!doctype html")
            || start.starts_with(b"<html")
            || self.media_type.as_ref().is_some_and(is_html)
        {
            "a web page"
        } else if start.iter().any(u8::is_ascii_control) {
            "binary data"
        } else {
            "a text"
        };
        match &self.media_type {
            Some(media_type) => SafeText::display(format_args!("{what} ({})", beginning(media_type.as_bytes()))),
            None => what.into(),
        }
    }
}
