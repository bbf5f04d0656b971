use std::cell::Cell;

use serde::{Deserialize, Deserializer, de::Error};
use serde_json::{Map, Value};

wit_bindgen::generate!({
    inline: "package conformance:misfit; world raw { import rethink:protostub/websocket@0.1.0; }",
    path: "../../../wit/0.1",
    world: "conformance:misfit/raw",
    generate_all,
});

use self::rethink::protostub::websocket;

thread_local! {
    /// A connection without a request for it.
    static EARLY: Cell<Option<u32>> = const { Cell::new(None) };
}

#[derive(Debug, Clone)]
pub struct Config {
    pub url: String,
    fault: String,
}

impl Config {
    /// Returns `true` if this case is the one to fail.
    pub fn is(&self, case: &str) -> bool {
        self.fault == case
    }

    /// Closes the connection that should not be open.
    pub fn close_early() {
        if let Some(handle) = EARLY.take() {
            websocket::close(handle, 1000, "");
        }
    }
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let members = Map::deserialize(deserializer)?;
        let text = |name: &str| members.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let config = Self { url: text("url"), fault: text("fault") };
        if config.is("stub/start/accepts") {
            return Err(D::Error::custom("no configuration is good enough"));
        }
        if !config.url.starts_with("ws://") && !config.url.starts_with("tcp://") {
            assert!(!config.is("stub/start/bad-configuration"), "no URL");
            return Err(D::Error::custom("`url` has to be a ws:// or a tcp:// URL"));
        }
        if config.is("stub/start/waits") && EARLY.get().is_none() {
            EARLY.set(websocket::open(&config.url, &[], &[]).ok());
        }
        Ok(config)
    }
}
