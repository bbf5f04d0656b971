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

use crate::control::protocol::{Doing, What};

/// How often the sign moves that something goes on.
const TICK: Duration = Duration::from_millis(100);

/// A progress bar on stderr for each stub that is downloaded or compiled; what else is printed stands above them.
#[derive(Debug, Clone)]
pub(crate) struct Bars {
    all: MultiProgress,
    /// Whether there is anybody to see them.
    shown: bool,
    of_stubs: Arc<Mutex<HashMap<String, ProgressBar>>>,
    news: Arc<News>,
}

/// The latest news of each stub, until they are drawn. A terminal that is stopped holds up the
/// thread that draws, and no deployment.
#[derive(Debug, Default)]
struct News {
    of_stubs: Mutex<HashMap<String, What>>,
    came: Condvar,
}

impl News {
    /// Waits for news, and takes them.
    fn take(&self) -> HashMap<String, What> {
        let news = self.of_stubs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut news = self.came.wait_while(news, |news| news.is_empty()).unwrap_or_else(PoisonError::into_inner);
        mem::take(&mut *news)
    }
}

impl Bars {
    /// Bars for people who look at a terminal, if they are `wanted`.
    pub(crate) fn new(wanted: bool) -> Self {
        let shown = wanted && io::stderr().is_terminal();
        let bars = Self::on(if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() }, shown);
        if shown {
            let drawing = bars.clone();
            // Without a thread there are no bars.
            let _ = thread::Builder::new().name("bars".to_owned()).spawn(move || drawing.draw_all());
        }
        bars
    }

    fn on(target: ProgressDrawTarget, shown: bool) -> Self {
        Self { all: MultiProgress::with_draw_target(target), shown, of_stubs: Arc::default(), news: Arc::default() }
    }

    /// Whether there is anybody to see them.
    pub(crate) const fn shown(&self) -> bool {
        self.shown
    }

    /// Prints something while the bars are out of the way.
    pub(crate) fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        if self.shown { self.all.suspend(print) } else { print() }
    }

    /// Shows how a deployment goes on. Never waits for the terminal.
    pub(crate) fn show(&self, doing: &Doing) {
        if self.shown {
            let mut news = self.news.of_stubs.lock().unwrap_or_else(PoisonError::into_inner);
            news.insert(doing.key.clone(), doing.what);
            self.news.came.notify_one();
        }
    }

    /// Draws the news, for as long as the process lives.
    fn draw_all(&self) {
        loop {
            for (key, what) in self.news.take() {
                self.draw(&Doing { key, what });
            }
        }
    }

    fn draw(&self, doing: &Doing) {
        let mut bars = self.of_stubs.lock().unwrap_or_else(PoisonError::into_inner);
        match doing.what {
            What::Ready => {
                if let Some(bar) = bars.remove(&doing.key) {
                    bar.finish_and_clear();
                    self.all.remove(&bar);
                }
            }
            What::Downloading { bytes, total } => {
                let bar = bars.entry(doing.key.clone()).or_insert_with(|| self.all.add(ProgressBar::no_length()));
                bar.set_style(style(total.is_some()));
                if let Some(total) = total {
                    bar.set_length(total);
                }
                bar.set_message(format!("Downloading the stub of {}", doing.key));
                bar.set_position(bytes);
            }
            What::Compiling => {
                let bar = bars.entry(doing.key.clone()).or_insert_with(|| self.all.add(ProgressBar::no_length()));
                bar.set_style(spinner("{spinner} {msg}"));
                bar.set_message(format!("Compiling the stub of {}", doing.key));
                bar.enable_steady_tick(TICK);
            }
        }
    }

    /// What tells them how deployments go on.
    pub(crate) fn hook(&self) -> impl Fn(&StubKey, Progress) + Send + Sync + 'static {
        let bars = self.clone();
        move |key, progress| {
            if let Some(doing) = Doing::of(key, progress) {
                bars.show(&doing);
            }
        }
    }

    /// Clears what deployments that were given up left behind.
    pub(crate) fn clear(&self) {
        self.of_stubs.lock().unwrap_or_else(PoisonError::into_inner).clear();
        if self.shown {
            let _ = self.all.clear();
        }
    }
}

impl DownloadProgress for Bars {
    fn download(&self, key: &StubKey, download: Download) {
        (self.hook())(key, Progress::Download(download));
    }
}

impl Doing {
    /// What the library tells, if it is anything to show.
    pub(crate) fn of(key: &StubKey, progress: Progress) -> Option<Self> {
        let what = match progress {
            Progress::Download(Download::Receiving { bytes, total }) => What::Downloading { bytes, total },
            Progress::Compiling => What::Compiling,
            Progress::Download(Download::Received { .. } | Download::Failed) | Progress::CompilingEnded => What::Ready,
            _ => return None,
        };
        Some(Self { key: key.to_string(), what })
    }
}

fn style(whole_is_known: bool) -> ProgressStyle {
    if whole_is_known {
        spinner("{msg} {wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}")
    } else {
        spinner("{msg} {bytes}, {bytes_per_sec}")
    }
}

fn spinner(template: &str) -> ProgressStyle {
    // A template that cannot be read would be no reason not to show anything.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

#[cfg(test)]
mod tests {
    use indicatif::InMemoryTerm;

    use super::*;

    #[test]
    fn a_deployment_is_shown_while_it_goes_on_and_leaves_nothing() {
        let terminal = InMemoryTerm::new(10, 80);
        let bars = Bars::on(ProgressDrawTarget::term_like(Box::new(terminal.clone())), true);
        let show = |what| bars.draw(&Doing { key: "sp1.example".to_owned(), what });
        show(What::Downloading { bytes: 0, total: Some(2048) });
        bars.all.suspend(|| {});
        assert!(terminal.contents().starts_with("Downloading the stub of sp1.example"), "{}", terminal.contents());
        assert!(terminal.contents().contains("0 B of 2.00 KiB"), "{}", terminal.contents());
        show(What::Ready);
        assert_eq!(terminal.contents(), "");
        show(What::Compiling);
        bars.all.suspend(|| {});
        assert!(terminal.contents().contains("Compiling the stub of sp1.example"), "{}", terminal.contents());
        bars.clear();
        assert_eq!(terminal.contents(), "");
    }
}
