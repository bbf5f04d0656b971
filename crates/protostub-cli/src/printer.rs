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

/// Memory that the lines of one printer may take while they wait, in bytes.
const QUEUE_BYTES: usize = 8 * 1024 * 1024;
/// Memory that a waiting line takes in addition to its text, in bytes.
const LINE_BYTES: usize = 256;

/// An entry of the output: one line, or a few.
pub(crate) trait Entry: Send + 'static {
    /// Returns the memory that the entry takes, roughly, in bytes.
    fn size(&self) -> usize;

    /// Returns the text, with a line feed at its end.
    fn into_text(self) -> String;
}

/// A thread that prints, with a bounded queue before it. A reader that stops reading holds up this
/// thread and no other task.
///
/// Entries that do not fit into the queue are dropped and counted. After the first error, such as a
/// closed pipe or a full disk, all entries are.
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
    /// Dropped entries of which the output does not tell yet.
    untold: AtomicU64,
}

#[derive(Debug)]
enum Order<T> {
    Print {
        entry: T,
        /// Entries that were dropped since the one before this.
        dropped_before: u64,
        /// Room in the queue, given back when the entry is printed.
        _room: OwnedSemaphorePermit,
    },
    /// Told when everything before it is printed.
    Flush(oneshot::Sender<()>),
}

/// Standard output or standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Counts {
    /// Returns how many entries were not printed.
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
    /// Starts a printer whose entries appear above the progress bars. `of_dropped` makes the entry
    /// that reports a number of dropped ones.
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
                    tracing::warn!("standard output failed: {error}; nothing more is printed to it");
                }
                failed.send_replace(Some(error));
            }
        })?;
        Ok(Self { queue, room: Arc::new(Semaphore::new(QUEUE_BYTES)), counts, fault })
    }

    /// Returns the counts, which stay true while the printer prints.
    pub(crate) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// Puts an entry into the queue. Never waits: without room, the entry is dropped.
    pub(crate) fn print(&self, entry: T) {
        let room = Arc::clone(&self.room).try_acquire_many_owned(share(&entry));
        match room {
            Ok(room) if self.fault.borrow().is_none() => self.queue_up(entry, room),
            _ => self.counts.drop_one(),
        }
    }

    /// Puts an entry into the queue when there is room.
    ///
    /// # Errors
    /// If the output has failed.
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

    /// Waits until the output has failed, and returns why.
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
    /// If the output has failed.
    pub(crate) async fn flush(&self) -> io::Result<()> {
        let (done, flushed) = oneshot::channel();
        if self.queue.send(Order::Flush(done)).is_ok() {
            // An error means that the thread has ended: the fault says why.
            let _ = flushed.await;
        }
        let fault = self.fault.borrow();
        if fault.is_some() { Err(error_of(&fault)) } else { Ok(()) }
    }
}

/// Returns the room that an entry takes in the queue. The largest entry fits into an empty one.
fn share(entry: &impl Entry) -> u32 {
    let bytes = entry.size().saturating_add(LINE_BYTES).min(QUEUE_BYTES);
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// An error like the one that ended the printer.
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
                // The one who waited may have gone.
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
        // Three fit. The one that the thread has taken keeps its room until it is written.
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
