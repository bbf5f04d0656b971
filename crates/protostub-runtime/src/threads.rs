use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

/// Number of threads beyond the workers: for blocking work, and for the thread that counts
/// computing time.
const SPARE: usize = 4;

/// Checks that the system lets this process have this number of further threads at once, and a few
/// for other work. All of them have ended when this function returns.
///
/// The builder of an async runtime panics if the system refuses a thread, or waits forever for the
/// threads that it has. A program that builds one itself can call this function before.
/// [`RuntimeBuilder::build`](crate::RuntimeBuilder::build) does so for the library's own threads.
///
/// # Errors
/// If the system refuses a thread: a limit of the user, the process or the control group is
/// reached.
pub fn probe_threads(workers: usize) -> io::Result<()> {
    let wanted = workers.saturating_add(SPARE);
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock().unwrap_or_else(PoisonError::into_inner);
    let start = |_| {
        let gate = Arc::clone(&gate);
        thread::Builder::new().name("protostub-probe".to_owned()).spawn(move || drop(gate.lock()))
    };
    let mut refusal = None;
    let started: Vec<_> = (0..wanted).map_while(|number| start(number).map_err(|error| refusal = Some(error)).ok()).collect();
    drop(closed);
    let count = started.len();
    for thread in started {
        // The thread does nothing that panics.
        let _ = thread.join();
    }
    match refusal {
        None => Ok(()),
        Some(error) => Err(io::Error::new(
            error.kind(),
            format!(
                "the system starts only {count} of {wanted} threads: {error}; raise the limits on threads and on address space (`ulimit -u`, \
                 `ulimit -v`, `pids.max` of the control group)"
            ),
        )),
    }
}
