use serde::{Deserialize, Deserializer, de::Error};

/// The configuration from the descriptor and the operator.
#[derive(Debug, Deserialize)]
pub(crate) struct Config {
    /// The URL of the message node, such as `wss://msg-node.sp1.example/ws`.
    #[serde(deserialize_with = "websocket_url")]
    pub(crate) url: String,
    /// The protocol of the message node.
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
    /// `dev-msg-node-nomatrix`: no session but the runtime's URL in the query.
    NoMatrix,
}

fn websocket_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let url = String::deserialize(deserializer)?;
    if url.starts_with("ws://") || url.starts_with("wss://") {
        Ok(url)
    } else {
        Err(D::Error::custom(format_args!("{url:?} is not a ws:// or wss:// URL of a message node")))
    }
}
