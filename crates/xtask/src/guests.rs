// Builds components. `tests/artifacts/build.rs` includes this file too.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

/// Build folder of the guests, from the repository's root.
pub(crate) const TARGET_DIR: &str = "target/stubs";
/// Target of the guests.
pub(crate) const TARGET: &str = "wasm32-wasip2";

/// Variables that are meant for the host and would change the build of a guest, for example the
/// lints of an outer `cargo clippy`.
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
    /// Folder name of its package, for example `message-node`.
    pub(crate) name: String,
    /// Path of the component.
    pub(crate) component: PathBuf,
}

/// Returns a cargo command in a workspace of guests (`stubs`, `tests/programs`), without the
/// variables that are meant for the host.
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

/// Builds a workspace of guests with the release profile.
pub(crate) fn build(root: &Path, workspace: &str) -> Result<Vec<Guest>> {
    let mut command = cargo(root, workspace, "build");
    command.args(["--workspace", "--release", "--target", TARGET, "--message-format", "json-render-diagnostics"]);
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("starting cargo in {workspace}"))?;
    if !output.status.success() {
        bail!("building {workspace} for {TARGET} failed; if the target is missing, run: rustup target add {TARGET}");
    }
    let workspace = root.join(workspace);
    let lines = String::from_utf8(output.stdout).context("reading cargo's messages")?;
    let mut guests: Vec<_> = lines.lines().filter_map(|line| component(line, &workspace)).collect();
    guests.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(guests)
}

/// Returns the component of a cargo message, if it belongs to a member of this workspace.
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
