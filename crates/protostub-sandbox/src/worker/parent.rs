use std::process::{ExitStatus, Stdio};

use protostub_types::{SafeText, Sha256Digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
    task::spawn_blocking,
};
use wasmtime::component::Component;

use super::{COMPILE_WORKER, CompileRequest, CompileWorker, KEY_BYTES, REPLY_MAGIC, ReplyKind};
use crate::{
    code_cache::{Key, Name},
    compile::{CompileError, exceeds_pool, invalid, panicked},
    engine::Allocation,
    panics::first_line,
};

/// Maximum size of a worker's standard error that is kept, in bytes.
const STDERR_BYTES: u64 = 2048;

/// Compiles a component in a process of its own, which is ended if the future is dropped before it
/// is done.
///
/// # Errors
/// If the component is not valid, or the worker fails. There is no other way to compile then.
pub(crate) async fn compile(
    worker: &CompileWorker,
    engine: &wasmtime::Engine,
    allocation: Allocation,
    bytes: impl AsRef<[u8]>,
    digest: Sha256Digest,
) -> Result<Component, CompileError> {
    let fail = |problem: String| CompileError::Worker { program: worker.program.clone(), problem: problem.into() };
    let mut key = [0; KEY_BYTES];
    SystemRandom::new().fill(&mut key).map_err(|_| fail("has no key: this system has no random numbers".to_owned()))?;
    let name = Name::new(engine, digest);
    let CompileWorker { memory_bytes, cpu_seconds, .. } = *worker;
    let request = CompileRequest { key, engine: name.engine(), memory_bytes, cpu_seconds, allocation };

    let mut child = start(worker).map_err(|error| fail(format!("cannot be started: {error}")))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let send = async {
        // A worker that does not listen shows that in its answer.
        if let Some(mut stdin) = stdin {
            let _ = stdin.write_all(&request.to_bytes()).await;
            let _ = stdin.write_all(bytes.as_ref()).await;
            let _ = stdin.shutdown().await;
        }
    };
    // The answer was in the worker's memory once. So a valid answer is not longer than that memory.
    let ((), answer, stderr) = tokio::join!(send, read(stdout, memory_bytes), read(stderr, STDERR_BYTES));
    let status = child.wait().await.map_err(|error| fail(format!("cannot be waited for: {error}")))?;
    let answer = answer.map_err(|error| fail(format!("cannot be read from: {error}")))?;
    if !status.success() {
        let stderr = stderr.unwrap_or_default();
        return Err(fail(describe_exit(status, worker, &String::from_utf8_lossy(&stderr))));
    }
    let answered = answer.strip_prefix(REPLY_MAGIC.as_slice()).and_then(|rest| rest.split_first());
    match answered {
        Some((kind, text)) if *kind == ReplyKind::Invalid as u8 => Err(invalid(&String::from_utf8_lossy(text))),
        Some((kind, text)) if *kind == ReplyKind::Panicked as u8 => Err(panicked(first_line(&String::from_utf8_lossy(text)))),
        Some((kind, [])) if *kind == ReplyKind::Mismatch as u8 => Err(fail(
            "was built with another version of the library, or for another machine: name the executable of this version, or restart this program, if \
             its executable was replaced meanwhile"
                .to_owned(),
        )),
        Some((kind, _)) if *kind == ReplyKind::Compiled as u8 => {
            let engine = engine.clone();
            // Off the async threads, since the whole answer is authenticated, and copied.
            let loading = spawn_blocking(move || Key::new(&key).load(&engine, &name, &answer[REPLY_MAGIC.len() + 1..]));
            let loaded = loading.await.map_err(|error| fail(format!("answered, and the answer could not be read: {error}")))?;
            loaded.map_err(|problem| match exceeds_pool(&problem) {
                // The worker has no pool. So the host finds only now that its pool is too small.
                true => invalid(&problem),
                false => fail(format!("answered with code that does not match the request: {problem}")),
            })
        }
        _ => Err(fail(format!(
            "answered {} bytes that no compile worker of this version answers: name an executable that calls `compile_worker`",
            answer.len()
        ))),
    }
}

fn start(worker: &CompileWorker) -> std::io::Result<Child> {
    // An absolute path, since the worker starts in another folder.
    Command::new(std::path::absolute(&worker.program)?)
        .arg(COMPILE_WORKER)
        // The worker gets no secrets from the host, and keeps no folder in use.
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}

/// Reads everything up to a limit, and stops reading beyond it.
async fn read(from: Option<impl AsyncRead + Unpin>, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(limit).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// Describes why a worker gave no reply.
fn describe_exit(status: ExitStatus, worker: &CompileWorker, stderr: &str) -> String {
    let stderr = SafeText::new(first_line(stderr));
    let said = if stderr.is_empty() { String::new() } else { format!(": {stderr}") };
    let CompileWorker { memory_bytes, cpu_seconds, .. } = worker;
    match signal(status) {
        // SIGXCPU. A worker that ignores it gets SIGKILL.
        Some(24) => format!("was ended after {cpu_seconds} s of computing, its limit: the component takes too long to compile"),
        Some(6 | 9 | 11) => format!(
            "broke down ({status}), perhaps since it needs more than the {memory_bytes} bytes of memory or the {cpu_seconds} s of computing that it \
             may have{said}"
        ),
        _ => format!("ended without an answer ({status}){said}"),
    }
}

#[cfg(unix)]
fn signal(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal(_status: ExitStatus) -> Option<i32> {
    None
}
