//! The only way out of a Protostub runtime: grants, name resolution, checked dialling, TLS.
//!
//! Whoever wants to reach something — a stub's transports, the catalogue that downloads stubs — has [`Grants`] and goes through [`Egress`]:
//!
//! ```text
//! host, port ──► grants: is there a rule? ──► resolve ──► judge every address ──► dial those that may be ──► TLS with the name
//!                       │                                       │
//!                       └── Refused: which rule is missing      └── Refused: which address, why, what would admit it
//! ```
//!
//! The address that was judged is the one that is dialled: nothing is resolved twice. The same holds for every HTTP request and every hop of
//! a redirect. With a proxy, the proxy resolves the names; see [`EgressConfig::proxy`].
//!
//! Nothing is read from the environment, and there is no global state.

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
