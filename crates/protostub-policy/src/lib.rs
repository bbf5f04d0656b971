//! An operator's rules for the messages of Protostub, in [Cedar](https://docs.cedarpolicy.com): a
//! [`Policy`](protostub_bus::Policy) for the bus.
//!
//! ```
//! use std::sync::Arc;
//!
//! use protostub_bus::{Bus, BusConfig, Origin};
//! use protostub_policy::CedarPolicy;
//! use protostub_types::{Address, Domain, Message};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let policy = CedarPolicy::parse(
//!     "rules.cedar",
//!     r#"
//!     permit (principal is Hyperty, action, resource);
//!
//!     @reason("messages to sp2.example are forbidden")
//!     forbid (principal, action, resource in Domain::"sp2.example");
//!     "#,
//! )?;
//! # let runtime = Address::parse("hyperty-runtime://home.example/1")?;
//! # let bus = Bus::new(BusConfig::new(Domain::parse("home.example")?, runtime));
//! bus.set_policy(Some(Arc::new(policy)));
//! let app = Origin::Hyperty(Address::parse("hyperty://home.example/app")?);
//! let question = Message::read("hyperty://sp2.example/alice".parse()?);
//! let refused = bus.post(&app, question).unwrap_err();
//! assert_eq!(refused.code, 403);
//! assert_eq!(refused.reason.as_str(), "messages to sp2.example are forbidden");
//! # Ok(())
//! # }
//! ```
//!
//! # Decisions
//!
//! A message is permitted if at least one `permit` holds for it and no `forbid` does, as in Cedar.
//! An operator's file without a policy therefore permits nothing, with two exceptions: messages of
//! the runtime itself, and responses. A `forbid` overrides these exceptions.
//!
//! ```cedar
#![doc = include_str!("built_in.cedar")]
//! ```
//!
//! The rules of the runtime that always hold apply in addition: no policy lets a stub speak for
//! another domain.
//!
//! The poster of a refused message gets a reason: the texts of `@reason("…")` before the `forbid`s
//! that hold, or the names in their `@id("…")`, or their places in the file. If a policy cannot be
//! evaluated for a message, for example because a number overflows, the message is refused.
//!
//! # The schema
//!
//! Policies are checked against this schema when they are loaded. A misspelt name is an error then,
//! and not a rule that never holds:
//!
//! ```cedarschema
#![doc = include_str!("protostub.cedarschema")]
//! ```

mod error;
mod policy;
mod request;

pub use error::{PolicyError, PolicyFault};
pub use policy::CedarPolicy;
