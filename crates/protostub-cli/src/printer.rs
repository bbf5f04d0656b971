use std::{
    future::pending,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use crate::bars::Bars;

/// Maximum memory for the waiting lines of one printer, in bytes.
const QUEUE_BYTES: usize = 8 * 1024 * 1024;
/// Memory of a waiting line in addition to its text, in bytes.
const LINE_BYTES: usize = 256;

/// An entry of the output: one line or a few.
pub(crate) trait Entry: Send + 'static {
    /// Returns the memory that the entry takes, roughly, in bytes.
    fn size(&self) -> usize;

    /// Returns the text, with a line feed at its end.
    fn into_text(self) -> String;
}

/// A thread that prints, with a bounded queue. A reader that stops reading blocks this thread and
/// no other task.
///
/// The printer drops and counts entries that do not fit into the queue. After the first error, such
/// as a closed pipe or a full disk, it drops all entries.
#[derive(Debug)]
pub(crate) struct Printer<T> {
    queue: mpsc::UnboundedSender<Order<T>>,
    room: Arc<Semaphore>,
    counts: Arc<Counts>,
    fault: watch::Receiver<Option<io::Error>>,
}

/// Counts of a printer's entries.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    dropped: AtomicU64,
    /// Dropped entries that the output has not reported yet.
    untold: AtomicU64,
}

#[derive(Debug)]
enum Order<T> {
    Print {
        entry: T,
        /// Number of entries dropped since the previous one.
        dropped_before: u64,
        /// Permit for room in the queue, released when the entry is printed.
        _room: OwnedSemaphorePermit,
    },
    /// Completed when all earlier entries are printed.
    Flush(oneshot::Sender<()>),
}

/// Standard output or standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Counts {
    /// Returns the number of entries that were not printed.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    fn drop_one(&self) {
        self.dropped.fetch_add(1, Relaxed);
        self.untold.fetch_add(1, Relaxed);
    }
}

impl Stream {
    fn write(self, text: &str) -> io::Result<()> {
        fn whole(mut to: impl io::Write, text: &str) -> io::Result<()> {
            to.write_all(text.as_bytes())?;
            to.flush()
        }
        match self {
            Self::Stdout => whole(io::stdout().lock(), text),
            Self::Stderr => whole(io::stderr().lock(), text),
        }
    }
}

impl<T> Clone for Printer<T> {
    fn clone(&self) -> Self {
        let Self { queue, room, counts, fault } = self;
        Self { queue: queue.clone(), room: Arc::clone(room), counts: Arc::clone(counts), fault: fault.clone() }
    }
}

impl<T: Entry> Printer<T> {
    /// Starts a printer whose entries appear above the progress bars. `of_dropped` creates the
    /// entry that reports a number of dropped entries.
    pub(crate) fn start(stream: Stream, bars: Bars, of_dropped: impl Fn(u64) -> T + Send + 'static) -> io::Result<Self> {
        Self::start_with(move |text| bars.suspend(|| stream.write(text)), stream == Stream::Stdout, of_dropped)
    }

    fn start_with(
        write: impl FnMut(&str) -> io::Result<()> + Send + 'static,
        warns: bool,
        of_dropped: impl Fn(u64) -> T + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, orders) = mpsc::unbounded_channel();
        let (failed, fault) = watch::channel(None);
        let counts = Arc::<Counts>::default();
        let counting = Arc::clone(&counts);
        thread::Builder::new().name("printer".to_owned()).spawn(move || {
            if let Err(error) = print_all(orders, write, of_dropped, &counting) {
                if warns {
                    tracing::warn!("standard output failed: {error}; further lines are dropped");
                }
                failed.send_replace(Some(error));
            }
        })?;
        Ok(Self { queue, room: Arc::new(Semaphore::new(QUEUE_BYTES)), counts, fault })
    }

    /// Returns the counts. They stay current while the printer prints.
    pub(crate) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// Queues an entry. Never waits: without room, drops the entry.
    pub(crate) fn print(&self, entry: T) {
        let room = Arc::clone(&self.room).try_acquire_many_owned(share(&entry));
        match room {
            Ok(room) if self.fault.borrow().is_none() => self.queue_up(entry, room),
            _ => self.counts.drop_one(),
        }
    }

    /// Waits for room, then queues an entry.
    ///
    /// # Errors
    /// Fails if the output has failed.
    pub(crate) async fn print_when_there_is_room(&self, entry: T) -> io::Result<()> {
        let room = Arc::clone(&self.room).acquire_many_owned(share(&entry));
        tokio::select! {
            biased;
            fault = self.failed() => return Err(fault),
            room = room => match room {
                Ok(room) => self.queue_up(entry, room),
                Err(_) => self.counts.drop_one(),
            },
        }
        Ok(())
    }

    /// Waits until the output fails, and returns the error.
    pub(crate) async fn failed(&self) -> io::Error {
        match self.fault.clone().wait_for(Option::is_some).await {
            Ok(fault) => error_of(&fault),
            Err(_) => pending().await,
        }
    }

    fn queue_up(&self, entry: T, room: OwnedSemaphorePermit) {
        let dropped_before = self.counts.untold.swap(0, Relaxed);
        if self.queue.send(Order::Print { entry, dropped_before, _room: room }).is_err() {
            self.counts.drop_one();
        }
    }

    /// Waits until everything in the queue is printed.
    ///
    /// # Errors
    /// Fails if the output has failed.
    pub(crate) async fn flush(&self) -> io::Result<()> {
        let (done, flushed) = oneshot::channel();
        if self.queue.send(Order::Flush(done)).is_ok() {
            // An error means that the thread has ended: the fault states the reason.
            let _ = flushed.await;
        }
        let fault = self.fault.borrow();
        if fault.is_some() { Err(error_of(&fault)) } else { Ok(()) }
    }
}

/// Returns the room that an entry needs in the queue. The largest entry fits into an empty queue.
fn share(entry: &impl Entry) -> u32 {
    let bytes = entry.size().saturating_add(LINE_BYTES).min(QUEUE_BYTES);
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Returns a copy of the error that ended the printer.
fn error_of(fault: &Option<io::Error>) -> io::Error {
    match fault {
        Some(error) => io::Error::new(error.kind(), error.to_string()),
        None => io::ErrorKind::BrokenPipe.into(),
    }
}

fn print_all<T: Entry>(
    mut orders: mpsc::UnboundedReceiver<Order<T>>,
    mut write: impl FnMut(&str) -> io::Result<()>,
    of_dropped: impl Fn(u64) -> T,
    counts: &Counts,
) -> io::Result<()> {
    let mut outcome = Ok(());
    while outcome.is_ok()
        && let Some(order) = orders.blocking_recv()
    {
        match order {
            Order::Print { entry, dropped_before, _room } => {
                if dropped_before > 0 {
                    outcome = write(&of_dropped(dropped_before).into_text());
                }
                outcome = outcome.and_then(|()| write(&entry.into_text()));
                if outcome.is_err() {
                    counts.drop_one();
                }
            }
            Order::Flush(done) => {
                let untold = counts.untold.swap(0, Relaxed);
                if untold > 0 {
                    outcome = write(&of_dropped(untold).into_text());
                }
                // The waiting task may have been dropped.
                let _ = done.send(());
            }
        }
    }
    orders.close();
    while let Some(order) = orders.blocking_recv() {
        if matches!(order, Order::Print { .. }) {
            counts.drop_one();
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc as std_mpsc};

    use super::*;

    impl Entry for String {
        fn size(&self) -> usize {
            self.len()
        }

        fn into_text(self) -> String {
            self
        }
    }

    fn of_dropped(lines: u64) -> String {
        format!("{lines} dropped\n")
    }

    #[tokio::test]
    async fn printer_whose_reader_stops_drops_and_counts() {
        let (go_on, gate) = std_mpsc::channel::<()>();
        let text = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&text);
        let write = move |line: &str| {
            let _ = gate.recv();
            seen.lock().expect("no panic").push(line[..line.len().min(16)].to_owned());
            Ok(())
        };
        let printer = Printer::start_with(write, false, of_dropped).expect("a thread");
        let large = || "x".repeat(QUEUE_BYTES / 4);
        // Three entries fit. The entry that the thread has taken keeps its room until it is
        // written.
        (0..10).for_each(|_| printer.print(large()));
        assert_eq!(printer.counts().dropped(), 7);
        drop(go_on);
        printer.flush().await.expect("no fault");
        printer.print("last\n".to_owned());
        printer.flush().await.expect("no fault");
        let lines = text.lock().expect("no panic").clone();
        assert_eq!(lines[3..], ["7 dropped\n", "last\n"], "{lines:?}");
    }

    #[tokio::test]
    async fn printer_whose_output_fails_stops_and_counts() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let printer = Printer::start_with(move |_| Err(full()), false, of_dropped).expect("a thread");
        printer.print("one\n".to_owned());
        let mut fault = printer.fault.clone();
        fault.wait_for(Option::is_some).await.expect("a fault");
        printer.print("two\n".to_owned());
        assert_eq!(printer.counts().dropped(), 2);
        assert_eq!(printer.flush().await.expect_err("it failed").kind(), io::ErrorKind::StorageFull);
        let error = printer.print_when_there_is_room("three\n".to_owned()).await.expect_err("it failed");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
