//! The load: clients outside of the runtime that send numbered messages all the time.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use protostub_runtime::{HypertyDescriptor, Message, Runtime};
use protostub_test_support::{body, builder};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    control::{Closed, Control},
    ledger::{Lane, Ledger, Outcome},
};

/// Number of clients of each lane. The control socket has places for 32.
const CLIENTS: usize = 6;
/// Period of each client's messages, if the last one has its outcome.
const PERIOD: Duration = Duration::from_millis(25);
/// Timeout of each request.
const REQUEST: Duration = Duration::from_secs(10);
/// Time limit for the outcome of a request that has a timeout.
const OUTCOME: Duration = Duration::from_secs(60);

/// The process of the runtime: the first, the second, and so on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) number: u32,
    /// `true` from the start of the runtime until just before its kill.
    pub(crate) is_up: bool,
}

/// Addresses of the parties.
#[derive(Debug)]
pub(crate) struct Addresses {
    pub(crate) socket: PathBuf,
    /// The domain of the message node.
    pub(crate) node: String,
    /// The domain of the broker.
    pub(crate) broker: String,
    /// The domain that publishes one version after the other.
    pub(crate) releases: String,
}

impl Addresses {
    /// Returns the address of the hyperty in this process. The message node keeps the addresses of
    /// a killed process for minutes.
    pub(crate) fn alice(&self, life: u32) -> String {
        format!("hyperty://{}/alice-{life}", self.node)
    }

    fn bob(&self) -> String {
        format!("hyperty://{}/bob", self.node)
    }

    /// Returns the receiver of a message, and its type.
    fn receiver(&self, lane: Lane, number: usize) -> (String, &'static str) {
        match lane {
            Lane::ToBroker => (format!("mqtt://{}/orders/{number}", self.broker), "create"),
            Lane::ToNode | Lane::FromNode => (self.bob(), "read"),
        }
    }
}

/// The parts that all clients share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) addresses: Arc<Addresses>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) life: watch::Receiver<Life>,
    pub(crate) stop: CancellationToken,
}

impl Shared {
    /// Waits until the runtime is up, and returns a connection to its control socket. Returns
    /// `None` at the end.
    pub(crate) async fn connect(&self) -> Option<(Life, Control)> {
        let mut life = self.life.clone();
        loop {
            let seen = tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                seen = life.wait_for(|life| life.is_up) => *seen.ok()?,
            };
            match Control::connect(&self.addresses.socket).await {
                Ok(control) => return Some((seen, control)),
                Err(Closed) if *life.borrow() == seen => {
                    self.ledger.fault("the control socket of a running runtime refused a client".to_owned());
                    return None;
                }
                Err(Closed) => {}
            }
        }
    }
}

/// The running clients.
pub(crate) struct Load {
    tasks: JoinSet<()>,
    /// The runtime elsewhere.
    elsewhere: Runtime,
}

impl Load {
    pub(crate) async fn begin(shared: &Shared) -> Result<Self> {
        let elsewhere = builder().home_domain(shared.addresses.node.as_str()).build().await?;
        let mut bob = elsewhere.register_hyperty_with(shared.addresses.bob(), HypertyDescriptor::default()).await?;
        let mut tasks = JoinSet::new();
        for _ in 0..CLIENTS {
            for lane in [Lane::ToNode, Lane::ToBroker] {
                tasks.spawn(ask(shared.clone(), lane));
            }
            let (shared, sender) = (shared.clone(), bob.sender());
            tasks.spawn(async move {
                let mut life = shared.life.clone();
                let mut clock = clock();
                loop {
                    let seen = tokio::select! {
                        biased;
                        () = shared.stop.cancelled() => return,
                        seen = life.wait_for(|life| life.is_up) => seen.map_or(0, |life| life.number),
                    };
                    clock.tick().await;
                    let number = shared.ledger.send(Lane::FromNode);
                    let to = shared.addresses.alice(seen).parse().expect("an address");
                    let question = Message::read(to).with_body(json!({ "n": number }));
                    let outcome = match timeout(OUTCOME, sender.request_within(question, REQUEST)).await {
                        Ok(Ok(answer)) if answer.code() == Some(200) => Outcome::Answered,
                        Ok(Ok(answer)) => Outcome::Refused(answer.code().unwrap_or_default()),
                        Ok(Err(error)) => Outcome::Refused(error.code),
                        Err(_) => continue,
                    };
                    shared.ledger.end(number, outcome);
                }
            });
        }
        let shared = shared.clone();
        tokio::spawn(async move {
            while let Some(message) = bob.recv().await {
                if !message.expects_response() {
                    continue;
                }
                let number = body(&message)["n"].as_u64().unwrap_or(u64::MAX);
                shared.ledger.arrived(usize::try_from(number).unwrap_or(usize::MAX));
                // Without a place for the answer, the sender gets 408.
                let _ = bob.post(message.response(200, Some(json!(number))));
            }
        });
        Ok(Self { tasks, elsewhere })
    }

    /// Waits until each client has its last outcome. Returns the number of answers that the runtime
    /// elsewhere got for requests that had their outcome.
    pub(crate) async fn end(mut self) -> Result<u64> {
        while let Some(ended) = timeout(2 * OUTCOME, self.tasks.join_next()).await.context("a client does not stop")? {
            ended?;
        }
        let unawaited = self.elsewhere.counts().unawaited;
        self.elsewhere.shutdown(REQUEST).await;
        Ok(unawaited)
    }
}

/// Sends requests through the control socket, one after the other, over one connection for each
/// process.
async fn ask(shared: Shared, lane: Lane) {
    let mut clock = clock();
    while let Some((_, mut control)) = shared.connect().await {
        loop {
            tokio::select! {
                biased;
                () = shared.stop.cancelled() => {
                    if let Err(error) = control.end().await {
                        shared.ledger.wrong_answer(0, &error.to_string());
                    }
                    return;
                }
                _ = clock.tick() => {}
            }
            let number = shared.ledger.send(lane);
            let (to, kind) = shared.addresses.receiver(lane, number);
            let request =
                json!({ "command": "send", "to": to, "type": kind, "body": { "n": number }, "timeout": REQUEST.as_secs() });
            match control.ask(&request).await {
                Some(Ok(answer)) => judge(&shared.ledger, lane, number, &to, &answer),
                Some(Err(Closed)) => {
                    shared.ledger.end(number, Outcome::Closed);
                    break;
                }
                // The report counts the message as one without an outcome.
                None => break,
            }
        }
    }
}

fn judge(ledger: &Ledger, lane: Lane, number: usize, to: &str, answer: &Value) {
    let code = |value: &Value| value.as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or_default();
    let reply = &answer["result"]["reply"];
    let outcome = match code(&reply["body"]["code"]) {
        _ if answer.get("error").is_some() => Outcome::Refused(code(&answer["code"])),
        200 => Outcome::Answered,
        code => Outcome::Refused(code),
    };
    let is_own = reply.is_null() || reply["from"] == to;
    let has_own_number = outcome != Outcome::Answered || lane != Lane::ToNode || reply["body"]["value"] == json!(number);
    if !is_own || !has_own_number {
        ledger.wrong_answer(number, &answer.to_string());
    }
    ledger.end(number, outcome);
}

fn clock() -> tokio::time::Interval {
    let mut clock = interval(PERIOD);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    clock
}
