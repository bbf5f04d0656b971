//! The command as a static program, alone in a root folder.

use std::{
    env::consts::ARCH,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{cargo, debian, must, patience, shown, stubs, toolchain};

const TARGET: &str = "x86_64-unknown-linux-musl";
/// Build folder, from the repository's root. The first build takes ten minutes or more.
const TARGET_DIR: &str = "target/musl";
/// Time limit of each command in the root folder.
const PATIENCE: Duration = Duration::from_secs(2 * 60);

/// Returns the reason why the static program cannot be built and run here.
pub(crate) fn obstacle() -> Option<String> {
    if ARCH != "x86_64" {
        return Some(format!("this machine's processor is {ARCH}, and not x86_64"));
    }
    if !fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0) {
        return Some("`chroot` needs root's rights; run the stage as root".to_owned());
    }
    let prepared = toolchain::require_target(TARGET).and_then(|()| debian::packages(debian::MUSL));
    prepared.err().map(|error| format!("{error:#}"))
}

/// Returns `true` if a build exists, so that the next one is short.
pub(crate) fn is_built(root: &Path) -> bool {
    program(root).is_file()
}

fn program(root: &Path) -> PathBuf {
    root.join(TARGET_DIR).join(TARGET).join("debug/protostub")
}

/// Builds the command, and runs `serve`, `deploy` and the conformance of the echo in a root folder
/// with nothing but the command, the sample stubs and `/proc`. Returns the number of passed checks.
pub(crate) fn check(root: &Path) -> Result<u64> {
    stubs::catalogue(root)?;
    // Without debugging information, which takes most of the disk and of the time to link.
    must(
        cargo(root)
            .args(["build", "--package", "protostub-cli", "--bin", "protostub", "--target", TARGET, "--target-dir", TARGET_DIR])
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .env("CARGO_PROFILE_DEV_BUILD_OVERRIDE_DEBUG", "0"),
    )?;
    let jail = Jail::new(root)?;
    let mut serving = Serving::start(&jail)?;
    let domain = serving.domain()?;
    jail.must(&["deploy", &domain, "--here", "--home", &domain])?;
    jail.must(&["conformance", "/catalogue/echo/component.wasm"])?;
    Ok(3)
}

/// A root folder with the command, the sample stubs and an empty folder for `/proc`.
struct Jail {
    folder: PathBuf,
}

impl Jail {
    fn new(root: &Path) -> Result<Self> {
        let folder = root.join(TARGET_DIR).join("root");
        if folder.exists() {
            fs::remove_dir_all(&folder).context("removing the root folder of the run before")?;
        }
        fs::create_dir_all(folder.join("proc"))?;
        let echo = folder.join("catalogue/echo");
        fs::create_dir_all(&echo)?;
        for file in ["descriptor.json", "component.wasm"] {
            fs::copy(root.join("target/catalogue/echo").join(file), echo.join(file))?;
        }
        fs::copy(program(root), folder.join("protostub")).context("copying the command")?;
        Ok(Self { folder })
    }

    /// Returns the command with these arguments, in the root folder. Its mount of `/proc` ends with
    /// it.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c"])
            .arg("mount -t proc proc \"$0/proc\" && exec chroot \"$0\" /protostub \"$@\"")
            .arg(&self.folder)
            .args(args)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null());
        command
    }

    fn must(&self, args: &[&str]) -> Result<()> {
        println!("  protostub {}", args.join(" "));
        let mut command = self.command(args);
        let child = command.spawn().with_context(|| format!("starting {}", shown(&command)))?;
        let status = patience::wait(child, PATIENCE)?;
        if !status.success() {
            bail!("`protostub {}` failed as a static program, alone in a root folder ({status})", args.join(" "));
        }
        Ok(())
    }
}

/// `protostub serve` in the root folder. Killed on drop.
struct Serving(Child);

impl Serving {
    fn start(jail: &Jail) -> Result<Self> {
        let args = ["serve", "/catalogue", "--default", "echo", "--bind", "127.0.0.1:0", "--json"];
        println!("  protostub {}", args.join(" "));
        let child = jail.command(&args).stdout(Stdio::piped()).spawn().context("starting `unshare`")?;
        Ok(Self(child))
    }

    /// Returns the domain that it serves, once it listens.
    fn domain(&mut self) -> Result<String> {
        let output = self.0.stdout.take().context("the command has no standard output")?;
        let line = patience::first_line(&self.0, output, PATIENCE).context("`protostub serve` did not start")?;
        let event: serde_json::Value = serde_json::from_str(&line).with_context(|| format!("reading {line:?}"))?;
        Ok(event["domain"].as_str().context("`protostub serve` names no domain")?.to_owned())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // `unshare` and the shell have become the command itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
