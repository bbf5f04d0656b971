//! Runs the conformance kit over everything that is here, by the built command: nothing of what it tests is linked.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::{cargo, debian, guests, must, stubs};

pub(crate) const HELP: &str = "\
usage: cargo xtask conformance

Builds the sample stubs and the `protostub` command, and tries out, case by case,

  the stubs echo and message-node (in both flavours), and mqtt with a real Mosquitto, if Debian's package is there
  the message node of `protostub serve`, and the runtime
  the stubs in Python and JavaScript, if somebody has built them: target/stubs/echo-python.wasm, echo-js.wasm

The reports are written to target/conformance/report.json. What fails is shown; `protostub conformance --list` says what each case holds. The last line
is `N passed, N failed, N skipped`.
";

/// How long a broker may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many cases passed, failed, and did not apply.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cases {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    skipped: u64,
}

pub(crate) fn run(root: &Path) -> Result<ExitCode> {
    let Cases { passed, failed, skipped } = run_all(root)?;
    println!("\n{passed} passed, {failed} failed, {skipped} skipped");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One run of the command.
struct Run {
    /// What it is about.
    name: String,
    args: Vec<String>,
}

impl Run {
    fn new(name: &str, args: &[&str]) -> Self {
        Self { name: name.to_owned(), args: args.iter().map(|arg| (*arg).to_owned()).collect() }
    }
}

/// Tries everything, and writes the report.
pub(crate) fn run_all(root: &Path) -> Result<Cases> {
    stubs::catalogue(root)?;
    guests::build(root, "tests/programs")?;
    must(cargo(root).args(["build", "--quiet", "--bins", "--examples"]))?;
    let broker = Broker::start()?;
    let domain = Domain::serve(root)?;
    let mut runs = vec![
        Run::new("the message node of `protostub serve`", &["--message-node", &format!("ws://{}/ws", domain.address)]),
        Run::new("the runtime", &["--runtime", "target/stubs/wasm32-wasip2/release/actor.wasm"]),
        Run::new("echo", &["target/catalogue/echo/component.wasm"]),
        Run::new("message-node", &["target/catalogue/message-node/component.wasm"]),
        Run::new(
            "message-node, NoMatrix",
            &[
                "target/catalogue/message-node/component.wasm",
                "--configuration",
                r#"{"url":"${nomatrix-url}","flavour":"nomatrix"}"#,
            ],
        ),
    ];
    match &broker {
        Some(broker) => runs.push(Run::new(
            "mqtt",
            &[
                "target/catalogue/mqtt/component.wasm",
                "--configuration",
                r#"{"url":"mqtt://${authority}"}"#,
                "--server",
                &format!("127.0.0.1:{}", broker.port),
                "--request",
                r#"{"type":"create","to":"mqtt://${domain}/conformance"}"#,
            ],
        )),
        None => println!("Without mosquitto there is no broker: the stub mqtt is left out."),
    }
    for name in ["echo-python", "echo-js"] {
        let component = format!("target/stubs/{name}.wasm");
        if root.join(&component).is_file() {
            runs.push(Run::new(name, &[&component]));
        } else {
            println!("The stub {name} is not built, and left out: see stubs/{name}/README.md.");
        }
    }
    let reports = runs.iter().map(|run| try_out(root, run).with_context(|| format!("trying out {}", run.name)));
    let reports = reports.collect::<Result<Vec<_>>>()?;
    let count = |what: &str| reports.iter().filter_map(|report| report[what].as_u64()).sum();
    let cases = Cases { passed: count("passed"), failed: count("failed"), skipped: count("skipped") };
    let folder = root.join("target/conformance");
    fs::create_dir_all(&folder).context("making target/conformance")?;
    let all = json!({ "passed": cases.passed, "failed": cases.failed, "skipped": cases.skipped, "reports": reports });
    fs::write(folder.join("report.json"), serde_json::to_string_pretty(&all)? + "\n").context("writing the report")?;
    println!("The reports are in target/conformance/report.json.");
    Ok(cases)
}

/// Runs the command once, and shows what it found.
fn try_out(root: &Path, run: &Run) -> Result<Value> {
    let mut command = Command::new(root.join("target/debug/protostub"));
    command.current_dir(root).args(["--json", "--quiet", "conformance"]).args(&run.args).stderr(Stdio::inherit());
    let output = command.output().context("starting target/debug/protostub")?;
    let mut report: Value = serde_json::from_slice(&output.stdout).context("it printed no report")?;
    report["subject"] = run.name.clone().into();
    println!(
        "  {}, {}: {} passed, {} failed, {} skipped",
        report["suite"].as_str().unwrap_or_default(),
        run.name,
        report["passed"],
        report["failed"],
        report["skipped"]
    );
    for outcome in report["outcomes"].as_array().into_iter().flatten().filter(|outcome| outcome["verdict"] == "fail") {
        let text = |name: &str| outcome[name].as_str().unwrap_or_default().to_owned();
        println!(
            "    FAILED {}\n      holds     {}\n      expected  {}\n      observed  {}",
            text("id"),
            text("holds"),
            text("expected"),
            text("observed")
        );
    }
    Ok(report)
}

/// A `protostub serve` on a free port of loopback. Dropped, it is killed.
struct Domain {
    child: Child,
    address: String,
}

impl Domain {
    fn serve(root: &Path) -> Result<Self> {
        let mut command = Command::new(root.join("target/debug/protostub"));
        command.args(["serve", "--bind", "127.0.0.1:0", "--json"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().context("starting `protostub serve`")?;
        let stdout = child.stdout.take().context("`protostub serve` has no output")?;
        let mut domain = Self { child, address: String::new() };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let serving: Value = serde_json::from_str(&line).context("`protostub serve` does not say where it serves")?;
        serving["address"].as_str().context("`protostub serve` does not say where it serves")?.clone_into(&mut domain.address);
        Ok(domain)
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Mosquitto on a free port of loopback. Dropped, it is killed.
struct Broker {
    child: Child,
    port: u16,
    config: PathBuf,
}

impl Broker {
    /// None, if there is no Mosquitto and it cannot be installed.
    fn start() -> Result<Option<Self>> {
        if let Err(error) = debian::packages(debian::MOSQUITTO) {
            println!("{error:#}");
            return Ok(None);
        }
        let listener = TcpListener::bind("127.0.0.1:0").context("looking for a free port")?;
        let port = listener.local_addr()?.port();
        drop(listener);
        let config = std::env::temp_dir().join(format!("protostub-conformance-{}.conf", std::process::id()));
        fs::write(&config, format!("listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n"))?;
        let sbin = Path::new("/usr/sbin/mosquitto");
        let mut command = Command::new(if sbin.is_file() { sbin } else { Path::new("mosquitto") });
        command.arg("-c").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().context("starting mosquitto")?;
        let mut broker = Self { child, port, config };
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = broker.child.try_wait()? {
                bail!("mosquitto ended before it listened ({status})");
            }
            if begin.elapsed() > PATIENCE {
                bail!("mosquitto does not listen");
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(Some(broker))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.config);
    }
}
