// How components are built; `tests/artifacts/build.rs` includes this file too.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

/// Where guests are built, from the repository's root.
pub(crate) const TARGET_DIR: &str = "target/stubs";
/// What guests are built for.
pub(crate) const TARGET: &str = "wasm32-wasip2";

/// What would change how a guest is built, and is meant for the host: lints of a `cargo clippy` around it, say.
const MEANT_FOR_THE_HOST: [&str; 10] = [
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_ENCODED_RUSTDOCFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "CLIPPY_ARGS",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTDOCFLAGS",
    "RUSTFLAGS",
];

/// A component that was built.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    /// Its package's folder: `message-node`.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) component: PathBuf,
}

/// Cargo in a workspace of guests (`stubs`, `tests/programs`), free of what is meant for the host.
pub(crate) fn cargo(root: &Path, workspace: &str, subcommand: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root.join(workspace)).arg(subcommand).arg("--target-dir").arg(root.join(TARGET_DIR));
    if env::var_os("CI").is_some() {
        command.arg("--locked");
    }
    for name in MEANT_FOR_THE_HOST {
        command.env_remove(name);
    }
    command
}

/// Builds a workspace of guests for release.
pub(crate) fn build(root: &Path, workspace: &str) -> Result<Vec<Guest>> {
    let mut command = cargo(root, workspace, "build");
    command.args(["--workspace", "--release", "--target", TARGET, "--message-format", "json-render-diagnostics"]);
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("starting cargo in {workspace}"))?;
    if !output.status.success() {
        bail!("{workspace} could not be built for {TARGET}; is the target there? `rustup target add {TARGET}`");
    }
    let workspace = root.join(workspace);
    let lines = String::from_utf8(output.stdout).context("reading cargo's messages")?;
    let mut guests: Vec<_> = lines.lines().filter_map(|line| component(line, &workspace)).collect();
    guests.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(guests)
}

/// The component that a message of cargo tells of, if it is of a member of this workspace.
fn component(line: &str, workspace: &Path) -> Option<Guest> {
    #[derive(Deserialize)]
    struct Artifact {
        manifest_path: PathBuf,
        filenames: Vec<PathBuf>,
    }
    let artifact: Artifact = serde_json::from_str(line).ok()?;
    let component = artifact.filenames.into_iter().find(|file| file.extension().is_some_and(|extension| extension == "wasm"))?;
    let folder = artifact.manifest_path.parent().filter(|folder| folder.starts_with(workspace))?;
    Some(Guest { name: folder.file_name()?.to_str()?.to_owned(), component })
}
