//! Time, which the test controls.

use std::time::Duration;

use protostub_sdk::{
    Error, Ignored, Result, Stub, join, log,
    testing::Host,
    time::{self, Backoff},
};
use serde_json::json;

#[test]
fn sleeps_end_in_their_order() {
    async fn sleep(_: Stub, _: Ignored) -> Result<()> {
        let one = |name, seconds| async move {
            time::sleep(Duration::from_secs(seconds)).await;
            log::info!("{name} at {:?}", time::now());
        };
        join!(one("c", 3), one("a", 1), one("b", 2));
        let late = time::timeout(Duration::from_secs(1), std::future::pending::<()>()).await;
        log::info!("{late:?}");
        // This is longer than one timer of the host.
        time::sleep(Duration::from_secs(100_000)).await;
        Err(Error::failed("done"))
    }
    let host = Host::new();
    host.start(sleep, json!({})).unwrap();
    host.connect();
    assert_eq!(host.timers(), 3);
    host.advance(Duration::from_secs(4));
    assert_eq!(host.log(), ["INFO a at 1s", "INFO b at 2s", "INFO c at 3s", "INFO Err(Timeout)"]);
    host.advance(Duration::from_secs(99_999));
    assert_eq!(host.timers(), 1);
    host.advance(Duration::from_secs(1));
    assert_eq!((host.statuses().last().unwrap().as_str(), host.timers()), ("failed: done", 0));
}

#[test]
fn interval_skips_missed_ticks() {
    async fn tick(_: Stub, _: Ignored) -> Result<()> {
        let mut interval = time::interval(Duration::from_secs(10));
        loop {
            interval.tick().await;
            log::info!("{:?}", time::now());
            if time::now() == Duration::from_secs(20) {
                time::sleep(Duration::from_secs(25)).await;
            }
        }
    }
    let host = Host::new();
    host.start(tick, json!({})).unwrap();
    host.connect();
    host.advance(Duration::from_secs(60));
    assert_eq!(host.log(), ["INFO 10s", "INFO 20s", "INFO 50s", "INFO 60s"]);
}

#[test]
fn delays_grow_up_to_a_limit() {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
    for least in [1, 2, 4, 5, 5, 5] {
        let (delay, least) = (backoff.next_delay(), Duration::from_secs(least));
        assert!((least..=2 * least).contains(&delay), "{delay:?}, at least {least:?}");
    }
}
