//! Steady load on the well-behaved stubs: requests at fixed times, whether or not earlier ones were
//! answered.

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

/// Period of the requests to each stub.
const PERIOD: Duration = Duration::from_millis(25);

/// The requests to all stubs, until the load ends.
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
    /// Reason for which the first lost request was not answered.
    fault: Mutex<Option<String>>,
}

/// A request that a stub answered.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// Time at which the request was due.
    pub due: Instant,
    /// Time from `due` to the answer. It includes the delay of a late request.
    pub latency: Duration,
}

/// Outcomes of the requests.
#[derive(Debug)]
pub struct Sum {
    /// Number of requests.
    pub asked: u64,
    /// Number of requests that were not answered, or not with 200.
    pub lost: u64,
    /// Reason for which the first of the lost requests was not answered.
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
    /// Begins to send requests to each of a runtime's neighbours.
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

    /// Takes the answers since the last call.
    #[must_use]
    pub fn take(&self) -> Vec<Answer> {
        mem::take(&mut self.shared.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends the load after all requests have their outcomes.
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
            // The latency counts from the time at which the request was due: a late request makes a
            // late answer.
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
