use std::fmt;

use serde::{Deserialize, Deserializer, de::Error};

/// The configuration from the descriptor and the operator.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Config {
    /// The URL of the broker, such as `mqtts://broker.sp1.example:8883`.
    pub(crate) url: Url,
    /// 5, or 4 for MQTT 3.1.1.
    #[serde(default)]
    pub(crate) version: Version,
    /// The stub's client identifier at the broker. `None`: an identifier of the stub's own, which
    /// it keeps.
    pub(crate) client_id: Option<String>,
    /// Begins each connection without the state that the broker kept of the last one.
    #[serde(default)]
    pub(crate) clean_start: bool,
    /// Seconds of silence after which the stub pings the broker.
    #[serde(default = "keep_alive", deserialize_with = "seconds")]
    pub(crate) keep_alive: u16,
    /// Quality of service of publications and subscriptions that name none.
    #[serde(default)]
    pub(crate) qos: Qos,
    /// The user name that goes with a token.
    pub(crate) user_name: Option<String>,
}

/// The route to the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Url {
    WebSocket(String),
    Tcp { host: String, port: u16, tls: bool },
}

/// Version of the protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Version {
    /// MQTT 3.1.1, whose protocol level is 4.
    V4,
    #[default]
    V5,
}

/// Quality of service. The stub does not support "exactly once" (2), because the bus has no such
/// promise to pass on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Qos {
    AtMostOnce,
    #[default]
    AtLeastOnce,
}

impl Qos {
    pub(crate) fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            _ => None,
        }
    }
}

fn keep_alive() -> u16 {
    30
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    match u16::deserialize(deserializer)? {
        0 => Err(D::Error::custom("a keep-alive of 0 s cannot detect a lost broker; use 1 to 65535")),
        seconds => Ok(seconds),
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            5 => Ok(Self::V5),
            4 => Ok(Self::V4),
            other => Err(D::Error::custom(format_args!("{other} is not a supported version; use 5, or 4 for MQTT 3.1.1"))),
        }
    }
}

impl<'de> Deserialize<'de> for Qos {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        Self::from_number(number).ok_or_else(|| D::Error::custom(format_args!("the QoS is 0 or 1, not {number}")))
    }
}

impl<'de> Deserialize<'de> for Url {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(|problem| D::Error::custom(format_args!("{text:?} {problem}")))
    }
}

impl Url {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.split_once("://").unwrap_or_default();
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err("holds a user name or password; give them to the Identity Module instead");
        }
        let (tls, default_port) = match scheme {
            "ws" | "wss" => return Ok(Self::WebSocket(text.to_owned())),
            "mqtt" => (false, 1883),
            "mqtts" => (true, 8883),
            _ => return Err("is not a broker URL; use mqtts://, mqtt://, wss:// or ws:// and the host"),
        };
        // `[::1]:1883` has colons before the port's colon.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| "has an invalid port")?),
            _ => (authority, default_port),
        };
        if host.is_empty() || !matches!(rest.get(authority.len()..), Some("" | "/")) {
            return Err("is not just a scheme, a host and a port");
        }
        Ok(Self::Tcp { host: host.to_owned(), port, tls })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WebSocket(url) => f.write_str(url),
            Self::Tcp { host, port, tls } => write!(f, "{}://{host}:{port}", if *tls { "mqtts" } else { "mqtt" }),
        }
    }
}
