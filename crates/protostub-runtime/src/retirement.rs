use std::{fmt, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{self, Unexpected, Visitor},
};

/// Time after which an idle stub is retired.
///
/// A stub is idle while it gets no message, no timer and nothing from its connections. A stub with
/// an open request is not idle, nor is a stub through which something is registered at its domain.
///
/// A retired stub disconnects from its domain
/// ([`DisconnectReason::Idle`](protostub_sandbox::DisconnectReason::Idle)), its status is
/// `disconnected`, and its sandbox is freed. Its address, its subscribers, its saved session and
/// its compiled code stay. A new instance starts and connects with the next message for the stub,
/// or with [`Runtime::deploy_protostub`](crate::Runtime::deploy_protostub). No message to the stub
/// is lost. Messages that the domain sends meanwhile find no connection.
///
/// A settings file has a number of seconds, or `"never"`. The number 0 means never too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "an idle stub is retired after some time, or not at all")]
pub enum Retire {
    /// An idle stub stays. For a single domain, it also stays when other stubs need its sandbox.
    #[default]
    Never,
    /// An idle stub is retired after this time. Zero is [`Self::Never`].
    After(Duration),
}

impl Retire {
    /// Returns the time, or `None` for never.
    #[must_use]
    pub fn time(self) -> Option<Duration> {
        match self {
            Self::After(time) if !time.is_zero() => Some(time),
            Self::After(_) | Self::Never => None,
        }
    }
}

impl From<Duration> for Retire {
    fn from(time: Duration) -> Self {
        Self::After(time)
    }
}

impl<'de> Deserialize<'de> for Retire {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RetireVisitor)
    }
}

struct RetireVisitor;

impl Visitor<'_> for RetireVisitor {
    type Value = Retire;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of seconds or `\"never\"`")
    }

    fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Retire, E> {
        Ok(if seconds == 0 { Retire::Never } else { Retire::After(Duration::from_secs(seconds)) })
    }

    fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Retire, E> {
        let seconds = u64::try_from(seconds).map_err(|_| E::invalid_value(Unexpected::Signed(seconds), &self))?;
        self.visit_u64(seconds)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Retire, E> {
        if text == "never" { Ok(Retire::Never) } else { Err(E::invalid_type(Unexpected::Str(text), &self)) }
    }
}
