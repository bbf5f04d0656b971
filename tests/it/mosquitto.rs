//! A real broker for one run: Debian's Mosquitto, on free loopback ports, with its own folder.
#![allow(dead_code, reason = "the tests and the demo need different parts of it")]

use std::{
    ffi::OsStr,
    fmt::Write as _,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStderr, Command},
    sync::mpsc,
};

/// Host name of the broker.
pub(crate) const HOST: &str = "localhost";

/// A broker. `Drop` kills it and removes its folder.
pub(crate) struct Mosquitto {
    folder: tempfile::TempDir,
    config: PathBuf,
    /// Port for plain TCP.
    pub(crate) tcp: u16,
    /// Port for TCP with TLS.
    pub(crate) tls: u16,
    /// Port for WebSocket without TLS.
    pub(crate) websocket: u16,
    /// Certificate of the TLS port, as PEM.
    pub(crate) certificate: String,
    running: Option<Child>,
    /// Receiver of the log, if there is one.
    log: Option<mpsc::UnboundedSender<String>>,
}

impl Mosquitto {
    /// Starts a broker without authentication.
    pub(crate) async fn start() -> Result<Self> {
        Self::start_with(None).await
    }

    /// Starts a broker without authentication that logs each packet. The receiver gets all lines
    /// before a kill too, and ends with the broker.
    pub(crate) async fn start_logging(log: mpsc::UnboundedSender<String>) -> Result<Self> {
        Self::create(None, Some(log)).await
    }

    /// Starts a broker for this user name and password only, or without authentication.
    pub(crate) async fn start_with(user: Option<(&str, &str)>) -> Result<Self> {
        Self::create(user, None).await
    }

    async fn create(user: Option<(&str, &str)>, log: Option<mpsc::UnboundedSender<String>>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path();
        let (tcp, tls, websocket) = free_ports()?;
        let key = rcgen::generate_simple_self_signed([HOST.to_owned()])?;
        let certificate = key.cert.pem();
        fs::write(path.join("certificate.pem"), &certificate)?;
        fs::write(path.join("key.pem"), key.signing_key.serialize_pem())?;
        // With `user root`, a broker that root starts does not switch to a user who cannot write
        // here.
        let mut config = format!("user root\nlog_dest stderr\npersistence true\npersistence_location {}/\n", path.display());
        if log.is_some() {
            config.push_str("log_type all\n");
        }
        match user {
            None => config.push_str("allow_anonymous true\n"),
            Some((name, password)) => {
                let passwords = path.join("passwords");
                let args = [OsStr::new("-b"), OsStr::new("-c"), passwords.as_os_str(), OsStr::new(name), OsStr::new(password)];
                let made = Command::new(program("mosquitto_passwd")?).args(args).output().await?;
                if !made.status.success() {
                    bail!("mosquitto_passwd: {}", String::from_utf8_lossy(&made.stderr));
                }
                writeln!(config, "allow_anonymous false\npassword_file {}", passwords.display())?;
            }
        }
        writeln!(config, "listener {tcp} 127.0.0.1\nlistener {tls} 127.0.0.1")?;
        writeln!(config, "certfile {0}/certificate.pem\nkeyfile {0}/key.pem", path.display())?;
        writeln!(config, "listener {websocket} 127.0.0.1\nprotocol websockets")?;
        let config_path = path.join("mosquitto.conf");
        fs::write(&config_path, config)?;
        let mut broker = Self { config: config_path, folder, tcp, tls, websocket, certificate, running: None, log };
        broker.resume().await?;
        Ok(broker)
    }

    /// Starts the broker again, with its persisted state.
    pub(crate) async fn resume(&mut self) -> Result<()> {
        let mut command = Command::new(program("mosquitto")?);
        command.arg("-c").arg(&self.config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("starting mosquitto")?;
        let mut log = BufReader::new(child.stderr.take().context("mosquitto has no log")?).lines();
        let mut said = String::new();
        loop {
            let Some(line) = log.next_line().await? else { bail!("mosquitto exited: {said}") };
            if line.ends_with(" running") {
                break;
            }
            said = line;
        }
        tokio::spawn(read_on(log, self.log.clone()));
        self.running = Some(child);
        Ok(())
    }

    /// Stops the broker as a restart of its machine would. The broker persists its state.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        self.signal("-TERM").await?;
        self.running.take().context("the broker is not running")?.wait().await?;
        Ok(())
    }

    /// Suspends the broker. Its connections stay open, and it reads nothing.
    pub(crate) async fn freeze(&self) -> Result<()> {
        self.signal("-STOP").await
    }

    /// Kills the broker. It persists nothing, and never reads the packets that arrived since
    /// [`Self::freeze`].
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.running.take().context("the broker is not running")?.kill().await?;
        Ok(())
    }

    async fn signal(&self, signal: &str) -> Result<()> {
        let child = self.running.as_ref().context("the broker is not running")?;
        let id = child.id().context("the broker has exited")?.to_string();
        Command::new("kill").args([signal, &id]).status().await?;
        Ok(())
    }

    /// Returns a folder for files of this run.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// Reads the log of the broker, so that a full pipe never blocks it.
async fn read_on(mut log: Lines<BufReader<ChildStderr>>, receiver: Option<mpsc::UnboundedSender<String>>) {
    while let Ok(Some(line)) = log.next_line().await {
        if let Some(receiver) = &receiver {
            let _ = receiver.send(line);
        }
    }
}

fn free_ports() -> Result<(u16, u16, u16)> {
    let free = || TcpListener::bind("127.0.0.1:0");
    let listeners = [free()?, free()?, free()?];
    Ok((listeners[0].local_addr()?.port(), listeners[1].local_addr()?.port(), listeners[2].local_addr()?.port()))
}

/// Finds a program of Debian's packages `mosquitto` and `mosquitto-clients`. Not every user has
/// `/usr/sbin` in `PATH`.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/bin".into(), "/usr/sbin".into()]);
    let mut programs = folders.map(|folder| folder.join(name));
    programs
        .find(|program| program.is_file())
        .with_context(|| format!("{name} is missing; run: apt-get install mosquitto mosquitto-clients"))
}
