//! The control socket of platforms without Unix domain sockets: no command can reach a runtime.

use std::path::Path;

const NONE: &str = "control sockets are not available: protostub needs Unix domain sockets, and has none on this platform";

pub(crate) mod socket {
    use std::path::PathBuf;

    use super::{NONE, Path};
    use crate::failure::Failure;

    pub(crate) use UnsupportedSocket as Socket;

    /// A socket, which this platform does not have.
    pub(crate) struct UnsupportedSocket {
        pub(crate) path: PathBuf,
    }

    impl UnsupportedSocket {
        pub(crate) async fn listen(_path: &Path) -> anyhow::Result<Self> {
            Err(Failure::usage(NONE))
        }

        pub(crate) async fn listen_by_default() -> anyhow::Result<Self> {
            Err(Failure::usage(NONE))
        }
    }
}

pub(crate) mod server {
    use tokio_util::sync::CancellationToken;

    use super::socket::Socket;
    use crate::control::context::ServerContext;

    pub(crate) async fn serve(_socket: Socket, _context: ServerContext, stop: CancellationToken) {
        stop.cancelled().await;
    }
}

pub(crate) mod client {
    use serde::de::DeserializeOwned;

    use super::{NONE, Path};
    use crate::{
        control::protocol::{DeploymentProgress, Request, Status},
        event::Event,
        failure::Failure,
    };

    pub(crate) use UnsupportedClient as Client;

    /// A connection, which this platform does not have.
    pub(crate) enum UnsupportedClient {}

    impl UnsupportedClient {
        pub(crate) async fn connect(_path: &Path) -> anyhow::Result<Self> {
            Err(Failure::no_runtime(NONE))
        }

        pub(crate) async fn find() -> anyhow::Result<Option<Self>> {
            Ok(None)
        }

        pub(crate) async fn ask<T: DeserializeOwned>(
            &mut self,
            _request: &Request,
            _progress: impl FnMut(DeploymentProgress),
        ) -> anyhow::Result<T> {
            match *self {}
        }

        pub(crate) async fn follow(&mut self, _target: Option<String>) -> anyhow::Result<Status> {
            match *self {}
        }

        pub(crate) async fn change(&mut self) -> anyhow::Result<Option<Event>> {
            match *self {}
        }
    }
}
