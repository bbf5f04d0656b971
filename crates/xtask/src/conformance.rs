//! Runs the conformance kit over everything that is here, by the built command: nothing of what it tests is linked.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::{cargo, debian, guests, new_user, patience, stubs};

pub(crate) const HELP: &str = "\
usage: cargo xtask conformance

Builds the sample stubs and the `protostub` command, and tries out, case by case,

  the message node of `protostub serve`, and the runtime
  the stubs echo and message-node (in both flavours), and mqtt with a real Mosquitto, if Debian's package is there
  the echoes in Python, JavaScript and C, built as their READMEs say, if Python, Node.js or Debian's packages of clang are there

The reports are written to target/conformance/report.json. What fails is shown; `protostub conformance --list` says what each case holds, and
stubs/README.md what to do about it. What is left out is named, with the reason. The last line is `N passed, N failed, N skipped`: of cases, where a
case counts once for each subject, and is skipped if it says nothing about it.
";

/// How long a server may take to listen.
const LISTENING: Duration = Duration::from_secs(30);
/// How long cargo may take to compile everything.
const BUILDING: Duration = Duration::from_secs(60 * 60);
/// How long the kit may take for one subject, the compilation of a large component included.
const SUBJECT: Duration = Duration::from_secs(5 * 60);
/// The stubs whose READMEs say how they are built, with other toolchains than Rust's.
const ECHOES: [&str; 3] = ["echo-python", "echo-js", "echo-c"];

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
    let programs = guests::build(root, "tests/programs")?;
    let actor = programs.iter().find(|program| program.name == "actor").context("there is no program `actor`")?;
    let mut build = cargo(root);
    let built = build.args(["build", "--quiet", "--bins", "--examples"]).spawn().context("starting cargo")?;
    if !patience::wait(built, BUILDING).context("building the `protostub` command")?.success() {
        bail!("the `protostub` command could not be built");
    }
    let (mut left_out, mut reports) = (Vec::new(), Vec::new());
    let broker = Broker::start()?;
    let domain = Domain::serve(root)?;
    let mut runs = vec![
        Run::new("the message node of `protostub serve`", &["--message-node", &format!("ws://{}/ws", domain.address)]),
        Run::new("the runtime", &["--runtime", &actor.component.to_string_lossy()]),
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
        None => left_out.push("the stub mqtt: without Mosquitto there is no broker".to_owned()),
    }
    for name in ECHOES {
        println!("\nBuilding {name} as stubs/{name}/README.md says.");
        match new_user::build_as_told(root, name) {
            Ok(new_user::Outcome::Followed) => runs.push(Run::new(name, &[&format!("target/stubs/{name}.wasm")])),
            Ok(new_user::Outcome::Skipped(why)) => left_out.push(format!("the stub {name}: {why}")),
            Err(error) => reports.push(untried(name, &error)),
        }
    }
    println!("\nTrying out {} subjects, each for a minute or less.", runs.len());
    reports.extend(runs.iter().map(|run| try_out(root, run).unwrap_or_else(|error| untried(&run.name, &error))));
    let count = |what: &str| reports.iter().filter_map(|report| report[what].as_u64()).sum();
    let cases = Cases { passed: count("passed"), failed: count("failed"), skipped: count("skipped") };
    let folder = root.join("target/conformance");
    fs::create_dir_all(&folder).context("making target/conformance")?;
    let all = json!({
        "passed": cases.passed, "failed": cases.failed, "skipped": cases.skipped, "leftOut": left_out, "reports": reports,
    });
    fs::write(folder.join("report.json"), serde_json::to_string_pretty(&all)? + "\n").context("writing the report")?;
    for what in &left_out {
        println!("Left out: {what}");
    }
    println!("The reports are in target/conformance/report.json.");
    Ok(cases)
}

/// The report about what could not be tried at all, which counts as a case that failed.
fn untried(name: &str, error: &anyhow::Error) -> Value {
    println!("  FAILED {name} could not be tried out: {error:#}");
    json!({ "subject": name, "error": format!("{error:#}"), "passed": 0, "failed": 1, "skipped": 0, "outcomes": [] })
}

/// Runs the command once, and shows what it found.
fn try_out(root: &Path, run: &Run) -> Result<Value> {
    let mut command = Command::new(root.join("target/debug/protostub"));
    command.current_dir(root).args(["--json", "--quiet", "conformance"]).args(&run.args).stdin(Stdio::null());
    let began = Instant::now();
    let (status, printed) = patience::output(&mut command, SUBJECT)?;
    let mut report: Value = serde_json::from_slice(&printed).with_context(|| format!("it printed no report ({status})"))?;
    report["subject"] = run.name.clone().into();
    println!(
        "  {}, {}: {} passed, {} failed, {} skipped ({:.0} s)",
        report["suite"].as_str().unwrap_or_default(),
        run.name,
        report["passed"],
        report["failed"],
        report["skipped"],
        began.elapsed().as_secs_f64(),
    );
    for outcome in report["outcomes"].as_array().into_iter().flatten().filter(|outcome| outcome["verdict"] == "fail") {
        let text = |name: &str| outcome[name].as_str().unwrap_or_default().to_owned();
        println!(
            "    FAILED {}\n      holds     {}\n      source    {}\n      expected  {}\n      observed  {}",
            text("id"),
            text("holds"),
            text("source"),
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
        let line = patience::first_line(&domain.child, stdout, LISTENING).context("starting `protostub serve`")?;
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
            if begin.elapsed() > LISTENING {
                bail!("mosquitto does not listen after {} s", LISTENING.as_secs());
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
