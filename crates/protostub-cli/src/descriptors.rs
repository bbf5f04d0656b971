//! The limit on the descriptors of the process.

/// More than this many descriptors serve no runtime, and cost the system memory.
#[cfg(unix)]
const MOST: u64 = 64 << 10;

/// Raises the soft limit on descriptors as far as the hard limit allows, up to 65 536. The runtime
/// derives from it how many sockets its stubs may have. If the system refuses, the limit stays.
#[cfg(unix)]
pub(crate) fn raise_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(MOST).min(MOST);
    if current.is_some_and(|current| current < wanted) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    }
}

/// The system has no such limit.
#[cfg(not(unix))]
pub(crate) fn raise_limit() {}
