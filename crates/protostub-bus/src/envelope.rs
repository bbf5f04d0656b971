use std::ops::{Deref, DerefMut};

use protostub_types::Message;

/// A boxed message, as the bus carries it. Moving an envelope copies one pointer.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope(Box<Contents>);

#[derive(Debug, Clone, PartialEq)]
struct Contents {
    message: Message,
    /// Size in bytes, as the mailbox counted it. The field also keeps the box off mimalloc's size
    /// of 160 bytes, which takes that allocator twice as long.
    size: usize,
    /// The state that a copy of a publication tells, as [`crate::Bus::publish`] knows it.
    state: u64,
    /// `true` if a queue charged the message to the memory that all inboxes share.
    is_charged: bool,
}

impl Envelope {
    /// Returns the message.
    #[must_use]
    pub fn into_message(self) -> Message {
        self.0.message
    }

    /// Measures the message ([`Message::size`]), remembers its size in bytes, and returns it.
    pub(crate) fn measure(&mut self) -> usize {
        self.0.size = self.0.message.size();
        self.0.size
    }

    /// Returns the size in bytes that [`Self::measure`] found last; 0 before that.
    pub(crate) fn size(&self) -> usize {
        self.0.size
    }

    /// Returns the number of the state that a copy of a publication tells.
    pub(crate) fn state(&self) -> u64 {
        self.0.state
    }

    pub(crate) fn set_state(&mut self, state: u64) {
        self.0.state = state;
    }

    /// Returns `true` if the message was charged to the memory that all inboxes share.
    pub(crate) fn is_charged(&self) -> bool {
        self.0.is_charged
    }

    pub(crate) fn set_charged(&mut self, is_charged: bool) {
        self.0.is_charged = is_charged;
    }
}

impl From<Message> for Envelope {
    fn from(message: Message) -> Self {
        Self(Box::new(Contents { message, size: 0, state: 0, is_charged: false }))
    }
}

impl Deref for Envelope {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.0.message
    }
}

impl DerefMut for Envelope {
    fn deref_mut(&mut self) -> &mut Message {
        &mut self.0.message
    }
}
