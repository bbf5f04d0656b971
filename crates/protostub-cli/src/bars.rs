use std::{
    collections::HashMap,
    io::{self, IsTerminal as _},
    mem,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use protostub_catalogue::DownloadProgress;
use protostub_runtime::{Download, Progress, StubKey};

use crate::control::protocol::{Activity, DeploymentProgress};

/// Interval between two steps of a spinner.
const TICK: Duration = Duration::from_millis(100);

/// Progress bars on stderr, one for each stub that is downloaded or compiled. Other output appears
/// above them.
#[derive(Debug, Clone)]
pub(crate) struct Bars {
    all: MultiProgress,
    visibility: Visibility,
    of_stubs: Arc<Mutex<HashMap<String, ProgressBar>>>,
    pending: Arc<PendingUpdates>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Visibility {
    Shown,
    Hidden,
}

/// The latest progress of each stub that is not drawn yet. A stopped terminal blocks only the
/// thread that draws, not the deployments.
#[derive(Debug, Default)]
struct PendingUpdates {
    of_stubs: Mutex<HashMap<String, Activity>>,
    arrived: Condvar,
}

impl PendingUpdates {
    /// Waits for updates and takes them.
    fn take(&self) -> HashMap<String, Activity> {
        let updates = self.of_stubs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut updates = self.arrived.wait_while(updates, |updates| updates.is_empty()).unwrap_or_else(PoisonError::into_inner);
        mem::take(&mut *updates)
    }
}

impl Bars {
    /// Returns bars on stderr, or hidden ones if stderr is not a terminal.
    pub(crate) fn on_terminal() -> Self {
        if !io::stderr().is_terminal() {
            return Self::hidden();
        }
        let bars = Self::on(ProgressDrawTarget::stderr(), Visibility::Shown);
        let drawing = bars.clone();
        // If the thread cannot start, no bars are drawn.
        let _ = thread::Builder::new().name("bars".to_owned()).spawn(move || drawing.draw_all());
        bars
    }

    /// Returns bars that are never shown.
    pub(crate) fn hidden() -> Self {
        Self::on(ProgressDrawTarget::hidden(), Visibility::Hidden)
    }

    fn on(target: ProgressDrawTarget, visibility: Visibility) -> Self {
        Self { all: MultiProgress::with_draw_target(target), visibility, of_stubs: Arc::default(), pending: Arc::default() }
    }

    /// Returns `true` if the bars are shown.
    pub(crate) fn are_shown(&self) -> bool {
        self.visibility == Visibility::Shown
    }

    /// Hides the bars while `print` runs.
    pub(crate) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        if self.are_shown() { self.all.suspend(print) } else { print() }
    }

    /// Shows the progress of a deployment. Never waits for the terminal.
    pub(crate) fn show(&self, progress: &DeploymentProgress) {
        if self.are_shown() {
            let mut updates = self.pending.of_stubs.lock().unwrap_or_else(PoisonError::into_inner);
            updates.insert(progress.key.clone(), progress.activity);
            self.pending.arrived.notify_one();
        }
    }

    /// Draws the updates until the process ends.
    fn draw_all(&self) {
        loop {
            for (key, activity) in self.pending.take() {
                self.draw(&DeploymentProgress { key, activity });
            }
        }
    }

    fn draw(&self, progress: &DeploymentProgress) {
        let mut bars = self.of_stubs.lock().unwrap_or_else(PoisonError::into_inner);
        match progress.activity {
            Activity::Ready => {
                if let Some(bar) = bars.remove(&progress.key) {
                    bar.finish_and_clear();
                    self.all.remove(&bar);
                }
            }
            Activity::Downloading { bytes, total } => {
                let bar = bars.entry(progress.key.clone()).or_insert_with(|| self.all.add(ProgressBar::no_length()));
                bar.set_style(download_style(total));
                if let Some(total) = total {
                    bar.set_length(total);
                }
                bar.set_message(format!("Downloading the stub of {}", progress.key));
                bar.set_position(bytes);
            }
            Activity::Compiling => {
                let bar = bars.entry(progress.key.clone()).or_insert_with(|| self.all.add(ProgressBar::no_length()));
                bar.set_style(spinner("{spinner} {msg}"));
                bar.set_message(format!("Compiling the stub of {}", progress.key));
                bar.enable_steady_tick(TICK);
            }
        }
    }

    /// Returns an observer of deployments that shows their progress.
    pub(crate) fn observer(&self) -> impl Fn(&StubKey, Progress) + Send + Sync + 'static {
        let bars = self.clone();
        move |key, progress| {
            if let Some(progress) = DeploymentProgress::of(key, progress) {
                bars.show(&progress);
            }
        }
    }

    /// Clears the bars of abandoned deployments.
    pub(crate) fn clear(&self) {
        self.of_stubs.lock().unwrap_or_else(PoisonError::into_inner).clear();
        if self.are_shown() {
            let _ = self.all.clear();
        }
    }
}

impl DownloadProgress for Bars {
    fn download(&self, key: &StubKey, download: Download) {
        (self.observer())(key, Progress::Download(download));
    }
}

impl DeploymentProgress {
    /// Converts the library's progress. Returns `None` if the bars do not show this kind.
    pub(crate) fn of(key: &StubKey, progress: Progress) -> Option<Self> {
        let activity = match progress {
            Progress::Download(Download::Receiving { bytes, total }) => Activity::Downloading { bytes, total },
            Progress::Compiling => Activity::Compiling,
            Progress::Download(Download::Received { .. } | Download::Failed) | Progress::CompilingEnded => Activity::Ready,
            _ => return None,
        };
        Some(Self { key: key.to_string(), activity })
    }
}

/// Returns the style of a download: a bar if the total size is known, a byte count otherwise.
fn download_style(total: Option<u64>) -> ProgressStyle {
    match total {
        Some(_) => spinner("{msg} {wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}"),
        None => spinner("{msg} {bytes}, {bytes_per_sec}"),
    }
}

fn spinner(template: &str) -> ProgressStyle {
    // An invalid template must not stop the output: the default spinner replaces it.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

#[cfg(test)]
mod tests {
    use indicatif::InMemoryTerm;

    use super::*;

    #[test]
    fn bar_of_a_deployment_is_shown_then_cleared() {
        let terminal = InMemoryTerm::new(10, 80);
        let bars = Bars::on(ProgressDrawTarget::term_like(Box::new(terminal.clone())), Visibility::Shown);
        let show = |activity| bars.draw(&DeploymentProgress { key: "sp1.example".to_owned(), activity });
        show(Activity::Downloading { bytes: 0, total: Some(2048) });
        bars.all.suspend(|| {});
        assert!(terminal.contents().starts_with("Downloading the stub of sp1.example"), "{}", terminal.contents());
        assert!(terminal.contents().contains("0 B of 2.00 KiB"), "{}", terminal.contents());
        show(Activity::Ready);
        assert_eq!(terminal.contents(), "");
        show(Activity::Compiling);
        bars.all.suspend(|| {});
        assert!(terminal.contents().contains("Compiling the stub of sp1.example"), "{}", terminal.contents());
        bars.clear();
        assert_eq!(terminal.contents(), "");
    }
}
