use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use protostub_types::Message;

use crate::{Bus, Envelope, Origin, PostError, RequestError, last_receiver::LastReceiver};

/// Posts the messages of one origin over one bus. Made by [`Bus::poster`].
///
/// A poster remembers the receiver of its last message. Consecutive messages to one address are
/// therefore posted in less time than by [`Bus::post`], with the same outcome. The poster looks the
/// receiver up again after any attachment, subscription or end of a listener on the bus.
///
/// A clone posts for the same origin and remembers a receiver of its own, so each task can have a
pub struct Poster {
    bus: Bus,
    origin: Origin,
    last: Mutex<LastReceiver>,
}

impl Bus {
    /// Makes a poster for this origin's messages. The caller vouches for the origin.
    #[must_use]
    pub fn poster(&self, origin: Origin) -> Poster {
        Poster { bus: self.clone(), origin, last: Mutex::default() }
    }
}

impl Poster {
    /// The bus that this poster posts to.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// The origin of everything that this poster posts.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Posts a message. Never waits: while another thread posts, this call posts without the
    /// remembered receiver.
    ///
    /// # Errors
    /// As [`Bus::post`].
    pub fn post(&self, message: impl Into<Envelope>) -> Result<(), PostError> {
        match self.last.try_lock() {
            Ok(mut last) => self.bus.post_to_last(&self.origin, message.into(), || self.bus.config().clock.now(), &mut last),
            // The lock is held by another thread that posts now, or by this thread's own post,
            // which runs this callback.
            Err(_) => self.bus.post(&self.origin, message),
        }
    }

    /// Posts a message at the time that `now` returns, on the clock of the bus. The message's
    /// waiting time counts from then. Calls `now` only if the time is needed. Takes no lock, since
    /// the caller has exclusive access to the poster.
    ///
    /// # Errors
    /// As [`Bus::post`].
    pub fn post_at(&mut self, message: impl Into<Envelope>, now: impl FnOnce() -> Instant) -> Result<(), PostError> {
        let last = self.last.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.bus.post_to_last(&self.origin, message.into(), now, last)
    }

    /// Posts messages in their order, as [`Bus::post_all`] does.
    pub fn post_all(&self, messages: impl IntoIterator<Item = Message>) -> Vec<Result<(), PostError>> {
        self.bus.post_all(&self.origin, messages)
    }

    /// Posts a request and waits for its final response, as [`Bus::request`] does.
    ///
    /// # Errors
    /// As [`Bus::request`].
    pub async fn request(&self, message: Message, timeout: Option<Duration>) -> Result<Message, RequestError> {
        self.bus.request(&self.origin, message, timeout).await
    }
}

impl Clone for Poster {
    fn clone(&self) -> Self {
        self.bus.poster(self.origin.clone())
    }
}

impl fmt::Debug for Poster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poster").field("origin", &self.origin).finish_non_exhaustive()
    }
}
