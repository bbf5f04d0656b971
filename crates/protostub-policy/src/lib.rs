//! An operator's rules for the messages of Protostub, in [Cedar](https://docs.cedarpolicy.com): a [`Policy`](protostub_bus::Policy) for the bus.
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
//!     @reason("sp2.example is not to be talked to")
//!     forbid (principal, action, resource in Domain::"sp2.example");
//!     "#,
//! )?;
//! # let bus = Bus::new(BusConfig::new(Domain::parse("home.example")?, Address::parse("hyperty-runtime://home.example/1")?));
//! bus.set_policy(Some(Arc::new(policy)));
//! let app = Origin::Hyperty(Address::parse("hyperty://home.example/app")?);
//! let question = Message::read("hyperty://sp2.example/alice".parse()?);
//! let refused = bus.post(&app, question).unwrap_err();
//! assert_eq!((refused.code, refused.reason.as_str()), (403, "sp2.example is not to be talked to"));
//! # Ok(())
//! # }
//! ```
//!
//! # What is decided
//!
//! As Cedar does: a message goes on if some `permit` holds for it and no `forbid` does. So an operator's file without a policy permits nothing, but for two
//! things, which a `forbid` can take back: what the runtime itself says, and responses.
//!
//! ```cedar
#![doc = include_str!("built_in.cedar")]
//! ```
//!
//! The rules of the runtime that always hold are beside these: no policy lets a stub speak for another domain.
//!
//! The poster of a refused message is told a reason: the texts of `@reason("…")` before the `forbid`s that hold, or the names in their `@id("…")`, or their
//! places in the file. A policy that cannot be evaluated for a message (a number overflows, say) refuses it.
//!
//! # What policies may be about
//!
//! Policies are checked when they are loaded, against this schema, so that a misspelt name is an error then, and not a rule that never holds:
//!
//! ```cedarschema
#![doc = include_str!("protostub.cedarschema")]
//! ```

mod error;
mod policy;
mod request;

pub use error::{PolicyError, PolicyFault};
pub use policy::CedarPolicy;
