//! Where there are no Unix domain sockets, a runtime cannot be reached from outside.

use std::path::Path;

const NONE: &str = "control sockets are Unix domain sockets, which protostub does not have on this platform";

pub(crate) mod socket {
    use std::path::PathBuf;

    use super::{NONE, Path};
    use crate::output::Failure;

    /// A socket that cannot be.
    pub(crate) struct Socket {
        pub(crate) path: PathBuf,
    }

    impl Socket {
        pub(crate) async fn listen(_path: &Path) -> anyhow::Result<Self> {
            Err(Failure::usage(NONE))
        }

        pub(crate) async fn listen_by_default() -> anyhow::Result<Self> {
            Err(Failure::usage(NONE))
        }
    }
}

pub(crate) mod server {
    use std::{path::PathBuf, sync::Arc, time::SystemTime};

    use protostub_runtime::Runtime;
    use tokio::sync::broadcast;
    use tokio_util::sync::CancellationToken;

    use super::socket::Socket;
    use crate::{
        control::protocol::{Change, Doing},
        printer::Counts,
    };

    /// What clients would share.
    pub(crate) struct Served {
        pub(crate) runtime: Arc<Runtime>,
        pub(crate) since: SystemTime,
        pub(crate) policy: Option<PathBuf>,
        pub(crate) changes: broadcast::Sender<Change>,
        pub(crate) progress: broadcast::Sender<Doing>,
        pub(crate) dropped: (Arc<Counts>, Arc<Counts>),
    }

    pub(crate) async fn serve(_socket: Socket, _served: Served, stop: CancellationToken) {
        stop.cancelled().await;
    }
}

pub(crate) mod client {
    use serde::de::DeserializeOwned;

    use super::{NONE, Path};
    use crate::{
        control::protocol::{Change, Doing, Request, Status},
        output::Failure,
    };

    /// A connection that cannot be.
    pub(crate) enum Client {}

    impl Client {
        pub(crate) async fn connect(_path: &Path) -> anyhow::Result<Self> {
            Err(Failure::no_runtime(NONE))
        }

        pub(crate) async fn find() -> anyhow::Result<Option<Self>> {
            Ok(None)
        }

        pub(crate) async fn ask<T: DeserializeOwned>(
            &mut self,
            _request: &Request,
            _progress: impl FnMut(Doing),
        ) -> anyhow::Result<T> {
            match *self {}
        }

        pub(crate) async fn follow(&mut self, _target: Option<String>) -> anyhow::Result<Status> {
            match *self {}
        }

        pub(crate) async fn change(&mut self) -> anyhow::Result<Option<Change>> {
            match *self {}
        }
    }
}
