//! One websocket connection, through the stub and through a native gateway.

use anyhow::Result;

use super::{Bench, tell};
use crate::{
    gateway::Gateways,
    report::Side,
    samples::{Samples, each},
};

const GATEWAYS: [(&str, usize, &str); 2] = [("gateway_100b", 100, "100 B"), ("gateway_4k", 4 << 10, "4 KiB")];

pub(super) async fn run(bench: &mut Bench) -> Result<()> {
    for (id, bytes, name) in GATEWAYS {
        if !bench.wants(id) {
            continue;
        }
        tell(&format!("a websocket gateway with {name}"));
        let gateways = Gateways::new(bytes).await?;
        let count = if bench.effort.turn.is_zero() { 4 } else { 1_000 };
        gateways.stub(count).await?;
        gateways.native(count).await?;
        let (mut stub, mut native) = (Samples::default(), Samples::default());
        for _ in 0..bench.effort.rounds {
            stub.push(1e9 / each(gateways.stub(count).await?, count));
            native.push(1e9 / each(gateways.native(count).await?, count));
        }
        let sides = vec![Side::new("through the stub", "messages/s", &stub), Side::new("native gateway", "messages/s", &native)];
        bench.report.add(id, &stub.over(&native), sides);
    }
    Ok(())
}
