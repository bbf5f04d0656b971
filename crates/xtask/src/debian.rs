use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Result, bail};

use crate::patience;

/// Programs of Debian's that something needs, or files, with the packages that they are in.
pub(crate) type Programs<'a> = &'a [(&'a str, &'a str)];

/// A real MQTT broker, and what speaks to it.
pub(crate) const MOSQUITTO: Programs<'_> =
    &[("mosquitto", "mosquitto"), ("mosquitto_pub", "mosquitto-clients"), ("mosquitto_sub", "mosquitto-clients")];

/// A clock that a test sets.
pub(crate) const FAKETIME: Programs<'_> = &[("faketime", "faketime")];

/// A C compiler for WebAssembly, its linker and its library.
pub(crate) const CLANG: Programs<'_> = &[
    ("clang", "clang"),
    ("wasm-ld", "lld"),
    ("/usr/lib/wasm32-wasi/libc.a", "wasi-libc"),
    ("/usr/lib/wasm32-wasi/libc.a", "libclang-rt-dev-wasm32"),
];

/// How long packages may take to be fetched and installed.
const DOWNLOADING: Duration = Duration::from_secs(10 * 60);

/// Makes sure that these programs are there: installs their packages, if there are rights to.
pub(crate) fn packages(programs: Programs<'_>) -> Result<()> {
    let before = missing(programs);
    if before.is_empty() {
        return Ok(());
    }
    println!("Debian's packages {} are missing.", before.join(", "));
    for args in [vec!["update", "--quiet"], [&["install", "--yes", "--quiet", "--no-install-recommends"], &before[..]].concat()] {
        apt_get(&args);
    }
    let after = missing(programs);
    if !after.is_empty() {
        bail!("these packages are missing, and could not be installed from here; run: sudo apt-get install {}", after.join(" "));
    }
    Ok(())
}

/// The packages of the programs that are not there. `/usr/sbin` is not in everybody's `PATH`.
fn missing<'a>(programs: Programs<'a>) -> Vec<&'a str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |program: &str| {
        let folders = std::env::split_paths(&path).chain(["/usr/bin", "/usr/sbin"].map(|folder| Path::new(folder).to_owned()));
        // A path from the root replaces the folder.
        folders.map(|folder| folder.join(program)).any(|file| file.is_file())
    };
    let mut packages: Vec<_> = programs.iter().filter(|(program, _)| !is_there(program)).map(|(_, package)| *package).collect();
    packages.dedup();
    packages
}

/// Whether it worked shows in what is there afterwards.
fn apt_get(args: &[&str]) {
    println!("apt-get {}", args.join(" "));
    let mut command = Command::new("apt-get");
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    match command.spawn().map_err(Into::into).and_then(|child| patience::wait(child, DOWNLOADING)) {
        Ok(status) if status.success() => {}
        Ok(status) => println!("apt-get failed ({status}); installing takes root's rights"),
        Err(error) => println!("apt-get did not get to its end: {error:#}"),
    }
}

#[cfg(test)]
mod tests {
    use super::missing;

    #[test]
    fn says_which_packages_are_missing() {
        let programs = [("sh", "dash"), ("no-such-program", "some-package"), ("no-other-program", "some-package")];
        assert_eq!(missing(&programs), ["some-package"]);
    }
}
