//! The only way out of a Protostub runtime: grants, name resolution, checked dialling, TLS.
//!
//! A stub's transports and the catalogue, which downloads stubs, have [`Grants`] and connect
//! through [`Egress`]:
//!
//! ```text
//! host, port ──► grants: a rule? ──► resolve ──► judge every address ──► dial admitted ──► TLS
//!                   │                                 │
//!                   └── Refused: missing rule         └── Refused: address, reason, missing grant
//! ```
//!
//! The judged address is the dialled address, since a name is resolved only once per connection.
//! TLS then verifies the requested name. The same holds for every HTTP request and every hop of a
//! redirect. With a proxy, the proxy resolves the names; see [`EgressConfig::proxy`].
//!
//! The crate does not read the environment and has no global state.

mod grants;
mod protection;
mod rule;

mod addresses;
mod host;
mod resolve;

mod limit_reached;
mod quota;

mod chains;
mod connect;
mod egress;
mod handshakes;
mod http;
mod http1;
mod proxy;
mod tls;

mod error;

pub use addresses::{Judged, Scope, judge};
pub use connect::Connection;
pub use egress::{Egress, EgressConfig};
pub use error::{EgressError, Phase};
pub use grants::{Explanation, GrantedBy, Grants, Missing, Reason, Refused};
pub use http::{HttpClient, HttpTarget, request_headers, response_error};
pub use http1::{ExchangeError, Http1, HttpBody, HttpLimits, HttpRequest};
pub use limit_reached::LimitReached;
pub use protection::Protection;
pub use quota::{Quota, QuotaLimits};
pub use resolve::{Resolver, SystemResolver};
pub use rule::{Fit, Ports, Rule, RuleError};

/// The responses of [`HttpClient`] are reqwest's.
pub use reqwest;
