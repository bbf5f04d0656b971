use std::io::{self, Read as _, Write as _};

use protostub_types::{Sha256Digest, panic_message};

use super::{CompileRequest, REPLY_MAGIC, REQUEST_BYTES, ReplyKind};
use crate::{
    code_cache::{Key, Name},
    engine, panics,
};

/// Compiles one component from standard input to standard output. It is the only work of a process
/// that was called with [`COMPILE_WORKER`](super::COMPILE_WORKER). The host that called the process
/// asks for it by [`EngineConfig::compile_worker`](crate::EngineConfig::compile_worker).
///
/// Must be called before the process has more than one thread. The process must end afterwards. It
/// ends at once if the host has gone, even while the compiler runs.
///
/// ```no_run
/// fn main() -> std::io::Result<()> {
///     if std::env::args().nth(1).as_deref() == Some(protostub_sandbox::COMPILE_WORKER) {
///         return protostub_sandbox::compile_worker();
///     }
///     // … what the program is for
///     # Ok(())
/// }
/// ```
///
/// # Errors
/// If the other end does not send a valid request, or the limits cannot be set. An invalid
/// component is not an error.
pub fn compile_worker() -> io::Result<()> {
    let mut request = [0; REQUEST_BYTES];
    io::stdin().read_exact(&mut request).map_err(|error| not_a_request(&error.to_string()))?;
    let request = CompileRequest::from_bytes(&request)
        .ok_or_else(|| not_a_request("standard input does not begin with a request of this version"))?;
    // The thread starts before the limits, which may leave no memory for its stack.
    end_with_host()?;
    limit(&request)?;
    // The default hook would also print a backtrace. The process has no other work than this one,
    // so no other code needs the hook.
    std::panic::set_hook(Box::new(|panic| {
        let _ = writeln!(io::stderr(), "a panic: {}", panic_message(panic.payload()));
    }));
    let mut component = Vec::new();
    io::stdin().read_to_end(&mut component)?;
    let (answer, content) = compile(&request, &component)?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(REPLY_MAGIC)?;
    stdout.write_all(&[answer as u8])?;
    stdout.write_all(&content)?;
    stdout.flush()
}

fn not_a_request(problem: &str) -> io::Error {
    io::Error::other(format!("a compile worker is called by a runtime that has a component to compile: {problem}"))
}

fn compile(request: &CompileRequest, component: &[u8]) -> io::Result<(ReplyKind, Vec<u8>)> {
    let engine = engine::for_compiling(request.allocation).map_err(|error| io::Error::other(format!("{error:#}")))?;
    let name = Name::new(&engine, Sha256Digest::of(component));
    if name.engine() != request.engine {
        return Ok((ReplyKind::Mismatch, Vec::new()));
    }
    Ok(match panics::catch(|| engine.precompile_component(component)) {
        Ok(Ok(code)) => {
            let seal = Key::new(&request.key).seal(&name, &code);
            (ReplyKind::Compiled, [seal, code].concat())
        }
        Ok(Err(error)) => (ReplyKind::Invalid, format!("{error:#}").into_bytes()),
        Err(panic) => (ReplyKind::Panicked, panic.into_bytes()),
    })
}

/// Limits the resources of this process from here on.
#[cfg(unix)]
fn limit(request: &CompileRequest) -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, nice, setrlimit};

    set_limits(request, cfg!(target_vendor = "apple"), |limit| {
        let (resource, soft, hard) = match limit {
            Limit::Core => (Resource::Core, 0, 0),
            Limit::FileSize => (Resource::Fsize, 0, 0),
            Limit::Files => (Resource::Nofile, FILES, FILES),
            // The first limit ends the process by a signal that names the reason. A process that
            // ignores the signal has another second.
            Limit::CpuSeconds(seconds) => (Resource::Cpu, seconds, seconds.saturating_add(1)),
            Limit::AddressSpace(bytes) => (Resource::As, bytes, bytes),
        };
        // A limit that was set lower before stays.
        let lower = |limit: u64| Some(getrlimit(resource).maximum.map_or(limit, |maximum| maximum.min(limit)));
        Ok(setrlimit(resource, Rlimit { current: lower(soft), maximum: lower(hard) })?)
    })?;
    // Running stubs come first.
    let _ = nice(5);
    Ok(())
}

/// Number of files of the process: standard input, output and error, and a few that the system
/// opens for itself.
#[cfg(unix)]
const FILES: u64 = 16;

/// A limit of the process.
#[cfg(unix)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Core,
    FileSize,
    Files,
    CpuSeconds(u64),
    AddressSpace(u64),
}

#[cfg(unix)]
impl Limit {
    /// Returns the system's name of the limit.
    const fn name(self) -> &'static str {
        match self {
            Self::Core => "RLIMIT_CORE",
            Self::FileSize => "RLIMIT_FSIZE",
            Self::Files => "RLIMIT_NOFILE",
            Self::CpuSeconds(_) => "RLIMIT_CPU",
            Self::AddressSpace(_) => "RLIMIT_AS",
        }
    }
}

/// Sets all limits. Apple's systems refuse a limit on address space, so that one is best effort
/// there.
#[cfg(unix)]
fn set_limits(request: &CompileRequest, is_apple: bool, set: impl Fn(Limit) -> io::Result<()>) -> io::Result<()> {
    let cpu_seconds = Limit::CpuSeconds(request.cpu_seconds.max(1));
    for limit in [Limit::Core, Limit::FileSize, Limit::Files, cpu_seconds, Limit::AddressSpace(request.memory_bytes)] {
        let is_best_effort = is_apple && matches!(limit, Limit::AddressSpace(_));
        if let Err(error) = set(limit)
            && !is_best_effort
        {
            let name = limit.name();
            let problem = format!(
                "failed to set {name}, a limit of the compile worker: {error}; allow the process to lower {name}, or compile without a worker \
                 (`compile-in-process`)"
            );
            return Err(io::Error::new(error.kind(), problem));
        }
    }
    Ok(())
}

/// Ends this process as soon as the host has gone. The compiler itself can run for minutes, and its
/// code is of no use then.
///
/// Only the host reads standard output, and it reads until the answer is complete. A pipe without a
/// reader therefore means that the host has ended or was killed.
#[cfg(unix)]
fn end_with_host() -> io::Result<()> {
    use rustix::{
        event::{PollFd, PollFlags, poll},
        io::Errno,
    };

    /// The thread calls two functions.
    const STACK_BYTES: usize = 64 * 1024;

    let watch = || {
        let stdout = io::stdout();
        // Without any flag, the system reports only the end of the pipe.
        loop {
            match poll(&mut [PollFd::new(&stdout, PollFlags::empty())], None) {
                // No destructor runs next to the compiler.
                Ok(_) => std::process::abort(),
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    };
    std::thread::Builder::new().name("protostub-host".to_owned()).stack_size(STACK_BYTES).spawn(watch)?;
    Ok(())
}

#[cfg(not(unix))]
fn end_with_host() -> io::Result<()> {
    Ok(())
}

#[cfg(not(unix))]
fn limit(_request: &CompileRequest) -> io::Result<()> {
    let problem =
        "failed to limit the compile worker: this system has no such limits; compile without a worker (`compile-in-process`)";
    Err(io::Error::other(problem))
}

#[cfg(all(test, unix))]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::{engine::Allocation, worker::KEY_BYTES};

    fn request() -> CompileRequest {
        let (key, engine) = ([0; KEY_BYTES], Sha256Digest::of(b""));
        CompileRequest { key, engine, memory_bytes: 1 << 30, cpu_seconds: 0, allocation: Allocation::Pooled }
    }

    /// Sets the limits of a system that refuses one of them. Returns the limits that were set.
    fn set_without(refused: &str, is_apple: bool) -> io::Result<Vec<Limit>> {
        let set = RefCell::new(Vec::new());
        set_limits(&request(), is_apple, |limit| {
            if limit.name() == refused {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            set.borrow_mut().push(limit);
            Ok(())
        })?;
        Ok(set.into_inner())
    }

    #[test]
    fn limit_that_cannot_be_set_is_named_with_a_remedy() {
        for name in ["RLIMIT_CORE", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_CPU", "RLIMIT_AS"] {
            let error = set_without(name, false).unwrap_err().to_string();
            assert!(error.starts_with(&format!("failed to set {name}, ")) && error.contains("`compile-in-process`"), "{error}");
        }
    }

    #[test]
    fn address_space_limit_is_best_effort_on_apple() {
        let all = [Limit::Core, Limit::FileSize, Limit::Files, Limit::CpuSeconds(1), Limit::AddressSpace(1 << 30)];
        assert_eq!(set_without("none", true).unwrap(), all);
        assert_eq!(set_without("RLIMIT_AS", true).unwrap(), all[..4]);
        assert!(set_without("RLIMIT_CPU", true).is_err());
    }
}
