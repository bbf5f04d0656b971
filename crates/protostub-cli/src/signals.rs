use std::io;

use tokio::signal;

/// The signal SIGHUP, on platforms that have it. SIGHUP does not end the process while this
/// listens.
pub(crate) struct HangupSignal {
    #[cfg(unix)]
    signal: signal::unix::Signal,
}

impl HangupSignal {
    /// Listens for SIGHUP.
    pub(crate) fn listen() -> io::Result<Self> {
        #[cfg(unix)]
        {
            use signal::unix::{SignalKind, signal};
            Ok(Self { signal: signal(SignalKind::hangup())? })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Waits for the signal.
    pub(crate) async fn received(&mut self) {
        #[cfg(unix)]
        if self.signal.recv().await.is_some() {
            return;
        }
        std::future::pending().await
    }
}

/// Ctrl-C, and SIGTERM on platforms that have it. Neither ends the process while this listens.
pub(crate) struct StopSignal {
    #[cfg(unix)]
    signals: [signal::unix::Signal; 2],
}

impl StopSignal {
    pub(crate) fn listen() -> io::Result<Self> {
        #[cfg(unix)]
        {
            use signal::unix::{SignalKind, signal};
            Ok(Self { signals: [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?] })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Waits for one of the signals.
    pub(crate) async fn received(&mut self) -> io::Result<()> {
        #[cfg(unix)]
        {
            let [interrupt, terminate] = &mut self.signals;
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            Ok(())
        }
        #[cfg(not(unix))]
        signal::ctrl_c().await
    }
}
