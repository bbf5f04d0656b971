use serde::{Deserialize, Deserializer, de::Error};

/// What the descriptor and the operator say.
#[derive(Debug, Deserialize)]
pub(crate) struct Config {
    /// Where the message node is: `wss://msg-node.sp1.example/ws`, say.
    #[serde(deserialize_with = "websocket_url")]
    pub(crate) url: String,
    /// Which protocol it speaks.
    #[serde(default)]
    pub(crate) flavour: Flavour,
}

/// The protocol of a message node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Flavour {
    /// `dev-msg-node-vertx`: sessions with a token.
    #[default]
    Vertx,
    /// `dev-msg-node-nomatrix`: the runtime's URL in the query is all there is.
    NoMatrix,
}

fn websocket_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let url = String::deserialize(deserializer)?;
    if url.starts_with("ws://") || url.starts_with("wss://") {
        Ok(url)
    } else {
        Err(D::Error::custom(format_args!("{url:?} is no ws:// or wss:// URL of a message node")))
    }
}
