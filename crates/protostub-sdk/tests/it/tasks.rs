//! Tasks of the stub's own: [`protostub_sdk::spawn`].

use std::{future::pending, time::Duration};

use protostub_sdk::{
    DisconnectReason, Error, Ignored, Result, Stub, keep_connected, log, select, spawn, testing::Host, time, websocket,
};
use serde_json::json;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn task_runs_next_to_main_and_returns_its_output() {
    async fn main_function(_: Stub, _: Ignored) -> Result<()> {
        let mut slow = spawn(async {
            time::sleep(3 * SECOND).await;
            "slow"
        });
        let quick = spawn(async { "quick" });
        log::info!("{}", quick.await?);
        // The task loses a race, which has no effect on the task.
        let mut short = time::sleep(SECOND);
        select! {
            output = &mut slow => log::info!("too soon: {output:?}"),
            () = short => log::info!("not yet"),
        }
        log::info!("{} at {:?}", slow.await?, time::now());
        Ok(())
    }
    let host = Host::new();
    host.start_main(main_function, json!({})).unwrap();
    host.connect();
    host.advance(5 * SECOND);
    assert_eq!(host.log()[..3], ["INFO quick", "INFO not yet", "INFO slow at 3s"]);
}

#[test]
fn task_outlives_its_connection_and_its_handle() {
    async fn main_function(stub: Stub, _: Ignored) -> Result<()> {
        drop(spawn(async {
            let mut interval = time::interval(10 * SECOND);
            loop {
                interval.tick().await;
                log::info!("tick");
            }
        }));
        keep_connected(stub, run).await
    }
    async fn run(stub: Stub, _: Ignored) -> Result<()> {
        stub.live();
        stub.next_message().await.map(drop)
    }
    let host = Host::new();
    host.start_main(main_function, json!({})).unwrap();
    host.connect();
    host.advance(10 * SECOND);
    host.disconnect(DisconnectReason::Request);
    host.advance(10 * SECOND);
    assert_eq!(host.statuses(), ["created", "in-progress", "live", "disconnected"]);
    assert_eq!(host.log(), ["INFO tick", "INFO tick"]);
}

#[test]
fn aborted_task_drops_its_values() {
    async fn main_function(_: Stub, _: Ignored) -> Result<()> {
        let holds = spawn(async {
            let _socket = websocket::connect("wss://sp1.example/").await;
            pending::<()>().await;
        });
        time::sleep(SECOND).await;
        holds.abort();
        assert_eq!(holds.await, Err(Error::Closed));
        log::info!("aborted");
        Ok(())
    }
    let host = Host::new();
    host.start_main(main_function, json!({})).unwrap();
    host.connect();
    let server = host.websocket();
    server.accept();
    assert!(server.closed_by_stub().is_none());
    host.advance(SECOND);
    assert_eq!((server.closed_by_stub().is_some(), host.connections()), (true, 0));
    assert_eq!(host.log()[0], "INFO aborted");
}

#[test]
fn task_outside_of_the_stubs_life_does_not_start() {
    let host = Host::new();
    drop(spawn(async { log::info!("never") }));
    host.start_main(|_: Stub, _: Ignored| async { Ok(()) }, json!({})).unwrap();
    host.connect();
    assert!(!host.log().iter().any(|line| line.contains("never")));
}
