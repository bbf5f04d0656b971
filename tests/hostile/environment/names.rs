//! Name services that fall silent.

use std::{
    future, io,
    net::{IpAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use async_trait::async_trait;
use protostub_runtime::Resolver;

/// A name service without names, which can fall silent. It is also a resolver of a host program.
#[derive(Debug, Clone, Default)]
pub(super) struct Silence(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    is_silent: AtomicBool,
    /// The questions during the silence.
    unanswered: AtomicU64,
}

impl Silence {
    pub(super) fn set(&self, is_silent: bool) {
        self.0.is_silent.store(is_silent, Ordering::Relaxed);
    }

    /// Returns the number of questions that it left unanswered.
    pub(super) fn unanswered(&self) -> u64 {
        self.0.unanswered.load(Ordering::Relaxed)
    }

    /// Returns `true` if the service leaves a question unanswered now.
    fn swallows(&self) -> bool {
        let is_silent = self.0.is_silent.load(Ordering::Relaxed);
        self.0.unanswered.fetch_add(u64::from(is_silent), Ordering::Relaxed);
        is_silent
    }

    /// Answers the system resolver on port 53 of this machine.
    pub(super) fn serve(&self) -> io::Result<()> {
        let socket = UdpSocket::bind("127.0.0.1:53")?;
        let this = self.clone();
        thread::spawn(move || {
            let mut packet = [0; 512];
            while let Ok((length, asker)) = socket.recv_from(&mut packet) {
                if length > 12 && !this.swallows() {
                    // Returns the question with the code for "no such name" (RFC 1035, 4.1.1).
                    (packet[2], packet[3]) = (0x80 | packet[2], 0x83);
                    packet[6..12].fill(0);
                    let end = end_of_question(&packet[..length]).unwrap_or(length);
                    let _ = socket.send_to(&packet[..end], asker);
                }
            }
        });
        Ok(())
    }
}

/// The end of a message's only question: its labels, a zero, a type and a class.
fn end_of_question(packet: &[u8]) -> Option<usize> {
    let labels = packet.get(12..)?.iter().position(|byte| *byte == 0)?;
    Some(12 + labels + 5).filter(|end| *end <= packet.len())
}

#[async_trait]
impl Resolver for Silence {
    async fn resolve(&self, _name: &str) -> io::Result<Vec<IpAddr>> {
        if self.swallows() {
            future::pending::<()>().await;
        }
        Err(io::Error::new(io::ErrorKind::NotFound, "this name service knows no names"))
    }
}
