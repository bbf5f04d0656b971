use std::{
    io::{self, ErrorKind},
    os::{fd::AsFd as _, unix},
};

use tokio::{io::Interest, net::UnixStream};

/// The end of a client's connection in both directions. A client that closes only its own
/// direction, like `nc -N`, still waits for its answers.
///
/// A read returns the same in both cases. The watch therefore waits for the events of the socket,
/// by a descriptor of its own, which is neither read nor written.
pub(crate) struct HangupWatch(UnixStream);

impl HangupWatch {
    pub(crate) fn new(client: &UnixStream) -> io::Result<Self> {
        let socket = client.as_fd().try_clone_to_owned()?;
        UnixStream::from_std(unix::net::UnixStream::from(socket)).map(Self)
    }

    /// Waits until the client has hung up.
    pub(crate) async fn hung_up(&self) {
        // Fails only when the threads of the command end.
        while let Ok(ready) = self.0.ready(Interest::WRITABLE).await {
            if ready.is_write_closed() {
                return;
            }
            // The socket has room. The next event is a change of its state.
            let _ = self.0.try_io(Interest::WRITABLE, || Err::<(), _>(ErrorKind::WouldBlock.into()));
        }
    }
}
