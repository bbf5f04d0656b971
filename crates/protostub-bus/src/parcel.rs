use std::ops::{Deref, DerefMut};

use protostub_types::Message;

/// A message on its way. A box: each queue on the way copies its address only (`trip_loaded_vs_bare`,
/// `bus_vs_mpsc`).
#[derive(Debug, Clone, PartialEq)]
pub struct Parcel(Box<Packed>);

#[derive(Debug, Clone, PartialEq)]
struct Packed {
    message: Message,
    /// The size that the message was counted as when it was put into a mailbox, in bytes.
    size: usize,
}

impl Parcel {
    /// What was packed.
    #[must_use]
    pub fn into_message(self) -> Message {
        self.0.message
    }

    /// Finds out how large it is now, in bytes ([`Message::size`]).
    pub(crate) fn weigh(&mut self) -> usize {
        self.0.size = self.0.message.size();
        self.0.size
    }

    /// In bytes, as when it was weighed last; 0 if it never was.
    pub(crate) fn size(&self) -> usize {
        self.0.size
    }
}

impl From<Message> for Parcel {
    fn from(message: Message) -> Self {
        Self(Box::new(Packed { message, size: 0 }))
    }
}

impl Deref for Parcel {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.0.message
    }
}

impl DerefMut for Parcel {
    fn deref_mut(&mut self) -> &mut Message {
        &mut self.0.message
    }
}
