//! Many hyperties that subscribe to one topic: the statuses of all stubs, of which there are none.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use protostub_runtime::{Address, Hyperty, HypertySender, Message, MessageType, Runtime};

use crate::live::{Everywhere, builder, inside};

/// A runtime with hyperties.
pub(crate) struct Subscribers {
    runtime: Runtime,
    topic: Address,
    senders: Arc<[HypertySender]>,
    _hyperties: Vec<Hyperty>,
}

impl Subscribers {
    pub(crate) async fn new(count: usize) -> Result<Self> {
        let runtime = builder(Everywhere::echo()?).build().await?;
        let mut hyperties = Vec::with_capacity(count);
        for nth in 0..count {
            hyperties.push(runtime.register_hyperty(format!("hyperty://home.example/{nth}")).await?);
        }
        let topic = runtime.url().join("status")?;
        let senders = hyperties.iter().map(Hyperty::sender).collect();
        Ok(Self { runtime, topic, senders, _hyperties: hyperties })
    }

    /// Measures the time in which all hyperties subscribe, one after the other. Then they
    /// unsubscribe.
    pub(crate) async fn subscribe(&self) -> Result<Duration> {
        let (topic, senders) = (self.topic.clone(), Arc::clone(&self.senders));
        inside(&self.runtime, async move {
            let ask = async |kind: MessageType| {
                let begun = Instant::now();
                for sender in senders.iter() {
                    let mut message = Message::subscribe(topic.clone());
                    message.kind = kind.clone();
                    let response = sender.request(message).await?;
                    ensure!(response.code() == Some(200), "the Registry answers {response:?}");
                }
                anyhow::Ok(begun.elapsed())
            };
            let took = ask(MessageType::Subscribe).await?;
            ask(MessageType::Unsubscribe).await?;
            Ok(took)
        })
        .await
    }
}
