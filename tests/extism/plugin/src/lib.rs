//! The work of the benchmarks as an Extism plugin. It reads a message as JSON, swaps `from` and
//! `to`, and returns it as JSON. Like the stub, it does not parse the body.

use extism_pdk::{FnResult, plugin_fn};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

#[derive(Deserialize, Serialize)]
struct Message<'a> {
    id: u64,
    #[serde(rename = "type")]
    kind: &'a str,
    from: &'a str,
    to: &'a str,
    #[serde(borrow)]
    body: &'a RawValue,
}

#[plugin_fn]
pub fn echo(input: String) -> FnResult<String> {
    let Message { id, kind, from, to, body } = serde_json::from_str(&input)?;
    Ok(serde_json::to_string(&Message { id, kind, from: to, to: from, body })?)
}
