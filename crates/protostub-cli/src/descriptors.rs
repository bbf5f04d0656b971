//! The limit on the file descriptors of the process.

/// Upper bound for the soft limit. More descriptors do not help a runtime, and cost system memory.
#[cfg(unix)]
const MOST: u64 = 64 << 10;

/// Raises the soft limit on file descriptors to the hard limit, up to 65 536. The runtime derives
/// from it the number of sockets for its stubs. If the system refuses, the limit stays unchanged.
#[cfg(unix)]
pub(crate) fn raise_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(MOST).min(MOST);
    if current.is_some_and(|current| current < wanted) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    }
}

/// Does nothing: the system has no such limit.
#[cfg(not(unix))]
pub(crate) fn raise_limit() {}
