//! A herd: many stubs that are deployed at once, next to a stub that a program uses.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::{join_all, try_join_all};
use protostub_runtime::{Address, Hyperty, MessageType, Protostub, Runtime};
use tokio::sync::oneshot;

use crate::{
    samples::Samples,
    workload::{BODIES, FROM, message},
};

/// Time between two requests to the neighbour.
const PERIOD: Duration = Duration::from_millis(1);
/// Number of requests before the herd.
const BEFORE: usize = 300;

/// Deploys these domains' stubs at once, and undeploys them. Returns the p90 of the requests to a
/// deployed stub, before and meanwhile, and the time until all stubs are live, in nanoseconds.
pub(crate) async fn run(runtime: &Runtime, neighbour: &str, domains: &[String]) -> Result<[f64; 3]> {
    let hyperty = runtime.register_hyperty(format!("{FROM}/herd")).await?;
    let to = Address::parse(&format!("hyperty://{neighbour}/alice"))?;
    let (hyperty, before) = requests(hyperty, to.clone(), |count| count == BEFORE).await?;

    let is_over = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&is_over);
    let meanwhile = requests(hyperty, to, move |_| ends.load(Ordering::Acquire));
    let begun = Instant::now();
    let deployed = try_join_all(domains.iter().map(|domain| runtime.deploy_protostub(domain))).await;
    let took = begun.elapsed();
    is_over.store(true, Ordering::Release);
    let (_, meanwhile) = meanwhile.await?;
    for undeployed in join_all(deployed?.iter().map(Protostub::undeploy)).await {
        undeployed?;
    }
    Ok([before.quantile(0.9), meanwhile.quantile(0.9), took.as_secs_f64() * 1e9])
}

/// Starts a thread of the program that sends a request each millisecond, until `is_over` for their
/// number. A request that is due while an earlier one waits counts from its due time.
fn requests(
    hyperty: Hyperty,
    to: Address,
    is_over: impl Fn(usize) -> bool + Send + 'static,
) -> impl Future<Output = Result<(Hyperty, Samples)>> {
    let (done, result) = oneshot::channel();
    let work = async move {
        let mut request = message(hyperty.address(), &to, BODIES[0].0);
        request.kind = MessageType::Read;
        let (mut took, mut due) = (Vec::new(), Instant::now());
        while !is_over(took.len()) {
            due += PERIOD;
            let is_late = Instant::now() > due;
            tokio::time::sleep_until(due.into()).await;
            let begun = if is_late { due } else { Instant::now() };
            let answer = hyperty.request(request.clone()).await?;
            ensure!(answer.from == request.to, "the answer has another sender: {answer:?}");
            took.push(begun.elapsed().as_secs_f64() * 1e9);
        }
        Ok((hyperty, took.into_iter().collect()))
    };
    let thread = std::thread::Builder::new().name("neighbour".to_owned()).spawn(move || {
        let threads = tokio::runtime::Builder::new_current_thread().enable_time().build();
        // The caller may have gone.
        let _ = done.send(threads.map_err(Into::into).and_then(|threads| threads.block_on(work)));
    });
    async move {
        thread.context("starting a thread")?;
        result.await.context("the measurement did not end")?
    }
}
