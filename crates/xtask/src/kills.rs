use std::{
    path::Path,
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{cargo, debian, must, shown, torture};

pub(crate) const HELP: &str = "\
usage: cargo xtask kills [--quick] [--seed <number>]
       cargo xtask kills --outages

Clients send numbered messages all the time: through the control socket of a `protostub run` to a message node and to an MQTT broker, and from another
runtime to hyperties of the first one. SIGKILL ends the runtime 50 times at random times, also during its start. It starts again on the same cache.
Then SIGKILL ends the broker (Mosquitto) and the message node (`protostub serve`) 20 times each. The command counts each message at both ends. The
last line is `N kills, N messages, N without an outcome, N answered twice, N faults`. A fault is one of these:

  a message has no outcome for its sender: an answer, an error, or a closed connection
  a message is answered twice, or arrives twice (except at the broker, which gets each publication at least once)
  a message is answered, and never arrived
  a message ends with an error or a closed connection, although nothing was killed
  the runtime accepts an older version of a stub than before
  a process panics, or leaves partial files behind

The command also fails if the runtime does not answer again on its cache. It takes some minutes, and needs Debian's mosquitto.

  --quick          kills the runtime 4 times, and each server twice
  --seed <number>  repeats the random times of an earlier run, which printed the seed
  --outages        takes the servers away for 20, 50 and 90 s instead, with 0, 1 and 100 waiting requests and 60 unsent messages each: none is lost
                   without an error, and the first answer comes within 5 s of the return
";

/// The test of the outages. The other tests leave it out, because it takes minutes.
const OUTAGES: &str = "outage::outages_of_20_50_and_90_seconds_lose_nothing";

pub(crate) fn run(root: &Path, args: &[&str]) -> Result<ExitCode> {
    debian::packages(debian::MOSQUITTO)?;
    if args == ["--outages"] {
        return outages(root);
    }
    // The example starts the command, which cargo does not build for it.
    must(cargo(root).args(["build", "--quiet", "--bin", "protostub", "--example", "kills"]))?;
    torture::example(root, "kills", &[], args)
}

/// Runs the test, and prints its line.
fn outages(root: &Path) -> Result<ExitCode> {
    let mut command = cargo(root);
    command.args(["test", "--quiet", "--workspace", "--test", "it", "--", "--ignored", "--exact", OUTAGES, "--nocapture"]);
    command.stderr(Stdio::inherit());
    let output = command.output().with_context(|| format!("starting {}", shown(&command)))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        print!("{text}");
        return Ok(ExitCode::FAILURE);
    }
    let Some(line) = text.lines().find(|line| line.contains(" outages, ")) else {
        bail!("the test {OUTAGES} is missing; run: cargo test --workspace --test it -- --ignored")
    };
    println!("{line}");
    Ok(ExitCode::SUCCESS)
}
