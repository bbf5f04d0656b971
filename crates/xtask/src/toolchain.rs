use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Ensures that this Rust target is installed. Tries to install it.
pub(crate) fn require_target(target: &str) -> Result<()> {
    let installed = || Ok::<_, anyhow::Error>(sysroot()?.join("lib/rustlib").join(target).join("lib").is_dir());
    if !installed()? {
        rustup(&["target", "add", target]);
        if !installed()? {
            bail!("the Rust target {target} is missing; run: rustup target add {target}");
        }
    }
    Ok(())
}

/// Ensures that `cargo fmt` and `cargo clippy` are installed. Tries to install them.
pub(crate) fn require_components(root: &Path) -> Result<()> {
    for (component, subcommand) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        let runs = || {
            let mut version = crate::cargo(root);
            version.args([subcommand, "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
            version.status().is_ok_and(|status| status.success())
        };
        if !runs() {
            rustup(&["component", "add", component]);
            if !runs() {
                bail!("`cargo {subcommand}` is missing; run: rustup component add {component}");
            }
        }
    }
    Ok(())
}

fn sysroot() -> Result<PathBuf> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output().context("starting rustc")?;
    let path = String::from_utf8(output.stdout).context("reading rustc's sysroot")?;
    Ok(PathBuf::from(path.trim()))
}

/// Returns no error: the caller checks the toolchain afterwards, which may be complete without
/// rustup.
fn rustup(args: &[&str]) {
    println!("rustup {}", args.join(" "));
    if let Err(error) = Command::new("rustup").args(args).status() {
        println!("starting rustup failed: {error}");
    }
}
