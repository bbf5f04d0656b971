//! Settings in files: keys with units, and settings of one party that override the common ones.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// Reads a whole number of seconds, for a key such as `grace-seconds`.
///
/// ```
/// # use std::time::Duration;
/// #[derive(serde::Deserialize)]
/// struct Settings {
///     #[serde(rename = "grace-seconds", deserialize_with = "protostub_types::settings::seconds")]
///     grace: Duration,
/// }
/// let settings: Settings = serde_json::from_str(r#"{ "grace-seconds": 5 }"#)?;
/// assert_eq!(settings.grace, Duration::from_secs(5));
/// # Ok::<(), serde_json::Error>(())
/// ```
///
/// # Errors
/// If the value is not a whole number from 0 to `u64::MAX`.
pub fn seconds<'de, D: Deserializer<'de>, T: From<Duration>>(deserializer: D) -> Result<T, D::Error> {
    u64::deserialize(deserializer).map(|seconds| Duration::from_secs(seconds).into())
}

/// Reads a whole number of milliseconds, for a key such as `first-pause-milliseconds`.
///
/// # Errors
/// If the value is not a whole number from 0 to `u64::MAX`.
pub fn milliseconds<'de, D: Deserializer<'de>, T: From<Duration>>(deserializer: D) -> Result<T, D::Error> {
    u64::deserialize(deserializer).map(|milliseconds| Duration::from_millis(milliseconds).into())
}

/// Declares settings once: a struct with their types, docs and defaults, and a second struct that
/// overrides some of them.
///
/// Both structs are `non_exhaustive` and implement `Default` and `Deserialize`. Keys are the
/// fields' names in kebab-case. A `#[serde(…)]` attribute of a field may give another key, or read
/// it with [`seconds`]. Missing keys get the default, or override nothing. Unknown keys are errors.
/// The types of fields are `Copy`. The crate that declares settings depends on `serde`.
///
/// ```
/// use std::time::Duration;
///
/// protostub_types::overridable! {
///     /// Limits of a stub.
///     pub struct Limits, overridden by
///     /// Limits of one domain's stub. `None` inherits.
///     pub struct LimitOverrides {
///         /// Number of timers that may run at a time.
///         timers: usize = 256,
///         /// Computing time of one call.
///         #[serde(
///             rename = "call-seconds",
///             deserialize_with = "protostub_types::settings::seconds"
///         )]
///         call: Duration = Duration::from_secs(1),
///     }
/// }
///
/// let limits: Limits = serde_json::from_str(r#"{ "timers": 8 }"#)?;
/// let overrides: LimitOverrides = serde_json::from_str(r#"{ "call-seconds": 2 }"#)?;
/// let limits = overrides.over(&limits);
/// assert_eq!((limits.timers, limits.call), (8, Duration::from_secs(2)));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[macro_export]
macro_rules! overridable {
    (
        $(#[$meta:meta])*
        pub struct $name:ident, overridden by
        $(#[$overrides_meta:meta])*
        pub struct $overrides:ident {
            $(
                $(#[doc = $doc:literal])+
                $(#[serde($($serde:tt)+)])?
                $field:ident: $type:ty = $default:expr,
            )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $name {
            $(
                $(#[doc = $doc])+
                pub $field: $type,
            )+
        }

        $(#[$overrides_meta])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, ::serde::Deserialize)]
        #[serde(default, deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
        #[non_exhaustive]
        pub struct $overrides {
            $(
                #[doc = concat!("Overrides [`", stringify!($name), "::", stringify!($field), "`].")]
                $(#[serde($($serde)+)])?
                pub $field: Option<$type>,
            )+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        impl $overrides {
            /// Returns the effective settings: these, and `settings` for those that are `None`.
            #[must_use]
            pub fn over(&self, settings: &$name) -> $name {
                $name { $($field: self.$field.unwrap_or(settings.$field),)+ }
            }
        }

        impl From<$name> for $overrides {
            /// Overrides every setting.
            fn from(settings: $name) -> Self {
                Self { $($field: Some(settings.$field),)+ }
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let overrides = <$overrides as ::serde::Deserialize>::deserialize(deserializer)?;
                Ok(overrides.over(&Self::default()))
            }
        }
    };
}
