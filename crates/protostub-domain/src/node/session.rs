//! `mn:/session`: open, re-open, close.

use serde_json::json;
use tokio::time::Instant;

use super::{
    client::Ending,
    ids::ConnectionId,
    state::State,
    wire::{Frame, SESSION_ADDRESS},
};

impl State {
    pub(super) fn session_message(&mut self, from: ConnectionId, frame: &Frame, now: Instant) {
        let fail = |description: &str| frame.error(SESSION_ADDRESS, 500, description);
        match frame.kind.as_str() {
            "open" | "re-open" if self.faults.ignore_open => {}
            "open" | "re-open" if self.faults.refuse_open.is_some() => {
                let reason = self.faults.refuse_open.clone().unwrap_or_default();
                self.answer(from, fail(&reason));
            }
            "open" => {
                let token = uuid::Uuid::new_v4().to_string();
                let answer = match self.open_session(from, &frame.from, Some(token.clone()), now) {
                    Ok(()) => frame.response(SESSION_ADDRESS, json!({ "code": 200, "runtimeToken": token })),
                    Err(reason) => fail(reason),
                };
                self.answer(from, answer);
            }
            "re-open" => {
                let session = frame.from.as_str().rsplit_once('/').and_then(|(runtime, token)| {
                    let id = self.runtimes.get(runtime)?;
                    (self.sessions.get(id)?.token.as_deref() == Some(token)).then_some(*id)
                });
                match session {
                    Some(session) => {
                        self.bind(from, session);
                        self.answer(from, frame.response(SESSION_ADDRESS, json!({ "code": 200 })));
                    }
                    None => self.answer(from, fail("Reconnection fail. Incorrect runtime token!")),
                }
            }
            "close" => {
                let own = self
                    .session_of(from)
                    .filter(|id| self.sessions.get(id).is_some_and(|session| frame.from.is_within(&session.runtime)));
                match own {
                    Some(session) => self.end_session(session, Ending::with(1000, ""), now),
                    None => self.answer(from, fail("No such session on this connection")),
                }
            }
            kind => self.answer(from, fail(&format!("Unrecognized type '{kind}'"))),
        }
    }

    /// Opens a session of the NoMatrix flavour, which comes with the connection. A new connection
    /// of the same runtime takes the session over.
    pub(super) fn open_nomatrix_session(
        &mut self,
        connection: ConnectionId,
        runtime: &protostub_types::Address,
        now: Instant,
    ) -> Result<(), &'static str> {
        let earlier = self.runtimes.get(runtime).copied();
        match earlier.and_then(|id| Some((id, self.sessions.get(&id)?))) {
            Some((id, session)) if session.token.is_none() => {
                self.bind(connection, id);
                Ok(())
            }
            Some(_) => Err("the runtime URL belongs to a session with a token"),
            None => self.open_session(connection, runtime, None, now),
        }
    }
}
