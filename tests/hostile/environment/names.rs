//! Name services that fall silent.

use std::{
    future, io,
    net::{IpAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use async_trait::async_trait;
use protostub_runtime::Resolver;

/// A name service that knows no name, until it is silent. A host program may have it as its resolver.
#[derive(Debug, Clone, Default)]
pub(super) struct Silence(Arc<AtomicBool>);

impl Silence {
    pub(super) fn set(&self, is_silent: bool) {
        self.0.store(is_silent, Ordering::Relaxed);
    }

    /// Answers what the system's resolver asks over the network: port 53 of this machine.
    pub(super) fn serve(&self) -> io::Result<()> {
        let socket = UdpSocket::bind("127.0.0.1:53")?;
        let is_silent = Arc::clone(&self.0);
        thread::spawn(move || {
            let mut packet = [0; 512];
            while let Ok((length, asker)) = socket.recv_from(&mut packet) {
                if length > 12 && !is_silent.load(Ordering::Relaxed) {
                    // The question, as an answer that the name does not exist (RFC 1035 section 4.1.1), without further records.
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
        if self.0.load(Ordering::Relaxed) {
            future::pending::<()>().await;
        }
        Err(io::Error::new(io::ErrorKind::NotFound, "this name service knows no names"))
    }
}
