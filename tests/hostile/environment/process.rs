//! Child processes with few descriptors, a small disk, a network or a clock of their own.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{process::Command, time::timeout};

use super::{Environment, Outcome, Scale, Verdict, all_environments, case};

/// The variables that tell a child process its environment.
const NAME: &str = "PROTOSTUB_ENVIRONMENT";
const FOLDER: &str = "PROTOSTUB_ENVIRONMENT_FOLDER";
const CODE: &str = "PROTOSTUB_ENVIRONMENT_CODE";
const DOMAINS: &str = "PROTOSTUB_ENVIRONMENT_DOMAINS";
const NEIGHBOURS: &str = "PROTOSTUB_ENVIRONMENT_NEIGHBOURS";

/// The time limit of a case.
const PATIENCE: Duration = Duration::from_secs(300);

/// Setup of the process. Users without root's rights start it in a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setting {
    Plain,
    /// At most 160 descriptors, as a hard limit.
    FewDescriptors,
    /// A tmpfs of 4 MiB as the cache directory.
    SmallDisk,
    /// A network of its own, with `127.0.0.1` as the name service.
    OwnNetwork,
    /// A wall clock that the case sets, by libfaketime: no namespace has its own `CLOCK_REALTIME`.
    OwnClock,
}

impl Setting {
    /// The namespaces of the process, and the shell script that becomes the process.
    fn script(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::Plain | Self::OwnClock => (&[], "exec \"$0\" \"$@\""),
            Self::FewDescriptors => (&[], "ulimit -n 160 && exec \"$0\" \"$@\""),
            Self::SmallDisk => (
                &["--mount", "--propagation", "private"],
                "mount -t tmpfs -o size=4m,mode=700 tmpfs \"$PROTOSTUB_ENVIRONMENT_FOLDER/cache\" && exec \"$0\" \"$@\"",
            ),
            Self::OwnNetwork => (
                &["--mount", "--net", "--propagation", "private"],
                "ip link set lo up && mount --bind \"$PROTOSTUB_ENVIRONMENT_FOLDER/resolv.conf\" /etc/resolv.conf && exec \"$0\" \"$@\"",
            ),
        }
    }

    fn command(self, as_root: bool, folder: &Path, program: &Path, args: &[&str]) -> Command {
        let (namespaces, script) = self.script();
        let mut command = if namespaces.is_empty() { Command::new("sh") } else { Command::new("unshare") };
        if !namespaces.is_empty() {
            command.args(namespaces);
            if as_root {
                command.arg("--map-root-user");
            }
            command.arg("sh");
        }
        command.arg("-c").arg(script).arg(program).args(args);
        command.env(FOLDER, folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Returns the command that starts the process, or the reason for which none can.
    async fn start(self, folder: &Path, args: &[&str]) -> io::Result<Result<Command, String>> {
        let program = env::current_exe()?;
        if self == Self::OwnClock {
            let Some(library) = faketime() else {
                return Ok(Err("libfaketime is missing; run: apt-get install faketime".to_owned()));
            };
            let mut command = self.command(false, folder, &program, args);
            // Only the wall clock changes: timeouts run on, and files keep their times.
            command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", folder.join("clock")).env("FAKETIME_NO_CACHE", "1");
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1").env("NO_FAKE_STAT", "1");
            return Ok(Ok(command));
        }
        if self.script().0.is_empty() {
            return Ok(Ok(self.command(false, folder, &program, args)));
        }
        let mut reason = String::new();
        for as_root in [false, true] {
            let tried = self.command(as_root, folder, Path::new("true"), &[]).output().await;
            match tried {
                Ok(Output { status, .. }) if status.success() => return Ok(Ok(self.command(as_root, folder, &program, args))),
                Ok(Output { stderr, .. }) => reason = String::from_utf8_lossy(&stderr).trim().to_owned(),
                Err(error) => reason = format!("unshare: {error}"),
            }
        }
        Ok(Err(format!("this user lacks the rights for the environment: {reason}")))
    }
}

/// The library of Debian's package `faketime`, for programs with several threads.
fn faketime() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|library| library.is_file())
}

pub(super) async fn run(environment: &Environment, args: &[&str], scale: &Scale, folder: &Path) -> Result<Outcome> {
    fs::create_dir_all(folder.join("cache")).context("making the cache directory")?;
    fs::write(folder.join("resolv.conf"), "nameserver 127.0.0.1\n")?;
    fs::write(folder.join("clock"), "+0\n")?;
    let mut command = match environment.setting.start(folder, args).await? {
        Ok(command) => command,
        Err(reason) => return Ok(Outcome::Skipped(reason)),
    };
    let code_dir = scale.code_dir.clone().unwrap_or_else(|| folder.join("code"));
    command.env(NAME, environment.name).env(CODE, code_dir);
    command.env(DOMAINS, scale.domains.to_string()).env(NEIGHBOURS, scale.neighbours.to_string());
    let Ok(output) = timeout(PATIENCE, command.output()).await else {
        return Ok(Outcome::Judged(Verdict::ended(format!("the process did not exit within {PATIENCE:?}"))));
    };
    let output = output.context("starting the child process")?;
    let verdict = fs::read(folder.join("verdict.json")).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    Ok(Outcome::Judged(match verdict {
        Some(counted) => Verdict::read(counted)?,
        None => Verdict::ended(format!("the process ended without a verdict ({}): {}", output.status, last_words(&output))),
    }))
}

/// The last lines that a process wrote.
fn last_words(output: &Output) -> String {
    let all = format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let lines: Vec<_> = all.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(12)..].join(" | ")
}

/// This process, as the child in which an environment fails.
#[derive(Debug)]
pub struct Child {
    pub(super) environment: Environment,
    pub(super) scale: Scale,
    pub(super) code_dir: PathBuf,
    pub(super) folder: PathBuf,
}

impl Child {
    /// Returns `None` if this process is no such child.
    #[must_use]
    pub fn here() -> Option<Self> {
        let name = env::var(NAME).ok()?;
        let number = |variable| env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(1);
        Some(Self {
            environment: all_environments().into_iter().find(|environment| environment.name == name)?,
            scale: Scale { domains: number(DOMAINS), neighbours: number(NEIGHBOURS), code_dir: None },
            code_dir: env::var_os(CODE)?.into(),
            folder: env::var_os(FOLDER)?.into(),
        })
    }

    /// Runs the case, and leaves its verdict to the parent.
    ///
    /// # Errors
    /// If the case cannot be set up, or the verdict not be written.
    pub async fn act(self) -> Result<()> {
        let verdict = case::run(&self).await?;
        let partial = self.folder.join("verdict.partial");
        fs::write(&partial, format!("{verdict:#}\n")).context("writing the verdict")?;
        fs::rename(partial, self.folder.join("verdict.json")).context("writing the verdict")
    }

    /// The cache directory.
    pub(super) fn cache(&self) -> PathBuf {
        self.folder.join("cache")
    }
}
