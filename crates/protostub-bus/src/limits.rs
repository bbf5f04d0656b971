use std::time::Duration;

use protostub_types::Message;

/// Limits of the messages that wait in an inbox.
///
/// Messages to the owner and responses that the owner waits for are counted separately, each within
/// these limits. A sender that fills the inbox therefore cannot keep responses from its owner.
///
/// While an inbox is more than half full, a sender gets no more places and bytes than are left. One
/// sender therefore gets half of them, and a message more. The sender of a message is the last stub
/// that it came through, or else its `from`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct InboxLimits {
    /// Maximum number of messages.
    pub messages: usize,
    /// Maximum memory of the messages in bytes, roughly ([`Message::size`]).
    pub bytes: usize,
    /// Maximum size of the body of a message, in bytes, responses included. [`Self::new`] sets no
    /// limit.
    pub body_bytes: usize,
    /// Time for which a sender is suspect after the inbox's owner crashed with one of its messages,
    /// and for which the inbox refuses the sender after a second crash ([`Inbox::crashed`]). Zero
    /// refuses no sender. [`Self::new`] sets 60 s.
    ///
    /// [`Inbox::crashed`]: crate::Inbox::crashed
    pub suspicion: Duration,
}

impl InboxLimits {
    /// Creates limits of this many messages, and of this many bytes together.
    #[must_use]
    pub const fn new(messages: usize, bytes: usize) -> Self {
        Self { messages, bytes, body_bytes: usize::MAX, suspicion: Duration::from_secs(60) }
    }

    /// Returns the reason for refusing a message of this size whose body is too large.
    pub(crate) fn body_excess(&self, message: &Message, size: usize) -> Option<String> {
        // The size includes the body, so most messages need no second look.
        if size <= self.body_bytes {
            return None;
        }
        let bytes = message.body.as_ref().map_or(0, |body| body.as_bytes().len());
        let limit = self.body_bytes;
        (bytes > limit).then(|| {
            format!("the body has {bytes} bytes, more than the {limit} that the receiving stub takes (`body-bytes`); send a smaller one")
        })
    }
}

impl Default for InboxLimits {
    /// Returns limits of 1024 messages and 16 MiB: a few of the largest messages, or many small
    /// ones.
    fn default() -> Self {
        Self::new(1024, 16 << 20)
    }
}
