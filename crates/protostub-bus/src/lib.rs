//! The message bus of Protostub: routes, bounded inboxes, requests and their responses.
//!
//! ```text
//!            post ──► checks ──► table, policy ──► mailbox ═ queue ═ inbox ──► its owner
//!                                  │                  ▲                          │
//!  no listener, no route: hook ◄───┘                  └── response, matched ◄────┘ post
//! ```
//!
//! A [`Bus`] routes by address. A [`Mailbox`] that is attached to an address gets the messages to
//! exactly that address. A [`Mailbox`] that is attached to a [`StubKey`](protostub_types::StubKey)
//! gets the messages to all other addresses of that key. An [`Unroutable`] hook may name a mailbox
//! for the remaining messages: the first message to a domain deploys its stub that way. The owner
//! of the [`Inbox`] behind a mailbox takes the messages out, one by one or in batches.
//!
//! Posting never waits and never blocks. The bus refuses a message if the mailbox has no room.
//! [`Bus::post_all`] and a [`Poster`] post several messages one by one, and take less time than
//! separate calls of [`Bus::post`]. The operator's rules are a [`Policy`], which the bus asks
//! before every hop.
//!
//! # Delivery contract
//!
//! [`Bus::post`] and [`Bus::request`] *accept* a message or *refuse* it. The bus delivers no
//! refused message. Its sender gets the [`PostError`] and no error response. An accepted message
//! has exactly one outcome:
//!
//! * A **request** ([`Message::expects_response`](protostub_types::Message::expects_response), or
//!   any message given to [`Bus::request`]) gets exactly one final response: from its receiver, or
//!   from the host in the receiver's place.
//!   - Responses match on requester, responder and id. A response counts only after the receiver
//!     took the request. A stub's response counts only if this stub took the request.
//!   - The bus forwards provisional responses (code below 200) to a requester that listens, if its
//!     inbox has room. They leave the request open.
//!   - The bus counts responses that match no open request ([`BusCounts::unawaited`]), logs them at
//!     debug level, and drops them.
//!   - A requester that drops the future of [`Bus::request`] abandons its request. A receiver that
//!     has not taken the request yet never gets it.
//! * **Any other message** is delivered, which means that its receiver took it, or its `from` gets
//!   one error response.
//! * A **publication** is a message to a topic that is neither request nor response.
//!   - Each subscriber of that address ([`Bus::subscribe`]) gets a copy at its own listener, with
//!     `to` unchanged. The topic's own listener, if there is one, gets the message itself.
//!   - A subscriber whose inbox is full misses copies, and the publisher gets no error. The copy
//!     takes the place of the oldest one from the same `from` at the same topic, so the newest
//!     state is kept ([`Bus::publish`] distinguishes several states of one publisher). Without an
//!     older one, the copy itself is missed. So is a copy that waited for too long.
//!   - A subscriber learns that it missed copies: the next copy that it takes has their number in
//!     its header `missed-copies`, which only the host sets. [`Inbox::missed_copies`] counts them.
//!   - A stub's message to a topic with a listener reaches only that listener. Subscribers cannot
//!     mistake it for a publication of the listener.
//!   - A publication below its sender's own address may have no listener and no subscriber.
//!
//! The host answers in the receiver's place with these codes:
//!
//! * 403: the [`Policy`] refused the final response.
//! * 408: the request had no final response within its timeout (header `timeout-ms`, else
//!   [`BusConfig::request_timeout`]), or any other message waited in an inbox for
//!   [`BusConfig::queue_timeout`].
//! * 502: the receiver's owner ended while it had the message: [`Bus::fail_taken`] for requests,
//!   [`Bus::fail`] for other messages.
//! * 503, or the code that the inbox's owner chose: the inbox was closed while the message waited
//!   there ([`Inbox::close`]), or the bus was shut down ([`Bus::shut_down`]).
//!
//! [`PostError`] lists the codes of refusals.
//!
//! [`Bus::post`] reserves a place for the response in the requester's inbox when it accepts the
//! request. It refuses further requests (429) of a requester that does not read its responses. No
//! response is therefore lost for lack of room. A response may be too large for the space that is
//! left. The bus then refuses it to the *responder* (429, or 413 if it can never fit), and the
//! request stays open. The only possible loss is an *error response* to a message that was not a
//! request: its sender has gone, has about 16 000 unread error responses, or leaves messages unread
//! while all memory is used up. [`BusCounts::undeliverable`] counts it.
//!
//! A message that crashed its receiver is never handed out again ([`Inbox::crashed`]). The next
//! owner of the inbox takes one message at a time until it has survived ten. A sender whose
//! messages crashed two owners gets 503 for a while, and so does a request of the owner that this
//! sender answers. Other senders go on.
//!
//! An inbox that is more than half full takes messages only of senders that have less there than is
//! left ([`InboxLimits`]). All inboxes together hold [`BusConfig::max_queued_bytes`], by the same
//! rule. The first messages of each inbox have a reserve, so a receiver that keeps up gets its
//! messages even if other inboxes have used up the rest.
//!
//! Stubs share three quarters of the open requests ([`BusConfig::max_open_requests`]), and the rest
//! is a reserve for hyperties and the host. A stub gets at most as many as are left for all stubs,
//! so a stub without open requests always finds some.
//!
//! The bus keeps messages in memory only. A killed process loses them, and other processes see
//! closed connections or timeouts.
//!
//! Messages from one sender to one mailbox keep their order. A mailbox never gets a message that
//! came through the stub that owns the mailbox ([`Mailbox::set_owner`]): the bus refuses it (508).
//!
//! # Non-goals
//!
//! The bus does no I/O, spawns no task, and does not depend on the sandbox. It does not check
//! whether an origin may use a message's `from`: the code that gives origins access to the bus
//! does. The bus never holds a lock while it calls a hook or wakes a task.
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
//! let (response, answered) = tokio::join!(
//!     bus.request(&Origin::Host, Message::read(alice.clone()), None),
//!     answering,
//! );
//! answered?;
//! assert_eq!(response?.code(), Some(200));
//! assert_eq!(bus.counts().answered, 1);
//! # deadlines.abort();
//! # Ok(())
//! # }
//! ```

mod bus;
mod caution;
mod config;
mod counts;
mod deadlines;
mod enforcement;
mod envelope;
mod error;
mod inbox;
mod last_receiver;
mod limits;
mod mailbox;
mod memory;
mod open_requests;
mod origin;
mod outcomes;
mod policy;
mod post;
mod poster;
mod queue;
mod request_key;
mod shares;
mod subscribers;
mod table;

pub use bus::{Bus, Route, Unroutable};
pub use config::{
    BusConfig, Clock, DEFAULT_QUEUED_BYTES, DEFAULT_REQUEST_TIMEOUT, MAX_ID_BYTES, MAX_QUEUE_TIMEOUT, MAX_REQUEST_TIMEOUT,
};
pub use counts::BusCounts;
pub use envelope::Envelope;
pub use error::{AttachError, PostError, RequestError};
pub use inbox::Inbox;
pub use limits::InboxLimits;
pub use mailbox::Mailbox;
pub use origin::Origin;
pub use policy::{Decision, Hop, Policy, Receiver};
pub use poster::Poster;
