//! The bus alone, from one native listener to another, compared with a bare channel between the
//! same two tasks. Both run on the same two threads. Both send as many messages as fit before they
//! wait for the receiver's acknowledgement.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use protostub_bus::{Bus, BusConfig, Inbox, InboxLimits, Mailbox, Origin, Route};
use protostub_types::{Address, Domain, Message};
use tokio::{runtime::Handle, sync::mpsc};

use crate::workload::{FROM, message};

/// Number of messages that are sent before the receiver acknowledges: half the capacity of an
/// inbox.
const BURST: u32 = 512;

/// A bus with one listener that has many addresses.
pub(crate) struct Hops {
    threads: Handle,
    bus: Bus,
    inbox: Option<Inbox>,
    origin: Origin,
    message: Message,
    _routes: Vec<Route>,
}

impl Hops {
    /// Makes a bus with this number of addresses. Messages go to one of them.
    pub(crate) fn new(threads: &Handle, addresses: usize, bytes: usize) -> Result<Self> {
        let bus = Bus::new(BusConfig::new(Domain::parse("home.example")?, Address::parse("runtime://home.example/1")?));
        threads.spawn({
            let bus = bus.clone();
            async move { bus.run_deadlines().await }
        });
        let inbox = bus.inbox(InboxLimits::default());
        let attach = |nth: usize, mailbox: &Mailbox| -> Result<Route> {
            Ok(bus.attach(&Address::parse(&format!("hyperty://home.example/listener/{nth}"))?, mailbox)?)
        };
        let routes = (0..addresses).map(|nth| attach(nth, &inbox.mailbox())).collect::<Result<_>>()?;
        let from = Address::parse(FROM)?;
        let to = Address::parse(&format!("hyperty://home.example/listener/{}", addresses / 2))?;
        let message = message(&from, &to, bytes);
        Ok(Self { threads: threads.clone(), inbox: Some(inbox), origin: Origin::Hyperty(from), message, _routes: routes, bus })
    }

    /// Measures the time of `count` messages from the sender's task to the receiver's, over the
    /// bus.
    pub(crate) async fn bus(&mut self, count: u32) -> Result<Duration> {
        let sender = Sender::Bus(self.bus.clone(), self.origin.clone());
        let receiver = Receiver::Bus(self.inbox.take().context("the last run did not end")?);
        let (receiver, took) = self.hop(sender, receiver, count).await?;
        if let Receiver::Bus(inbox) = receiver {
            self.inbox = Some(inbox);
        }
        Ok(took)
    }

    /// Measures the same over a channel with the capacity of an inbox.
    pub(crate) async fn channel(&self, count: u32) -> Result<Duration> {
        let (sender, receiver) = mpsc::channel(InboxLimits::default().messages);
        Ok(self.hop(Sender::Channel(sender), Receiver::Channel(receiver), count).await?.1)
    }

    async fn hop(&self, sender: Sender, mut receiver: Receiver, count: u32) -> Result<(Receiver, Duration)> {
        let (done, mut acknowledged) = mpsc::channel(1);
        let receiving = self.threads.spawn(async move {
            for burst in bursts(count) {
                for _ in 0..burst {
                    let message = receiver.recv().await.context("the channel closed before the last message")?;
                    ensure!(message.body.is_some(), "a message lost its body");
                }
                done.send(()).await?;
            }
            anyhow::Ok(receiver)
        });
        let message = self.message.clone();
        let sending = self.threads.spawn(async move {
            let begun = Instant::now();
            for burst in bursts(count) {
                for _ in 0..burst {
                    sender.send(message.clone()).await?;
                }
                acknowledged.recv().await.context("the receiver ended")?;
            }
            anyhow::Ok(begun.elapsed())
        });
        let took = sending.await??;
        Ok((receiving.await??, took))
    }
}

/// Both ways to send, so that all other code is the same.
enum Sender {
    Bus(Bus, Origin),
    Channel(mpsc::Sender<Message>),
}

enum Receiver {
    Bus(Inbox),
    Channel(mpsc::Receiver<Message>),
}

impl Sender {
    async fn send(&self, message: Message) -> Result<()> {
        match self {
            Self::Bus(bus, origin) => Ok(bus.post(origin, message)?),
            Self::Channel(channel) => channel.send(message).await.ok().context("the receiver ended"),
        }
    }
}

impl Receiver {
    async fn recv(&mut self) -> Option<Message> {
        match self {
            Self::Bus(inbox) => inbox.recv().await,
            Self::Channel(channel) => channel.recv().await,
        }
    }
}

fn bursts(count: u32) -> impl Iterator<Item = u32> {
    (0..count.div_ceil(BURST)).map(move |nth| (count - nth * BURST).min(BURST))
}

/// A native task behind the bus that does the same as the stub, without a sandbox.
pub(crate) struct Native {
    threads: Handle,
    bus: Bus,
    listener: Option<Inbox>,
    origin: Origin,
    to: Address,
    _routes: [Route; 2],
}

impl Native {
    pub(crate) fn new(threads: &Handle) -> Result<Self> {
        let bus = Bus::new(BusConfig::new(Domain::parse("home.example")?, Address::parse("runtime://home.example/1")?));
        let (from, to) = (Address::parse(FROM)?, Address::parse("hyperty://home.example/native")?);
        let (listener, mut inbox) = (bus.inbox(InboxLimits::default()), bus.inbox(InboxLimits::default()));
        let routes = [bus.attach(&from, &listener.mailbox())?, bus.attach(&to, &inbox.mailbox())?];
        threads.spawn({
            let (bus, origin) = (bus.clone(), Origin::Hyperty(to.clone()));
            async move {
                while let Some(mut message) = inbox.recv().await {
                    std::mem::swap(&mut message.from, &mut message.to);
                    if bus.post(&origin, message).is_err() {
                        return;
                    }
                }
            }
        });
        threads.spawn({
            let bus = bus.clone();
            async move { bus.run_deadlines().await }
        });
        Ok(Self { threads: threads.clone(), bus, listener: Some(listener), origin: Origin::Hyperty(from), to, _routes: routes })
    }

    /// Measures the time of `count` round trips, one after the other.
    pub(crate) async fn trips(&mut self, bytes: usize, count: u32) -> Result<Duration> {
        let (bus, origin) = (self.bus.clone(), self.origin.clone());
        let message = message(&Address::parse(FROM)?, &self.to, bytes);
        let mut listener = self.listener.take().context("the last run did not end")?;
        let running = self.threads.spawn(async move {
            let begun = Instant::now();
            for _ in 0..count {
                bus.post(&origin, message.clone())?;
                let back = listener.recv().await.context("the inbox closed before the last message")?;
                ensure!(back.from == message.to, "the reply is not an echo: {back:?}");
            }
            anyhow::Ok((listener, begun.elapsed()))
        });
        let (listener, took) = running.await??;
        self.listener = Some(listener);
        Ok(took)
    }
}
