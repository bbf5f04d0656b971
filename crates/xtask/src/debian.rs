use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Result, bail};

use crate::patience;

/// Programs or files that something needs, each with the Debian package that contains it.
pub(crate) type Programs<'a> = &'a [(&'a str, &'a str)];

/// A real MQTT broker and its clients.
pub(crate) const MOSQUITTO: Programs<'_> =
    &[("mosquitto", "mosquitto"), ("mosquitto_pub", "mosquitto-clients"), ("mosquitto_sub", "mosquitto-clients")];

/// Runs a program with a clock that a test sets.
pub(crate) const FAKETIME: Programs<'_> = &[("faketime", "faketime")];

/// A C compiler for programs with musl, which need no library of the system.
pub(crate) const MUSL: Programs<'_> = &[("musl-gcc", "musl-tools")];

/// A linker for 64-bit ARM, its C library, and an emulator.
pub(crate) const AARCH64: Programs<'_> = &[
    ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
    ("/usr/aarch64-linux-gnu/lib/crt1.o", "libc6-dev-arm64-cross"),
    ("qemu-aarch64", "qemu-user"),
];

/// A C compiler for WebAssembly, its linker and its library.
pub(crate) const CLANG: Programs<'_> = &[
    ("clang", "clang"),
    ("wasm-ld", "lld"),
    ("/usr/lib/wasm32-wasi/libc.a", "wasi-libc"),
    ("/usr/lib/wasm32-wasi/libc.a", "libclang-rt-dev-wasm32"),
];

/// Time limit to download and install packages.
const DOWNLOADING: Duration = Duration::from_secs(10 * 60);

/// Ensures that these programs are installed. Installs missing packages if the user has the rights.
pub(crate) fn packages(programs: Programs<'_>) -> Result<()> {
    let before = missing(programs);
    if before.is_empty() {
        return Ok(());
    }
    println!("Missing Debian packages: {}", before.join(", "));
    for args in [vec!["update", "--quiet"], [&["install", "--yes", "--quiet", "--no-install-recommends"], &before[..]].concat()] {
        apt_get(&args);
    }
    let after = missing(programs);
    if !after.is_empty() {
        bail!("Debian packages are missing and could not be installed; run: sudo apt-get install {}", after.join(" "));
    }
    Ok(())
}

/// Returns the packages of the missing programs. Not every user has `/usr/sbin` in `PATH`.
fn missing<'a>(programs: Programs<'a>) -> Vec<&'a str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |program: &str| {
        let folders = std::env::split_paths(&path).chain(["/usr/bin", "/usr/sbin"].map(|folder| Path::new(folder).to_owned()));
        // An absolute path replaces the folder.
        folders.map(|folder| folder.join(program)).any(|file| file.is_file())
    };
    let mut packages: Vec<_> = programs.iter().filter(|(program, _)| !is_there(program)).map(|(_, package)| *package).collect();
    packages.dedup();
    packages
}

/// Returns no error: the caller checks afterwards whether the packages are installed.
fn apt_get(args: &[&str]) {
    println!("apt-get {}", args.join(" "));
    let mut command = Command::new("apt-get");
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    match command.spawn().map_err(Into::into).and_then(|child| patience::wait(child, DOWNLOADING)) {
        Ok(status) if status.success() => {}
        Ok(status) => println!("apt-get failed ({status}); installing packages needs root's rights"),
        Err(error) => println!("apt-get did not finish: {error:#}"),
    }
}

#[cfg(test)]
mod tests {
    use super::missing;

    #[test]
    fn missing_returns_the_packages() {
        let programs = [("sh", "dash"), ("no-such-program", "some-package"), ("no-other-program", "some-package")];
        assert_eq!(missing(&programs), ["some-package"]);
    }
}
