//! The parts of addresses.

use serde_json::json;

use super::{RuntimeSuiteContext, fixture::RuntimeFixture};
use crate::{
    Case, Verdict,
    case::{CaseResult, Script, expect},
};

/// An address and its parts.
macro_rules! url {
    ($id:literal, $address:literal, $scheme:literal, $host:literal, $path:literal) => {
        Script {
            case: Case::new(
                concat!("runtime/url/", $id),
                concat!($address, " → ", $scheme, " | ", $host, " | ", $path),
                concat!("tests/CASES.md: url/", $id),
            ),
            run: |context| Box::pin(parses_address(context, $address, ($scheme, $host, $path))),
        }
    };
}

pub(super) const CASES: &[Script<RuntimeSuiteContext>] = &[
    url!("runtime", "runtime://sp.sp/8456/sm", "runtime", "sp.sp", "/8456/sm"),
    url!("port", "hyperty://localhost:9090/test", "hyperty", "localhost:9090", "/test"),
    url!("no-path", "runtime://sp1.sp", "runtime", "sp1.sp", ""),
    url!("bare", "sp1.sp", "", "sp1.sp", ""),
    url!("legacy", "slack://user@slack.com", "slack", "slack.com", ""),
    url!("mail", "user@gmail.com", "smtp", "gmail.com", ""),
    url!("global", "global://registry/", "global", "registry", "/"),
    url!("ipv6", "hyperty://[::1]/x", "hyperty", "[::1]", "/x"),
    url!("session", "mn:/session", "mn", "", "/session"),
];

async fn parses_address(context: &RuntimeSuiteContext, address: &str, (scheme, host, path): (&str, &str, &str)) -> CaseResult {
    let fixture = RuntimeFixture::new(context, &[], json!({})).await?;
    let expected = format!("{scheme} | {host} | {path}");
    let apart = fixture
        .subject
        .parse_address(address)
        .ok_or_else(|| Verdict::fail(&expected, "the runtime does not accept the address"))?;
    expect(apart == (scheme.to_owned(), host.to_owned(), path.to_owned()), &expected, || {
        format!("{} | {} | {}", apart.0, apart.1, apart.2)
    })?;
    Ok(None)
}
