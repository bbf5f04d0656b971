//! The work of the benchmarks as an Extism plugin: a message as JSON in, `from` and `to` swapped, the message as JSON out. The body is not
//! parsed, as the stub does not parse it.

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
