//! How addresses are taken apart.

use serde_json::json;

use super::{Bench, stage::Stage};
use crate::{
    Case, Verdict,
    case::{Course, Script, expect},
};

/// An address, and what it consists of.
macro_rules! url {
    ($id:literal, $address:literal, $scheme:literal, $host:literal, $path:literal) => {
        Script {
            case: Case::new(
                concat!("runtime/url/", $id),
                concat!($address, " → ", $scheme, " | ", $host, " | ", $path),
                "utils.spec; [::1] and mn:/session break the original runtime",
            ),
            run: |bench| Box::pin(taken_apart(bench, $address, ($scheme, $host, $path))),
        }
    };
}

pub(super) const CASES: &[Script<Bench>] = &[
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

async fn taken_apart(bench: &Bench, address: &str, (scheme, host, path): (&str, &str, &str)) -> Course {
    let stage = Stage::new(bench, &[], json!({})).await?;
    let expected = format!("{scheme} | {host} | {path}");
    let apart = stage.subject.take_apart(address).ok_or_else(|| Verdict::fail(&expected, "it is taken for no address"))?;
    expect(apart == (scheme.to_owned(), host.to_owned(), path.to_owned()), &expected, || {
        format!("{} | {} | {}", apart.0, apart.1, apart.2)
    })?;
    Ok(None)
}
