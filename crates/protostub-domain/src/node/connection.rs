//! One client's WebSocket: passes received messages to the node, and writes queued ones.

use std::{future::pending, ops::ControlFlow, time::Duration};

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use protostub_types::deadline;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    MessageNode,
    client::{Client, Ending, Queue},
    ids::ConnectionId,
};
use crate::Limits;

/// Number of pings that a client may leave without an answer.
const SILENT_TICKS: u32 = 2;

/// Serves a client until the client or the node ends the connection, or `stop` is cancelled.
pub(super) async fn serve(
    node: &MessageNode,
    id: ConnectionId,
    client: Client,
    queue: Queue,
    socket: WebSocket,
    limits: &Limits,
    stop: &CancellationToken,
) {
    let mut line = Line { socket, queue, client, limits };
    let ending = line.run(node, id, stop).await;
    node.disconnected(id);
    if let Some(ending) = ending {
        line.close(ending).await;
    }
}

struct Line<'a> {
    socket: WebSocket,
    queue: Queue,
    client: Client,
    limits: &'a Limits,
}

impl Line<'_> {
    /// Serves the connection. Returns how to close it, or `None` if it has ended already.
    async fn run(&mut self, node: &MessageNode, id: ConnectionId, stop: &CancellationToken) -> Option<Ending> {
        // A period of zero would panic.
        let keep_alive = self.limits.keep_alive.max(Duration::from_millis(1));
        let mut ticks = interval_at(deadline(Instant::now(), keep_alive), keep_alive);
        // Counts ticks instead of time. Otherwise a busy machine that did not read would take the
        // client for silent.
        let mut silent_ticks = 0;
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Some(Ending::with(1001, "the server is going away")),
                ending = self.client.ended() => return Some(ending),
                Some(text) = self.queue.next() => {
                    if self.write(Message::Text(text)).await.is_break() {
                        return None;
                    }
                }
                _ = ticks.tick() => {
                    silent_ticks += u32::from(!self.client.is_congested());
                    if silent_ticks > SILENT_TICKS {
                        tracing::debug!(?id, "the client answered no ping; closing its connection");
                        return Some(Ending::Lost);
                    }
                    if self.write(Message::Ping(axum::body::Bytes::new())).await.is_break() {
                        return None;
                    }
                }
                // A client that does not read its messages is not read from.
                input = async { if self.client.is_congested() { pending().await } else { self.socket.recv().await } } => {
                    silent_ticks = 0;
                    match input {
                        Some(Ok(Message::Text(text))) => node.receive(id, text),
                        Some(Ok(Message::Binary(_))) => return Some(Ending::with(1003, "only text messages are supported")),
                        Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                        // The next read writes the answer to the close frame.
                        Some(Ok(Message::Close(_))) => {}
                        Some(Err(error)) => {
                            tracing::debug!(?id, "lost the connection to the client: {error}");
                            let too_long = std::error::Error::source(&error).is_some_and(|source| source.to_string().contains("too long"));
                            return too_long.then(|| Ending::with(1009, "the message is too long"));
                        }
                        None => return None,
                    }
                }
            }
        }
    }

    async fn write(&mut self, message: Message) -> ControlFlow<()> {
        match timeout(self.limits.write_timeout, self.socket.send(message)).await {
            Ok(Ok(())) => ControlFlow::Continue(()),
            Ok(Err(_)) | Err(_) => ControlFlow::Break(()),
        }
    }

    /// Writes the queued messages and a close frame, then waits for the client's close frame.
    async fn close(mut self, ending: Ending) {
        let frame = match ending {
            Ending::Lost => return,
            Ending::Closed => None,
            Ending::ClosedWith { code, reason } => Some(CloseFrame { code, reason: reason.into() }),
        };
        let rest: Vec<_> = self.queue.rest().collect();
        for text in rest {
            if self.write(Message::Text(text)).await.is_break() {
                return;
            }
        }
        if self.write(Message::Close(frame)).await.is_continue() {
            let goodbye = async { while let Some(Ok(_)) = self.socket.recv().await {} };
            let _ = timeout(self.limits.write_timeout.min(Duration::from_secs(2)), goodbye).await;
        }
    }
}
