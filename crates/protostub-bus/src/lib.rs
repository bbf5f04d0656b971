//! The message bus of Protostub: who listens where, bounded inboxes, requests and their responses.
//!
//! ```text
//!            post ──► checks ──► table, policy ──► mailbox ═ queue ═ inbox ──► its owner
//!                                  │                  ▲                          │
//!  no listener, no route: hook ◄───┘                  └── response, matched ◄────┘ post
//! ```
//!
//! A [`Bus`] routes by address. A [`Mailbox`] that is attached to an address gets what is posted to exactly that address; one that is attached to
//! a [`StubKey`](protostub_types::StubKey) gets what is posted to the key's other addresses. Where there is neither, an [`Unroutable`] hook may
//! name a mailbox: that is how the first message to a domain deploys its stub. The owner of the [`Inbox`] behind a mailbox takes the messages
//! out, one by one or in batches.
//!
//! Posting never waits and never blocks: there is room in the mailbox, or the message is refused. Several messages that are posted together ([`Bus::post_all`],
//! [`Poster`]) are posted one by one, in less time. An operator's rules are a [`Policy`], which is asked
//! before every hop.
//!
//! # Delivery contract
//!
//! [`Bus::post`] and [`Bus::request`] *accept* a message or *refuse* it. A refused message goes nowhere, and the [`PostError`] is all that its
//! sender hears. An accepted message has exactly one outcome:
//!
//! * A **request** ([`Message::expects_response`](protostub_types::Message::expects_response), or anything given to [`Bus::request`]) gets exactly
//!   one final response: from its receiver, or from the host in its place. Responses match on requester, responder and id, and count only
//!   once the receiver took the request; those of a stub, only if it was this stub that took it. Provisional ones (below 200) go to a requester that listens, as far as its inbox has room, and leave the
//!   request open. Responses that match nothing are counted ([`BusCounts::unawaited`]), traced at debug level, and dropped. A requester that
//!   drops the future of [`Bus::request`] gives its request up: if it was not taken yet, it never will be.
//! * **Any other message** is delivered, which means that its receiver took it, or its `from` gets one error response.
//! * A **publication** is a message that is neither request nor response, to a topic: each subscriber of that address ([`Bus::subscribe`]) gets a
//!   copy at its own listener, `to` unchanged. The topic's own listener, if it has one, gets the message itself. A subscriber whose inbox is full
//!   misses its copy; the publisher is not told. What a stub sends to a topic that has a listener is for that listener alone: nobody takes it for
//!   his word. What somebody publishes below its own address may have no listener and no subscriber at all.
//!
//! The host answers in the receiver's place when
//!
//! | code | what happened |
//! | --- | --- |
//! | 403 | the [`Policy`] refused the final response |
//! | 408 | the request had no final response in its time (header `timeout-ms`, else [`BusConfig::request_timeout`]); any other message waited in an inbox for [`BusConfig::queue_timeout`] |
//! | 502 | the receiver's owner ended with it: [`Bus::fail_taken`] for requests, [`Bus::fail`] for all else |
//! | 503, or as its owner says | the inbox was closed while it waited there ([`Inbox::close`]), or the bus was shut down ([`Bus::shut_down`]) |
//!
//! Codes of refusals stand at [`PostError`].
//!
//! A request that was posted has a place for its response kept in its requester's inbox from the start; a requester that does not read its
//! responses is refused further requests (429), so no response is lost for want of room. A response that is too large for what is left there is
//! refused to the *responder* (429, or 413 if it can never fit), and the request stays open. The one loss that is possible is that of an *error
//! response* for a message that was no request, when its sender has gone or has some sixteen thousand of them unread; it is counted
//! ([`BusCounts::undeliverable`]).
//!
//! Messages from one sender to one mailbox keep their order. A message that came through the stub that a mailbox belongs to
//! ([`Mailbox::set_owner`]) is never put there (508).
//!
//! # What it does not do
//!
//! It does no I/O, spawns nothing and names no sandbox. It does not check whether an origin may speak as a message's `from`: whoever gives
//! origins their access to the bus does. It never holds a lock while it calls a hook or wakes a task.
//!
//! # Examples
//!
//! ```
//! use protostub_bus::{Bus, BusConfig, InboxLimits, Origin};
//! use protostub_types::{Address, Domain, Message};
//! use serde_json::json;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let runtime = Address::parse("hyperty-runtime://home.example/1")?;
//! let bus = Bus::new(BusConfig::new(Domain::parse("home.example")?, runtime));
//! let deadlines = tokio::spawn({
//!     let bus = bus.clone();
//!     async move { bus.run_deadlines().await }
//! });
//!
//! let alice = Address::parse("hyperty://home.example/alice")?;
//! let mut inbox = bus.inbox(InboxLimits::default());
//! let _route = bus.attach(&alice, &inbox.mailbox())?;
//! let answering = async {
//!     let request = inbox.recv().await.ok_or("closed")?;
//!     bus.post(&Origin::Hyperty(alice.clone()), request.response(200, Some(json!("hello"))))?;
//!     Ok::<_, Box<dyn std::error::Error>>(())
//! };
//!
//! let (response, answered) = tokio::join!(bus.request(&Origin::Host, Message::read(alice.clone()), None), answering);
//! answered?;
//! assert_eq!(response?.code(), Some(200));
//! assert_eq!(bus.counts().answered, 1);
//! # deadlines.abort();
//! # Ok(())
//! # }
//! ```

mod bus;
mod config;
mod counts;
mod deadlines;
mod enforcement;
mod envelope;
mod error;
mod inbox;
mod last_receiver;
mod mailbox;
mod open_requests;
mod origin;
mod outcomes;
mod policy;
mod post;
mod poster;
mod request_key;
mod table;

pub use bus::{Bus, Route, Unroutable};
pub use config::{BusConfig, DEFAULT_REQUEST_TIMEOUT, MAX_ID_BYTES, MAX_QUEUE_TIMEOUT, MAX_REQUEST_TIMEOUT};
pub use counts::BusCounts;
pub use envelope::Envelope;
pub use error::{AttachError, PostError, RequestError};
pub use inbox::Inbox;
pub use mailbox::{InboxLimits, Mailbox};
pub use origin::Origin;
pub use policy::{Decision, Hop, Policy, Receiver};
pub use poster::Poster;
