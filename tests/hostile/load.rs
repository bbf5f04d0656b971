//! Steady load on the well-behaved stubs: requests at fixed times, whatever became of those before.

use std::{
    mem,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use protostub_runtime::{Domain, Hyperty, Message, Runtime};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::Neighbours;

/// How often each stub is asked.
const PERIOD: Duration = Duration::from_millis(25);

/// The requests to all stubs, until they are ended.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    askers: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Shared {
    ended: AtomicBool,
    answers: Mutex<Vec<Answer>>,
    asked: AtomicU64,
    answered: AtomicU64,
    /// Why the first one was not answered.
    fault: Mutex<Option<String>>,
}

/// A request that a stub answered.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// When the request was due.
    pub due: Instant,
    /// The time from then to the answer. A request that was sent late is answered late.
    pub latency: Duration,
}

/// What became of the requests.
#[derive(Debug)]
pub struct Sum {
    /// How many were asked.
    pub asked: u64,
    /// How many were not answered, or not with 200.
    pub lost: u64,
    /// Why the first of these was not.
    pub fault: Option<String>,
    /// The answers since the last [`Load::take`].
    pub answers: Vec<Answer>,
}

impl Sum {
    /// Returns the latencies of the requests that were due in this range.
    /// A late answer counts for the time at which its request was due.
    #[must_use]
    pub fn latencies(&self, due: Range<Instant>) -> Vec<Duration> {
        self.answers.iter().filter(|answer| due.contains(&answer.due)).map(|answer| answer.latency).collect()
    }
}

impl Load {
    /// Begins to ask each of a runtime's neighbours.
    ///
    /// # Errors
    /// If there is load on the runtime already.
    pub async fn begin(runtime: &Runtime, neighbours: &Neighbours) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut askers = JoinSet::new();
        let stubs = neighbours.stubs();
        let begin = Instant::now();
        for (n, stub) in stubs.iter().enumerate() {
            let app = runtime.register_hyperty(format!("hyperty://home.example/app-{n}").as_str()).await?;
            let first = begin + PERIOD * u32::try_from(n)? / u32::try_from(stubs.len())?;
            askers.spawn(ask(Arc::new(app), stub.domain().clone(), first, Arc::clone(&shared)));
        }
        Ok(Self { shared, askers })
    }

    /// Takes the answers that came since the last call.
    #[must_use]
    pub fn take(&self) -> Vec<Answer> {
        mem::take(&mut self.shared.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends it, when all that was asked has its outcome.
    pub async fn end(mut self) -> Sum {
        self.shared.ended.store(true, Ordering::Relaxed);
        while self.askers.join_next().await.is_some() {}
        let (asked, answered) = (self.shared.asked.load(Ordering::Relaxed), self.shared.answered.load(Ordering::Relaxed));
        let fault = self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner).take();
        Sum { asked, lost: asked - answered, fault, answers: self.take() }
    }
}

async fn ask(app: Arc<Hyperty>, domain: Domain, mut at: Instant, shared: Arc<Shared>) {
    let to = format!("hyperty://{domain}/alice");
    let mut requests = JoinSet::new();
    while !shared.ended.load(Ordering::Relaxed) {
        sleep_until(at).await;
        while requests.try_join_next().is_some() {}
        let (app, shared, message) = (Arc::clone(&app), Arc::clone(&shared), Message::read(to.parse().unwrap()));
        shared.asked.fetch_add(1, Ordering::Relaxed);
        requests.spawn(async move {
            let outcome = app.request(message).await;
            // From when it was to be sent: whoever is late with that is late with the answer.
            let latency = at.elapsed();
            match outcome {
                Ok(answer) if answer.code() == Some(200) => {
                    shared.answered.fetch_add(1, Ordering::Relaxed);
                    shared.answers.lock().unwrap_or_else(PoisonError::into_inner).push(Answer { due: at, latency });
                }
                other => {
                    shared.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| format!("{other:?}"));
                }
            }
        });
        at += PERIOD;
    }
    while requests.join_next().await.is_some() {}
}
