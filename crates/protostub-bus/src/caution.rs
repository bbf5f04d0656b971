//! Caution after a crash: the next owner of an inbox takes one message at a time, and senders whose
//! messages end two owners are refused.

use std::time::{Duration, Instant};

use protostub_types::{Address, Message, deadline};

/// Number of messages that an owner must survive after a crash before it gets batches again.
const ONE_AT_A_TIME: u32 = 10;
/// Maximum number of suspects of an inbox: the senders of sixteen of the largest default batches.
/// Beyond it, the oldest is forgotten.
const MAX_SUSPECTS: usize = 1024;

/// The state of an inbox whose owner has crashed.
#[derive(Debug, Default)]
pub(crate) struct Caution {
    /// Number of messages that the owner still has to survive.
    left: u32,
    suspects: Vec<Suspect>,
}

/// A sender of a message that the owner had when it crashed. The inbox hands out each of its
/// messages alone, so a second crash has one culprit.
#[derive(Debug)]
struct Suspect {
    sender: Address,
    until: Instant,
    /// `true` after the second crash.
    is_refused: bool,
}

/// Returns the sender that is responsible for a message: the last stub that posted it, or else its
/// `from`, which a stub can choose.
pub(crate) fn sender(message: &Message) -> &Address {
    message.via.last().unwrap_or(&message.from)
}

impl Caution {
    /// Notes a crash of the owner, which had messages of these senders. They are suspects for
    /// `suspicion`. Suspects of an earlier crash are refused for that time.
    pub(crate) fn crashed<'a>(&mut self, senders: impl Iterator<Item = &'a Address>, now: Instant, suspicion: Duration) {
        self.forget_old(now);
        self.left = ONE_AT_A_TIME;
        let (known, until) = (self.suspects.len(), deadline(now, suspicion));
        for sender in senders {
            match self.suspects.iter().position(|suspect| suspect.sender == *sender) {
                Some(index) if index < known => {
                    let suspect = &mut self.suspects[index];
                    (suspect.is_refused, suspect.until) = (true, until);
                }
                // Another message of the same batch.
                Some(_) => {}
                None => self.suspects.push(Suspect { sender: sender.clone(), until, is_refused: false }),
            }
        }
        let excess = self.suspects.len().saturating_sub(MAX_SUSPECTS);
        self.suspects.drain(..excess);
    }

    /// Notes that the owner asks for messages, and whether it survived the last one since. Returns
    /// `true` if the caution is over.
    pub(crate) fn is_over(&mut self, survived: bool, now: Instant) -> bool {
        self.left = self.left.saturating_sub(u32::from(survived));
        self.forget_old(now);
        self.left == 0 && self.suspects.is_empty()
    }

    /// Returns `true` if the owner takes this message alone.
    pub(crate) fn isolates(&self, message: &Message) -> bool {
        self.left > 0 || self.suspects.iter().any(|suspect| suspect.sender == *sender(message))
    }

    /// Returns the reason for refusing a message, if its sender is refused now.
    pub(crate) fn refusal(&self, message: &Message, now: Instant) -> Option<String> {
        let sender = sender(message);
        let refuses = |suspect: &&Suspect| suspect.is_refused && suspect.until > now && suspect.sender == *sender;
        let left = self.suspects.iter().find(refuses)?.until - now;
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        Some(format!("messages of {sender} ended two instances of the receiving stub; try again in {seconds} s"))
    }

    fn forget_old(&mut self, now: Instant) {
        self.suspects.retain(|suspect| suspect.until > now);
    }
}
