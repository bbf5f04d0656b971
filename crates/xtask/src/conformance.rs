//! Runs the conformance kit on all subjects of the repository with the built command. It links
//! nothing that it tests.

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

Builds the sample stubs and the `protostub` command, and runs the conformance cases for

  the message node of `protostub serve`, and the runtime
  the stubs echo and message-node (in both flavours), and mqtt with a real Mosquitto, if Debian's package is installed
  the echoes in Python, JavaScript and C, built as their READMEs say, if Python, Node.js or Debian's packages of clang are installed

Writes the reports to target/conformance/report.json, and shows failed cases. `protostub conformance --list` says what each case holds, and
stubs/README.md what to do about it. Subjects that are left out are named with the reason. The last line is `N passed, N failed, N skipped`. It
counts a case once for each subject. A case is skipped if it does not apply to the subject.
";

/// Time limit for a server to start listening.
const LISTENING: Duration = Duration::from_secs(30);
/// Time limit for cargo to compile everything.
const BUILDING: Duration = Duration::from_secs(60 * 60);
/// Time limit of the kit for one subject, including the compilation of a large component.
const SUBJECT: Duration = Duration::from_secs(5 * 60);
/// The stubs that are built with other toolchains than Rust's, as their READMEs say.
const ECHOES: [&str; 3] = ["echo-python", "echo-js", "echo-c"];

/// Numbers of cases that passed, failed, and did not apply.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cases {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    skipped: u64,
    /// The subjects that were not tested, with the reasons.
    pub(crate) left_out: Vec<String>,
}

pub(crate) fn run(root: &Path) -> Result<ExitCode> {
    let Cases { passed, failed, skipped, .. } = run_all(root)?;
    println!("\n{passed} passed, {failed} failed, {skipped} skipped");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One run of the command.
struct Run {
    /// Name of the subject.
    name: String,
    args: Vec<String>,
}

impl Run {
    fn new(name: &str, args: &[&str]) -> Self {
        Self { name: name.to_owned(), args: args.iter().map(|arg| (*arg).to_owned()).collect() }
    }
}

/// Runs the kit on all subjects, and writes the report.
pub(crate) fn run_all(root: &Path) -> Result<Cases> {
    stubs::catalogue(root)?;
    let programs = guests::build(root, "tests/programs")?;
    let actor = programs.iter().find(|program| program.name == "actor").context("there is no program `actor`")?;
    let mut build = cargo(root);
    let built = build.args(["build", "--quiet", "--bins", "--examples"]).spawn().context("starting cargo")?;
    if !patience::wait(built, BUILDING).context("building the `protostub` command")?.success() {
        bail!("building the `protostub` command failed; cargo's output above has the reason");
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
    println!("\nTesting {} subjects. Each takes a minute or less.", runs.len());
    reports.extend(runs.iter().map(|run| try_out(root, run).unwrap_or_else(|error| untried(&run.name, &error))));
    let count = |what: &str| reports.iter().filter_map(|report| report[what].as_u64()).sum();
    let cases = Cases { passed: count("passed"), failed: count("failed"), skipped: count("skipped"), left_out };
    let folder = root.join("target/conformance");
    fs::create_dir_all(&folder).context("making target/conformance")?;
    let all = json!({
        "passed": cases.passed, "failed": cases.failed, "skipped": cases.skipped, "leftOut": cases.left_out, "reports": reports,
    });
    fs::write(folder.join("report.json"), serde_json::to_string_pretty(&all)? + "\n").context("writing the report")?;
    for what in &cases.left_out {
        println!("Left out: {what}");
    }
    println!("The reports are in target/conformance/report.json.");
    Ok(cases)
}

/// Returns the report about a subject that could not be tested. It counts as a failed case.
fn untried(name: &str, error: &anyhow::Error) -> Value {
    println!("  FAILED {name} could not be tested: {error:#}");
    json!({ "subject": name, "error": format!("{error:#}"), "passed": 0, "failed": 1, "skipped": 0, "outcomes": [] })
}

/// Runs the command once, and shows the results.
fn try_out(root: &Path, run: &Run) -> Result<Value> {
    let mut command = Command::new(root.join("target/debug/protostub"));
    command.current_dir(root).args(["--json", "--quiet", "conformance"]).args(&run.args).stdin(Stdio::null());
    let began = Instant::now();
    let (status, printed) = patience::output(&mut command, SUBJECT)?;
    let mut report: Value =
        serde_json::from_slice(&printed).with_context(|| format!("the conformance kit printed no report ({status})"))?;
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

/// A `protostub serve` on a free port of loopback. `Drop` kills it.
struct Domain {
    child: Child,
    address: String,
}

impl Domain {
    fn serve(root: &Path) -> Result<Self> {
        let mut command = Command::new(root.join("target/debug/protostub"));
        command.args(["serve", "--bind", "127.0.0.1:0", "--json"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().context("starting `protostub serve`")?;
        let stdout = child.stdout.take().context("`protostub serve` has no standard output")?;
        let mut domain = Self { child, address: String::new() };
        let line = patience::first_line(&domain.child, stdout, LISTENING).context("starting `protostub serve`")?;
        let serving: Value = serde_json::from_str(&line).context("`protostub serve` printed no address")?;
        serving["address"].as_str().context("`protostub serve` printed no address")?.clone_into(&mut domain.address);
        Ok(domain)
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Mosquitto on a free port of loopback. `Drop` kills it.
struct Broker {
    child: Child,
    port: u16,
    config: PathBuf,
}

impl Broker {
    /// Returns `None` if Mosquitto is missing and cannot be installed.
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
                bail!("mosquitto exited before it listened ({status})");
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
